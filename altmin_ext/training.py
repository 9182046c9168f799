"""The training loop: any method, any data, one call."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from altmin_ext import data as known_data
from altmin_ext._batches import Batches, MemoryBatches, Samples, make_batches, read
from altmin_ext._interrupt import HeldInterrupt
from altmin_ext.callbacks import EarlyStopping, TrainingState
from altmin_ext.history import EpochRecord, History, plot_histories
from altmin_ext.losses import Loss, make_loss
from altmin_ext.methods import Method, StepReport, make_method
from altmin_ext.network import as_chain
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
    loss: str = "cross_entropy",
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

            - ``(x, y)``, tensors or ndarrays: x (N, ...) floating point, y (N,) integer class indices, or
              (N, C) floats for ``loss="mse"``; copied once if the model's dtype or device is another;
            - a torch ``Dataset`` or ``DataLoader``;
            - the name of a known data set, see :func:`altmin_ext.data.names`: its training part;
            - any iterable of ``(x, y)`` batches. An endless one is an epoch that never ends: pass ``steps``.
        method: a name, see :func:`altmin_ext.methods.names`, or a :class:`Method` bound to ``model``.
        epochs: passes over the data.
        steps: train on at most that many minibatches in all; None for no limit. The epoch that it cuts short
            is recorded like any other.
        batch_size: samples of a minibatch. The last one of an epoch holds what is left; data smaller than
            ``batch_size`` are one minibatch. A DataLoader or an iterable of batches is used as it is. Methods that
            take the whole training set at once do not ask.
        shuffle: a new order for every epoch, except of a DataLoader or an iterable.
        validation: evaluated after every epoch; data as above, but a name means its test part.
        validation_fraction: hold that part of the data back for validation instead; needs data in memory.
        loss: "cross_entropy" or "mse".
        seed: of the order of the data and of the method; torch's global generator is not used.
        device: where to train; the model is moved there. None for where it is.
        progress: show a bar on standard error.
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
        TypeError, ValueError: an argument is wrong, or does not fit the model. What can be checked beforehand
            is, and then the model is as it was; a stream's minibatches are checked as they come.
        DivergenceError: a code or a weight is not finite; the model keeps the last finite weights.
        KeyboardInterrupt: Ctrl-C. It is held back until the method is done with the running minibatch.
    """
    _check_count("epochs", epochs)
    _check_count("batch_size", batch_size)
    if steps is not None:
        _check_count("steps", steps)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, but is {seed!r}.")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be at least 0 and below 2**63, but is {seed}.")
    schedule = make_schedule(lr_schedule, epochs)
    hooks = _Hooks(callbacks)
    source, held_out = _read_data(data, validation, validation_fraction, seed)
    if isinstance(method, Method):
        _check_method_object(method, model, loss, device, method_options)
    else:
        method = make_method(method, model, loss=loss, seed=seed, device=device, **method_options)

    generator = torch.Generator().manual_seed(seed) if shuffle else None
    batches = _open(method, source, batch_size, generator)
    validated = None
    if held_out is not None:
        with _naming("validation"):
            validated = _open(method, held_out, _EVALUATION_BATCH)
    if epochs > 1 and (
        (batches.one_shot and steps is None) or (validated is not None and validated.one_shot)
    ):
        raise ValueError(
            f"epochs must be 1 with a generator, which can be read only once, but is {epochs}: pass a list "
            "of batches, a DataLoader, or another iterable that starts anew with each loop."
        )

    metrics = ["loss", "accuracy"] if method.loss.counts_correct else ["loss"]
    if validated is not None:
        metrics += [f"validation_{name}" for name in metrics]
    state = TrainingState(method, History(), epochs, tuple(metrics))
    for hook in hooks.on_start:
        hook(state)
    _run(state, batches, validated, schedule, hooks, steps, progress)
    for hook in hooks.on_end:
        hook(state)
    return state.history


def _step_of(method: Method, batches: Batches) -> Callable[[Tensor, Tensor], StepReport]:
    """The method's step, told which samples a minibatch is of if it keeps something for each."""
    if not method.traits.per_sample:
        return method.step
    if not isinstance(batches, MemoryBatches):
        raise ValueError(
            f"data must be tensors, arrays or the name of a data set where {method.name} keeps something for every "
            "sample, but comes as minibatches: call method.step(x, y, index=...) for them."
        )
    step: Any = method.step
    return lambda x, y: step(x, y, index=batches.rows)


def _run(
    state: TrainingState,
    batches: Batches,
    validation: Batches | None,
    schedule: Schedule,
    hooks: _Hooks,
    steps: int | None,
    progress: bool,
) -> None:
    method, step = state.method, _step_of(state.method, batches)
    with _progress_bar(batches.steps, state.epochs, steps, progress) as bar, HeldInterrupt() as interrupt:
        for epoch in range(1, state.epochs + 1):
            state.epoch = epoch
            method.learning_rate_factor = schedule(epoch - 1)
            if bar is not None:
                bar.set_description(f"epoch {epoch}/{state.epochs}", refresh=False)
            record = EpochRecord(state.history)
            if batches.steps is not None and not batches.one_shot:  # what can be gone through beforehand
                seen = itertools.islice(batches, None if steps is None else steps - state.step)
                method.begin_epoch(_held(seen, interrupt))
            _run_epoch(state, step, batches, record, hooks, steps, bar, interrupt)
            method.end_epoch()
            record.close(epoch, method.learning_rate_factor)
            state.history.objective_rose = method.objective_rose
            row = state.history.epochs[-1]
            if validation is not None:
                evaluation = _evaluate(method.model, validation, method.loss)
                row["validation_loss"], row["validation_accuracy"] = evaluation.loss, evaluation.accuracy
            if bar is not None:
                bar.set_postfix({name: f"{row[name]:.4f}" for name in state.metrics}, refresh=False)
            for hook in hooks.on_epoch:
                hook(state)
            if state.step == steps or state.stopped:
                break


def _run_epoch(
    state: TrainingState,
    step: Callable[[Tensor, Tensor], StepReport],
    batches: Batches,
    record: EpochRecord,
    hooks: _Hooks,
    steps: int | None,
    bar: Any,
    interrupt: HeldInterrupt,
) -> None:
    """The steps of an epoch."""
    method = state.method
    for x, y in batches:
        interrupt.held = True
        report = step(x, y)
        interrupt.release()
        record.add(report, len(x), method.loss.labelled(y))
        del x, y  # the next minibatch then takes their memory, which is still in the cache
        state.step += 1
        if state.step % _STEPS_UNSEEN == 0:
            method.raise_if_diverged()
        if bar is not None:
            bar.update()
        state.report = report
        for hook in hooks.on_step:
            hook(state)
        if state.step == steps or state.stopped:
            break
    if record.samples == 0:
        again = ": an iterable that is to serve several epochs must start anew" if state.epoch > 1 else ""
        raise ValueError(
            f"data must yield at least one minibatch, but was empty in epoch {state.epoch}{again}."
        )
    method.raise_if_diverged()


def _held(
    batches: Iterable[tuple[Tensor, Tensor]], interrupt: HeldInterrupt
) -> Iterator[tuple[Tensor, Tensor]]:
    """The minibatches, with Ctrl-C held back from when one is handed out until the next is asked for."""
    for batch in batches:
        interrupt.held = True
        yield batch
        interrupt.release()


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        loss: mean over the samples.
        accuracy: part of the samples classified correctly; None for ``loss="mse"``.
        samples: how many there were.
    """

    loss: float
    accuracy: float | None
    samples: int


_EVALUATION_BATCH = 1000
_STEPS_UNSEEN = 1000  # on a GPU: how many may go by before it is asked whether they were finite


def evaluate(
    model: nn.Module | Sequence[nn.Module],
    data: Any,
    *,
    loss: str = "cross_entropy",
    batch_size: int = _EVALUATION_BATCH,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Loss and accuracy of a model, in evaluation mode; afterwards every module is in the mode it was in.

    Args:
        model: any module that maps x to logits (B, C), or a list of modules, one behind the other.
        data: as in :func:`train`, but the name of a known data set means its test part.
        loss: "cross_entropy" or "mse".
        batch_size: samples evaluated at a time.
        device: where to evaluate; the model is moved there. None for where it is.

    Returns:
        An :class:`Evaluation`.

    Raises:
        TypeError, ValueError: an argument is wrong, or data and model do not fit each other.
    """
    model = as_chain(model)
    _check_count("batch_size", batch_size)
    loss_function = make_loss(loss)
    source = read(data, "test")
    if device is not None:
        model.to(device)
    weight = next(model.parameters(), torch.empty(0))
    batches = make_batches(
        source, loss=loss_function, dtype=weight.dtype, device=weight.device, batch_size=batch_size
    )
    return _evaluate(model, batches, loss_function)


def _evaluate(model: nn.Module, batches: Batches, loss: Loss) -> Evaluation:
    n_out = None
    samples = 0
    total_loss: Tensor | float = 0.0
    correct: Tensor | int = 0
    with _evaluation_mode(model):
        for x, y in batches:
            if n_out is None:
                n_out = _output_width(model, x)
            y = loss.check_targets(y, x.dtype)
            loss.check_target_values(y, n_out)
            logits = model(x)
            labelled = loss.labelled(y)
            if labelled == 0:
                continue
            total_loss = total_loss + loss.mean(logits, y).double() * labelled
            if loss.counts_correct:
                correct = correct + (logits.argmax(1) == y).sum()
            samples += labelled
    if n_out is None:
        raise ValueError("data must yield at least one minibatch, but is empty.")
    if samples == 0:
        raise ValueError("data must hold at least one sample with a label, but every label is -1.")
    accuracy = float(correct) / samples if loss.counts_correct else None
    return Evaluation(float(total_loss) / samples, accuracy, samples)


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _output_width(model: nn.Module, x: Tensor) -> int:
    """How many outputs the model has, from the first sample of x; also finds out whether x fits the model."""
    with _evaluation_mode(model):
        try:
            logits = model(x[:1])
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"x must fit the model, but a sample of shape {tuple(x.shape[1:])} does not: {reason}."
            ) from error
    if logits.ndim != 2:
        raise ValueError(f"model must return (B, C) logits, but returned shape {tuple(logits.shape)}.")
    return logits.shape[1]


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, but is {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, but is {value}.")


def _check_method_object(
    method: Method,
    model: nn.Module | Sequence[nn.Module],
    loss: str,
    device: torch.device | str | None,
    options: dict[str, Any],
) -> None:
    """Raise where an argument, or what the model is now, contradicts a method that is made already."""
    method.check_model()
    # make_method and train each put a list into a Sequential of their own.
    same_list = (
        isinstance(model, (list, tuple))
        and isinstance(method.model, nn.Sequential)
        and list(map(id, model)) == list(map(id, method.model))
    )
    if method.model is not model and not same_list:
        raise ValueError("model must be the one that method was made for, but is another: pass method.model.")
    if options:
        raise ValueError(
            f"{', '.join(options)} cannot be set on a method that is made already: pass the method's name, "
            "or give the options to make_method."
        )
    if loss not in ("cross_entropy", method.loss.name):
        raise ValueError(f"loss must be the method's, {method.loss.name!r}, but is {loss!r}: leave it out.")
    wanted = method.device if device is None else torch.device(device)
    if wanted.type != method.device.type or wanted.index not in (None, method.device.index):
        raise ValueError(f"device must be the method's, {method.device}, but is {device}: leave it out.")


def _read_data(
    data: Any, validation: Any, validation_fraction: float, seed: int
) -> tuple[Samples | Dataset[Any] | Iterable[Any], Samples | Dataset[Any] | Iterable[Any] | None]:
    """The data to train on and, where there are such, the data to validate with."""
    source = read(data, "train")
    if isinstance(validation_fraction, bool) or not isinstance(validation_fraction, (int, float)):
        raise TypeError(f"validation_fraction must be a number, but is {validation_fraction!r}.")
    if not 0.0 <= validation_fraction < 1.0:
        raise ValueError(f"validation_fraction must lie in [0, 1), but is {validation_fraction!r}.")
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
    """Says which argument an error about x or y is about."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{argument}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error


def _open(
    method: Method,
    source: Samples | Dataset[Any] | Iterable[Any],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Batches:
    """Batches for a method, with everything checked that can be before the first step."""
    if method.traits.full_batch:
        if not isinstance(source, Samples):
            raise ValueError(
                f"data must be (x, y) held in memory for {method.name}, which takes all of it in one step, but is a "
                f"{type(source).__name__}."
            )
        batch_size, generator = len(source.x), None
    batches = make_batches(
        source,
        loss=method.loss,
        dtype=method.dtype,
        device=method.device,
        batch_size=batch_size,
        generator=generator,
    )
    if isinstance(batches, MemoryBatches):
        method.loss.check_target_values(batches.y, _output_width(method.model, batches.x))
    return batches


class _Hooks:
    """The callbacks' methods, gathered by name."""

    def __init__(self, callbacks: Iterable[Any]) -> None:
        if not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks must be a list of objects, but is a {type(callbacks).__name__}.")
        callbacks = list(callbacks)
        names = ("on_start", "on_step", "on_epoch", "on_end")
        for callback in callbacks:
            if not any(hasattr(callback, name) for name in names):
                raise TypeError(
                    f"callbacks must be objects with any of {', '.join(names)}, but one is a "
                    f"{type(callback).__name__}."
                )
        self.on_start, self.on_step, self.on_epoch, self.on_end = (
            [getattr(callback, name) for callback in callbacks if hasattr(callback, name)] for name in names
        )


@contextlib.contextmanager
def _progress_bar(per_epoch: int | None, epochs: int, steps: int | None, show: bool) -> Iterator[Any]:
    """A bar over all steps of the run, or None: even a silent tqdm would start a thread."""
    if not show:
        yield None
        return
    total = steps if per_epoch is None else min(epochs * per_epoch, steps or epochs * per_epoch)
    with tqdm(total=total, unit="batch", mininterval=0.5, dynamic_ncols=True) as bar:
        yield bar
