"""am-sgd and am-adam on Elman networks (Choromanska et al. 2019, appendix C).

The oracle is the paper's two kinds of codes written as the scalars they minimise, per sample and divided by 2 mu,
with autograd for every derivative: the output sequence o under the classifier's loss; the pre-activations c_t of all
time steps, from the last to the first, each under the two terms it occurs in; the shared weights under one least
squares over all pairs of a sample and a time step.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models
from altmin_ext.network import split

from .test_online_am import distance, seeded

TOLERANCE = 1e-9


class Reference:
    """Steps of the paper's method on a copy of the model."""

    def __init__(
        self, model: nn.Module, name: str, *, loss: str = "cross_entropy", mu: float = 0.5, momentum: float = 0.0,
        code_iterations: int = 5, weight_iterations: int = 5, lr: float | None = None, scaled: bool = True,
    ) -> None:  # fmt: skip
        self.model = copy.deepcopy(model)
        self.elman = next(m for m in self.model.modules() if isinstance(m, models.Elman))
        self.phi = torch.relu if any(isinstance(m, nn.ReLU) for m in self.model.modules()) else (lambda h: h)
        self.reader = next(m for m in self.model.modules() if isinstance(m, nn.Linear))
        self.name, self.loss, self.mu, self.momentum, self.scaled = name, loss, mu, momentum, scaled
        self.code_iterations, self.weight_iterations = code_iterations, weight_iterations
        self.lr = lr or (1e-3 if name == "am-adam" else 0.1)
        self.moments: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.updates: dict[str, int] = {}

    def _pre_activations(self, x: Tensor, hidden: Tensor) -> Tensor:
        """[U V b] [h_{t-1}; x_t; 1] for all t, given all h_t."""
        e = self.elman
        before = F.pad(hidden, (0, 0, 1, 0))[:, : x.shape[1]]
        return before @ e.weight_hh_l0.T + x @ e.weight_ih_l0.T + e.bias_ih_l0 + e.bias_hh_l0

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y) if self.loss == "cross_entropy" else F.mse_loss(logits, y)

    def _descend(self, start: Tensor, objective: Any, eta: float) -> Tensor:
        code, velocity = start.clone(), torch.zeros_like(start)
        for _ in range(self.code_iterations):
            code = code.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(objective(code), code)
            velocity = self.momentum * velocity + gradient
            code = (code - eta * (gradient + self.momentum * velocity)).detach()
        return code

    def step(self, x: Tensor, y: Tensor, etas: list[float]) -> tuple[float, list[float]]:
        """Mean loss at the encode, and RMS displacements of c and o."""
        e, steps = self.elman, x.shape[1]
        with torch.no_grad():
            hidden = e(x)
            c0 = self._pre_activations(x, hidden)
            o0 = self.phi(hidden)
            before = float(self._loss(self.reader(o0.flatten(1)), y))

        def of_output(o: Tensor) -> Tensor:
            value = self._loss(self.reader(o.flatten(1)), y) * len(y) / (2 * self.mu)
            return value + (o - o0).square().sum() / 2

        o = self._descend(o0, of_output, etas[1])
        c = list(c0.unbind(1))
        for t in reversed(range(steps)):

            def of_code(code: Tensor, t: int = t) -> Tensor:
                h = torch.tanh(code)
                value = (self.phi(h) - o[:, t]).square().sum() / 2 + (code - c0[:, t]).square().sum() / 2
                if t + 1 < steps:
                    fit = h @ e.weight_hh_l0.T + x[:, t + 1] @ e.weight_ih_l0.T + e.bias_ih_l0 + e.bias_hh_l0
                    value = value + (fit - c[t + 1]).square().sum() / 2
                return value

            c[t] = self._descend(c0[:, t], of_code, etas[0])
        codes = torch.stack(c, 1)
        moved = [float((c0 - codes).square().mean().sqrt()), float((o0 - o).square().mean().sqrt())]
        scale = moved[0] if self.scaled else 1.0
        hidden = torch.tanh(codes)
        for _ in range(self.weight_iterations):
            misfit = (self._pre_activations(x, hidden) - codes).square().sum() / (2 * len(y)) / scale
            self._update("elman", list(e.parameters()), misfit)
        for _ in range(self.weight_iterations):
            self._update("reader", list(self.reader.parameters()), self._loss(self.reader(o.flatten(1)), y))
        return before, moved

    def _update(self, part: str, parameters: list[nn.Parameter], objective: Tensor) -> None:
        gradients = torch.autograd.grad(objective, parameters)
        moments = self.moments.setdefault(
            part, [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        )
        n = self.updates[part] = self.updates.get(part, 0) + 1
        with torch.no_grad():
            for parameter, gradient, (mean, square) in zip(parameters, gradients, moments, strict=True):
                if self.name == "am-sgd":
                    parameter -= self.lr * gradient
                    continue
                mean.mul_(0.9).add_(0.1 * gradient)
                square.mul_(0.999).add_(0.001 * gradient.square())
                first, second = mean / (1 - 0.9**n), square / (1 - 0.999**n)
                parameter -= self.lr * first / (second.sqrt() + 1e-8)


CLASSES = 3


def batch(size: int, steps: int, n_in: int, number: int, loss: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, steps, n_in, generator=generator, dtype=torch.float64)
    if loss == "mse":
        return x, torch.randn(size, CLASSES, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (size,), generator=generator)


CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one iteration": {"code_iterations": 1, "weight_iterations": 1},
    "momentum": {"code_iterations": 3, "code_momentum": 0.6, "weight_iterations": 2},
    "fixed step": {"lr_codes": 0.15, "stage_scaling": "none", "weight_iterations": 2},
    "mse": {"loss": "mse", "mu": 0.2},
}


@pytest.mark.parametrize("name", ["am-adam", "am-sgd"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("steps", "n_in", "hidden"), [(1, 2, 3), (6, 1, 4), (9, 3, 17)])
def test_step(name: str, case: str, steps: int, n_in: int, hidden: int) -> None:
    """20 steps; the reference takes the step sizes that the library says it took."""
    options = dict(CASES[case])
    loss = options.pop("loss", "cross_entropy")
    model = seeded(lambda: models.elman_rnn(n_in, hidden, steps, CLASSES))
    options.setdefault("lr", 1e-3 if name == "am-adam" else 0.01)
    method = altmin_ext.make_method(name, model, loss=loss, **options)
    o = method.options
    reference = Reference(
        model, name, loss=loss, mu=o.mu, momentum=o.code_momentum, lr=o.lr, code_iterations=o.code_iterations,
        weight_iterations=o.weight_iterations, scaled=o.stage_scaling == "displacement",
    )  # fmt: skip
    for number in range(20):
        x, y = batch(5 if number % 6 == 5 else 18, steps, n_in, number, loss)
        report = method.step(x, y)
        before, moved = reference.step(x, y, method.code_step_sizes.tolist())
        assert float(report.loss) == pytest.approx(before, rel=TOLERANCE)
        assert method.code_displacements.tolist() == pytest.approx(moved, rel=1e-7)
        assert distance(model, reference.model) < TOLERANCE, number


def test_step_sizes_are_those_of_the_bound() -> None:
    """1 / (2 + sigma(U)^2) for the time steps, 1 / (1 + sigma(W)^2 / (4 mu)) for the output sequence."""
    model = seeded(lambda: models.elman_rnn(2, 6, 5, CLASSES))
    method = altmin_ext.make_method("am-adam", model, lr=0.0, mu=0.3)
    for number in range(30):
        method.step(*batch(8, 5, 2, number, "cross_entropy"))
    recurrent = float(torch.linalg.matrix_norm(model[1].weight_hh_l0, 2)) ** 2
    output = float(torch.linalg.matrix_norm(model[4].weight, 2)) ** 2
    expected = [1 / (2 + recurrent), 1 / (1 + output / (4 * 0.3))]
    assert method.code_step_sizes.tolist() == pytest.approx(expected, rel=1e-2)


def test_images_are_read_pixel_by_pixel() -> None:
    torch.manual_seed(0)
    model = models.elman_rnn(hidden=4, steps=12)
    x, y = torch.randn(20, 1, 3, 4), torch.arange(20) % 10
    history = altmin_ext.train(model, (x, y), epochs=60, batch_size=20, lr=5e-3, progress=False)
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"] - 0.3


def test_float32_follows_float64() -> None:
    models_of = {
        t: seeded(lambda: models.elman_rnn(1, 7, 60, CLASSES), dtype=t)
        for t in (torch.float32, torch.float64)
    }
    methods = {t: altmin_ext.make_method("am-adam", m) for t, m in models_of.items()}
    for number in range(5):
        x, y = batch(33, 60, 1, number, "cross_entropy")
        for dtype, method in methods.items():
            method.step(x.to(dtype), y)
    left, right = (method.code_displacements for method in methods.values())
    torch.testing.assert_close(left, right, rtol=1e-3, atol=0)


def test_what_follows_an_elman_layer_may_be_anything() -> None:
    """Where its output is not read by one Linear the layer is a stage of its own, differentiated within."""
    model = nn.Sequential(
        models.Elman(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 3)
    )
    assert [type(stage.map).__name__ for stage in split(model)] == ["LocalMap", "LinearMap", "LinearMap"]
    method = altmin_ext.make_method("am-adam", model, lr=0.01)
    x, y = torch.randn(30, 5, 2), torch.arange(30) % 3
    losses = [float(method.step(x, y).loss) for _ in range(150)]
    assert losses[-1] < 0.7 * losses[0]


def test_sequences_that_do_not_fit() -> None:
    method = altmin_ext.make_method("am-adam", models.elman_rnn(2, 4, 6, 3))
    for shape in ((5, 7, 2), (5, 13)):
        with pytest.raises(ValueError, match=r"^x must .*[.]$"):
            method.step(torch.randn(shape), torch.zeros(5, dtype=torch.int64))


def test_a_frozen_part_stays() -> None:
    model = models.elman_rnn(2, 4, 6, 3)
    model[1].weight_hh_l0.requires_grad_(False)
    before = copy.deepcopy(model)
    x, y = torch.randn(5, 6, 2), torch.arange(5) % 3
    altmin_ext.make_method("am-adam", model).step(x, y)
    assert torch.equal(model[1].weight_hh_l0, before[1].weight_hh_l0)
    assert not torch.equal(model[1].weight_ih_l0, before[1].weight_ih_l0)


def test_resumed_is_uninterrupted() -> None:
    straight, first = (seeded(lambda: models.elman_rnn(2, 4, 6, CLASSES)) for _ in range(2))
    method = altmin_ext.make_method("am-adam", straight)
    half = altmin_ext.make_method("am-adam", first)
    for number in range(6):
        method.step(*batch(8, 6, 2, number, "cross_entropy"))
        if number < 3:
            half.step(*batch(8, 6, 2, number, "cross_entropy"))
    second = copy.deepcopy(first)
    resumed = altmin_ext.make_method("am-adam", second, seed=9)
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    for number in range(3, 6):
        resumed.step(*batch(8, 6, 2, number, "cross_entropy"))
    assert distance(straight, second) == 0
