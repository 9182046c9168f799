"""The contents of data sets as tensors, standardised and split: (x, y) to train on, and (x, y) to test on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from altmin_ext.data._formats import Malformed

if TYPE_CHECKING:
    from numpy.typing import NDArray

Samples: TypeAlias = tuple[Tensor, Tensor]
Parts: TypeAlias = tuple[Samples, Samples]


def images(contents: Sequence[NDArray[np.uint8]], mean: Sequence[float], deviation: Sequence[float]) -> Parts:
    """Scale images of bytes to [0, 1], and standardise each channel.

    Args:
        contents: training images (N, H, W) or (N, C, H, W), their labels (N,), test images, their labels.
        mean, deviation: of each channel over the training pixels, on the scale [0, 1].
    """
    pixels, labels, test_pixels, test_labels = contents
    return _images(pixels, labels, mean, deviation), _images(test_pixels, test_labels, mean, deviation)


def image_batches(contents: Sequence[Any], mean: Sequence[float], deviation: Sequence[float]) -> Parts:
    """Do the same for an archive of batches (images, labels), the last of which is for testing."""
    *batches, test = contents[0]
    train = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    return images([*train, *test], mean, deviation)


def _images(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], mean: Sequence[float], deviation: Sequence[float]
) -> Samples:
    if len(pixels) != len(labels):
        raise Malformed(f"must have a label for each of its {len(pixels):,} images, but has {len(labels):,}")
    x = torch.from_numpy(pixels.astype(np.float32))
    if x.ndim == 3:
        x = x[:, None]
    x.div_(255)  # in a step of its own, so that every value rounds as in torchvision
    for channel, (center, scale) in enumerate(zip(mean, deviation, strict=True)):
        x[:, channel].sub_(center).div_(scale)
    return x, torch.from_numpy(labels.astype(np.int64))


def table(contents: Sequence[NDArray[np.float32]], classes: int, test_rows: int) -> Parts:
    """Split a table with the class in its first column, and standardise the other columns by the training rows.

    Args:
        contents: a list of one table, (rows, 1 + features).
        classes: the number of classes.
        test_rows: the number of last rows that are for testing.
    """
    (rows,) = contents
    if len(rows) <= test_rows:
        raise Malformed(f"must have more rows than the {test_rows:,} for testing, but has {len(rows):,}")
    known = np.isin(rows[:, 0], range(classes))
    if not known.all():
        row = int(known.argmin())
        raise Malformed(
            f"must have a class from 0 to {classes - 1} in the first column of every row, but has {rows[row, 0]} in "
            f"row {row + 1}"
        )
    y = torch.from_numpy(rows[:, 0].astype(np.int64))
    x = torch.from_numpy(rows[:, 1:].copy())
    deviation, mean = torch.std_mean(x[:-test_rows], dim=0, correction=0)
    x.sub_(mean).div_(deviation)
    standardised = x.isfinite().all(0)
    if not standardised.all():
        feature = int(standardised.int().argmin())
        raise Malformed(
            f"must have features that can be standardised, but column {feature + 2} has the mean "
            f"{mean[feature]:.4g} and the deviation {deviation[feature]:.4g}"
        )
    return (x[:-test_rows], y[:-test_rows]), (x[-test_rows:], y[-test_rows:])


def digits(contents: Sequence[Any]) -> Parts:
    """Load scikit-learn's digits, which come with that package; there are no files."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('digits comes with scikit-learn: run pip install "altmin_ext[data]".') from error
    found = load_digits()
    x = torch.from_numpy(found.images.astype(np.float32)[:, None]).div_(16)
    y = torch.from_numpy(found.target.astype(np.int64))
    return (x[:-360], y[:-360]), (x[-360:], y[-360:])
