"""The folder that ``altmin train --output`` writes: a network, and for every method a history and a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from altmin_ext import checkpoint
from altmin_ext._files import Replacement
from altmin_ext.checkpoint import _file
from altmin_ext.command_line import networks
from altmin_ext.data import Preprocessing
from altmin_ext.history import History, plot_histories, report_histories

_MODEL = "model.safetensors"
_PICTURE = "learning-curve.png"
_REPORT = "report.html"
# What is there in place of a model, and what to do.
_ELSEWHERE = {
    "checkpoint.safetensors": "of a run that has yet to end; go on with it by `altmin train --resume`",
    "model.pt": "of an earlier version, whose weights torch.load reads; train anew for this one",
}
_DESCRIPTION = "extra"  # in the file of a model, where `inspect` finds it; no weight has this name


class Output:
    """Writes the results of a run: model.safetensors, a history for every method, a report, learning curves.

    ``safetensors.torch.load_file`` reads from model.safetensors what ``load_state_dict`` of the network takes. The
    same file describes the network, and every bit of it is under a sha256. Each file is complete without the others.

    Args:
        folder: the folder; made if it is missing.
        architecture: the result of :func:`networks.architecture`.
        labels: of the methods, in the order of their training.

    Attributes:
        checkpoints: by label, where the checkpoint of a method goes, which :func:`altmin_ext.train` writes.
    """

    def __init__(self, folder: Path, architecture: dict[str, Any], labels: Iterable[str]) -> None:
        self.folder = folder
        self._architecture = architecture
        suffixes: dict[str, str] = {}
        for label in labels:
            suffix = name = "-" + re.sub(r"[^\w.]+", "-", label) if suffixes else ""
            number = 1
            while suffix in suffixes.values():
                number += 1
                suffix = f"{name}_{number}"  # not by a hyphen, as former checkpoints have their numbers
            suffixes[label] = suffix
        self._histories = {label: f"history{suffix}.json" for label, suffix in suffixes.items()}
        self.checkpoints = {
            label: folder / f"checkpoint{suffix}.safetensors" for label, suffix in suffixes.items()
        }

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
            for path in (*self.checkpoints.values(), self.folder / _REPORT):
                files.open(path)

    def check_checkpoints(self, settings: Mapping[str, Mapping[str, Any]], epochs: int, resume: bool) -> None:
        """Raise a ValueError if a run in the folder would be lost, or is another than the one to go on with.

        Args:
            settings: by label, what :func:`checkpoint_state` was passed, too.
            epochs: likewise.
            resume: whether runs in the folder go on.
        """
        for label, path in self.checkpoints.items():
            if path.exists():
                _check_checkpoint(path, settings[label], epochs, resume)

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
        names = {label: self._histories[label] for label in histories}
        description = {**self._architecture, "ended": ended, "histories": names}
        _file.add(files, self.folder / _MODEL, {**model.state_dict(), _DESCRIPTION: description})
        for label, history in histories.items():
            files.write(self.folder / names[label], history.to_bytes())
        return [_MODEL, *names.values()]

    def report(self, histories: Mapping[str, History], held_out: str) -> str:
        """Write a page about all runs; returns the name of the file."""
        report_histories(histories, self.folder / _REPORT, held_out=held_out)
        return _REPORT

    def draw(self, histories: Mapping[str, History], held_out: str) -> str:
        """Draw the learning curves; returns the name of the file."""
        plot_histories(histories, self.folder / _PICTURE, held_out=held_out)
        return _PICTURE


def checkpoint_state(settings: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """What a callback of a run has to keep in its checkpoint.

    Args:
        settings: by flag, all that must be the same when the run goes on.
        epochs: of the run.
    """
    return {_STATE: {"settings": dict(settings), "epochs": epochs}}


def state_of(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """What :func:`checkpoint_state` has put into a checkpoint; None for a run of another program.

    Args:
        run: as :func:`altmin_ext.checkpoint.inspect` returns it.
    """
    states = [state for _, state in run["callbacks"] if _STATE in state]
    return states[0][_STATE] if states else None


_STATE = "altmin train"


def _check_checkpoint(path: Path, settings: Mapping[str, Any], epochs: int, resume: bool) -> None:
    run = checkpoint.inspect(path).run
    state = None if run is None else state_of(run)
    if run is None or state is None:
        raise ValueError(
            f"--output must be a folder of `altmin train`, but {str(path)!r} is none of its checkpoints; name "
            "another folder."
        )
    if not resume:
        is_over = run["phase"] == "begin" and (run["stopped"] or run["epoch"] >= state["epochs"])
        if is_over or run["step"] == 0:
            return
        raise ValueError(
            f"--output must be a folder without an unfinished run, but {str(path)!r} is of one that stands at "
            f"minibatch {run['step']} in epoch {run['epoch']} of {state['epochs']}: go on with it by --resume, name "
            "another folder, or remove the file."
        )
    if epochs < state["epochs"]:
        raise ValueError(f"--epochs must be at least {state['epochs']}, {_as_in_run(path, epochs)}")
    for flag, value in settings.items():
        earlier = state["settings"].get(flag)
        if value != earlier:
            raise ValueError(f"{flag} must be {shown(earlier)}, {_as_in_run(path, value)}")


def _as_in_run(path: Path, value: Any) -> str:
    return f"as in the run of {str(path)!r} that --resume goes on with, but is {shown(value)}."


def shown(value: Any) -> str:
    """The value of a flag as it is written on a command line."""
    if value is None:
        return "left out"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def read(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """Read a network that :class:`Output` has written.

    Args:
        folder: the folder, or the file of the model itself.

    Returns:
        Its architecture, where "preprocessing" is that of one's own data, or None; and the network on the CPU.

    Raises:
        ValueError: the folder holds no such network, or its file has been altered.
    """
    try:
        path = folder if folder.is_file() else folder / _MODEL
        if not path.exists():
            for name, remedy in _ELSEWHERE.items():
                if (folder / name).exists():
                    raise ValueError(f"it holds no {_MODEL}, but {name} {remedy}")
        weights = _file.read(path)
        description = weights.pop(_DESCRIPTION)
        own = description.get("preprocessing")
        description["preprocessing"] = None if own is None else Preprocessing.from_dict(own)
        model = networks.make(description)
        model.load_state_dict(weights)
    except Exception as error:  # a description by another version may ask for anything
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__} "
        raise ValueError(
            f"--model must be a folder written by `altmin train --output`, but {str(folder)!r} is not: "
            f"{kind}{str(error).rstrip('.')}."
        ) from error
    return description, model
