"""The training loop: any method, any data, one call."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from altmin_ext import _check
from altmin_ext import data as known_data
from altmin_ext._batches import Batches, MemoryBatches, Samples, StreamBatches, make_batches, read
from altmin_ext._interrupt import HeldInterrupt
from altmin_ext._streams import Unfailing
from altmin_ext._undo import Buffers
from altmin_ext.callbacks import EarlyStopping, TrainingState
from altmin_ext.history import EpochRecord, History, plot_histories
from altmin_ext.losses import Loss, LossLike, make_loss
from altmin_ext.methods import Method, StepReport, make_method
from altmin_ext.network import as_chain, may_write_input
from altmin_ext.nn import NonNegativeFactors
from altmin_ext.schedules import Schedule, make_schedule

__all__ = ["EarlyStopping", "Evaluation", "History", "TrainingState", "evaluate", "plot_histories", "train"]


def train(
    model: nn.Module | Sequence[nn.Module],
    data: Any,
    *,
    method: str | Method = "am-adam",
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 200,
    shuffle: bool = True,
    validation: Any = None,
    validation_fraction: float = 0.0,
    loss: LossLike | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
    callbacks: Iterable[Any] = (),
    lr_schedule: str | Schedule = "constant",
    **method_options: Any,
) -> History:
    """Train a model in place.

    Args:
        model: an ``nn.Sequential`` (nesting allowed), or a list of modules such as :class:`altmin_ext.Stage`, one
            behind the other. Its ``state_dict()`` afterwards is an ordinary torch one.
        data: one of

            - ``(x, y)``, tensors or ndarrays: x (N, ...) floating point; y (N,) integer class indices, (N, C) floats
              for ``loss="mse"``, or the targets of a criterion. They are copied once if their dtype or device is not
              the model's;
            - an :class:`altmin_ext.data.DataSet`, or one of :func:`altmin_ext.data.names`: its training part;
            - a torch ``Dataset`` or ``DataLoader``;
            - any iterable of ``(x, y)`` batches. An endless one is an epoch that never ends: pass ``steps``.

            They are read, never written. A ``Dataset`` of any kind hands out its samples by its own ``__getitem__``.
        method: one of :func:`altmin_ext.methods.names`, or a :class:`Method` bound to ``model``.
        epochs: passes over the data, 1 by default.
        steps: the largest number of minibatches in all; None for no limit. An epoch that it cuts short is recorded
            like any other.
        batch_size: samples in a minibatch, 200 by default. The last minibatch of an epoch may be smaller. It has no
            effect on a DataLoader or an iterable of batches, and on methods that take the whole training set at once.
        shuffle: whether to draw a new order for every epoch. It has no effect on a DataLoader or an iterable.
        validation: data to evaluate after every epoch, in any of the forms above; of a data set the test part. They
            change nothing in the training, since random generators and the model's buffers are put back.
        validation_fraction: the part of the data to hold out for validation instead, 0 by default; the data must be
            in memory.
        loss: one of :func:`altmin_ext.losses.names`; a torch criterion; or any function (logits, y) -> scalar mean
            over the minibatch. Criteria and functions are differentiated at the logits alone, see
            :class:`altmin_ext.losses.Criterion`. None for the method's default: "hinge" for ``admm``, else
            "cross_entropy".
        seed: of the order of the data and of the method, at least 0 and less than 2**63. A later call with the same
            Method and seed continues the order, so that two calls of one epoch take the orders of one call of two.
            torch's global generator is not used, except by your own modules, your own data, and a DataLoader that
            shuffles without a generator of its own.
        device: where to train; the model is moved there. None keeps the model where it is.
        progress: whether to show a progress bar on standard error.
        callbacks: objects with any of ``on_start``, ``on_step``, ``on_epoch`` and ``on_end``, see
            :class:`altmin_ext.callbacks.TrainingState`; for instance an
            :class:`altmin_ext.callbacks.EarlyStopping`.
        lr_schedule: "constant", "cosine", or a callable that maps the number of finished epochs to a factor
            of the learning rates.
        **method_options: options of the method, ``on_nonfinite`` and ``graph``; see
            :func:`altmin_ext.make_method`.

    Returns:
        The :class:`History` of the run.

    Raises:
        TypeError, ValueError: an argument is wrong, or does not fit the model. Everything that can be is checked
            before the model changes; the minibatches of a stream are checked one by one.
        DivergenceError: a code or a weight is not finite; the model keeps the last finite weights.
        KeyboardInterrupt: Ctrl-C, after the current minibatch has been completed. A callback that has kept
            ``state.history`` has the record up to there.
    """
    epochs = _check.integer("epochs", epochs)
    batch_size = _check.integer("batch_size", batch_size)
    steps = None if steps is None else _check.integer("steps", steps)
    seed = _check.seed("seed", seed)
    shuffle = _check.boolean("shuffle", shuffle)
    progress = _check.boolean("progress", progress)
    schedule = make_schedule(lr_schedule, epochs)
    hooks = _Hooks(callbacks)
    source, held_out = _read_data(data, validation, validation_fraction, seed)
    if isinstance(method, Method):
        _check_method_object(method, model, loss, device, method_options)
    else:
        method = make_method(method, model, loss=loss, seed=seed, device=device, **method_options)

    batches = _open_for_training(method, source, batch_size, shuffle, seed)
    validated = None
    if held_out is not None:
        with _naming("validation"):
            validated = _open(method, held_out, _EVALUATION_BATCH)
            _check_epochs(epochs, validated)
            if isinstance(held_out, (list, tuple)) and isinstance(validated, StreamBatches):
                # Minibatches in memory; those of other streams are checked as they come.
                for _ in _checked(method.model, validated, method.loss):
                    pass
    if steps is None:
        _check_epochs(epochs, batches)
    if isinstance(batches, MemoryBatches):
        _check_last_minibatch(method, batches, batches.x, steps)
    metrics = _metrics(method, batches)
    if validated is not None:
        metrics += [f"validation_{name}" for name in _metrics(method, validated)]
    history = History()
    history.loss = method.loss.name
    state = TrainingState(method, history, epochs, tuple(metrics))
    _Run(state, batches, validated, schedule, hooks, steps)(progress)
    return state.history


def _metrics(method: Method, batches: Batches) -> list[str]:
    """The metrics of such minibatches; a stream gets an accuracy if the loss can have one."""
    counts = method.loss.counts_correct
    if counts and isinstance(batches, MemoryBatches):
        counts = method.loss.counts(batches.y, _output_width(method.model, batches.x))
    return ["loss", "accuracy"] if counts else ["loss"]


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


def _check_epochs(epochs: int, batches: Batches) -> None:
    """Raise a ValueError if the batches must be read again and cannot be."""
    if epochs > 1 and isinstance(batches, StreamBatches) and batches.one_shot:
        raise ValueError(
            f"epochs must be 1 with {_check.named_type(batches.source)}, which can be read only once, but is "
            f"{epochs}: pass a list of batches, a DataLoader, or another iterable that starts anew with each loop."
        )


def _check_last_minibatch(method: Method, batches: Batches, x: Tensor, steps: int | None) -> None:
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
    with _without_trace(model, x), torch.no_grad():
        model.train()
        try:
            logits = model(x.clone())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            return str(error).strip().partition("\n")[0].rstrip(".")
        return None if bool(logits.isfinite().all()) else "its outputs are not finite"


@dataclasses.dataclass
class _Run:
    """The epochs of a training run, with everything checked and opened."""

    state: TrainingState
    batches: Batches
    validation: Batches | None
    schedule: Schedule
    hooks: _Hooks
    steps: int | None

    def __call__(self, progress: bool) -> None:
        state = self.state
        step = _step_of(state.method, self.batches)
        _call(self.hooks.on_start, state)
        with (
            _progress_bar(self.batches.steps, state.epochs, self.steps, progress) as bar,
            HeldInterrupt() as held,
        ):
            for epoch in range(1, state.epochs + 1):
                state.epoch = epoch
                state.method.learning_rate_factor = self.schedule(epoch - 1)
                if bar is not None:
                    bar.set_description(f"epoch {epoch}/{state.epochs}", refresh=False)
                with EpochRecord(state.history, epoch, state.method.learning_rate_factor) as record:
                    self._train(step, bar, held, record)
                self._validate()
                if bar is not None:
                    row = state.history.epochs[-1]
                    found = {name: row[name] for name in state.metrics if row[name] is not None}
                    bar.set_postfix({name: f"{value:.4f}" for name, value in found.items()}, refresh=False)
                _call(self.hooks.on_epoch, state)
                if self._is_over():
                    break
            held.held = True
            _call(self.hooks.on_end, state)
            held.release()

    def _is_over(self) -> bool:
        return self.state.step == self.steps or self.state.stopped

    def _train(
        self,
        step: Callable[[Tensor, Tensor], StepReport],
        bar: Any,
        interrupt: HeldInterrupt,
        record: EpochRecord,
    ) -> None:
        """Train for one epoch."""
        state, method, batches = self.state, self.state.method, self.batches
        if batches.steps is not None and not batches.one_shot:  # data that can be read twice
            seen = itertools.islice(batches, None if self.steps is None else self.steps - state.step)
            method.begin_epoch(_held(seen, interrupt))
        for x, y in batches:
            if state.step == 0 and not isinstance(batches, MemoryBatches):
                _check_last_minibatch(method, batches, x, self.steps)
            interrupt.held = True
            report = step(x, y)
            if method.on_nonfinite == "restore":
                state.history.restores = method.restores
            record.add(report, len(x), method.loss.labelled(y))
            state.step += 1
            interrupt.release()
            del x, y  # so that the next minibatch gets their memory, which is still in the cache
            if state.step % _STEPS_UNSEEN == 0:
                method.raise_if_diverged()
            if bar is not None:
                bar.update()
            state.report = report
            _call(self.hooks.on_step, state)
            if self._is_over():
                break
        if record.samples == 0:
            again = (
                ": an iterable read in several epochs must start anew with each loop"
                if state.epoch > 1
                else ""
            )
            raise ValueError(
                f"data must yield at least one minibatch, but was empty in epoch {state.epoch}{again}."
            )
        method.raise_if_diverged()
        interrupt.held = True
        method.end_epoch()
        interrupt.release()
        state.history.objective_rose = method.objective_rose

    def _validate(self) -> None:
        if self.validation is not None:
            method, row = self.state.method, self.state.history.epochs[-1]
            with _naming("validation"), _without_trace(method.model, method._like):
                evaluation = _evaluate(method.model, self.validation, method.loss)
            row["validation_loss"], row["validation_accuracy"] = evaluation.loss, evaluation.accuracy


def _call(hooks: Iterable[Callable[[TrainingState], Any]], state: TrainingState) -> None:
    for hook in hooks:
        hook(state)


def _held(
    batches: Iterable[tuple[Tensor, Tensor]], interrupt: HeldInterrupt
) -> Iterator[tuple[Tensor, Tensor]]:
    """The minibatches, with Ctrl-C held back from the moment one is yielded until the next is requested."""
    for batch in batches:
        interrupt.held = True
        yield batch
        interrupt.release()


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        loss: the mean over the samples.
        accuracy: the part of the samples that are classified correctly; None if nothing is classified, as with
            ``loss="mse"``.
        samples: the number of samples with a label.
    """

    loss: float
    accuracy: float | None
    samples: int


_EVALUATION_BATCH = 1000
_STEPS_UNSEEN = 1000  # steps on a GPU between two checks whether they were finite


def evaluate(
    model: nn.Module | Sequence[nn.Module],
    data: Any,
    *,
    loss: LossLike = "cross_entropy",
    batch_size: int = _EVALUATION_BATCH,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Find loss and accuracy of a model in evaluation mode; afterwards every module is in its previous mode.

    Args:
        model: any module that maps x to logits (B, C), or a list of modules, one behind the other.
        data: as in :func:`train`, but of a data set the test part. If the model holds a
            :class:`altmin_ext.NonNegativeFactors`, samples may have no label, -1; they are left out.
        loss: as in :func:`train`, "cross_entropy" by default; or the ``loss`` of a method.
        batch_size: samples evaluated at a time, 1000 by default. The mean over batches is weighted by their numbers
            of samples. For a criterion that divides by something else, such as weights, it differs slightly from the
            mean over all samples at once.
        device: where to evaluate; the model is moved there. None keeps the model where it is.

    Returns:
        An :class:`Evaluation`.

    Raises:
        TypeError, ValueError: an argument is wrong, or data and model do not fit each other.
    """
    model = as_chain(model)
    _check.model_in_memory(model)
    batch_size = _check.integer("batch_size", batch_size)
    device = _check.device("device", device)
    # A model that can learn from samples without a label may be evaluated on such samples, too.
    loss_function = make_loss(loss, partial=any(isinstance(m, NonNegativeFactors) for m in model.modules()))
    source = read(data, "test")
    if device is not None:
        model.to(device)
    weight = next(model.parameters(), torch.empty(0))
    loss_function = loss_function.to(weight.device, weight.dtype)
    batches = make_batches(
        source, loss=loss_function, dtype=weight.dtype, device=weight.device, batch_size=batch_size
    )
    return _evaluate(model, batches, loss_function)


def _evaluate(model: nn.Module, batches: Batches, loss: Loss) -> Evaluation:
    samples = 0
    total_loss: Tensor | float = 0.0
    correct: Tensor | int | None = 0
    copies = may_write_input(model)
    with _evaluation_mode(model):
        for x, y in _checked(model, batches, loss):
            logits = _logits(model, x.clone() if copies else x)
            labelled = int(loss.labelled(y))
            if labelled == 0:
                continue
            hits = loss.correct(logits, y)  # first: a criterion may write to the logits
            total_loss = total_loss + loss.mean(logits, y).double() * labelled
            correct = None if hits is None or correct is None else correct + hits
            samples += labelled
    if samples == 0:
        raise ValueError("data must hold at least one sample with a label, but has none.")
    accuracy = None if correct is None else float(correct) / samples
    return Evaluation(float(total_loss) / samples, accuracy, samples)


def _checked(model: nn.Module, batches: Batches, loss: Loss) -> Iterator[tuple[Tensor, Tensor]]:
    """The minibatches, at least one, with all their values checked."""
    n_out = None
    for x, y in batches:
        if n_out is None:
            n_out = _output_width(model, x)
        if not isinstance(batches, MemoryBatches):
            _check.finite("x", x)
        y = loss.check_targets(y, x.dtype)
        loss.check_target_values(y, n_out)
        yield x, y
    if n_out is None:
        raise ValueError("data must yield at least one minibatch, but is empty.")


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    with _modes_kept(model), torch.no_grad():
        model.eval()
        yield


@contextlib.contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """Leave every module in its mode, training or evaluation."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _without_trace(model: nn.Module, like: Tensor) -> Iterator[None]:
    """Leave the model's modes and buffers, and all global random generators, as they were.

    Args:
        model: whose buffers, such as running statistics, a forward pass may move.
        like: a tensor on the model's device.
    """
    buffers = Buffers(model)
    kept, python, numpy = buffers.remember(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with _modes_kept(model), torch.random.fork_rng([like.device] if like.is_cuda else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            buffers.recall(kept)


def _output_width(model: nn.Module, x: Tensor) -> int:
    """The number of the model's outputs for the first sample of x; raises if x does not fit the model."""
    with _without_trace(model, x), _evaluation_mode(model):
        return _logits(model, x[:1].clone()).shape[1]


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """The model's outputs; raises unless x fits the model and the outputs are (B, C)."""
    try:
        logits = model(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"x must fit the model, but a sample of shape {tuple(x.shape[1:])} does not: {reason}."
        ) from error
    return _check.logits(logits, len(x))


def _check_method_object(
    method: Method,
    model: nn.Module | Sequence[nn.Module],
    loss: LossLike | None,
    device: torch.device | str | None,
    options: dict[str, Any],
) -> None:
    """Raise if an argument, or the model's current state, contradicts a method that has been made before."""
    method.check_model()
    # make_method puts a list of modules into a Sequential of its own.
    modules = list(method.model) if isinstance(method.model, nn.Sequential) else []
    if model is not method.model and not (isinstance(model, (list, tuple)) and list(model) == modules):
        raise ValueError("model must be the one that method was made for, but is another: pass method.model.")
    if options:
        raise ValueError(
            f"{', '.join(options)} cannot be set on a method that is made already: pass the method's name, "
            "or give the options to make_method."
        )
    if loss is not None and loss not in (method.loss.name, method.loss.given):
        raise ValueError(f"loss must be the method's, {method.loss.name!r}, but is {loss!r}: leave it out.")
    wanted = _check.named_device("device", device) or method.device
    if wanted.type != method.device.type or wanted.index not in (None, method.device.index):
        raise ValueError(f"device must be the method's, {method.device}, but is {device}: leave it out.")


def _read_data(
    data: Any, validation: Any, validation_fraction: float, seed: int
) -> tuple[Samples | Dataset[Any] | Iterable[Any], Samples | Dataset[Any] | Iterable[Any] | None]:
    """The data to train on, and the data to validate with or None."""
    source = read(data, "train")
    validation_fraction = _check.number("validation_fraction", validation_fraction, 0.0, below=1.0)
    if validation_fraction == 0.0:
        with _naming("validation"):
            return source, None if validation is None else read(validation, "test")
    if validation is not None:
        raise ValueError(
            f"validation_fraction must be 0 where validation is given, but is {validation_fraction}."
        )
    if not isinstance(source, Samples):
        raise ValueError(
            f"validation_fraction must be 0 for data not held in memory, but is {validation_fraction}: "
            "pass validation."
        )
    kept, held_out = known_data.split((source.x, source.y), validation_fraction, seed)
    return Samples(*kept), Samples(*held_out)


@contextlib.contextmanager
def _naming(argument: str) -> Iterator[None]:
    """Put the name of the argument in front of errors about its x or y."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{argument}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error


def _open_for_training(
    method: Method, source: Samples | Dataset[Any] | Iterable[Any], batch_size: int, shuffle: bool, seed: int
) -> Batches:
    """Make the batches to train on: all samples at once for a method that takes the whole training set."""
    if not method.full_batch:
        return _open(method, source, batch_size, method.data_order.generator(seed), shuffle)
    if not isinstance(source, Samples):
        raise ValueError(
            f"data must be (x, y) held in memory for {method.name}, which takes all of it in one step, but is "
            f"{_check.named_type(source)}; read it all beforehand, as in "
            "next(iter(torch.utils.data.DataLoader(data, len(data))))."
        )
    return _open(method, source, len(source.x))


def _open(
    method: Method,
    source: Samples | Dataset[Any] | Iterable[Any],
    batch_size: int,
    generator: torch.Generator | None = None,
    shuffle: bool = False,
) -> Batches:
    """Make batches for a method, and check everything that can be checked before the first step."""
    batches = make_batches(
        source,
        loss=method.loss,
        dtype=method.dtype,
        device=method.device,
        batch_size=batch_size,
        generator=generator,
        shuffle=shuffle,
    )
    if isinstance(batches, MemoryBatches):
        method.loss.check_target_values(batches.y, _output_width(method.model, batches.x))
    return batches


class _Hooks:
    """The callbacks' methods, gathered by name."""

    def __init__(self, callbacks: Iterable[Any]) -> None:
        if not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks must be a list of objects, but is {_check.named_type(callbacks)}.")
        callbacks = list(callbacks)
        names = ("on_start", "on_step", "on_epoch", "on_end")
        for callback in callbacks:
            if not any(hasattr(callback, name) for name in names):
                raise TypeError(
                    f"callbacks must be objects with any of {', '.join(names)}, but one is "
                    f"{_check.named_type(callback)}."
                )
        self.on_start, self.on_step, self.on_epoch, self.on_end = (
            [getattr(callback, name) for callback in callbacks if hasattr(callback, name)] for name in names
        )


@contextlib.contextmanager
def _progress_bar(per_epoch: int | None, epochs: int, steps: int | None, show: bool) -> Iterator[Any]:
    """A bar over all steps of the run, or None: even a silent tqdm would start a thread."""
    if not show or sys.stderr is None:
        yield None
        return
    total = steps if per_epoch is None else min(epochs * per_epoch, steps or epochs * per_epoch)
    with tqdm(
        total=total, unit="batch", mininterval=0.5, dynamic_ncols=True, file=Unfailing(sys.stderr)
    ) as bar:
        yield bar
