"""The ranks that train one model together, and what they exchange within a step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from altmin_ext import _check


class Ranks:
    """The processes of torch's default process group, which must have been made.

    Every method is a collective call: all ranks make the same calls in the same order. If one of them has ended, the
    others get a ConnectionError.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
        sizes: the number of samples that each rank has of the present minibatch.
        minibatch: the number of the present minibatch, from 1.
    """

    def __init__(self) -> None:
        import torch.distributed as distributed

        self._distributed: Any = distributed
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.sizes = [0] * self.size
        self.minibatch = 0
        self._pending: list[Any] = []

    @property
    def samples(self) -> int:
        """The number of samples in the present minibatch, those of all ranks together."""
        return sum(self.sizes)

    @property
    def own(self) -> slice:
        """The place of this rank's samples in the minibatch."""
        first = sum(self.sizes[: self.rank])
        return slice(first, first + self.sizes[self.rank])

    def share(self, n: int) -> slice:
        """The place of this rank's samples in a minibatch that is dealt out.

        The first ranks get one sample more where the ranks do not divide them. No call to the other ranks is made.

        Args:
            n: the number of samples.

        Returns:
            The first and the last place.
        """
        each, more = divmod(n, self.size)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    def begin(self, samples: int) -> None:
        """Begin a minibatch: let every rank know how many samples each of them has.

        Args:
            samples: the number of samples that this rank has.
        """
        self.sizes = [int(n) for n in self._gathered(torch.tensor([samples]))]
        self.minibatch += 1

    def start_sum(self, tensors: Iterable[Tensor]) -> None:
        """Begin to replace tensors by their sums over all ranks; :meth:`wait` waits for that.

        Args:
            tensors: contiguous, of the same shapes on every rank; nobody may use them before :meth:`wait`.
        """
        for tensor in tensors:
            self._check(tensor)
            with self._together():
                self._pending.append(self._distributed.all_reduce(tensor, async_op=True))

    def wait(self) -> None:
        """Wait until the sums that have begun are there."""
        with self._together():
            for pending in self._pending:
                pending.wait()
        self._pending.clear()

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all ranks.

        Args:
            tensor: contiguous, of the same shape on every rank.

        Returns:
            The tensor.
        """
        self._check(tensor)
        with self._together():
            self._distributed.all_reduce(tensor)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Replace each number of a tensor by the largest of all ranks.

        Args:
            tensor: contiguous, of the same shape on every rank.

        Returns:
            The tensor.
        """
        self._check(tensor)
        with self._together():
            self._distributed.all_reduce(tensor, self._distributed.ReduceOp.MAX)
        return tensor

    def count(self, flag: bool) -> int:
        """Count the ranks on which a flag is True.

        Args:
            flag: this rank's.

        Returns:
            Their number.
        """
        return int(self.sum(torch.tensor([int(flag)])))

    def gather(self, rows: Tensor) -> Tensor:
        """Collect what the ranks have of the present minibatch.

        Args:
            rows: (b, ...), a row for each of this rank's samples.

        Returns:
            (B, ...), a row for each sample of the minibatch, in the order of the ranks.
        """
        most = max(self.sizes)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = self._gathered(padded)
        return torch.cat([part[:size] for part, size in zip(parts, self.sizes, strict=True)])

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of rank 0.

        Args:
            tensors: contiguous, of the same shapes on every rank.
        """
        for tensor in tensors:
            self._check(tensor)
            with self._together():
                self._distributed.broadcast(tensor, 0)

    def check_same(self, what: dict[str, str]) -> None:
        """Raise a ValueError on every rank unless all have the same.

        Args:
            what: descriptions by name.
        """
        found: list[Any] = [None] * self.size
        with self._together():
            self._distributed.all_gather_object(found, what)
        for name, value in found[0].items():
            for rank, other in enumerate(found):
                if other.get(name) != value:
                    raise ValueError(
                        f"{name} must be the same on all ranks, but is {value} on rank 0 and {other.get(name)} on "
                        f"rank {rank}."
                    )

    def _gathered(self, tensor: Tensor) -> list[Tensor]:
        self._check(tensor)
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._together():
            self._distributed.all_gather(parts, tensor)
        return parts

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """Make a call that needs all ranks; a ConnectionError if one of them does not take part."""
        try:
            yield
        except RuntimeError as error:  # what torch raises, for gloo and for NCCL
            self._pending.clear()
            raise ConnectionError(
                f"all {self.size} ranks must take part until the run is over, but rank {self.rank} can reach another "
                "one no more; look for the rank that ended first, and start all of them again."
            ) from error

    @staticmethod
    def _check(tensor: Tensor) -> None:
        # gloo takes a strided tensor for a contiguous one and adds up other numbers, without an error (torch 2.13).
        if not tensor.is_contiguous():
            raise ValueError(
                f"a tensor that ranks exchange must be contiguous, but has strides {tensor.stride()} for shape "
                f"{tuple(tensor.shape)}."
            )


def join(parallel: str | None, takes: bool, name: str) -> Ranks | None:
    """The ranks that a method is to train with.

    Args:
        parallel: "data"; None for one process by itself.
        takes: whether the method can share its minibatches.
        name: of the method.

    Returns:
        The ranks; None where a process is by itself, also in a group of one.

    Raises:
        ValueError: ``parallel`` is something else, the method cannot share its minibatches, or there is no process
            group.
    """
    if parallel is None:
        return None
    _check.choice("parallel", parallel, ("data",))
    if not takes:
        raise ValueError(
            f"parallel must be None for {name}, which cannot share a minibatch among processes, but is {parallel!r}."
        )
    import torch.distributed as distributed

    if not distributed.is_available() or not distributed.is_initialized():
        raise ValueError(
            f"parallel must be None outside a process group, but is {parallel!r}; start the program by torchrun, and "
            "call torch.distributed.init_process_group first."
        )
    return Ranks() if distributed.get_world_size() > 1 else None
