"""Whether the inverse of a memory is kept, made anew, or done without: what takes the least work."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from altmin_ext import _check, _state
from altmin_ext.updates.inverse import RecursiveInverse

# The time of a multiplication of a factor, of an inverse, over one of a product.
_factor_price, _renewal_price = 3, 6
_probe_interval = 16  # times that A is brought up to date
_largest_error = 1e-2  # of what a probe may find

_Sums = tuple[bool, float, float, float, float]  # is_current, added, floor, nominal, debt
_gone: _Sums = (False, 0.0, 0.0, 0.0, 0.0)


class KeptInverse:
    """P = (A + added I)^-1 of a memory's A, as long as that takes less work than a Cholesky factor per minibatch.

    For B samples and a stage of m outputs, P takes 3/2 n^2 B + 2 n B^2 multiplications; a factor takes n^3 / 6, and
    n^2 for each of min(B, m) rows. The way is changed once it has cost as much too much as a new P costs. So a small
    minibatch at the end of an epoch does not have P made, and no stream takes much more than twice the least work.

    What is added fades as A's past is forgotten, and P then grows in directions that no input has any more. So P is
    done away with before a minibatch with which that is less than half, or more than twice, of what a factor adds:
    ``damping`` times the mean of A's diagonal, but no less than the rounding of A. At times a probe looks whether P
    and A have parted by rounding.

    Args:
        like: a tensor of the dtype and device.
        n: the number of rows of A that are solved for.
        rows: outputs of the stage.
        forgetting: the share of the past that each minibatch displaces, below 1.
        is_damped: whether the damping must be met from both sides.

    Attributes:
        is_current: whether P is (A + added I)^-1.
        added: the multiple of the identity in P that is not in A.
        floor: a multiple of the identity that the inverse of P has for certain; ``added``, or more with a prior.
        nominal: what a factor would add.
        debt: what the present way has cost more than the other one, in multiplications.
        state: as a part of a method's state.
    """

    def __init__(self, like: Tensor, n: int, rows: int, forgetting: float, is_damped: bool) -> None:
        self._inverse, self._like = RecursiveInverse(like, n), like[:0]
        self._n, self._rows, self._forgetting, self._is_damped = n, rows, forgetting, is_damped
        self._renewal = _renewal_price * n**3 / 2
        self._renewals = -math.log1p(-forgetting) / math.log(2)  # per minibatch, since what is added fades
        self.is_current, self.added, self.floor, self.nominal, self.debt = _gone
        self._next: _Sums | None = None
        self._is_owed = False  # whether the last solution belongs to a step that has been taken
        self._looks = 0
        at_least_zero = functools.partial(_check.number, minimum=0.0)
        self.state = _state.Entries(
            {
                "inverse": self._inverse.state,
                "is_current": _state.Attribute(self, "is_current", _check.boolean),
                "added": _state.Attribute(self, "added", at_least_zero),
                "floor": _state.Attribute(self, "floor", at_least_zero),
                "nominal": _state.Attribute(self, "nominal", at_least_zero),
                "debt": _state.Attribute(self, "debt", at_least_zero),
                "looks": _state.Attribute(self, "_looks", _state.count),
            }
        )

    @staticmethod
    def may_pay(n: int, rows: int, forgetting: float) -> bool:
        """Whether there are minibatches for which P takes less work.

        Args:
            n, rows, forgetting: as for the class.
        """
        return forgetting < 1 and _saved(n, rows, -math.log1p(-forgetting) / math.log(2), 1) > 0

    def start(self, inputs: Tensor, added: float, prior: float) -> Tensor | None:
        """Solve for the first minibatch that a memory sees.

        Args:
            inputs: X (B, n), or (B, n - 1) if a 1 is to be appended.
            added: to the diagonal of A.
            prior: the initial diagonal of A.

        Returns:
            Z = X~ P of the new P, (B, n), which the next solution overwrites; None if a factor must be taken.
        """
        self._next = None
        if not added + prior > 0 or self._saved(len(inputs)) <= 0:
            return None
        self._inverse.start(added + prior)
        return self._solution(inputs, 0.0, added, added + prior, added, 0.0)

    def solve(
        self, inputs: Tensor, damping: float, past: Callable[[], tuple[Tensor, float]]
    ) -> Tensor | None:
        """Solve for a minibatch.

        Args:
            inputs: X (B, n), or (B, n - 1) if a 1 is to be appended.
            damping: what the minibatch adds to that of A.
            past: returns A without it, and what is to be added to its diagonal.

        Returns:
            Z = X~ P of the new P, (B, n), which the next solution overwrites; None if a factor must be taken.
        """
        saved = self._saved(len(inputs))
        debt = max(0.0, self.debt - saved if self.is_current else self.debt + saved)
        turns = debt >= self._renewal
        kept = 1 - self._forgetting
        nominal = kept * self.nominal + damping
        solution = None
        if self.is_current and not turns:
            if self._is_sound(kept * self.added, kept * self.floor, nominal):
                solution = self._solution(inputs, self._forgetting, self.added, self.floor, nominal, debt)
        elif turns and not self.is_current:
            gram, added = past()
            nominal = kept * added + damping
            renewed = self._renew(gram, nominal / kept)
            if renewed is not None:
                solution = self._solution(inputs, self._forgetting, renewed, renewed, nominal, 0.0)
        if solution is None:
            self._next = (*_gone[:-1], 0.0 if turns or self.is_current else debt)
        return solution

    def commit(self) -> None:
        """Keep what the last solution has found; P itself follows with :meth:`settle`."""
        if self._next is not None:
            self.is_current, self.added, self.floor, self.nominal, self.debt = self._next
            self._is_owed, self._next = self.is_current, None

    def settle(self) -> None:
        """Bring P up to date with the steps that have been taken."""
        if self._is_owed:
            self._inverse.commit()
            self._is_owed = False

    def look(self, gram: Tensor, added: float) -> None:
        """See whether P still is what it should be, and do away with it if not.

        Args:
            gram: A, up to date.
            added: what is to be added to its diagonal.
        """
        if not self.is_current:
            return
        self._looks += 1
        self.nominal = added
        sound = self._is_sound(self.added, self.floor, added)
        if sound and self._looks % _probe_interval == 0:
            sound = self._inverse.probe(gram, self.added) <= _largest_error
        if not sound:
            self.forget()

    def nothing(self) -> dict[str, Any]:
        """The value of ``state`` without P."""
        fresh = KeptInverse(self._like, self._n, self._rows, self._forgetting, self._is_damped)
        return fresh.state.save()

    def forget(self) -> None:
        """Do away with P."""
        self.is_current, self.added, self.floor, self.nominal, self.debt = _gone
        self._is_owed, self._next = False, None

    def _is_sound(self, added: float, floor: float, nominal: float) -> bool:
        """Whether what is added, or there for certain, is about what it should be."""
        if not self._is_damped:
            return floor >= nominal / 2
        return nominal / 2 <= added <= 2 * nominal

    def _solution(
        self, inputs: Tensor, forgetting: float, added: float, floor: float, nominal: float, debt: float
    ) -> Tensor | None:
        solution = self._inverse.solve(inputs, forgetting)
        if solution is not None:
            kept = 1 - forgetting
            self._next = True, kept * added, kept * floor, nominal, debt
        return solution

    def _renew(self, gram: Tensor, added: float) -> float | None:
        """Make P anew; returns what has been added, or None if no A + added I is positive definite."""
        for _ in range(10):
            if self._inverse.renew(gram, added):
                return added
            added *= 10
        return None

    def _saved(self, batch: int) -> float:
        return _saved(self._n, self._rows, self._renewals, batch)


def _saved(n: int, rows: int, renewals: float, batch: int) -> float:
    """The multiplications that P saves over a factor, in the time of those of a product."""
    factor = _factor_price * n**3 / 6 + min(batch, rows) * 2 * n**2
    return factor - 1.5 * n**2 * batch - 2 * n * batch**2 - renewals * _renewal_price * n**3 / 2
