"""The record of a training run: a row for every epoch, a number for every step."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from altmin_ext._extras import require
from altmin_ext._files import from_json, read_file, sealed, unsealed, write_file
from altmin_ext.pictures import panels

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from altmin_ext.methods import StepReport

_FORMAT = "altmin_ext history 2"
_FORMAT_WITHOUT_SEAL = "altmin_ext history 1"


class History:
    """The record of a training run.

    Attributes:
        epochs: one dict per epoch, with the keys

            - ``epoch``: its number, from 1;
            - ``loss``, ``accuracy``: means over the epoch's labelled samples, each evaluated just before the step on
              it; minibatches whose loss is not finite are left out;
            - ``validation_loss``, ``validation_accuracy``: after the epoch; and ``validation_<name>`` for each of the
              run's ``metrics``;
            - ``seconds``: of training, without validation; ``samples_per_second`` likewise;
            - ``learning_rate_factor``: from the learning-rate schedule;
            - ``objective``: a list, the mean local objective of every stage over all samples, first stage first;
            - ``displacement``: a list, how far a step moves the codes of every hidden stage, first stage first: the
              mean over all samples of :attr:`altmin_ext.StepReport.displacement`, in the codes' own units;
            - ``steps``: the number of minibatches trained on by its end;
            - ``restores``: :attr:`restores` by its end.

            Values that do not apply are None: accuracies if nothing is classified, as with ``loss="mse"``, validation
            without validation data, objectives and displacements without ``report_objective=True``, and the last
            three in records of versions that did not keep them. An epoch that an interrupt or an
            error has ended early has a row, too, of the minibatches that it completed, without validation.
        loss: the name of the loss, or of the criterion's class or the function; None before the run.
        steps: number of minibatches trained on.
        step_loss: (steps,) float64 on the CPU, the mean loss of every minibatch.
        step_accuracy: (steps,) float64 on the CPU, its accuracy; None if nothing is classified, NaN where that holds
            for some minibatches only.
        step_objective: (steps, stages) float64 on the CPU, its local objectives; None without
            ``report_objective=True``.
        objective_rose: whether the objective of ``mdlam`` or ``dladmm`` ever rose although it should not; None for
            all other methods.
        restores: how often the method has gone back to an earlier state, ``method.restores``, by the end of the run;
            None unless ``on_nonfinite="restore"``.
        ended: how the run ended: "completed"; "stopped", by a callback that asked for it; "interrupted", by Ctrl-C or
            a signal; "diverged"; or "ended by" the name of another exception. None while it goes on.
        settings: of the run, by name: method, loss, options, seed, batch size, epochs, device, dtype, the number of
            parameters, the network (a line for every module) and the names of the stages. None before the run.
        environment: versions, CPU, instruction set and threads of the process that ended the run; None before it.

    The three step records keep the last ``step_limit`` steps, 100,000. A run over an endless stream therefore
    stays within a few megabytes. The first step that is kept has the number ``steps - len(step_loss)``, counted from
    0. The records grow at the end of each epoch, and every hundred steps within one (on a GPU, every thousand).

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import models
        >>> data = torch.randn(100, 4), torch.arange(100) % 2
        >>> history = altmin_ext.train(models.mlp(4, [16], 2), data, epochs=2, batch_size=20, progress=False)
        >>> [row["epoch"] for row in history.epochs], history.step_loss.shape
        ([1, 2], torch.Size([10]))
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
        self.restores: int | None = None
        self.ended: str | None = None
        self.settings: dict[str, Any] | None = None
        self.environment: dict[str, Any] | None = None

    def __repr__(self) -> str:
        last = ", ".join(f"{key} {value:.4g}" for key, value in self._last_numbers())
        return f"History({len(self.epochs)} epochs, {self.steps} steps{': ' if last else ''}{last})"

    def _last_numbers(self) -> Iterator[tuple[str, float]]:
        if self.epochs:
            metrics = [f"validation_{name}" for name in panels.metrics(self.epochs)]
            for key in ("loss", "accuracy", "validation_loss", "validation_accuracy", *metrics):
                if self.epochs[-1].get(key) is not None:
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
        lengths = len(self.step_loss), len(loss)
        self.step_accuracy = self._appended(self.step_accuracy, accuracy, *lengths)
        self.step_objective = self._appended(self.step_objective, objective, *lengths)
        self.step_loss = self._cut(torch.cat([self.step_loss, loss]))

    def _appended(self, record: Tensor | None, new: Tensor | None, kept: int, added: int) -> Tensor | None:
        """The record with the new minibatches, NaN where there is none of them."""
        known = record if new is None else new
        if known is None:
            return None
        record = known.new_full((kept, *known.shape[1:]), math.nan) if record is None else record
        new = known.new_full((added, *known.shape[1:]), math.nan) if new is None else new
        return self._cut(torch.cat([record, new]))

    def _cut(self, record: Tensor) -> Tensor:
        # Copied, since a slice would keep the whole record in memory.
        return record if len(record) <= self.step_limit else record[-self.step_limit :].clone()

    def to_pandas(self) -> pandas.DataFrame:
        """The epochs as a table.

        Returns:
            A ``pandas.DataFrame`` with a row for every epoch and the epoch's number as index; without epochs, the
            columns alone.

        Raises:
            ImportError: pandas is not installed.
        """
        columns = None if self.epochs else list(_row)
        return require("pandas", "pandas").DataFrame(self.epochs, columns=columns).set_index("epoch")

    def _repr_html_(self) -> str:
        """What a notebook shows: how far the run has come, its curves, and a table of its epochs."""
        from altmin_ext.pictures import page

        return page.fragment(self)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw learning curves: loss, accuracy if there is one, and metrics by epoch, for training and validation.

        Args:
            path: a file to write the picture to as well; its suffix (".png", ".pdf", ".svg") chooses the format.
                None for no file.

        Returns:
            A ``matplotlib.figure.Figure``, as :func:`plot_histories` does.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: no epoch has been recorded, or matplotlib does not know the format.
            OSError: the file cannot be written; a file that was there before is untouched.
        """
        return plot_histories({"": self}, path)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write a page about the run, see :func:`report_histories`.

        Args:
            path: of the file, such as "report.html".

        Raises:
            OSError: the file cannot be written; a file that was there before is untouched.
        """
        report_histories({"": self}, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one JSON file, completely or not at all.

        A number that is not finite is written as null. The file ends with the sha256 of its content, so that an
        alteration is noticed.

        Args:
            path: of the file; missing folders are made. A link is followed, and the permissions of an earlier file
                are kept.

        Raises:
            TypeError: ``epochs`` holds a value that JSON does not know.
            OSError: the file cannot be written; a file that was there before is untouched.
        """
        write_file(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Everything as one JSON document, sealed with its sha256.

        Returns:
            The content of the file that :meth:`save` writes.

        Raises:
            TypeError: ``epochs`` holds a value that JSON does not know.
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
            "restores": self.restores,
            **{name: getattr(self, name) for name in _about_the_run},
        }
        return sealed(document)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as a checkpoint keeps it: exact, whatever the numbers.

        Returns:
            A dict of lists, numbers, words and tensors, in memory of its own.
        """
        return {name: copy.deepcopy(value) for name, value in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` has returned, of which it makes a copy.

        Args:
            state: the result of :meth:`state_dict`.

        Raises:
            ValueError: it is something else; nothing has changed.
        """
        try:
            read = _read_state("", _completed(state, _about_the_run))
            for name in ("step_accuracy", "step_objective"):
                if read[name] is not None and len(read[name]) != len(read["step_loss"]):
                    raise ValueError(f"{name} has {len(read[name])} entries")
            if len(read["step_loss"]) > read["steps"]:
                raise ValueError(f"step_loss has {len(read['step_loss'])} entries for {read['steps']} steps")
        except ValueError as error:
            raise ValueError(
                f"state must be the result of History.state_dict, but is not: {str(error).rstrip('.')}."
            ) from error
        vars(self).update(copy.deepcopy(read))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Read a file that :meth:`save` has written.

        In numbers that every minibatch or epoch has, null becomes NaN again.

        Args:
            path: of the file.

        Returns:
            The :class:`History`.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file holds no history, or has been altered.
        """
        try:
            return cls._from_bytes(read_file(path))
        except ValueError as error:
            raise ValueError(
                f"{os.fspath(path)!r} must be a history written by History.save, but is not: {error}."
            ) from error

    @classmethod
    def _from_bytes(cls, content: bytes) -> History:
        document = from_json(content)
        if not isinstance(document, dict) or document.get("format") not in (_FORMAT, _FORMAT_WITHOUT_SEAL):
            raise ValueError(f"it lacks the format {_FORMAT!r}")
        if document["format"] == _FORMAT:
            document = unsealed(content)
        read = _read_document(
            "", _completed(document, ("loss", "objective_rose", "restores", *_about_the_run))
        )
        history = cls()
        history.epochs = read["epochs"]
        history.loss, history.objective_rose = read["loss"], read["objective_rose"]
        history.restores, history.steps = read["restores"], read["steps"]
        for name in _about_the_run:
            setattr(history, name, read[name])
        history.step_loss = _to_tensor("step_loss", read["step_loss"])
        if len(history.step_loss) > history.steps:
            raise ValueError(f"step_loss has {len(history.step_loss)} entries for {history.steps} steps")
        for name in ("step_accuracy", "step_objective"):
            if read[name] is not None:
                record = _to_tensor(name, read[name])
                if len(record) != len(history.step_loss):
                    raise ValueError(
                        f"{name} has {len(record)} entries and step_loss {len(history.step_loss)}"
                    )
                setattr(history, name, record)
        if history.step_accuracy is not None:
            for row in history.epochs:
                row["accuracy"] = math.nan if row["accuracy"] is None else row["accuracy"]
        return history


#: Takes the place of a value in the document and the value; returns what a history holds, or raises a ValueError.
_Reader = Callable[[str, Any], Any]


def _read_count(place: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{place} is no whole number of at least 0")
    return value


def _read_number(place: str, value: Any) -> float:
    """A number, with null as NaN."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{place} is no number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{place} is too large a number") from None


def _of_type(kind: type) -> _Reader:
    def read(place: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"{place} is no {kind.__name__}")
        return value

    return read


def _or_none(reader: _Reader) -> _Reader:
    return lambda place, value: None if value is None else reader(place, value)


def _list_of(reader: _Reader) -> _Reader:
    def read(place: str, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError(f"{place} is no list")
        return [reader(f"{place}[{index}]", item) for index, item in enumerate(value)]

    return read


def _object_of(readers: Mapping[str, _Reader], *, more: bool = False) -> _Reader:
    """An object with these names and, if ``more``, any others."""

    def read(place: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"{place} is no object")
        missing = [name for name in readers if name not in value]
        unknown = [] if more else [name for name in value if name not in readers]
        for problem, names in (("lacks", missing), ("has an unknown", unknown)):
            if names:
                raise ValueError(f"{place or 'it'} {problem} {names[0]!r}")
        return {
            name: readers[name](f"{place}.{name}".lstrip("."), item) if name in readers else item
            for name, item in value.items()
        }

    return read


# A row of ``epochs``; callbacks may add to it.
_row: dict[str, _Reader] = {
    "epoch": _read_count,
    "loss": _read_number,
    "accuracy": _or_none(_read_number),
    "validation_loss": _or_none(_read_number),
    "validation_accuracy": _or_none(_read_number),
    "seconds": _read_number,
    "samples_per_second": _read_number,
    "learning_rate_factor": _read_number,
    "objective": _or_none(_list_of(_read_number)),
    "displacement": _or_none(_list_of(_read_number)),
    "steps": _or_none(_read_count),
    "restores": _or_none(_read_count),
}
_read_whole_row = _object_of(_row, more=True)


def _read_row(place: str, value: Any) -> dict[str, Any]:
    """A row, those of older versions with None for what they lack."""
    row: dict[str, Any] = _read_whole_row(place, _completed(value, ("displacement", "steps", "restores")))
    return row


def _read_plain(place: str, value: Any) -> Any:
    """A word, number or truth value, None, or a list of words."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError(f"{place} is neither a word nor a number")


def _read_settings(place: str, value: Any) -> dict[str, Any]:
    return {name: _read_plain(f"{place}.{name}", own) for name, own in _of_type(dict)(place, value).items()}


_about_the_run: dict[str, _Reader] = {
    "ended": _or_none(_of_type(str)),
    "settings": _or_none(_read_settings),
    "environment": _or_none(_read_settings),
}


def _completed(document: Any, newer: Iterable[str]) -> Any:
    """A document with None for the names that older versions did not write."""
    if not isinstance(document, Mapping):
        return document
    return {**document, **{name: None for name in newer if name not in document}}


# A file, as History.save writes it.
_read_document = _object_of(
    {
        "format": _of_type(str),
        "epochs": _list_of(_read_row),
        "loss": _or_none(_of_type(str)),
        "steps": _read_count,
        "step_loss": _list_of(_read_number),
        "step_accuracy": _or_none(_list_of(_read_number)),
        "step_objective": _or_none(_list_of(_list_of(_read_number))),
        "objective_rose": _or_none(_of_type(bool)),
        "restores": _or_none(_read_count),
        **_about_the_run,
    }
)


def _record_of(dimensions: int) -> _Reader:
    """A float64 tensor on the CPU of so many dimensions."""

    def read(place: str, value: Any) -> Tensor:
        if type(value) is not Tensor or (value.dtype, value.ndim) != (torch.float64, dimensions):
            raise ValueError(f"{place} is no float64 tensor of {dimensions} dimensions")
        return value.cpu()

    return read


# A state, as History.state_dict returns it.
_read_state = _object_of(
    {
        "epochs": _list_of(_read_row),
        "loss": _or_none(_of_type(str)),
        "steps": _read_count,
        "step_loss": _record_of(1),
        "step_accuracy": _or_none(_record_of(1)),
        "step_objective": _or_none(_record_of(2)),
        "objective_rose": _or_none(_of_type(bool)),
        "restores": _or_none(_read_count),
        **_about_the_run,
    }
)


class EpochRecord:
    """Turns the reports of an epoch into a row of the history, without waiting for the device at every step.

    An epoch without a minibatch has no row. Sums are taken minibatch by minibatch, so that they do not depend on when
    numbers are fetched.

    Attributes:
        samples: the number of samples so far.
    """

    # Reports that are held before their numbers are fetched, which waits for a GPU.
    _pending_limit, _pending_limit_on_gpu = 100, 1000

    def __init__(
        self, history: History, epoch: int, learning_rate_factor: float, metrics: Sequence[str] = ()
    ) -> None:
        self._history = history
        self._metrics = metrics
        self._epoch = epoch
        self._learning_rate_factor = learning_rate_factor
        self._reports: list[StepReport] = []
        # The size of each minibatch, in samples and in samples with a target.
        self._sizes: list[tuple[int, int | Tensor]] = []
        self._sums = _Sums()
        self._started = time.perf_counter()
        self.samples = 0

    def state(self) -> dict[str, Any]:
        """The sums so far; the step records are in the history."""
        self.fetch()
        seconds = time.perf_counter() - self._started
        return {"samples": self.samples, "seconds": seconds, **dataclasses.asdict(self._sums)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from sums that :meth:`state` has returned."""
        sums = dict(state)
        self.samples = sums.pop("samples")
        self._started = time.perf_counter() - sums.pop("seconds")
        self._sums = _Sums(**sums)

    def add(self, report: StepReport, size: int, labelled: int | Tensor) -> None:
        self._reports.append(report)
        self._sizes.append((size, labelled))
        self.samples += size
        if len(self._reports) == (self._pending_limit if report.loss.is_cpu else self._pending_limit_on_gpu):
            self.fetch()

    def fetch(self) -> None:
        """Move the reports that are held into the sums and the step records."""
        if not self._reports:
            return
        reports, sums = self._reports, self._sums
        numbers = [(size, int(labelled)) for size, labelled in self._sizes]
        whole, sizes = torch.tensor(numbers, dtype=torch.float64).unbind(1)
        loss = torch.stack([r.loss for r in reports]).cpu().double()
        counted = torch.isfinite(loss)
        sums.counted = _added(sums.counted, sizes[counted])
        sums.loss = _added(sums.loss, (loss * sizes)[counted])
        accuracy = objective = None
        corrects = [r.correct for r in reports if r.correct is not None]
        if corrects:
            classified = torch.tensor([r.correct is not None for r in reports])
            correct = torch.full_like(loss, math.nan)
            correct[classified] = torch.stack(corrects).cpu().double()
            accuracy = correct / sizes
            sums.correct = _added(sums.correct or 0.0, correct[counted & classified])
            sums.classified = _added(sums.classified, sizes[counted & classified])
        objectives = [r.objective for r in reports if r.objective is not None]
        if objectives:
            objective = torch.stack(objectives).cpu().double()
            # A minibatch without labels has no loss, but it has objectives.
            described = counted | ((sizes == 0) & objective.isfinite().all(1))
            sums.described = _added(sums.described, whole[described])
            sums.objective = _added_by_stage(sums.objective, objective[described], whole[described])
            displacements = [r.displacement for r in reports if r.displacement is not None]
            if displacements:
                moved = torch.stack(displacements).cpu().double()[described]
                sums.displacement = _added_by_stage(sums.displacement, moved, whole[described])
        self._history.add_steps(loss, accuracy, objective)
        self._reports, self._sizes = [], []

    def close(self) -> None:
        """Add the row."""
        if self.samples == 0:
            return
        self.fetch()
        seconds, sums = time.perf_counter() - self._started, self._sums
        counted, described = sums.counted or math.nan, sums.described or math.nan
        classified = sums.classified or math.nan
        self._history.epochs.append(
            {
                "epoch": self._epoch,
                "loss": sums.loss / counted,
                "accuracy": None if sums.correct is None else sums.correct / classified,
                "validation_loss": None,
                "validation_accuracy": None,
                **{f"validation_{name}": None for name in self._metrics},
                "seconds": seconds,
                "samples_per_second": self.samples / seconds,
                "learning_rate_factor": self._learning_rate_factor,
                **{
                    name: None if totals is None else [total / described for total in totals]
                    for name, totals in (
                        ("objective", sums.objective),
                        ("displacement", sums.displacement),
                    )
                },
                "steps": self._history.steps,
                "restores": self._history.restores,
            }
        )


@dataclasses.dataclass
class _Sums:
    """Over the minibatches of an epoch, each weighted by the samples that it counts for.

    Attributes:
        loss, correct, objective, displacement: the totals; None where nothing was classified or reported.
        counted, classified, described: the samples that they are of.
    """

    loss: float = 0.0
    counted: float = 0.0
    correct: float | None = None
    classified: float = 0.0
    objective: list[float] | None = None
    described: float = 0.0
    displacement: list[float] | None = None


def _added(total: float, values: Tensor) -> float:
    """The total and all values, added one by one: torch's own sum depends on how many there are."""
    for value in values.tolist():
        total += value
    return total


def _added_by_stage(totals: list[float] | None, values: Tensor, sizes: Tensor) -> list[float]:
    """The totals of all stages and the values (minibatches, stages), each times the size of its minibatch."""
    weighted = (values * sizes[:, None]).unbind(1)
    before = totals or [0.0] * len(weighted)
    return [_added(total, own) for total, own in zip(before, weighted, strict=True)]


def plot_histories(
    histories: Mapping[str, History],
    path: str | os.PathLike[str] | None = None,
    *,
    held_out: str = "validation",
) -> Figure:
    """Draw the learning curves of several runs in one picture: loss, accuracy if there is one, and metrics by epoch.

    Args:
        histories: label -> history; each has its colour, dashed for training and solid for validation.
        path: a file to write the picture to as well; its suffix (".png", ".pdf", ".svg") chooses the format. None for
            no file.
        held_out: the label of the validation data, such as "test".

    Returns:
        A ``matplotlib.figure.Figure``. A notebook shows it where it is the value of a cell; in a script its
        ``show()`` opens a window and waits until that is closed. It is no figure of pyplot's: none has to be closed,
        and none is shown twice.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no history, one has no epochs, or matplotlib does not know the format.
        OSError: the file cannot be written; a file that was there before is untouched.
    """
    if not histories:
        raise ValueError("histories must hold at least one history, but is empty.")
    for label, history in histories.items():
        if not history.epochs:
            which = f"{label!r} has" if label else "this one has"
            raise ValueError(f"histories must have at least one epoch each, but {which} none: train first.")
    require("matplotlib.figure", "plot")
    from altmin_ext.pictures import figure

    picture = figure.draw(panels.learning_curves(histories, held_out))
    if path is not None:
        content = io.BytesIO()
        picture.savefig(content, format=Path(path).suffix.lstrip(".") or "png", dpi=150)
        write_file(path, content.getvalue())
    return picture


def report_histories(
    histories: Mapping[str, History], path: str | os.PathLike[str], *, held_out: str = "validation"
) -> None:
    """Write a page about one or several runs: what they were, what they reached, and how they got there.

    It is one HTML file that needs nothing else, neither a network nor scripts, and fits light and dark screens and
    paper. It holds the curves of loss, accuracy and metrics; with ``report_objective=True`` the objective of every
    stage, and how far steps move its codes; the loss of the minibatches, and the time that a step takes; settings and
    environment; and every number of every epoch.

    Args:
        histories: label -> history.
        path: of the file, such as "report.html"; missing folders are made. It is written completely or not at all.
        held_out: the label of the validation data, such as "test".

    Raises:
        ValueError: there is no history.
        OSError: the file cannot be written; a file that was there before is untouched.
    """
    write_file(path, report_bytes(histories, held_out))


def report_bytes(histories: Mapping[str, History], held_out: str) -> bytes:
    """The content of the file that :func:`report_histories` writes."""
    from altmin_ext.pictures import page

    if not histories:
        raise ValueError("histories must hold at least one history, but is empty.")
    return page.page(histories, held_out).encode()


def _to_tensor(place: str, rows: list[Any]) -> Tensor:
    """Numbers, or rows of as many numbers each, as float64."""
    if len({len(row) if isinstance(row, list) else None for row in rows}) > 1:
        raise ValueError(f"{place} has rows of different lengths")
    return torch.tensor(rows, dtype=torch.float64)


__all__ = ["History", "plot_histories", "report_histories"]
