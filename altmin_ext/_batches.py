"""Turns every accepted form of data into passes over checked minibatches, for training and evaluation."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from altmin_ext import _check
from altmin_ext import data as known_data
from altmin_ext.losses import Loss


class Samples(NamedTuple):
    """A whole data set in memory: x (N, ...), y (N,) or (N, C)."""

    x: Tensor
    y: Tensor


def read(source: Any, part: Literal["train", "test"]) -> Samples | Dataset[Any] | Iterable[Any]:
    """Read data: all samples if ``source`` is in memory, otherwise the Dataset or iterable itself.

    Args:
        source: (x, y) tensors or ndarrays, a ``TensorDataset`` or a ``Subset`` of one, another torch
            ``Dataset``, a ``DataLoader``, an iterable of (x, y) batches, a :class:`altmin_ext.data.DataSet` or the
            name of one.
        part: which part of a :class:`altmin_ext.data.DataSet`.

    Raises:
        TypeError: ``source`` is none of these.
        ValueError: there is no data set of that name; or x and y have different lengths, or are empty.
    """
    if isinstance(source, str):
        source = known_data.load(source)
    if isinstance(source, known_data.DataSet):
        source = getattr(source, part)
    rows: Any = slice(None)
    if isinstance(source, Subset) and isinstance(source.dataset, TensorDataset):
        source, rows = source.dataset, torch.as_tensor(source.indices, dtype=torch.int64)
    if isinstance(source, TensorDataset):
        source = tuple(tensor[rows] for tensor in source.tensors)
        if len(source) != 2:
            raise ValueError(f"a TensorDataset must hold two tensors, x and y, but holds {len(source)}.")
    if isinstance(source, (tuple, list)) and any(isinstance(item, (Tensor, np.ndarray)) for item in source):
        if len(source) != 2:
            raise ValueError(f"(x, y) must have two items, but has {len(source)}.")
        x, y = _to_tensor("x", source[0]), _to_tensor("y", source[1])
        if x.ndim < 2:
            raise ValueError(
                f"x must be (N, ...) with at least two dimensions, but has shape {tuple(x.shape)}."
            )
        if len(x) == 0:
            raise ValueError("x must hold at least one sample, but is empty.")
        if y.ndim == 0 or len(y) != len(x):
            raise ValueError(
                f"y must have an entry for each of the {len(x)} samples of x, but has shape {tuple(y.shape)}."
            )
        _check_floating(x)
        return Samples(x, y)
    if isinstance(source, (Dataset, Iterable)) and not isinstance(source, (Tensor, np.ndarray)):
        return source
    raise TypeError(
        "data must be (x, y), a torch Dataset or DataLoader, a DataSet of altmin_ext.data or its name, or an "
        f"iterable of (x, y) batches, but is {_check.named_type(source)}."
    )


def _to_tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"{name} must be a torch.Tensor or a numpy.ndarray, but is {_check.named_type(value)}."
        )
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, but its dtype is {value.dtype}.")
    # torch shares memory only with native, writable, positively strided arrays; others are copied.
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(native, requirements=["C", "W"]))


def _check_finite(x: Tensor) -> None:
    # A fast check first: the sum is finite unless a term is not, or it overflows.
    if torch.isfinite(x.sum()):
        return
    chunk = 4096
    for start in range(0, len(x), chunk):
        finite = torch.isfinite(x[start : start + chunk]).flatten(1).all(1)
        if not finite.all():
            first = start + int((~finite).nonzero()[0, 0])
            raise ValueError(
                f"x must be finite, but sample {first} holds NaN or Inf: clean or drop such samples."
            )


def _check_floating(x: Tensor) -> None:
    if not x.dtype.is_floating_point:
        raise TypeError(
            f"x must be floating point, but is {x.dtype}: convert and scale it, as in x.float() / 255."
        )


class Batches:
    """Passes over minibatches (x, y) on the method's device and in its dtype.

    Attributes:
        steps: minibatches in one pass; None if unknown.
        one_shot: whether a second pass is certainly impossible.
    """

    steps: int | None = None
    one_shot = False

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        raise NotImplementedError


class MemoryBatches(Batches):
    """Minibatches of data held as two tensors, gathered by index.

    Args:
        x, y: the whole data set, in the final dtype and on the final device; read, never written.
        batch_size: samples in a minibatch; the last one of a pass may be smaller.
        generator: draws a new order for every pass; None keeps the order.

    Attributes:
        rows: (B,) int64, the numbers of the samples in the last minibatch.
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator | None) -> None:
        self.x = x
        self.y = y
        self.batch_size = batch_size
        self.generator = generator
        self.steps = -(-len(x) // batch_size)
        self.rows = torch.empty(0, dtype=torch.int64)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.generator is None:
            every = torch.arange(len(self.x), device=self.x.device)
            parts = (all.split(self.batch_size) for all in (self.x, self.y, every))
            for x, y, rows in zip(*parts, strict=True):
                self.rows = rows
                yield x, y
            return
        # Drawn on the CPU, so that every device sees the same order.
        order = torch.randperm(len(self.x), generator=self.generator).to(self.x.device)
        for rows in order.split(self.batch_size):
            self.rows = rows
            # Twice as fast as x[rows], which indexes element by element.
            yield self.x.index_select(0, rows), self.y.index_select(0, rows)


class StreamBatches(Batches):
    """The minibatches of an iterable, checked and converted one by one."""

    def __init__(self, source: Iterable[Any], dtype: torch.dtype, device: torch.device) -> None:
        self.source = source
        self.dtype = dtype
        self.device = device
        self.one_shot = inspect.isgenerator(source)
        try:
            self.steps = len(source)  # type: ignore[arg-type]
        except TypeError:  # no length, or a DataLoader over data without one
            self.steps = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.source:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError(f"data must yield (x, y) batches, but yielded {_check.named_type(batch)}.")
            x, y = _to_tensor("x", batch[0]), _to_tensor("y", batch[1])
            _check_floating(x)
            yield (
                x.to(self.device, self.dtype, non_blocking=True),
                _converted_targets(y, self.dtype, self.device),
            )


def make_batches(
    source: Samples | Dataset[Any] | Iterable[Any],
    *,
    loss: Loss,
    dtype: torch.dtype,
    device: torch.device,
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Batches:
    """Make passes over the result of :func:`read`.

    Args:
        source: the result of :func:`read`.
        loss: checks y, except its values, for data in memory.
        dtype, device: of the model.
        batch_size: samples in a minibatch; without effect on an iterable of batches.
        generator: shuffles every pass, except over an iterable; None keeps the order.

    Raises:
        TypeError, ValueError: y does not suit the loss, or x is not finite in ``dtype``.
    """
    if isinstance(source, Samples):
        x = source.x.to(device, dtype).contiguous()
        _check_finite(x)
        y = loss.check_targets(_converted_targets(source.y, dtype, device), dtype)
        return MemoryBatches(x, y, batch_size, generator)
    if isinstance(source, IterableDataset):
        source = DataLoader(source, batch_size)
    elif isinstance(source, Dataset):
        source = DataLoader(source, batch_size, shuffle=generator is not None, generator=generator)
    return StreamBatches(source, dtype, device)


def _converted_targets(y: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Floats get the model's dtype; integers are left to the loss.
    return y.to(device, dtype if y.dtype.is_floating_point else y.dtype, non_blocking=True)
