"""The check, for methods that keep variables for every sample, that each step gets the same training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from altmin_ext._state import Part, Shape, Sizes, as_list, read_tensor


class Fingerprint:
    """Up to a hundred samples, evenly spread over a training set, that every later step must pass again.

    They are compared entry by entry: sums over all samples cost more, and are rounded differently for every memory
    layout and device. Changes of other samples go unnoticed. Numbers that are not finite are left to the divergence
    guard.
    """

    _size = 100

    def __init__(self) -> None:
        self._kept: list[Tensor] = []  # of x and of y

    def keep(self, x: Tensor, y: Tensor) -> None:
        self._kept = self._taken(x, y)

    def forget(self) -> None:
        self._kept = []

    def check(self, x: Tensor, y: Tensor, method: str) -> None:
        """Raise a ValueError if the samples or their order differ from those that are kept."""
        if not self._kept:
            return
        for name, found, kept in zip("xy", self._taken(x, y), self._kept, strict=True):
            if found.shape != kept.shape or bool(((found != kept.to(found)) & found.isfinite()).any()):
                raise ValueError(
                    f"{name} must hold the samples of the first step, in their order, but holds others: {method} "
                    "takes the whole training set in every step."
                )

    def _taken(self, x: Tensor, y: Tensor) -> list[Tensor]:
        count = min(len(x), self._size)
        rows = torch.arange(count, device=x.device) * len(x) // count
        return [x[rows].flatten(1), y[rows]]

    def part(self, features: int, like: Tensor) -> Part:
        """The entry of a state, behind one that has the size "samples".

        Args:
            features: of x, flattened.
            like: a tensor of the model's dtype and device.
        """
        return _Samples(self, features, like)


class _Samples:
    """The samples in a state: those of x, and their y of integers or floats; none before the first step."""

    def __init__(self, fingerprint: Fingerprint, features: int, like: Tensor) -> None:
        self._fingerprint, self._features, self._like = fingerprint, features, like

    def save(self) -> list[Tensor]:
        return [part.clone() for part in self._fingerprint._kept]

    def read(self, name: str, value: Any, sizes: Sizes) -> list[Tensor]:
        samples, like = sizes["samples"], self._like
        values = as_list(name, value, 2 if samples else 0)
        if not values:
            return []
        x, y = values
        rows = min(samples, Fingerprint._size)
        are_integers = isinstance(y, Tensor) and y.dtype == torch.int64
        shape: Shape = [rows, ...] if isinstance(y, Tensor) and y.ndim > 1 else [rows]
        return [
            read_tensor(f"{name}[0]", x, like, [rows, self._features], sizes),
            read_tensor(f"{name}[1]", y, like.to(torch.int64) if are_integers else like, shape, sizes),
        ]

    def load(self, value: Sequence[Tensor]) -> None:
        self._fingerprint._kept = [part.clone() for part in value]
