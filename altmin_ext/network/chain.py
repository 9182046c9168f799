"""Chains of pieces: what a stage does to the code below, as one function."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from altmin_ext.network.pieces import (
    DropoutPiece,
    MaxPoolPiece,
    Piece,
    PointwisePiece,
    ReshapePiece,
)
from altmin_ext.ops import Activation
from altmin_ext.ops.activation import fused, identity


class Chain:
    """Pieces one after the other, with what a :class:`Piece` offers."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = list(pieces)

    def begin(self, a: Tensor) -> Tensor:
        """The value at the encode's point, which the pieces remember."""
        for piece in self.pieces:
            a = piece.begin(a)
        return a

    def value(self, a: Tensor) -> Tensor:
        """The value at another point, where the pieces stand from now on."""
        for piece in self.pieces:
            a = piece.value(a)
        return a

    def move(self, delta: Tensor, unit: Tensor) -> Tensor:
        """(f(a0 + unit delta) - f(a0)) / unit; the pieces stand at a0 + unit delta from now on."""
        for piece in self.pieces:
            delta = piece.move(delta, unit)
        return delta

    def vjp(self, gradient: Tensor) -> Tensor:
        """J^T gradient where the pieces stand."""
        for piece in reversed(self.pieces):
            gradient = piece.vjp(gradient)
        return gradient

    def parameter_gradients(self, gradient: Tensor) -> list[Tensor]:
        """J_w^T gradient there, piece by piece in the order of their parameters."""
        found: list[Tensor] = []
        for i, piece in reversed(list(enumerate(self.pieces))):
            found = piece.parameter_gradients(gradient) + found
            if i > 0:
                gradient = piece.vjp(gradient)
        return found

    def output_shape(self, shape: torch.Size, like: Tensor) -> torch.Size:
        """The shape of a sample's value, found by a trial; ValueError, half a sentence, if it cannot be taken."""
        # Two samples: batch normalisation cannot do with one.
        trial = like.new_zeros(2, *shape)
        try:
            with torch.no_grad(), torch.random.fork_rng():
                return self.begin(trial).shape[1:]
        except (RuntimeError, TypeError, IndexError) as error:
            raise ValueError(f"fails with {str(error).splitlines()[0].rstrip('.')!r}") from error

    def sample_jvp(self, v: Tensor) -> Tensor:
        """J v for the first samples, apart from what couples the samples of a batch."""
        for piece in self.pieces:
            v = piece.sample_jvp(v)
        return v

    def sample_vjp(self, v: Tensor) -> Tensor:
        """J^T v likewise."""
        for piece in reversed(self.pieces):
            v = piece.sample_vjp(v)
        return v

    @property
    def calls_modules(self) -> bool:
        """Whether one of the pieces runs a module that is not known by its formula."""
        return any(piece.calls_module for piece in self.pieces)

    @property
    def saves_output(self) -> bool:
        """Whether the value must not be overwritten while the pieces stand there."""
        return any(piece.saves_output for piece in self.pieces)


class PreMap(Chain):
    """The part of a stage in front of its map: activations, dropout, pooling, anything without parameters.

    Attributes:
        activation: where the pre-map is one activation and then at most one dropout, apart from reshaping, the case
            that the kernels compute, that activation (or the identity); else None.
        pool: where it is a monotone activation and a max-pooling without overlap, in either order, apart from
            reshaping behind, the size of its windows; 1 without a pooling; else None.
        unfused: the same pieces, one for each module but the identities.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__(_fused(pieces))
        self.unfused = [p for p in pieces if not (isinstance(p, PointwisePiece) and p.activation == identity)]
        acting = [piece for piece in self.pieces if not isinstance(piece, ReshapePiece)]
        activations = [piece.activation for piece in acting if isinstance(piece, PointwisePiece)]
        drops = [piece for piece in acting if isinstance(piece, DropoutPiece)]
        pools = [piece for piece in acting if isinstance(piece, MaxPoolPiece)]
        known = len(acting) == len(activations) + len(drops) + len(pools)
        few = known and len(activations) <= 1 and len(drops) <= 1 and len(pools) <= 1
        last_drops = all(piece is acting[-1] for piece in drops)
        alone = activations[0] if activations else identity
        self.activation: Activation | None = alone if few and last_drops and not pools else None
        self.pooled_activation: Activation | None = None
        self.pool = 1
        reshapes_last = not any(isinstance(p, ReshapePiece) for p in self.pieces[: len(acting)])
        if few and not drops and reshapes_last and alone.is_monotone:
            sizes = [piece.window for piece in pools]
            if all(size is not None for size in sizes):
                self.pooled_activation = alone
                self.pool = sizes[0] or 1 if sizes else 1
        self._dropout = drops[0] if self.activation is not None and drops else None

    def draw_mask(self, code: Tensor) -> Tensor | None:
        """The kernels' dropout mask of this step, for a pre-map that has an ``activation``."""
        return None if self._dropout is None else self._dropout.draw(code)

    @property
    def keeps_shape(self) -> bool:
        """Whether the kind of its pieces says that (n,) features stay (n,) features."""
        return all(isinstance(p, PointwisePiece | DropoutPiece | ReshapePiece) for p in self.pieces)

    @property
    def is_identity(self) -> bool:
        """Whether it passes its input through, whatever the training mode."""
        return not self.pieces

    @property
    def is_relu_or_identity(self) -> bool:
        """Whether it is a relu or the identity alone: what it passes is unchanged, what it stops has no slope."""
        return (
            self._dropout is None
            and self.activation is not None
            and self.activation.name in ("relu", "identity")
        )

    @property
    def has_sign_without_derivative(self) -> bool:
        """Whether a Sign without any derivative is in it."""
        return any(isinstance(p, PointwisePiece) and p.activation.name == "sign_none" for p in self.pieces)

    @property
    def lipschitz(self) -> float | None:
        """A bound of the norm of its Jacobian; None if one of the pieces knows none."""
        slopes = [piece.lipschitz for piece in self.pieces]
        return None if None in slopes else math.prod(slope for slope in slopes if slope is not None)


def _fused(pieces: Sequence[Piece]) -> list[Piece]:
    """The same function, with activations next to each other as one where there is a name for it."""
    result: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, PointwisePiece) and piece.activation == identity:
            continue
        if result and isinstance(piece, PointwisePiece) and isinstance(result[-1], PointwisePiece):
            both = fused(result[-1].activation, piece.activation)
            if both is not None:
                result[-1] = PointwisePiece(both)
                continue
        result.append(piece)
    return result
