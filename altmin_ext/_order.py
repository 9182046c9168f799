"""The order in which a method goes through its data, over several runs of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from altmin_ext import _check


class DataOrder:
    """The generator of the order of the data: a second run with the same seed goes on where the first one ended.

    So two runs of one epoch go through the data in the orders of one run of two.
    """

    def __init__(self) -> None:
        self._seed: int | None = None  # None before the first run
        self._generator = torch.Generator()

    def generator(self, seed: int) -> torch.Generator:
        """The generator for a run with this seed, which starts anew if the run before had another one."""
        if seed != self._seed:
            self._seed = seed
            self._generator.manual_seed(seed)
        return self._generator

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self._seed, "generator": self._generator.get_state()}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise a TypeError or ValueError unless :meth:`load_state_dict` takes the state."""
        if state["seed"] is not None:
            _check.seed("state's seed of the data order", state["seed"])
        try:
            torch.Generator().set_state(state["generator"].cpu())
        except (AttributeError, TypeError, RuntimeError) as error:
            raise ValueError(
                "state's generator of the data order must be the state of a torch.Generator, but is none."
            ) from error

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seed = None if state["seed"] is None else int(state["seed"])
        self._generator.set_state(state["generator"].cpu())
