"""The command tune: options of methods, searched by Optuna with the same budget for every method."""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import dataclasses
import io
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from altmin_ext import _check, data, methods, training, tuning
from altmin_ext._extras import require
from altmin_ext._files import Replacement, to_json, write_file
from altmin_ext.callbacks import OptunaPruning
from altmin_ext.command_line import datasets, networks
from altmin_ext.command_line.arguments import parse_value
from altmin_ext.command_line.inspect import as_flags
from altmin_ext.command_line.output import shown
from altmin_ext.command_line.streams import OutputLost, say
from altmin_ext.command_line.tables import decimals, drawn
from altmin_ext.command_line.train import chosen_methods, default_batch_size, initial_network
from altmin_ext.errors import DivergenceError
from altmin_ext.tuning import Choice, Range, Trial, Trials

_STUDY, _TABLE = "study.db", "trials.csv"
_of_the_run = ("batch_size", "lr_schedule")  # what can be searched besides the options of a method


def run(arguments: argparse.Namespace) -> None:
    """Search the options of one or several methods."""
    if arguments.threads is not None:
        torch.set_num_threads(_check.threads("--threads", arguments.threads))
    if not 0 < arguments.validation_fraction < 1:
        raise ValueError(
            "--validation-fraction must be greater than 0 and less than 1, but is "
            f"{arguments.validation_fraction}: the test set must not decide on options."
        )
    if arguments.resume and arguments.output is None:
        raise ValueError("--resume must come with --output, the folder of the study.")
    _check.integer("--trials", arguments.trials)
    require("optuna", "tune")
    dataset = datasets.load(arguments)
    search = _Search(arguments, dataset, networks.architecture(arguments, dataset))
    try:
        search.run()
    except BaseException:
        with contextlib.suppress(OutputLost):  # which must not hide what has happened before
            search.report()
        raise
    search.report()


# ------------------------------------------------------------------------------------------------- the space


def _read_space(words: str, whole: bool) -> Range | Choice:
    """Read what stands behind ``--search NAME=``."""
    if ":" not in words:
        return Choice(tuple(parse_value(word) for word in words.split(",")))
    low, high, *more = words.split(":")
    numbers = parse_value(low), parse_value(high)
    whole = whole and all(type(number) is int for number in numbers)
    ranged = all(type(number) in (int, float) for number in numbers) and more in ([], ["log"])
    if not ranged or not -math.inf < float(numbers[0]) < float(numbers[1]) < math.inf:
        raise ValueError("LOW:HIGH or LOW:HIGH:log with numbers that rise")
    if more and not float(numbers[0]) > 0:
        raise ValueError("LOW:HIGH:log with numbers greater than 0")
    return Range(float(numbers[0]), float(numbers[1]), bool(more), whole)


def _spaces(
    arguments: argparse.Namespace, chosen: Mapping[str, tuple[str, dict[str, Any]]]
) -> dict[str, dict[str, Range | Choice]]:
    """By label, what is searched: what is asked for one method alone comes before what is asked for all."""
    spaces: dict[str, dict[str, Range | Choice]] = {label: {} for label in chosen}
    for word in sorted(arguments.search, key=lambda word: "." in word.partition("=")[0]):
        name, equals, values = word.partition("=")
        method, _, key = name.rpartition(".")
        key = key.replace("-", "_")
        labels = [label for label, (own, _) in chosen.items() if method in ("", own, label)]
        if not equals or not labels:
            raise ValueError(
                f"--search must be [METHOD.]OPTION=SPACE with a method that is trained, but is {word!r}."
            )
        having = [label for label in labels if key in (*methods.option_names(chosen[label][0]), *_of_the_run)]
        if not having:
            raise methods.unknown_option(chosen[labels[0]][0], key)
        for label in having:
            fields = dataclasses.fields(methods.method_class(chosen[label][0]).Options)
            types = {"batch_size": "int", **{field.name: str(field.type) for field in fields}}
            whole = types.get(key, "").partition(" ")[0] == "int"
            try:
                spaces[label][key] = _read_space(values, whole)
            except ValueError as error:
                raise ValueError(f"--search {name} must be {error}, but is {values!r}.") from None
    for label, space in spaces.items():
        if not space:
            raise ValueError(
                f"--search must name an option of {label!r}, as in --search lr=1e-4:1e-1:log, but names none."
            )
    return spaces


# ------------------------------------------------------------------------------------------------- the search


class _Search:
    """The trials of all methods, one of each in turn, so that each has had as many whenever the search ends."""

    def __init__(
        self, arguments: argparse.Namespace, dataset: data.DataSet, architecture: dict[str, Any]
    ) -> None:
        self._optuna = require("optuna", "tune")
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        self._arguments, self._dataset, self._architecture = arguments, dataset, architecture
        self._chosen = chosen_methods(arguments)
        self._spaces = _spaces(arguments, self._chosen)
        self._network = initial_network(arguments, architecture)
        self._maximised = arguments.monitor == "validation_accuracy"
        for label, space in self._spaces.items():
            for name, values in space.items():
                for value in values.ends:
                    self._check(label, name, value)
        studies = {label: self._open(label) for label in self._chosen}
        self._trials = Trials(studies, self._spaces, arguments.seed)

    def _check(self, label: str, name: str, value: Any) -> None:
        """Raise if a value that may be drawn is not allowed."""
        if name == "batch_size":
            _check.integer("batch_size", value)
        elif name == "lr_schedule":
            training.make_schedule(value, 1)
        else:
            method = self._method(label, {name: value})
            if self._maximised and not method.loss.counts_correct:
                raise ValueError(
                    f"--monitor must be validation_loss with the loss {method.loss.name!r}, which has no accuracy."
                )

    def _method(self, label: str, drawn: Mapping[str, Any]) -> methods.Method:
        arguments, (name, options) = self._arguments, self._chosen[label]
        own = {key: value for key, value in drawn.items() if key not in _of_the_run}
        return methods.make_method(
            name,
            copy.deepcopy(self._network),
            seed=arguments.seed,
            device=arguments.device,
            on_nonfinite=arguments.on_nonfinite,
            graph=arguments.graph,
            **{"loss": arguments.loss if self._dataset.classes else "mse", **options, **own},
        )

    # -------------------------------------------------------------------------------------------- studies

    def _open(self, label: str) -> Any:
        """The study of a method, in --output or in memory."""
        folder: Path | None = self._arguments.output
        storage = None
        if folder is not None:
            with Replacement(rehearsal=True) as files:  # makes the folder
                files.open(folder / _TABLE)
            storage = f"sqlite:///{folder / _STUDY}"
        pruner = (
            self._optuna.pruners.MedianPruner() if self._arguments.prune else self._optuna.pruners.NopPruner()
        )
        try:
            study = self._optuna.create_study(
                storage=storage,
                study_name=label,
                direction="maximize" if self._maximised else "minimize",
                pruner=pruner,
                load_if_exists=True,
            )
        except Exception as error:  # of the data base, which may be any file
            raise ValueError(
                f"--output must be a folder whose {_STUDY} is a study of `altmin tune`, but {str(folder)!r} is none: "
                f"{_check.first_sentence(error)}."
            ) from error
        settings = json.loads(json.dumps(self._settings(label)))
        earlier = study.user_attrs.get("settings")
        if earlier is not None:
            self._check_settings(earlier, settings)
        study.set_user_attr("settings", settings)
        for trial in study.trials:
            if trial.state == self._optuna.trial.TrialState.RUNNING:  # when the search was broken off
                study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
        return study

    def _settings(self, label: str) -> dict[str, Any]:
        """By flag, all that must be the same when a search goes on."""
        arguments, space = self._arguments, self._spaces[label]
        return {
            **self._flags(label, {}),
            "--monitor": arguments.monitor,
            "--prune": arguments.prune,
            **{f"--search {name}": dataclasses.asdict(values) for name, values in space.items()},
        }

    def _check_settings(self, earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        path = str(self._arguments.output / _STUDY)
        if not self._arguments.resume:
            raise ValueError(
                f"--output must be a folder without a study, but {path!r} is one: go on with it by --resume, or name "
                "another folder."
            )
        for flag in dict.fromkeys((*settings, *earlier)):
            if settings.get(flag) != earlier.get(flag):
                raise ValueError(
                    f"{flag} must be {shown(earlier.get(flag))}, as in the study of {path!r} that --resume goes on "
                    f"with, but is {shown(settings.get(flag))}."
                )

    # -------------------------------------------------------------------------------------------- trials

    def run(self) -> None:
        """Make the trials that are left."""
        self._trials.make(self._arguments.trials, self._train, self._tell)

    def _tell(self, label: str, trial: Trial) -> None:
        if not self._arguments.quiet and not self._arguments.json:
            number, word = len(self._trials.finished(label)), f"  {trial.ended}"
            say(
                f"{label}  {number}/{self._arguments.trials}  {decimals(trial.value)}  {_listed(trial.values)}"
                f"{'' if trial.ended == 'completed' else word}"
            )

    def _train(self, label: str, drawn: Mapping[str, Any], trial: Any) -> tuple[float, str]:
        """Train; returns what is searched for, after the last epoch, and how the training ended."""
        arguments, method = self._arguments, self._method(label, drawn)
        x, y = self._dataset.train
        rows: list[dict[str, Any]] = []

        class Keep:
            def on_start(self, state: training.TrainingState) -> None:
                nonlocal rows
                rows = state.history.epochs

        callbacks = [Keep(), OptunaPruning(trial, arguments.monitor)]
        try:
            training.train(
                method.model,
                (x, datasets.targets(method.loss, x, y, self._dataset.n_out)),
                method=method,
                epochs=arguments.epochs,
                batch_size=drawn.get("batch_size", self._batch_size),
                validation_fraction=arguments.validation_fraction,
                seed=arguments.seed,
                progress=False,
                callbacks=callbacks,
                lr_schedule=drawn.get("lr_schedule", arguments.lr_schedule),
            )
        except DivergenceError:
            return (0.0 if self._maximised else math.inf), "diverged"
        except self._optuna.TrialPruned:
            return float(rows[-1][arguments.monitor]), "pruned"
        value = float(rows[-1][arguments.monitor])
        if math.isnan(value):
            return (0.0 if self._maximised else math.inf), "diverged"
        return value, "completed"

    @property
    def _batch_size(self) -> int:
        given: int | None = self._arguments.batch_size
        return default_batch_size(self._dataset) if given is None else given

    # -------------------------------------------------------------------------------------------- results

    def _flags(self, label: str, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `altmin train` that repeat a trial."""
        arguments, (name, options) = self._arguments, self._chosen[label]
        values = {
            **{key: self._architecture[key] for key in ("data", "network", "hidden")},
            **datasets.settings(arguments),
            "activation": arguments.activation,
            "loss": arguments.loss,
            "method": name,
            "epochs": arguments.epochs,
            "batch_size": self._batch_size,
            "lr_schedule": arguments.lr_schedule,
            "validation_fraction": arguments.validation_fraction,
            "seed": arguments.seed,
            "device": arguments.device,
            "on_nonfinite": arguments.on_nonfinite,
            **options,
            **drawn,
        }
        return {f"--{key.replace('_', '-')}": value for key, value in values.items()}

    def _result(self, label: str) -> dict[str, Any]:
        trials = self._trials.finished(label)
        best = tuning.best(trials, self._maximised)
        return {
            "label": label,
            "trials": [dataclasses.asdict(trial) for trial in trials],
            "best": None if best is None else dataclasses.asdict(best),
            "median": statistics.median(trial.value for trial in trials) if trials else None,
            "command": None if best is None else f"altmin train {as_flags(self._flags(label, best.values))}",
        }

    def report(self) -> None:
        """Print and write the results so far."""
        results = [self._result(label) for label in self._chosen]
        if self._arguments.output is not None:
            write_file(self._arguments.output / _TABLE, _csv(results))
        if not any(result["trials"] for result in results):
            return
        if self._arguments.json:
            fixed = {name: getattr(self._arguments, name) for name in ("seed", "epochs", "monitor", "prune")}
            say(to_json({**self._architecture, **fixed, "methods": results}))
        else:
            say("\n" + self._table(results))

    def _table(self, results: list[dict[str, Any]]) -> str:
        arguments = self._arguments
        first = max(len("method"), *(len(result["label"]) for result in results))
        lines = [
            f"{arguments.monitor.replace('_', ' ')} after {arguments.epochs} epochs, seed {arguments.seed}",
            "",
        ]
        columns = ("method", "trials", "best", "median", "seconds", "options of the best")
        rows = []
        for result in results:
            best, trials = result["best"], result["trials"]
            seconds = sum(trial["seconds"] for trial in trials)
            numbers = decimals(best and best["value"]), decimals(result["median"])
            options = _listed(best["values"]) if best else "-"
            rows.append((result["label"], str(len(trials)), *numbers, f"{seconds:.1f}", options))
        table = drawn(columns, rows, left=(0, 5))
        if table is None:
            for name, *cells, options in [columns, *rows]:
                middle = "  ".join(
                    f"{cell:>{width}}" for cell, width in zip(cells, (6, 6, 6, 7), strict=True)
                )
                lines.append(f"{name:<{first}}  {middle}  {options}")
        else:
            lines.append(table)
        return "\n".join([*lines, "", *(result["command"] for result in results if result["command"])])


def _listed(values: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    )


def _csv(results: list[dict[str, Any]]) -> bytes:
    """A row for every trial."""
    names = list(
        dict.fromkeys(name for result in results for trial in result["trials"] for name in trial["values"])
    )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["method", "trial", "value", "ended", "seconds", *names])
    for result in results:
        for number, trial in enumerate(result["trials"], 1):
            values = [trial["values"].get(name, "") for name in names]
            table.writerow(
                [result["label"], number, trial["value"], trial["ended"], trial["seconds"], *values]
            )
    return text.getvalue().encode()
