"""The folder that ``altmin train --output`` writes: a network with its description, histories, learning curves."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from altmin_ext._files import Replacement, read_file, sealed, unsealed
from altmin_ext.command_line import networks
from altmin_ext.history import History, plot_histories

_PICTURE = "learning-curve.png"


class Output:
    """Writes the results of a run.

    The description, model.json, states the sha256 of all other files but the picture, and its own. So a model and a
    description that do not belong together are noticed.

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
        weights = io.BytesIO()
        torch.save(model.state_dict(), weights)
        contents = {"model.pt": weights.getvalue()}
        contents |= {self._histories[label]: history.to_bytes() for label, history in histories.items()}
        description = {
            **self._architecture,
            "ended": ended,
            "histories": {label: self._histories[label] for label in histories},
            "files": {name: _sha256(content) for name, content in contents.items()},
        }
        contents = {"model.json": sealed(description, indent=2), **contents}
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
        ValueError: the folder holds no such network, or one of its files has been altered or replaced.
    """
    try:
        description = unsealed(read_file(folder / "model.json"))
        weights = read_file(folder / "model.pt")
        if description["files"]["model.pt"] != _sha256(weights):
            raise ValueError("model.pt does not belong to model.json: its sha256 is another")
        model = networks.make(description)
        model.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
    except Exception as error:  # what another version has written may make torch.load raise almost anything
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__} "
        raise ValueError(
            f"--model must be a folder written by `altmin train --output`, but {str(folder)!r} is not: "
            f"{kind}{str(error).rstrip('.')}."
        ) from error
    return description, model


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
