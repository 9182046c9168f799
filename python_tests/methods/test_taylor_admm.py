"""ADMM of Taylor et al.

Oracles: the augmented Lagrangian written down as one scalar in float64. What is quadratic in it, weights and
activations, is minimised by one Newton step with autograd's Hessian; pre-activations, over which it is piecewise
quadratic, by trying the minimum of every piece (:class:`Reference`). Besides: no random perturbation of a block
lowers the Lagrangian; what the conditions of optimality say of the multiplier; the whole as the sum of its shards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext.methods.taylor_admm import TaylorLayer

from .test_methods_common import assert_sentence

FEATURES, CLASSES, SAMPLES = 5, 3, 23
DEFAULTS: dict[str, Any] = {
    "relaxation": 1.0, "shrinkage": 0.0, "beta": 1.0, "gamma": 10.0, "loss": "hinge",
    "multiplier_step": 1.0, "warm_start": 10, "ridge": 1e-2, "initialisation": "forward",
}  # fmt: skip


def mlp(bias: bool = True, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(FEATURES, 7, bias=bias), nn.ReLU(), nn.Linear(7, 4, bias=bias), nn.ReLU(),
            nn.Linear(4, CLASSES, bias=bias),
        ).to(dtype)  # fmt: skip


def samples(size: int = SAMPLES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    y = torch.randint(CLASSES, (size,), generator=generator)
    x = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
    return x + F.one_hot(y, FEATURES), y


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def matrices(model: nn.Module) -> list[Tensor]:
    """[W b], or W, of every Linear."""
    return [
        (m.weight if m.bias is None else torch.cat([m.weight, m.bias[:, None]], 1)).detach().clone()
        for m in linears(model)
    ]


def output_loss(kind: str, z: Tensor, y: Tensor) -> Tensor:
    """(N,), summed over the outputs of a sample."""
    if kind == "cross_entropy":
        return -z.log_softmax(1)[torch.arange(len(y)), y]
    targets = y if y.is_floating_point() else F.one_hot(y, z.shape[1]).double()
    if kind in ("squared", "mse"):
        return ((z - targets) ** 2).sum(1) / (1 if kind == "squared" else z.shape[1])
    return torch.where(targets == 1, torch.clamp(1 - z, min=0), torch.clamp(z, min=0)).sum(1)


def newton(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The minimum of a quadratic."""
    gradient = torch.func.grad(objective)(start).flatten()
    hessian = torch.func.hessian(objective)(start).reshape(start.numel(), start.numel())
    return start - torch.linalg.solve(hessian, gradient).view(start.shape)


class Reference:
    """Iterations by brute force. Weights are [W b]; bias and frozen parts by ``free``, a mask for each layer."""

    def __init__(self, model: nn.Module, seed: int = 0, **options: Any) -> None:
        self.o = {**DEFAULTS, **options}
        self.weights = matrices(model)
        self.biased = [m.bias is not None for m in linears(model)]
        self.free = [
            torch.cat(
                [torch.full((m.in_features,), float(m.weight.requires_grad))]
                + ([torch.tensor([float(m.bias.requires_grad)])] if m.bias is not None else [])
            ).double()
            for m in linears(model)
        ]
        self.seed, self.number = seed, 0
        self.z: list[Tensor] = []
        self.multiplier = torch.zeros(0)

    def affine(self, l: int, weights: Tensor, a: Tensor) -> Tensor:
        inputs = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1) if self.biased[l] else a
        return inputs @ weights.t()

    def forward(self, x: Tensor) -> list[Tensor]:
        z = [self.affine(0, self.weights[0], x)]
        for l in range(1, len(self.weights)):
            z.append(self.affine(l, self.weights[l], z[-1].relu()))
        return z

    def terms(self, x: Tensor, y: Tensor, weights: Sequence[Tensor], a: Sequence[Tensor], z: Sequence[Tensor],
              multiplier: Tensor) -> list[Tensor]:  # fmt: skip
        """The Lagrangian, a summand (N,) for every stage; the multiplier's separately at the end."""
        below, found = [x, *a], []
        for l, own in enumerate(weights):
            term = self.o["beta"] * ((z[l] - self.affine(l, own, below[l])) ** 2).sum(1)
            if l < len(weights) - 1:
                term = term + self.o["gamma"] * ((a[l] - z[l].relu()) ** 2).sum(1)
            else:
                term = term + output_loss(self.o["loss"], z[l], y)
            found.append(term)
        return [*found, (multiplier * z[-1]).sum(1)]

    def ridge(self, l: int, below: Tensor) -> float:
        """The penalty of a squared weight, in the units of the least squares."""
        n = self.weights[l].shape[1]
        count = len(below) if self.biased[l] else 0
        return self.o["ridge"] * float((below**2).sum() + count) / n

    def weight_objective(self, l: int, below: Tensor, z: Tensor, weights: Tensor) -> Tensor:
        columns = weights[:, :-1] if self.biased[l] else weights
        return ((z - self.affine(l, weights, below)) ** 2).sum() + self.ridge(l, below) * (columns**2).sum()

    def step(self, x: Tensor, y: Tensor, factor: float = 1.0) -> dict[str, Any]:
        o, last = self.o, len(self.weights) - 1
        if not self.z:
            self.z = self.forward(x)
            if o["initialisation"] == "random":
                generator = torch.Generator().manual_seed(self.seed)
                self.z = [torch.randn(z.shape, dtype=z.dtype, generator=generator) for z in self.z]
            self.multiplier = torch.zeros_like(self.z[-1])
        logits = self.forward(x)[-1]
        old, a = list(self.weights), [z.relu() for z in self.z[:-1]]
        rate = o["relaxation"] * factor
        for l in range(last + 1):
            below = x if l == 0 else a[l - 1]
            free = self.free[l]

            def of_weights(move: Tensor, l: int = l, below: Tensor = below, free: Tensor = free) -> Tensor:
                moved = old[l] + move * free
                # What is frozen has a parabola of its own, so that the Hessian is regular.
                idle = ((move * (1 - free)) ** 2).sum()
                return self.weight_objective(l, below, self.z[l], moved) + idle

            move = newton(of_weights, torch.zeros_like(old[l]))
            fitted = (old[l] + rate * move) * (1 - rate * o["shrinkage"])
            self.weights[l] = torch.where(free == 1, fitted, old[l])
            if l < last:

                def of_activations(value: Tensor, l: int = l) -> Tensor:
                    weights = [*self.weights[: l + 1], *old[l + 1 :]]
                    changed = [*a[:l], value, *a[l + 1 :]]
                    return torch.stack(self.terms(x, y, weights, changed, self.z, self.multiplier)).sum()

                a[l] = newton(of_activations, a[l])
                center = self.affine(l, self.weights[l], below)
                self.z[l] = self.hidden_codes(a[l], center)
            else:
                center = self.affine(l, self.weights[l], below)
                self.z[l] = self.output_codes(center, y)
                if self.number >= o["warm_start"]:
                    self.multiplier = self.multiplier + o["multiplier_step"] * self.o["beta"] * (
                        self.z[l] - center
                    )
        self.number += 1
        self.a = a
        terms = self.terms(x, y, self.weights, a, self.z, self.multiplier)
        return {"logits": logits, "objective": [float(term.mean()) for term in terms[:-1]]}

    def hidden_codes(self, a: Tensor, center: Tensor) -> Tensor:
        gamma, beta = self.o["gamma"], self.o["beta"]
        candidates = torch.stack(
            [center.clamp(max=0), ((gamma * a + beta * center) / (gamma + beta)).clamp(min=0)]
        )
        values = gamma * (a - candidates.relu()) ** 2 + beta * (candidates - center) ** 2
        return candidates.gather(0, values.argmin(0)[None])[0]

    def output_codes(self, center: Tensor, y: Tensor) -> Tensor:
        beta, multiplier = self.o["beta"], self.multiplier
        if self.o["loss"] == "hinge":
            targets = F.one_hot(y, CLASSES).double()
            flat = center - multiplier / (2 * beta)
            sloped = flat + (2 * targets - 1) / (2 * beta)
            kink = targets
            candidates = torch.stack(
                [
                    torch.where(targets == 1, sloped.clamp(max=1.0), sloped.clamp(min=0.0)),
                    torch.where(targets == 1, flat.clamp(min=1.0), flat.clamp(max=0.0)),
                    kink,
                ]
            )
            hinge = torch.where(targets == 1, (1 - candidates).clamp(min=0), candidates.clamp(min=0))
            values = hinge + multiplier * candidates + beta * (candidates - center) ** 2
            return candidates.gather(0, values.argmin(0)[None])[0]

        def objective(z: Tensor) -> Tensor:
            quadratic = beta * ((z - center) ** 2).sum() + (multiplier * z).sum()
            return output_loss(self.o["loss"], z, y).sum() + quadratic

        z = center
        for _ in range(1 if self.o["loss"] in ("squared", "mse") else 30):
            z = newton(objective, z)
        return z


def assert_same(method: Any, reference: Reference, tolerance: float = 1e-8) -> None:
    pairs = [*zip(matrices(method.model), reference.weights, strict=True)]
    pairs += [*zip(method.codes, reference.z, strict=True), (method.multiplier, reference.multiplier)]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"initialisation": "random", "seed": 3},
    {"warm_start": 1, "multiplier_step": 2.0},
    {"warm_start": 0, "beta": 0.4, "gamma": 2.0, "chunk_size": 7},
    {"loss": "squared", "warm_start": 2},
    {"loss": "cross_entropy", "warm_start": 2, "beta": 0.3},
    {"relaxation": 0.6, "shrinkage": 0.2, "chunk_size": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_iterations(options: dict[str, Any]) -> None:
    model = mlp()
    method = altmin_ext.make_method("admm", model, report_objective=True, **{**DEFAULTS, **options})
    reference = Reference(model, **options)
    x, y = samples()
    for _ in range(4):
        report = method.step(x, y)
        expected = reference.step(x, y)
        loss = output_loss(reference.o["loss"], expected["logits"], y).mean()
        assert float(report.loss) == pytest.approx(float(loss), rel=1e-9)
        assert int(report.correct) == int((expected["logits"].argmax(1) == y).sum())
        assert report.objective.tolist() == pytest.approx(expected["objective"], rel=1e-7, abs=1e-12)
        assert_same(method, reference)


@pytest.mark.parametrize("bias", [True, False])
def test_bias(bias: bool) -> None:
    model = mlp(bias)
    method, reference = altmin_ext.make_method("admm", model, **DEFAULTS), Reference(model)
    for _ in range(3):
        method.step(*samples())
        reference.step(*samples())
    assert_same(method, reference)


@pytest.mark.parametrize(
    "frozen", [("1.bias",), ("3.weight",), ("5.weight", "5.bias"), ("1.weight", "3.bias")], ids=str
)
def test_frozen_parts_are_given_to_the_least_squares(frozen: tuple[str, ...]) -> None:
    model = mlp()
    for key in frozen:
        model.get_parameter(key).requires_grad_(False)
    options = {"relaxation": 0.7, "shrinkage": 0.1}
    method = altmin_ext.make_method("admm", model, **{**DEFAULTS, **options})
    reference = Reference(model, **options)
    for _ in range(3):
        method.step(*samples())
        reference.step(*samples())
    assert_same(method, reference)


@pytest.mark.parametrize("loss", ["squared", "mse"])
def test_real_targets(loss: str) -> None:
    model = mlp()
    method = altmin_ext.make_method("admm", model, loss=loss, warm_start=1, ridge=1e-2)
    reference = Reference(model, loss=loss, warm_start=1)
    x, _ = samples()
    y = torch.randn(SAMPLES, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    for _ in range(3):
        report = method.step(x, y)
        logits = reference.step(x, y)["logits"]
        assert float(report.loss) == pytest.approx(float(output_loss(loss, logits, y).mean()), rel=1e-9)
    assert_same(method, reference)


@pytest.mark.parametrize("loss", ["hinge", "squared", "cross_entropy"])
def test_every_block_is_at_its_minimum(loss: str) -> None:
    """No random perturbation of a block lowers the Lagrangian at the values that the others had at that time."""
    generator = torch.Generator().manual_seed(5)
    model, (x, y) = mlp(), samples()
    options = {"loss": loss, "warm_start": 1}
    method, reference = (
        altmin_ext.make_method("admm", model, **{**DEFAULTS, **options}),
        Reference(model, **options),
    )
    for _ in range(3):
        old_weights = matrices(model)
        old_z, old_multiplier = [z.clone() for z in method.codes] or reference.forward(x), method.multiplier
        method.step(x, y)
        reference.step(x, y)
    weights, z, last = matrices(model), method.codes, 2
    # Activations are not kept. They are what the layer's formula says of the old codes.
    a = []
    for l in range(last):
        layer, ratio = TaylorLayer(linears(model)[l + 1], 0.0), reference.o["gamma"] / reference.o["beta"]
        h = old_z[l].relu()
        a.append(
            h + (old_z[l + 1] - layer.apply(old_weights[l + 1], h)) @ layer.gain(old_weights[l + 1], ratio)
        )

    def check(block: Tensor, objective: Callable[[Tensor], Tensor]) -> None:
        at_minimum = float(objective(block))
        for size in (1e-3, 1e-2, 1e-1, 1.0):
            for _ in range(5):
                noise = torch.randn(block.shape, generator=generator, dtype=block.dtype)
                assert float(objective(block + size * noise)) > at_minimum - 1e-9

    def lagrangian(l: int, own_a: Sequence[Tensor], own_z: Sequence[Tensor]) -> Tensor:
        mixed = [*weights[: l + 1], *old_weights[l + 1 :]]
        return torch.stack(reference.terms(x, y, mixed, own_a, own_z, old_multiplier)).sum()

    for l in range(last + 1):
        below = x if l == 0 else a[l - 1]
        check(weights[l], lambda w, l=l, below=below: reference.weight_objective(l, below, old_z[l], w))
        before = [*z[:l], *old_z[l:]]
        if l < last:
            check(a[l], lambda v, l=l, before=before: lagrangian(l, [*a[:l], v, *a[l + 1 :]], before))
        check(z[l], lambda v, l=l, before=before: lagrangian(l, a, [*before[:l], v, *before[l + 1 :]]))


@pytest.mark.parametrize(("n", "m"), [(9, 3), (3, 9), (5, 5)])
def test_gain(n: int, m: int) -> None:
    """relu(z) + gain (z' - W relu(z) - b) solves the normal equations of a, whichever side is wider (K7)."""
    generator = torch.Generator().manual_seed(n)
    linear = nn.Linear(n, m).double()
    h, above = (torch.randn(11, k, generator=generator, dtype=torch.float64) for k in (n, m))
    layer, beta, gamma = TaylorLayer(linear, 0.0), 0.7, 3.1
    with torch.no_grad():
        weights, w, b = layer.weights, linear.weight, linear.bias
        found = h + (above - layer.apply(weights, h)) @ layer.gain(weights, gamma / beta)
        system = beta * w.t() @ w + gamma * torch.eye(n, dtype=torch.float64)
        expected = torch.linalg.solve(system, (beta * (above - b) @ w + gamma * h).t()).t()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_textbook_multiplier_is_the_slope_of_the_loss() -> None:
    """With a step of 2, stationarity in z_L reads lambda = -dloss/dz_L after every iteration."""
    x, y = samples()
    targets = F.one_hot(y, CLASSES).double()
    for loss in ("squared", "cross_entropy", "hinge"):
        method = altmin_ext.make_method("admm", mlp(), loss=loss, multiplier_step=2.0, warm_start=0)
        for _ in range(5):
            method.step(x, y)
            z = method.codes[-1].clone().requires_grad_()
            if loss == "hinge":  # between the slopes on either side of the kink
                slope = torch.where(targets == 1, (z < 1).double(), -(z > 0).double())
                at_kink = (z - targets).abs() < 1e-12
                assert at_kink.any()
                assert (method.multiplier - slope)[~at_kink].abs().max() < 1e-10
                inside = method.multiplier * (2 * targets - 1)
                assert (inside > -1e-10).all()
                assert (inside < 1 + 1e-10).all()
                continue
            (slope,) = torch.autograd.grad(output_loss(loss, z, y).sum(), z)
            torch.testing.assert_close(method.multiplier, -slope, rtol=0, atol=1e-10)


def test_warm_start() -> None:
    method = altmin_ext.make_method("admm", mlp(), warm_start=3)
    moved = []
    for _ in range(5):
        method.step(*samples())
        moved.append(bool(method.multiplier.any()))
    assert moved == [False, False, False, True, True]


def test_a_forward_pass_is_at_rest_but_for_the_output() -> None:
    """It fulfils all constraints, so that the first iteration has nothing to do below the top."""
    model, (x, y) = mlp(), samples(60)
    before = matrices(model)
    reference = Reference(model)
    codes = reference.forward(x)
    method = altmin_ext.make_method("admm", model, ridge=1e-14, initialisation="forward")
    method.step(x, y)
    for found, expected in zip([*matrices(model), *method.codes[:-1]], [*before, *codes[:-1]], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    assert (method.codes[-1] - codes[-1]).abs().max() > 0.1


@pytest.mark.parametrize("chunk_size", [1, 10, SAMPLES, 1000])
def test_chunks_change_nothing(chunk_size: int) -> None:
    results = []
    for size in (chunk_size, 8):
        method = altmin_ext.make_method("admm", mlp(), chunk_size=size, initialisation="random", warm_start=2)
        for _ in range(5):
            method.step(*samples())
        results.append([*matrices(method.model), *method.codes, method.multiplier])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_the_first_layer_is_factored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    original = TaylorLayer.factor
    monkeypatch.setattr(
        TaylorLayer, "factor", lambda layer, gram: widths.append(len(gram)) or original(layer, gram)
    )
    method = altmin_ext.make_method("admm", mlp())
    for _ in range(4):
        method.step(*samples())
    assert widths.count(FEATURES + 1) == 1
    assert widths.count(8) == widths.count(5) == 4


# --- workers ---


class Workers:
    """Threads that take a shard each, and add up tensors where they meet."""

    def __init__(self, shards: Sequence[tuple[Tensor, Tensor]], **options: Any) -> None:
        self.shards, self._barrier = shards, threading.Barrier(len(shards), timeout=300)
        self._handed: list[list[Tensor]] = [[] for _ in shards]
        self.methods = [
            altmin_ext.make_method("admm", mlp(), reduce=self._reduce(i), **options)
            for i in range(len(shards))
        ]
        self.errors: list[Exception] = []

    def _reduce(self, own: int) -> Callable[[list[Tensor]], None]:
        def reduce(tensors: list[Tensor]) -> None:
            self._handed[own] = [tensor.clone() for tensor in tensors]
            self._barrier.wait()
            for tensor, *parts in zip(tensors, *self._handed, strict=True):
                tensor.copy_(torch.stack(parts).sum(0))
            self._barrier.wait()

        return reduce

    def run(self, steps: int) -> None:
        def work(method: Any, x: Tensor, y: Tensor) -> None:
            try:
                for _ in range(steps):
                    method.step(x, y)
            except Exception as error:
                self.errors.append(error)

        threads = [
            threading.Thread(target=work, args=(method, *shard))
            for method, shard in zip(self.methods, self.shards, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("sizes", [(11, 12), (3, 1, 19)], ids=str)
@pytest.mark.parametrize("loss", ["hinge", "squared"])
def test_shards_add_up(sizes: tuple[int, ...], loss: str) -> None:
    """Workers with a shard each find the weights and codes of one with all samples."""
    options = {"warm_start": 2, "loss": loss, "initialisation": "forward"}
    x, y = samples()
    whole = altmin_ext.make_method("admm", mlp(), **options)
    for _ in range(6):
        whole.step(x, y)
    workers = Workers(list(zip(x.split(sizes), y.split(sizes), strict=True)), **options)
    workers.run(6)
    assert workers.errors == []
    for method in workers.methods:
        for found, expected in zip(matrices(method.model), matrices(whole.model), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    for l, expected in enumerate(whole.codes):
        found = torch.cat([method.codes[l] for method in workers.methods])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip", "restore"])
def test_what_diverges_at_one_worker_stops_all(on_nonfinite: str) -> None:
    x, y = samples()
    spoiled = x.clone()
    spoiled[20, 1] = torch.nan
    workers = Workers(
        list(zip(spoiled.split((11, 12)), y.split((11, 12)), strict=True)), on_nonfinite=on_nonfinite
    )
    before = matrices(workers.methods[0].model)
    workers.run(1)
    assert len(workers.errors) == (2 if on_nonfinite == "raise" else 0)
    assert all(isinstance(error, altmin_ext.DivergenceError) for error in workers.errors)
    for method in workers.methods:
        assert method.iterations == 0
        assert method.restores == 0
        assert method.codes == []
        assert all(torch.equal(*pair) for pair in zip(matrices(method.model), before, strict=True))


# --- what is refused, and what that leaves behind ---


REFUSED: dict[str, list[nn.Module]] = {
    "tanh": [nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, CLASSES)],
    "nothing between": [nn.Linear(FEATURES, 4), nn.Linear(4, CLASSES)],
    "dropout": [nn.Linear(FEATURES, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, CLASSES)],
    "relu in front": [nn.ReLU(), nn.Linear(FEATURES, CLASSES)],
    "normalisation": [nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, CLASSES)],
    "convolution": [
        nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, CLASSES)
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_networks_are_refused(case: str) -> None:
    with pytest.raises(ValueError, match="model must be Linear layers") as error:
        altmin_ext.make_method("admm", nn.Sequential(*REFUSED[case]))
    assert_sentence(error, "stage")


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"beta": 0.0}, ValueError),
        ({"gamma": -1.0}, ValueError),
        ({"ridge": 0.0}, ValueError),
        ({"loss": "hnige"}, ValueError),
        ({"initialisation": "zeros"}, ValueError),
        ({"multiplier_step": -1.0}, ValueError),
        ({"warm_start": -1}, ValueError),
        ({"warm_start": False}, TypeError),
        ({"warm_start": 1.5}, TypeError),
        ({"chunk_size": 0}, ValueError),
        ({"reduce": "sum"}, TypeError),
    ],
    ids=str,
)
def test_bad_option(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind) as error:
        altmin_ext.make_method("admm", mlp(), **options)
    assert_sentence(error, *options)


def test_bad_warm_start_is_told_the_bound_that_holds() -> None:
    altmin_ext.make_method("admm", mlp(), warm_start=0)
    with pytest.raises(ValueError, match=r"^warm_start must be at least 0, but is -1[.]$"):
        altmin_ext.make_method("admm", mlp(), warm_start=-1)


def test_another_number_of_samples_is_refused() -> None:
    method = altmin_ext.make_method("admm", mlp())
    method.step(*samples())
    before = matrices(method.model)
    with pytest.raises(ValueError, match="23 samples") as error:
        method.step(*samples(22))
    assert_sentence(error, "22", "admm")
    assert all(torch.equal(*pair) for pair in zip(matrices(method.model), before, strict=True))


def test_a_first_step_that_is_not_taken_binds_nothing() -> None:
    """Neither the samples, nor layer 1's Gram matrix, nor the random numbers."""
    x, y = samples()
    method = altmin_ext.make_method("admm", mlp(), on_nonfinite="skip", initialisation="random")
    method.step(torch.full_like(x[:9], torch.inf), y[:9])
    other = altmin_ext.make_method("admm", mlp(), initialisation="random")
    for _ in range(2):
        method.step(x, y)
        other.step(x, y)
    assert all(torch.equal(*pair) for pair in zip(matrices(method.model), matrices(other.model), strict=True))


@pytest.mark.parametrize("call", [8, 10, 13], ids=["weights", "Gram matrix", "flags"])
def test_an_interrupted_step_has_never_been(call: int) -> None:
    """Seven sums in the first iteration and six in the second; one of those fails."""
    calls = []

    def reduce(tensors: list[Tensor]) -> None:
        calls.append(len(tensors))
        if len(calls) == call:
            raise ConnectionError("gone")

    x, y = samples()
    method = altmin_ext.make_method("admm", mlp(), reduce=reduce, warm_start=0)
    other = altmin_ext.make_method("admm", mlp(), warm_start=0)
    method.step(x, y)
    other.step(x, y)
    spoiled = x.clone()
    spoiled[3] = torch.nan
    with pytest.raises(ConnectionError):
        method.step(spoiled, y)
    for _ in range(2):
        method.step(x, y)
        other.step(x, y)
    assert all(torch.equal(*pair) for pair in zip(matrices(method.model), matrices(other.model), strict=True))
    assert torch.equal(method.multiplier, other.multiplier)


def test_a_state_of_other_samples_takes_over() -> None:
    """It brings the number of samples with it, and layer 1's Gram matrix is made anew."""
    x, y = samples(40)
    first, other = altmin_ext.make_method("admm", mlp()), altmin_ext.make_method("admm", mlp())
    first.step(*samples())
    other.step(x, y)
    first.model.load_state_dict(other.model.state_dict())
    first.load_state_dict(other.state_dict())
    for _ in range(2):
        first.step(x, y)
        other.step(x, y)
    assert all(torch.equal(*pair) for pair in zip(matrices(first.model), matrices(other.model), strict=True))


def test_constant_and_zero_features() -> None:
    """A Gram matrix without full rank has a solution all the same."""
    x, y = samples()
    x[:, 1], x[:, 3] = 0.0, 1.0
    for dtype in (torch.float32, torch.float64):
        method = altmin_ext.make_method("admm", mlp(dtype=dtype))
        for _ in range(20):
            method.step(x.to(dtype), y)
        assert all(bool(weights.isfinite().all()) for weights in matrices(method.model))


def test_weights_that_nothing_is_asked_of() -> None:
    """Without a bias, zeros say nothing about the weights, and the ridge, relative to them, does not either."""
    method = altmin_ext.make_method("admm", mlp(bias=False))
    before = matrices(method.model)
    with pytest.raises(altmin_ext.DivergenceError) as error:
        method.step(torch.zeros(4, FEATURES, dtype=torch.float64), torch.tensor([0, 1, 2, 0]))
    assert_sentence(error, "the weights of stage 1", "at step 1", "ridge")
    assert all(torch.equal(*pair) for pair in zip(matrices(method.model), before, strict=True))


def test_state_of_other_widths_is_refused() -> None:
    method, wide = (
        altmin_ext.make_method("admm", mlp()),
        altmin_ext.make_method("admm", altmin_ext.models.mlp(5, (9,), 3).double()),
    )
    wide.step(*samples())
    with pytest.raises(ValueError, match="codes") as error:
        method.load_state_dict(wide.state_dict())
    assert_sentence(error, "3 entries", "2")
    assert method.codes == []


def test_train_takes_all_samples_in_one_step() -> None:
    model = mlp()
    history = altmin_ext.train(
        model, samples(), method="admm", epochs=4, validation=samples(), progress=False
    )
    expected = mlp()
    method = altmin_ext.make_method("admm", expected)
    losses = [float(method.step(*samples()).loss) for _ in range(4)]
    assert [row["loss"] for row in history.epochs] == pytest.approx(losses)
    assert all(torch.equal(*pair) for pair in zip(matrices(model), matrices(expected), strict=True))
