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
from torch.masked import masked_tensor

from altmin_ext import ops
from altmin_ext.ops import Activation, reference

from .calling import Random, call, call_refused, refused, same_bits, update_blocks
from .refusals import concrete
from .test_bcd_columns import kernel_case as bcd_case
from .test_code_step import kernel_case as step_case
from .test_convolve import kernel_case as convolution_case
from .test_elman_code_step import kernel_case as elman_case
from .test_hinge_prox import kernel_case as hinge_case
from .test_memory_update import kernel_case as memory_case
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
    "from_zero": (ops.bcd_columns, bcd_case),
    "subtract": (ops.memory_update, memory_case),
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


class Interpreted(Tensor):
    """A subclass that says itself what operations on it are; what it stands for need not lie in its memory."""

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("nothing is asked of it")


class Wrapper(Interpreted):
    @staticmethod
    def __new__(cls, shape: tuple[int, ...]) -> Wrapper:
        return Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)


class Named(Tensor):
    """A subclass with memory, and operations that are torch's."""


def _fake(*shape: int) -> Tensor:
    with FakeTensorMode():
        return torch.ones(*shape)


def _released() -> Tensor:
    tensor = torch.ones(2, 3)
    tensor.untyped_storage().resize_(0)
    return tensor


# Of shape (2, 3), and float32.
WITHOUT_MEMORY: dict[str, Callable[[], Tensor]] = {
    "fake": lambda: _fake(2, 3),
    "part of a fake": lambda: _fake(100, 2, 3)[50],
    "wrapper": lambda: Wrapper((2, 3)),
    "interpreted": lambda: Tensor._make_subclass(Interpreted, torch.ones(2, 3)),
    "masked": lambda: masked_tensor(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)),
    "zeros without storage": lambda: torch._efficientzerotensor(2, 3),
    "released": _released,
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
    "meta": lambda: torch.ones(2, 3, device="meta"),
    "sparse": lambda: torch.ones(2, 3).to_sparse(),
    "sparse rows": lambda: torch.ones(2, 3).to_sparse_csr(),
    "mkldnn": lambda: torch.ones(2, 3).to_mkldnn(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WITHOUT_MEMORY)
def test_tensors_without_memory_are_refused(kind: str) -> None:
    """As an argument, in a list, and as the first argument, whose device chooses what runs."""
    tensor = WITHOUT_MEMORY[kind]()
    plain, relu = torch.ones(2, 3), Activation("relu")
    with refused(ValueError, "activation must"):
        ops.activate(plain, activation=tensor, sigma=relu)
    with refused(ValueError, "gradients[1] must"):
        ops.sgd_update([plain, plain.clone()], [plain.clone(), tensor], scalars=update_blocks([{}] * 2))
    with refused(ValueError, "code must"):
        ops.activate(tensor, activation=torch.empty(2, 3), sigma=relu)
    assert plain.eq(1).all()


def test_an_empty_fake_is_refused_all_the_same() -> None:
    with refused(ValueError, "activation must", "FakeTensor"):
        ops.activate(torch.ones(0, 3), activation=_fake(0, 3), sigma=Activation("relu"))


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad, torch.func.functionalize])
def test_tensors_within_a_transform_are_refused(transform: Callable[..., Any]) -> None:
    def squares(x: Tensor) -> Tensor:
        y = x.square()
        ops.activate(y, activation=torch.empty(2, 3), sigma=Activation("relu"))
        return y.sum()

    with refused(ValueError, "code must have memory", "torch.func"):
        transform(squares)(torch.ones(5, 2, 3) if transform is torch.func.vmap else torch.ones(2, 3))


@pytest.mark.parametrize("kind", ["subclass", "requires grad", "inference"])
def test_tensors_with_memory_are_taken(kind: str) -> None:
    if kind == "subclass":
        activation = torch.empty(2, 3).as_subclass(Named)
    elif kind == "requires grad":
        activation = torch.empty(2, 3, requires_grad=True)
    else:
        with torch.inference_mode():
            activation = torch.empty(2, 3)
    ops.activate(torch.full((2, 3), 2.0), activation=activation, sigma=Activation("relu"))
    assert torch.equal(activation.detach().as_subclass(Tensor), torch.full((2, 3), 2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_misaligned_tensors_are_refused(dtype: torch.dtype) -> None:
    memory = bytearray(100)
    place = -np.frombuffer(memory, np.uint8).__array_interface__["data"][0] % 8 + 1
    mask = torch.frombuffer(memory, dtype=dtype, count=6, offset=place).view(2, 3)
    good = {"code": torch.ones(2, 3, dtype=dtype), "activation": torch.ones(2, 3, dtype=dtype)}
    words = ("mask must begin at a multiple", f"{dtype.itemsize} bytes", "mask.clone()")
    call_refused(ops.activate, {**good, "mask": mask, "sigma": Activation("relu")}, ValueError, *words)


def test_a_lazily_negated_number_is_refused() -> None:
    """Its memory holds the opposite."""
    code = torch.complex(torch.ones(1, 1), torch.ones(1, 1)).conj().imag
    assert code.is_neg()
    assert code.is_contiguous()
    with refused(ValueError, "code must not be lazily negated", "code.resolve_neg()"):
        ops.activate(code, activation=torch.empty(1, 1), sigma=Activation("relu"))


class Broken(Sequence[Tensor]):
    """A list that raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: Any) -> Any:
        raise self._error


@pytest.mark.parametrize(
    "error", [RuntimeError("mine"), MemoryError("mine"), KeyboardInterrupt("mine")], ids=repr
)
def test_what_a_list_raises_reaches_its_owner(error: BaseException) -> None:
    with pytest.raises(type(error), match="mine"):
        ops.sgd_update(Broken(error), [torch.ones(3)], scalars=update_blocks([{}]))


@pytest.mark.parametrize("parameter", [None, "0.1", math.nan, math.inf], ids=str)
def test_parameters_of_activations(parameter: Any) -> None:
    error = ValueError if isinstance(parameter, float) else TypeError
    sigma = Activation("leaky_relu", parameter)
    with refused(error, "sigma.parameter must be"):
        ops.activate(torch.ones(2, 3), activation=torch.ones(2, 3), sigma=sigma)


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
    call_refused(op, {**good, name: 10**5000}, ValueError, name, "thousands of digits")
    same = call(op, {**case(Random(0)), name: 3}), call(op, {**case(Random(0)), name: np.int64(3)})
    written = [[t for t in vars(result).values() if isinstance(t, Tensor)] for result in same]
    assert all(map(same_bits, *written))


@pytest.mark.parametrize("name", POSITIVE)
def test_positive_numbers(name: str) -> None:
    op, case = POSITIVE[name]
    good = arguments(case)
    for wrong in ("2", None, True, [1.0]):
        call_refused(op, {**good, name: wrong}, TypeError, f"{name} must be a number", type(wrong).__name__)
    for value in (0.0, -1, math.inf, math.nan, 10**400):
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
