"""What a model is at one moment: its parameters, all of its buffers, and what its modules save beside them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from altmin_ext import _check


def save(model: nn.Module) -> dict[str, Any]:
    """The state of a model, by the names of ``model.state_dict()``.

    Unlike there, buffers with ``persistent=False`` are included.

    Args:
        model: any module.

    Returns:
        Tensors that share the model's memory, and the results of ``get_extra_state()`` of modules that define it.
    """
    tensors: dict[str, Any] = {
        name: tensor if is_lazy(tensor) else tensor.detach() for name, tensor in _tensors(model)
    }
    return tensors | {name: module.get_extra_state() for name, module in _with_extra_state(model).items()}


def restoring(model: nn.Module, state: Any, *, adopts_buffers: bool = False) -> Callable[[], None]:
    """Check an earlier state of a model, without changing anything yet.

    Args:
        model: of the same architecture and dtypes.
        state: the result of :func:`save`; its tensors may be on any device, and must not change until it is restored.
        adopts_buffers: whether buffers may have another shape in the state, or be None in the model or missing in the
            state, as if modules had replaced them in training.

    Returns:
        What restores it, in the memory of the model's tensors. If a module refuses its extra state, that raises a
        ValueError, and nothing has changed.

    Raises:
        TypeError: the state is no dict, or an entry has a wrong type or dtype.
        ValueError: the state lacks an entry or has one too many, or a shape does not fit; or a tensor of the model
            cannot be written to.
    """
    own, extra = dict(_tensors(model)), _with_extra_state(model)
    adopted = _adopted_buffers(model, state) if adopts_buffers else {}
    own = {name: tensor for name, tensor in own.items() if name not in adopted}
    if adopted:
        state = {name: value for name, value in state.items() if name not in adopted}
    _check_names(state, [*own, *extra])
    read: dict[str, Tensor] = {}
    names: dict[int, str] = {}  # the first of each tensor
    with torch.inference_mode(False), torch.no_grad():
        for name, tensor in own.items():
            read[name] = _read(f"model's {name!r}", tensor, state[name])
            first = names.setdefault(id(tensor), name)
            if first != name and not _same_bits(read[first], read[name]):
                raise ValueError(
                    f"model's {first!r} and {name!r} must be equal, since they are one tensor of the model, but are "
                    "not."
                )

    def restore() -> None:
        with torch.inference_mode(False), torch.no_grad():
            _restore_extra_state(extra, state)
            for name, tensor in own.items():
                tensor.copy_(read[name])
            for name, buffer in adopted.items():
                path, _, last = name.rpartition(".")
                model.get_submodule(path)._buffers[last] = buffer

    return restore


def _adopted_buffers(model: nn.Module, state: Any) -> dict[str, Tensor | None]:
    """The buffers that the state has in another shape than the model, or that only one of them has."""
    adopted: dict[str, Tensor | None] = {}
    for path, module in model.named_modules(remove_duplicate=False) if isinstance(state, Mapping) else ():
        device = next(model.parameters()).device
        for last, buffer in module._buffers.items():
            name = f"{path}.{last}".removeprefix(".")
            value = state.get(name)
            if value is None:
                if buffer is not None:
                    adopted[name] = None
            elif isinstance(value, Tensor) and (buffer is None or value.shape != buffer.shape):
                adopted[name] = value.detach().to(device if buffer is None else buffer.device, copy=True)
    return adopted


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer, by all of its names."""
    return itertools.chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )


def _with_extra_state(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that save something else, too, by the names that torch gives it."""
    return {
        f"{path}.{_EXTRA}".removeprefix("."): module
        for path, module in model.named_modules(remove_duplicate=False)
        if type(module).get_extra_state is not nn.Module.get_extra_state
    }


_EXTRA = "_extra_state"


def _check_names(state: Any, names: list[str]) -> None:
    """Raise unless the state is a dict with these names and no others."""
    if not isinstance(state, Mapping):
        raise TypeError(f"model must be a dict of tensors by name, but is {_check.named_type(state)}.")
    own = set(names)
    missing = [name for name in names if name not in state]
    unknown = [name for name in state if name not in own]
    for problem, found in (("lacks", missing), ("holds", unknown)):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise ValueError(
                f"model must hold the parameters and buffers of this model and no others, but {problem} "
                f"{found[0]!r}{more}; make a model of the same architecture."
            )


def _read(name: str, own: Tensor, value: Any) -> Tensor:
    """Check what a tensor of the model was, and bring it to where the tensor is."""
    if is_lazy(own):
        raise ValueError(
            f"{name} must have a shape, but has none yet; call the model once, as in model(x[:2])."
        )
    if type(value) not in (Tensor, nn.Parameter):
        raise TypeError(f"{name} must be a torch.Tensor, but is {_check.named_type(value)}.")
    if value.dtype != own.dtype:
        raise TypeError(f"{name} must be {own.dtype}, but is {value.dtype}.")
    if value.shape != own.shape:
        raise ValueError(f"{name} must have the shape {tuple(own.shape)}, but has {tuple(value.shape)}.")
    if value.is_meta or own.is_meta:
        raise ValueError(f"{name} must hold numbers, but is on the device 'meta'.")
    if own.is_inference() or any(
        stride == 0 and size > 1 for stride, size in zip(own.stride(), own.shape, strict=True)
    ):
        raise ValueError(
            f"{name} must be a tensor that can be written to, but was made in torch.inference_mode or by expand(); "
            "make it by clone()."
        )
    return value.detach().to(own.device)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(
        one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8)
    )


def _restore_extra_state(modules: Mapping[str, nn.Module], state: Mapping[str, Any]) -> None:
    """Restore all extra states or none."""
    before = {name: module.get_extra_state() for name, module in modules.items()}
    for name, module in modules.items():
        try:
            module.set_extra_state(state[name])
        except Exception as error:
            for earlier, kept in before.items():
                modules[earlier].set_extra_state(kept)
            raise ValueError(
                f"model's {name!r} must be what get_extra_state() returned, but {type(module).__name__} refuses it: "
                f"{_check.first_sentence(error)}."
            ) from error
