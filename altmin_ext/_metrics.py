"""Numbers of the user's own about a model's outputs: objects as torchmetrics has them, and functions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext.losses import Loss

_TAKEN = ("loss", "accuracy")


class Metrics:
    """Metrics by name, found of all samples of a set.

    Args:
        given: by name, objects with the methods ``update(logits, y)``, ``compute()`` and ``reset()``, as those of
            torchmetrics; or functions (logits, y) -> number of all samples at once. None for none.

    Attributes:
        names: of the metrics.

    Raises:
        TypeError, ValueError: ``given`` is something else.
    """

    def __init__(self, given: Mapping[str, Any] | None) -> None:
        given = {} if given is None else given
        if not isinstance(given, Mapping):
            raise TypeError(
                'metrics must be a dict from names to metrics, as in {"f1": metric}, but is '
                f"{_check.named_type(given)}."
            )
        for name, metric in given.items():
            if not isinstance(name, str):
                raise TypeError(f"metrics must have strings as names, but one is {_check.shown(name)}.")
            if not name or name in _TAKEN:
                raise ValueError(
                    f"metrics must have names other than {', '.join(_TAKEN)} and the empty one, but one is {name!r}: "
                    "choose another."
                )
            if not _is_object(metric) and not callable(metric):
                raise TypeError(
                    f"metrics[{name!r}] must be an object with update, compute and reset, or a function (logits, y) "
                    f"-> number, but is {_check.named_type(metric)}."
                )
        self.names = tuple(given)
        self._objects = {name: metric for name, metric in given.items() if _is_object(metric)}
        self._functions: dict[str, Callable[[Tensor, Tensor], Any]] = {
            name: metric for name, metric in given.items() if name not in self._objects
        }

    def __str__(self) -> str:
        """What a resumed run must have, too."""
        metrics = {**self._objects, **self._functions}
        return ", ".join(f"{name} by {_qualified_name(metrics[name])}" for name in self.names) or "none"

    @contextlib.contextmanager
    def accumulation(self, loss: Loss) -> Iterator[Accumulation]:
        """An accumulation over minibatches; before and after it, the objects hold nothing.

        Args:
            loss: that tells which samples have a label; the others are left out.
        """
        self._reset()
        try:
            yield Accumulation(self._objects, self._functions, self.names, loss)
        finally:
            self._reset()

    def _reset(self) -> None:
        for name, metric in self._objects.items():
            with _naming(name, "reset"):
                metric.reset()


class Accumulation:
    """The metrics of the minibatches of a set."""

    def __init__(
        self,
        objects: Mapping[str, Any],
        functions: Mapping[str, Callable[[Tensor, Tensor], Any]],
        names: tuple[str, ...],
        loss: Loss,
    ) -> None:
        self._objects, self._functions, self._names = objects, functions, names
        self._loss = loss
        self._gathered: list[tuple[Tensor, Tensor]] = []  # for the functions
        self._finite = True

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Add a minibatch; neither tensor is written, or kept."""
        if not self._names:
            return
        if self._loss.missing and self._loss.takes_classes(y):
            has_label = ~torch.isin(y, torch.tensor(self._loss.missing, device=y.device))
            logits, y = logits[has_label], y[has_label]
            if len(y) == 0:
                return
        self._finite = self._finite and bool(logits.isfinite().all())
        if not self._finite:
            return
        for name, metric in self._objects.items():
            with _naming(name, "update"):
                if isinstance(metric, nn.Module):
                    metric.to(logits.device)
                metric.update(logits.clone(), y.clone())
        if self._functions:
            self._gathered.append((logits.clone(), y.clone()))

    def compute(self) -> dict[str, float]:
        """The metrics of all minibatches so far, by name; NaN if an output of the model was not finite."""
        if not self._finite:
            return dict.fromkeys(self._names, math.nan)
        found = {}
        for name, metric in self._objects.items():
            with _naming(name, "compute"):
                found[name] = metric.compute()
        for name, function in self._functions.items():
            logits, y = (torch.cat(parts) for parts in zip(*self._gathered, strict=True))
            with _naming(name):
                found[name] = function(logits, y)
        return {name: _number(name, found[name]) for name in self._names}


def _is_object(metric: Any) -> bool:
    return not isinstance(metric, type) and all(
        callable(getattr(metric, name, None)) for name in ("update", "compute", "reset")
    )


def _qualified_name(metric: Any) -> str:
    named = metric if hasattr(metric, "__qualname__") else type(metric)
    return f"{named.__module__}.{named.__qualname__}"


@contextlib.contextmanager
def _naming(name: str, method: str | None = None) -> Iterator[None]:
    """Make an exception of a metric a sentence about it."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        call = f"metrics[{name!r}]" if method is None else f"metrics[{name!r}].{method}"
        reason = " ".join(_check.first_sentence(error).split())
        raise ValueError(
            f"{call} must take the model's outputs (N, C) and the targets, but raises {type(error).__name__}"
            f"{': ' if reason else ''}{reason}."
        ) from error


def _number(name: str, value: Any) -> float:
    """A metric as a number, which may be NaN or infinite."""
    several = isinstance(value, Tensor) and value.numel() != 1
    try:
        if several or isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        shown = f"a tensor of shape {tuple(value.shape)}" if several else _check.named_type(value)
        raise ValueError(
            f"metrics[{name!r}] must come to one number, but gives {shown}: average it, or give each number a name."
        ) from None
