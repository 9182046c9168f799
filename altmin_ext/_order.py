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
    """The generator of the order of the data: a second run with the same seed goes on where the first one ended.

    So two runs of one epoch go through the data in the orders of one run of two.

    Attributes:
        seed: of the last run; None before the first.
    """

    def __init__(self) -> None:
        self.seed: int | None = None
        self._generator = torch.Generator()

    def generator(self, seed: int) -> torch.Generator:
        """The generator for a run with this seed, which starts anew if the run before had another one."""
        if seed != self.seed:
            self.seed = seed
            self._generator.manual_seed(seed)
        return self._generator

    def state(self) -> _state.Part:
        """What is kept of it."""
        return _state.Entries(
            {
                "seed": _state.Attribute(self, "seed", _state.or_none(_check.seed)),
                "generator": _state.Drawn(self._generator),
            }
        )
