"""memory_solve: what a minibatch does to the inverse of a memory.

The oracle is the formula in float64, and the inverse itself, by torch.linalg.inv.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import reference

from .calling import Output, Random, assert_accurate, assert_close, call, call_refused, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

INF, NAN = float("inf"), float("nan")
BATCHES = (0, 1, 3, 15, 16, 17, 33, 100)
COLUMNS = (0, 1, 3, 31, 33, 200)


def kernel_case(
    random: Random, batch: int = 70, n: int = 300, *, removes: bool = False, mean: float = 0.0
) -> dict[str, Any]:
    """A minibatch of a memory that has seen more of its kind; large enough for a GPU to share the work."""
    past, inputs = random.normal(4 * (n + batch), n), (random.normal(batch, n) + mean).float().double()
    memory = past.T @ past + (inputs.T @ inputs if removes else 0)
    return {
        "inputs": inputs,
        "product": (inputs @ torch.linalg.inv(memory)).float().double(),
        "factor": Output((batch, n)),
        "solution": Output((batch, n)),
        "smallest_pivot": Output((1,), torch.float64),
        "removes": removes,
    }


def formula(case: dict[str, Any]) -> dict[str, Tensor]:
    inputs, product = case["inputs"], case["product"]
    overlap = torch.einsum("ik,jk->ij", product, inputs).triu()
    overlap = overlap + overlap.triu(1).T
    s = torch.eye(len(inputs), dtype=torch.float64) + (-overlap if case["removes"] else overlap)
    lower = torch.linalg.cholesky(s)
    return {
        "factor": torch.linalg.inv(lower) @ product,
        "solution": torch.linalg.inv(s) @ product,
        "smallest_pivot": lower.diagonal().square().min()[None] if inputs.numel() else torch.ones(1),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("removes", [False, True])
def test_formula(wide_kernels: str, dtype: torch.dtype, removes: bool) -> None:
    random = Random(301)
    shapes = list(itertools.product(BATCHES, COLUMNS))
    for batch, n in shapes[:: 5 if wide_kernels == "emulated" else 1]:  # the emulator takes its time
        case = kernel_case(random, batch, n, removes=removes)
        result = call(ops.memory_solve, case, dtype)
        twin = call(reference.memory_solve, case, dtype)
        for name, exact in formula(case).items():
            what = f"{name}, {batch} x {n}"
            if dtype == torch.float32:
                assert_accurate(getattr(result, name), getattr(twin, name), exact, what)
            else:
                assert_close(getattr(result, name), exact, 1e-11, what)
                assert_close(getattr(twin, name), exact, 1e-11, what)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("removes", [False, True])
def test_the_inverse_of_the_memory_with_the_minibatch(removes: bool) -> None:
    random = Random(302)
    past, inputs = random.normal(60, 40), random.normal(20, 40)
    before = past.T @ past + (inputs.T @ inputs if removes else 0)
    after = past.T @ past + (0 if removes else inputs.T @ inputs)
    inverse, expected = torch.linalg.inv(before), torch.linalg.inv(after)
    case = kernel_case(random, 20, 40, removes=removes) | {"inputs": inputs, "product": inputs @ inverse}
    result = call(ops.memory_solve, case)
    change = result.factor.T @ result.factor
    assert_close(inverse + (change if removes else -change), expected, 1e-12)
    assert_close(result.solution, inputs @ expected, 1e-12)


@pytest.mark.usefixtures("wide_kernels")
def test_long_sums() -> None:
    """Sums over thousands of columns, added one by one, would lose digits that torch keeps."""
    case = kernel_case(Random(303), 20, 33, mean=1.0)
    case["inputs"] = case["inputs"].repeat(1, 150)
    case["product"] = case["product"].repeat(1, 150) / 150
    case |= {name: Output(tuple(case["inputs"].shape)) for name in ("factor", "solution")}
    result, twin = (call(op, case, torch.float32) for op in (ops.memory_solve, reference.memory_solve))
    for name, exact in formula(case).items():
        assert_accurate(getattr(result, name), getattr(twin, name), exact, name)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_place(dtype: torch.dtype) -> None:
    case = kernel_case(Random(304), 37, 75)
    apart, in_place = (call(ops.memory_solve, case, dtype, alias) for alias in ({}, {"factor": "product"}))
    for name in ("factor", "solution", "smallest_pivot"):
        assert same_bits(getattr(apart, name), getattr(in_place, name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_minibatch_alone_decides(wide_kernels: str, dtype: torch.dtype) -> None:
    """A sample whose product is zero is known: it takes part in nothing, whatever it is."""
    case = kernel_case(Random(305), 16, 40)
    clean = call(ops.memory_solve, case, dtype)
    zero = torch.zeros(1, 40, dtype=torch.float64)
    more = case | {name: torch.cat([case[name], zero]) for name in ("inputs", "product")}
    more |= {name: Output((17, 40)) for name in ("factor", "solution")}
    result = call(ops.memory_solve, more, dtype)
    for name in ("factor", "solution"):
        assert_close(getattr(result, name)[:16], getattr(clean, name), 16 * torch.finfo(dtype).eps)
        assert torch.equal(getattr(result, name)[16:], torch.zeros(1, 40, dtype=dtype))


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_nonfinite_numbers_are_seen(dtype: torch.dtype, bad: float) -> None:
    for name, row, column in itertools.product(("inputs", "product"), (0, 15, 19), (0, 33)):
        case = kernel_case(Random(306), 20, 34)
        case[name] = case[name].clone()
        case[name][row, column] = bad
        for op in (ops.memory_solve, reference.memory_solve):
            assert_nothing_is_known(call(op, case, dtype))


def assert_nothing_is_known(result: Any) -> None:
    for name in ("factor", "solution", "smallest_pivot"):
        assert getattr(result, name).isnan().all(), name


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", [0, 7, 19])
def test_what_was_never_there_is_not_taken_out(dtype: torch.dtype, row: int) -> None:
    """S is not positive definite then, at whichever sample."""
    case = kernel_case(Random(307), 20, 34, removes=True)
    for name in ("inputs", "product"):
        case[name] = case[name].clone()
        case[name][row] *= 10
    for op in (ops.memory_solve, reference.memory_solve):
        assert_nothing_is_known(call(op, case, dtype))
        assert call(op, case | {"removes": False}, dtype).smallest_pivot >= 1


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pivot_of_zero(dtype: torch.dtype) -> None:
    """Of x = u = e_1, S = I - u x^T leaves nothing."""
    one = torch.eye(3, 8, dtype=torch.float64)
    case = kernel_case(Random(308), 3, 8) | {"inputs": one, "product": one, "removes": True}
    for op in (ops.memory_solve, reference.memory_solve):
        assert_nothing_is_known(call(op, case, dtype))


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(20, 3073), (100, 785), (3, 20_000), (300, 65)])
def test_threads_do_not_change_a_bit(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    batch, n = shape
    random = Random(309)
    inputs = random.normal(batch, n)
    case = kernel_case(random, batch, 1) | {"inputs": inputs, "product": inputs / n}
    case |= {name: Output(shape) for name in ("factor", "solution")}
    alone, *others = (call(ops.memory_solve, case, dtype, threads=threads) for threads in (1, 2, 3))
    for other in others:
        for name in ("factor", "solution", "smallest_pivot"):
            assert same_bits(getattr(alone, name), getattr(other, name))


def test_tensors_that_require_grad() -> None:
    """Under no no_grad(): the op is below autograd."""
    case = kernel_case(Random(310), 9, 5)
    expected = call(ops.memory_solve, case)
    factor, solution = (torch.zeros(9, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    pivot = torch.zeros(1, dtype=torch.float64)
    ops.memory_solve(
        case["inputs"].requires_grad_(),
        case["product"],
        factor=factor,
        solution=solution,
        smallest_pivot=pivot,
    )
    assert same_bits(factor.detach(), expected.factor)
    assert same_bits(solution.detach(), expected.solution)


def test_bad_arguments_are_refused() -> None:
    case = {
        "inputs": torch.ones(3, 4), "product": torch.zeros(3, 4), "factor": Output((3, 4)),
        "solution": Output((3, 4)), "smallest_pivot": Output((1,), torch.float64),
    }  # fmt: skip
    assert_refuses_bad_tensors(ops.memory_solve, case, optional=(), chooses_backend="inputs")
    assert_refuses_shared_memory(ops.memory_solve, case, allowed=[("factor", "product")])
    good = {name: torch.ones(3, 4) for name in ("inputs", "product", "factor", "solution")}
    good["smallest_pivot"] = torch.zeros(1, dtype=torch.float64)
    call_refused(ops.memory_solve, good | {"removes": 2}, TypeError, "removes")
