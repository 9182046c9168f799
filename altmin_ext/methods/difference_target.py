"""Difference target propagation (Lee, Zhang, Fischer & Bengio, ECML PKDD 2015, arXiv 1412.7525).

Layer l is h_l = f_l(h_{l-1}) = s_l(W_l h_{l-1} + b_l), with h_0 = x and h_L the logits. For every hidden layer but
the first the method keeps an approximate inverse g_l(h_l) = s_{l-1}(V_l h_l + c_l). A step on a minibatch

1. encodes:           h_l <- f_l(h_{l-1}) for all l;
2. fits the inverses: g_l to undo f_l at h = h_{l-1} + noise, minimising the mean of ||g_l(f_l(h)) - h||^2;
3. sets the targets:  t_{L-1} <- h_{L-1} - target_step dloss/dh_{L-1} at the top,
                      t_{l-1} <- h_{l-1} - g_l(h_l) + g_l(t_l) from there down;
4. fits the layers:   f_l to its target, minimising the mean of ||f_l(h_{l-1}) - t_l||^2, and f_L to the loss.

Each of these is differentiated only in the weights of its own layer; dloss/dh_{L-1} is the only derivative in an
activation. A Sign belongs to the layers that read it: h_l is the value before the Sign, and f_{l+1} and its inverse
g_{l+1} begin with it. Its derivative is needed only in front of f_L, where the surrogate stands in.

Targets are held as displacements t_l - h_l, since the difference of two nearly equal activations has few digits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext._guard import Subject
from altmin_ext._state import Attribute, Drawn, InPlace, Listed, Part, at_least_zero, count
from altmin_ext._undo import Generator, Tensors, Undoable
from altmin_ext.methods._options import GradientOptions, boolean, number, option, positive
from altmin_ext.methods.base import Method, StepReport
from altmin_ext.network import BoundStage, Chain, LinearMap, PreMap, split
from altmin_ext.network.pieces import DropoutPiece, PointwisePiece, ReshapePiece
from altmin_ext.ops import Activation
from altmin_ext.ops import unversioned as ops
from altmin_ext.ops.activation import identity


@dataclasses.dataclass(frozen=True)
class DifferenceTargetOptions(GradientOptions):
    """Options of :class:`DifferenceTarget`.

    The defaults are the authors' for the binary network 784-500-500-10 and minibatches of 100; they suit tanh
    networks, too. For a network with seven hidden layers of 240 units the authors used lr .01489, lr_inverse .005011,
    target_step .3277, noise .3598 and infinite noise_epochs; for standardised pixels that lr is too large.
    """

    lr: float = option(6.6e-4)
    lr_inverse: float = option(4.33e-4, "learning rate of the inverses", number())
    target_step: float = option(
        27.97,
        "step of the top target along the derivative of the mean loss; for a sample's own loss it is this divided "
        "by the batch size",
        number(),
    )
    noise: float = option(
        0.5, "initial standard deviation of the noise that the inverses learn to undo", number()
    )
    noise_epochs: float = option(
        50.0, "epochs after which the noise has halved; inf keeps it", positive(infinite=True)
    )


class RMSProp:
    """The optimiser of the authors' code, by the gradient g of every weight w::

        m <- .95 m + .05 g;  v <- .95 v + .05 g^2;  d <- .9 d + g / sqrt(v - m^2 + 1e-3);  w <- w - lr d

    The authors' code multiplies g by its constant learning rate; here the rate multiplies d, so that a rate of zero
    moves nothing. If gradients are well below .03, this is SGD with a momentum of .9 and a rate of lr / .03.

    Args:
        weights: moved in place.
        gradients: the buffers, one per weight, that :meth:`step` reads.

    Attributes:
        gradients: as above.
    """

    def __init__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        self._weights, self.gradients = list(weights), list(gradients)
        self.moments = [w.new_zeros(3, *w.shape, requires_grad=False) for w in weights]  # m, v, d
        self._moments_before = [torch.zeros_like(moments) for moments in self.moments]
        largest = max((w.detach() for w in weights), key=torch.numel, default=torch.empty(0))
        room = torch.empty_like(largest).flatten()
        self._deviations = [room[: w.numel()].view(w.shape) for w in weights]
        self._weights_before = Tensors(weights)

    def step(self, lr: float, decay: float = 0.0) -> None:
        """Move the weights, after shrinking them by lr * decay."""
        self.moments, self._moments_before = self._moments_before, self.moments
        buffers = zip(self.gradients, self.moments, self._moments_before, self._deviations, strict=True)
        for w, (g, moments, before, deviation) in zip(self._weights, buffers, strict=True):
            mean, square, direction = moments
            torch.lerp(before[0], g, 0.05, out=mean)
            torch.mul(before[1], 0.95, out=square).addcmul_(g, g, value=0.05)
            # A variance can be negative only by rounding, but for large gradients the root would then be NaN.
            torch.addcmul(square, mean, mean, value=-1, out=deviation).clamp_(min=0).add_(1e-3).sqrt_()
            torch.mul(before[2], 0.9, out=direction).addcdiv_(g, deviation)
            if decay != 0:
                w.mul_(1 - lr * decay)
            w.sub_(direction, alpha=lr if lr <= torch.finfo(w.dtype).max else math.inf)

    def remember(self) -> Any:
        # A step writes to the other buffers of moments.
        return self._weights_before.remember(), self.moments, self._moments_before

    def recall(self, kept: Any) -> None:
        weights, self.moments, self._moments_before = kept
        self._weights_before.recall(weights)

    def is_finite(self) -> bool:
        """Whether weights and gradients of the last step are finite."""
        sums = [w.sum() + moments[1].sum() for w, moments in zip(self._weights, self.moments, strict=True)]
        return not sums or bool(torch.stack(sums).isfinite().all())


class TargetLayer:
    """A layer f(h) = s(W front(h) + b) with a loss of its own.

    Args:
        front: the pieces before the map, such as a Sign.
        map: W and b.
        activation: s.
    """

    def __init__(self, front: Chain, map: LinearMap, activation: Activation) -> None:
        self._front, self._map, self._activation = front, map, activation
        self.update = RMSProp(map.parameters, map.gradients)
        self._input = self._code = map.weight.new_empty(0)
        self._one = map.weight.new_ones((), dtype=torch.float64, requires_grad=False)

    def encode(self, h: Tensor) -> Tensor:
        """Evaluate f(h) (B, n_out) at h (B, n_in), where the layer stands from now on."""
        self._input = self._front.begin(h).contiguous()
        self._code, value = self._evaluate(self._input)
        return value

    def stand_at(self, h: Tensor) -> None:
        """Move to h (B, n_in), without f(h)."""
        self._input = self._front.begin(h).contiguous()
        self._code = self._map.forward(self._input, None)
        if self._map.bias is not None:
            self._code.add_(self._map.bias)

    def __call__(self, h: Tensor) -> Tensor:
        """f(h), without moving the point that :meth:`difference` and :meth:`differentiate` refer to."""
        return self._evaluate(self._front.value(h).contiguous())[1]

    def difference(self, displacement: Tensor) -> Tensor:
        """f(h + displacement) - f(h) without cancellation, with h where the layer stands."""
        moved = self._map.move(self._front.move(displacement, self._one), self._one, None)
        difference = torch.empty_like(moved)
        ops.activation_difference(
            self._code, moved, unit=self._one, difference=difference, sigma=self._activation
        )
        return difference

    def differentiate(self, residual: Tensor) -> None:
        """Write the gradients in W and b for :attr:`update`.

        Args:
            residual: (B, n_out), the derivative in f(h); it is overwritten.
        """
        if self._activation != identity:
            ops.activation_vjp(self._code, residual, out=residual, sigma=self._activation)
        self._map.weight_gradients(residual, self._input)
        if self._map.bias_gradient is not None:
            torch.sum(residual, 0, out=self._map.bias_gradient)

    def vjp(self, residual: Tensor) -> Tensor:
        """The derivative in h (B, n_in), from that in W front(h) + b (B, n_out)."""
        return self._front.vjp(self._map.vjp(residual, None))

    def _evaluate(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """W a + b and s(W a + b), (B, n_out) each."""
        code = self._map.forward(a, None)
        value = torch.empty_like(code)
        ops.activate(code, bias=self._map.bias, activation=value, sigma=self._activation)
        return code, value


class DifferenceTarget(Method):
    """Difference target propagation: targets for activations, by learnt inverses (Lee et al. 2015).

    It takes Linear layers with pointwise activations, Sign and Dropout between them.

    The authors alternate a pass over the data that fits the inverses with one that fits the layers. So does
    :func:`altmin_ext.train` if the data are finite, see :meth:`begin_epoch`; otherwise a step does both.
    Memory: eight numbers for every weight of the layers and of the inverses, and one more for the largest matrix of
    each.

    Attributes:
        epochs: the number of epochs that have ended.
        noise: the current standard deviation, see ``noise_epochs``.
        inverses: the Linears of g_2 to g_{L-1}; not part of the model.
        displacements: t_l - h_l (B, n_l) of every hidden layer in the last step, lowest first.
    """

    name = "dtp"
    shares = True
    _of_the_run = (*Method._of_the_run, "alternates")
    Options = DifferenceTargetOptions
    options: DifferenceTargetOptions

    def _cut(self, model: nn.Module) -> list[BoundStage]:
        stages = split(model)
        _check_model(stages)
        if self.ranks is not None:
            for stage in stages:
                stage.share(self.ranks)
        return stages

    def _flags(self) -> Sequence[Subject]:
        count = len(self._stages)
        inverses = [("inverse", l) for l in range(1, count - 1)]
        return [("loss", count - 1), *inverses, *(("weights", l) for l in range(count))]

    def _allocate(self) -> None:
        self._generator = torch.Generator(self.device).manual_seed(self.seed)
        self.inverses: list[nn.Linear] = []
        self._layers, self._inverses = self._make_layers()
        self._drawn = Generator(self._generator)
        self._shape = torch.Size()  # of a sample
        self.epochs = 0
        self._alternates = False  # whether the inverses have been fitted for this epoch
        self.displacements: list[Tensor] = []

    def _make_layers(self) -> tuple[list[TargetLayer], list[TargetLayer]]:
        cuts = [_cut(stage.pre) for stage in self._stages[1:]]
        fronts = [Chain(self._stages[0].pre.unfused), *(front for _, front in cuts)]
        activations = [*(activation for activation, _ in cuts), identity]
        maps = [stage.map for stage in self._stages if isinstance(stage.map, LinearMap)]
        layers = [TargetLayer(*parts) for parts in zip(fronts, maps, activations, strict=True)]
        inverses = []
        for map, front, activation in zip(maps[1:-1], fronts[1:-1], activations[:-2], strict=True):
            # The inverse reads signs if its layer does.
            signs = [p for p in front.pieces if isinstance(p, PointwisePiece) and p.activation.jumps]
            own_front = Chain([PointwisePiece(sign.activation) for sign in signs])
            self.inverses.append(self._orthogonal(map.n_out, map.n_in))
            inverse = LinearMap(self.inverses[-1])
            inverse.allocate(self._like)
            inverses.append(TargetLayer(own_front, inverse, activation))
        return layers, inverses

    def _orthogonal(self, n_in: int, n_out: int) -> nn.Linear:
        """A Linear whose weight is the orthogonal factor of a uniform matrix, with a bias of zeros."""
        drawn = torch.empty(n_out, n_in, dtype=torch.float64, device=self.device)
        left, _, right = torch.linalg.svd(
            drawn.uniform_(-1, 1, generator=self._generator), full_matrices=False
        )
        # Without nn.Linear's own initialisation, which would draw from torch's generator.
        linear = nn.utils.skip_init(nn.Linear, n_in, n_out, dtype=self.dtype, device=self.device)
        with torch.no_grad():
            linear.weight.copy_(left @ right)
            linear.bias.zero_()
        return linear

    @property
    def noise(self) -> float:
        return self.options.noise / (1 + self.epochs / self.options.noise_epochs)

    # ------------------------------------------------------------------------------------------ a step

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1:] != self._shape:
            shape = x.shape[1:]
            for stage in self._stages:
                shape = stage.output_shape(shape, x)
            self._shape, self.n_out = x.shape[1:], shape[0]
        self.loss.check_target_shape(y, self.n_out)
        return x, y

    @property
    def _fitted(self) -> Sequence[TargetLayer]:
        """The layers that a step fits."""
        return self._layers if self._alternates else [*self._inverses, *self._layers]

    def _undoable(self) -> Sequence[Undoable]:
        return [*(layer.update for layer in self._fitted), self._drawn]

    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        *hidden, logits = self._encode(x)
        residual, loss, correct = self._residual_of_loss(logits, y)
        if not self._alternates:
            self._fit_inverses(hidden)
        self.displacements = self._targets(hidden, residual)
        self._fit_layers(residual)
        self._raise_unless_finite(loss, self._fitted)
        if not self.options.report_objective:
            return StepReport(loss, correct)
        return StepReport(loss, correct, self._objective(loss), self._moved())

    def _encode(self, x: Tensor) -> list[Tensor]:
        """h_l of every layer."""
        activations = [x]
        for layer in self._layers:
            activations.append(layer.encode(activations[-1]))
        return activations[1:]

    def _residual_of_loss(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The derivative of the mean loss in the logits (B, C), that loss, and the correct count."""
        residual, loss = torch.empty_like(logits), logits.new_empty(())
        correct = torch.empty_like(loss, dtype=torch.int64)
        self.loss.residual(logits, None, y, residual, None, loss, correct)
        return residual / self.samples(logits), loss, correct if self.loss.counts(y, self.n_out) else None

    def _fit_inverses(self, hidden: Sequence[Tensor]) -> None:
        """One step of every g_l on the mean of ||g_l(f_l(h)) - h||^2, at h_{l-1} with noise."""
        for layer, inverse, below in zip(self._layers[1:-1], self._inverses, hidden[:-1], strict=True):
            h = self._drawn_like(below).mul_(self.noise).add_(below)
            residual = inverse.encode(layer(h)).sub_(h)
            inverse.differentiate(residual.mul_(2 / self.samples(h)))
            self._sum_gradients(inverse)
            inverse.update.step(self.options.lr_inverse * self.step_factor)

    def _drawn_like(self, h: Tensor) -> Tensor:
        """Standard normal numbers for h (B, n); all ranks draw those of the whole minibatch, and take their own."""
        if self.ranks is None:
            return torch.empty_like(h).normal_(generator=self._generator)
        return h.new_empty(self.ranks.samples, h.shape[1]).normal_(generator=self._generator)[self.ranks.own]

    def _sum_gradients(self, *layers: TargetLayer) -> None:
        """Sum the gradients of layers over all ranks."""
        if self.ranks is not None:
            for layer in layers:
                self.ranks.start_sum(layer.update.gradients)
            self.ranks.wait()

    def _targets(self, hidden: Sequence[Tensor], residual: Tensor) -> list[Tensor]:
        """t_l - h_l of every hidden layer: along the loss at the top, through the differences of g_l below."""
        if not hidden:
            return []
        displacements = [-self.options.target_step * self._layers[-1].vjp(residual)]
        for inverse, h in zip(reversed(self._inverses), reversed(hidden), strict=False):
            inverse.stand_at(h)
            displacements.append(inverse.difference(displacements[-1]))
        return displacements[::-1]

    def _fit_layers(self, residual: Tensor) -> None:
        """One step of every f_l on the mean of ||f_l(h_{l-1}) - t_l||^2, and of the last on the loss."""
        o = self.options
        for layer, displacement in zip(self._layers, self.displacements, strict=False):
            layer.differentiate(displacement * (-2 / self.samples(displacement)))
        self._layers[-1].differentiate(residual)
        self._sum_gradients(*self._layers)
        for layer in self._layers:
            layer.update.step(o.lr * self.step_factor, o.weight_decay)

    def _objective(self, loss: Tensor) -> Tensor:
        """The loss of every layer before its step."""
        squares = [displacement.double().square().sum() for displacement in self.displacements]
        if self.ranks is not None:
            squares = [self.ranks.sum(square) for square in squares]
        terms = [square / self.samples(self.displacements[0]) for square in squares]
        return torch.stack([*terms, loss.double()])

    def _moved(self) -> Tensor | None:
        """The RMS distance of every hidden layer's targets from its activations."""
        squares = [displacement.double().square().mean() for displacement in self.displacements]
        return self._rms_of_all(torch.stack(squares).sqrt()) if squares else None

    def _raise_unless_finite(self, loss: Tensor, fitted: Sequence[TargetLayer]) -> None:
        """Raise the flag of the first of these that is not finite: the loss, the inverses, the layers."""
        if not bool(loss.isfinite()):
            self._guard.put_up("loss", len(self._stages) - 1)
            return
        subjects = [("inverse", l) for l in range(1, len(self._stages) - 1)]
        subjects += [("weights", l) for l in range(len(self._stages))]
        for subject, layer in zip(subjects, [*self._inverses, *self._layers], strict=True):
            if layer in fitted and not layer.update.is_finite():
                self._guard.put_up(*subject)
                return

    def _remedy(self, variable: str) -> str:
        return {"loss": "lower lr", "inverse": "lower lr_inverse"}.get(variable, "lower lr or target_step")

    # ------------------------------------------------------------------------------------------ epochs

    def begin_epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fit the inverses on every minibatch; from then until :meth:`end_epoch`, steps fit the layers alone.

        Args:
            batches: the minibatches (x, y) of one pass, as :meth:`step` takes them.

        Raises:
            TypeError, ValueError, DivergenceError: as in :meth:`step`.
        """
        if not self.model.training:
            self.model.train()
        for x, y in batches:
            x, y = self.check_batch(x, y)
            if self.ranks is not None:
                self.ranks.begin(x.shape[0])
            parts: list[Undoable] = [*(inverse.update for inverse in self._inverses), self._drawn]
            if self.on_nonfinite == "restore":
                self._copies.keep(self)
            with torch.no_grad():
                self._all_or_nothing(self._fit_inverses_alone, parts, x, y)
            if self.on_nonfinite == "restore":
                self._restore_if_diverged(x, y)
        self._alternates = True

    def _fit_inverses_alone(self, x: Tensor, y: Tensor) -> None:
        *hidden, logits = self._encode(x)
        self._fit_inverses(hidden)
        self._raise_unless_finite(logits.sum(), self._inverses)
        self._step_taken = not self._diverged(x, y)

    def end_epoch(self) -> None:
        """Lower the noise to noise / (1 + epochs / noise_epochs)."""
        self.epochs += 1
        self._alternates = False

    # ------------------------------------------------------------------------------------------ saving

    def _state(self) -> dict[str, Part]:
        layers = (*self._layers, *self._inverses)
        inverses = [p.detach() for linear in self.inverses for p in linear.parameters()]
        moments = [moments for layer in layers for moments in layer.update.moments]
        return {
            **super()._state(),
            "inverses": Listed(map(InPlace, inverses)),
            "moments": Listed(InPlace(own, _can_be_moments) for own in moments),
            "epochs": Attribute(self, "epochs", count),
            "alternates": Attribute(self, "_alternates", boolean),
            "generator": Drawn(self._generator),
        }


def _can_be_moments(name: str, moments: Tensor) -> None:
    at_least_zero(f"{name}[1]", moments[1])  # the mean of squares


def _check_model(stages: Sequence[BoundStage]) -> None:
    """Raise a ValueError unless every stage is a Linear behind pointwise activations."""
    known = (PointwisePiece, DropoutPiece, ReshapePiece)
    for stage in stages:
        if not isinstance(stage.map, LinearMap) or not all(isinstance(p, known) for p in stage.pre.unfused):
            raise ValueError(
                f"model must be a chain of Linear with pointwise activations between them for dtp, but stage "
                f"{stage.name!r} is something else; use am-adam."
            )
    if len(stages) > 1 and stages[-1].pre.has_sign_without_derivative:
        raise ValueError(
            "model must have a surrogate for a Sign in front of its last Linear, where the targets begin, but it is "
            "'none'; make it Sign('identity') or Sign('clipped')."
        )


def _cut(pre: PreMap) -> tuple[Activation, Chain]:
    """Cut the pieces between two Linears into the activation of the lower layer and the front of the upper one."""
    pieces = pre.unfused
    if pieces and isinstance(pieces[0], PointwisePiece) and not pieces[0].activation.jumps:
        return pieces[0].activation, Chain(pieces[1:])
    return identity, Chain(pieces)
