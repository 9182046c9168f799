"""The networks that the command line can make: what describes one, and what makes it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from torch import nn

from altmin_ext import data, methods, models
from altmin_ext.command_line import datasets
from altmin_ext.errors import unknown_name


def names() -> list[str]:
    """The names that ``--network`` takes."""
    return list(_networks)


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
    "random": ([500], lambda a: models.random_features(a["features"], a["hidden"][0], a["classes"])),
    "random-convolution": ([500], lambda a: models.random_features(a["shape"], a["hidden"][0], a["classes"])),
    "lenet5": ([], lambda a: models.lenet5(a["shape"][0], a["shape"][1], a["classes"])),
}

_of_fixed_depth = ("elman", "lenet5", "random", "random-convolution")


def architecture(arguments: argparse.Namespace, dataset: data.DataSet) -> dict[str, Any]:
    """All that makes the network again; written beside its weights."""
    name = arguments.network
    if name not in _networks:
        raise unknown_name("--network", name, _networks)
    usual, _ = _networks[name]
    hidden = usual if arguments.hidden is None else arguments.hidden
    if len(hidden) != len(usual) and name in _of_fixed_depth:
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
    if name == "random-convolution" and len(shape) != 3:
        raise ValueError(f"--network {name} must have images, but {dataset.name} has shape {shape}.")
    own = {}
    if dataset.preprocessing is not None:
        own = {"file": datasets.settings(arguments), "preprocessing": dataset.preprocessing.to_dict()}
    return {
        "data": arguments.data,
        "network": name,
        "shape": shape,
        "features": dataset.n_in,
        "hidden": hidden,
        "classes": dataset.n_out,
        "activation": arguments.activation or "relu",
        "loss": loss_of(arguments, dataset),
        **own,
    }


def loss_of(arguments: argparse.Namespace, dataset: data.DataSet) -> str:
    """The loss of --method.

    Raises:
        ValueError: a loss of classes is asked for, but there are none.
    """
    given: str | None = arguments.loss
    if dataset.classes:
        return given or methods.method_class(arguments.method).default_loss
    if given not in (None, "mse"):
        raise ValueError(f"--loss must be mse for a regression, as of {dataset.name}, but is {given}.")
    return "mse"


def make(architecture: dict[str, Any]) -> nn.Module:
    """Make a network, with weights of torch's global generator, from the result of :func:`architecture`.

    Raises:
        MemoryError: the weights do not fit into memory.
    """
    try:
        return _networks[architecture["network"]][1](architecture)
    except (
        RuntimeError,
        TypeError,
        OverflowError,
    ) as error:  # torch's for memory that cannot be had or counted
        raise MemoryError(
            f"--hidden must be widths whose weights fit into memory, but is {architecture['hidden']}; choose smaller "
            "ones."
        ) from error


def describe(dataset: data.DataSet, architecture: dict[str, Any]) -> str:
    """Describe data and network in one line."""
    name, widths = architecture["network"], architecture["hidden"]
    shown = "-".join(map(str, [architecture["features"], *widths, architecture["classes"]]))
    network = (
        f"{shown}, {architecture['activation']}" if name == "mlp" else f"{name} {shown}" if widths else name
    )
    found, meaning = dataset.preprocessing, ""
    if found is not None:
        of = f" of {found.target!r}" if found.target else ""
        meaning = f"{dataset.classes} classes{of}; " if dataset.classes else f"regression{of}; "
    return (
        f"{dataset.name}: {len(dataset.train[0]):,} training and {len(dataset.test[0]):,} test samples; {meaning}"
        f"network {network}"
    )
