"""The spectral norms of the stages, from which the automatic step sizes of the codes follow."""

from __future__ import annotations

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

_first_iterations = 20
_samples = 8  # if Jacobians depend on the sample, those of so many stand for all


class SpectralNorms:
    """Estimates of sigma_max^2 of the map above every code, by power iteration after each update of the weights.

    Matrices are iterated by :func:`altmin_ext.ops.power_iteration`, other maps through products with their Jacobian
    and its transpose. If the derivative of a pre-map has no bound, the iteration includes the pre-map, at the first
    samples of the minibatch.

    Args:
        stages: the stages above the codes.
        rows: the codes' parameter blocks, which the results are written to.
        seed: of the initial vectors.
        like: a tensor of the model's dtype and device.

    Attributes:
        ready: whether the first 20 iterations have been made.
        state: the vectors, the estimates, and the state of the generator that draws further vectors.
    """

    def __init__(self, stages: Sequence[BoundStage], rows: Sequence[Tensor], seed: int, like: Tensor) -> None:
        self._stages, self._like = stages, like
        self._results = [row[CodeScalar.sigma_squared :][:1] for row in rows]
        self._generator = torch.Generator().manual_seed(seed)
        self.ready = False
        self._linear = {
            i: s.map for i, s in enumerate(stages) if s.map.matrix is not None and s.pre.lipschitz is not None
        }
        self._others = [i for i in range(len(stages)) if i not in self._linear]
        self._vectors: list[Tensor] = [like for _ in stages]
        for i, map in self._linear.items():
            assert map.matrix is not None
            self._vectors[i] = self._draw([map.matrix.shape[1]])
        self._collect()
        self.state = Entries(
            {
                "singular_vectors": _Vectors(self),
                "sigma_squared": _Estimates(self._results, like),
                "singular_vectors_ready": Attribute(self, "ready", _check.boolean),
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
            self.ready = True

    def iterate(self, batch: int) -> None:
        """Make one iteration, at the current weights and codes.

        Args:
            batch: number of samples in the minibatch.
        """
        if self._linear:
            ops.power_iteration(*self._arguments)
        for i in self._others:
            stage, v = self._stages[i], self._vectors[i][:batch]
            if stage.pre.lipschitz is not None:
                image = stage.map.sample_vjp(stage.map.sample_jvp(v))
            else:
                image = stage.pre.sample_vjp(
                    stage.map.sample_vjp(stage.map.sample_jvp(stage.pre.sample_jvp(v)))
                )
            norm = image.norm()
            self._results[i].copy_(norm / v.norm())
            v.copy_(torch.where((norm > 0) & norm.isfinite(), image / norm, v))  # else it keeps its vector

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
