"""What the clients train: a small network on three clouds, by a method or, as the control, by torch's Adam."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler, TensorDataset

SIZE, BATCH = 40, 8
BATCHES = SIZE // BATCH
LR = 0.01
METHODS = ("am-adam", "am-mem", "block-admm", "adam")


def samples() -> TensorDataset:
    y = torch.arange(SIZE) % 3
    noise = torch.randn(SIZE, 6, generator=torch.Generator().manual_seed(0))
    return TensorDataset(3 * torch.eye(3, 6)[y] + 0.3 * noise, y)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))


class ShuffledByEpoch(Sampler[int]):
    """An order that follows from the number of the epoch, as DistributedSampler's does."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> list[int]:
        return torch.randperm(SIZE, generator=torch.Generator().manual_seed(self.epoch)).tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.order())

    def __len__(self) -> int:
        return SIZE


def minibatches(epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Those of a loader with :class:`ShuffledByEpoch`."""
    x, y = samples().tensors
    sampler = ShuffledByEpoch()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for rows in torch.tensor(sampler.order()).split(BATCH):
            yield x[rows], y[rows]


def same(one: Any, other: Any) -> bool:
    """Whether two trees of dicts, lists and tensors are the same to the bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
