"""What a contender of a step is, and what contenders need of a network."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeAlias

from torch import Tensor, nn

from benchmarks.macro.networks import Network

lr_adam, lr_sgd = 1e-3, 0.1


def _as_they_are(x: Tensor, y: Tensor) -> tuple[Any, Any]:
    return x, y


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A contender with its copy of a network.

    Attributes:
        step: trains by one minibatch.
        convert: makes the arguments of ``step`` from a minibatch; not timed.
        weights: returns copies of its parameters, in the order of the module's; empty if it does not tell them.
    """

    step: Callable[[Any, Any], object]
    convert: Callable[[Tensor, Tensor], tuple[Any, Any]] = _as_they_are
    weights: Callable[[], list[Tensor]] = list

    def converted(self, data: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Any, Any]]:
        """All minibatches as arguments of ``step``."""
        return [self.convert(x, y) for x, y in data]


def weights_of(net: nn.Module) -> Callable[[], list[Tensor]]:
    """Of a contender that trains a torch module."""
    return lambda: [parameter.detach().clone() for parameter in net.parameters()]


Maker: TypeAlias = Callable[[Network], Trainer]


def needs_widths(network: Network) -> tuple[int, ...]:
    if not network.widths:
        raise LookupError("for the MLPs only.")
    return network.widths


def needs_plain(network: Network) -> tuple[int, ...]:
    if not network.plain:
        raise LookupError("for the MLPs with ReLU only.")
    return network.widths


def needs_single_samples(network: Network) -> None:
    if network.batch != 1:
        raise LookupError("for single samples only.")


def imported(*names: str, install: str) -> list[ModuleType]:
    """Modules of extras, a LookupError with the way to get them if one is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [importlib.import_module(name) for name in names]
    except Exception as error:  # also what an import itself needs, such as Java
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LookupError(f"to time it, {install} ({reason}).") from error
