"""convolution_vjp: what a convolution's outputs ask of its inputs.

The oracle is torch's max_unpool2d, and autograd through its conv2d, in float64.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import reference

from .calling import Output, Random, assert_accurate, assert_close, call, call_refused, same_bits
from .convolution import (
    LARGE,
    SEVERAL_BLOCKS,
    Shape,
    at_winners,
    geometry,
    images,
    lanes,
    random_winner,
    shapes,
)
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory
from .test_convolve import POOLED, assert_refuses_bad_geometry
from .test_convolve import case as convolve_case


def case(random: Random, shape: Shape) -> dict[str, Any]:
    return {
        "displacement": random.normal(*shape.code),
        "winner": random_winner(random, shape),
        "weight": random.normal(*shape.weight),
        "pulled_back": Output(shape.input),
        **geometry(shape),
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return case(random, SEVERAL_BLOCKS)


def formula(arguments: dict[str, Any], shape: Shape) -> Tensor:
    x = torch.zeros(16 * shape.groups, shape.inputs, *shape.image, dtype=torch.float64, requires_grad=True)
    if x.numel() == 0:
        return lanes(x.detach())
    convolved = F.conv2d(x, arguments["weight"], padding=shape.padding)
    expanded = at_winners(arguments["displacement"], arguments["winner"], shape)
    return lanes(torch.autograd.grad(convolved, x, expanded)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_float64(wide_kernels: str, dtype: torch.dtype) -> None:
    random = Random(131)
    for shape in shapes(wide_kernels):
        arguments = case(random, shape)
        expected = formula(arguments, shape)
        op, twin = (
            call(op, arguments, dtype).pulled_back for op in (ops.convolution_vjp, reference.convolution_vjp)
        )
        if dtype == torch.float64:
            assert_close(op, expected, 1e-13, str(shape))
        else:
            assert_accurate(op, twin, expected, str(shape))


@pytest.mark.usefixtures("wide_kernels")
def test_it_is_the_transpose_of_the_encode() -> None:
    """<convolve(v) at the winners, d> = <v, vjp(d)> for any v, where the bias is zero."""
    random = Random(132)
    for shape in (POOLED, Shape(1, 3, 2, (5, 6), (3, 3), (1, 1))):
        encode = call(ops.convolve, convolve_case(random, shape, bias=False))
        arguments = {**case(random, shape), "weight": encode.weight, "winner": encode.winner}
        pulled_back = call(ops.convolution_vjp, arguments).pulled_back
        ahead = (encode.code * arguments["displacement"]).sum()
        torch.testing.assert_close((encode.input * pulled_back).sum(), ahead, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("wide_kernels")
def test_what_is_no_number_stays_none() -> None:
    shape = Shape(1, 1, 2, (6, 6), (3, 3), pool=2)
    arguments = case(Random(133), shape)
    arguments["displacement"][0, 1, 0, 1, 3] = float("nan")
    arguments["winner"][0, 1, 0, 1, 3] = 2  # row 1, column 2 of the convolved image
    spoilt = call(ops.convolution_vjp, arguments, torch.float32).pulled_back.isnan()
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(spoilt[0, 0, ..., 3], expected)
    assert spoilt.sum() == 9


@pytest.mark.usefixtures("wide_cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    for shape in (LARGE[1], Shape(3, 8, 16, (16, 17), (3, 3), (1, 1))):
        arguments = case(Random(134), shape)
        alone, both = (
            call(ops.convolution_vjp, arguments, dtype, threads=threads).pulled_back for threads in (1, 2)
        )
        assert same_bits(both, alone)


def good_arguments(shape: Shape = POOLED) -> dict[str, Any]:
    arguments = case(Random(135), shape)
    for name in ("displacement", "weight"):
        arguments[name] = arguments[name].float()
    return {**arguments, "pulled_back": torch.zeros(shape.input)}


def test_bad_arguments_are_refused() -> None:
    arguments = good_arguments()
    assert_refuses_bad_tensors(
        ops.convolution_vjp,
        arguments,
        ("winner",),
        "displacement",
        sets_shape=("weight", "pulled_back"),
    )
    assert_refuses_shared_memory(ops.convolution_vjp, arguments)
    assert_refuses_bad_geometry(ops.convolution_vjp, arguments)
    call_refused(ops.convolution_vjp, {**arguments, "winner": None}, ValueError, "winner", "given")
    unpooled = good_arguments(Shape(2, 2, 5, (9, 8), (3, 3)))
    winner = torch.zeros(unpooled["displacement"].shape, dtype=torch.uint8)
    call_refused(ops.convolution_vjp, {**unpooled, "winner": winner}, ValueError, "winner", "None")


def test_images_oracle_is_the_opposite_of_lanes() -> None:
    """Both by loops over the samples."""
    x = torch.arange(2 * 3 * 4 * 5 * 16).view(2, 3, 4, 5, 16)
    assert torch.equal(lanes(images(x)), x)
    assert torch.equal(images(x)[17], x[1, ..., 1])
