"""weight_residual: what a hidden stage's weights do not explain of its code, divided by the stage's scale."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import CodeScalar, reference

from .calling import Output, Random, assert_accurate, call, code_block, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

EXTENTS = (0, 1, 3, 31, 32, 33, 127, 200)
INF, NAN = float("inf"), float("nan")


def arguments(
    random: Random,
    batch: int,
    width: int,
    *,
    product: bool = True,
    bias: bool = True,
    code: bool = True,
    bias_gradient: bool = True,
    below: bool = True,
    unit: float = 0.01,
    scale: float = 0.003,
    fitted: float = 1.0,
) -> dict[str, Any]:
    """``fitted``: the size of product + bias - code, which cancel where the encode explains its code."""
    shape = (batch, width)
    products, shift = random.normal(*shape), random.normal(width)
    codes = (
        ((products if product else 0) + (shift if bias else 0) + fitted * random.normal(*shape))
        .float()
        .double()
    )
    return {
        "displacement": random.normal(*shape),
        "product": products if product else None,
        "bias": shift if bias else None,
        "code": codes if code else None,
        "residual": Output(shape),
        "bias_gradient": Output((width,)) if bias_gradient else None,
        "scalars": code_block(unit=unit, scale=scale),
        "below": code_block(unit=0.05) if below else None,
    }


def random_arguments(random: Random, batch: int, width: int) -> dict[str, Any]:
    given = {name: random.flip() for name in ("product", "bias", "code", "bias_gradient", "below")}
    unit, fitted = random.choice((1.0, 0.01, 1e-20)), random.choice((1.0, 1e-3))
    return arguments(random, batch, width, **given, unit=unit, scale=unit / 3, fitted=fitted)


def formula(case: dict[str, Any]) -> dict[str, Tensor]:
    unit, scale = (float(case["scalars"][entry]) for entry in (CodeScalar.unit, CodeScalar.scale))
    factor = 1.0 if case["below"] is None else float(case["below"][CodeScalar.unit])
    nothing = torch.zeros(case["displacement"].shape, dtype=torch.float64)
    product, bias, code = (
        nothing if case[name] is None else case[name] for name in ("product", "bias", "code")
    )
    residual = (unit * case["displacement"] + factor * (product + bias - code)) / scale
    exact = {"residual": residual}
    if case["bias_gradient"] is not None:
        exact["bias_gradient"] = residual.sum(0)
    return exact


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alias", [{}, {"residual": "displacement"}, {"residual": "product"}], ids=str)
def test_against_float64(dtype: torch.dtype, alias: dict[str, str]) -> None:
    random = Random(51)
    for batch, width in itertools.product(EXTENTS, EXTENTS):
        case = random_arguments(random, batch, width)
        usable = {} if case["product"] is None and "product" in alias.values() else alias
        result = call(ops.weight_residual, case, dtype, usable)
        twin = call(reference.weight_residual, case, dtype)
        exact = formula(case)
        for name, value in exact.items():
            what = f"{name}, {batch} x {width}"
            if dtype == torch.float32:
                assert_accurate(getattr(result, name), getattr(twin, name), value, what)
            elif value.numel():
                # Where product, bias and code cancel, their own size is what rounds.
                size = 1.0 if case["code"] is None else float(case["scalars"][CodeScalar.scale]) ** -1
                bound = 1e-13 * max(float(value.abs().max()), size)
                torch.testing.assert_close(getattr(result, name), value, rtol=0, atol=bound, msg=what)
        square = float(exact["residual"].square().sum())
        # rel: the residual itself is rounded.
        tolerance = 1e-3 if dtype == torch.float32 else 1e-10
        assert float(result.scalars[CodeScalar.residual_square]) == pytest.approx(square, rel=tolerance)
        kept = [entry for entry in CodeScalar if entry != CodeScalar.residual_square]
        assert same_bits(result.scalars[kept], case["scalars"][kept])
        assert result.guard == 0


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("batch", [1000, 5000])
def test_large_batch(batch: int) -> None:
    """A bias gradient that adds its rows one by one would lose digits that torch keeps."""
    for mean in (0.0, 1.0):
        case = arguments(Random(52), batch, 33, product=False, bias=False, code=False, unit=1.0, scale=1.0)
        case["displacement"] += mean
        result, twin = (
            call(op, case, torch.float32) for op in (ops.weight_residual, reference.weight_residual)
        )
        exact = case["displacement"].float().double().sum(0)
        assert_accurate(result.bias_gradient, twin.bias_gradient, exact, "bias_gradient")


def test_it_is_the_residual_of_the_weights() -> None:
    """Both ways of calling give (W a + b - c) / scale."""
    random = Random(53)
    batch, n_in, n_out = 9, 7, 5
    weight, bias = random.normal(n_out, n_in), random.normal(n_out)
    a0, moved = random.normal(batch, n_in), random.normal(batch, n_in)
    displacement, unit, unit_below, scale = random.normal(batch, n_out), 0.02, 0.005, 0.015
    a, code = a0 + unit_below * moved, a0 @ weight.T + bias
    expected = (a @ weight.T + bias - (code - unit * displacement)) / scale
    common = {
        "displacement": displacement, "residual": Output((batch, n_out)), "bias_gradient": Output((n_out,)),
        "scalars": code_block(unit=unit, scale=scale),
    }  # fmt: skip
    small = {"product": moved @ weight.T, "bias": None, "code": None, "below": code_block(unit=unit_below)}
    plain = {"product": a @ weight.T, "bias": bias, "code": code, "below": None}
    for way in (small, plain):
        result = call(ops.weight_residual, {**common, **way})
        torch.testing.assert_close(result.residual, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(result.bias_gradient, expected.sum(0), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["displacement", "product", "bias", "code"])
def test_nonfinite_values_raise_the_guard(dtype: torch.dtype, name: str) -> None:
    for bad, column in itertools.product((NAN, INF, -INF), (0, 16, 32)):
        case = arguments(Random(54), 9, 33)
        clean = call(ops.weight_residual, case, dtype)
        case[name][(column,) if name == "bias" else (4, column)] = bad
        result = call(ops.weight_residual, case, dtype)
        assert clean.guard == 0
        assert result.guard == 1
        assert not torch.isfinite(result.scalars[CodeScalar.residual_square])
        assert not torch.isfinite(result.residual[4, column])
        others = torch.arange(33) != column
        assert same_bits(result.residual[:, others], clean.residual[:, others])
        assert same_bits(result.bias_gradient[others], clean.bias_gradient[others])


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("size", [1e-24, 1e-21, 1e20, 1e30])
def test_squares_that_float32_cannot_hold(size: float) -> None:
    case = arguments(Random(55), 9, 33, product=False, bias=False, code=False, unit=1.0, scale=1.0)
    case["displacement"] *= size
    result = call(ops.weight_residual, case, torch.float32)
    expected = float(result.residual.double().square().sum())
    assert float(result.scalars[CodeScalar.residual_square]) == pytest.approx(expected, rel=1e-6)
    assert result.guard == 0


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(301, 127), (2000, 18)])
def test_threads_change_nothing_but_the_sums(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    case = arguments(Random(56), *shape)
    alone, both, again = (call(ops.weight_residual, case, dtype, threads=threads) for threads in (1, 2, 2))
    assert same_bits(both.residual, alone.residual)
    assert same_bits(both.bias_gradient, again.bias_gradient)
    assert same_bits(both.scalars, again.scalars)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(both.scalars, alone.scalars, rtol=32 * eps, atol=0)
    size = float(alone.residual.abs().sum(0).max())
    torch.testing.assert_close(both.bias_gradient, alone.bias_gradient, rtol=0, atol=eps * size)


def test_the_guard_is_never_lowered_and_may_be_absent() -> None:
    case = arguments(Random(57), 3, 5)
    assert call(ops.weight_residual, {**case, "guard": torch.ones(1)}).guard == 1
    call(ops.weight_residual, {**case, "guard": None})


def test_bad_arguments_are_refused() -> None:
    case = {
        "displacement": torch.zeros(3, 4), "product": torch.zeros(3, 4), "bias": torch.zeros(4),
        "code": torch.zeros(3, 4), "residual": Output((3, 4)), "bias_gradient": Output((4,)),
        "scalars": code_block(), "below": code_block(), "guard": torch.zeros(1, dtype=torch.float64),
    }  # fmt: skip
    optional = ("product", "bias", "code", "bias_gradient", "below", "guard")
    assert_refuses_bad_tensors(ops.weight_residual, case, optional=optional, chooses_backend="displacement")
    allowed = [("residual", "displacement"), ("residual", "product")]
    assert_refuses_shared_memory(ops.weight_residual, case, allowed=allowed)
