"""mDLAM: monotone alternating minimisation with Nesterov's extrapolation (Wang, Li & Zhao, "Accelerated gradient-free
neural network training by multi-convex alternating optimization", Neurocomputing 2022, arXiv 1811.04187).

Pre-activations z_l and activations a_l are variables; a_l is held in a box around h(z_l), with h the activation:

    minimise  F = sum over samples of  loss(z_L, y) + rho/2 sum_l ||z_l - W_l a_{l-1} - b_l||^2  +  sum_l Omega(W_l)
    subject to  h(z_l) - eps <= a_l <= h(z_l) + eps  for l < L .

There are no duals. Iteration k, with s^0 = 0, s^{k+1} = (1 + sqrt(1 + 4 (s^k)^2)) / 2 and
w = max((s^k - 1) / s^{k+1}, 0), goes through the layers from the first to the last, always with the newest values:

1. W_l: a step on phi_l + Omega from W_l + w (W_l - W_l one iteration before); if F has not fallen, from W_l itself;
2. b_l: the minimiser, the mean of z_l - W_l a_{l-1};
3. z_l: the minimiser within { z : |h(z) - a_l| <= eps }, which is W_l a_{l-1} + b_l clipped; z_L is the proximal map
   of the loss there;
4. a_l: a projected step on phi_{l+1} from a_l + w (a_l - a_l before); from a_l for samples whose term has not fallen;

and then eps <- max(eps_decay eps, eps_min). While eps is constant, F never rises.

The restart in 4 is the paper's, applied to each sample, since the samples are independent in this problem. The
authors' code (github.com/xianggebenben/mDLAM) extrapolates by zero and is not followed there.

When eps has shrunk, an a below -eps may have no z with |relu(z) - a| <= eps. The authors' code then takes z <= a +
eps, and step 4 brings a back to h(z). In the one iteration after eps has shrunk, a leaky relu gets this bound as
well, which departs from the paper. The paper's bound is (a + eps) / slope, a hundred times as far for torch's
default: with it z_1 went to -167 on the digits, and nothing was learned. While eps is constant, the boxes are the
paper's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from altmin_ext._state import Attribute, Part, ReplacedList
from altmin_ext._undo import Undoable
from altmin_ext.methods._lifted import Lifted, LiftedLayer, LiftedOptions, WeightProblem
from altmin_ext.methods._options import number, option, positive
from altmin_ext.network.spectral_norms import SpectralNorms
from altmin_ext.ops import Activation, CodeScalar


@dataclasses.dataclass(frozen=True)
class MDLAMOptions(LiftedOptions):
    """Options of :class:`MDLAM`.

    The influence of the labels travels down one layer every step or two. The shrinking of the boxes drives it: z has
    to follow an a that has moved. If eps is small from the start, z = W a + b for ever, and only the last layer
    learns: accuracy .741 on held-out images after 50 iterations on 10,000 images of Fashion-MNIST, against .786 by
    the paper's schedule and .777 to .783 by slower ones that begin at 1. In the first ten iterations little happens,
    since the boxes are still wide.
    """

    eps0: float = option(100.0, "initial half width of the box around h(z) that holds a", positive())
    eps_min: float = option(1e-3, "smallest half width of the boxes", positive())
    eps_decay: float = option(
        0.5, "factor by which each iteration narrows the boxes; 1 keeps them", positive(maximum=1.0)
    )

    def check(self) -> None:
        super().check()
        if self.eps_min > self.eps0:
            raise ValueError(f"eps_min must be at most eps0, {self.eps0!r}, but is {self.eps_min!r}.")


class MDLAM(Lifted):
    """mDLAM: monotone alternating minimisation on the whole training set at once, without gradients.

    Memory: 2 N numbers for z and W a of every unit, and 2 N for a of every unit below the last layer: for
    N = 60,000 and three layers of 1000 units 2.9 GB in float32. All else has the size of the weights, or of
    ``chunk_size`` samples.

    Attributes:
        eps: half the width of the boxes in the next step.
    """

    name = "mdlam"
    Options = MDLAMOptions
    options: MDLAMOptions

    def _allocate(self) -> None:
        super()._allocate()
        self.eps = float(self.options.eps0)
        self._s = 0.0
        self._weights_before = [layer.weight.detach().clone() for layer in self._layers]
        self._activations_before = [a.clone() for a in self.activations]
        rows = torch.zeros(len(self._layers) - 1, len(CodeScalar), dtype=torch.float64, device=self.device)
        self._scalars = rows
        self._spectral_norms = SpectralNorms(self._stages[1:], list(rows), self.seed, self._like)

    def _undoable(self) -> Sequence[Undoable]:
        return (
            super()._undoable()
            if self._spectral_norms.ready
            else [*super()._undoable(), self._spectral_norms]
        )

    @property
    def _momentum(self) -> float:
        """w of the next iteration."""
        return max((self._s - 1) / _next(self._s), 0.0)

    def _bind(self, x: Tensor, y: Tensor) -> None:
        super()._bind(x, y)
        self._activations_before = [a.clone() for a in self.activations]

    def _sweep(self, x: Tensor, y: Tensor) -> Tensor:
        self._spectral_norms.begin(len(x))
        terms = torch.zeros(len(self._layers), dtype=torch.float64, device=self.device)
        penalties = []
        for l, layer in enumerate(self._layers):
            problem = self._weight_problem(l, x)
            self._fit_weight(l, problem)
            self._fit_bias(layer, problem)
            for rows in self._chunks(x):
                center = layer.center(self._input(l, x, rows), rows)
                if layer.activation is None:
                    z = self._output(center, y[rows], rows)
                    terms[l] += self._loss_of(z, y[rows])
                else:
                    z = self._hidden(layer, center, rows)
                layer.pre_activations[rows] = z
                terms[l] += self.options.rho / 2 * (center - z).square().sum(dtype=torch.float64)
                if layer.activation is not None:
                    self._fit_activations(l, rows)
            penalties.append(self._penalty(layer))
        return self._sum(terms) + torch.stack(penalties)

    def _hidden(self, layer: LiftedLayer, center: Tensor, rows: slice) -> Tensor:
        """z_l of those samples, given W a + b as ``center``."""
        assert layer.activation is not None
        a, before = layer.activations[rows], layer.pre_activations[rows]
        low, high = code_box(layer.activation, a, self.eps)
        if self._objective is not None:
            # While eps is constant, the old z lies in its box; h's inverse can miss that if h is flat and a rounded.
            low, high = torch.minimum(low, before), torch.maximum(high, before)
        elif layer.activation.name == "leaky_relu":
            high = torch.maximum(high, a + self.eps)
        return torch.clamp(center, low, high)

    def _fit_weight(self, l: int, problem: WeightProblem) -> None:
        layer, w = self._layers[l], self._momentum
        if not layer.weight.requires_grad:
            return
        way = w * (layer.weight.double() - self._weights_before[l]) if w > 0 else None
        self._weights_before[l] = layer.weight.detach().clone()
        change, rise = self._weight_step(layer, problem, way)
        if way is not None and not rise < 0:
            change, _ = self._weight_step(layer, problem)
        self._move_weight(layer, problem, change)

    def _fit_activations(self, l: int, rows: slice) -> None:
        layer, above, w = self._layers[l], self._layers[l + 1], self._momentum
        assert layer.activation is not None
        old, before = layer.activations[rows], self._activations_before[l][rows]
        image = layer.activation.value(layer.pre_activations[rows])
        low, high = image - self.eps, image + self.eps
        curvature = above.rho * self._scalars[l, CodeScalar.sigma_squared]
        step_size = (above.rho / self.options.searched(curvature)).to(self.dtype)

        start = old + w * (old - before)
        target = above.target(rows)
        residual = above.affine(start).sub_(target)
        new = torch.clamp(start - step_size * above.pull_back(residual), low, high)
        if w > 0:
            residual = above.residual(old, rows)
            risen = ~(above.affine(new).sub_(target).square().sum(1) < residual.square().sum(1))
            plain = old[risen] - step_size * above.pull_back(residual[risen])
            new[risen] = torch.clamp(plain, low[risen], high[risen])
        before.copy_(old)
        self._to_be_written(l, rows).copy_(new)

    def _output(self, center: Tensor, y: Tensor, rows: slice) -> Tensor:
        return self.loss.proximal(center, y, self.options.rho)

    def _advance(self) -> None:
        self._s = _next(self._s)
        self._spectral_norms.iterate(len(self._layers[0].pre_activations))
        eps = max(self.options.eps_decay * self.eps, self.options.eps_min)
        if eps != self.eps:
            self.eps, self._objective = eps, None

    def _release(self) -> None:
        super()._release()
        self._activations_before = [a.clone() for a in self.activations]
        self._weights_before = [layer.weight.detach().clone() for layer in self._layers]

    def _state(self) -> dict[str, Part]:
        weights = [layer.weight.shape for layer in self._layers]
        activations = [("samples", a.shape[1]) for a in self.activations]
        return {
            **super()._state(),
            "eps": Attribute(self, "eps", positive()),
            "s": Attribute(self, "_s", number()),
            "weights_before": ReplacedList(self, "_weights_before", weights, self._like),
            "activations_before": ReplacedList(self, "_activations_before", activations, self._like),
            **self._spectral_norms.state.parts,
        }


def _next(s: float) -> float:
    """The next term of Nesterov's sequence."""
    return (1 + math.sqrt(1 + 4 * s * s)) / 2


def code_box(activation: Activation, a: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The lower and upper bound of the z with |h(z) - a| <= eps, elementwise; infinite if there is no bound.

    A bound outside the range of h counts as none; that happens when a smaller eps leaves a outside that range.
    """
    low, high, name = a - eps, a + eps, activation.name
    if name == "tanh":
        inverse, inside = torch.atanh, lambda v: v.abs() < 1
    elif name == "sigmoid":
        inverse, inside = torch.logit, lambda v: (v > 0) & (v < 1)
    elif name == "leaky_relu" and activation.parameter > 0:
        slope = activation.parameter
        return torch.where(low < 0, low / slope, low), torch.where(high < 0, high / slope, high)
    elif name in ("relu", "leaky_relu"):
        return torch.where(low > 0, low, -torch.inf), high
    else:
        return low, high
    return (
        torch.where(inside(low), inverse(low), -torch.inf),
        torch.where(inside(high), inverse(high), torch.inf),
    )
