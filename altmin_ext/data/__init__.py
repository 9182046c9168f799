"""The data sets of the papers, by name, each as whole tensors."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from altmin_ext.data import _sources
from altmin_ext.errors import unknown_name


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """A data set for classification, held in memory.

    Attributes:
        name: as in :func:`names`.
        train: (x, y); x (N, C, H, W) or (N, features) float32, y (N,) int64 from 0 to ``classes`` - 1.
        test: (x, y) likewise.
        classes: how many classes there are.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample: (C, H, W) or (features,)."""
        return tuple(self.train[0].shape[1:])

    @property
    def n_in(self) -> int:
        """Features of one sample once flattened."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        return (
            f"DataSet({self.name!r}: {len(self.train[1])} training and {len(self.test[1])} test samples "
            f"of shape {self.shape}, {self.classes} classes)"
        )


@dataclasses.dataclass(frozen=True)
class _Channels:
    """Mean and deviation of every channel over the training pixels, scaled to [0, 1]."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


# Fashion-MNIST takes MNIST's, as is customary. CIFAR-10's deviations are often quoted as (.2023, .1994,
# .2010), but those are means of the deviations within single images; the pixels' own are these.
_channels = {
    "mnist": _Channels((0.1307,), (0.3081,)),
    "fashion-mnist": _Channels((0.1307,), (0.3081,)),
    "cifar-10": _Channels((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def names() -> list[str]:
    """The names that :func:`load` takes."""
    return ["digits", *_sources.registry]


def load(name: str, *, download: bool = True) -> DataSet:
    """A data set by name, standardised and split as is customary.

    - digits: 1,437 + 360 images (1, 8, 8), 10 classes; scikit-learn's, divided by 16, the last 360 as test.
    - mnist, fashion-mnist: 60,000 + 10,000 images (1, 28, 28), 10 classes; mean .1307, deviation .3081.
    - cifar-10: 50,000 + 10,000 images (3, 32, 32), 10 classes; means (.4914, .4822, .4465), deviations
      (.2470, .2435, .2616).
    - higgs: 10,500,000 + 500,000 rows of 28 features, 2 classes; each feature's mean and deviation in the
      training set. A ``higgs_sample.csv.gz`` of the same layout serves, too, its last 5,000 rows as test.

    digits comes with scikit-learn. The files of the others are looked for in the directory that the
    environment variable ``ALTMIN_DATA`` names, then in the user's cache, and are else downloaded into the
    cache (11, 30, 170 and 2,800 MB). In both they lie under their canonical names in a directory called like
    the data set, for instance ``mnist/train-images-idx3-ubyte.gz``. Images are checked against their sha256
    at every load, the rows of higgs when they are downloaded.

    Args:
        name: one of :func:`names`.
        download: whether files that are not found may be downloaded.

    Raises:
        ValueError: an unknown name, a damaged file, or ``ALTMIN_DATA`` is no directory where one is needed.
        ImportError: scikit-learn (digits) or pooch (downloads) is missing; ``altmin_ext[data]`` has both.
        FileNotFoundError: not found, and ``download`` is False.
        OSError: the download failed; nothing incomplete is kept.
    """
    _check_name(name)
    if name == "digits":
        return _digits()
    contents = _sources.read(name, download=download)
    if name == "higgs":
        return _higgs(contents[0])
    if name == "cifar-10":
        *batches, (test_images, test_labels) = contents[0]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    else:
        images, labels, test_images, test_labels = contents
        images, test_images = images[:, None], test_images[:, None]
    train = _image_tensors(images, labels, _channels[name])
    test = _image_tensors(test_images, test_labels, _channels[name])
    return DataSet(name, train, test, classes=10)


def location(name: str) -> Path | None:
    """The directory that :func:`load` would read a data set from, or None if it would have to be downloaded.

    For digits that is the directory of scikit-learn, or None if it is not installed. Nothing is read.

    Raises:
        ValueError: an unknown name.
    """
    _check_name(name)
    if name == "digits":
        spec = importlib.util.find_spec("sklearn")
        return Path(spec.origin).parent if spec and spec.origin else None
    found = _sources.find(name)
    return found[0][1].parent if found else None


def split(
    data: tuple[Tensor, Tensor], fraction: float, seed: int = 0
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Set a random part of the training data aside for validation.

    Args:
        data: (x, y), x (N, ...) and y (N, ...).
        fraction: of the N samples to set aside, between 0 and 1; at least one sample goes to either side.
        seed: of the choice; torch's global generator is left alone.

    Returns:
        (training, validation), each (x, y), copied, in the order they had.

    Raises:
        ValueError: ``fraction`` is not between 0 and 1, or the samples are not at least two with one y each.
    """
    x, y = data
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be greater than 0 and less than 1, but is {fraction!r}.")
    if len(x) != len(y):
        raise ValueError(f"y must have one entry for each of the {len(x)} samples of x, but has {len(y)}.")
    if len(x) < 2:
        raise ValueError(f"data must hold at least two samples to be split, but holds {len(x)}.")
    n_validation = min(max(round(fraction * len(x)), 1), len(x) - 1)
    generator = torch.Generator().manual_seed(seed)
    set_aside = torch.zeros(len(x), dtype=torch.bool)
    set_aside[torch.randperm(len(x), generator=generator)[:n_validation]] = True
    set_aside = set_aside.to(x.device)
    return (x[~set_aside], y[~set_aside]), (x[set_aside], y[set_aside])


def _check_name(name: str) -> None:
    if name not in names():
        raise unknown_name("data set", str(name), names())


def _image_tensors(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], channels: _Channels
) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(images.astype(np.float32))
    x.div_(255)  # apart from the deviation, so that every value rounds as torchvision's does
    for channel, (mean, deviation) in enumerate(zip(channels.mean, channels.deviation, strict=True)):
        x[:, channel].sub_(mean).div_(deviation)
    return x, torch.from_numpy(labels.astype(np.int64))


def _digits() -> DataSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('digits comes with scikit-learn: run pip install "altmin_ext[data]".') from error
    digits = load_digits()
    x = torch.from_numpy(digits.images.astype(np.float32)[:, None]).div_(16)
    y = torch.from_numpy(digits.target.astype(np.int64))
    return DataSet("digits", (x[:-360], y[:-360]), (x[-360:], y[-360:]), classes=10)


def _higgs(table: NDArray[np.float32]) -> DataSet:
    complete = len(table) == _sources.HIGGS_ROWS
    n_test = _sources.HIGGS_TEST_ROWS if complete else _sources.HIGGS_SAMPLE_TEST_ROWS
    if len(table) <= n_test:
        raise ValueError(
            f"higgs must have more rows than the {n_test:,} for testing, but has {len(table):,}."
        )
    if not np.isin(table[:, 0], (0, 1)).all():
        raise ValueError("higgs must have the label 0 or 1 in the first column of every row, but has others.")
    y = torch.from_numpy(table[:, 0].astype(np.int64))
    x = torch.from_numpy(table[:, 1:].copy())
    deviation, mean = torch.std_mean(x[:-n_test], dim=0, correction=0)
    x.sub_(mean).div_(deviation)
    return DataSet("higgs", (x[:-n_test], y[:-n_test]), (x[-n_test:], y[-n_test:]), classes=2)


__all__ = ["DataSet", "load", "location", "names", "split"]
