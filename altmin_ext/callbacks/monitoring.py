"""Callbacks that follow a number of the history: early stopping, and the best model in a file."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from altmin_ext import _check, checkpoint
from altmin_ext._files import Replacement
from altmin_ext.callbacks.state import TrainingState

# Which way is better, of the numbers that a run may record without metrics.
_modes = {"loss": "min", "accuracy": "max", "validation_loss": "min", "validation_accuracy": "max"}


class Monitor:
    """A number of the history, and its best value so far; a base of callbacks.

    Args:
        monitor: the number's name.
        mode: "max" if it should rise, "min" if it should fall; None where the name tells.
        minimum_improvement: an improvement must exceed the best value by more than this.

    Attributes:
        monitor: the number's name.
        mode: "max" or "min".
        best: the best value so far; None before the first epoch.
        best_epoch: the epoch in which it was reached, from 1; 0 before the first.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """

    def __init__(self, monitor: str, mode: str | None, minimum_improvement: float) -> None:
        if mode is None:
            if isinstance(monitor, str) and monitor.startswith("validation_") and monitor not in _modes:
                raise ValueError(
                    f"mode must be 'max' or 'min' where a metric of your own is monitored, {monitor!r}, but is None: "
                    "pass 'max' if it should rise."
                )
            mode = _modes[_check.known("monitor", monitor, _modes)]
        elif not isinstance(monitor, str):
            raise TypeError(f"monitor must be a string, but is {_check.shown(monitor)}.")
        self.monitor = monitor
        self.mode = _check.choice("mode", mode, ("max", "min"))
        self.minimum_improvement = _check.number("minimum_improvement", minimum_improvement, 0.0)
        self._forget()

    def _forget(self) -> None:
        self.best: float | None = None
        self.best_epoch = 0

    def on_start(self, state: TrainingState) -> None:
        """Forget an earlier run; raise a ValueError if the run of ``state`` will not record ``monitor``."""
        self._check(state.metrics)
        self._forget()

    def _check(self, recorded: Sequence[str]) -> None:
        if self.monitor not in recorded:
            remedy = "pass validation or validation_fraction, or " if "validation" in self.monitor else ""
            raise ValueError(
                f"monitor must be one of {', '.join(recorded)} in this run, but is {self.monitor!r}: "
                f"{remedy}monitor another one."
            )

    def value(self, state: TrainingState) -> float:
        """Find the number of the newest epoch.

        Args:
            state: of the run.

        Returns:
            The number, which may be NaN.

        Raises:
            ValueError: the epoch has none, as an accuracy of data that are not classified.
        """
        row = state.history.epochs[-1]
        self._check([name for name in state.metrics if row[name] is not None])
        return float(row[self.monitor])

    def _is_best(self, state: TrainingState) -> bool:
        """Whether the newest epoch is the best so far; keeps its number if so."""
        value = self.value(state)
        if not self._improves(value):
            return False
        self.best, self.best_epoch = value, state.epoch
        return True

    def _improves(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        gain = value - self.best if self.mode == "max" else self.best - value
        return gain > self.minimum_improvement

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of the run keeps.

        Returns:
            The best value and its epoch.
        """
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of the run.

        Args:
            state: the result of :meth:`state_dict`.
        """
        self.best, self.best_epoch = state["best"], state["best_epoch"]


class EarlyStopping(Monitor):
    """Ends a run when the monitored number stops improving, and restores the best weights.

    Args:
        monitor: the number of the history to monitor: "validation_accuracy" (the default), "validation_loss",
            "accuracy" or "loss"; or ``"validation_"`` with the name of one of the run's ``metrics``.
        patience: the run ends after this many epochs in a row without an improvement; 5 by default.
        minimum_improvement: an improvement must exceed the best value by more than this; 0 by default. NaN is no
            improvement.
        restore_best: whether to put back, at the end, the weights and buffers that the model had after the best
            epoch. A copy of them is kept on the model's device. If an exception ends the run, the model stays as it
            is.
        mode: "max" if the number should rise, "min" if it should fall. None, the default, for accuracies, which
            should rise, and losses, which should fall; a metric needs one.

    Attributes:
        best: the best value so far; None before the first epoch.
        best_epoch: the epoch in which it was reached, from 1; 0 before the first.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import models
        >>> x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
        >>> stopping = altmin_ext.EarlyStopping(patience=2)
        >>> history = altmin_ext.train(
        ...     models.mlp(4, [16], 2),
        ...     (x, (x[:, 0] > 0).long()),
        ...     epochs=200,
        ...     validation_fraction=0.2,
        ...     callbacks=[stopping],
        ...     progress=False,
        ... )
        >>> len(history.epochs) == stopping.best_epoch + 2
        True
        >>> stopping.best == max(row["validation_accuracy"] for row in history.epochs)
        True
    """

    def __init__(
        self,
        monitor: str = "validation_accuracy",
        patience: int = 5,
        minimum_improvement: float = 0.0,
        restore_best: bool = True,
        mode: str | None = None,
    ) -> None:
        super().__init__(monitor, mode, minimum_improvement)
        self.patience = _check.integer("patience", patience)
        self.restore_best = _check.boolean("restore_best", restore_best)

    def _forget(self) -> None:
        super()._forget()
        self._best_weights: dict[str, Any] | None = None

    def on_epoch(self, state: TrainingState) -> None:
        """Compare the newest epoch of ``state`` with the best one, and stop the run if patience is exhausted."""
        if self._is_best(state):
            if self.restore_best:
                self._best_weights = copy.deepcopy(state.model.state_dict())
        elif state.epoch - self.best_epoch >= self.patience:
            state.stop()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns:
            The best value, its epoch, and the weights and buffers of that epoch.
        """
        weights = None if self._best_weights is None else dict(self._best_weights)
        return {**super().state_dict(), "best_weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Args:
            state: the result of :meth:`state_dict`.
        """
        super().load_state_dict(state)
        self._best_weights = state["best_weights"]

    def on_end(self, state: TrainingState) -> None:
        """Restore the best weights to the model of ``state``, if ``restore_best``."""
        if self._best_weights is not None:
            state.model.load_state_dict(self._best_weights)
            self._best_weights = None


class Checkpoint(Monitor):
    """Keeps the best model of a run, with its method and History, in a file of :func:`altmin_ext.checkpoint.save`.

    The file is written after every epoch that is the best so far, completely or not at all, and replaces that of
    another run. ``altmin_ext.checkpoint.load(path, model=model)`` puts the weights back. ``extra`` of the loaded
    checkpoint has the ``epoch``, and the number under its own name. For a run that another process can go on with,
    pass ``checkpoint=`` to :func:`altmin_ext.train`; both may be used together.

    Args:
        path: of the file; the usual suffix is ".safetensors".
        monitor: the number to monitor, as in :class:`EarlyStopping`; "validation_accuracy" by default.
        mode: "max" if it should rise, "min" if it should fall; None, the default, for accuracies and losses.
        keep: how many earlier best models stay beside this one, 0 by default, under the file's name with the
            minibatches until then.

    Attributes:
        best: the best value so far; None before the first epoch.
        best_epoch: the epoch in which it was reached, from 1; 0 before the first.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import models
        >>> x, y = torch.randn(300, 4), torch.arange(300) % 2
        >>> best = altmin_ext.Checkpoint("best.safetensors", "validation_loss")
        >>> history = altmin_ext.train(
        ...     models.mlp(4, [16], 2), (x, y), epochs=3, validation_fraction=0.2, callbacks=[best], progress=False
        ... )
        >>> kept = altmin_ext.checkpoint.load("best.safetensors")
        >>> kept.extra["validation_loss"] == best.best, kept.extra["epoch"] == best.best_epoch
        (True, True)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str = "validation_accuracy",
        mode: str | None = None,
        keep: int = 0,
    ) -> None:
        try:
            self.path = Path(os.fspath(path))
        except TypeError:
            raise TypeError(f"path must be the path of a file, but is {_check.named_type(path)}.") from None
        super().__init__(monitor, mode, 0.0)
        self.keep = _check.integer("keep", keep, 0)

    def on_start(self, state: TrainingState) -> None:
        """Forget an earlier run.

        Args:
            state: of the run.

        Raises:
            ValueError: the run will not record ``monitor``.
            OSError: no file can be written there.
        """
        super().on_start(state)
        with Replacement(rehearsal=True) as files:
            files.open(self.path)

    def on_epoch(self, state: TrainingState) -> None:
        """Write the file if the newest epoch is the best so far.

        Args:
            state: of the run.

        Raises:
            OSError: the file cannot be written; the one before is untouched.
        """
        before = self.state_dict()
        if not self._is_best(state):
            return
        try:
            found: dict[str, Any] = {"epoch": self.best_epoch, self.monitor: self.best}
            checkpoint.save(self.path, method=state.method, history=state.history, keep=self.keep, **found)
        except BaseException:
            self.load_state_dict(before)  # so that a resumed run writes it
            raise


__all__ = ["Checkpoint", "EarlyStopping", "Monitor"]
