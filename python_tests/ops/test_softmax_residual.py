"""softmax_residual: softmax(logits + bias) - onehot(labels), with the cross-entropy and the correct count."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import reference

from .calling import Output, Random, assert_accurate, assert_close, call, call_refused, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

BATCHES = (0, 1, 3, 31, 32, 33, 127, 200)
CLASSES = (1, 2, 3, 10, 31, 32, 33, 127, 200, 1025)  # the last does not fit one chunk
INF, NAN = float("inf"), float("nan")


def arguments(
    random: Random,
    batch: int,
    classes: int,
    bias: bool = True,
    bias_gradient: bool = True,
    scale: float = 3.0,
) -> dict[str, Any]:
    return {
        "logits": random.normal(batch, classes, scale=scale),
        "bias": random.normal(classes) if bias else None,
        "labels": random.labels(batch, classes),
        "residual": Output((batch, classes)),
        "bias_gradient": Output((classes,)) if bias_gradient else None,
        "loss": Output(),
        "correct": Output(dtype=torch.int64),
    }


def kernel_case(random: Random, batch: int = 67, classes: int = 10) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return {
        "logits": random.normal(batch, classes, scale=3.0),
        "bias": random.normal(classes),
        "labels": random.labels(batch, classes),
        "residual": Output((batch, classes)),
        "bias_gradient": Output((classes,)),
        "loss": Output(),
        "correct": Output(dtype=torch.int64),
    }


def autograd(case: dict[str, Any]) -> dict[str, Tensor]:
    """Everything from torch's cross-entropy in float64."""
    logits = case["logits"].clone().requires_grad_()
    with torch.enable_grad():
        z = logits if case["bias"] is None else logits + case["bias"]
        loss = F.cross_entropy(z, case["labels"])
        (residual,) = torch.autograd.grad(loss * len(logits), logits)
    exact = {"residual": residual, "loss": loss.detach()}
    if case["bias_gradient"] is not None:
        exact["bias_gradient"] = residual.sum(0)
    return exact


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("in_place", [False, True])
def test_against_autograd(dtype: torch.dtype, in_place: bool) -> None:
    random = Random(31)
    alias = {"residual": "logits"} if in_place else {}
    for batch, classes in itertools.product(BATCHES, CLASSES):
        case = arguments(random, batch, classes, bias=random.flip(), bias_gradient=random.flip())
        result = call(ops.softmax_residual, case, dtype, alias)
        assert int(result.correct) == int(reference_correct(case)), f"{batch} x {classes}"
        if batch == 0:
            continue
        twin = call(reference.softmax_residual, case, dtype)
        for name, value in autograd(case).items():
            what = f"{name}, {batch} x {classes}"
            if dtype == torch.float32:
                assert_accurate(getattr(result, name), getattr(twin, name), value, what)
            else:
                torch.testing.assert_close(getattr(result, name), value, rtol=1e-13, atol=1e-13, msg=what)
        assert result.guard == 0


def reference_correct(case: dict[str, Any]) -> Tensor:
    z = case["logits"] if case["bias"] is None else case["logits"] + case["bias"]
    return (z.argmax(1) == case["labels"]).sum()


@pytest.mark.usefixtures("kernels")
def test_large_batch() -> None:
    """A bias gradient that adds 5,000 rows one by one would lose digits that torch keeps."""
    case = arguments(Random(32), 5000, 10)
    case["labels"].zero_()
    result, twin = (
        call(op, case, torch.float32) for op in (ops.softmax_residual, reference.softmax_residual)
    )
    for name, value in autograd(case).items():
        assert_accurate(getattr(result, name), getattr(twin, name), value, name)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 30.0, 1e3, 1e6])
def test_flat_and_saturated(dtype: torch.dtype, scale: float) -> None:
    case = arguments(Random(33), 33, 10, bias=False, scale=scale)
    result, twin = (call(op, case, dtype) for op in (ops.softmax_residual, reference.softmax_residual))
    exact = autograd(case)
    for name, value in exact.items():
        if dtype == torch.float32:
            assert_accurate(getattr(result, name), getattr(twin, name), value, name)
        else:
            assert_close(getattr(result, name), value, 1e-13, name)
    assert result.guard == 0


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_a_common_shift_of_the_logits_changes_nothing(shift: float) -> None:
    case = arguments(Random(34), 33, 10, bias=False)
    plain = call(ops.softmax_residual, case)
    shifted = call(ops.softmax_residual, {**case, "logits": case["logits"] + shift})
    assert_close(shifted.residual, plain.residual, 1e-11)
    assert int(shifted.correct) == int(plain.correct)
    assert float(shifted.loss) == pytest.approx(float(plain.loss), rel=1e-11)


@pytest.mark.usefixtures("kernels")
def test_residuals_of_a_row_add_up_to_nothing() -> None:
    result = call(ops.softmax_residual, arguments(Random(35), 33, 10), torch.float32)
    assert result.residual.double().sum(1).abs().max() < 1e-6


def test_of_several_largest_logits_the_first_counts() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    case = {**arguments(Random(36), 4, 3, bias=False), "logits": logits, "labels": torch.tensor([0, 0, 1, 1])}
    assert int(call(ops.softmax_residual, case).correct) == 3


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_impossible_class(dtype: torch.dtype) -> None:
    """-Inf is a fine logit for a class that is not the label, and an infinite loss for the one that is."""
    case = arguments(Random(37), 5, 4, bias=False)
    case["labels"] = torch.tensor([0, 1, 2, 3, 0])
    case["logits"][1, 2] = -INF
    result = call(ops.softmax_residual, case, dtype)
    assert result.guard == 0
    exact = autograd(case)
    assert_close(result.residual, exact["residual"], 1e-6)
    assert float(result.loss) == pytest.approx(float(exact["loss"]), rel=1e-6)
    case["logits"][1, 1] = -INF
    result = call(ops.softmax_residual, case, dtype)
    assert result.guard == 1
    assert float(result.loss) == INF


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_nonfinite_logits_raise_the_guard(dtype: torch.dtype, bad: float) -> None:
    random = Random(38)
    for batch, classes in ((3, 10), (150, 10), (3, 1025)):
        for place in ((0, 0), (batch - 1, classes - 1), (1, classes // 2)):
            case = arguments(random, batch, classes)
            clean = call(ops.softmax_residual, case, dtype)
            case["logits"][place] = bad
            result = call(ops.softmax_residual, case, dtype)
            assert clean.guard == 0
            assert result.guard == 1
            assert torch.isnan(result.loss)
            assert torch.isnan(result.residual[place])
            others = torch.arange(batch) != place[0]
            assert same_bits(result.residual[others], clean.residual[others])


def test_no_samples() -> None:
    """A mean of nothing is no number, and the guard says so; counts and sums are zero."""
    for op in (ops.softmax_residual, reference.softmax_residual):
        result = call(op, arguments(Random(39), 0, 4))
        assert int(result.correct) == 0
        assert torch.equal(result.bias_gradient, torch.zeros(4, dtype=torch.float64))
        assert torch.isnan(result.loss)
        assert result.guard == 1


def test_the_guard_is_never_lowered_and_may_be_absent() -> None:
    case = arguments(Random(40), 3, 5)
    assert call(ops.softmax_residual, {**case, "guard": torch.ones(1)}).guard == 1
    call(ops.softmax_residual, {**case, "guard": None})


@pytest.mark.parametrize("wrong", [-1, 4, 2**31, -(2**62)])
@pytest.mark.parametrize("row", [0, 3, 149])
@pytest.mark.parametrize("twin", [False, True])
def test_labels_outside_the_classes(wrong: int, row: int, twin: bool) -> None:
    """Named as the user's y, by the first that is wrong, before anything is written."""
    labels = torch.zeros(150, dtype=torch.int64)
    labels[row] = wrong
    labels[row + 1 :] = -7
    case = {
        "logits": torch.zeros(150, 4), "bias": None, "labels": labels, "residual": torch.full((150, 4), 5.0),
        "bias_gradient": torch.full((4,), 5.0), "loss": torch.tensor(5.0), "correct": torch.tensor(5),
        "guard": torch.zeros(1, dtype=torch.float64),
    }  # fmt: skip
    op = reference.softmax_residual if twin else ops.softmax_residual
    call_refused(op, case, ValueError, "labels must lie in [0, 4)", f"labels[{row}] is {wrong}.")


def test_bad_arguments_are_refused() -> None:
    case = {
        "logits": torch.zeros(3, 4), "bias": torch.zeros(4), "labels": torch.zeros(3, dtype=torch.int64),
        "residual": Output((3, 4)), "bias_gradient": Output((4,)), "loss": Output(),
        "correct": Output(dtype=torch.int64), "guard": torch.zeros(1, dtype=torch.float64),
    }  # fmt: skip
    optional = ("bias", "bias_gradient", "guard")
    assert_refuses_bad_tensors(ops.softmax_residual, case, optional=optional, chooses_backend="logits")
    assert_refuses_shared_memory(ops.softmax_residual, case, allowed=[("residual", "logits")])
    none = torch.zeros(3, 0)
    call_refused(ops.softmax_residual, {**case, "logits": none, "residual": none, "bias_gradient": torch.zeros(0),
                                        "loss": torch.zeros(()), "correct": torch.zeros((), dtype=torch.int64)},
                 ValueError, "logits", "column")  # fmt: skip
