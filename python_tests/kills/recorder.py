"""The system calls of a save: counted, checked for their order, and made to fail on demand."""

from __future__ import annotations

import builtins
import errno
import hashlib
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

_needs_space = ("open", "write", "fsync", "link", "mkdir")


class Recorder:
    """Stands between a program and the system, for all that writes to the folder of one file.

    A save begins when the folder is made, should it not be there, or else when a file is opened for writing. Its
    calls are numbered from 1, until the next one begins; those before the first belong to save 0. Every call has the
    instants ``save SAVE CALL before`` and ``save SAVE CALL after``, and a write has ``save SAVE CALL within``, when
    half of its bytes have been written.

    Args:
        path: the file.
        reached: is told every instant; returns the number of an error that the call is to end with, or None. ENOSPC
            lasts: from then on, nothing that needs space succeeds.
        say: is told what the calls mean: ``saving``, whether a save is under way; ``replacing`` and ``replaced`` with
            the sha256 of what gets the file's name; ``disorder`` with a sentence if the order of the calls could lose
            the file when the machine stops.
    """

    def __init__(self, path: Path, reached: Callable[[str], int | None], say: Callable[..., None]) -> None:
        self._path, self._folder = str(path.absolute()), str(path.absolute().parent)
        self._reached, self._say = reached, say
        self.save, self.call = 0, 0
        self.saves: list[list[str]] = [[]]  # the calls of each
        self._files: dict[str, _Raw] = {}  # by name
        self._descriptors: dict[int, str] = {}  # what they are open on
        self._name_unsynced = self._full = False
        self._process = os.getpid()
        self._real: dict[str, Callable[..., Any]] = {}

    def install(self) -> None:
        """Take the place of the system's functions, in this process and for good."""
        self._open_file = builtins.open
        builtins.open = io.open = self._opened  # type: ignore[assignment]
        own = {"open": self._open, "close": self._close, "fsync": self._fsync, "fdatasync": self._fsync}
        own |= {"unlink": self._unlink, "remove": self._unlink, "mkdir": self._mkdir}
        names = dict.fromkeys(("replace", "rename", "link"), self._moved)
        plain = dict.fromkeys(("fchmod", "fchown", "chmod", "write", "truncate"), self.made)
        for name, function in {**own, **names, **plain}.items():
            self._real[name] = getattr(os, name)
            setattr(os, name, self._instead(name, function))

    def _instead(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(where: Any, *arguments: Any, **keywords: Any) -> Any:
            if os.getpid() != self._process or not self._concerns(where):
                return self._real[name](where, *arguments, **keywords)
            return function(name, where, *arguments, **keywords)

        return called

    def _concerns(self, where: Any) -> bool:
        if isinstance(where, int):
            return where in self._descriptors
        name = _absolute(where)
        return self._folder in (name, os.path.dirname(name))

    def made(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """Make a call of ``os``, between its two instants."""
        return self.between(name, lambda: self._real[name](*arguments, **keywords))

    def between(self, name: str, call: Callable[[], Any]) -> Any:
        """Make a call between its two instants."""
        self.call += 1
        self.saves[-1].append(name)
        self.instant("before")
        try:
            found = call()
        except OSError:
            self.instant("after")
            raise
        self.instant("after")
        return found

    def instant(self, side: str) -> None:
        """Tell where the save is; raises what the call is to end with."""
        code = self._reached(f"save {self.save} {self.call} {side}")
        self._full |= code == errno.ENOSPC
        if self._full and side != "after":
            code = errno.ENOSPC if self.saves[-1][-1] in _needs_space else None
        if code is not None:
            raise OSError(code, os.strerror(code))

    def _begin(self) -> None:
        self.completed()
        self.save, self.call = self.save + 1, 0
        self.saves.append([])
        self._say(saving=True)

    def completed(self) -> None:
        """Nothing is being saved; whatever has got its name must stay."""
        if self._name_unsynced:
            self._say(disorder="a file has got its name, but the folder has not been brought to disk")
            self._name_unsynced = False

    def _opened(self, file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        reads = not set(mode) & set("wxa+")
        if reads or isinstance(file, int) or os.getpid() != self._process or not self._concerns(file):
            return self._open_file(file, mode, *arguments, **keywords)
        if not self.save or "open" in self.saves[-1]:
            self._begin()
        name = _absolute(file)
        if name == self._path:
            self._say(disorder="the file is written in its place")
        raw = self.between("open", lambda: _Raw(self, name, mode.replace("b", "")))
        self._files[name] = raw
        self._descriptors[raw.fileno()] = name
        return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

    def _open(self, name: str, where: Any, *arguments: Any, **keywords: Any) -> int:
        descriptor: int = self._real[name](where, *arguments, **keywords)
        self._descriptors[descriptor] = _absolute(where)
        return descriptor

    def _mkdir(self, name: str, where: Any, *arguments: Any, **keywords: Any) -> None:
        self._begin()
        self.made(name, where, *arguments, **keywords)

    def _close(self, name: str, descriptor: int) -> None:
        self.made(name, descriptor)
        self.closed(descriptor)

    def closed(self, descriptor: int) -> None:
        """A descriptor is free for other files."""
        self._descriptors.pop(descriptor, None)

    def _fsync(self, name: str, descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self._name_unsynced = False  # even if it fails: not every file system can
            self.made(name, descriptor)
            self._say(saving=False)
            return
        self.made(name, descriptor)
        if self._descriptors[descriptor] in self._files:
            self._files[self._descriptors[descriptor]].synced = True

    def _moved(self, name: str, source: Any, target: Any, **keywords: Any) -> None:
        source, target = _absolute(source), _absolute(target)
        if source == self._path and name != "link":
            self._say(disorder="the file is moved away")
        raw = self._files.get(source)
        if raw is None:
            self.made(name, source, target, **keywords)
            return
        if not raw.synced:
            self._say(disorder="a file gets its name before its content is on disk")
        content = None
        if target == self._path:
            with self._open_file(source, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
            self._say(replacing=content)

        def move() -> None:
            self._real[name](source, target, **keywords)
            self._name_unsynced = True
            if content:
                self._say(replaced=content, size=os.stat(target).st_size)

        self.between(name, move)

    def _unlink(self, name: str, where: Any, **keywords: Any) -> None:
        if _absolute(where) == self._path:
            self._say(disorder="the file is removed")
        self.made(name, where, **keywords)


class _Raw(io.FileIO):
    """A file each of whose writes is one system call, or two with an instant between them.

    Attributes:
        synced: whether all of it has been brought to disk.
    """

    def __init__(self, recorder: Recorder, name: str, mode: str) -> None:
        super().__init__(name, mode)
        self._recorder = recorder
        self.synced = False

    def write(self, data: Any) -> int:
        return self._recorder.between("write", lambda: self._write_in_two(bytes(data)))

    def _write_in_two(self, data: bytes) -> int:
        self.synced = False
        written = super().write(data[: len(data) // 2])
        self._recorder.instant("within")
        return written + super().write(data[written:])

    def close(self) -> None:
        if not self.closed:
            descriptor = self.fileno()
            self._recorder.between("close", super().close)
            self._recorder.closed(descriptor)


def _absolute(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))
