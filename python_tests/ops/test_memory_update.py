"""memory_update: the two matrices in which a stage remembers its past, after one more minibatch.

The oracle is the formula in float64.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import MemoryScalar, reference

from .calling import Random, assert_accurate, assert_close, call, call_refused, memory_block, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

EXTENTS = (0, 1, 3, 33, 127, 200)
INF, NAN = float("inf"), float("nan")


def arguments(
    random: Random,
    batch: int,
    n_in: int,
    n_out: int,
    *,
    bias: bool = True,
    forgetting: float = 0.1,
    subtract: bool = False,
) -> dict[str, Any]:
    """``bias``: whether the two matrices have a place for it."""
    n = n_in + bias
    past = random.normal(n, n)
    return {
        "activation": random.normal(batch, n_in),
        "code": random.normal(batch, n_out),
        "gram": past.tril() + past.tril(-1).T,
        "cross": random.normal(n_out, n),
        "scalars": memory_block(forgetting=forgetting),
        "subtract": subtract,
    }


def kernel_case(random: Random, batch: int = 600, n_in: int = 70, n_out: int = 66) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    past = random.normal(n_in + 1, n_in + 1)
    return {
        "activation": random.normal(batch, n_in),
        "code": random.normal(batch, n_out),
        "gram": past + past.T,
        "cross": random.normal(n_out, n_in + 1),
        "scalars": memory_block(forgetting=0.1),
    }


def formula(case: dict[str, Any]) -> dict[str, Tensor]:
    activation, code, gram = case["activation"], case["code"], case["gram"]
    if len(gram) == activation.shape[1] + 1:
        activation = torch.cat([activation, activation.new_ones(len(activation), 1)], 1)
    keep = 1 - float(case["scalars"][MemoryScalar.forgetting])
    sums = {
        "gram": torch.einsum("bi,bj->ij", activation, activation),
        "cross": torch.einsum("bk,bi->ki", code, activation),
    }
    return {
        name: keep * case[name] - sum if case.get("subtract") else keep * case[name] + sum
        for name, sum in sums.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("forgetting", [0.0, 0.1, 1.0, -0.25])
def test_against_float64(
    wide_kernels: str, dtype: torch.dtype, bias: bool, subtract: bool, forgetting: float
) -> None:
    random = Random(91)
    shapes = list(itertools.product(EXTENTS, EXTENTS, (0, 1, 33, 127)))
    for batch, n_in, n_out in shapes[
        :: 7 if wide_kernels == "emulated" else 1
    ]:  # the emulator takes its time
        case = arguments(random, batch, n_in, n_out, bias=bias, forgetting=forgetting, subtract=subtract)
        result = call(ops.memory_update, case, dtype)
        twin = call(reference.memory_update, case, dtype) if dtype == torch.float32 else None
        for name, value in formula(case).items():
            what = f"{name}, {batch} x {n_in} and {n_out}"
            if twin is not None:
                assert_accurate(getattr(result, name), getattr(twin, name), value, what)
            else:
                assert_close(getattr(result, name), value, 1e-13, what)
        assert same_bits(result.gram, result.gram.T.contiguous())


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_large_batch(mean: float) -> None:
    """Sums that add their samples one by one would lose digits that torch keeps."""
    case = arguments(Random(92), 5000, 65, 17, forgetting=0.0)
    for name in ("activation", "code"):
        case[name] = (case[name] + mean).float().double()
    result, twin = (call(op, case, torch.float32) for op in (ops.memory_update, reference.memory_update))
    for name, value in formula(case).items():
        assert_accurate(getattr(result, name), getattr(twin, name), value, name)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bias_sees_a_one_in_every_sample(dtype: torch.dtype) -> None:
    case = arguments(Random(93), 200, 5, 3, forgetting=1.0)
    result = call(ops.memory_update, case, dtype)
    assert result.gram[5, 5] == 200
    assert_close(result.gram[5, :5], case["activation"].sum(0), 32 * torch.finfo(dtype).eps)
    assert_close(result.cross[:, 5], case["code"].sum(0), 32 * torch.finfo(dtype).eps)


@pytest.mark.usefixtures("wide_kernels")
def test_a_small_share_is_forgotten_as_it_is_in_float32() -> None:
    """In float32, one minus 1e-5 is off by a thousandth of that; the closed form is past * (1 - 1e-5)^updates."""
    forgetting, updates = 1e-5, 20_000
    past = torch.linspace(1.0, 2.0, 64)  # each entry with a rounding of its own
    gram, cross = past.outer(past), past[None].clone()
    scalars = memory_block(forgetting=forgetting)
    for _ in range(updates):
        ops.memory_update(torch.zeros(0, 64), torch.zeros(0, 1), gram=gram, cross=cross, scalars=scalars)
    kept = math.exp(updates * math.log1p(-forgetting))
    assert_close(gram, kept * past.outer(past), 1e-4)
    assert_close(cross, kept * past[None], 1e-4)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_batch_only_forgets(dtype: torch.dtype) -> None:
    for forgetting, subtract in itertools.product((0.0, 0.5, 1.0, -1.0), (False, True)):
        case = arguments(Random(94), 0, 33, 7, forgetting=forgetting, subtract=subtract)
        result = call(ops.memory_update, case, dtype)
        for name in ("gram", "cross"):
            assert torch.equal(getattr(result, name), (1 - forgetting) * case[name].to(dtype))


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cut", [1, 100, 163])
def test_a_batch_may_come_in_parts(bias: bool, cut: int) -> None:
    """Where nothing is forgotten, two minibatches leave what both at once do."""
    case = arguments(Random(95), 200, 33, 17, bias=bias, forgetting=0.0)
    whole = call(ops.memory_update, case)
    parts = [
        {name: case[name][rows] for name in ("activation", "code")} for rows in (slice(cut), slice(cut, None))
    ]
    first = call(ops.memory_update, {**case, **parts[0]})
    second = call(ops.memory_update, {**case, **parts[1], "gram": first.gram, "cross": first.cross})
    assert_close(second.gram, whole.gram, 1e-12)
    assert_close(second.cross, whole.cross, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [0, 33, 600])
def test_the_past_may_lie_elsewhere(kernels: str, dtype: torch.dtype, batch: int) -> None:
    """To the same bits as in place, whatever was in the matrices; and it stays as it is."""
    case = arguments(Random(103), batch, 40, 17)
    expected = call(ops.memory_update, case, dtype)
    for names in (("gram", "cross"), ("gram",), ("cross",)):
        before = {f"{name}_before": case[name] for name in names}
        empty = {name: torch.full_like(case[name], NAN) for name in names}
        result = call(ops.memory_update, {**case, **empty, **before}, dtype)
        for name in ("gram", "cross"):
            assert same_bits(getattr(result, name), getattr(expected, name))
        for name in names:
            assert same_bits(getattr(result, f"{name}_before"), case[name].to(dtype))


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_lower_triangle_of_the_past_is_not_read(kernels: str, elsewhere: bool, upper: bool) -> None:
    """Not by the twin either: perhaps it has never been written."""
    case = arguments(Random(105), 40, 70, 3)
    expected = formula(case)["gram"]
    lower = torch.ones_like(expected, dtype=torch.bool).tril(-1)
    stale = torch.where(lower, NAN, case["gram"])
    empty = torch.full_like(stale, 7.0)
    past = {"gram": empty, "gram_before": stale} if elsewhere else {"gram": stale}
    for op in (ops.memory_update, reference.memory_update):
        found = call(op, {**case, **past, "upper": upper}, torch.float64).gram
        assert_close(found.triu(), expected.triu(), 1e-13)
        if upper:
            assert same_bits(found[lower], past["gram"][lower])
        else:
            assert_close(found, expected, 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 33, 70, 200])
def test_the_upper_triangle_alone(kernels: str, dtype: torch.dtype, n: int) -> None:
    """To the same bits; the other one stays."""
    case = arguments(Random(104), 40, n, 3)
    expected = call(ops.memory_update, case, dtype).gram
    lower = torch.ones_like(expected, dtype=torch.bool).tril(-1)
    for before in ({}, {"gram_before": case["gram"]}):
        gram = torch.where(lower, 7.0, case["gram"])
        found = call(ops.memory_update, {**case, **before, "gram": gram, "upper": True}, dtype).gram
        assert same_bits(found, torch.where(lower, 7.0, expected))


@pytest.mark.usefixtures("wide_kernels")
def test_what_was_added_can_be_taken_out() -> None:
    case = arguments(Random(100), 200, 33, 17, forgetting=0.0)
    added = call(ops.memory_update, case)
    left = call(ops.memory_update, {**case, "subtract": True, "gram": added.gram, "cross": added.cross})
    assert_close(left.gram, case["gram"], 1e-12)
    assert_close(left.cross, case["cross"], 1e-12)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("forgetting", [0.0, 0.1, 0.8])
def test_the_inverse_follows_by_its_own_update(forgetting: float) -> None:
    """Woodbury: ((1 - f) A + X^T X)^-1 = P / (1 - f) - K^T K, with K K^T as it must be, P = A^-1."""
    random = Random(101)
    x, more = random.normal(20, 33), random.normal(80, 33)
    gram = more.T @ more
    after = torch.linalg.inv((1 - forgetting) * gram + x.T @ x)
    inverse = torch.linalg.inv(gram)
    grown = inverse / (1 - forgetting)
    factor = torch.linalg.cholesky(torch.eye(20) + x @ grown @ x.T)
    case = {
        "activation": torch.linalg.solve_triangular(factor, x @ grown, upper=False),
        "code": torch.zeros(20, 0),
        "gram": inverse.tril() + inverse.tril(-1).T,
        "cross": torch.zeros(0, 33),
        "scalars": memory_block(forgetting=-forgetting / (1 - forgetting)),
        "subtract": True,
    }
    assert_close(call(ops.memory_update, case).gram, after, 1e-11)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("subtract", [False, True])
def test_gram_stays_symmetric(dtype: torch.dtype, subtract: bool) -> None:
    """To the last bit, however many minibatches it has seen."""
    random = Random(96)
    case = arguments(random, 0, 65, 3)
    for batch in (1, 33, 200, 77):
        new = arguments(random, batch, 65, 3, subtract=subtract)
        result = call(ops.memory_update, {**new, "gram": case["gram"], "cross": case["cross"]}, dtype)
        assert same_bits(result.gram, result.gram.T.contiguous())
        case = {"gram": result.gram, "cross": result.cross}


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_nonfinite_activations_and_codes_are_seen(dtype: torch.dtype, bad: float) -> None:
    """In all that they take part in, and nowhere else."""
    for forgetting, column in itertools.product((0.1, 1.0), (0, 16, 64)):
        case = arguments(Random(97), 40, 65, 33, forgetting=forgetting)
        clean = call(ops.memory_update, case, dtype)
        others = torch.arange(66) != column
        activation = case["activation"].clone()
        activation[35, column] = bad
        result = call(ops.memory_update, {**case, "activation": activation}, dtype)
        for row in (result.gram[column], result.gram[:, column], result.cross[:, column]):
            assert not torch.isfinite(row).any()
        assert same_bits(result.gram[others][:, others], clean.gram[others][:, others])
        assert same_bits(result.cross[:, others], clean.cross[:, others])

        code, row = case["code"].clone(), column // 2
        code[35, row] = bad
        result = call(ops.memory_update, {**case, "code": code}, dtype)
        assert not torch.isfinite(result.cross[row]).any()
        others = torch.arange(33) != row
        assert same_bits(result.cross[others], clean.cross[others])
        assert same_bits(result.gram, clean.gram)


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(50, 200, 127), (33, 3, 20_000), (5000, 190, 1)])
def test_threads(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    """They may add in another order than one does, but always in the same."""
    case = arguments(Random(98), *shape)
    alone, both, again = (call(ops.memory_update, case, dtype, threads=threads) for threads in (1, 2, 2))
    for name in ("gram", "cross"):
        assert same_bits(getattr(both, name), getattr(again, name))
        assert_close(getattr(both, name), getattr(alone, name), 32 * torch.finfo(dtype).eps, name)
    assert same_bits(both.gram, both.gram.T.contiguous())


def test_tensors_that_require_grad() -> None:
    """Under no no_grad(): the op is below autograd."""
    case = arguments(Random(99), 9, 5, 3)
    expected = call(ops.memory_update, case)
    gram, cross = case["gram"].clone().requires_grad_(), case["cross"].clone().requires_grad_()
    ops.memory_update(
        case["activation"].requires_grad_(), case["code"], gram=gram, cross=cross, scalars=case["scalars"]
    )
    assert same_bits(gram.detach(), expected.gram)
    assert same_bits(cross.detach(), expected.cross)


def test_bad_arguments_are_refused() -> None:
    for bias in (False, True):
        case = {
            "activation": torch.zeros(3, 4), "code": torch.zeros(3, 6), "gram": torch.zeros(4 + bias, 4 + bias),
            "cross": torch.zeros(6, 4 + bias), "scalars": memory_block(),
        }  # fmt: skip
        assert_refuses_bad_tensors(
            ops.memory_update, case, optional=(), chooses_backend="activation", sets_shape=("code",)
        )
        assert_refuses_shared_memory(ops.memory_update, case)


def test_matrices_of_other_shapes_are_refused() -> None:
    case = {
        "activation": torch.zeros(3, 4), "code": torch.zeros(3, 6), "gram": torch.zeros(5, 5),
        "cross": torch.zeros(6, 5), "scalars": memory_block(),
    }  # fmt: skip
    for wrong in ((3, 3), (6, 6), (0, 0), (4, 5), (5, 4)):
        bad = {**case, "gram": torch.zeros(wrong)}
        call_refused(ops.memory_update, bad, ValueError, "gram", str(wrong))
    # Those of a stage without a bias, one of the two at a time.
    call_refused(
        ops.memory_update, {**case, "cross": torch.zeros(6, 4)}, ValueError, "cross", "(6, 5)", "(6, 4)"
    )
    call_refused(
        ops.memory_update, {**case, "gram": torch.zeros(4, 4)}, ValueError, "cross", "(6, 4)", "(6, 5)"
    )
    call_refused(
        ops.memory_update, {**case, "code": torch.zeros(2, 6)}, ValueError, "code", "(3, 6)", "(2, 6)"
    )
