"""The training loop: any method, any data, one call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from altmin_ext import _check
from altmin_ext import data as known_data
from altmin_ext._batches import Batches, MemoryBatches, Samples, StreamBatches, make_batches, read
from altmin_ext._interrupt import terminations_end_the_process
from altmin_ext._metrics import Metrics
from altmin_ext._order import DataOrder
from altmin_ext._run import Hooks, Run, check_last_minibatch
from altmin_ext._run_file import RunFile, describe
from altmin_ext.callbacks import EarlyStopping, TrainingState
from altmin_ext.evaluation import (
    EVALUATION_BATCH,
    Evaluation,
    checked_batches,
    evaluate,
    evaluate_batches,
    naming,
    output_width,
    predict,
    without_trace,
)
from altmin_ext.history import History, plot_histories, report_histories
from altmin_ext.losses import LossLike
from altmin_ext.methods import Method, make_method
from altmin_ext.parallel import Ranks
from altmin_ext.schedules import Schedule, make_schedule

__all__ = [
    "EarlyStopping",
    "Evaluation",
    "History",
    "TrainingState",
    "evaluate",
    "plot_histories",
    "predict",
    "report_histories",
    "train",
]


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
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | str = "60s",
    keep: int = 0,
    resume: bool = False,
    metrics: Mapping[str, Any] | None = None,
    parallel: str | None = None,
    **method_options: Any,
) -> History:
    """Train a model in place.

    Args:
        model: an ``nn.Sequential`` (nesting allowed), or a list of modules such as :class:`altmin_ext.Stage`, one
            behind the other. Its ``state_dict()`` afterwards is an ordinary torch one.
        data: one of

            - ``(x, y)``, tensors or ndarrays: x (N, ...) floating point; y (N,) integer class indices, (N, C) floats
              for ``loss="mse"``, or the targets of a criterion. They are copied once if their dtype or device is not
              the model's. Tables and columns of pandas and polars are taken, too, if they hold numbers;
            - an :class:`altmin_ext.data.DataSet`, or one of :func:`altmin_ext.data.names`: its training part;
            - a torch ``Dataset`` or ``DataLoader``, or a data set of Hugging Face's ``datasets``;
            - any iterable of ``(x, y)`` batches. An endless one is an epoch that never ends: pass ``steps``.

            Wherever ``(x, y)`` stands, for all samples, one or a batch, a dict with the keys "x" and "y" may stand.

            They are read, never written. A ``Dataset`` of any kind hands out its samples by its own ``__getitem__``.
        method: one of :func:`altmin_ext.methods.names`, or a :class:`Method` bound to ``model``.
        epochs: passes over the data, 1 by default.
        steps: the largest number of minibatches in all; None for no limit. An epoch that it cuts short is recorded
            like any other.
        batch_size: samples in a minibatch, 200 by default. The last minibatch of an epoch may be smaller. It has no
            effect on a DataLoader or an iterable of batches, and on methods that take the whole training set at once.
        shuffle: whether to draw a new order for every epoch. It has no effect on a DataLoader or an iterable.
        validation: data to evaluate after every epoch, in any of the forms above; of a data set the test part. They
            change nothing in the training, since the model's buffers and all random generators, also those that the
            data hold, are put back.
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
        callbacks: objects with any of ``on_start``, ``on_step``, ``on_epoch``, ``on_end`` and ``on_close``, see
            :class:`altmin_ext.callbacks.TrainingState`; for instance an :class:`altmin_ext.EarlyStopping`.
        lr_schedule: "constant", "cosine", or a callable that maps the number of finished epochs to a factor
            of the learning rates.
        checkpoint: a file for where the run stands, from which another process can go on to the same bits; None, the
            default, for no file. It is written before the first minibatch, then as often as ``checkpoint_every``
            says, after every epoch, and when Ctrl-C, SIGTERM, SIGHUP or an exception ends the run. It holds model,
            method, History, the place in the data, the callbacks that have ``state_dict()`` and
            ``load_state_dict(state)``, and the states of random generators. It is written completely or not at all,
            see :mod:`altmin_ext.checkpoint`.

            It takes data of which a pass can be entered again, which are tensors; a ``Dataset`` or ``DataLoader``,
            where the minibatches of the pass so far are read once more, and samples may depend on nothing but their
            number and random generators; a list of minibatches; and an iterable with ``state_dict()`` and
            ``load_state_dict(state)``, such as torchdata's StatefulDataLoader.
        checkpoint_every: the number of minibatches between two checkpoints within an epoch, or of seconds, as in
            "30s"; "60s" by default.
        keep: how many former checkpoints stay, 0 by default, under the file's name with the minibatches until then.
        resume: whether to go on where the file ``checkpoint`` stands, or begin if there is none. Model, method,
            options, data, batch size and seeds must be those of the run in the file. ``epochs`` and ``steps`` count
            from the beginning of that run. If they are larger now, the run becomes what it would have been with
            these, except that a named schedule knows of the new number of epochs from the next epoch on. False, the
            default, refuses a file that is there, so that no run is lost.
        metrics: further numbers of the validation after every epoch, by name: ``{"f1": f1}`` adds ``validation_f1``
            to the History and the progress bar, and ``EarlyStopping`` can monitor it. Each is one of

            - an object with ``update(logits, y)``, ``compute()`` and ``reset()``, as those of torchmetrics. It is
              moved to the model's device if it is a module, updated with up to 1000 samples at a time, and reset
              before and after, so that it holds nothing between epochs;
            - a function (logits, y) -> number, called with all validation samples at once, which takes memory for
              all of their logits on the model's device.

            Both get the model's outputs (N, C) in evaluation mode and the targets as the loss takes them, of the
            samples that have a label. A metric is NaN where an output is not finite. Training data have no metrics:
            a step reports its loss and its hits, and keeps no logits. Validation data that are tensors are run
            through once before training, so that a metric that fails does so then.
        parallel: "data" to share every minibatch among the processes of torch's default process group, each of which
            makes this call, see :mod:`altmin_ext.parallel`; None, the default, to train in this process alone. Data
            in memory and a ``Dataset`` are the same on all ranks, which deal out every minibatch of ``batch_size``
            samples; a DataLoader, or another iterable, yields each rank's own share. Validation data in memory are
            dealt out, too, unless there are ``metrics``. The History is the same on every rank, apart from times;
            the progress bar is shown by rank 0, and callbacks are called on every rank that passes them.
        **method_options: options of the method, ``on_nonfinite`` and ``graph``; see
            :func:`altmin_ext.make_method`.

    Returns:
        The :class:`History` of the run.

    Raises:
        TypeError, ValueError: an argument is wrong, or does not fit the model. Everything that can be is checked
            before the model changes; the minibatches of a stream are checked one by one.
        DivergenceError: a code or a weight is not finite; the model keeps the last finite weights.
        OSError: the checkpoint cannot be read or written; the file that was there before is untouched.
        KeyboardInterrupt: Ctrl-C, after the current minibatch has been completed. A callback that has kept
            ``state.history`` has the record up to there.
        SystemExit: SIGTERM or SIGHUP with ``checkpoint``, likewise, unless the program handles them itself.

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import models
        >>> x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
        >>> y = (x[:, 0] > x[:, 1]).long()
        >>> model = models.mlp(4, [16], 2)
        >>> history = altmin_ext.train(model, (x, y), epochs=20, batch_size=30, lr=0.01, progress=False)
        >>> len(history.epochs), history.steps
        (20, 200)
        >>> history.epochs[-1]["accuracy"] > 0.9
        True
    """
    epochs = _check.integer("epochs", epochs)
    batch_size = _check.integer("batch_size", batch_size)
    steps = None if steps is None else _check.integer("steps", steps)
    seed = _check.seed("seed", seed)
    shuffle = _check.boolean("shuffle", shuffle)
    progress = _check.boolean("progress", progress)
    resume = _check.boolean("resume", resume)
    if checkpoint is None and (resume or keep):
        raise ValueError(
            f"checkpoint must be the path of a file where {'resume' if resume else 'keep'} is given, but is None."
        )
    file = None if checkpoint is None else RunFile(checkpoint, checkpoint_every, keep, resume)
    schedule = make_schedule(lr_schedule, epochs)
    hooks = Hooks(callbacks)
    further = Metrics(metrics)
    if further.names and validation is None and validation_fraction == 0.0:
        raise ValueError(
            f"metrics must come with validation data, of which they are, but {further.names[0]!r} has none: pass "
            "validation or validation_fraction."
        )
    source, held_out = _read_data(data, validation, validation_fraction, seed)
    if isinstance(method, Method):
        _check_method_object(method, model, loss, device, method_options)
        if parallel is not None and method.ranks is None:
            raise ValueError(
                f"parallel must be None for a method that is made already, but is {parallel!r}: pass it to "
                "make_method."
            )
    else:
        method = make_method(
            method, model, loss=loss, seed=seed, device=device, parallel=parallel, **method_options
        )
    ranks = method.ranks

    batches = _open_for_training(method, source, batch_size, shuffle)
    if ranks is not None and batches.last is not None and batches.last < ranks.size:
        raise ValueError(
            f"batch_size must leave a sample for each of the {ranks.size} ranks in the last minibatch of an epoch, "
            f"but leaves {batches.last}; choose another batch_size, or leave samples out."
        )
    validated, sharing = None, None
    if held_out is not None:
        if isinstance(held_out, Samples) and ranks is not None and _deals_out(ranks, held_out, further):
            sharing = ranks
        with naming("validation"):
            at_once = EVALUATION_BATCH * (1 if sharing is None else sharing.size)
            validated = _open(method, held_out, at_once, ranks=sharing)
            _check_epochs(epochs, validated)
            if isinstance(held_out, (list, tuple)) and isinstance(validated, StreamBatches):
                # Minibatches in memory; those of other streams are checked as they come.
                for _ in checked_batches(method.model, validated, method.loss):
                    pass
            if further.names and isinstance(validated, MemoryBatches):
                with without_trace(method.model, method._like):
                    evaluate_batches(method.model, validated, method.loss.of_one, further)
    if steps is None:
        _check_epochs(epochs, batches)
    if isinstance(batches, MemoryBatches):
        check_last_minibatch(method, batches, batches.x, steps)
    recorded = _recorded(method, batches)
    if validated is not None:
        recorded += [f"validation_{name}" for name in (*_recorded(method, validated), *further.names)]
    history = History()
    history.loss = method.loss.name
    arguments = {
        "seed": seed,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "lr_schedule": lr_schedule if isinstance(lr_schedule, str) else type(lr_schedule).__name__,
    }
    state = TrainingState(method, history, epochs, tuple(recorded), arguments)
    run = Run(state, batches, validated, further, schedule, hooks, steps, file, sharing)
    with contextlib.ExitStack() as ending:
        if file is not None:
            file.bind(run, describe(method, batches, validated, {**arguments, "metrics": str(further)}))
            ending.enter_context(terminations_end_the_process())
        if not method.full_batch:
            method.data_order.start(seed)
        run(progress and (ranks is None or ranks.rank == 0))
    return history


def _deals_out(ranks: Ranks, held_out: Samples, metrics: Metrics) -> bool:
    """Whether each rank evaluates a part of the validation data: metrics want all of them at once."""
    return not metrics.names and len(held_out.x) >= ranks.size


def _recorded(method: Method, batches: Batches) -> list[str]:
    """The numbers recorded of such minibatches; a stream gets an accuracy if the loss can have one."""
    counts = method.loss.counts_correct
    if counts and isinstance(batches, MemoryBatches):
        counts = method.loss.counts(batches.y, output_width(method.model, batches.x))
    return ["loss", "accuracy"] if counts else ["loss"]


def _check_epochs(epochs: int, batches: Batches) -> None:
    """Raise a ValueError if the batches must be read again and cannot be."""
    if epochs > 1 and isinstance(batches, StreamBatches) and batches.one_shot:
        raise ValueError(
            f"epochs must be 1 with {_check.named_type(batches.source)}, which can be read only once, but is "
            f"{epochs}: pass a list of batches, a DataLoader, or another iterable that starts anew with each loop."
        )


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
        with naming("validation"):
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


def _open_for_training(
    method: Method, source: Samples | Dataset[Any] | Iterable[Any], batch_size: int, shuffle: bool
) -> Batches:
    """Make the batches to train on: all samples at once for a method that takes the whole training set."""
    if not method.full_batch:
        return _open(method, source, batch_size, method.data_order, shuffle, method.ranks)
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
    order: DataOrder | None = None,
    shuffle: bool = False,
    ranks: Ranks | None = None,
) -> Batches:
    """Make batches for a method, and check everything that can be checked before the first step."""
    batches = make_batches(
        source,
        loss=method.loss,
        dtype=method.dtype,
        device=method.device,
        batch_size=batch_size,
        order=order,
        shuffle=shuffle,
        ranks=ranks,
    )
    if isinstance(batches, MemoryBatches):
        method.loss.check_target_values(batches.y, output_width(method.model, batches.x))
    return batches
