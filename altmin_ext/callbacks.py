"""Callbacks of a training run: the state that they are passed, and early stopping.

A callback is any object with one or more of the methods ``on_start``, ``on_step``, ``on_epoch`` and ``on_end``::

    class PrintLoss:
        def on_epoch(self, state):
            print(state.epoch, state.history.epochs[-1]["loss"])

    altmin_ext.train(model, data, callbacks=[PrintLoss(), EarlyStopping(monitor="loss")])
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from altmin_ext import _check
from altmin_ext.history import History
from altmin_ext.methods import Method, StepReport


@dataclasses.dataclass
class TrainingState:
    """The state of a training run, the argument of its callbacks.

    A callback is any object with one or more of these methods:

    - ``on_start``: before training, once everything has been checked;
    - ``on_step``: after each minibatch; ``report`` is new. Reading a number from it waits for the GPU;
    - ``on_epoch``: after each epoch and its validation; ``history.epochs[-1]`` is new;
    - ``on_end``: after the last epoch, unless the run ended with an exception.

    What a callback with the methods ``state_dict()`` and ``load_state_dict(state)`` keeps is a part of checkpoints. A
    run that goes on from one calls ``on_start`` again, and then ``load_state_dict``.

    Attributes:
        method: the method that trains.
        history: the record so far.
        epoch: number of the current epoch, from 1; 0 before the first.
        epochs: the largest number of epochs of the run.
        step: number of minibatches trained on in this run so far.
        report: the report of the last step; None before the first, also of a run that goes on from a checkpoint.
        resumed: whether the run goes on from a checkpoint.
        metrics: those of "loss", "accuracy", "validation_loss" and "validation_accuracy" that each epoch records. If
            the data are a stream, an accuracy may still turn out to be None.
        stopped: whether :meth:`stop` has been called.
    """

    method: Method
    history: History
    epochs: int
    metrics: tuple[str, ...]
    epoch: int = 0
    step: int = 0
    report: StepReport | None = None
    resumed: bool = False
    stopped: bool = dataclasses.field(default=False, init=False)

    @property
    def model(self) -> nn.Module:
        """The model being trained."""
        return self.method.model

    def stop(self) -> None:
        """End the run: after this step if called from ``on_step`` (the epoch so far is recorded and
        validated), after this epoch if called from ``on_epoch``."""
        self.stopped = True


class EarlyStopping:
    """Ends a run when the monitored number stops improving, and restores the best weights.

    Args:
        monitor: the number of the history to monitor: "validation_accuracy" (the default), "validation_loss",
            "accuracy" or "loss". An accuracy should rise, a loss should fall.
        patience: the run ends after this many epochs in a row without an improvement; 5 by default.
        minimum_improvement: an improvement must exceed the best value by more than this; 0 by default.
        restore_best: whether to put back, at the end, the weights and buffers that the model had after the best
            epoch. A copy of them is kept on the model's device. If an exception ends the run, the model stays as it
            is.

    Attributes:
        best: the best value so far; None before the first epoch.
        best_epoch: the epoch in which it was reached, from 1; 0 before the first.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """

    def __init__(
        self,
        monitor: str = "validation_accuracy",
        patience: int = 5,
        minimum_improvement: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        monitors = ("loss", "accuracy", "validation_loss", "validation_accuracy")
        self.monitor = _check.known("monitor", monitor, monitors)
        self.patience = _check.integer("patience", patience)
        self.minimum_improvement = _check.number("minimum_improvement", minimum_improvement, 0.0)
        self.restore_best = _check.boolean("restore_best", restore_best)
        self._forget()

    def _forget(self) -> None:
        self.best: float | None = None
        self.best_epoch = 0
        self._best_weights: dict[str, Any] | None = None

    def on_start(self, state: TrainingState) -> None:
        """Forget an earlier run; raise a ValueError if the run of ``state`` will not record ``monitor``."""
        self._check_monitor(state.metrics)
        self._forget()

    def _check_monitor(self, metrics: Sequence[str]) -> None:
        if self.monitor not in metrics:
            remedy = "pass validation or validation_fraction, or " if "validation" in self.monitor else ""
            raise ValueError(
                f"monitor must be one of {', '.join(metrics)} in this run, but is {self.monitor!r}: "
                f"{remedy}monitor another one."
            )

    def on_epoch(self, state: TrainingState) -> None:
        """Compare the newest epoch of ``state`` with the best one, and stop the run if patience is exhausted."""
        row = state.history.epochs[-1]
        self._check_monitor([name for name in state.metrics if row[name] is not None])
        value = row[self.monitor]
        if self._improves(value):
            self.best, self.best_epoch = value, state.epoch
            if self.restore_best:
                self._best_weights = copy.deepcopy(state.model.state_dict())
        elif state.epoch - self.best_epoch >= self.patience:
            state.stop()

    def _improves(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        gain = value - self.best if self.monitor.endswith("accuracy") else self.best - value
        return gain > self.minimum_improvement

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns:
            The best value, its epoch, and the weights and buffers of that epoch.
        """
        weights = None if self._best_weights is None else dict(self._best_weights)
        return {"best": self.best, "best_epoch": self.best_epoch, "best_weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Args:
            state: the result of :meth:`state_dict`.
        """
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self._best_weights = state["best_weights"]

    def on_end(self, state: TrainingState) -> None:
        """Restore the best weights to the model of ``state``, if ``restore_best``."""
        if self._best_weights is not None:
            state.model.load_state_dict(self._best_weights)
            self._best_weights = None


__all__ = ["EarlyStopping", "TrainingState"]
