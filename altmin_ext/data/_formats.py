"""Readers of the file formats in which the data sets are published: IDX, CIFAR's binary records, CSV.

Each takes the path of a compressed file and returns arrays, or raises :class:`Malformed`.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

_GZIP_MAGIC = b"\x1f\x8b"
_CIFAR_RECORD = 1 + 3 * 32 * 32


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
    content = _decompress(path)
    header = 4 + 4 * ndim
    if len(content) < header or content[:2] != b"\0\0":
        raise Malformed("is not an IDX file")
    if content[2] != 8 or content[3] != ndim:
        raise Malformed(
            f"holds {content[3]} dimensions of IDX type {content[2]}, not {ndim} of type 8 (unsigned byte)"
        )
    shape = tuple(np.frombuffer(content, ">u4", count=ndim, offset=4).tolist())
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != np.prod(shape, dtype=np.int64):
        raise Malformed(f"announces an array of shape {shape} but holds {values.size} values")
    _check_sha256(content, sha256)
    return values.reshape(shape)


def read_cifar(path: Path, sha256: Mapping[str, str]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Read images (N, 3, 32, 32) and labels (N,) from members of CIFAR-10's binary archive.

    A member is a sequence of records: one byte of label, then 1,024 bytes each of red, green and blue, row by row.

    Args:
        path: the .tar.gz file.
        sha256: file name -> sha256 of each member to read; the result is in this order.
    """
    members = _unpack(path, sha256)
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
        path: the file; its name must end in ".gz".
        columns: the number of columns that every row must have.
        rows: the number of rows that there must be; None for any number.
    """
    try:
        table = np.loadtxt(path, dtype=np.float32, delimiter=",", comments=None, ndmin=2)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Malformed(f"is a damaged gzip file ({error})") from error
    except ValueError as error:
        raise Malformed(f"is not a table of numbers ({str(error).split(';')[0].rstrip('.')})") from error
    if table.shape[1] != columns:
        raise Malformed(f"holds {table.shape[1]} columns instead of {columns}")
    if rows is not None and len(table) != rows:
        raise Malformed(f"holds {len(table):,} rows instead of {rows:,}")
    return table


def _decompress(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(_GZIP_MAGIC):
        return content  # unpacked on the way, if the server declares .gz as an encoding of the content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Malformed(f"is a damaged gzip file ({error})") from error


def _unpack(path: Path, wanted: Mapping[str, str]) -> dict[str, bytes]:
    members = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in wanted and (file := archive.extractfile(member)) is not None:
                    members[name] = file.read()
    except (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error) as error:
        raise Malformed("is a damaged tar archive") from error
    return members


def _check_sha256(content: bytes, expected: str, of: str = "") -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise Malformed(
            f"is not as published: the sha256 of its content{of} is {actual} instead of {expected}"
        )
