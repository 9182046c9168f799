"""The baselines: backpropagation by autograd with SGD or Adam, behind the API of all methods.

Backpropagation is that of Rumelhart, Hinton & Williams 1986. The whole network is one stage, whose objective is the
loss.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._guard import Guard, Subject
from altmin_ext._state import Part, Same, Sizes, as_list, at_least_zero, check_keys, read_tensor
from altmin_ext._undo import Undo, Undoable
from altmin_ext.methods._options import GradientOptions, number, option
from altmin_ext.methods.base import Method, StepReport
from altmin_ext.network import BoundStage
from altmin_ext.network.pieces import batch_normalisations


class _Backprop(Method):
    optimizer: torch.optim.Optimizer

    Options = GradientOptions
    options: GradientOptions
    captures = True
    weighs = True
    shares = True

    def _cut(self, model: nn.Module) -> list[BoundStage]:
        couples = (*batch_normalisations, nn.SyncBatchNorm)
        found = next((type(m).__name__ for m in model.modules() if isinstance(m, couples)), None)
        if self.ranks is not None and found is not None:
            raise ValueError(
                f"parallel must be None for {self.name} and a model with a {found}, whose statistics torch takes of "
                "one rank's samples alone, but is 'data'."
            )
        return super()._cut(model)

    def _flags(self) -> Sequence[Subject]:
        return [("loss", None), ("gradient", None), ("weights", None)]

    def _allocate(self) -> None:
        self._trained = [parameter for _, parameter in self._parameters if parameter.requires_grad]
        self.optimizer = self._make_optimizer(self._trained)
        self._moments = _Moments(self.optimizer)
        self._defers_guard = self.device.type == "cuda"
        # torch's optimisers take a 0-d flag in float32.
        self._guard = Guard(self._flags(), self.device, torch.float32)
        self._not_finite = self._guard.flag("gradient", None)[0]
        self._limit = 0.0
        self._limit_on_gpu = self._like.new_zeros(())
        if self.optimizer.defaults.get("momentum"):
            # torch would make the buffers without content, to be filled by a first step, which may be skipped.
            for parameter in self._trained:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self._prepare_for_gpu()

    def _prepare_for_gpu(self) -> None:
        """Let the optimiser skip steps that are not finite, and read rates that change under a CUDA graph."""
        if not self._defers_guard:
            return
        self.optimizer.found_inf = self._not_finite  # type: ignore[attr-defined]
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=self.device)
            if "capturable" in group:
                group["capturable"] = True

    def _make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        raise NotImplementedError

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        rate = self.options.lr * self.step_factor
        if self._defers_guard and rate > torch.finfo(torch.float32).max:
            rate = math.inf  # the optimiser reads it from a float32 tensor, and takes no step
        self._limit = self._largest_gradient(rate)
        if self._defers_guard:
            self._limit_on_gpu.fill_(self._limit)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        return x, y

    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        with torch.enable_grad():
            try:
                logits = self.model(x)
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise
            except RuntimeError as error:
                raise ValueError(f"x of shape {tuple(x.shape)} does not fit the model: {error}.") from error
            logits = _check.logits(logits, len(x))
        self.loss.check_target_shape(y, logits.shape[1])
        loss, correct, gradients = self._differentiate(logits, y)
        report = StepReport(
            loss, correct, loss.double().reshape(1) if self.options.report_objective else None
        )
        there = [gradient for gradient in gradients if gradient is not None]
        norms = torch._foreach_norm(there) if there else []
        if self._defers_guard:
            fine = torch.stack([*norms, loss.new_zeros(())]).max() < self._limit_on_gpu
            self._not_finite.logical_or_(~(loss.isfinite() & fine))
            surely_finite = True
        else:
            largest = sum(map(float, norms))  # or more; a NaN makes it NaN
            if not math.isfinite(loss):
                self._guard.put_up("loss", None)
                return report
            if not math.isfinite(largest) and not all(bool(g.isfinite().all()) for g in there):
                self._guard.put_up("gradient", None)
                return report
            surely_finite = largest < self._limit
        try:
            for parameter, gradient in zip(self._trained, gradients, strict=True):
                parameter.grad = gradient
            self._move(surely_finite)
        finally:
            for parameter in self._trained:
                parameter.grad = None
        return report

    def _differentiate(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """The mean loss, the correct count, and the derivatives of that loss in the parameters."""
        if not self.loss.captured:  # a loss without a kernel may depend on more than the logits
            with torch.enable_grad():
                loss = self.loss.mean(logits, y)
            correct = self.loss.correct(logits, y)
            return loss.detach(), correct, self._gradients(loss)
        at = logits.detach().contiguous()
        residual, loss = torch.empty_like(at), at.new_empty(())
        count = torch.empty_like(loss, dtype=torch.int64)
        self.loss.residual(at, None, y, residual, None, loss, count)
        correct = count if self.loss.counts(y, at.shape[1]) else None
        gradients = self._gradients(logits, residual.div_(self.samples(at)))
        if self.ranks is not None:
            gradients = [
                torch.zeros_like(parameter) if gradient is None else gradient
                for parameter, gradient in zip(self._trained, gradients, strict=True)
            ]
            self.ranks.start_sum(gradient for gradient in gradients if gradient is not None)
            self.ranks.wait()
        return loss, correct, gradients

    def _gradients(self, output: Tensor, derivative: Tensor | None = None) -> list[Tensor | None]:
        """The derivatives of the loss in the parameters; None for one that has no effect on it.

        Args:
            output: the loss, or the logits.
            derivative: of the loss in the logits.
        """
        try:
            found = torch.autograd.grad(output, self._trained, derivative, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"model must be differentiable, but its backward pass fails: {_check.first_sentence(error)}."
            ) from error
        # torch's fused optimisers read gradients as if they were contiguous; some are expanded.
        return [None if gradient is None else gradient.contiguous() for gradient in found]

    def _undoable(self) -> Sequence[Undoable]:
        return [self._buffers] if self._buffers else []

    @abc.abstractmethod
    def _largest_gradient(self, rate: float) -> float:
        """A norm; gradients below it surely leave all weights and moments finite, at this learning rate.

        Of the gradients of a float32 network only those above 1e18 or so are not below it. Then a step on a CPU is
        checked; on a GPU, which is not waited for, the optimiser is told to skip it.
        """

    @property
    def _longest_step(self) -> float:
        """A step by which no finite weight overflows, not even the largest."""
        numbers = torch.finfo(self.dtype)
        return numbers.max * numbers.eps / 10

    def _move(self, surely_finite: bool) -> None:
        """Let the optimiser move the weights; it is undone if it fails, or makes a number that is not finite."""
        # It counts a step first, and then moves all weights at once.
        parts: list[Undoable] = [self._weights, self._moments]
        if surely_finite:
            parts = [] if self._defers_guard else [_Count(self.optimizer)]
        undo = Undo(parts)
        try:
            self.optimizer.step()
            if surely_finite:
                return
            moved = [*self._trained, *self._moments.tensors]
            finite = all(bool(tensor.isfinite().all()) for tensor in moved)
        except BaseException:
            undo()
            raise
        if not finite:
            undo()
            self._guard.put_up("weights", None)

    def _state(self) -> dict[str, Part]:
        return {**super()._state(), "optimizer": _OptimizerState(self.optimizer, self._trained)}

    def _forget_derived(self) -> None:
        super()._forget_derived()
        self._prepare_for_gpu()


class _Moments:
    """What an optimiser of torch keeps for each parameter, made in the first step, as a part that can be restored."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    @property
    def tensors(self) -> list[Tensor]:
        states = self._optimizer.state.values()
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]

    def remember(self) -> tuple[int, list[Tensor]]:
        return len(self._optimizer.state), [tensor.clone() for tensor in self.tensors]

    def recall(self, kept: tuple[int, list[Tensor]]) -> None:
        made, copies = kept
        _forget_new(self._optimizer, made)
        for tensor, before in zip(self.tensors, copies, strict=True):
            tensor.copy_(before)


class _Count:
    """The steps that Adam has counted for each parameter with a gradient, as a part that can be restored."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    @property
    def _counts(self) -> Iterator[Tensor]:
        states = self._optimizer.state.items()
        return (state["step"] for p, state in states if p.grad is not None and "step" in state)

    def remember(self) -> tuple[int, float]:
        first = next(self._counts, None)
        return len(self._optimizer.state), 0.0 if first is None else float(first)

    def recall(self, kept: tuple[int, float]) -> None:
        made, before = kept
        _forget_new(self._optimizer, made)
        counts = list(self._counts)
        if counts and float(counts[0]) != before:  # all of them are raised in one call
            for count in counts:
                count.sub_(1)


def _forget_new(optimizer: torch.optim.Optimizer, made: int) -> None:
    """Remove what has been made for parameters beyond the first so many."""
    for parameter in list(optimizer.state)[made:]:
        del optimizer.state[parameter]


class _OptimizerState:
    """The state of an optimiser of torch, whose fused kernels would write beyond the end of smaller moments."""

    # What the optimisers keep for a parameter, Adam only once it has had a gradient. All but "step" have its shape.
    _kept: ClassVar[dict[type[torch.optim.Optimizer], tuple[str, ...]]] = {
        torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
        torch.optim.SGD: ("momentum_buffer",),
    }
    _squares = ("step", "exp_avg_sq", "max_exp_avg_sq")
    _own = ("foreach", "fused", "capturable", "differentiable")  # how it runs here

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
        self._optimizer, self._parameters = optimizer, parameters

    def save(self) -> Any:
        return copy.deepcopy(self._optimizer.state_dict())

    def read(self, name: str, value: Any, sizes: Sizes) -> Any:
        own = self._optimizer.state_dict()
        check_keys(name, value, own)
        (group,) = as_list(f"{name}.param_groups", value["param_groups"], 1)
        read = self._read_group(f"{name}.param_groups[0]", group, own["param_groups"][0])
        if not isinstance(value["state"], Mapping):
            raise TypeError(f"{name}.state must be a dict, but is {_check.named_type(value['state'])}.")
        if "momentum" in read and len(value["state"]) != (len(self._parameters) if read["momentum"] else 0):
            raise ValueError(
                f"{name}.state must hold the momentum of every parameter if there is one, but holds "
                f"{len(value['state'])} with momentum={read['momentum']!r}."
            )
        moments = {}
        for i, kept in value["state"].items():
            if type(i) is not int or not 0 <= i < len(self._parameters):
                raise ValueError(
                    f"{name}.state must hold moments of the parameters 0 to {len(self._parameters) - 1}, but holds "
                    f"some of {_check.shown(i)}."
                )
            moments[i] = self._read_moments(f"{name}.state[{i}]", kept, self._parameters[i], read)
        return {"state": moments, "param_groups": [read]}

    def load(self, value: Any) -> None:
        self._optimizer.load_state_dict(value)  # which keeps the tensors themselves

    def _read_group(self, name: str, group: Any, own: dict[str, Any]) -> dict[str, Any]:
        check_keys(name, group, own)
        read: dict[str, Any] = {}
        for key, mine in own.items():
            where, value = f"{name}.{key}", group[key]
            if key in self._own:
                read[key] = mine
            elif key == "lr":
                is_scalar = isinstance(value, Tensor) and value.ndim == 0 and value.device.type != "meta"
                read[key] = _check.number(where, float(value) if is_scalar else value)
            elif isinstance(mine, tuple):
                values = as_list(where, value, len(mine))
                read[key] = tuple(_check.number(f"{where}[{i}]", each) for i, each in enumerate(values))
            elif isinstance(mine, (int, float)) and not isinstance(mine, bool):
                # torch allows an eps of 0, which makes the weights of a unit without gradient NaN.
                number = _check.number(where, value, above=0.0 if key == "eps" else None)
                read[key] = value if type(value) in (int, float) else number
            else:
                read[key] = Same(mine, "as in this method's optimiser").read(where, value, {})
        numbers: dict[str, Any] = {
            key: value for key, value in read.items() if isinstance(value, (float, tuple))
        }
        try:
            type(self._optimizer)([torch.zeros(1)], **numbers)
        except ValueError as error:
            raise ValueError(f"{name} must suit torch's optimiser, but it refuses: {error}.") from error
        return read

    def _read_moments(self, name: str, kept: Any, parameter: Tensor, group: dict[str, Any]) -> Any:
        names = [*self._kept[type(self._optimizer)], *(["max_exp_avg_sq"] if group.get("amsgrad") else [])]
        check_keys(name, kept, names)
        read = {}
        for key in names:
            like = torch.empty((), dtype=torch.float32) if key == "step" else parameter
            read[key] = read_tensor(f"{name}.{key}", kept[key], like, like.shape, {})
            if key in self._squares:
                at_least_zero(f"{name}.{key}", read[key])
        return read


@dataclasses.dataclass(frozen=True)
class BackpropSGDOptions(GradientOptions):
    """Options of :class:`BackpropSGD`."""

    lr: float = option(0.1)
    momentum: float = option(0.0, "heavy-ball momentum", number(below=1.0))


class BackpropSGD(_Backprop):
    """Backpropagation with SGD, a baseline.

    Weight decay is torch's, which is the same as decoupled decay if the momentum is 0.
    """

    name = "sgd"
    Options = BackpropSGDOptions
    options: BackpropSGDOptions

    def _largest_gradient(self, rate: float) -> float:
        o = self.options
        shrinks = rate * o.weight_decay <= 1 and o.weight_decay < 0.5
        # A sum of such gradients with the factors momentum^k is at most 1 / (1 - momentum) times as long.
        return self._longest_step * (1 - o.momentum) / max(rate, 1.0) if shrinks else 0.0

    def _make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        o = self.options
        return torch.optim.SGD(
            parameters, lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay, fused=True
        )


class BackpropAdam(_Backprop):
    """Backpropagation with AdamW, a baseline: Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name = "adam"

    def _largest_gradient(self, rate: float) -> float:
        # With torch's betas a step is at most 7.3 times the learning rate, by the Cauchy-Schwarz inequality.
        steps_are_short = 10 * rate < self._longest_step and rate * self.options.weight_decay <= 1
        return math.sqrt(torch.finfo(self.dtype).max) / 2 if steps_are_short else 0.0  # its square is finite

    def _make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        o = self.options
        return torch.optim.AdamW(parameters, lr=o.lr, weight_decay=o.weight_decay, fused=True)
