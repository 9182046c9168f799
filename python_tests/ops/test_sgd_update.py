"""sgd_update: gradient descent with decoupled decay and a soft threshold, on many tensors in one call."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import UpdateScalar, reference

from . import oracle
from .calling import Random, assert_accurate, assert_close, call, call_refused, same_bits, update_blocks
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory
from .updates import SHAPES, assert_refuses_bad_indices, assert_refuses_bad_lists, parameters

INF, NAN = float("inf"), float("nan")


def arguments(random: Random, rows: list[dict[str, float]] | None = None) -> dict[str, Any]:
    return {
        "weights": parameters(random),
        "gradients": parameters(random),
        "scalars": update_blocks(rows or [{}] * len(SHAPES)),
    }


def kernel_case(random: Random, sizes: tuple[int, ...] = (5000, 33, 1, 2048)) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return {
        "weights": [random.normal(size) for size in sizes],
        "gradients": [random.normal(size) for size in sizes],
        "scalars": update_blocks([{"decay": 0.1, "threshold": 0.2}] * len(sizes)),
        "guard": torch.zeros(len(sizes)),
        "guard_index": torch.arange(len(sizes)),
    }


def formula(case: dict[str, Any]) -> list[Tensor]:
    """One update in float64."""
    exact = []
    for w, gradient, row in zip(case["weights"], case["gradients"], case["scalars"].tolist(), strict=True):
        s = {entry.name: row[entry] for entry in UpdateScalar}
        moved = w - s["learning_rate"] * (s["decay"] * w + s["gradient_factor"] * gradient)
        exact.append(oracle.soft_threshold(moved, s["learning_rate"] * s["threshold"]))
    return exact


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_float64(dtype: torch.dtype) -> None:
    random = Random(71)
    for _ in range(20):
        rows = [
            {
                "learning_rate": random.choice((0.3, 1e-3)),
                "gradient_factor": random.choice((1.0, 1 / 200, 50.0)),
                "decay": random.choice((0.0, 0.1)),
                "threshold": random.choice((0.0, 0.0, 0.5)),
            }
            for _ in SHAPES
        ]
        case = arguments(random, rows)
        result, twin = (call(op, case, dtype) for op in (ops.sgd_update, reference.sgd_update))
        for i, value in enumerate(formula(case)):
            if dtype == torch.float32:
                assert_accurate(result.weights[i], twin.weights[i], value, f"weights[{i}]")
            else:
                assert_close(result.weights[i], value, 1e-14, f"weights[{i}]")
        assert result.guard == 0


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_against_torch_optim(decay: float) -> None:
    """Thirty steps of torch's SGD in float64, whose coupled decay is the decoupled one without momentum."""
    random = Random(72)
    theirs = [torch.nn.Parameter(w.clone()) for w in parameters(random)]
    optimizer = torch.optim.SGD(theirs, lr=0.02, weight_decay=decay)
    weights = [w.detach().clone() for w in theirs]
    scalars = update_blocks([{"learning_rate": 0.02, "gradient_factor": 0.25, "decay": decay}] * len(SHAPES))
    for _ in range(30):
        gradients = parameters(random)
        for w, gradient in zip(theirs, gradients, strict=True):
            w.grad = gradient * 0.25
        optimizer.step()
        weights = call(
            ops.sgd_update, {"weights": weights, "gradients": gradients, "scalars": scalars}
        ).weights
    for w, expected in zip(weights, theirs, strict=True):
        torch.testing.assert_close(w, expected.detach(), rtol=1e-13, atol=1e-14)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_raised_guard_stops_everything(dtype: torch.dtype) -> None:
    case = arguments(Random(73))
    for flags in ([0.0, 0.0, 1.0], [1.0], [0.0, NAN]):
        stopped = call(ops.sgd_update, {**case, "guard": torch.tensor(flags)}, dtype)
        for value, before in zip(stopped.weights, case["weights"], strict=True):
            assert same_bits(value, before.to(dtype))
        assert same_bits(stopped.guard, torch.tensor(flags, dtype=torch.float64))


def assert_untouched(result: Any, case: dict[str, Any], dtype: torch.dtype) -> None:
    for i, (value, before) in enumerate(zip(result.weights, case["weights"], strict=True)):
        assert same_bits(value, before.to(dtype)), f"weights[{i}]"


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_a_gradient_that_overflows_moves_nothing(dtype: torch.dtype, threshold: float) -> None:
    """Only the flags of its tensor go up."""
    guards = {"guard": torch.zeros(3), "guard_index": torch.tensor([0, 0, 0, 0, 2, 0, 0, 1])}
    row = {"threshold": threshold, "learning_rate": 10.0}
    for bad in (NAN, INF, -INF, torch.finfo(dtype).max / 2):
        case = arguments(Random(74), [row] * len(SHAPES)) | guards
        assert call(ops.sgd_update, case, dtype).guard.tolist() == [0, 0, 0]
        case["gradients"][4][30, 100] = bad
        for op in (ops.sgd_update, reference.sgd_update):
            result = call(op, case, dtype)
            assert_untouched(result, case, dtype)
            assert result.guard.tolist() == [0, 0, 1]


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_that_is_not_finite_beforehand_raises_the_flag(dtype: torch.dtype) -> None:
    guards = {"guard": torch.zeros(3), "guard_index": torch.tensor([0, 0, 0, 0, 2, 0, 0, 1])}
    for bad in (NAN, INF, -INF):
        case = arguments(Random(74)) | guards
        case["weights"][4][30, 100] = bad
        assert call(ops.sgd_update, case, dtype).guard.tolist() == [0, 0, 1]


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_any_size_are_all_or_nothing(dtype: torch.dtype) -> None:
    """From weights of any size, too, the largest there are among them: what is finite stays so, and only what the
    formula has no room for, in this dtype, is refused."""
    random, numbers = Random(79), torch.finfo(dtype)
    largest = math.log10(numbers.max)
    refused = 0
    for _ in range(300):
        size = 10 ** (largest * random.choice((0.0, 0.5, 0.8, 0.9, 0.96, 0.99)))
        rate = 10 ** random.choice((-3.0, 0.0, 1.5, 0.2 * largest, 0.8 * largest))
        row = {
            "learning_rate": rate,
            "gradient_factor": random.choice((1.0, 1 / 200, -50.0, 1e-30, 1e30)),
            "decay": random.choice((0.0, 0.5, 1 / rate, 2 / rate, 3 / rate)),
            "threshold": random.choice((0.0, 0.1)),
        }
        case: dict[str, Any] = {
            "weights": [random.normal(40) * random.choice((1.0, numbers.max / 10))],
            "gradients": [random.normal(40, scale=size).clamp(-numbers.max, numbers.max)],
            "scalars": update_blocks([row]),
        }
        case["weights"][0][:2] = torch.tensor([numbers.max, -numbers.max], dtype=torch.float64)
        result, twin = (call(op, case, dtype) for op in (ops.sgd_update, reference.sgd_update))
        assert result.guard == twin.guard
        refused += int(result.guard)
        if result.guard:
            assert_untouched(result, case, dtype)
        assert all(bool(w.isfinite().all()) for w in result.weights)
    assert 30 < refused < 270


def test_without_an_index_all_tensors_have_the_first_flag() -> None:
    for op in (ops.sgd_update, reference.sgd_update):
        case = arguments(Random(75)) | {"guard": torch.zeros(2), "guard_index": None}
        case["gradients"][4][0, 0] = NAN
        assert call(op, case).guard.tolist() == [1, 0]


def test_without_a_guard() -> None:
    case = arguments(Random(76)) | {"guard": None}
    case["gradients"][4][0, 0] = NAN
    assert_untouched(call(ops.sgd_update, case), case, torch.float64)


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    """Cuts between threads fall within tensors, and wherever they like."""
    random = Random(77)
    shapes = ((150, 101), (101,), (200, 77), (3, 5), (77,))
    case: dict[str, Any] = {name: parameters(random, shapes) for name in ("weights", "gradients")}
    case |= {
        "scalars": update_blocks([{"threshold": 0.1 * i, "decay": 0.1} for i in range(5)]),
        "guard": torch.zeros(5),
        "guard_index": torch.arange(5),
    }
    alone, both = (call(ops.sgd_update, case, dtype, threads=threads) for threads in (1, 2))
    assert not same_bits(alone.weights[2], case["weights"][2].to(dtype))
    assert all(map(same_bits, alone.weights, both.weights))
    for tensor, place in ((0, (0, 0)), (2, (199, 76)), (4, (76,))):
        case["gradients"][tensor][place] = NAN
    for threads in (1, 2):
        result = call(ops.sgd_update, case, dtype, threads=threads)
        assert_untouched(result, case, dtype)
        assert result.guard.tolist() == [1, 0, 1, 0, 1]


def test_no_weights() -> None:
    call(ops.sgd_update, {"weights": [], "gradients": [], "scalars": update_blocks([])})


def test_parameters_of_a_model_move() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 4))
    ops.sgd_update([weight], [torch.ones(3, 4)], scalars=update_blocks([{"learning_rate": 0.125}]))
    assert weight.requires_grad
    assert torch.equal(weight.detach(), torch.full((3, 4), 0.875))


def test_bad_arguments_are_refused() -> None:
    shapes = ((3, 4), (2, 5), (4,))
    good = {
        "weights": [torch.ones(shape) for shape in shapes],
        "gradients": [torch.ones(shape) for shape in shapes],
        "scalars": update_blocks([{}] * 3),
        "guard": torch.zeros(2, dtype=torch.float64),
        "guard_index": torch.tensor([0, 1, 1]),
    }
    assert_refuses_bad_lists(ops.sgd_update, good)
    assert_refuses_bad_indices(ops.sgd_update, good)
    assert_refuses_bad_tensors(
        ops.sgd_update,
        good,
        optional=("guard", "guard_index"),
        chooses_backend="scalars",
        any_length=("guard",),
    )
    assert_refuses_shared_memory(ops.sgd_update, good)


def test_a_guard_without_a_flag_is_refused() -> None:
    good = {name: [torch.ones(3)] for name in ("weights", "gradients")}
    rest = {"scalars": update_blocks([{}]), "guard": torch.zeros(0, dtype=torch.float64)}
    call_refused(ops.sgd_update, good | rest, ValueError, "guard must have at least one flag")


@pytest.mark.usefixtures("wide_kernels")
def test_a_stopped_update_raises_no_flag() -> None:
    """It does nothing, and its twin neither."""
    for op in (ops.sgd_update, reference.sgd_update):
        arguments = kernel_case(Random(9), (5, 3))
        arguments["gradients"][1][0] = float("nan")
        result = call(op, {**arguments, "guard": torch.tensor([1.0, 0.0])})
        assert result.guard.tolist() == [1, 0]
