"""The forms in which data may be given, each with what a method must see of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from .alterations import pick

Generator = np.random.Generator


@dataclass
class Offer:
    """Data in one form.

    Attributes:
        data: what is passed to the library.
        x, y: every sample that the method must see, in the order of the data.
        shuffles: whether the library may draw an order.
        sizes: of the minibatches, where the data decide that.
        owned: the user's tensors and arrays, which must not change.
        repeats: whether the data can be gone through more than once.
    """

    data: Any
    x: Tensor
    y: Tensor
    shuffles: bool = True
    sizes: list[int] | None = None
    owned: list[Any] = field(default_factory=list)
    repeats: bool = True


class Own(Dataset[Any]):
    """Samples handed out one by one, and not as they are stored."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return 2 * self.x[index] + 1, self.y[index]


class OwnTensors(TensorDataset):
    """A TensorDataset that hands out something else than its tensors."""

    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return 2 * x + 1, y


class OwnSubset(Subset[Any]):
    """A Subset that hands out something else than its Dataset."""

    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return 2 * x + 1, y

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Lines(IterableDataset[Any]):
    """Samples one after the other."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(self.x, self.y, strict=True))


def offered(rng: Generator, x: Tensor, y: Tensor, batch_size: int, *, in_memory: bool) -> Offer:
    """The samples in some form; streams come in minibatches of ``batch_size``."""
    forms = IN_MEMORY if in_memory else IN_MEMORY + STREAMS
    return pick(rng, forms)(rng, x, y, batch_size)


def tensors(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    """Of any strides, whole or part of more; labels of any width."""
    if not y.is_floating_point():
        y = y.to(pick(rng, (torch.int64, torch.int32, torch.int16, torch.uint8)))
    layout = pick(rng, ("plain", "float32", "strided", "requires grad", "list", "part"))
    given = x
    if layout == "float32":
        given = x.float()
    elif layout == "strided":
        given = torch.stack([x, -x], -1)[..., 0]
    elif layout == "requires grad":
        given = x.clone().requires_grad_()
    elif layout == "part":
        given = torch.cat([x + 1, x, x - 1])[len(x) : 2 * len(x)]
    data = [given, y] if layout == "list" else (given, y)
    return Offer(data, given.detach().double(), widened(y), owned=[given.detach(), y])


def arrays(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    layout = pick(rng, ("plain", "float32", "fortran", "backwards", "big endian", "read only"))
    given, targets = x.numpy().copy(), y.numpy().copy()
    if layout == "float32":
        given = given.astype(np.float32)
    elif layout == "fortran":
        given = np.asfortranarray(given)
    elif layout == "backwards":
        given = given[::-1]
        targets = targets[::-1]
    elif layout == "big endian":
        given = given.astype(">f8")
    elif layout == "read only":
        given.flags.writeable = targets.flags.writeable = False
    seen = torch.from_numpy(np.array(given, np.float64, order="C")), torch.from_numpy(targets.copy())
    return Offer((given, targets), *seen, owned=[given, targets])


def tensor_dataset(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    return Offer(TensorDataset(x, y), x, y, owned=[x, y])


def subset(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    """A permutation of samples among others."""
    order = rng.permutation(len(x))
    places = torch.from_numpy(rng.permutation(2 * len(x))[: len(x)])
    more_x, more_y = torch.cat([x, x + 1]), torch.cat([y, y])
    more_x[places], more_y[places] = x[order], y[order]
    indices = pick(rng, (places, places.numpy(), places.tolist()))
    return Offer(Subset(TensorDataset(more_x, more_y), indices), x[order], y[order], owned=[more_x, more_y])


def own_dataset(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    return Offer(Own(x, y), 2 * x + 1, y, owned=[x, y])


def own_tensor_dataset(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    return Offer(OwnTensors(x, y), 2 * x + 1, y, owned=[x, y])


def own_subset(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    indices = rng.permutation(len(x)).tolist()
    return Offer(OwnSubset(TensorDataset(x, y), indices), 2 * x[indices] + 1, y[indices], owned=[x, y])


def subset_of_own(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    indices = rng.permutation(len(x)).tolist()
    return Offer(Subset(Own(x, y), indices), 2 * x[indices] + 1, y[indices], owned=[x, y])


def in_batches(x: Tensor, y: Tensor, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(batch_size), y.split(batch_size), strict=True))


def a_stream(data: Any, x: Tensor, y: Tensor, batch_size: int, **more: Any) -> Offer:
    sizes = [len(part) for part in x.split(batch_size)]
    return Offer(data, x, y, shuffles=False, sizes=sizes, owned=[x, y], **more)


def loader(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    return a_stream(DataLoader(TensorDataset(x, y), batch_size), x, y, batch_size)


def shuffling_loader(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    made = DataLoader(
        TensorDataset(x, y), batch_size, shuffle=True, generator=torch.Generator().manual_seed(3)
    )
    offer = a_stream(made, x, y, batch_size)
    offer.shuffles = True
    return offer


def batch_list(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    parts: Any = in_batches(x, y, batch_size)
    if rng.random() < 0.3:
        parts = [(a.numpy(), b.numpy()) for a, b in parts]
    return a_stream(parts, x, y, batch_size)


def batch_generator(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    return a_stream((part for part in in_batches(x, y, batch_size)), x, y, batch_size, repeats=False)


def lines(rng: Generator, x: Tensor, y: Tensor, batch_size: int) -> Offer:
    return a_stream(Lines(x, y), x, y, batch_size)


def widened(y: Tensor) -> Tensor:
    return y if y.is_floating_point() else y.long()


Form = Callable[[Generator, Tensor, Tensor, int], Offer]
IN_MEMORY: list[Form] = [tensors, tensors, arrays, tensor_dataset, subset]
# A method that keeps something for every sample, or takes all of them in a step, wants them in memory.
STREAMS: list[Form] = [
    own_dataset, own_tensor_dataset, own_subset, subset_of_own, loader, shuffling_loader, batch_list,
    batch_generator, lines,
]  # fmt: skip
