"""The tables that the commands print: drawn by rich where it is installed and a person looks on, else plain text."""

from __future__ import annotations

import os
import sys
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
        say(f"{self._title}{resumed}\n{_heading(self._columns)}")

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
    rows, words = [], []
    for result in results:
        test = result["test"] or {"loss": None, "accuracy": None}
        rows.append(
            (
                str(len(result["epochs"])),
                decimals(test["loss"]),
                decimals(test["accuracy"]),
                f"{result['seconds']:.2f}",
                f"{result['samples_per_second']:,.0f}",
            )
        )
        words.append("" if result["ended"] == "completed" else result["ended"])
    labels = [result["label"] for result in results]
    whole = [(label, *row, word) for label, row, word in zip(labels, rows, words, strict=True)]
    headings = ("method", *columns, *([""] if any(words) else []))
    found = drawn(headings, [row[: len(headings)] for row in whole], left=(0, 6), bold=_best(results))
    if found is not None:
        return found
    lines = [f"{'method':<{first}}  {_line(columns, columns)}"]
    for label, row, word in zip(labels, rows, words, strict=True):
        lines.append(f"{label:<{first}}  {_line(row, columns)}{word and '  '}{word}")
    return "\n".join(lines)


def _best(results: Sequence[dict[str, Any]]) -> int | None:
    """The number of the run with the best test accuracy, or loss where there is none; None for a single run."""
    tests = {number: result["test"] for number, result in enumerate(results) if result["test"]}
    if len(results) < 2 or not tests:
        return None
    return min(tests, key=lambda number: (-(tests[number]["accuracy"] or 0.0), tests[number]["loss"]))


def decimals(value: float | None) -> str:
    """A number with four decimals; "-" for None."""
    return "-" if value is None else f"{value:.4f}"


def drawn(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Sequence[int] = (),
    bold: int | None = None,
) -> str | None:
    """A table drawn by rich.

    Args:
        columns: the headings.
        rows: the cells of each row.
        left: the columns that are aligned to the left.
        bold: the row that stands out.

    Returns:
        Its text; None where plain text is wanted: rich is missing, or standard output is no terminal.
    """
    rich = _rich()
    if rich is None:
        return None
    table = rich.table.Table(box=rich.box.ROUNDED, header_style="bold cyan")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number in left else "right", overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*map(rich.text.Text, row), style="bold green" if number == bold else None)
    return _text(rich, table)


def _heading(columns: Sequence[str]) -> str:
    """The headings of a table whose rows are printed as they come."""
    rich = _rich()
    plain = _line(columns, columns)
    return plain if rich is None else _text(rich, rich.text.Text(plain, style="bold cyan"))


def _line(cells: Sequence[str], columns: Sequence[str]) -> str:
    """A row of a table, each cell right-aligned under its heading."""
    return "  ".join(f"{cell:>{max(len(name), 9)}}" for cell, name in zip(cells, columns, strict=True))


def _rich() -> Any:
    """The package rich, if it is there and standard output is a terminal that understands it."""
    try:
        if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
            return None
    except ValueError:  # a closed stream
        return None
    try:
        import rich
        import rich.box
        import rich.console
        import rich.table
        import rich.text
    except ImportError:
        return None
    return rich


def _text(rich: Any, what: Any) -> str:
    """What rich writes, without its last line break; without colours where the environment has NO_COLOR."""
    console = rich.console.Console(file=sys.stdout, highlight=False, soft_wrap=True)
    with console.capture() as captured:
        console.print(what)
    text: str = captured.get().rstrip("\n")
    return text
