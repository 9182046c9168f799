"""What a model is made of, and whether it still is."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from altmin_ext.ops import _native

Named: TypeAlias = Sequence[tuple[str, nn.Parameter]]
_Attribute: TypeAlias = tuple[str, str, Any, dict[str, Any]]

# Attributes of torch's modules and ours that formulas read once. Those that are read in every step, such as a rate of
# dropout, may change.
_read_once = {
    *("negative_slope", "alpha", "beta", "threshold", "approximate", "surrogate"),
    *(
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
        "ceil_mode",
        "return_indices",
    ),
    *("start_dim", "end_dim"),
}


class Composition:
    """The modules and parameters of a model, and how the parameters lie in memory.

    What a method keeps, such as moments and gradients, is made once for the parameters as they are. Before each step
    it is compared whether the model still holds the same objects, which takes less than a microsecond.
    Only if something differs is everything looked at, to say what, or to find that it makes no difference: a
    parameter may have been given other memory of the same layout.

    Args:
        model: the model.
        formulas: whether modules are computed by formulas that were chosen once, by their types and attributes.

    Attributes:
        layout: where everything is; another object once a parameter has been given other memory. None without the
            native module, where everything is looked at each time.
    """

    def __init__(self, model: nn.Module, formulas: bool) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._named = list(model.named_parameters())
        self._parameters = [parameter for _, parameter in self._named]
        self._trainable = [parameter.requires_grad for parameter in self._parameters]
        self._kinds = [_kind(parameter) for parameter in self._parameters]
        self._places = list(_places(self._modules.values()))
        self._order = list(_entries(self._places))
        self._attributes = list(_attributes(self._modules)) if formulas else []
        self._lie_as_they_are()

    def change(self) -> str | None:
        """What is not as it was, as the end of a sentence; None if nothing that matters is."""
        if self.layout is not None and self.layout.unchanged():
            return None
        change = (
            self._change_of_place()
            or self._change_of_modules()
            or self._change_of_parameters()
            or self._change_of_attributes()
            or self._change_of_layout()
        )
        if change is None:
            self._lie_as_they_are()
        return change

    def _lie_as_they_are(self) -> None:
        """Take the memory of the parameters for their own from now on."""
        attributes = [(own, name, value) for _, name, value, own in self._attributes]
        self.layout: Any = None
        if _native.module is not None:
            self.layout = _native.module.Held(self._places, self._parameters, attributes)

    def _change_of_place(self) -> str | None:
        (dtype, device, _), (dtype_before, device_before, _) = _kind(self._parameters[0]), self._kinds[0]
        if (dtype, device) == (dtype_before, device_before):
            return None
        return f"is {dtype} on {device} now, and was {dtype_before} on {device_before}"

    def _change_of_modules(self) -> str | None:
        now = dict(self._model.named_modules())
        for path, module in self._modules.items():
            found = now.get(path)
            if found is None:
                return f"its {path!r}, {_a(module)}, is gone"
            if found is not module:
                return f"its {path!r} is {_a(found, type(found) is type(module))} now, and was {_a(module)}"
        for path, module in now.items():
            if path not in self._modules:
                return f"its {path!r}, {_a(module)}, is new"
        return None

    def _change_of_parameters(self) -> str | None:
        now = dict(self._model.named_parameters())
        before = dict(self._named)
        for name, parameter in before.items():
            if name not in now:
                return f"its parameter {name!r} is gone"
            if now[name] is not parameter:
                return f"its {name!r} is another parameter now"
        for name in now:
            if name not in before:
                return f"its parameter {name!r} is new"
        for (name, parameter), trained in zip(self._named, self._trainable, strict=True):
            if parameter.requires_grad != trained:
                return f"{name!r} has been {'frozen' if trained else 'unfrozen'} since"
        order = list(_entries(self._places))
        if len(order) != len(self._order) or any(map(operator.is_not, order, self._order)):
            return "its modules or parameters are in another order, or shared, now"
        return None

    def _change_of_attributes(self) -> str | None:
        for path, name, value, own in self._attributes:
            if own.get(name) != value:
                return f"{name} of its {path!r} is {own.get(name)!r} now, and was {value!r}"
        return None

    def _change_of_layout(self) -> str | None:
        for (name, parameter), before in zip(self._named, self._kinds, strict=True):
            now = _kind(parameter)
            if now != before:
                what, value, former = next(
                    (what, new, old)
                    for what, new, old in zip(_kind_names, now, before, strict=True)
                    if new != old
                )
                return f"the {what} of {name!r} is {value} now, and was {former}"
        return misplaced(self._named)


_kind_names = ("dtype", "device", "shape")


def _kind(parameter: Tensor) -> tuple[torch.dtype, torch.device, tuple[int, ...]]:
    return parameter.dtype, parameter.device, tuple(parameter.shape)


def misplaced(named: Named) -> str | None:
    """Which parameters lie in memory so that they cannot be written one by one, as the end of a sentence.

    Args:
        named: the parameters by name, each once.

    Returns:
        The first that is lazily negated, is not contiguous, such as an expanded one, or shares memory with another;
        None if none does.
    """
    spans = []
    for name, parameter in named:
        if parameter.is_neg():
            return f"{name!r} is lazily negated"
        if not parameter.is_contiguous():
            return f"{name!r} is not contiguous"
        if parameter.numel():
            start = parameter.data_ptr()
            spans.append((str(parameter.device), start, start + parameter.nbytes, name))
    for (place, _, end, name), (other_place, start, _, other) in itertools.pairwise(sorted(spans)):
        if place == other_place and start < end:
            return f"{name!r} and {other!r} share memory without being the same parameter"
    return None


def _entries(places: Sequence[dict[str, Any]]) -> Iterator[Any]:
    return itertools.chain.from_iterable(map(dict.values, places))


def _places(modules: Iterable[nn.Module]) -> Iterator[dict[str, Any]]:
    """The dicts of modules in which an entry more or less would make a difference."""
    for module in modules:
        kind = type(module).__module__
        # The forward of an activation of torch, say, would not ask for children or parameters.
        is_closed = kind.startswith("torch.nn.modules.") and not kind.endswith(".container")
        for place in (module._modules, module._parameters):
            if place or not is_closed:
                yield place


def _attributes(modules: Mapping[str, nn.Module]) -> Iterator[_Attribute]:
    """The attributes that formulas read once: a module's path, the name, its value, and the dict that holds it."""
    for path, module in modules.items():
        if type(module).__module__.startswith(("torch.nn.modules.", "altmin_ext.nn.")):
            own = vars(module)
            yield from ((path, name, own[name], own) for name in sorted(_read_once & own.keys()))


def _a(module: nn.Module, other: bool = False) -> str:
    name = type(module).__name__
    if other:
        return f"another {name}"
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
