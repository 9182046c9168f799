"""The check, for methods that keep variables for every sample, that each step gets the same training set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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

    def state(self) -> list[Tensor]:
        return [part.clone() for part in self._kept]

    def load(self, state: Sequence[Tensor], device: torch.device) -> None:
        self._kept = [part.to(device).clone() for part in state]
