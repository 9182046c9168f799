"""Files that are written completely or not at all, files that are read with suspicion, and JSON with a seal."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

# Files still being written: their names begin like this, and their writers hold a lock on them.
_UNFINISHED = ".altmin_ext-unfinished-"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that gets the name ``path`` only when it is complete and on disk.

    See :class:`Replacement`.

    Raises:
        OSError: the file cannot be written; a file that was there before is untouched.
    """
    with Replacement() as files:
        yield files.open(path)


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file completely or not at all, see :class:`Replacement`.

    Raises:
        OSError: the file cannot be written; a file that was there before is untouched.
    """
    with Replacement() as files:
        files.write(path, content)


class Replacement:
    """Writes one or more files, which get their names only when all of them are complete and on disk.

    If the block raises, the disk fills or the machine stops while they are written, earlier files of these names
    are untouched. The names are given one after the other, in the order of :meth:`open`; only a machine that stops
    between two of them leaves a part of the files.

    Missing folders are made. A link is followed. Mode and owner of an earlier file are kept; other hard links to it
    keep the earlier content. What an earlier process, killed while it wrote, has left in the folder is removed.

    Args:
        rehearsal: whether to stop before the files get their names, and remove them again. What they would replace is
            untouched.
    """

    def __init__(self, *, rehearsal: bool = False) -> None:
        self._rehearsal = rehearsal
        self._files: list[_Unfinished] = []

    def open(self, path: str | os.PathLike[str], *, size: int = 0, keep_as: str | None = None) -> BinaryIO:
        """Open another file.

        Args:
            path: of the file.
            size: bytes that the file will have at least. The space is taken at once, so that a full disk is told
                before anything is written, and writing is faster.
            keep_as: a name in the same folder, or where a link leads to, that a file which is replaced has from then
                on. What had that name before is lost. None for no name, so that the file is removed.

        Raises:
            OSError: something else than a file is there, or it is read-only, or no file can be made in that folder.
        """
        path = Path(path)
        with naming(path):
            target, earlier = _target(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(target.parent)
            file, name = _new_file(target.parent)
            former = None if keep_as is None or earlier is None else target.with_name(keep_as)
            self._files.append(_Unfinished(path, target, file, name, former))
            if earlier is not None:
                with contextlib.suppress(OSError):  # only root may give files away
                    os.fchown(file.fileno(), earlier.st_uid, earlier.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(earlier.st_mode))
            _take_space(file, size)
        return file

    def write(self, path: str | os.PathLike[str], content: bytes) -> None:
        """Open another file, and write its whole content."""
        file = self.open(path)
        with naming(Path(path)):
            file.write(content)

    def __enter__(self) -> Replacement:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for unfinished in self._files:
                    with naming(unfinished.path):
                        unfinished.file.flush()
                        os.fsync(unfinished.file.fileno())
                for unfinished in [] if self._rehearsal else self._files:
                    # os.replace is atomic only within one file system, hence the same folder.
                    if unfinished.former is not None:
                        with naming(unfinished.former):
                            _keep(unfinished.target, unfinished.former)
                    with naming(unfinished.path):
                        os.replace(unfinished.name, unfinished.target)
                for folder in {unfinished.target.parent for unfinished in self._files}:
                    _sync_folder(folder)
        finally:
            for unfinished in self._files:
                unfinished.name.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # of what could not be flushed, which has been reported
                    unfinished.file.close()


class _Unfinished(NamedTuple):
    path: Path  # as given
    target: Path  # where that points to
    file: BinaryIO
    name: Path  # of the file until it is complete
    former: Path | None  # the name that what it replaces is kept by


def _target(path: Path) -> tuple[Path, os.stat_result | None]:
    """Where a path points to, and what is there; raises if it cannot be replaced by a file."""
    try:
        earlier = os.stat(path)
    except FileNotFoundError:
        return Path(os.path.realpath(path)), None
    if not stat.S_ISREG(earlier.st_mode):
        _refuse(path, earlier.st_mode)
    # Replacing a file needs no permission of the file itself; a user who has taken it away means it.
    if not earlier.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it is read-only")
    return Path(os.path.realpath(path)), earlier


def _refuse(path: Path, mode: int) -> NoReturn:
    """Raise the error for something that is no file."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} must be a file, but is a folder.")
    kinds = ((stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    kind = next((word for is_kind, word in kinds if is_kind(mode)), "device")
    raise OSError(f"{path} must be a file, but is a {kind}.")


def _new_file(folder: Path) -> tuple[BinaryIO, Path]:
    """A new, locked file in a folder."""
    while True:
        name = folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
        file = open(name, "xb")  # noqa: SIM115  (closed by Replacement)
        with contextlib.suppress(OSError):  # a file system without locks, on which nothing is removed either
            fcntl.flock(file, fcntl.LOCK_EX)
        # Before it was locked, another process may have taken it for abandoned.
        if name.exists():
            return file, name
        file.close()


def _keep(path: Path, former: Path) -> None:
    """Give a file a second name, which may be that of another one; a copy where the file system has no links."""
    with contextlib.suppress(FileNotFoundError):
        former.unlink()
    try:
        os.link(path, former)
    except OSError:
        with open(path, "rb") as file, Replacement() as files:
            copy = files.open(former)
            os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(file.fileno()).st_mode))
            shutil.copyfileobj(file, copy)


def _take_space(file: BinaryIO, size: int) -> None:
    """Have the file system set bytes aside for a file, where it can."""
    try:
        if size:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def _remove_abandoned(folder: Path) -> None:
    """Remove the unfinished files in a folder whose writers are gone, and with them their locks."""
    for name in folder.glob(f"{_UNFINISHED}*"):
        # Errors: another process has removed it, is still writing it, or owns it.
        with contextlib.suppress(OSError), open(name, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            name.unlink()


@contextlib.contextmanager
def set_aside(path: Path) -> Iterator[None]:
    """Within the block no file has this name. Afterwards the earlier one has it again, unless there is another one.

    If the process is killed within the block, the earlier file goes with what else a killed process has left.

    Raises:
        OSError: the file cannot be renamed.
    """
    if not path.exists():
        yield
        return
    aside = path.with_name(f"{_UNFINISHED}{path.name}")
    with open(path, "rb") as file:
        with contextlib.suppress(OSError):  # as above
            fcntl.flock(file, fcntl.LOCK_EX)
        with naming(path):
            os.replace(path, aside)
        try:
            yield
        finally:
            if path.exists():
                aside.unlink(missing_ok=True)
            elif aside.exists():
                os.replace(aside, path)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make errors of the system, which name another file or none, a sentence about this one."""
    try:
        yield
    except OSError as error:
        if str(error).startswith((f"{path} must be", f"{path} cannot be")):
            raise
        sentence = type(error)(f"{path} cannot be written: {error.strerror or error}.")
        sentence.errno = error.errno
        raise sentence from error


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Read a file, but no pipe or device, which may never end.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    with open_file(path) as file:
        return file.read()


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file for reading, see :func:`read_file`."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        _refuse(Path(path), mode)
    return open(path, "rb")


def to_json(document: Any, indent: int | None = None) -> str:
    """The document as standard JSON: numbers that are not finite become null, NumPy's and torch's plain ones."""
    return json.dumps(_plain(document), allow_nan=False, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value


def from_json(text: bytes) -> Any:
    """Read standard JSON, every name once in its object and every number finite.

    Raises:
        ValueError: the text is something else. The message is the end of a sentence.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite_number
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a name occurs twice in an object")
    return document


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _finite_number(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def sealed(document: dict[str, Any], indent: int | None = None) -> bytes:
    """The document as JSON with a seal, by which :func:`unsealed` notices every alteration."""
    # Through JSON and back: the seal is of what a reader finds.
    plain = json.loads(to_json(document))
    return to_json({**plain, "sha256": _seal(plain)}, indent).encode()


def unsealed(text: bytes) -> dict[str, Any]:
    """The document that :func:`sealed` has written.

    Raises:
        ValueError: the text is something else, or has been altered. The message is the end of a sentence.
    """
    document = from_json(text)
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    if document.pop("sha256", None) != _seal(document):
        raise ValueError("its content does not have the sha256 that it states")
    return document


def _seal(document: dict[str, Any]) -> str:
    try:
        text = json.dumps(document, sort_keys=True)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return hashlib.sha256(text.encode()).hexdigest()
