"""The command line: ``altmin`` or ``python -m altmin_ext``, with train, evaluate and info."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import platform
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

import altmin_ext
from altmin_ext import _check, data, losses, methods, models, schedules
from altmin_ext._files import atomic_write, to_json
from altmin_ext.callbacks import EarlyStopping, TrainingState
from altmin_ext.errors import DivergenceError, unknown_name
from altmin_ext.history import History, plot_histories
from altmin_ext.losses import Loss, make_loss
from altmin_ext.methods._options import help_of
from altmin_ext.ops import _native as native
from altmin_ext.training import Evaluation, evaluate, train

_DEFAULT_METHOD = "am-adam"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None for the process's own.

    Returns:
        The exit code: 0; 1 if the training diverged; 2 for a wrong argument or a file that cannot be read or
        written; 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        parser = _make_parser(_method_in(argv))
        arguments = parser.parse_args(argv)
        if arguments.command is None:
            parser.print_help()
            return 0
        arguments.command(arguments)
    except DivergenceError as error:
        return _fail(error, 1)
    except (ValueError, TypeError, ImportError, OSError) as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        print("altmin: interrupted", file=sys.stderr)
        return 130
    return 0


def _fail(error: Exception, code: int) -> int:
    print(f"altmin: error: {error}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument like any other error: one sentence, no usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments, unknown = self.parse_known_args(args, namespace)
        flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        if flags:
            raise _unknown_flag(flags[0], arguments)
        if unknown:
            self.error(f"unexpected {unknown[0]!r}")
        return arguments


def _unknown_flag(flag: str, arguments: argparse.Namespace) -> ValueError:
    """The error for an unknown flag: its name here, the methods that have it, or similar flags."""
    option = flag.lstrip("-").removeprefix("no-").replace("-", "_")
    if hasattr(arguments, "method") and methods.explains(option):
        return methods.unknown_option(arguments.method, option)
    parser = arguments.parser
    return unknown_name(
        "argument", flag, [word for action in parser._actions for word in action.option_strings]
    )


def _method_in(argv: Sequence[str]) -> str | None:
    """The method named in a call of ``altmin train``; None if there is none."""
    if list(argv[:1]) != ["train"]:
        return None
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method")
    try:
        name: str | None = parser.parse_known_args(argv)[0].method
    except ValueError:  # a missing value, which the main parser reports
        return None
    return name


def _make_parser(method: str | None) -> argparse.ArgumentParser:
    """The parser of all commands; train takes the options of ``method`` alone."""
    parser = _Parser(prog="altmin", description=altmin_ext.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"altmin_ext {altmin_ext.__version__}")
    parser.set_defaults(command=None, parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add_command(name: str, run: Any, help: str, **more: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, allow_abbrev=False, **{"description": help, **more})
        command.set_defaults(command=run, parser=command)
        return command

    more: dict[str, Any] = {
        "epilog": _list_of_methods(),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }
    if method is not None:
        more = {"description": f"train a network on a known data set by {method}: {_summary(method)}"}
    more["usage"] = f"altmin train {f'--method {method}' if method else '[--method NAME]'} [OPTION ...]"
    command = add_command("train", _train, "train a network on a known data set", **more)
    _add_data_and_model(command.add_argument_group("data and model"))
    circumstances = command.add_argument_group("run")
    _add_run(circumstances)
    _add_circumstances(circumstances)
    _add_method_options(command.add_argument_group(f"options of {method}"), method)
    output = command.add_argument_group("output")
    output.add_argument(
        "--output", type=Path, metavar="DIR", help="write model, histories and learning curves there"
    )
    output.add_argument("--quiet", action="store_true", help="print only the final result")
    _add_json(output)

    command = add_command("evaluate", _evaluate, "test a network that `altmin train --output` has written")
    command.add_argument(
        "--model", required=True, type=Path, metavar="DIR", help="the directory that was --output"
    )
    command.add_argument("--data", metavar="NAME", help="data set to test on (default: the one trained on)")
    _add_json(command)
    _add_json(add_command("info", _info, "show versions, the native module, threads and the data found"))
    return parser


def _add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def _summary(method: str) -> str:
    """The one-line summary of a method."""
    return (methods.method_class(method).__doc__ or "").strip().partition("\n")[0].rstrip(".")


def _list_of_methods() -> str:
    lines = [f"  {name:<14}{_summary(name)}" for name in methods.names()]
    heading = "methods, whose options `altmin train --method NAME --help` explains:"
    return "\n".join([heading, *lines]).replace("%", "%%")


def _add_data_and_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data", default="digits", metavar="NAME", help=f"{', '.join(data.names())} (default: digits)")
    add("--network", default="mlp", metavar="NAME", help=f"{', '.join(_networks)} (default: mlp)")
    add(
        "--hidden",
        type=int,
        nargs="*",
        metavar="WIDTH",
        help="widths of the hidden layers (default: mlp 100 100; binary 500 500; deepfacto 100 50, the last its "
        "rank; elman 50; lenet5 has its own)",
    )
    add("--activation", metavar="NAME", help="activation of the hidden layers of an mlp (default: relu)")
    add(
        "--loss",
        metavar="NAME",
        help=f"{', '.join(losses.names())}; mse is against one-hot classes (default: {_default_losses()})",
    )


def _default_losses() -> str:
    """The default losses of the methods, for the help."""
    of_base = methods.Method.default_loss
    own = {name: methods.method_class(name).default_loss for name in methods.names()}
    return ", ".join([of_base, *(f"{loss} for {name}" for name, loss in own.items() if loss != of_base)])


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--method",
        default=_DEFAULT_METHOD,
        metavar="NAME",
        help=f"{', '.join(methods.names())} (default: {_DEFAULT_METHOD})",
    )
    add(
        "--compare",
        action="append",
        default=[],
        metavar="NAME[:OPTION=VALUE,...]",
        help="also train another method, from the same initial weights and in the same order of the data, with its "
        "default options unless some are given after its name, as in adam:lr=0.002; may be repeated",
    )
    add("--epochs", type=int, default=10, metavar="N", help="passes over the data (default: 10)")
    add(
        "--batch-size",
        type=int,
        metavar="SAMPLES",
        help="samples in a minibatch (default: 200, but at most a fiftieth of the training samples)",
    )
    add(
        "--lr-schedule",
        default="constant",
        metavar="NAME",
        help=f"learning-rate schedule: {' or '.join(schedules.names())} (default: constant)",
    )
    add(
        "--validation-fraction",
        type=float,
        default=0.0,
        metavar="PART",
        help="part of the training data held out and shown in the table in place of the test set (default: 0)",
    )
    add(
        "--patience",
        type=int,
        metavar="EPOCHS",
        help="stop after so many epochs without a better validation accuracy, and keep the best weights",
    )


def _add_circumstances(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--seed", type=int, default=0, metavar="N", help="seed of weights, data order and method (default: 0)"
    )
    add("--device", metavar="NAME", help="where to train, such as cpu or cuda (default: cpu)")
    add("--graph", action="store_true", help="on a GPU: capture the step as a CUDA graph and replay it")
    add("--threads", type=int, metavar="N", help="CPU threads (default: as many as torch chooses)")
    add(
        "--on-nonfinite",
        default="raise",
        metavar="WORD",
        help="what to do when a number is not finite: raise an error or skip the minibatch (default: raise)",
    )


def _add_method_options(group: argparse._ActionsContainer, method: str | None) -> None:
    """Add a flag for every option of a method that can be written on a command line.

    Without a method, the default method's options are accepted but not shown.
    """
    for field in dataclasses.fields(methods.method_class(method or _DEFAULT_METHOD).Options):
        if not field.metadata["flag"]:
            continue
        default = field.metadata["none"] if field.default is None else field.default
        flag: dict[str, Any] = {"type": _parse_value, "metavar": "VALUE"}
        if isinstance(field.default, bool):
            default = "yes" if field.default else "no"
            flag = {"action": argparse.BooleanOptionalAction}
        help = f"{help_of(field)} (default: {default})".replace("%", "%%")
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            dest=f"option.{field.name}",
            default=argparse.SUPPRESS,
            help=help if method else argparse.SUPPRESS,
            **flag,
        )


def _parse_value(text: str) -> int | float | bool | str:
    """A number if the text is one; the options check their values themselves."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _train(arguments: argparse.Namespace) -> None:
    if arguments.threads is not None:
        torch.set_num_threads(_check.threads("--threads", arguments.threads))
    if arguments.patience is not None and not arguments.validation_fraction:
        raise ValueError(
            "--patience must come with --validation-fraction: the test set must not decide when to stop."
        )
    dataset = data.load(arguments.data)
    architecture = _architecture(arguments, dataset)
    contestants = _make_methods(arguments, architecture)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)

    held_out = "validation" if arguments.validation_fraction else "test"
    histories: dict[str, History] = {}
    results = []
    written: list[str] = []
    for label, method in contestants.items():
        parts = [_with_targets(part, method.loss, dataset.classes) for part in (dataset.train, dataset.test)]
        title = label if histories else f"{_describe(dataset, architecture)}\n\n{label}"
        histories[label] = _run(arguments, method, parts[0], parts[1], _EpochTable(title, held_out))
        test = evaluate(method.model, parts[1], loss=method.loss)
        results.append(_result(label, method, histories[label], test))
        if arguments.output is not None:
            first = next(iter(contestants.values()))
            written = _save(arguments.output, first.model, architecture, histories, held_out)

    if arguments.json:
        print(to_json({**architecture, "seed": arguments.seed, "methods": results}))
    else:
        _print_results(results)
        if arguments.output is not None:
            print(f"\nwritten to {arguments.output}: {', '.join(sorted(written))}")


def _run(
    arguments: argparse.Namespace,
    method: methods.Method,
    train_data: tuple[Tensor, Tensor],
    test_data: tuple[Tensor, Tensor],
    table: _EpochTable,
) -> History:
    """Train one method as the arguments say."""
    callbacks: list[Any] = [] if arguments.quiet or arguments.json else [table]
    if arguments.patience is not None:
        callbacks.append(EarlyStopping(patience=arguments.patience))
    batch_size = arguments.batch_size
    if batch_size is None:
        batch_size = max(1, min(200, len(train_data[0]) // 50))
    return train(
        method.model,
        train_data,
        method=method,
        epochs=arguments.epochs,
        batch_size=batch_size,
        validation=None if arguments.validation_fraction else test_data,
        validation_fraction=arguments.validation_fraction,
        seed=arguments.seed,
        progress=not arguments.quiet and sys.stderr.isatty(),
        callbacks=callbacks,
        lr_schedule=arguments.lr_schedule,
    )


def _make_methods(arguments: argparse.Namespace, architecture: dict[str, Any]) -> dict[str, methods.Method]:
    """By label, --method first, then every --compare, each with its own copy of the same initial weights.

    All are made before one trains, so that a misspelt option costs no run.
    """
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
        chosen[label] = name, {key.replace("-", "_"): _parse_value(value) for key, _, value in pairs}

    device = _check.device("--device", arguments.device)
    seed = _check.seed("--seed", arguments.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        initial = _make_model(architecture)
    return {
        label: methods.make_method(
            name,
            copy.deepcopy(initial),
            seed=seed,
            device=device,
            on_nonfinite=arguments.on_nonfinite,
            graph=arguments.graph,
            **{"loss": arguments.loss, **options},
        )
        for label, (name, options) in chosen.items()
    }


def _deepfacto(features: int, hidden: list[int], classes: int) -> nn.Module:
    *widths, rank = hidden
    encoder = nn.Sequential(models.mlp(features, widths[:-1], widths[-1]), nn.BatchNorm1d(widths[-1]))
    return models.deepfacto(encoder, widths[-1], rank, nn.Linear(rank, classes))


# name -> (its usual hidden layers, what makes it)
_networks: dict[str, tuple[list[int], Callable[[dict[str, Any]], nn.Module]]] = {
    "mlp": ([100, 100], lambda a: models.mlp(a["features"], a["hidden"], a["classes"], a["activation"])),
    "binary": ([500, 500], lambda a: models.binary_mlp(a["features"], a["hidden"], a["classes"])),
    "deepfacto": ([100, 50], lambda a: _deepfacto(a["features"], a["hidden"], a["classes"])),
    "elman": ([50], lambda a: models.elman_rnn(1, a["hidden"][0], a["features"], a["classes"])),
    "lenet5": ([], lambda a: models.lenet5(a["shape"][0], a["shape"][1], a["classes"])),
}


def _architecture(arguments: argparse.Namespace, dataset: data.DataSet) -> dict[str, Any]:
    """All that makes the network again; written beside its weights."""
    name = arguments.network
    if name not in _networks:
        raise unknown_name("--network", name, _networks)
    usual, _ = _networks[name]
    hidden = usual if arguments.hidden is None else arguments.hidden
    if len(hidden) != len(usual) and name in ("elman", "lenet5"):
        wanted = "one width" if usual else "nothing"
        raise ValueError(f"--hidden must be {wanted} for --network {name}, but is {hidden}.")
    if name == "deepfacto" and len(hidden) < 2:
        raise ValueError(
            f"--hidden must be at least two widths for --network deepfacto, the last its rank, but is {hidden}."
        )
    if name != "mlp" and arguments.activation is not None:
        raise ValueError(f"--activation must be left out for --network {name}, which has its own.")
    shape = list(dataset.train[0].shape[1:])
    if name == "lenet5" and (len(shape) != 3 or shape[1] != shape[2]):
        raise ValueError(f"--network lenet5 must have square images, but {dataset.name} has shape {shape}.")
    return {
        "data": arguments.data,
        "network": name,
        "shape": shape,
        "features": dataset.n_in,
        "hidden": hidden,
        "classes": dataset.classes,
        "activation": arguments.activation or "relu",
        "loss": arguments.loss or methods.method_class(arguments.method).default_loss,
    }


def _make_model(architecture: dict[str, Any]) -> nn.Module:
    return _networks[architecture["network"]][1](architecture)


def _describe(dataset: data.DataSet, architecture: dict[str, Any]) -> str:
    name, widths = architecture["network"], architecture["hidden"]
    shown = "-".join(map(str, [architecture["features"], *widths, architecture["classes"]]))
    network = (
        f"{shown}, {architecture['activation']}" if name == "mlp" else f"{name} {shown}" if widths else name
    )
    return (
        f"{dataset.name}: {len(dataset.train[0]):,} training and {len(dataset.test[0]):,} test samples; "
        f"network {network}"
    )


def _with_targets(part: tuple[Tensor, Tensor], loss: Loss, classes: int) -> tuple[Tensor, Tensor]:
    """(x, y) with y as the loss takes it: for mse, one-hot."""
    x, y = part
    return x, loss.from_labels(y, classes, x.dtype)


def _save(
    folder: Path,
    model: nn.Module,
    architecture: dict[str, Any],
    histories: dict[str, History],
    held_out: str,
) -> list[str]:
    """Write the first method's model, every history and the learning curves; return the files' names."""
    with atomic_write(folder / "model.json") as file:
        file.write(to_json(architecture, indent=2).encode())
    with atomic_write(folder / "model.pt") as file:
        torch.save(model.state_dict(), file)
    written = ["model.json", "model.pt"]
    for index, (label, history) in enumerate(histories.items()):
        suffix = "-" + re.sub(r"[^\w.]+", "-", label) if index else ""
        written.append(f"history{suffix}.json")
        history.save(folder / written[-1])
    try:
        plot_histories(histories, folder / "learning-curve.png", held_out=held_out)
        written.append("learning-curve.png")
    except ImportError as error:
        print(f"altmin: learning-curve.png was not drawn: {error}", file=sys.stderr)
    return written


class _EpochTable:
    """Prints a row for every epoch of a run."""

    def __init__(self, title: str, held_out: str) -> None:
        self._title = title
        held_out_columns = f"{held_out} loss", f"{held_out} accuracy"
        self._columns = ("epoch", "loss", "accuracy", *held_out_columns, "samples/s")

    def on_start(self, state: TrainingState) -> None:
        self._print(f"{self._title}\n{_line(self._columns, self._columns)}")

    def on_epoch(self, state: TrainingState) -> None:
        row = state.history.epochs[-1]
        numbers = (row[key] for key in ("loss", "accuracy", "validation_loss", "validation_accuracy"))
        cells = [str(row["epoch"]), *map(_decimals, numbers), f"{row['samples_per_second']:,.0f}"]
        self._print(_line(cells, self._columns))

    def on_end(self, state: TrainingState) -> None:
        self._print("")

    def _print(self, line: str) -> None:
        tqdm.write(line, file=sys.stdout)  # above the bar, where one is shown
        sys.stdout.flush()


def _result(label: str, method: methods.Method, history: History, test: Evaluation) -> dict[str, Any]:
    """What is reported of a run."""
    seconds = sum(row["seconds"] for row in history.epochs)
    samples = sum(row["seconds"] * row["samples_per_second"] for row in history.epochs)
    fields = dataclasses.fields(method.options)
    return {
        "label": label,
        "method": method.name,
        "loss": method.loss.name,
        "options": {f.name: getattr(method.options, f.name) for f in fields if f.metadata.get("flag", True)},
        "epochs": history.epochs,
        "seconds": seconds,
        "samples_per_second": samples / seconds,
        "test": dataclasses.asdict(test),
    }


def _print_results(results: list[dict[str, Any]]) -> None:
    first = max(len("method"), *(len(result["label"]) for result in results))
    columns = ("epochs", "test loss", "test accuracy", "seconds", "samples/s")
    print(f"{'method':<{first}}  {_line(columns, columns)}")
    for result in results:
        cells = (
            str(len(result["epochs"])),
            _decimals(result["test"]["loss"]),
            _decimals(result["test"]["accuracy"]),
            f"{result['seconds']:.2f}",
            f"{result['samples_per_second']:,.0f}",
        )
        print(f"{result['label']:<{first}}  {_line(cells, columns)}")


def _line(cells: Sequence[str], columns: Sequence[str]) -> str:
    """A row of a table, each cell right-aligned under its heading."""
    return "  ".join(f"{cell:>{max(len(name), 9)}}" for cell, name in zip(cells, columns, strict=True))


def _decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _evaluate(arguments: argparse.Namespace) -> None:
    folder = arguments.model
    try:
        architecture = json.loads((folder / "model.json").read_bytes())
        model = _make_model(architecture)
        model.load_state_dict(torch.load(folder / "model.pt", map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file makes torch.load raise almost anything
        raise ValueError(
            f"--model must be a folder written by `altmin train --output`, but {str(folder)!r} is not: "
            f"{type(error).__name__} {error}"
        ) from error
    name = arguments.data or architecture["data"]
    loss = make_loss(architecture["loss"])
    test = evaluate(model, _with_targets(data.load(name).test, loss, architecture["classes"]), loss=loss)
    if arguments.json:
        print(to_json({"data": name, **dataclasses.asdict(test)}))
    else:
        print(f"{name}: {test.samples:,} samples, loss {test.loss:.4f}, accuracy {_decimals(test.accuracy)}")


def _info(arguments: argparse.Namespace) -> None:
    found = {name: data.location(name) for name in data.names()}
    information = {
        "altmin_ext": altmin_ext.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "native": native.describe(),
        "data": {name: None if path is None else str(path) for name, path in found.items()},
    }
    if arguments.json:
        print(to_json(information))
        return
    for name, value in information.items():
        if not isinstance(value, dict):
            print(f"{name:<12}{_words(value)}")
            continue
        print(name)
        for key, item in value.items():
            print(f"  {key:<16}{_absent(name, key) if item is None else _words(item)}")


def _absent(table: str, key: str) -> str:
    if table != "data":
        return "-"
    return "not here; needs scikit-learn" if key == "digits" else "not here; downloaded when first used"


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


if __name__ == "__main__":
    sys.exit(main())
