"""convolution_weight_gradient: the weight subproblem of a stage that convolves.

The oracle is the residual by torch's max_unpool2d and conv2d, and autograd through conv2d, in float64; and the
objective that it all comes from.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import CodeScalar, reference

from .calling import (
    Arguments,
    Output,
    Random,
    assert_accurate,
    assert_close,
    call,
    call_refused,
    code_block,
    same_bits,
)
from .convolution import LARGE, SEVERAL_BLOCKS, Shape, at_winners, geometry, images, random_winner, shapes
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory
from .test_convolve import POOLED, assert_refuses_bad_geometry

GRADIENTS = ("weight_gradient", "bias_gradient")


def case(
    random: Random,
    shape: Shape,
    *,
    moved: bool = True,
    below: bool = True,
    unit: float = 0.01,
    unit_below: float = 0.05,
    scale: float = 0.003,
) -> dict[str, Any]:
    """``moved``: whether the input has."""
    return {
        "displacement": random.normal(*shape.code),
        "winner": random_winner(random, shape),
        "weight": random.normal(*shape.weight),
        "input_displacement": random.normal(*shape.input) if moved else None,
        "input": random.normal(*shape.input),
        "weight_gradient": Output(shape.weight),
        "bias_gradient": Output((shape.outputs,)),
        "scalars": code_block(unit=unit, scale=scale),
        "below": code_block(unit=unit_below) if below else None,
        **geometry(shape),
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return case(random, SEVERAL_BLOCKS)


def formula(arguments: dict[str, Any], shape: Shape) -> dict[str, Tensor]:
    s = CodeScalar
    weight = arguments["weight"].clone().requires_grad_()
    expanded = at_winners(arguments["displacement"], arguments["winner"], shape)
    residual = arguments["scalars"][s.unit] * expanded
    if arguments["input_displacement"] is not None:
        unit_below = 1.0 if arguments["below"] is None else arguments["below"][s.unit]
        moved = images(arguments["input_displacement"])
        residual = residual + unit_below * F.conv2d(moved, arguments["weight"], padding=shape.padding)
    residual = residual / arguments["scalars"][s.scale]
    convolved = F.conv2d(images(arguments["input"]), weight, padding=shape.padding)
    gradient = torch.zeros_like(weight)
    if convolved.numel() and weight.numel():
        gradient = torch.autograd.grad(convolved, weight, residual)[0]
    return {
        "weight_gradient": gradient.detach(),
        "bias_gradient": residual.sum((0, 2, 3)),
        "residual_square": residual.square().sum(),
    }


def square_of(result: Arguments) -> float:
    return float(result.scalars[CodeScalar.residual_square])


def run(arguments: dict[str, Any], dtype: torch.dtype = torch.float64, threads: int = 1) -> Arguments:
    return call(ops.convolution_weight_gradient, arguments, dtype, threads=threads)


def assert_right(arguments: dict[str, Any], shape: Shape, dtype: torch.dtype) -> None:
    result, twin = run(arguments, dtype), call(reference.convolution_weight_gradient, arguments, dtype)
    expected = formula(arguments, shape)
    for name in GRADIENTS:
        if dtype == torch.float64:
            # Sums of many terms may cancel.
            size = float(expected["residual_square"].sqrt()) * 30
            assert (
                float((getattr(result, name) - expected[name]).abs().max()) <= 1e-14 * size
                if expected[name].numel()
                else True
            ), f"{name}, {shape}"
        else:
            assert_accurate(getattr(result, name), getattr(twin, name), expected[name], f"{name}, {shape}")
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert square_of(result) == pytest.approx(float(expected["residual_square"]), rel=tolerance, abs=1e-300)
    assert result.guard == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_float64(wide_kernels: str, dtype: torch.dtype) -> None:
    random = Random(141)
    for shape in shapes(wide_kernels):
        for moved in (True, False):
            assert_right(case(random, shape, moved=moved, below=random.flip()), shape, dtype)


@pytest.mark.usefixtures("wide_cpu_kernels")
def test_a_whole_minibatch() -> None:
    """LeNet-5's convolutions of 128 images: sums of 73,728 terms keep the digits that torch's keep."""
    for shape in (Shape(8, 1, 6, (28, 28), (5, 5), pool=2), Shape(8, 6, 16, (12, 12), (5, 5), pool=2)):
        for mean in (0.0, 1.0):
            arguments = case(Random(142), shape, unit=1.0, unit_below=1.0, scale=1.0)
            for name in ("displacement", "input"):
                arguments[name] = (arguments[name] + mean).float().double()
            assert_right(arguments, shape, torch.float32)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("unit", [1e-20, 1e-45, 1e-60])
def test_units_that_float32_cannot_hold(unit: float) -> None:
    """Only their quotients count."""
    options = {"unit": 3 * unit, "unit_below": unit, "scale": 2 * unit}
    assert_right(case(Random(143), POOLED, **options), POOLED, torch.float32)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("pool", [1, 2])
def test_it_is_the_gradient_of_the_weight_objective(pool: int) -> None:
    """Half the squared misfit of the codes from the updated input, divided by the scale, and differentiated."""
    random, unit, unit_below, scale = Random(144), 0.02, 0.1, 0.005
    shape = Shape(2, 2, 3, (8, 7), (3, 3), (1, 0), pool)
    arguments = case(random, shape, unit=unit, unit_below=unit_below, scale=scale)
    weight, bias = arguments["weight"].clone().requires_grad_(), random.normal(3).requires_grad_()
    after = images(arguments["input"])
    before = after - unit_below * images(arguments["input_displacement"])
    with torch.no_grad():
        at_encode = F.conv2d(before, weight, bias, padding=shape.padding)
    codes = at_encode - unit * at_winners(arguments["displacement"], arguments["winner"], shape)
    misfit = (F.conv2d(after, weight, bias, padding=shape.padding) - codes).square().sum() / 2
    (misfit / scale).backward()
    result = run(arguments)
    assert_close(result.weight_gradient, weight.grad, 1e-12)
    assert_close(result.bias_gradient, bias.grad, 1e-12)
    assert square_of(result) == pytest.approx(2 * float(misfit) / scale**2, rel=1e-12)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("missing", [*GRADIENTS, "guard"])
def test_what_nobody_needs_may_be_absent(missing: str) -> None:
    arguments = case(Random(145), POOLED)
    all_there, without = run(arguments), run({**arguments, missing: None})
    for name in (*GRADIENTS, "scalars"):
        assert name == missing or same_bits(getattr(without, name), getattr(all_there, name)), name


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["displacement", "input_displacement", "weight"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_residuals_that_are_not_finite_raise_the_guard(dtype: torch.dtype, name: str, bad: float) -> None:
    arguments = case(Random(146), POOLED)
    arguments[name].view(-1)[-1] = bad
    result = run(arguments, dtype)
    assert result.guard == 1
    assert not result.weight_gradient.isfinite().all()


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing_but_the_order_of_sums(dtype: torch.dtype) -> None:
    shape = LARGE[1]
    arguments = case(Random(147), shape)
    alone, both, again = (run(arguments, dtype, threads) for threads in (1, 2, 2))
    for name in (*GRADIENTS, "scalars"):
        assert same_bits(getattr(both, name), getattr(again, name)), name
        tolerance = 8 * torch.finfo(dtype).eps
        assert_close(getattr(both, name), getattr(alone, name).double(), tolerance, name)


def good_arguments(shape: Shape = POOLED) -> dict[str, Any]:
    arguments = case(Random(148), shape)
    for name in ("displacement", "weight", "input_displacement", "input"):
        arguments[name] = arguments[name].float()
    outputs = {name: torch.zeros(arguments[name].shape) for name in GRADIENTS}
    return {**arguments, **outputs, "guard": torch.zeros(1, dtype=torch.float64)}


def test_bad_arguments_are_refused() -> None:
    op, arguments = ops.convolution_weight_gradient, good_arguments()
    optional = ("winner", "input_displacement", "weight_gradient", "bias_gradient", "below", "guard")
    assert_refuses_bad_tensors(op, arguments, optional, "displacement", sets_shape=("weight", "input"))
    assert_refuses_shared_memory(op, arguments)
    assert_refuses_bad_geometry(op, arguments)
    call_refused(op, {**arguments, "winner": None}, ValueError, "winner", "given")
    unpooled = good_arguments(Shape(2, 2, 5, (9, 8), (3, 3)))
    winner = torch.zeros(unpooled["displacement"].shape, dtype=torch.uint8)
    call_refused(op, {**unpooled, "winner": winner}, ValueError, "winner", "None")
