"""convolve: the encode of a stage that convolves and pools.

The oracle is torch's conv2d and max_pool2d in float64.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import Activation, reference

from . import oracle
from .calling import Output, Random, assert_accurate, assert_close, call, call_refused, same_bits
from .convolution import LARGE, SEVERAL_BLOCKS, Shape, geometry, images, indices, lanes, shapes
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

RELU = Activation("relu")
MONOTONE_NAMES = ("identity", "relu", "leaky_relu", "elu", "tanh", "sigmoid", "softplus")
MONOTONE = [sigma for sigma in oracle.SIGMAS if sigma.name in MONOTONE_NAMES]
POOLED = Shape(2, 2, 5, (9, 8), (3, 3), (1, 0), 2)
OUTPUTS = ("code", "activation", "winner", "gap")


def case(
    random: Random, shape: Shape, sigma: Activation = RELU, *, bias: bool = True, mask: bool = False
) -> dict[str, Any]:
    """Arguments of a call; the last samples are the zeros that a group is filled up with."""
    input = random.normal(*shape.input)
    input[-1:, ..., 13:] = 0.0
    pools = shape.pool > 1
    return {
        "input": input,
        "weight": random.normal(*shape.weight),
        "bias": random.normal(shape.outputs) if bias else None,
        "mask": random.mask(*shape.code) if mask else None,
        "code": Output(shape.code),
        "activation": Output(shape.code),
        "winner": Output(shape.code, torch.uint8) if pools else None,
        "gap": Output(shape.code) if pools else None,
        **geometry(shape),
        "sigma": sigma,
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return case(random, SEVERAL_BLOCKS, mask=True)


def convolved(arguments: dict[str, Any]) -> Tensor:
    return F.conv2d(
        images(arguments["input"]), arguments["weight"], arguments["bias"], padding=arguments["padding"]
    )


def windows(arguments: dict[str, Any], shape: Shape) -> Tensor:
    """(G, m, rows, columns, 16, pool^2), the convolved numbers that each code is the largest of."""
    height, width = shape.code[2:4]
    if 0 in shape.code:
        return torch.zeros(*shape.code, shape.pool**2, dtype=torch.float64)
    columns = F.unfold(convolved(arguments).flatten(0, 1).unsqueeze(1), shape.pool, stride=shape.pool)
    rows = columns.mT.reshape(-1, shape.outputs, height, width, shape.pool**2)
    return torch.stack([lanes(part) for part in rows.unbind(-1)], -1)


def formula(arguments: dict[str, Any], shape: Shape) -> dict[str, Tensor]:
    if 0 in shape.code:
        empty = torch.zeros(shape.code, dtype=torch.float64)
        return dict.fromkeys(("code", "activation", "gap"), empty)
    code = lanes(F.max_pool2d(convolved(arguments), shape.pool))
    mask = torch.ones_like(code) if arguments["mask"] is None else arguments["mask"]
    result = {"code": code, "activation": mask * oracle.value(arguments["sigma"], code)}
    if shape.pool > 1:
        largest = windows(arguments, shape).sort(-1).values
        result["gap"] = largest[..., -1] - largest[..., -2]
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_float64(wide_kernels: str, dtype: torch.dtype) -> None:
    random = Random(121)
    for shape in shapes(wide_kernels):
        sigma = random.choice(MONOTONE)
        arguments = case(random, shape, sigma, bias=random.flip(), mask=random.flip())
        result, twin = (call(op, arguments, dtype) for op in (ops.convolve, reference.convolve))
        for name, value in formula(arguments, shape).items():
            if dtype == torch.float64:
                assert_close(getattr(result, name), value, 1e-13, f"{name}, {shape}")
            else:
                assert_accurate(getattr(result, name), getattr(twin, name), value, f"{name}, {shape}")
        assert result.guard == 0
        if shape.pool > 1 and result.winner.numel():
            candidates = windows(arguments, shape)
            chosen = candidates.gather(-1, result.winner.long().unsqueeze(-1)).squeeze(-1)
            slack = 1e-12 if dtype == torch.float64 else 1e-5
            assert float((candidates.amax(-1) - chosen).max()) <= slack * float(candidates.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_of_equals_wins(wide_kernels: str, dtype: torch.dtype) -> None:
    """As in torch. Small integers are exact in every order of summation, and often equal."""
    random = Random(122)
    for shape in shapes(wide_kernels):
        if shape.pool == 1 or 0 in shape.code:
            continue
        arguments = case(random, shape)
        for name in ("input", "weight", "bias"):
            arguments[name] = (0.7 * arguments[name]).round()
        result = call(ops.convolve, arguments, dtype)
        expected = formula(arguments, shape)
        for name in ("code", "gap"):
            assert torch.equal(getattr(result, name).double(), expected[name]), name
        _, places = F.max_pool2d(convolved(arguments), shape.pool, return_indices=True)
        assert torch.equal(indices(result.winner, shape), places)
        assert (result.gap == 0).any()


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
def test_every_activation(sigma: Activation) -> None:
    """Those that are not monotone where nothing is pooled."""
    for pool in (1, 2) if sigma in MONOTONE else (1,):
        shape = Shape(1, 2, 3, (6, 7), (3, 3), pool=pool)
        arguments = case(Random(123), shape, sigma, mask=True)
        assert_close(
            call(ops.convolve, arguments).activation,
            formula(arguments, shape)["activation"],
            1e-13,
            sigma.name,
        )


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pool", [1, 2])
def test_the_activation_may_take_the_place_of_the_code(dtype: torch.dtype, pool: int) -> None:
    shape = Shape(2, 2, 7, (9, 8), (3, 3), (1, 1), pool)
    arguments = case(Random(124), shape, Activation("tanh"), mask=True)
    apart = call(ops.convolve, arguments, dtype)
    in_place = call(ops.convolve, arguments, dtype, alias={"code": "activation"})
    for name in ("activation", "winner", "gap"):
        assert getattr(apart, name) is None or same_bits(getattr(in_place, name), getattr(apart, name)), name


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("missing", ["winner", "gap", "guard"])
def test_what_nobody_needs_may_be_absent(missing: str) -> None:
    arguments = case(Random(125), POOLED)
    all_there, without = call(ops.convolve, arguments), call(ops.convolve, {**arguments, missing: None})
    for name in OUTPUTS:
        assert name == missing or same_bits(getattr(without, name), getattr(all_there, name)), name


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_code_that_is_not_finite_raises_the_guard(dtype: torch.dtype, pool: int, bad: float) -> None:
    """And a NaN anywhere in its window is not lost."""
    shape = Shape(2, 1, 3, (6, 6), (3, 3), pool=pool)
    for row in range(2):
        for column in range(2):
            arguments = case(Random(126), shape)
            arguments["weight"] = arguments["weight"].abs()
            arguments["input"][1, 0, row, column, 5] = bad
            clean = call(ops.convolve, case(Random(126), shape), dtype)
            result = call(ops.convolve, arguments, dtype)
            spoilt = lanes(F.max_pool2d(convolved(arguments), pool))
            assert torch.equal(result.code.isnan(), spoilt.isnan())
            assert torch.equal(result.code.isinf(), spoilt.isinf())
            assert torch.equal(result.activation.isnan(), spoilt.isnan())
            assert not spoilt.isfinite().all()
            assert (clean.guard, result.guard) == (0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("wide_cpu_kernels")
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    for shape in (LARGE[1], Shape(3, 8, 16, (16, 17), (3, 3), (1, 1))):
        arguments = case(Random(127), shape, mask=True)
        alone, both = (call(ops.convolve, arguments, dtype, threads=threads) for threads in (1, 2))
        for name in OUTPUTS:
            assert getattr(alone, name) is None or same_bits(getattr(both, name), getattr(alone, name)), name


def good_arguments(shape: Shape = POOLED) -> dict[str, Any]:
    arguments = case(Random(128), shape, mask=True)
    guard = torch.zeros(1, dtype=torch.float64)
    floats = {name: value.float() for name, value in arguments.items() if isinstance(value, Tensor)}
    outputs = {
        name: torch.zeros(value.shape, dtype=value.dtype or torch.float32)
        for name, value in arguments.items()
        if isinstance(value, Output)
    }
    return {**arguments, **floats, **outputs, "guard": guard}


def test_bad_tensors_are_refused() -> None:
    arguments = good_arguments()
    optional = ("bias", "mask", "winner", "gap", "guard")
    assert_refuses_bad_tensors(
        ops.convolve, arguments, optional, chooses_backend="input", sets_shape=("weight",)
    )
    in_place = [("code", "activation"), ("activation", "code")]
    assert_refuses_shared_memory(ops.convolve, arguments, allowed=in_place)


def assert_refuses_bad_geometry(op: Any, arguments: dict[str, Any]) -> None:
    """What all three ops ask of their paddings, pools and kernels; the kernel is 3 x 3."""
    for padding in ((3, 0), (0, 3), (-1, 0), (0, -1)):
        call_refused(op, {**arguments, "padding": padding}, ValueError, "padding", "(3, 3)", str(padding))
    for pool in (0, -1, 17):
        call_refused(op, {**arguments, "pool": pool}, ValueError, "pool", str(pool))
    weight = torch.zeros(5, 2, 12, 3)
    call_refused(op, {**arguments, "weight": weight}, ValueError, "weight", "(5, 2, 12, 3)")


def test_bad_shapes_are_refused() -> None:
    arguments = good_arguments()
    assert_refuses_bad_geometry(ops.convolve, arguments)
    unpooled = good_arguments(Shape(2, 2, 5, (9, 8), (3, 3)))
    for name in ("winner", "gap"):
        of_dtype = torch.uint8 if name == "winner" else torch.float32
        output = torch.zeros(unpooled["code"].shape, dtype=of_dtype)
        call_refused(ops.convolve, {**unpooled, name: output}, ValueError, name, "None")


@pytest.mark.parametrize("sigma", [Activation("gelu"), Activation("silu"), Activation("leaky_relu", -0.1)])
def test_only_monotone_activations_are_pooled(sigma: Activation) -> None:
    call_refused(
        ops.convolve, {**good_arguments(), "sigma": sigma}, ValueError, "sigma", "monotone", sigma.name
    )
