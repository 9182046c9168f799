"""The memory of a stage: two matrices that sum up all minibatches seen so far (Choromanska et al. 2019, AM-mem)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altmin_ext import _check, _state
from altmin_ext._undo import Tensors
from altmin_ext.network import Map
from altmin_ext.network.maps import Affine
from altmin_ext.ops import MemoryScalar
from altmin_ext.ops import unversioned as ops

Memory = tuple[Tensor, Tensor]

_patch_numbers = 1 << 22  # the most entries of a convolution's patches that are held at a time


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

    Args:
        map: the stage's map, with the weights W~ = [W b]; frozen parts of them do not change.
        forgetting: the share of the past that each minibatch displaces, from 0 to 1.
        threshold: factor of the l1 penalty on the weights; biases are free of it.
        nonnegative: whether weights, but not biases, are clipped at zero.
        sweeps: passes of coordinate descent over the columns per solution; 0 for a Cholesky solution.
        damping: added to A's diagonal, in units of its mean.
        prior: the initial diagonal of A, in units of the trace of the first minibatch's A.
        with_targets: whether B is kept; if not, it is W~ A at the current weights.

    Attributes:
        gram: A, (n, n).
        cross: B, (m, n); (0, n) if it is not kept.
        awaits_prior: whether the prior is still to be added, with the next minibatch.
    """

    def __init__(
        self, map: Map, *, forgetting: float, threshold: float, nonnegative: bool, sweeps: int, damping: float,
        prior: float, with_targets: bool,
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
        self._scalars[0, MemoryScalar.forgetting] = forgetting
        self._has_prox = threshold > 0 or nonnegative
        self.awaits_prior = prior > 0
        self._before = Tensors([self.gram, self.cross])

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
        self.awaits_prior = self._prior > 0 and not bool(self.gram.any())

    @property
    def matrices(self) -> _state.Part:
        """A, and B if it is kept."""
        return _state.Listed([_state.InPlace(self.gram, gram_matrix), _state.InPlace(self.cross)])

    def state(self) -> Memory:
        """The memory (A, B), in copies."""
        cross = self.cross.clone() if len(self.cross) else self.weights @ self.gram
        return self.gram.clone(), cross

    def remember(self) -> Any:
        """What :meth:`recall` needs, in memory that a step does not write to."""
        return self._before.remember(), self.awaits_prior

    def recall(self, kept: Any) -> None:
        """Restore the state at :meth:`remember`, bit for bit, from its result ``kept``."""
        matrices, self.awaits_prior = kept
        self._before.recall(matrices)

    def observe(self, activation: Tensor, code: Tensor | None, forgets: bool) -> None:
        """Add a minibatch: A <- (1 - forgetting) A + sum of a~ a~^T, and B, if it is kept, in the same way.

        Args:
            activation: (B, ...), the input of the map.
            code: (B, ...), the code to be fitted; None if B is not kept.
            forgets: whether the past is forgotten in part; if not, forgetting counts as 0.
        """
        for a, c in self._rows(activation, code):
            ops.memory_update(
                a, c, gram=self.gram, cross=self.cross, scalars=self._scalars[0 if forgets else 1]
            )
            forgets = False

    def _add_prior(self) -> None:
        """Add the prior, once all of the first minibatch is in A."""
        if self.awaits_prior:
            prior = self._prior * self.gram.trace()
            self.gram.diagonal().add_(prior)
            if len(self.cross):
                self.cross += prior * self.weights
            self.awaits_prior = False

    def solve_targets(self) -> Tensor:
        """Fit the weights to the remembered targets: min tr(W~ A W~^T) / 2 - tr(W~ B^T), equation (7).

        Returns:
            W~ (m, n) after the sweeps; the map's parameters stay as they are.
        """
        self._add_prior()
        weights = self.weights
        with _Damped(self.gram, self._damping) as added:
            self._sweep(weights, self.cross if added is None else self.cross + added * weights)
        return weights

    def solve_residual(self, rate: Tensor | float) -> Tensor:
        """Fit the weights to refreshed targets: B = W~ A - rate gradient, with the gradients in the map's buffers.

        Without an l1 penalty or clipping, the sweeps solve for the change D of W~, D A = -rate gradient, from D = 0:
        in the difference of W~ A and B the small gradient would be lost.

        Args:
            rate: factor of the gradients.

        Returns:
            W~ (m, n) after the sweeps; the map's parameters stay as they are.
        """
        self._add_prior()
        residual = self._gradient() * (-rate)
        weights = self.weights
        with _Damped(self.gram, self._damping):
            if self._has_prox:
                self._sweep(weights, torch.addmm(residual, weights, self.gram))
            else:
                change = torch.zeros_like(weights)
                self._sweep(change, residual)
                weights += change
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

    def _sweep(self, weights: Tensor, cross: Tensor) -> None:
        """Move W~, except frozen parts, to or towards the minimum of tr(W~ A W~^T) / 2 - tr(W~ B^T)."""
        free, gram = self._free, self.gram
        if free == slice(0, len(gram)):
            self._sweep_all(weights, gram, cross)
            return
        frozen = weights.clone()
        frozen[:, free] = 0
        own, cross = weights[:, free].contiguous(), (cross - frozen @ gram)[:, free].contiguous()
        self._sweep_all(own, gram[free, free].contiguous(), cross)
        weights[:, free] = own

    def _sweep_all(self, weights: Tensor, gram: Tensor, cross: Tensor) -> None:
        if self._sweeps == 0:
            if bool(gram.any()):  # else any weights are a solution
                # Solve for the change, so that weights whose input is always zero do not change.
                weights += torch.cholesky_solve((cross - weights @ gram).t(), _cholesky_factor(gram)).t()
        else:
            ops.bcd_columns(
                weights,
                gram,
                cross,
                scalars=self._scalars[0],
                sweeps=self._sweeps,
                has_bias=self._trains_bias,
                nonnegative=self._nonnegative,
            )

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


def _cholesky_factor(matrix: Tensor) -> Tensor:
    """The Cholesky factor of a symmetric matrix, after adding to its diagonal what rounding may have taken away.

    If the matrix is not positive definite even then, the factor is NaN.
    """
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    added = len(matrix) * torch.finfo(matrix.dtype).eps * matrix.diagonal().max() * eye
    for _ in range(10):
        factor, failed = torch.linalg.cholesky_ex(matrix + added)
        added = 10 * added
        if not bool(failed):
            return torch.as_tensor(factor)
    return torch.full_like(matrix, torch.nan)


class _Damped:
    """A context in which the diagonal of A is raised by ``damping`` times its mean; returns what was added."""

    def __init__(self, gram: Tensor, damping: float) -> None:
        self._diagonal, self._damping = gram.diagonal(), damping

    def __enter__(self) -> Tensor | None:
        if self._damping == 0:
            return None
        self._before = self._diagonal.clone()
        added = self._damping * self._before.mean()
        self._diagonal += added
        return added

    def __exit__(self, *_: object) -> None:
        if self._damping != 0:
            self._diagonal.copy_(self._before)
