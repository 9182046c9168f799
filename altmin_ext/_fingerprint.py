"""The check, for methods that keep variables for samples, that a sample is the same whenever it comes again."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from altmin_ext._state import Part, ReplacedList

_chunk = 2**16  # words, whose products stay in the cache, in memory that is not given back in between


def digests(values: Tensor) -> Tensor:
    """A number for each sample that depends on every bit of it.

    It is the sum of the sample's 32-bit words times random odd 64-bit numbers, modulo 2^64: exact on every device and
    for every memory layout. A change of one word always changes it; a change of several leaves it the same with a
    probability of about 2^-32.

    Args:
        values: (N, ...), samples or their targets.

    Returns:
        (N,) int64.
    """
    rows = values.reshape(len(values), -1)
    if rows.element_size() < 4:
        rows = rows.float() if rows.is_floating_point() else rows.int()
    words = rows.shape[1] * rows.element_size() // 4
    factors = torch.empty(words, dtype=torch.int64)
    factors.random_(-(2**62), 2**62, generator=torch.Generator().manual_seed(0)).mul_(2).add_(1)
    factors = factors.to(rows.device)
    result = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    together = max(1, _chunk // max(1, words))  # samples
    for part, own in zip(rows.split(together), result.split(together), strict=True):
        # Not contiguous(), which leaves a single number the stride that it has.
        part = part.clone(memory_format=torch.contiguous_format)
        torch.sum(part.view(torch.int32) * factors, 1, out=own)
    return result


class Fingerprint:
    """The digests of a training set, all samples of which every later step must pass again, in their order.

    All samples are looked at, unless torch knows that nobody has written to their memory since the last step. Even
    then a hundred of them are, others in every step: numpy and ``tensor.data`` write without torch's knowledge.
    Samples with numbers that are not finite are left to the divergence guard.

    Args:
        device: of the model.

    Attributes:
        state: the entry of a state, with one number for each sample of x and of y; none before the first step.
    """

    _share = 100

    def __init__(self, device: torch.device) -> None:
        self._kept: list[Tensor] = []  # of x and of y
        # The digests that x and y of the last step have passed, and these themselves.
        self._passed: tuple[list[Tensor], _Versions] = self._kept, []
        self._turn = 0
        self.state: Part = ReplacedList(
            self,
            "_kept",
            [["samples"]] * 2,
            torch.empty(0, dtype=torch.int64, device=device),
            empty="samples",
        )

    def keep(self, x: Tensor, y: Tensor) -> None:
        kept, now = [digests(x), digests(y)], _versions(x, y)
        self._kept, self._passed = kept, (kept, now)

    def forget(self) -> None:
        self._kept = []
        self._passed = self._kept, []

    def check(self, x: Tensor, y: Tensor, method: str) -> bool:
        """Raise a ValueError if the samples or their order differ from those that are kept.

        Returns:
            Whether they are the same to the bit; False if samples that are not finite now differ.
        """
        if not self._kept:
            return True
        now = _versions(x, y)
        rows = slice(None)
        same = True
        digests_passed, before = self._passed
        if digests_passed is self._kept and _are_unwritten(now, before):
            self._turn += 1
            stride = -(-len(x) // self._share)
            rows = slice(self._turn % stride, None, stride)
        for name, values, kept in zip("xy", (x, y), self._kept, strict=True):
            differ = digests(values[rows]) != kept[rows]
            if not bool(differ.any()):
                continue
            now, same = [], False
            others = values[rows][differ]
            if bool(others.reshape(len(others), -1).isfinite().all(1).any()):
                raise ValueError(
                    f"{name} must hold the samples of the first step, in their order, but holds others: {method} "
                    "takes the whole training set in every step."
                )
        self._passed = self._kept, now
        return same


_Versions: TypeAlias = list[tuple[Tensor, int]]


def _versions(*tensors: Tensor) -> _Versions:
    """Views of the tensors, and their versions, which torch raises when it writes to them; empty if it has none."""
    if any(tensor.is_inference() for tensor in tensors):
        return []
    return [(tensor.detach(), tensor._version) for tensor in tensors]


def _are_unwritten(now: _Versions, before: _Versions) -> bool:
    """Whether these are the same places in memory, and torch has not written to them in between."""
    return len(now) == len(before) > 0 and all(
        tensor.is_set_to(other) and version == earlier
        for (tensor, version), (other, earlier) in zip(now, before, strict=True)
    )
