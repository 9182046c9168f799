"""Makes calls hostile: arguments that an op must refuse, each from those of a call that it must take."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from altmin_ext import ops
from altmin_ext.ops import Activation

from .op_arguments import Call, Draw

Arguments = dict[str, Any]

NOT_A_TENSOR = (
    *([1.0], "tensor", 3, 2.5, np.ones(3, np.float32)),
    *(object(), torch.nn.ReLU(), SimpleNamespace(is_cpu=True)),
)
NOT_A_LIST = (None, 3, {}, iter([]), object())
DTYPES = (torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64, torch.uint8, torch.int64)
# By a scalar's annotation.
WRONG_SCALARS: dict[str, tuple[Any, ...]] = {
    "float": (
        *("2", None, True, 1j, [1.0], np.ones(2), torch.ones(2)),
        *(math.nan, math.inf, -math.inf, 0.0, -1, 10**400, 1e-310, np.nan, np.float32(0), torch.tensor(-1.0)),
    ),
    "int": (
        *(2.0, "2", None, True, math.nan, np.float64(2), np.bool_(True), torch.tensor(1.5)),
        *(torch.ones(2, dtype=torch.int64), 0, -1, 2**70, -(2**70), 2**31, 10**5000),
    ),
    "bool": (1, 0, None, "yes", 0.0, 2**70, torch.tensor(True), [True]),
    "tuple[int, int]": (
        *(1, None, [0, 0], (0,), (0, 0, 0), (0.0, 0), ("0", 0), (True, 0)),
        *((-1, 0), (0, 99), (2**70, 0)),
    ),
    "Activation": (
        *("relu", None, 3, torch.nn.ReLU(), object(), SimpleNamespace(kind="relu", parameter=0.0)),
        *(SimpleNamespace(kind=kind, parameter=0.0) for kind in (-1, 99, 2**70)),
        *(SimpleNamespace(kind=1, parameter=parameter) for parameter in (None, "0", math.nan, math.inf)),
    ),
}
_fake = FakeTensorMode()


class Interpreted(Tensor):
    """A subclass that says itself what operations on it are."""

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("nothing may be asked of it")


class Hostile(NamedTuple):
    what: str
    arguments: Arguments
    is_sentence: bool = True  # or Python's own message


class _Place(NamedTuple):
    name: str
    index: int | None
    tensor: Any  # None where one may be
    optional: bool
    first: bool  # whose device chooses between kernel and twin

    def __str__(self) -> str:
        return self.name if self.index is None else f"{self.name}[{self.index}]"


def _annotations(op: str) -> dict[str, str]:
    parameters = inspect.signature(getattr(ops, op)).parameters
    return {name: str(parameter.annotation) for name, parameter in parameters.items()}


def _places(call: Call, arguments: Arguments) -> list[_Place]:
    found = []
    for i, (name, text) in enumerate(_annotations(call.op).items()):
        optional = "None" in text
        if isinstance(arguments[name], list):
            found += [_Place(name, j, t, optional, i + j == 0) for j, t in enumerate(arguments[name])]
        elif "Tensor" in text:
            found.append(_Place(name, None, arguments[name], optional, i == 0))
    return found


def _with(arguments: Arguments, place: _Place, value: Any) -> Arguments:
    if place.index is None:
        return {**arguments, place.name: value}
    entries = list(arguments[place.name])
    entries[place.index] = value
    return {**arguments, place.name: entries}


def _tensor_place(draw: Draw, call: Call, arguments: Arguments, least: int = 0) -> _Place | None:
    places = [p for p in _places(call, arguments) if p.tensor is not None and p.tensor.numel() >= least]
    return draw.choice(places) if places else None


def _no_tensor(draw: Draw, call: Call, arguments: Arguments) -> Hostile | None:
    places = _places(call, arguments)
    if not places:
        return None
    place = draw.choice(places)
    value = draw.choice(NOT_A_TENSOR if place.optional else (None, *NOT_A_TENSOR))
    return Hostile(f"{place} is {value!r}", _with(arguments, place, value))


def _other_dtype(draw: Draw, call: Call, arguments: Arguments) -> Hostile | None:
    if (place := _tensor_place(draw, call, arguments)) is None:
        return None
    dtype = draw.choice([dtype for dtype in DTYPES if dtype != place.tensor.dtype])
    return Hostile(
        f"{place} is {dtype}", _with(arguments, place, torch.ones(place.tensor.shape, dtype=dtype))
    )


def _more_dimensions(draw: Draw, call: Call, arguments: Arguments) -> Hostile | None:
    if (place := _tensor_place(draw, call, arguments)) is None:
        return None
    more = place.tensor.unsqueeze(draw.choice((0, -1)))
    return Hostile(f"{place} has a dimension more", _with(arguments, place, more))


def _strided(draw: Draw, call: Call, arguments: Arguments) -> Hostile | None:
    if (place := _tensor_place(draw, call, arguments, least=2)) is None:
        return None
    tensor = place.tensor
    if draw.chance(0.5):
        return Hostile(
            f"{place} is expanded", _with(arguments, place, tensor.flatten()[:1].expand(tensor.shape))
        )
    every_other = torch.stack([tensor, tensor], -1)[..., 0]
    return Hostile(f"{place} is strided", _with(arguments, place, every_other))


def _without_memory(draw: Draw, call: Call, arguments: Arguments) -> Hostile | None:
    if (place := _tensor_place(draw, call, arguments)) is None:
        return None
    tensor = place.tensor
    kind = draw.choice(("meta", "sparse", "fake", "interpreted", "released"))
    if kind == "meta":
        value = tensor.to("meta")
    elif kind == "sparse":
        value = tensor.to_sparse()
    elif kind == "fake":
        with _fake:
            value = torch.empty((2, *tensor.shape), dtype=tensor.dtype)[draw.choice((0, 1))]
    elif kind == "interpreted":
        value = Tensor._make_subclass(Interpreted, tensor)
    else:
        if tensor.numel() == 0:
            return None
        value = tensor.clone()
        value.untyped_storage().resize_(0)
    return Hostile(f"{place} is {kind}", _with(arguments, place, value))


def _misaligned(draw: Draw, call: Call, arguments: Arguments) -> Hostile | None:
    place = _tensor_place(draw, call, arguments, least=1)
    if place is None or place.tensor.element_size() == 1:
        return None
    tensor = place.tensor
    offset = draw.choice(range(1, tensor.element_size()))
    memory = bytearray(tensor.nbytes + 16)
    start = offset + (-np.frombuffer(memory, np.uint8).__array_interface__["data"][0]) % 8
    value = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=start).view(
        tensor.shape
    )
    return Hostile(f"{place} is misaligned", _with(arguments, place, value))


def _shared(draw: Draw, call: Call, arguments: Arguments) -> Hostile | None:
    """An output in the memory of another argument, fully or in part."""
    places = [p for p in _places(call, arguments) if p.tensor is not None and p.tensor.numel() > 0]
    outputs = [p for p in places if p.name in call.written]
    if not outputs or len(places) < 2:
        return None
    output = draw.choice(outputs)
    other = draw.choice([p for p in places if p[:2] != output[:2]])
    if {output.name, other.name} == {"scalars", "below"}:
        return None
    first, second = (output, other) if draw.chance(0.5) else (other, output)
    shift = 8 * int(draw.random.integers(0, -(-first.tensor.nbytes // 8)))
    aliases = {frozenset(pair) for pair in call.aliases()}
    if shift == 0 and frozenset((output.name, other.name)) in aliases and output.index == other.index:
        shift = 8
        if shift >= first.tensor.nbytes:
            return None
    memory = torch.zeros(max(first.tensor.nbytes, shift + second.tensor.nbytes) + 8, dtype=torch.uint8)
    for place, start in ((first, 0), (second, shift)):
        value = memory[start : start + place.tensor.nbytes].view(place.tensor.dtype).view(place.tensor.shape)
        arguments = _with(arguments, place, value)
    return Hostile(f"{first} and {second} share memory, {shift} bytes apart", arguments)


def _no_list(draw: Draw, call: Call, arguments: Arguments) -> Hostile | None:
    lists = [name for name, value in arguments.items() if isinstance(value, list)]
    if not lists:
        return None
    name = draw.choice(lists)
    entries = arguments[name]
    longer = [*entries, torch.ones(3, dtype=entries[0].dtype if entries and entries[0] is not None else None)]
    options = [longer, *NOT_A_LIST]
    if entries:
        options += [entries[:-1], tuple(entries[1:])]
    value = draw.choice(options)
    return Hostile(f"{name} is no list or of another length: {type(value)}", {**arguments, name: value})


def _scalar(draw: Draw, call: Call, arguments: Arguments) -> Hostile | None:
    scalars = {name: text for name, text in _annotations(call.op).items() if text in WRONG_SCALARS}
    if not scalars:
        return None
    name = draw.choice(list(scalars))
    value = draw.choice(WRONG_SCALARS[scalars[name]])
    if name == "pool":
        value = draw.choice((value, 17))
    words = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else repr(value)
    return Hostile(f"{name} is {words}", {**arguments, name: value})


def _index(draw: Draw, call: Call, arguments: Arguments) -> Hostile | None:
    """A label or a flag that is not there."""
    for name, count in (("labels", call.sizes.get("n")), ("guard_index", call.sizes.get("flags"))):
        tensor = arguments.get(name)
        if tensor is None or tensor.numel() == 0 or (name == "guard_index" and arguments["guard"] is None):
            continue
        wrong = tensor.clone()
        wrong[draw.random.integers(len(wrong))] = value = draw.choice((-1, count, 2**40, -(2**62)))
        return Hostile(f"one of {name} is {value}", {**arguments, name: wrong})
    return None


def _not_monotone(draw: Draw, call: Call, arguments: Arguments) -> Hostile | None:
    if call.op != "convolve" or call.sizes["pool"] == 1:
        return None
    sigma = Activation(draw.choice(("gelu", "silu", "sign")))
    return Hostile(f"sigma is {sigma.name}", {**arguments, "sigma": sigma})


def _other_names(draw: Draw, call: Call, arguments: Arguments) -> Hostile:
    if draw.chance(0.5):
        return Hostile("an unknown argument", {**arguments, "momentum_of": 1}, is_sentence=False)
    parameters = inspect.signature(getattr(ops, call.op)).parameters
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    missing = draw.choice(required)
    rest = {name: value for name, value in arguments.items() if name != missing}
    return Hostile(f"{missing} is missing", rest, is_sentence=False)


KINDS: tuple[Callable[[Draw, Call, Arguments], Hostile | None], ...] = (
    *(_no_tensor, _other_dtype, _more_dimensions, _strided, _without_memory, _misaligned, _shared, _shared),
    *(_no_list, _scalar, _scalar, _index, _not_monotone, _other_names),
)


def hostile_arguments(draw: Draw, call: Call, arguments: Arguments) -> Hostile:
    """Arguments that the op must refuse, made from good ones."""
    while True:
        hostile = draw.choice(KINDS)(draw, call, arguments)
        if hostile is not None:
            return hostile
