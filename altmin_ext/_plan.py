"""Steps that are recorded for every shape of minibatch, and then replayed: plans on a CPU, CUDA graphs on a GPU.

A step works on buffers that stay where they are, so a recording of its calls is right for every further minibatch of
its shape. Values that change between steps, such as learning rates, are in the method's parameter blocks, which the
method updates before each replay.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from altmin_ext._generators import set_torch_state, torch_state
from altmin_ext.ops import _declaration, _native

_refused = getattr(_native.module, "Recording", None) and _native.module.Recording.refused  # type: ignore[union-attr]
_flagged = getattr(_native.module, "Recording", None) and _native.module.Recording.flagged  # type: ignore[union-attr]
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
            if self._is_taken:  # else what the method does once is still to be done
                _keep(self._seen, key, None)
            return report
        report, replay = self._record(x, y)
        if replay is not None:
            _keep(self._replays, key, replay)
        return report

    def _key(self, x: Tensor, y: Tensor) -> tuple[Any, ...]:
        return (x.shape, y.shape, self.addresses(), self._baked())

    def addresses(self) -> tuple[int, ...]:
        """Where the weights lie, as recordings know them; they lie elsewhere if the model is moved away and back."""
        return tuple([parameter.data_ptr() for parameter in self._parameters])

    @property
    def _is_taken(self) -> bool:
        """Whether the last step has been taken."""
        return True

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
        self.x, self.y = _placed_like(x), _placed_like(y)
        self._kept: list[Any] = []  # what the recordings refer to
        self._parts: list[Any] = [self._new_recording()]
        self._reads_x = False

    def _new_recording(self) -> Any:
        return _native.module.Recording(self.x, self.y, self._kept)  # type: ignore[union-attr]

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
        self._parts += [call, self._new_recording()]
        self._parts[-1].resume()

    def finish(self, loss: Tensor, correct: Tensor | None) -> None:
        """End the recording.

        Args:
            loss: 0-d, where the step writes the mean loss.
            correct: 0-d, where it writes the count of correct samples; or None.
        """
        self._parts[-1].finish(loss, correct)

    def run(
        self, x: Tensor, y: Tensor, first: int, batches: int, losses: Tensor, counts: Tensor, row: int
    ) -> tuple[int, int]:
        """Make all calls for minibatches of the plan's shape, one after the other.

        Args:
            x, y: minibatches, contiguous.
            first, batches: the number of the first one to take, and how many to take.
            losses, counts: the results of :meth:`finish` are copied to their entries.
            row: the first of these entries.

        Returns:
            How many were completed, and the outcome of the last one, as a Recording gives it.
        """
        if self.native is not None:
            done, outcome = self.native.run(x, y, first, batches, losses, counts, row)
            return done, outcome
        size, outcome = len(self.x), 0
        for i in range(batches):
            own_x, own_y = (t[(first + i) * size : (first + i + 1) * size] for t in (x, y))
            if self._reads_x:
                own_x = self.x.copy_(own_x)
            for part in self._parts:
                if callable(part):
                    part()
                    continue
                report = (losses, counts) if part is self._parts[-1] else (None, None)
                outcome = part.run(own_x, own_y, 0, 1, *report, row + i)[1]
                if outcome:
                    return i, outcome
        return batches, outcome


def _placed_like(tensor: Tensor) -> Tensor:
    """A contiguous copy, as far from a multiple of 64 bytes as the tensor: rounding in a BLAS may depend on that."""
    size, numbers = tensor.element_size(), tensor.numel()
    memory = tensor.new_empty(numbers + 64 // size)
    first = (tensor.data_ptr() - memory.data_ptr()) % 64 // size
    return memory[first : first + numbers].view(tensor.shape).copy_(tensor)


class _Watch(TorchDispatchMode):
    """Adds the calls of torch to a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch imports its compiler in the first step that is recorded, which takes a second.
        return False

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
        latest: the plan that was recorded or replayed last; None before the first.
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
        self.latest: PlannedStep[Report] | None = None

    def _ordinary(self, x: Tensor, y: Tensor) -> Report:
        report: Report = self._method._run(x, y)
        return report

    @property
    def _is_taken(self) -> bool:
        taken: bool = self._method._step_taken
        return taken

    def _record(self, x: Tensor, y: Tensor) -> tuple[Report, Replay[Report] | None]:
        reads = _native.module.Recording.reads  # type: ignore[union-attr]
        if self.reason is not None or not _declaration.takes_kernels or not (reads(x) and reads(y)):
            return self._ordinary(x, y), None
        method, plan, generator = self._method, Plan(x, y), torch_state()
        try:
            with plan.recording():
                report: Any = method._compute(plan.x, plan.y)
        except Unplannable as error:
            set_torch_state(generator)  # the masks of dropout have been drawn in vain
            # If it fails, too, the look at values was only to say why, and the next step may be recorded.
            report = self._ordinary(x, y)
            self.reason = str(error)
            return report, None
        method._step_taken = not method._diverged(x, y)
        if not method._step_taken:
            return report, None
        plan.add_check(method._guard.flags)
        if self._commits:
            with plan.recording():
                method._commit(x.shape[0])
        else:
            method._commit(x.shape[0])
        plan.finish(report.loss, report.correct)
        self.latest = PlannedStep(self, method, plan, report, self._commits)
        return report.copied(), self.latest


class PlannedStep(Generic[Report]):
    """The replay of a plan.

    Args:
        steps: of which it is one.
        method: as for :class:`PlannedSteps`.
        plan: the plan.
        report: what the step reported when it was recorded.
        commits: as for :class:`PlannedSteps`.

    Attributes:
        batch: samples of a minibatch.
        counts_correct: whether a report says how many samples were classified correctly.
    """

    def __init__(
        self, steps: PlannedSteps[Report], method: Any, plan: Plan, report: Any, commits: bool
    ) -> None:
        self._steps, self._method, self._plan, self._commits = steps, method, plan, commits
        self._native = plan.native
        self._baked, self._layout = method._baked(), method._composition.layout
        self._addresses = steps.addresses()
        self._kind, self.counts_correct, self.batch = type(report), report.correct is not None, len(plan.x)
        self._loss = report.loss
        self._new_rows()

    def _new_rows(self) -> None:
        """Memory for the reports of the next steps, which is made at once."""
        self._losses = self._loss.new_empty(64)
        self._counts = self._losses.new_zeros(64, dtype=torch.int64)
        # Of several views at once, torch lets none be written to that was made without gradients.
        with torch.enable_grad():
            rows = zip(range(64), self._losses.unbind(), self._counts.unbind(), strict=True)
        self._rows = list(rows)

    def takes(self, x: Any, y: Any) -> bool:
        """Whether a step on this minibatch is a single native call, with nothing left to check but the model."""
        native = self._native
        return native is not None and self._commits and native.takes(x, y) and _declaration.takes_kernels

    @property
    def is_in_place(self) -> bool:
        """Whether the weights lie where the plan knows them, and nothing has changed that it has taken as fixed."""
        method = self._method
        if method._composition.layout is not self._layout:
            if self._steps.addresses() != self._addresses:
                return False
            self._layout = method._composition.layout
        unchanged: bool = method._baked() == self._baked
        return unchanged

    def __call__(self, x: Tensor, y: Tensor) -> Report:
        if not _declaration.takes_kernels:
            return self._steps._ordinary(x, y)
        if not self._rows:
            self._new_rows()
        row, loss, correct = self._rows.pop()
        generator = None if self._native is not None else torch_state()
        _, outcome = self._plan.run(x.contiguous(), y.contiguous(), 0, 1, self._losses, self._counts, row)
        if outcome == _refused:
            # An ordinary step says what is wrong with the minibatch; only scratch memory has been written yet.
            if generator is not None:
                set_torch_state(generator)
            with torch.no_grad():
                return self._steps._ordinary(x, y)
        method = self._method
        method._step_taken = outcome != _flagged or not method._diverged(x, y)
        if method._step_taken and not self._commits:
            method._commit(x.shape[0])
        self._steps.latest = self
        report: Report = self._kind(loss, correct if self.counts_correct else None)
        return report

    def run(self, x: Tensor, y: Tensor, first: int, batches: int, losses: Tensor, counts: Tensor) -> int:
        """Make steps on minibatches of the plan's size, one after the other, until one cannot be taken.

        Args:
            x, y: minibatches, contiguous, of the dtypes of the plan's.
            first, batches: the number of the first one to take, and how many to take.
            losses, counts: the mean losses and the counts of correct samples, by the number of the minibatch.

        Returns:
            How many steps have been taken. If that is fewer than ``batches``, the next one has changed nothing.
        """
        outcome = _flagged
        try:
            done, outcome = self._plan.run(x, y, first, batches, losses, counts, first)
        finally:
            if outcome == _flagged:
                self._method._guard.lower()
        return done


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


# Held during a capture: the collector is the whole process's, and two captures would each undo what the other says.
_capturing = threading.Lock()


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """No automatic garbage collection within the context, which one thread at a time may enter.

    A method and its graphs refer to each other, so that those of a method that is no longer used wait for the
    collector. Destroying a graph is not permitted during a capture, and ends it with an error.
    """
    with _capturing:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()
