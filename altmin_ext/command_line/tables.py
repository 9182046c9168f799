"""The tables that the command train prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from altmin_ext.callbacks import TrainingState
from altmin_ext.command_line.streams import say


class EpochTable:
    """Prints a row for every epoch of a run, from where it stands; a callback."""

    def __init__(self, title: str, held_out: str) -> None:
        self._title = title
        self._held_out = held_out

    def on_start(self, state: TrainingState) -> None:
        known = ("loss", "accuracy", "validation_loss", "validation_accuracy")
        self._names = (*known, *(name for name in state.metrics if name not in known))
        headings = [name.replace("validation_", f"{self._held_out} ", 1) for name in self._names]
        self._columns = ("epoch", *headings, "samples/s")
        resumed = f", resumed after {state.step:,} minibatches" if state.resumed else ""
        say(f"{self._title}{resumed}\n{_line(self._columns, self._columns)}")

    def on_epoch(self, state: TrainingState) -> None:
        row = state.history.epochs[-1]
        numbers = (row[name] for name in self._names)
        cells = [str(row["epoch"]), *map(decimals, numbers), f"{row['samples_per_second']:,.0f}"]
        say(_line(cells, self._columns))

    def on_end(self, state: TrainingState) -> None:
        say()


def result_table(results: Sequence[dict[str, Any]]) -> str:
    """A row for every run, with a word about one that was not completed."""
    first = max(len("method"), *(len(result["label"]) for result in results))
    columns = ("epochs", "test loss", "test accuracy", "seconds", "samples/s")
    lines = [f"{'method':<{first}}  {_line(columns, columns)}"]
    for result in results:
        test = result["test"] or {"loss": None, "accuracy": None}
        cells = (
            str(len(result["epochs"])),
            decimals(test["loss"]),
            decimals(test["accuracy"]),
            f"{result['seconds']:.2f}",
            f"{result['samples_per_second']:,.0f}",
        )
        ended = "" if result["ended"] == "completed" else f"  {result['ended']}"
        lines.append(f"{result['label']:<{first}}  {_line(cells, columns)}{ended}")
    return "\n".join(lines)


def decimals(value: float | None) -> str:
    """A number with four decimals; "-" for None."""
    return "-" if value is None else f"{value:.4f}"


def _line(cells: Sequence[str], columns: Sequence[str]) -> str:
    """A row of a table, each cell right-aligned under its heading."""
    return "  ".join(f"{cell:>{max(len(name), 9)}}" for cell, name in zip(cells, columns, strict=True))
