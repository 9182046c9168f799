"""What every training method is: a model, options, and a step on one minibatch."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._graph import CapturedSteps
from altmin_ext.losses import Loss, make_loss
from altmin_ext.methods._options import MethodOptions
from altmin_ext.nn.factors import NonNegativeFactors


@dataclasses.dataclass(frozen=True, slots=True)
class StepReport:
    """What one step saw. All tensors lie on the model's device; nothing has been synchronised.

    Attributes:
        loss: 0-d, mean loss over the minibatch at the logits of the encode (before any update).
        correct: 0-d integer, how many samples of the minibatch were classified correctly; None for mse.
        objective: (stages,), for every stage (1/B) sum over the minibatch of its local term after the code
            update and before the weight update; None unless ``report_objective=True``. Methods whose objective
            is one for codes and weights say when they take it.
    """

    loss: Tensor
    correct: Tensor | None
    objective: Tensor | None = None


class Method(abc.ABC):
    """A training method bound to a model.

    Use :func:`altmin_ext.make_method` to make one. The model is trained in place: its ``state_dict()`` is an
    ordinary torch one at any time between two steps.

    Attributes:
        name: the method's name, as in :func:`altmin_ext.methods.names`.
        model: the module being trained.
        options: the method's options, a frozen dataclass with every value in effect.
        steps: how many minibatches have been trained on.
        learning_rate_factor: multiplies every learning rate; :func:`altmin_ext.train` sets it from its
            ``lr_schedule`` at the start of each epoch. 1.0 unless set.
    """

    name: ClassVar[str]
    full_batch: ClassVar[bool] = False  # whether a step takes the whole training set
    tells_samples_apart = False  # whether a step wants their numbers, too: step(x, y, index)
    objective_rose: bool | None = None  # whether an objective that cannot rise ever did; None where it can
    factorises: ClassVar[bool] = (
        False  # whether it trains NonNegativeFactors, and on samples without a label, -1
    )
    Options: ClassVar[type[MethodOptions]] = MethodOptions

    def __init__(
        self,
        model: nn.Module,
        options: MethodOptions,
        *,
        loss: str = "cross_entropy",
        seed: int = 0,
        device: torch.device | str | None = None,
        on_nonfinite: str = "raise",
        graph: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, but is {_check.named_type(model)}.")
        on_nonfinite = _check.choice("on_nonfinite", on_nonfinite, ("raise", "skip"))
        seed = _check.seed("seed", seed)
        device = _check.named_device("device", device)
        graph = _check.boolean("graph", graph)
        parameters = list(model.parameters())
        if not parameters:
            raise ValueError(f"model has no parameters to train: {type(model).__name__} holds no Linear.")
        dtypes = {p.dtype for p in parameters}
        if len(dtypes) > 1 or parameters[0].dtype not in (torch.float32, torch.float64):
            found = ", ".join(sorted(str(d) for d in dtypes))
            raise TypeError(
                f"model must be float32 or float64 throughout, but its parameters are {found}; "
                "call model.float() or model.double()."
            )
        if graph:
            place = parameters[0].device if device is None else device
            reason = self._why_not_captured(model, options)
            if place.type != "cuda":
                reason = f"a CUDA graph needs a GPU, and the model trains on {place}"
            if reason is not None:
                raise ValueError(f"graph must be False here: {reason}.")
        _check.device("device", device)
        if not self.factorises:
            _check_no_factors(self.name, model)
        self.loss: Loss = make_loss(loss, partial=self.factorises)
        if device is not None:
            model.to(device)
        self.model = model
        self.options = options
        self.seed = seed
        self.on_nonfinite = on_nonfinite
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = parameters[0].dtype
        # To walk through the modules would take a notable part of a small step.
        self._parameters = list(model.named_parameters())
        self._trainable = [parameter.requires_grad for _, parameter in self._parameters]
        self.steps = 0
        self.learning_rate_factor = 1.0
        # To read a flag is to wait for the GPU: methods that need not do so look for divergence only now and then.
        self._looks_later = False
        self._looked_after = 0  # how many steps
        self._graph = graph
        self._captured = self._new_captures()

    def step(self, x: Tensor, y: Tensor) -> StepReport:
        """Train on one minibatch.

        Args:
            x: (B, ...), inputs in the model's dtype, on its device.
            y: (B,) integer class indices, or (B, C) floats for ``loss="mse"``.

        Returns:
            The :class:`StepReport` of the minibatch, seen with the weights before this step.

        Raises:
            TypeError, ValueError: the minibatch does not fit the model, or the model is not as it was when the method
                was made, see :meth:`check_model`; the model is unchanged.
            DivergenceError: a code or a weight is not finite (with ``on_nonfinite="raise"``); the model keeps
                the last finite weights. On a GPU, where to look would mean to wait, that is found out by
                :meth:`raise_if_diverged`; the weights stand still until then.
        """
        y = self.check_batch(x, y)
        if not self.model.training:
            self.model.train()
        with torch.no_grad():
            report = self._step(x.detach() if x.requires_grad else x, y)
        self.steps += 1
        return report

    def _step(self, x: Tensor, y: Tensor) -> StepReport:
        """The method's own minibatch step; called without autograd, on a checked minibatch."""
        if self._captured is not None:
            report: StepReport = self._captured(x, y)
        else:
            report = self._compute(*self._prepare(x, y))
        self._finish()
        return report

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What comes before a step's arithmetic: checks, buffers, scalars; returns the minibatch to use."""
        return x, y

    @abc.abstractmethod
    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        """The step's arithmetic: all that is captured where steps are CUDA graphs."""

    def _finish(self) -> None:  # noqa: B027  (most methods keep no books)
        """What comes after it on the host, such as raising a penalty."""

    def _new_captures(self) -> CapturedSteps | None:
        return CapturedSteps(self, self._captured_memory, self.device) if self._graph else None

    @classmethod
    def _why_not_captured(cls, model: nn.Module, options: Any) -> str | None:
        """Why the steps cannot be CUDA graphs, as the end of a sentence; None if they can."""
        return None

    def _captured_memory(self) -> Any:
        """What a captured step uses and the method might replace later."""
        return None

    def raise_if_diverged(self) -> None:
        """Raise a DivergenceError if a step since the last call was not finite and had to be left out.

        Does something only on a GPU, which it waits for. :func:`altmin_ext.train` calls it at the end of an epoch
        and every thousand steps.
        """
        try:
            if self._looks_later and self.on_nonfinite == "raise":
                self._look()
        finally:
            self._looked_after = self.steps

    def _look(self) -> None:  # noqa: B027  (only methods that look later have something to see)
        """Raise a DivergenceError if a flag is up, and lower it."""

    def _when(self) -> str:
        """Which step an error that was found just now is about."""
        if self._looks_later:
            return f"at one of the steps {self._looked_after + 1} to {self.steps}"
        return f"at step {self.steps + 1}"

    def check_model(self) -> None:
        """Raise a ValueError if a parameter has been frozen or unfrozen, or the model moved or its dtype changed.

        What a method keeps of the weights, such as moments and buffers for gradients, it makes once.
        """
        (_, first), trainable = self._parameters[0], [p.requires_grad for _, p in self._parameters]
        if first.dtype != self.dtype or first.device != self.device:
            change = f"is {first.dtype} on {first.device} now, and was {self.dtype} on {self.device}"
        elif trainable != self._trainable:
            change = next(
                f"{name!r} has been {'frozen' if before else 'unfrozen'} since"
                for (name, parameter), before in zip(self._parameters, self._trainable, strict=True)
                if parameter.requires_grad != before
            )
        else:
            return
        raise ValueError(
            f"model must be as it was when the method was made, but {change}: make a new method for the model as it "
            "is now."
        )

    def check_batch(self, x: Tensor, y: Tensor) -> Tensor:
        """Raise unless ``(x, y)`` is a minibatch this method can train on; return y in its working dtype.

        Values are left to the kernels and the divergence guard, which see them anyway.
        """
        self.check_model()
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch.Tensor, but is {_check.named_type(x)}.")
        if not isinstance(y, Tensor):
            raise TypeError(f"y must be a torch.Tensor, but is {_check.named_type(y)}.")
        if x.dtype != self.dtype:
            raise TypeError(f"x must be {self.dtype} like the model, but is {x.dtype}.")
        for name, tensor in (("x", x), ("y", y)):
            if tensor.device != self.device:
                raise ValueError(
                    f"{name} must be on {self.device} like the model, but is on {tensor.device}."
                )
        if x.ndim < 2:
            raise ValueError(
                f"x must be (B, ...) with at least two dimensions, but has shape {tuple(x.shape)}."
            )
        if x.shape[0] == 0:
            raise ValueError("x must hold at least one sample, but is empty.")
        if y.ndim == 0 or y.shape[0] != x.shape[0]:
            raise ValueError(
                f"y must have one entry for each of the {len(x)} samples of x, but has shape {tuple(y.shape)}."
            )
        return self.loss.check_targets(y, self.dtype)

    def begin_epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:  # noqa: B027  (most do nothing)
        """Do what the method does with the data before an epoch's steps.

        Args:
            batches: the minibatches (x, y) of one pass.
        """

    def end_epoch(self) -> None:  # noqa: B027  (a method without an epoch schedule has nothing to do)
        """Apply what the method does between epochs, such as raising the penalty."""

    def state_dict(self) -> dict[str, Any]:
        """The method's own state (optimiser moments, penalty, step count), without the model's weights."""
        return {"method": self.name, "steps": self.steps, "learning_rate_factor": self.learning_rate_factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            TypeError, ValueError: the state is of another method, is not whole, or its shapes do not fit; nothing has
                been changed.
        """
        _check_holds("state", state, ["method"])
        if state["method"] != self.name:
            raise ValueError(f"state must be of method {self.name!r}, but is of {state['method']!r}.")
        own = self.state_dict()
        _check_holds("state", state, own)
        for key, part in own.items():
            if isinstance(part, dict):
                _check_holds(f"state's {key}", state[key], part)
        self._check_state(state)
        self._captured = self._new_captures()  # whose graphs know what they move by its place in memory
        self._load_state(state)

    def _check_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027  (the base's numbers fit every model)
        """Raise a ValueError unless the state's tensors fit the model; its keys have been checked."""

    def _load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state that has been checked."""
        self.steps = int(state["steps"])
        self.learning_rate_factor = float(state["learning_rate_factor"])


def _check_holds(what: str, found: Any, keys: Iterable[str]) -> None:
    """Raise unless what was found is a mapping with all of the keys."""
    if not isinstance(found, Mapping):
        raise TypeError(f"{what} must be a dict, but is {_check.named_type(found)}.")
    missing = [key for key in keys if key not in found]
    if missing:
        raise ValueError(f"{what} must hold {', '.join(keys)}, but lacks {', '.join(missing)}.")


def _check_no_factors(name: str, model: nn.Module) -> None:
    """Raise a ValueError if the model holds a layer that hands no derivative down."""
    for path, module in model.named_modules():
        if isinstance(module, NonNegativeFactors):
            raise ValueError(
                f"model must hold no NonNegativeFactors for {name}, since that layer has no derivative, but {path!r} "
                "is one; use method='deepfacto'."
            )
