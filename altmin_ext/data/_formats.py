"""Readers of the file formats in which the data sets are published: IDX, CIFAR's binary records, CSV.

Each takes the path of a compressed file and returns arrays, or raises :class:`Malformed`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import warnings
import zlib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from altmin_ext._files import open_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GZIP_MAGIC = b"\x1f\x8b"
_CIFAR_RECORD = 1 + 3 * 32 * 32
_BLOCK = 512
_MOST = 1 << 30


class Malformed(ValueError):
    """A file has wrong content. The message is the end of a sentence that begins with the file's name."""


def read_idx(path: Path, ndim: int, sha256: str) -> NDArray[np.uint8]:
    """Read the array in a gzip-compressed IDX file of unsigned bytes.

    IDX: two zero bytes, the type code (8: unsigned byte), the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the values in row-major order.

    Args:
        path: the file.
        ndim: the number of dimensions that the array must have.
        sha256: of the uncompressed content, since the gzip wrapper around it differs from mirror to mirror.
    """
    with _Content(path, "gzip file") as file:
        header = file.read(4 + 4 * ndim)
        sound = len(header) == 4 + 4 * ndim and header[:4] == bytes([0, 0, 8, ndim])
        shape = tuple(np.frombuffer(header, ">u4", offset=4).tolist()) if sound else ()
        announced = math.prod(shape)
        values = file.read(announced)
        excess = file.skip()  # to the end, where gzip has a checksum
    if not sound and header[:2] == b"\0\0" and len(header) == 4 + 4 * ndim:
        raise Malformed(
            f"holds {header[3]} dimensions of IDX type {header[2]}, not {ndim} of type 8 (unsigned byte)"
        )
    if not sound:
        raise Malformed("is not an IDX file")
    if len(values) != announced or excess:
        raise Malformed(f"announces an array of shape {shape} but holds {len(values) + excess} values")
    _check_sha256(header + values, sha256)
    return np.frombuffer(values, np.uint8).reshape(shape)


def read_cifar(path: Path, sha256: Mapping[str, str]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Read images (N, 3, 32, 32) and labels (N,) from members of CIFAR-10's binary archive.

    A member is a sequence of records: one byte of label, then 1,024 bytes each of red, green and blue, row by row.

    Args:
        path: the .tar.gz file.
        sha256: file name -> sha256 of each member to read; the result is in this order.
    """
    members: dict[str, bytes] = {}
    with _Content(path, "tar archive") as archive:
        for name, content in _members(archive, sha256):
            if name in members:
                raise Malformed(f"holds {name} twice")
            members[name] = content
    batches = []
    for name, expected in sha256.items():
        if name not in members:
            raise Malformed(f"lacks {name}")
        content = members[name]
        if not content or len(content) % _CIFAR_RECORD:
            raise Malformed(f"holds {len(content)} bytes of {name}, which is no multiple of {_CIFAR_RECORD}")
        records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)
        images, labels = records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
        if labels.max() > 9:
            raise Malformed(f"holds the label {labels.max()} in {name}, where 0 to 9 are allowed")
        _check_sha256(content, expected, of=f" of {name}")
        batches.append((images, labels))
    return batches


def read_csv(path: Path, columns: int, rows: int | None = None) -> NDArray[np.float32]:
    """Read the numbers (rows, columns) in a gzip-compressed CSV file without header.

    Args:
        path: the file.
        columns: the number of columns that every row must have.
        rows: the number of rows that there must be; None for any number.
    """
    try:
        # One row too many is enough to know. Without rows NumPy warns, which is not all that is wrong then.
        with (
            open_file(path) as packed,
            gzip.open(packed, "rt", encoding="ascii") as file,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", UserWarning)
            most = None if rows is None else rows + 1
            table = np.loadtxt(file, np.float32, delimiter=",", comments=None, ndmin=2, max_rows=most)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Malformed(f"is a damaged gzip file ({error})") from error
    except (ValueError, OverflowError) as error:
        reason = str(error).partition(";")[0].rstrip(".")
        raise Malformed(f"is not a table of numbers ({reason[:200]})") from error
    if rows is not None and len(table) != rows:
        found = f"{len(table):,}" if len(table) < rows else f"more than {rows:,}"
        raise Malformed(f"holds {found} rows instead of {rows:,}")
    if table.shape[1] != columns:
        raise Malformed(f"holds {table.shape[1]} columns instead of {columns}")
    finite = np.isfinite(table)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise Malformed(
            f"holds {table[row, column]}, no finite number, in row {row + 1}, column {column + 1}"
        )
    return table


class _Content:
    """The content of a file, compressed by gzip or not; what it holds takes memory, what it announces does not.

    Args:
        path: the file.
        kind: what it is, for the message.
    """

    _piece = 1 << 20

    def __init__(self, path: Path, kind: str) -> None:
        self._kind = kind
        self._opened = contextlib.ExitStack()
        file = self._opened.enter_context(open_file(path))
        # A file that is not packed was unpacked on the way: the server declared .gz as an encoding of the content.
        packed = file.peek(2)[:2] == _GZIP_MAGIC
        self._file = self._opened.enter_context(gzip.open(file)) if packed else file  # noqa: SIM115

    def __enter__(self) -> _Content:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read(self, size: int) -> bytes:
        """Read so many bytes, or all that are left if there are fewer."""
        if size > _MOST:
            raise Malformed(
                f"announces {size:,} bytes in one piece, of which no data set has more than {_MOST:,}"
            )
        return b"".join(self._pieces(size))

    def skip(self, size: int | None = None) -> int:
        """Skip so many bytes, None for all that are left; returns how many there were."""
        return sum(map(len, self._pieces(size)))

    def _pieces(self, size: int | None) -> Iterator[bytes]:
        while size is None or size > 0:
            try:
                piece = self._file.read(self._piece if size is None else min(size, self._piece))
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise Malformed(f"is a damaged {self._kind} ({error})") from error
            if not piece:
                return
            size = None if size is None else size - len(piece)
            yield piece


def _members(archive: _Content, wanted: Container[str]) -> Iterator[tuple[str, bytes]]:
    """The wanted files in a tar archive, each as (name without folders, content).

    An archive is a sequence of members, each a header of 512 bytes and the content, filled up to a multiple of
    512 bytes; a header of zeros ends it. In the header: the name in bytes 0 to 100, the size as octal digits in 124
    to 136, the sum of the header's bytes in 148 to 156 (with spaces in its own place), the type in 156, "0" or zero
    for a file. Links and everything else that is no file are passed over.
    """
    while any(header := archive.read(_BLOCK)):
        spaced = header[:148] + 8 * b" " + header[156:]
        if len(header) < _BLOCK or _octal(header[148:156]) != sum(spaced):
            raise Malformed("is a damaged tar archive")
        name = PurePosixPath(header[:100].partition(b"\0")[0].decode(errors="replace")).name
        size = _octal(header[124:136])
        content = archive.read(size) if header[156:157] in (b"0", b"\0") and name in wanted else None
        there = archive.skip(size) if content is None else len(content)
        if there < size or archive.skip(-size % _BLOCK) < -size % _BLOCK:
            raise Malformed("is a damaged tar archive")
        if content is not None:
            yield name, content
    if not header:
        raise Malformed("is a damaged tar archive")


def _octal(digits: bytes) -> int:
    digits = digits.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise Malformed("is a damaged tar archive")
    return int(digits, 8)


def _check_sha256(content: bytes, expected: str, of: str = "") -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise Malformed(
            f"is not as published: the sha256 of its content{of} is {actual} instead of {expected}"
        )
