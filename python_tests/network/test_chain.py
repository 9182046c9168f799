"""Chains of pieces, and what a pre-map says of itself.

Oracles: nn.Sequential of the same modules, with torch.func's products in float64; for the properties of a pre-map,
the modules' own outputs, and the norm of the dense Jacobian for its Lipschitz bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altmin_ext.network import Chain, PreMap
from altmin_ext.nn import Sign

from .modules import BATCH, Power, as_function, module_and_points, piece

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-11}

CHAINS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "linear, norm, linear": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)), (5,),
    ),
    "convolution, pool, linear": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3), nn.GELU()),
        (1, 6, 6),
    ),
    "others": (lambda: nn.Sequential(nn.PReLU(), Power(), nn.LayerNorm(5), nn.Linear(5, 4)), (5,)),
    "nothing": (lambda: nn.Sequential(), (3,)),
}  # fmt: skip


def chain_of(modules: nn.Sequential) -> Chain:
    return Chain([piece(module) for module in modules])


@pytest.mark.parametrize("case", CHAINS)
def test_a_chain_is_the_sequential(case: str) -> None:
    module, a, delta = module_and_points(CHAINS[case])
    assert isinstance(module, nn.Sequential)
    f, chain = as_function(module), chain_of(module)
    unit = torch.tensor(0.1, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(chain.begin(a), f(a), **EXACT)
        torch.testing.assert_close(chain.move(delta, unit), (f(a + unit * delta) - f(a)) / unit, **EXACT)
        torch.testing.assert_close(chain.value(a - delta), f(a - delta), **EXACT)

    def of_parameters(parameters: dict[str, Tensor]) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        output: Tensor = torch.func.functional_call(module, (parameters, buffers), (a - delta,))
        return output

    value, vjp, *_ = torch.func.vjp(f, a - delta)
    gradient = torch.randn_like(value)
    named = {name: p.detach() for name, p in module.named_parameters()}
    expected = torch.func.vjp(of_parameters, named)[1](gradient)[0] if named else {}
    with torch.no_grad():
        torch.testing.assert_close(chain.vjp(gradient), vjp(gradient)[0], **EXACT)
        torch.testing.assert_close(chain.parameter_gradients(gradient), list(expected.values()), **EXACT)


class OwnStep(nn.Module):
    """A step of one's own, with a surrogate derivative."""

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        smooth = torch.sigmoid(x - self.threshold)
        return (x > self.threshold).to(x.dtype) + (smooth - smooth.detach())


class Within(nn.Module):
    """A block that jumps in front of what its formula adds up."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.sign, self.linear = nn.ReLU(), Sign("clipped"), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.linear(x) + self.sign(self.relu(x))
        return total


# What is behind jumps, or has a kink, where what is in front puts many of its numbers: 0 or 1.
EXACT_NUMBERS: dict[str, Callable[[], nn.Sequential]] = {
    "relu, sign": lambda: nn.Sequential(nn.ReLU(), Sign()),
    "sign, clipped sign": lambda: nn.Sequential(Sign(), Sign("clipped")),
    "relu, dropout, sign": lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.5).eval(), Sign("clipped")),
    "relu, flatten, own step": lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), OwnStep()),
    "relu, power, sign": lambda: nn.Sequential(nn.ReLU(), Power(), Sign()),
    "own step, own step at 1": lambda: nn.Sequential(OwnStep(), OwnStep(1.0)),
    "own step, relu": lambda: nn.Sequential(OwnStep(), nn.ReLU()),
    "sign, pool": lambda: nn.Sequential(Sign(), nn.Unflatten(1, (1, 4, 4)), nn.MaxPool2d(2)),
    "sign, pool, clipped sign": lambda: nn.Sequential(
        Sign(), nn.Unflatten(1, (1, 4, 4)), nn.MaxPool2d(2), nn.Tanh(), nn.LeakyReLU(-1.0), Sign("clipped")
    ),
    "block": lambda: nn.Sequential(Within()),
    "relu, block": lambda: nn.Sequential(nn.ReLU(), Within()),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", EXACT_NUMBERS)
def test_rounding_does_not_decide_on_which_side_of_a_jump_an_exact_number_is(
    case: str, dtype: torch.dtype
) -> None:
    """Oracle: the modules' own values and derivatives where the chain has been moved to."""
    torch.manual_seed(0)
    module = EXACT_NUMBERS[case]().to(dtype)
    chain = PreMap([piece(part) for part in module])
    for unit in torch.rand(40, dtype=torch.float64):
        a, delta = torch.randn(2, 6, 16, dtype=dtype)
        point = (a + unit * delta).requires_grad_()
        expected = module(point)
        with torch.no_grad():
            chain.begin(a)
            change = unit * chain.move(delta, unit.to(dtype))
            gradient = torch.randn_like(expected)
            tolerance = 1e-12 if dtype == torch.float64 else 1e-5
            torch.testing.assert_close(change, expected - module(a), rtol=0, atol=tolerance)
            pulled_back = chain.vjp(gradient)
        (by_torch,) = torch.autograd.grad(expected, point, gradient)
        torch.testing.assert_close(pulled_back, by_torch, rtol=0, atol=tolerance)


def test_products_of_samples_go_through_every_piece() -> None:
    module, a, _ = module_and_points(CHAINS["convolution, pool, linear"])
    assert isinstance(module, nn.Sequential)
    f, chain = as_function(module), chain_of(module)
    v, g = torch.randn_like(a[:2]), torch.randn(2, 3, dtype=torch.float64)
    with torch.no_grad():
        chain.begin(a)
        torch.testing.assert_close(chain.sample_jvp(v), torch.func.jvp(f, (a[:2],), (v,))[1], **EXACT)
        torch.testing.assert_close(chain.sample_vjp(g), torch.func.vjp(f, a[:2])[1](g)[0], **EXACT)


@pytest.mark.parametrize("case", CHAINS)
def test_the_shape_of_an_output_is_tried_without_a_trace(case: str) -> None:
    module, a, _ = module_and_points(CHAINS[case])
    assert isinstance(module, nn.Sequential)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    assert chain_of(module).output_shape(a.shape[1:], a[:0]) == module(a).shape[1:]
    module.load_state_dict(before)
    chain_of(module).output_shape(a.shape[1:], a[:0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_an_input_that_does_not_fit_is_half_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"^fails with '[^\n]*[^.]'$"):
        chain_of(nn.Sequential(nn.Linear(5, 6))).output_shape(torch.Size([4]), torch.empty(0))


def test_what_saves_its_output_says_so() -> None:
    assert not chain_of(nn.Sequential(nn.Linear(2, 2), nn.Tanh())).saves_output
    assert chain_of(nn.Sequential(nn.Linear(2, 2), Power())).saves_output


# --- pre-maps ---


def pre_map(*modules: nn.Module) -> PreMap:
    return PreMap([piece(module) for module in modules])


FUSED: dict[str, tuple[list[nn.Module], str | None]] = {
    "nothing": ([], "identity"),
    "identities": ([nn.Identity(), nn.Identity()], "identity"),
    "relu": ([nn.ReLU()], "relu"),
    "relu, flatten, dropout": ([nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)], "relu"),
    "dropout": ([nn.Dropout(0.5)], "identity"),
    "tanh, sign": ([nn.Tanh(), Sign("clipped")], "sign_of_tanh"),
    "identity, sign": ([nn.Identity(), Sign("none")], "sign_none"),
    "sign, tanh": ([Sign(), nn.Tanh()], None),
    "dropout, relu": ([nn.Dropout(0.5), nn.ReLU()], None),
    "two dropouts": ([nn.Dropout(0.5), nn.Dropout(0.5)], None),
    "two activations": ([nn.ReLU(), nn.Tanh()], None),
    "relu, pool": ([nn.ReLU(), nn.MaxPool2d(2)], None),
    "another": ([Power()], None),
}


@pytest.mark.parametrize("case", FUSED)
def test_one_activation_for_all_that_the_kernels_compute(case: str) -> None:
    """Where there is one, and a mask, together they are the pre-map."""
    modules, name = FUSED[case]
    pre = pre_map(*modules)
    assert (pre.activation.name if pre.activation is not None else None) == name
    if pre.activation is None:
        return
    c = torch.randn(BATCH, 30)
    torch.manual_seed(0)
    mask = pre.draw_mask(c)
    torch.manual_seed(0)
    expected = nn.Sequential(*modules)(c)
    value = pre.activation.value(c)
    torch.testing.assert_close(value if mask is None else value * mask, expected)


POOLED: dict[str, tuple[list[nn.Module], int | None]] = {
    "relu, pool": ([nn.ReLU(), nn.MaxPool2d(2)], 2),
    "pool, tanh, flatten": ([nn.MaxPool2d(3), nn.Tanh(), nn.Flatten()], 3),
    "leaky relu": ([nn.LeakyReLU(0.2), nn.Flatten()], 1),
    "pool": ([nn.MaxPool2d(2)], 2),
    "leaky relu that falls": ([nn.LeakyReLU(-0.2), nn.MaxPool2d(2)], None),
    "gelu, which falls": ([nn.GELU(), nn.MaxPool2d(2)], None),
    "sign": ([Sign(), nn.MaxPool2d(2)], None),
    "overlapping": ([nn.ReLU(), nn.MaxPool2d(3, 2)], None),
    "flatten in between": ([nn.ReLU(), nn.Flatten(1, 2), nn.MaxPool2d(2)], None),
    "dropout": ([nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)], None),
}


@pytest.mark.parametrize("case", POOLED)
def test_one_pooled_activation_where_the_largest_code_of_a_window_tells_all(case: str) -> None:
    modules, pool = POOLED[case]
    pre = pre_map(*modules)
    assert (pre.pool if pre.pooled_activation is not None else None) == pool
    if pre.pooled_activation is not None:
        c = torch.randn(BATCH, 2, 6, 6)
        expected = nn.Sequential(*modules)(c)
        torch.testing.assert_close(
            pre.pooled_activation.value(F.max_pool2d(c, pre.pool)).reshape(expected.shape), expected
        )


@pytest.mark.parametrize(
    ("modules", "is_identity", "rests", "keeps_shape"),
    [
        ([], True, True, True),
        ([nn.Identity()], True, True, True),
        ([nn.Flatten()], False, True, True),
        ([nn.ReLU()], False, True, True),
        ([nn.ReLU(), nn.Dropout()], False, False, True),
        ([nn.Tanh()], False, False, True),
        ([nn.MaxPool2d(2)], False, False, False),
        ([Power()], False, False, False),
    ],
    ids=str,
)
def test_properties(modules: list[nn.Module], is_identity: bool, rests: bool, keeps_shape: bool) -> None:
    """By their definitions: nothing acts; all that passes is unchanged; (n,) features stay (n,) features."""
    pre = pre_map(*modules)
    assert (pre.is_identity, pre.is_relu_or_identity, pre.keeps_shape) == (is_identity, rests, keeps_shape)


def test_a_sign_without_derivative_is_found_anywhere() -> None:
    assert pre_map(nn.Dropout(), Sign("none"), Power()).has_sign_without_derivative
    assert pre_map(nn.Tanh(), Sign("none")).has_sign_without_derivative
    assert not pre_map(nn.Tanh(), Sign("clipped")).has_sign_without_derivative


def test_the_lipschitz_bound_is_that_of_all_pieces() -> None:
    """1.1289 of gelu, 1 / .8 of a dropout, 2 of a 3 x 3 pooling by steps of 2; none where one has none."""
    pre = pre_map(nn.GELU(), nn.MaxPool2d(3, 2), nn.Dropout(0.2))
    assert pre.lipschitz == pytest.approx(1.1289041 * 2 / 0.8)
    assert pre_map().lipschitz == 1.0
    assert pre_map(nn.ReLU(), Power()).lipschitz is None


def test_unfused_has_a_piece_for_every_module_that_acts() -> None:
    pre = pre_map(nn.Identity(), nn.Tanh(), Sign(), nn.Flatten())
    assert len(pre.unfused) == 3
    assert len(pre.pieces) == 2
