"""The command inspect."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from altmin_ext import _check, checkpoint
from altmin_ext._files import to_json
from altmin_ext.checkpoint import _file
from altmin_ext.command_line import output, tables
from altmin_ext.command_line.streams import say


def run(arguments: argparse.Namespace) -> None:
    """Show what a checkpoint or a model holds, once all of it has been read and has the sha256 that it states."""
    summary = checkpoint.inspect(arguments.file)
    _file.read(arguments.file)
    if arguments.json:
        tensors = {
            entry.name: {"shape": entry.shape, "dtype": _dtype(entry), "bytes": _bytes(entry)}
            for entry in summary.tensors
        }
        holds = [part for part in summary.holds if part not in tensors]
        say(to_json({**_fields(summary), "holds": holds, "tensors": tensors}))
        return
    for name, words in _rows(summary):
        if words:
            say(f"{name:<10}{words}")
    table = [
        (entry.name, " x ".join(map(str, entry.shape)) or "1", _dtype(entry), f"{_bytes(entry):,}")
        for entry in summary.tensors
    ]
    columns = ("tensor", "shape", "dtype", "bytes")
    if (drawn := tables.drawn(columns, table, left=(0, 1, 2))) is not None:
        say(drawn)
        return
    widths = [max(len(row[i]) for row in [columns, *table]) for i in range(4)]
    for row in [columns, *table]:
        name, shape, dtype, size = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        say(f"{name}  {shape}  {dtype}  {size.strip():>{widths[3]}}")


def _fields(summary: checkpoint.Summary) -> dict[str, Any]:
    return {field.name: getattr(summary, field.name) for field in dataclasses.fields(summary)}


def _rows(summary: checkpoint.Summary) -> Iterator[tuple[str, str]]:
    """What is told beside the tensors."""
    yield "file", f"{summary.path}, {summary.size:,} bytes, every sha256 as stated"
    versions = f"altmin_ext {summary.altmin_ext_version} and torch {summary.torch_version}"
    yield "format", f"{summary.format}, written by {versions}"
    steps = "" if summary.steps is None else f" after {summary.steps:,} steps"
    yield "method", f"{summary.method}{steps}" if summary.method else ""
    options = _listed(summary.options)
    if summary.run is not None:
        state = output.state_of(summary.run)
        of = f" of {state['epochs']}" if state else ""
        yield "run", f"minibatch {summary.run['step']:,}, epoch {summary.run['epoch']}{of}"
        options = as_flags(state["settings"]) if state else _listed(summary.run["description"]["options"])
    yield "options", options
    yield "extra", _listed(summary.extra)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_check.shown(value)}" for name, value in values.items())


def as_flags(settings: Mapping[str, Any]) -> str:
    """Settings as they are written on a command line."""
    words = []
    for flag, value in settings.items():
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif value is not None:
            listed = value if isinstance(value, (list, tuple)) else [value]
            words.append(shlex.join([flag, *map(str, listed)]))
    return " ".join(words)


def _dtype(entry: checkpoint.TensorEntry) -> str:
    return str(entry.dtype).removeprefix("torch.")


def _bytes(entry: checkpoint.TensorEntry) -> int:
    return math.prod(entry.shape) * entry.dtype.itemsize
