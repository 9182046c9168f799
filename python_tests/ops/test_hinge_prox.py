"""hinge_prox: argmin_z l(z, target) + multiplier z + beta (z - center)^2 of the hinge loss.

Oracle: the objective itself in float64, which nowhere on a fine grid may be lower than at the result; and that zero
is one of its subgradients there, which holds at the minimiser of a convex function and nowhere else.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import reference

from .calling import Output, Random, call, call_refused, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

EXTENTS = (0, 1, 3, 31, 33, 200)
SHAPES = (*itertools.product(EXTENTS, EXTENTS), (32, 32), (127, 128), (5, 1024))
BETAS = (1e-2, 0.5, 1.0, 54.15)
INF, NAN = float("inf"), float("nan")


def case(random: Random, batch: int, width: int, beta: float = 1.0) -> dict[str, Any]:
    return {
        "center": random.normal(batch, width, scale=2.0),
        "targets": random.labels(batch * width, 2).view(batch, width).double(),
        "multiplier": random.normal(batch, width),
        "out": Output((batch, width)),
        "beta": beta,
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return case(random, 70, 132)


def objective(case: dict[str, Any], z: Tensor) -> Tensor:
    loss = torch.where(case["targets"] == 1, (1 - z).clamp(min=0), z.clamp(min=0))
    return loss + case["multiplier"] * z + case["beta"] * (z - case["center"]) ** 2


def assert_stationary(case: dict[str, Any], out: Tensor, eps: float, what: str) -> None:
    """-(multiplier + 2 beta (z - center)) is a slope of the loss at z, up to the rounding of z."""
    z, kink = out.double(), case["targets"]
    slope = -(case["multiplier"] + 2 * case["beta"] * (z - case["center"]))
    left, right = -kink, 1 - kink  # slopes of the loss on either side of its kink
    lowest, highest = torch.where(z > kink, right, left), torch.where(z < kink, left, right)
    size = z.abs() + case["center"].abs() + (case["multiplier"].abs() + 1) / (2 * case["beta"])
    tolerance = 4 * eps * 2 * case["beta"] * size
    assert (slope >= lowest - tolerance).all(), what
    assert (slope <= highest + tolerance).all(), what


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", BETAS)
def test_minimum(beta: float, dtype: torch.dtype) -> None:
    random = Random(91)
    at_the_kink = 0
    for (batch, width), op in itertools.product(SHAPES, (ops.hinge_prox, reference.hinge_prox)):
        arguments = case(random, batch, width, beta)
        result = call(op, arguments, dtype)
        assert_stationary(
            arguments, result.out, torch.finfo(dtype).eps, f"{op.__module__}, {batch} x {width}"
        )
        assert result.guard == 0
        at_the_kink += int((result.out == arguments["targets"]).sum())
    assert at_the_kink > 0


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [0.2, 0.5, 3.0])
def test_no_output_is_better(beta: float, dtype: torch.dtype) -> None:
    arguments = case(Random(92), 40, 25, beta)
    out = call(ops.hinge_prox, arguments, dtype).out.double()
    best = torch.full((40, 25), INF, dtype=torch.float64)
    for z in torch.linspace(-20, 20, 4001, dtype=torch.float64):
        best = torch.minimum(best, objective(arguments, z))
    assert (objective(arguments, out) <= best + 1e-9).all()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_slopes_and_the_kink(dtype: torch.dtype) -> None:
    """With beta 1/2 a slope moves the vertex by one: a center within one of the kink goes to the kink."""
    center = torch.tensor([[-2.0, 0.0, 0.5, 1.0, 1.5, 3.0]]).repeat(2, 1)
    arguments = {
        "center": center,
        "targets": torch.tensor([[1.0], [0.0]]).repeat(1, 6),
        "multiplier": torch.zeros(2, 6),
        "out": Output((2, 6)),
        "beta": 0.5,
    }
    expected = torch.tensor([[-1.0, 1.0, 1.0, 1.0, 1.5, 3.0], [-2.0, 0.0, 0.0, 0.0, 0.5, 2.0]], dtype=dtype)
    assert torch.equal(call(ops.hinge_prox, arguments, dtype).out, expected)
    # The multiplier is a slope that is always there.
    arguments |= {"center": center + 0.25, "multiplier": torch.full((2, 6), 0.25)}
    assert torch.equal(call(ops.hinge_prox, arguments, dtype).out, expected)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_place_is_the_same(dtype: torch.dtype) -> None:
    random = Random(93)
    for batch, width in [(0, 4), (1, 1), (3, 33), (31, 7), (70, 128)]:
        arguments = case(random, batch, width)
        apart = call(ops.hinge_prox, arguments, dtype)
        in_place = call(ops.hinge_prox, arguments, dtype, alias={"out": "center"})
        assert same_bits(in_place.out, apart.out)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [(0, 0), (4, 17), (8, 32)])
@pytest.mark.parametrize(
    ("name", "bad"),
    [("center", NAN), ("multiplier", NAN), ("targets", NAN), ("targets", -1.0), ("targets", 0.5), ("targets", 2.0)],
)  # fmt: skip
def test_nan_stays_nan_and_an_unknown_target_becomes_one(
    dtype: torch.dtype, place: tuple[int, int], name: str, bad: float
) -> None:
    for op, target in itertools.product((ops.hinge_prox, reference.hinge_prox), (0.0, 1.0)):
        arguments = case(Random(94), 9, 33)
        arguments["targets"][place] = target
        clean = call(op, arguments, dtype)
        assert clean.guard == 0
        arguments[name][place] = bad
        result = call(op, arguments, dtype)
        assert result.guard == 1
        assert torch.isnan(result.out[place])
        others = torch.ones(9, 33, dtype=torch.bool)
        others[place] = False
        assert same_bits(result.out[others], clean.out[others])


@pytest.mark.usefixtures("kernels")
def test_infinite_results_raise_the_guard_and_large_ones_do_not() -> None:
    arguments = case(Random(95), 3, 5)
    arguments["center"][1, 2] = -1e30
    assert call(ops.hinge_prox, arguments, torch.float32).guard == 0
    arguments["center"][1, 2] = -INF
    assert call(ops.hinge_prox, arguments, torch.float32).guard == 1


def test_the_guard_is_never_lowered_and_may_be_absent() -> None:
    arguments = case(Random(96), 3, 5)
    assert call(ops.hinge_prox, {**arguments, "guard": torch.ones(1)}).guard == 1
    call(ops.hinge_prox, {**arguments, "guard": None})


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    arguments = case(Random(97), 301, 127)
    alone, both = (call(ops.hinge_prox, arguments, dtype, threads=threads) for threads in (1, 2))
    assert same_bits(both.out, alone.out)
    arguments["center"][300, 126] = NAN
    assert call(ops.hinge_prox, arguments, dtype, threads=2).guard == 1


def test_tensors_that_require_grad() -> None:
    arguments = case(Random(98), 3, 5)
    center, targets, multiplier = (
        arguments[name].float().requires_grad_() for name in ("center", "targets", "multiplier")
    )
    out = torch.empty(3, 5)
    ops.hinge_prox(center, targets, multiplier, out=out, beta=1.0)
    assert same_bits(out, call(ops.hinge_prox, arguments, torch.float32).out)


def test_bad_arguments_are_refused() -> None:
    good = {
        "center": torch.zeros(3, 4), "targets": torch.zeros(3, 4), "multiplier": torch.zeros(3, 4),
        "out": Output((3, 4)), "beta": 1.0, "guard": torch.zeros(1, dtype=torch.float64),
    }  # fmt: skip
    assert_refuses_bad_tensors(ops.hinge_prox, good, optional=("guard",), chooses_backend="center")
    assert_refuses_shared_memory(ops.hinge_prox, good, allowed=[("out", "center")])
    for beta in (0.0, -1.0, NAN, INF):
        arguments = {**good, "out": torch.zeros(3, 4), "beta": beta}
        call_refused(ops.hinge_prox, arguments, ValueError, "beta", "positive")
