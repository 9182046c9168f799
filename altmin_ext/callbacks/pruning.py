"""A callback that ends the unpromising trials of an Optuna study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from altmin_ext._extras import require
from altmin_ext.callbacks.monitoring import Monitor
from altmin_ext.callbacks.state import TrainingState

if TYPE_CHECKING:
    import optuna  # type: ignore[import-not-found, unused-ignore]


class OptunaPruning:
    """Reports a number to an Optuna trial after every epoch, and ends the run if the study's pruner says so.

    Args:
        trial: of a study whose direction suits the number.
        monitor: the number to report, as in :class:`EarlyStopping`; "validation_accuracy" by default.

    Raises:
        TypeError: ``monitor`` is no string.
        ImportError: optuna is not installed.
    """

    def __init__(self, trial: optuna.Trial, monitor: str = "validation_accuracy") -> None:
        self._optuna = require("optuna", "tune")
        self._trial = trial
        self._monitor = Monitor(monitor, "max", 0.0)  # the study knows which way is better

    def on_start(self, state: TrainingState) -> None:
        """Raise a ValueError if the run of ``state`` will not record ``monitor``."""
        self._monitor.on_start(state)

    def on_epoch(self, state: TrainingState) -> None:
        """Report the newest epoch.

        Args:
            state: of the run.

        Raises:
            optuna.TrialPruned: the trial is not to go on; Optuna's ``optimize`` notes that.
        """
        self._trial.report(self._monitor.value(state), state.epoch)
        if self._trial.should_prune():
            raise self._optuna.TrialPruned(f"the trial was pruned after epoch {state.epoch}")


__all__ = ["OptunaPruning"]
