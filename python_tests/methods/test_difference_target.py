"""Difference target propagation.

Oracle: every local loss written as a scalar in float64, differentiated by autograd in the weights of its own layer,
and followed by the textbook form of the authors' rms_prop; the targets by the paper's formula, not as differences.
Beside it closed forms and laws: what a perfect inverse, a dead one and a target that does not move must lead to.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models
from altmin_ext._undo import Undo
from altmin_ext.methods.difference_target import DifferenceTarget, RMSProp
from altmin_ext.models import binary_mlp, mlp
from altmin_ext.nn import Sign

from .test_methods_common import assert_sentence

FEATURES, CLASSES = 6, 3


def seeded(build: Callable[[], nn.Module]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build().double()


def clouds(size: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(size) % CLASSES
    noise = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
    return 3 * torch.eye(CLASSES, FEATURES, dtype=torch.float64)[y] + noise, y


def make(model: nn.Module, **options: Any) -> DifferenceTarget:
    return altmin_ext.make_method("dtp", model, **{"lr": 0.005, "lr_inverse": 0.002, **options})


def weights(method: DifferenceTarget) -> list[Tensor]:
    inverses = [p for linear in method.inverses for p in linear.parameters()]
    return [p.detach().clone() for p in (*method.model.parameters(), *inverses)]


# --- parity ---


def sign(c: Tensor) -> Tensor:
    return torch.where(c > 0, torch.ones_like(c), -torch.ones_like(c))


class Around(nn.Module):
    """The sign of c, whose gradient is that of c or of its clipped value."""

    def __init__(self, clip: bool = False) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, c: Tensor) -> Tensor:
        through = c.clamp(-1, 1) if self.clip else c
        return (sign(c) - through).detach() + through


class Textbook:
    """rms_prop of one tensor."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.m = self.v = self.increment = torch.zeros_like(parameter)

    def follow(self, g: Tensor, lr: float, decay: float = 0.0) -> None:
        self.m = 0.95 * self.m + 0.05 * g
        self.v = 0.95 * self.v + 0.05 * g**2
        self.increment = 0.9 * self.increment - lr * g / torch.sqrt(self.v - self.m**2 + 1e-3)
        self.parameter.data = (1 - lr * decay) * self.parameter.data + self.increment


class Reference:
    """Steps of dtp on a copy of the method's model, from its inverses and its noise.

    A layer is (what its input passes first, Linear, activation), told by the cases below; an inverse is (Linear,
    activation), which reads signs if its layer does.
    """

    def __init__(
        self, method: DifferenceTarget, *, loss: Any = "cross_entropy", lr: float = 0.005, lr_inverse: float = 0.002,
        target_step: float = 27.97, noise: float = 0.5, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        self.loss = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}.get(loss, loss)
        self.lr, self.lr_inverse, self.decay = lr, lr_inverse, weight_decay
        self.target_step, self.noise = target_step, noise
        self.generator = torch.Generator()
        self.generator.set_state(method.state_dict()["generator"])
        self.layers: list[tuple[list[nn.Module], nn.Linear, nn.Module]] = []
        front: list[nn.Module] = []
        for module in copy.deepcopy(method.model):
            if isinstance(module, nn.Linear):
                self.layers.append((front, module, nn.Identity()))
                front = []
            elif isinstance(module, Sign):
                front.append(Around(module.surrogate == "clipped"))
            elif isinstance(module, nn.Dropout | nn.Flatten):
                front.append(module)
            elif not isinstance(module, nn.Identity):
                assert not front
                self.layers[-1] = (*self.layers[-1][:2], module)
        self.inverses = copy.deepcopy(method.inverses)
        parameters = [p for _, linear, _ in self.layers for p in linear.parameters()]
        self.rules = {p: Textbook(p) for p in (*parameters, *self.inverses_parameters())}
        self.masks: dict[nn.Module, Tensor] = {}

    def inverses_parameters(self) -> list[Tensor]:
        return [p for linear in self.inverses for p in linear.parameters()]

    def weights(self) -> list[Tensor]:
        parameters = [p for _, linear, _ in self.layers for p in linear.parameters()]
        return [p.detach() for p in (*parameters, *self.inverses_parameters())]

    def f(self, number: int, h: Tensor) -> Tensor:
        front, linear, activation = self.layers[number]
        for module in front:
            if isinstance(module, nn.Dropout):
                if module not in self.masks:
                    self.masks[module] = F.dropout(torch.ones_like(h), module.p, True)
                h = h * self.masks[module]
            else:
                h = module(h)
        return activation(linear(h))

    def g(self, number: int, h: Tensor) -> Tensor:
        """The inverse of layer ``number``."""
        if any(isinstance(module, Around) for module in self.layers[number][0]):
            h = sign(h)
        return self.layers[number - 1][2](self.inverses[number - 1](h))

    def follow(self, objective: Tensor, linear: nn.Linear, lr: float, decay: float = 0.0) -> None:
        trained = [p for p in linear.parameters() if p.requires_grad]
        if not trained:
            return
        for parameter, gradient in zip(trained, torch.autograd.grad(objective, trained), strict=True):
            self.rules[parameter].follow(gradient, lr, decay)

    def encode(self, x: Tensor) -> list[Tensor]:
        self.masks = {}
        with torch.no_grad():
            h = [x]
            for number in range(len(self.layers)):
                h.append(self.f(number, h[-1]))
        return h

    def fit_inverses(self, h: list[Tensor]) -> None:
        for number in range(1, len(self.layers) - 1):
            noise = torch.randn(h[number].shape, generator=self.generator, dtype=torch.float64)
            corrupted = h[number] + self.noise * noise
            with torch.no_grad():
                image = self.f(number, corrupted)
            error = (self.g(number, image) - corrupted).square().sum(1).mean()
            self.follow(error, self.inverses[number - 1], self.lr_inverse)

    def step(self, x: Tensor, y: Tensor) -> tuple[float, list[Tensor], list[float]]:
        h = self.encode(x)
        self.fit_inverses(h)
        return self.fit_layers(h, y)

    def fit_layers(self, h: list[Tensor], y: Tensor) -> tuple[float, list[Tensor], list[float]]:
        """Loss, targets minus activations, and objectives."""
        last = len(self.layers) - 1
        targets: list[Tensor] = []
        if last > 0:
            top = h[last].clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.loss(self.f(last, top), y), top)
            targets = [h[last] - self.target_step * slope]
            with torch.no_grad():
                for number in range(last - 1, 0, -1):
                    h_l, t_l = h[number + 1], targets[0]
                    targets.insert(0, h[number] - self.g(number, h_l) + self.g(number, t_l))
        errors = [
            (self.f(number, h[number]) - target).square().sum(1).mean()
            for number, target in enumerate(targets)
        ]
        errors.append(self.loss(self.f(last, h[last]), y))
        for (_, linear, _), error in zip(self.layers, errors, strict=True):
            self.follow(error, linear, self.lr, self.decay)
        moved = [t - a for t, a in zip(targets, h[1:], strict=False)]
        objective = [float(error.detach()) for error in errors]
        return objective[-1], moved, objective


def without_biases() -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 8, bias=False), nn.Tanh(), nn.Linear(8, 7, bias=False), nn.Tanh(),
        nn.Linear(7, CLASSES, bias=False),
    )  # fmt: skip


def signs_alone(surrogate: str) -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 8), Sign("none"), nn.Linear(8, 7), Sign(surrogate), nn.Linear(7, CLASSES)
    )


def dropped() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(FEATURES, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 7),
        nn.Tanh(), Sign("none"), nn.Dropout(0.4), nn.Linear(7, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, CLASSES),
    )  # fmt: skip


def frozen() -> nn.Module:
    model = mlp(FEATURES, [8, 7], CLASSES, "tanh")
    model[1].bias.requires_grad_(False)
    model[3].requires_grad_(False)
    return model


def mixed() -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 9), nn.ReLU(), nn.Linear(9, 8), nn.Sigmoid(), nn.Linear(8, 7), nn.Linear(7, 5), nn.SiLU(),
        nn.Identity(), nn.Linear(5, CLASSES),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "continuous": lambda: mlp(FEATURES, [9, 8, 7, 5], CLASSES, "tanh"),
    "discrete": lambda: binary_mlp(FEATURES, (8, 7), CLASSES),
    "deep discrete": lambda: binary_mlp(FEATURES, (9, 8, 7, 5), CLASSES, "none"),
    "one hidden layer": lambda: mlp(FEATURES, [8], CLASSES, "tanh"),
    "no hidden layer": lambda: mlp(FEATURES, [], CLASSES),
    "other activations": mixed,
    "without biases": without_biases,
    "signs alone": lambda: signs_alone("identity"),
    "clipped at the top": lambda: signs_alone("clipped"),
    "dropout": dropped,
    "frozen": frozen,
}


def compare(model: nn.Module, steps: int = 5, **options: Any) -> None:
    method = make(model, report_objective=True, **options)
    reference = Reference(method, **options)
    x, y = clouds()
    if options.get("loss") == "mse":
        y = F.one_hot(y, CLASSES).double()
    for number in range(steps):
        part = slice(5 * number, 5 * number + (5 if number else 9))
        torch.manual_seed(number)  # of the masks of Dropout
        report = method.step(x[part], y[part])
        torch.manual_seed(number)
        loss, moved, objective = reference.step(x[part], y[part])
        assert float(report.loss) == pytest.approx(loss, rel=1e-10)
        assert report.objective.tolist() == pytest.approx(objective, rel=1e-8)
        for one, other in zip(method.displacements, moved, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        for one, other in zip(weights(method), reference.weights(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("network", NETWORKS)
def test_parity(network: str) -> None:
    compare(seeded(NETWORKS[network]))


@pytest.mark.parametrize("network", ["continuous", "discrete"])
@pytest.mark.parametrize(
    "options",
    [
        {"loss": "mse"},
        {"weight_decay": 0.5},
        {"target_step": 3.0, "noise": 0.0, "lr": 0.015, "lr_inverse": 0.05},
    ],
    ids=str,
)
def test_parity_of_options(network: str, options: dict[str, Any]) -> None:
    compare(seeded(NETWORKS[network]), **options)


# --- passes that alternate ---


def minibatches() -> list[tuple[Tensor, Tensor]]:
    x, y = clouds()
    return list(zip(x.split(8), y.split(8), strict=True))


def assert_same(one: DifferenceTarget, other: DifferenceTarget) -> None:
    """Bit for bit."""
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))
    assert same_state(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("network", ["continuous", "discrete", "one hidden layer"])
def test_parity_of_alternating_passes(network: str) -> None:
    """An epoch is a pass that fits the inverses, with the noise of the epoch, and one that fits the layers."""
    method = make(seeded(NETWORKS[network]), noise_epochs=2)
    reference = Reference(method)
    for epoch in range(3):
        reference.noise = 0.5 / (1 + epoch / 2)
        method.begin_epoch(minibatches())
        for x, _ in minibatches():
            reference.fit_inverses(reference.encode(x))
        for x, y in minibatches():
            method.step(x, y)
            reference.fit_layers(reference.encode(x), y)
        method.end_epoch()
        for one, other in zip(weights(method), reference.weights(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    assert method.steps == 3 * len(minibatches())


@pytest.mark.parametrize("steps", [None, 6])
def test_train_alternates(steps: int | None) -> None:
    """No further than its steps go; they end in the second epoch."""
    trained, stepped = (make(seeded(NETWORKS["discrete"])) for _ in range(2))
    data, left = minibatches(), steps or 8
    assert len(data) == 4
    altmin_ext.train(trained.model, data, method=trained, epochs=2, steps=steps, progress=False)
    for part in (data[:left], data[: left - 4]):
        stepped.begin_epoch(part)
        for x, y in part:
            stepped.step(x, y)
        stepped.end_epoch()
    assert_same(trained, stepped)


def test_train_takes_data_without_end_as_they_come() -> None:
    trained, stepped = (make(seeded(NETWORKS["discrete"])) for _ in range(2))
    altmin_ext.train(trained.model, itertools.cycle(minibatches()), method=trained, steps=6, progress=False)
    for x, y in itertools.islice(itertools.cycle(minibatches()), 6):
        stepped.step(x, y)
    stepped.end_epoch()
    assert_same(trained, stepped)


def test_inverses_stand_still_from_their_pass_to_the_end_of_the_epoch() -> None:
    method = make(seeded(NETWORKS["discrete"]))
    (inverse,) = method.inverses
    learns = []
    for begins, ends in ((False, False), (True, False), (False, True), (False, False)):
        if begins:
            method.begin_epoch(minibatches())
        before = inverse.weight.detach().clone()
        method.step(*clouds())
        learns.append(not torch.equal(inverse.weight, before))
        if ends:
            method.end_epoch()
    assert learns == [True, False, False, True]


def test_resumes_within_an_epoch() -> None:
    method = make(seeded(NETWORKS["discrete"]))
    method.begin_epoch(minibatches())
    method.step(*minibatches()[0])
    resumed = make(copy.deepcopy(method.model), seed=9)
    resumed.load_state_dict(method.state_dict())
    for each in (method, resumed):
        each.step(*minibatches()[1])
        each.end_epoch()
        each.step(*minibatches()[2])
    assert_same(method, resumed)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_pass_that_is_not_finite(value: float) -> None:
    """Raised as by a step; where it is skipped, the minibatch has never been."""
    good = minibatches()
    x = good[1][0].clone()
    x[2, 3] = value
    bad = [good[0], (x, good[1][1]), *good[2:]]
    method = make(seeded(lambda: mlp(FEATURES, [8, 7], CLASSES)))
    with pytest.raises(
        altmin_ext.DivergenceError, match=r"stage \d .* not finite at step 1; x holds NaN"
    ) as error:
        method.begin_epoch(bad)
    assert_sentence(error)
    first, skipping, without = (
        make(seeded(lambda: mlp(FEATURES, [8, 7], CLASSES)), on_nonfinite="skip") for _ in range(3)
    )
    first.begin_epoch(good[:1])
    for one, other in zip(weights(method), weights(first), strict=True):
        assert torch.equal(one, other)
    skipping.begin_epoch(bad)
    without.begin_epoch([good[0], *good[2:]])
    assert_same(skipping, without)


def test_a_pass_over_wrong_data_is_refused() -> None:
    method = make(seeded(NETWORKS["discrete"]))
    before, state = weights(method), method.state_dict()
    x, y = clouds()
    for batch in ((x[:, :4], y), (x, y[:3])):
        with pytest.raises(ValueError, match=r"\b(x|y) must"):
            method.begin_epoch([batch])
    assert all(torch.equal(a, b) for a, b in zip(weights(method), before, strict=True))
    assert same_state(method.state_dict(), state)


# --- rms_prop ---


def test_rms_prop_by_hand() -> None:
    """From zero, with g = 2: m = .1, v = .2, so the variance is .19; then with g = -1."""
    w, g = torch.ones(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64)
    update = RMSProp([w], [g])
    update.step(0.1)
    first = -0.2 / math.sqrt(0.191)
    assert float(w) == pytest.approx(1 + first, rel=1e-14)
    g.fill_(-1.0)
    update.step(0.1, decay=0.5)
    m, v = 0.95 * 0.1 - 0.05, 0.95 * 0.2 + 0.05
    second = 0.9 * first + 0.1 / math.sqrt(v - m * m + 1e-3)
    assert float(w) == pytest.approx(0.95 * (1 + first) + second, rel=1e-14)
    kept = w.clone()
    update.step(0.0, decay=0.5)
    assert torch.equal(w, kept)  # whatever momentum it has


def test_rms_prop_with_large_constant_gradients() -> None:
    """Their variance is zero, and negative by rounding."""
    w, g = torch.zeros(100), torch.linspace(900, 1000, 100)
    update = RMSProp([w], [g])
    for _ in range(1000):
        update.step(1e-6)
    assert update.is_finite()


def test_rms_prop_is_undone_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    w, g = torch.randn(7, generator=generator), torch.randn(7, generator=generator)
    update = RMSProp([w], [g])
    update.step(0.1)
    kept, moments, undo = w.clone(), update.moments[0].clone(), Undo([update])
    g.fill_(math.inf)
    update.step(0.1)
    assert not update.is_finite()
    undo()
    assert torch.equal(w, kept)
    assert torch.equal(update.moments[0], moments)


# --- closed forms and laws ---


def test_targets_of_the_discrete_network() -> None:
    """h1 = tanh(x W1 + b1), h2 = tanh(sign(h1) W2 + b2), g2(h2) = tanh(sign(h2) V2 + c2), softmax."""
    model = seeded(NETWORKS["discrete"])
    method = make(model, lr_inverse=0.0, target_step=200.0)
    _, first, _, _, second, _, last = (copy.deepcopy(module) for module in model)
    (inverse,) = method.inverses
    with torch.no_grad():
        inverse.bias.fill_(0.1)
    x, y = clouds()
    method.step(x, y)
    with torch.no_grad():
        h1 = torch.tanh(first(x))
        h2 = torch.tanh(second(sign(h1)))
        p = F.softmax(last(h2), 1)
        t2 = h2 - 200.0 * (p - F.one_hot(y, CLASSES)) @ last.weight / len(x)
        g = [torch.tanh(sign(h) @ inverse.weight.t() + 0.1) for h in (h2, t2)]
    assert bool((g[0] != g[1]).any())
    torch.testing.assert_close(method.displacements[1], t2 - h2, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(method.displacements[0], g[1] - g[0], rtol=1e-10, atol=1e-14)


def test_a_perfect_inverse() -> None:
    """Of a linear f_l it is linear: then f_l(t_{l-1}) = t_l, and there is nothing for it to learn."""
    model = seeded(lambda: mlp(FEATURES, [7, 7, 7], CLASSES, "identity"))
    layers = [copy.deepcopy(module) for module in model if isinstance(module, nn.Linear)]
    method = make(model)
    with torch.no_grad():
        for layer, inverse in zip(layers[1:-1], method.inverses, strict=True):
            inverse.weight.copy_(torch.linalg.inv(layer.weight))
            inverse.bias.copy_(-inverse.weight @ layer.bias)
    before = copy.deepcopy(method.inverses)
    x, y = clouds()
    method.step(x, y)
    with torch.no_grad():
        activations = [layers[0](x)]
        for layer in layers[1:-1]:
            activations.append(layer(activations[-1]))
        targets = [a + d for a, d in zip(activations, method.displacements, strict=True)]
        for layer, (below, target) in zip(layers[1:-1], itertools.pairwise(targets), strict=True):
            torch.testing.assert_close(layer(below), target, rtol=0, atol=1e-11)
        for one, other in zip(before, method.inverses, strict=True):
            torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=1e-11)
    assert float(method.displacements[0].abs().max()) > 1e-3


def test_without_a_step_of_the_target_hidden_layers_stay() -> None:
    """t_l = h_l, to the bit; the predictor and the inverses learn all the same."""
    model = seeded(NETWORKS["continuous"])
    before = copy.deepcopy(model.state_dict())
    method = make(model, target_step=0.0)
    inverses = copy.deepcopy(method.inverses)
    for _ in range(3):
        method.step(*clouds())
    last = ("9.weight", "9.bias")
    assert all(torch.equal(v, before[k]) == (k not in last) for k, v in model.state_dict().items())
    assert not any(torch.equal(a.weight, b.weight) for a, b in zip(inverses, method.inverses, strict=True))


def test_nothing_passes_a_dead_inverse() -> None:
    """A constant g_l says nothing of t_l, so what lies below stays, where backpropagation would move it."""
    model = seeded(NETWORKS["continuous"])
    before = copy.deepcopy(model.state_dict())
    method = make(model, lr_inverse=0.0)
    nn.init.zeros_(method.inverses[1].weight)
    for _ in range(3):
        method.step(*clouds())
    below = ("1.weight", "1.bias", "3.weight", "3.bias")
    assert all(torch.equal(v, before[k]) == (k in below) for k, v in model.state_dict().items())


def test_nobody_asks_a_sign_for_its_derivative() -> None:
    """With none at all the network learns as with any surrogate, bit for bit: no derivative crosses a layer."""
    x, y = clouds(60)
    results = []
    for surrogate in ("none", "identity", "clipped"):
        model = seeded(lambda s=surrogate: binary_mlp(FEATURES, (16, 12, 8), CLASSES, s))
        before = copy.deepcopy(model.state_dict())
        method = make(model)
        losses = [float(method.step(x, y).loss) for _ in range(60)]
        assert losses[-1] < 0.3 * losses[0]
        assert not any(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        results.append(model.state_dict())
    for other in results[1:]:
        assert all(torch.equal(value, other[key]) for key, value in results[0].items())


def test_inverses_come_to_undo_their_layers() -> None:
    model = seeded(lambda: mlp(FEATURES, [8, 12], CLASSES, "tanh"))
    method = make(model, lr=0.0, lr_inverse=0.005, noise=0.1)
    x, y = clouds(120)
    (inverse,) = method.inverses

    def error() -> float:
        with torch.no_grad():
            h1 = model[:3](x)
            return float((torch.tanh(inverse(model[3:5](h1))) - h1).square().sum(1).mean())

    before = error()
    for _ in range(200):
        method.step(x, y)
    assert error() < 0.1 * before


# --- inverses, noise, state ---


@pytest.mark.parametrize("hidden", [(9, 5), (5, 9), (7, 7, 7)])
def test_inverses_begin_orthogonal(hidden: tuple[int, ...]) -> None:
    """As rows or columns, whichever are fewer; shapes are those of the layers they undo, turned round."""
    method = make(seeded(lambda: mlp(FEATURES, hidden, CLASSES, "tanh")), seed=7)
    assert [linear.weight.shape for linear in method.inverses] == list(itertools.pairwise(hidden))
    for linear in method.inverses:
        w = linear.weight.detach()
        gram = w @ w.t() if w.shape[0] <= w.shape[1] else w.t() @ w
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-12)
        assert not linear.bias.any()
    again, other = (
        make(seeded(lambda: mlp(FEATURES, hidden, CLASSES, "tanh")), seed=seed).inverses[0].weight
        for seed in (7, 8)
    )
    assert torch.equal(again, method.inverses[0].weight)
    assert not torch.equal(other, again)


def test_inverses_are_not_the_models() -> None:
    model = seeded(NETWORKS["discrete"])
    names = list(model.state_dict())
    method = make(model)
    method.step(*clouds())
    assert list(model.state_dict()) == names
    assert sum(1 for _ in model.modules()) == 1 + len(model)


def test_noise_by_epochs() -> None:
    method = make(seeded(NETWORKS["discrete"]), noise=0.5)
    expected = [0.5 / (1 + epoch / 50) for epoch in range(101)]
    found = [method.noise]
    for _ in range(100):
        method.end_epoch()
        found.append(method.noise)
    assert found == pytest.approx(expected, rel=1e-15)
    assert found[50] == 0.25
    constant = make(seeded(NETWORKS["discrete"]), noise=0.3598, noise_epochs=math.inf)
    constant.end_epoch()
    assert constant.noise == 0.3598
    resumed = make(seeded(NETWORKS["discrete"]), noise=0.5)
    resumed.load_state_dict(method.state_dict())
    assert resumed.noise == method.noise


def same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    tensors = [(a, b) for key in ("inverses", "moments") for a, b in zip(one[key], other[key], strict=True)]
    tensors.append((one["generator"], other["generator"]))
    numbers = ("epochs", "alternates")
    return all(one[key] == other[key] for key in numbers) and all(torch.equal(a, b) for a, b in tensors)


@pytest.mark.parametrize("network", ["continuous", "discrete", "no hidden layer"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
@pytest.mark.parametrize("alternates", [False, True])
def test_a_step_that_is_not_finite_has_never_been(
    network: str, value: float, on_nonfinite: str, alternates: bool
) -> None:
    """An activation may be finite though x is not: tanh of Inf is 1."""
    model = seeded(NETWORKS[network])
    method = make(model, on_nonfinite=on_nonfinite)
    x, y = clouds()
    if alternates:
        method.begin_epoch([(x, y)])
    method.step(x, y)
    before, state = weights(method), method.state_dict()
    x = x.clone()
    x[3, 1] = value
    if on_nonfinite == "skip":
        method.step(x, y)
    else:
        with pytest.raises(altmin_ext.DivergenceError, match=r"stage \d .* at step 2; x holds NaN") as error:
            method.step(x, y)
        assert_sentence(error)
    assert all(torch.equal(a, b) for a, b in zip(weights(method), before, strict=True))
    assert same_state(method.state_dict(), state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr_inverse": 1e308}, ("inverse of stage 2 ('4')", "lr_inverse")),
        ({"target_step": 1e300}, ("the weights of stage 2 ('4')", "target_step")),
        ({"lr": 1e308}, ("the weights of stage 1 ('1')", "lower lr")),
    ],
    ids=str,
)
def test_divergence_names_what_to_lower(options: dict[str, float], words: tuple[str, ...]) -> None:
    method = make(seeded(NETWORKS["discrete"]), **options)
    before, state = weights(method), method.state_dict()
    with pytest.raises(altmin_ext.DivergenceError) as error:
        method.step(*clouds())
    assert_sentence(error, *words)
    assert all(torch.equal(a, b) for a, b in zip(weights(method), before, strict=True))
    assert same_state(method.state_dict(), state)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    method = make(seeded(NETWORKS["discrete"]))
    method.step(*clouds())
    before, state = weights(method), method.state_dict()
    other = make(seeded(NETWORKS["continuous"]))
    cut = {**state, "generator": state["generator"][:16]}
    for wrong, words in ((other.state_dict(), ("inverses", "2 entries")), (cut, ("generator",))):
        with pytest.raises(ValueError, match=r"^state") as error:
            method.load_state_dict(wrong)
        assert_sentence(error, *words)
    assert all(torch.equal(a, b) for a, b in zip(weights(method), before, strict=True))
    assert same_state(method.state_dict(), state)


# --- refusals ---


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "convolution": (models.lenet5, "'0'"),
    "recurrence": (lambda: models.elman_rnn(1, 4, 6, 3), "'1'"),
    "normalisation": (lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), "'0'"),
    "an activation of one's own": (
        lambda: nn.Sequential(nn.Linear(6, 5), Custom(), nn.Linear(5, 3)),
        "'2'",
    ),
    "softmax": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Softmax(1), nn.Linear(5, 3)), "'2'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_are_refused(case: str) -> None:
    build, stage = REFUSED[case]
    with pytest.raises(ValueError, match=r"^model must be a chain of Linear") as error:
        make(build())
    assert_sentence(error, stage)


def test_a_top_sign_without_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^model must have a surrogate") as error:
        make(signs_alone("none"))
    assert_sentence(error, "'none'")


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"lr_inverse": -1.0}, ValueError),
        ({"target_step": math.inf}, ValueError),
        ({"target_step": None}, TypeError),
        ({"noise": -0.1}, ValueError),
        ({"noise": "some"}, TypeError),
        ({"noise_epochs": 0.0}, ValueError),
        ({"noise_epochs": math.nan}, ValueError),
    ],
    ids=str,
)
def test_options_that_are_refused(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind) as error:
        make(seeded(NETWORKS["discrete"]), **options)
    assert_sentence(error, *options)
