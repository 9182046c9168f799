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
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from altmin_ext._state import Attribute, Listed, Part
from altmin_ext.codes import Code, MatrixCode
from altmin_ext.methods._options import boolean, choice, integer, number, option
from altmin_ext.methods.online_am import OnlineAM, OnlineAMOptions
from altmin_ext.network import BoundStage
from altmin_ext.ops import CodeScalar
from altmin_ext.updates import (
    AdamUpdate,
    Memory,
    SGDUpdate,
    StageMemory,
    memory_shapes,
    read_memories,
    remembers,
)


@dataclasses.dataclass(frozen=True)
class AMMemOptions(OnlineAMOptions):
    """Options of :class:`AMMem`.

    ``lr_memory``, ``forgetting`` and ``damping`` default to None, which stands for .5, .3 and 3 with
    ``targets="refreshed"``, and for the paper's 1, 0 and 0 with ``targets="memory"``. Only the predictor takes
    gradient steps; their learning rate is ``lr_out``, by default ``lr``, or 1 with ``predictor="memory"``. Weight
    decay shrinks hidden weights, too.

    As an optimiser of the training error, and for deep autoencoders above all, use ``lr_memory_of="outputs"`` and an
    ``lr_schedule`` that falls to zero. Then all stages have a memory, solved exactly, and take steps that change
    their outputs on the minibatch by ``lr_memory`` in RMS, with a momentum. A takes up every tenth minibatch, and its
    inverse serves the nine that follow, as in K-FAC (Martens & Grosse 2015). Tune ``lr_memory``, from .01 to .1,
    and ``damping``, from .1 to 3: less is faster, more generalises better.

    With ``stage_scaling="displacement"``, the RMS distance of refreshed targets from the weights' own output is
    ``lr_memory``, however small the displacement of the code. The newest minibatch makes up about the share
    ``forgetting`` of A, so weights move in proportion to ``lr_memory * forgetting``: tune that product first. With
    "none" the distance is ``lr_memory`` times the displacement; at 1 the target is the moved code itself. All of
    ``weight_iterations`` have the same target.

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
        none=".5; .05 with lr_memory_of='outputs'; 1 with targets='memory'",
    )
    lr_memory_of: str = option(
        "targets",
        "whether lr_memory is the RMS distance of the targets, or the RMS change of the 'outputs' of a stage on the "
        "minibatch",
        choice("targets", "outputs"),
    )
    weight_momentum: float | None = option(
        None,
        "Nesterov momentum of the weights that have a memory; needs lr_memory_of='outputs'",
        number(below=1.0),
        none="0; .5 with lr_memory_of='outputs'",
    )
    memory_every: int | None = option(
        None,
        "minibatches from one that goes into A to the next; those between are fitted with A as it is",
        integer(),
        none="1; 10 with lr_memory_of='outputs'",
    )
    forgetting: float | None = option(
        None, none=".3; .2 with lr_memory_of='outputs'; 0 with targets='memory'"
    )
    damping: float | None = option(
        None,
        "keeps weights near their current values: added to A's diagonal, in units of its mean",
        number(),
        none="3; 1 with lr_memory_of='outputs'; 0 with targets='memory'",
    )
    prior: float = option(
        0.0,
        "initial diagonal of A, in units of the trace of the first minibatch's A; forgotten like the past",
        number(),
    )
    prior_out: float | None = option(
        None, "the same for the memory of the last layer", number(), none="prior"
    )
    exact: bool | None = option(
        None,
        "solve by a Cholesky factor of A instead of sweeping",
        boolean,
        none="false; true with lr_memory_of='outputs'",
    )
    predictor: str | None = option(
        None,
        "how the last layer learns: by 'adam', or by lr_out times its gradient, preconditioned by a 'memory'",
        choice("adam", "memory"),
        none="adam; memory with lr_memory_of='outputs'",
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

    _defaults_of: ClassVar[dict[str, dict[str, Any]]] = {
        "targets": {
            "lr_memory": 0.5, "forgetting": 0.3, "damping": 3.0, "exact": False, "predictor": "adam",
            "weight_momentum": 0.0, "memory_every": 1,
        },
        "outputs": {
            "lr_memory": 0.05, "forgetting": 0.2, "damping": 1.0, "exact": True, "predictor": "memory",
            "weight_momentum": 0.5, "memory_every": 10,
        },
    }  # fmt: skip
    _published: ClassVar[dict[str, float]] = {"lr_memory": 1.0, "forgetting": 0.0, "damping": 0.0}

    def complete(self) -> None:
        if self.prior_out is None:
            self._set("prior_out", self.prior)
        published = self._published if self.targets == "memory" else {}
        for name, value in {**self._defaults_of[self.lr_memory_of], **published}.items():
            if getattr(self, name) is None:
                self._set(name, value)
        if self.lr_out is None and self.predictor == "memory":
            self._set("lr_out", 1.0 if self.lr_memory_of == "targets" else self.lr_memory)
        super().complete()

    def check(self) -> None:
        super().check()
        linear = self.targets == "refreshed" and not (self.nonnegative or self.l1_weights)
        if self.lr_memory_of == "outputs" and not linear:
            raise ValueError(
                "lr_memory_of must be 'targets' with targets='memory', nonnegative or l1_weights, but is 'outputs'."
            )
        if self.targets == "memory" and self.lr_memory != 1:
            raise ValueError(f"lr_memory must be 1 with targets='memory', but is {self.lr_memory!r}.")
        if self.targets == "memory" and (self.memory_every or 1) > 1:
            raise ValueError(f"memory_every must be 1 with targets='memory', but is {self.memory_every!r}.")
        if self.lr_memory_of == "outputs" and (self.weight_iterations or 1) > 1:
            raise ValueError(
                f"weight_iterations must be 1 with lr_memory_of='outputs', but is {self.weight_iterations}."
            )
        if self.weight_momentum and self.lr_memory_of != "outputs":
            raise ValueError(
                f"weight_momentum must be 0 with lr_memory_of='targets', but is {self.weight_momentum!r}."
            )
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
    weighs = False
    Options = AMMemOptions
    options: AMMemOptions
    Update = AdamUpdate
    _stages_of_update = slice(-1, None)
    _keeps_codes = True
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
                prior=(o.prior_out or 0.0) if stage is self._stages[-1] else o.prior,
                with_targets=self._with_targets and stage is not self._stages[-1], in_chunks=self.full_batch,
                every=o.memory_every or 1, momentum=o.weight_momentum or 0.0,
            )
            for stage in self._remembering(self._stages)
        ]  # fmt: skip
        if o.memories is not None:
            self._load(o.memories)
        self._linear = [l for l, memory in enumerate(self._memories) if memory.is_linear]
        first = self._linear[0] if self._linear else 0
        self._memory_update = SGDUpdate([self._stages[l] for l in self._linear], self._guard, first=first)
        self._moves_in_parts |= o.predictor == "adam" or len(self._linear) < len(self._memories)

    @property
    def memories(self) -> list[Memory]:
        return [memory.state() for memory in self._memories]

    def _refresh_scalars(self, batch: int) -> None:
        before = self._scalars_are_for
        super()._refresh_scalars(batch)
        if self._scalars_are_for is before:
            return
        o, factor = self.options, self.step_factor
        decay = o.lr * factor * o.weight_decay
        rates = [(o.lr_memory or 0.0) * factor] * len(self._codes) + [(o.lr_out or 0.0) * factor]
        # The step of D and the shrinking of W + D by weight decay, which does not depend on the rate.
        rates = [(1 - decay) * rates[l] for l in self._linear]
        self._memory_update.set_scalars([1.0] * len(rates), rates, decay, 0.0)

    def _observe(self, inputs_of_first: Tensor) -> None:
        for memory in self._memories:
            memory.begin()
        if self.ranks is not None:
            self.ranks.largest(self._guard.flags)
        if self._guard.raised():
            return
        inputs = [inputs_of_first, *(code.activation for code in self._codes)]
        targets = [
            code.moved_code() if self._with_targets and isinstance(code, MatrixCode) else None
            for code in (*self._codes, None)
        ]
        if self.ranks is not None:
            # Every rank sums up the whole minibatch, of which there are fewer numbers than the matrices have.
            kept = len(self._memories)
            inputs = [self.ranks.gather(activation) for activation in inputs[:kept]]
            targets = [None if target is None else self.ranks.gather(target) for target in targets[:kept]]
        squares = []
        for i, (activation, target, _) in enumerate(zip(inputs, targets, self._memories, strict=False)):
            # Otherwise an Inf would stay in A or B for ever.
            squares.append(float(activation.square().sum()))
            of_target = 0.0 if target is None else float(target.square().sum())
            if not math.isfinite(squares[-1] + of_target):
                self._guard.put_up("weight gradient", i)
                return
        for memory, activation, target, square in zip(self._memories, inputs, targets, squares, strict=False):
            memory.observe(activation, target, square, self._forgets)
            if self.ranks is not None:
                memory.keep_rows(self.ranks.own)
        self._inputs = inputs

    def _weight_gradients(self, inputs_of_first: Tensor, y: Tensor, iteration: int) -> Tensor | None:
        terms = super()._weight_gradients(inputs_of_first, y, iteration)
        if iteration == 0 and (self.options.weight_iterations or 1) > 1 and not self._with_targets:
            inputs = [inputs_of_first, *(code.activation for code in self._codes)]
            for activation, code in zip(inputs, self._codes, strict=False):
                assert isinstance(code, MatrixCode)
                rate = (self.options.lr_memory or 0.0) * self.step_factor
                # At a rate of zero the weights stay, whatever the target.
                code.fix_target(activation, (rate or 1.0) * self._in_units_of(code))
        return terms

    def _in_units_of(self, code: Code) -> Tensor | float:
        """The unit of ``lr_memory``."""
        return 1.0 if self.options.stage_scaling == "displacement" else code.row[CodeScalar.scale]

    def _update_weights(self) -> None:
        if self._guard.raised():
            return
        self._fit_anew()
        for l in self._linear:
            self._memories[l].precondition()
            if self.options.lr_memory_of == "outputs":
                self._memories[l].scale_to_outputs(self._inputs[l])
            elif l < len(self._codes) and self.options.stage_scaling == "none":
                for gradient in self._stages[l].map.gradients:
                    gradient *= self._in_units_of(self._codes[l])
        self._memory_update.update()
        if self.options.predictor == "adam":
            self._update.update()

    def _fit_anew(self) -> None:
        """Move the weights of stages whose fit is no linear map of their gradients."""
        o, factor, solutions = self.options, self.step_factor, {}
        for l, memory in enumerate(self._memories):
            if memory.is_linear:
                continue
            rate: Tensor | float = (o.lr_memory if l < len(self._codes) else o.lr_out) or 0.0
            if l < len(self._codes):
                rate = rate * self._in_units_of(self._codes[l])
            solutions[l] = memory.solve(rate * factor)
            if not bool((solutions[l] * 0).sum().isfinite()):  # a tenth of the time of isfinite().all()
                self._guard.put_up("weight gradient", l)
                return
        for l, weights in solutions.items():
            self._memories[l].put(weights, o.lr * factor * o.weight_decay)

    def _commit(self, batch: int) -> None:
        super()._commit(batch)
        for memory in self._memories:
            memory.commit()

    def _state(self) -> dict[str, Part]:
        entries: dict[str, Part] = {
            **super()._state(),
            "memories": Listed(memory.matrices for memory in self._memories),
            "await_prior": Listed(Attribute(memory, "awaits_prior", boolean) for memory in self._memories),
        }
        if self._keeps_inverses:
            entries["kept"] = Listed(memory.kept(l) for l, memory in enumerate(self._memories))
        if self._has_pace:
            entries["pace"] = Listed(memory.pace for memory in self._memories)
        return entries

    @property
    def _keeps_inverses(self) -> bool:
        return any(memory.inverse is not None for memory in self._memories)

    @property
    def _has_pace(self) -> bool:
        return bool(self.options.weight_momentum or (self.options.memory_every or 1) > 1)

    def restoring(self, state: Mapping[str, Any]) -> Callable[[], None]:
        if self._keeps_inverses and isinstance(state, Mapping) and "kept" not in state:
            # Of a version that kept no inverse: the memories tell all that is needed.
            state = {**state, "kept": [memory.nothing_kept() for memory in self._memories]}
        return super().restoring(state)

    def _forget_derived(self) -> None:
        super()._forget_derived()
        for memory in self._memories:
            memory.forget_derived()

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
