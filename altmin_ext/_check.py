"""Checks of arguments: numbers, words, seeds, devices, tensors.

Every function takes the name and the value of an argument, and returns the value as a plain Python object. A wrong
type is a TypeError, a wrong value a ValueError. The message is one sentence with the argument's name, its value and
what is allowed.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from altmin_ext.errors import unknown_name

#: Seeds are at least 0 and less than this, the limit that every generator of torch and NumPy accepts.
SEED_LIMIT = 2**63


def named_type(value: object) -> str:
    """The type of a value with its article: "an int", "a list"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def shown(value: object) -> str:
    """A value as an error message shows it: in full if that is short, else by its type."""
    try:
        text = repr(value)
    except Exception:  # of an object whose __repr__ is broken, or of an int with thousands of digits
        return named_type(value)
    return text if len(text) <= 1000 and "\n" not in text else named_type(value)


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error's message, without its full stop."""
    return str(error).partition("\n")[0].partition(". ")[0].rstrip(".")


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """An int, or any object that Python takes as an index, such as NumPy's integers; but no bool."""
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, but is {shown(value)}.") from None
    if result < minimum:
        raise ValueError(f"{name} must be at least {minimum}, but is {shown(result)}.")
    return result


def integers(name: str, values: Any, minimum: int = 1) -> list[int]:
    """An iterable of integers, see :func:`integer`; returns a list."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list of integers, but is {shown(values)}.")
    return [integer(f"{name}[{i}]", value, minimum) for i, value in enumerate(values)]


def number(
    name: str,
    value: Any,
    minimum: float = -math.inf,
    *,
    above: float | None = None,
    maximum: float = math.inf,
    below: float = math.inf,
    infinite: bool = False,
) -> float:
    """A real number, including NumPy's, but no bool; returns a float.

    Args:
        name: of the argument.
        value: of the argument.
        minimum: the smallest value that is allowed.
        above: a bound that the value must exceed, instead of ``minimum``.
        maximum: the largest value that is allowed.
        below: a bound that the value must not reach.
        infinite: whether +inf is allowed, too.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, but is {shown(value)}.")
    try:
        result = float(value)
    except OverflowError:  # a huge int
        result = -math.inf if value < 0 else math.inf
    low = result > above if above is not None else result >= minimum and result > -math.inf
    high = result <= maximum and (result < below or (infinite and result == math.inf))
    if low and high:
        return result
    bounds = [f"greater than {above:g}"] if above is not None else []
    if above is None and minimum > -math.inf:
        bounds.append(f"at least {minimum:g}")
    if maximum < math.inf:
        bounds.append(f"at most {maximum:g}")
    elif below < math.inf:
        bounds.append(f"less than {below:g}")
    elif not infinite:
        bounds.append("finite")
    raise ValueError(f"{name} must be {' and '.join(bounds)}, but is {shown(value)}.")


def number_or(word: str, name: str, value: Any, **bounds: Any) -> float | str:
    """The word, or a number, see :func:`number`."""
    if isinstance(value, str):
        if value != word:
            raise ValueError(f"{name} must be a number or {word!r}, but is {shown(value)}.")
        return word
    return number(name, value, **bounds)


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """One of a few words."""
    if value in choices and isinstance(value, str):
        return str(value)
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name} must be {' or '.join(map(repr, choices))}, but is {shown(value)}.")


def known(what: str, value: Any, names: Iterable[str]) -> str:
    """One of many names; the message suggests similar ones."""
    names = list(names)
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a name, such as {names[0]!r}, but is {shown(value)}.")
    if value not in names:
        raise unknown_name(what, value, names)
    return str(value)


def boolean(name: str, value: Any) -> bool:
    """True or False, or NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a bool, but is {shown(value)}.")
    return bool(value)


def seed(name: str, value: Any) -> int:
    """A seed: an integer of at least 0 and less than 2**63."""
    result = integer(name, value, minimum=0)
    if result >= SEED_LIMIT:
        raise ValueError(f"{name} must be less than 2**63, but is {shown(result)}.")
    return result


def named_device(name: str, value: Any) -> torch.device | None:
    """A device or its name, available or not; None stays None."""
    if value is None or isinstance(value, torch.device):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string or a torch.device, but is {value!r}.")
    try:
        return torch.device(value)
    except RuntimeError:
        raise ValueError(
            f"{name} must be a device of torch, such as 'cpu' or 'cuda', but is {value!r}."
        ) from None


def device(name: str, value: Any) -> torch.device | None:
    """A device on which torch can store numbers here; None stays None."""
    result = named_device(name, value)
    if result is None:
        return None
    if result.type == "meta":
        raise ValueError(f"{name} must be a device whose tensors hold numbers, but is 'meta'.")
    try:
        torch.empty(0, device=result)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch built without it
        raise ValueError(
            f"{name} must be usable here, but is {str(result)!r}: {first_sentence(error)}."
        ) from error
    return result


def model_in_memory(model: torch.nn.Module) -> None:
    """A model whose parameters hold numbers."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(
                f"model must hold numbers, but {name!r} is on the device 'meta'; call model.to_empty(device='cpu') "
                "and initialise or load its weights."
            )


def logits(value: Any, samples: int) -> Tensor:
    """The output of a model for a number of samples: one tensor (B, C)."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"model must return one tensor, the logits, but returns {named_type(value)}; wrap it in a module that "
            "returns them alone."
        )
    if value.ndim != 2 or value.shape[0] != samples:
        raise ValueError(
            f"model must return (B, C) logits, but returned shape {tuple(value.shape)} for {samples} samples."
        )
    return value


def threads(name: str, value: Any) -> int:
    """A number of CPU threads: at least 1, and no more than the machine has CPUs or torch uses already."""
    result = integer(name, value)
    most = max(os.cpu_count() or 1, torch.get_num_threads())
    if result > most:
        raise ValueError(f"{name} must be at most {most}, the CPUs of this machine, but is {result}.")
    return result


def tensor(name: str, value: Any) -> Tensor:
    """An ordinary tensor: dense, with numbers in memory, without rules of its own, cut off from any graph.

    A tensor that torch conjugates or negates when it is read, such as the imaginary part of a conjugate, is computed.
    One made in inference mode, which autograd may not keep, is copied. A subclass that only carries something along
    is taken as the tensor that it is.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, but is {named_type(value)}.")
    if value.layout is not torch.strided or value.is_nested:
        dense = f"torch.nested.to_padded_tensor({name}, 0)" if value.is_nested else f"{name}.to_dense()"
        layout = "nested" if value.is_nested else str(value.layout)
        raise TypeError(f"{name} must be a dense tensor, but is {layout}; make it one, as in {dense}.")
    if value.is_quantized:
        raise TypeError(f"{name} must hold plain numbers, but is {value.dtype}; call {name}.dequantize().")
    if type(value) is not Tensor:
        if type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            raise TypeError(f"{name} must be a plain torch.Tensor, but is {named_type(value)}; make it one.")
        value = value.as_subclass(Tensor)
    if value.is_neg() or value.is_conj():
        value = value.resolve_conj().resolve_neg()
    if value.is_inference():
        value = value.clone()
    return value.detach() if value.requires_grad else value


def samples(x: Tensor, y: Tensor, axis: str = "B") -> None:
    """Inputs (B, ...) of at least one sample, and targets (B,) or (B, ...); ``axis`` is the letter for B."""
    if x.ndim < 2:
        raise ValueError(
            f"x must be ({axis}, ...) with at least two dimensions, but has shape {tuple(x.shape)}."
        )
    count = x.shape[0]  # len() of a tensor is slow
    if count == 0:
        raise ValueError("x must hold at least one sample, but is empty.")
    if y.ndim == 0 or y.shape[0] != count:
        raise ValueError(
            f"y must have an entry for each of the {count} samples of x, but has shape {tuple(y.shape)}."
        )


def finite(name: str, values: Tensor) -> None:
    """Samples (N, ...) that hold neither NaN nor Inf. Reads them, and so waits for a GPU."""
    # A fast check first: the sum is finite unless a term is not, or it overflows.
    if torch.isfinite(values.sum()):
        return
    chunk = 4096
    for start in range(0, len(values), chunk):
        part = values[start : start + chunk]
        bad = ~torch.isfinite(part).reshape(len(part), -1).all(1)
        if bad.any():
            first = start + int(bad.nonzero()[0, 0])
            raise ValueError(
                f"{name} must be finite, but sample {first} holds NaN or Inf: clean or drop such samples."
            )
