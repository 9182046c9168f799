"""One file that holds a tree: a safetensors file whose header carries the tree's document and its own seal.

The header's metadata are strings:

- ``format``: ``pt``, as safetensors' own files for torch have it;
- ``altmin_ext``: ``checkpoint 1``, the format;
- ``sha256``: the seal, the sha256 of the whole header with zeros in its place;
- ``altmin_ext_version``, ``torch_version``: of the writer;
- ``tree``: the document of :mod:`altmin_ext.checkpoint._tree`, as JSON;
- ``tensors``: the sha256 of every tensor's bytes, by name, as JSON.

So every bit of the file is under a sha256, and a header has just one form: a reader composes it anew from what
safetensors has understood, and takes no other. It is written here, since safetensors' own writers either build the
whole file in memory, or write a temporary file of their own, which nobody brings to disk and a kill leaves behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from altmin_ext._files import Replacement, from_json, naming, open_file
from altmin_ext._version import __version__
from altmin_ext.checkpoint._tree import DTYPES, decode, encode

_VERSION = 1
_BEGIN = b'{"__metadata__":{"format":"pt","altmin_ext":"checkpoint %d","sha256":"'
_SEALED = re.compile(re.escape(_BEGIN).replace(b"%d", b"([1-9][0-9]{0,8})") + b'([0-9a-f]{64})",')
_NO_SEAL = "0" * 64
_LONGEST_HEADER = 100_000_000  # which safetensors allows
_BY_CODE = {code: dtype for dtype, code in DTYPES.items()}
_THREADS = 2
_PIECE = 2**20


class Header(NamedTuple):
    """What the header of a file says."""

    format: str
    altmin_ext_version: str
    torch_version: str
    document: Any
    digests: dict[str, str]
    #: By name, in the order of the file, on torch's device ``meta``.
    tensors: dict[str, Tensor]
    #: Of the first tensor.
    offset: int
    #: Of the whole file.
    size: int

    @property
    def tree(self) -> Any:
        """The tree, with its tensors, arrays and bytes on torch's device ``meta``."""
        return decode(self.document, self.tensors)


# --- writing ---


def write(path: str | os.PathLike[str], tree: Any, *, keep: int = 0) -> None:
    """Write a tree to a file, completely or not at all.

    Args:
        path: of the file, see :class:`altmin_ext._files.Replacement`.
        tree: see :func:`altmin_ext.checkpoint._tree.encode`.
        keep: how many former files stay beside it: the one that this replaces as ``<stem>-<steps><suffix>``, by the
            number of steps that its method or history had made, and those of earlier calls. One without that number,
            or with the same, or whose name is that of another file, is not kept. 0 leaves those that are there alone.

    Raises:
        TypeError, ValueError: the tree holds something that a file cannot, and nothing has been written.
        OSError: the file cannot be written; a file that was there before is untouched.
    """
    with Replacement() as files:
        add(files, path, tree, keep_as=_former_name(path, tree) if keep else None)
    if keep:
        remove_formers(path, keep)


def add(files: Replacement, path: str | os.PathLike[str], tree: Any, *, keep_as: str | None = None) -> None:
    """Write a tree to another file of a replacement; arguments and errors are as in :func:`write`."""
    document, tensors = encode(tree)
    tensors = _in_order(tensors)
    contents = {name: memory(tensor) for name, tensor in tensors.items()}
    head = _Head(document, tensors)
    offset = len(head.bytes(dict.fromkeys(tensors, _NO_SEAL)))
    with naming(Path(path)), ThreadPoolExecutor(_THREADS) as pool:
        size = offset + sum(map(len, contents.values()))
        file = files.open(path, size=size, keep_as=keep_as)
        digests = {name: pool.submit(_sha256, content) for name, content in contents.items()}
        file.seek(offset)
        for content in contents.values():
            file.write(content)
        file.seek(0)
        file.write(head.bytes({name: digest.result() for name, digest in digests.items()}))


def _in_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they follow each other in a file, where each is aligned to the size of its numbers."""
    return dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))


class _Head:
    """The beginning of a file, up to the first tensor; only the digests are still to be filled in."""

    def __init__(
        self,
        document: Any,
        tensors: Mapping[str, Tensor],
        altmin_ext_version: str = __version__,
        torch_version: str = torch.__version__,
    ) -> None:
        self._document, self._tensors = _json(document), tensors
        self._versions = altmin_ext_version, torch_version

    def bytes(self, digests: Mapping[str, str]) -> bytes:
        metadata = {
            "format": "pt",
            "altmin_ext": f"checkpoint {_VERSION}",
            "sha256": _NO_SEAL,
            "altmin_ext_version": self._versions[0],
            "torch_version": self._versions[1],
            "tree": self._document,
            "tensors": _json(digests),
        }
        entries: dict[str, Any] = {"__metadata__": metadata}
        begin = 0
        for name, tensor in self._tensors.items():
            end = begin + tensor.nbytes
            entries[name] = {
                "dtype": DTYPES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [begin, end],
            }
            begin = end
        header = _json(entries).encode()
        header += b" " * (-len(header) % 8)
        if len(header) > _LONGEST_HEADER:
            raise ValueError(
                f"a tree must have a document of at most {_LONGEST_HEADER:,} bytes, but has one of {len(header):,}; "
                "hold long lists of numbers as tensors."
            )
        return len(header).to_bytes(8, "little") + header.replace(
            _NO_SEAL.encode(), _seal(header).encode(), 1
        )


def _json(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def _seal(header: bytes) -> str:
    """The sha256 of a header that has zeros in place of its seal."""
    return hashlib.sha256(header).hexdigest()


def memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU."""
    if tensor.numel() == 0:  # which torch may not view as bytes
        return memoryview(b"")
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _sha256(memory: memoryview) -> str:
    return hashlib.sha256(memory).hexdigest()


# --- former files ---


def _former_name(path: str | os.PathLike[str], tree: Any) -> str | None:
    """The name that the present file is kept by when the tree replaces it; None if it is not kept."""
    target = Path(os.path.realpath(path))
    try:
        former = steps(read_header(target).tree)
    except (OSError, ValueError):
        return None
    if former in (None, steps(tree)):
        return None
    name = f"{target.stem}-{former}{target.suffix}"
    taken = target.with_name(name)
    return name if not os.path.lexists(taken) or _has_steps(taken, former) else None


def steps(tree: Any) -> int | None:
    """The number of steps that the method or the history in a tree has made."""
    for part in ("method", "history"):
        own = tree.get(part) if isinstance(tree, dict) else None
        found = own.get("steps") if isinstance(own, dict) else None
        if type(found) is int:
            return found
    return None


def remove_formers(path: str | os.PathLike[str], keep: int) -> None:
    """Remove all former files but the newest, as far as the system allows: the checkpoint itself is written."""
    target = Path(os.path.realpath(path))
    pattern = re.compile(re.escape(target.stem) + "-([0-9]+)" + re.escape(target.suffix))
    found = []
    with contextlib.suppress(OSError):
        for former in target.parent.iterdir():
            match = pattern.fullmatch(former.name)
            if match is not None and _has_steps(former, int(match[1])):
                found.append((former.stat().st_mtime_ns, int(match[1]), former))
        for *_, former in sorted(found)[:-keep]:
            former.unlink()


def _has_steps(path: Path, number: int) -> bool:
    """Whether this is a checkpoint of so many steps; a user's own file, or another run's, may have such a name."""
    try:
        return steps(read_header(path).tree) == number
    except (OSError, ValueError):
        return False


# --- reading ---


def read(path: str | os.PathLike[str]) -> Any:
    """Read the tree in a file.

    Args:
        path: of a file that :func:`write` has written.

    Returns:
        The tree, equal to the one that was written; tensors are on the CPU, contiguous and in memory of their own.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, or has been altered, or is of a newer format.
    """
    with _refusing(path), open_file(path) as file:
        header = _read_header(file)
        tensors = {name: torch.empty_like(tensor, device="cpu") for name, tensor in header.tensors.items()}
        offset = header.offset
        with ThreadPoolExecutor(_THREADS) as pool:
            reads = []
            for name, tensor in tensors.items():
                reads.append(pool.submit(_read_tensor, file, offset, tensor, name, header.digests[name]))
                offset += tensor.nbytes
        for done in reads:
            done.result()
        return decode(header.document, tensors)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of a file, and check everything but the tensors' bytes; errors are as in :func:`read`."""
    with _refusing(path), open_file(path) as file:
        header = _read_header(file)
        decode(header.document, header.tensors)
        return header


@contextlib.contextmanager
def _refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make what is wrong with a file one sentence that names it."""
    try:
        yield
    except (ValueError, RecursionError, SafetensorError) as error:
        reason = (
            "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        )
        raise ValueError(
            f"{os.fspath(path)!r} must be a checkpoint written by altmin_ext, but is not: {reason.rstrip('.')}."
        ) from error


def _read_header(file: BinaryIO) -> Header:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise ValueError("it is too short for its header, or of another format")
    content = file.read(length)
    _check_seal(content)
    # The library opens a file by its name, which another file may have by now.
    with safe_open(f"/dev/fd/{file.fileno()}", framework="pt") as parsed:
        metadata = parsed.metadata()
        tensors = _in_order({name: _described(parsed.get_slice(name)) for name in parsed.keys()})  # noqa: SIM118
    try:
        versions = metadata["altmin_ext_version"], metadata["torch_version"]
        document, digests = (from_json(metadata[key].encode()) for key in ("tree", "tensors"))
    except KeyError as error:
        raise ValueError(f"its header lacks {error}") from None
    if not isinstance(digests, dict) or digests.keys() != tensors.keys():
        raise ValueError("it states the sha256 of other tensors than it holds")
    head = _Head(document, tensors, *versions).bytes(digests)
    if head[8:] != content:
        raise ValueError("its header says something twice, or in another way than altmin_ext does")
    return Header(f"checkpoint {_VERSION}", *versions, document, digests, tensors, len(head), size)


def _check_seal(header: bytes) -> None:
    found = _SEALED.match(header)
    if found is None:
        raise ValueError("its header does not begin as that of a checkpoint does")
    version = int(found[1])
    if version != _VERSION:
        raise ValueError(
            f"it is of the newer format {version}, while altmin_ext {__version__} reads format {_VERSION}; install a "
            "newer altmin_ext"
        )
    begin, end = found.span(2)
    if _seal(header[:begin] + _NO_SEAL.encode() + header[end:]) != found[2].decode():
        raise ValueError("its header does not have the sha256 that it states")


def _described(part: Any) -> Tensor:
    """A tensor without memory, of the dtype and shape that the header states."""
    code, shape = part.get_dtype(), part.get_shape()
    if code not in _BY_CODE:
        raise ValueError(f"it holds a tensor of the dtype {code}")
    try:
        return torch.empty(shape, dtype=_BY_CODE[code], device="meta")
    except (TypeError, RuntimeError):  # sizes beyond 64 bits beside one of 0
        raise ValueError("it holds a tensor of a shape that none can have") from None


def _read_tensor(file: BinaryIO, offset: int, tensor: Tensor, name: str, digest: str) -> None:
    """Fill a tensor from the file, and check its bytes."""
    content, found, done = memory(tensor), hashlib.sha256(), 0
    while done < len(content):
        # In pieces that are still in the processor's cache when they are hashed.
        piece = content[done : done + _PIECE]
        count = os.preadv(file.fileno(), [piece], offset + done)
        if count == 0:
            raise ValueError("it has become shorter while it was read")
        found.update(piece[:count])
        done += count
    if found.hexdigest() != digest:
        raise ValueError(f"the tensor {name!r} does not have the sha256 that its header states")
    if tensor.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
        raise ValueError(f"the tensor {name!r} has entries that are neither true nor false")
