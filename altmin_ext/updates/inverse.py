"""The inverse of a memory, kept from minibatch to minibatch by updates of low rank: recursive least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from altmin_ext import _state
from altmin_ext.ops import MemoryScalar
from altmin_ext.ops import unversioned as ops

most_held = 64  # rows of changes that are not added to a matrix yet


class RecursiveInverse:
    """P, the inverse of a memory A = sum of a~ a~^T plus a multiple ``added`` of the identity.

    a~ is an input a, with a 1 appended for a bias. A minibatch of B inputs in the rows of X~ changes P by a matrix of
    rank B (Sherman, Morrison and Woodbury), which costs 3 n^2 B multiplications instead of the n^3 / 6 of a Cholesky
    factor:

        U = X~ P,  S = I + U X~^T = C C^T,  K = C^-1 U,  P <- P - K^T K .

    A fit needs Z = X~ P of the new P, which is C^-T K: whatever R is, D (A + added I) = R^T X~ has the solution
    D = R^T Z. So :meth:`solve` returns Z, and :meth:`commit` then changes P. What can fail does so in :meth:`solve`,
    which changes nothing; a step that fails elsewhere leaves out the commit.

    Where n is large, to read and write P takes longer than to compute with it. So P is held as Q - H^T H: a commit
    adds the rows K to H, and Q changes only once H has enough of them.

    Who calls knows A and ``added``. If A is forgotten in part, ``added`` fades as A's past does, and P grows in
    directions that no input has any more. It is bounded if :meth:`renew` makes P anew before ``added`` has faded.

    In float32 the error of X~ P is about eps times the condition of A, as that of a factor of A is. Make P anew no
    more often than that asks for: a float32 sum A may have lost ``added`` to rounding where P has not.

    Args:
        like: a tensor of the dtype and device.
        n: the number of rows of A.

    Attributes:
        state: P, as a part of a method's state.
    """

    def __init__(self, like: Tensor, n: int) -> None:
        self._matrix = like.new_zeros(n, n, requires_grad=False)  # Q
        self._factors = self._matrix.new_empty(0, n)  # H, and behind it the K of a solution
        self._held = 0  # rows of H
        self._solved: _Change | None = None  # what is to be committed
        self._inputs = self._product = self._solution = self._matrix[:0]
        self._overlap = self._matrix.new_empty(0)
        self._smallest_pivot = torch.ones(1, dtype=torch.float64, device=like.device)
        self._scalars = torch.zeros(len(MemoryScalar), dtype=torch.float64, device=like.device)
        generator = torch.Generator().manual_seed(0)
        self._direction = torch.randn(1, n, generator=generator, dtype=torch.float64).to(self._matrix)
        self.state: _state.Part = _state.Entries(
            {
                "matrix": _state.InPlace(self._matrix, _symmetric),
                "factors": _Held(self),
            }
        )

    @property
    def matrix(self) -> Tensor:
        """P (n, n), symmetric to the bit, to be read only; zero before :meth:`start` or :meth:`renew`."""
        self._fold()
        return self._matrix

    @property
    def factors(self) -> Tensor:
        """H, the rows of the changes that Q lacks; a tensor that it is set to is its own from then on."""
        return self._factors[: self._held]

    @factors.setter
    def factors(self, rows: Tensor) -> None:
        self._factors, self._held, self._solved = rows, len(rows), None

    def start(self, diagonal: float) -> None:
        """Begin with A + added I = diagonal I.

        Args:
            diagonal: positive.
        """
        self._begin()
        self._matrix.zero_()
        self._matrix.diagonal().fill_(1 / diagonal)

    def renew(self, gram: Tensor, added: Tensor | float) -> bool:
        """Make P anew, by a Cholesky factor in float64.

        Args:
            gram: A (n, n).
            added: to A's diagonal.

        Returns:
            Whether A + added I is positive definite in floating-point arithmetic. If not, P stays as it is.
        """
        damped = gram.to(torch.float64, copy=True)
        damped.diagonal().add_(added)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if bool(failed):
            return False
        inverse = torch.cholesky_inverse(factor, out=damped)
        if not bool(inverse.diagonal().sum().isfinite()):
            return False
        self._begin()
        self._matrix.copy_(torch.tril(inverse, out=factor).add_(inverse.tril_(-1).t()))
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
        return self._solve(inputs, forgetting, removes=False, least=0.0)

    def solve_removed(self, inputs: Tensor) -> Tensor | None:
        """Find what becomes of P when a minibatch is taken out again: A <- A - X~^T X~.

        Args:
            inputs: X (B, n), or (B, n - 1) if a 1 is to be appended.

        Returns:
            Z = X~ P of the new P, (B, n), which the next solution overwrites. None if numerics forbid it: in some
            direction less than half of the digits would be left of what A knows. Then there is nothing to commit.
        """
        return self._solve(inputs, 0.0, removes=True, least=torch.finfo(self._matrix.dtype).eps ** 0.5)

    def commit(self) -> None:
        """Change P by the last solution, once."""
        if self._solved is None:
            return
        rows, forgetting, removes = self._solved
        self._solved = None
        if forgetting or removes:
            factor = self._factors[self._held : self._held + rows]
            self._fold()
            self._add(factor, forgetting, subtract=not removes)
            return
        self._held += rows
        if self._held >= most_held:
            self._fold()

    def multiply(self, rows: Tensor) -> Tensor:
        """Multiply rows with P, as it is at present.

        Args:
            rows: (m, n).

        Returns:
            rows P (m, n), a new tensor.
        """
        product = torch.empty_like(rows)
        self._multiply(rows, product, torch.empty_like(rows))
        return product

    def probe(self, gram: Tensor, added: Tensor | float) -> float:
        """Measure how far P is from the inverse: ``|v - (A + added I) P v| / |v|`` for a fixed random v.

        Args:
            gram: A (n, n).
            added: to A's diagonal.

        Returns:
            The distance; not finite if P is not.
        """
        v = self._direction
        image = self.multiply(v)
        return float((v - image @ gram - added * image).norm() / v.norm())

    def _solve(self, inputs: Tensor, forgetting: float, *, removes: bool, least: float) -> Tensor | None:
        self._solved = None
        rows = len(inputs)
        self._make_room(rows)
        factor = self._factors[self._held : self._held + rows]
        product, solution = self._product[:rows], self._solution[:rows]
        if inputs.shape[1] < len(self._matrix):
            augmented = self._inputs[:rows]
            augmented[:, :-1].copy_(inputs)
            inputs = augmented
        self._multiply(inputs, product, solution)
        if forgetting:
            product.mul_(1 / (1 - forgetting))
        ops.memory_solve(
            inputs,
            product,
            factor=factor,
            solution=solution,
            smallest_pivot=self._smallest_pivot,
            removes=removes,
        )
        if not float(self._smallest_pivot) > least:
            return None
        self._solved = rows, forgetting, removes
        return solution

    def _multiply(self, inputs: Tensor, product: Tensor, scratch: Tensor) -> None:
        """product = X~ (Q - H^T H)."""
        ops.matmul(inputs, self._matrix, out=product)
        if self._held:
            size = len(inputs) * self._held
            if len(self._overlap) < size:
                self._overlap = self._matrix.new_empty(size)
            overlap = self._overlap[:size].view(len(inputs), self._held)
            ops.matmul(inputs, self.factors, out=overlap, transpose_b=True)
            ops.matmul(overlap, self.factors, out=scratch)
            product.sub_(scratch)

    def _fold(self) -> None:
        """Q <- Q - H^T H, and H is empty."""
        if self._held:
            self._add(self.factors, 0.0, subtract=True)
            self._held = 0

    def _add(self, rows: Tensor, forgetting: float, *, subtract: bool) -> None:
        """Q <- Q / (1 - forgetting) -+ rows^T rows."""
        self._scalars[MemoryScalar.forgetting] = -forgetting / (1 - forgetting)
        ops.memory_update(
            rows,
            rows.new_empty(len(rows), 0),
            gram=self._matrix,
            cross=self._matrix[:0],
            scalars=self._scalars,
            subtract=subtract,
        )

    def _begin(self) -> None:
        self._held, self._solved = 0, None

    def _make_room(self, rows: int) -> None:
        """For a minibatch."""
        if rows > len(self._product):
            n = len(self._matrix)
            self._product, self._solution = (self._matrix.new_empty(rows, n) for _ in range(2))
            self._inputs = self._matrix.new_ones(rows, n)
        if self._held + rows > len(self._factors):
            factors = self._matrix.new_empty(most_held + rows, len(self._matrix))
            factors[: self._held] = self.factors
            self._factors = factors


_Change = tuple[int, float, bool]  # rows, forgetting, and whether they are removed


class _Held:
    """H, as a part of a state."""

    def __init__(self, inverse: RecursiveInverse) -> None:
        self._inverse = inverse

    def save(self) -> Tensor:
        return self._inverse.factors.clone()

    def read(self, name: str, value: object, sizes: _state.Sizes) -> Tensor:
        own = self._inverse.factors
        return _state.read_tensor(name, value, own, ("rows", own.shape[1]), {})

    def load(self, value: Tensor) -> None:
        self._inverse.factors = value


def _symmetric(name: str, matrix: Tensor) -> None:
    if not torch.equal(matrix, matrix.t()) or bool((matrix.diagonal() < 0).any()):
        raise ValueError(f"{name} must be symmetric and positive semidefinite, but is not.")
