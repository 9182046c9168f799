"""What there is to see of some runs, as panels of curves; how they are drawn is another matter."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from altmin_ext.pictures.ticks import wants_log

if TYPE_CHECKING:
    from altmin_ext.history import History

#: Of Okabe and Ito, whom the colour-blind tell apart, those with a contrast of 3 or more to white and to black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c4679a", "#7f7f7f", "#8c613c")

_most_points = 300  # of a curve with a point for every minibatch


@dataclasses.dataclass(frozen=True)
class Curve:
    """Numbers of a run, drawn as a line.

    Attributes:
        label: for the legend.
        points: (x, y), y not always finite.
        colour: as #rrggbb.
        dashed: whether it is drawn dashed, as training is beside validation.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False

    def finite(self) -> list[float]:
        """The values that can be drawn."""
        return [y for _, y in self.points if math.isfinite(y)]


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves that share their axes.

    Attributes:
        name: of the quantity, as in the History.
        title: what there is to see.
        unit: of y, "" for none.
        curves: of which there is at least one.
        along: what x is.
        marks: (x, what happened there) of the runs.
    """

    name: str
    title: str
    curves: Sequence[Curve]
    unit: str = ""
    along: str = "epoch"
    marks: Sequence[tuple[float, str]] = ()

    @property
    def is_log(self) -> bool:
        """Whether y is drawn on a logarithmic axis: losses and times that span a decade, never a share."""
        values = [y for curve in self.curves for y in curve.finite()]
        return "accuracy" not in self.name and wants_log(values)


def learning_curves(histories: Mapping[str, History], held_out: str) -> list[Panel]:
    """Loss, accuracy if there is one, and metrics by epoch, for training and validation.

    Args:
        histories: by label; "" for a single one.
        held_out: what the validation data are called.

    Returns:
        A panel for each quantity.
    """
    rows = [row for history in histories.values() for row in history.epochs]
    classified = any(row[key] is not None for row in rows for key in ("accuracy", "validation_accuracy"))
    shown = ["loss", *(["accuracy"] if classified else []), *metrics(rows)]
    marks = [mark for label, history in histories.items() for mark in _marks(label, history)]
    panels = []
    for quantity in shown:
        curves = [
            Curve(f"{label}, {kind}" if label else kind, points, colour_of(index), dashed=kind == "training")
            for index, (label, history) in enumerate(histories.items())
            for key, kind in ((quantity, "training"), (f"validation_{quantity}", held_out))
            if (points := [(row["epoch"], row[key]) for row in history.epochs if row.get(key) is not None])
        ]
        panels.append(Panel(quantity, _title(quantity, histories, held_out), curves, marks=marks))
    return panels


def _title(quantity: str, histories: Mapping[str, History], held_out: str) -> str:
    """The quantity; of a single run with its last numbers."""
    name = quantity
    losses = {history.loss for history in histories.values()} - {None}
    if quantity == "loss" and len(losses) == 1:
        name = f"loss ({losses.pop()})"
    if len(histories) > 1:
        return name
    (history,) = histories.values()
    last = history.epochs[-1]
    numbers = [
        f"{kind} {number_text(last[key])}"
        for key, kind in ((quantity, "training"), (f"validation_{quantity}", held_out))
        if last.get(key) is not None
    ]
    return f"{name}: {', '.join(numbers)}" if numbers else name


def _marks(label: str, history: History) -> Iterator[tuple[float, str]]:
    of = f" ({label})" if label else ""
    for before, row in itertools.pairwise([{}, *history.epochs]):
        count = (row.get("restores") or 0) - (before.get("restores") or 0)
        if count > 0:
            yield row["epoch"], f"restored {count} {'time' if count == 1 else 'times'}{of}"
    if history.epochs and history.ended is not None and history.ended not in ("completed", "stopped"):
        yield history.epochs[-1]["epoch"], f"{history.ended}{of}"


def stage_panels(label: str, history: History) -> list[Panel]:
    """The objective, and how far codes move, by epoch and stage; none of what a run has not recorded.

    Args:
        label: of the run; "" for a single one.
        history: its record.

    Returns:
        Up to two panels. A single objective is left out, since it is the loss.
    """
    names = (history.settings or {}).get("stages") or []
    panels = []
    for key, title, unit in (
        ("objective", "objective of each stage", ""),
        ("displacement", "how far a step moves the codes of each stage", "RMS"),
    ):
        rows = [row for row in history.epochs if row.get(key)]
        stages = max((len(row[key]) for row in rows), default=0)
        curves = [
            Curve(
                _stage_label(stage, names),
                [(row["epoch"], row[key][stage]) for row in rows if stage < len(row[key])],
                _between(stage, stages),
            )
            for stage in range(stages)
        ]
        if stages > 1 or (key == "displacement" and stages):
            marks = list(_marks(label, history))
            panels.append(Panel(key, f"{title}, {label}" if label else title, curves, unit, marks=marks))
    return panels


def _stage_label(stage: int, names: Sequence[str]) -> str:
    """Its number, from 1, and its name if that is a word and not the place in a Sequential."""
    name = names[stage] if stage < len(names) else ""
    is_word = any(character.isalpha() for character in name)
    return f"stage {stage + 1} ({name})" if is_word else f"stage {stage + 1}"


def step_panels(histories: Mapping[str, History]) -> list[Panel]:
    """The loss of every minibatch, and the time that a step takes.

    Args:
        histories: by label; "" for a single one.

    Returns:
        Up to two panels.
    """
    losses, times = [], []
    for index, (label, history) in enumerate(histories.items()):
        label = label or "training"
        points = _thinned(history.step_loss, history.steps - len(history.step_loss))
        if points:
            losses.append(Curve(label, points, colour_of(index)))
        if points := list(_step_times(history)):
            times.append(Curve(label, points, colour_of(index)))
    panels = []
    if losses:
        panels.append(Panel("step_loss", "loss of the minibatches", losses, along="minibatch"))
    if times:
        panels.append(Panel("step_time", "time of a step", times, "ms"))
    return panels


def _thinned(record: Tensor, first: int) -> list[tuple[float, float]]:
    """The record by the number of the minibatch, from 1; of a long one the means of equal parts.

    A part of which a number is not finite is not finite.
    """
    parts = record.tensor_split(min(_most_points, len(record))) if len(record) else ()
    points, end = [], first
    for part in parts:
        points.append((end + (len(part) + 1) / 2, float(part.mean())))
        end += len(part)
    return points


def _step_times(history: History) -> Iterator[tuple[float, float]]:
    """Milliseconds per minibatch of every epoch."""
    for before, row in itertools.pairwise([{"steps": 0}, *history.epochs]):
        if (
            row.get("steps") is not None
            and before.get("steps") is not None
            and row["steps"] > before["steps"]
        ):
            yield row["epoch"], 1000 * row["seconds"] / (row["steps"] - before["steps"])


def metrics(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the numbers that rows hold of the validation, besides loss and accuracy."""
    held = {key: value for row in rows for key, value in row.items() if value is not None}
    return [
        key.removeprefix("validation_")
        for key, value in held.items()
        if key.startswith("validation_")
        and key not in ("validation_loss", "validation_accuracy")
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    ]


def colour_of(index: int) -> str:
    """The colour of a run."""
    return COLOURS[index % len(COLOURS)]


def _between(stage: int, stages: int) -> str:
    """The colour of a stage; of many stages one between the first two colours."""
    if stages <= len(COLOURS):
        return COLOURS[stage]
    first, last = ([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS[:2])
    share = stage / (stages - 1)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(first, last, strict=True))


def number_text(value: float | None) -> str:
    """A number for people; "NaN" and infinities by their names, and a dash for none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    return f"{value:.4g}"
