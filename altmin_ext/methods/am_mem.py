"""AM-mem: online alternating minimisation whose hidden stages remember all past data in two matrices each.

Codes move as in AM-SGD and AM-Adam. The weights of a hidden stage do not take a gradient step. Instead, block
coordinate descent over their columns moves them towards the least-squares fit of all data that the stage has seen
(Choromanska et al. 2019, equation 7 and algorithm 3). Two matrices hold these data: A = sum of a~ a~^T and
B = sum of c a~^T, with a~ = [a; 1]. The predictor learns by Adam.

The paper's targets c are as old as their minibatches, and hold the weights back. With ``targets="refreshed"``, B is
set to W~ A before every minibatch, as if the current weights had fitted the past perfectly. Only the residual of the
new minibatch is then left to fit: this is recursive least squares, or a gradient step preconditioned by all past
activations.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from altmin_ext._state import Attribute, Listed, Part
from altmin_ext._undo import Undoable
from altmin_ext.codes import MatrixCode
from altmin_ext.methods._options import boolean, choice, number, option
from altmin_ext.methods.online_am import OnlineAM, OnlineAMOptions
from altmin_ext.network import BoundStage
from altmin_ext.ops import CodeScalar
from altmin_ext.updates import AdamUpdate, Memory, StageMemory, memory_shapes, read_memories, remembers


@dataclasses.dataclass(frozen=True)
class AMMemOptions(OnlineAMOptions):
    """Options of :class:`AMMem`.

    ``lr_memory``, ``forgetting`` and ``damping`` default to None, which stands for .5, .3 and 3 with
    ``targets="refreshed"``, and for the paper's 1, 0 and 0 with ``targets="memory"``. Only the predictor takes
    gradient steps; their learning rate is ``lr_out``, by default ``lr``, or 1 with ``predictor="memory"``. Weight
    decay shrinks hidden weights, too.

    With ``stage_scaling="displacement"``, the RMS distance of refreshed targets from the weights' own output is
    ``lr_memory``, however small the displacement of the code. The newest minibatch makes up about the share
    ``forgetting`` of A, so weights move in proportion to ``lr_memory * forgetting``: tune that product first. With
    "none" the distance is ``lr_memory`` times the displacement; at 1 the target is the moved code itself.

    To remember earlier tasks, use ``forgetting=0, damping=0, prior=0.5, exact=True, predictor="memory"``. Weights
    then hardly change the output for inputs like those seen so far. This is orthogonal weight modification (Zeng,
    Chen, Cui & Yu, Nature Machine Intelligence 2019), here for the targets of codes. Tune ``lr_memory``,
    ``prior`` and ``prior_out`` to the stream: a small prior lets weights move far in directions without inputs so
    far; the larger ``prior_out``, the less do late tasks gain on early ones.
    """

    targets: str = option(
        "refreshed",
        "'refreshed': the past counts as fitted, and only the new minibatch is left to fit; 'memory': B remembers "
        "all targets, as published",
        choice("refreshed", "memory"),
    )
    lr_memory: float | None = option(
        None,
        "RMS distance of refreshed targets from the weights' own output; with stage_scaling='none' in units of the "
        "code's displacement",
        number(),
        none=".5; 1 with targets='memory'",
    )
    forgetting: float | None = option(None, none=".3; 0 with targets='memory'")
    damping: float | None = option(
        None,
        "keeps weights near their current values: added to A's diagonal, in units of its mean",
        number(),
        none="3; 0 with targets='memory'",
    )
    prior: float = option(
        0.0,
        "initial diagonal of A, in units of the trace of the first minibatch's A; forgotten like the past",
        number(),
    )
    prior_out: float | None = option(
        None, "the same for the memory of the last layer", number(), none="prior"
    )
    exact: bool = option(False, "solve by a Cholesky factor of A instead of sweeping", boolean)
    predictor: str = option(
        "adam",
        "how the last layer learns: by 'adam', or by lr_out times its gradient, preconditioned by a 'memory'",
        choice("adam", "memory"),
    )
    sweeps: int = option(1)
    nonnegative: bool = option(False, "clip hidden weights at zero, but no biases", boolean)
    memories: Sequence[Memory] | None = option(
        None,
        "initial (A, B) of every stage that has a memory, as returned by method.memories",
        read_memories,
        flag=False,
        repr=False,
        compare=False,
    )

    _by_targets: ClassVar[dict[str, dict[str, float]]] = {
        "refreshed": {"lr_memory": 0.5, "forgetting": 0.3, "damping": 3.0},
        "memory": {"lr_memory": 1.0, "forgetting": 0.0, "damping": 0.0},
    }

    def complete(self) -> None:
        if self.lr_out is None and self.predictor == "memory":
            self._set("lr_out", 1.0)
        if self.prior_out is None:
            self._set("prior_out", self.prior)
        for name, value in self._by_targets[self.targets].items():
            if getattr(self, name) is None:
                self._set(name, value)
        super().complete()

    def check(self) -> None:
        super().check()
        if self.targets == "memory" and self.lr_memory != 1:
            raise ValueError(f"lr_memory must be 1 with targets='memory', but is {self.lr_memory!r}.")
        least_prior = min(self.prior, self.prior_out or 0.0) if self.predictor == "memory" else self.prior
        if self.exact and not (self.damping or least_prior):
            raise ValueError(
                f"damping, or prior and prior_out, must be greater than 0 with exact=True, but are {self.damping!r}, "
                f"{self.prior!r} and {self.prior_out!r}."
            )
        if self.exact and (self.nonnegative or self.l1_weights):
            raise ValueError(
                "exact must be False with nonnegative or l1_weights, whose minimum takes sweeps."
            )

    def for_model(self, stages: Sequence[BoundStage]) -> OnlineAMOptions:
        for stage in stages if self.predictor == "memory" else stages[:-1]:
            if not remembers(stage.map.affine):
                raise ValueError(
                    f"model must have a Linear or a plain Conv1d or Conv2d in each stage with a memory, "
                    f"but stage {stage.name!r} is something else; use am-adam."
                )
        return super().for_model(stages)


class AMMem(OnlineAM):
    """AM-mem: online alternating minimisation that remembers past data in two matrices per layer.

    Memory: (n + 1)^2 numbers for every hidden stage with n inputs, or n entries of a filter; with
    ``targets="memory"`` m (n + 1) more, for m outputs. Refreshed targets use only the A of ``memories`` that are
    passed in. The prior is not added to a memory that is not empty.

    Attributes:
        memories: (A, B) of every hidden stage, and of the predictor if it has a memory; copies, A with both
            triangles.
    """

    name = "am-mem"
    captures = False
    plans = False
    Options = AMMemOptions
    options: AMMemOptions
    Update = AdamUpdate
    _stages_of_update = slice(-1, None)
    _keeps_codes = True
    _moves_weights_in_parts = True
    _forgets = True  # whether the next minibatch displaces a part of the past

    def _cut(self, model: nn.Module) -> list[BoundStage]:
        stages = super()._cut(model)
        if self.options.memories is not None:
            self._check_memories(self._remembering(stages))
        return stages

    def _remembering(self, stages: list[BoundStage]) -> list[BoundStage]:
        """The stages with a memory."""
        return stages if self.options.predictor == "memory" else stages[:-1]

    def _allocate(self) -> None:
        super()._allocate()
        self._defers_guard = False  # a number that is not finite must not get into the memory
        o = self.options
        self._with_targets = o.targets == "memory"
        self._memories = [
            StageMemory(
                stage.map, forgetting=o.forgetting or 0.0, threshold=o.l1_weights,
                nonnegative=o.nonnegative and stage is not self._stages[-1],
                sweeps=0 if o.exact else o.sweeps, damping=o.damping or 0.0,
                prior=o.prior if stage is not self._stages[-1] else o.prior_out or 0.0,
                with_targets=self._with_targets and stage is not self._stages[-1],
            )
            for stage in self._remembering(self._stages)
        ]  # fmt: skip
        if o.memories is not None:
            self._load(o.memories)

    def _undoable(self) -> Sequence[Undoable]:
        return [*super()._undoable(), *self._memories]

    @property
    def memories(self) -> list[Memory]:
        return [memory.state() for memory in self._memories]

    def _observe(self, inputs_of_first: Tensor) -> None:
        if self._guard.raised():
            return
        inputs = [inputs_of_first, *(code.activation for code in self._codes)]
        targets = [
            code.moved_code() if self._with_targets and isinstance(code, MatrixCode) else None
            for code in (*self._codes, None)
        ]
        for i, (activation, _) in enumerate(zip(inputs, self._memories, strict=False)):
            # Otherwise an Inf would stay in A or B for ever.
            summed_up = [activation] if (target := targets[i]) is None else [activation, target]
            if not all(bool(matrix.square().sum().isfinite()) for matrix in summed_up):
                self._guard.put_up("weight gradient", i)
                return
        for memory, activation, target in zip(self._memories, inputs, targets, strict=False):
            memory.observe(activation, target, self._forgets)

    def _update_weights(self) -> None:
        if self._guard.raised():
            return
        o, factor = self.options, self.learning_rate_factor
        solutions = []
        for memory, code in itertools.zip_longest(self._memories, self._codes):
            if memory is None:
                continue
            if code is None:
                solutions.append(memory.solve_residual((o.lr_out or 0.0) * factor))
            elif self._with_targets:
                solutions.append(memory.solve_targets())
            else:
                scaled = o.stage_scaling == "displacement"
                rate = (o.lr_memory or 0.0) * factor
                solutions.append(memory.solve_residual(rate if scaled else rate * code.row[CodeScalar.scale]))
        for i, weights in enumerate(solutions):
            if not bool((weights * 0).sum().isfinite()):  # a tenth of the time of isfinite().all()
                self._guard.put_up("weight gradient", i)
                return
        for memory, weights in zip(self._memories, solutions, strict=True):
            memory.put(weights, o.lr * factor * o.weight_decay)
        if o.predictor == "adam":
            self._update.update()

    def _state(self) -> dict[str, Part]:
        return {
            **super()._state(),
            "memories": Listed(memory.matrices for memory in self._memories),
            "await_prior": Listed(Attribute(memory, "awaits_prior", boolean) for memory in self._memories),
        }

    def _check_memories(self, stages: Sequence[BoundStage]) -> None:
        """Raise unless the memories that are passed in fit these stages."""
        memories = self.options.memories or []
        own = [list(memory_shapes(stage.map.affine)) for stage in stages if stage.map.affine is not None]
        found = [[tuple(matrix.shape) for matrix in memory] for memory in memories]
        if found != own:
            raise ValueError(f"memories must have the shapes {own} for this model, but has {found}.")
        if not all(bool(m.to(self.dtype).isfinite().all()) for memory in memories for m in memory):
            raise ValueError(f"memories must be finite as {self.dtype}, the model's, but is not.")

    def _load(self, memories: Sequence[Memory]) -> None:
        for memory, given in zip(self._memories, memories, strict=True):
            memory.load(given)
