"""The baselines: backpropagation by autograd with SGD or Adam, behind the API of all methods.

Backpropagation is that of Rumelhart, Hinton & Williams 1986. The whole network is one stage, whose objective is the
loss.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._guard import Guard, Subject
from altmin_ext._state import Part, Same, Sizes, as_list, at_least_zero, check_keys, read_tensor
from altmin_ext._undo import Undo, Undoable
from altmin_ext.methods._options import GradientOptions, number, option
from altmin_ext.methods.base import Method, StepReport


class _Backprop(Method):
    optimizer: torch.optim.Optimizer

    Options = GradientOptions
    options: GradientOptions
    captures = True

    def _flags(self) -> Sequence[Subject]:
        return [("loss", None), ("gradient", None), ("weights", None)]

    def _allocate(self) -> None:
        self._trained = [parameter for _, parameter in self._parameters if parameter.requires_grad]
        self.optimizer = self._make_optimizer(self._trained)
        self._moments, self._counts = _Moments(self.optimizer), _Moments(self.optimizer, only="step")
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
        rate = self.options.lr * self.learning_rate_factor
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
            loss = self.loss.mean(logits, y)
        correct = self.loss.correct(logits, y)
        found = self._gradients(loss)
        loss = loss.detach()
        report = StepReport(
            loss, correct, loss.double().reshape(1) if self.options.report_objective else None
        )
        # torch's fused optimisers read gradients as if they were contiguous; some are expanded.
        gradients = [None if gradient is None else gradient.contiguous() for gradient in found]
        there = [gradient for gradient in gradients if gradient is not None]
        largest = torch.stack(torch._foreach_norm(there)).max() if there else loss.new_zeros(())
        if self._defers_guard:
            self._not_finite.logical_or_(~(loss.isfinite() & (largest < self._limit_on_gpu)))
        elif not loss.isfinite():
            self._guard.put_up("loss", None)
            return report
        elif not largest.isfinite() and not all(bool(gradient.isfinite().all()) for gradient in there):
            self._guard.put_up("gradient", None)
            return report
        try:
            for parameter, gradient in zip(self._trained, gradients, strict=True):
                parameter.grad = gradient
            self._move(self._defers_guard or float(largest) < self._limit)
        finally:
            for parameter in self._trained:
                parameter.grad = None
        return report

    def _gradients(self, loss: Tensor) -> tuple[Tensor | None, ...]:
        """The derivatives of the loss in the parameters; None for one that has no effect on it."""
        try:
            return torch.autograd.grad(loss, self._trained, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"model must be differentiable, but its backward pass fails: {_check.first_sentence(error)}."
            ) from error

    def _undoable(self) -> Sequence[Undoable]:
        return [self._buffers] if self._buffers else []

    @abc.abstractmethod
    def _largest_gradient(self, rate: float) -> float:
        """A norm; gradients below it surely leave all weights and moments finite, at this learning rate.

        Of the gradients of a float32 network only those above 1e18 or so are not below it. Then a step on a CPU is
        taken with care; on a GPU, which is not waited for, the optimiser is told to skip it.
        """

    @property
    def _longest_step(self) -> float:
        """A step by which no finite weight overflows, not even the largest, from which the next is farther away."""
        numbers = torch.finfo(self.dtype)
        return numbers.max * numbers.eps / 10

    def _move(self, surely_finite: bool) -> None:
        """Let the optimiser move the weights; it is undone if it fails, or makes a number that is not finite."""
        parts: list[Undoable] = [self._weights, self._moments]
        if surely_finite:  # the optimiser moves the weights last, and all at once
            parts = [] if self._defers_guard else [self._counts]
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
    """What an optimiser of torch keeps for each parameter, made in the first step, as a part that can be restored.

    Args:
        optimizer: the optimiser.
        only: the names of what is restored, apart from what did not exist before; None for everything.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, only: str | None = None) -> None:
        self._optimizer, self._only = optimizer, only

    @property
    def tensors(self) -> list[Tensor]:
        states = self._optimizer.state.values()
        if self._only is not None:
            return [state[self._only] for state in states if self._only in state]
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]

    def remember(self) -> tuple[dict[Tensor, None], Sequence[Tensor]]:
        tensors = self.tensors
        return dict.fromkeys(self._optimizer.state), torch._foreach_add(tensors, 0) if tensors else []

    def recall(self, kept: tuple[dict[Tensor, None], Sequence[Tensor]]) -> None:
        parameters, copies = kept
        states = self._optimizer.state
        for parameter in [parameter for parameter in states if parameter not in parameters]:
            del states[parameter]
        for tensor, before in zip(self.tensors, copies, strict=True):
            tensor.copy_(before)


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
