"""Trees of plain values as a JSON document and named tensors, and back, with nothing lost.

In the document None, booleans, integers, finite floats, strings and lists stand for themselves. Everything else is an
object, whose first name says what it is:

=============================================  ==========================================================
``{"dict": {key: value}}``                     a dict whose keys are strings
``{"items": [[key, value]]}``                  a dict with other keys, which are integers, or both
``{"tuple": [value]}``                         a tuple
``{"int": "0x..."}``                           an integer of more than 64 bits
``{"float": "7ff0000000000000"}``              a float that is not finite, by its bits
``{"scalar": "<f4", "bytes": "0000803f"}``     a number of numpy, by its dtype and bytes
``{"tensor": name}``                           a tensor; with ``"dtype"`` if it is held as one of another dtype
``{"array": name, "dtype": "<f4"}``            an array of numpy
``{"bytes": name}``                            bytes
=============================================  ==========================================================

A name joins the keys on the way to the value by dots, as in ``model.0.weight``. Where two values would have one name,
the later one gets a number.
"""

from __future__ import annotations

import math
import re
import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from altmin_ext._check import named_type

#: The dtypes that tensors in a file have.
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip

_COMPLEX = (torch.complex32, torch.complex64, torch.complex128)
_ONE_BYTE = tuple(  # floats of eight bits; torch has more of them in each version
    dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize == 1
)
_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in (*_COMPLEX, *_ONE_BYTE)}
_DEEPEST = 100
# What numpy calls a bool, an integer, a float or a complex number that every machine has.
_NUMBER = re.compile(r"[<>|](b1|[iu][1248]|f[248]|c8|c16)")


class Unknown(ValueError):
    """The document describes no tree. The message is the end of a sentence."""


# --- to a document ---


def encode(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """The tree as a document and named tensors.

    Args:
        tree: nested dicts (with strings and integers as keys), lists and tuples of None, bool, int, float, str,
            bytes, ``torch.Tensor``, ``numpy.ndarray`` and numpy's numbers. An ``OrderedDict`` counts as a dict, an
            ``nn.Parameter`` as a tensor.

    Returns:
        The document, for :func:`decode`, and the tensors: on the CPU, contiguous, of a dtype in :data:`DTYPES`. They
        share memory with those of the tree where these are so already.

    Raises:
        TypeError: there is something else in the tree.
        ValueError: it is nested more than a hundred deep.
    """
    encoder = _Encoder()
    return encoder.encode(tree, ()), encoder.tensors


class _Encoder:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def encode(self, value: Any, place: tuple[Any, ...]) -> Any:
        if len(place) > _DEEPEST:
            raise ValueError(
                f"a tree must be at most {_DEEPEST} deep, but {_shown(place[:3])} is deeper or holds itself."
            )
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) < 2**63 else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
        if kind in (dict, OrderedDict):
            return self._dict(value, place)
        if kind is list:
            return [self.encode(item, (*place, i)) for i, item in enumerate(value)]
        if kind is tuple:
            return {"tuple": [self.encode(item, (*place, i)) for i, item in enumerate(value)]}
        if kind in (Tensor, nn.Parameter):
            return self._tensor(value.detach(), place)
        if kind is np.ndarray and _NUMBER.fullmatch(value.dtype.str):
            return {"array": self._add(_from_array(value), place), "dtype": value.dtype.str}
        if isinstance(value, np.generic) and _NUMBER.fullmatch(value.dtype.str):
            return {"scalar": value.dtype.str, "bytes": value.tobytes().hex()}
        if kind is bytes:
            return {"bytes": self._add(_from_array(np.frombuffer(value, np.uint8)), place)}
        what = f"an array of {value.dtype}" if kind is np.ndarray else named_type(value)
        raise TypeError(
            f"{_shown(place)} must be None, a bool, number, string, bytes, tensor or array, or a dict, list or tuple "
            f"of them, but is {what}."
        )

    def _dict(self, value: dict[Any, Any], place: tuple[Any, ...]) -> Any:
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(
                    f"{_shown(place)} must have strings and integers as keys, but has {named_type(key)}."
                )
        items = [(key, self.encode(item, (*place, key))) for key, item in value.items()]
        if all(type(key) is str for key in value):
            return {"dict": dict(items)}
        return {"items": [[self.encode(key, ()), item] for key, item in items]}

    def _tensor(self, value: Tensor, place: tuple[Any, ...]) -> Any:
        if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
            raise TypeError(
                f"{_shown(place)} must be a dense tensor with memory, but is {value.dtype} of layout {value.layout} "
                f"on {value.device}."
            )
        value = value.resolve_conj().resolve_neg().cpu()
        if value.dtype in DTYPES:
            return {"tensor": self._add(value, place)}
        if value.dtype in _COMPLEX:
            held = torch.view_as_real(value)
        elif value.dtype in _ONE_BYTE:
            held = value.contiguous().view(torch.uint8)
        else:
            raise TypeError(f"{_shown(place)} must have a dtype that files know, but has {value.dtype}.")
        return {"tensor": self._add(held, place), "dtype": str(value.dtype).removeprefix("torch.")}

    def _add(self, value: Tensor, place: tuple[Any, ...]) -> str:
        # safetensors keeps one name for itself; surrogates are no Unicode.
        joined = _joined(place) or "tensor"
        name = joined = joined.encode("utf-8", "backslashreplace").decode()
        number = 1
        while name in self.tensors or name == "__metadata__":
            number += 1
            name = f"{joined}-{number}"
        self.tensors[name] = value.contiguous()
        return name


def _from_array(value: np.ndarray[Any, Any]) -> Tensor:
    """The array as a tensor, complex numbers as pairs."""
    plain = np.asarray(value, dtype=value.dtype.newbyteorder("="), order="C")
    plain = plain if plain.flags.writeable else plain.copy()  # about which torch would warn
    tensor = torch.from_numpy(plain)
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _shown(place: tuple[Any, ...]) -> str:
    return _joined(place) or "the tree"


def _joined(place: tuple[Any, ...]) -> str:
    # Python writes integers of more than some thousand digits as hexadecimal alone.
    return ".".join(
        key if isinstance(key, str) else str(key) if abs(key) < 2**63 else hex(key) for key in place
    )


# --- and back ---


def decode(document: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that :func:`encode` has turned into the document and the tensors.

    Args:
        document: the result of :func:`encode`, or anything else that JSON can be.
        tensors: by name. Of those on torch's device ``meta``, which have no memory, the tree holds them as they are.

    Returns:
        The tree, which shares the tensors' memory.

    Raises:
        Unknown: the document does not describe a tree of just these tensors.
    """
    decoder = _Decoder(tensors)
    tree = decoder.decode(document)
    if decoder.left:
        raise Unknown(f"the tensor {next(iter(decoder.left))!r} has no place in it")
    return tree


class _Decoder:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.left = dict(tensors)

    def decode(self, document: Any) -> Any:
        match document:
            case None | bool() | int() | float() | str():
                return document
            case list():
                return [self.decode(item) for item in document]
            case {"dict": dict(items)} if len(document) == 1:
                return {key: self.decode(item) for key, item in items.items()}
            case {"items": list(items)} if len(document) == 1:
                return self._items(items)
            case {"tuple": list(items)} if len(document) == 1:
                return tuple(self.decode(item) for item in items)
            case {"int": str(digits)} if len(document) == 1 and re.fullmatch("-?0x[0-9a-f]+", digits):
                return int(digits, 16)
            case {"float": str(bits)} if len(document) == 1 and re.fullmatch("[0-9a-f]{16}", bits):
                return float(struct.unpack(">d", bytes.fromhex(bits))[0])
            case {"scalar": str(dtype), "bytes": str(bits)} if len(document) == 2:
                return self._scalar(dtype, bits)
            case {"tensor": str(name)} if len(document) == 1:
                return self._taken(name)
            case {"tensor": str(name), "dtype": str(dtype)} if len(document) == 2:
                return self._converted(name, dtype)
            case {"array": str(name), "dtype": str(dtype)} if len(document) == 2:
                return self._array(name, dtype)
            case {"bytes": str(name)} if len(document) == 1:
                held = self._array(name, "|u1")
                return held.tobytes() if isinstance(held, np.ndarray) else held
        raise Unknown("its document has an entry of an unknown kind")

    def _items(self, items: list[Any]) -> dict[Any, Any]:
        found = {}
        for item in items:
            if not isinstance(item, list) or len(item) != 2:
                raise Unknown("its document has a key without a value")
            key = self.decode(item[0])
            if type(key) not in (str, int) or key in found:
                raise Unknown("its document has a key that is none, or a key twice")
            found[key] = self.decode(item[1])
        return found

    def _scalar(self, dtype: str, bits: str) -> np.generic:
        content = bytes.fromhex(bits) if re.fullmatch("([0-9a-f]{2})+", bits) else b""
        if not _NUMBER.fullmatch(dtype) or np.dtype(dtype).itemsize != len(content):
            raise Unknown(
                f"its document has a number of the unknown dtype {dtype[:20]!r}, or with other bytes"
            )
        if dtype[1] == "b" and content[0] > 1:
            raise Unknown("its document has a bool that is neither true nor false")
        return np.frombuffer(content, dtype)[0]

    def _taken(self, name: str) -> Tensor:
        if name not in self.left:
            raise Unknown(f"the tensor {name[:100]!r} is missing, or has two places")
        return self.left.pop(name)

    def _converted(self, name: str, dtype: str) -> Tensor:
        held, wanted = self._taken(name), _BY_NAME.get(dtype)
        if wanted is None:
            raise Unknown(f"the tensor {name[:100]!r} has the dtype {dtype[:20]!r}, which this torch lacks")
        if wanted in _COMPLEX and held.shape[-1:] == (2,):
            tensor = torch.view_as_complex(held) if held.dtype == wanted.to_real() else held
        else:
            tensor = held.view(wanted) if held.dtype == torch.uint8 else held
        if tensor.dtype != wanted:
            raise Unknown(f"the tensor {name[:100]!r} is no {dtype}")
        return tensor

    def _array(self, name: str, dtype: str) -> np.ndarray[Any, Any] | Tensor:
        held = self._taken(name)
        if _NUMBER.fullmatch(dtype):
            wanted = np.dtype(dtype).newbyteorder("=")
            if wanted.kind == "c":
                part = torch.float32 if wanted.itemsize == 8 else torch.float64
                if held.dtype == part and held.shape[-1:] == (2,):
                    held = torch.view_as_complex(held)
            if held.is_meta:
                return held
            if held.dtype != torch.bfloat16 and held.numpy().dtype == wanted:
                return held.numpy().astype(dtype, copy=False)
        raise Unknown(f"the array {name[:100]!r} is none of dtype {dtype[:20]!r}")
