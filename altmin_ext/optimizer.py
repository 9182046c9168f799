"""A method as a torch optimizer, for learning-rate schedulers, trainers and checkpoints."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from altmin_ext import _check, _state
from altmin_ext.methods import Method, StepReport

__all__ = ["MethodOptimizer", "as_optimizer"]


class MethodOptimizer(torch.optim.Optimizer):
    """A method that torch's schedulers, Lightning, skorch and accelerate handle like Adam. See :func:`as_optimizer`.

    There is one group of parameters, those of the model that require a gradient. Its ``lr`` stands for the method's
    option ``lr``, or ``relaxation`` where there is none, and is that times the ``learning_rate_factor`` of the
    method at first. A step trains at the ``lr`` in the group, and moves every other learning rate of the method,
    such as ``lr_out``, in proportion. The lr of a method without any, such as ``rls``, is 1.0 and must stay so.

    ``defaults`` names no momentum: a method's moments cannot be scheduled, and ``OneCycleLR`` and ``CyclicLR`` refuse
    to with ``cycle_momentum=True``. ``state`` is empty: the method holds its own. Gradients in ``.grad`` are neither
    read nor needed. ``zero_grad()`` and ``clip_grad_norm_`` do no harm.

    Copied and pickled, it takes the method and its model along. ``copy.copy`` shares the method and the group.

    Args:
        method: that takes the steps.

    Attributes:
        method: the method.
        report: the :class:`StepReport` of the last step; None before the first, and of a copy.
    """

    report: StepReport | None = None

    def __init__(self, method: Method) -> None:
        self.method = method
        trained = [parameter for parameter in method.model.parameters() if parameter.requires_grad]
        super().__init__(trained, {"lr": self._option[1] * method.learning_rate_factor})

    @functools.cached_property
    def _option(self) -> tuple[str | None, float]:
        """The option that ``lr`` stands for: its name, None if there is none, and its value."""
        options = self.method.options
        named = {field.name for field in dataclasses.fields(options)}
        name = next((name for name in ("lr", "relaxation") if name in named), None)
        return name, 1.0 if name is None else float(getattr(options, name))

    def step(self, closure: Callable[[], Sequence[Tensor]] | None = None) -> StepReport:  # type: ignore[override]
        """Train on one minibatch.

        Args:
            closure: returns the minibatch, (x, y) as for :meth:`Method.step`, as a tuple or list; with the numbers
                of the samples, (x, y, index), for a method with ``per_sample``. It is called once. A closure is what
                all wrappers of optimizers pass on to a step; None, which they may leave it at, is refused.

        Returns:
            The :class:`StepReport` of the minibatch. A wrapper that drops it, as accelerate's does, leaves it in
            ``report``.

        Raises:
            TypeError, ValueError: the closure returns no minibatch, or one that does not fit the model; or ``lr`` is
                no rate that the method can have. Nothing has changed.
            DivergenceError: as for :meth:`Method.step`.
        """
        factor = self._factor()
        if not callable(closure):
            raise TypeError(
                f"closure must be a function that returns the minibatch, but is {_check.shown(closure)}; call "
                "step(lambda: (x, y))."
            )
        minibatch, method = self._checked(closure()), self.method
        before, method.learning_rate_factor = method.learning_rate_factor, factor
        try:
            self.report = method.step(*minibatch)
        except BaseException:
            method.learning_rate_factor = before
            raise
        return self.report

    def _factor(self) -> float:
        """The method's learning rate factor at the group's ``lr``."""
        (name, option), factor = self._option, self.method.learning_rate_factor
        lr = _check.number("lr", self.param_groups[0].get("lr"), minimum=0.0)
        if lr == option * factor:
            return factor
        if name is None:
            raise ValueError(
                f"lr must stay {option * factor!r} with {self.method.name}, which has no learning rate, but is "
                f"{lr!r}; remove the scheduler."
            )
        if option == 0:
            raise ValueError(
                f"lr must stay 0 where the method's {name} is 0, of which it is a multiple, but is {lr!r}; make the "
                f"method with the {name} to begin with."
            )
        return _check.number(f"lr / {name}", lr / option)

    def _checked(self, minibatch: Any) -> Sequence[Tensor]:
        wanted = ("x", "y", "index") if self.method.per_sample else ("x", "y")
        if isinstance(minibatch, (tuple, list)) and len(minibatch) == len(wanted):
            return minibatch
        found, hint = _check.named_type(minibatch), f"call step(lambda: ({', '.join(wanted)}))"
        if isinstance(minibatch, (tuple, list)):
            found += f" of {len(minibatch)}"
        elif isinstance(minibatch, Tensor):
            hint += ", since a step needs no loss and no gradients; in Lightning set automatic_optimization = False"
        raise TypeError(
            f"closure must return the minibatch, ({', '.join(wanted)}), but returns {found}; {hint}."
        )

    def state_dict(self) -> dict[str, Any]:
        """The state of the method and of the group, in torch's form.

        Returns:
            ``{"state": {"method": method.state_dict()}, "param_groups": [...]}``, where ``param_groups`` holds ``lr``
            and what schedulers keep there. ``torch.load(..., weights_only=True)`` reads it back. The weights are in
            the model's own ``state_dict()``.
        """
        self.state["method"] = self.method.state_dict()  # type: ignore[index]
        try:
            return super().state_dict()
        finally:
            del self.state["method"]  # type: ignore[arg-type]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore an earlier state of the method and of the group.

        Load the model's weights beside it. As with every torch optimizer, make a scheduler before: it sets ``lr``.

        Args:
            state_dict: the result of :meth:`state_dict`, of the same method for a model of the same architecture.

        Raises:
            TypeError, ValueError: it is none, see :meth:`Method.load_state_dict`; nothing has changed.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict, but is {_check.named_type(state_dict)}.")
        loaded = dict(state_dict)
        for prepare in self._optimizer_load_state_dict_pre_hooks.values():
            loaded = prepare(self, loaded) or loaded
        _state.check_keys("state_dict", loaded, ("state", "param_groups"))
        (group,) = self.param_groups
        (saved,) = _state.as_list("state_dict's param_groups", loaded["param_groups"], 1)
        if not isinstance(saved, Mapping):
            raise TypeError(
                f"state_dict's param_groups[0] must be a dict, but is {_check.named_type(saved)}."
            )
        _state.as_list("state_dict's param_groups[0].params", saved.get("params"), len(group["params"]))
        lr = _check.number("state_dict's param_groups[0].lr", saved.get("lr"), minimum=0.0)
        _state.check_keys("state_dict's state", loaded["state"], ("method",))
        changed = copy.deepcopy({**saved, "lr": lr, "params": None}) | {"params": group["params"]}
        self.method.load_state_dict(loaded["state"]["method"])
        group.clear()
        group.update(changed)
        for finish in self._optimizer_load_state_dict_post_hooks.values():
            finish(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse a second group: which parameters a method trains is settled when it is made.

        Args:
            param_group: of parameters.

        Raises:
            ValueError: always, after the first group, which is made with the optimizer.
        """
        if getattr(self, "param_groups", None):
            raise ValueError(
                f"param_groups must stay the one of the parameters that {self.method.name} trains; make a new method "
                "for a model with further ones."
            )
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "method": self.method}


def as_optimizer(method: Method) -> MethodOptimizer:
    """Let a method take the place of a torch optimizer.

    Learning-rate schedulers set its ``lr``, trainers count its steps, and checkpoints hold its whole state. In place
    of gradients a step needs the minibatch, which the closure returns::

        optimizer = altmin_ext.as_optimizer(altmin_ext.make_method("am-adam", model, lr=1e-3))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=100, gamma=0.5)
        for x, y in loader:
            report = optimizer.step(lambda: (x, y))
            scheduler.step()

    docs/optimizer.md shows it in Lightning, skorch and accelerate.

    Args:
        method: made for a model that is on its device already, or with ``device``.

    Returns:
        The :class:`MethodOptimizer` of the method.

    Raises:
        TypeError: it is no method.
        ValueError: several processes train together: they average gradients, of which a step has none.

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import models
        >>> optimizer = altmin_ext.as_optimizer(altmin_ext.make_method("am-adam", models.mlp(4, [16], 2), lr=0.01))
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        >>> report = optimizer.step(lambda: (torch.randn(30, 4), torch.arange(30) % 2))
        >>> scheduler.step()
        >>> optimizer.param_groups[0]["lr"]
        0.005
    """
    if not isinstance(method, Method):
        raise TypeError(
            f"method must be a Method, such as altmin_ext.make_method returns, but is {_check.shown(method)}."
        )
    processes = torch.distributed.get_world_size() if _in_process_group() else 1
    if processes > 1:
        raise ValueError(
            f"as_optimizer must be called in a single process, but {processes} train together: they would average "
            "gradients, of which a step has none, and every one would train a model of its own; use one device."
        )
    return MethodOptimizer(method)


def _in_process_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
