"""The order in which a method goes through its data, over several runs of training."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from altmin_ext import _check, _state


def derived_seed(seed: int, number: int) -> int:
    """The seed of one of many independent draws, by their common seed and its number."""
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def permutation(n: int, seed: int, number: int) -> Tensor:
    """The order of a pass over n samples; seed and number alone decide on it, so that a pass can be entered anywhere.

    Args:
        n: the number of samples.
        seed: of all passes.
        number: of the pass.

    Returns:
        (n,) int64 on the CPU.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(derived_seed(seed, number)))


class DataOrder:
    """Numbers the passes over the data: a second run with the same seed goes on where the first one ended.

    So two runs of one epoch go through the data in the orders of one run of two.

    Attributes:
        seed: of the last run; None before the first.
        passes: the number of passes that have been begun with this seed.
    """

    def __init__(self) -> None:
        self.seed: int | None = None
        self.passes = 0

    def start(self, seed: int) -> DataOrder:
        """Begin a run with this seed; if the run before had another one, its first pass is number 0."""
        if seed != self.seed:
            self.seed, self.passes = seed, 0
        return self

    @property
    def number(self) -> int:
        """The number of the pass that was begun last, from 0."""
        return self.passes - 1

    def permutation(self, n: int) -> Tensor:
        """The order of the pass that was begun last, see :func:`permutation`."""
        return permutation(n, self.seed or 0, self.number)

    def seed_of_pass(self) -> int:
        """What generators of the pass that was begun last are seeded with."""
        return derived_seed(self.seed or 0, self.number)

    def state(self) -> _state.Part:
        """What is kept of it."""
        return _state.Entries(
            {
                "seed": _state.Attribute(self, "seed", _state.or_none(_check.seed)),
                "passes": _state.Attribute(self, "passes", _state.count),
            }
        )
