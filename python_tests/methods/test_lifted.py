"""The products W a that the methods on lifted networks keep. Oracles: the product itself, taken anew; and a copy of
the method, which has kept nothing, and must go on to the same bits."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext import ops
from altmin_ext.losses import CrossEntropy
from altmin_ext.methods._lifted import KeptProduct, LiftedLayer
from altmin_ext.network.maps import LinearMap

FEATURES, CLASSES, SAMPLES = 6, 3, 40

every_method = pytest.mark.parametrize("name", ["mdlam", "dladmm"])


class Failing(CrossEntropy):
    """Cross-entropy that can be told to fail at one of the next calls."""

    def __init__(self) -> None:
        self.calls_left = math.inf

    def _count(self) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise KeyboardInterrupt

    def mean(self, *arguments: Any) -> Tensor:
        self._count()
        return super().mean(*arguments)

    def proximal(self, *arguments: Any) -> Tensor:
        self._count()
        return super().proximal(*arguments)


def network(*, bias: bool = True, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(FEATURES, 9, bias=bias),
            nn.ReLU(),
            nn.Linear(9, 7, bias=bias),
            nn.ReLU(),
            nn.Linear(7, CLASSES, bias=bias),
        ).to(dtype)


def clouds(seed: int = 0, size: int = SAMPLES, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(size) % CLASSES
    noise = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
    return (1.5 * torch.eye(CLASSES, FEATURES, dtype=torch.float64)[y] + noise).to(dtype), y


def make(name: str, model: nn.Module, **options: Any) -> Any:
    steep = {"eps0": 1.0, "rho": 0.5} if name == "mdlam" else {"rho": 0.5, "nu": 0.3}
    return altmin_ext.make_method(name, model, **{"chunk_size": 11, **steep, **options})


def variables(method: Any) -> list[Tensor]:
    kept = [*method.model.parameters(), *method.pre_activations, *method.activations]
    return [tensor.detach() for tensor in (*kept, *([method.dual] if method.name == "dladmm" else []))]


def assert_equal(one: Any, other: Any) -> None:
    for mine, yours in zip(variables(one), variables(other), strict=True):
        assert torch.equal(mine, yours)


def assert_steps_agree(method: Any, x: Tensor, y: Tensor, steps: int = 2) -> None:
    """A step of the method is bit for bit that of a new copy of it."""
    for _ in range(steps):
        other = copy.deepcopy(method)
        mine, yours = method.step(x, y), other.step(x, y)
        assert torch.equal(mine.loss, yours.loss)
        assert torch.equal(mine.objective, yours.objective)
        assert_equal(method, other)


def assert_moves(method: Any, x: Tensor, y: Tensor) -> None:
    before = [tensor.clone() for tensor in variables(method)]
    method.step(x, y)
    assert not all(map(torch.equal, before, variables(method)))


# --- within a step ---


@every_method
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_kept_product_is_that_of_the_weights_and_inputs(
    name: str, bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a layer is asked for it."""
    x, y = clouds(dtype=dtype)
    method = make(name, network(bias=bias, dtype=dtype))
    center, kept = LiftedLayer.center, []

    def checked(layer: LiftedLayer, a: Tensor, rows: slice) -> Tensor:
        l = method._layers.index(layer)
        own = x[rows] if l == 0 else method.activations[l - 1][rows]
        assert torch.equal(a, own)
        kept.append(layer.product.holds(rows))
        result = center(layer, a, rows)
        product = torch.empty(len(own), len(layer.weight), dtype=dtype)
        ops.matmul(own, layer.weight, out=product, transpose_b=True)
        assert torch.equal(result, product if layer.bias is None else product + layer.bias)
        result.fill_(math.nan)  # it is the caller's own
        return center(layer, a, rows)

    monkeypatch.setattr(LiftedLayer, "center", checked)
    for _ in range(3):
        method.step(x, y)
    assert any(kept)
    assert not all(kept)


@pytest.mark.parametrize(("name", "moves"), [("mdlam", 1), ("dladmm", 2)])
def test_the_first_product_is_taken_once_for_every_change_of_its_weights(
    name: str, moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = clouds()
    method = make(name, network())
    matmul, right = ops.unversioned.matmul, []

    def noted(a: Tensor, b: Tensor, **others: Any) -> None:
        right.append(b)
        matmul(a, b, **others)

    monkeypatch.setattr(ops.unversioned, "matmul", noted)
    weight = method.model[1].weight  # its product is taken in four chunks, once more in the encode
    method.step(x, y)
    assert sum(b is weight for b in right) == 4 * (1 + moves)
    method.step(x, y)
    assert sum(b is weight for b in right) == 4 * (1 + 2 * moves)


def test_a_kept_product_is_taken_again_only_for_samples_that_changed() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(5, 3, bias=False).requires_grad_(False)
    linear.weight.copy_(torch.randint(-9, 9, (3, 5), generator=generator))  # integers: every order is exact
    W, a = linear.weight, torch.randint(-9, 9, (8, 5), generator=generator).float()
    low, high = slice(0, 4), slice(4, 8)
    map, product = LinearMap(linear), KeptProduct()

    def found(rows: slice) -> Tensor:
        return product.at(map, a[rows], rows).clone()

    assert not product.holds(low)
    before = {rows.start: found(rows) for rows in (low, high)}
    for rows in (low, high):
        assert torch.equal(before[rows.start], a[rows] @ W.t())
        assert product.holds(rows)
    a += 1
    product.forget(low)
    assert torch.equal(found(low), a[low] @ W.t())
    assert torch.equal(found(high), before[4])  # nobody has said that it changed
    W += 1
    product.forget()
    assert not product.holds(low)
    assert not product.holds(high)
    for rows in (low, high):
        assert torch.equal(found(rows), a[rows] @ W.t())


# --- between steps ---


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "frozen", ["", "1.weight", "3.weight", "1.bias"], ids=lambda n: n or "nothing frozen"
)
def test_what_is_kept_changes_no_bit(name: str, frozen: str, dtype: torch.dtype) -> None:
    model = network(dtype=dtype)
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(path != frozen)
    x, y = clouds(dtype=dtype)
    method = make(name, model)
    for _ in range(3):
        assert_moves(method, x, y)
        assert_steps_agree(method, x.clone(), y)  # the same samples elsewhere


def _loaded(model: nn.Sequential) -> None:
    model.load_state_dict({key: 0.5 * value for key, value in model.state_dict().items()})


def _in_place(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[1].weight[0] += 1.0


def _data(model: nn.Sequential) -> None:
    model[1].weight.data[2, 1] = 0.25


def _numpy(model: nn.Sequential) -> None:
    model[3].weight.detach().numpy()[0, 0] = 2.0


def _other_memory(model: nn.Sequential) -> None:
    model[1].weight.data = -model[1].weight.data


def _optimiser(model: nn.Sequential) -> None:
    x, y = clouds(1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(x), y).backward()
    optimiser.step()


CHANGES: dict[str, Callable[[nn.Sequential], None]] = {
    "loaded": _loaded,
    "in place": _in_place,
    "data": _data,
    "numpy": _numpy,
    "other memory": _other_memory,
    "optimiser": _optimiser,
}


@every_method
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_the_user_changes_are_seen(name: str, change: str) -> None:
    x, y = clouds()
    method = make(name, network())
    for _ in range(2):
        method.step(x, y)
    CHANGES[change](method.model)
    loss = F.cross_entropy(method.model(x), y)
    assert_steps_agree(method, x, y)
    CHANGES[change](method.model)
    expected = F.cross_entropy(method.model(x), y)
    assert not torch.equal(loss, expected)
    torch.testing.assert_close(method.step(x, y).loss, expected.detach(), rtol=1e-12, atol=0)


@every_method
def test_two_methods_of_one_model_see_each_other_s_steps(name: str) -> None:
    x, y = clouds()
    method = make(name, network())
    method.step(x, y)
    other = copy.copy(method)
    for _ in range(2):
        other.step(x, y)
        expected = F.cross_entropy(method.model(x), y)
        torch.testing.assert_close(method.step(x, y).loss, expected.detach(), rtol=1e-12, atol=0)


# --- after a step that failed ---


@every_method
@pytest.mark.parametrize("call", [1, 3, 5, 8, 12])
def test_an_interrupted_step_leaves_nothing_behind(name: str, call: int) -> None:
    x, y = clouds()
    method = make(name, network(), loss=Failing())
    for _ in range(2):
        method.step(x, y)
    method.loss.calls_left = call
    with pytest.raises(KeyboardInterrupt):
        method.step(x, y)
    method.loss.calls_left = math.inf
    assert_steps_agree(method, x, y)


@every_method
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "free"])
@pytest.mark.parametrize("how", ["numpy", "data", "another tensor"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("row", [24, 25, 26])
def test_samples_that_are_not_finite_any_more_are_found(
    name: str, frozen: bool, how: str, wrong: float, row: int
) -> None:
    """In the forward pass, before any variable is lost, although the first product is kept; even a frozen layer's.

    Of samples that torch knows of no write to, a step looks at one in three here.
    """
    x, y = clouds(size=300)
    model = network()
    model[1].requires_grad_(not frozen)
    method = make(name, model, chunk_size=100)
    for _ in range(2):
        method.step(x, y)
    before = [tensor.clone() for tensor in variables(method)]
    good, number = x.clone(), x[row, 3].item()
    if how == "another tensor":
        x = x.clone()
    if how == "numpy":
        x.numpy()[row, 3] = wrong
    else:
        x.data[row, 3] = wrong
    with pytest.raises(altmin_ext.DivergenceError, match=r"the code of stage 1 .* x holds NaN or Inf"):
        method.step(x, y)
    assert all(map(torch.equal, before, variables(method)))
    x.numpy()[row, 3] = number
    assert_steps_agree(method, x, y)
    assert_steps_agree(method, good, y)


@every_method
def test_infinite_samples_that_an_activation_makes_finite_are_taken(name: str) -> None:
    x, y = clouds()
    method = make(name, nn.Sequential(nn.Tanh(), *network()[1:]))
    for _ in range(2):
        method.step(x, y)
    others = x.clone()
    others[25, 3] = math.inf
    assert_steps_agree(method, others, y)
    assert_steps_agree(method, x, y)


@every_method
def test_weights_that_were_wrong_for_a_step_leave_nothing_behind(name: str) -> None:
    """Put back, they are bit for bit those of the last good step, but what was kept meanwhile is not theirs."""
    x, y = clouds()
    method = make(name, network())
    for _ in range(2):
        method.step(x, y)
    good = method.model[1].weight.detach().clone()
    method.model[1].weight.data[0, 0] = math.nan
    with pytest.raises(altmin_ext.DivergenceError, match="the code of stage 1"):
        method.step(x, y)
    method.model[1].weight.data.copy_(good)
    assert_steps_agree(method, x, y)


# --- states ---


@every_method
@pytest.mark.parametrize("size", [SAMPLES, 33])
def test_a_state_that_is_loaded_brings_its_own_samples(name: str, size: int) -> None:
    """The first layer is frozen: its weights are the same, but its inputs are not."""
    (x, labels), (others, y) = clouds(), clouds(1, size)
    methods = []
    for samples, targets in ((x, labels), (others, y)):
        model = network()
        model[1].requires_grad_(False)
        methods.append(make(name, model))
        for _ in range(2):
            methods[-1].step(samples, targets)
    method, other = methods
    method.load_state_dict(other.state_dict())
    method.model.load_state_dict(other.model.state_dict())
    assert_steps_agree(method, others, y)
    assert_steps_agree(other, others, y)
    assert_equal(method, other)


@every_method
def test_an_earlier_state_is_gone_back_to(name: str) -> None:
    x, y = clouds()
    method = make(name, network())
    for _ in range(2):
        method.step(x, y)
    state, weights = method.state_dict(), copy.deepcopy(method.model.state_dict())
    twin = copy.deepcopy(method)
    for _ in range(2):
        method.step(x, y)
    method.load_state_dict(state)
    method.model.load_state_dict(weights)
    for one in (method, twin):
        for _ in range(2):
            one.step(x, y)
    assert_equal(method, twin)


@pytest.mark.parametrize("size", [SAMPLES, 33])
def test_another_training_set_after_the_variables_are_lost(size: int) -> None:
    """A step that fails in the sweep forgets the samples, too; the next may bring others."""
    (x, y), (others, _) = clouds(), clouds(1)
    model = network()
    model[1].requires_grad_(False)
    method = make("dladmm", model, loss=Failing())
    method.step(x, y)
    method.loss.calls_left = 7  # four chunks have been encoded
    with pytest.raises(KeyboardInterrupt):
        method.step(x, y)
    method.loss.calls_left = math.inf
    assert_steps_agree(method, others[:size], y[:size])
