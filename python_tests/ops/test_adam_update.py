"""adam_update: Adam with decoupled decay and a soft threshold, on many tensors in one call."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import AdamScalar, UpdateScalar, reference

from . import oracle
from .calling import (
    Random,
    adam_block,
    assert_accurate,
    assert_close,
    call,
    call_refused,
    same_bits,
    update_blocks,
)
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory
from .updates import SHAPES, assert_refuses_bad_indices, assert_refuses_bad_lists, parameters

INF, NAN = float("inf"), float("nan")
STATE = ("weights", "first_moments", "second_moments")


def arguments(random: Random, rows: list[dict[str, float]] | None = None, step: int = 3) -> dict[str, Any]:
    """In the middle of a run: moments of the size that gradients of size 1 leave."""
    return {
        "weights": parameters(random),
        "gradients": parameters(random),
        "first_moments": parameters(random, scale=0.3) if step else [torch.zeros(shape) for shape in SHAPES],
        "second_moments": [v.square() for v in parameters(random, scale=0.1)]
        if step
        else [torch.zeros(shape) for shape in SHAPES],
        "scalars": update_blocks(rows or [{}] * len(SHAPES)),
        "adam": adam_block(step=step),
    }


def kernel_case(random: Random, sizes: tuple[int, ...] = (5000, 33, 1, 2048)) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return {
        "weights": [random.normal(size) for size in sizes],
        "gradients": [random.normal(size) for size in sizes],
        "first_moments": [random.normal(size, scale=0.1) for size in sizes],
        "second_moments": [random.normal(size, scale=0.1).abs() for size in sizes],
        "scalars": update_blocks([{"decay": 0.1, "threshold": 0.2}] * len(sizes)),
        "adam": adam_block(step=3.0),
        "guard": torch.zeros(len(sizes)),
        "guard_index": torch.arange(len(sizes)),
    }


def random_rows(random: Random) -> list[dict[str, float]]:
    return [
        {
            "learning_rate": random.choice((0.3, 1e-3)),
            "gradient_factor": random.choice((1.0, 1 / 200, 50.0)),
            "decay": random.choice((0.0, 0.1)),
            "threshold": random.choice((0.0, 0.0, 0.5)),
        }
        for _ in SHAPES
    ]


def formula(case: dict[str, Any]) -> dict[str, list[Tensor]]:
    """One update in float64, from moments with their bias taken off."""
    beta1, beta2, epsilon, step = (float(case["adam"][entry]) for entry in AdamScalar)
    step += 1
    exact: dict[str, list[Tensor]] = {name: [] for name in STATE}
    for i, w in enumerate(case["weights"]):
        row = {entry.name: float(case["scalars"][i, entry]) for entry in UpdateScalar}
        g = row["gradient_factor"] * case["gradients"][i]
        m = beta1 * case["first_moments"][i] + (1 - beta1) * g
        v = beta2 * case["second_moments"][i] + (1 - beta2) * g**2
        move = m / (1 - beta1**step) / ((v / (1 - beta2**step)) ** 0.5 + epsilon)
        moved = w - row["learning_rate"] * (row["decay"] * w + move)
        exact["weights"].append(oracle.soft_threshold(moved, row["learning_rate"] * row["threshold"]))
        exact["first_moments"].append(m)
        exact["second_moments"].append(v)
    return exact


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", [0, 1, 3, 100, 100_000])
def test_against_float64(dtype: torch.dtype, step: int) -> None:
    random = Random(61)
    for _ in range(10):
        case = arguments(random, random_rows(random), step)
        if dtype == torch.float32:
            # Squares are not numbers of float32, and those that the kernel gets are what it is measured by.
            case["second_moments"] = [v.float().double() for v in case["second_moments"]]
        result = call(ops.adam_update, case, dtype)
        twin = call(reference.adam_update, case, dtype)
        for name, values in formula(case).items():
            for i, value in enumerate(values):
                own, plain = getattr(result, name)[i], getattr(twin, name)[i]
                if dtype == torch.float32:
                    assert_accurate(own, plain, value, f"{name}[{i}]")
                else:
                    assert_close(own, value, 1e-13, f"{name}[{i}]")
        assert result.adam[AdamScalar.step] == step + 1
        assert same_bits(result.adam[:3], case["adam"][:3])
        assert result.guard == 0


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.99, 0.9999)])
def test_against_torch_optim(decay: float, betas: tuple[float, float]) -> None:
    """Thirty steps of torch's AdamW (Adam where nothing decays), in float64."""
    random = Random(62)
    theirs = [torch.nn.Parameter(w.clone()) for w in parameters(random)]
    optimizer = torch.optim.AdamW(theirs, lr=0.02, betas=betas, eps=1e-6, weight_decay=decay)
    state: dict[str, Any] = {
        "weights": [w.detach().clone() for w in theirs],
        "first_moments": [torch.zeros_like(w) for w in theirs],
        "second_moments": [torch.zeros_like(w) for w in theirs],
        "adam": adam_block(beta1=betas[0], beta2=betas[1], epsilon=1e-6),
    }
    scalars = update_blocks([{"learning_rate": 0.02, "gradient_factor": 0.25, "decay": decay}] * len(SHAPES))
    for _ in range(30):
        gradients = parameters(random, scale=random.choice((1e-6, 1.0, 100.0)))
        for w, gradient in zip(theirs, gradients, strict=True):
            w.grad = gradient * 0.25
        optimizer.step()
        result = call(ops.adam_update, {**state, "gradients": gradients, "scalars": scalars})
        state = {name: getattr(result, name) for name in state}
    for w, expected in zip(state["weights"], theirs, strict=True):
        torch.testing.assert_close(w, expected.detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_raised_guard_stops_everything(dtype: torch.dtype) -> None:
    case = arguments(Random(63))
    for flags in ([0.0, 0.0, 1.0], [1.0], [0.0, NAN]):
        stopped = call(ops.adam_update, {**case, "guard": torch.tensor(flags)}, dtype)
        for name in STATE:
            for value, before in zip(getattr(stopped, name), case[name], strict=True):
                assert same_bits(value, before.to(dtype))
        assert same_bits(stopped.adam, case["adam"])
        assert same_bits(stopped.guard, torch.tensor(flags, dtype=torch.float64))


# In float32 the first two have no finite square, in float64 the last two.
OVERFLOWING = {torch.float32: (NAN, INF, -INF, 1e30, -3e21), torch.float64: (NAN, INF, -INF, 1e300, -1e156)}


def assert_untouched(result: Any, case: dict[str, Any], dtype: torch.dtype) -> None:
    for name in STATE:
        for i, (value, before) in enumerate(zip(getattr(result, name), case[name], strict=True)):
            assert same_bits(value, before.to(dtype)), f"{name}[{i}]"
    assert same_bits(result.adam, case["adam"])


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_that_overflows_moves_nothing(dtype: torch.dtype) -> None:
    """Nor is the step counted. Only the flags of its tensor go up."""
    guards = {"guard": torch.zeros(3), "guard_index": torch.tensor([0, 0, 0, 0, 2, 0, 0, 1])}
    for bad in OVERFLOWING[dtype]:
        case = arguments(Random(64)) | guards
        assert call(ops.adam_update, case, dtype).guard.tolist() == [0, 0, 0]
        case["gradients"][4][30, 100] = bad
        for op in (ops.adam_update, reference.adam_update):
            result = call(op, case, dtype)
            assert_untouched(result, case, dtype)
            assert result.guard.tolist() == [0, 0, 1]


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", STATE)
def test_what_is_not_finite_beforehand_raises_the_flag(dtype: torch.dtype, name: str) -> None:
    guards = {"guard": torch.zeros(3), "guard_index": torch.tensor([0, 0, 0, 0, 2, 0, 0, 1])}
    for bad in (NAN, INF):
        case = arguments(Random(64)) | guards
        case[name][4][30, 100] = bad
        assert call(ops.adam_update, case, dtype).guard.tolist() == [0, 0, 1]


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_any_size_are_all_or_nothing(dtype: torch.dtype) -> None:
    """From weights and moments of any size, too, the largest there are among them: what is finite stays so, and
    only what the formula has no room for, in this dtype, is refused."""
    random, numbers = Random(70), torch.finfo(dtype)
    largest = math.log10(numbers.max)
    refused = 0
    for _ in range(300):
        size = 10 ** random.choice(
            (0.0, 0.4 * largest, 0.49 * largest, 0.505 * largest, 0.52 * largest, 0.99 * largest)
        )
        rate = 10 ** random.choice((-3.0, 0.0, 1.5, 0.2 * largest, 0.8 * largest))
        row = {
            "learning_rate": rate,
            "gradient_factor": random.choice((1.0, 1 / 200, -50.0, 1e-30, 1e30)),
            "decay": random.choice((0.0, 0.5, 1 / rate, 2 / rate, 3 / rate)),
            "threshold": random.choice((0.0, 0.1)),
        }
        gradients = random.normal(40, scale=size)
        past = random.choice((0.0, 1.0, math.sqrt(numbers.max)))  # what gradients were before
        case: dict[str, Any] = {
            "weights": [random.normal(40) * random.choice((1.0, numbers.max / 10))],
            "gradients": [gradients.clamp(-numbers.max, numbers.max)],
            "first_moments": [random.normal(40).clamp(-1, 1) * past],
            "second_moments": [torch.full((40,), 0.99 * past**2, dtype=torch.float64)],
            "scalars": update_blocks([row]),
            "adam": adam_block(step=random.choice((0, 50))),
        }
        case["weights"][0][:2] = torch.tensor([numbers.max, -numbers.max], dtype=torch.float64)
        result, twin = (call(op, case, dtype) for op in (ops.adam_update, reference.adam_update))
        assert result.guard == twin.guard
        refused += int(result.guard)
        if result.guard:
            assert_untouched(result, case, dtype)
        assert all(bool(value.isfinite().all()) for name in STATE for value in getattr(result, name))
    assert 30 < refused < 270


def test_without_an_index_all_tensors_have_the_first_flag() -> None:
    for op in (ops.adam_update, reference.adam_update):
        case = arguments(Random(66)) | {"guard": torch.zeros(2), "guard_index": None}
        case["gradients"][4][0, 0] = NAN
        assert call(op, case).guard.tolist() == [1, 0]


def test_without_a_guard() -> None:
    for index in (None, torch.zeros(len(SHAPES), dtype=torch.int64)):
        case = arguments(Random(67)) | {"guard": None, "guard_index": index}
        case["gradients"][4][0, 0] = NAN
        assert_untouched(call(ops.adam_update, case), case, torch.float64)


@pytest.mark.usefixtures("wide_kernels")
def test_weights_within_the_threshold_are_zero() -> None:
    rows = [{"learning_rate": 0.5, "threshold": 4.0}] * len(SHAPES)
    result = call(ops.adam_update, arguments(Random(68), rows), torch.float32)
    zeros = sum(int((w == 0).sum()) for w in result.weights)
    assert 0.5 < zeros / sum(w.numel() for w in result.weights) < 1


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    """Cuts between threads fall within tensors, and wherever they like."""
    random = Random(69)
    shapes = ((150, 101), (101,), (200, 77), (3, 5), (77,))
    case = {name: parameters(random, shapes) for name in ("weights", "gradients", "first_moments")}
    case["second_moments"] = [v.square() for v in parameters(random, shapes)]
    case |= {
        "scalars": update_blocks([{"threshold": 0.1 * i, "decay": 0.1} for i in range(5)]),
        "adam": adam_block(step=3),
        "guard": torch.zeros(5),
        "guard_index": torch.arange(5),
    }
    alone, both = (call(ops.adam_update, case, dtype, threads=threads) for threads in (1, 2))
    assert not same_bits(alone.weights[2], case["weights"][2].to(dtype))
    for name in STATE:
        assert all(map(same_bits, getattr(alone, name), getattr(both, name)))
    for tensor, place in ((0, (0, 0)), (2, (199, 76)), (4, (76,))):
        case["gradients"][tensor][place] = NAN
    for threads in (1, 2):
        result = call(ops.adam_update, case, dtype, threads=threads)
        assert_untouched(result, case, dtype)
        assert result.guard.tolist() == [1, 0, 1, 0, 1]


def test_no_weights() -> None:
    nothing: dict[str, Any] = {name: [] for name in (*STATE, "gradients")}
    call(ops.adam_update, nothing | {"scalars": update_blocks([]), "adam": adam_block()})


def test_parameters_of_a_model_move() -> None:
    """Leaves that require grad, under no no_grad(): the op is below autograd."""
    weight = torch.nn.Parameter(torch.ones(3, 4))
    state = [torch.zeros(3, 4)], [torch.zeros(3, 4)]
    ops.adam_update(
        [weight],
        [torch.ones(3, 4)],
        *state,
        scalars=update_blocks([{"learning_rate": 0.125}]),
        adam=adam_block(),
    )
    assert weight.requires_grad
    assert float(weight.detach().max()) == pytest.approx(0.875)
    assert math.isclose(float(state[0][0][0, 0]), 0.1, rel_tol=1e-6)


def test_bad_arguments_are_refused() -> None:
    shapes = ((3, 4), (2, 5), (4,))
    good = {
        **{name: [torch.ones(shape) for shape in shapes] for name in (*STATE, "gradients")},
        "scalars": update_blocks([{}] * 3),
        "adam": adam_block(),
        "guard": torch.zeros(2, dtype=torch.float64),
        "guard_index": torch.tensor([0, 1, 1]),
    }
    assert_refuses_bad_lists(ops.adam_update, good)
    assert_refuses_bad_indices(ops.adam_update, good)
    assert_refuses_bad_tensors(
        ops.adam_update,
        good,
        optional=("guard", "guard_index"),
        chooses_backend="adam",
        any_length=("guard",),
    )
    assert_refuses_shared_memory(ops.adam_update, good)


def test_a_guard_without_a_flag_is_refused() -> None:
    good = {name: [torch.ones(3)] for name in ("weights", "gradients", "first_moments", "second_moments")}
    rest = {
        "scalars": update_blocks([{}]),
        "adam": adam_block(),
        "guard": torch.zeros(0, dtype=torch.float64),
    }
    call_refused(ops.adam_update, good | rest, ValueError, "guard must have at least one flag")


@pytest.mark.usefixtures("wide_kernels")
def test_a_stopped_update_raises_no_flag() -> None:
    """It does nothing, and its twin neither."""
    for op in (ops.adam_update, reference.adam_update):
        arguments = kernel_case(Random(9), (5, 3))
        arguments["gradients"][1][0] = float("nan")
        result = call(op, {**arguments, "guard": torch.tensor([1.0, 0.0])})
        assert result.guard.tolist() == [1, 0]
