"""Faults of checkpoints, by name, which a run may be given and the matrix must notice."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable
from typing import Any

from altmin_ext import _batches, _files, _progress, _run_file, history
from altmin_ext.checkpoint import _file
from python_tests.kills.child import Configuration

#: The ends of processes, each at an instant by a signal.
Ends = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        seed: puts it into the library, in this process and for good.
        configuration: a run that suffers from it.
        ends: of its processes.
        notice: how the failure that tells of it begins.
    """

    seed: Callable[[], None]
    configuration: Configuration
    ends: Ends
    notice: str = "the result differs"


def _instead(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Replace a function that must be there; the new one is passed the old one first."""
    old = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **keywords: function(old, *arguments, **keywords))


def _reads(alter: Callable[[dict[str, Any]], object]) -> Callable[[], None]:
    """A process that goes on finds something else in the file."""

    def altered(read: Callable[..., Any], path: Any) -> Any:
        tree = read(path)
        alter(tree)
        return tree

    return lambda: _instead(_file, "read", altered)


def _does_nothing(owner: Any, name: str) -> Callable[[], None]:
    return lambda: _instead(owner, name, lambda *_: None)


def _unlink_before_rename() -> None:
    def replaced(replace: Callable[..., None], source: Any, target: Any) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        replace(source, target)

    _instead(os, "replace", replaced)


def _copied() -> None:
    _instead(os, "replace", lambda _, source, target: shutil.copyfile(source, target))


def _cursor_from_the_last_resume() -> None:
    """What has been read again is not counted, so that the first resume of a pass is right and the second is not."""

    def load(old: Callable[..., None], batches: Any, state: Any) -> None:
        old(batches, state)
        batches.entered_at = state["taken"]

    def state(old: Callable[..., Any], batches: Any) -> Any:
        found = old(batches)
        return {**found, "taken": max(0, found["taken"] - getattr(batches, "entered_at", 0))}

    _instead(_batches.Batches, "load", load)
    _instead(_batches.Batches, "state", state)


def _callbacks_forgotten() -> None:
    def start(old: Callable[..., None], file: Any, run: Any) -> None:
        kept, file._callbacks = file._callbacks, []
        if file._tree is None:
            file._callbacks = kept
        else:
            file._tree["run"]["callbacks"] = []
        old(file, run)
        file._callbacks = kept

    _instead(_run_file.RunFile, "start", start)


def _buffers_forgotten(tree: dict[str, Any]) -> None:
    tree["model"] |= {key: own * 0 for key, own in tree["model"].items() if "running_mean" in key}


_within = (("step 3 last", "SIGKILL"),)
_twice_within = (*_within, ("step 5 last", "SIGKILL"))
_second_epoch = (("step 9 last", "SIGKILL"),)
_in_save = (("save 2 4 before", "SIGKILL"),)
_plain, _noisy = Configuration("am-adam"), Configuration("am-adam", noisy=True)
_cosine = Configuration("am-adam", schedule="cosine")
_rarely = Configuration("am-adam", every=1000)
_dataset = Configuration("am-sgd", "dataset")
_own_generator = Configuration("am-sgd", "loader with 0 workers, own generator")
_stream = Configuration("am-sgd", "stream")

MUTANTS = {
    "no fsync": Mutant(
        _does_nothing(os, "fsync"), _plain, _in_save, "a file gets its name before its content is on disk"
    ),
    "no fsync of the folder": Mutant(
        _does_nothing(_files, "_sync_folder"), _plain, _in_save, "a file has got its name, but the folder"
    ),
    "the file is removed before the new one gets its name": Mutant(
        _unlink_before_rename, _plain, _in_save, "the file is removed"
    ),
    "the file is overwritten": Mutant(_copied, _plain, _in_save, "the file is written in its place"),
    "what a killed process has left stays": Mutant(
        _does_nothing(_files, "_remove_abandoned"), _plain, _in_save, "the folder holds"
    ),
    "no file is written within an epoch": Mutant(
        _does_nothing(_run_file.RunFile, "is_due"), _plain, _within, "the file holds"
    ),
    "nothing is written when a signal ends the run": Mutant(
        _does_nothing(_run_file.RunFile, "rescue"),
        _rarely,
        (("step 4 last", "SIGTERM"),),
        "after an interrupt the file holds",
    ),
    "the cursor counts from the last resume": Mutant(_cursor_from_the_last_resume, _plain, _twice_within),
    "the number of the pass is forgotten": Mutant(
        _reads(lambda tree: tree["method"]["data_order"].update(passes=1)), _plain, _second_epoch
    ),
    "dropout's generator is forgotten": Mutant(
        _reads(lambda tree: tree["run"]["generators"].pop("torch", None)), _noisy, _within
    ),
    "NumPy's generator is forgotten": Mutant(
        _reads(lambda tree: tree["run"]["generators"].pop("numpy", None)), _dataset, _within
    ),
    "the generator of a DataLoader is forgotten": Mutant(
        _does_nothing(_progress, "load_generator"), _own_generator, _within
    ),
    "the state of a stream is forgotten": Mutant(_does_nothing(_progress.Stateful, "load"), _stream, _within),
    "sums of the epoch are lost": Mutant(_does_nothing(history.EpochRecord, "load"), _plain, _within),
    "the callbacks' states are forgotten": Mutant(_callbacks_forgotten, _plain, _within),
    "callbacks that were left out are forgotten": Mutant(
        _reads(lambda tree: tree["run"]["left"].update(on_step=0)), _plain, (("step 3 middle", "SIGTERM"),)
    ),
    "Adam counts its steps anew": Mutant(
        _reads(lambda tree: tree["method"]["update"].update(updates=0)), _plain, _within
    ),
    "buffers are forgotten": Mutant(_reads(_buffers_forgotten), _noisy, _within),
    "the learning rate of the epoch is forgotten": Mutant(
        _reads(lambda tree: tree["method"].update(learning_rate_factor=1.0)), _cosine, _second_epoch
    ),
    "the pass before the steps is made once more": Mutant(
        _reads(lambda tree: tree["run"].update(phase="prepare")), Configuration("dtp"), _within
    ),
}
