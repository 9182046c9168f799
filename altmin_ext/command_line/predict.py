"""The command predict."""

from __future__ import annotations

import argparse
import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from altmin_ext import data, evaluation
from altmin_ext._extras import require
from altmin_ext._files import to_json, write_file
from altmin_ext.command_line import datasets, output
from altmin_ext.command_line.streams import say
from altmin_ext.data._preprocessing import content_of, inputs, refusing
from altmin_ext.errors import unknown_name

_SUFFIXES = (".csv", ".tsv", ".parquet", ".npz")


def run(arguments: argparse.Namespace) -> None:
    """Predict by a network that the command train has written."""
    architecture, model = output.read(arguments.model)
    if arguments.probabilities and architecture["loss"] != "cross_entropy":
        raise ValueError(
            f"--probabilities must be left out for a network trained with the loss {architecture['loss']!r}, whose "
            "outputs are none."
        )
    if arguments.output is not None:
        _check_output(arguments.output, arguments.data)
    own: data.Preprocessing | None = architecture["preprocessing"]
    x, names = _samples(arguments.data, own, architecture["data"])
    outputs = evaluation.predict(model, x)
    classes = list(own.classes) if own is not None else list(range(architecture["classes"]))
    columns: dict[str, list[Any]] = {"file": names} if names else {}
    predictions = own.values(outputs) if own is not None else outputs.argmax(1).tolist()
    if isinstance(predictions[0], list):
        for number, column in enumerate(zip(*predictions, strict=True), 1):
            columns[f"prediction_{number}"] = list(column)
    else:
        columns["prediction"] = predictions
    if arguments.probabilities:
        for name, column in zip(classes, outputs.double().softmax(1).T.tolist(), strict=True):
            columns[f"probability_{name}"] = column
    if arguments.output is not None:
        write_file(arguments.output, _content(columns, arguments.output.suffix.lower()))
    if arguments.json:
        say(to_json({"data": arguments.data, "samples": len(x), **columns}))
    elif arguments.output is None:
        say(_content(columns, ".csv").decode().rstrip("\n"))
    else:
        say(f"{len(x):,} predictions written to {arguments.output}")


def _samples(name: str, own: data.Preprocessing | None, trained_on: str) -> tuple[Tensor, list[str]]:
    """What to predict, and the names of its images."""
    if not datasets.is_file(name):
        return data.load(name).test[0], []
    if own is None:
        raise ValueError(
            f"--data must be the name of a known data set for a network that was trained on {trained_on}, but is the "
            f"file {name}; altmin_ext.predict takes any array."
        )
    path = Path(name)
    with refusing(path):
        content = content_of(own, path)
        return inputs(own, content), list(content.names)


def _check_output(path: Path, data: str) -> None:
    """Raise before anything is predicted if it could not be written."""
    if path.suffix.lower() not in _SUFFIXES:
        raise unknown_name("suffix of --output", path.suffix, _SUFFIXES)
    if path.suffix.lower() == ".parquet":
        require("pandas", "parquet")
        require("pyarrow", "parquet")
    if path.exists() and os.path.exists(data) and path.samefile(data):
        raise ValueError(f"--output must be another file than --data, but both are {path}.")


def _content(columns: dict[str, list[Any]], suffix: str) -> bytes:
    """A file of these columns."""
    if suffix == ".npz":
        arrays = io.BytesIO()
        np.savez(arrays, **{name: np.array(column) for name, column in columns.items()})  # type: ignore[arg-type]
        return arrays.getvalue()
    if suffix == ".parquet":
        table: bytes = require("pandas", "parquet").DataFrame(columns).to_parquet(index=False)
        return table
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()
