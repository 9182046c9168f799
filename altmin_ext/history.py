"""The record of a training run: a row for every epoch, a number for every step."""

from __future__ import annotations

import importlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from altmin_ext._files import atomic_write, to_json

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from altmin_ext.methods import StepReport

_FORMAT = "altmin_ext history 1"


class History:
    """The record of a training run.

    Attributes:
        epochs: one dict per epoch, with the keys

            - ``epoch``: its number, from 1;
            - ``loss``, ``accuracy``: means over the epoch's labelled samples, each evaluated just before the step on
              it; minibatches whose loss is not finite are left out;
            - ``validation_loss``, ``validation_accuracy``: after the epoch;
            - ``seconds``: of training, without validation; ``samples_per_second`` likewise;
            - ``learning_rate_factor``: from the learning-rate schedule;
            - ``objective``: a list, the mean local objective of every stage over all samples, first stage first.

            Values that do not apply are None: accuracies if nothing is classified, as with ``loss="mse"``, validation
            without validation data, objectives without ``report_objective=True``.
        loss: the name of the loss, or of the criterion's class or the function; None before the run.
        steps: number of minibatches trained on.
        step_loss: (steps,) float64 on the CPU, the mean loss of every minibatch.
        step_accuracy: (steps,) float64 on the CPU, its accuracy; None if nothing is classified.
        step_objective: (steps, stages) float64 on the CPU, its local objectives; None without
            ``report_objective=True``.
        objective_rose: whether the objective of ``mdlam`` or ``dladmm`` ever rose although it should not; None for
            all other methods.

    The three step records keep the last :attr:`step_limit` steps, 100,000. A run over an endless stream therefore
    stays within a few megabytes. The first step that is kept has the number ``steps - len(step_loss)``, counted from
    0. The records grow at the end of each epoch, and every hundred steps within one (on a GPU, every thousand).
    """

    step_limit = 100_000

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []
        self.loss: str | None = None
        self.steps = 0
        self.step_loss: Tensor = torch.empty(0, dtype=torch.float64)
        self.step_accuracy: Tensor | None = None
        self.step_objective: Tensor | None = None
        self.objective_rose: bool | None = None

    def __repr__(self) -> str:
        last = ", ".join(f"{key} {value:.4g}" for key, value in self._last_numbers())
        return f"History({len(self.epochs)} epochs, {self.steps} steps{': ' if last else ''}{last})"

    def _last_numbers(self) -> Iterator[tuple[str, float]]:
        if self.epochs:
            for key in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
                if self.epochs[-1][key] is not None:
                    yield key, self.epochs[-1][key]

    @property
    def objective(self) -> Tensor | None:
        """(steps,) float64, the objective of every step, summed over stages; None unless it was reported.

        ``mdlam`` and ``dladmm`` report it by default, other methods with ``report_objective=True``.
        """
        return None if self.step_objective is None else self.step_objective.sum(1)

    def add_steps(self, loss: Tensor, accuracy: Tensor | None, objective: Tensor | None) -> None:
        """Append minibatches to the step records.

        Args:
            loss: (steps,) float64 on the CPU, the mean loss of each minibatch.
            accuracy: (steps,), its accuracy; None if nothing is classified.
            objective: (steps, stages), its local objectives; None if they are not reported.
        """
        self.steps += len(loss)
        self.step_loss = self._appended(self.step_loss, loss)
        if accuracy is not None:
            self.step_accuracy = self._appended(self.step_accuracy, accuracy)
        if objective is not None:
            self.step_objective = self._appended(self.step_objective, objective)

    def _appended(self, record: Tensor | None, new: Tensor) -> Tensor:
        whole = new if record is None else torch.cat([record, new])
        # Copied, since a slice would keep the whole record in memory.
        return whole if len(whole) <= self.step_limit else whole[-self.step_limit :].clone()

    def to_pandas(self) -> pandas.DataFrame:
        """The epochs as a table.

        Returns:
            A ``pandas.DataFrame`` with a row for every epoch and the epoch's number as index.

        Raises:
            ImportError: pandas is not installed.
        """
        return _require("pandas", "pandas").DataFrame(self.epochs).set_index("epoch")

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw learning curves: loss and, if there is one, accuracy by epoch, for training and validation.

        Args:
            path: a file to write the picture to as well; its suffix (".png", ".pdf", ".svg") chooses the format.
                None for no file.

        Returns:
            The ``matplotlib.figure.Figure``.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: no epoch has been recorded.
        """
        return plot_histories({"": self}, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one JSON file, completely or not at all.

        A number that is not finite is written as null.

        Args:
            path: of the file; missing folders are made.

        Raises:
            OSError: the file cannot be written; a file that was there before is untouched.
        """
        document = {
            "format": _FORMAT,
            "epochs": self.epochs,
            "loss": self.loss,
            "steps": self.steps,
            "step_loss": self.step_loss.tolist(),
            "step_accuracy": None if self.step_accuracy is None else self.step_accuracy.tolist(),
            "step_objective": None if self.step_objective is None else self.step_objective.tolist(),
            "objective_rose": self.objective_rose,
        }
        with atomic_write(path) as file:
            file.write(to_json(document).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Read a file that :meth:`save` has written; in the step records, null becomes NaN again.

        Args:
            path: of the file.

        Returns:
            The :class:`History`.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file holds no history.
        """
        try:
            document = json.loads(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(
                f"{os.fspath(path)!r} must be a history in JSON, but is not JSON: {error}."
            ) from error
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ValueError(f"{os.fspath(path)!r} must be a history written by History.save, but is not.")
        history = cls()
        history.epochs = document["epochs"]
        history.steps = document["steps"]
        history.step_loss = _to_tensor(document["step_loss"])
        for name in ("step_accuracy", "step_objective"):
            if document[name] is not None:
                setattr(history, name, _to_tensor(document[name]))
        for name in ("loss", "objective_rose"):
            setattr(history, name, document.get(name))  # older files lack it
        return history


class EpochRecord:
    """Turns the reports of an epoch into a row of the history, without waiting for the device at every step."""

    # Reports that are held before their numbers are fetched, which waits for a GPU.
    _pending_limit, _pending_limit_on_gpu = 100, 1000

    def __init__(self, history: History) -> None:
        self._history = history
        self._reports: list[StepReport] = []
        # The size of each minibatch, in samples and in samples with a target.
        self._sizes: list[tuple[int, int | Tensor]] = []
        self._counted = self._described = 0.0
        self._loss = 0.0
        self._correct: float | None = None
        self._objective: Tensor | None = None
        self._started = time.perf_counter()
        self.samples = 0

    def add(self, report: StepReport, size: int, labelled: int | Tensor) -> None:
        self._reports.append(report)
        self._sizes.append((size, labelled))
        self.samples += size
        if len(self._reports) == (self._pending_limit if report.loss.is_cpu else self._pending_limit_on_gpu):
            self._fetch()

    def _fetch(self) -> None:
        if not self._reports:
            return
        reports = self._reports
        numbers = [(size, int(labelled)) for size, labelled in self._sizes]
        whole, sizes = torch.tensor(numbers, dtype=torch.float64).unbind(1)
        loss = torch.stack([r.loss for r in reports]).cpu().double()
        counted = torch.isfinite(loss)
        self._counted += float(sizes[counted].sum())
        self._loss += float((loss * sizes)[counted].sum())
        accuracy = objective = None
        corrects = [r.correct for r in reports if r.correct is not None]
        if corrects:
            correct = torch.stack(corrects).cpu().double()
            accuracy = correct / sizes
            self._correct = (self._correct or 0.0) + float(correct[counted].sum())
        objectives = [r.objective for r in reports if r.objective is not None]
        if objectives:
            objective = torch.stack(objectives).cpu().double()
            # A minibatch without labels has no loss, but it has objectives.
            described = counted | ((sizes == 0) & objective.isfinite().all(1))
            self._described += float(whole[described].sum())
            total = (objective * whole[:, None])[described].sum(0)
            self._objective = total if self._objective is None else self._objective + total
        self._history.add_steps(loss, accuracy, objective)
        self._reports, self._sizes = [], []

    def close(self, epoch: int, learning_rate_factor: float) -> None:
        self._fetch()
        seconds = time.perf_counter() - self._started
        counted, described = self._counted or math.nan, self._described or math.nan
        self._history.epochs.append(
            {
                "epoch": epoch,
                "loss": self._loss / counted,
                "accuracy": None if self._correct is None else self._correct / counted,
                "validation_loss": None,
                "validation_accuracy": None,
                "seconds": seconds,
                "samples_per_second": self.samples / seconds,
                "learning_rate_factor": learning_rate_factor,
                "objective": None if self._objective is None else (self._objective / described).tolist(),
            }
        )


def plot_histories(
    histories: Mapping[str, History],
    path: str | os.PathLike[str] | None = None,
    *,
    held_out: str = "validation",
) -> Figure:
    """Draw the learning curves of several runs in one picture: loss and, if there is one, accuracy by epoch.

    Args:
        histories: label -> history; each has its colour, dashed for training and solid for validation.
        path: a file to write the picture to as well; its suffix (".png", ".pdf", ".svg") chooses the format. None for
            no file.
        held_out: the label of the validation data, such as "test".

    Returns:
        The ``matplotlib.figure.Figure``.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no history, or one has no epochs.
    """
    if not histories:
        raise ValueError("histories must hold at least one history, but is empty.")
    for label, history in histories.items():
        if not history.epochs:
            raise ValueError(
                f"histories must have at least one epoch each, but {label or 'this one'!r} has none."
            )
    # Not pyplot: Figure itself opens no window, has no global state, and may be used by any thread.
    figure: Figure = _require("matplotlib.figure", "plot").Figure(figsize=(10, 4), layout="constrained")
    shown = [
        quantity
        for quantity in ("loss", "accuracy")
        if any(history.epochs[0][quantity] is not None for history in histories.values())
    ]
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for panel, quantity in zip(panels, shown, strict=True):
        for index, (label, history) in enumerate(histories.items()):
            for key, kind, style in (
                (quantity, "training", "--"),
                (f"validation_{quantity}", held_out, "-"),
            ):
                points = [(e["epoch"], e[key]) for e in history.epochs if e[key] is not None]
                if points:
                    name = f"{label}, {kind}" if label else kind
                    # With a marker, since a single epoch draws no line.
                    panel.plot(*zip(*points, strict=True), style, color=f"C{index}", marker=".", label=name)
        panel.set_xlabel("epoch")
        panel.set_ylabel(quantity)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
        panel.legend()
    if path is not None:
        with atomic_write(path) as file:
            figure.savefig(file, format=Path(path).suffix.lstrip(".") or "png", dpi=150)
    return figure


def _require(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f'{package} is not installed; get it with: pip install "altmin_ext[{extra}]"'
        ) from error


def _to_tensor(numbers: list[Any]) -> Tensor:
    """A list of numbers, or of rows of them, as float64, with None as NaN."""

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        return float("nan") if value is None else value

    return torch.tensor(filled(numbers), dtype=torch.float64)


__all__ = ["History", "plot_histories"]
