"""The inverse of a memory, kept from minibatch to minibatch by updates of low rank: recursive least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from altmin_ext import _state
from altmin_ext.ops import MemoryScalar
from altmin_ext.ops import unversioned as ops


class RecursiveInverse:
    """P, the inverse of a memory A = sum of a~ a~^T plus a multiple of the identity.

    a~ is an input a, with a 1 appended for a bias. A minibatch X~ of B inputs changes P by a matrix of rank B
    (Sherman, Morrison and Woodbury), which costs 3 n^2 B multiplications instead of the n^3 / 6 of a Cholesky factor:

        U = X~ P,  S = I + U X~^T = C C^T,  K = C^-1 U,  P <- P - K^T K .

    A fit needs Z = X~ P of the new P, which is C^-T K: whatever R is, D (A + added I) = R^T X~ has the solution
    D = R^T Z. So :meth:`solve` returns Z, and :meth:`commit` then changes P. What can fail does so in :meth:`solve`,
    which changes nothing; a step that fails elsewhere leaves out the commit.

    Who calls knows A and ``added``. If A is forgotten in part, ``added`` fades as A's past does, and P grows in
    directions that no input has any more. It is bounded if :meth:`renew` makes P anew before ``added`` has faded.

    Args:
        like: a tensor of the dtype and device.
        n: the number of rows of A.

    Attributes:
        matrix: P (n, n), symmetric to the bit, to be read only; zero before :meth:`start` or :meth:`renew`.
        state: P, as a part of a method's state.
    """

    def __init__(self, like: Tensor, n: int) -> None:
        self.matrix = like.new_zeros(n, n, requires_grad=False)
        self.state: _state.Part = _state.InPlace(self.matrix)
        self._pending: int | None = None  # rows of a solution that is not committed
        self._product = self._factor = self._solution = self.matrix[:0]
        self._smallest_pivot = torch.ones(1, dtype=torch.float64, device=like.device)
        self._scalars = torch.zeros(len(MemoryScalar), dtype=torch.float64, device=like.device)
        self._forgetting, self._removes = 0.0, False
        generator = torch.Generator().manual_seed(0)
        self._direction = torch.randn(n, generator=generator, dtype=torch.float64).to(self.matrix)

    def start(self, diagonal: float) -> None:
        """Begin with A + added I = diagonal I.

        Args:
            diagonal: positive.
        """
        self._pending = None
        self.matrix.zero_()
        self.matrix.diagonal().fill_(1 / diagonal)

    def renew(self, gram: Tensor, added: Tensor | float) -> bool:
        """Make P anew, by a Cholesky factor in float64.

        Args:
            gram: A (n, n).
            added: to A's diagonal.

        Returns:
            Whether A + added I is positive definite in floating-point arithmetic. If not, P stays as it is.
        """
        damped = gram.double() if gram.dtype != torch.float64 else gram.clone()
        damped.diagonal().add_(added)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if bool(failed):
            return False
        inverse = torch.cholesky_inverse(factor)
        if not bool(inverse.diagonal().sum().isfinite()):
            return False
        self._pending = None
        self.matrix.copy_(inverse.tril_() + inverse.tril(-1).t())
        return True

    def solve(self, inputs: Tensor, forgetting: float = 0.0) -> Tensor | None:
        """Find what a minibatch does to P: A <- (1 - forgetting) A + X~^T X~, and ``added`` fades in the same way.

        Args:
            inputs: X (B, n), or (B, n - 1) if a 1 is to be appended.
            forgetting: at least 0 and below 1.

        Returns:
            Z = X~ P of the new P, (B, n), which the next solution overwrites. None if it is not finite; then there is
            nothing to commit.
        """
        return self._solve(inputs, -forgetting / (1 - forgetting), removes=False, least=0.0)

    def solve_removed(self, inputs: Tensor) -> Tensor | None:
        """Find what becomes of P when a minibatch is taken out again: A <- A - X~^T X~.

        Args:
            inputs: X (B, n), or (B, n - 1) if a 1 is to be appended.

        Returns:
            Z = X~ P of the new P, (B, n), which the next solution overwrites. None if numerics forbid it: in some
            direction less than half of the digits would be left of what A knows. Then there is nothing to commit.
        """
        return self._solve(inputs, 0.0, removes=True, least=torch.finfo(self.matrix.dtype).eps ** 0.5)

    def commit(self) -> None:
        """Change P by the last solution."""
        if self._pending is None:
            return
        k = self._factor[: self._pending]
        self.matrix.sub_(self._forgetting * self.matrix)
        change = k.t() @ k
        change = change.tril() + change.tril(-1).t()
        self.matrix.add_(change if self._removes else -change)
        self._pending = None

    def probe(self, gram: Tensor, added: Tensor | float) -> float:
        """Measure how far P is from the inverse: |v - (A + added I) P v| / |v| for a fixed random v.

        Args:
            gram: A (n, n).
            added: to A's diagonal.

        Returns:
            The distance; not finite if P is not.
        """
        v = self._direction
        image = self.matrix @ v
        return float((v - gram @ image - added * image).norm() / v.norm())

    def _solve(self, inputs: Tensor, forgetting: float, *, removes: bool, least: float) -> Tensor | None:
        rows, columns = inputs.shape
        self._pending = None
        if rows > len(self._product):
            self._product, self._factor, self._solution = (
                self.matrix.new_empty(rows, len(self.matrix)) for _ in range(3)
            )
        product, factor, solution = (m[:rows] for m in (self._product, self._factor, self._solution))
        if forgetting != self._forgetting:
            self._scalars[MemoryScalar.forgetting] = self._forgetting = forgetting
        ops.matmul(inputs, self.matrix[:columns], out=product)
        ops.memory_solve(
            inputs,
            product,
            self.matrix[-1] if columns < len(self.matrix) else None,
            factor=factor,
            solution=solution,
            smallest_pivot=self._smallest_pivot,
            scalars=self._scalars,
            removes=removes,
        )
        if not float(self._smallest_pivot) > least:
            return None
        self._pending, self._removes = rows, removes
        return solution
