"""The flags of a step, by their subject."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Subject = tuple[str, int | None]


class Guard:
    """Flags that kernels raise if a number is not finite.

    Args:
        subjects: the subject of each flag: a variable such as "code", "loss" or "weight gradient", and the number of
            its stage, None for the whole model. If several flags are raised, the first is reported.
        device: of the model.
        dtype: of the flags; our kernels need float64.

    Attributes:
        flags: (subjects,), 0 or 1; the ``guard`` of kernels.
        loss: (1,), a view: the flag of the loss; empty if there is none.
    """

    def __init__(
        self, subjects: Sequence[Subject], device: torch.device, dtype: torch.dtype = torch.float64
    ) -> None:
        self._subjects = list(subjects)
        self.flags = torch.zeros(len(self._subjects), dtype=dtype, device=device)
        self._views = [self.flags[i : i + 1] for i in range(len(self._subjects))]
        self._single = dict(zip(self._subjects, self._views, strict=True))
        self._weights = {
            stage: i for i, (variable, stage) in enumerate(self._subjects) if variable.startswith("weight")
        }
        self.loss = next((self._single[s] for s in self._subjects if s[0] == "loss"), self.flags[:0])

    def flag(self, variable: str, stage: int | None) -> Tensor:
        """The flag of a subject, (1,), a view."""
        return self._single[variable, stage]

    def code(self, stage: int) -> Tensor:
        """The flag of a stage's code."""
        return self._single["code", stage]

    def weights(self, first: int, count: int = 1) -> Tensor:
        """The flags of the weights, or weight gradients, of ``count`` stages from ``first`` on; (count,), a view."""
        start = self._weights[first]
        return self._views[start] if count == 1 else self.flags[start : start + count]

    def number_of_weights(self, stage: int) -> int:
        """The number in ``flags`` of the flag of a stage's weights."""
        return self._weights[stage]

    def put_up(self, variable: str, stage: int | None) -> None:
        """Raise a flag from Python."""
        self._single[variable, stage].fill_(1.0)

    def raised(self) -> Subject | None:
        """The subject of the first raised flag, or None; waits for a GPU."""
        flags = self.flags.tolist()
        return self._subjects[next(i for i, flag in enumerate(flags) if flag)] if any(flags) else None

    def lower(self) -> None:
        """Lower all flags."""
        self.flags.zero_()
