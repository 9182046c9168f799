"""Steps of mdlam and dladmm written out from their papers in float64, with autograd for every derivative.

Every weight step is the paper's backtracking on the inequality itself; a step of an activation is one per sample.
What the papers minimise exactly is minimised here by other means than in the library: a loss by Newton's method, a
pre-activation by trying the minimum of every piece.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altmin_ext.methods.dladmm import DLADMMOptions
from altmin_ext.methods.mdlam import MDLAMOptions


def layers_of(model: nn.Module) -> tuple[list[nn.Linear], list[nn.Module]]:
    """The Linears, and the activations between them."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    between = [m for m in model.modules() if not isinstance(m, nn.Linear | nn.Flatten | nn.Sequential)]
    return linears, between


def newton(center: Tensor, y: Tensor, rho: float) -> Tensor:
    """argmin_z cross_entropy(z, y) + rho/2 ||z - center||^2 for every sample, by damped Newton steps."""
    labels, unit = F.one_hot(y, center.shape[1]).double(), torch.eye(center.shape[1], dtype=torch.float64)

    def objective(z: Tensor) -> Tensor:
        return F.cross_entropy(z, y, reduction="none") + rho / 2 * (z - center).square().sum(1)

    z = center.clone()
    for _ in range(100):
        p = z.softmax(1)
        gradient = p - labels + rho * (z - center)
        hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :] + rho * unit
        move = torch.linalg.solve(hessian, gradient)
        size = move.abs().amax(1) / (1 + z.abs().amax(1))
        for _ in range(60):
            # The objective cannot tell how good a short step is.
            worse = (size > 1e-3) & (objective(z - move) > objective(z))
            if not bool(worse.any()):
                break
            move[worse] /= 2
        z = z - move
        if float(size.max()) < 1e-12:
            break
    return z


class Lifted:
    """Variables and the steps that both methods share."""

    def __init__(self, model: nn.Module, loss: str, options: Any) -> None:
        self.model, self.loss, self.o = model, loss, options
        self.linears, self.h = layers_of(model)
        self.z: list[Tensor] = []
        self.a: list[Tensor] = []

    def weight_penalty(self, W: Tensor) -> Tensor:
        return self.o.l2_weights / 2 * W.square().sum()

    def rho_of(self, l: int) -> float:
        raise NotImplementedError

    def target(self, l: int) -> Tensor:
        return self.z[l]

    def affine(self, l: int, a: Tensor) -> Tensor:
        return self.linears[l](a)

    def below(self, l: int) -> Tensor:
        return self.x if l == 0 else self.a[l - 1]

    def begin(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.flatten(1), y
        a = self.x
        for l in range(len(self.linears)):
            self.z.append(self.affine(l, a))
            if l < len(self.h):
                a = self.h[l](self.z[l])
                self.a.append(a)
        self.z[-1] = self.output(self.z[-1])

    def output(self, center: Tensor) -> Tensor:
        raise NotImplementedError

    def proximal(self, center: Tensor, rho: float) -> Tensor:
        if self.loss == "mse":
            pull = 2 / center.shape[1]
            return (pull * self.y + rho * center) / (pull + rho)
        return newton(center, self.y, rho)

    def loss_sum(self) -> Tensor:
        z = self.z[-1]
        if self.loss == "mse":
            return len(z) * F.mse_loss(z, self.y)
        return F.cross_entropy(z, self.y, reduction="sum")

    def phi(self, l: int, W: Tensor) -> Tensor:
        bias = 0.0 if self.linears[l].bias is None else self.linears[l].bias.detach()
        gap = self.below(l) @ W.t() + bias - self.target(l)
        return self.rho_of(l) / 2 * gap.square().sum() + self.weight_penalty(W)

    def searched(self, curvature: float) -> float:
        if self.o.line_search == "doubling":
            return float(2.0 ** math.ceil(math.log2(max(curvature, 1.0))))
        return curvature if curvature > 0 else 1.0

    def weight_step(self, l: int, start: Tensor) -> Tensor:
        """The proximal step of the line search from there."""
        with torch.enable_grad():
            at = start.clone().requires_grad_()
            (g,) = torch.autograd.grad(self.phi(l, at), at)

        def curvature(direction: Tensor) -> float:
            squares = float(direction.square().sum())
            if squares == 0:
                return 0.0
            bent = self.rho_of(l) * (self.below(l) @ direction.t()).square().sum()
            return float(bent + self.o.l2_weights * squares) / squares

        theta = 1.0
        if self.o.l1_weights == 0 or self.o.line_search == "exact":
            theta = self.searched(curvature(g))
        while True:
            W = F.softshrink(start - g / theta, self.o.l1_weights / theta)
            if self.o.l1_weights == 0 or curvature(W - start) <= theta:
                return W
            theta *= 2

    def put_weight(self, l: int, W: Tensor) -> None:
        weight = self.linears[l].weight
        weight.copy_(weight + self.o.relaxation * (W - weight))

    def fit_bias(self, l: int) -> None:
        bias = self.linears[l].bias
        if bias is not None and bias.requires_grad:
            mean = (self.target(l) - self.affine(l, self.below(l))).mean(0)
            bias.copy_(bias + self.o.relaxation * mean)


class WrittenMDLAM(Lifted):
    """Algorithm 1 of the mDLAM paper."""

    def __init__(self, model: nn.Module, loss: str, options: dict[str, Any]) -> None:
        super().__init__(model, loss, MDLAMOptions(**options))
        self.eps, self.s, self.narrowed = self.o.eps0, 0.0, True
        self.W_before = [m.weight.detach().clone() for m in self.linears]
        self.a_before: list[Tensor] = []

    def rho_of(self, l: int) -> float:
        return float(self.o.rho)

    def output(self, center: Tensor) -> Tensor:
        return self.proximal(center, self.o.rho)

    def box(self, l: int) -> tuple[Tensor, Tensor]:
        """Where |h(z) - a| <= eps, by h's inverse on its range; no bound beyond that."""
        a, h, inf = self.a[l], self.h[l], math.inf
        low, high = a - self.eps, a + self.eps
        if isinstance(h, nn.ReLU):
            return torch.where(low > 0, low, -inf), high
        if isinstance(h, nn.LeakyReLU):
            slope = h.negative_slope
            below = torch.where(high < 0, high / slope, high)
            if self.narrowed:
                below = torch.maximum(below, high)
            return torch.where(low < 0, low / slope, low), below
        if isinstance(h, nn.Identity):
            return low, high
        inverse, least = (torch.atanh, -1.0) if isinstance(h, nn.Tanh) else (torch.logit, 0.0)
        return (
            torch.where((low > least) & (low < 1), inverse(low), -inf),
            torch.where((high > least) & (high < 1), inverse(high), inf),
        )

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor, squared_norms: list[float]) -> float:
        """One iteration; ``squared_norms``: sigma_max(W)^2 of every layer but the first, as the method has them."""
        o = self.o
        loss = float((F.mse_loss if self.loss == "mse" else F.cross_entropy)(self.model(x), y))
        if not self.z:
            self.begin(x, y)
            self.a_before = [a.clone() for a in self.a]
        s = (1 + math.sqrt(1 + 4 * self.s**2)) / 2
        w, self.s = max((self.s - 1) / s, 0.0), s
        for l, linear in enumerate(self.linears):
            if linear.weight.requires_grad:
                self.move_weight(l, w)
            self.fit_bias(l)
            center = self.affine(l, self.below(l))
            if l == len(self.h):
                self.z[l] = self.output(center)
                continue
            low, high = self.box(l)
            if not self.narrowed:  # the old z lies in its box, whatever rounding says
                low, high = torch.minimum(low, self.z[l]), torch.maximum(high, self.z[l])
            self.z[l] = center.clamp(low, high)
            self.move_activations(l, w, squared_norms[l])
        eps = max(o.eps_decay * self.eps, o.eps_min)
        self.narrowed, self.eps = eps != self.eps, eps
        return loss

    def move_weight(self, l: int, w: float) -> None:
        old = self.linears[l].weight.detach().clone()
        new = self.weight_step(l, old + w * (old - self.W_before[l]))
        if w > 0 and not self.rise(l, old, self.o.relaxation * (new - old)) < 0:
            new = self.weight_step(l, old)
        self.W_before[l] = old
        self.put_weight(l, new)

    def rise(self, l: int, old: Tensor, change: Tensor) -> float:
        """Of the objective, by its derivative and curvature, since two large sums would hide it."""
        with torch.enable_grad():
            at = old.clone().requires_grad_()
            (g,) = torch.autograd.grad(self.phi(l, at), at)
        bent = self.rho_of(l) * (self.below(l) @ change.t()).square().sum()
        bent = bent + self.o.l2_weights * change.square().sum()
        lasso = self.o.l1_weights * ((old + change).abs().sum() - old.abs().sum())
        return float((g * change).sum() + bent / 2 + lasso)

    def move_activations(self, l: int, w: float, squared_norm: float) -> None:
        old, W = self.a[l], self.linears[l + 1].weight
        step = self.o.rho / self.searched(self.o.rho * squared_norm)
        image = self.h[l](self.z[l])

        def residual(a: Tensor) -> Tensor:
            return self.affine(l + 1, a) - self.z[l + 1]

        def moved(start: Tensor) -> Tensor:
            return torch.clamp(start - step * residual(start) @ W, image - self.eps, image + self.eps)

        new = moved(old + w * (old - self.a_before[l]))
        if w > 0:
            fallen = residual(new).square().sum(1) < residual(old).square().sum(1)
            new = torch.where(fallen[:, None], new, moved(old))
        self.a_before[l], self.a[l] = old, new


class WrittenDLADMM(Lifted):
    """The iteration of the dlADMM paper: backward and forward through all variables, then the dual."""

    def __init__(self, model: nn.Module, loss: str, options: dict[str, Any]) -> None:
        super().__init__(model, loss, DLADMMOptions(**options))
        self.rho, self.to_raise = self.o.rho, self.o.rho_interval

    def rho_of(self, l: int) -> float:
        return float(self.rho if l == len(self.h) else self.o.nu)

    def begin(self, x: Tensor, y: Tensor) -> None:
        self.u = torch.zeros(len(x), self.linears[-1].out_features, dtype=torch.float64)
        super().begin(x, y)

    def target(self, l: int) -> Tensor:
        return self.z[l] + self.u / self.rho if l == len(self.h) else self.z[l]

    def output(self, center: Tensor) -> Tensor:
        return self.proximal(center - self.u / self.rho, self.rho)

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> float:
        loss = float((F.mse_loss if self.loss == "mse" else F.cross_entropy)(self.model(x), y))
        if not self.z:
            self.begin(x, y)
        top = len(self.h)
        for l in range(top, -1, -1):
            self.fit_code(l)
            self.fit_bias(l)
            self.fit_weight(l)
            if l > 0:
                self.fit_activations(l - 1)
        for l in range(top + 1):
            self.fit_weight(l)
            self.fit_bias(l)
            self.fit_code(l)
            if l < top:
                self.fit_activations(l)
        self.u = self.u + self.rho * (self.z[-1] - self.affine(top, self.below(top)))
        self.to_raise -= 1
        if self.to_raise == 0:
            self.to_raise = self.o.rho_interval
            self.rho = max(self.rho, min(self.o.rho_multiplier * self.rho, self.o.rho_max))
        return loss

    def fit_weight(self, l: int) -> None:
        if self.linears[l].weight.requires_grad:
            self.put_weight(l, self.weight_step(l, self.linears[l].weight.detach().clone()))

    def fit_code(self, l: int) -> None:
        center = self.affine(l, self.below(l))
        if l == len(self.h):
            self.z[l] = self.output(center)
            return
        a, h = self.a[l], self.h[l]
        # Piece by piece: h(z) = s z on either side of zero.
        left, right = {nn.ReLU: (0.0, 1.0), nn.Identity: (1.0, 1.0)}.get(
            type(h), (getattr(h, "negative_slope", 0.0), 1.0)
        )
        candidates = torch.stack(
            [
                ((left * a + center) / (left**2 + 1)).clamp(max=0),
                ((right * a + center) / (right**2 + 1)).clamp(min=0),
            ]
        )
        values = (a - h(candidates)) ** 2 + (candidates - center) ** 2
        self.z[l] = candidates.gather(0, values.argmin(0)[None])[0]

    def fit_activations(self, l: int) -> None:
        above, image = self.rho_of(l + 1), self.h[l](self.z[l])
        target, nu = self.target(l + 1), self.o.nu

        def objective(a: Tensor) -> Tensor:
            gap = self.affine(l + 1, a) - target
            return above / 2 * gap.square().sum() + nu / 2 * (a - image).square().sum()

        with torch.enable_grad():
            at = self.a[l].clone().requires_grad_()
            (g,) = torch.autograd.grad(objective(at), at)
        unit = F.normalize(g / nu, dim=1)
        bent = above * (unit @ self.linears[l + 1].weight.t()).square().sum(1) + nu
        step = torch.tensor([[1 / self.searched(float(value))] for value in bent], dtype=g.dtype)
        self.a[l] = self.a[l] - step * g
