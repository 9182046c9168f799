"""Maps: their products, and which modules have one of their own.

Oracles: torch.func on the modules themselves, in float64; the general map, which torch differentiates, for one that
knows its own products.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext.network import EvaluatedMap, LinearMap, LocalMap, known_maps, split
from altmin_ext.network.maps import map_of

from .low_rank import LowRank, LowRankMap
from .modules import AFFINE, NORMALISATIONS, OTHERS, as_function, module_and_points, piece

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-11}
CASES = AFFINE | NORMALISATIONS | OTHERS | {"low rank": (lambda: LowRank(5, 4, 2), (5,))}
# A stage's Linear takes (n_in,) features per sample, see test_a_linear_map_says_what_it_takes.
CASES = {
    case: entry
    for case, entry in CASES.items()
    if any(True for _ in entry[0]().parameters()) and case != "linear on sequences"
}


def map_for(module: nn.Module) -> EvaluatedMap:
    like = next(module.parameters()).detach().new_empty(0)
    map = map_of([module], [piece(module)], like)
    map.allocate(like)
    return map


def flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(len(tensor), -1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("buffered", [False, True])
def test_products(case: str, buffered: bool) -> None:
    """With what the caller adds: the bias, and its gradient, the sum of the residual."""
    module, a, delta = module_and_points(CASES[case])
    f, map = as_function(module), map_for(module)
    unit = torch.tensor(0.1, dtype=torch.float64)
    point = a + unit * delta
    with torch.no_grad():
        bias: Tensor | float = 0.0 if map.bias is None else map.bias

        def out(like: Tensor) -> Tensor | None:
            return torch.empty_like(like) if buffered and map.uses_buffers else None

        value = f(a)
        torch.testing.assert_close(map.encode(a, out(value)) + bias, value, **EXACT)
        moved = map.move(delta, unit, out(value))
        torch.testing.assert_close(moved, (f(point) - value) / unit, **EXACT)
        torch.testing.assert_close(map.forward(point, out(value)) + bias, f(point), **EXACT)
    residual = torch.randn_like(value)
    expected = torch.func.vjp(f, point)[1](residual)[0]
    trained = {name: p.detach() for name, p in module.named_parameters()}

    def of_parameters(parameters: dict[str, Tensor]) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        output: Tensor = torch.func.functional_call(module, (parameters, buffers), (point.clone(),))
        return output

    gradients = torch.func.vjp(of_parameters, trained)[1](residual)[0]
    with torch.no_grad():
        torch.testing.assert_close(map.vjp(residual, out(a)), expected, **EXACT)
        map.weight_gradients(residual, point)
        if map.bias_gradient is not None:
            map.bias_gradient.copy_(residual.sum(0))
    assert [id(p) for p in map.parameters] == [id(p) for p in module.parameters()]
    torch.testing.assert_close(map.gradients, list(gradients.values()), **EXACT)
    assert map.output_shape(a.shape[1:]) == value.shape[1:]


@pytest.mark.parametrize("case", ["linear", "conv2d", "block", "low rank"])
def test_products_of_samples(case: str) -> None:
    module, a, _ = module_and_points(CASES[case])
    f, map = as_function(module), map_for(module)
    v = torch.randn_like(a[:2])
    expected = torch.func.jvp(f, (a[:2],), (v,))[1]
    g = torch.randn_like(expected)
    with torch.no_grad():
        map.encode(a, None)
        torch.testing.assert_close(map.sample_jvp(v), expected, **EXACT)
        torch.testing.assert_close(map.sample_vjp(g), torch.func.vjp(f, a[:2])[1](g)[0], **EXACT)


@pytest.mark.parametrize("case", ["linear", "conv2d", "batchnorm1d", "low rank"])
def test_a_frozen_parameter_has_no_buffer(case: str) -> None:
    module, a, _ = module_and_points(CASES[case])
    frozen, *rest = module.parameters()
    frozen.requires_grad_(False)
    map = map_for(module)
    assert [id(p) for p in map.parameters] == [id(p) for p in rest]
    assert [g.shape for g in map.gradients] == [p.shape for p in rest]
    assert map.gradient_of(frozen) is None
    assert map.gradient_of(None) is None
    assert map.gradient_of(rest[0]) is map.gradients[0]
    with torch.no_grad():
        map.weight_gradients(torch.randn_like(map.encode(a, None)), a)


def test_a_linear_map_follows_its_weight_to_other_memory() -> None:
    """``parameter.data = ...`` gives the same object other memory, of which no view may be left behind."""
    linear, x = nn.Linear(4, 3, bias=False), torch.randn(5, 4)
    map = LinearMap(linear)
    with torch.no_grad():
        map.forward(x, None)
        linear.weight.data = torch.randn(3, 4)
        torch.testing.assert_close(map.forward(x, None), x @ linear.weight.t())


def test_a_linear_map_takes_any_strides() -> None:
    """Products are of contiguous matrices, which inputs and residuals need not be."""
    map = LinearMap(nn.Linear(4, 3, bias=False))
    map.allocate(torch.empty(0))
    x, residual = torch.randn(4, 5).T, torch.randn(5, 1).expand(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(map.forward(x, None), x @ map.weight.T)
        torch.testing.assert_close(map.vjp(residual, None), residual @ map.weight)
        map.weight_gradients(residual, x)
    torch.testing.assert_close(map.gradients[0], residual.T @ x)


@pytest.mark.parametrize("shape", [(4,), (2, 5), ()])
def test_a_linear_map_says_what_it_takes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^takes 5 features$"):
        LinearMap(nn.Linear(5, 3)).output_shape(torch.Size(shape))
    with pytest.raises(ValueError, match=r"^takes 6 features; add a Flatten in front$"):
        LinearMap(nn.Linear(6, 3)).output_shape(torch.Size([2, 3]))


CONVOLUTIONS: dict[str, tuple[nn.Module, bool]] = {
    "plain": (nn.Conv2d(3, 32, (5, 3), padding=(2, 1)), True),
    "stride": (nn.Conv2d(3, 4, 3, stride=2), False),
    "dilation": (nn.Conv2d(3, 4, 3, dilation=2), False),
    "groups": (nn.Conv2d(4, 4, 3, groups=2), False),
    "large": (nn.Conv2d(3, 4, 7), False),
    "wide": (nn.Conv2d(3, 33, 3), False),
    "circular": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), False),
    "padding by name": (nn.Conv2d(3, 4, 3, padding="same"), False),
    "all padding": (nn.Conv2d(3, 4, 1, padding=1), False),
    "one dimension": (nn.Conv1d(3, 4, 3), False),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_which_convolutions_the_kernels_compute(case: str) -> None:
    """Those with stride 1, 5 x 5 and 32 channels at most, and zeros around, fewer than the kernel is wide."""
    module, suits = CONVOLUTIONS[case]
    map = map_for(module)
    assert isinstance(map, LocalMap)
    assert map.affine is module
    assert (map.convolution is module) == suits


def test_several_modules_are_no_single_one() -> None:
    modules = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)]
    map = map_of(modules, [piece(module) for module in modules], torch.empty(0))
    assert map.affine is None
    assert map.convolution is None
    linear = [nn.Linear(3, 2), nn.BatchNorm1d(2)]
    assert isinstance(map_of(linear, [piece(module) for module in linear], torch.empty(0)), LocalMap)


def test_a_subclass_of_a_linear_is_not_taken_for_one() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    module, x = Doubled(3, 2), torch.randn(4, 3)
    with torch.no_grad():
        assert torch.equal(map_for(module).encode(x, None), module(x))


# --- a map of one's own ---


def chain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(LowRank(6, 8, 3), nn.Tanh(), LowRank(8, 5, 2), nn.ReLU(), nn.Linear(5, 3)).double()


OPTIONS: list[dict[str, Any]] = [{}, {"code_iterations": 3, "weight_iterations": 2}, {"l1_codes": 0.1}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_map_of_ones_own_takes_the_steps_of_the_general_one(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, general = chain(), chain()
    method = altmin_ext.make_method("am-adam", own, lr_codes=0.3, **options)
    assert [type(stage.map) for stage in split(own)] == [LowRankMap, LowRankMap, LinearMap]
    monkeypatch.delitem(known_maps, LowRank)
    reference = altmin_ext.make_method("am-adam", general, lr_codes=0.3, **options)
    assert [type(stage.map) for stage in split(general)] == [LocalMap, LocalMap, LinearMap]
    for number in range(10):
        x = torch.randn(9, 6, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        y = torch.arange(9) % 3
        losses = [float(m.step(x, y).loss) for m in (method, reference)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    for one, other in zip(own.parameters(), general.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_map_of_ones_own_has_the_step_sizes_of_its_matrix() -> None:
    model = chain()
    method = altmin_ext.make_method("am-adam", model, lr=0.0)
    for _ in range(60):
        method.step(torch.randn(9, 6, dtype=torch.float64), torch.arange(9) % 3)
    norm = float(torch.linalg.matrix_norm((model[2].U @ model[2].V).detach(), 2))
    assert float(method.code_step_sizes[0]) == pytest.approx(1 / (1 + norm**2), rel=1e-3)


@pytest.mark.parametrize("frozen", [None, "0.weight", "0.bias", "1.weight"], ids=str)
def test_a_map_of_several_modules_writes_each_gradient_to_its_own_buffer(frozen: str | None) -> None:
    """As autograd differentiates the chain, whichever parameter is left out, and a second time, too."""
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double()
    for name, parameter in chain.named_parameters():
        parameter.requires_grad_(name != frozen)
    map = map_of(list(chain), [piece(module) for module in chain], torch.empty(0, dtype=torch.float64))
    map.allocate(torch.empty(0, dtype=torch.float64))
    buffers = list(map.gradients)
    for _ in range(2):
        a, residual = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
        trained = [p for p in chain.parameters() if p.requires_grad]
        expected = torch.autograd.grad(chain(a), trained, residual)
        with torch.no_grad():
            map.encode(a, None)
            map.weight_gradients(residual, a)
        assert [id(buffer) for buffer in map.gradients] == [id(buffer) for buffer in buffers]
        torch.testing.assert_close(buffers, list(expected), **EXACT)
