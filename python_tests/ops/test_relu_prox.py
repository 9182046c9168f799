"""relu_prox: argmin_z gamma (activation - relu(z))^2 + beta (z - center)^2.

Oracle: the objective itself in float64, which nowhere on a fine grid may be lower than at the result; and the
condition of a minimum on either side of zero, which gives the result to rounding.
"""

from __future__ import annotations

import itertools
import math
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
WEIGHTS = ((1.0, 1.0), (10.0, 1.0), (0.3, 7.0), (1e-6, 1e3), (1e6, 1e-3))
INF, NAN = float("inf"), float("nan")


def case(
    random: Random, batch: int, width: int, gamma: float = 1.0, beta: float = 0.5, scale: float = 2.0
) -> dict[str, Any]:
    return {
        "activation": random.normal(batch, width, scale=scale),
        "center": random.normal(batch, width, scale=scale),
        "out": Output((batch, width)),
        "gamma": gamma,
        "beta": beta,
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return case(random, 70, 132)


def objective(case: dict[str, Any], z: Tensor) -> Tensor:
    residual = case["activation"] - torch.relu(z)
    return case["gamma"] * residual**2 + case["beta"] * (z - case["center"]) ** 2


def minimum_beside(case: dict[str, Any], out: Tensor) -> Tensor:
    """The minimum of the half line that ``out`` is in: the parabola's vertex, or its end."""
    gamma, beta = case["gamma"], case["beta"]
    vertex = (gamma * case["activation"] + beta * case["center"]) / (gamma + beta)
    return torch.where(out < 0, case["center"].clamp(max=0), vertex.clamp(min=0))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("gamma", "beta"), WEIGHTS)
def test_minimum(gamma: float, beta: float, dtype: torch.dtype) -> None:
    random = Random(81)
    for batch, width in SHAPES:
        arguments = case(random, batch, width, gamma, beta)
        size = torch.maximum(arguments["activation"].abs(), arguments["center"].abs())
        for op in (ops.relu_prox, reference.relu_prox):
            result = call(op, arguments, dtype)
            error = (result.out.double() - minimum_beside(arguments, result.out)).abs()
            assert (error <= 4 * torch.finfo(dtype).eps * size).all(), f"{op.__module__}, {batch} x {width}"
            assert result.guard == 0


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("gamma", "beta"), WEIGHTS)
def test_no_code_is_better(gamma: float, beta: float, dtype: torch.dtype) -> None:
    arguments = case(Random(82), 40, 25, gamma, beta)
    out = call(ops.relu_prox, arguments, dtype).out.double()
    best = torch.full((40, 25), INF, dtype=torch.float64)
    for z in torch.linspace(-10, 10, 4001, dtype=torch.float64):
        best = torch.minimum(best, objective(arguments, z))
    # At a minimum of a parabola, an error of the code comes in by its square; at a tie, by itself.
    tolerance = 4 * torch.finfo(dtype).eps * objective(arguments, arguments["center"]).clamp(min=1e-3)
    assert (objective(arguments, out) <= best + tolerance).all()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_both_half_lines_have_a_minimum(dtype: torch.dtype) -> None:
    """With gamma = beta, center -1 and activation 1 + sqrt 2 they are equally good."""
    tie = 1 + math.sqrt(2)
    activation = torch.tensor([[0.0, 1.0, tie - 1e-3, tie + 1e-3, 5.0, -3.0]], dtype=torch.float64)
    arguments = {
        "activation": activation, "center": torch.full((1, 6), -1.0), "out": Output((1, 6)), "gamma": 1.0, "beta": 1.0
    }  # fmt: skip
    expected = torch.tensor([[-1.0, -1.0, -1.0, (tie - 1) / 2, 2.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(
        call(ops.relu_prox, arguments, dtype).out.double(), expected, rtol=0, atol=6e-4
    )


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("replaced", ["activation", "center"])
def test_in_place_is_the_same(dtype: torch.dtype, replaced: str) -> None:
    random = Random(83)
    for batch, width in [(0, 4), (1, 1), (3, 33), (31, 7), (70, 128)]:
        arguments = case(random, batch, width)
        apart = call(ops.relu_prox, arguments, dtype)
        in_place = call(ops.relu_prox, arguments, dtype, alias={"out": replaced})
        assert same_bits(in_place.out, apart.out)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [(0, 0), (4, 17), (8, 32)])
def test_nan_stays_nan(dtype: torch.dtype, place: tuple[int, int]) -> None:
    for op in (ops.relu_prox, reference.relu_prox):
        for name, other in itertools.permutations(("activation", "center")):
            for value in (-1.5, 0.0, 1.5):
                arguments = case(Random(84), 9, 33)
                arguments[other][place] = value
                clean = call(op, arguments, dtype)
                assert clean.guard == 0
                arguments[name][place] = NAN
                result = call(op, arguments, dtype)
                assert result.guard == 1
                assert torch.isnan(result.out[place])
                others = torch.ones(9, 33, dtype=torch.bool)
                others[place] = False
                assert same_bits(result.out[others], clean.out[others])


@pytest.mark.usefixtures("kernels")
def test_infinite_results_raise_the_guard_and_large_ones_do_not() -> None:
    arguments = case(Random(85), 3, 5)
    arguments["center"][1, 2] = -1e30
    result = call(ops.relu_prox, arguments, torch.float32)
    assert result.out[1, 2] == torch.tensor(-1e30)
    assert result.guard == 0
    arguments["center"][1, 2] = -INF
    assert call(ops.relu_prox, arguments, torch.float32).guard == 1


def test_the_guard_is_never_lowered_and_may_be_absent() -> None:
    arguments = case(Random(86), 3, 5)
    assert call(ops.relu_prox, {**arguments, "guard": torch.ones(1)}).guard == 1
    call(ops.relu_prox, {**arguments, "guard": None})


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    arguments = case(Random(87), 301, 127)
    alone, both = (call(ops.relu_prox, arguments, dtype, threads=threads) for threads in (1, 2))
    assert same_bits(both.out, alone.out)
    arguments["center"][300, 126] = NAN
    assert call(ops.relu_prox, arguments, dtype, threads=2).guard == 1


def test_tensors_that_require_grad() -> None:
    arguments = case(Random(88), 3, 5)
    activation, center = (arguments[name].float().requires_grad_() for name in ("activation", "center"))
    out = torch.empty(3, 5)
    ops.relu_prox(activation, center, out=out, gamma=1.0, beta=0.5)
    assert same_bits(out, call(ops.relu_prox, arguments, torch.float32).out)


def test_bad_arguments_are_refused() -> None:
    good = {
        "activation": torch.zeros(3, 4), "center": torch.zeros(3, 4), "out": Output((3, 4)),
        "gamma": 1.0, "beta": 1.0, "guard": torch.zeros(1, dtype=torch.float64),
    }  # fmt: skip
    assert_refuses_bad_tensors(ops.relu_prox, good, optional=("guard",), chooses_backend="activation")
    assert_refuses_shared_memory(ops.relu_prox, good, allowed=[("out", "activation"), ("out", "center")])
    for name, value in itertools.product(("gamma", "beta"), (0.0, -1.0, NAN, INF)):
        arguments = {**good, "out": torch.zeros(3, 4), name: value}
        call_refused(ops.relu_prox, arguments, ValueError, name, "positive")


def test_the_twin_where_a_square_absorbs_the_difference() -> None:
    """With an activation below zero a negative center is the minimum, however far below."""
    activation, center = torch.tensor([[-1.0, -1e9, -1e30, 0.0]]), torch.full((1, 4), -1e-6)
    for op in (ops.relu_prox, reference.relu_prox):
        out = torch.empty(1, 4)
        op(activation, center, out=out, gamma=1.0, beta=1.0)
        assert torch.equal(out, center)
