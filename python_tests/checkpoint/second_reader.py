"""A checkpoint read and altered a second time, by other code: safetensors' format and ours, from their descriptions.

A file is eight bytes with the header's length, the header and the tensors' bytes. Here a file is taken apart,
anything in it can be altered, and it is put together again with every sha256 right, so that only deeper checks
notice.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from typing import Any

import numpy as np
import torch

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
         "U8": 1, "BOOL": 1}  # fmt: skip


class Parts:
    """A file taken apart.

    Attributes:
        header: the header's JSON, in which ``metadata`` is ``__metadata__``.
        tree: the document of the tree.
        digests: the sha256 of every tensor, by name.
        data: the bytes of all tensors.
    """

    def __init__(self, content: bytes) -> None:
        length = int.from_bytes(content[:8], "little")
        self.header = json.loads(content[8 : 8 + length])
        self.metadata = self.header.pop("__metadata__")
        self.tree = json.loads(self.metadata["tree"])
        self.digests = json.loads(self.metadata["tensors"])
        self.data = content[8 + length :]

    def bytes_of(self, name: str) -> bytes:
        begin, end = self.header[name]["data_offsets"]
        return self.data[begin:end]

    def hash_again(self) -> None:
        """State the sha256 of what the header now says are the tensors' bytes."""
        self.digests = {name: hashlib.sha256(self.bytes_of(name)).hexdigest() for name in self.header}

    def content(self) -> bytes:
        """The file, with the metadata's sha256 right."""
        metadata = {**self.metadata, "tree": compact(self.tree), "tensors": compact(self.digests)}
        header = compact({"__metadata__": metadata, **self.header}).encode()
        return with_header(header + b" " * (-len(header) % 8), self.data)


def compact(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))


def with_header(header: bytes, data: bytes) -> bytes:
    """A file of this header, whose sha256 is made right if it states one."""
    return len(header).to_bytes(8, "little") + with_seal(header) + data


def with_seal(header: bytes) -> bytes:
    found = re.search(rb'"sha256":"([0-9a-f]{64})"', header)
    if found is None:
        return header
    begin, end = found.span(1)
    zeros = header[:begin] + b"0" * 64 + header[end:]
    return header[:begin] + hashlib.sha256(zeros).hexdigest().encode() + header[end:]


def tree_in(content: bytes) -> Any:
    """The tree that a file holds, with arrays instead of tensors; bfloat16 as uint16."""
    parts = Parts(content)

    def tensor(name: str) -> np.ndarray[Any, Any]:
        entry = parts.header[name]
        kind = (
            {"F": "f", "I": "i", "U": "u"}[entry["dtype"][0]]
            if entry["dtype"] not in ("BOOL", "BF16")
            else ""
        )
        dtype = f"<{kind}{SIZES[entry['dtype']]}" if kind else {"BOOL": "?", "BF16": "<u2"}[entry["dtype"]]
        return np.frombuffer(parts.bytes_of(name), dtype).reshape(entry["shape"])

    def read(node: Any) -> Any:
        if isinstance(node, list):
            return [read(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "dict" in node:
            return {key: read(item) for key, item in node["dict"].items()}
        if "items" in node:
            return {read(key): read(item) for key, item in node["items"]}
        if "tuple" in node:
            return tuple(read(item) for item in node["tuple"])
        if "int" in node:
            return int(node["int"], 16)
        if "float" in node:
            return struct.unpack(">d", bytes.fromhex(node["float"]))[0]
        if "scalar" in node:
            return np.frombuffer(bytes.fromhex(node["bytes"]), node["scalar"])[0]
        if "array" in node:
            held, dtype = tensor(node["array"]), np.dtype(node["dtype"])
            if dtype.kind == "c":
                return held.copy().view(dtype.newbyteorder("<")).reshape(held.shape[:-1])
            return held.astype(dtype)
        if "bytes" in node:
            return parts.bytes_of(node["bytes"])
        return tensor(node["tensor"])

    return read(parts.tree)


def same(one: Any, other: Any) -> bool:
    """Whether two trees are equal to the bit, with their types; a tensor equals an array of its numbers."""
    if hasattr(one, "detach") or hasattr(other, "detach") or type(one) is type(other) is np.ndarray:
        one, other = array(one), array(other)
        return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return (
            list(one) == list(other)
            and [type(key) for key in one] == [type(key) for key in other]
            and all(same(one[key], other[key]) for key in one)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    return one.tobytes() == other.tobytes() if isinstance(one, np.generic) else bool(one == other)


def array(value: Any) -> np.ndarray[Any, Any]:
    """A tensor as an array, whatever its dtype: pairs of numbers if it is complex, bits if NumPy lacks its dtype."""
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    value = value.detach().cpu().resolve_conj().resolve_neg()
    value = torch.view_as_real(value) if value.is_complex() else value
    try:
        return np.asarray(value.contiguous().numpy())
    except TypeError:
        return np.asarray(value.contiguous().view({1: torch.uint8, 2: torch.uint16}[value.itemsize]).numpy())
