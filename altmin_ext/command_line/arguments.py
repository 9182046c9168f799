"""The arguments of the commands, and what they mean."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import altmin_ext
from altmin_ext import data, losses, methods, schedules
from altmin_ext._words import by_spelling, plain_spelling
from altmin_ext.command_line import networks
from altmin_ext.command_line.streams import say
from altmin_ext.errors import unknown_name
from altmin_ext.methods._options import help_of

_DEFAULT_METHOD = "am-adam"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; ``command`` is None if there are none.

    Raises:
        ValueError: an argument is wrong.
        SystemExit: help or the version was asked for, and printed.
    """
    parser = _make_parser(_method_in(argv))
    arguments: argparse.Namespace = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
    return arguments


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument like any other error: one sentence, no usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: Any = None) -> None:
        say(message.rstrip("\n"))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments, unknown = self.parse_known_args(args, namespace)
        flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        if flags:
            raise _unknown_flag(flags[0], arguments)
        if unknown:
            self.error(f"unexpected {unknown[0]!r}")
        return arguments


# Other words for flags of train, where they are not the names of arguments in Python.
_other_flags = by_spelling(
    {
        "verbose verbosity progress progress_bar silent": "--quiet",
        "n_jobs num_threads n_threads": "--threads",
        "early_stopping tol": "--patience",
        "dataset": "--data",
        "model net arch architecture": "--network",
        "layers hidden_layers hidden_layer_sizes": "--hidden",
        "out out_dir output_dir save save_dir": "--output",
        "steps max_steps num_steps": "--epochs",
        "validation validation_data": "--validation-fraction",
        "checkpoint checkpoints checkpoint_interval save_every save_interval save_freq": "--checkpoint-every",
        "resume_from restart continue restore load": "--resume",
        "keep_last max_to_keep save_total_limit": "--keep",
    }
)


def _unknown_flag(flag: str, arguments: argparse.Namespace) -> ValueError:
    """The error for an unknown flag: its name here, the methods that have it, or similar flags."""
    option = flag.lstrip("-").removeprefix("no-").replace("-", "_")
    if hasattr(arguments, "method") and (other := _other_flags.get(plain_spelling(option))):
        return ValueError(f"unknown argument {flag!r}: did you mean {other!r}?")
    if hasattr(arguments, "method") and methods.explains(option):
        return methods.unknown_option(arguments.method, option)
    parser = arguments.parser
    return unknown_name(
        "argument", flag, [word for action in parser._actions for word in action.option_strings]
    )


def _method_in(argv: Sequence[str]) -> str | None:
    """The method named in a call of ``altmin train`` or ``altmin tune``; None if there is none."""
    if not argv or argv[0] not in ("train", "tune"):
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

    def add_command(name: str, help: str, **more: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, allow_abbrev=False, **{"description": help, **more})
        command.set_defaults(command=name, parser=command)
        return command

    more: dict[str, Any] = {
        "epilog": _list_of_methods(),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }
    if method is not None:
        more = {"description": f"train a network on a known data set by {method}: {_summary(method)}"}
    more["usage"] = f"altmin train {f'--method {method}' if method else '[--method NAME]'} [OPTION ...]"
    command = add_command("train", "train a network on a known data set", **more)
    _add_data_and_model(command.add_argument_group("data and model"))
    circumstances = command.add_argument_group("run")
    _add_run(circumstances)
    _add_validation(circumstances)
    _add_circumstances(circumstances)
    _add_method_options(command.add_argument_group(f"options of {method}"), method)
    _add_output(command.add_argument_group("output"))

    command = add_command("tune", "search options of methods, with as many trials for each")
    _add_data_and_model(command.add_argument_group("data and model"))
    _add_search(command.add_argument_group("search"))
    circumstances = command.add_argument_group("every trial")
    _add_run(circumstances)
    _add_circumstances(circumstances)
    _add_method_options(command.add_argument_group(f"options of {method}, where they are fixed"), method)

    command = add_command("evaluate", "test a network that `altmin train --output` has written")
    command.add_argument(
        "--model", required=True, type=Path, metavar="DIR", help="the directory that was --output"
    )
    command.add_argument("--data", metavar="NAME", help="data set to test on (default: the one trained on)")
    _add_json(command)
    command = add_command("inspect", "show what a checkpoint or a model holds, and whether it is whole")
    command.add_argument("file", type=Path, metavar="FILE", help="such as checkpoint.safetensors in --output")
    _add_json(command)
    _add_json(add_command("info", "show versions, the native module, threads and the data found"))
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
    add("--network", default="mlp", metavar="NAME", help=f"{', '.join(networks.names())} (default: mlp)")
    add(
        "--hidden",
        type=int,
        nargs="*",
        metavar="WIDTH",
        help="widths of the hidden layers (default: mlp 100 100; binary 500 500; deepfacto 100 50, the last its "
        "rank; elman 50; random and random-convolution 500 frozen features; lenet5 has its own)",
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


def _add_validation(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
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
        help="what to do when a number is not finite: raise an error, skip the minibatch, or restore an earlier "
        "state and halve the learning rates (default: raise)",
    )


def _add_search(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--search",
        action="append",
        default=[],
        metavar="[METHOD.]OPTION=SPACE",
        help="an option to search, of all methods that have it or of one: LOW:HIGH, LOW:HIGH:log, or A,B,C; also "
        "batch-size and lr-schedule; may be repeated",
    )
    add("--trials", type=int, default=20, metavar="N", help="trainings of every method (default: 20)")
    add(
        "--validation-fraction",
        type=float,
        default=0.2,
        metavar="PART",
        help="part of the training data held out, the same in every trial, to compare them on (default: 0.2)",
    )
    add(
        "--monitor",
        default="validation_accuracy",
        choices=("validation_accuracy", "validation_loss"),
        metavar="NAME",
        help="what is sought, after the last epoch: validation_accuracy or validation_loss (default: "
        "validation_accuracy)",
    )
    add(
        "--prune",
        action="store_true",
        help="end a trial that is worse than the median of the others after as many epochs; budgets then differ",
    )
    add("--output", type=Path, metavar="DIR", help="keep the study there, in study.db, and write trials.csv")
    add(
        "--resume",
        action="store_true",
        help="go on with the study in --output, with all other arguments as before, except that --trials may be "
        "larger",
    )
    add("--quiet", action="store_true", help="print only the final result")
    _add_json(group)


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="write model, histories and learning curves there, and checkpoints while the run goes on",
    )
    add(
        "--resume",
        action="store_true",
        help="go on where the checkpoints in --output stand, or begin where there is none; with all other arguments "
        "as before, except that --epochs may be larger",
    )
    add(
        "--checkpoint-every",
        type=parse_value,
        metavar="INTERVAL",
        help="write a checkpoint after so many minibatches, or after seconds, as in 30s, and after every epoch "
        f"(default: {_default_of_train('checkpoint_every')})",
    )
    add(
        "--keep",
        type=int,
        metavar="N",
        help="keep the N checkpoints before the last one, too, as checkpoint-MINIBATCHES.safetensors "
        f"(default: {_default_of_train('keep')})",
    )
    add(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="further columns, of the validation or test data: metrics of torchmetrics for several classes, such as "
        "F1Score or AUROC",
    )
    add("--quiet", action="store_true", help="print only the final result")
    _add_json(group)


def _default_of_train(name: str) -> Any:
    """The default of an argument of :func:`altmin_ext.train`, for the help."""
    return inspect.signature(altmin_ext.train).parameters[name].default


def _add_method_options(group: argparse._ActionsContainer, method: str | None) -> None:
    """Add a flag for every option of a method that can be written on a command line.

    Without a method, the default method's options are accepted but not shown.
    """
    for field in dataclasses.fields(methods.method_class(method or _DEFAULT_METHOD).Options):
        if not field.metadata["flag"]:
            continue
        default = field.metadata["none"] if field.default is None else field.default
        flag: dict[str, Any] = {"type": parse_value, "metavar": "VALUE"}
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


def parse_value(text: str) -> int | float | bool | str:
    """A number if the text is one; the options check their values themselves."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
