"""Minibatch steps as CUDA graphs: captured once for every shape of minibatch, then replayed by a single call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

_Shape = tuple[torch.Size, torch.Size, tuple[int, ...]]


class Capturable(Protocol):
    """What a step must be cut into. Only :meth:`_compute` is captured: its kernels, and none of its Python."""

    model: nn.Module

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]: ...

    def _compute(self, x: Tensor, y: Tensor) -> Any: ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Capture:
    graph: torch.cuda.CUDAGraph
    x: Tensor
    y: Tensor
    report: Any
    memory: Any  # what the kernels read and write, kept alive as long as the graph


class CapturedSteps:
    """Replays a method's step.

    The first minibatch of a shape is stepped eagerly, which makes the method's buffers and lets libraries set
    themselves up; the second is captured. What changes between steps, such as learning rates, lies in the method's
    parameter blocks, which are brought up to date before each replay.

    Args:
        method: its ``_prepare`` may do anything; its ``_compute`` may neither synchronise nor decide anything by
            values on the GPU.
        memory: returns what must outlive the graphs, such as buffers that a later step may replace.
        device: of the model.
    """

    def __init__(self, method: Capturable, memory: Callable[[], Any], device: torch.device) -> None:
        self._method = method
        self._memory = memory
        self._seen: set[_Shape] = set()
        self._captures: dict[_Shape, _Capture] = {}
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def __call__(self, x: Tensor, y: Tensor) -> Any:
        """The report of a step on (x, y), in tensors of its own."""
        with torch.cuda.device(self._device):
            return self._step(x, y)

    def _step(self, x: Tensor, y: Tensor) -> Any:
        x, y = self._method._prepare(x, y)
        # A graph knows the weights by their place in memory, which moving the model to and fro changes.
        places = tuple(parameter.data_ptr() for parameter in self._method.model.parameters())
        shape = (x.shape, y.shape, places)
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
        return _copied(capture.report)

    def _warm_up(self, x: Tensor, y: Tensor) -> Any:
        # On the stream of the capture, as torch asks for: some libraries keep memory per stream.
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                return self._method._compute(x, y)
        finally:
            current.wait_stream(self._stream)

    def _capture(self, x: Tensor, y: Tensor) -> _Capture:
        x, y = x.clone(), y.clone()
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as a DataLoader's, may go on using the GPU.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            report = self._method._compute(x, y)
        return _Capture(graph, x, y, report, self._memory())


def _copied(report: Any) -> Any:
    """The report with its tensors copied: the next replay overwrites them."""
    tensors = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    return dataclasses.replace(report, **{k: v.clone() for k, v in tensors.items() if v is not None})
