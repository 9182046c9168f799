"""AM-Adam-off and AM-mem-off: the whole training set as one minibatch (Choromanska et al. 2019).

An iteration is an epoch. The samples are processed in chunks, and the codes of only one chunk are in memory at a
time. The weights do not move until the last chunk; the gradients of all chunks are added up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from altmin_ext._state import Attribute, Part, count
from altmin_ext.methods._options import option
from altmin_ext.methods.am_mem import AMMem, AMMemOptions
from altmin_ext.methods.base import StepReport
from altmin_ext.methods.online_am import AMAdam, OnlineAM, OnlineAMOptions
from altmin_ext.network import BoundStage
from altmin_ext.ops import CodeScalar
from altmin_ext.ops.numerics import smallest_displacement


@dataclasses.dataclass(frozen=True)
class OfflineOptions(OnlineAMOptions):
    """Options of the methods that take the whole training set at once; they take a single weight iteration."""

    lr: float = option(1e-2)
    chunk_size: int = option(1000)

    def check(self) -> None:
        super().check()
        if self.weight_iterations not in (None, 1):
            raise ValueError(
                f"weight_iterations must be 1 where the whole training set is a step, but is "
                f"{self.weight_iterations}."
            )

    def for_model(self, stages: Sequence[BoundStage]) -> OnlineAMOptions:
        once = self if self.weight_iterations else dataclasses.replace(self, weight_iterations=1)
        return super(OfflineOptions, once).for_model(stages)


@dataclasses.dataclass(frozen=True)
class MemoryOfflineOptions(OfflineOptions, AMMemOptions):
    """Options of :class:`AMMemOff`."""

    def check(self) -> None:
        super().check()
        if self.lr_memory_of == "outputs":
            raise ValueError(
                "lr_memory_of must be 'targets' with am-mem-off, whose steps see their samples in parts, but is "
                "'outputs'; use am-mem."
            )


class Offline(OnlineAM):
    """A step on the whole training set, chunk by chunk.

    Chunks differ in size by at most one. Apart from rounding they change the result only if the samples of a
    minibatch are coupled: dropout draws masks for every chunk; batch normalisation uses the statistics of each chunk,
    and its running statistics those of the last one; the search under a ``Sign("none")`` scales flips by how far the
    code above moves in the chunk; and bounds of step sizes that have to be estimated on samples use the last chunk.
    A criterion is evaluated chunk by chunk: its mean and its estimated curvature are those of a chunk.
    """

    full_batch = True
    captures = False
    plans = False
    shares = False
    weighs = False
    options: Any

    def _allocate(self) -> None:
        super()._allocate()
        self._defers_guard = False
        self._bound_samples = 0  # 0 until a step has been taken
        self._samples = self._chunk = 0
        self._moved = self._like.double()

    @property
    def code_displacements(self) -> Tensor:
        return self._moved.clone()

    def _refresh_scalars(self, batch: int) -> None:
        if batch != self._chunk:  # the layout of a code may depend on it, though no objective does
            self._chunk, self._scalars_are_for = batch, None
        super()._refresh_scalars(self._samples)

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self._bound_samples not in (0, len(x)):
            raise ValueError(
                f"x must hold the {self._bound_samples} samples of the first step, but holds {len(x)}: {self.name} "
                "takes the whole training set in every step."
            )
        self._samples = len(x)
        return x, y

    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        total, chunks = _Total(self), -(-len(x) // self.options.chunk_size)
        for chunk, targets in zip(x.tensor_split(chunks), y.tensor_split(chunks), strict=True):
            total.add(len(chunk), self._add_chunk(*super()._prepare(chunk, targets)))
            if self._guard.raised():
                return total.report()
        self._moved = total.put_gradients()
        for l, stage in enumerate(self._stages):
            # Adam squares gradients: if one overflows, its weights would stay behind while the others move.
            if not all(bool(gradient.square().sum().isfinite()) for gradient in stage.map.gradients):
                self._guard.put_up("weight gradient", l)
                return total.report()
        self._update_weights()
        return total.report()

    def _add_chunk(self, x: Tensor, y: Tensor) -> StepReport:
        """Write the gradients of a chunk into the maps' buffers."""
        inputs = self._encode(x)
        loss, correct = self._loss_at_encode(y)
        self._move_codes(y)
        objective = self._weight_gradients(inputs, y, 0)
        self._observe(inputs)
        return StepReport(loss, correct, objective)

    def _commit(self, batch: int) -> None:
        super()._commit(self._chunk)
        self._bound_samples = batch

    def _state(self) -> dict[str, Part]:
        return {**super()._state(), "samples": Attribute(self, "_bound_samples", count)}


class _Total:
    """The sum of the gradients of all chunks of a step.

    In a chunk a code's displacements are scaled by their RMS over the chunk; in the sum, by that over all samples.
    """

    def __init__(self, method: Offline) -> None:
        self._stages, self._codes = method._stages, method._codes
        self._scaled = method.options.stage_scaling == "displacement"
        self._samples = 0
        self._squares = torch.zeros(len(self._codes), dtype=torch.float64, device=method.device)
        self._gradients = [[torch.zeros_like(g) for g in stage.map.gradients] for stage in self._stages]
        # The unit of each code's sums, the largest scale so far: float32 could not hold those of low codes unscaled.
        self._units = torch.zeros_like(self._squares)
        self._reports: list[tuple[int, StepReport]] = []

    def add(self, samples: int, report: StepReport) -> None:
        """Add the gradient buffers, after a chunk of this many samples."""
        self._samples += samples
        self._reports.append((samples, report))
        for l, (stage, sums) in enumerate(zip(self._stages, self._gradients, strict=True)):
            shrink: Tensor | float = 1.0
            factor: Tensor | float = 1.0
            if l < len(self._codes):
                scale = self._codes[l].row[CodeScalar.scale]
                unit = torch.maximum(self._units[l], scale)
                shrink, factor = self._units[l] / unit, scale / unit
                self._units[l] = unit
            for gradient, total in zip(stage.map.gradients, sums, strict=True):
                total.mul_(shrink).add_(gradient * factor)
        if self._codes:
            self._squares += samples * torch.stack([code.moved for code in self._codes]) ** 2

    def put_gradients(self) -> Tensor:
        """Write the sums into the maps' buffers; returns the RMS displacement of each code over all samples."""
        moved = (self._squares / self._samples).sqrt()
        damping = (smallest_displacement / moved[-1:]).clamp(min=1.0)
        scales = torch.where((moved > 0) & (moved[-1:] > 0), moved * damping, self._units)
        for l, (stage, sums) in enumerate(zip(self._stages, self._gradients, strict=True)):
            factor: Tensor | float = 1.0
            if l < len(self._codes):
                factor = self._units[l] / scales[l] if self._scaled else self._units[l]
            for gradient, total in zip(stage.map.gradients, sums, strict=True):
                gradient.copy_(total * factor)
        return moved

    def report(self) -> StepReport:
        """The report over all samples: means, and the total count."""
        reports = [report for _, report in self._reports]
        loss = torch.stack([n * report.loss for n, report in self._reports]).sum() / self._samples
        counts = [report.correct for report in reports if report.correct is not None]
        terms = [n * report.objective for n, report in self._reports if report.objective is not None]
        moved = (self._squares / self._samples).sqrt() if terms and self._codes else None
        return StepReport(
            loss,
            torch.stack(counts).sum() if counts else None,
            torch.stack(terms).sum(0) / self._samples if terms else None,
            moved,
        )


class AMAdamOff(Offline, AMAdam):
    """AM-Adam on the whole training set at once: one Adam step per stage and epoch."""

    name = "am-adam-off"
    Options = OfflineOptions


class AMMemOff(Offline, AMMem):
    """AM-mem on the whole training set at once: one update of the memory and one sweep per epoch."""

    name = "am-mem-off"
    Options = MemoryOfflineOptions

    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        self._forgets = True
        return super()._compute(x, y)

    def _observe(self, inputs_of_first: Tensor) -> None:
        super()._observe(inputs_of_first)
        self._forgets = False
