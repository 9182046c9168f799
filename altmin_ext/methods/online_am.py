"""Online alternating minimisation: AM-SGD and AM-Adam (Choromanska et al., ICML 2019, arXiv 1806.09077).

Every hidden stage l has a code c_l, tied to the stage below by a quadratic penalty. A step on a minibatch

1. encodes:           c_l <- W_l sigma(c_{l-1}) + b_l for all l, remembered as c_l^0;
2. updates the codes: from the top down, each by gradient steps on its local objective, equations (4) and (5);
3. updates weights:   every stage fits its own code from the code below, equation (6), all independently;
4. raises the penalty mu.

Codes are held as displacements delta from the encode, c_l^0 - c_l = unit_l delta_l: after a few layers a code moves
by less than a unit in the last place of its value, which would be lost in c_l itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from altmin_ext._guard import Subject
from altmin_ext._state import Attribute, Part
from altmin_ext._undo import Undo, Undoable
from altmin_ext.codes import Code, Flags, FlippedCode, Slot, code_for
from altmin_ext.losses import Weighted
from altmin_ext.methods._options import GradientOptions, choice, integer, number, option, positive
from altmin_ext.methods.base import Method, StepReport
from altmin_ext.network import (
    BoundStage,
    ElmanMap,
    EvaluatedMap,
    LinearMap,
    OutputSequenceMap,
    split,
)
from altmin_ext.network.spectral_norms import SpectralNorms
from altmin_ext.ops import CodeScalar
from altmin_ext.ops import unversioned as ops
from altmin_ext.ops.numerics import smallest_displacement
from altmin_ext.parallel import Ranks
from altmin_ext.updates import AdamUpdate, SGDUpdate, WeightUpdate, copy_from_host


@dataclasses.dataclass(frozen=True)
class OnlineAMOptions(GradientOptions):
    """Options of the online AM methods; the module's text describes a step.

    ``lr_codes``, ``mu``, ``code_iterations`` and ``code_momentum`` default to None, which stands for the value of
    the chosen scaling: "auto", .5, 1 and 0 for "paper"; .3, .003, 5 and .9 for "released". For a model with an Elman
    layer, 5 iterations of codes and of weights are the default; its codes are those of the paper's appendix C. These
    codes support neither ``l1_codes`` nor ``scaling="released"``. With one of the two, the layer becomes an ordinary
    recurrent stage: its code is its output sequence, and the default iterations are those of any model.

    With ``stage_scaling="displacement"`` the weight objective of a stage is divided by the RMS displacement of its
    code. The minimiser stays the same, but the curvature grows, without bound as the loss goes to zero. Adam is
    almost invariant to such a factor. Plain gradient steps diverge, so AM-SGD does not scale by default; with
    scaling, use an ``lr`` of .01.
    """

    lr_out: float | None = option(None, "learning rate of the predictor", number(), none="lr")
    lr_codes: float | str | None = option(None, none="auto; .3 with scaling='released'")
    stage_scaling: str | None = option(
        None,
        "'displacement' holds codes as scaled displacements, 'none' as they are",
        choice("displacement", "none"),
        none="displacement with lr_codes='auto', except in am-sgd; else none",
    )
    code_iterations: int | None = option(None, none="1; 5 with scaling='released' or an Elman layer")
    code_momentum: float | None = option(
        None,
        "Nesterov momentum of the steps on the codes",
        number(below=1.0),
        none="0; .9 with scaling='released'",
    )
    weight_iterations: int | None = option(
        None, "gradient steps on the weights", integer(), none="1; 5 with an Elman layer"
    )
    mu: float | None = option(
        None,
        "factor of the penalty mu ||.||^2 that ties codes to the outputs of their stages",
        positive(),
        none=".5; .003 with scaling='released'",
    )
    mu_increment: float = option(0.0, "added to mu after each minibatch", number())
    mu_multiplier: float = option(1.0, "factor of mu after each epoch", positive())
    mu_max: float = option(math.inf, "mu is not raised above this", positive(infinite=True))
    l1_codes: float = option(0.0)
    l1_weights: float = option(0.0)
    scaling: str = option(
        "paper",
        "'paper': sums per sample, as published; 'released': means, as in the authors' code",
        choice("paper", "released"),
    )

    _scales_by_default: ClassVar[bool] = True
    _defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"lr_codes": "auto", "mu": 0.5, "code_momentum": 0.0},
        "released": {"lr_codes": 0.3, "mu": 0.003, "code_momentum": 0.9},
    }

    @property
    def needs(self) -> set[str]:
        """The abilities that the codes must have, see :attr:`altmin_ext.network.Map.lacks`."""
        asked = {"l1_codes": self.l1_codes > 0, "released": self.scaling == "released"}
        return {name for name, is_asked in asked.items() if is_asked}

    def for_model(self, stages: Sequence[BoundStage]) -> OnlineAMOptions:
        """Complete the options by the default iterations for a model; a ValueError if an option does not suit it."""
        if self.l1_codes > 0 and any(stage.pre.has_sign_without_derivative for stage in stages):
            raise ValueError(
                f"l1_codes must be 0, but is {self.l1_codes}: a code that Sign(surrogate='none') reads only flips."
            )
        wanted = [stage.map.default_iterations for stage in stages]
        codes = max([5 if self.scaling == "released" else 1, *(count.codes for count in wanted)])
        weights = max([1, *(count.weights for count in wanted)])
        return dataclasses.replace(
            self,
            code_iterations=codes if self.code_iterations is None else self.code_iterations,
            weight_iterations=weights if self.weight_iterations is None else self.weight_iterations,
        )

    def complete(self) -> None:
        for name, value in self._defaults[self.scaling].items():
            if getattr(self, name) is None:
                self._set(name, value)
        if self.lr_out is None:
            self._set("lr_out", self.lr)
        if self.stage_scaling is None:
            scales = self._scales_by_default and self.lr_codes == "auto"
            self._set("stage_scaling", "displacement" if scales else "none")

    def check(self) -> None:
        if self.lr_codes == "auto" and self.scaling == "released":
            raise ValueError(
                "lr_codes must be a number with scaling='released', but is 'auto', whose bound holds for "
                "scaling='paper' only."
            )


class OnlineAM(Method):
    """Alternating minimisation on minibatches; a subclass chooses the update of the weights.

    Attributes:
        mu: the current penalty; see ``mu_increment``, ``mu_multiplier`` and ``mu_max``.
        code_step_sizes: (L,) float64, the step size of each code in the last step, lowest code first.
        code_displacements: (L,) float64, the RMS displacement of each code over the minibatch in the last step.
    """

    captures = True
    plans = True
    weighs = True
    shares = True
    Options = OnlineAMOptions
    options: OnlineAMOptions
    Update: ClassVar[type[WeightUpdate]]
    _stages_of_update: ClassVar[slice] = slice(None)
    _keeps_codes: ClassVar[bool] = False  # and activations, as matrices, until the weights have been fitted

    def _cut(self, model: nn.Module) -> list[BoundStage]:
        stages = split(model, self.options.needs)
        self.options = self.options.for_model(stages)
        flipped = any([FlippedCode.suits(above) for above in stages[1:]])  # noqa: C419  (each may refuse its stage)
        if self.ranks is not None:
            for stage in stages:
                stage.share(self.ranks)
        if isinstance(self.loss, Weighted):
            # Where the step of one sample's code depends on the others, weights would have to, too.
            recurrent = any(isinstance(stage.map, (ElmanMap, OutputSequenceMap)) for stage in stages)
            coupled = {
                "scaling='released'": self.options.scaling == "released",
                "Sign(surrogate='none')": flipped,
                "an Elman layer": recurrent,
            }
            for what, is_there in coupled.items():
                if is_there:
                    raise ValueError(f"loss must count all samples alike with {what}, but is a Weighted one.")
        return stages

    def _flags(self) -> Sequence[Subject]:
        count = len(self._stages)
        codes = [("code", l) for l in range(count - 1)]
        return [*codes, ("loss", count - 1), *(("weight gradient", l) for l in range(count))]

    def _allocate(self) -> None:
        predictor = self._stages[-1].map
        assert isinstance(predictor, EvaluatedMap)
        self._predictor = predictor
        self.mu: float = float(self.options.mu or 0.0)
        self._auto = self.options.lr_codes == "auto"

        rows = torch.zeros(len(self._stages) - 1, len(CodeScalar), dtype=torch.float64, device=self.device)
        self._scalars, self._rows = rows, list(rows)
        self._codes = self._make_codes()
        # On a GPU in one launch; on a CPU one after the other, while each is in the cache.
        self._residuals_at_once = self.device.type == "cuda"
        # Reading a flag waits for the GPU, so it is deferred if possible. A raised flag stops the kernels that move
        # the weights, but not the running statistics of batch normalisation.
        linear = all(isinstance(stage.map, LinearMap) for stage in self._stages)
        self._defers_guard = self._residuals_at_once and linear
        correct = torch.empty((), dtype=torch.int64, device=self.device)
        self._scratch = (self._like.new_empty(()), correct)
        trained = self._stages[self._stages_of_update]
        self._update = self.Update(trained, self._guard, first=len(self._stages) - len(trained))
        self._scalars_are_for: tuple[Any, ...] | None = None
        # So that some weights have moved when the last flag is raised.
        self._moves_in_parts = (self.options.weight_iterations or 1) > 1
        self._spectral_norms = SpectralNorms(self._stages[1:], self._rows, self.seed, self._like, self.ranks)
        self._calls_modules = any(stage.calls_modules for stage in self._stages)
        self._dropping = [stage.pre for stage in self._stages if stage.pre.drops]
        self._bound_shape: torch.Size | None = None
        self._sample_weights: Tensor | None = None
        self._logits = self._output_residual = self._like
        self._shaped_residual = self._like  # in the shape of the predictor's output
        self._output_shape = torch.Size()
        self.n_out = predictor.n_out if isinstance(predictor, LinearMap) else 0

    def _make_codes(self) -> list[Code]:
        o = self.options
        code_iterations, weight_iterations = o.code_iterations or 1, o.weight_iterations or 1
        once = code_iterations == weight_iterations == 1 and o.l1_codes == 0 and not self._keeps_codes
        codes = []
        for l, (stage, above) in enumerate(itertools.pairwise(self._stages)):
            flags = Flags(self._guard.code(l), self._guard.weights(l))
            sparse, weighs = o.l1_codes > 0, isinstance(self.loss, Weighted)
            iterations = code_iterations, weight_iterations
            slot = Slot(stage, above, self._rows[l], flags, *iterations, once, sparse, weighs)
            codes.append(code_for(stage.map, slot))
        for below, code, beyond in zip([None, *codes], codes, [*codes[1:], None], strict=False):
            code.connect(below, beyond)
        return codes

    @property
    def code_step_sizes(self) -> Tensor:
        return self._scalars[:, CodeScalar.step_taken].clone()

    @property
    def code_displacements(self) -> Tensor:
        moved = [code.moved for code in self._codes] if self._bound_shape is not None else []
        return torch.stack(moved) if moved else self._like.double()

    # ------------------------------------------------------------------------------------------ a step

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self._bind(x)
        self.loss.check_target_shape(y, self.n_out)
        self._refresh_scalars(self.samples(x))
        return x, y

    def _bind(self, x: Tensor) -> None:
        """Make the buffers for steps on minibatches of this shape."""
        if x.shape == self._bound_shape:
            return
        shape = x.shape[1:]
        if self._bound_shape is None or shape != self._bound_shape[1:]:
            shapes = [shape]
            for stage in self._stages:
                shapes.append(stage.output_shape(shapes[-1], self._like))
            if shapes[-1].numel() != shapes[-1][0]:
                raise ValueError(
                    f"model must give (B, C) logits, but stage {self._stages[-1].name!r} gives "
                    f"{tuple(shapes[-1])} per sample; add a Flatten."
                )
            inputs = [
                stage.pre.output_shape(below, self._like)
                for stage, below in zip(self._stages, shapes, strict=False)
            ]
            for code, own, activation in zip(self._codes, shapes[1:], inputs[1:], strict=False):
                code.set_shapes(own, activation)
            self._output_shape, self.n_out = shapes[-1], shapes[-1].numel()
            self._spectral_norms.set_shapes(shapes[1:-1], inputs[1:])
            self._scalars_are_for = None  # some depend on the widths of codes
        batch = x.shape[0]
        for code in self._codes:
            code.set_batch(batch, self._like)
        self._logits = self._like.new_empty(batch, self.n_out)
        self._output_residual = torch.empty_like(self._logits)
        self._shaped_residual = self._output_residual.view(batch, *self._output_shape)
        self._bound_shape = x.shape

    def _undoable(self) -> Sequence[Undoable]:
        # Modules of the user's that the spectral norms ask, after the weights have moved.
        modules = self._auto and self._calls_modules
        parts: list[Undoable] = []
        if modules or self._bound_shape is None or (self._auto and not self._spectral_norms.ready):
            parts.append(self._spectral_norms)
        if self._moves_in_parts or modules:
            parts += [self._weights, self._update]
        if modules and self._buffers:
            parts.append(self._buffers)
        return parts

    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        inputs = self._encode(x)
        loss, correct = self._loss_at_encode(y)
        self._move_codes(y)
        self._weigh(y)
        self._observe(inputs)
        objective = None
        for iteration in range(self.options.weight_iterations or 1):
            terms = self._weight_gradients(inputs, y, iteration)
            if iteration == 0:
                objective = terms
            self._update_weights()
        moved = None
        if self._codes and self.options.report_objective:
            moved = self._rms_of_all(self.code_displacements)
        return StepReport(loss, correct, objective, moved)

    def _put_back(self, undo: Undo) -> None:
        super()._put_back(undo)
        self._bound_shape = (
            None  # vectors of the spectral norms may have been drawn for it, and are undone now
        )

    def _share_displacement(self, l: int, ranks: Ranks) -> None:
        """Scale the stage of a code that has moved by the RMS displacement over the samples of all ranks.

        It is also the unit of the code below, whose displacements batch normalisation sums over the ranks.
        """
        row, top = self._rows[l], self._rows[-1]
        # What is not normalised is the RMS of the numbers that are held.
        one = torch.ones_like(row[CodeScalar.moved])
        spread = torch.where(row[CodeScalar.normalised] > 0, one, one * self._codes[l].spread ** 0.5)
        moved = self._rms_of_all(row[CodeScalar.moved] / spread) * spread
        damping = torch.where(moved > 0, (smallest_displacement / moved).clamp(min=1.0), 1.0)
        damping = damping if row is top else top[CodeScalar.damping]
        normalised = (row[CodeScalar.normalised] > 0) & (moved > 0)
        scale = torch.where(normalised, moved * damping, row[CodeScalar.unit])
        self._codes[l].rescale(row[CodeScalar.scale] / scale)
        row[CodeScalar.moved], row[CodeScalar.damping], row[CodeScalar.scale] = moved, damping, scale

    def _share_gradients(self, stage: BoundStage) -> None:
        """Begin to sum the gradients of a stage over all ranks."""
        if self.ranks is not None:
            self.ranks.start_sum(stage.map.gradients)

    def _weigh(self, y: Tensor) -> None:
        """Let samples count by their weights in what follows, if they have any."""
        self._sample_weights = self.loss.weights(y)
        if self._sample_weights is not None:
            damping = None
            for code in reversed(self._codes):
                damping = code.weigh(self._sample_weights, damping)

    def _observe(self, inputs: Tensor) -> None:
        """Take note of a minibatch once its codes have moved; ``inputs`` are those of the first map."""

    def _update_weights(self) -> None:
        """Move the weights by the gradients in the maps' buffers, unless a flag of the guard is raised."""
        self._update.update()

    def _commit(self, batch: int) -> None:
        for stage in self._stages:
            stage.commit()
        if self._auto:
            self._spectral_norms.update(batch)

    def _finish(self) -> None:
        self.mu = min(self.mu + self.options.mu_increment, self.options.mu_max)

    @property
    def _finish_repeats(self) -> bool:
        return min(self.mu + self.options.mu_increment, self.options.mu_max) == self.mu

    def _remedy(self, variable: str) -> str:
        return "lower lr or lr_codes"

    def _why_not_captured(self) -> str | None:
        for stage in self._stages:
            if stage.beyond_kernels:
                beyond = stage.beyond_kernels
                return f"stage {stage.name!r} holds {beyond}, and only steps of Linear stages are captured"
        return (
            "report_objective=True makes new tensors in each step" if self.options.report_objective else None
        )

    def _why_not_planned(self) -> str | None:
        for stage, code in zip(self._stages, self._codes, strict=False):
            if not code.is_planned:
                return f"stage {stage.name!r} is evaluated by torch"
        if not isinstance(self._predictor, LinearMap):
            return f"stage {self._stages[-1].name!r} is evaluated by torch"
        if not self._stages[0].pre.is_identity and self._stages[0].pre.activation is None:
            return "the model begins with modules that torch evaluates"
        return "report_objective=True" if self.options.report_objective else None

    @property
    def _plans_commit(self) -> bool:
        return not self._auto or self._spectral_norms.are_of_matrices

    def _baked(self) -> tuple[Any, ...]:
        return tuple(pre.lipschitz for pre in self._dropping)

    def _captured_buffers(self) -> Any:
        return [code.buffers() for code in self._codes], self._logits, self._output_residual

    def end_epoch(self) -> None:
        """Multiply mu by ``mu_multiplier``, up to ``mu_max``."""
        self.mu = min(self.mu * self.options.mu_multiplier, self.options.mu_max)

    def _encode(self, x: Tensor) -> Tensor:
        """c_l <- W_l sigma(c_{l-1}) + b_l with the current weights; returns the input of the first map."""
        pre = self._stages[0].pre
        activation = inputs = (x if pre.is_identity else pre.begin(x)).contiguous()
        for code in self._codes:
            activation = code.encode(activation)
        self._keep_logits(self._predictor.encode(activation, self._logits))
        return inputs

    def _loss_at_encode(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """The mean loss and the correct count, in tensors of their own for the report."""
        loss, correct = (torch.empty_like(scratch) for scratch in self._scratch)
        self._residual_of_loss(y, loss, correct, self._guard.loss)
        return loss, correct if self.loss.counts(y, self.n_out) else None

    def _keep_logits(self, logits: Tensor) -> None:
        self._logits = logits if logits.ndim == 2 else logits.view(logits.shape[0], self.n_out)

    def _residual_of_loss(self, y: Tensor, loss: Tensor, correct: Tensor, flag: Tensor) -> None:
        """The derivative of the loss in the logits, per sample, with the mean loss and the correct count."""
        bias, gradient = self._predictor.bias, self._predictor.bias_gradient
        self.loss.residual(self._logits, bias, y, self._output_residual, gradient, loss, correct, flag)

    def _estimate_curvature(self, y: Tensor) -> None:
        """Set the top code's curvature at these logits, if the loss has no bound for all logits."""
        if self._codes and self.loss.curvature(self.n_out) is None:
            estimate = self.loss.curvature_at(self._logits, self._predictor.bias, y)
            row, slope = self._rows[-1], self._stages[-1].pre.lipschitz or 1.0
            row[CodeScalar.curvature] = row[CodeScalar.downstream] * slope**2 * estimate

    def _move_codes(self, y: Tensor) -> None:
        """Update the codes from the top down, each with the new code above it."""
        if self._auto:
            self._spectral_norms.begin(y.shape[0])
            self._estimate_curvature(y)
        for l in reversed(range(len(self._codes))):
            self._update_code(l, y)

    def _update_code(self, l: int, y: Tensor) -> None:
        """Gradient steps on the local objective of one code, equation (4) for the top one, (5) below it."""
        code, iterations = self._codes[l], self.options.code_iterations or 1
        above = self._codes[l + 1] if l + 1 < len(self._codes) else None
        vjp = self._loss_vjp if above is None else above.vjp
        pulled_back, change = vjp(code.destination), None
        for iteration in range(1 if code.iterates_itself else iterations):
            if iteration > 0 and above is None:
                self._keep_logits(self._predictor.forward(code.activation, self._logits))
                self._residual_of_loss(y, *self._scratch, self._guard.loss)
                pulled_back = self._loss_vjp(code.destination)
            elif iteration > 0 and above is not None:
                pulled_back, change = above.vjp_after_move(code, pulled_back, iterations - 1)
            code.step(pulled_back, change, None if above is None else above.row, iteration == 0)
        if self.ranks is not None:
            self._share_displacement(l, self.ranks)

    def _loss_vjp(self, out: Tensor | None) -> Tensor:
        return self._predictor.vjp(self._shaped_residual, out)

    def _weight_gradients(self, inputs_of_first: Tensor, y: Tensor, iteration: int) -> Tensor | None:
        """Write the gradients of all weight objectives at the updated codes into the maps' buffers.

        Returns the objective of every stage if ``report_objective``.
        """
        inputs = [inputs_of_first, *(code.activation for code in self._codes)]
        if self._residuals_at_once:
            self._fit_at_once(inputs, iteration)
        else:
            for l, code in enumerate(self._codes):
                code.fit(inputs[l], self._codes[l - 1] if l else None, iteration == 0)
                self._share_gradients(self._stages[l])
        predictor = self._predictor
        if self._codes or iteration > 0:
            self._keep_logits(predictor.forward(inputs[-1], self._logits))
        self._residual_of_loss(y, *self._scratch, self._guard.weights(len(self._codes)))
        if self._sample_weights is not None:
            self._output_residual *= self._sample_weights[:, None]
            if predictor.bias_gradient is not None:
                torch.sum(self._output_residual, 0, out=predictor.bias_gradient)
        predictor.weight_gradients(self._shaped_residual, inputs[-1])
        self._share_gradients(self._stages[-1])
        if self.ranks is not None:
            self.ranks.wait()
            self.ranks.largest(self._guard.flags)
        return self._objective(self.samples(y)) if self.options.report_objective else None

    def _fit_at_once(self, inputs: list[Tensor], iteration: int) -> None:
        """Do the same as a ``fit`` of every code, with one call for the residuals of neighbouring codes."""
        first = iteration == 0
        calls = [
            code.residual_call(activation, below, first)
            for code, below, activation in zip(self._codes, [None, *self._codes], inputs, strict=False)
        ]
        for alone, run in itertools.groupby(range(len(calls)), lambda l: calls[l] is None):
            numbers = list(run)
            if alone:
                for l in numbers:
                    self._codes[l].fit(inputs[l], self._codes[l - 1] if l else None, first)
                continue
            together = [call for l in numbers if (call := calls[l]) is not None]
            merged = {
                name: [entry for call in together for entry in call[name]]
                for name in together[0]
                if name != "guard"
            }
            ops.weight_residual(**merged, guard=self._guard.weights(numbers[0], len(numbers)))
            for l, call in zip(numbers, together, strict=True):
                self._codes[l].finish_fit(inputs[l], call)
        for stage in self._stages[:-1]:
            self._share_gradients(stage)

    def _objective(self, batch: int) -> Tensor:
        """The local term of every stage at the updated codes: mu ||W a + b - c||^2 per sample, or the loss."""
        fitted = [l for l, stage in enumerate(self._stages[:-1]) if stage.map.has_local_term]
        block = self._scalars[fitted]
        terms = block[:, CodeScalar.residual_square] * block[:, CodeScalar.scale] ** 2
        if self.ranks is not None:
            self.ranks.sum(terms)
        share: Tensor | float = self.mu / batch
        if self.options.scaling == "released":
            widths = [self._codes[l].width for l in fitted]
            share = 1 / (batch * torch.tensor(widths, dtype=torch.float64, device=self.device))
        return torch.cat([terms * share, self._scratch[0].double().reshape(1)])

    def _refresh_scalars(self, batch: int) -> None:
        """Update the parameter blocks if the batch size, mu, the learning rate or a dropout rate has changed."""
        slopes = [pre.lipschitz for pre in self._dropping]
        current = (batch, self.mu, self.step_factor, slopes)
        if current == self._scalars_are_for:
            return
        o = self.options
        paper = o.scaling == "paper"
        lr_codes = -1.0 if self._auto else float(o.lr_codes or 0.0) * self._copies.factor
        rows, factors = [], []
        for l, (code, above) in enumerate(zip(self._codes, self._stages[1:], strict=True)):
            top, lipschitz = l == len(self._codes) - 1, above.pre.lipschitz
            downstream = 1.0 if paper else 2 / (batch * self._codes[l + 1].width) if not top else 0.0
            curvature = 1.0
            if top:
                downstream = 1 / (2 * self.mu) if paper else 1 / (self.mu * batch)
                curvature = self.loss.curvature(self.n_out) or 0.0  # else estimated in each step
            if lipschitz is not None:
                curvature *= lipschitz**2
            rows.append(
                {
                    CodeScalar.step_size: lr_codes,
                    CodeScalar.curvature: downstream * curvature,
                    CodeScalar.downstream: downstream,
                    CodeScalar.anchor: float(paper),
                    CodeScalar.momentum: o.code_momentum,
                    CodeScalar.threshold: o.l1_codes / (2 * self.mu),
                    CodeScalar.normalised: code.spread if o.stage_scaling == "displacement" else 0.0,
                }
            )
            factors.append(1 / batch if paper else 2 / (batch * code.width))
        for own, row in zip(self._rows, rows, strict=True):
            host = torch.tensor([row[c] for c in sorted(row)], dtype=torch.float64)
            copy_from_host(own[: len(host)], host)
        rates = [o.lr * self.step_factor] * len(self._codes)
        self._update.set_scalars(
            [*rates, (o.lr_out or 0.0) * self.step_factor][self._stages_of_update],
            [*factors, 1 / batch][self._stages_of_update],
            o.weight_decay,
            o.l1_weights,
        )
        self._scalars_are_for = current

    def _state(self) -> dict[str, Part]:
        return {
            **super()._state(),
            "mu": Attribute(self, "mu", positive(infinite=True)),
            "update": self._update.state,
            **self._spectral_norms.state.parts,
        }

    def _forget_derived(self) -> None:
        super()._forget_derived()
        self._bound_shape = None
        self._scalars_are_for = None


class AMAdam(OnlineAM):
    """AM-Adam: online alternating minimisation with Adam on the weights (Choromanska et al. 2019, section 3)."""

    name = "am-adam"
    Update = AdamUpdate


@dataclasses.dataclass(frozen=True)
class AMSGDOptions(OnlineAMOptions):
    """Options of :class:`AMSGD`."""

    _scales_by_default: ClassVar[bool] = False

    lr: float = option(0.1)


class AMSGD(OnlineAM):
    """AM-SGD: online alternating minimisation with SGD on the weights (Choromanska et al. 2019, section 3)."""

    name = "am-sgd"
    Options = AMSGDOptions
    Update = SGDUpdate
