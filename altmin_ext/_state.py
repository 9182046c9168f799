"""What a method keeps between steps, declared once: how each entry is saved, checked and restored.

A state is checked from end to end before any of it is restored. All memory is allocated by then as well, so that a
state is restored whole or not at all.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from altmin_ext import _check

#: Sizes by name that several entries share, such as the number of samples; the first entry to have one sets it.
Sizes = dict[str, int]
#: The shape that a tensor must have: numbers, names of sizes, and ... at the end for any further dimensions.
Shape = Sequence[int | str | EllipsisType]

_count_limit = 2**63


class Part(Protocol):
    """An entry of a state, or several."""

    def save(self) -> Any:
        """The present value, in memory that a step does not write to."""

    def read(self, name: str, value: Any, sizes: Sizes) -> Any:
        """Check a saved value.

        Args:
            name: of the entry, for error messages.
            value: the result of an earlier :meth:`save`, or anything else.
            sizes: of the entries that have been read before; may be added to.

        Returns:
            A copy, on the method's device, for :meth:`load`.

        Raises:
            TypeError, ValueError: it cannot be one.
        """

    def load(self, value: Any) -> None:
        """Restore a value that :meth:`save` or :meth:`read` has returned; it is the part's own from now on."""


_shares = contextvars.ContextVar("_shares", default=False)


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Within the block, saved tensors share the method's memory: for a state that is written before the next step."""
    before = _shares.set(True)
    try:
        yield
    finally:
        _shares.reset(before)


def _saved(tensor: Tensor) -> Tensor:
    return tensor.detach() if _shares.get() else tensor.detach().clone()


class Entries:
    """Entries by name.

    Args:
        parts: the part of each.
    """

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self.parts = dict(parts)

    def save(self) -> dict[str, Any]:
        return {name: part.save() for name, part in self.parts.items()}

    def read(self, name: str, value: Any, sizes: Sizes) -> dict[str, Any]:
        if isinstance(value, Mapping):
            added = {key: part.absent for key, part in self.parts.items() if isinstance(part, Added)}
            value = {**added, **value}
        check_keys(name, value, self.parts)
        joint = "." if "'s " in name else "'s "
        return {key: part.read(f"{name}{joint}{key}", value[key], sizes) for key, part in self.parts.items()}

    def load(self, value: Mapping[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load(value[name])


class Added:
    """An entry that a state may lack, such as one of an earlier version.

    Args:
        part: the entry.
        absent: what a state that lacks it is taken to hold.
    """

    def __init__(self, part: Part, absent: Any) -> None:
        self.absent = absent
        self.save, self.read, self.load = part.save, part.read, part.load


class Listed:
    """A list with an entry for each part.

    Args:
        parts: of the list.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = list(parts)

    def save(self) -> list[Any]:
        return [part.save() for part in self._parts]

    def read(self, name: str, value: Any, sizes: Sizes) -> list[Any]:
        values = as_list(name, value, len(self._parts))
        return [
            part.read(f"{name}[{i}]", own, sizes)
            for i, (part, own) in enumerate(zip(self._parts, values, strict=True))
        ]

    def load(self, value: Sequence[Any]) -> None:
        for part, own in zip(self._parts, value, strict=True):
            part.load(own)


class Same:
    """A value that must be the method's own, such as its name: a number, a word or a list of them.

    Args:
        value: the method's own.
        meaning: of the value, for error messages.
    """

    def __init__(self, value: Any, meaning: str) -> None:
        self._value, self._meaning = value, meaning

    def save(self) -> Any:
        return self._value

    def read(self, name: str, value: Any, sizes: Sizes) -> Any:
        if not _equal(value, self._value):
            raise ValueError(
                f"{name} must be {self._value!r}, {self._meaning}, but is {_check.shown(value)}."
            )
        return self._value

    def load(self, value: Any) -> None:
        pass


class Attribute:
    """A number, bool, tuple or None that is an attribute.

    Args:
        owner: the object that has the attribute.
        attribute: its name.
        check: takes the entry's name and value; returns the value to keep, or raises.
    """

    def __init__(self, owner: object, attribute: str, check: Callable[[str, Any], Any]) -> None:
        self._owner, self._attribute, self._check = owner, attribute, check

    def save(self) -> Any:
        return getattr(self._owner, self._attribute)

    def read(self, name: str, value: Any, sizes: Sizes) -> Any:
        return self._check(name, value)

    def load(self, value: Any) -> None:
        setattr(self._owner, self._attribute, value)


class InPlace:
    """A tensor that is restored in its own memory, where others find it.

    Args:
        tensor: of fixed shape.
        check: takes the entry's name and a copy; raises unless the numbers can be right.
    """

    def __init__(self, tensor: Tensor, check: Callable[[str, Tensor], None] | None = None) -> None:
        self._tensor, self._check = tensor, check

    def save(self) -> Tensor:
        return _saved(self._tensor)

    def read(self, name: str, value: Any, sizes: Sizes) -> Tensor:
        copy = read_tensor(name, value, self._tensor, self._tensor.shape, sizes, copies=False)
        if self._check is not None:
            self._check(name, copy)
        return copy

    def load(self, value: Tensor) -> None:
        self._tensor.copy_(value)


class Replaced:
    """A tensor that is an attribute, and may change its shape.

    Args:
        owner: the object that has the attribute.
        attribute: its name.
        shape: that it must have.
        check: takes the entry's name and a copy; raises unless the numbers can be right.
    """

    def __init__(
        self,
        owner: object,
        attribute: str,
        shape: Shape,
        check: Callable[[str, Tensor], None] | None = None,
    ) -> None:
        self._owner, self._attribute, self._shape, self._check = owner, attribute, shape, check

    def save(self) -> Tensor:
        own: Tensor = getattr(self._owner, self._attribute)
        return _saved(own)

    def read(self, name: str, value: Any, sizes: Sizes) -> Tensor:
        copy = read_tensor(name, value, getattr(self._owner, self._attribute), self._shape, sizes)
        if self._check is not None:
            self._check(name, copy)
        return copy

    def load(self, value: Tensor) -> None:
        setattr(self._owner, self._attribute, value)


class ReplacedList:
    """A list of tensors that is an attribute.

    Args:
        owner: the object that has the attribute.
        attribute: its name.
        shapes: that the tensors must have.
        like: a tensor of their dtype and device.
        empty: the name of the size, such as the number of samples, at which the list is empty if it is 0; None for a
            list that is never empty.
    """

    def __init__(
        self, owner: object, attribute: str, shapes: Sequence[Shape], like: Tensor, empty: str | None = None
    ) -> None:
        self._owner, self._attribute, self._shapes = owner, attribute, list(shapes)
        self._like, self._empty = like, empty

    def save(self) -> list[Tensor]:
        return [_saved(tensor) for tensor in getattr(self._owner, self._attribute)]

    def read(self, name: str, value: Any, sizes: Sizes) -> list[Tensor]:
        shapes = self._shapes
        if self._empty is not None and isinstance(value, (list, tuple)):
            count = sizes.setdefault(self._empty, 0) if len(value) == 0 else sizes.get(self._empty)
            shapes = [] if count == 0 else shapes
        values = as_list(name, value, len(shapes))
        return [
            read_tensor(f"{name}[{i}]", own, self._like, shape, sizes)
            for i, (own, shape) in enumerate(zip(values, shapes, strict=True))
        ]

    def load(self, value: Sequence[Tensor]) -> None:
        setattr(self._owner, self._attribute, list(value))


class Drawn:
    """The state of a generator of random numbers.

    Args:
        generator: the generator.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def save(self) -> Tensor:
        return self._generator.get_state()

    def read(self, name: str, value: Any, sizes: Sizes) -> Tensor:
        own = self._generator.get_state()
        copy = read_tensor(name, value, own, own.shape, sizes)
        try:
            scratch = torch.Generator(self._generator.device).set_state(copy)
            drawn = torch.randn(1, generator=scratch, device=scratch.device, dtype=torch.float64)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ValueError(
                f"{name} must be the state of a generator on {self._generator.device.type}, but is another tensor: "
                f"{reason}."
            ) from error
        if not bool(drawn.isfinite()):
            raise ValueError(f"{name} must be the state of a generator, but one that draws {float(drawn)}.")
        return copy

    def load(self, value: Tensor) -> None:
        self._generator.set_state(value)


def check_keys(name: str, found: Any, keys: Iterable[str]) -> None:
    """Raise unless ``found`` is a mapping with these keys and no others."""
    keys = list(keys)
    if not isinstance(found, Mapping):
        raise TypeError(f"{name} must be a dict, but is {_check.named_type(found)}.")
    if missing := [key for key in keys if key not in found]:
        raise ValueError(f"{name} must hold {', '.join(keys)}, but lacks {', '.join(missing)}.")
    if unknown := [_check.shown(key) for key in found if key not in keys]:
        raise ValueError(
            f"{name} must hold {', '.join(keys) or 'nothing'}, but holds {', '.join(unknown)} as well."
        )


def as_list(name: str, value: Any, length: int | None = None) -> list[Any]:
    """A list or tuple of this length, as a list."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list, but is {_check.named_type(value)}.")
    if length is not None and len(value) != length:
        raise ValueError(f"{name} must have {length} entries, but has {len(value)}.")
    return list(value)


def read_tensor(
    name: str,
    value: Any,
    like: Tensor,
    shape: Shape,
    sizes: Sizes,
    *,
    finite: bool = True,
    copies: bool = True,
) -> Tensor:
    """Check a tensor, and copy it.

    Args:
        name: of the entry.
        value: to be checked.
        like: a tensor of the dtype that it must have, on the device that the copy goes to.
        shape: that it must have.
        sizes: the sizes that are known by name; may be added to.
        finite: whether all numbers must be finite.
        copies: whether to copy it; else only to check it, for one that is copied to its place later.

    Returns:
        A contiguous copy, or the tensor itself.

    Raises:
        TypeError: it is no tensor, or has another dtype.
        ValueError: it has another shape, or holds no numbers or numbers that are not finite.
    """
    if type(value) not in (Tensor, nn.Parameter):
        raise TypeError(f"{name} must be a torch.Tensor, but is {_check.named_type(value)}.")
    if value.layout != torch.strided or value.device.type == "meta":
        raise ValueError(
            f"{name} must be a dense tensor with memory, but is {value.layout} on {value.device}."
        )
    if value.dtype != like.dtype:
        raise TypeError(f"{name} must be {like.dtype}, but is {value.dtype}.")
    if not _fits(tuple(value.shape), shape, sizes):
        wanted = ", ".join(str(sizes.get(n, n) if isinstance(n, str) else n) for n in shape)
        wanted = wanted.replace("Ellipsis", "...")
        raise ValueError(f"{name} must have the shape ({wanted}), but has {tuple(value.shape)}.")
    copy = value.detach()
    if copies:
        copy = torch.empty(value.shape, dtype=like.dtype, device=like.device).copy_(copy)
    if finite and not is_finite(copy):
        raise ValueError(f"{name} must be finite, but holds NaN or Inf.")
    return copy


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite."""
    # What is not finite makes the sum so, which takes a third of the time; but large numbers do as well.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _fits(found: tuple[int, ...], shape: Shape, sizes: Sizes) -> bool:
    wanted = list(shape)
    if wanted and wanted[-1] is ...:
        wanted.pop()
        found = found[: len(wanted)]
    if len(found) != len(wanted):
        return False
    fits = True
    for size, own in zip(found, wanted, strict=True):
        fits &= size == (sizes.setdefault(own, size) if isinstance(own, str) else own)
    return fits


def _equal(one: Any, own: Any) -> bool:
    if isinstance(own, (list, tuple)):
        alike = isinstance(one, (list, tuple)) and len(one) == len(own)
        return alike and all(_equal(*pair) for pair in zip(one, own, strict=True))
    return type(one) is type(own) and bool(one == own)


def count(name: str, value: Any, minimum: int = 0) -> int:
    """A count: an integer of at least ``minimum`` and less than 2**63."""
    result = _check.integer(name, value, minimum)
    if result >= _count_limit:
        raise ValueError(f"{name} must be less than 2**63, but is {_check.shown(result)}.")
    return result


def or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Check for None, or for what ``check`` takes."""
    return lambda name, value: None if value is None else check(name, value)


def at_least_zero(name: str, tensor: Tensor) -> None:
    """Raise a ValueError if an entry is negative."""
    if tensor.numel() and not bool(tensor.min() >= 0):
        raise ValueError(f"{name} must be at least 0, but holds {float(tensor.min()):g}.")
