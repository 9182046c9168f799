"""The command evaluate."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from torch import Tensor

from altmin_ext import data, training
from altmin_ext._files import to_json
from altmin_ext.command_line import datasets, output, tables
from altmin_ext.command_line.streams import say
from altmin_ext.data._own_files import load_test
from altmin_ext.losses import make_loss


def run(arguments: argparse.Namespace) -> None:
    """Test a network that the command train has written."""
    architecture, model = output.read(arguments.model)
    name = arguments.data or architecture["data"]
    loss = make_loss(architecture["loss"])
    x, y = _samples(arguments, architecture)
    test = training.evaluate(model, (x, datasets.targets(loss, x, y, architecture["classes"])), loss=loss)
    if arguments.json:
        say(to_json({"data": name, **dataclasses.asdict(test)}))
    else:
        accuracy = tables.decimals(test.accuracy)
        say(f"{name}: {test.samples:,} samples, loss {test.loss:.4f}, accuracy {accuracy}")


def _samples(arguments: argparse.Namespace, architecture: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """What to test on: a file, the test part of a known data set, or that of what the network was trained on."""
    own: data.Preprocessing | None = architecture["preprocessing"]
    if arguments.data is None and own is not None:
        return load_test(own, architecture["data"], **datasets.as_keywords(architecture["file"]))
    if arguments.data is None or not datasets.is_file(arguments.data):
        return data.load(arguments.data or architecture["data"]).test
    if own is None:
        raise ValueError(
            f"--data must be the name of a known data set for a network that was trained on {architecture['data']}, "
            f"but is the file {arguments.data}."
        )
    x, y = own.read(arguments.data, target=arguments.target, labelled=True)
    assert y is not None
    return x, y
