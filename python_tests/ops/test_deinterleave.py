"""deinterleave: from 16 samples side by side to a sample in each row.

The oracle is the formula, element by element.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import reference

from .calling import Output, Random, call, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory
from .test_interleave import BATCHES, WIDTHS


def arguments(random: Random, batch: int, width: int) -> dict[str, Any]:
    return {"lanes": random.normal((batch + 15) // 16, width, 16), "rows": Output((batch, width))}


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return {"lanes": random.normal(4, 70, 16), "rows": Output((53, 70))}


def formula(lanes: Tensor, batch: int) -> Tensor:
    rows = lanes.new_zeros(batch, lanes.shape[1])
    for sample in range(batch):
        rows[sample] = lanes[sample // 16, :, sample % 16]
    return rows


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_element_is_in_its_place(dtype: torch.dtype) -> None:
    random = Random(111)
    for batch, width in itertools.product(BATCHES, WIDTHS):
        case = arguments(random, batch, width)
        expected = formula(case["lanes"].to(dtype), batch)
        for op in (ops.deinterleave, reference.deinterleave):
            assert same_bits(call(op, case, dtype).rows, expected), f"{batch} x {width}"


@pytest.mark.usefixtures("cpu_kernels")
def test_threads_change_nothing() -> None:
    case = arguments(Random(112), 301, 127)
    assert same_bits(call(ops.deinterleave, case, threads=2).rows, formula(case["lanes"], 301))


@pytest.mark.usefixtures("kernels")
def test_the_fill_is_dropped() -> None:
    """Whatever it holds."""
    case = arguments(Random(113), 17, 20)
    case["lanes"][1, :, 1:] = float("nan")
    assert not torch.isnan(call(ops.deinterleave, case, torch.float32).rows).any()


def test_bad_arguments_are_refused() -> None:
    case = {"lanes": torch.zeros(2, 3, 16), "rows": torch.zeros(17, 3)}
    assert_refuses_bad_tensors(
        ops.deinterleave, case, optional=(), chooses_backend="lanes", sets_shape=("rows",)
    )
    assert_refuses_shared_memory(ops.deinterleave, case)
