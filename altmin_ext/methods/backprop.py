"""The baselines: backpropagation by autograd with SGD or Adam, behind the API of all methods.

Backpropagation is that of Rumelhart, Hinton & Williams 1986. The whole network is one stage, whose objective is the
loss.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._guard import Guard, Subject
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
            if group.get("momentum"):
                # torch would make the buffers without content, to be filled by the first step, which may be skipped.
                for parameter in group["params"]:
                    state = self.optimizer.state[parameter]
                    state.setdefault("momentum_buffer", torch.zeros_like(parameter))

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
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise ValueError(f"x of shape {tuple(x.shape)} does not fit the model: {error}.") from error
            logits = _check.logits(logits)
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

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": copy.deepcopy(self.optimizer.state_dict())}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        super()._check_state(state)
        # torch compares only the number of parameters, and its fused kernels would write beyond smaller moments.
        kept = state["optimizer"]
        counts = [len(group["params"]) for group in kept["param_groups"]]
        if counts != [len(self._trained)]:
            raise ValueError(
                f"state's optimizer must be of {len(self._trained)} parameters in one group, but is of {counts}."
            )
        for i, parameter in enumerate(self._trained):
            for name, value in kept["state"].get(i, {}).items():
                if name != "step" and isinstance(value, Tensor) and value.shape != parameter.shape:
                    raise ValueError(
                        f"state's {name} of parameter {i} must have the shape {tuple(parameter.shape)}, but has "
                        f"{tuple(value.shape)}."
                    )

    def _load_state(self, state: Mapping[str, Any]) -> None:
        super()._load_state(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self._prepare_for_gpu()


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
