"""The order in which a method goes through its data, over several runs of training."""

from __future__ import annotations

import torch

from altmin_ext import _check, _state


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
