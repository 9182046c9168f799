"""The losses at the top of the network.

A loss is one of the classes here, a torch criterion, or any function (logits, y) -> mean over the minibatch. A loss
must define its mean only. Autograd then finds the derivative, and the curvature for automatic step sizes, at the
logits alone. A loss that has closed forms for these overrides them.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._check import named_type
from altmin_ext.errors import unknown_name
from altmin_ext.ops import unversioned as ops

#: The class index that stands for "no label".
UNLABELLED = -1
_curvature_iterations = 8


class Loss(abc.ABC):
    """A loss l(z, y) of logits z (B, C), averaged over the B samples of a minibatch.

    A subclass defines ``name`` and :meth:`mean`. Everything else has a default, which uses autograd and takes y
    for class indices (B,). The exception is :meth:`proximal`: methods that need it refuse a loss without it.

    Attributes:
        name: its name in reports; for the losses of this module also the value of ``loss=``.
        given: the object that the user passed as ``loss=``, unless that was a name.
        counts_correct: whether samples can be classified correctly; :meth:`counts` says for which targets.
        captured: whether :meth:`residual` may become part of a CUDA graph.
        missing: class indices that stand for "no label".
    """

    name: str
    counts_correct: bool = True
    captured: ClassVar[bool] = False
    missing: tuple[int, ...] = ()

    @property
    def given(self) -> Any:
        return self

    @property
    def of_one(self) -> Loss:
        """The loss of the samples that a process has by itself, also where ranks share minibatches."""
        return self

    def each(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss of every sample, of which :meth:`mean` is the mean; needed only where samples have weights.

        Args:
            logits: (B, C).
            y: the targets, as :meth:`check_targets` returns them.

        Returns:
            (B,), differentiable in the logits.
        """
        raise NotImplementedError

    def weights(self, y: Tensor) -> Tensor | None:
        """How much every sample counts, see :class:`Weighted`.

        Args:
            y: the targets, as :meth:`check_targets` returns them.

        Returns:
            (B,) with a mean of 1; None if all count alike.
        """
        return None

    @abc.abstractmethod
    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean loss over the minibatch.

        Args:
            logits: (B, C).
            y: the targets, as :meth:`check_targets` returns them.

        Returns:
            0-d, differentiable in the logits; NaN on a GPU if a label is out of range.
        """

    def residual(
        self, logits: Tensor, bias: Tensor | None, y: Tensor, out: Tensor, bias_gradient: Tensor | None,
        loss: Tensor, correct: Tensor, flag: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Write the derivative of every sample's loss in z = logits + bias, the mean loss and the correct count.

        Args:
            logits: (B, C).
            bias: (C,) or None.
            y: the targets, as :meth:`check_targets` returns them.
            out: (B, C), out: B times the derivative of the mean, before samples are weighted; may be ``logits``.
            bias_gradient: (C,), out: the sum of ``out`` over B; or None.
            loss: 0-d, out: the mean loss.
            correct: 0-d int64, out: the number of samples classified correctly; left alone if that has no meaning.
            flag: (1,) float64, raised if a logit, the loss or a derivative is not finite; or None.
        """
        if not y.is_cuda and self.takes_classes(y):
            _check_classes(y, logits.shape[1], self.missing)
        z = logits if bias is None else logits + bias
        count = self.correct(z, y)
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            value = self.mean(leaf, y)
            (gradient,) = torch.autograd.grad(value, leaf)
        zero = (z * 0).sum()  # some criteria, such as nn.MultiMarginLoss, take no notice of a NaN
        torch.mul(gradient, len(z), out=out)
        loss.copy_(value.detach())
        if bias_gradient is not None:
            torch.sum(out, 0, out=bias_gradient)
        if count is not None:
            correct.copy_(count)
        if flag is not None:
            flag.logical_or_(~(loss + zero + (out * 0).sum()).isfinite())

    def proximal(
        self, center: Tensor, y: Tensor, rho: float, out: Tensor | None = None, flag: Tensor | None = None
    ) -> Tensor:
        """The proximal map of the loss, sample by sample: argmin_z l(z, y) + rho / 2 ||z - center||^2.

        Args:
            center: (B, C).
            y: the targets, as :meth:`check_targets` returns them.
            rho: positive.
            out: (B, C), where to write the result; None for a new tensor.
            flag: (1,) float64, raised if the result is not finite; or None.

        Returns:
            The minimisers, (B, C), in the dtype of ``center``.
        """
        raise NotImplementedError

    def curvature(self, n_out: int) -> float | None:
        """An upper bound of the largest eigenvalue of the per-sample Hessian of l in z, for all z.

        Args:
            n_out: C, the number of logits.

        Returns:
            The bound, 0 for a piecewise linear l; None if there is none, and :meth:`curvature_at` must be used.
        """
        return None

    def curvature_at(self, logits: Tensor, bias: Tensor | None, y: Tensor) -> Tensor:
        """Estimate the largest spectral norm of the per-sample Hessians at these logits.

        By power iteration on second derivatives, starting from the gradient. If the largest eigenvalues are close to
        each other, the estimate may be too small by their difference.

        Args:
            logits: (B, C).
            bias: (C,), added to the logits, or None.
            y: the targets, as :meth:`check_targets` returns them.

        Returns:
            0-d, the maximum over the minibatch.

        Raises:
            ValueError: torch has no second derivative of this loss.
        """
        z = logits if bias is None else logits + bias
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.mean(leaf, y) * len(z), leaf, create_graph=True)
        image = gradient.detach()
        if not gradient.requires_grad:
            return image.new_zeros(())
        for _ in range(_curvature_iterations):
            norms = image.norm(dim=1, keepdim=True)
            direction = torch.where(norms > 0, image / norms, 0)
            try:
                (image,) = torch.autograd.grad(
                    gradient, leaf, direction, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise ValueError(
                    f"lr_codes must be a number with the loss {self.name!r}, but is 'auto', which takes a second "
                    "derivative that torch does not have."
                ) from error
        return image.norm(dim=1).amax()

    def counts(self, y: Tensor, n_out: int) -> bool:
        """Whether samples with such targets can be classified correctly.

        Args:
            y: the targets; only their dtype and shape matter.
            n_out: C, the number of logits.

        Returns:
            Whether :meth:`correct` returns a number.
        """
        return self.counts_correct

    def correct(self, logits: Tensor, y: Tensor) -> Tensor | None:
        """Count the samples that are classified correctly.

        Args:
            logits: (B, C).
            y: the targets, as :meth:`check_targets` returns them.

        Returns:
            0-d integer; None if it has no meaning for such targets.
        """
        if not self.counts(y, logits.shape[1]):
            return None
        correct = logits.argmax(1) == y
        for value in self.missing:
            correct &= y != value
        return correct.sum()

    def labelled(self, y: Tensor) -> int | Tensor:
        """Count the samples that have a target, and so count in the mean.

        Args:
            y: the targets, as :meth:`check_targets` returns them.

        Returns:
            An integer, 0-d on y's device if labels may be missing.
        """
        if not self.missing or not self.takes_classes(y):
            return len(y)
        return len(y) - sum((y == value).sum() for value in self.missing)

    def takes_classes(self, y: Tensor) -> bool:
        """Whether such targets are class indices below C.

        Args:
            y: the targets; only their dtype and shape matter.

        Returns:
            True for class indices.
        """
        return True

    def from_labels(self, labels: Tensor, n_out: int, dtype: torch.dtype) -> Tensor:
        """Turn class labels into targets of this loss.

        Args:
            labels: (B,) int64, the classes of the samples.
            n_out: C, the number of classes.
            dtype: of the model.

        Returns:
            The targets: the labels themselves, or (B, C) one-hot in ``dtype`` for a loss of floats.
        """
        return labels

    def check_targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Check the dtype and rank of targets.

        Args:
            y: (B, ...), what the user passes.
            dtype: of the model.

        Returns:
            The targets as the other methods take them: contiguous, integers as int64.

        Raises:
            TypeError: y has another dtype than this loss takes.
            ValueError: y has another rank.
        """
        if not _are_integers(y):
            raise TypeError(f"y must be integer class indices for {self.name}, but is {y.dtype}.")
        if y.ndim != 1:
            raise ValueError(f"y must have shape (B,) for {self.name}, but has shape {tuple(y.shape)}.")
        return y if y.dtype == torch.int64 and y.is_contiguous() else _as_int64(y).contiguous()

    def check_target_shape(self, y: Tensor, n_out: int) -> None:  # noqa: B027  (class indices fit any n_out)
        """Raise a ValueError unless y has the right shape for ``n_out`` outputs; its values are not read.

        Args:
            y: the targets, as :meth:`check_targets` returns them.
            n_out: C, the number of logits.
        """

    def check_target_values(self, y: Tensor, n_out: int) -> None:
        """Raise a ValueError unless all of y is valid for ``n_out`` outputs. Reads y, and so waits for a GPU.

        Args:
            y: the targets, as :meth:`check_targets` returns them.
            n_out: C, the number of logits.
        """
        self.check_target_shape(y, n_out)
        if self.takes_classes(y):
            _check_classes(y, n_out, self.missing)
        else:
            self.check_finite(y, n_out)

    def check_finite(self, y: Tensor, n_out: int) -> None:
        """Raise a ValueError if y holds NaN or Inf.

        Args:
            y: the targets, as :meth:`check_targets` returns them; no class indices.
            n_out: C, the number of logits.
        """
        if y.dtype.is_floating_point:
            _check.finite("y", y)

    def to(self, device: torch.device, dtype: torch.dtype) -> Loss:
        """Adapt the loss to a model.

        Args:
            device: of the model.
            dtype: of the model.

        Returns:
            The loss, or a copy with its tensors on that device and in that dtype.
        """
        return self


def _are_integers(y: Tensor) -> bool:
    return not (y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool)


def _as_int64(y: Tensor) -> Tensor:
    if y.dtype == torch.uint64 and (y.view(torch.int64) < 0).any():
        raise ValueError("y must be less than 2**63, but holds a larger integer.")
    return y.long()


def _check_classes(y: Tensor, n_out: int, missing: Sequence[int] = ()) -> None:
    outside = (y < 0) | (y >= n_out)
    for value in missing:
        outside &= y != value
    if outside.any():
        first = int(outside.nonzero()[0, 0])
        other = f", or be {' or '.join(map(str, missing))} for no label" if missing else ""
        raise ValueError(f"y must lie in [0, {n_out}){other}, but y[{first}] is {int(y[first])}.")


def _one_hot(y: Tensor, like: Tensor) -> Tensor:
    """Labels (B,) as one-hot (B, C). A label out of range raises; on a GPU, which must not wait, it becomes NaN."""
    classes = like.shape[1]
    if not y.is_cuda:
        _check_classes(y, classes)
    hot = (y[:, None] == torch.arange(classes, device=y.device)).to(like.dtype)
    return torch.where(((y >= 0) & (y < classes))[:, None], hot, torch.nan) if y.is_cuda else hot


class CrossEntropy(Loss):
    """Softmax cross-entropy; y (B,) integer class indices of any width."""

    name = "cross_entropy"
    captured = True

    def each(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        if logits.is_cuda:
            # A label out of range would make the GPU unusable for this process, and a check would wait for the GPU.
            inside = (y >= 0) & (y < logits.shape[1])
            loss = F.cross_entropy(logits, y.clamp(0, logits.shape[1] - 1))
            return torch.where(inside.all(), loss, torch.nan)
        if len(y) and int(y.min()) < 0:  # among them the index that torch would leave out
            _check_classes(y, logits.shape[1])
        try:
            return F.cross_entropy(logits, y)
        except IndexError:  # torch has seen a label out of range; say which
            _check_classes(y, logits.shape[1])
            raise

    def residual(
        self, logits: Tensor, bias: Tensor | None, y: Tensor, out: Tensor, bias_gradient: Tensor | None,
        loss: Tensor, correct: Tensor, flag: Tensor | None = None,
    ) -> None:  # fmt: skip
        try:
            ops.softmax_residual(
                logits,
                y,
                bias=bias,
                residual=out,
                bias_gradient=bias_gradient,
                loss=loss,
                correct=correct,
                guard=flag,
            )
        except ValueError:  # a label out of range; say that y holds it
            _check_classes(y, logits.shape[1])
            raise

    def proximal(
        self, center: Tensor, y: Tensor, rho: float, out: Tensor | None = None, flag: Tensor | None = None
    ) -> Tensor:
        out = torch.empty_like(center) if out is None else out
        try:
            ops.softmax_prox(center, y, out=out, rho=rho, guard=flag)
        except ValueError:
            _check_classes(y, center.shape[1])
            raise
        return out

    def curvature(self, n_out: int) -> float:
        return 0.5  # diag(p) - p p^T has no eigenvalue above 1/2


class MeanSquaredError(Loss):
    """Mean of (z - y)^2 over B and C, as in ``F.mse_loss``; y (B, C) floats."""

    name = "mse"
    counts_correct = False
    captured = True

    def each(self, logits: Tensor, y: Tensor) -> Tensor:
        return (logits - y).square().mean(1)

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits, y)

    def residual(
        self, logits: Tensor, bias: Tensor | None, y: Tensor, out: Tensor, bias_gradient: Tensor | None,
        loss: Tensor, correct: Tensor, flag: Tensor | None = None,
    ) -> None:  # fmt: skip
        ops.mse_residual(
            logits, y, bias=bias, residual=out, bias_gradient=bias_gradient, loss=loss, guard=flag
        )

    def proximal(
        self, center: Tensor, y: Tensor, rho: float, out: Tensor | None = None, flag: Tensor | None = None
    ) -> Tensor:
        return _pulled(center, y, self.curvature(center.shape[1]), rho, out, flag)

    def curvature(self, n_out: int) -> float:
        return 2.0 / n_out

    def takes_classes(self, y: Tensor) -> bool:
        return False

    def from_labels(self, labels: Tensor, n_out: int, dtype: torch.dtype) -> Tensor:
        return F.one_hot(labels, n_out).to(dtype)

    def check_targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return _real_targets(y, dtype, self.name)

    def check_target_shape(self, y: Tensor, n_out: int) -> None:
        _check_columns(y, n_out)


def _real_targets(y: Tensor, dtype: torch.dtype, loss: str) -> Tensor:
    if y.dtype != dtype:
        raise TypeError(f"y must be {dtype} like the model for {loss}, but is {y.dtype}.")
    if y.ndim != 2:
        raise ValueError(f"y must have shape (B, C) for {loss}, but has shape {tuple(y.shape)}.")
    return y.detach().contiguous()


def _check_columns(y: Tensor, n_out: int) -> None:
    if y.shape[1] != n_out:
        raise ValueError(f"y must have {n_out} columns like the model's output, but has {y.shape[1]}.")


def _pulled(
    center: Tensor, y: Tensor, pull: float, rho: float, out: Tensor | None, flag: Tensor | None
) -> Tensor:
    """argmin_z pull / 2 (z - y)^2 + rho / 2 (z - center)^2, elementwise."""
    out = torch.div(pull * y + rho * center, pull + rho, out=out)
    if flag is not None:
        flag.logical_or_(~out.sum().isfinite())
    return out


class SquaredError(Loss):
    """Sum of (z - y)^2 over C, not averaged; y (B, C) floats, or (B,) integer class indices, taken as one-hot."""

    name = "squared"

    def each(self, logits: Tensor, y: Tensor) -> Tensor:
        return (logits - self._targets(y, logits)).square().sum(1)

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        return (logits - self._targets(y, logits)).square().sum() / len(logits)

    def proximal(
        self, center: Tensor, y: Tensor, rho: float, out: Tensor | None = None, flag: Tensor | None = None
    ) -> Tensor:
        return _pulled(center, self._targets(y, center), 2.0, rho, out, flag)

    def curvature(self, n_out: int) -> float:
        return 2.0

    def _targets(self, y: Tensor, like: Tensor) -> Tensor:
        return _one_hot(y, like) if self.takes_classes(y) else y

    def counts(self, y: Tensor, n_out: int) -> bool:
        return self.takes_classes(y)

    def takes_classes(self, y: Tensor) -> bool:
        return _are_integers(y)

    def check_targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        if self.takes_classes(y):
            return super().check_targets(y, dtype)
        return _real_targets(y, dtype, self.name)

    def check_target_shape(self, y: Tensor, n_out: int) -> None:
        if not self.takes_classes(y):
            _check_columns(y, n_out)


class Hinge(Loss):
    """One class against the rest: max(1 - z, 0) for the label's own output, max(z, 0) for the others, summed over C.

    y (B,) integer class indices. The loss is piecewise linear, so its curvature is 0, and automatic step sizes treat
    it as linear.
    """

    name = "hinge"

    def each(self, logits: Tensor, y: Tensor) -> Tensor:
        return torch.where(_one_hot(y, logits) == 1, 1 - logits, logits).relu().sum(1)

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        return torch.where(_one_hot(y, logits) == 1, 1 - logits, logits).relu().sum() / len(logits)

    def proximal(
        self, center: Tensor, y: Tensor, rho: float, out: Tensor | None = None, flag: Tensor | None = None
    ) -> Tensor:
        out = torch.empty_like(center) if out is None else out
        ops.hinge_prox(
            center, _one_hot(y, center), torch.zeros_like(center), out=out, beta=rho / 2, guard=flag
        )
        return out

    def curvature(self, n_out: int) -> float:
        return 0.0


class Criterion(Loss):
    """A torch criterion, or any function (logits, y) -> mean over the minibatch, 0-d.

    It gets y unchanged, floats in the model's dtype or integers as int64, and its return value is minimised. Targets
    in memory may hold NaN if a function is finite for them, such as one that leaves them out. A weighted
    ``nn.CrossEntropyLoss``, for instance, divides by the weights of the labels. A module is copied: the copy's
    buffers follow the model's device and dtype, and the user's own stays as it is. The derivative is taken at the
    logits only, so a criterion with parameters to train is refused.

    With (B,) integers y and C > 1, a sample is correct if its largest logit is that of its label. With a single
    logit z, it is correct if z > 0 where y is 1, and z <= 0 elsewhere; this holds if y is B integers or bools, or if
    the criterion is ``nn.BCEWithLogitsLoss`` or ``nn.SoftMarginLoss``. With any other targets nothing is counted.

    Args:
        function: (logits, y) -> 0-d mean over the minibatch, differentiable in the logits.

    Raises:
        TypeError: ``function`` is a class, not an instance.
        ValueError: it does not take the mean, or has parameters to train.
    """

    _elementwise = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
    _of_classes = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
    _of_two_classes = (nn.BCEWithLogitsLoss, nn.SoftMarginLoss)

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        if isinstance(function, type):
            raise TypeError(
                f"loss must be a criterion and not its class, but is {function.__name__}; pass an instance, "
                f"{function.__name__}()."
            )
        named = getattr(function, "func", function)  # of a functools.partial
        self.name = getattr(named, "__name__", type(named).__name__)
        self._function = self._given = function
        reduction = getattr(function, "reduction", "mean")
        if reduction not in ("mean", "batchmean"):
            raise ValueError(
                f"loss must take the mean over the minibatch, but {self.name} has reduction={reduction!r}; make it "
                "with reduction='mean'."
            )
        if isinstance(function, nn.Module):
            for path, parameter in function.named_parameters():
                if parameter.requires_grad:
                    raise ValueError(
                        f"loss must have nothing to train itself, but {self.name} has the parameter {path!r}; freeze "
                        "it, or make it part of the model."
                    )
        if isinstance(function, (nn.CrossEntropyLoss, nn.NLLLoss)):
            self.missing = (function.ignore_index,)
        self._is_torch_s = type(function).__module__ == nn.modules.loss.__name__

    @property
    def given(self) -> Any:
        return self._given

    def to(self, device: torch.device, dtype: torch.dtype) -> Loss:
        if not isinstance(self._function, nn.Module):
            return self
        own = copy.copy(self)
        own._function = copy.deepcopy(self._function).to(device, dtype)
        return own

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        if isinstance(self._function, self._elementwise) and y.shape != logits.shape:  # torch would broadcast
            raise ValueError(
                f"y must have the shape of the logits, {tuple(logits.shape)}, for {self.name}, but has "
                f"{tuple(y.shape)}."
            )
        try:
            value = self._function(logits, y if self._is_torch_s else y.clone())  # it may write to y
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise ValueError(
                f"loss must take logits {tuple(logits.shape)} and y {tuple(y.shape)} of {y.dtype}, but {self.name} "
                f"raised a {type(error).__name__}: {reason}."
            ) from error
        if not isinstance(value, Tensor):
            raise TypeError(f"loss must return a 0-d tensor, but {self.name} returned {value!r}.")
        if value.ndim > 0 or not value.dtype.is_floating_point:
            raise ValueError(
                f"loss must return its mean over the minibatch, a 0-d floating-point tensor, but {self.name} "
                f"returned {value.dtype} of shape {tuple(value.shape)}."
            )
        if torch.is_grad_enabled() and logits.requires_grad and not value.requires_grad:
            raise ValueError(f"loss must be differentiable in the logits, but {self.name} is not.")
        return value

    def each(self, logits: Tensor, y: Tensor) -> Tensor:
        own: Any = copy.copy(self._function)
        if not self._is_torch_s or getattr(own, "weight", None) is not None or own.reduction != "mean":
            raise ValueError(
                f"loss must be a name, or a criterion of torch without weights that takes the mean, where samples "
                f"have weights, but is {self.name}."
            )
        own.reduction = "none"
        losses: Tensor = own(logits, y)
        return losses.reshape(len(logits), -1).mean(1)

    def check_finite(self, y: Tensor, n_out: int) -> None:
        try:
            super().check_finite(y, n_out)
        except ValueError:
            if self._is_torch_s or not self.mean(y.new_zeros(len(y), n_out), y).isfinite():
                raise

    def curvature(self, n_out: int) -> float | None:
        # The criteria that torch does not differentiate twice.
        f = self._function
        if type(f) is nn.MultiLabelMarginLoss:
            return 0.0
        if type(f) is nn.MultiMarginLoss:
            # 2 w / C times the Laplacian of a star of C vertices, whose largest eigenvalue is C.
            return 0.0 if f.p == 1 else 2.0 * (1.0 if f.weight is None else float(f.weight.max()))
        return None

    def counts(self, y: Tensor, n_out: int) -> bool:
        if n_out > 1:
            return y.ndim == 1 and _are_integers(y)
        labels = not (y.dtype.is_floating_point or y.dtype.is_complex)
        return y.numel() == len(y) and (labels or isinstance(self._function, self._of_two_classes))

    def correct(self, logits: Tensor, y: Tensor) -> Tensor | None:
        if logits.shape[1] > 1 or not self.counts(y, 1):
            return super().correct(logits, y)
        return ((logits > 0).flatten() == (y > 0.5).flatten()).sum()

    def takes_classes(self, y: Tensor) -> bool:
        return y.ndim == 1 and _are_integers(y) and isinstance(self._function, self._of_classes)

    def check_targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        if y.dtype.is_floating_point and y.dtype != dtype:
            raise TypeError(f"y must be {dtype} like the model, or integers, but is {y.dtype}.")
        return (_as_int64(y) if _are_integers(y) else y.detach()).contiguous()


class LossAround(Loss):
    """Another loss, seen differently: what a subclass leaves out is that of the other.

    Args:
        loss: the other.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self.name, self.counts_correct, self.missing = loss.name, loss.counts_correct, loss.missing

    @property
    def given(self) -> Any:
        return self._loss.given

    def curvature(self, n_out: int) -> float | None:
        return self._loss.curvature(n_out)

    def counts(self, y: Tensor, n_out: int) -> bool:
        return self._loss.counts(y, n_out)

    def takes_classes(self, y: Tensor) -> bool:
        return self._loss.takes_classes(y)

    def from_labels(self, labels: Tensor, n_out: int, dtype: torch.dtype) -> Tensor:
        return self._loss.from_labels(labels, n_out, dtype)

    def check_targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return self._loss.check_targets(y, dtype)

    def check_target_shape(self, y: Tensor, n_out: int) -> None:
        self._loss.check_target_shape(y, n_out)

    def check_finite(self, y: Tensor, n_out: int) -> None:
        self._loss.check_finite(y, n_out)


class PartlyLabelled(LossAround):
    """A loss for samples that may lack a label: integers y (B,) with -1 for "no label".

    The mean is over the samples with a label; if there are none, it is NaN and no flag is raised.

    Args:
        loss: the loss of the samples that have a label.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss)
        self.missing = (UNLABELLED, *loss.missing)

    def to(self, device: torch.device, dtype: torch.dtype) -> Loss:
        return PartlyLabelled(self._loss.to(device, dtype))

    def _rows(self, y: Tensor) -> Tensor:
        """Which samples have a label."""
        if y.ndim == 1 and _are_integers(y):
            return (y != UNLABELLED).nonzero()[:, 0]
        return torch.arange(len(y), device=y.device)

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        rows = self._rows(y)
        return self._loss.mean(logits[rows], y[rows])

    def residual(
        self, logits: Tensor, bias: Tensor | None, y: Tensor, out: Tensor, bias_gradient: Tensor | None,
        loss: Tensor, correct: Tensor, flag: Tensor | None = None,
    ) -> None:  # fmt: skip
        rows = self._rows(y)
        if len(rows) == len(y):
            self._loss.residual(logits, bias, y, out, bias_gradient, loss, correct, flag)
            return
        part = logits.new_zeros(len(rows), logits.shape[1])
        if len(rows):
            self._loss.residual(logits[rows], bias, y[rows], part, bias_gradient, loss, correct, flag)
        else:
            loss.fill_(torch.nan)
            correct.zero_()
            if bias_gradient is not None:
                bias_gradient.zero_()
        out.zero_()
        out[rows] = part

    def curvature_at(self, logits: Tensor, bias: Tensor | None, y: Tensor) -> Tensor:
        rows = self._rows(y)
        return self._loss.curvature_at(logits[rows], bias, y[rows]) if len(rows) else logits.new_zeros(())

    def correct(self, logits: Tensor, y: Tensor) -> Tensor | None:
        rows = self._rows(y)
        return self._loss.correct(logits[rows], y[rows])

    def labelled(self, y: Tensor) -> int | Tensor:
        return self._loss.labelled(y[self._rows(y)])


class Weighted(Loss):
    """A loss of samples that do not all count alike; y (B, K + 1): the targets, and in the last column the weights.

    The mean over a minibatch is sum w_b l_b / sum w_b: only ratios of weights within a minibatch matter, and a whole
    number is a sample that stands there so many times. :meth:`residual` and the code of a sample know nothing of its
    weight. Whatever sums over samples weighs them by :meth:`weights`, and only methods that do (``Method.weighs``)
    take such a loss.

    Args:
        loss: of one sample.
        classes: whether the targets are class indices, which y then holds as floats in its only other column.

    Raises:
        ValueError: ``loss`` knows its mean over a minibatch only.
    """

    def __init__(self, loss: Loss, *, classes: bool) -> None:
        if not _has(type(loss), "each"):
            raise ValueError(
                f"loss must know the loss of each sample where samples have weights, but {loss.name!r} knows their "
                "mean only; define each(logits, y)."
            )
        self._loss, self._classes = loss, classes
        self.name, self.counts_correct = loss.name, loss.counts_correct

    @property
    def given(self) -> Any:
        return self._loss.given

    def to(self, device: torch.device, dtype: torch.dtype) -> Loss:
        return Weighted(self._loss.to(device, dtype), classes=self._classes)

    def _targets(self, y: Tensor) -> Tensor:
        return y[:, 0].long() if self._classes else y[:, :-1].contiguous()

    def weights(self, y: Tensor) -> Tensor:
        return y[:, -1] / y[:, -1].mean()

    def each(self, logits: Tensor, y: Tensor) -> Tensor:
        return self._loss.each(logits, self._targets(y))

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        return (self.each(logits, y) * self.weights(y)).mean()

    def residual(
        self, logits: Tensor, bias: Tensor | None, y: Tensor, out: Tensor, bias_gradient: Tensor | None,
        loss: Tensor, correct: Tensor, flag: Tensor | None = None,
    ) -> None:  # fmt: skip
        weighted = self.mean(logits if bias is None else logits + bias, y)  # first: out may be the logits
        self._loss.residual(logits, bias, self._targets(y), out, bias_gradient, loss, correct, flag)
        loss.copy_(weighted)

    def curvature(self, n_out: int) -> float | None:
        return self._loss.curvature(n_out)

    def curvature_at(self, logits: Tensor, bias: Tensor | None, y: Tensor) -> Tensor:
        return self._loss.curvature_at(logits, bias, self._targets(y))

    def counts(self, y: Tensor, n_out: int) -> bool:
        return self._loss.counts(self._targets(y), n_out)

    def correct(self, logits: Tensor, y: Tensor) -> Tensor | None:
        return self._loss.correct(logits, self._targets(y))

    def takes_classes(self, y: Tensor) -> bool:
        return False

    def from_labels(self, labels: Tensor, n_out: int, dtype: torch.dtype) -> Tensor:
        return self._loss.from_labels(labels, n_out, dtype)

    def check_targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        y = _real_targets(y, dtype, f"a weighted {self.name}")
        self._loss.check_targets(self._targets(y), dtype)
        return y

    def check_target_shape(self, y: Tensor, n_out: int) -> None:
        self._loss.check_target_shape(self._targets(y), n_out)

    def check_target_values(self, y: Tensor, n_out: int) -> None:
        _check.finite("y", y)
        self._loss.check_target_values(self._targets(y), n_out)
        if not bool((y[:, -1] > 0).all()):
            raise ValueError(
                f"y must hold weights greater than 0 in its last column, but holds {float(y[:, -1].min()):g}; leave "
                "such samples out."
            )


#: What ``loss=`` takes: a name, a loss, a torch criterion, or any function of logits and targets.
LossLike: TypeAlias = str | Loss | Callable[[Tensor, Tensor], Tensor]

_losses: dict[str, type[Loss]] = {
    cls.name: cls for cls in (CrossEntropy, MeanSquaredError, SquaredError, Hinge)
}


def names() -> list[str]:
    """The names that ``loss=`` takes."""
    return list(_losses)


def make_loss(loss: LossLike, *, partial: bool = False, needs: Sequence[str] = (), user: str = "") -> Loss:
    """Make a loss from whatever a user passes as ``loss=``.

    Args:
        loss: one of :func:`names`, a :class:`Loss`, a torch criterion, or a function (logits, y) -> mean over the
            minibatch.
        partial: whether labels may be missing, see :class:`PartlyLabelled`.
        needs: methods of :class:`Loss` without a default that the loss must have, such as "proximal".
        user: the name of the training method that needs them, for the error message.

    Returns:
        The loss.

    Raises:
        TypeError: ``loss`` is none of these.
        ValueError: there is no loss of that name; it does not take the mean, or has parameters to train; or it lacks
            one of ``needs``.
    """
    if isinstance(loss, str):
        if loss not in _losses:
            raise unknown_name("loss", loss, _losses)
        made = _losses[loss]()
    elif isinstance(loss, Loss):
        made = loss.of_one
    elif callable(loss):
        made = Criterion(loss)
    else:
        raise TypeError(
            f"loss must be a name, a torch criterion or a function of logits and y, but is {named_type(loss)}."
        )
    for need in needs:
        if not _has(type(made), need):
            others = " or ".join(repr(name) for name, cls in _losses.items() if _has(cls, need))
            raise ValueError(
                f"loss must know its {need} map for {user}, but {made.name!r} does not; choose {others}, or a method "
                "that takes derivatives."
            )
    return PartlyLabelled(made) if partial and not isinstance(made, PartlyLabelled) else made


def _has(loss: type[Loss], need: str) -> bool:
    return getattr(loss, need) is not getattr(Loss, need)


__all__ = [
    "UNLABELLED",
    "Criterion",
    "CrossEntropy",
    "Hinge",
    "Loss",
    "LossLike",
    "MeanSquaredError",
    "PartlyLabelled",
    "SquaredError",
    "Weighted",
    "make_loss",
    "names",
]
