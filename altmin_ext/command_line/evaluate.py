"""The command evaluate."""

from __future__ import annotations

import argparse
import dataclasses

from altmin_ext import data, training
from altmin_ext._files import to_json
from altmin_ext.command_line import output, tables
from altmin_ext.command_line.streams import say
from altmin_ext.losses import make_loss


def run(arguments: argparse.Namespace) -> None:
    """Test a network that the command train has written."""
    architecture, model = output.read(arguments.model)
    name = arguments.data or architecture["data"]
    loss = make_loss(architecture["loss"])
    x, y = data.load(name).test
    targets = loss.from_labels(y, architecture["classes"], x.dtype)
    test = training.evaluate(model, (x, targets), loss=loss)
    if arguments.json:
        say(to_json({"data": name, **dataclasses.asdict(test)}))
    else:
        accuracy = tables.decimals(test.accuracy)
        say(f"{name}: {test.samples:,} samples, loss {test.loss:.4f}, accuracy {accuracy}")
