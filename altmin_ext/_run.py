"""The run that :func:`altmin_ext.train` makes, once everything has been checked and opened."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import TqdmWarning

from altmin_ext import _check
from altmin_ext._batches import Batches, MemoryBatches
from altmin_ext._interrupt import HeldInterrupt
from altmin_ext._metrics import Metrics
from altmin_ext._provenance import environment, how_it_ended, settings
from altmin_ext._run_file import RunFile
from altmin_ext._streams import Unfailing
from altmin_ext.callbacks import TrainingState
from altmin_ext.evaluation import evaluate_batches, naming, without_trace
from altmin_ext.history import EpochRecord
from altmin_ext.methods import Method, StepReport
from altmin_ext.parallel import Ranks
from altmin_ext.schedules import Schedule

with warnings.catch_warnings():
    # Of a notebook without ipywidgets, where the bar is one of text.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

_STEPS_UNSEEN = 1000  # steps on a GPU between two checks whether they were finite


@dataclasses.dataclass
class Run:
    """The epochs of a training run, with everything checked and opened.

    At any moment ``phase`` names what is to be done next in the epoch ``state.epoch``, so that a checkpoint of that
    moment is entered there:

    - "begin": nothing; the epoch is over, or is the one before the first;
    - "prepare": :meth:`Method.begin_epoch`, in the pass where ``batches`` stand;
    - "step": the steps, in the pass where ``batches`` stand, and what follows the last one;
    - "validate": the validation;
    - "report": what is called after an epoch.

    Attributes:
        state: what callbacks are passed.
        batches: to train on.
        validation: to validate with; None for none.
        metrics: further numbers of the validation.
        schedule: of the learning rate.
        hooks: what is called.
        steps: the largest number of minibatches; None for no limit.
        file: where checkpoints go; None for nowhere.
        shares_validation: the ranks among which the validation data are dealt out; None if each has all.
        is_between_minibatches: whether the state is that after a completed minibatch, with all that belongs to it.
    """

    state: TrainingState
    batches: Batches
    validation: Batches | None
    metrics: Metrics
    schedule: Schedule
    hooks: Hooks
    steps: int | None
    file: RunFile | None = None
    shares_validation: Ranks | None = None

    phase: str = dataclasses.field(default="begin", init=False)
    is_between_minibatches: bool = dataclasses.field(default=True, init=False)
    _record: EpochRecord | None = dataclasses.field(default=None, init=False)
    _sums: dict[str, Any] | None = dataclasses.field(default=None, init=False)  # of a record to be resumed

    def __call__(self, progress: bool) -> None:
        """Train; ``progress`` is whether to show a bar."""
        try:
            self._run(progress)
        except BaseException as error:
            self.state.history.ended = how_it_ended(error)
            self.hooks.close(self.state, error)
            raise
        self.hooks.close(self.state, None)

    def _run(self, progress: bool) -> None:
        state, file = self.state, self.file
        for hook in self.hooks.on_start:
            hook(state)
        with (
            _progress_bar(self.batches.steps, state, self.steps, progress) as bar,
            HeldInterrupt() as held,
        ):
            if file is not None:
                held.held = True
                file.start(self)
                held.release()
            # After the history of an earlier process has been read, which may have had other ones.
            state.history.settings, state.history.environment = (
                settings(state),
                environment(state.method.device),
            )
            try:
                self._train(bar, held)
            except BaseException as error:
                if file is not None:
                    held.held = True
                    file.rescue(self, error)
                raise
            finally:
                if self._record is not None:
                    self._record.close()
            state.history.ended = "stopped" if state.stopped else "completed"
            held.held = True
            for hook in self.hooks.on_end:
                hook(state)
            held.release()

    def _train(self, bar: Any, held: HeldInterrupt) -> None:
        state, history, method = self.state, self.state.history, self.state.method
        step = _step_of(method, self.batches)
        while not self._is_over() or self.phase != "begin":
            if self.phase == "begin":
                if state.epoch >= state.epochs:
                    break
                method.learning_rate_factor = self.schedule(state.epoch)  # of those that are over
                held.held = True
                state.epoch += 1
                self.phase = "prepare"
                held.release()
            if bar is not None:
                bar.set_description(f"epoch {state.epoch}/{state.epochs}", refresh=False)
            if self.phase in ("prepare", "step"):
                self._record = EpochRecord(
                    history, state.epoch, method.learning_rate_factor, self.metrics.names
                )
                if self._sums is not None:
                    self._record.load(self._sums)
                    self._sums = None
                self._prepare(held)
                self._make_steps(step, bar, held)
                self._end_pass(held)
            if self.phase == "validate":
                self._validate()
                self.hooks.on_epoch.begin()
                self.phase = "report"
            if bar is not None:
                row = history.epochs[-1]
                found = {name: row[name] for name in state.metrics if row[name] is not None}
                bar.set_postfix({name: f"{value:.4f}" for name, value in found.items()}, refresh=False)
            self.hooks.on_epoch(state, held)
            self.phase = "begin"
            self._write(held)

    def _is_over(self) -> bool:
        return self.state.stopped or (self.steps is not None and self.state.step >= self.steps)

    def _prepare(self, held: HeldInterrupt) -> None:
        """Do the method's work on the data before the steps."""
        if self.phase != "prepare":
            return
        batches = self.batches
        if batches.steps is not None and not batches.one_shot:  # data that can be read twice
            seen = itertools.islice(batches, None if self.steps is None else self.steps - self.state.step)
            self.state.method.begin_epoch(self._one_by_one(seen, held))
        held.held = True
        self.is_between_minibatches = False
        batches.end()
        self.phase = "step"
        self.is_between_minibatches = True
        held.release()

    def _one_by_one(
        self, batches: Iterable[tuple[Tensor, Tensor]], held: HeldInterrupt
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The minibatches, with Ctrl-C held back from the moment one is yielded until the next is requested."""
        for batch in batches:
            held.held = True
            yield batch
            self._completed()
            held.release()
            self._write_if_due(held)
        held.held = True  # until the method has noted that it has seen all of them

    def _make_steps(
        self, step: Callable[[Tensor, Tensor], StepReport], bar: Any, held: HeldInterrupt
    ) -> None:
        """Train on the minibatches of a pass."""
        state, method, batches, record = self.state, self.state.method, self.batches, self._record
        assert record is not None
        self.hooks.on_step(state, held)  # what the end of another process has left out
        if self._is_over():
            return
        for x, y in self._of_all_ranks(batches):
            if state.step == 0 and not isinstance(batches, MemoryBatches):
                check_last_minibatch(method, batches, x, self.steps)
            held.held = True
            report = step(x, y)
            self.is_between_minibatches = False
            record.add(report, method.samples(x), method.labelled(y))
            if method.on_nonfinite == "restore":
                state.history.restores = method.restores
            state.step += 1
            state.report = report
            self.hooks.on_step.begin()
            self._completed()
            held.release()
            del x, y  # so that the next minibatch gets their memory, which is still in the cache
            if state.step % _STEPS_UNSEEN == 0:
                method.raise_if_diverged()
            if bar is not None:
                bar.update()
            self.hooks.on_step(state, held)
            if self._is_over():
                break
            self._write_if_due(held)

    def _of_all_ranks(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        """The minibatches, of streams too, of which each rank must have as many as the others."""
        ranks = self.state.method.ranks
        if ranks is None or isinstance(batches, MemoryBatches):
            yield from batches
            return
        iterator = iter(batches)
        for number in itertools.count():
            batch = next(iterator, None)
            ended = ranks.count(batch is None)
            if 0 < ended < ranks.size:
                raise ValueError(
                    "data must yield as many minibatches on every rank, but after "
                    f"{number} they are over on {ended} of {ranks.size} ranks: give each the same number."
                )
            if batch is None:
                return
            yield batch

    def _completed(self) -> None:
        self.is_between_minibatches = False
        self.batches.completed()
        if self.file is not None:
            self.file.note()
        self.is_between_minibatches = True

    def _write_if_due(self, held: HeldInterrupt) -> None:
        if self.file is not None and self.file.is_due(self.state.step):
            self._write(held)

    def _write(self, held: HeldInterrupt, last: bool = False) -> None:
        """Write the file, see :meth:`RunFile.write`; what asks the run to end waits for it."""
        if self.file is not None:
            held.held = True
            self.file.write(self, last)
            held.release()

    def _end_pass(self, held: HeldInterrupt) -> None:
        """Do what follows the last step of an epoch."""
        state, record = self.state, self._record
        assert record is not None
        if record.samples == 0:
            again = (
                ": an iterable read in several epochs must start anew with each loop"
                if state.epoch > 1
                else ""
            )
            raise ValueError(
                f"data must yield at least one minibatch, but was empty in epoch {state.epoch}{again}."
            )
        state.method.raise_if_diverged()
        if self._is_over():
            # Here a longer run would go on, so this is what the file is left at.
            self._write(held, last=True)
        held.held = True
        self.is_between_minibatches = False
        state.method.end_epoch()
        state.history.objective_rose = state.method.objective_rose
        record.close()
        self._record = None
        self.batches.end()
        self.phase = "validate"
        self.is_between_minibatches = True
        held.release()

    def _validate(self) -> None:
        if self.validation is not None:
            method, row = self.state.method, self.state.history.epochs[-1]
            source = getattr(self.validation, "source", None)
            with naming("validation"), without_trace(method.model, method._like, source):
                evaluation = evaluate_batches(
                    method.model, self.validation, method.loss.of_one, self.metrics, self.shares_validation
                )
            row["validation_loss"], row["validation_accuracy"] = evaluation.loss, evaluation.accuracy
            row.update((f"validation_{name}", value) for name, value in evaluation.metrics.items())

    def save(self) -> dict[str, Any]:
        """Where the run stands, apart from model, method and history."""
        state = self.state
        report = state.report
        return {
            "phase": self.phase,
            "epoch": state.epoch,
            "step": state.step,
            "stopped": state.stopped,
            "report": None
            if report is None
            else [getattr(report, f.name) for f in dataclasses.fields(report)],
            "sums": None if self._record is None else self._record.state(),
            "batches": self.batches.state(),
            "left": {"on_step": self.hooks.on_step.left, "on_epoch": self.hooks.on_epoch.left},
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Go on where :meth:`save` stood; the batches have been loaded."""
        state = self.state
        self.phase = saved["phase"]
        state.epoch, state.step, state.stopped = saved["epoch"], saved["step"], saved["stopped"]
        state.report = None if saved["report"] is None else StepReport(*saved["report"])
        state.resumed = True
        self._sums = saved["sums"]
        for name, left in saved["left"].items():
            getattr(self.hooks, name).enter(left)


def _step_of(method: Method, batches: Batches) -> Callable[[Tensor, Tensor], StepReport]:
    """The method's step; if it keeps variables for every sample, it is passed the numbers of the samples."""
    if not method.per_sample:
        return method.step
    if not isinstance(batches, MemoryBatches):
        raise ValueError(
            f"data must be tensors, arrays or the name of a data set where {method.name} keeps something for every "
            "sample, but comes as minibatches: call method.step(x, y, index=...) for them."
        )
    step: Any = method.step
    return lambda x, y: step(x, y, index=batches.rows)


def check_last_minibatch(method: Method, batches: Batches, x: Tensor, steps: int | None) -> None:
    """Raise a ValueError if the model takes minibatches, but not the last one, which is a single sample.

    So it is with batch normalisation. A trial in training mode tells for any model.

    Args:
        method: that trains.
        batches: to train on.
        x: some of the samples.
        steps: the largest number of minibatches.
    """
    if batches.last != 1 or len(x) < 2 or (steps is not None and steps < (batches.steps or 0)):
        return
    alone = _why_not_trained_on(method.model, x[:1])
    if alone is not None and _why_not_trained_on(method.model, x[:2]) is None:
        raise ValueError(
            "batch_size must leave at least 2 samples for the last minibatch of an epoch where the model cannot be "
            f"trained on one, but leaves 1: {alone}; choose another batch_size, or leave a sample out."
        )


def _why_not_trained_on(model: nn.Module, x: Tensor) -> str | None:
    """The reason why the model has no finite outputs for these samples in training mode; None if it has."""
    with without_trace(model, x), torch.no_grad():
        model.train()
        try:
            logits = model(x.clone())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            return str(error).strip().partition("\n")[0].rstrip(".")
        return None if bool(logits.isfinite().all()) else "its outputs are not finite"


class Hooks:
    """The callbacks, and their methods by name.

    Args:
        callbacks: objects with any of these methods.

    Attributes:
        callbacks: as a list.
        on_start, on_end: the methods.
        on_step, on_epoch: the methods, called one after the other.
        on_close: the methods, see :meth:`close`.
    """

    def __init__(self, callbacks: Iterable[Any]) -> None:
        if not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks must be a list of objects, but is {_check.named_type(callbacks)}.")
        self.callbacks = list(callbacks)
        names = ("on_start", "on_step", "on_epoch", "on_end", "on_close")
        for callback in self.callbacks:
            if not any(hasattr(callback, name) for name in names):
                raise TypeError(
                    f"callbacks must be objects with any of {', '.join(names)}, but one is "
                    f"{_check.named_type(callback)}."
                )
        self.on_start, on_step, on_epoch, self.on_end, self.on_close = (
            [getattr(callback, name) for callback in self.callbacks if hasattr(callback, name)]
            for name in names
        )
        self.on_step, self.on_epoch = _Calls(on_step), _Calls(on_epoch)

    def close(self, state: TrainingState, error: BaseException | None) -> None:
        """Call every ``on_close``, even if one raises.

        Args:
            state: of the run.
            error: the exception that ends the run, which must reach the user: what hooks raise then is a warning.
        """
        failures = []
        for hook in self.on_close:
            try:
                hook(state, error)
            except Exception as failure:
                failures.append(failure)
        if error is None and failures:
            raise failures[0]
        for own in failures:
            warnings.warn(f"a callback was not closed: {type(own).__name__}: {own}", stacklevel=2)


class _Calls:
    """Calls of hooks, one after the other, that another process can go on with.

    Args:
        hooks: called with the state of the run.

    Attributes:
        left: how many have yet to be called.
    """

    def __init__(self, hooks: list[Callable[[TrainingState], Any]]) -> None:
        self._hooks = hooks
        self.left = 0

    def begin(self) -> None:
        """All are to be called."""
        self.left = len(self._hooks)

    def enter(self, left: int) -> None:
        """The last ones are left by another process, which may have had more, of callbacks that keep nothing."""
        self.left = min(left, len(self._hooks))

    def __call__(self, state: TrainingState, held: HeldInterrupt) -> None:
        """Call those that are left. One that raises is left."""
        while self.left > 0:
            held.held = True  # lest one has done its work and is called again by another process
            self._hooks[-self.left](state)
            self.left -= 1
            held.release()


@contextlib.contextmanager
def _progress_bar(
    per_epoch: int | None, state: TrainingState, steps: int | None, show: bool
) -> Iterator[Any]:
    """A bar over all steps of the run, or None: even a silent tqdm would start a thread."""
    if not show or sys.stderr is None:
        yield None
        return
    every = None if per_epoch is None else state.epochs * per_epoch
    total = steps if every is None else min(every, steps or every)
    with tqdm(
        total=total,
        initial=state.step,
        unit="batch",
        mininterval=0.5,
        dynamic_ncols=True,
        file=Unfailing(sys.stderr),
    ) as bar:
        yield bar
