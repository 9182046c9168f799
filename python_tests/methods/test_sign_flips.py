"""Alternating minimisation of networks whose Sign has no derivative.

Oracle: the steps written a second time in float64. What a code is to be is read off its local objective, evaluated
with each unit at -1, 0 and 1 in turn; gradients come from autograd, and Adam from torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext.nn import Sign

CLASSES, MU = 3, 0.4


def network(top: bool) -> nn.Sequential:
    """Linear, Sign, Linear, then another Sign or a Tanh, Linear."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Linear(6, 9), nn.Tanh(), Sign("none"), nn.Linear(9, 7), Sign("none") if top else nn.Tanh(),
            nn.Linear(7, CLASSES),
        ).double()  # fmt: skip


def clouds(batch: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(batch) % CLASSES
    noise = torch.randn(batch, 6, generator=generator, dtype=torch.float64)
    return 2 * torch.eye(CLASSES, 6, dtype=torch.float64)[y] + noise, y


def sign(c: Tensor) -> Tensor:
    return torch.where(c > 0, 1.0, -1.0).to(c)


def led_by_flips(code: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """Codes within [-1, 1] go to the minimum of the parabola that the objective is in each unit."""
    n = code.shape[1]
    one_by_one = []
    for value in (-1.0, 0.0, 1.0):
        candidates = sign(code)[:, None].repeat(1, n, 1)
        candidates[:, range(n), range(n)] = value
        one_by_one.append(objective(candidates))
    low, middle, high = one_by_one
    target = (low - high) / 2 / (low - 2 * middle + high)
    return torch.where(code.abs() <= 1, target, code)


class Reference:
    """The steps of am-adam, with displacement scaling, on such a network."""

    def __init__(self, model: nn.Sequential, top: bool, lr: float) -> None:
        self.linears = [module for module in model if isinstance(module, nn.Linear)]
        self.top = top
        self.optimizers = [torch.optim.Adam(linear.parameters(), lr=lr) for linear in self.linears]

    def top_code(self, code: Tensor, y: Tensor, step_size: float) -> Tensor:
        weight, bias = self.linears[2].weight.detach(), self.linears[2].bias.detach()
        if not self.top:
            moved = code.clone().requires_grad_()
            logits = torch.tanh(moved) @ weight.T + bias
            loss = F.cross_entropy(logits, y, reduction="sum") / (2 * MU)
            return code - step_size * torch.autograd.grad(loss, moved)[0]
        residual = torch.softmax(sign(code) @ weight.T + bias, 1) - F.one_hot(y, CLASSES)

        def above_the_loss(a: Tensor) -> Tensor:
            moved = (a - sign(code)[:, None]) @ weight.T
            return (residual[:, None] * moved).sum(-1) + moved.square().sum(-1) / 4

        return led_by_flips(code, above_the_loss)

    def step(self, x: Tensor, y: Tensor, step_size: float) -> list[Tensor]:
        """Takes the step size of a top code under a Tanh; returns the codes as they were and as they are."""
        first, second, predictor = self.linears
        with torch.no_grad():
            c1 = first(x)
            c2 = second(sign(c1))
        c2_new = self.top_code(c2, y, step_size)
        wanted = (c2_new - c2) / (c2_new - c2).square().mean().sqrt()

        def misfit(a: Tensor) -> Tensor:
            return ((a - sign(c1)[:, None]) @ second.weight.detach().T - wanted[:, None]).square().sum(-1)

        c1_new = led_by_flips(c1, misfit)
        a2 = sign(c2) if self.top else torch.tanh(c2_new)
        fits = ((first, x, c1, c1_new), (second, sign(c1), c2, c2_new))
        for linear, a, before, after in fits:
            scale = float((after - before).square().mean().sqrt())
            objective = (linear(a) - after).square().sum() / (2 * len(x) * scale)
            linear.zero_grad()
            objective.backward()
        predictor.zero_grad()
        F.cross_entropy(predictor(a2), y).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return [c1, c1_new, c2, c2_new]


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("top", [False, True], ids=["tanh above", "sign above"])
def test_steps_are_those_of_a_search(top: bool, backend: str) -> None:
    model = network(top)
    twin = copy.deepcopy(model)
    reference = Reference(twin, top, lr=0.05)
    method = altmin_ext.make_method("am-adam", model, lr=0.05, mu=MU)
    x, y = clouds()
    flips = 0
    with altmin_ext.ops.backend(backend):
        for _ in range(12):
            method.step(x, y)
            c1, c1_new, c2, c2_new = reference.step(x, y, float(method.code_step_sizes[-1]))
            flips += int((c1 * c1_new < 0).sum()) + top * int((c2 * c2_new < 0).sum())
            for own, other in zip(model.parameters(), twin.parameters(), strict=True):
                torch.testing.assert_close(own, other, rtol=0, atol=1e-9)
    assert flips > 100


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ([nn.ReLU(), Sign("none"), nn.Linear(5, 3)], "must follow its map"),
        ([Sign("none"), nn.BatchNorm1d(5), nn.Linear(5, 3)], "must be read by a Linear"),
    ],
    ids=["behind a ReLU", "in front of a BatchNorm1d"],
)
def test_where_flips_cannot_be_searched_for(modules: list[nn.Module], words: str) -> None:
    model = nn.Sequential(nn.Linear(6, 5), *modules)
    with pytest.raises(
        ValueError, match=rf"^Sign\(surrogate='none'\) {words}.*; choose another surrogate\.$"
    ):
        altmin_ext.make_method("am-adam", model)


@pytest.mark.parametrize("options", [{"code_iterations": 3}, {"weight_iterations": 2}], ids=str)
def test_further_steps_search_no_further(options: dict[str, int]) -> None:
    """The first search has found the minimum; more steps on the weights go on from there."""
    x, y = clouds()
    once, model = network(top=True), network(top=True)
    altmin_ext.make_method("am-adam", once, lr=0.05).step(x, y)
    method = altmin_ext.make_method("am-adam", model, lr=0.05, **options)
    method.step(x, y)
    same = all(torch.equal(a, b) for a, b in zip(once.parameters(), model.parameters(), strict=True))
    assert same == ("code_iterations" in options)
    losses = [float(method.step(x, y).loss) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_l1_codes_are_refused() -> None:
    """A threshold could only be ignored: the code ends where its flips do."""
    model = altmin_ext.models.binary_mlp(6, [5, 4], 3, surrogate="none")
    with pytest.raises(ValueError, match=r"^l1_codes must be 0, but is 0\.5: .*\.$"):
        altmin_ext.make_method("am-adam", model, l1_codes=0.5)
