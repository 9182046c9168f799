"""activation_difference: (sigma(code + unit moved) - sigma(code)) / unit.

Oracle: identities of the activations in float64, by which nothing cancels; test_activation.py checks them against 60
digits.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import Activation, reference

from . import oracle
from .calling import Output, Random, assert_accurate, assert_close, call, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

SHAPES = ((), (0, 3), (1,), (3, 33), (2, 3, 5, 7), (70, 130))
UNITS = (1.0, 0.1, 1e-3, 1e-6, 1e-20)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def arguments(
    random: Random, shape: tuple[int, ...], sigma: Activation, unit: float = 1e-3, point: bool = True
) -> dict[str, Any]:
    code, moved = random.normal(*shape, scale=2.0), random.normal(*shape)
    some = code.flatten()[: code.numel() // 3]
    some *= unit / 2  # across zero
    return {
        "code": code.float().double(),
        "moved": moved,
        "unit": number(unit),
        "point": Output(shape) if point else None,
        "difference": Output(shape),
        "sigma": sigma,
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return arguments(random, (70, 260), Activation("gelu"), unit=0.1)


def exact(case: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """With the unit as this dtype holds it."""
    unit = float(case["unit"].to(dtype))
    return oracle.difference(case["sigma"], case["code"], -case["moved"], unit)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
@pytest.mark.parametrize("unit", UNITS)
def test_against_float64(sigma: Activation, unit: float) -> None:
    random = Random(91)
    for shape in SHAPES:
        case = arguments(random, shape, sigma, unit)
        kernel, twin = (
            call(op, case, torch.float32)
            for op in (ops.activation_difference, reference.activation_difference)
        )
        assert_accurate(kernel.difference, twin.difference, exact(case, torch.float32), f"{shape}")
        assert_accurate(kernel.point, twin.point, case["code"] + unit * case["moved"], f"{shape}")
        result = call(ops.activation_difference, case, torch.float64)
        assert_close(result.difference, exact(case, torch.float64), 1e-11, f"{shape}")
        assert_close(result.point, case["code"] + unit * case["moved"], 1e-15, f"{shape}")


@pytest.mark.usefixtures("kernels")
def test_a_unit_that_underflows() -> None:
    """What is left is the slope to the side of the move, also of a relu's unit whose code is zero."""
    code = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-20, -1e-20], dtype=torch.float64).repeat(6)
    moved = torch.tensor([1.0, -1.0, 0.5, -0.5, 3.0, -3.0], dtype=torch.float64).repeat_interleave(6)
    case = {"code": code, "moved": moved, "unit": number(1e-50), "point": None, "difference": Output((36,))}
    for sigma in oracle.SIGMAS:
        result = call(ops.activation_difference, {**case, "sigma": sigma}, torch.float32).difference
        assert result.isfinite().all(), oracle.label(sigma)
    relu = call(ops.activation_difference, {**case, "sigma": Activation("relu")}, torch.float32).difference
    assert torch.equal(relu, torch.where((code > 0) | ((code == 0) & (moved > 0)), moved, 0).float())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
def test_a_unit_that_float32_cannot_hold(sigma: Activation) -> None:
    """The change per unit is that of float64, also from a code of zero; only signs, whose jump it is not, stay.

    At a kink of leaky_relu or elu the slope of either side will do.
    """
    random = Random(96)
    case = arguments(random, (9, 33), sigma, unit=1e-60)
    case["code"] = random.normal(9, 33, scale=2.0).float().double()
    if sigma.name not in ("leaky_relu", "elu"):
        case["code"][::2, ::2] = 0
    expected = torch.zeros(9, 33).double() if sigma.jumps else exact(case, torch.float64)
    result = call(ops.activation_difference, case, torch.float32).difference
    assert_close(result, expected, 1e-6, "difference")


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_point_may_be_left_out(dtype: torch.dtype) -> None:
    random = Random(92)
    for sigma in oracle.SIGMAS:
        case = arguments(random, (7, 33), sigma)
        both = call(ops.activation_difference, case, dtype)
        alone = call(ops.activation_difference, {**case, "point": None}, dtype)
        assert same_bits(alone.difference, both.difference), oracle.label(sigma)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["code", "moved"])
def test_nan_stays_where_it_is(name: str, dtype: torch.dtype) -> None:
    others = torch.ones(9, 33, dtype=torch.bool)
    others[4, 17] = False
    for sigma in oracle.SIGMAS:
        for op in (ops.activation_difference, reference.activation_difference):
            if name == "code" and sigma.name == "identity":
                continue  # whose change does not depend on the code
            case = arguments(Random(93), (9, 33), sigma)
            clean = call(op, case, dtype).difference
            case[name][4, 17] = float("nan")
            result = call(op, case, dtype).difference
            assert torch.isnan(result[4, 17]), oracle.label(sigma)
            assert same_bits(result[others], clean[others]), oracle.label(sigma)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_threads_change_nothing(name: str, dtype: torch.dtype) -> None:
    case = arguments(Random(94), (301, 127), Activation(name))
    alone, both = (call(ops.activation_difference, case, dtype, threads=threads) for threads in (1, 2))
    assert same_bits(both.difference, alone.difference)
    assert same_bits(both.point, alone.point)


def test_the_unit_is_an_entry_of_a_parameter_block() -> None:
    case = arguments(Random(95), (3, 5), Activation("tanh"), unit=0.25)
    block = torch.full((4,), float("nan"), dtype=torch.float64)
    block[2] = 0.25
    entry = call(ops.activation_difference, {**case, "unit": block[2]}, torch.float32)
    assert same_bits(entry.difference, call(ops.activation_difference, case, torch.float32).difference)


def test_bad_arguments_are_refused() -> None:
    case = {
        "code": torch.zeros(3, 4), "moved": torch.zeros(3, 4), "unit": number(1.0), "point": Output((3, 4)),
        "difference": Output((3, 4)), "sigma": Activation("relu"),
    }  # fmt: skip
    assert_refuses_bad_tensors(ops.activation_difference, case, optional=("point",), chooses_backend="code")
    assert_refuses_shared_memory(ops.activation_difference, case, allowed=[])
