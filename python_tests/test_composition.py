"""What a model is made of, natively compared. Oracle: the same comparison written in Python.

It compares the objects in the dicts of the modules by identity, the memory of the parameters by ``Tensor.is_set_to``,
whether they are trained, and the attributes that formulas read by equality. Whether a difference matters, and what is
said of it, is tested in methods/test_methods_common.py for every method.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from altmin_ext._composition import Composition, _attributes, _places
from altmin_ext.nn import Sign
from altmin_ext.ops import _native

from .side_by_side import seeded


def network() -> nn.Sequential:
    return seeded(  # type: ignore[return-value]
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3),
            nn.Flatten(),
            nn.LeakyReLU(0.1),
            nn.Sequential(nn.Linear(8, 6), Sign("clipped")),
            nn.Linear(6, 3, bias=False),
        )
    )


class Written:
    """The comparison in Python."""

    def __init__(self, model: nn.Module) -> None:
        self._places = list(_places(list(model.modules())))
        self._objects = [list(place.values()) for place in self._places]
        self._parameters = list(model.parameters())
        self._views = [parameter.detach() for parameter in self._parameters]
        self._trained = [parameter.requires_grad for parameter in self._parameters]
        self._attributes = list(_attributes(dict(model.named_modules())))

    def unchanged(self) -> bool:
        objects = [list(place.values()) for place in self._places]
        return (
            [list(map(id, own)) for own in objects] == [list(map(id, own)) for own in self._objects]
            and all(map(Tensor.is_set_to, self._parameters, self._views))
            and [parameter.requires_grad for parameter in self._parameters] == self._trained
            and all(own.get(name, self) == value for _, name, value, own in self._attributes)
        )


def held(model: nn.Module) -> tuple[Any, Written]:
    """The native comparison, with what keeps its objects alive, and the one in Python."""
    return Composition(model, formulas=True), Written(model)


def other_memory(tensor: Tensor, *, offset: int = 0) -> None:
    memory = torch.empty(tensor.numel() + offset)
    tensor.data = memory[offset:].view(tensor.shape).copy_(tensor.detach())


def swap(place: dict[str, Any], a: str, b: str) -> None:
    place[a], place[b] = place[b], place[a]


def transposed(tensor: Tensor) -> None:
    """The same memory, read in another order."""
    tensor.data = tensor.data.t().contiguous().t()


def same_memory_as(tensor: Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    tensor.data = tensor.data.as_strided(shape, strides)


ALTERATIONS: dict[str, Callable[[Any], Any]] = {
    # what the objects are
    "a layer replaced": lambda model: model.__setitem__(4, nn.Linear(6, 3, bias=False)),
    "the first layer replaced": lambda model: model.__setitem__(0, nn.Conv2d(1, 2, 3)),
    "an activation replaced by its like": lambda model: model.__setitem__(2, nn.LeakyReLU(0.1)),
    "a layer within replaced": lambda model: model[3].__setitem__(0, nn.Linear(8, 6)),
    "a layer appended": lambda model: model.append(nn.Identity()),
    "a layer within appended": lambda model: model[3].append(nn.Identity()),
    "the last layer deleted": lambda model: model.__delitem__(4),
    "layers swapped": lambda model: swap(model._modules, "1", "2"),
    "a parameter replaced": lambda model: setattr(model[4], "weight", nn.Parameter(torch.ones(3, 6))),
    "the last parameter replaced": lambda model: setattr(model[3][0], "bias", nn.Parameter(torch.ones(6))),
    "a bias taken": lambda model: setattr(model[3][0], "bias", None),
    "a bias given": lambda model: setattr(model[4], "bias", nn.Parameter(torch.ones(3))),
    "one more parameter": lambda model: model[0].register_parameter("scale", nn.Parameter(torch.ones(1))),
    "parameters swapped": lambda model: swap(model[3][0]._parameters, "weight", "bias"),
    "a parameter of a container": lambda model: model.register_parameter("scale", None),
    "a child of ours": lambda model: model[3][1].add_module("inner", nn.Identity()),
    # how parameters lie
    "other memory": lambda model: other_memory(model[4].weight),
    "other memory of the first": lambda model: other_memory(model[0].weight),
    "elsewhere in other memory": lambda model: other_memory(model[3][0].bias, offset=3),
    "one number further": lambda model: setattr(model[3][0].bias, "data", model[3][0].bias.data[1:]),
    "shorter": lambda model: same_memory_as(model[3][0].bias, (5,), (1,)),
    "other shape": lambda model: same_memory_as(model[4].weight, (6, 3), (3, 1)),
    "one dimension more": lambda model: same_memory_as(model[4].weight, (1, 3, 6), (18, 6, 1)),
    "other strides": lambda model: same_memory_as(model[4].weight, (3, 6), (1, 3)),
    "transposed": lambda model: transposed(model[4].weight),
    "integers": lambda model: setattr(
        model[3][0].bias.requires_grad_(False), "data", model[3][0].bias.data.view(torch.int32)
    ),
    "double": lambda model: model.double(),
    "one layer double": lambda model: model[4].double(),
    "no memory": lambda model: model[4].to("meta"),
    "moved away and back": lambda model: model.double().float(),
    # whether they are trained
    "frozen": lambda model: model[0].bias.requires_grad_(False),
    "the last frozen": lambda model: model[4].weight.requires_grad_(False),
    # what formulas read
    "a slope": lambda model: setattr(model[2], "negative_slope", 0.2),
    "a surrogate": lambda model: setattr(model[3][1], "surrogate", "none"),
    "a stride": lambda model: setattr(model[0], "stride", (2, 2)),
    "padding": lambda model: setattr(model[0], "padding", "same"),
    "a dimension to flatten from": lambda model: setattr(model[1], "start_dim", 0),
    "an attribute deleted": lambda model: delattr(model[2], "negative_slope"),
    # what makes no difference
    "nothing": lambda model: None,
    "other numbers": lambda model: model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}),
    "an equal slope": lambda model: setattr(model[2], "negative_slope", float("0.1")),
    "an equal stride": lambda model: setattr(model[0], "stride", tuple(map(int, "11"))),
    "evaluation mode": lambda model: model.eval(),
    "a buffer": lambda model: model.register_buffer("mean", torch.ones(1)),
    "a gradient": lambda model: setattr(model[4].weight, "grad", torch.ones(3, 6)),
    "an attribute of the user's": lambda model: setattr(model[0], "note", 1),
    "the same layer once more": lambda model: model.__setitem__(4, model[4]),
    "the same memory once more": lambda model: setattr(model[4].weight, "data", model[4].weight.data),
}  # fmt: skip
UNNOTICED = list(ALTERATIONS)[list(ALTERATIONS).index("nothing") :]


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_the_native_comparison(alteration: str) -> None:
    model = network()
    composition, written = held(model)
    assert composition.layout.unchanged()
    assert written.unchanged()
    ALTERATIONS[alteration](model)
    expected = written.unchanged()
    assert expected == (alteration in UNNOTICED)
    for _ in range(2):
        assert composition.layout.unchanged() == expected


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_what_was_altered_and_is_as_it_was_again(alteration: str) -> None:
    """Objects, memory and values are compared, not what was done to them."""
    model = network()
    composition, written = held(model)
    objects = [dict(place) for place in written._places]
    attributes = [(own, name, value) for _, name, value, own in written._attributes]
    parameters = [(parameter, parameter.data, parameter.requires_grad) for parameter in model.parameters()]
    ALTERATIONS[alteration](model)
    for place, before in zip(written._places, objects, strict=True):
        place.clear()
        place.update(before)
    for own, name, value in attributes:
        own[name] = value
    for parameter, data, trained in parameters:
        parameter.requires_grad_(False)
        parameter.data = data
        parameter.requires_grad_(trained)
    assert composition.layout.unchanged()
    assert written.unchanged()


def test_a_composition_takes_other_memory_for_its_own() -> None:
    """Of the same layout; nothing else changes its layout."""
    model = network()
    composition = Composition(model, formulas=True)
    first = composition.layout
    assert composition.change() is None
    assert composition.layout is first
    for parameter in model.parameters():
        other_memory(parameter)
    assert composition.change() is None
    second = composition.layout
    assert second is not first
    assert second.unchanged()
    assert not first.unchanged()
    model[2].negative_slope = 0.3
    for _ in range(2):
        change = composition.change()
        assert change is not None
        assert "negative_slope of its '2' is 0.3 now" in change
    assert composition.layout is second
    model[2].negative_slope = 0.1
    assert composition.change() is None
    assert composition.layout is second


def test_a_value_that_cannot_be_compared_is_an_error() -> None:
    """Of the value's own making, and not of the comparison's."""

    class Incomparable:
        def __eq__(self, other: object) -> bool:
            raise ArithmeticError("no order among these")

        __hash__ = None  # type: ignore[assignment]

    model = network()
    composition = Composition(model, formulas=True)
    model[2].negative_slope = Incomparable()
    with pytest.raises(ArithmeticError, match="no order"):
        composition.layout.unchanged()
    model[2].negative_slope = 0.1
    assert composition.layout.unchanged()


def test_parameters_without_memory_are_like_nothing() -> None:
    meta = nn.Parameter(torch.empty(3, device="meta"))
    assert not _native.module.Held([], [meta], []).unchanged()
    assert _native.module.Held([], [], []).unchanged()


def test_scalars_and_empty_parameters_are_compared() -> None:
    parameters = [nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.empty(0, 3))]
    layout = _native.module.Held([], parameters, [])
    assert layout.unchanged()
    parameters[0].data = torch.tensor(1.0)
    assert not layout.unchanged()


@pytest.mark.parametrize("of", ["child", "parameter", "container"])
def test_a_composition_that_hangs_on_its_model_is_collected(of: str) -> None:
    model = network()
    composition = Composition(model, formulas=True)
    owner = {"child": model[2], "parameter": model[4].weight, "container": model[3]}[of]
    object.__setattr__(owner, "composition", composition)
    watched = weakref.ref(composition)
    del model, owner, composition
    gc.collect()
    assert watched() is None


def test_a_layout_outlives_its_composition() -> None:
    """As that of a plan does, which is only compared by identity."""
    model = network()
    layout = Composition(model, formulas=True).layout
    del model
    gc.collect()
    assert layout is not None
    del layout
