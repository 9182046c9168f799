"""Backpropagation with SGD and Adam.

Oracles: torch's own loop, loss.backward() and step() of the optimiser that is not fused, which honours any strides;
and for steps that fail, the model and the method as they were before.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import altmin_ext

NAMES = ("sgd", "adam", "ste")
every_name = pytest.mark.parametrize("name", NAMES)
FEATURES, CLASSES = 6, 3


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return altmin_ext.models.mlp(FEATURES, (8,), CLASSES).to(dtype)


def samples(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, FEATURES, generator=generator, dtype=dtype), torch.arange(40) % CLASSES


def options_of(name: str) -> dict[str, Any]:
    return {"momentum": 0.9} if name == "sgd" else {}


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False, fused=False)
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, foreach=False, fused=False)


class Strided(nn.Module):
    """Parameters whose gradients autograd makes expanded, transposed, and ordinary."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, CLASSES)
        self.summed = nn.Parameter(torch.randn(3, 4))
        self.broadcast = nn.Parameter(torch.randn(5, CLASSES))
        self.transposed = nn.Parameter(torch.randn(FEATURES, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        shift = self.summed.sum() * torch.tensor([1.0, 0.0, 0.0], dtype=x.dtype)
        logits: Tensor = self.linear(x) + shift + self.broadcast.sum(0) + (self.transposed.t() @ x.t()).t()
        return logits


@every_name
def test_gradients_of_any_strides(name: str) -> None:
    """Fused optimisers would read an expanded gradient beyond its end."""
    torch.manual_seed(0)
    model = Strided().double()
    expected = copy.deepcopy(model)
    x, y = samples(torch.float64)
    method, optimizer = altmin_ext.make_method(name, model, **options_of(name)), optimizer_of(name, expected)
    gradients = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
    assert not all(gradient.is_contiguous() for gradient in gradients)
    for _ in range(4):
        method.step(x, y)
        optimizer.zero_grad()
        nn.functional.cross_entropy(expected(x), y).backward()
        optimizer.step()
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@every_name
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_loss_with_a_kernel_is_torch_s(name: str, loss: str) -> None:
    """The steps, and what they report, of F.cross_entropy and F.mse_loss."""
    model = network(torch.float64)
    expected = copy.deepcopy(model)
    x, labels = samples(torch.float64)
    y = labels if loss == "cross_entropy" else nn.functional.one_hot(labels, CLASSES).double()
    criterion = nn.functional.cross_entropy if loss == "cross_entropy" else nn.functional.mse_loss
    method = altmin_ext.make_method(name, model, loss=loss, report_objective=True, **options_of(name))
    optimizer = optimizer_of(name, expected)
    for _ in range(5):
        logits = expected(x)
        value = criterion(logits, y)
        report = method.step(x, y)
        torch.testing.assert_close(report.loss, value.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(report.objective, value.detach().reshape(1), rtol=1e-12, atol=0)
        counted = (logits.argmax(1) == labels).sum() if loss == "cross_entropy" else None
        assert report.correct == counted
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@every_name
def test_a_loss_of_one_s_own_may_depend_on_more_than_the_logits(name: str) -> None:
    """Such as a penalty on the weights, of which the derivative in the logits knows nothing."""
    model = network(torch.float64)
    expected = copy.deepcopy(model)
    x, y = samples(torch.float64)

    def penalised(of: nn.Module) -> Any:
        return lambda z, y: nn.functional.cross_entropy(z, y) + sum(p.square().sum() for p in of.parameters())

    method = altmin_ext.make_method(name, model, loss=penalised(model), **options_of(name))
    optimizer = optimizer_of(name, expected)
    for _ in range(5):
        method.step(x, y)
        optimizer.zero_grad()
        penalised(expected)(expected(x), y).backward()
        optimizer.step()
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def state_of(method: Any) -> list[Any]:
    """Weights, and all that the optimiser keeps, as copies."""
    tensors = [parameter.detach().clone() for parameter in method.model.parameters()]
    kept = copy.deepcopy(method.optimizer.state_dict()["state"])
    return [method.steps, tensors, kept]


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        assert_same(list(one.values()), list(other.values()))
    elif isinstance(one, (list, tuple)):
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one == other


def assert_all_or_nothing(method: Any, x: Tensor, y: Tensor, steps: int = 5) -> bool:
    """Take steps until one fails, which leaves everything as it was; returns whether one did."""
    for _ in range(steps):
        before = state_of(method)
        try:
            method.step(x, y)
        except altmin_ext.DivergenceError:
            assert_same(state_of(method), before)
            return True
        _, weights, kept = state_of(method)
        assert all(bool(weight.isfinite().all()) for weight in weights)
        moments = [value for state in kept.values() for value in state.values() if isinstance(value, Tensor)]
        assert all(bool(moment.isfinite().all()) for moment in moments)
    return False


@every_name
@pytest.mark.parametrize("rate", [1e30, 1e38, 1e39, 1e300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_step_that_overflows_is_not_taken(name: str, rate: float, dtype: torch.dtype) -> None:
    """At the very step, whatever made it overflow: the update, its factor, or the learning rate itself."""
    method = altmin_ext.make_method(name, network(dtype), lr=rate, **options_of(name))
    failed = assert_all_or_nothing(method, *samples(dtype))
    assert failed or dtype == torch.float64 or rate < 1e38


@every_name
@pytest.mark.parametrize("exponent", range(15, 39, 2))
def test_gradients_of_any_size_are_all_or_nothing(name: str, exponent: int) -> None:
    """Finite as they are, the square of one may overflow, or the sum of several in a buffer."""
    x, y = samples()
    x[:, :2] *= 10.0**exponent
    assert_all_or_nothing(altmin_ext.make_method(name, network(), **options_of(name)), x, y)


@every_name
@pytest.mark.parametrize("exponent", [18, 22, 30])
def test_large_gradients_that_suit_are_torch_s_steps(name: str, exponent: int) -> None:
    """With the care that is taken of them come the bits of a step without."""
    model = network(torch.float64)
    expected = copy.deepcopy(model)
    x, y = samples(torch.float64)
    x *= 10.0**exponent
    method, optimizer = altmin_ext.make_method(name, model, **options_of(name)), optimizer_of(name, expected)
    for _ in range(2):
        method.step(x, y)
        optimizer.zero_grad()
        nn.functional.cross_entropy(expected(x), y).backward()
        optimizer.step()
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=0)


def test_a_decay_that_overflows_is_not_taken() -> None:
    """Weights of 1e30, multiplied by 1 - lr weight_decay = -1e10 without a gradient that anyone would call large."""
    model = network()
    with torch.no_grad():
        model[-1].bias.fill_(1e30)
    for name in ("sgd", "adam"):
        method = altmin_ext.make_method(name, copy.deepcopy(model), lr=1e5, weight_decay=1e5)
        assert assert_all_or_nothing(method, *samples())


class Broken(Exception):
    """Of no kind that anything else raises or catches."""


class Breaks(TorchFunctionMode):
    """Fails at the n-th use of torch from Python, up to the kernel that moves the weights."""

    def __init__(self, fails_at: int) -> None:
        super().__init__()
        self.uses, self.fails_at, self.moved = 0, fails_at, False

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if not self.moved and function not in (torch._C._set_grad_enabled,):
            self.uses += 1
            if self.uses == self.fails_at:
                raise Broken
        self.moved = self.moved or "fused" in getattr(function, "__name__", "")
        return function(*arguments, **(keywords or {}))


@every_name
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("rate", [1e-3, 1e30])
def test_an_optimiser_that_fails_before_it_moves_weights_has_counted_nothing(
    name: str, steps: int, rate: float
) -> None:
    x, y = samples()

    def made() -> Any:
        method = altmin_ext.make_method(name, network(), **options_of(name))
        for _ in range(steps):
            method.step(x, y)
        method.learning_rate_factor = rate / method.options.lr
        return method

    method = made()
    with Breaks(-1) as counting:
        method.step(x, y)
    assert counting.moved
    uses = counting.uses
    undisturbed = made()
    undisturbed.step(x, y)
    for number in range(1, uses + 1):
        method = made()
        before = state_of(method)
        with pytest.raises(Broken), Breaks(number):
            method.step(x, y)
        assert_same(state_of(method), before)
        assert all(parameter.grad is None for parameter in method.model.parameters())
        method.step(x, y)
        assert_same(state_of(method), state_of(undisturbed))


class Raises(nn.Module):
    """Raises at its n-th evaluation."""

    def __init__(self, error: type[BaseException], at: int) -> None:
        super().__init__()
        self.error, self.at, self.evaluations = error, at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.evaluations += 1
        if self.evaluations == self.at:
            raise self.error
        return x


@every_name
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError], ids=lambda error: error.__name__)
@pytest.mark.parametrize("where", ["module", "loss"])
def test_a_step_that_the_user_s_code_breaks_off(name: str, error: type[BaseException], where: str) -> None:
    """Model, moments and running statistics are as before, and the next step is what it would have been."""
    x, y = samples()

    def made(at: int) -> Any:
        torch.manual_seed(0)
        raises = Raises(error, at)
        modules = [nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES)]
        if where == "module":
            modules.append(raises)
            return altmin_ext.make_method(name, nn.Sequential(*modules), **options_of(name))

        def loss(logits: Tensor, y: Tensor) -> Tensor:
            result: Tensor = raises(nn.functional.cross_entropy(logits, y))
            return result

        return altmin_ext.make_method(name, nn.Sequential(*modules), loss=loss, **options_of(name))

    method, undisturbed = made(2), made(-1)
    method.step(x, y)
    undisturbed.step(x, y)
    before, buffers = state_of(method), [buffer.clone() for buffer in method.model.buffers()]
    with pytest.raises(error):
        method.step(x, y)
    assert_same(state_of(method), before)
    assert_same(list(method.model.buffers()), buffers)
    method.step(x, y)
    undisturbed.step(x, y)
    assert_same(state_of(method), state_of(undisturbed))
