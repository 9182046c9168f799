"""mse_residual: (2 / C) (logits + bias - targets), with the mean squared error."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import reference

from .calling import Output, Random, assert_accurate, call, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

EXTENTS = (0, 1, 3, 31, 32, 33, 127, 200)
INF, NAN = float("inf"), float("nan")


def arguments(
    random: Random, batch: int, width: int, bias: bool = True, bias_gradient: bool = True, close: bool = False
) -> dict[str, Any]:
    """``close``: the targets nearly met, so that the error is what is left of a cancellation."""
    logits, shift = random.normal(batch, width), random.normal(width) if bias else None
    targets = random.normal(batch, width)
    if close:
        targets = (logits + (0 if shift is None else shift) + 1e-3 * targets).float().double()
    return {
        "logits": logits,
        "bias": shift,
        "targets": targets,
        "residual": Output((batch, width)),
        "bias_gradient": Output((width,)) if bias_gradient else None,
        "loss": Output(),
    }


def kernel_case(random: Random, batch: int = 67, width: int = 130) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return {
        "logits": random.normal(batch, width),
        "bias": random.normal(width),
        "targets": random.normal(batch, width),
        "residual": Output((batch, width)),
        "bias_gradient": Output((width,)),
        "loss": Output(),
    }


def autograd(case: dict[str, Any]) -> dict[str, Tensor]:
    """Everything from torch's mean squared error in float64."""
    logits = case["logits"].clone().requires_grad_()
    with torch.enable_grad():
        loss = F.mse_loss(logits if case["bias"] is None else logits + case["bias"], case["targets"])
        (residual,) = torch.autograd.grad(loss * len(logits), logits)
    exact = {"residual": residual, "loss": loss.detach()}
    if case["bias_gradient"] is not None:
        exact["bias_gradient"] = residual.sum(0)
    return exact


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("in_place", [False, True])
def test_against_autograd(dtype: torch.dtype, in_place: bool) -> None:
    random = Random(41)
    alias = {"residual": "logits"} if in_place else {}
    for batch, width in itertools.product(EXTENTS, EXTENTS):
        case = arguments(random, batch, width, random.flip(), random.flip(), close=random.flip())
        result = call(ops.mse_residual, case, dtype, alias)
        if batch == 0 or width == 0:
            continue
        twin = call(reference.mse_residual, case, dtype)
        for name, value in autograd(case).items():
            what = f"{name}, {batch} x {width}"
            if dtype == torch.float32:
                assert_accurate(getattr(result, name), getattr(twin, name), value, what)
            else:
                torch.testing.assert_close(getattr(result, name), value, rtol=1e-12, atol=1e-14, msg=what)
        assert result.guard == 0


@pytest.mark.usefixtures("kernels")
def test_large_batch() -> None:
    """A bias gradient that adds 5,000 rows one by one would lose digits that torch keeps."""
    case = arguments(Random(42), 5000, 10)
    case["targets"] -= 1
    result, twin = (call(op, case, torch.float32) for op in (ops.mse_residual, reference.mse_residual))
    for name, value in autograd(case).items():
        assert_accurate(getattr(result, name), getattr(twin, name), value, name)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["logits", "bias", "targets"])
def test_nonfinite_values_raise_the_guard(dtype: torch.dtype, name: str) -> None:
    for bad, column in itertools.product((NAN, INF, -INF), (0, 16, 32)):
        case = arguments(Random(43), 9, 33)
        clean = call(ops.mse_residual, case, dtype)
        place = (column,) if name == "bias" else (4, column)
        case[name][place] = bad
        result = call(ops.mse_residual, case, dtype)
        assert clean.guard == 0
        assert result.guard == 1
        assert not torch.isfinite(result.loss)
        assert not torch.isfinite(result.residual[4, column])
        others = torch.arange(33) != column
        assert same_bits(result.residual[:, others], clean.residual[:, others])


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_nothing_to_compare(shape: tuple[int, int]) -> None:
    """A mean of nothing is no number, and the guard says so."""
    for op in (ops.mse_residual, reference.mse_residual):
        result = call(op, arguments(Random(44), *shape))
        assert torch.equal(result.bias_gradient, torch.zeros(shape[1], dtype=torch.float64))
        assert torch.isnan(result.loss)
        assert result.guard == 1


def test_the_guard_is_never_lowered_and_may_be_absent() -> None:
    case = arguments(Random(45), 3, 5)
    assert call(ops.mse_residual, {**case, "guard": torch.ones(1)}).guard == 1
    call(ops.mse_residual, {**case, "guard": None})


def test_bad_arguments_are_refused() -> None:
    case = {
        "logits": torch.zeros(3, 4), "bias": torch.zeros(4), "targets": torch.zeros(3, 4), "residual": Output((3, 4)),
        "bias_gradient": Output((4,)), "loss": Output(), "guard": torch.zeros(1, dtype=torch.float64),
    }  # fmt: skip
    optional = ("bias", "bias_gradient", "guard")
    assert_refuses_bad_tensors(ops.mse_residual, case, optional=optional, chooses_backend="logits")
    assert_refuses_shared_memory(ops.mse_residual, case, allowed=[("residual", "logits")])


@pytest.mark.usefixtures("kernels")
def test_the_mean_of_wide_rows() -> None:
    """Squares of one sign, whose sum loses digits with the number that is added up in float32."""
    random = Random(5)
    arguments = {
        "logits": random.normal(2, 40_000).abs() + 1,
        "targets": -random.normal(2, 40_000).abs(),
        "residual": Output((2, 40_000)),
        "loss": Output(),
    }
    exact = (arguments["logits"] - arguments["targets"]).square().mean()
    result = call(ops.mse_residual, arguments, torch.float32)
    assert abs(result.loss.double() / exact - 1) <= 4 * torch.finfo(torch.float32).eps
