"""mDLAM. Oracles: the paper's algorithm written out sample by sample for float64, its inequalities as they stand; the
problem itself, whose objective and constraints are evaluated from the variables."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext.methods.mdlam import code_box
from altmin_ext.ops import Activation

EVERY_ACTIVATION = [nn.ReLU(), nn.LeakyReLU(0.1), nn.Tanh(), nn.Sigmoid()]
FEATURES, CLASSES = 6, 3


def network(activation: nn.Module, dtype: torch.dtype = torch.float64, n_in: int = FEATURES) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(n_in, 9),
            activation,
            nn.Linear(9, 7),
            activation,
            nn.Linear(7, CLASSES),
        ).to(dtype)


def clouds(size: int = 40, dtype: torch.dtype = torch.float64, n_in: int = FEATURES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(size) % CLASSES
    noise = torch.randn(size, n_in, generator=generator, dtype=torch.float64)
    return (1.5 * torch.eye(CLASSES, n_in, dtype=torch.float64)[y] + noise).to(dtype), y


def make(model: nn.Module, **options: Any) -> Any:
    return altmin_ext.make_method("mdlam", model, **options)


def objective(method: Any, x: Tensor, y: Tensor) -> list[float]:
    """The terms of F over the number of samples, from the variables."""
    o, model = method.options, method.model
    linears = [module for module in model if isinstance(module, nn.Linear)]
    inputs = [x.flatten(1), *method.activations]
    terms = []
    for linear, a, z in zip(linears, inputs, method.pre_activations, strict=True):
        weight = linear.weight.detach().double()
        gap = z.double() - a.double() @ weight.t() - linear.bias.detach().double()
        terms.append(o.rho / 2 * gap.square().sum() + o.l2_weights / 2 * weight.square().sum())
        terms[-1] += o.l1_weights * weight.abs().sum()
    z = method.pre_activations[-1].double()
    if y.is_floating_point():
        terms[-1] += len(x) * F.mse_loss(z, y.double())
    else:
        terms[-1] += F.cross_entropy(z, y, reduction="sum")
    return [float(term) / len(x) for term in terms]


# --- the algorithm, written out ---


class WrittenOut:
    """Alg. 1 of the paper with mse, its line searches as backtracking on the inequalities themselves."""

    def __init__(
        self, model: nn.Sequential, x: Tensor, y: Tensor, rho: float, eps: float, **options: Any
    ) -> None:
        self.linears = [module for module in model if isinstance(module, nn.Linear)]
        self.W = [m.weight.detach().clone() for m in self.linears]
        self.b = [m.bias.detach().clone() for m in self.linears]
        self.h = model[2]
        self.x, self.y, self.rho, self.eps, self.s = x, y, rho, eps, 0.0  # s^0
        self.decay, self.eps_min = options.pop("eps_decay"), options.pop("eps_min")
        self.mu, self.l1 = options.pop("l2_weights", 0.0), options.pop("l1_weights", 0.0)
        self.exact = options.pop("line_search") == "exact"
        self.restarts = 0
        self.z, self.a, below = [], [], x
        for W, b in zip(self.W, self.b, strict=True):
            self.z.append(below @ W.t() + b)
            below = self.h(self.z[-1])
            self.a.append(below)
        self.a.pop()
        self.z[-1] = self.output(self.z[-1])
        self.W_before, self.a_before = list(self.W), list(self.a)

    def output(self, v: Tensor) -> Tensor:
        """Where the derivative of mean_c (z - y)^2 + rho/2 ||z - v||^2 is zero."""
        pull = 2 / self.y.shape[1]
        return (pull * self.y + self.rho * v) / (pull + self.rho)

    def phi(self, l: int, W: Tensor, a: Tensor | None = None) -> Tensor:
        if a is None:
            a = self.x if l == 0 else self.a[l - 1]
        gap = a @ W.t() + self.b[l] - self.z[l]
        return self.rho / 2 * gap.square().sum() + self.mu / 2 * W.square().sum()

    def weight_step(self, l: int, start: Tensor) -> Tensor:
        start = start.clone().requires_grad_()
        value = self.phi(l, start)
        (g,) = torch.autograd.grad(value, start)
        start = start.detach()
        theta = 1.0  # whence the published code doubles it
        if self.exact and g.any():
            _, bend = torch.autograd.functional.hvp(lambda W: self.phi(l, W), start, g)
            theta = float((g * bend).sum() / g.square().sum())
        while True:
            W = start - g / theta
            W = W.sign() * (W.abs() - self.l1 / theta).clamp(min=0)
            model = value + (g * (W - start)).sum() + theta / 2 * (W - start).square().sum()
            if self.phi(l, W) <= model + 1e-12 * value:
                return W
            theta *= 2

    def iterate(self) -> None:
        s = (1 + math.sqrt(1 + 4 * self.s**2)) / 2
        w, self.s = max((self.s - 1) / s, 0.0), s
        for l in range(len(self.W)):
            old = self.W[l]
            if self.linears[l].weight.requires_grad:
                self.W[l] = self.weight_step(l, old + w * (old - self.W_before[l]))
                after, before = (self.phi(l, W) + self.l1 * W.abs().sum() for W in (self.W[l], old))
                if w > 0 and after >= before:
                    self.restarts += 1
                    self.W[l] = self.weight_step(l, old)
                self.W_before[l] = old
            a = self.x if l == 0 else self.a[l - 1]
            self.b[l] = (self.z[l] - a @ self.W[l].t()).mean(0)
            v = a @ self.W[l].t() + self.b[l]
            if l == len(self.W) - 1:
                self.z[l] = self.output(v)
                continue
            self.z[l] = v.clamp(*code_box(Activation("relu"), self.a[l], self.eps))
            norm = float(torch.linalg.matrix_norm(self.W[l + 1], 2))
            tau = self.rho * norm**2
            if not self.exact:
                tau = 2.0 ** math.ceil(math.log2(max(tau, 1.0)))
            for n in range(len(self.x)):
                old_a = self.a[l][n]
                moved = self.activation_step(l, n, old_a + w * (old_a - self.a_before[l][n]), tau)
                if w > 0 and self.term(l, n, moved) >= self.term(l, n, old_a):
                    self.restarts += 1
                    moved = self.activation_step(l, n, old_a, tau)
                self.a[l] = self.a[l].clone()
                self.a_before[l] = self.a_before[l].clone()
                self.a_before[l][n], self.a[l][n] = old_a, moved
        self.eps = max(self.decay * self.eps, self.eps_min)

    def term(self, l: int, n: int, a: Tensor) -> float:
        return float((self.W[l + 1] @ a + self.b[l + 1] - self.z[l + 1][n]).square().sum())

    def activation_step(self, l: int, n: int, start: Tensor, tau: float) -> Tensor:
        W = self.W[l + 1]
        g = self.rho * W.t() @ (W @ start + self.b[l + 1] - self.z[l + 1][n])
        image = self.h(self.z[l][n])
        return torch.clamp(start - g / tau, image - self.eps, image + self.eps)


@pytest.mark.parametrize("size", [5, 16], ids=["wide", "tall"])
@pytest.mark.parametrize(
    "penalties",
    [{}, {"l2_weights": 0.3}, {"l2_weights": 0.1, "l1_weights": 0.2}],
    ids=["none", "l2", "l1"],
)
@pytest.mark.parametrize("line_search", ["doubling", "exact"])
def test_iterations_are_those_of_the_paper(line_search: str, penalties: dict[str, float], size: int) -> None:
    x, y = clouds(size)
    model, targets = network(nn.ReLU()), F.one_hot(y, CLASSES).double()
    if (
        line_search == "exact"
    ):  # by the norm of W above, which is known to the last digit of a row that stands still
        model, targets = nn.Sequential(*network(nn.ReLU())[:3], nn.Linear(9, 1).double()), y[:, None].double()
        model[-1].weight.requires_grad_(False)
    options = {"rho": 0.1, "eps_decay": 0.8, "eps_min": 0.02, "line_search": line_search, **penalties}
    written_out = WrittenOut(model, x, targets, eps=0.3, **options)  # type: ignore[arg-type]
    method = make(model, loss="mse", eps0=0.3, chunk_size=10, **options)
    for _ in range(15):
        method.step(x, targets)
        written_out.iterate()
        for linear, W, b in zip(written_out.linears, written_out.W, written_out.b, strict=True):
            torch.testing.assert_close(linear.weight.detach(), W, rtol=0, atol=1e-8)
            torch.testing.assert_close(linear.bias.detach(), b, rtol=0, atol=1e-8)
        for mine, theirs in zip(method.activations, written_out.a, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)
    assert written_out.restarts > 0
    assert method.eps == pytest.approx(written_out.eps)


@pytest.mark.parametrize(
    "activation",
    [
        Activation("relu"),
        Activation("leaky_relu", 0.1),
        Activation("leaky_relu", 0.0),
        Activation("tanh"),
        Activation("sigmoid"),
        Activation("identity"),
    ],
    ids=lambda a: f"{a.name} {a.parameter}",
)
@pytest.mark.parametrize("eps", [0.05, 0.4, 3.0])
def test_box_holds_just_what_is_feasible(activation: Activation, eps: float) -> None:
    """Where there is a feasible z at all, a z is within the bounds if and only if |h(z) - a| <= eps."""
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]
    a = torch.linspace(-1.5, 2.5, 81, dtype=torch.float64) + 1e-4
    image = activation.value(z)
    feasible = (image - a).abs() <= eps
    low, high = code_box(activation, a, eps)
    some = feasible.any(0)
    assert some.sum() > 10
    assert torch.equal(((z >= low) & (z <= high))[:, some], feasible[:, some])
    assert (low <= high).all() or activation.name in ("relu", "leaky_relu")


# --- the problem ---


@pytest.mark.parametrize("activation", EVERY_ACTIVATION, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_objective_and_feasibility(activation: nn.Module, loss: str) -> None:
    """What is reported is F at the variables; a is within eps of h(z) after every sweep."""
    x, y = clouds()
    targets = y if loss == "cross_entropy" else F.one_hot(y, CLASSES).double()
    method = make(
        network(activation),
        loss=loss,
        eps0=0.5,
        eps_decay=0.7,
        chunk_size=17,
        l2_weights=0.1,
        l1_weights=0.01,
    )
    for _ in range(20):
        eps = method.eps
        report = method.step(x, targets)
        assert report.objective.tolist() == pytest.approx(objective(method, x, targets), rel=1e-9, abs=1e-12)
        for a, z in zip(method.activations, method.pre_activations[:-1], strict=True):
            assert float((a - activation(z)).abs().max()) <= eps * (1 + 1e-12)


@pytest.mark.parametrize(
    ("activation", "line_search"),
    [*((activation, "exact") for activation in EVERY_ACTIVATION), (nn.ReLU(), "doubling")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_objective_never_rises_while_eps_stands_still(
    activation: nn.Module, dtype: torch.dtype, line_search: str
) -> None:
    """The paper's theorem, over 200 iterations after the boxes have shrunk, to the last digit."""
    x, y = clouds(dtype=dtype)
    options = {"eps0": 1.0, "eps_min": 0.01, "rho": 0.01, "line_search": line_search}
    method = make(network(activation, dtype), **options)
    while method.eps > 0.01:
        method.step(x, y)
    values = [float(method.step(x, y).objective.sum()) for _ in range(201)]
    assert values[-1] < 0.9 * values[0]
    assert all(after <= before for before, after in itertools.pairwise(values))
    assert not method.objective_rose


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Tanh()], ids=lambda m: type(m).__name__)
def test_objective_never_rises_where_activations_saturate(activation: nn.Module) -> None:
    """The theorem in float32, where the inverse of a rounded a is far from the z that a came from."""
    for seed in range(
        13, 22
    ):  # of which four rise by up to half a percent if z is shut out, for either activation
        generator = torch.Generator().manual_seed(seed)
        x, y = (
            30 * torch.randn(20, 6, generator=generator),
            torch.randint(0, CLASSES, (20,), generator=generator),
        )
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 5), activation, nn.Linear(5, CLASSES))
        method = make(model, eps0=0.05, eps_min=0.05, rho=0.1, l2_weights=0.05, l1_weights=0.01)
        values = [float(method.step(x, y).objective.sum()) for _ in range(60)]
        assert all(after <= before for before, after in itertools.pairwise(values)), seed


@pytest.mark.parametrize(
    "activation", [*EVERY_ACTIVATION, nn.LeakyReLU()], ids=lambda m: f"{m}".replace("()", "")
)
def test_learns_digits_with_every_activation(activation: nn.Module) -> None:
    """A tenth is chance; where a box is left behind, codes are far from the digits, whose pixels lie in [0, 1]."""
    x, y = (part[:400] for part in altmin_ext.data.load("digits").train)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 40), activation, nn.Linear(40, 30), activation, nn.Linear(30, 10)
    )
    method = make(model)
    for _ in range(60):
        report = method.step(x, y)
    assert int(report.correct) > 0.95 * len(x)
    assert float(method.pre_activations[0].abs().max()) < 10


def test_flag_of_a_rise() -> None:
    """Steps of more than twice the exact length raise F, which is told; a rise because eps has shrunk is none."""
    x, y = clouds()
    method = make(network(nn.ReLU()), eps0=1.0, eps_min=0.01, eps_decay=0.5)
    values = [float(method.step(x, y).objective.sum()) for _ in range(8)]
    assert any(after > before for before, after in itertools.pairwise(values))
    assert not method.objective_rose
    state = method.state_dict()
    method = make(network(nn.ReLU()), eps0=1.0, eps_min=0.01, eps_decay=0.5, relaxation=3.0)
    for _ in range(30):
        method.step(x, y)
    assert method.objective_rose
    assert method.state_dict()["objective_rose"]
    method.load_state_dict(state)
    assert not method.objective_rose
    for rate, rises in ((1.0, False), (3.0, True)):
        history = altmin_ext.train(
            network(nn.ReLU()), (x, y), method="mdlam", epochs=30, eps0=1.0, eps_min=0.01, eps_decay=0.5,
            relaxation=rate, progress=False,
        )  # fmt: skip
        assert history.objective_rose is rises


@pytest.mark.parametrize("name", ["mdlam", "dladmm"])
@pytest.mark.parametrize("how", ["loaded", "in place", "data", "frozen layer"])
def test_weights_that_are_put_back_are_no_rise_of_the_method_s(name: str, how: str) -> None:
    """By whatever means, the objective is that of other weights then; from there on it is compared again."""
    x, y = clouds()
    options = {"eps0": 0.1, "eps_min": 0.1} if name == "mdlam" else {"rho": 1.0, "nu": 1.0}
    model = network(nn.ReLU())
    model[1].bias.requires_grad_(how != "frozen layer")
    method = altmin_ext.make_method(name, model, **options)
    before = copy.deepcopy(model.state_dict())
    for _ in range(10):
        method.step(x, y)
    value = float(method.step(x, y).objective.sum())
    with torch.no_grad():
        if how == "loaded":
            model.load_state_dict(before)
        elif how == "in place":
            model[-1].weight.mul_(-3)
        elif how == "data":
            model[-1].weight.data.mul_(-3)
        else:
            model[1].bias.add_(3)
    assert float(method.step(x, y).objective.sum()) > value  # a rise, though not the method's
    assert not method.objective_rose
    method.options = dataclasses.replace(method.options, relaxation=3.0)
    for _ in range(30):
        method.step(x, y)
    assert method.objective_rose


@pytest.mark.parametrize("name", ["mdlam", "dladmm"])
def test_early_stopping_is_no_rise(name: str) -> None:
    """It puts the weights of its first epoch back, and training goes on from there."""
    x, y = clouds()
    options = {"eps0": 0.1, "eps_min": 0.1} if name == "mdlam" else {"rho": 1.0, "nu": 1.0}
    model = network(nn.ReLU())
    method = altmin_ext.make_method(name, model, **options)
    stop = altmin_ext.callbacks.EarlyStopping(monitor="loss", patience=20, minimum_improvement=1e9)
    first = altmin_ext.train(model, (x, y), method=method, epochs=30, callbacks=[stop], progress=False)
    second = altmin_ext.train(model, (x, y), method=method, epochs=10, progress=False)
    assert stop.best_epoch == 1
    assert first.objective_rose is second.objective_rose is False


def test_rounding_at_the_minimum_is_no_rise() -> None:
    """Of these float32 runs some rise by the last digit of F once they have converged, which says nothing."""
    rises = []
    x, y = clouds(20, torch.float32)
    for seed in range(4):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(FEATURES, 2), nn.ReLU(), nn.Linear(2, CLASSES))
        method = make(model, eps0=0.05, eps_min=0.05, rho=0.1, l2_weights=0.5, l1_weights=0.01)
        values = [float(method.step(x, y).objective.sum()) for _ in range(400)]
        rises += [after / before - 1 for before, after in itertools.pairwise(values) if after > before]
        assert not method.objective_rose
    assert rises
    assert max(rises) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_small_rise_is_one(dtype: torch.dtype) -> None:
    """By a millionth of F; the step itself, on a problem that has converged, moves it by much less."""
    x, y = clouds(20, dtype)
    method = make(network(nn.ReLU(), dtype), eps0=0.05, eps_min=0.05, l2_weights=10.0)
    for _ in range(100):
        method.step(x, y)
    state, weights = method.state_dict(), copy.deepcopy(method.model.state_dict())
    for lowered, rose in ((0.0, False), (1e-6, True)):
        method.model.load_state_dict(weights)
        method.load_state_dict({**state, "objective": state["objective"] * (1 - lowered)})
        method.step(x, y)
        assert method.objective_rose is rose


def test_l1_makes_weights_zero() -> None:
    x, y = clouds()
    dense, sparse = network(nn.ReLU()), network(nn.ReLU())
    for model, strength in ((dense, 0.0), (sparse, 0.05)):
        method = make(model, eps0=0.3, eps_decay=0.8, rho=0.1, l1_weights=strength)
        for _ in range(40):
            method.step(x, y)
    zeros = [int(sum((p == 0).sum() for p in model.parameters())) for model in (dense, sparse)]
    assert zeros[0] == 0
    assert zeros[1] > 20


def test_history_has_the_objective() -> None:
    x, y = clouds()
    history = altmin_ext.train(network(nn.ReLU()), (x, y), method="mdlam", epochs=5, progress=False)
    method = make(network(nn.ReLU()))
    expected = [float(method.step(x, y).objective.sum()) for _ in range(5)]
    assert history.objective is not None
    assert history.objective.tolist() == pytest.approx(expected)


def test_chunks_change_nothing() -> None:
    x, y = clouds()
    models = [network(nn.Tanh()), network(nn.Tanh())]
    for model, size in zip(models, (1000, 7), strict=True):
        method = make(model, eps0=0.3, eps_decay=0.8, chunk_size=size)
        for _ in range(15):
            method.step(x, y)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


# --- what is refused, and what is not lost ---


@pytest.mark.parametrize(
    ("middle", "word"),
    [
        (nn.GELU(), "'2'"),
        (nn.Dropout(0.1), "'2'"),
        (nn.LeakyReLU(-0.1), "'2'"),
        (nn.BatchNorm1d(5), "BatchNorm1d"),
        (nn.Bilinear(5, 5, 5), "x1|one tensor|Bilinear"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_models_are_refused(middle: nn.Module, word: str) -> None:
    model = nn.Sequential(nn.Linear(4, 5), middle, nn.Linear(5, 3))
    with pytest.raises(ValueError, match=word):
        make(model)


@pytest.mark.parametrize(
    "options",
    [
        {"eps0": 0.0},
        {"eps_min": 0.0},
        {"eps_decay": 1.1},
        {"eps_decay": 0.0},
        {"eps0": 0.1, "eps_min": 0.2},
        {"rho": 0.0},
        {"rho": 1e-320},
        {"l1_weights": -1.0},
        {"line_search": "doubled"},
        {"chunk_size": 0},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=list(options)[-1] if len(options) == 1 else "eps_min"):
        make(network(nn.ReLU()), **options)


@pytest.mark.parametrize("penalties", [{}, {"l1_weights": 1e-5}], ids=["plain", "l1"])
def test_the_learning_rate_is_that_of_the_momentum_too(penalties: dict[str, float]) -> None:
    """A part of it moves the weights of the first layer by that part; zero leaves all weights where they are."""
    x, y = clouds()
    model = network(nn.ReLU())
    method = make(model, eps0=0.1, eps_decay=0.7, **penalties)
    for _ in range(4):
        method.step(x, y)
    weights, state = copy.deepcopy(model.state_dict()), method.state_dict()
    moved = {}
    for factor in (1.0, 0.3, 0.0):
        model.load_state_dict(weights)
        method.load_state_dict(state)
        method.learning_rate_factor = factor
        method.step(x, y)
        moved[factor] = model[1].weight.detach() - weights["1.weight"]
    assert float(moved[1.0].norm()) > 1e-3
    torch.testing.assert_close(moved[0.3], 0.3 * moved[1.0], rtol=1e-9, atol=1e-12)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_no_matrix_is_summed_for_a_layer_that_narrows() -> None:
    """Its curvature is the same without, for a fraction of the work."""
    x, y = clouds()
    method = make(network(nn.ReLU()))
    method.step(x, y)
    with torch.no_grad():
        problem = method._weight_problem(2, x)  # 7 features, 3 outputs
        a = method.activations[1]
        direction = problem.gradient
        expected = method.options.rho * direction @ (a.t() @ a)
    torch.testing.assert_close(problem.curve(direction), expected, rtol=1e-9, atol=1e-14)
    assert not any(
        isinstance(cell.cell_contents, Tensor) and cell.cell_contents.shape == (7, 7)
        for cell in problem.curve.__closure__
    )


def test_other_samples_are_refused() -> None:
    x, y = clouds()
    method = make(network(nn.ReLU()))
    method.step(x, y)
    before = method.state_dict()
    with pytest.raises(ValueError, match="samples of the first step"):
        method.step(x[:-1], y[:-1])
    method.step(x, y)
    assert method.steps == before["steps"] + 1


def test_a_step_that_fails_midway_is_taken_back() -> None:
    """The labels are fine and the network is finite, but the steps are too long for float32."""
    x, y = clouds(dtype=torch.float32)
    model = network(nn.ReLU(), torch.float32)
    method = make(model, relaxation=1e38, eps0=0.1, eps_decay=0.7)
    weights: list[Tensor] = []

    def until_it_fails() -> None:
        for _ in range(50):
            weights[:] = [p.detach().clone() for p in model.parameters()]
            method.step(x, y)

    with pytest.raises(
        altmin_ext.DivergenceError, match=r"^the codes? .*of stage \d \('.*'\) (is|are) not finite "
    ):
        until_it_fails()
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
