"""What the estimators for other libraries share: the options of a method, and the network that it is made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from altmin_ext import _check
from altmin_ext.losses import LossLike
from altmin_ext.methods import method_class, option_names, unknown_option
from altmin_ext.models import mlp

#: Makes a network of (n_in, n_out).
Factory = Callable[[int, int], nn.Module]

# Arguments of make_method besides the options of the method, which are passed on like these.
_passed_on = ("on_nonfinite", "graph")


def checked_options(method: str, given: Mapping[str, Any], other_words: Mapping[str, str]) -> dict[str, Any]:
    """The options to make a method with.

    Args:
        method: its name.
        given: what the estimator was given, by name; None for an option's default.
        other_words: names of the same things elsewhere -> their names in the estimator.

    Returns:
        Those of ``given`` that are not None.

    Raises:
        TypeError, ValueError: there is no such method, or it has no such option.
    """
    known = (*option_names(method), *_passed_on)
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name in other_words:
            raise ValueError(f"{name} is called {other_words[name]} in an estimator.")
        if name not in known:
            raise unknown_option(method, name)
    return options


def make_network(module: Factory | None, n_in: int, n_out: int, hidden: Any, activation: str) -> nn.Module:
    """The network that ``module`` makes; an :func:`altmin_ext.models.mlp` if it is None."""
    if module is None:
        return mlp(n_in, hidden, n_out, activation)
    if not callable(module):
        raise TypeError(
            f"module must be a torch.nn.Module, or a function (n_in, n_out) that makes one, but is "
            f"{_check.shown(module)}."
        )
    made = module(n_in, n_out)
    if not isinstance(made, nn.Module):
        raise TypeError(f"module must return a torch.nn.Module, but returned {_check.named_type(made)}.")
    return made


def loss_or_default(method: str, loss: LossLike | None) -> LossLike:
    """The loss, or the default of the method where it is None."""
    return method_class(method).default_loss if loss is None else loss


def is_cross_entropy(loss: LossLike) -> bool:
    """Whether the softmax of the outputs is the probability of the classes."""
    return isinstance(loss, nn.CrossEntropyLoss) or loss == "cross_entropy"
