"""Online alternating minimisation: AM-SGD and AM-Adam (Choromanska et al., ICML 2019, arXiv 1806.09077).

Every hidden stage l has a code c_l, tied to the stage below by a quadratic penalty. A step on a minibatch

1. encodes:           c_l <- W_l sigma(c_{l-1}) + b_l for all l, remembered as c_l^0;
2. updates the codes: from the top down, each by gradient steps on its local objective, equations (4) and (5);
3. updates weights:   every stage fits its own code from the code below, equation (6), all independently;
4. raises the penalty mu.

Codes are held as displacements delta from the encode, c_l^0 - c_l = unit_l delta_l, since after a few layers a code
moves by less than a unit in the last place of its value.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from altmin_ext import ops
from altmin_ext.errors import DivergenceError
from altmin_ext.methods.base import Method, MethodOptions, StepReport, option
from altmin_ext.methods.weight_update import AdamUpdate, SGDUpdate, WeightUpdate, copy_from_host
from altmin_ext.network import LinearMap, Stage, split
from altmin_ext.ops import CodeScalar
from altmin_ext.ops.activation import identity

_first_power_iterations = 20


@dataclasses.dataclass(frozen=True)
class OnlineAMOptions(MethodOptions):
    """Options of the online AM methods; see the design of a step in the module's text.

    ``lr_codes``, ``mu``, ``code_iterations`` and ``code_momentum`` default to None, which stands for the value of
    the chosen scaling: "auto", .5, 1 and 0 for "paper"; .3, .003, 5 and .9 for "released".

    With ``stage_scaling="displacement"`` the weight objective of a stage is divided by the RMS displacement of its
    code. That moves no minimiser, but its curvature grows as much, without bound as the loss goes to zero. Adam does
    not mind; plain gradient steps diverge, so AM-SGD does not scale unless asked to, and then wants an ``lr`` of .01.
    """

    lr_out: float | None = option(None, "learning rate of the predictor (None: lr)")
    lr_codes: float | str | None = option(
        None,
        "step size of the codes, or 'auto': one over a bound of the local curvature (None: 'auto'; released .3)",
    )
    stage_scaling: str | None = option(
        None,
        "'displacement' or 'none' (None: 'displacement' for am-adam with lr_codes='auto', else 'none')",
    )
    code_iterations: int | None = option(None, "gradient steps on each code (None: 1; released 5)")
    code_momentum: float | None = option(None, "Nesterov momentum of these steps (None: 0; released .9)")
    weight_iterations: int = option(1, "gradient steps on the weights")
    mu: float | None = option(None, "penalty that ties codes to the stage below (None: .5; released .003)")
    mu_increment: float = option(0.0, "added to mu after each minibatch")
    mu_multiplier: float = option(1.0, "multiplies mu after each epoch")
    mu_max: float = option(math.inf, "mu never exceeds this")
    l1_codes: float = option(0.0, "l1 penalty on the codes, by soft threshold")
    l1_weights: float = option(0.0, "l1 penalty on the weights, not the biases, by soft threshold")
    scaling: str = option(
        "paper", "'paper': sums per sample, as published; 'released': means, as in the authors' code"
    )

    _scales_by_default: ClassVar[bool] = True
    _defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"lr_codes": "auto", "mu": 0.5, "code_iterations": 1, "code_momentum": 0.0},
        "released": {"lr_codes": 0.3, "mu": 0.003, "code_iterations": 5, "code_momentum": 0.9},
    }

    def __post_init__(self) -> None:
        self._check_choice("scaling", ("paper", "released"))
        for name, value in self._defaults[self.scaling].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.lr_out is None:
            object.__setattr__(self, "lr_out", self.lr)
        if self.stage_scaling is None:
            scales = self._scales_by_default and self.lr_codes == "auto"
            object.__setattr__(self, "stage_scaling", "displacement" if scales else "none")
        super().__post_init__()

    def check(self) -> None:
        super().check()
        self._check_number("lr_out", minimum=0.0)
        if self.lr_codes != "auto":
            if isinstance(self.lr_codes, str):
                raise ValueError(f"lr_codes must be a number or 'auto', but is {self.lr_codes!r}.")
            self._check_number("lr_codes", minimum=0.0, exclusive=True)
        elif self.scaling == "released":
            raise ValueError(
                "lr_codes must be a number with scaling='released', but is 'auto', whose bound holds for "
                "scaling='paper' only."
            )
        self._check_choice("stage_scaling", ("displacement", "none"))
        self._check_count("code_iterations")
        self._check_number("code_momentum", minimum=0.0, below=1.0)
        self._check_count("weight_iterations")
        self._check_number("mu", minimum=0.0, exclusive=True)
        self._check_number("mu_increment", minimum=0.0)
        self._check_number("mu_multiplier", minimum=0.0, exclusive=True)
        self._check_number("mu_max", minimum=0.0, exclusive=True, infinite=True)
        self._check_number("l1_codes", minimum=0.0)
        self._check_number("l1_weights", minimum=0.0)


class _Buffers:
    """What one step writes: for every hidden stage a few (B, n) matrices, for the predictor the logits.

    Memory: batch x (sum of hidden widths) x 5 numbers, 7 with several code iterations; made once for the largest
    batch seen, smaller ones use a part. A displacement of an activation exists for every code but the top one,
    which no other code is tied to. Where ``in_place`` says so, an activation takes the place of its code.
    """

    def __init__(
        self, batch: int, widths: list[int], in_place: list[bool], n_out: int, several: bool, like: Tensor
    ) -> None:
        def matrices(widths: list[int]) -> list[Tensor]:
            return [like.new_empty(batch, width) for width in widths]

        self.batch = batch
        self.code = matrices(widths)
        self.displacement = matrices(widths)
        rows = zip(self.code, widths, in_place, strict=True)
        self.activation = [code if shared else like.new_empty(batch, width) for code, width, shared in rows]
        self.activation_displacement = matrices(widths[:-1])
        self.residual = matrices(widths)
        self.velocity = matrices(widths if several else [])
        self.change = matrices(widths if several else [])
        self.logits = like.new_empty(batch, n_out)
        self.output_residual = like.new_empty(batch, n_out)
        self.residual_calls: dict[tuple[range, bool], dict[str, Any]] = {}

    def part(self, batch: int) -> _Buffers:
        """The first ``batch`` rows of all of them."""
        view = object.__new__(_Buffers)
        view.batch = batch
        view.residual_calls = {}
        for name, value in vars(self).items():
            if isinstance(value, list):
                setattr(view, name, [matrix[:batch] for matrix in value])
            elif isinstance(value, Tensor):
                setattr(view, name, value[:batch])
        return view


class OnlineAM(Method):
    """Alternating minimisation on minibatches; subclasses say how the weights move.

    Attributes:
        mu: the penalty in effect; see ``mu_increment``, ``mu_multiplier`` and ``mu_max``.
        code_step_sizes: (L,) float64, the step size that each code took in the last step, lowest first.
        n_out: outputs of the predictor.
    """

    Options = OnlineAMOptions
    options: OnlineAMOptions
    Update: ClassVar[type[WeightUpdate]]

    def __init__(self, model: nn.Module, options: OnlineAMOptions, **common: Any) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, but is a {type(model).__name__}.")
        stages = split(model)
        super().__init__(model, options, **common)
        self._stages = split(model) if common.get("device") is not None else stages
        self._hidden: list[Stage] = self._stages[:-1]
        self._predictor: Stage = self._stages[-1]
        self.n_out = self._predictor.map.n_out
        self.mu: float = float(options.mu or 0.0)
        self._auto = options.lr_codes == "auto"
        self._several = options.code_iterations is not None and options.code_iterations > 1

        # A relu at rest has no derivative and stays at rest, so sigma(c0) tells a single iteration all it needs.
        single = not self._several and options.weight_iterations == 1 and options.l1_codes == 0
        self._in_place = [
            single and isinstance(stage.map, LinearMap) and above.pre.passes_or_rests
            for stage, above in itertools.pairwise(self._stages)
        ]
        count = len(self._stages)
        widths = [stage.map.n_out for stage in self._hidden]
        self._widths = torch.tensor(widths, dtype=torch.float64, device=self.device)
        block = torch.zeros(count - 1, len(CodeScalar), dtype=torch.float64, device=self.device)
        self._scalars = block
        self._rows = list(block)
        self._sigma_squared = [row[CodeScalar.sigma_squared :][:1] for row in self._rows]
        self._guard = torch.zeros(2 * count, dtype=torch.float64, device=self.device)
        # One launch on a GPU; on a CPU one after the other, while each is in the cache.
        hidden = range(count - 1)
        on_gpu = self.device.type == "cuda"
        self._residuals_at_once = [hidden] if on_gpu else [range(l, l + 1) for l in hidden]
        # To read a flag is to wait for the GPU, so that is put off where nothing depends on it: raised flags stop the
        # weights, but not the running statistics of batch normalisation.
        self._looks_later = self.device.type == "cuda" and all(isinstance(s.map, LinearMap) for s in stages)
        self._taken = True
        # On the CPU a list of the flags, through numpy, costs a tenth of asking torch.
        self._guard_list = (self._guard.numpy() if self.device.type == "cpu" else self._guard).tolist
        self._flags = [self._guard[i : i + 1] for i in range(2 * count)]
        correct = torch.empty((), dtype=torch.int64, device=self.device) if self.loss.counts_correct else None
        self._scratch = (torch.empty((), dtype=self.dtype, device=self.device), correct)
        self._masks: list[Tensor | None] = [None] * len(self._hidden)
        self._update = self.Update(self._stages, self._guard, first_flag=count)
        self._scalars_are_for: tuple[int, float, float] | None = None
        self._buffers: _Buffers | None = None
        self._part: _Buffers | None = None
        generator = torch.Generator().manual_seed(self.seed)
        self._singular_vectors = [
            nn.functional.normalize(
                torch.randn(stage.map.n_in, generator=generator, dtype=torch.float64), dim=0
            ).to(self.device, self.dtype)
            for stage in self._stages[1:]
        ]
        self._singular_vectors_ready = False

    @property
    def code_step_sizes(self) -> Tensor:
        return self._scalars[:, CodeScalar.step_taken].clone()

    # ------------------------------------------------------------------------------------------ a step

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self._flatten(x)
        if not self.loss.counts_correct:
            self.loss.check_target_values(y, self.n_out)
        self._refresh_scalars(x.shape[0])
        return x, y

    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        buffers = self._buffers_for(x.shape[0])
        if self._looks_later and self.on_nonfinite == "skip":
            self._guard.zero_()  # only what is raised in this step stops it
        activation = self._encode(x, buffers)
        loss, correct = torch.empty_like(self._scratch[0]), None
        if self._scratch[1] is not None:
            correct = torch.empty_like(self._scratch[1])
        self._residual_of_loss(buffers, y, loss, correct, self._flags[len(self._hidden)])
        if self._auto and not self._singular_vectors_ready:
            self._iterate_singular_vectors(_first_power_iterations)
        for code in reversed(range(len(self._hidden))):
            self._update_code(code, buffers, y)
        objective = None
        for iteration in range(self.options.weight_iterations):
            terms = self._weight_gradients(activation, buffers, y, iteration)
            objective = terms if iteration == 0 else objective
            self._update.update()
        self._taken = self._looks_later or not self._diverged()
        if self._taken:
            for stage in self._stages:
                stage.map.commit()
            if self._auto:
                self._iterate_singular_vectors(1)
        return StepReport(loss, correct, objective)

    def _finish(self) -> None:
        if self._taken:
            self.mu = min(self.mu + self.options.mu_increment, self.options.mu_max)

    def _look(self) -> None:
        self._diverged()

    @classmethod
    def _why_not_captured(cls, model: nn.Module, options: Any) -> str | None:
        for stage in split(model):
            if not isinstance(stage.map, LinearMap):
                return f"stage {stage.name!r} holds BatchNorm1d, whose gradients are taken by autograd"
        return "report_objective=True makes new tensors in each step" if options.report_objective else None

    def _captured_memory(self) -> Any:
        return self._part

    def end_epoch(self) -> None:
        """Multiply mu by ``mu_multiplier``, up to ``mu_max``."""
        self.mu = min(self.mu * self.options.mu_multiplier, self.options.mu_max)

    def _flatten(self, x: Tensor) -> Tensor:
        first = self._stages[0]
        if x.ndim > 2 and first.flatten:
            x = x.flatten(1)
        if x.ndim != 2 or x.shape[1] != first.map.n_in:
            raise ValueError(
                f"x must hold {first.map.n_in} features per sample for stage {first.name!r}, but has shape "
                f"{tuple(x.shape)}{'' if first.flatten or x.ndim == 2 else '; add a Flatten in front'}."
            )
        return x

    def _encode(self, x: Tensor, buffers: _Buffers) -> Tensor:
        """c_l <- W_l sigma(c_{l-1}) + b_l with the current weights; returns the input of the first map."""
        pre = self._stages[0].pre
        if not pre.is_identity:
            pre.draw_masks(x)
            x = pre.value(x)
        activation = x
        for l, stage in enumerate(self._hidden):
            code = buffers.code[l]
            stage.map.encode(activation, code)
            activation = buffers.activation[l]
            pre = self._stages[l + 1].pre
            mask = self._masks[l] = pre.draw_masks(code)
            sigma = pre.activation or identity
            ops.activate(code, stage.map.bias, mask, activation, sigma, self._flags[l])
            if pre.activation is None:
                activation.copy_(pre.value(code))
        self._predictor.map.encode(activation, buffers.logits)
        return x

    def _residual_of_loss(
        self, buffers: _Buffers, y: Tensor, loss: Tensor, correct: Tensor | None, flag: Tensor
    ) -> None:
        """The derivative of the loss in the logits, per sample, with the mean loss and the correct count."""
        predictor, residual = self._predictor.map, buffers.output_residual
        if correct is None:
            ops.mse_residual(buffers.logits, predictor.bias, y, residual, predictor.bias_gradient, loss, flag)
        else:
            ops.softmax_residual(
                buffers.logits, predictor.bias, y, residual, predictor.bias_gradient, loss, correct, flag
            )

    def _update_code(self, l: int, buffers: _Buffers, y: Tensor) -> None:
        """Gradient steps on the local objective of one code, equation (4) for the top one, (5) below it."""
        above = self._stages[l + 1].map
        top = l == len(self._hidden) - 1
        row = self._rows[l]
        iterations = self.options.code_iterations or 1
        # A single iteration turns the pulled-back residual into the displacement in place.
        pulled_back = buffers.residual[l] if self._several else buffers.displacement[l]
        change = None
        above.pull_back(buffers.output_residual if top else buffers.displacement[l + 1], out=pulled_back)
        gram = None
        for iteration in range(iterations):
            if iteration > 0:
                if top:
                    above.forward(buffers.activation[l], buffers.logits)
                    self._residual_of_loss(buffers, y, *self._scratch, self._flags[l + 1])
                    above.pull_back(buffers.output_residual, out=pulled_back)
                elif isinstance(above, LinearMap):
                    change = buffers.change[l]
                    gram = self._add_gram_product(above, gram, buffers, l)
                else:
                    self._pull_back_moved(l, buffers)
            self._code_step(l, buffers, pulled_back, change, row, first=iteration == 0)

    def _code_step(
        self, l: int, buffers: _Buffers, pulled_back: Tensor, change: Tensor | None, row: Tensor, first: bool
    ) -> None:
        code, displacement = buffers.code[l], buffers.displacement[l]
        activation, pre = buffers.activation[l], self._stages[l + 1].pre
        top = l + 1 == len(self._hidden)
        above = None if top else self._rows[l + 1]
        activation_displacement = None if top else buffers.activation_displacement[l]
        if pre.activation is None:
            # A composite pre-map is linearised here, and the kernel sees the identity.
            slope = pre.derivative(code if first else code - row[CodeScalar.unit] * displacement)
            pulled_back = pulled_back * slope
            change = None if change is None else change * slope
        ops.code_step(
            code, pulled_back, change, self._masks[l], displacement, buffers.velocity[l] if self._several else None,
            activation, activation_displacement, row, above, first, pre.activation or identity, self._flags[l],
        )  # fmt: skip
        if pre.activation is None:
            activation.copy_(pre.value(code - row[CodeScalar.unit] * displacement))
            if activation_displacement is not None:
                activation_displacement.copy_(pre.difference(code, displacement, row[CodeScalar.unit]))

    def _add_gram_product(
        self, above: LinearMap, gram: Tensor | None, buffers: _Buffers, l: int
    ) -> Tensor | None:
        """change = W^T W (a - a0), through the Gram matrix where that takes fewer products."""
        moved, change = buffers.activation_displacement[l], buffers.change[l]
        remaining = (self.options.code_iterations or 1) - 1
        batch, n_out, n_in = len(moved), above.n_out, above.n_in
        if n_out * n_in + remaining * batch * n_in < remaining * 2 * batch * n_out:
            gram = above.weight.t() @ above.weight if gram is None else gram
            torch.mm(moved, gram, out=change)
            return gram
        product = buffers.residual[l + 1]
        torch.mm(moved, above.weight.t(), out=product)
        torch.mm(product, above.weight, out=change)
        return None

    def _pull_back_moved(self, l: int, buffers: _Buffers) -> None:
        """residual[l] = J^T (map(a) - c) of the stage above at the moved activation, in units of its code."""
        above, unit = self._stages[l + 1].map, self._rows[l + 1][CodeScalar.unit]
        product = buffers.residual[l + 1]
        above.forward(buffers.activation[l], product)
        product.sub_(buffers.code[l + 1]).div_(unit).add_(buffers.displacement[l + 1])
        above.pull_back(product, out=buffers.residual[l])

    def _weight_gradients(self, x: Tensor, buffers: _Buffers, y: Tensor, iteration: int) -> Tensor | None:
        """Gradients of all stages' weight objectives at the updated codes, into the maps' buffers.

        Returns the objective of every stage if the user asked for it.
        """
        inputs = [x, *buffers.activation]
        for stages in self._residuals_at_once:
            self._hidden_gradients(stages, inputs, buffers, iteration)
        if self._hidden or iteration > 0:
            self._predictor.map.forward(inputs[-1], buffers.logits)
        self._residual_of_loss(buffers, y, *self._scratch, self._flags[2 * len(self._stages) - 1])
        self._predictor.map.weight_gradients(buffers.output_residual, inputs[-1])
        return self._objective(len(x)) if self.options.report_objective else None

    def _hidden_gradients(
        self, stages: range, inputs: list[Tensor], buffers: _Buffers, iteration: int
    ) -> None:
        """The same of some hidden stages, whose residuals are formed in one call."""
        first = iteration == 0
        if (stages, first) not in buffers.residual_calls:
            buffers.residual_calls[stages, first] = self._residual_call(stages, buffers, first)
        call = buffers.residual_calls[stages, first]
        for l, product in zip(stages, call["products"], strict=True):
            if product is not None:
                moved = buffers.activation_displacement[l - 1] if self._apart(l, first) else inputs[l]
                self._hidden[l].map.forward(moved, product)
        ops.weight_residual(**call)
        for l, residual in zip(stages, call["residuals"], strict=True):
            self._hidden[l].map.weight_gradients(residual, inputs[l])

    def _apart(self, l: int, first: bool) -> bool:
        """Whether W a + b - c is taken as W (a - a0) + (c0 - c), both small, so that nothing cancels."""
        return first and isinstance(self._hidden[l].map, LinearMap)

    def _residual_call(self, stages: range, buffers: _Buffers, first: bool) -> dict[str, Any]:
        """Arguments of weight_residual, which are the same tensors in every step."""
        maps, apart = {l: self._hidden[l].map for l in stages}, {l: self._apart(l, first) for l in stages}
        # The input of the first stage has not moved, and its displacement is as good as used up.
        unmoved = [l for l in stages if l == 0 and apart[l]]
        in_place = unmoved if self.options.weight_iterations == 1 else []
        first_flag = len(self._stages)
        return {
            "displacements": [buffers.displacement[l] for l in stages],
            "products": [None if l in unmoved else buffers.residual[l] for l in stages],
            "biases": [None if apart[l] else maps[l].bias for l in stages],
            "codes": [None if apart[l] else buffers.code[l] for l in stages],
            "residuals": [buffers.displacement[l] if l in in_place else buffers.residual[l] for l in stages],
            "bias_gradients": [maps[l].bias_gradient for l in stages],
            "scalars": [self._rows[l] for l in stages],
            "below": [self._rows[l - 1] if apart[l] and l > 0 else None for l in stages],
            "guard": self._guard[first_flag + stages.start : first_flag + stages.stop],
        }

    def _objective(self, batch: int) -> Tensor:
        """Local term of every stage at the updated codes: mu ||W a + b - c||^2 per sample, and the loss."""
        terms = self._scalars[:, CodeScalar.residual_square] * self._scalars[:, CodeScalar.scale] ** 2
        share = self.mu / batch if self.options.scaling == "paper" else 1 / (batch * self._widths)
        return torch.cat([terms * share, self._scratch[0].double().reshape(1)])

    # ------------------------------------------------------------------------------- what a step needs

    def _buffers_for(self, batch: int) -> _Buffers:
        if self._buffers is None or self._buffers.batch < batch:
            widths = [stage.map.n_out for stage in self._hidden]
            like = torch.empty(0, dtype=self.dtype, device=self.device)
            self._buffers = _Buffers(batch, widths, self._in_place, self.n_out, self._several, like)
            self._part = self._buffers
        if self._part is None or self._part.batch != batch:
            self._part = self._buffers if self._buffers.batch == batch else self._buffers.part(batch)
        return self._part

    def _refresh_scalars(self, batch: int) -> None:
        """Bring the parameter blocks up to date when the batch size, mu or the learning rate has changed."""
        current = (batch, self.mu, self.learning_rate_factor)
        if current == self._scalars_are_for:
            return
        o = self.options
        paper = o.scaling == "paper"
        rows, factors = [], []
        for l, stage in enumerate(self._hidden):
            top, steepest = l == len(self._hidden) - 1, self._stages[l + 1].pre.steepest
            if top:
                downstream = 1 / (2 * self.mu) if paper else 1 / (self.mu * batch)
                curvature = downstream * self.loss.curvature(self.n_out) * steepest**2
            else:
                downstream = 1.0 if paper else 2 / (batch * self._stages[l + 1].map.n_out)
                curvature = downstream * steepest**2
            rows.append(
                {
                    CodeScalar.step_size: -1.0 if self._auto else o.lr_codes,
                    CodeScalar.curvature: curvature,
                    CodeScalar.downstream: downstream,
                    CodeScalar.anchor: float(paper),
                    CodeScalar.momentum: o.code_momentum,
                    CodeScalar.threshold: o.l1_codes / (2 * self.mu),
                    CodeScalar.normalised: float(o.stage_scaling == "displacement"),
                }
            )
            factors.append(1 / batch if paper else 2 / (batch * stage.map.n_out))
        for l, row in enumerate(rows):
            host = torch.tensor([row[c] for c in sorted(row)], dtype=torch.float64)
            copy_from_host(self._rows[l][: len(host)], host)
        rates = [o.lr * self.learning_rate_factor] * len(self._hidden)
        self._update.set_scalars(
            [*rates, (o.lr_out or 0.0) * self.learning_rate_factor],
            [*factors, 1 / batch],
            o.weight_decay,
            o.l1_weights,
        )
        self._scalars_are_for = current

    def _iterate_singular_vectors(self, iterations: int) -> None:
        """Power iterations on the matrix above every code, for its automatic step size."""
        matrices = [stage.map.matrix() for stage in self._stages[1:]]
        for _ in range(iterations):
            ops.power_iteration(matrices, self._singular_vectors, self._sigma_squared)
        self._singular_vectors_ready = True

    def _diverged(self) -> bool:
        """Whether a flag is up, and so the step was not taken; raises where the user asked for it."""
        if not any(self._guard_list()):
            return False
        raised = [i for i, flag in enumerate(self._guard.tolist()) if flag]
        self._guard.zero_()
        if self.on_nonfinite == "skip":
            return True
        stage, weights = raised[0] % len(self._stages), raised[0] >= len(self._stages)
        variable = "weight gradient" if weights else "code" if stage < len(self._hidden) else "loss"
        causes = "check x for NaN or Inf"
        if self._looks_later:
            causes += f", y for labels outside [0, {self.n_out})"
        raise DivergenceError(
            f"the {variable} of stage {stage + 1} ({self._stages[stage].name!r}) is not finite {self._when()}; "
            f"{causes}, or lower lr or lr_codes."
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "mu": self.mu,
            "update": self._update.state_dict(),
            "singular_vectors": [v.clone() for v in self._singular_vectors],
            "sigma_squared": self._scalars[:, CodeScalar.sigma_squared].clone(),
            "singular_vectors_ready": self._singular_vectors_ready,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        shapes = [tuple(v.shape) for v in state.get("singular_vectors", ())]
        if state.get("method") == self.name and shapes != [tuple(v.shape) for v in self._singular_vectors]:
            raise ValueError(
                f"state must be of a model like this one, but its stages take {shapes} features."
            )
        if state.get("method") == self.name:
            self._update.load_state_dict(state["update"])
        super().load_state_dict(state)
        self.mu = float(state["mu"])
        for own, kept in zip(self._singular_vectors, state["singular_vectors"], strict=True):
            own.copy_(kept)
        self._scalars[:, CodeScalar.sigma_squared] = state["sigma_squared"]
        self._singular_vectors_ready = bool(state["singular_vectors_ready"])
        self._scalars_are_for = None


class AMAdam(OnlineAM):
    """AM-Adam: one or a few Adam steps per stage on its own least-squares problem (section 3 of the paper)."""

    name = "am-adam"
    Update = AdamUpdate


@dataclasses.dataclass(frozen=True)
class AMSGDOptions(OnlineAMOptions):
    """Options of :class:`AMSGD`."""

    _scales_by_default: ClassVar[bool] = False

    lr: float = option(0.1, "learning rate of the weights")


class AMSGD(OnlineAM):
    """AM-SGD: the same with plain gradient steps."""

    name = "am-sgd"
    Options = AMSGDOptions
    Update = SGDUpdate
