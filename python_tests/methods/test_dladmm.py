"""dlADMM. Oracle: the augmented Lagrangian of the paper, written down once and differentiated by autograd."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext.methods.dladmm import pre_activation
from altmin_ext.ops import Activation

EVERY_ACTIVATION = [nn.ReLU(), nn.LeakyReLU(0.1), nn.Tanh(), nn.Sigmoid()]
CLASSES = 3


def network(activation: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(6, 9), activation, nn.Linear(9, 7), activation, nn.Linear(7, CLASSES)
        ).double()


def clouds(size: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(size) % CLASSES
    noise = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    return 1.5 * torch.eye(CLASSES, 6, dtype=torch.float64)[y] + noise, y


class Lagrangian:
    """L_rho at a method's variables, term by term; all of them require a gradient."""

    def __init__(self, method: Any) -> None:
        linears = [module for module in method.model if isinstance(module, nn.Linear)]
        self.method, self.h = method, method.model[1]
        self.W = [m.weight.detach().clone().requires_grad_() for m in linears]
        self.b = [m.bias.detach().clone().requires_grad_() for m in linears]
        self.z = [z.clone().requires_grad_() for z in method.pre_activations]
        self.a = [a.clone().requires_grad_() for a in method.activations]

    def terms(self, x: Tensor, y: Tensor) -> list[Tensor]:
        nu, rho, found = self.method.options.nu, self.method.rho, []
        for W, b, z, a in zip(self.W, self.b, self.z, [x, *self.a], strict=True):
            gap = z - a @ W.t() - b
            if len(found) < len(self.a):
                away = self.a[len(found)] - self.h(z)
                found.append(nu / 2 * (gap.square().sum() + away.square().sum()))
            else:
                dual = (self.method.dual * gap).sum() + rho / 2 * gap.square().sum()
                found.append(F.cross_entropy(z, y, reduction="sum") + dual)
        return found


@pytest.mark.parametrize("activation", EVERY_ACTIVATION, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("line_search", ["exact", "doubling"])
def test_every_update_lowers_the_lagrangian(
    activation: nn.Module, line_search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where it is a minimiser, in b and in z, the derivative there is zero, or at the kink no step lowers it."""
    x, y = clouds()
    options = {"rho": 0.5, "nu": 0.3, "line_search": line_search, "chunk_size": 11}
    method: Any = altmin_ext.make_method("dladmm", network(activation), **options)
    last, seen = [float("inf")], []

    def checked(name: str) -> None:
        original = getattr(method, name)

        @torch.enable_grad()
        def update(*arguments: Any) -> Any:
            with torch.no_grad():
                result = original(*arguments)
            lagrangian = Lagrangian(method)
            value = sum(lagrangian.terms(x, y))
            assert isinstance(value, Tensor)
            assert float(value.detach()) <= last[0] * (1 + 1e-12), name
            last[0] = float(value.detach())
            l = arguments[0] if isinstance(arguments[0], int) else method._layers.index(arguments[0])
            seen.append((name, l))
            if name == "_fit_bias":
                (gradient,) = torch.autograd.grad(value, lagrangian.b[l])
                assert float(gradient.abs().max()) < 1e-9
            if name == "_fit_pre_activations":
                (gradient,) = torch.autograd.grad(value, lagrangian.z[l])
                at_kink = lagrangian.z[l] == 0
                assert float(gradient[~at_kink].abs().max()) < 1e-9
                with torch.no_grad():
                    for step in (1e-4, -1e-4):
                        lagrangian.z[l][at_kink] += step
                        assert float(sum(lagrangian.terms(x, y))) >= last[0] * (1 - 1e-12)
                        lagrangian.z[l][at_kink] -= step
            return result

        monkeypatch.setattr(method, name, update)

    for name in ("_fit_weight", "_fit_bias", "_fit_pre_activations", "_fit_activations"):
        checked(name)
    for _ in range(3):
        method.step(x, y)
        last[0] = float("inf")  # the dual has been raised
    back = [("_fit_pre_activations", 2), ("_fit_bias", 2), ("_fit_weight", 2), ("_fit_activations", 1)]
    assert seen[:4] == back
    there = [("_fit_weight", 0), ("_fit_bias", 0), ("_fit_pre_activations", 0), ("_fit_activations", 0)]
    assert seen[11:15] == there
    assert len(seen) == 3 * 22


@pytest.mark.parametrize("penalty", [1e-2, 1e-6, 1e-14])
def test_activations_fall_however_small_the_penalties(penalty: float) -> None:
    """Where rho is nu, the step on a_1 is the exact line search along the gradient, whatever their size."""
    x, y = clouds()
    method: Any = altmin_ext.make_method(
        "dladmm", network(nn.ReLU()), rho=penalty, nu=penalty, rho_multiplier=1.0
    )
    method.step(x, y)
    below, above = method._layers[:2]
    with torch.no_grad():
        W, a = above.weight.detach(), below.activations.clone()
        gap, distance = above.residual(a, slice(None)), a - below.pre_activations.relu()
        g = gap @ W + distance
        step = g.square().sum(1) / ((g @ W.t()).square().sum(1) + g.square().sum(1))
        method._fit_activations(0, x)
    torch.testing.assert_close(below.activations, a - step[:, None] * g, rtol=1e-9, atol=1e-12)


def test_dual_and_report() -> None:
    """u is minus the derivative of the loss at z_L; what is reported is L_rho over the number of samples."""
    x, y = clouds()
    method: Any = altmin_ext.make_method("dladmm", network(nn.ReLU()), rho=1e-3, nu=1e-3, rho_interval=4)
    for k in range(10):
        report = method.step(x, y)
        if k not in (3, 7):  # rho has just been raised, after the report
            expected = [float(term.detach()) / len(x) for term in Lagrangian(method).terms(x, y)]
            assert report.objective.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        z = method.pre_activations[-1]
        torch.testing.assert_close(
            method.dual, F.one_hot(y, CLASSES) - torch.softmax(z, 1), rtol=0, atol=1e-8
        )
    assert method.rho == pytest.approx(0.1)


def test_rho_stops_at_its_bound() -> None:
    x, y = clouds()
    method: Any = altmin_ext.make_method(
        "dladmm", network(nn.ReLU()), rho=1e-3, nu=1e-3, rho_interval=1, rho_max=5e-3
    )
    values = []
    for _ in range(3):
        method.step(x, y)
        values.append(method.rho)
    assert values == pytest.approx([5e-3, 5e-3, 5e-3])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_lagrangian_never_rises_where_rho_is_large(dtype: torch.dtype) -> None:
    """The theorem asks for rho above twice the Lipschitz constant of the loss's derivative, which is 1/2."""
    x, y = clouds()
    model = network(nn.ReLU()).to(dtype)
    method: Any = altmin_ext.make_method("dladmm", model, rho=1.1, nu=1.0, rho_multiplier=1.0)
    values = [float(method.step(x.to(dtype), y).objective.sum()) for _ in range(100)]
    assert all(after <= before for before, after in itertools.pairwise(values))
    assert not method.objective_rose


def test_flag_of_a_rise() -> None:
    x, y = clouds()
    method: Any = altmin_ext.make_method("dladmm", network(nn.ReLU()), rho=1e-4, nu=1.0, rho_multiplier=1.0)
    values = [float(method.step(x, y).objective.sum()) for _ in range(60)]
    rose = any(after > before for before, after in itertools.pairwise(values))
    assert rose
    assert method.objective_rose


@pytest.mark.parametrize(
    "activation",
    [Activation(name, 0.1) for name in ("relu", "leaky_relu", "tanh", "sigmoid", "identity")],
    ids=lambda a: a.name,
)
def test_pre_activation_is_the_minimiser(activation: Activation) -> None:
    """Against a fine grid, where a is what the activation can make, or near it."""
    generator = torch.Generator().manual_seed(0)
    center = 2 * torch.randn(50, generator=generator, dtype=torch.float64)
    a = activation.value(center) + 0.5 * torch.randn(50, generator=generator, dtype=torch.float64)
    grid = torch.linspace(-10, 10, 200_001, dtype=torch.float64)

    def objective(z: Tensor) -> Tensor:
        return (a[:, None] - activation.value(z)) ** 2 + (z - center[:, None]) ** 2

    found = pre_activation(activation, a[:, None], center[:, None], center[:, None])
    best = torch.cat([objective(part).amin(1, keepdim=True) for part in grid.split(20_000)], 1).amin(1)
    assert float((objective(found)[:, 0] - best).max()) < 1e-12
    start = center[:, None] + 1
    a = 6 * a  # many have two minima now
    found = pre_activation(activation, a[:, None], center[:, None], start)
    assert (objective(found) <= objective(start)).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [("rho", 1e-320), ("nu", 0.0), ("rho_multiplier", 0.5), ("rho_interval", 0), ("rho_max", 0.0)],
)
def test_bad_options(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must be .*, but is .*\.$"):
        altmin_ext.make_method("dladmm", network(nn.ReLU()), **{option: value})
