"""What a checkpoint holds, told without reading its tensors."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch
from torch import Tensor

from altmin_ext.checkpoint import _file


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """A tensor in a checkpoint.

    Attributes:
        name: in the file, by its place: "model.0.weight".
        shape: in the file, where a complex number is a pair.
        dtype: in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a checkpoint holds; ``print`` shows the most important as a table.

    Attributes:
        path: of the file.
        size: of the file, in bytes.
        format: "checkpoint 1".
        altmin_ext_version: of the package that wrote the file.
        torch_version: likewise.
        holds: which of model, method, options, history, extra and run.
        method: name of the method; None if the file holds none.
        steps: that the method, or else the history, had made; None if the file holds neither.
        options: of the method, by name.
        extra: what else was saved and is no tensor or array, by name.
        run: what the file says of the run of :func:`altmin_ext.train` that wrote it, without its tensors; None if it
            is no such file.
        tensors: all tensors, in the order of the file.
    """

    path: str
    size: int
    format: str
    altmin_ext_version: str
    torch_version: str
    holds: tuple[str, ...]
    method: str | None
    steps: int | None
    options: dict[str, Any]
    extra: dict[str, Any]
    run: dict[str, Any] | None
    tensors: tuple[TensorEntry, ...]

    def __str__(self) -> str:
        rows = [
            ("file", f"{self.path}, {self.size:,} bytes"),
            (
                "format",
                f"{self.format}, of altmin_ext {self.altmin_ext_version} and torch {self.torch_version}",
            ),
            ("holds", ", ".join(self.holds) or "nothing"),
            ("method", self.method),
            ("steps", None if self.steps is None else f"{self.steps:,}"),
            *((name, _listed(own)) for name, own in (("options", self.options), ("extra", self.extra))),
            ("run", None if self.run is None else _listed(_scalars(self.run))),
            ("tensors", f"{len(self.tensors)}"),
        ]
        lines = [f"{name:<8} {text}" for name, text in rows if text]
        width = max((len(entry.name) for entry in self.tensors), default=0)
        for entry in self.tensors:
            shape = " x ".join(map(str, entry.shape)) or "one number"
            lines.append(f"  {entry.name:<{width}}  {str(entry.dtype).removeprefix('torch.')}  {shape}")
        return "\n".join(lines)


def inspect(path: str | os.PathLike[str]) -> Summary:
    """Say what a checkpoint holds.

    Only the beginning of the file is read and checked, which is fast whatever its size. :func:`load` checks the
    tensors, too.

    Args:
        path: of a file of :func:`save` or :func:`altmin_ext.train`.

    Returns:
        The :class:`Summary`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no checkpoint, has been altered, or is of a newer format.
    """
    header = _file.read_header(path)
    tree = header.tree if isinstance(header.tree, dict) else {}
    method = tree.get("method")
    name = method.get("method") if isinstance(method, dict) else None
    return Summary(
        path=os.fspath(path),
        size=header.size,
        format=header.format,
        altmin_ext_version=header.altmin_ext_version,
        torch_version=header.torch_version,
        holds=tuple(str(key) for key in tree),
        method=name if isinstance(name, str) else None,
        steps=_file.steps(tree),
        options=_dict(_plain(tree.get("options"))),
        extra=_dict(_plain(tree.get("extra"))),
        run=_dict(_plain(tree["run"])) if "run" in tree else None,
        tensors=tuple(TensorEntry(name, tuple(own.shape), own.dtype) for name, own in header.tensors.items()),
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> Any:
    """A tree without its tensors and arrays."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if not isinstance(item, Tensor)}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value if not isinstance(item, Tensor))
    return value


def _listed(values: dict[str, Any]) -> str:
    """Names and values in one line, of which long ones are cut."""
    texts = ((name, repr(value)) for name, value in values.items())
    return ", ".join(f"{name}={text if len(text) <= 60 else text[:57] + '...'}" for name, text in texts)


def _scalars(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not isinstance(value, (dict, list, tuple))}
