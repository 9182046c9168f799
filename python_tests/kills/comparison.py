"""Bit for bit: where two results differ."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor


def differences(expected: Any, found: Any, place: str = "it") -> list[str]:
    """The places at which one value differs from another, types and NaN included."""
    if type(expected) is not type(found):
        return [f"{place} is {found!r:.60}, not {expected!r:.60}"]
    if isinstance(expected, dict):
        if list(expected) != list(found):
            return [f"{place} has the keys {list(found)}, not {list(expected)}"]
        return [d for key in expected for d in differences(expected[key], found[key], f"{place}[{key!r}]")]
    if isinstance(expected, (list, tuple)):
        if len(expected) != len(found):
            return [f"{place} has {len(found)} entries, not {len(expected)}"]
        pairs = enumerate(zip(expected, found, strict=True))
        return [d for i, (one, other) in pairs for d in differences(one, other, f"{place}[{i}]")]
    if isinstance(expected, np.ndarray):
        return differences(torch.from_numpy(expected), torch.from_numpy(found), place)
    if isinstance(expected, Tensor):
        return [] if same_bits(expected, found) else [f"{place} is {_brief(found)}, not {_brief(expected)}"]
    if isinstance(expected, float):
        return (
            []
            if struct.pack("d", expected) == struct.pack("d", found)
            else [f"{place} is {found}, not {expected}"]
        )
    return [] if expected == found else [f"{place} is {found!r:.60}, not {expected!r:.60}"]


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal in dtype, shape and every bit."""
    bits = (tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in (one, other))
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)


def _brief(tensor: Tensor) -> str:
    values = ", ".join(f"{value:.9g}" for value in tensor.detach().flatten()[:3].tolist())
    return f"{tuple(tensor.shape)} {values}{', ...' if tensor.numel() > 3 else ''}"
