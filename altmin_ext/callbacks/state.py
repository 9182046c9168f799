"""The state of a training run that its callbacks are passed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
    - ``on_end``: after the last epoch, unless the run ended with an exception;
    - ``on_close``, with a second argument: the last call of every run that has begun, however it ends, once the
      checkpoint is written. The argument is the exception that ends the run, which may be that of a callback or
      KeyboardInterrupt; None if there is none.

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
        metrics: the numbers that each epoch records: those of "loss", "accuracy", "validation_loss" and
            "validation_accuracy" that apply, and ``"validation_"`` with the name of each of the run's ``metrics``. If
            the data are a stream, an accuracy may still turn out to be None.
        arguments: of :func:`altmin_ext.train`, those about the order of the data and the schedule.
        stopped: whether :meth:`stop` has been called.
    """

    method: Method
    history: History
    epochs: int
    metrics: tuple[str, ...]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    report: StepReport | None = None
    resumed: bool = False
    stopped: bool = dataclasses.field(default=False, init=False)

    @property
    def model(self) -> nn.Module:
        """The model being trained."""
        return self.method.model

    @property
    def settings(self) -> dict[str, Any]:
        """What describes the run, which is method, loss, all options, epochs, and ``arguments``.

        Values other than None, bool, int, float and str are given as text.
        """
        method = self.method
        options = {
            field.name: getattr(method.options, field.name) for field in dataclasses.fields(method.options)
        }
        values = {
            "method": method.name,
            "loss": method.loss.name,
            "epochs": self.epochs,
            **self.arguments,
            **options,
        }
        plain = (type(None), bool, int, float, str)
        return {name: own if type(own) in plain else _check.shown(own) for name, own in values.items()}

    def stop(self) -> None:
        """End the run: after this step if called from ``on_step`` (the epoch so far is recorded and
        validated), after this epoch if called from ``on_epoch``."""
        self.stopped = True
