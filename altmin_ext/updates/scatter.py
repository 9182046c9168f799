"""The sums of closed-form learners: a scatter matrix, its inverse, and the means of groups of samples."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from altmin_ext import _state
from altmin_ext._check import boolean, number
from altmin_ext.ops import MemoryScalar
from altmin_ext.ops import unversioned as ops
from altmin_ext.updates.inverse import RecursiveInverse
from altmin_ext.updates.memory import gram_matrix


class Change(Protocol):
    """What rows that are added to a :class:`Scatter`, or taken out of it, do to it; it has not changed yet."""

    def weights(self, before: Tensor, residual: Tensor) -> Tensor:
        """The solution W of W (A + ridge I) = B with the new sums.

        Args:
            before: the solution with the sums as they are, (m, n).
            residual: of the rows at these weights, x~ W^T - t, (B, m).

        Returns:
            W, (m, n).
        """

    def times_inverse(self, rows: Tensor) -> Tensor:
        """Multiply by the inverse of the new A + ridge I.

        Args:
            rows: (m, n).

        Returns:
            (m, n).
        """

    def commit(self) -> None:
        """Change the sums."""


class Scatter:
    """The sums A = sum of x~ x~^T and B = sum of t x~^T, and solutions with A + ridge I.

    x~ is an input as a deviation from a mean, t its target, likewise a deviation.

    Few rows at a time change the inverse by a matrix of low rank (:class:`RecursiveInverse`). If many come at a time,
    a Cholesky factor of the sums takes less work; then the inverse is given up, until rows come in few again. It is
    made anew, or given up, once the work lost in the present form exceeds that of making it anew.

    Args:
        like: a tensor of the dtype and device.
        n: the number of inputs.
        targets: the number of targets; 0 for A alone.
        ridge: positive.

    Attributes:
        gram: A, (n, n).
        cross: B, (m, n).
    """

    def __init__(self, like: Tensor, n: int, targets: int, ridge: float) -> None:
        self.gram = like.new_zeros(n, n)
        self.cross = like.new_zeros(targets, n)
        self.ridge = ridge
        self.inverse = RecursiveInverse(like, n)
        self.inverse.start(ridge)
        self._has_inverse, self._lost = True, 0.0
        self._scalars = torch.zeros(len(MemoryScalar), dtype=torch.float64, device=like.device)

    @property
    def parts(self) -> dict[str, _state.Part]:
        """The sums and the inverse, as entries of a method's state."""
        return {
            "gram": _state.InPlace(self.gram, gram_matrix),
            "cross": _state.InPlace(self.cross),
            "inverse": self.inverse.state,
            "has_inverse": _state.Attribute(self, "_has_inverse", boolean),
            "lost": _state.Attribute(self, "_lost", number),
        }

    def add(self, rows: Tensor, targets: Tensor) -> Change | None:
        """Find what new rows do to the solutions.

        Args:
            rows: x~ (B, n), contiguous.
            targets: t (B, m), contiguous.

        Returns:
            The change, to be committed before the next one is asked for; None if it is not finite.
        """
        by_inverse, lost = self._form(len(rows))
        if by_inverse and (self._has_inverse or self.inverse.renew(self.gram, self.ridge)):
            solution = self.inverse.solve(rows)
            if solution is not None:
                return _ByInverse(self, rows, targets, solution, lost, removes=False)
        return self._by_factor(rows, targets, lost, removes=False)

    def remove(self, rows: Tensor, targets: Tensor) -> Change | None:
        """Find what taking rows out again does to the solutions.

        Args:
            rows, targets: as in :meth:`add`.

        Returns:
            The change; None if numerics forbid it, or if the rows have certainly not been added before: without
            them, A would not be positive semidefinite.
        """
        change: Change | None = None
        if self._has_inverse and 2 * len(rows) < len(self.gram):
            solution = self.inverse.solve_removed(rows)
            if solution is None:
                return None
            change = _ByInverse(self, rows, targets, solution, self._lost, removes=True)
        else:
            change = self._by_factor(rows, targets, self._lost, removes=True)
            if change is None:
                return None
            solution = change.times_inverse(rows)
        # What is left, A, is positive semidefinite: z (A + ridge I) z^T >= ridge |z|^2 for z = x (A + ridge I)^-1.
        least = self.ridge * solution.square().sum(1)
        return change if bool((least <= 1.01 * (rows * solution).sum(1)).all()) else None

    def merge(self, other: Scatter, rows: Tensor, targets: Tensor) -> Change | None:
        """Find what the sums of other rows, and some rows beside them, do to the solutions.

        Args:
            other: the sums.
            rows, targets: as in :meth:`add`.

        Returns:
            The change; None if it is not finite.
        """
        gram, cross = self.gram + other.gram, self.cross + other.cross
        self._sum_up(rows, targets, gram, cross, removes=False)
        return self._factored(gram, cross, self._lost)

    def _factored(self, gram: Tensor, cross: Tensor, lost: float) -> Change | None:
        """The change to other sums; None if A + ridge I is not positive definite."""
        for dtype in dict.fromkeys((gram.dtype, torch.float64)):
            damped = gram.to(dtype, copy=True)
            damped.diagonal().add_(self.ridge)
            factor, failed = torch.linalg.cholesky_ex(damped)
            if not bool(failed):
                return _ByFactor(self, gram, cross, factor, lost)
        return None

    def reset(self) -> None:
        """Begin anew."""
        self.gram.zero_()
        self.cross.zero_()
        self.inverse.start(self.ridge)
        self._has_inverse, self._lost = True, 0.0

    def _by_factor(self, rows: Tensor, targets: Tensor, lost: float, removes: bool) -> Change | None:
        gram, cross = self.gram.clone(), self.cross.clone()
        self._sum_up(rows, targets, gram, cross, removes)
        return self._factored(gram, cross, lost)

    def _sum_up(self, rows: Tensor, targets: Tensor, gram: Tensor, cross: Tensor, removes: bool) -> None:
        ops.memory_update(rows, targets, gram=gram, cross=cross, scalars=self._scalars, subtract=removes)

    def keep_books(self, has_inverse: bool, lost: float) -> None:
        """Take note of the form of a change that is made, and of the work that is lost by then."""
        if self._has_inverse and not has_inverse:
            self.inverse.start(self.ridge)
        self._has_inverse, self._lost = has_inverse, lost

    def _form(self, count: int) -> tuple[bool, float]:
        """Whether the next rows are to change the inverse, and the work lost then by not having taken the other form.

        The form is changed if that exceeds the work of making the inverse anew.
        """
        n, rows = len(self.gram), len(self.cross)
        by_inverse = 1.5 * (n + count) * n * count  # multiplications of a product
        by_factor = (
            n**3 / 2 + 4 * rows * n * n
        )  # of which a factor, and solving by it, do fewer in the same time
        renewal = 3 * n**3
        more = by_inverse - by_factor if self._has_inverse else by_factor - by_inverse
        lost = max(0.0, self._lost + more)
        return (self._has_inverse, lost) if lost <= renewal else (not self._has_inverse, 0.0)


class _ByInverse:
    """A change of a scatter by Z, the rows times its new inverse."""

    def __init__(
        self, scatter: Scatter, rows: Tensor, targets: Tensor, solution: Tensor, lost: float, *, removes: bool
    ) -> None:
        self._scatter, self._rows, self._targets, self._removes = scatter, rows, targets, removes
        self._solution, self._lost = solution, lost

    def weights(self, before: Tensor, residual: Tensor) -> Tensor:
        return torch.addmm(before, residual.t(), self._solution, alpha=1.0 if self._removes else -1.0)

    def times_inverse(self, rows: Tensor) -> Tensor:
        past = self._scatter.inverse.multiply(rows)
        overlap = past @ self._rows.t()
        return torch.addmm(past, overlap, self._solution, alpha=1.0 if self._removes else -1.0)

    def commit(self) -> None:
        s = self._scatter
        s.inverse.commit()
        s.keep_books(True, self._lost)
        s._sum_up(self._rows, self._targets, s.gram, s.cross, self._removes)


class _ByFactor:
    """New sums in place of those of a scatter, with a Cholesky factor in float64."""

    def __init__(self, scatter: Scatter, gram: Tensor, cross: Tensor, factor: Tensor, lost: float) -> None:
        self._scatter, self._gram, self._cross, self._factor = scatter, gram, cross, factor
        self._lost = lost

    def weights(self, before: Tensor, residual: Tensor) -> Tensor:
        return self.times_inverse(self._cross)

    def times_inverse(self, rows: Tensor) -> Tensor:
        solution = torch.cholesky_solve(rows.t().to(self._factor.dtype), self._factor)
        return solution.t().to(rows.dtype).contiguous()

    def commit(self) -> None:
        s = self._scatter
        s.gram.copy_(self._gram)
        s.cross.copy_(self._cross)
        s.keep_books(False, self._lost)


class Means:
    """The number and the mean of the samples in each of several groups.

    Args:
        like: a tensor of the dtype and device.
        groups: how many.
        n: the numbers of a sample.

    Attributes:
        counts: (groups,) float64.
        means: (groups, n).
    """

    def __init__(self, like: Tensor, groups: int, n: int) -> None:
        self.counts = like.new_zeros(groups, dtype=torch.float64)
        self.means = like.new_zeros(groups, n)

    @property
    def parts(self) -> dict[str, _state.Part]:
        """The two, as entries of a method's state."""
        return {
            "counts": _state.InPlace(self.counts, _state.at_least_zero),
            "means": _state.InPlace(self.means),
        }

    def change(self, x: Tensor, groups: Tensor | None, removes: bool = False) -> MeansChange:
        """Find what samples that are added, or taken out, do to the means, and their share in the scatter.

        The deviations x~ of the samples are such that the sum of x~ x~^T is the difference of the scatters around
        the means, before and after (a block form of Welford 1962): with m the group's mean, k its number, and b and B
        those of the samples in it,

            x~ = x - b - sqrt(k / (k + B)) (b - m),

        or sqrt(k / (k - B)) if they are taken out.

        Args:
            x: (B, n).
            groups: (B,), the group of each sample; None if there is one group.
            removes: whether they are taken out; no group must hold fewer than are taken.

        Returns:
            The change.
        """
        sign = -1.0 if removes else 1.0
        if groups is None:
            places = None
            present = torch.zeros(1, dtype=torch.int64, device=x.device)
            sizes = self.counts.new_full((1,), len(x))
            own = x.mean(0, keepdim=True)
        else:
            present, places = groups.unique(return_inverse=True)
            # A product, which adds up in the same order every time, on a GPU too.
            members = (present[:, None] == groups).to(x.dtype)
            sizes = members.sum(1, dtype=torch.float64)
            own = members @ x / sizes[:, None].to(x.dtype)
        before = self.counts[present]
        after = before + sign * sizes
        safe = after.clamp_min(1.0)
        moved = own - self.means[present]
        share = (before / safe).sqrt()
        share[after == 0] = 0.0
        offsets = torch.addcmul(own, share[:, None].to(x.dtype), moved)
        step = (sign * sizes / safe)[:, None].to(x.dtype)
        means = torch.addcmul(self.means[present], step, moved)
        means[after == 0] = 0.0
        deviations = x - (offsets if places is None else offsets[places])
        return MeansChange(self, present, after, means, deviations)

    def merge(self, other: Means) -> MeansChange:
        """Find the means of two sets of samples together.

        Args:
            other: the means of the other set.

        Returns:
            The change. Its deviations, one for each group, add to the scatters of the two sets what their means lie
            apart: sqrt(k l / (k + l)) (m - p), for k samples with the mean m and l with the mean p.
        """
        counts = self.counts + other.counts
        share = other.counts / counts.clamp_min(1.0)
        apart = other.means - self.means
        means = torch.addcmul(self.means, share[:, None].to(apart.dtype), apart)
        deviations = (self.counts * share).sqrt()[:, None].to(apart.dtype) * apart
        return MeansChange(self, torch.arange(len(counts), device=counts.device), counts, means, deviations)


class MeansChange:
    """What samples do to the :class:`Means`, which have not changed yet.

    Attributes:
        present: (g,), the numbers of the groups that change.
        after: (g,) float64, their new counts.
        means: (g, n), their new means.
        deviations: x~ (B, n).
    """

    def __init__(
        self, owner: Means, present: Tensor, after: Tensor, means: Tensor, deviations: Tensor
    ) -> None:
        self._owner = owner
        self.present, self.after, self.means, self.deviations = present, after, means, deviations

    def of_all(self) -> tuple[Tensor, Tensor]:
        """The new counts and means of all groups."""
        counts, means = self._owner.counts.clone(), self._owner.means.clone()
        counts[self.present], means[self.present] = self.after, self.means
        return counts, means

    def commit(self) -> None:
        """Change the counts and means."""
        self._owner.counts[self.present] = self.after
        self._owner.means[self.present] = self.means
