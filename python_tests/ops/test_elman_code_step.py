"""elman_code_step: the codes of an Elman layer, and what its weights are then fitted to.

Oracle: the local objectives of codes and weights in float64, differentiated by autograd (elman.py).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import Activation, CodeScalar, reference

from . import oracle
from .calling import (
    Arguments,
    Output,
    Random,
    assert_accurate,
    assert_close,
    call,
    code_block,
    refused,
    same_bits,
)
from .elman import Layer, derivative, descend, to_lanes
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

RELU, IDENTITY = Activation("relu"), Activation("identity")
SUMS = ("cross", "gram", "output_gradient", "output")
EPS = torch.finfo(torch.float32).eps
# batch, steps, features, width, outputs
SHAPES = (
    (0, 2, 3, 15, 4),
    (1, 1, 1, 1, 4),
    (1, 2, 3, 17, 4),
    (1, 7, 1, 15, 4),
    (17, 1, 3, 15, 4),
    (17, 2, 1, 1, 4),
    (17, 7, 3, 17, 4),
    (33, 40, 28, 31, 11),
    (20, 33, 1, 50, 10),
    (5, 0, 2, 3, 4),
)


def case(
    random: Random,
    layer: Layer,
    *,
    iterations: int = 1,
    unit_above: float = 0.3,
    unit: float = 0.2,
    **scalars: float,
) -> dict[str, Any]:
    """Arguments of one call, the codes having a unit other than that of the displacement above."""
    batch, steps, n_in = layer.x.shape
    width, n_out = len(layer.recurrent_weight), len(layer.output_weight)
    inputs = width + n_in + 1
    return {
        "hidden": to_lanes(torch.tanh(layer.codes())),
        "x": layer.x,
        "recurrent_weight": layer.recurrent_weight,
        "output_weight": layer.output_weight,
        "displacement": random.normal(batch, n_out),
        "residual": random.normal(batch, n_out),
        "cross": Output((width, inputs)),
        "gram": Output((inputs, inputs)),
        "output_gradient": Output((n_out, steps * width)),
        "output": Output((batch, steps * width)),
        "scalars": code_block(**{"normalised": 1.0, **scalars}),
        "above": code_block(unit=unit_above, scale=unit, damping=1.0),
        "iterations": iterations,
        "sigma": layer.sigma,
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return case(
        random, Layer.random(random, 37, 6, 2, 35, 11, Activation("gelu")), iterations=2, momentum=0.9
    )


def expected(layer: Layer, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """What the call must leave, from the objectives themselves."""
    s = {entry.name: float(arguments["scalars"][entry]) for entry in CodeScalar}
    above = {entry.name: float(arguments["above"][entry]) for entry in CodeScalar}
    start = layer.codes()
    output = oracle.value(layer.sigma, torch.tanh(start)).flatten(1)
    output = output - above["unit"] * arguments["displacement"] @ layer.output_weight
    eta = 1 / (1 + s["curvature"] * (1 + s["sigma_squared"])) if s["step_size"] < 0 else s["step_size"]
    codes = layer.moved_codes(
        output, eta, s["momentum"], arguments["iterations"], s["downstream"], s["anchor"]
    )
    rms = float((start - codes).square().mean().sqrt()) if codes.numel() else 0.0
    scale = rms * above["damping"] if s["normalised"] and rms > 0 else above["scale"]
    weights = layer.weights
    cross = derivative(lambda w: layer.misfit(w, codes), weights) / scale
    gram = [
        derivative(lambda w: layer.misfit(w, codes), weights + F.one_hot(torch.tensor([i]), len(weights[0])))
        for i in range(len(weights[0]))
    ]
    scalars = arguments["scalars"].clone()
    for entry, value in (
        (CodeScalar.step_taken, eta),
        (CodeScalar.unit, above["scale"]),
        (CodeScalar.scale, scale),
        (CodeScalar.damping, above["damping"]),
        (CodeScalar.moved, rms),
        (CodeScalar.residual_square, float(2 * layer.misfit(weights, codes)) / scale**2),
    ):
        scalars[entry] = value
    return {
        "cross": cross,
        # Of a quadratic objective the gradient moves with its second derivative.
        "gram": torch.stack([moved[0] - scale * cross[0] for moved in gram]),
        "output_gradient": arguments["residual"].T @ output,
        "output": output,
        "scalars": scalars,
    }


def check(result: Arguments, exact: dict[str, Tensor], tolerance: float) -> None:
    for name in SUMS:
        if getattr(result, name) is not None:
            assert_close(getattr(result, name), exact[name], tolerance, name)
    torch.testing.assert_close(result.scalars, exact["scalars"], rtol=max(tolerance, 1e-12), atol=1e-20)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("iterations", [1, 4])
def test_codes_descend_their_objectives(shape: tuple[int, ...], iterations: int) -> None:
    random = Random(1)
    layer = Layer.random(random, *shape, RELU)
    arguments = case(random, layer, iterations=iterations, step_size=0.3, momentum=0.5)
    exact = expected(layer, arguments)
    check(call(ops.elman_code_step, arguments), exact, 1e-10)
    check(call(reference.elman_code_step, arguments), exact, 1e-10)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("iterations", [1, 4])
def test_float32_is_as_accurate_as_torch(shape: tuple[int, ...], iterations: int) -> None:
    random = Random(2)
    arguments = case(random, Layer.random(random, *shape, RELU), iterations=iterations, step_size=0.3)
    arguments["hidden"] = arguments["hidden"].float().double()
    exact = call(reference.elman_code_step, arguments)
    result, twin = (call(module.elman_code_step, arguments, torch.float32) for module in (ops, reference))
    for name in SUMS:
        assert_accurate(getattr(result, name), getattr(twin, name), getattr(exact, name), name)
    torch.testing.assert_close(result.scalars, exact.scalars, rtol=64 * EPS, atol=0)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
def test_any_activation_of_the_output(sigma: Activation) -> None:
    for iterations, momentum in ((1, 0.0), (3, 0.9)):
        random = Random(3)
        layer = Layer.random(random, 18, 5, 2, 7, 3, sigma)
        arguments = case(random, layer, iterations=iterations, step_size=0.3, momentum=momentum)
        for module in (ops, reference):
            check(call(module.elman_code_step, arguments), expected(layer, arguments), 1e-10)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize(
    "scalars",
    [
        {"step_size": -1.0, "curvature": 1.0, "sigma_squared": 1.7},
        {"step_size": -1.0, "curvature": 0.25, "sigma_squared": 0.3},
        {"step_size": 0.0},
        {"anchor": 0.0, "downstream": 2.5},
        {"normalised": 0.0},
        {"momentum": 0.9},
        {"unit_above": 1.0, "unit": 1e-3},
    ],
    ids=str,
)
@pytest.mark.parametrize("iterations", [1, 3])
def test_scalars(scalars: dict[str, float], iterations: int) -> None:
    random = Random(4)
    layer = Layer.random(random, 9, 6, 2, 5, 3, RELU)
    arguments = case(random, layer, iterations=iterations, **scalars)
    check(call(ops.elman_code_step, arguments), expected(layer, arguments), 1e-10)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("missing", SUMS[1:])
def test_sums_that_nobody_wants(missing: str) -> None:
    random = Random(5)
    arguments = case(random, Layer.random(random, 18, 5, 2, 7, 3, RELU), iterations=2)
    all_ = call(ops.elman_code_step, arguments)
    arguments[missing] = None
    if missing == "output_gradient":
        arguments["residual"] = None
    result = call(ops.elman_code_step, arguments)
    for name in SUMS:
        if name != missing:
            assert same_bits(getattr(result, name), getattr(all_, name)), name


def test_the_output_moves_in_the_row_space_of_its_reader() -> None:
    """The steps of o itself on the loss, by autograd, and those of the displacement in the space of the logits."""
    random = Random(6)
    layer, labels, mu, eta, momentum = (
        Layer.random(random, 9, 6, 2, 5, 3, RELU),
        random.labels(9, 3),
        0.4,
        0.3,
        0.5,
    )
    start = oracle.value(RELU, torch.tanh(layer.codes())).flatten(1)

    def objective(o: Tensor) -> Tensor:
        loss = F.cross_entropy(o @ layer.output_weight.T, labels, reduction="sum")
        return loss / (2 * mu) + (o - start).square().sum() / 2

    exact = descend(objective, start, eta, momentum, 4)
    logits = layer.product(torch.tanh(layer.codes()))
    gram = layer.output_weight @ layer.output_weight.T
    block = code_block(step_size=eta, momentum=momentum, downstream=1 / (2 * mu), normalised=1.0)
    displacement, velocity = torch.zeros_like(logits), torch.zeros_like(logits)
    for iteration in range(4):
        moved = logits if iteration == 0 else logits - displacement @ gram
        residual = torch.softmax(moved, 1) - F.one_hot(labels, 3)
        ops.code_step(
            logits,
            residual,
            displacement=displacement,
            velocity=velocity,
            activation=torch.empty_like(logits),
            scalars=block,
            above=None,
            first=iteration == 0,
            sigma=IDENTITY,
        )
    arguments = case(random, layer) | {"displacement": displacement, "above": block}
    torch.testing.assert_close(call(ops.elman_code_step, arguments).output, exact, rtol=0, atol=1e-13)


def test_weights_of_later_iterations_need_no_codes() -> None:
    """Once they have moved by D, the gradient is cross + D gram / scale."""
    random = Random(7)
    layer = Layer.random(random, 18, 6, 2, 5, 3, RELU)
    arguments = case(random, layer, iterations=2, step_size=0.3)
    result = call(ops.elman_code_step, arguments)
    output = expected(layer, arguments)["output"]
    codes = layer.moved_codes(output, 0.3, 0.0, 2, 1.0, 1.0)
    moved = random.normal(*layer.weights.shape)
    scale = float(result.scalars[CodeScalar.scale])
    exact = derivative(lambda w: layer.misfit(w, codes), layer.weights + moved) / scale
    torch.testing.assert_close(result.cross + moved @ result.gram / scale, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("unit", [1e-3, 1e-6, 1e-20, 1e-38, 1e-45, 1e-60])
@pytest.mark.parametrize("iterations", [1, 3])
def test_displacements_are_free_of_cancellation(unit: float, iterations: int) -> None:
    """However small they are, also where float32 cannot hold their unit: as exact as those of float64."""
    random = Random(8)
    layer = Layer.random(random, 18, 12, 2, 9, 3, RELU)
    arguments = case(random, layer, iterations=iterations, unit_above=unit, unit=unit, step_size=0.3)
    arguments["hidden"] = arguments["hidden"].float().double()
    exact = call(reference.elman_code_step, arguments)
    result = call(ops.elman_code_step, arguments, torch.float32)
    assert_close(result.cross, exact.cross, 64 * EPS, "cross")
    assert float(result.scalars[CodeScalar.scale] / unit) == pytest.approx(
        float(exact.scalars[CodeScalar.scale] / unit), rel=1e-5
    )
    # What is below the last place of a hidden state changes none.
    first_order = call(ops.elman_code_step, arguments | {"iterations": 1})
    if iterations == 1:
        assert same_bits(first_order.cross, call(ops.elman_code_step, arguments).cross)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("iterations", [1, 3])
def test_saturated_units_stay(dtype: torch.dtype, iterations: int) -> None:
    """Where h is 1 there is no slope, and no 0 / 0 either, however hard it is pulled."""
    random = Random(9)
    arguments = case(random, Layer.random(random, 18, 5, 2, 7, 3, IDENTITY), iterations=iterations)
    arguments["hidden"][:, :, ::2] = arguments["hidden"][:, :, ::2].sign()
    arguments["displacement"] *= 1e6
    result = call(ops.elman_code_step, arguments, dtype)
    assert result.guard == 0
    for name in SUMS:
        assert torch.isfinite(getattr(result, name)).all()
    # Along the diagonal are the squares of the hidden states: that of a saturated unit is 1, but for h_0.
    squares = result.gram.diagonal()[:7:2]
    assert torch.equal(squares, torch.full_like(squares, 18 * 4))


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["hidden", "displacement", "recurrent_weight", "output_weight"])
def test_nonfinite_displacements_raise_the_guard(dtype: torch.dtype, name: str) -> None:
    random = Random(10)
    for bad in (float("nan"), float("inf")):
        arguments = case(random, Layer.random(random, 18, 5, 2, 7, 3, IDENTITY), iterations=2)
        assert call(ops.elman_code_step, arguments, dtype).guard == 0
        arguments[name].view(-1)[3] = bad
        assert call(ops.elman_code_step, arguments, dtype).guard == 1


def test_the_guard_is_never_lowered_and_may_be_absent() -> None:
    random = Random(11)
    arguments = case(random, Layer.random(random, 3, 4, 1, 5, 2, RELU))
    assert call(ops.elman_code_step, {**arguments, "guard": torch.ones(1)}).guard == 1
    call(ops.elman_code_step, {**arguments, "guard": None})


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing_but_the_order_of_sums(dtype: torch.dtype) -> None:
    random = Random(12)
    layer = Layer.random(random, 150, 20, 1, 15, 4, RELU)
    arguments = case(random, layer, iterations=2)
    alone, both, again = (
        call(ops.elman_code_step, arguments, dtype, threads=threads) for threads in (1, 2, 2)
    )
    assert same_bits(alone.output, both.output)
    for name in (*SUMS, "scalars"):
        assert same_bits(getattr(both, name), getattr(again, name)), name
        assert_close(getattr(both, name), getattr(alone, name), 64 * torch.finfo(dtype).eps, name)


def good_arguments() -> dict[str, Any]:
    random = Random(13)
    arguments = case(random, Layer.random(random, 3, 4, 2, 5, 6, RELU), iterations=2)
    floats = {
        name: value.float()
        for name, value in arguments.items()
        if isinstance(value, Tensor) and name not in ("scalars", "above")
    }
    return {**arguments, **floats, "guard": torch.zeros(1, dtype=torch.float64)}


def test_bad_arguments_are_refused() -> None:
    arguments = good_arguments()
    assert_refuses_bad_tensors(
        ops.elman_code_step,
        arguments,
        optional=("gram", "output_gradient", "output", "guard"),
        chooses_backend="hidden",
        sets_shape=("x", "recurrent_weight", "output_weight"),
    )
    assert_refuses_shared_memory(ops.elman_code_step, arguments)
    with refused(ValueError, "iterations", "0"):
        ops.elman_code_step(**{**arguments, **_allocated(arguments), "iterations": 0})


def _allocated(arguments: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.zeros(value.shape) for name, value in arguments.items() if isinstance(value, Output)}


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [5, 20])
def test_more_threads_than_groups(batch: int, dtype: torch.dtype) -> None:
    """Long sequences are work for several threads, but of a group of 16 samples only one can take a part."""
    random = Random(14)
    arguments = case(random, Layer.random(random, batch, 150, 1, 50, 2, RELU))
    alone, shared = (call(ops.elman_code_step, arguments, dtype, threads=threads) for threads in (1, 4))
    for name in (*SUMS, "output", "scalars"):
        assert_close(getattr(shared, name), getattr(alone, name), 64 * torch.finfo(dtype).eps, name)


@pytest.mark.usefixtures("wide_kernels")
def test_a_threshold_has_no_meaning() -> None:
    random = Random(15)
    layer = Layer.random(random, 3, 4, 2, 5, 6, RELU)
    arguments = case(random, layer, iterations=2)
    with_threshold = {**arguments, "scalars": arguments["scalars"].clone()}
    with_threshold["scalars"][CodeScalar.threshold] = 0.3
    results = [call(ops.elman_code_step, one) for one in (arguments, with_threshold)]
    for name in (*SUMS, "output"):
        assert same_bits(*(getattr(result, name) for result in results)), name
    assert results[1].scalars[CodeScalar.unit] == results[0].scalars[CodeScalar.unit]


@pytest.mark.usefixtures("wide_kernels")
def test_inputs_without_a_number() -> None:
    """What remains of a_t is [h_{t-1}; 1]."""
    random = Random(16)
    layer = Layer.random(random, 3, 4, 0, 5, 2, RELU)
    arguments = case(random, layer)
    exact = expected(layer, arguments)
    for op in (ops.elman_code_step, ops.reference.elman_code_step):
        result = call(op, arguments)
        check(result, exact, 1e-12)
        assert result.gram[-1, -1] == 3 * 4
