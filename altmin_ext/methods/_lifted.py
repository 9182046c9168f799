"""The common part of the gradient-free methods on lifted networks: z_l and a_l of every sample are variables, kept
from step to step, and every layer has its own least squares problem.

With a_0 = x, widths n_l and h the activation behind layer l < L, the layer's term is

    phi_l = rho_l/2 sum over samples of ||z_l - W_l a_{l-1} - b_l||^2 .

It is quadratic in each of W_l, b_l and a_{l-1}. Therefore the condition of the backtracking in the published codes,

    phi(W') <= phi(W) + <g, W' - W> + theta/2 ||W' - W||^2    for W' = W - g / theta,   g = grad phi(W),

holds if and only if theta >= r = g^T (Hessian of phi) g / ||g||^2 = rho ||g a||^2 / ||g||^2, and 1 / r is also the
step of the exact line search along -g. In floating point, the condition compares two large sums that differ by
little; r avoids that.

Losses and penalties are summed over the samples, as in the papers, so their values of rho can be used unchanged.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._fingerprint import Fingerprint, digests
from altmin_ext._guard import Subject
from altmin_ext._state import Attribute, Listed, Part, Replaced, ReplacedList, Same, or_none
from altmin_ext._undo import Undo, Undoable
from altmin_ext.methods._options import MethodOptions, boolean, choice, number, option
from altmin_ext.methods.base import Method, StepReport
from altmin_ext.network import BoundStage, LinearMap, PreMap, split
from altmin_ext.network.pieces import PointwisePiece, ReshapePiece
from altmin_ext.ops import Activation
from altmin_ext.ops import unversioned as ops
from altmin_ext.ops.numerics import soft_threshold


@dataclasses.dataclass(frozen=True)
class LiftedOptions(MethodOptions):
    """Options of the methods on lifted networks.

    There is no learning rate to tune: a line search finds the step of a layer's weights, and ``relaxation`` is the
    part of it that is taken. Above 1 a step may raise the objective, above 2 it does.
    """

    relaxation: float = option(1.0)
    l1_weights: float = option(0.0)
    l2_weights: float = option(
        0.0, "factor of the penalty ||W||^2 / 2 in the objective that a layer's weights minimise", number()
    )
    report_objective: bool = option(True)
    rho: float = option(1e-3, check=number(sys.float_info.min))  # 1 / rho may be infinite below
    line_search: str = option(
        "exact",
        "step sizes: 'exact' line search, or 'doubling' the inverse from 1 on",
        choice("exact", "doubling"),
    )
    chunk_size: int = option(1000)

    def searched(self, curvature: Tensor) -> Tensor:
        """One over the step size along a gradient with this curvature; 1 if the curvature is 0 and nothing moves."""
        if self.line_search == "doubling":
            return torch.exp2(torch.ceil(torch.log2(curvature.clamp(min=1))))
        return torch.where(curvature > 0, curvature, 1)


class KeptProduct:
    """W a of all samples, each chunk of which is computed once for as long as neither W nor a changes.

    It cannot see a change: whoever makes one must call :meth:`forget`.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, Tensor] = {}  # by their first sample
        self._current: set[int] = set()

    def at(self, map: LinearMap, a: Tensor, rows: slice) -> Tensor:
        """W a (B, n_l) of those samples, to be read only; valid until it is computed again."""
        if rows.start not in self._current:
            self._chunks[rows.start] = map.forward(a, self._chunks.get(rows.start))
            self._current.add(rows.start)
        return self._chunks[rows.start]

    def holds(self, rows: slice) -> bool:
        """Whether W a of those samples need not be computed."""
        return rows.start in self._current

    def forget(self, rows: slice | None = None) -> None:
        """W has changed, or a of those samples; None: of all."""
        if rows is None:
            self._current.clear()
        else:
            self._current.discard(rows.start)

    def release(self) -> None:
        """Forget all, and free the memory."""
        self._chunks, self._current = {}, set()


class LiftedLayer:
    """A layer z = W a + b with its variables, where a are the activations of the layer below.

    Attributes:
        name: the path of its Linear in the model.
        weight, bias: W (n_l, n_{l-1}) and b (n_l,) of the model; b may be None.
        rho: the penalty on its residual.
        activation: h of a_l = h(z_l); None for the last layer.
        pre_activations: z_l (N, n_l), empty before the first step.
        activations: a_l (N, n_l); empty for the last layer.
        product: W a at the layer's own inputs.
    """

    def __init__(self, stage: BoundStage, activation: Activation | None, rho: float) -> None:
        assert isinstance(stage.map, LinearMap)
        self.name, self._map = stage.name, stage.map
        self.weight, self.bias = stage.map.weight, stage.map.bias
        self.activation = activation
        self.rho = rho
        self.product = KeptProduct()
        self.release()

    def release(self) -> None:
        """Forget the variables."""
        self.pre_activations = self.activations = self.weight.new_empty(
            0, len(self.weight), requires_grad=False
        )

    def linear(self, a: Tensor) -> Tensor:
        """W a (B, n_l) for any a."""
        return self._map.forward(a, None)

    def affine(self, a: Tensor) -> Tensor:
        """W a + b (B, n_l) for any a."""
        product = self.linear(a)
        return product if self.bias is None else product.add_(self.bias)

    def center(self, a: Tensor, rows: slice) -> Tensor:
        """W a + b (B, n_l), where a are the layer's own inputs for those samples."""
        product = self.product.at(self._map, a, rows)
        return product.clone() if self.bias is None else product + self.bias

    def pull_back(self, residual: Tensor) -> Tensor:
        """W^T residual (B, n_{l-1}), for a residual (B, n_l) of any samples."""
        return self._map.vjp(residual, None)

    def target(self, rows: slice) -> Tensor:
        """The target of W a + b for those samples: z."""
        return self.pre_activations[rows]

    def residual(self, a: Tensor, rows: slice) -> Tensor:
        """W a + b - target, where a are the layer's own inputs for those samples."""
        return self.center(a, rows).sub_(self.target(rows))


@dataclasses.dataclass
class WeightProblem:
    """The objective phi + l2_weights/2 ||W||^2 of a layer's W and b, expanded around their current values in float64.

    Attributes:
        gradient: (n_l, n_{l-1}), the derivative in W.
        curve: a function D -> the second derivative in W, applied to D.
        residual: (n_l,), the mean of W a + b - target.
        input: (n_{l-1},), the mean of a.
        weight_of_all: rho times the number of samples.
    """

    gradient: Tensor
    curve: Callable[[Tensor], Tensor]
    residual: Tensor
    input: Tensor
    weight_of_all: float


def product(a: Tensor, b: Tensor, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """The product of two matrices, each of them transposed or not."""
    shape = a.shape[1 if transpose_a else 0], b.shape[0 if transpose_b else 1]
    out = a.new_empty(shape)
    ops.matmul(a.contiguous(), b.contiguous(), out=out, transpose_a=transpose_a, transpose_b=transpose_b)
    return out


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return torch.dot(one.flatten(), other.flatten())


def squared_norm(values: Tensor) -> Tensor:
    """The sum of all squares."""
    return _dot(values, values)


def _quotient(direction: Tensor, image: Tensor) -> Tensor:
    """<direction, image> / ||direction||^2; 0 for a direction of zeros."""
    squares = squared_norm(direction)
    return torch.where(squares > 0, _dot(direction, image) / squares, 0)


class Lifted(Method):
    """A method on a lifted network: a chain of Linear with pointwise activations between them.

    Every step takes the whole training set, the same samples in the same order each time, in chunks. It reports the
    objective at its end, divided by the number of samples, with one term per layer. The method minimises the sum of
    the terms, ``history.objective``.

    If a step is not finite, the weights keep their values from before it. Codes that it has changed by then restart
    from a forward pass.

    Attributes:
        objective_rose: whether the objective ever rose from one step to the next on the same problem, by more than
            rounding, which is four units in the last place of the model's dtype. A step after which the weights were
            changed by someone else, as by early stopping, is not compared with the next.
    """

    full_batch = True
    shares = True
    needs = ("proximal",)
    options: Any
    activations_taken: Sequence[str] = ("identity", "relu", "leaky_relu", "tanh", "sigmoid")

    def _cut(self, model: nn.Module) -> list[BoundStage]:
        """Split the model; raise unless every stage is a Linear behind one activation that the method takes."""
        stages = split(model)
        for stage in stages:
            if not isinstance(stage.map, LinearMap):
                raise ValueError(
                    f"model must be a chain of Linear and pointwise activations for {self.name}, but "
                    f"{stage.name!r} is a {stage.beyond_kernels or 'normalisation'}."
                )
            if not self._takes(stage.pre):
                raise ValueError(
                    f"model must have one of {', '.join(self.activations_taken)}, and nothing else, in front of "
                    f"{stage.name!r} for {self.name}, but has something else there; replace it."
                )
        return stages

    def _remedy(self, variable: str) -> str:
        return "lower relaxation"

    def _takes(self, pre: PreMap) -> bool:
        known = all(isinstance(piece, PointwisePiece | ReshapePiece) for piece in pre.pieces)
        if not known or pre.activation is None or pre.activation.name not in self.activations_taken:
            return False
        return pre.activation.is_monotone

    def _flags(self) -> Sequence[Subject]:
        stages = range(len(self._stages))
        return [*(("code", l) for l in stages), *(("code or weight", l) for l in stages)]

    def _allocate(self) -> None:
        self._layers = self._make_layers()
        # The Gram matrix, or None, and the sum of a_0, which is the same in every step.
        self._input_moments: tuple[Tensor | None, Tensor] | None = None
        self._bound: tuple[int, ...] = ()  # the shape of x, () before the first step
        self._fingerprint = Fingerprint(self.device)
        self._same = True  # whether the last step's samples were the first one's to the bit
        self._objective: float | None = None  # at the end of the last step of the same problem
        self._weights_left: list[Tensor] = []  # the digests of all weights at that time
        self._before: float | None = None  # the objective that this step's must not exceed
        self._sweeping = False  # whether the variables are those of a sweep not yet known to be finite
        self.objective_rose = False

    def _make_layers(self) -> list[LiftedLayer]:
        activations = [stage.pre.activation for stage in self._stages[1:]]
        return [
            LiftedLayer(stage, activation, self.options.rho)
            for stage, activation in zip(self._stages, [*activations, None], strict=True)
        ]

    @property
    def pre_activations(self) -> list[Tensor]:
        """z_l (N, n_l) of every layer, lowest first; empty tensors before the first step."""
        return [layer.pre_activations for layer in self._layers]

    @property
    def activations(self) -> list[Tensor]:
        """a_l (N, n_l) of every layer but the last."""
        return [layer.activations for layer in self._layers[:-1]]

    # ------------------------------------------------------------------------------------------ a step

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        shape = x.shape[1:]
        for stage in self._stages:
            shape = stage.output_shape(shape, self._layers[0].weight)
        self.loss.check_target_values(y, shape.numel())
        if self._bound not in ((), tuple(x.shape)):
            raise ValueError(
                f"x must hold the samples of the first step, {self._bound}, but is {tuple(x.shape)}: {self.name} "
                "keeps variables for every one of them."
            )
        same, before = self._fingerprint.check(x, y, self.name), self._same
        if self.ranks is not None:
            same = self.ranks.count(same) == self.ranks.size
        self._same = same
        untouched = self._weights_left and all(map(torch.equal, self._weights_left, self._digests()))
        # Otherwise a rise would say nothing about the method.
        self._before = self._objective if untouched else None
        if not (same and before):
            self._input_moments = None
        if not (same and before and untouched):
            self._release_products()
        return x, y

    def _undoable(self) -> Sequence[Undoable]:
        return [self._weights]

    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        loss, correct = self._encode(x, y)
        self._share_flags()
        objective = torch.full((len(self._layers),), math.nan, dtype=torch.float64, device=self.device)
        if not self._guard.raised():
            self._sweeping = True
            if not self._bound:
                self._bind(x, y)
            objective = self._sweep(x, y)
            self._raise_unless_finite("code or weight", objective)
        self._terms = objective
        return StepReport(
            loss, correct, objective / self.samples(x) if self.options.report_objective else None
        )

    def _share_flags(self) -> None:
        """Raise every flag that another rank has raised."""
        if self.ranks is not None:
            self.ranks.largest(self._guard.flags)

    def _commit(self, batch: int) -> None:
        self._sweeping = False
        self._certify(self._terms)
        self._advance()

    def _put_back(self, undo: Undo) -> None:
        super()._put_back(undo)
        self._release_products()
        if self._sweeping:
            self._sweeping = False
            self._release()

    def _raise_unless_finite(self, variable: str, values: Tensor) -> None:
        """Raise the flag of every layer whose entry of ``values`` (L,) is not finite."""
        for l, finite in enumerate(values.isfinite().tolist()):
            if not finite:
                self._guard.put_up(variable, l)

    @abc.abstractmethod
    def _sweep(self, x: Tensor, y: Tensor) -> Tensor:
        """Update every variable; returns the terms of the objective after that, one per layer, in float64."""

    @abc.abstractmethod
    def _advance(self) -> None:
        """Set the parameters of the next step; ``_objective`` is None afterwards if they change the problem."""

    @abc.abstractmethod
    def _output(self, center: Tensor, y: Tensor, rows: slice) -> Tensor:
        """z_L of those samples, given W a + b as ``center``."""

    def _encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean loss and correct count of the current network; raises the flags of codes that are not finite."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        correct: Tensor | None = torch.zeros((), dtype=torch.int64, device=self.device)
        sums = torch.zeros(len(self._layers), dtype=torch.float64, device=self.device)
        for rows in self._chunks(x):
            a = self._input(0, x, rows)
            if self._layers[0].product.holds(rows):
                sums[0] += torch.stack(torch.aminmax(a)).mul_(0).sum()  # what has become of x since
            for l, layer in enumerate(self._layers):
                z = layer.center(a, rows) if l == 0 else layer.affine(a)
                sums[l] += (z * 0).sum()
                a = z if layer.activation is None else layer.activation.value(z)
            total += self.loss.mean(z, y[rows]) * len(z)
            hits = self.loss.correct(z, y[rows])
            correct = None if hits is None or correct is None else correct + hits
        sums[-1] += total * 0
        self._raise_unless_finite("code", sums)
        correct = None if correct is None else self._sum(correct)
        return (self._sum(total) / self.samples(x)).to(self.dtype), correct

    def _bind(self, x: Tensor, y: Tensor) -> None:
        """Initialise z and a by a forward pass, except z_L, which starts where the first sweep would set it."""
        for layer in self._layers:
            layer.pre_activations = layer.weight.new_empty(len(x), len(layer.weight))
            if layer.activation is not None:
                layer.activations = torch.empty_like(layer.pre_activations)
        for rows in self._chunks(x):
            for l, layer in enumerate(self._layers):
                z = layer.center(self._input(l, x, rows), rows)
                if layer.activation is not None:
                    self._to_be_written(l, rows).copy_(layer.activation.value(z))
                layer.pre_activations[rows] = z if layer.activation else self._output(z, y[rows], rows)
        self._bound = tuple(x.shape)
        self._fingerprint.keep(x, y)

    def _certify(self, terms: Tensor) -> None:
        objective = float(terms.sum())
        # Near its minimum the objective changes by less than the rounding of the variables; terms may have any sign.
        rounding = 4 * torch.finfo(self.dtype).eps * float(terms.abs().sum())
        if self._before is not None and objective > self._before + rounding:
            self.objective_rose = True
        self._objective, self._weights_left = objective, self._digests()

    def _digests(self) -> list[Tensor]:
        """What tells whether a weight has changed, one that is frozen included."""
        return [digests(p.detach().reshape(len(p), -1)) for _, p in self._parameters]

    # ------------------------------------------------------------------------------------ subproblems

    def _chunks(self, x: Tensor) -> Iterator[slice]:
        """Chunks of samples, whose sizes differ by at most one."""
        count = -(-len(x) // self.options.chunk_size)
        for i in range(count):
            yield slice(i * len(x) // count, (i + 1) * len(x) // count)

    def _input(self, l: int, x: Tensor, rows: slice) -> Tensor:
        """The input of a layer, for those samples."""
        return self._stages[0].pre.value(x[rows]) if l == 0 else self._layers[l - 1].activations[rows]

    def _to_be_written(self, l: int, rows: slice) -> Tensor:
        """a_l of those samples, for a caller that changes it."""
        self._layers[l + 1].product.forget(rows)
        return self._layers[l].activations[rows]

    def _release_products(self) -> None:
        for layer in self._layers:
            layer.product.release()

    def _weight_problem(self, l: int, x: Tensor) -> WeightProblem:
        layer = self._layers[l]
        (n_out, n_in), count = layer.weight.shape, self.samples(x)
        like = torch.zeros((), dtype=torch.float64, device=self.device)
        gradient, residual = like.new_zeros(n_out, n_in), like.new_zeros(n_out)
        gram, input = self._input_moments or (None, None) if l == 0 else (None, None)
        sums = input is None
        if input is None:
            input = like.new_zeros(n_in)
            # If a layer narrows, two products per curvature cost less than the Gram matrix; that of a_0 is made
            # only once.
            if n_in <= (count if l == 0 else min(count, 2 * n_out)):
                gram = like.new_zeros(n_in, n_in)
        for rows in self._chunks(x):
            a = self._input(l, x, rows)
            r = layer.residual(a, rows)
            gradient += product(r, a, transpose_a=True)
            residual += r.sum(0)
            if sums:
                input += a.sum(0)
            if sums and gram is not None:
                wide = a.double()
                gram += product(wide, wide, transpose_a=True)
        for total in (gradient, residual, *((input,) if sums else ()), *((gram,) if sums else ())):
            if total is not None:
                self._sum(total)
        if l == 0:
            self._input_moments = gram, input

        def curve(direction: Tensor) -> Tensor:
            if gram is not None:
                total = product(direction, gram)
            else:
                total, narrow = torch.zeros_like(direction), direction.to(self.dtype)
                for rows in self._chunks(x):
                    a = self._input(l, x, rows)
                    total += product(product(a, narrow, transpose_b=True), a, transpose_a=True)
                self._sum(total)
            return total.mul_(layer.rho).add_(direction, alpha=self.options.l2_weights)

        gradient = gradient.mul_(layer.rho).add_(layer.weight, alpha=self.options.l2_weights)
        return WeightProblem(gradient, curve, residual / count, input / count, layer.rho * count)

    def _weight_step(
        self, layer: LiftedLayer, problem: WeightProblem, way: Tensor | None = None
    ) -> tuple[Tensor, float]:
        """The step on W from the point W + ``way``: returns the total change of W, and the rise of the objective.

        Only the part ``relaxation`` of the total is taken, including the way: at 0, momentum moves nothing, either.

        theta >= r makes the step one of a majorised descent. With an l1 penalty, the step is not along the gradient;
        theta is then doubled until it is no less than the curvature along the step.
        """
        o, gradient = self.options, problem.gradient
        rate, penalty = o.relaxation * self.step_factor, o.l1_weights
        if way is not None:
            bend = problem.curve(way)
            gradient = gradient + bend
        image = problem.curve(gradient)
        theta = 1.0
        if penalty == 0 or o.line_search == "exact":
            theta = float(o.searched(_quotient(gradient, image)))
        step, image = gradient / -theta, image.div_(-theta)
        while penalty > 0:
            start = layer.weight.double() if way is None else layer.weight + way
            step = soft_threshold(start - gradient / theta, penalty / theta) - start
            image = problem.curve(step)
            if not float(_quotient(step, image)) > theta:
                break
            theta *= 2
        change = step if way is None else step.add_(way)
        image = image if way is None else image.add_(bend)
        change, image = change.mul_(rate), image.mul_(rate)
        rise = float(_dot(problem.gradient, change) + _dot(image, change) / 2)
        if penalty > 0:
            rise += penalty * float((layer.weight + change).abs().sum() - layer.weight.double().abs().sum())
        return change, rise

    def _move_weight(self, layer: LiftedLayer, problem: WeightProblem, change: Tensor) -> None:
        """W <- W + change; afterwards ``problem`` is valid for b only."""
        layer.weight.copy_(layer.weight + change)
        layer.product.forget()
        problem.residual += change @ problem.input

    def _fit_bias(self, layer: LiftedLayer, problem: WeightProblem) -> None:
        """b <- the mean of target - W a, the minimiser."""
        if layer.bias is None or not layer.bias.requires_grad:
            return
        moved = layer.bias - self.options.relaxation * self.step_factor * problem.residual
        change = moved.to(self.dtype).double() - layer.bias
        layer.bias.copy_(moved)
        problem.gradient += problem.weight_of_all * torch.outer(change, problem.input)
        problem.residual += change

    def _loss_of(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss, summed over samples, in float64."""
        return len(z) * self.loss.mean(z.double(), y.double() if y.is_floating_point() else y)

    def _penalty(self, layer: LiftedLayer) -> Tensor:
        """Omega, the penalty on a layer's weights."""
        o, weight = self.options, layer.weight.double()
        return o.l2_weights / 2 * weight.square().sum() + o.l1_weights * weight.abs().sum()

    # -------------------------------------------------------------------------------------- safekeeping

    def _release(self) -> None:
        """Forget the variables; the next step initialises them again."""
        for layer in self._layers:
            layer.release()
        self._bound = ()
        self._fingerprint.forget()
        self._input_moments = self._objective = None
        self._weights_left = []

    @property
    def _shapes(self) -> list[list[int]]:
        return [list(layer.weight.shape) for layer in self._layers]

    def _state(self) -> dict[str, Part]:
        widths = [len(layer.weight) for layer in self._layers]
        each = list(zip(self._layers, widths, strict=True))
        rows = [[len(parameter)] for _, parameter in self._parameters]
        return {
            **super()._state(),
            "shapes": Same(self._shapes, "the shapes of this model's weights"),
            "pre_activations": Listed(
                Replaced(layer, "pre_activations", ["samples", width]) for layer, width in each
            ),
            "activations": Listed(
                Replaced(layer, "activations", ["samples", width]) for layer, width in each[:-1]
            ),
            "samples": Attribute(self, "_bound", self._checked_shape),
            "fingerprint": self._fingerprint.state,
            "objective": Attribute(self, "_objective", or_none(number(-math.inf))),
            "weights_left": ReplacedList(
                self, "_weights_left", rows, self._like.to(torch.int64), empty="samples"
            ),
            "objective_rose": Attribute(self, "objective_rose", boolean),
        }

    def _checked_shape(self, name: str, value: Any) -> tuple[int, ...]:
        """The shape of a training set that the model can take, or () before there is one."""
        shape = tuple(_check.integers(name, value))
        if shape and math.prod(shape[1:]) != self._layers[0].weight.shape[1]:
            raise ValueError(f"{name} must be the shape of a training set for this model, but is {shape}.")
        return shape

    def _check_state(self, state: Mapping[str, Any]) -> None:
        super()._check_state(state)
        held, shape = len(state["pre_activations"][0]), state["samples"]
        if held != (shape[0] if shape else 0):
            raise ValueError(f"state's samples must count {held}, as its variables do, but are {shape}.")

    def _forget_derived(self) -> None:
        super()._forget_derived()
        self._release_products()
        self._input_moments = None
