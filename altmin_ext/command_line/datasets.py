"""The data of a command: a known data set by name, or the user's own file."""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from altmin_ext import data
from altmin_ext.data._own_files import is_file_name
from altmin_ext.losses import Loss

# Arguments that say how a file of one's own is read; each is None if it is left out.
_OF_FILES = ("target", "test_data", "test_fraction", "task", "drop", "image_size")


def is_file(name: str) -> bool:
    """Whether --data names a file or folder of one's own."""
    return name not in data.names() and is_file_name(name)


def load(arguments: argparse.Namespace) -> data.DataSet:
    """Load the data that --data and the flags beside it name.

    Raises:
        ValueError: a flag for files has been given with a known data set.
        TypeError, ValueError, ImportError, OSError: as in :func:`altmin_ext.data.load` and ``load_file``.
    """
    given = settings(arguments)
    if is_file(arguments.data):
        return data.load_file(arguments.data, **as_keywords(given))
    for name, value in given.items():
        if value is not None:
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"{flag} must be left out for the known data set {arguments.data!r}; it is for files."
            )
    return data.load(arguments.data)


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """By name, how a file is read."""
    return {name: getattr(arguments, name) for name in _OF_FILES}


def as_keywords(given: dict[str, Any]) -> dict[str, Any]:
    """Settings as the keyword arguments of ``load_file``, for those that are given."""
    names = {"test_data": "test"}
    return {names.get(name, name): value for name, value in given.items() if value is not None}


def targets(loss: Loss, x: Tensor, y: Tensor, n_out: int) -> Tensor:
    """Targets as the loss takes them: for mse, numbers as they are and classes one-hot."""
    return y if y.is_floating_point() else loss.from_labels(y, n_out, x.dtype)
