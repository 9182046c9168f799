"""What closed-form learners share: a head that is solved for, on features that stay as they are."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._guard import Subject
from altmin_ext._mode import evaluating
from altmin_ext._undo import Tensors, Undoable
from altmin_ext.filters import filters_of, fit_filters
from altmin_ext.methods._options import boolean, option
from altmin_ext.methods.base import Method, MethodOptions, StepReport
from altmin_ext.network.known import described, known_as, runs_as
from altmin_ext.ops import unversioned as ops

Self = TypeVar("Self", bound="ClosedForm")


class Committable(Protocol):
    """A change that can still be left out."""

    def commit(self) -> None:
        """Make the change."""


class Learned:
    """The head after a change of the sums that it follows from.

    Args:
        weight: (C, n).
        bias: (C,) or None.
        *changes: of the sums, which are not made yet.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *changes: Committable) -> None:
        self.weight, self.bias, self.changes = weight, bias, changes


@dataclasses.dataclass(frozen=True)
class ClosedFormOptions(MethodOptions):
    """Options that closed-form learners share.

    With ``fit_filters``, the first minibatch is also what the features are learned from, without its labels, before
    it is learned like any other: :func:`altmin_ext.fit_filters` with the method's seed. It should hold some 100
    images. From then on features stay as they are, and the result depends on the order of the samples only through
    what came first. Runs to be merged must have the same features, so fit them beforehand.
    """

    fit_filters: bool = option(
        False,
        "fit the filters of the first Conv2d to the patches of the first minibatch, without labels",
        boolean,
    )


class ClosedForm(Method):
    """A method that solves for the last Linear of a model, its head, from sums over all samples seen.

    Everything below the head stays as it is, whether it requires a gradient or not: features. They are computed in
    evaluation mode, without dropout and with the running statistics of batch normalisation. Any module will do whose
    outputs are those of its last Linear.

    One pass over the data is enough, and neither the order of the samples nor their cut into minibatches makes a
    difference, up to rounding. The head's own weights before the first step have no effect.
    """

    _losses: ClassVar[tuple[str, ...]] = ("cross_entropy",)
    _needs_bias: ClassVar[bool] = True
    has_rate = False
    shares = True
    Options: ClassVar[type[MethodOptions]] = ClosedFormOptions
    options: ClosedFormOptions

    def _cut(self, model: nn.Module) -> list[Any]:
        if self.loss.name not in self._losses:
            known = " or ".join(map(repr, self._losses))
            raise ValueError(f"loss must be {known} for {self.name}, but is {self.loss.name!r}.")
        self._find_head(model)
        if self.options.fit_filters:
            filters_of(model)
        return []

    def _find_head(self, model: nn.Module) -> None:
        """Find the head, the model's last Linear; a ValueError unless it can be solved for."""
        linear = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ValueError(f"model must end with a Linear for {self.name}, but holds none.")
        path, head = linear[-1]
        fault = self._fault_of_head(model, path, head)
        if fault:
            raise ValueError(
                f"model must end with a Linear that {self.name} can solve for, but {path!r}, its last, {fault}."
            )
        self._head_path, self._head = path, head

    def _fault_of_head(self, model: nn.Module, path: str, head: nn.Linear) -> str:
        """Why the head cannot be solved for, as the end of a sentence; "" if it can."""
        if known_as(head) is not nn.Linear:  # perhaps to read its weight would change it
            return f"is {described(head)}; make it a plain one"
        own = {id(parameter) for parameter in head.parameters()}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if id(parameter) in own and name.rpartition(".")[0] != path:
                return f"shares {name!r} with another layer; give it a parameter of its own"
        if self._needs_bias and head.bias is None:
            return "has no bias; give it one"
        if not (head.weight.requires_grad and (not self._needs_bias or head.bias.requires_grad)):
            return "is frozen; call requires_grad_() on it"
        return ""

    @property
    def head(self) -> nn.Linear:
        """The Linear that is solved for."""
        return self._head

    def _flags(self) -> Sequence[Subject]:
        return [("loss", None), ("weights", None)]

    def _allocate(self) -> None:
        self._find_head(self.model)  # moving the model may have made new parameters
        self._weights = Tensors(p for p in self._head.parameters() if p.requires_grad)
        self.n_out = self._head.out_features
        self._learned: Learned | None = None
        self._filters = Tensors(filters_of(self.model).parameters() if self.options.fit_filters else ())

    @property
    def _fits_filters(self) -> bool:
        """Whether the next minibatch is the one that the filters are fitted to."""
        return self.options.fit_filters and self.steps == 0

    def _undoable(self) -> Sequence[Undoable]:
        parts: list[Undoable] = [self._buffers] if self._buffers else []  # which a user's module may write to
        return [*parts, self._filters] if self._fits_filters else parts

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.loss.check_target_shape(y, self.n_out)
        return x, y

    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        if self._fits_filters:
            images = x if self.ranks is None else self.ranks.gather(x)
            if bool(images.isfinite().all()):
                fit_filters(self.model, images, seed=self.seed)
        features, logits = self._evaluate(x)
        if self.ranks is not None:
            features, logits, y = (self.ranks.gather(own) for own in (features, logits, y))
        loss, correct = self.loss.of_one.mean(logits, y), self.loss.of_one.correct(logits, y)
        report = StepReport(
            loss, correct, loss.double().reshape(1) if self.options.report_objective else None
        )
        if not bool(loss.isfinite()):
            self._guard.put_up("loss", None)
            return report
        self._learned = self._learn(features, y, removes=False)
        if self._learned is None or not _finite(self._learned):
            self._guard.put_up("weights", None)
        return report

    def _commit(self, batch: int) -> None:
        assert self._learned is not None
        self._take(self._learned)

    def _take(self, learned: Learned) -> None:
        for change in learned.changes:
            change.commit()
        self._head.weight.copy_(learned.weight)
        if learned.bias is not None:
            self._head.bias.copy_(learned.bias)
        self._learned = None

    def _evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features (B, n) and the logits (B, C) of a minibatch."""
        try:
            with evaluating(self.model):
                return self._through_chain(x) or self._through_model(x)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            raise ValueError(f"x of shape {tuple(x.shape)} does not fit the model: {error}.") from error

    def _through_chain(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """The same for an ``nn.Sequential`` that ends with the head; None for any other model."""
        if not runs_as(self.model, nn.Sequential) or self.model[-1] is not self._head:
            return None
        for module in list(self.model)[:-1]:
            x = _output(module, x)
        if x.ndim != 2:
            return None
        features = x.contiguous()
        return features, _output(self._head, features)

    def _through_model(self, x: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[tuple[Tensor, Tensor]] = []
        handle = self._head.register_forward_hook(
            lambda module, inputs, output: seen.append((inputs[0], output))
        )
        try:
            logits = _check.logits(self.model(x), len(x))
        finally:
            handle.remove()
        ends_here = len(seen) == 1 and seen[0][1].data_ptr() == logits.data_ptr()
        if not ends_here or seen[0][1].shape != logits.shape:
            raise ValueError(
                f"model must return what its last Linear returns for {self.name}, but {self._head_path!r} is not the "
                "last that acts on each sample once."
            )
        return seen[0][0].contiguous(), logits

    @abc.abstractmethod
    def _learn(self, features: Tensor, y: Tensor, removes: bool) -> Learned | None:
        """The head with more, or fewer, samples; None if it is not finite, or numerics forbid it."""

    @abc.abstractmethod
    def _learn_from(self: Self, other: Self) -> Learned | None:
        """The head with the samples of another run as well; None if it is not finite."""

    @abc.abstractmethod
    def _check_learned(self, y: Tensor) -> None:
        """Raise a ValueError if more samples are to be forgotten than have been learned."""

    def forget(self, x: Tensor, y: Tensor) -> None:
        """Take samples out again, as if they had never been learned.

        Args:
            x, y: samples that have been learned, as for :meth:`step`, in any order and number; where ranks share
                minibatches, the same on all of them.

        Raises:
            TypeError, ValueError: they do not fit the model; there are more of them than have been learned; they
                have certainly not been learned; or rounding would leave too little of what else has been learned.
                Nothing has changed.
        """
        x, y = self.check_batch(x, y)
        self.loss.check_target_shape(y, self.n_out)
        self.loss.check_target_values(y, self.n_out)
        _check.finite("x", x)
        self._check_learned(y)
        with torch.no_grad():
            learned = self._all_or_nothing(self._forgotten, self._undoable(), x, y)
            self._take(learned)
            self._raise_versions()

    def _forgotten(self, x: Tensor, y: Tensor) -> Learned:
        learned = self._learn(self._evaluate(x)[0], y, removes=True)
        if learned is None or not _finite(learned):
            raise ValueError(
                "x must be samples that have been learned, of which numerics allow to take them out, but is not: "
                "check them, raise ridge, or learn anew without them."
            )
        return learned

    def merge(self: Self, other: Self) -> None:
        """Learn what another run has learned from other data, as if this one had gone through both.

        Args:
            other: a method of the same kind, with the same options, for a model with the same features; it stays as
                it is.

        Raises:
            TypeError, ValueError: it is not. Nothing has changed.
        """
        if type(other) is not type(self):
            raise TypeError(f"other must be a method {self.name!r}, but is {_check.named_type(other)}.")
        if other is self:
            raise ValueError("other must be another run, but is this one.")
        if other.options != self.options:
            raise ValueError(f"other must have the options {self.options}, but has {other.options}.")
        self.check_model()
        other.check_model()
        self._check_features(other.model)
        with torch.no_grad():
            learned = self._learn_from(other)
            if learned is None or not _finite(learned):
                raise ValueError("other must add up with what this has learned, but the sums are not finite.")
            self._take(learned)
            self._raise_versions()
        self.steps += other.steps

    def _check_features(self, other: nn.Module) -> None:
        """Raise a ValueError unless another model computes the same features."""
        own, theirs = self.model.state_dict(), other.state_dict()
        head = {id(p) for p in self._head.parameters()}
        learned = {name for name, p in self.model.named_parameters() if id(p) in head and p.requires_grad}
        for name in {**own, **theirs}:
            mine, its = own.get(name), theirs.get(name)
            alike = (
                isinstance(mine, Tensor)
                and isinstance(its, Tensor)
                and (mine.shape, mine.dtype) == (its.shape, its.dtype)
                and (name in learned or torch.equal(mine, its.to(mine.device)))
            )
            if not alike:
                raise ValueError(f"other must have a model with the same features, but {name!r} differs.")

    def _remedy(self, variable: str) -> str:
        if variable == "loss":
            return "look for a layer whose outputs are not finite"
        return "raise ridge"


def _output(module: nn.Module, x: Tensor) -> Tensor:
    """The output of a module; of a Linear by the product that all methods use, which is the faster one."""
    if isinstance(module, nn.Linear) and known_as(module) is nn.Linear:
        weight, bias = module.weight, module.bias
        if x.ndim == 2 and x.is_contiguous() and (x.shape[1], x.dtype) == (weight.shape[1], weight.dtype):
            out = x.new_empty(len(x), len(weight))
            ops.matmul(x, weight, out=out, transpose_b=True)
            return out if bias is None else out.add_(bias)
    return torch.as_tensor(module(x))


def _finite(learned: Learned) -> bool:
    tensors = [learned.weight] if learned.bias is None else [learned.weight, learned.bias]
    return all(bool((tensor * 0).sum().isfinite()) for tensor in tensors)
