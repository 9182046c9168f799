"""activate: code <- code + bias; activation = mask * sigma(code)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from altmin_ext import ops
from altmin_ext.ops import Activation, reference

from . import oracle
from .calling import Output, Random, assert_accurate, assert_close, call, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

EXTENTS = (0, 1, 3, 31, 32, 33, 127, 200)
SHAPES = tuple(itertools.product(EXTENTS, EXTENTS))
RELU = Activation("relu")


def arguments(
    random: Random, batch: int, width: int, sigma: Activation = RELU, bias: bool = True, mask: bool = False
) -> dict[str, Any]:
    return {
        "code": random.normal(batch, width, scale=2.0),
        "bias": random.normal(width) if bias else None,
        "mask": random.mask(batch, width) if mask else None,
        "activation": Output((batch, width)),
        "sigma": sigma,
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return {
        "code": random.normal(70, 260),
        "bias": random.normal(260),
        "mask": random.mask(70, 260),
        "activation": Output((70, 260)),
        "sigma": Activation("gelu"),
    }


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_float64(sigma: Activation, dtype: torch.dtype) -> None:
    random = Random(1)
    for batch, width in SHAPES:
        case = arguments(random, batch, width, sigma, bias=random.flip(), mask=random.flip())
        result = call(ops.activate, case, dtype)
        twin = call(reference.activate, case, dtype)
        # What is tested is sigma, at the code that this dtype holds.
        exact = oracle.value(sigma, result.code.double())
        exact = exact if case["mask"] is None else exact * case["mask"]
        what = f"{batch} x {width}"
        assert same_bits(result.code, twin.code), what
        if dtype == torch.float32:
            assert_accurate(result.activation, twin.activation, exact, what)
        else:
            assert_close(result.activation, exact, 1e-14, what)
        assert result.guard == 0


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
def test_far_from_zero(sigma: Activation) -> None:
    """Where exponentials saturate and the large values of one unit must not hide the errors of another."""
    ends = torch.tensor(
        [0.0, 1e-30, 1e-6, 0.6, 0.7, 5.0, 9.0, 16.0, 25.0, 60.0, 87.0, 89.0, 200.0, 1e4, 1e18]
    )
    for code in torch.cat([ends, -ends]).split(1):
        case = {
            "code": code[None].double(),
            "bias": None,
            "mask": None,
            "activation": Output((1, 1)),
            "sigma": sigma,
        }
        exact = oracle.value(sigma, code.float().double())
        result, twin = (call(op, case, torch.float32).activation for op in (ops.activate, reference.activate))
        error, plain = (abs(float(a) - float(exact)) for a in (result, twin))
        eps = torch.finfo(torch.float32).eps
        # Below 1 an absolute error of eps does: the activations are made from numbers of the size of 1.
        assert error <= 2 * plain + 4 * eps * max(abs(float(exact)), 0.25), f"at {float(code)}"


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "elu", "tanh", "sigmoid", "softplus", "relu"])
def test_the_largest_codes(name: str) -> None:
    """All of these are 0 or constant far below zero, and c or constant far above."""
    sigma = Activation(name, 1.0)
    code = torch.tensor([[-3e38, -1e30, -1e20, -200.0, 200.0, 1e20, 1e30, 3e38]]).double()
    result = call(ops.activate, {"code": code, "activation": Output((1, 8)), "sigma": sigma}, torch.float32)
    at_200 = oracle.value(sigma, torch.tensor([-200.0, 200.0]).double())
    below = at_200[0].expand(4)
    above = code[0, 4:].float().double() if at_200[1] == 200 else at_200[1].expand(4)
    exact = torch.cat([below, above])
    assert torch.allclose(result.activation[0].double(), exact, rtol=1e-6, atol=1e-30)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_place_is_the_same(dtype: torch.dtype) -> None:
    random = Random(2)
    for sigma, (batch, width) in itertools.product(oracle.SIGMAS, [(0, 4), (1, 1), (3, 33), (31, 7)]):
        case = arguments(random, batch, width, sigma, bias=random.flip(), mask=random.flip())
        apart = call(ops.activate, case, dtype)
        in_place = call(ops.activate, case, dtype, alias={"activation": "code"})
        assert same_bits(in_place.activation, apart.activation), oracle.label(sigma)
        assert in_place.guard == 0


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [(0, 0), (4, 17), (8, 32)])
def test_nonfinite_codes_raise_the_guard(
    sigma: Activation, dtype: torch.dtype, place: tuple[int, int]
) -> None:
    random = Random(3)
    for bad in (float("nan"), float("inf"), -float("inf")):
        case = arguments(random, 9, 33, sigma, mask=True)
        case["code"][place] = bad
        result = call(ops.activate, case, dtype)
        assert result.guard == 1
        if bad != bad:
            assert torch.isnan(result.activation[place])
        case["code"][place] = 0.0
        clean = call(ops.activate, case, dtype)
        others = torch.ones(9, 33, dtype=torch.bool)
        others[place] = False
        assert same_bits(result.activation[others], clean.activation[others])
        assert clean.guard == 0


def test_a_nonfinite_bias_raises_the_guard() -> None:
    case = arguments(Random(4), 3, 5)
    case["bias"][2] = float("nan")
    assert call(ops.activate, case).guard == 1


@pytest.mark.usefixtures("kernels")
def test_a_large_code_is_finite() -> None:
    """Its square is not, in float32, which must not pass for divergence."""
    case = arguments(Random(5), 3, 5)
    case["code"][1, 2] = 1e20
    assert call(ops.activate, case, torch.float32).guard == 0


def test_the_guard_is_never_lowered_and_may_be_absent() -> None:
    case = arguments(Random(6), 3, 5)
    assert call(ops.activate, {**case, "guard": torch.ones(1)}).guard == 1
    call(ops.activate, {**case, "guard": None})


@pytest.mark.usefixtures("kernels")
def test_relu_at_and_below_zero() -> None:
    case = arguments(Random(7), 1, 4, bias=False)
    case["code"] = torch.tensor([[0.0, -0.0, -1.0, -float("inf")]])
    assert torch.equal(call(ops.activate, case, torch.float32).activation, torch.zeros(1, 4))


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [RELU, Activation("tanh"), Activation("gelu")], ids=oracle.label)
def test_threads_change_nothing(sigma: Activation, dtype: torch.dtype) -> None:
    case = arguments(Random(8), 301, 127, sigma, mask=True)
    alone, both = (call(ops.activate, case, dtype, threads=threads) for threads in (1, 2))
    assert same_bits(both.code, alone.code)
    assert same_bits(both.activation, alone.activation)


def test_every_thread_raises_the_guard() -> None:
    for row in (0, 300):
        case = arguments(Random(9), 301, 127)
        case["code"][row, 5] = float("nan")
        assert call(ops.activate, case, torch.float32, threads=2).guard == 1


def test_parameters_that_require_grad() -> None:
    """A bias is a Parameter of the user's model; nothing of autograd may be in the way."""
    case = arguments(Random(10), 3, 5)
    bias = torch.nn.Parameter(case["bias"].float())
    code, activation = case["code"].float(), torch.empty(3, 5)
    ops.activate(code, bias=bias, activation=activation, sigma=RELU)
    assert same_bits(activation, call(ops.activate, case, torch.float32).activation)


def test_bad_arguments_are_refused() -> None:
    case = {
        "code": torch.zeros(3, 4), "bias": torch.zeros(4), "mask": torch.zeros(3, 4), "activation": Output((3, 4)),
        "sigma": RELU, "guard": torch.zeros(1, dtype=torch.float64),
    }  # fmt: skip
    assert_refuses_bad_tensors(ops.activate, case, optional=("bias", "mask", "guard"), chooses_backend="code")
    in_place = (("activation", "code"), ("code", "activation"))
    assert_refuses_shared_memory(ops.activate, case, allowed=in_place)
