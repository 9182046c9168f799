"""Data sets of a user's own files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from altmin_ext import _check
from altmin_ext.data._contents import Content, kind_of, read
from altmin_ext.data._dataset import DataSet
from altmin_ext.data._formats import Malformed
from altmin_ext.data._preprocessing import (
    Preprocessing,
    content_of,
    fit,
    inputs,
    numbers,
    refusing,
    standardised,
    standardised_targets,
    standardising,
    target_numbers,
    targets,
)
from altmin_ext.data._split import split

if TYPE_CHECKING:
    from numpy.typing import NDArray


def load_file(
    path: str | os.PathLike[str],
    target: str | None = None,
    *,
    test: str | os.PathLike[str] | None = None,
    test_fraction: float = 0.2,
    task: str = "auto",
    drop: Sequence[str] = (),
    image_size: int | tuple[int, int] | None = None,
) -> DataSet:
    """Load a data set from your own file, as :func:`load` does by name.

    - .csv, .tsv, .parquet: a table with named columns. Columns of words become one-hot features.
    - .npz: the arrays ``x`` (N, ...) and ``y``, also with ``x_test`` and ``y_test``; or ``x_train``, ``y_train``,
      ``x_test`` and ``y_test``; or columns of one length. (N, H, W) are images of one channel.
    - .npy: x (N, ...); ``target`` is the path of another one with y.
    - a folder of images: a folder in it for each class, named by the class.

    Every feature (for samples with channels every channel) is standardised by mean and deviation of the training
    part; so are the targets of a regression. Values must not be missing.

    Args:
        path: of the file or folder.
        target: the column of a table, or the array of an .npz file (None for "y"), with the targets.
        test: a file or folder of the same kind to test on; its classes and words must occur in training. None for
            what an .npz file names so, or else for a random part of the samples, which is always the same.
        test_fraction: that part of the samples.
        task: "classification", "regression", or "auto": regression if the targets are floats.
        drop: columns of a table to leave out.
        image_size: height and width that images are brought to, or one number for both; None if they all have one.

    Returns:
        The :class:`DataSet`, whose ``preprocessing`` tells names and standardisation and reads further files. For
        regression ``classes`` is 0, and y (N, K) float32.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is wrong, or the file cannot be taken as it is; the sentence names row and column.
        ImportError: pandas (.csv, .tsv, .parquet), pyarrow (.parquet) or Pillow (images) is missing.
        OSError: a file cannot be read.
    """
    path, size = _path("path", path), _size(image_size)
    test_path = None if test is None else _path("test", test)
    if test_path is not None and test_path.suffix.lower() == ".npy":
        raise ValueError(
            f"test must hold targets, too, which {test_path} cannot; write an .npz file of x and y."
        )
    test_fraction = _check.number("test_fraction", test_fraction, above=0.0, below=1.0)
    if isinstance(drop, str) or not all(isinstance(name, str) for name in drop):
        raise TypeError(f"drop must be a list of names of columns, but is {_check.shown(drop)}.")
    if target is not None and not isinstance(target, str):
        raise TypeError(f"target must be a name, but is {_check.shown(target)}.")
    with refusing(path):
        content = read(path, target, size)
        found = fit(content, target, task, drop, size)
        x, y = numbers(found, content), target_numbers(found, content)
        rows, held_out = _parts(content, test_path, test_fraction)
        found = standardising(found, x[rows], y[rows])
        train = standardised(found, x[rows]), standardised_targets(found, y[rows])
        tested = _tested(found, path, content, test_path)
        if tested is None:
            tested = standardised(found, x[held_out]), standardised_targets(found, y[held_out])
    return DataSet(path.name or str(path), train, tested, len(found.classes), found)


def load_test(
    preprocessing: Preprocessing,
    path: str | os.PathLike[str],
    target: str | None = None,
    *,
    test: str | os.PathLike[str] | None = None,
    test_fraction: float = 0.2,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """The test part of :func:`load_file`, of the same arguments, by the preprocessing found when it was loaded."""
    path, test_path = Path(path), None if test is None else Path(test)
    with refusing(path):
        content = read(path, target, preprocessing.image_size) if test is None else None
        tested = _tested(preprocessing, path, content, test_path)
        if tested is not None:
            return tested
        assert content is not None  # without a test file
        _, rows = _parts(content, None, test_fraction)
        x, y = numbers(preprocessing, content), target_numbers(preprocessing, content)
        return standardised(preprocessing, x[rows]), standardised_targets(preprocessing, y[rows])


def is_file_name(name: str) -> bool:
    """Whether a word can be meant as a file or folder of one's own, be it there or not."""
    return os.sep in name or os.path.exists(name) or kind_of(Path(name)) is not None


def _tested(
    found: Preprocessing, path: Path, content: Content | None, test: Path | None
) -> tuple[Tensor, Tensor] | None:
    """What is there to test on; None if samples are to be held out."""
    if test is not None:
        if content is not None and content.test is not None:
            raise ValueError(f"test must be left out for {path}, which holds samples to test on.")
        with refusing(test):
            further = content_of(found, test)
            return inputs(found, further), targets(found, further)
    if content is None or content.test is None:
        return None
    with refusing(path):
        return inputs(found, content.test), targets(found, content.test)


def _parts(content: Content, test: Path | None, fraction: float) -> tuple[Any, NDArray[np.int64]]:
    """The rows to train on, and those held out."""
    if test is not None or content.test is not None:
        return slice(None), np.empty(0, np.int64)
    if len(content) < 2:
        raise Malformed("must hold at least two rows, one of them to test on, but holds one")
    every = torch.arange(len(content))
    (rows, _), (held_out, _) = split((every, every), fraction)
    return rows.numpy(), held_out.numpy()


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, but is {_check.shown(value)}.")
    return Path(value).expanduser()


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        height, width = _check.integers("image_size", value) if len(value) == 2 else (0, 0)
        if not height:
            raise ValueError(f"image_size must be (height, width) or one number for both, but is {value!r}.")
        return height, width
    side = _check.integer("image_size", value)
    return side, side


__all__ = ["Preprocessing", "is_file_name", "load_file", "load_test"]
