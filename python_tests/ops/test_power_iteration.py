"""power_iteration: one step towards the largest squared singular value of a matrix."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import reference

from .calling import Arguments, Output, Random, assert_accurate, assert_close, call, refused, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

EXTENTS = (1, 3, 31, 32, 33, 127, 200)
LISTS = {"weight": "weights", "vector": "vectors", "sigma_squared": "sigma_squared"}
INF, NAN = float("inf"), float("nan")


def arguments(random: Random, rows: int, columns: int) -> dict[str, Any]:
    v = random.normal(columns)
    return {
        "weight": random.normal(rows, columns),
        "vector": (v / v.norm() if columns else v).float().double(),
        "sigma_squared": Output((1,)),
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return {
        "weights": [random.normal(50, 90), random.normal(9, 40)],
        "vectors": [random.normal(90) / 90**0.5, random.normal(40) / 40**0.5],
        "sigma_squared": [Output((1,), torch.float64) for _ in range(2)],
    }


def lists(*cases: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the op, which takes several matrices."""
    return {name: [case[entry] for case in cases] for entry, name in LISTS.items()}


def call_one(
    op: Callable[..., None], case: Mapping[str, Any], dtype: torch.dtype = torch.float64, threads: int = 1
) -> Arguments:
    """Like ``call``, on a single matrix."""
    result = call(op, lists(case), dtype, threads=threads)
    return Arguments(**{entry: getattr(result, name)[0] for entry, name in LISTS.items()})


def formula(case: dict[str, Any]) -> dict[str, Tensor]:
    t = case["weight"].T @ (case["weight"] @ case["vector"])
    return {"vector": t / t.norm(), "sigma_squared": t.norm()[None]}


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_float64(dtype: torch.dtype) -> None:
    random = Random(81)
    for rows, columns in (*itertools.product(EXTENTS, EXTENTS), (500, 500), (500, 784), (1500, 40)):
        case = arguments(random, rows, columns)
        result, twin = (call_one(op, case, dtype) for op in (ops.power_iteration, reference.power_iteration))
        for name, value in formula(case).items():
            what = f"{name}, {rows} x {columns}"
            if dtype == torch.float32:
                assert_accurate(getattr(result, name), getattr(twin, name), value, what)
            else:
                assert_close(getattr(result, name), value, 1e-13, what)


@pytest.mark.usefixtures("cpu_kernels")  # a thousand calls take a while under the emulator
@pytest.mark.parametrize("shape", [(10, 100), (100, 10), (33, 33), (1, 7), (7, 1)])
def test_it_converges_to_the_spectral_norm_from_below(shape: tuple[int, int]) -> None:
    random = Random(82)
    weight, vector = random.normal(*shape), random.normal(shape[1])
    vector /= vector.norm()
    norm = float(torch.linalg.matrix_norm(weight, ord=2))
    before, estimate = 0.0, torch.empty(1, dtype=torch.float64)
    for _ in range(1000):
        ops.power_iteration([weight], [vector], [estimate])
        assert before * (1 - 1e-14) <= float(estimate) <= norm**2 * (1 + 1e-13)
        before = float(estimate)
    assert before == pytest.approx(norm**2, rel=1e-8)
    assert float(vector.norm()) == pytest.approx(1.0, rel=1e-14)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-18, 1e-10, 1e10, 1e18])
def test_matrices_of_any_size(dtype: torch.dtype, size: float) -> None:
    """sigma^2 = 1e-36 is a number of float32, its inverse is none."""
    case = arguments(Random(83), 33, 20)
    case["weight"] = (case["weight"] * size / 100).float().double()
    result = call_one(ops.power_iteration, case, dtype)
    exact = formula(case)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    assert_close(result.vector, exact["vector"], tolerance)
    assert_close(result.sigma_squared, exact["sigma_squared"], tolerance)


@pytest.mark.usefixtures("kernels")
def test_a_vanishing_matrix_leaves_a_finite_vector() -> None:
    """Its square underflows nearly, or wholly, and the next step must still have a vector to go on from."""
    for size in (1e-19, 1e-20, 1e-21, 1e-22, 1e-24, 1e-30):
        case = arguments(Random(84), 3, 4)
        case["weight"] = torch.full((3, 4), size)
        case["vector"] = torch.full((4,), 0.5)
        result = call_one(ops.power_iteration, case, torch.float32)
        assert torch.isfinite(result.vector).all(), size
        assert float(result.vector.norm()) == pytest.approx(1.0, rel=0.5), size


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (33, 65)])
def test_a_zero_matrix_keeps_the_vector(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    case = arguments(Random(85), *shape)
    case["weight"] = torch.zeros(shape)
    result = call_one(ops.power_iteration, case, dtype)
    assert same_bits(result.vector, case["vector"].to(dtype))
    assert float(result.sigma_squared) == 0


def test_a_matrix_without_columns() -> None:
    assert float(call_one(ops.power_iteration, arguments(Random(86), 3, 0)).sigma_squared) == 0


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_nonfinite_matrix_keeps_the_vector(dtype: torch.dtype, bad: float) -> None:
    for place in ((0, 0), (6, 64), (32, 64)):
        case = arguments(Random(87), 33, 65)
        case["weight"][place] = bad
        result = call_one(ops.power_iteration, case, dtype)
        assert same_bits(result.vector, case["vector"].to(dtype))
        assert not torch.isfinite(result.sigma_squared)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads(dtype: torch.dtype) -> None:
    """Two threads add in another order than one, but always in the same."""
    for rows, columns in ((301, 127), (7, 9000), (2, 40_000)):
        case = arguments(Random(88), rows, columns)
        alone, both, again = (
            call_one(ops.power_iteration, case, dtype, threads=threads) for threads in (1, 2, 2)
        )
        assert same_bits(both.vector, again.vector)
        assert same_bits(both.sigma_squared, again.sigma_squared)
        tolerance = 32 * torch.finfo(dtype).eps
        assert_close(both.vector, alone.vector, tolerance)
        assert_close(both.sigma_squared, alone.sigma_squared, tolerance)


def test_a_parameter_that_requires_grad() -> None:
    case = arguments(Random(89), 3, 4)
    vector, sigma_squared = case["vector"].clone(), torch.empty(1, dtype=torch.float64)
    ops.power_iteration([torch.nn.Parameter(case["weight"])], [vector], [sigma_squared])
    assert same_bits(vector, call_one(ops.power_iteration, case).vector)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("op", [ops.power_iteration, reference.power_iteration])
def test_several_matrices_equal_a_call_each(op: Callable[..., None]) -> None:
    random = Random(90)
    cases = [arguments(random, rows, columns) for rows, columns in ((33, 65), (1, 1), (0, 3), (200, 31))]
    together = call(op, lists(*cases))
    for i, case in enumerate(cases):
        alone = call_one(op, case)
        assert same_bits(together.vectors[i], alone.vector)
        assert same_bits(together.sigma_squared[i], alone.sigma_squared)
    call(op, lists())


@pytest.mark.parametrize("place", [0, 1])
def test_bad_arguments_are_refused(place: int) -> None:
    """Of two matrices, in each of them; the error says in which."""

    def matrix(rows: int, columns: int) -> dict[str, Any]:
        square = torch.zeros(1, dtype=torch.float64)
        return {"weight": torch.zeros(rows, columns), "vector": torch.zeros(columns), "sigma_squared": square}

    def op(**entries: Any) -> None:
        cases = [matrix(5, 6)]
        cases.insert(place, entries)
        try:
            ops.power_iteration(**lists(*cases))
        except (TypeError, ValueError) as error:
            if not re.match(rf"\w+\[{place}\] ", str(error)):
                pytest.fail(f"{error} does not name entry {place}")
            raise

    case = matrix(3, 4)
    first = "weight" if place == 0 else None
    assert_refuses_bad_tensors(op, case, optional=(), chooses_backend=first, sets_shape=("weight",))
    assert_refuses_shared_memory(op, case, written=("vector", "sigma_squared"))


def test_lists_must_be_of_the_same_length() -> None:
    good = lists(*[arguments(Random(91), 3, 4) for _ in range(2)])
    for name in ("vectors", "sigma_squared"):
        with refused(ValueError, name, "2 weights"):
            call(ops.power_iteration, {**good, name: good[name][:1]})
