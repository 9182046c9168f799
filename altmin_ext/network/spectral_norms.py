"""The spectral norms of the stages, from which the automatic step sizes of the codes follow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._state import Attribute, Drawn, Entries, Sizes, as_list, at_least_zero, read_tensor
from altmin_ext.network.splitting import BoundStage
from altmin_ext.ops import CodeScalar
from altmin_ext.ops import unversioned as ops
from altmin_ext.parallel.ranks import Ranks

_first_iterations = 20
_samples = 8  # if Jacobians depend on the sample, those of so many stand for all
_settled, _patience, _longest_interval = 0.2, 16, 4  # see SpectralNorms


class SpectralNorms:
    """Estimates of sigma_max^2 of the map above every code, by power iteration after each update of the weights.

    Matrices are iterated by :func:`altmin_ext.ops.power_iteration`, other maps through products with their Jacobian
    and its transpose. If the derivative of a pre-map has no bound, the iteration includes the pre-map, at the first
    samples of the minibatch.

    An iteration of a matrix is cheap, and made in every step. That of another map costs up to a tenth of a step, and
    is made in every step only while its estimate moves. After 16 iterations in a row that have changed it by less
    than a fifth each, it is made in every second step, after 32 in every third, and after 48 in every fourth; one
    that changes it by more makes the next ones come in every step again. The estimates are then behind by the growth
    of a few steps. The step sizes of the codes can bear that: 1 / (1 + L), with L the curvature that follows from the
    estimate, is stable until L is less than half of what it should be.

    Args:
        stages: the stages above the codes.
        rows: the codes' parameter blocks, which the results are written to.
        seed: of the initial vectors.
        like: a tensor of the model's dtype and device.
        ranks: that share the minibatches; None for one process by itself. Where Jacobians depend on the sample, those
            of the first samples stand for all, which rank 0 has.

    Attributes:
        ready: whether the first 20 iterations have been made.
        state: the vectors, the estimates, when the next iterations are due, and the state of the generator that draws
            further vectors.
    """

    def __init__(
        self,
        stages: Sequence[BoundStage],
        rows: Sequence[Tensor],
        seed: int,
        like: Tensor,
        ranks: Ranks | None = None,
    ) -> None:
        self._stages, self._like, self._ranks = stages, like, ranks
        self._results = [row[CodeScalar.sigma_squared :][:1] for row in rows]
        self._generator = torch.Generator().manual_seed(seed)
        self.ready = False
        self._linear = {
            i: s.map for i, s in enumerate(stages) if s.map.matrix is not None and s.pre.lipschitz is not None
        }
        self._others = [i for i in range(len(stages)) if i not in self._linear]
        self._vectors: list[Tensor] = [like for _ in stages]
        # Of each map that is no matrix: iterations in a row that have hardly changed its estimate, and updates until
        # the next iteration.
        self.schedule = (0, 1) * len(self._others)
        for i, map in self._linear.items():
            assert map.matrix is not None
            self._vectors[i] = self._draw([map.matrix.shape[1]])
        self._collect()
        self.state = Entries(
            {
                "singular_vectors": _Vectors(self),
                "sigma_squared": _Estimates(self._results, like),
                "singular_vectors_ready": Attribute(self, "ready", _check.boolean),
                "singular_vectors_schedule": Attribute(self, "schedule", self._check_schedule),
                "singular_vectors_to_draw": Drawn(self._generator),
            }
        )

    @property
    def are_of_matrices(self) -> bool:
        """Whether an iteration is a single call of the op."""
        return not self._others

    def _collect(self) -> None:
        """Make the arguments of the op, which are the same in every step."""
        self._arguments = (
            [map.matrix for map in self._linear.values() if map.matrix is not None],
            [self._vectors[i] for i in self._linear],
            [self._results[i] for i in self._linear],
        )

    def _draw(self, shape: Sequence[int]) -> Tensor:
        drawn = torch.randn(*shape, generator=self._generator, dtype=torch.float64)
        return nn.functional.normalize(drawn.flatten(), dim=0).view(drawn.shape).to(self._like)

    def set_shapes(self, codes: Sequence[torch.Size], inputs: Sequence[torch.Size]) -> None:
        """Set the shapes of one sample.

        Args:
            codes: the shape of every code.
            inputs: the shape of the input of the map above every code.
        """
        for i in self._others:
            stage = self._stages[i]
            shape = (self._rows(stage), *(inputs[i] if stage.pre.lipschitz is not None else codes[i]))
            if self._vectors[i].numel() != math.prod(shape):
                self._vectors[i] = self._draw(shape)
                self.ready = False
            self._vectors[i] = self._vectors[i].view(shape)

    @staticmethod
    def _rows(stage: BoundStage) -> int:
        """The number of samples that stand for all."""
        return 1 if stage.pre.lipschitz is not None and stage.map.has_constant_jacobian else _samples

    def begin(self, batch: int) -> None:
        """Make the first iterations before the first step; do nothing later.

        Args:
            batch: number of samples in the minibatch.
        """
        if not self.ready:
            for _ in range(_first_iterations):
                self.iterate(batch)
            self.ready, self.schedule = True, (0, 1) * len(self._others)

    def iterate(self, batch: int) -> None:
        """Make one iteration for every stage, at the current weights and codes.

        Args:
            batch: number of samples in the minibatch.
        """
        if self._linear:
            ops.power_iteration(*self._arguments)
        for i in self._others:
            self._iterate(i, batch)

    def update(self, batch: int) -> None:
        """Make the iterations that are due after an update of the weights.

        Args:
            batch: number of samples in the minibatch.
        """
        if self._linear:
            ops.power_iteration(*self._arguments)
        schedule = []
        for i, quiet, ahead in zip(self._others, self.schedule[::2], self.schedule[1::2], strict=True):
            if ahead > 1:
                schedule += [quiet, ahead - 1]
                continue
            before = float(self._results[i])
            self._iterate(i, batch)
            moved = abs(float(self._results[i]) - before) > _settled * before
            quiet = 0 if moved else min(quiet + 1, _patience * (_longest_interval - 1))
            schedule += [quiet, 1 + quiet // _patience]
        self.schedule = tuple(schedule)

    def _iterate(self, i: int, batch: int) -> None:
        if self._ranks is None or self._ranks.rank == 0:
            self._iterate_here(i, batch)
        if self._ranks is not None:
            self._ranks.broadcast([self._results[i]])

    def _iterate_here(self, i: int, batch: int) -> None:
        stage, v = self._stages[i], self._vectors[i][:batch]
        if not v.any():  # what is left of it belongs to samples that only a larger minibatch has
            v.fill_(1 / math.sqrt(v.numel()))
        if stage.pre.lipschitz is not None:
            image = stage.map.sample_vjp(stage.map.sample_jvp(v))
        else:
            image = stage.pre.sample_vjp(stage.map.sample_vjp(stage.map.sample_jvp(stage.pre.sample_jvp(v))))
        norm = image.norm()
        self._results[i].copy_(norm / v.norm())
        v.copy_(torch.where((norm > 0) & norm.isfinite(), image / norm, v))  # else it keeps its vector

    def _check_schedule(self, name: str, value: Any) -> tuple[int, ...]:
        numbers = _check.integers(name, as_list(name, value, 2 * len(self._others)), minimum=0)
        limits = itertools.cycle([_patience * (_longest_interval - 1), _longest_interval])
        for i, (number, limit) in enumerate(zip(numbers, limits, strict=False)):
            if number > limit:
                raise ValueError(f"{name}[{i}] must be at most {limit}, but is {number}.")
        return tuple(numbers)

    def remember(self) -> Any:
        """What :meth:`recall` needs, in memory that a step does not write to."""
        return self.state.save()

    def recall(self, kept: Any) -> None:
        """Restore the state at :meth:`remember`, bit for bit, from its result ``kept``."""
        self.state.load(kept)


class _Vectors:
    """The entry of a state with the vectors of the iterations.

    That of a matrix is known by its length. Others have the shape of one sample, which the first minibatch tells;
    until then they are empty.
    """

    def __init__(self, norms: SpectralNorms) -> None:
        self._norms = norms

    def save(self) -> list[Tensor]:
        return [vector.clone() for vector in self._norms._vectors]

    def read(self, name: str, value: Any, sizes: Sizes) -> list[Tensor]:
        norms, copies = self._norms, []
        for i, own in enumerate(as_list(name, value, len(norms._stages))):
            if i in norms._linear:
                shape: tuple[Any, ...] = tuple(norms._vectors[i].shape)
            else:
                begun = isinstance(own, Tensor) and own.shape != (0,)
                shape = (norms._rows(norms._stages[i]), ...) if begun else (0,)
            copy = read_tensor(f"{name}[{i}]", own, norms._like, shape, sizes)
            if copy.numel() and not 0.5 < float(copy.double().norm()) < 2:
                raise ValueError(f"{name}[{i}] must have norm 1, but has {float(copy.double().norm()):g}.")
            copies.append(copy)
        return copies

    def load(self, value: Sequence[Tensor]) -> None:
        # In place if possible: recordings of steps know the vectors by address.
        norms = self._norms
        norms._vectors = [
            own.copy_(kept) if own.shape == kept.shape else kept.clone()
            for own, kept in zip(norms._vectors, value, strict=True)
        ]
        norms._collect()


class _Estimates:
    """The entry of a state with the estimates of all stages, as one tensor."""

    def __init__(self, results: Sequence[Tensor], like: Tensor) -> None:
        self._results, self._none = results, like.new_empty(0, dtype=torch.float64)

    def save(self) -> Tensor:
        return torch.cat([self._none, *self._results])

    def read(self, name: str, value: Any, sizes: Sizes) -> Tensor:
        copy = read_tensor(name, value, self._none, [len(self._results)], sizes)
        at_least_zero(name, copy)
        return copy

    def load(self, value: Tensor) -> None:
        for result, kept in zip(self._results, value, strict=True):
            result.copy_(kept)
