"""elman_encode: an Elman layer and the map that reads it.

Oracle: torch's own nn.RNN, and torch.nn.functional in float64.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from altmin_ext import ops
from altmin_ext.ops import Activation, reference

from . import oracle
from .calling import Output, Random, assert_accurate, assert_close, call, same_bits
from .elman import to_lanes
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

RELU = Activation("relu")
# batch, steps, features, width, outputs
SHAPES = (
    (0, 2, 3, 15, 4),
    (1, 1, 1, 1, 4),
    (1, 2, 3, 17, 4),
    (1, 7, 1, 15, 4),
    (17, 1, 3, 15, 4),
    (17, 2, 1, 1, 4),
    (17, 7, 3, 17, 4),
    (33, 3, 28, 61, 11),
    (5, 0, 2, 3, 4),
    (3, 4, 2, 5, 0),
)


def case(
    random: Random, batch: int, steps: int, n_in: int, width: int, n_out: int, sigma: Activation = RELU
) -> dict[str, Any]:
    return {
        "x": random.normal(batch, steps, n_in),
        "input_weight": random.normal(width, n_in, scale=0.7),
        "recurrent_weight": random.normal(width, width, scale=0.8 / width**0.5),
        "input_bias": random.normal(width, scale=0.3),
        "recurrent_bias": random.normal(width, scale=0.3),
        "output_weight": random.normal(n_out, steps * width),
        "hidden": Output((-(-batch // 16), steps, width, 16)),
        "product": Output((batch, n_out)),
        "sigma": sigma,
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return case(random, 37, 6, 2, 21, 11, Activation("gelu"))


def expected(arguments: dict[str, Any]) -> dict[str, Tensor]:
    x, recurrent_weight = arguments["x"], arguments["recurrent_weight"]
    h = torch.zeros(x.shape[0], x.shape[1], len(recurrent_weight), dtype=torch.float64)
    if h.numel():
        with torch.random.fork_rng(devices=[]):
            layer = nn.RNN(x.shape[2], len(recurrent_weight), batch_first=True).double()
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        given = ("input_weight", "recurrent_weight", "input_bias", "recurrent_bias")
        for name, argument in zip(names, given, strict=True):
            own = getattr(layer, name)
            value = arguments[argument]
            own.data.copy_(torch.zeros_like(own) if value is None else value)
        h = layer(x)[0].detach()
    product = oracle.value(arguments["sigma"], h).flatten(1) @ arguments["output_weight"].T
    return {"hidden": to_lanes(h), "product": product}


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    arguments = case(Random(1), *shape)
    result, twin = (call(module.elman_encode, arguments, dtype) for module in (ops, reference))
    for name, exact in expected(arguments).items():
        if dtype == torch.float32:
            assert_accurate(getattr(result, name), getattr(twin, name), exact, name)
        else:
            for found in (result, twin):
                assert_close(getattr(found, name), exact, 1e-12, name)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
@pytest.mark.parametrize(
    "missing", [(), ("input_bias",), ("recurrent_bias",), ("input_bias", "recurrent_bias")]
)
def test_any_activation_with_any_biases(sigma: Activation, missing: tuple[str, ...]) -> None:
    arguments = {**case(Random(2), 18, 5, 2, 7, 3, sigma), **dict.fromkeys(missing)}
    for module in (ops, reference):
        result = call(module.elman_encode, arguments)
        for name, exact in expected(arguments).items():
            assert_close(getattr(result, name), exact, 1e-12, name)


@pytest.mark.usefixtures("wide_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_no_number_stays_none(dtype: torch.dtype) -> None:
    """From the time it comes, in the sample it belongs to."""
    arguments = case(Random(3), 20, 5, 2, 7, 3)
    clean = call(ops.elman_encode, arguments, dtype)
    arguments["x"][18, 2, 1] = float("nan")
    result = call(ops.elman_encode, arguments, dtype)
    assert torch.isnan(result.hidden[1, 2:, :, 2]).all()
    assert torch.isnan(result.product[18]).all()
    assert same_bits(result.hidden[1, :2], clean.hidden[1, :2])
    others = [b for b in range(20) if b != 18]
    assert same_bits(result.product[others], clean.product[others])


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    arguments = case(Random(4), 150, 20, 1, 15, 10)
    alone, both = (call(ops.elman_encode, arguments, dtype, threads=threads) for threads in (1, 2))
    assert same_bits(alone.hidden, both.hidden)
    assert same_bits(alone.product, both.product)


def good_arguments() -> dict[str, Any]:
    arguments = case(Random(5), 3, 4, 2, 5, 6)
    return {name: value.float() if isinstance(value, Tensor) else value for name, value in arguments.items()}


def test_bad_arguments_are_refused() -> None:
    arguments = good_arguments()
    assert_refuses_bad_tensors(
        ops.elman_encode,
        arguments,
        optional=("input_bias", "recurrent_bias"),
        chooses_backend="x",
        sets_shape=("recurrent_weight", "output_weight"),
    )
    assert_refuses_shared_memory(ops.elman_encode, arguments)
