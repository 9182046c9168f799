"""Minibatch steps as CUDA graphs: captured once for every shape of minibatch, then replayed by a single call."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

_Shape = tuple[torch.Size, torch.Size, tuple[int, ...]]


class Copyable(Protocol):
    """The result of a step."""

    def copied(self) -> Any:
        """A copy, in tensors of its own."""


Report = TypeVar("Report", bound=Copyable)


@dataclasses.dataclass(frozen=True, slots=True)
class _Capture(Generic[Report]):
    graph: torch.cuda.CUDAGraph
    x: Tensor
    y: Tensor
    report: Report
    buffers: Any  # that the kernels use, kept alive as long as the graph


class CapturedSteps(Generic[Report]):
    """Captures the kernels of a step as a CUDA graph for each shape of minibatch, and replays them.

    The first minibatch of a shape runs eagerly, so that libraries can initialise; the second is captured. Values that
    change between steps, such as learning rates, are in the method's parameter blocks, which the method updates
    before each replay.

    Args:
        compute: the function to capture. Only the kernels that it launches are replayed, not its Python code. It must
            not synchronise, or depend on values on the GPU.
        buffers: returns the tensors that must live as long as the graphs, such as buffers that a later step may
            replace.
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
        # A graph knows the weights by address, which changes if the model is moved away and back.
        shape = (x.shape, y.shape, tuple([parameter.data_ptr() for parameter in self._parameters]))
        if shape not in self._seen:
            report = self._warm_up(x, y)
            self._seen.add(shape)  # unless the step was refused
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
        # On the stream of the capture, as torch requires: some libraries keep memory per stream.
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
        # "thread_local", so that other threads, such as a DataLoader's, may use the GPU meanwhile.
        capturing = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        with _without_garbage_collection(), capturing:
            report = self._compute(x, y)
        return _Capture(graph, x, y, report, self._buffers())


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """No automatic garbage collection within the context.

    A method and its graphs refer to each other, so that those of a method that is no longer used wait for the
    collector. Destroying a graph is not permitted during a capture, and ends it with an error.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
