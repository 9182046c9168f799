"""The factorising layer: features as non-negative combinations of the atoms of a dictionary (DeepFacto)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext import _check, ops
from altmin_ext.nn.graph_op import graph_op
from altmin_ext.ops import MemoryScalar

_no_derivative = (
    "NonNegativeFactors has no derivative, so nothing below it can learn by backpropagation: "
    "train the model with method='deepfacto'."
)


def least_squares(rows: Tensor, dictionary: Tensor, sweeps: int) -> Tensor:
    """The codes (N, r) of rows of features (N, C)."""
    codes = rows.new_zeros(len(rows), dictionary.shape[1])
    if codes.numel():
        scalars = torch.zeros(len(MemoryScalar), dtype=torch.float64, device=rows.device)
        gram, cross = dictionary.t() @ dictionary, rows @ dictionary
        ops.bcd_columns(codes, gram, cross, scalars=scalars, sweeps=sweeps, nonnegative=True)
    return codes


class _LeastSquares(torch.autograd.Function):
    """The same within a model, where it must say that it has no derivative."""

    @staticmethod
    def forward(rows: Tensor, dictionary: Tensor, sweeps: int) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            return least_squares(rows, dictionary, sweeps)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError(_no_derivative)

    @staticmethod
    def jvp(context: Any, *tangents: Tensor) -> Any:
        raise NotImplementedError(_no_derivative)

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int | None, ...], rows: Tensor, dictionary: Tensor, sweeps: int
    ) -> tuple[Tensor, int]:
        count: int = info.batch_size
        rows = rows.movedim(dims[0], 0) if dims[0] is not None else rows.expand(count, *rows.shape)
        if dims[1] is None:  # rows are independent of one another
            codes: Tensor = _LeastSquares.apply(rows.flatten(0, 1).contiguous(), dictionary, sweeps)
            return codes.unflatten(0, rows.shape[:2]), 0
        pairs = zip(rows, dictionary.movedim(dims[1], 0), strict=True)
        return torch.stack([_LeastSquares.apply(r.contiguous(), d.contiguous(), sweeps) for r, d in pairs]), 0


def _fake_codes(rows: Tensor, dictionary: Tensor, sweeps: int) -> Tensor:
    return rows.new_empty(rows.shape[0], dictionary.shape[1])


def _refuse(gradient: Tensor, dictionary: Tensor) -> Tensor:
    raise NotImplementedError(_no_derivative)


def _fake_refusal(gradient: Tensor, dictionary: Tensor) -> Tensor:
    return gradient.new_empty(gradient.shape[0], dictionary.shape[0])


def _keep_dictionary(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _pull_back(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return _codes_backward(gradient, *ctx.saved_tensors), None, None


# In a graph the solver is this one op. A graph of a forward pass may hold the backward pass as well, so that the
# refusal is an op, too, which speaks only when it runs.
_codes = graph_op(
    "non_negative_codes(Tensor rows, Tensor dictionary, int sweeps) -> Tensor",
    lambda rows, dictionary, sweeps: least_squares(rows.contiguous(), dictionary.contiguous(), sweeps),
    _fake_codes,
    _pull_back,
    _keep_dictionary,
)
_codes_backward = graph_op(
    "non_negative_codes_backward(Tensor gradient, Tensor dictionary) -> Tensor", _refuse, _fake_refusal
)


class NonNegativeFactors(nn.Module):
    """A layer that factorises its input: (B, C, ...) features become (B, r, ...) non-negative codes.

    The code s of a sample's features f, or of the features at one position of a map, solves

        minimise  ||f - M s||^2  over  s >= 0 .

    It starts at zero and is improved by sweeps that set each entry in turn to its best value (HALS: Cichocki & Phan
    2009). The columns of M, the atoms, are non-negative and of unit norm. The layer has no derivative, so only
    ``method="deepfacto"`` can learn the atoms. No code can reproduce negative features, so put a ReLU in front.

    Args:
        features: C.
        rank: r, the number of atoms.
        sweeps: passes over the entries of a code, 30 by default; each one lowers the error.

    Attributes:
        dictionary: (C, r), M; a buffer, part of the ``state_dict()``. Initialised from torch's global generator, like
            the weights of other layers.

    Raises:
        TypeError, ValueError: a number is no integer, or below 1.
    """

    dictionary: Tensor

    def __init__(self, features: int, rank: int, sweeps: int = 30) -> None:
        super().__init__()
        self.features = _check.integer("features", features)
        self.rank = _check.integer("rank", rank)
        self.sweeps = _check.integer("sweeps", sweeps)
        atoms = torch.rand(self.features, self.rank)
        self.register_buffer("dictionary", nn.functional.normalize(atoms, dim=0))

    def forward(self, features: Tensor) -> Tensor:
        """Factorise features into codes.

        Args:
            features: (B, C, ...).

        Returns:
            The codes, (B, r, ...).

        Raises:
            ValueError: the features have another shape.
        """
        if features.ndim < 2 or features.shape[1] != self.features:
            raise ValueError(
                f"features must be (B, {self.features}, ...) for this NonNegativeFactors, but have shape "
                f"{tuple(features.shape)}."
            )
        rows = as_rows(features).to(self.dictionary.dtype)  # under autocast a layer below may return another
        solve = _codes if torch.compiler.is_compiling() else _LeastSquares.apply
        codes: Tensor = solve(rows, self.dictionary, self.sweeps)
        return as_maps(codes, features)

    def reconstruction(self, codes: Tensor) -> Tensor:
        """The features that codes stand for, S M^T.

        Args:
            codes: (B, r, ...).

        Returns:
            The features, (B, C, ...).
        """
        return as_maps(as_rows(codes) @ self.dictionary.t(), codes)

    def extra_repr(self) -> str:
        return f"features={self.features}, rank={self.rank}, sweeps={self.sweeps}"


def as_rows(maps: Tensor) -> Tensor:
    """Maps (B, C, ...) as contiguous rows (B positions, C)."""
    return maps.movedim(1, -1).reshape(-1, maps.shape[1]).contiguous()


def as_maps(rows: Tensor, like: Tensor) -> Tensor:
    """Rows (B positions, C) as maps (B, C, ...), with the positions of ``like``."""
    return rows.reshape(like.shape[0], *like.shape[2:], rows.shape[1]).movedim(-1, 1).contiguous()
