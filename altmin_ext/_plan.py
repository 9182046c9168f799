"""Steps that are recorded once for every shape of minibatch, and then replayed: as plans on a CPU, as CUDA graphs on a GPU.

A step works on buffers that stay where they are, so a recording of its calls is right for every further minibatch of
its shape. Values that change between steps, such as learning rates, are in the method's parameter blocks, which the
method updates before each replay.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from altmin_ext.ops import _declaration, _native

_most_recordings = 8  # a stream whose minibatches are never alike must not fill the memory


class Copyable(Protocol):
    """The report of a step."""

    def copied(self) -> Any:
        """A copy, in tensors of its own."""


Report = TypeVar("Report", bound=Copyable)
Replay: TypeAlias = Callable[[Tensor, Tensor], Report]


class ReplayedSteps(abc.ABC, Generic[Report]):
    """Records a step for each shape of minibatch, and replays it.

    The first minibatch of a shape is an ordinary step, in which libraries can initialise; the second is recorded. Of
    the recordings, those of the eight shapes that were recorded last are kept.

    Args:
        parameters: of the model.
        baked: returns what else a recording depends on and no check refuses to see changed, such as rates of dropout.
    """

    def __init__(self, parameters: Sequence[Tensor], baked: Callable[[], tuple[Any, ...]]) -> None:
        self._parameters, self._baked = list(parameters), baked
        self._seen: dict[Any, None] = {}
        self._replays: dict[Any, Replay[Report]] = {}

    def __call__(self, x: Tensor, y: Tensor) -> Report:
        """The report of a step on (x, y), in tensors of its own."""
        key = self._key(x, y)
        replay = self._replays.get(key)
        if replay is not None:
            return replay(x, y)
        if key not in self._seen:
            report = self._ordinary(x, y)
            _keep(self._seen, key, None)  # unless the step was refused
            return report
        report, replay = self._record(x, y)
        if replay is not None:
            _keep(self._replays, key, replay)
        return report

    def _key(self, x: Tensor, y: Tensor) -> tuple[Any, ...]:
        # Recordings know the weights by address, which changes if the model is moved away and back.
        addresses = tuple([parameter.data_ptr() for parameter in self._parameters])
        return (x.shape, y.shape, addresses, self._baked())

    @abc.abstractmethod
    def _ordinary(self, x: Tensor, y: Tensor) -> Report:
        """The report of a step that is not replayed."""

    @abc.abstractmethod
    def _record(self, x: Tensor, y: Tensor) -> tuple[Report, Replay[Report] | None]:
        """Make a step, and record it; None if it cannot be replayed."""


def _keep(entries: dict[Any, Any], key: Any, value: Any) -> None:
    """Add an entry, and drop the oldest one if there are too many."""
    if len(entries) >= _most_recordings:
        del entries[next(iter(entries))]
    entries[key] = value


# -------------------------------------------------------------------------------------------------- plans


class Unplannable(Exception):
    """A step does something that a plan cannot repeat; says what, as the end of a sentence."""


class Plan:
    """The calls of a step for minibatches of a shape: those of our ops, natively, and those of torch between them.

    Args:
        x, y: a minibatch. The plan works on copies of it.

    Attributes:
        x, y: where calls of torch, and ops that must, read a minibatch.
        native: all calls, if they are those of ops alone; else None.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = (t.clone(memory_format=torch.contiguous_format) for t in (x, y))
        self._parts: list[Any] = [_native.module.Recording(self.x, self.y)]  # type: ignore[union-attr]
        self._reads_x = False

    @property
    def native(self) -> Any:
        return self._parts[0] if len(self._parts) == 1 else None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record all that is computed in the context, which is computed nevertheless.

        Raises:
            Unplannable: something cannot be repeated.
        """
        self._parts[-1].resume()
        try:
            with _Watch(self):
                yield
        finally:
            self._parts[-1].pause()

    def add_check(self, flags: Tensor) -> None:
        """Let a replay end here if a flag is raised.

        Args:
            flags: of the guard, float64.
        """
        self._parts[-1].add_check(flags)

    def add_call(self, call: Callable[[], None], reads: Sequence[Tensor]) -> None:
        """Let a replay make a call of torch here.

        Args:
            call: the call, on tensors that stay where they are.
            reads: the tensors that it reads.
        """
        memory = self.x.untyped_storage().data_ptr()
        self._reads_x |= any(tensor.untyped_storage().data_ptr() == memory for tensor in reads)
        self._parts[-1].pause()
        self._parts += [call, _native.module.Recording(self.x, self.y)]  # type: ignore[union-attr]
        self._parts[-1].resume()

    def run(self, x: Tensor, y: Tensor) -> int:
        """Make all calls for a minibatch of the plan's shape; returns the outcome, one of those of a Recording."""
        if self._reads_x or not x.is_contiguous():
            self.x.copy_(x)
            x = self.x
        outcome: int = 0
        for part in self._parts:
            if isinstance(part, _native.module.Recording):  # type: ignore[union-attr]
                outcome = part.run(x, y)
                if outcome:
                    break
            else:
                part()
        return outcome


class _Watch(TorchDispatchMode):
    """Adds the calls of torch to a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _allocations or all(_is_view(returned) for returned in func._schema.returns):
            return result
        results = result if isinstance(result, (tuple, list)) else (result,)
        if not all(isinstance(tensor, Tensor) for tensor in results) or set(func.tags) & _dependent:
            raise Unplannable(f"a step calls {func}, whose result depends on values")
        fresh = [
            tensor
            for tensor, returned in zip(results, func._schema.returns, strict=False)
            if returned.alias_info is None
        ]

        def call() -> None:
            again = func(*args, **kwargs)
            if fresh:
                for kept, new in zip(results, again if len(results) > 1 else (again,), strict=True):
                    if kept is not new:
                        kept.copy_(new)

        reads = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        reads += [
            t for value in args if isinstance(value, (tuple, list)) for t in value if isinstance(t, Tensor)
        ]
        self._plan.add_call(call, reads)
        return result


_aten = torch.ops.aten
_allocations = {
    _aten.empty.memory_format, _aten.empty_strided.default, _aten.empty_like.default, _aten.new_empty.default,
    _aten.new_empty_strided.default, _aten.detach.default, _aten.lift_fresh.default,
}  # fmt: skip
_dependent = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def _is_view(returned: Any) -> bool:
    return returned.alias_info is not None and not returned.alias_info.is_write


class PlannedSteps(ReplayedSteps[Report]):
    """Steps on a CPU as plans.

    Args:
        method: whose steps they are: its ``_run``, ``_compute``, ``_diverged``, ``_commit`` and ``_guard``.
        commits: whether ``_commit`` is a part of the plan; if not, it is called after each replay.
        parameters, baked: as for :class:`ReplayedSteps`.

    Attributes:
        reason: why the last step could not be recorded, as the end of a sentence; None if it could be.
    """

    def __init__(
        self,
        method: Any,
        commits: bool,
        parameters: Sequence[Tensor],
        baked: Callable[[], tuple[Any, ...]],
    ) -> None:
        super().__init__(parameters, baked)
        self._method, self._commits = method, commits
        self.reason: str | None = None

    def _ordinary(self, x: Tensor, y: Tensor) -> Report:
        report: Report = self._method._run(x, y)
        return report

    def _record(self, x: Tensor, y: Tensor) -> tuple[Report, Replay[Report] | None]:
        if self.reason is not None or not _declaration.takes_kernels:
            return self._ordinary(x, y), None
        method, plan, generator = self._method, Plan(x, y), torch.get_rng_state()
        try:
            with plan.recording():
                report: Report = method._compute(plan.x, plan.y)
        except Unplannable as error:
            self.reason = str(error)
            torch.set_rng_state(generator)  # the masks of dropout have been drawn in vain
            return self._ordinary(x, y), None
        method._step_taken = not method._diverged(x, y)
        if not method._step_taken:
            return report, None
        plan.add_check(method._guard.flags)
        if self._commits:
            with plan.recording():
                method._commit(x.shape[0])
        else:
            method._commit(x.shape[0])
        return report.copied(), _Planned(method, plan, report, self._commits)


@dataclasses.dataclass(frozen=True, slots=True)
class _Planned(Generic[Report]):
    """The replay of a plan."""

    method: Any
    plan: Plan
    report: Report
    commits: bool

    def __call__(self, x: Tensor, y: Tensor) -> Report:
        method = self.method
        outcome = self.plan.run(x, y)
        if outcome == 2:
            # An ordinary step says what is wrong with the minibatch; nothing but scratch memory has been written yet.
            report: Report = method._run(x, y)
            return report
        method._step_taken = outcome == 0 or not method._diverged(x, y)
        if method._step_taken and not self.commits:
            method._commit(x.shape[0])
        copied: Report = self.report.copied()  # the next replay overwrites the recorded one
        return copied


# ------------------------------------------------------------------------------------------------- graphs


@dataclasses.dataclass(frozen=True, slots=True)
class _Capture(Generic[Report]):
    graph: torch.cuda.CUDAGraph
    x: Tensor
    y: Tensor
    report: Report
    buffers: Any  # that the kernels use, kept alive as long as the graph

    def __call__(self, x: Tensor, y: Tensor) -> Report:
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        copied: Report = self.report.copied()  # the next replay overwrites the captured one
        return copied


class CapturedSteps(ReplayedSteps[Report]):
    """Steps on a GPU as CUDA graphs.

    Args:
        compute: the function to capture. Only the kernels that it launches are replayed, not its Python code. It must
            not synchronise, or depend on values on the GPU.
        buffers: returns the tensors that must live as long as the graphs, such as buffers that a later step may
            replace.
        device: of the model.
        parameters, baked: as for :class:`ReplayedSteps`.
    """

    def __init__(
        self,
        compute: Callable[[Tensor, Tensor], Report],
        buffers: Callable[[], Any],
        device: torch.device,
        parameters: Sequence[Tensor],
        baked: Callable[[], tuple[Any, ...]],
    ) -> None:
        super().__init__(parameters, baked)
        self._compute, self._buffers = compute, buffers
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def __call__(self, x: Tensor, y: Tensor) -> Report:
        with torch.cuda.device(self._device):
            return super().__call__(x, y)

    def _ordinary(self, x: Tensor, y: Tensor) -> Report:
        # On the stream of the capture, as torch requires: some libraries keep memory per stream.
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                return self._compute(x, y)
        finally:
            current.wait_stream(self._stream)

    def _record(self, x: Tensor, y: Tensor) -> tuple[Report, Replay[Report] | None]:
        own_x, own_y = x.clone(), y.clone()
        graph = torch.cuda.CUDAGraph()
        # "thread_local", so that other threads, such as a DataLoader's, may use the GPU meanwhile.
        capturing = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        with _without_garbage_collection(), capturing:
            report = self._compute(own_x, own_y)
        replay = _Capture(graph, own_x, own_y, report, self._buffers())
        return replay(x, y), replay


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
