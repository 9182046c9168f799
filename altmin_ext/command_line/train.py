"""The command train."""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext import _check, data, methods, training
from altmin_ext._extras import require
from altmin_ext._files import set_aside, to_json
from altmin_ext._generators import torch_kept
from altmin_ext._interrupt import HeldInterrupt
from altmin_ext.callbacks import EarlyStopping, TrainingState
from altmin_ext.command_line import datasets, networks
from altmin_ext.command_line.arguments import parse_value
from altmin_ext.command_line.output import Output, checkpoint_state
from altmin_ext.command_line.ranks import process_group
from altmin_ext.command_line.streams import OutputLost, complain, say
from altmin_ext.command_line.tables import EpochTable, result_table
from altmin_ext.errors import DivergenceError
from altmin_ext.history import History
from altmin_ext.losses import Loss


def run(arguments: argparse.Namespace) -> None:
    """Train a network by one or several methods."""
    with process_group(arguments.parallel, arguments.device) as reports:
        arguments.quiet |= not reports
        _run(arguments, reports)


def _run(arguments: argparse.Namespace, reports: bool) -> None:
    if arguments.threads is not None:
        torch.set_num_threads(_check.threads("--threads", arguments.threads))
    if arguments.patience is not None and not arguments.validation_fraction:
        raise ValueError(
            "--patience must come with --validation-fraction: the test set must not decide when to stop."
        )
    if arguments.output is None and (flags := _flags_of_checkpoints(arguments)):
        raise ValueError(f"{flags[0]} must come with --output, the folder of the checkpoints.")
    dataset = datasets.load(arguments)
    _metrics(arguments.metrics, dataset.classes)
    architecture = networks.architecture(arguments, dataset)
    contestants = _make_methods(arguments, dataset, architecture)
    contest = _Contest(arguments, dataset, architecture, contestants, reports)
    try:
        contest.run()
    except BaseException:
        with contextlib.suppress(OutputLost):  # which must not hide what has happened before
            contest.report()
        contest.report_failures()
        raise
    contest.report()
    contest.raise_failures()


def _flags_of_checkpoints(arguments: argparse.Namespace) -> list[str]:
    """The flags about checkpoints that have been given."""
    given = {
        "--resume": arguments.resume,
        "--checkpoint-every": arguments.checkpoint_every is not None,
        "--keep": arguments.keep is not None,
    }
    return [flag for flag, is_given in given.items() if is_given]


@dataclasses.dataclass
class _Run:
    """The training of one method; a callback, which keeps the history when an exception ends the training.

    Attributes:
        label: of the method.
        method: the method.
        kept: for the checkpoint, see :func:`checkpoint_state`.
        history: the record.
        ended: "completed", "interrupted", "diverged" or "failed".
        test: what the model reaches on the test set; None before it is tested.
    """

    label: str
    method: methods.Method
    kept: dict[str, Any]
    history: History = dataclasses.field(default_factory=History)
    ended: str = "failed"
    test: training.Evaluation | None = None

    def on_start(self, state: TrainingState) -> None:
        self.history = state.history

    def state_dict(self) -> dict[str, Any]:
        return self.kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, since it has been compared before."""

    def result(self) -> dict[str, Any]:
        """What is reported."""
        method, epochs = self.method, self.history.epochs
        seconds = sum(row["seconds"] for row in epochs)
        samples = sum(row["seconds"] * row["samples_per_second"] for row in epochs)
        return {
            "label": self.label,
            "method": method.name,
            "loss": method.loss.name,
            "options": _options(method),
            "ended": self.ended,
            "epochs": epochs,
            "seconds": seconds,
            "samples_per_second": samples / seconds,
            "test": None if self.test is None else dataclasses.asdict(self.test),
        }


def _options(method: methods.Method) -> dict[str, Any]:
    """The options of a method that have a flag."""
    fields = dataclasses.fields(method.options)
    return {f.name: getattr(method.options, f.name) for f in fields if f.metadata.get("flag", True)}


class _Contest:
    """The training of all methods, one after the other; the results so far are written after each.

    However one ends, its model is kept and tested if at least one minibatch was trained on.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        dataset: data.DataSet,
        architecture: dict[str, Any],
        contestants: dict[str, methods.Method],
        reports: bool,
    ) -> None:
        self._reports = reports  # and writes
        self._arguments = arguments
        self._dataset = dataset
        self._architecture = architecture
        self._contestants = contestants
        self._held_out = "validation" if arguments.validation_fraction else "test"
        self._runs: list[_Run] = []
        self._divergences: list[str] = []
        self._written: list[str] = []
        self._unwritten: OSError | None = None
        self._undrawn = ""
        self._output: Output | None = None
        if arguments.output is not None:
            self._output = Output(arguments.output, architecture, contestants)
            if reports:
                self._output.rehearse(self._first.model)
            settings = {label: self._settings(method) for label, method in contestants.items()}
            self._output.check_checkpoints(settings, arguments.epochs, arguments.resume)

    @property
    def _first(self) -> methods.Method:
        return next(iter(self._contestants.values()))

    @property
    def _batch_size(self) -> int:
        given: int | None = self._arguments.batch_size
        return default_batch_size(self._dataset) if given is None else given

    def _settings(self, method: methods.Method) -> dict[str, Any]:
        """By flag, all that must be the same when a run goes on."""
        arguments = self._arguments
        names = ("seed", "lr_schedule", "validation_fraction", "patience", "on_nonfinite", "metrics")
        values = {
            **{name: self._architecture[name] for name in ("data", "network", "hidden", "activation")},
            "loss": method.loss.name,
            "method": method.name,
            **_options(method),
            "batch_size": self._batch_size,
            **{name: getattr(arguments, name) for name in names},
            **datasets.settings(arguments),
        }
        return {f"--{name.replace('_', '-')}": value for name, value in values.items()}

    def run(self) -> None:
        """Train all methods. One that diverges does not end the contest, any other exception does."""
        for label, method in self._contestants.items():
            contestant = _Run(label, method, checkpoint_state(self._settings(method), self._arguments.epochs))
            try:
                self._train(contestant)
                contestant.ended = "completed"
            except DivergenceError as error:
                contestant.ended = "diverged"
                self._divergences.append(f"{label}: {error}" if len(self._contestants) > 1 else str(error))
            except (KeyboardInterrupt, OutputLost):
                contestant.ended = "interrupted"
                raise
            finally:
                if contestant.history.steps:
                    self._finish(contestant)

    def _train(self, contestant: _Run) -> None:
        arguments, method = self._arguments, contestant.method
        train_data, test_data = self._parts(method.loss)
        callbacks: list[Any] = [contestant]
        if not arguments.quiet and not arguments.json:
            title = contestant.label
            if not self._runs:
                title = f"{networks.describe(self._dataset, self._architecture)}\n\n{title}"
            callbacks.append(EpochTable(title, self._held_out))
        if arguments.patience is not None:
            monitor = "validation_accuracy" if method.loss.counts_correct else "validation_loss"
            callbacks.append(EarlyStopping(monitor, patience=arguments.patience))
        with self._checkpoints(contestant.label) as checkpoints:
            training.train(
                method.model,
                train_data,
                method=method,
                epochs=arguments.epochs,
                batch_size=self._batch_size,
                validation=None if arguments.validation_fraction else test_data,
                validation_fraction=arguments.validation_fraction,
                metrics=_metrics(arguments.metrics, self._dataset.classes),
                seed=arguments.seed,
                progress=not arguments.quiet and sys.stderr.isatty(),
                callbacks=callbacks,
                lr_schedule=arguments.lr_schedule,
                **checkpoints,
            )

    @contextlib.contextmanager
    def _checkpoints(self, label: str) -> Iterator[dict[str, Any]]:
        """The arguments of a training that concern its checkpoint; that of an earlier run is out of the way."""
        if self._output is None:
            yield {}
            return
        arguments, path = self._arguments, self._output.checkpoints[label]
        given = {name: getattr(arguments, name) for name in ("checkpoint_every", "keep")}
        keeps_earlier = arguments.resume or not self._reports
        with contextlib.nullcontext() if keeps_earlier else set_aside(path):
            ranks = self._contestants[label].ranks
            if ranks is not None:
                ranks.count(True)  # none looks for the file before rank 0 has set it aside
            yield {
                "checkpoint": path,
                "resume": arguments.resume,
                **{name: value for name, value in given.items() if value is not None},
            }

    def _parts(self, loss: Loss) -> list[tuple[Tensor, Tensor]]:
        """Training and test data with targets as the loss takes them: for mse, one-hot."""
        n_out = self._dataset.n_out
        parts = (self._dataset.train, self._dataset.test)
        return [(x, datasets.targets(loss, x, y, n_out)) for x, y in parts]

    def _finish(self, contestant: _Run) -> None:
        """Write the results so far, then test the model."""
        self._runs.append(contestant)
        if self._output is not None and self._reports:
            with HeldInterrupt(held=True):
                self._write(self._output)
                if contestant.ended == "diverged" and self._unwritten is None:
                    # Gone on with, it would only diverge again.
                    self._output.checkpoints[contestant.label].unlink(missing_ok=True)
        method = contestant.method
        metrics = _metrics(self._arguments.metrics, self._dataset.classes)
        test_data = self._parts(method.loss)[1]
        contestant.test = training.evaluate(method.model, test_data, loss=method.loss, metrics=metrics)

    def _write(self, output: Output) -> None:
        histories = {run.label: run.history for run in self._runs}
        try:
            self._written = output.write(self._first.model, histories, self._runs[0].ended)
            self._written.append(output.report(histories, self._held_out))
            self._unwritten = None
        except OSError as error:  # the disk may have more space when the next method is trained
            self._unwritten = error
            return
        try:
            self._written.append(output.draw(histories, self._held_out))
            self._undrawn = ""
        except Exception as error:
            # Matplotlib raises almost anything, and a picture is no reason to lose results.
            self._undrawn = str(error)

    def report(self) -> None:
        """Print the results so far."""
        if not self._reports:
            return
        results = [run.result() for run in self._runs]
        if self._arguments.json and results:
            say(to_json({**self._architecture, "seed": self._arguments.seed, "methods": results}))
        elif results:
            say(result_table(results))
            if self._output is not None and self._unwritten is None:
                say(f"\nwritten to {self._output.folder}: {', '.join(sorted(self._written))}")
        if self._undrawn:
            complain(f"altmin: learning-curve.png was not drawn: {self._undrawn}")

    def report_failures(self) -> None:
        """Print what has gone wrong without ending the contest."""
        for sentence in [*self._divergences, *([str(self._unwritten)] if self._unwritten else [])]:
            complain(f"altmin: error: {sentence}")

    def raise_failures(self) -> None:
        """Raise what has gone wrong without ending the contest."""
        if self._unwritten is not None:
            raise OSError(" ".join([str(self._unwritten), *self._divergences]))
        if self._divergences:
            raise DivergenceError(" ".join(self._divergences))


def _metrics(names: list[str] | None, classes: int) -> dict[str, Any]:
    """Metrics of torchmetrics for several classes, by the names that they have there without "Multiclass"."""
    if not names:
        return {}
    if not classes:
        raise ValueError("--metrics must be left out for a regression: they are metrics of classes.")
    package = require("torchmetrics.classification", "metrics")
    known = {
        name.removeprefix("Multiclass"): name for name in package.__all__ if name.startswith("Multiclass")
    }
    return {name: getattr(package, known[_check.known("--metrics", name, known)])(classes) for name in names}


def default_batch_size(dataset: data.DataSet) -> int:
    """The number of samples in a minibatch, unless --batch-size says another."""
    return max(1, min(200, len(dataset.train[0]) // 50))


def initial_network(arguments: argparse.Namespace, architecture: dict[str, Any]) -> nn.Module:
    """The network before training; --seed decides on its weights."""
    with torch_kept():
        torch.manual_seed(_check.seed("--seed", arguments.seed))
        return networks.make(architecture)


def chosen_methods(arguments: argparse.Namespace) -> dict[str, tuple[str, dict[str, Any]]]:
    """By label, --method first, then every --compare: the method's name and its options."""
    options = {
        name.removeprefix("option."): value
        for name, value in vars(arguments).items()
        if name.startswith("option.")
    }
    chosen = {arguments.method: (arguments.method, options)}
    for label in arguments.compare:
        if label in chosen:
            raise ValueError(
                f"--compare must name another method or other options each time, not {label!r} again."
            )
        name, _, listed = label.partition(":")
        pairs = [item.partition("=") for item in listed.split(",") if item]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError(f"--compare must be NAME[:OPTION=VALUE,...], but is {label!r}.")
        chosen[label] = name, {key.replace("-", "_"): parse_value(value) for key, _, value in pairs}
    return chosen


def _make_methods(
    arguments: argparse.Namespace, dataset: data.DataSet, architecture: dict[str, Any]
) -> dict[str, methods.Method]:
    """By label, each with its own copy of the same initial weights.

    All are made before one trains, so that a misspelt option costs no run.
    """
    chosen = chosen_methods(arguments)
    device = _check.device("--device", arguments.device)
    loss = arguments.loss if dataset.classes else architecture["loss"]
    initial = initial_network(arguments, architecture)
    return {
        label: methods.make_method(
            name,
            copy.deepcopy(initial),
            seed=arguments.seed,
            device=device,
            on_nonfinite=arguments.on_nonfinite,
            graph=arguments.graph,
            parallel=arguments.parallel,
            **{"loss": loss, **options},
        )
        for label, (name, options) in chosen.items()
    }
