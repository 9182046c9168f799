"""What the bindings check in the same way for every op: lists, scalars, and tensors that are not what they seem.

The oracles are the twins, and the sentences that a wrong argument must get. Tensors of single ops are refused in the
tests of those ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from altmin_ext import ops
from altmin_ext.ops import Activation, reference

from .calling import Random, call, call_refused, refused, same_bits, update_blocks
from .refusals import concrete
from .test_bcd_columns import kernel_case as bcd_case
from .test_code_step import kernel_case as step_case
from .test_convolve import kernel_case as convolution_case
from .test_elman_code_step import kernel_case as elman_case
from .test_hinge_prox import kernel_case as hinge_case
from .test_relu_prox import kernel_case as relu_case
from .test_softmax_prox import kernel_case as softmax_case

HUGE = 2**70
INTEGERS = {"sweeps": (ops.bcd_columns, bcd_case), "iterations": (ops.elman_code_step, elman_case)}
POSITIVE = {
    "gamma": (ops.relu_prox, relu_case),
    "beta": (ops.hinge_prox, hinge_case),
    "rho": (ops.softmax_prox, softmax_case),
}
FLAGS = {
    "first": (ops.code_step, step_case),
    "has_bias": (ops.bcd_columns, bcd_case),
    "nonnegative": (ops.bcd_columns, bcd_case),
}


def arguments(case: Callable[[Random], dict[str, Any]]) -> dict[str, Any]:
    return concrete(case(Random(0)), torch.float64)


class Made(Sequence[Tensor]):
    """A list whose tensors live only as long as who asked for them holds them."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, i: Any) -> Any:
        return torch.full((64,), self._values[i])


def test_entries_of_lists_are_held_while_they_are_used() -> None:
    """Let go too early, the second gradient would take the first one's memory."""
    weights = [torch.zeros(64), torch.zeros(64)]
    blocks = update_blocks([{"learning_rate": 1.0}] * 2)
    ops.sgd_update(weights, Made([1.0, 2.0]), scalars=blocks)
    assert [set(w.tolist()) for w in weights] == [{-1.0}, {-2.0}]


@pytest.mark.parametrize("other", [1, "first_moments"], ids=["again", "another list"])
def test_entries_that_share_memory_are_refused(other: Any) -> None:
    """Whatever their indices; what is only read may be there twice."""
    names = ("weights", "gradients", "first_moments", "second_moments")
    lists = {name: [torch.ones(5) for _ in range(3)] for name in names}
    rest = {"scalars": update_blocks([{}] * 3), "adam": torch.tensor([0.9, 0.999, 1e-8, 1.0]).double()}
    name, index = ("weights", other) if other == 1 else (other, 2)
    shared = {**lists, name: [*lists[name]]}
    shared[name][index] = lists["weights"][0]
    words = ("weights[0]", f"{name}[{index}]", "memory")
    call_refused(ops.adam_update, {**shared, **rest}, ValueError, *words)
    ops.adam_update(**{**lists, "gradients": [lists["gradients"][0]] * 3}, **rest)


def test_a_stage_may_read_the_scalars_that_another_writes() -> None:
    """As stages of a network do; but a stage's own are not also those below it."""
    blocks = [torch.ones(14, dtype=torch.float64) for _ in range(2)]
    lists = {
        "displacements": [torch.ones(2, 3), torch.ones(2, 3)],
        "products": [None] * 2,
        "biases": [None] * 2,
    }
    lists |= {"codes": [None] * 2, "residuals": [torch.empty(2, 3), torch.empty(2, 3)]}
    lists |= {"bias_gradients": [None] * 2, "scalars": blocks}
    ops.weight_residual(**lists, below=[None, blocks[0]])
    words = ("scalars[1]", "below[1]", "memory")
    call_refused(ops.weight_residual, {**lists, "below": [None, blocks[1]]}, ValueError, *words)


@pytest.mark.parametrize("wrong", [None, 3, torch.nn.ReLU()], ids=["None", "int", "module"])
def test_what_is_no_list_is_refused(wrong: Any) -> None:
    for name in ("weights", "gradients"):
        lists = {"weights": [torch.ones(3)], "gradients": [torch.ones(3)], name: wrong}
        with refused(TypeError, f"{name} must be a list of tensors", type(wrong).__name__):
            ops.sgd_update(**lists, scalars=update_blocks([{}]))


def test_tensors_without_memory_are_refused() -> None:
    code = torch.ones(2, 3)
    with FakeTensorMode():
        fake = torch.ones(2, 3)
    with refused(ValueError, "activation", "FakeTensor", "torch.Tensor"):
        ops.activate(code, activation=fake, sigma=Activation("relu"))


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name: str) -> None:
    op, case = INTEGERS[name]
    good = arguments(case)
    for wrong in (2.0, "2", None, True, torch.nn.ReLU()):
        call_refused(op, {**good, name: wrong}, TypeError, f"{name} must be an integer", type(wrong).__name__)
    for low in (0, -3):
        call_refused(op, {**good, name: low}, ValueError, f"{name} must be at least 1, but is {low}.")
    for high in (2**31, HUGE, -HUGE):
        call_refused(op, {**good, name: high}, ValueError, name, str(high))
    same = call(op, {**case(Random(0)), name: 3}), call(op, {**case(Random(0)), name: np.int64(3)})
    written = [[t for t in vars(result).values() if isinstance(t, Tensor)] for result in same]
    assert all(map(same_bits, *written))


@pytest.mark.parametrize("name", POSITIVE)
def test_positive_numbers(name: str) -> None:
    op, case = POSITIVE[name]
    good = arguments(case)
    for wrong in ("2", None, True, [1.0]):
        call_refused(op, {**good, name: wrong}, TypeError, f"{name} must be a number", type(wrong).__name__)
    for value in (0.0, -1, math.inf, math.nan):
        call_refused(op, {**good, name: value}, ValueError, f"{name} must be positive and finite")
    for value in (2, np.float32(2), np.int8(2)):
        found, expected = call(op, {**case(Random(0)), name: value}), call(op, {**case(Random(0)), name: 2.0})
        assert same_bits(found.out, expected.out)


@pytest.mark.parametrize("name", FLAGS)
def test_flags(name: str) -> None:
    op, case = FLAGS[name]
    good = arguments(case)
    for wrong in (1, None, "yes", 0.0):
        call_refused(
            op, {**good, name: wrong}, TypeError, f"{name} must be True or False", type(wrong).__name__
        )
    for value in (False, True):
        kernel, twin = (
            call(f, {**case(Random(0)), name: value}) for f in (op, getattr(reference, op.__name__))
        )
        numpy = call(op, {**case(Random(0)), name: np.bool_(value)})
        for argument in op.written:
            own, other = getattr(kernel, argument), getattr(twin, argument)
            assert same_bits(own, getattr(numpy, argument))
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrong", [1, [1, 0], (1,), (1, 0, 0), (1.0, 0), ("1", 0), None], ids=str)
def test_padding(wrong: Any) -> None:
    good = arguments(convolution_case)
    call_refused(ops.convolve, {**good, "padding": wrong}, TypeError, "padding must be a", "integer")


def test_pool() -> None:
    good = arguments(convolution_case)
    for wrong in (2.0, "2", None, True):
        call_refused(ops.convolve, {**good, "pool": wrong}, TypeError, "pool must be an integer")
