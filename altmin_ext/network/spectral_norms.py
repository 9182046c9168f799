"""The spectral norms of the stages, from which the automatic step sizes of the codes follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext import ops
from altmin_ext.network.splitting import BoundStage
from altmin_ext.ops import CodeScalar

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
            alike = stage.pre.lipschitz is not None and stage.map.has_constant_jacobian
            shape = (1 if alike else _samples, *(inputs[i] if stage.pre.lipschitz is not None else codes[i]))
            if self._vectors[i].numel() != math.prod(shape):
                self._vectors[i] = self._draw(shape)
                self.ready = False
            self._vectors[i] = self._vectors[i].view(shape)

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
            v.copy_(torch.where(norm > 0, image / norm, v))  # a map of zeros keeps its vector

    def state_dict(self) -> dict[str, Any]:
        """The vectors, the estimates, and the state of the generator that draws further vectors."""
        return {
            "singular_vectors": [v.clone() for v in self._vectors],
            "sigma_squared": torch.cat([self._like.new_empty(0).double(), *self._results]),
            "singular_vectors_ready": self.ready,
            "singular_vectors_to_draw": self._generator.get_state(),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise a ValueError unless ``state``, from :meth:`state_dict`, fits these stages."""
        shapes = [tuple(v.shape) for v in state["singular_vectors"]]
        own = [tuple(v.shape) for v in self._vectors]
        if len(shapes) != len(own) or any(shapes[i] != own[i] for i in self._linear):
            raise ValueError(
                f"state must be of a model like this one, but its stages take {shapes} features."
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``, the result of an earlier :meth:`state_dict`."""
        for i, kept in enumerate(state["singular_vectors"]):
            self._vectors[i] = kept.to(self._like).clone()
        self._collect()
        for result, kept in zip(self._results, state["sigma_squared"], strict=True):
            result.copy_(kept)
        self.ready = bool(state["singular_vectors_ready"])
        self._generator.set_state(state["singular_vectors_to_draw"].cpu())

    def remember(self) -> Any:
        """What :meth:`recall` needs, in memory that a step does not write to."""
        return self.state_dict()

    def recall(self, kept: Any) -> None:
        """Restore the state at :meth:`remember`, bit for bit, from its result ``kept``."""
        self.load_state_dict(kept)
