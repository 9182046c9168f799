"""Minibatch steps as CUDA graphs: captured once for every shape of minibatch, then replayed by a single call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

_Shape = tuple[torch.Size, torch.Size, tuple[int, ...]]


class Copyable(Protocol):
    """What a step returns."""

    def copied(self) -> Any:
        """The same in tensors of its own."""


Report = TypeVar("Report", bound=Copyable)


@dataclasses.dataclass(frozen=True, slots=True)
class _Capture(Generic[Report]):
    graph: torch.cuda.CUDAGraph
    x: Tensor
    y: Tensor
    report: Report
    buffers: Any  # what the kernels read and write, kept alive as long as the graph


class CapturedSteps(Generic[Report]):
    """Replays the kernels of a step.

    The first minibatch of a shape is stepped eagerly, which lets libraries set themselves up; the second is captured.
    What changes between steps, such as learning rates, lies in the method's parameter blocks, which are brought up to
    date before each replay.

    Args:
        compute: what is captured: the kernels that it launches, and none of its Python. It may neither synchronise
            nor decide anything by values on the GPU.
        buffers: returns what must outlive the graphs, such as buffers that a later step may replace.
        parameters: of the model.
        device: of the model.
    """

    def __init__(
        self,
        compute: Callable[[Tensor, Tensor], Report],
        buffers: Callable[[], Any],
        parameters: Sequence[Tensor],
        device: torch.device,
    ) -> None:
        self._compute, self._buffers = compute, buffers
        self._parameters = list(parameters)
        self._seen: set[_Shape] = set()
        self._captures: dict[_Shape, _Capture[Report]] = {}
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def __call__(self, x: Tensor, y: Tensor) -> Report:
        """The report of a step on (x, y), in tensors of its own."""
        with torch.cuda.device(self._device):
            return self._step(x, y)

    def _step(self, x: Tensor, y: Tensor) -> Report:
        # A graph knows the weights by their place in memory, which moving the model to and fro changes.
        shape = (x.shape, y.shape, tuple([parameter.data_ptr() for parameter in self._parameters]))
        if shape not in self._seen:
            report = self._warm_up(x, y)
            self._seen.add(shape)  # not where it was refused
            return report
        if shape not in self._captures:
            self._captures[shape] = self._capture(x, y)
        capture = self._captures[shape]
        capture.x.copy_(x)
        capture.y.copy_(y)
        capture.graph.replay()
        copied: Report = capture.report.copied()  # the next replay overwrites the captured one
        return copied

    def _warm_up(self, x: Tensor, y: Tensor) -> Report:
        # On the stream of the capture, as torch asks for: some libraries keep memory per stream.
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                return self._compute(x, y)
        finally:
            current.wait_stream(self._stream)

    def _capture(self, x: Tensor, y: Tensor) -> _Capture[Report]:
        x, y = x.clone(), y.clone()
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as a DataLoader's, may go on using the GPU.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            report = self._compute(x, y)
        return _Capture(graph, x, y, report, self._buffers())
