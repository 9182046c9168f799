"""matmul: the product of two matrices.

Oracles: products of integers, which every order of the sum gives exactly; the product in float64; and torch.mm, whose
bits are those of the BLAS.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import _native as native
from altmin_ext.ops import reference

from .calling import Output, Random, assert_accurate, call, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

DTYPES = [torch.float32, torch.float64]
INF, NAN = float("inf"), float("nan")
TRANSPOSED = list(itertools.product((False, True), repeat=2))
# About vectors of 2, 4, 8 and 16 numbers, tiles of rows, panels of columns and blocks of the sum.
EXTENTS = (1, 2, 3, 4, 6, 7, 8, 9, 13, 15, 16, 17, 20, 28, 31, 32, 33, 47, 65, 100)
DEPTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 100, 127, 128, 129, 300)
# Of the products of a step: m, n, k.
SHAPES = [
    (200, 100, 784), (100, 784, 200), (200, 10, 100), (200, 100, 10), (10, 100, 200), (28, 100, 784), (28, 500, 1024),
    (1, 500, 784), (1, 784, 500), (500, 784, 1), (1, 10, 100), (300, 7, 520), (245, 32, 64), (5, 40, 2048),
]  # fmt: skip


@contextlib.contextmanager
def computed_by(backend: str) -> Iterator[None]:
    assert native.module is not None, native.reason
    if not native.module.matmul_backend(backend):
        pytest.skip(f"there is no {backend} here")
    try:
        yield
    finally:
        native.module.matmul_backend("auto")


@pytest.fixture
def own_kernels(wide_cpu_kernels: str) -> Iterator[str]:
    """Runs the test on our own kernels, whatever else there is, once per instruction set."""
    with computed_by("own"):
        yield wide_cpu_kernels


def _transposed(matrix: Tensor) -> Tensor:
    """With the strides of its shape, on which torch.mm's bits depend; contiguous() leaves those of a single row."""
    return matrix.T.clone(memory_format=torch.contiguous_format)


def arguments(
    make: Callable[..., Tensor], shape: tuple[int, int, int], transposed: tuple[bool, bool] = (False, False)
) -> dict[str, Any]:
    m, n, k = shape
    a, b = make(m, k), make(k, n)
    return {
        "a": _transposed(a) if transposed[0] else a,
        "b": _transposed(b) if transposed[1] else b,
        "out": Output((m, n)),
        "transpose_a": transposed[0],
        "transpose_b": transposed[1],
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several threads to share the work."""
    return arguments(random.normal, (150, 130, 140), (False, True))


def formula(case: dict[str, Any]) -> Tensor:
    a, b = (case[name].double() for name in "ab")
    return (a.T if case["transpose_a"] else a) @ (b.T if case["transpose_b"] else b)


def small_integers(seed: int) -> Callable[..., Tensor]:
    """Makes matrices whose products float32 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randint(-8, 9, shape, generator=generator).double()


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", TRANSPOSED, ids=str)
def test_products_of_integers_are_exact(dtype: torch.dtype, transposed: tuple[bool, bool]) -> None:
    random = Random(201)
    drawn = [(random.choice(EXTENTS), random.choice(EXTENTS), random.choice(DEPTHS)) for _ in range(250)]
    for shape in (*drawn, *SHAPES):
        case = arguments(small_integers(202), shape, transposed)
        assert torch.equal(call(ops.matmul, case, dtype).out.double(), formula(case)), shape


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("transposed", TRANSPOSED, ids=str)
def test_against_float64(transposed: tuple[bool, bool]) -> None:
    """Whoever computes it, on a GPU as well."""
    for shape in ((1, 1, 1), (3, 5, 7), (33, 10, 130)):
        case = arguments(Random(203).normal, shape, transposed)
        results = (call(op, case, torch.float32).out for op in (ops.matmul, reference.matmul))
        assert_accurate(*results, formula(case), str(shape))


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_accuracy(shape: tuple[int, int, int]) -> None:
    for transposed in TRANSPOSED:
        case = arguments(Random(204).normal, shape, transposed)
        results = (call(op, case, torch.float32).out for op in (ops.matmul, reference.matmul))
        assert_accurate(*results, formula(case), str(transposed))
        double = call(ops.matmul, case).out
        scale = case["a"].norm() * case["b"].norm()
        assert float((double - formula(case)).abs().max()) <= 1e-15 * float(scale)


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", TRANSPOSED, ids=str)
def test_the_blas_gives_the_bits_of_torch(dtype: torch.dtype, transposed: tuple[bool, bool]) -> None:
    shapes = [*itertools.product((1, 2, 3, 10, 28), (1, 2, 10, 16, 33), (1, 2, 17, 100)), *SHAPES]
    with computed_by("blas"):
        for shape in shapes:
            case = arguments(Random(205).normal, shape, transposed)
            case = {
                name: value.to(dtype) if isinstance(value, Tensor) else value for name, value in case.items()
            }
            found, expected = torch.full(shape[:2], NAN, dtype=dtype), torch.empty(shape[:2], dtype=dtype)
            ops.matmul(**{**case, "out": found})
            reference.matmul(**{**case, "out": expected})
            assert same_bits(found, expected), shape


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", TRANSPOSED, ids=str)
def test_threads_change_nothing(dtype: torch.dtype, transposed: tuple[bool, bool]) -> None:
    for shape in (*SHAPES, (130, 500, 90), (90, 33, 600), (1000, 20, 64), (20, 1000, 64)):
        case = arguments(Random(206).normal, shape, transposed)
        alone = call(ops.matmul, case, dtype, threads=1).out
        for threads in (2, 3, 7):
            assert same_bits(call(ops.matmul, case, dtype, threads=threads).out, alone), (shape, threads)


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [2, 13, 20, 33, 80])
@pytest.mark.parametrize(("depth", "columns"), [(785, 785), (768, 1024), (300, 1900)])
def test_a_matrix_that_no_cache_holds(dtype: torch.dtype, rows: int, depth: int, columns: int) -> None:
    """It is read row by row, yet a column's bits do not depend on which others are beside it, nor on threads."""
    random = Random(7)
    a, b = random.normal(rows, depth), random.normal(depth, columns)
    case = {"a": a, "b": b, "out": Output((rows, columns))}
    whole, shared = (call(ops.matmul, case, dtype, threads=threads).out for threads in (1, 3))
    assert same_bits(whole, shared)
    for first in (0, columns - 40):
        few = {"a": a, "b": b[:, first : first + 40].contiguous(), "out": Output((rows, 40))}
        assert same_bits(call(ops.matmul, few, dtype).out, whole[:, first : first + 40].contiguous())
    if dtype == torch.float32:
        assert_accurate(whole, call(reference.matmul, case, dtype).out, a @ b)


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", TRANSPOSED, ids=str)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_finite_spreads_as_in_torch(
    dtype: torch.dtype, transposed: tuple[bool, bool], value: float
) -> None:
    """A row or a column of the result, and nothing else; infinity times zero is no number."""
    random = Random(207)
    for shape in (
        (1, 33, 30),
        (1, 10, 17),
        (33, 1, 19),
        (20, 30, 1),
        (5, 9, 12),
        (33, 47, 130),
        (28, 100, 33),
    ):
        for name in "ab":
            case = arguments(small_integers(208), shape, transposed)
            matrix = case[name]
            matrix.view(-1)[random.choice(range(matrix.numel()))] = value
            matrix.view(-1)[-1] = value
            found, expected = call(ops.matmul, case, dtype).out.double(), formula(case)
            assert torch.equal(found.nan_to_num(nan=1e30), expected.nan_to_num(nan=1e30)), (shape, name)


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("transposed", TRANSPOSED, ids=str)
def test_extents_alone_choose_who_computes(transposed: tuple[bool, bool]) -> None:
    """The choice is one of the two; it is the same for all numbers; and no BLAS is called for a handful of them."""
    shapes = [(1, 16, 8), (28, 16, 8), (4, 4, 4), *SHAPES]
    for shape in shapes:
        chosen = []
        for seed in (209, 210):
            case = arguments(Random(seed).normal, shape, transposed)
            found = call(ops.matmul, case, torch.float32).out
            with computed_by("own"):
                own = same_bits(call(ops.matmul, case, torch.float32).out, found)
            with computed_by("blas"):
                blas = same_bits(call(ops.matmul, case, torch.float32).out, found)
            assert own or blas
            chosen.append((own, blas))
        if chosen[0] != (True, True):
            assert chosen[0] == chosen[1], shape
        if shape in shapes[:3]:
            assert chosen[0][0], shape


def test_backends_have_names() -> None:
    assert native.module is not None
    assert not native.module.matmul_backend("cublas")
    assert native.module.matmul_backend("auto")


def test_bad_arguments_are_refused() -> None:
    case = {"a": torch.ones(3, 4), "b": torch.ones(4, 5), "out": Output((3, 5))}
    case |= {"transpose_a": False, "transpose_b": False}
    assert_refuses_bad_tensors(ops.matmul, case, optional=(), chooses_backend="a", sets_shape=("b",))
    assert_refuses_shared_memory(ops.matmul, case)
    turned = {"a": torch.ones(4, 3), "b": torch.ones(5, 4), "out": Output((3, 5))}
    turned |= {"transpose_a": True, "transpose_b": True}
    assert_refuses_bad_tensors(ops.matmul, turned, optional=(), chooses_backend="a", sets_shape=("b",))
