"""bcd_columns: sweeps of block coordinate descent over the columns of W.

The oracles: the Gauss-Seidel step as one triangular solve, the closed solution and the conditions of optimality that
many sweeps must end at, and the objective itself. For single sweeps with thresholds the formula in float64, with the
gradient W A - B kept up to date column by column where the op takes each anew.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import MemoryScalar, reference

from . import oracle
from .calling import (
    Random,
    assert_accurate,
    assert_close,
    call,
    call_refused,
    memory_block,
    same_bits,
)
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

ROWS = (0, 1, 3, 33, 65)
COLUMNS = (0, 1, 2, 33, 65, 127)
NAN = float("nan")


def arguments(
    random: Random,
    rows: int,
    columns: int,
    *,
    threshold: float = 0.0,
    sweeps: int = 1,
    has_bias: bool = False,
    nonnegative: bool = False,
    damping: float = 0.0,
    from_zero: bool = False,
) -> dict[str, Any]:
    """A is well conditioned: the mean of many more squares than it has columns."""
    samples = random.normal(4 * columns + 8, columns)
    gram = (samples.T @ samples / len(samples)).float().double()
    return {
        "weight": torch.full((rows, columns), NAN, dtype=torch.float64)
        if from_zero
        else random.normal(rows, columns),
        "gram": gram.tril() + gram.tril(-1).T,
        "cross": random.normal(rows, columns),
        "scalars": memory_block(threshold=threshold, damping=damping),
        "sweeps": sweeps,
        "has_bias": has_bias,
        "nonnegative": nonnegative,
        "from_zero": from_zero,
    }


def kernel_case(random: Random, rows: int = 20, columns: int = 70) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    samples = random.normal(2 * columns, columns)
    return {
        "weight": random.normal(rows, columns),
        "gram": samples.T @ samples,
        "cross": random.normal(rows, columns),
        "scalars": memory_block(threshold=0.5, damping=0.1),
        "sweeps": 2,
        "has_bias": True,
        "nonnegative": True,
    }


def damped(case: dict[str, Any]) -> Tensor:
    """A + damping mean_k(A_kk) I."""
    gram, damping = case["gram"], float(case["scalars"][MemoryScalar.damping])
    return gram + torch.diag((damping * gram.diagonal().mean()).expand(len(gram))) if damping else gram


def formula(case: dict[str, Any]) -> Tensor:
    threshold = float(case["scalars"][MemoryScalar.threshold])
    w, a = case["weight"].clone(), damped(case)
    if case["from_zero"]:
        w.zero_()
    gradient = w @ a - case["cross"]
    for _ in range(case["sweeps"]):
        for j in range(len(a)):
            column = w[:, j] - gradient[:, j] / a[j, j]
            if not (case["has_bias"] and j == len(a) - 1):
                column = oracle.soft_threshold(column, threshold / float(a[j, j]))
                column = column.clamp(min=0) if case["nonnegative"] else column
            gradient += torch.outer(column - w[:, j], a[j])
            w[:, j] = column
    return w


def objective(case: dict[str, Any], w: Tensor) -> Tensor:
    """Of every row of W: they are problems of their own."""
    free = w[:, : w.shape[1] - case["has_bias"]]
    smooth = ((w @ case["gram"]) * w / 2 - w * case["cross"]).sum(1)
    return smooth + case["scalars"][MemoryScalar.threshold] * free.abs().sum(1)


OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"has_bias": True}, id="bias"),
    pytest.param({"threshold": 0.5}, id="threshold"),
    pytest.param({"threshold": 0.5, "has_bias": True}, id="threshold, bias"),
    pytest.param({"nonnegative": True, "has_bias": True}, id="nonnegative, bias"),
    pytest.param({"threshold": 0.3, "nonnegative": True}, id="threshold, nonnegative"),
    pytest.param(
        {"threshold": 0.3, "nonnegative": True, "has_bias": True}, id="threshold, nonnegative, bias"
    ),
]
STARTS = [
    pytest.param({}, id="from weights"),
    pytest.param({"from_zero": True}, id="from zero"),
    pytest.param({"damping": 3.0}, id="damping"),
    pytest.param({"damping": 0.1, "from_zero": True}, id="damping, from zero"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("start", STARTS)
def test_against_float64(
    wide_kernels: str, dtype: torch.dtype, options: dict[str, Any], start: dict[str, Any]
) -> None:
    random = Random(101)
    shapes = list(itertools.product(ROWS, COLUMNS))
    for rows, columns in shapes[:: 5 if wide_kernels == "emulated" else 1]:  # the emulator takes its time
        case = arguments(random, rows, columns, **options, **start, sweeps=random.choice((1, 2)))
        result, exact = call(ops.bcd_columns, case, dtype).weight, formula(case)
        what = f"{rows} x {columns}"
        if dtype == torch.float32:
            assert_accurate(result, call(reference.bcd_columns, case, dtype).weight, exact, what)
        else:
            assert_close(result, exact, 1e-12, what)


@pytest.mark.usefixtures("wide_kernels")
def test_a_sweep_is_a_triangular_solve() -> None:
    """W <- (B - W tril(A, -1)) triu(A)^-1: every column meets those before it new and those behind it old."""
    random = Random(102)
    for rows, columns in itertools.product(ROWS, COLUMNS):
        case = arguments(random, rows, columns)
        right = case["cross"] - case["weight"] @ case["gram"].tril(-1)
        expected = torch.linalg.solve_triangular(case["gram"].triu(), right, upper=True, left=False)
        assert_close(call(ops.bcd_columns, case).weight, expected, 1e-10, f"{rows} x {columns}")


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("damping", [0.0, 0.1, 3.0])
def test_from_zero_it_is_a_triangular_solve_that_reads_neither_weight_nor_the_lower_triangle(
    damping: float,
) -> None:
    random = Random(115)
    for rows, columns in (*itertools.product(ROWS, COLUMNS[1:]), (7, 300)):
        case = arguments(random, rows, columns, damping=damping, from_zero=True)
        upper = damped(case).triu()
        expected = torch.linalg.solve_triangular(upper, case["cross"], upper=True, left=False)
        case["gram"] = case["gram"].triu() + torch.full_like(upper, NAN).tril(-1)
        assert_close(call(ops.bcd_columns, case).weight, expected, 1e-10, f"{rows} x {columns}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("sweeps", [1, 2])
def test_from_zero_it_gives_the_bits_of_a_start_at_zeros(
    wide_kernels: str, dtype: torch.dtype, options: dict[str, Any], sweeps: int
) -> None:
    """But for the sign of zeros. The weights of a call from zero are NaN before."""
    random = Random(116)
    shapes = ((3, 5), (17, 33), (65, 127), (20, 300))
    for rows, columns in shapes[:2] if wide_kernels == "emulated" else shapes:
        case = arguments(random, rows, columns, **options, sweeps=sweeps, damping=0.5, from_zero=True)
        zeros = {**case, "weight": torch.zeros_like(case["weight"]), "from_zero": False}
        found, expected = (call(ops.bcd_columns, one, dtype).weight for one in (case, zeros))
        assert same_bits(found + 0.0, expected + 0.0), f"{rows} x {columns}"


@pytest.mark.usefixtures("wide_cpu_kernels")  # a GPU takes it off apart
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("start", STARTS[2:])
def test_damping_counts_as_if_it_were_in_the_matrix(dtype: torch.dtype, start: dict[str, Any]) -> None:
    """Of a power of two and a diagonal of ones, so that it can be: not by more than a rounding. A itself stays, as of
    all that an op only reads."""
    for columns in (1, 33, 65):
        case = arguments(Random(117), 17, columns, **start | {"damping": 0.5}, threshold=0.2, sweeps=2)
        case["gram"].fill_diagonal_(1.0)
        inside = {
            **case,
            "gram": case["gram"] + 0.5 * torch.eye(columns),
            "scalars": memory_block(threshold=0.2),
        }
        found, expected = (call(ops.bcd_columns, one, dtype).weight for one in (case, inside))
        assert same_bits(found, expected), columns


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_column_of_which_nothing_was_seen_is_zero_from_zero_and_moves_where_it_is_damped(
    dtype: torch.dtype,
) -> None:
    case = arguments(Random(118), 9, 33, from_zero=True)
    case["gram"][7], case["gram"][:, 7] = 0.0, 0.0
    assert not call(ops.bcd_columns, case, dtype).weight[:, 7].any()
    added = 0.5 * float(case["gram"].diagonal().mean())
    damped = call(ops.bcd_columns, {**case, "scalars": memory_block(damping=0.5)}, dtype).weight
    assert_close(damped[:, 7], case["cross"][:, 7] / added, 4 * torch.finfo(dtype).eps)


@pytest.mark.usefixtures("wide_cpu_kernels")  # 300 sweeps take a while under the emulator
@pytest.mark.parametrize("columns", [1, 2, 33, 65])
def test_many_sweeps_solve_the_least_squares_problem(columns: int) -> None:
    case = arguments(Random(103), 7, columns, sweeps=300)
    expected = torch.linalg.solve(case["gram"], case["cross"], left=False)
    assert_close(call(ops.bcd_columns, case).weight, expected, 1e-10)


@pytest.mark.usefixtures("wide_cpu_kernels")  # 400 sweeps take a while under the emulator
@pytest.mark.parametrize("options", OPTIONS)
def test_many_sweeps_end_at_the_optimum(options: dict[str, Any]) -> None:
    """By its conditions (Karush, Kuhn and Tucker): they hold nowhere else, the objective being strictly convex."""
    case = arguments(Random(104), 33, 20, **options, sweeps=400)
    w = call(ops.bcd_columns, case).weight
    gradient = w @ case["gram"] - case["cross"]
    if case["has_bias"]:
        assert float(gradient[:, -1].abs().max()) < 1e-10
        assert float(w[:, -1].min()) < 0
        w, gradient = w[:, :-1], gradient[:, :-1]
    threshold = float(case["scalars"][MemoryScalar.threshold])
    zero = w == 0
    assert float((gradient + threshold * w.sign())[~zero].abs().max()) < 1e-10
    if case["nonnegative"]:
        assert float(w.min()) >= 0
        assert (gradient[zero] + threshold > -1e-10).all()
    else:
        assert (gradient[zero].abs() < threshold + 1e-10).all()
    share = float(zero.double().mean())
    assert 0.1 < share < 0.9 if threshold or case["nonnegative"] else share == 0


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("options", OPTIONS)
def test_every_step_minimises_over_its_column(options: dict[str, Any]) -> None:
    """From column to column the objective never rises, and no other value of the column just set is better."""
    random = Random(105)
    case = arguments(random, 9, 33, **options)
    if case["nonnegative"]:
        case["weight"][:, : 33 - case["has_bias"]].abs_()
    w, result = case["weight"].clone(), call(ops.bcd_columns, case).weight
    last, first = objective(case, w), objective(case, w)
    for j in range(33):
        w[:, j] = result[:, j]
        value = objective(case, w)
        rounding = 1e-13 * float(last.abs().max() + first.abs().max())
        assert (value <= last + rounding).all(), f"column {j}"
        for step in (-1.0, -1e-2, -1e-4, 1e-4, 1e-2, 1.0):
            other = w.clone()
            other[:, j] += step
            if case["nonnegative"] and not (case["has_bias"] and j == 32):
                other[:, j].clamp_(min=0)
            assert (objective(case, other) >= value - rounding).all(), f"column {j}, {step:+g}"
        last = value
    assert (last < first).all()


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_column_of_which_nothing_was_seen_stays(dtype: torch.dtype, options: dict[str, Any]) -> None:
    """Up to A_jj = eps max_k A_kk; its weights count in the others' steps all the same."""
    eps = torch.finfo(dtype).eps
    for dead in (0, 16, 31, 32):
        case = arguments(Random(106), 9, 33, **options, sweeps=2)
        gram = case["gram"].to(dtype)
        gram[2, 2] = 2.0  # the largest, and a power of two: eps times it is a number of the dtype
        assert gram.diagonal().max() == 2
        for diagonal, stays in ((0.0, True), (-1e-9, True), (eps, True), (2 * eps, True), (4 * eps, False)):
            gram[dead, dead] = diagonal
            result = call(ops.bcd_columns, {**case, "gram": gram}, dtype).weight
            before = case["weight"].to(dtype)
            assert same_bits(result[:, dead].contiguous(), before[:, dead].contiguous()) == stays, diagonal
            assert torch.isfinite(result).all()
        # Taken out, the column leaves the same problem to the others.
        case["gram"][dead, dead] = 0.0
        case["gram"][2, 2] = 2.0
        others = [j for j in range(33) if j != dead]
        rest = {
            **case,
            "weight": case["weight"][:, others],
            "gram": case["gram"][others][:, others],
            "cross": case["cross"][:, others]
            - torch.outer(case["weight"][:, dead], case["gram"][dead, others]),
            "has_bias": case["has_bias"] and dead != 32,
        }
        result = call(ops.bcd_columns, case).weight
        assert_close(result[:, others], formula(rest), 1e-11)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_without_a_past_nothing_moves(dtype: torch.dtype, options: dict[str, Any]) -> None:
    case = arguments(Random(107), 9, 33, **options)
    case["gram"] = torch.zeros(33, 33)
    assert same_bits(call(ops.bcd_columns, case, dtype).weight, case["weight"].to(dtype))


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_two_sweeps_equal_two_calls(dtype: torch.dtype, options: dict[str, Any]) -> None:
    case = arguments(Random(108), 17, 33, **options)
    once = call(ops.bcd_columns, case, dtype)
    twice = call(ops.bcd_columns, {**case, "weight": once.weight}, dtype)
    assert same_bits(call(ops.bcd_columns, {**case, "sweeps": 2}, dtype).weight, twice.weight)
    assert not same_bits(twice.weight, once.weight)


@pytest.mark.usefixtures("wide_cpu_kernels")  # a thousand calls take a while under the emulator
def test_hals_factorises_a_nonnegative_matrix() -> None:
    """X = W H of rank 4, from other factors: alternating sweeps over W and H bring W H closer to X each time."""
    random = Random(109)
    rows, samples, rank = 30, 50, 4
    x = random.normal(rows, rank).abs() @ random.normal(rank, samples).abs()
    w, h = random.normal(rows, rank).abs(), random.normal(rank, samples).abs()
    first = last = float((x - w @ h).norm())
    for _ in range(500):
        for factor, other, data in ((w, h, x), (h.T, w.T, x.T)):
            moved = factor.contiguous()
            gram, cross = other @ other.T, (data @ other.T).contiguous()
            ops.bcd_columns(moved, gram.contiguous(), cross, scalars=memory_block(), nonnegative=True)
            factor.copy_(moved)
            assert float(factor.min()) >= 0
            residual = float((x - w @ h).norm())
            assert residual <= last + 1e-12 * first
            last = residual
    assert last < 0.01 * first


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_nan_is_seen(dtype: torch.dtype, options: dict[str, Any]) -> None:
    """In B or W it spoils its row of W, in A every row; other rows do not see it."""
    for column in (0, 16, 32):
        case = arguments(Random(110), 9, 33, **options, sweeps=2)
        clean = call(ops.bcd_columns, case, dtype).weight
        others = torch.arange(9) != 4
        for name in ("cross", "weight"):
            bad = case[name].clone()
            bad[4, column] = NAN
            result = call(ops.bcd_columns, {**case, name: bad}, dtype).weight
            assert torch.isnan(result[4]).all()
            assert same_bits(result[others], clean[others])
        for row in (column, 7):
            gram = case["gram"].clone()
            gram[row, column] = gram[column, row] = NAN
            result = call(ops.bcd_columns, {**case, "gram": gram}, dtype).weight
            assert torch.isnan(result).all()


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [2, 17, 64])
def test_rows_are_independent(dtype: torch.dtype, rows: int) -> None:
    """In whatever order they come, and with whatever others."""
    case = arguments(Random(111), rows, 65, threshold=0.2, has_bias=True, sweeps=2)
    result = call(ops.bcd_columns, case, dtype).weight
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    for chosen in (order, torch.arange(rows).flip(0), order[: rows // 2], order[:1]):
        part = {name: case[name][chosen] for name in ("weight", "cross")}
        assert same_bits(call(ops.bcd_columns, {**case, **part}, dtype).weight, result[chosen])


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(301, 127), (5000, 7), (70, 500)])
def test_threads_change_nothing(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Each has rows of its own."""
    case = arguments(Random(112), *shape, threshold=0.1, has_bias=True)
    alone, both = (call(ops.bcd_columns, case, dtype, threads=threads) for threads in (1, 2))
    assert same_bits(alone.weight, both.weight)


def test_a_parameter_that_requires_grad() -> None:
    case = arguments(Random(113), 3, 4)
    weight = torch.nn.Parameter(case["weight"].clone())
    ops.bcd_columns(weight, case["gram"], case["cross"], scalars=case["scalars"])
    assert weight.requires_grad
    assert same_bits(weight.detach(), call(ops.bcd_columns, case).weight)


def test_bad_arguments_are_refused() -> None:
    case = {
        "weight": torch.zeros(3, 4), "gram": torch.zeros(4, 4), "cross": torch.zeros(3, 4),
        "scalars": memory_block(), "sweeps": 1, "has_bias": True, "nonnegative": True, "from_zero": False,
    }  # fmt: skip
    assert_refuses_bad_tensors(ops.bcd_columns, case, optional=(), chooses_backend="weight")
    assert_refuses_shared_memory(ops.bcd_columns, case)
    for sweeps in (0, -1):
        call_refused(ops.bcd_columns, {**case, "sweeps": sweeps}, ValueError, "sweeps", str(sweeps))
    for name, wrong in (("gram", (3, 3)), ("gram", (4, 3)), ("cross", (4, 4)), ("cross", (3, 5))):
        call_refused(ops.bcd_columns, {**case, name: torch.zeros(wrong)}, ValueError, name, str(wrong))
