"""The memory of a stage: two matrices that sum up all minibatches seen so far (Choromanska et al. 2019, AM-mem)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altmin_ext import _check, _state
from altmin_ext.network import LinearMap, Map
from altmin_ext.network.maps import Affine
from altmin_ext.ops import MemoryScalar
from altmin_ext.ops import unversioned as ops
from altmin_ext.updates.kept_inverse import KeptInverse

Memory = tuple[Tensor, Tensor]

_patch_numbers = 1 << 22  # the most entries of a convolution's patches that are held at a time
_most_held = 256  # samples that wait to be added to A, since that is cheaper for many at once


def merge_memories(first: Sequence[Memory], second: Sequence[Memory]) -> list[Memory]:
    """Merge the memories of two runs over different data by adding them up.

    With ``forgetting=0``, ``prior=0``, ``targets="memory"`` and fixed weights, the result is the memory of one run
    over both data sets, up to rounding. With refreshed targets, AM-mem uses the sums of A only.

    Args:
        first: (A, B) of every stage that has one, as returned by ``method.memories``.
        second: the same for the other run, with the same architecture.

    Returns:
        New memories, for ``make_method("am-mem", model, memories=...)``.

    Raises:
        TypeError: an entry is no pair of floating-point tensors.
        ValueError: the shapes of the two differ, or a memory cannot be one.

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import models
        >>> parts = [altmin_ext.make_method("am-mem", models.mlp(4, [16], 2)) for _ in range(2)]
        >>> for part in parts:
        ...     _ = part.step(torch.randn(30, 4), torch.arange(30) % 2)
        >>> merged = altmin_ext.merge_memories(*(part.memories for part in parts))
        >>> both = altmin_ext.make_method("am-mem", models.mlp(4, [16], 2), memories=merged)
        >>> [tuple(a.shape) for a, b in both.memories]
        [(5, 5)]
    """
    one, other = read_memories("first", first), read_memories("second", second)
    shapes = [[tuple(matrix.shape) for memory in memories for matrix in memory] for memories in (one, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"second must have the shapes of first, {shapes[0]}, but has {shapes[1]}.")
    return [(a + c, b + d) for (a, b), (c, d) in zip(one, other, strict=True)]


def read_memories(name: str, memories: object) -> list[Memory]:
    """Check memories that a user passes.

    Args:
        name: of the argument, for error messages.
        memories: an iterable of pairs (A, B).

    Returns:
        The pairs, detached, as a list.

    Raises:
        TypeError: an entry is no pair of floating-point tensors.
        ValueError: an entry is not finite, or its A is no symmetric matrix with a diagonal of at least 0.
    """
    if not isinstance(memories, Iterable):
        raise TypeError(f"{name} must be pairs (A, B) of tensors, but is {_check.named_type(memories)}.")
    found: list[Memory] = []
    for entry in memories:
        pair = tuple(entry) if isinstance(entry, (tuple, list)) else ()
        if len(pair) != 2 or not all(isinstance(m, Tensor) and m.is_floating_point() for m in pair):
            what = ", ".join(
                str(m.dtype) if isinstance(m, Tensor) else type(m).__name__ for m in pair or (entry,)
            )
            raise TypeError(
                f"{name} must be pairs (A, B) of floating-point tensors, but number {len(found) + 1} is ({what})."
            )
        if not all(bool(m.isfinite().all()) for m in pair):
            raise ValueError(f"{name} must be finite, but number {len(found) + 1} holds NaN or Inf.")
        gram, cross = (matrix.detach() for matrix in pair)
        if gram.ndim != 2 or len(gram) != gram.shape[1] or not _may_be_a_gram_matrix(gram):
            raise ValueError(
                f"{name} must be pairs (A, B) of matrices, A symmetric and positive semidefinite, but the A of "
                f"number {len(found) + 1}, of shape {tuple(gram.shape)}, is not."
            )
        found.append((gram, cross))
    return found


def _may_be_a_gram_matrix(matrix: Tensor) -> bool:
    """Whether a matrix is symmetric and keeps |A_ij|^2 <= A_ii A_jj, up to the rounding of sums in float32."""
    if matrix.numel() == 0:
        return True
    diagonal, rounding = matrix.diagonal(), 1e-4 * matrix.abs().max()
    if bool((diagonal < 0).any()):
        return False
    roots = diagonal.sqrt()
    excess, asymmetry = matrix.abs() - torch.outer(roots, roots), (matrix - matrix.t()).abs()
    return bool((excess <= rounding).all() and (asymmetry <= rounding).all())


def gram_matrix(name: str, matrix: Tensor) -> None:
    """Check a matrix that is restored.

    Args:
        name: of the matrix, for error messages.
        matrix: (n, n), finite.

    Raises:
        ValueError: it cannot be a sum of a~ a~^T.
    """
    if not _may_be_a_gram_matrix(matrix):
        raise ValueError(f"{name} must be symmetric and positive semidefinite, but is not.")


class StageMemory:
    """A = sum of a~ a~^T and B = sum of c a~^T over all data that a stage has seen, and the weights that fit them.

    a~ is an input of the stage's map, for a convolution each of its patches, with a 1 appended for the bias. c is the
    code that belongs to it.

    With refreshed targets, and without an l1 penalty or clipping, a fit is a linear map of the gradient G = R^T X~:
    D = -rate G M, where X~ holds the minibatch's a~ and R its residuals. M is the inverse of A, or what the sweeps
    make of it. Where the minibatch has fewer samples than the stage has outputs, Z = X~ M takes less work than G M,
    and D = -rate R^T Z: the gradient of the stage with Z in place of its inputs.

    For the inverse there are two ways, and the one with fewer multiplications is taken: a Cholesky factor of each
    minibatch's A, or :class:`RecursiveInverse`, which keeps P = A^-1 from one minibatch to the next.

    A step calls :meth:`observe`, then :meth:`precondition`, or :meth:`solve` and :meth:`put`, for every iteration of
    the weights, and if nothing has failed :meth:`commit`. Before that the memory is what it was.

    Args:
        map: the stage's map, with the weights W~ = [W b]; frozen parts of them do not change.
        forgetting: the share of the past that each minibatch displaces, from 0 to 1.
        threshold: factor of the l1 penalty on the weights; biases are free of it.
        nonnegative: whether weights, but not biases, are clipped at zero.
        sweeps: passes of coordinate descent over the columns per solution; 0 for an exact solution.
        damping: added to A's diagonal, in units of its mean.
        prior: the initial diagonal of A, in units of the trace of the first minibatch's A.
        with_targets: whether B is kept; if not, it is W~ A at the current weights.
        in_chunks: whether a step observes its samples in several calls.
        every: minibatches from one that is summed up to the next; to begin with 1, then 2, 4, ... up to that.
        momentum: of the steps that :meth:`scale_to_outputs` has scaled, Nesterov's.

    Attributes:
        gram: A, (n, n), without the samples that are still held; perhaps its upper triangle alone.
        cross: B, (m, n); (0, n) if it is not kept.
        inverse: P, if it may be worth to keep it.
        awaits_prior: whether the prior is still to be added, with the next minibatch.
        is_linear: whether a fit is a linear map of the gradient.
        minibatches: how many have been observed, counted up to twice ``every``.
    """

    def __init__(
        self, map: Map, *, forgetting: float, threshold: float, nonnegative: bool, sweeps: int, damping: float,
        prior: float, with_targets: bool, in_chunks: bool = False, every: int = 1, momentum: float = 0.0,
    ) -> None:  # fmt: skip
        assert map.affine is not None
        self._map, self._module = map, map.affine
        weight = self._module.weight
        self._trains_weight, self._trains_bias = weight.requires_grad, self._bias is not None
        self._nonnegative, self._sweeps, self._damping, self._prior = nonnegative, sweeps, damping, prior
        columns, (rows, n) = weight[0].numel(), memory_shapes(map.affine)[1]
        self._free = slice(0 if self._trains_weight else columns, n if self._trains_bias else columns)
        self.gram = weight.new_zeros(n, n, requires_grad=False)
        self.cross = weight.new_zeros(rows if with_targets else 0, n, requires_grad=False)
        self._scalars = torch.zeros(2, len(MemoryScalar), dtype=torch.float64, device=weight.device)
        self._scalars[:, MemoryScalar.threshold] = threshold
        self._scalars[:, MemoryScalar.damping] = damping
        self._scalars[0, MemoryScalar.forgetting] = forgetting
        self.is_linear = not (with_targets or threshold > 0 or nonnegative)
        self.awaits_prior = prior > 0
        self._solves_inputs = (
            self.is_linear and not in_chunks and self._trains_weight and isinstance(map, LinearMap)
        )
        free = self._free.stop - self._free.start
        self.inverse: KeptInverse | None = None
        if every == 1 and sweeps == 0 and self._solves_inputs and KeptInverse.may_pay(free, rows, forgetting):
            self.inverse = KeptInverse(self.gram, free, rows, forgetting, damping > 0)
        self._every, self._momentum = every, momentum
        self.minibatches = 0
        self._leaves_out = False  # the minibatch of this step
        self._inverse: Tensor | None = None  # of the A of several minibatches
        self._velocity = [torch.zeros_like(g) for g in map.gradients] if momentum else []
        self._next_velocity = [torch.empty_like(g) for g in self._velocity]
        # What the memory will be once the step is taken, in memory that is used by turns.
        self._next_gram, self._next_cross = self.gram[:0], self.cross[:0]
        self._next_awaits_prior = self.awaits_prior
        self._factor: Tensor | None = None  # of the next A
        self._held = self.gram.new_empty(_most_held if self.inverse is not None else 0, columns)
        self._count = self._next_count = 0  # samples that are held: of the past, and with the minibatch
        self._forgets = forgetting > 0
        # A's lower triangle is made only where it is asked for.
        self._is_upper = self.is_linear and sweeps == 1
        self._takes_inverse = False
        self._next_prior = self._owed_prior = 0.0
        self._settled = 0  # samples that were held when the last step began
        self._is_empty = True

    @property
    def _bias(self) -> Tensor | None:
        bias = self._module.bias
        return bias if bias is not None and bias.requires_grad else None

    @property
    def weights(self) -> Tensor:
        """The current W~ (m, n), a copy."""
        m = self._module
        weight = m.weight.detach().flatten(1)
        return weight.clone() if m.bias is None else torch.cat([weight, m.bias.detach()[:, None]], 1)

    def load(self, memory: Memory) -> None:
        """Start from a given memory.

        Args:
            memory: (A, B), whose shapes have been checked.
        """
        self.gram.copy_(memory[0])
        if len(self.cross):
            self.cross.copy_(memory[1])
        self._is_empty = not bool(self.gram.any())
        self.awaits_prior = self._prior > 0 and self._is_empty

    @property
    def matrices(self) -> _state.Part:
        """A, and B if it is kept."""
        self._complete()
        return _state.Listed(
            [
                _state.Replaced(self, "gram", self.gram.shape, gram_matrix),
                _state.Replaced(self, "cross", self.cross.shape),
            ]
        )

    def kept(self, number: int) -> _state.Part:
        """What is kept besides A and B to save work: P, and samples that A does not hold yet.

        Args:
            number: of the stage.

        Returns:
            A part of a method's state, without entries if no inverse may pay.
        """
        self._settle()
        if self.inverse is None:
            return _state.Entries({})
        held = _state.Replaced(self, "held", [f"samples held by stage {number + 1}", self._held.shape[1]])
        return _state.Entries({"held": held, **self.inverse.state.parts})

    @property
    def pace(self) -> _state.Part:
        """The count of minibatches and the momentum."""
        count = _state.Attribute(self, "minibatches", partial(_check.integer, minimum=0))
        shapes = [velocity.shape for velocity in self._velocity]
        return _state.Entries(
            {
                "minibatches": count,
                "velocity": _state.ReplacedList(self, "_velocity", shapes, self.gram),
            }
        )

    def nothing_kept(self) -> dict[str, Any]:
        """The value of :meth:`kept` before the first step."""
        if self.inverse is None:
            return {}
        return {"held": self._held[:0].clone(), **self.inverse.nothing()}

    @property
    def held(self) -> Tensor:
        """The samples that A does not hold yet, (count, n) or without the bias (count, n - 1)."""
        return self._held[: self._count]

    @held.setter
    def held(self, held: Tensor) -> None:
        self._count = self._settled = self._hold(held, 0)

    def forget_derived(self) -> None:
        """Forget what was derived from A and B before others were loaded."""
        self._is_empty = not self._count and not bool(self.gram.any())
        self._factor = self._inverse = None

    def state(self) -> Memory:
        """The memory (A, B), in copies."""
        self._complete()
        gram = self.gram.clone()
        self._add_held(gram)
        return gram, self.cross.clone() if len(self.cross) else self.weights @ gram

    # ------------------------------------------------------------------------------------------ a step

    def begin(self) -> None:
        """Forget the last step."""
        self._map.regressors = None

    def observe(self, activation: Tensor, code: Tensor | None, square: float, first: bool = True) -> None:
        """Take note of a minibatch: A <- (1 - forgetting) A + sum of a~ a~^T, and B, if it is kept, in the same way.

        Args:
            activation: (B, ...), the input of the map.
            code: (B, ...), the code to be fitted; None if B is not kept.
            square: the sum of the squares of ``activation``.
            first: whether these are the first samples of the step; others are added without forgetting.
        """
        self._settle()
        if first:
            before = self.minibatches
            begins = before < self._every and before & (before - 1) == 0
            self._leaves_out = not begins and before % self._every > 0
        self._map.regressors = None if self._leaves_out else self._solve_by_inverse(activation, square)
        self._takes_inverse = self._map.regressors is not None
        if self._takes_inverse:
            return
        if not self._leaves_out:
            self._sum_up(activation, code, first)
        if self._solves_inputs and len(activation) < len(self._module.weight):
            inputs = activation if self._bias is None else F.pad(activation, (0, 1), value=1.0)
            self._map.regressors = self._solve_linear(inputs.contiguous())

    def keep_rows(self, own: slice) -> None:
        """Let the stage's gradient be that of some samples of the minibatch that was observed.

        Args:
            own: their numbers.
        """
        if self._map.regressors is not None:
            self._map.regressors = self._map.regressors[own]

    def precondition(self) -> None:
        """Turn the gradients in the map's buffers into G M, unless they are products with X~ M already."""
        if self._map.regressors is not None:
            return
        gradients = [self._map.gradient_of(parameter) for parameter in (self._module.weight, self._bias)]
        parts = [g.flatten(1) if g.ndim > 1 else g[:, None] for g in gradients if g is not None]
        if parts:
            solution = self._solve_linear(torch.cat(parts, 1))
            for part, solved in zip(parts, solution.split([p.shape[1] for p in parts], 1), strict=True):
                part.copy_(solved)

    def scale_to_outputs(self, activation: Tensor) -> None:
        """Scale D in the map's buffers, so that the outputs of a minibatch change by 1 in RMS, and add momentum.

        Args:
            activation: (B, ...), the input of the map.
        """
        m, gradients = self._module, self._map.gradients
        if not gradients:
            return
        change = {
            name: torch.zeros_like(p) if (own := self._map.gradient_of(p)) is None else own
            for name, p in m.named_parameters()
        }
        outputs = torch.func.functional_call(m, change, (activation,))
        size = torch.linalg.vector_norm(outputs, dtype=torch.float64) / outputs.numel() ** 0.5
        factor = torch.where(size > 0, 1 / size, 0.0)
        kept = self._momentum
        for i, gradient in enumerate(gradients):
            gradient *= factor
            if kept:
                torch.lerp(gradient, self._velocity[i], kept, out=self._next_velocity[i])
                gradient.lerp_(self._next_velocity[i], kept)

    def solve(self, rate: Tensor | float) -> Tensor:
        """Fit the weights where that is no linear map of the gradient, equation (7).

        They go to or towards the minimum of ``tr(W~ A W~^T) / 2 - tr(W~ B^T) + threshold |W|_1``. If B is not kept,
        it is W~ A - rate G, with G in the map's buffers.

        Args:
            rate: factor of the gradients.

        Returns:
            W~ (m, n); the map's parameters stay as they are.
        """
        self._add_prior()
        gram, weights, free = self._newest_gram, self.weights, self._free
        cross = self._next_cross if len(self.cross) else torch.addmm(self._gradient() * -rate, weights, gram)
        damping = self._damping * gram.diagonal().mean() if self._damping else 0.0
        if self._sweeps == 0:
            # Solve for the change, so that weights whose input is always zero do not change.
            weights[:, free] += self._solve_linear((cross - weights @ gram)[:, free].contiguous())
            return weights
        if self._damping:
            cross = cross + damping * weights
        if not self._is_free:
            frozen = weights.clone()
            frozen[:, free] = 0
            cross = cross - frozen @ gram
        own = weights[:, free].contiguous()
        self._sweep(own, cross[:, free].contiguous(), from_zero=False)
        weights[:, free] = own
        return weights

    def put(self, weights: Tensor, decay: float) -> None:
        """Set the map's parameters to (1 - decay) W~, except frozen ones.

        Args:
            weights: W~ (m, n).
            decay: the part of the weights that weight decay takes off.
        """
        weights = weights if decay == 0 else weights * (1 - decay)
        m = self._module
        if self._trains_weight:
            columns = m.weight[0].numel()
            m.weight.copy_(weights[:, :columns].view_as(m.weight))
        if self._bias is not None:
            self._bias.copy_(weights[:, -1])

    def commit(self) -> None:
        """Keep what the step has made of the memory. Nothing is computed here, so nothing can fail."""
        if self.inverse is not None:
            self.inverse.commit()
        self._velocity, self._next_velocity = self._next_velocity, self._velocity
        self.minibatches += 1
        if self.minibatches == 2 * self._every:
            self.minibatches = self._every
        if self._takes_inverse:
            self._count, self._owed_prior = self._next_count, self._next_prior
        elif not self._leaves_out:
            self.gram, self._next_gram = self._next_gram, self.gram
            self.cross, self._next_cross = self._next_cross, self.cross
            self._count = 0
        self.awaits_prior = self._is_empty = False

    def _settle(self) -> None:
        """Carry out what the last step has left to do, before the next one depends on it."""
        if self.inverse is None:
            return
        self.inverse.settle()
        newest = self._count - self._settled
        if newest and (self._forgets or self._count + newest > _most_held):
            self._add_held(self.gram)
            self._count = 0
        if self._owed_prior:
            self.gram.diagonal().add_(self._owed_prior)
            self._owed_prior = 0.0
        if newest and self._count == 0:
            self.inverse.look(self._free_block(self.gram), self._added(self.gram))
        self._settled = self._count

    def _complete(self) -> None:
        """Make A what it is for others to see, but for the samples that are held."""
        self._settle()
        if self._is_upper:
            self.gram.copy_(self.gram.triu() + self.gram.triu(1).t())

    def _solve_by_inverse(self, activation: Tensor, square: float) -> Tensor | None:
        """Z by P, if that takes less work than a factor."""
        if self.inverse is None:
            return None
        inputs = activation.reshape(len(activation), -1).contiguous()
        self._next_prior = 0.0
        n = len(self.gram)
        trace = square + (n - inputs.shape[1]) * len(inputs)
        if self._is_empty:
            self._next_prior = self._prior * trace if self.awaits_prior else 0.0
            solution = self.inverse.start(
                inputs, self._damping * (trace / n + self._next_prior), self._next_prior
            )
        else:
            solution = self.inverse.solve(inputs, self._damping * trace / n, self._past)
        if solution is not None:
            self._next_count = self._hold(inputs, self._count)
        return solution

    def _past(self) -> tuple[Tensor, float]:
        """A of the free parts, with the samples that are held, and what is added to its diagonal."""
        gram = self.gram.clone()
        self._add_held(gram)
        return self._free_block(gram), self._added(gram)

    def _hold(self, inputs: Tensor, count: int) -> int:
        """Put samples behind ``count`` others that are held; returns how many there are then."""
        total = count + len(inputs)
        if total > len(self._held):
            self._held = torch.cat([self._held[:count], inputs.new_empty(total - count, inputs.shape[1])])
        self._held[count:total] = inputs
        return total

    def _add_held(self, gram: Tensor) -> None:
        if self._count:
            ops.memory_update(
                self.held,
                self.held.new_empty(self._count, 0),
                gram=gram,
                cross=self.cross,
                scalars=self._scalars[0],
            )

    def _sum_up(self, activation: Tensor, code: Tensor | None, first: bool) -> None:
        """Make the next A and B of the present ones, or add more samples to them."""
        if first:
            if not len(self._next_gram):
                self._next_gram, self._next_cross = torch.empty_like(self.gram), torch.empty_like(self.cross)
            self._next_awaits_prior = self.awaits_prior
        gram, cross = (self.gram, self.cross) if first else (None, None)
        if first and self._count:
            self._next_gram.copy_(self.gram)
            self._add_held(self._next_gram)
            gram = None
        self._factor = self._inverse = None
        for a, c in self._rows(activation, code):
            ops.memory_update(
                a, c, gram=self._next_gram, cross=self._next_cross, scalars=self._scalars[0 if first else 1],
                upper=self._is_upper, gram_before=gram, cross_before=cross,
            )  # fmt: skip
            first, gram, cross = False, None, None

    def _add_prior(self) -> None:
        """Add the prior, once all of the first minibatch is in A."""
        if self._next_awaits_prior:
            prior = self._prior * self._next_gram.trace()
            self._next_gram.diagonal().add_(prior)
            if len(self.cross):
                self._next_cross += prior * self.weights
            self._next_awaits_prior = False

    def _solve_linear(self, rows: Tensor) -> Tensor:
        """Rows times M, as the sweeps from zero or the factor give it, (k, free parts)."""
        self._add_prior()
        if self._sweeps:
            solution = torch.empty_like(rows)
            self._sweep(solution, rows, from_zero=True)
            return solution
        if self._inverse is None and self._every > 1:
            self._inverse = self._invert()
        if self._inverse is not None:
            solution = torch.empty_like(rows)
            ops.matmul(rows, self._inverse, out=solution)
            return solution
        if self._factor is None:
            gram = self._newest_gram
            self._factor = _cholesky_factor(self._free_block(gram), self._added(gram))
        if self._factor is None:  # nothing has been seen, so that any weights are a solution
            return torch.zeros_like(rows)
        half = torch.linalg.solve_triangular(self._factor.t(), rows, upper=True, left=False)
        return torch.linalg.solve_triangular(self._factor, half, upper=False, left=False)

    def _invert(self) -> Tensor:
        """The inverse of A with what is added to it, for several minibatches; zero if nothing has been seen."""
        gram = self._newest_gram
        factor = _cholesky_factor(self._free_block(gram), self._added(gram))
        return (
            torch.zeros_like(self._free_block(gram))
            if factor is None
            else torch.cholesky_inverse(factor).contiguous()
        )

    def _sweep(self, weights: Tensor, cross: Tensor, *, from_zero: bool) -> None:
        """Move the free parts of W~ to or towards the minimum of tr(W~ A W~^T) / 2 - tr(W~ B^T)."""
        gram, scalars = self._free_block(self._newest_gram), self._scalars[0]
        if self._damping and not self._is_free:
            scalars = scalars.clone()
            share = self._newest_gram.diagonal().mean() / gram.diagonal().mean()
            scalars[MemoryScalar.damping] *= share.nan_to_num(0.0, 0.0)
        ops.bcd_columns(
            weights,
            gram,
            cross,
            scalars=scalars,
            sweeps=self._sweeps,
            has_bias=self._trains_bias,
            nonnegative=self._nonnegative,
            from_zero=from_zero,
        )

    @property
    def _newest_gram(self) -> Tensor:
        """A with the minibatch of this step, unless that is left out."""
        return self.gram if self._leaves_out else self._next_gram

    @property
    def _is_free(self) -> bool:
        return self._free == slice(0, len(self.gram))

    def _free_block(self, gram: Tensor) -> Tensor:
        return gram if self._is_free else gram[self._free, self._free].contiguous()

    def _added(self, gram: Tensor) -> float:
        """What is added to A's diagonal: the damping, and what rounding may have taken away."""
        diagonal = gram.diagonal()
        damping = self._damping * float(diagonal.mean())
        return damping + len(gram) * torch.finfo(gram.dtype).eps * (float(diagonal.max()) + damping)

    def _gradient(self) -> Tensor:
        """The gradient in W~ from the map's buffers, zero for what is frozen."""
        m = self._module
        gradient = m.weight.new_zeros(memory_shapes(m)[1], requires_grad=False)
        if (of_weight := self._map.gradient_of(m.weight)) is not None:
            gradient[:, : of_weight[0].numel()] = of_weight.flatten(1)
        if self._bias is not None and (of_bias := self._map.gradient_of(self._bias)) is not None:
            gradient[:, -1] = of_bias
        return gradient

    def _rows(self, activation: Tensor, code: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """a~ (rows, n) and codes (rows, m) or (rows, 0); for a convolution in parts of bounded size."""
        m = self._module
        if isinstance(m, nn.Linear):
            a = activation.reshape(-1, m.in_features).contiguous()
            yield a, a.new_empty(len(a), 0) if code is None else code.reshape(-1, m.out_features).contiguous()
            return
        size = max(1, _patch_numbers // patches_of(m, activation[:1]).numel())
        for begin in range(0, len(activation), size):
            patches = patches_of(m, activation[begin : begin + size])
            own = (
                None if code is None else code[begin : begin + size].flatten(2).transpose(1, 2).flatten(0, 1)
            )
            yield patches, patches.new_empty(len(patches), 0) if own is None else own.contiguous()


def memory_shapes(affine: Affine) -> tuple[tuple[int, int], tuple[int, int]]:
    """Find the shapes of the memory of a module.

    Args:
        affine: a Linear or a convolution.

    Returns:
        The shape (n, n) of A and (m, n) of B; n counts the bias.
    """
    weight = affine.weight
    n = weight[0].numel() + (affine.bias is not None)
    return (n, n), (len(weight), n)


def remembers(affine: nn.Module | None) -> bool:
    """Whether a memory can be kept for a module.

    Args:
        affine: the module; or None.

    Returns:
        True for a Linear, and for a Conv1d or Conv2d without groups and with explicit zero padding.
    """
    if isinstance(affine, (nn.Conv1d, nn.Conv2d)):
        return affine.groups == 1 and affine.padding_mode == "zeros" and not isinstance(affine.padding, str)
    return isinstance(affine, nn.Linear)


def patches_of(convolution: nn.Module, activation: Tensor) -> Tensor:
    """The patches that the weight of a Conv1d or Conv2d is multiplied with, (B * positions, entries of a filter)."""
    m = convolution
    assert isinstance(m, (nn.Conv1d, nn.Conv2d))
    assert not isinstance(m.padding, str)
    shape: list[tuple[int, ...]] = [m.kernel_size, m.dilation, m.padding, m.stride]
    if isinstance(m, nn.Conv1d):  # an image of one row
        activation = activation[:, :, None]
        shape = [(one, *own) for one, own in zip((1, 1, 0, 1), shape, strict=True)]
    return F.unfold(activation, *shape).transpose(1, 2).flatten(0, 1).contiguous()


def _cholesky_factor(matrix: Tensor, added: float) -> Tensor | None:
    """The Cholesky factor of a symmetric matrix, after adding to its diagonal; None if it is zero.

    If the matrix is not positive definite then, more is added; if nothing helps, the factor is NaN.
    """
    if not added:
        return None
    for _ in range(10):
        damped = matrix.clone()
        damped.diagonal().add_(added)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not bool(failed):
            return torch.as_tensor(factor)
        added *= 10
    return torch.full_like(matrix, torch.nan)
