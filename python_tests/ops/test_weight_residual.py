"""weight_residual: what hidden stages' weights do not explain of their codes, divided by each stage's scale.

The oracle is the formula in float64, stage by stage.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import CodeScalar, reference

from .calling import Arguments, Output, Random, assert_accurate, call, call_refused, code_block, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

EXTENTS = (0, 1, 3, 31, 32, 33, 127, 200)
INF, NAN = float("inf"), float("nan")
LISTS = {  # what an entry is called here -> the list it is in
    "displacement": "displacements",
    "product": "products",
    "bias": "biases",
    "code": "codes",
    "residual": "residuals",
    "bias_gradient": "bias_gradients",
    "scalars": "scalars",
    "below": "below",
}
OUTPUTS = ("residual", "bias_gradient", "scalars")


def stage(
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


def kernel_case(random: Random, batch: int = 67, widths: tuple[int, ...] = (100, 33, 4)) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""

    def matrices() -> list[Tensor]:
        return [random.normal(batch, width) for width in widths]

    return {
        "displacements": matrices(),
        "products": matrices(),
        "biases": [random.normal(width) for width in widths],
        "codes": matrices(),
        "residuals": [Output((batch, width)) for width in widths],
        "bias_gradients": [Output((width,)) for width in widths],
        "scalars": [code_block(unit=0.01, scale=0.003) for _ in widths],
        "below": [code_block(unit=0.05) for _ in widths],
        "guard": torch.zeros(len(widths)),
    }


def random_stage(random: Random, batch: int, width: int) -> dict[str, Any]:
    given = {name: random.flip() for name in ("product", "bias", "code", "bias_gradient", "below")}
    unit, fitted = random.choice((1.0, 0.01, 1e-20)), random.choice((1.0, 1e-3))
    return stage(random, batch, width, **given, unit=unit, scale=unit / 3, fitted=fitted)


def lists(*stages: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the op, the guard apart."""
    return {name: [entries[entry] for entries in stages] for entry, name in LISTS.items()}


def call_one(
    op: Callable[..., None],
    case: Mapping[str, Any],
    dtype: torch.dtype = torch.float64,
    alias: Mapping[str, str] | None = None,
    threads: int = 1,
) -> Arguments:
    """Like ``call``, on a single stage; ``case``, ``alias`` and the result have its entries by their own names."""
    guard = {"guard": case["guard"]} if "guard" in case else {}
    names = {LISTS[output]: LISTS[other] for output, other in (alias or {}).items()}
    result = call(op, {**lists(case), **guard}, dtype, names, threads)
    return Arguments(guard=result.guard, **{entry: getattr(result, name)[0] for entry, name in LISTS.items()})


def formula(case: Mapping[str, Any]) -> dict[str, Tensor]:
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


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alias", [{}, {"residual": "displacement"}, {"residual": "product"}], ids=str)
def test_against_float64(dtype: torch.dtype, alias: dict[str, str]) -> None:
    random = Random(51)
    for batch, width in itertools.product(EXTENTS, EXTENTS):
        case = random_stage(random, batch, width)
        usable = {} if case["product"] is None and "product" in alias.values() else alias
        result = call_one(ops.weight_residual, case, dtype, usable)
        twin = call_one(reference.weight_residual, case, dtype)
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


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_stages_in_one_call_equal_a_call_each(dtype: torch.dtype, threads: int) -> None:
    """Whatever their widths, and whichever of their arguments are missing."""
    random = Random(58)
    for batch, widths in ((301, (127, 0, 33, 1, 200)), (1, (3, 32)), (0, (5, 7)), (1000, (33, 127, 33))):
        stages = [random_stage(random, batch, width) for width in widths]
        for op in (ops.weight_residual, reference.weight_residual):
            together = call(op, lists(*stages), dtype, threads=threads)
            for i, case in enumerate(stages):
                alone = call_one(op, case, dtype, threads=threads)
                for entry in OUTPUTS:
                    own, expected = getattr(together, LISTS[entry])[i], getattr(alone, entry)
                    if expected is None:
                        assert own is None
                    else:
                        assert same_bits(own, expected), f"{entry} of stage {i} of {widths}"
            assert same_bits(together.guard, torch.zeros(len(widths), dtype=torch.float64))


@pytest.mark.usefixtures("kernels")
def test_the_block_below_may_be_that_of_another_stage() -> None:
    """As in a network, where the code below is the next stage's own."""
    random = Random(59)
    rows = torch.stack([code_block(unit=unit, scale=2 * unit) for unit in (0.1, 0.03, 0.005)])
    before = rows.clone()
    stages = [stage(random, 9, width, bias_gradient=False) for width in (33, 5, 16)]
    for i, case in enumerate(stages):
        case["residual"] = torch.empty_like(case["displacement"])
        case["scalars"], case["below"] = rows[i], rows[i - 1] if i else None
    ops.weight_residual(**lists(*stages))
    for i, case in enumerate(stages):
        apart = {"scalars": before[i], "below": before[i - 1] if i else None}
        expected = formula({**case, **apart})["residual"]
        torch.testing.assert_close(case["residual"], expected, rtol=0, atol=1e-12)
        square = float(expected.square().sum())
        assert float(rows[i, CodeScalar.residual_square]) == pytest.approx(square, rel=1e-10)
    before[:, CodeScalar.residual_square] = rows[:, CodeScalar.residual_square]
    assert same_bits(rows, before)


def test_no_stages() -> None:
    for op in (ops.weight_residual, reference.weight_residual):
        call(op, lists())
        call(op, {**lists(), "guard": None})


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("batch", [1000, 5000])
def test_large_batch(batch: int) -> None:
    """A bias gradient that adds its rows one by one would lose digits that torch keeps."""
    for mean in (0.0, 1.0):
        case = stage(Random(52), batch, 33, product=False, bias=False, code=False, unit=1.0, scale=1.0)
        case["displacement"] += mean
        result, twin = (
            call_one(op, case, torch.float32) for op in (ops.weight_residual, reference.weight_residual)
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
        result = call_one(ops.weight_residual, {**common, **way})
        torch.testing.assert_close(result.residual, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(result.bias_gradient, expected.sum(0), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["displacement", "product", "bias", "code"])
def test_nonfinite_values_raise_the_guard(dtype: torch.dtype, name: str) -> None:
    for bad, column in itertools.product((NAN, INF, -INF), (0, 16, 32)):
        case = stage(Random(54), 9, 33)
        clean = call_one(ops.weight_residual, case, dtype)
        case[name][(column,) if name == "bias" else (4, column)] = bad
        result = call_one(ops.weight_residual, case, dtype)
        assert clean.guard == 0
        assert result.guard == 1
        assert not torch.isfinite(result.scalars[CodeScalar.residual_square])
        assert not torch.isfinite(result.residual[4, column])
        others = torch.arange(33) != column
        assert same_bits(result.residual[:, others], clean.residual[:, others])
        assert same_bits(result.bias_gradient[others], clean.bias_gradient[others])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("op", [ops.weight_residual, reference.weight_residual], ids=["kernel", "twin"])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_every_stage_has_its_own_flag(op: Callable[..., None], bad: int) -> None:
    random = Random(60)
    stages = [stage(random, 9, width) for width in (33, 5, 127)]
    clean = call(op, lists(*stages))
    stages[bad]["displacement"][8, 4] = NAN
    result = call(op, lists(*stages))
    assert clean.guard.tolist() == [0, 0, 0]
    assert result.guard.tolist() == [float(i == bad) for i in range(3)]
    for i in {0, 1, 2} - {bad}:
        assert same_bits(result.residuals[i], clean.residuals[i])
        assert same_bits(result.scalars[i], clean.scalars[i])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("size", [1e-24, 1e-21, 1e20, 1e30])
def test_squares_that_float32_cannot_hold(size: float) -> None:
    case = stage(Random(55), 9, 33, product=False, bias=False, code=False, unit=1.0, scale=1.0)
    case["displacement"] *= size
    result = call_one(ops.weight_residual, case, torch.float32)
    expected = float(result.residual.double().square().sum())
    assert float(result.scalars[CodeScalar.residual_square]) == pytest.approx(expected, rel=1e-6)
    assert result.guard == 0


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(301, 127), (2000, 18)])
def test_threads_change_nothing_but_the_sums(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    case = stage(Random(56), *shape)
    alone, both, again = (
        call_one(ops.weight_residual, case, dtype, threads=threads) for threads in (1, 2, 2)
    )
    assert same_bits(both.residual, alone.residual)
    assert same_bits(both.bias_gradient, again.bias_gradient)
    assert same_bits(both.scalars, again.scalars)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(both.scalars, alone.scalars, rtol=32 * eps, atol=0)
    size = float(alone.residual.abs().sum(0).max())
    torch.testing.assert_close(both.bias_gradient, alone.bias_gradient, rtol=0, atol=eps * size)


def test_the_guard_is_never_lowered_and_may_be_absent() -> None:
    case = stage(Random(57), 3, 5)
    assert call_one(ops.weight_residual, {**case, "guard": torch.ones(1)}).guard == 1
    call_one(ops.weight_residual, {**case, "guard": None})
    raised = torch.tensor([0.0, 1.0, 0.0])
    result = call(ops.weight_residual, {**lists(case, case, case), "guard": raised})
    assert torch.equal(result.guard, raised.double())
    call(ops.weight_residual, {**lists(case, case), "guard": None})


def good_stage(batch: int = 3, width: int = 4) -> dict[str, Any]:
    """Everything given, every tensor in memory of its own."""
    rows = {entry: torch.zeros(batch, width) for entry in ("displacement", "product", "code", "residual")}
    columns = {entry: torch.zeros(width) for entry in ("bias", "bias_gradient")}
    return {**rows, **columns, "scalars": code_block(), "below": code_block()}


@pytest.mark.parametrize("place", [0, 1])
def test_bad_arguments_are_refused(place: int) -> None:
    """Of two stages, in each of them; the error says in which."""

    def op(guard: Tensor | None, **entries: Any) -> None:
        stages = [good_stage(width=6)]
        stages.insert(place, entries)
        try:
            ops.weight_residual(**lists(*stages), guard=guard)
        except (TypeError, ValueError) as error:
            of_all_stages = "guard" in str(error)
            if not of_all_stages and not re.match(rf"\w+\[{place}\] ", str(error)):
                pytest.fail(f"{error} does not name entry {place}")
            raise

    case = {**good_stage(), "guard": torch.zeros(2, dtype=torch.float64)}
    assert_refuses_bad_tensors(
        op,
        case,
        optional=("product", "bias", "code", "bias_gradient", "below", "guard"),
        chooses_backend="displacement" if place == 0 else None,
        sets_shape=("displacement",),
    )
    allowed = [("residual", "displacement"), ("residual", "product")]
    written = (*OUTPUTS, "guard")
    assert_refuses_shared_memory(op, case, allowed=allowed, written=written)


def test_a_bad_later_stage_leaves_the_earlier_ones_as_they_were() -> None:
    random = Random(45)
    good, bad = good_stage(), good_stage(width=6)
    good["displacement"] = random.normal(3, 4).float()
    bad["residual"] = torch.zeros(3, 5)
    case = {**lists(good, good_stage(), bad), "guard": torch.zeros(3, dtype=torch.float64)}
    call_refused(ops.weight_residual, case, ValueError, "residuals[2] must have shape (3, 6)", "(3, 5)")


def test_lists_of_other_lengths_are_refused() -> None:
    case = {**lists(good_stage(), good_stage(width=6)), "guard": torch.zeros(2, dtype=torch.float64)}
    for name in set(LISTS.values()) - {"displacements"}:
        for wrong in ([], case[name][:1], [*case[name], case[name][0]]):
            words = (name, "2 displacements", f"has {len(wrong)}")
            call_refused(ops.weight_residual, {**case, name: wrong}, ValueError, *words)
    for wrong in ([], case["displacements"][:1], [*case["displacements"], torch.zeros(3, 4)]):
        call_refused(ops.weight_residual, {**case, "displacements": wrong}, ValueError, f"{len(wrong)}")
    for flags in (0, 1, 3):
        guard = torch.zeros(flags, dtype=torch.float64)
        call_refused(ops.weight_residual, {**case, "guard": guard}, ValueError, "guard", f"({flags},)")
    guard = torch.zeros(1, dtype=torch.float64)
    call_refused(ops.weight_residual, {**lists(), "guard": guard}, ValueError, "guard", "(0,)", "(1,)")


def test_stages_of_another_batch_or_dtype_are_refused() -> None:
    for other, error, words in (
        (good_stage(batch=5), ValueError, ("(3, 4)", "(5, 4)")),
        ({**good_stage(), "displacement": torch.zeros(3, 4).double()}, TypeError, ("float32", "float64")),
    ):
        case = {**lists(good_stage(), other), "guard": torch.zeros(2, dtype=torch.float64)}
        call_refused(ops.weight_residual, case, error, "displacements[1]", *words)
