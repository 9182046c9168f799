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
from altmin_ext.command_line import export, networks
from altmin_ext.command_line.streams import say
from altmin_ext.errors import unknown_name
from altmin_ext.methods._options import help_of
from altmin_ext.network.activations import known_activations

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

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = (
                "command"
                if action.dest == "command"
                else action.option_strings[0]
                if action.option_strings
                else "shell"
            )
            raise unknown_name(what, str(value), map(str, action.choices))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments, unknown = self.parse_known_args(args, namespace)
        flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        if flags:
            raise _unknown_flag(flags[0], arguments)
        if unknown:
            self.error(f"unexpected {unknown[0]!r}")
        return arguments


class _HelpOfCommands(argparse.RawDescriptionHelpFormatter):
    """Has room for the names of the commands, which argparse forgets to be indented."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment


# Other words for flags, where they are not the names of arguments in Python; the first that a command has counts.
_other_flags = by_spelling(
    {
        "optimizer optimiser optim algorithm": ("--method",),
        "lr_scheduler scheduler lr_policy": ("--lr-schedule",),
        "n_epochs num_epochs max_epochs iterations steps max_steps num_steps": ("--epochs",),
        "batch bs minibatch_size": ("--batch-size",),
        "random_state random_seed": ("--seed",),
        "gpu cuda accelerator": ("--device",),
        "criterion loss_fn loss_function": ("--loss",),
        "verbose verbosity progress progress_bar silent": ("--quiet",),
        "n_jobs num_threads n_threads": ("--threads",),
        "early_stopping tol": ("--patience",),
        "dataset train_data train_file csv input file": ("--data",),
        "y label label_column target_column response": ("--target",),
        "test test_file test_set": ("--test-data",),
        "test_size test_split": ("--test-fraction",),
        "problem problem_type": ("--task",),
        "exclude ignore drop_columns": ("--drop",),
        "resize img_size size": ("--image-size",),
        "model net arch architecture": ("--network",),
        "model_path model_dir ckpt weights": ("--model",),
        "layers hidden_layers hidden_layer_sizes hidden_sizes hidden_units hidden_dims width units": (
            "--hidden",
        ),
        "nonlinearity act": ("--activation",),
        "out out_dir output_dir output_file save save_dir": ("--output",),
        "proba predict_proba": ("--probabilities",),
        "validation validation_data validation_split val_fraction": ("--validation-fraction",),
        "checkpoint checkpoints checkpoint_interval save_every save_interval save_freq": (
            "--checkpoint-every",
            "--model",
        ),
        "resume_from restart continue restore load": ("--resume", "--model"),
        "keep_last max_to_keep save_total_limit": ("--keep",),
    }
)


def _unknown_flag(flag: str, arguments: argparse.Namespace) -> ValueError:
    """The error for an unknown flag: its name here, the methods that have it, or similar flags."""
    option = flag.lstrip("-").removeprefix("no-").replace("-", "_")
    flags = [word for action in arguments.parser._actions for word in action.option_strings]
    for other in _other_flags.get(plain_spelling(option), ()):
        if other in flags:
            return ValueError(f"unknown argument {flag!r}: did you mean {other!r}?")
    if hasattr(arguments, "method") and methods.explains(option):
        return methods.unknown_option(arguments.method, option)
    return unknown_name("argument", flag, flags)


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
    """The parser of all commands; train and tune take the options of ``method`` alone."""
    parser = _Parser(
        prog="altmin", usage="altmin COMMAND [OPTION ...]", description=altmin_ext.__doc__, epilog=_HINT,
        formatter_class=_HelpOfCommands, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"altmin_ext {altmin_ext.__version__}")
    parser.set_defaults(command=None, parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", prog="altmin")

    def add_command(name: str, help: str, **more: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, allow_abbrev=False, **{"description": help, **more})
        command.set_defaults(command=name, parser=command)
        return command

    more: dict[str, Any] = {
        "epilog": _list_of_methods(),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }
    if method is not None:
        more = {"description": f"train a network by {method}: {_summary(method)}"}
    more["usage"] = f"altmin train {f'--method {method}' if method else '[--method NAME]'} [OPTION ...]"
    command = add_command("train", "train a network on a known data set or on your own file", **more)
    _add_data(command.add_argument_group("data"))
    _add_network(command.add_argument_group("network"))
    _add_method(command.add_argument_group("method"))
    _add_method_options(command.add_argument_group(f"options of {method}"), method)
    group = command.add_argument_group("run")
    _add_run(group)
    _add_validation(group)
    _add_circumstances(group)
    group.add_argument(
        "--parallel",
        choices=("data",),
        metavar="data",
        help="share every minibatch among the processes that torchrun has started: torchrun --nproc-per-node 2 -m "
        "altmin_ext train --parallel data",
    )
    _add_output(command.add_argument_group("output"))

    command = add_command("tune", "search options of methods, with as many trials for each")
    _add_data(command.add_argument_group("data"))
    _add_network(command.add_argument_group("network"))
    _add_search(command.add_argument_group("search"))
    _add_method(command.add_argument_group("method"))
    _add_method_options(command.add_argument_group(f"options of {method}, where they are fixed"), method)
    group = command.add_argument_group("every trial")
    _add_run(group)
    _add_circumstances(group)

    command = add_command("evaluate", "test a network that `altmin train --output` has written")
    _add_model(command)
    command.add_argument(
        "--data", metavar="NAME|FILE", help="data to test on (default: the test part of those trained on)"
    )
    command.add_argument("--target", metavar="FILE", help="of an .npy file, the one with the targets")
    _add_json(command)

    command = add_command("predict", "predict by a network that `altmin train --output` has written")
    _add_model(command)
    command.add_argument(
        "--data",
        required=True,
        metavar="NAME|FILE",
        help="what to predict: a file like that trained on, without targets; or the test part of a known data set",
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="a .csv, .tsv, .parquet or .npz file to write (default: csv on standard output)",
    )
    command.add_argument("--probabilities", action="store_true", help="also the probability of every class")
    _add_json(command)

    command = add_command("export", "write a trained network in the format of another program")
    _add_model(command)
    command.add_argument(
        "--format",
        metavar="NAME",
        help=f"{', '.join(export.formats())} (default: by the suffix of --output: .onnx, .pt2, .safetensors, .pt); "
        "the first two hold all computations, the others the weights by their names, for load_state_dict",
    )
    command.add_argument("--output", required=True, type=Path, metavar="FILE", help="the file to write")

    command = add_command("inspect", "show what a checkpoint or a model holds, and whether it is whole")
    command.add_argument("file", type=Path, metavar="FILE", help="such as checkpoint.safetensors in --output")
    _add_json(command)
    _add_json(add_command("info", "show versions, the native module, threads and the data found"))
    command = add_command("completion", "print what makes a shell complete commands, flags and names")
    command.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=" or ".join(_SHELLS))
    return parser


_SHELLS = ("bash", "zsh", "fish")
_HINT = """\
altmin COMMAND --help explains a command, altmin train --method NAME --help a method.

examples:
  altmin train --data digits --method am-adam --output runs/digits
  altmin train --data mine.csv --target label --output runs/mine
  altmin predict --model runs/mine --data new.csv --output predictions.csv"""


def completed(file: Any, folder: Any) -> argparse.ArgumentParser:
    """The parser of all commands as shtab takes it: with the options of all methods, and names to choose from.

    Args:
        file: what marks an argument as a file for shtab.
        folder: likewise, as a folder.
    """
    parser = _make_parser(None)
    names = {
        "method": methods.names(), "network": networks.names(), "loss": losses.names(),
        "lr_schedule": schedules.names(),
        "activation": list(known_activations), "format": export.formats(), "task": list(_TASKS),
    }  # fmt: skip
    (commands,) = (
        action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    for name, command in commands.items():
        if name in ("train", "tune"):
            _add_options_of_all_methods(command)
        for action in command._actions:
            if action.dest in names and action.option_strings:
                action.choices = names[action.dest]
            elif action.dest in ("data", "test_data", "file", "model") or action.type is Path:
                action.complete = folder if name in ("train", "tune") and action.dest == "output" else file
    return parser


def _add_options_of_all_methods(command: argparse.ArgumentParser) -> None:
    """Add the flags of all methods to those of the default method, which are there."""
    for action in command._actions:
        if action.dest.startswith("option."):
            action.help = ""
    for name in methods.names():
        for field in dataclasses.fields(methods.method_class(name).Options):
            flag = "--" + field.name.replace("_", "-")
            if field.metadata["flag"] and flag not in command._option_string_actions:
                command.add_argument(
                    flag, dest=f"option.{field.name}", help=help_of(field).replace("%", "%%")
                )


def _add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def _summary(method: str) -> str:
    """The one-line summary of a method."""
    return (methods.method_class(method).__doc__ or "").strip().partition("\n")[0].rstrip(".")


def _list_of_methods() -> str:
    lines = [f"  {name:<14}{_summary(name)}" for name in methods.names()]
    heading = "methods, whose options `altmin train --method NAME --help` explains:"
    return "\n".join([heading, *lines]).replace("%", "%%")


def _add_model(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--model",
        required=True,
        type=Path,
        metavar="DIR",
        help="the folder that was --output, or the file in it",
    )


_TASKS = ("classification", "regression")


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--data",
        default="digits",
        metavar="NAME|FILE",
        help=f"{', '.join(data.names())}; or your own .csv, .tsv, .parquet, .npz or .npy file, or a folder with a "
        "folder of images for each class (default: digits)",
    )
    add(
        "--target",
        metavar="NAME",
        help="of your own table, the column with the targets; of an .npz file, the array (default: y); of an .npy "
        "file, another one",
    )
    add("--test-data", metavar="FILE", help="your own file to test on (default: a part of --data, held out)")
    add("--test-fraction", type=float, metavar="PART", help="that part (default: 0.2)")
    add(
        "--task",
        choices=_TASKS,
        metavar="NAME",
        help="classification or regression (default: regression of floats)",
    )
    add("--drop", nargs="+", metavar="COLUMN", help="columns of your own table to leave out")
    add(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="height and width that your own images are brought to",
    )


def _add_network(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
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
        help=f"{', '.join(losses.names())}; mse is against one-hot classes, or the numbers of a regression (default: "
        f"{_default_losses()}; mse for a regression)",
    )


def _default_losses() -> str:
    """The default losses of the methods, for the help."""
    of_base = methods.Method.default_loss
    own = {name: methods.method_class(name).default_loss for name in methods.names()}
    return ", ".join([of_base, *(f"{loss} for {name}" for name, loss in own.items() if loss != of_base)])


def _add_method(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--method",
        default=_DEFAULT_METHOD,
        metavar="NAME",
        help=f"one of those that altmin train --help lists (default: {_DEFAULT_METHOD})",
    )
    add(
        "--compare",
        action="append",
        default=[],
        metavar="NAME[:OPTION=VALUE,...]",
        help="also train another method, from the same initial weights and in the same order of the data, with its "
        "default options unless some are given after its name, as in adam:lr=0.002; may be repeated",
    )
    add(
        "--lr-schedule",
        default="constant",
        metavar="NAME",
        help=f"learning-rate schedule: {' or '.join(schedules.names())} (default: constant)",
    )
    add(
        "--on-nonfinite",
        default="raise",
        metavar="WORD",
        help="what to do when a number is not finite: raise an error, skip the minibatch, or restore an earlier "
        "state and halve the learning rates (default: raise)",
    )
    add("--graph", action="store_true", help="on a GPU: capture the step as a CUDA graph and replay it")


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--epochs", type=int, default=10, metavar="N", help="passes over the data (default: 10)")
    add(
        "--batch-size",
        type=int,
        metavar="SAMPLES",
        help="samples in a minibatch (default: 200, but at most a fiftieth of the training samples)",
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
    add("--threads", type=int, metavar="N", help="CPU threads (default: as many as torch chooses)")


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
