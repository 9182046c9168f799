"""interleave: from a sample in each row to 16 samples side by side.

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

BATCHES = (0, 1, 15, 16, 17, 33)
WIDTHS = (0, 1, 3, 4, 16, 17, 33, 100)


def arguments(random: Random, batch: int, width: int) -> dict[str, Any]:
    return {"rows": random.normal(batch, width), "lanes": Output(((batch + 15) // 16, width, 16))}


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return {"rows": random.normal(53, 70), "lanes": Output((4, 70, 16))}


def formula(rows: Tensor) -> Tensor:
    batch, width = rows.shape
    lanes = rows.new_zeros((batch + 15) // 16, width, 16)
    for sample in range(batch):
        lanes[sample // 16, :, sample % 16] = rows[sample]
    return lanes


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_element_is_in_its_place(dtype: torch.dtype) -> None:
    random = Random(101)
    for batch, width in itertools.product(BATCHES, WIDTHS):
        case = arguments(random, batch, width)
        expected = formula(case["rows"].to(dtype))
        for op in (ops.interleave, reference.interleave):
            assert same_bits(call(op, case, dtype).lanes, expected), f"{batch} x {width}"


@pytest.mark.usefixtures("cpu_kernels")
def test_threads_change_nothing() -> None:
    case = arguments(Random(102), 301, 127)
    assert same_bits(call(ops.interleave, case, threads=2).lanes, formula(case["rows"]))


@pytest.mark.usefixtures("kernels")
def test_what_is_no_number_stays_none() -> None:
    case = arguments(Random(103), 33, 20)
    case["rows"][17, 5] = float("nan")
    assert torch.isnan(call(ops.interleave, case, torch.float32).lanes).nonzero().tolist() == [[1, 5, 1]]


def test_bad_arguments_are_refused() -> None:
    case = {"rows": torch.zeros(17, 3), "lanes": torch.zeros(2, 3, 16)}
    assert_refuses_bad_tensors(ops.interleave, case, optional=(), chooses_backend="rows")
    assert_refuses_shared_memory(ops.interleave, case)
