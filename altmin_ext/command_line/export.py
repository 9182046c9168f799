"""The command export."""

from __future__ import annotations

import argparse
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from altmin_ext import _check, data, onnx
from altmin_ext._files import write_file
from altmin_ext.command_line import output
from altmin_ext.command_line.streams import say

_SUFFIXES = {
    ".onnx": "onnx",
    ".pt2": "torch.export",
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
}


def formats() -> list[str]:
    """The names that ``--format`` takes."""
    return list(_writers)


def run(arguments: argparse.Namespace) -> None:
    """Write a network that the command train has written in the format of another program."""
    path: Path = arguments.output
    name = arguments.format or _SUFFIXES.get(path.suffix.lower())
    if name is None:
        raise ValueError(
            f"--format must be one of {', '.join(_writers)} where the suffix of --output is none of "
            f"{', '.join(_SUFFIXES)}, as in {path.name}."
        )
    write, is_graph = _writers[_check.known("--format", name, _writers)]
    architecture, model = output.read(arguments.model)
    own: data.Preprocessing | None = architecture["preprocessing"]
    if own is not None and is_graph:
        model = nn.Sequential(_Standardise(own), model, *([] if own.classes else [_Units(own)]))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that no network here needs
    write(model.eval(), torch.zeros(2, *architecture["shape"]), path)
    say(
        f"{name} written to {path}: {_described(architecture, own) if is_graph else 'the weights by their names'}"
    )


def _described(architecture: dict[str, Any], own: data.Preprocessing | None) -> str:
    """What goes in and what comes out."""
    shape = ", ".join(map(str, ["batch", *architecture["shape"]]))
    inputs = f"x ({shape}) float32"
    if own is None:
        return f"{inputs}, as {architecture['data']} is standardised, to logits (batch, {architecture['classes']})"
    if own.features:
        inputs += f", not standardised: {', '.join(own.features)};"
    else:
        inputs += ", not standardised;"
    if own.classes:
        return f"{inputs} to logits (batch, {len(own.classes)}): {', '.join(map(str, own.classes))}"
    return f"{inputs} to numbers (batch, {architecture['classes']}) in the units of the data"


class _Standardise(nn.Module):
    """The standardisation of one's own data."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, own: data.Preprocessing) -> None:
        super().__init__()
        wide = (-1, *[1] * (len(own.shape) - 1))
        self.register_buffer("mean", torch.tensor(own.mean).reshape(wide))
        self.register_buffer("deviation", torch.tensor(own.deviation).reshape(wide))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


class _Units(nn.Module):
    """Standardised numbers in the units of one's own data."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, own: data.Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(own.target_mean))
        self.register_buffer("deviation", torch.tensor(own.target_deviation))

    def forward(self, y: Tensor) -> Tensor:
        return y * self.deviation + self.mean


def _to_torch_export(model: nn.Module, x: Tensor, path: Path) -> None:
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    content = io.BytesIO()
    torch.export.save(program, content)
    write_file(path, content.getvalue())


def _to_safetensors(model: nn.Module, x: Tensor, path: Path) -> None:
    write_file(
        path, safetensors.torch.save({name: value.contiguous() for name, value in model.state_dict().items()})
    )


def _to_torch(model: nn.Module, x: Tensor, path: Path) -> None:
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    write_file(path, content.getvalue())


# name -> what writes it, and whether that is a graph with all computations, or weights alone
_writers: dict[str, tuple[Callable[[nn.Module, Tensor, Path], None], bool]] = {
    "onnx": (onnx.export, True),
    "torch.export": (_to_torch_export, True),
    "safetensors": (_to_safetensors, False),
    "torch": (_to_torch, False),
}
