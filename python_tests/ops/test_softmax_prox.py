"""softmax_prox: argmin_z -log softmax(z)[label] + rho / 2 ||z - center||^2, row by row.

Oracle: Newton's method on the objective itself, in all of z and from another start than the kernels', who solve for
one scalar; its last step bounds its own error. Where the loss saturates the minimiser is known in closed form.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import reference

from .calling import Output, Random, assert_close, call, call_refused, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

SHAPES = (*itertools.product((0, 1, 3, 33), (1, 2, 3, 10, 31, 33)), (2, 127), (127, 10), (3, 1025))
RHOS = (1e-6, 1e-4, 1e-2, 1.0, 10.0, 1e4)
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
INF, NAN = float("inf"), float("nan")


def case(random: Random, batch: int, classes: int, rho: float = 0.1, scale: float = 3.0) -> dict[str, Any]:
    return {
        "center": random.normal(batch, classes, scale=scale),
        "labels": random.labels(batch, classes),
        "out": Output((batch, classes)),
        "rho": rho,
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return case(random, 67, 40)


def newton(case: dict[str, Any]) -> Tensor:
    """The minimiser, by Newton's method from the center with steps that cannot increase the objective.

    The Hessian is diag(p + rho) - p p^T. Along d it changes by a factor of exp(R) at most, R = max d - min d, so that
    log(1 + R) / R of the Newton step decreases the objective.
    """
    center, rho = case["center"], case["rho"]
    if center.numel() == 0:
        return center
    y = F.one_hot(case["labels"], center.shape[1]).to(center.dtype)
    z = center
    for _ in range(100):
        p = z.softmax(1)
        # p - y, whose entry at the label is not 1 less 1
        others = (1 - y) * p
        gradient = others - y * others.sum(1, keepdim=True) + rho * (z - center)
        d = p + rho
        along = (p * gradient / d).sum(1, keepdim=True) / (p * rho / d).sum(1, keepdim=True)
        step = (gradient + p * along) / d
        spread = (step.amax(1, keepdim=True) - step.amin(1, keepdim=True)).clamp(min=1e-300)
        z = z - torch.log1p(spread) / spread * step
    assert step.abs().max() <= 1e-14 * z.abs().max()
    return z


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("in_place", [False, True])
def test_against_newton(rho: float, dtype: torch.dtype, in_place: bool) -> None:
    random = Random(71)
    alias = {"out": "center"} if in_place else {}
    for batch, classes in SHAPES:
        arguments = case(random, batch, classes, rho)
        result = call(ops.softmax_prox, arguments, dtype, alias)
        assert_close(result.out, newton(arguments), TOLERANCE[dtype], f"{batch} x {classes}")
        assert result.guard == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rho", RHOS)
def test_twin_against_newton(rho: float, dtype: torch.dtype) -> None:
    random = Random(72)
    for batch, classes in SHAPES:
        arguments = case(random, batch, classes, rho)
        result = call(reference.softmax_prox, arguments, dtype)
        assert_close(result.out, newton(arguments), TOLERANCE[dtype], f"{batch} x {classes}")


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 0.1, 30.0])
def test_flat_and_confident_centers(scale: float, dtype: torch.dtype) -> None:
    random = Random(73)
    for rho in RHOS:
        arguments = case(random, 17, 10, rho, scale)
        result = call(ops.softmax_prox, arguments, dtype)
        assert_close(result.out, newton(arguments), TOLERANCE[dtype], f"rho {rho:g}")


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("op", [ops.softmax_prox, reference.softmax_prox])
@pytest.mark.parametrize("rho", [1e-6, 1e-3, 1.0, 1e4])
def test_stationary(op: Any, rho: float) -> None:
    """rho (z - center) = onehot - p: for every class but the label, from z and the center alone."""
    arguments = case(Random(74), 33, 10, rho)
    z = call(op, arguments).out
    others = F.one_hot(arguments["labels"], 10) == 0
    p = z.softmax(1)
    error = p.sum(1, keepdim=True) * (arguments["center"] - z) - p / rho
    size = z.abs() + arguments["center"].abs() + p / rho
    assert (error.abs() <= 1e-14 * size)[others].all()
    # The gradient of the cross-entropy adds up to nothing, so that the sum of a row stays.
    torch.testing.assert_close(z.sum(1), arguments["center"].sum(1), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("op", [ops.softmax_prox, reference.softmax_prox])
@pytest.mark.parametrize("rho", [1e-6, 1e-3, 1.0, 1e4])
def test_saturated(op: Any, rho: float) -> None:
    """A wrong class so far ahead that its p stays 1 loses 1 / rho, which the label wins; and the other way round."""
    lead = 2 / rho + 100.0
    center = torch.tensor([[0.0, lead, 1.0], [lead, 1.0, 0.0], [-1e9, 0.0, -1e9]], dtype=torch.float64)
    expected = center.clone()
    expected[0] += torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / rho
    arguments = {"center": center, "labels": torch.tensor([0, 0, 1]), "out": Output((3, 3)), "rho": rho}
    result = call(op, arguments)
    torch.testing.assert_close(result.out, expected, rtol=1e-14, atol=1e-30)
    assert result.guard == 0


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_common_shift_of_the_center_is_one_of_the_result(dtype: torch.dtype) -> None:
    arguments = case(Random(75), 33, 10)
    arguments["center"] = (64 * arguments["center"]).round() / 64  # sums with the shift are exact
    plain = call(ops.softmax_prox, arguments, dtype)
    shifted = call(ops.softmax_prox, {**arguments, "center": arguments["center"] + 1024}, dtype)
    assert_close(shifted.out, plain.out.double() + 1024, torch.finfo(dtype).eps)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_nonfinite_center_raises_the_guard(dtype: torch.dtype, bad: float) -> None:
    """A NaN is one for its whole row, whose classes share the softmax."""
    random = Random(76)
    for op, (batch, classes) in itertools.product(
        (ops.softmax_prox, reference.softmax_prox), ((3, 10), (150, 10), (3, 300))
    ):
        for place in ((0, 0), (batch - 1, classes - 1), (1, classes // 2)):
            arguments = case(random, batch, classes)
            clean = call(op, arguments, dtype)
            assert clean.guard == 0
            arguments["center"][place] = bad
            result = call(op, arguments, dtype)
            assert result.guard == 1
            assert not torch.isfinite(result.out[place])
            assert bad == INF or torch.isnan(result.out[place[0]]).all()
            others = torch.arange(batch) != place[0]
            assert same_bits(result.out[others], clean.out[others])


@pytest.mark.usefixtures("wide_kernels")
def test_an_impossible_class() -> None:
    """-Inf stays what it is and raises the guard; the other classes do as if it was not there."""
    arguments = case(Random(77), 3, 4)
    arguments["labels"] = torch.tensor([0, 1, 2])
    without = {**arguments, "center": arguments["center"][:, :3], "out": Output((3, 3))}
    arguments["center"][:, 3] = -INF
    for op in (ops.softmax_prox, reference.softmax_prox):
        result = call(op, arguments)
        assert (result.out[:, 3] == -INF).all()
        assert result.guard == 1
        torch.testing.assert_close(result.out[:, :3], call(op, without).out, rtol=1e-14, atol=1e-14)


def test_the_guard_is_never_lowered_and_may_be_absent() -> None:
    arguments = case(Random(78), 3, 5)
    assert call(ops.softmax_prox, {**arguments, "guard": torch.ones(1)}).guard == 1
    call(ops.softmax_prox, {**arguments, "guard": None})


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    arguments = case(Random(79), 301, 10)
    alone, both = (call(ops.softmax_prox, arguments, dtype, threads=threads) for threads in (1, 2))
    assert same_bits(both.out, alone.out)
    arguments["center"][300, 9] = NAN
    assert call(ops.softmax_prox, arguments, dtype, threads=2).guard == 1


def test_tensors_that_require_grad() -> None:
    arguments = case(Random(80), 3, 5)
    center, out = arguments["center"].float().requires_grad_(), torch.empty(3, 5)
    ops.softmax_prox(center, arguments["labels"], out=out, rho=0.1)
    assert same_bits(out, call(ops.softmax_prox, arguments, torch.float32).out)


@pytest.mark.parametrize("wrong", [-1, 4, 2**31, -(2**62)])
@pytest.mark.parametrize("row", [0, 3, 149])
@pytest.mark.parametrize("op", [ops.softmax_prox, reference.softmax_prox])
def test_labels_outside_the_classes(op: Any, wrong: int, row: int) -> None:
    """Named as the user's y, by the first that is wrong, before anything is written."""
    labels = torch.zeros(150, dtype=torch.int64)
    labels[row] = wrong
    labels[row + 1 :] = -7
    arguments = {
        "center": torch.zeros(150, 4), "labels": labels, "out": torch.full((150, 4), 5.0), "rho": 1.0,
        "guard": torch.zeros(1, dtype=torch.float64),
    }  # fmt: skip
    call_refused(op, arguments, ValueError, "labels must lie in [0, 4)", f"labels[{row}] is {wrong}.")


def test_bad_arguments_are_refused() -> None:
    good = {
        "center": torch.zeros(3, 4), "labels": torch.zeros(3, dtype=torch.int64), "out": Output((3, 4)), "rho": 1.0,
        "guard": torch.zeros(1, dtype=torch.float64),
    }  # fmt: skip
    assert_refuses_bad_tensors(ops.softmax_prox, good, optional=("guard",), chooses_backend="center")
    assert_refuses_shared_memory(ops.softmax_prox, good, allowed=[("out", "center")])
    for rho in (0.0, -1.0, NAN, INF):
        arguments = {**good, "out": torch.zeros(3, 4), "rho": rho}
        call_refused(ops.softmax_prox, arguments, ValueError, "rho", "positive")
    none = torch.zeros(3, 0)
    call_refused(ops.softmax_prox, {**good, "center": none, "out": none}, ValueError, "center", "column")
