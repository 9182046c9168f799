"""The CUDA kernels on the emulator: what only a GPU's way of running them could get wrong.

What the ops compute is held against float64 in python_tests/ops, on these kernels as on the CPU's. Here are the
order of threads and blocks, which must not change a bit; the number of multiprocessors, which decides who adds up
what; launches that have to be split; and whole training steps. Oracles: the same call under another schedule, the
CPU's kernels, and the formulas in float64. Every call is watched for races, for memory out of bounds or never
written, and for barriers that not all threads reach.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from altmin_ext import make_method, ops
from altmin_ext.ops import Activation, AdamScalar, CodeScalar, reference
from altmin_ext.ops import _native as native

from ..ops import (
    test_adam_update,
    test_sgd_update,
    test_softmax_prox,
    test_softmax_residual,
    test_weight_residual,
)
from ..ops.calling import (
    PARAMETER_BLOCKS,
    Output,
    Random,
    assert_close,
    call,
    same_bits,
)
from .emulation import EmulatedModule

RELU, GELU = Activation("relu"), Activation("gelu")
SEEDS = range(8)
CPU = native.module


# One call of every op, large enough for several blocks to share the work.
CASES: dict[str, Callable[..., dict[str, Any]]] = {
    name: importlib.import_module(f"..ops.test_{name}", __package__).kernel_case for name in ops.names
}


def tensors(value: Any) -> list[Tensor]:
    return [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, Tensor)]


def results(arguments: Any) -> list[Tensor]:
    return [tensor for value in vars(arguments).values() for tensor in tensors(value)]


@pytest.mark.parametrize("op", ops.names)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_schedule_changes_a_bit(emulated: EmulatedModule, op: str, dtype: torch.dtype) -> None:
    case = CASES[op](Random(3))
    first = results(call(getattr(ops, op), case, dtype))
    for seed in SEEDS:
        emulated.emulator.seed(seed)
        again = results(call(getattr(ops, op), case, dtype))
        assert all(same_bits(a, b) for a, b in zip(first, again, strict=True)), f"seed {seed}"


@pytest.mark.parametrize("op", ops.names)
@pytest.mark.parametrize("multiprocessors", [1, 2, 132])
def test_any_number_of_multiprocessors(emulated: EmulatedModule, op: str, multiprocessors: int) -> None:
    """The twin in float64 is the oracle; sums may only differ by their order."""
    case = CASES[op](Random(4))
    exact = results(call(getattr(reference, op), case))
    emulated.emulator.set_multiprocessors(multiprocessors)
    try:
        found = results(call(getattr(ops, op), case))
    finally:
        emulated.emulator.set_multiprocessors(3)
    for own, twin in zip(found, exact, strict=True):
        assert_close(own, twin, 1e-10, op)


@pytest.mark.parametrize("multiprocessors", [1, 3])
def test_bcd_columns_from_zero(emulated: EmulatedModule, multiprocessors: int) -> None:
    """By warps of one row and of several. The weights are not numbers before."""
    case = {**CASES["bcd_columns"](Random(11), 40), "from_zero": True}
    case["weight"] = torch.full_like(case["weight"], float("nan"))
    exact = call(reference.bcd_columns, case).weight
    emulated.emulator.set_multiprocessors(multiprocessors)
    try:
        found = call(ops.bcd_columns, case).weight
    finally:
        emulated.emulator.set_multiprocessors(3)
    assert_close(found, exact, 1e-10)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("classes", [1, 2, 31, 32, 33, 255, 256, 257, 1000])
@pytest.mark.parametrize("batch", [1, 9, 150])
def test_softmax_of_any_number_of_classes(batch: int, classes: int) -> None:
    """Up to 32 a lane keeps one logit, up to 256 eight, beyond that rows are read again."""
    case = test_softmax_residual.kernel_case(Random(5), batch, classes)
    exact, result = call(reference.softmax_residual, case), call(ops.softmax_residual, case)
    for name in ("residual", "bias_gradient", "loss"):
        assert_close(getattr(result, name), getattr(exact, name), 1e-12, name)
    assert result.correct == exact.correct


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("classes", [10, 100, 300])
def test_softmax_residual_takes_the_first_of_equal_logits(classes: int) -> None:
    """As the CPU's kernel and torch's argmax do; all logits are equal here, so only label 0 is right."""
    case = test_softmax_residual.kernel_case(Random(10), 30, classes)
    case |= {"logits": torch.zeros(30, classes), "bias": None}
    assert call(ops.softmax_residual, case).correct == (case["labels"] == 0).sum()


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("classes", [10, 300])
@pytest.mark.parametrize("label", [-1, 2**40, -(2**62)])
def test_a_label_outside_the_classes_raises_the_guard(classes: int, label: int) -> None:
    case = test_softmax_residual.kernel_case(Random(6), 40, classes)
    case["labels"][23] = label
    result = call(ops.softmax_residual, case)
    assert result.guard == 1
    assert torch.isnan(result.loss)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("classes", [1, 10, 70])
@pytest.mark.parametrize("label", [-1, 2**40, -(2**62)])
def test_a_label_outside_the_classes_makes_its_row_nan(classes: int, label: int) -> None:
    case = test_softmax_prox.case(Random(11), 40, classes)
    clean = call(ops.softmax_prox, case)
    assert clean.guard == 0
    case["labels"][23] = label
    result = call(ops.softmax_prox, case)
    assert result.guard == 1
    assert torch.isnan(result.out[23]).all()
    others = torch.arange(40) != 23
    assert same_bits(result.out[others], clean.out[others])


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("op", ["adam_update", "sgd_update"])
class TestManyTensors:
    """Of more than a launch takes along, 32, so that an update is two or three launches."""

    sizes = (7, 2050, 1, *(3,) * 67)

    def case(self, op: str) -> dict[str, Any]:
        return (test_adam_update if op == "adam_update" else test_sgd_update).kernel_case(
            Random(7), self.sizes
        )

    def test_they_move_like_one_by_one(self, op: str) -> None:
        case = self.case(op)
        together = call(getattr(ops, op), case)
        lists = [name for name, value in case.items() if isinstance(value, list)]
        for i in range(len(self.sizes)):
            alone = {name: [case[name][i]] if name in lists else case[name] for name in case}
            alone |= {"scalars": case["scalars"][i : i + 1], "guard": torch.zeros(1), "guard_index": None}
            assert same_bits(call(getattr(ops, op), alone).weights[0], together.weights[i])
        if op == "adam_update":
            assert together.adam[AdamScalar.step] == 4

    @pytest.mark.parametrize("bad", [(0,), (40,), (69,), (3, 68)])
    def test_one_that_would_overflow_stops_all(self, op: str, bad: tuple[int, ...]) -> None:
        case = self.case(op)
        fine = call(getattr(ops, op), case)
        for i in bad:
            case["gradients"][i][0] = float("nan")
        result = call(getattr(ops, op), case)
        assert result.guard.nonzero().flatten().tolist() == list(bad)
        for own, start in zip(result.weights, case["weights"], strict=True):
            assert same_bits(own, start)
        if op == "adam_update":
            assert result.adam[AdamScalar.step] == 3
        # The flags that the kernels keep between launches are down again.
        again = call(getattr(ops, op), self.case(op))
        assert all(same_bits(a, b) for a, b in zip(results(again), results(fine), strict=True))

    def test_all_may_overflow_at_once(self, op: str) -> None:
        """Every thread of every block has the same to say."""
        case = self.case(op)
        case["gradients"] = [torch.full_like(gradient, float("nan")) for gradient in case["gradients"]]
        result = call(getattr(ops, op), case)
        assert result.guard.tolist() == [1.0] * len(self.sizes)
        for own, start in zip(result.weights, case["weights"], strict=True):
            assert same_bits(own, start)

    @pytest.mark.parametrize("raised", [0, 69])
    def test_a_raised_flag_stops_all(self, op: str, raised: int) -> None:
        case = self.case(op)
        case["guard"][raised] = 1.0
        result = call(getattr(ops, op), case)
        for own, start in zip(result.weights, case["weights"], strict=True):
            assert same_bits(own, start)
        if op == "adam_update":
            assert result.adam[AdamScalar.step] == 3


@pytest.mark.usefixtures("emulated")
def test_residuals_of_more_stages_than_a_launch_takes() -> None:
    case = test_weight_residual.kernel_case(Random(8), 9, tuple(1 + i % 7 for i in range(60)))
    case["displacements"][55][2, 0] = float("inf")
    exact, result = call(reference.weight_residual, case), call(ops.weight_residual, case)
    assert result.guard.nonzero().flatten().tolist() == [55]
    for i in range(55):
        assert_close(result.residuals[i], exact.residuals[i], 1e-13)
        assert_close(result.bias_gradients[i], exact.bias_gradients[i], 1e-12)
        square, expected = (r.scalars[i][CodeScalar.residual_square] for r in (result, exact))
        torch.testing.assert_close(square, expected, rtol=1e-12, atol=0)


class Aligned:
    """The same arguments at addresses that are multiples of 16, where kernels read 16 bytes at a time."""

    def __init__(self, case: dict[str, Any], dtype: torch.dtype) -> None:
        self.arguments: dict[str, Any] = {}
        for name, value in case.items():
            own = torch.float64 if name in PARAMETER_BLOCKS else dtype
            self.arguments[name] = (
                [self._made(v, own) for v in value] if isinstance(value, list) else self._made(value, own)
            )

    def _made(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, Output):
            return torch.full(value.shape, -77, dtype=value.dtype or dtype)
        if isinstance(value, Tensor):
            return value.to(dtype if value.is_floating_point() else value.dtype).clone()
        return value


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("op", ops.names)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alignment_changes_nothing_but_the_order_of_sums(op: str, dtype: torch.dtype) -> None:
    case = {"guard": torch.zeros(1), **CASES[op](Random(9))}
    if "guard" not in getattr(ops, op).written:
        del case["guard"]
    apart = call(getattr(ops, op), case, dtype)
    aligned = Aligned(case, dtype).arguments
    getattr(ops, op)(**aligned)
    sums = ["scalars", "bias_gradient", "bias_gradients", "weight_gradient", "loss"]
    sums += ["out"] if op == "matmul" else []
    tolerance = 2e-5 if dtype == torch.float32 else 1e-13
    for name, value in aligned.items():
        for own, other in zip(tensors(value), tensors(getattr(apart, name)), strict=True):
            if name in sums:
                assert_close(own, other, tolerance, name)
            else:
                assert same_bits(own, other), name


# ---------------------------------------------------------------------------------------------- whole steps


def trained(module: Any, model: nn.Sequential, n_in: int, n_out: int, **options: Any) -> list[Tensor]:
    """Weights and reports after a few minibatches, the last of them a smaller one."""
    before, native.module = native.module, module
    try:
        method = make_method(**{"name": "am-adam", "model": model, **options})
        if module is not CPU:
            method._residuals_at_once = True  # as on a GPU,
            method._replayed = None  # where no step is a plan
        generator, reports = torch.Generator().manual_seed(1), []
        for batch in (40, 40, 40, 13, 1):
            x = torch.randn(batch, n_in, generator=generator, dtype=torch.float64)
            y: Tensor = torch.randint(n_out, (batch,), generator=generator)
            if options.get("loss") == "mse":
                y = nn.functional.one_hot(y, n_out).double()
            report = method.step(x, y)
            reports += [report.loss, report.correct]
    finally:
        native.module = before
    return [*(p.detach() for p in model.parameters()), *(r for r in reports if r is not None)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stage_scaling": "none", "mu": 0.01},
        {"code_iterations": 5, "code_momentum": 0.9},
        {"scaling": "released"},
        {"weight_iterations": 2, "weight_decay": 0.1, "l1_weights": 0.01},
        {"l1_codes": 0.01},
        {"loss": "mse"},
        {"name": "am-sgd", "lr": 0.05},
    ],
    ids=str,
)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_steps_equal_those_of_the_cpu(
    emulated_module: EmulatedModule, options: dict[str, Any], activation: type[nn.Module]
) -> None:
    """In float64, up to the order of sums."""

    def model() -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            widths = itertools.pairwise((12, 20, 17, 9))
            layers = [layer for n_in, n_out in widths for layer in (nn.Linear(n_in, n_out), activation())]
            return nn.Sequential(*layers, nn.Linear(9, 5)).double()

    on_gpu, on_cpu = (trained(module, model(), 12, 5, **options) for module in (emulated_module, CPU))
    for own, other in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12)
