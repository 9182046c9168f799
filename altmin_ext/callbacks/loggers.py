"""Callbacks that write a run to TensorBoard, MLflow, or Weights & Biases."""

from __future__ import annotations

import abc
import numbers
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from altmin_ext import _check
from altmin_ext._extras import require
from altmin_ext.callbacks.state import TrainingState


class Logger(abc.ABC):
    """Writes the numbers of a run somewhere; a base of callbacks.

    After every epoch all numbers of its row in the History are written under their names there, the objectives of the
    stages as ``objective.0`` and so on; every so many minibatches the loss, as ``step_loss``. Both count in
    minibatches of the run. Its settings, see :attr:`TrainingState.settings`, are written as hyperparameters. A run
    that goes on from a checkpoint is continued where it was written before. However it ends, what is open is closed.

    Args:
        every: the number of minibatches between two losses; 0, the default, for none. To read a loss waits for the
            GPU.

    Raises:
        TypeError, ValueError: ``every`` is wrong.
        ImportError: a package is missing.
    """

    def __init__(self, every: int = 0) -> None:
        self.every = _check.integer("every", every, 0)

    @abc.abstractmethod
    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Write some numbers of the run.

        Args:
            numbers: by name; they need not be finite.
            step: the number of minibatches until then.
        """

    @abc.abstractmethod
    def close(self, error: BaseException | None) -> None:
        """Close what has been opened, if anything has.

        Args:
            error: the exception that ends the run; None if it is complete.
        """

    def on_step(self, state: TrainingState) -> None:
        """Write the loss of every so many minibatches of the run of ``state``."""
        if self.every and state.step % self.every == 0 and state.report is not None:
            self.log({"step_loss": float(state.report.loss)}, state.step)

    def on_epoch(self, state: TrainingState) -> None:
        """Write the numbers of the newest epoch of ``state``."""
        self.log(dict(_numbers(state.history.epochs[-1])), state.step)

    def on_close(self, state: TrainingState, error: BaseException | None) -> None:
        """Close what has been opened.

        Args:
            state: of the run.
            error: the exception that ends it, or None.
        """
        self.close(error)


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a row of the history, those of a list with their places."""
    for name, value in row.items():
        if isinstance(value, (list, tuple)):
            yield from _numbers({f"{name}.{place}": item for place, item in enumerate(value)})
        elif isinstance(value, numbers.Real):
            yield name, float(value)


class TensorBoardLogger(Logger):
    """Writes a run to a folder that TensorBoard shows.

    Args:
        folder: of the run; by default a new one below "runs" for every run, which a resumed run cannot find again.
        every: as in :class:`Logger`.

    Raises:
        TypeError, ValueError: an argument is wrong.
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, every: int = 0) -> None:
        super().__init__(every)
        require("tensorboard", "tensorboard")
        self.folder = None if folder is None else Path(folder)
        self._writer: Any = None

    def on_start(self, state: TrainingState) -> None:
        """Open the folder for the run of ``state``; what a killed process has written beyond it is hidden."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self._writer = SummaryWriter(self.folder, purge_step=state.step + 1 if state.resumed else None)
        settings = {name: value for name, value in state.settings.items() if value is not None}
        for summary in hparams(settings, dict.fromkeys(state.metrics, 0.0)):
            self._writer.file_writer.add_summary(summary)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self, error: BaseException | None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class MLflowLogger(Logger):
    """Writes a run to MLflow, as finished, failed, or, after an interrupt, killed.

    It has a client of its own, and touches no active run. A resumed run goes on in the run of its checkpoint. What a
    killed process has written beyond the checkpoint is then there twice, with the same numbers.

    Args:
        experiment: the name of the experiment, made if it is missing; "Default" by default.
        run_name: of the run; None for one that MLflow makes up.
        tracking_uri: where runs are kept; None for what MLflow is set to.
        every: as in :class:`Logger`.

    Attributes:
        run_id: of the run; None before the first.

    Raises:
        TypeError, ValueError: an argument is wrong.
        ImportError: mlflow is not installed.
    """

    def __init__(
        self,
        experiment: str = "Default",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        *,
        every: int = 0,
    ) -> None:
        super().__init__(every)
        self._mlflow = require("mlflow", "mlflow")
        self.experiment, self.run_name, self.tracking_uri = experiment, run_name, tracking_uri
        self.run_id: str | None = None
        self._client: Any = None

    def on_start(self, state: TrainingState) -> None:
        """Make a run for that of ``state``, if it is a new one."""
        self._client = self._mlflow.MlflowClient(self.tracking_uri)
        self.run_id = None
        if state.resumed:
            return
        found = self._client.get_experiment_by_name(self.experiment)
        experiment = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        self.run_id = self._client.create_run(experiment, run_name=self.run_name).info.run_id
        settings = [self._mlflow.entities.Param(name, str(value)) for name, value in state.settings.items()]
        self._client.log_batch(self.run_id, params=settings)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        now, metric = int(time.time() * 1000), self._mlflow.entities.Metric
        entries = [metric(name, value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self.run_id, metrics=entries)

    def close(self, error: BaseException | None) -> None:
        if self.run_id is not None:
            failed = "FAILED" if isinstance(error, Exception) else "KILLED"
            self._client.set_terminated(self.run_id, "FINISHED" if error is None else failed)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns:
            The id of the run.
        """
        return {"run_id": self.run_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the run of a checkpoint.

        Args:
            state: the result of :meth:`state_dict`.
        """
        self.run_id = state["run_id"]
        self._client.update_run(self.run_id, status="RUNNING")


class WandbLogger(Logger):
    """Writes a run to Weights & Biases, whose run fails with an exception.

    A resumed run goes on in the run of its checkpoint; offline in a folder of its own, which ``wandb sync --append``
    adds to the first.

    Args:
        every: as in :class:`Logger`.
        **init: arguments of ``wandb.init``, such as ``project``, ``name``, ``dir``, and ``mode="offline"``.

    Attributes:
        run: of ``wandb``; None before the first, and after the end.

    Raises:
        TypeError, ValueError: an argument is wrong.
        ImportError: wandb is not installed.
    """

    def __init__(self, *, every: int = 0, **init: Any) -> None:
        super().__init__(every)
        self._wandb = require("wandb", "wandb")
        self._init = init
        self._settings: dict[str, Any] = {}
        self.run: Any = None

    def on_start(self, state: TrainingState) -> None:
        """Make a run for that of ``state``, if it is a new one."""
        self._settings = state.settings
        if not state.resumed:
            self._open()

    def _open(self, **more: Any) -> None:
        config = {**self._settings, **self._init.get("config", {})}
        self.run = self._wandb.init(**{"reinit": "create_new", **self._init, "config": config, **more})

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self, error: BaseException | None) -> None:
        if self.run is not None:
            self.run.finish(exit_code=0 if error is None else 1)
            self.run = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns:
            The id of the run.
        """
        return {"id": self.run.id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the run of a checkpoint.

        Args:
            state: the result of :meth:`state_dict`.
        """
        self._open(id=state["id"], resume="allow")


__all__ = ["Logger", "MLflowLogger", "TensorBoardLogger", "WandbLogger"]
