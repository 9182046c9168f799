"""The baselines: backpropagation by autograd with SGD or Adam, behind the API of all methods.

Backpropagation is that of Rumelhart, Hinton & Williams 1986. The whole network is one stage, whose objective is the
loss.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._guard import Guard, Subject
from altmin_ext._state import Part, Same, Sizes, as_list, at_least_zero, check_keys, read_tensor
from altmin_ext._undo import Undoable
from altmin_ext.methods._options import GradientOptions, number, option
from altmin_ext.methods.base import Method, StepReport


class _Backprop(Method):
    optimizer: torch.optim.Optimizer

    Options = GradientOptions
    options: GradientOptions
    captures = True

    def _flags(self) -> Sequence[Subject]:
        return [("loss", None), ("gradient", None)]

    def _allocate(self) -> None:
        self._trained = [parameter for _, parameter in self._parameters if parameter.requires_grad]
        self.optimizer = self._make_optimizer(self._trained)
        self._defers_guard = self.device.type == "cuda"
        # torch's optimisers take a 0-d flag in float32.
        self._guard = Guard(self._flags(), self.device, torch.float32)
        self._not_finite = self._guard.flag("gradient", None)[0]
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
        for group in self.optimizer.param_groups:
            rate = self.options.lr * self.learning_rate_factor
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
        gradients = self._gradients(loss)
        loss = loss.detach()
        report = StepReport(
            loss, correct, loss.double().reshape(1) if self.options.report_objective else None
        )
        if not self._are_finite(loss, gradients):
            return report
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
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

    def _are_finite(self, loss: Tensor, gradients: tuple[Tensor | None, ...]) -> bool:
        """Raise the guard's flags; returns whether to step: on a GPU always, since the optimiser reads the flag."""
        total = loss + sum(g.sum() for g in gradients if g is not None)
        if self._defers_guard:
            self._not_finite.logical_or_(~torch.isfinite(total))
            return True
        if torch.isfinite(total):
            return True
        self._guard.put_up("gradient" if torch.isfinite(loss) else "loss", None)
        return False

    def _state(self) -> dict[str, Part]:
        return {**super()._state(), "optimizer": _OptimizerState(self.optimizer, self._trained)}

    def _forget_derived(self) -> None:
        super()._forget_derived()
        self._prepare_for_gpu()


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
        self._optimizer.load_state_dict(copy.deepcopy(value))  # torch would keep the tensors themselves

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

    def _make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        o = self.options
        return torch.optim.SGD(
            parameters, lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay, fused=True
        )


class BackpropAdam(_Backprop):
    """Backpropagation with AdamW, a baseline: Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name = "adam"

    def _make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        o = self.options
        return torch.optim.AdamW(parameters, lr=o.lr, weight_decay=o.weight_decay, fused=True)
