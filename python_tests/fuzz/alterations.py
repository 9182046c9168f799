"""Altered copies of good content: bytes of a file, and values in trees of dicts and lists."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Generator = np.random.Generator


def pick(rng: Generator, choices: Any) -> Any:
    """One of the choices, which numpy would convert."""
    return choices[int(rng.integers(len(choices)))]


# --- bytes ---


def altered_bytes(rng: Generator, content: bytes) -> tuple[bytes, str]:
    """The content with some bytes flipped, cut, inserted, repeated or exchanged, and what was done."""
    change = pick(rng, list(_BYTE_CHANGES))
    begin, end = sorted(int(i) for i in rng.integers(len(content) + 1, size=2))
    if rng.random() < 0.7:  # mostly something small, which a format notices least
        end = min(end, begin + int(rng.integers(1, 9)))
    return _BYTE_CHANGES[change](rng, content, begin, end), f"{change} at bytes {begin}:{end}"


def _flipped(rng: Generator, content: bytes, begin: int, end: int) -> bytes:
    changed = bytearray(content)
    for place in range(begin, min(end, begin + 8)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _swapped(rng: Generator, content: bytes, begin: int, end: int) -> bytes:
    middle = (begin + end) // 2
    return content[:begin] + content[middle:end] + content[begin:middle] + content[end:]


_BYTE_CHANGES: dict[str, Callable[[Generator, bytes, int, int], bytes]] = {
    "flips": _flipped,
    "random bytes": lambda rng, c, b, e: c[:b] + rng.bytes(e - b) + c[e:],
    "zeros": lambda rng, c, b, e: c[:b] + bytes(e - b) + c[e:],
    "insertion": lambda rng, c, b, e: c[:b] + rng.bytes(int(rng.integers(1, 20))) + c[b:],
    "deletion": lambda rng, c, b, e: c[:b] + c[e:],
    "truncation": lambda rng, c, b, e: c[:b],
    "beginning cut off": lambda rng, c, b, e: c[b:],
    "block twice": lambda rng, c, b, e: c[:e] + c[b:e] + c[e:],
    "blocks exchanged": _swapped,
    "appended": lambda rng, c, b, e: c + c[b:e],
}


# --- trees ---


class Place:
    """A value within a tree: ``container[key]``."""

    def __init__(self, container: Any, key: Any, path: str) -> None:
        self.container, self.key, self.path = container, key, path

    @property
    def value(self) -> Any:
        return self.container[self.key]

    @value.setter
    def value(self, new: Any) -> None:
        self.container[self.key] = new


def places(tree: Any, path: str = "") -> list[Place]:
    """Every value in nested dicts and lists, containers included."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    found = []
    for key in keys:
        here = f"{path}.{key}"
        found += [Place(tree, key, here), *places(tree[key], here)]
    return found


def as_lists(tree: Any) -> Any:
    """A copy whose tuples are lists, so that they can be altered."""
    if isinstance(tree, dict):
        return {key: as_lists(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [as_lists(value) for value in tree]
    return tree.clone() if isinstance(tree, Tensor) else copy.deepcopy(tree)


NAN, INF = float("nan"), float("inf")
SCALARS: list[Any] = [
    NAN, INF, -INF, 0, -1, 1, 7, 2.5, -0.5, 1e-320, 1e308, -1e308, 2**31, 2**63, 2**64, -(2**63), 10**400, -(10**400),
    True, False, None, "", "7", "nan", "text", [], {}, [1.0], {"a": 1}, [[]], [None],
]  # fmt: skip


def altered_tree(rng: Generator, tree: Any, scalars: list[Any]) -> tuple[Any, str]:
    """A copy with one value replaced, dropped, doubled or renamed, and what was done."""
    tree = as_lists(tree)
    place = pick(rng, places(tree))
    value = place.value
    if isinstance(value, Tensor) and rng.random() < 0.8:
        place.value, what = altered_tensor(rng, value)
        return tree, f"{place.path}: {what}"
    change = pick(rng, ("replaced", "replaced", "dropped", "renamed", "doubled", "exchanged"))
    if change == "dropped":
        del place.container[place.key]
    elif change == "renamed" and isinstance(place.container, dict):
        place.container[pick(rng, ("other", f"{place.key} ", 3))] = place.container.pop(place.key)
    elif change == "doubled" and isinstance(place.container, list):
        place.container.insert(place.key, as_lists(value))
    elif change == "exchanged":
        other = pick(rng, [other for other in places(tree) if other.container is place.container])
        place.value, other.value = other.value, value
        return tree, f"{place.path} and {other.path} exchanged"
    else:
        change = "replaced"
        place.value = as_lists(pick(rng, scalars))
        if isinstance(value, float) and rng.random() < 0.3:
            place.value = value * float(rng.choice([-1, 1e3, 1 + 1e-9]))
        return tree, f"{place.path} replaced by {str(place.value)[:40]}"
    return tree, f"{place.path} {change}"


def altered_tensor(rng: Generator, value: Tensor) -> tuple[Any, str]:
    """Other numbers, another shape, dtype or layout, or something that is no such tensor at all."""
    change = pick(rng, list(_TENSOR_CHANGES))
    try:
        return _TENSOR_CHANGES[change](rng, value), change
    except (RuntimeError, TypeError, ValueError, IndexError):  # not for such a tensor
        return value[:0] if value.ndim else value.reshape(1, 1), "another shape"


def _with_one(new: float) -> Callable[[Generator, Tensor], Tensor]:
    def change(rng: Generator, value: Tensor) -> Tensor:
        changed = value.clone()
        changed.view(-1)[int(rng.integers(value.numel()))] = new
        return changed

    return change


_TENSOR_CHANGES: dict[str, Callable[[Generator, Tensor], Any]] = {
    "a NaN": _with_one(NAN),
    "an infinity": _with_one(INF),
    "a negative number": _with_one(-1.0),
    "a huge number": _with_one(1e300),
    "a large number": _with_one(2.0**40),
    "all NaN": lambda rng, v: torch.full_like(v, NAN),
    "zeros": lambda rng, v: torch.zeros_like(v),
    "other numbers": lambda rng, v: torch.from_numpy(rng.normal(size=v.shape)).to(v.dtype),
    "transposed": lambda rng, v: v.t(),
    "a row less": lambda rng, v: v[:-1],
    "a row more": lambda rng, v: torch.cat([v, v[:1]]),
    "empty": lambda rng, v: v[:0],
    "flat": lambda rng, v: v.reshape(-1),
    "a dimension more": lambda rng, v: v[None],
    "one number": lambda rng, v: v.reshape(-1)[0],
    "one number everywhere": lambda rng, v: v.reshape(-1)[0].expand(v.shape),
    "other strides": lambda rng, v: torch.stack([v, v], -1)[..., 0],
    "float32": lambda rng, v: v.float(),
    "float16": lambda rng, v: v.half(),
    "complex": lambda rng, v: v.to(torch.complex128),
    "int64": lambda rng, v: v.long(),
    "bool": lambda rng, v: v.bool(),
    "requires a gradient": lambda rng, v: v.clone().requires_grad_(),
    "without memory": lambda rng, v: v.to("meta"),
    "sparse": lambda rng, v: v.to_sparse(),
    "an array": lambda rng, v: v.numpy(),
    "a list": lambda rng, v: v.tolist(),
    "a negated view": lambda rng, v: torch._neg_view(v),
    "a parameter": lambda rng, v: torch.nn.Parameter(v),
}


# --- comparing ---


def same(one: Any, other: Any) -> bool:
    """Whether two trees hold the same numbers, bit for bit, and the same structure; a list counts as a tuple."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or one.shape != other.shape:
            return False
        if one.device != other.device:
            return False
        one, other = (value.detach().to_dense() for value in (one, other))
        if one.dtype != other.dtype:
            one, other = one.to(torch.complex128), other.to(torch.complex128)
        return bool(torch.equal(one, other)) or bool(
            ((one == other) | ((one != one) & (other != other))).all()
        )
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[k], other[k]) for k in one)
        )
    if isinstance(one, (list, tuple)):
        return (
            isinstance(other, (list, tuple))
            and len(one) == len(other)
            and all(same(a, b) for a, b in zip(one, other, strict=True))
        )
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return one == other or as_double(one) == as_double(other) or (one != one and other != other)
    return type(one) is type(other) and bool(one == other)


def as_double(number: float) -> float:
    """The number in float64, in which it may be infinite."""
    try:
        return float(number)
    except OverflowError:
        return INF if number > 0 else -INF


def numbers(tree: Any) -> list[float | Tensor]:
    """All floating-point numbers and tensors in a tree."""
    if isinstance(tree, dict):
        return [found for value in tree.values() for found in numbers(value)]
    if isinstance(tree, (list, tuple)):
        return [found for value in tree for found in numbers(value)]
    is_floating = isinstance(tree, Tensor) and tree.is_floating_point()
    return [tree] if is_floating or isinstance(tree, float) else []


def all_finite(tree: Any) -> bool:
    return all(bool(torch.as_tensor(found, dtype=torch.float64).isfinite().all()) for found in numbers(tree))
