"""The folder that ``altmin train --output`` writes: a network with its description, histories, learning curves."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from altmin_ext._files import Replacement, from_json, read_file, sealed, unsealed
from altmin_ext.command_line import networks
from altmin_ext.history import History, plot_histories

_MODEL = "model.safetensors"
_PICTURE = "learning-curve.png"
_FORMAT = "model 1"


class Output:
    """Writes the results of a run: model.safetensors, a history for every method, learning curves.

    ``safetensors.torch.load_file`` reads from model.safetensors what ``load_state_dict`` of the network takes. The
    file's metadata describe the network and state the sha256 of everything, so that an alteration is noticed. Each
    file is complete without the others.

    Args:
        folder: the folder; made if it is missing.
        architecture: the result of :func:`networks.architecture`.
        labels: of the methods, in the order of their training.
    """

    def __init__(self, folder: Path, architecture: dict[str, Any], labels: Iterable[str]) -> None:
        self.folder = folder
        self._architecture = architecture
        self._histories: dict[str, str] = {}  # label -> file name
        for label in labels:
            suffix = "-" + re.sub(r"[^\w.]+", "-", label) if self._histories else ""
            name, number = f"history{suffix}.json", 1
            while name in self._histories.values():
                number += 1
                name = f"history{suffix}-{number}.json"
            self._histories[label] = name

    def rehearse(self, model: nn.Module) -> None:
        """Write everything as it will be written, as far as it is known, and remove it again.

        Raises:
            ValueError: the folder is something else.
            OSError: a file cannot be written, or the disk is full.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(
                f"--output must be a folder, but {str(self.folder)!r} is none; name another one."
            )
        with Replacement(rehearsal=True) as files:
            self._write(files, model, {label: History() for label in self._histories}, "")

    def write(self, model: nn.Module, histories: Mapping[str, History], ended: str) -> list[str]:
        """Write the first method's model and the histories of all that have been trained.

        Args:
            model: of the first method.
            histories: by label.
            ended: how the training of the first method ended.

        Returns:
            The names of the files.

        Raises:
            OSError: a file cannot be written; if not all of them can be, none is.
        """
        with Replacement() as files:
            return self._write(files, model, histories, ended)

    def _write(
        self, files: Replacement, model: nn.Module, histories: Mapping[str, History], ended: str
    ) -> list[str]:
        description = {
            **self._architecture,
            "ended": ended,
            "histories": {label: self._histories[label] for label in histories},
        }
        contents = {_MODEL: _to_bytes(model.state_dict(), description)}
        contents |= {self._histories[label]: history.to_bytes() for label, history in histories.items()}
        for name, content in contents.items():
            files.write(self.folder / name, content)
        return list(contents)

    def draw(self, histories: Mapping[str, History], held_out: str) -> str:
        """Draw the learning curves; returns the name of the file."""
        plot_histories(histories, self.folder / _PICTURE, held_out=held_out)
        return _PICTURE


def read(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """Read a network that :class:`Output` has written.

    Returns:
        Its architecture, and the network on the CPU.

    Raises:
        ValueError: the folder holds no such network, or its file has been altered.
    """
    try:
        if not (folder / _MODEL).exists() and (folder / "model.pt").exists():
            raise ValueError(
                f"it holds no {_MODEL}, but model.pt and model.json of an earlier version, whose weights "
                "torch.load reads; train anew for this one"
            )
        description, weights = _from_bytes(read_file(folder / _MODEL))
        model = networks.make(description)
        model.load_state_dict(weights)
    except Exception as error:  # a description by another version may ask for anything
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__} "
        raise ValueError(
            f"--model must be a folder written by `altmin train --output`, but {str(folder)!r} is not: "
            f"{kind}{str(error).rstrip('.')}."
        ) from error
    return description, model


def _to_bytes(weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    digests = {name: _sha256(weight) for name, weight in weights.items()}
    text = sealed({**description, "tensors": digests}).decode()
    metadata = {"format": "pt", "altmin_ext": _FORMAT, "description": text}
    return safetensors.torch.save(dict(weights), metadata)


def _from_bytes(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    length = int.from_bytes(content[:8], "little")
    metadata = from_json(content[8 : 8 + length])["__metadata__"]
    description = unsealed(metadata["description"].encode())
    weights = safetensors.torch.load(content)
    if {name: _sha256(weight) for name, weight in weights.items()} != description.pop("tensors"):
        raise ValueError("its weights do not have the sha256 that it states")
    return description, weights


def _sha256(weight: Tensor) -> str:
    return hashlib.sha256(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()
