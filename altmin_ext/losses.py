"""The losses at the top of the network, each with what alternating minimisation needs to know of it."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext import ops
from altmin_ext.errors import unknown_name


class Loss(abc.ABC):
    """A loss l(z, y) of logits z (B, C); a minibatch counts with its mean over B.

    Attributes:
        name: the name that ``loss=`` takes.
        counts_correct: whether "how many are correct" has a meaning.
    """

    name: ClassVar[str]
    counts_correct: ClassVar[bool]

    @abc.abstractmethod
    def curvature(self, n_out: int) -> float:
        """An upper bound of the largest eigenvalue of the per-sample Hessian of l in z."""

    @abc.abstractmethod
    def proximal(self, center: Tensor, y: Tensor, rho: float) -> Tensor:
        """argmin_z l(z, y) + rho / 2 ||z - center||^2 (B, C), sample by sample, in the dtype of ``center``."""

    @abc.abstractmethod
    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean loss over the minibatch, 0-d, differentiable; NaN on a GPU where a label is out of range."""

    @abc.abstractmethod
    def check_targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Raise unless y has the kind and rank of this loss's targets; return it in the working dtype."""

    @abc.abstractmethod
    def check_target_values(self, y: Tensor, n_out: int) -> None:
        """Raise unless all of y is valid for n_out outputs. Reads y, so it synchronises a GPU."""

    def labelled(self, y: Tensor) -> int:
        """How many samples of a minibatch have a target, and so count in its mean."""
        return len(y)


class CrossEntropy(Loss):
    """Softmax cross-entropy; y (B,) integer class indices of any width."""

    name = "cross_entropy"
    counts_correct = True

    def curvature(self, n_out: int) -> float:
        return 0.5  # diag(p) - p p^T has no eigenvalue above 1/2

    def proximal(self, center: Tensor, y: Tensor, rho: float) -> Tensor:
        z = torch.empty_like(center)
        ops.softmax_prox(center, y, z, rho)
        return z

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        if logits.is_cuda:
            # There a label out of range ends the process's use of the GPU; to look for one would be to wait.
            inside = (y >= 0) & (y < logits.shape[1])
            loss = F.cross_entropy(logits, y.clamp(0, logits.shape[1] - 1))
            return torch.where(inside.all(), loss, torch.nan)
        # torch's -100 is an error here
        return F.cross_entropy(logits, y, ignore_index=torch.iinfo(torch.int64).min)

    def check_targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
            raise TypeError(f"y must be integer class indices for cross_entropy, but is {y.dtype}.")
        if y.ndim != 1:
            raise ValueError(f"y must have shape (B,) for cross_entropy, but has shape {tuple(y.shape)}.")
        return y if y.dtype == torch.int64 and y.is_contiguous() else y.long().contiguous()

    def check_target_values(self, y: Tensor, n_out: int) -> None:
        outside = (y < 0) | (y >= n_out)
        if outside.any():
            first = int(outside.nonzero()[0, 0])
            raise ValueError(f"y must lie in [0, {n_out}), but y[{first}] is {int(y[first])}.")


UNLABELLED = -1


class PartialCrossEntropy(CrossEntropy):
    """The same where samples may be without a label, which y says by -1; the mean is over those that have one."""

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        labelled = y != UNLABELLED
        return super().mean(logits[labelled], y[labelled])

    def check_target_values(self, y: Tensor, n_out: int) -> None:
        outside = (y < UNLABELLED) | (y >= n_out)
        if outside.any():
            first = int(outside.nonzero()[0, 0])
            raise ValueError(
                f"y must lie in [0, {n_out}), or be -1 for no label, but y[{first}] is {int(y[first])}."
            )

    def labelled(self, y: Tensor) -> int:
        return int((y >= 0).sum())


class MeanSquaredError(Loss):
    """Mean of (z - y)^2 over B and C, as in ``F.mse_loss``; y (B, C) floats."""

    name = "mse"
    counts_correct = False

    def curvature(self, n_out: int) -> float:
        return 2.0 / n_out

    def proximal(self, center: Tensor, y: Tensor, rho: float) -> Tensor:
        pull = self.curvature(center.shape[1])
        return (pull * y + rho * center) / (pull + rho)

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits, y)

    def check_targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        if y.dtype != dtype:
            raise TypeError(f"y must be {dtype} like the model for mse, but is {y.dtype}.")
        if y.ndim != 2:
            raise ValueError(f"y must have shape (B, C) for mse, but has shape {tuple(y.shape)}.")
        return y.detach().contiguous()

    def check_target_values(self, y: Tensor, n_out: int) -> None:
        if y.shape[1] != n_out:
            raise ValueError(f"y must have {n_out} columns like the model's output, but has {y.shape[1]}.")


_losses: dict[str, type[Loss]] = {cls.name: cls for cls in (CrossEntropy, MeanSquaredError)}


def make_loss(name: str, *, partial: bool = False) -> Loss:
    """The loss of that name: "cross_entropy" or "mse"; ValueError for another.

    ``partial``: labels of the cross-entropy may be missing.
    """
    if not isinstance(name, str):
        raise TypeError(f"loss must be the name of a loss, but is a {type(name).__name__}.")
    if name not in _losses:
        raise unknown_name("loss", name, _losses)
    return PartialCrossEntropy() if partial and name == "cross_entropy" else _losses[name]()
