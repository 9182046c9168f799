"""The data sets of the papers, by name, each as whole tensors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from altmin_ext import _check
from altmin_ext.data import _sources, graphs, streams
from altmin_ext.data._dataset import DataSet
from altmin_ext.data._formats import Malformed


def names() -> list[str]:
    """The names that :func:`load` takes."""
    return list(_sources.registry)


def describe(name: str) -> str:
    """Describe a data set in one line.

    Args:
        name: one of :func:`names`.

    Returns:
        Its numbers of training and test samples, shape, classes and standardisation.

    Raises:
        TypeError, ValueError: there is no data set of that name.
    """
    return _source(name).summary


def load(name: str, *, download: bool = True) -> DataSet:
    """Load a data set by name, with the customary standardisation and split; see :func:`describe`.

    digits comes with scikit-learn. The other data sets are files, in the directory that the environment variable
    ``ALTMIN_DATA`` names or in the user's cache. Missing files are downloaded into the cache. In both places the
    files have their published names, in a directory with the name of the data set, for instance
    ``mnist/train-images-idx3-ubyte.gz``. Images are checked against their sha256 at every load, the rows of higgs
    only after a download. If HIGGS is missing, a ``higgs_sample.csv.gz`` of the same layout is used instead.

    Args:
        name: one of :func:`names`.
        download: whether missing files may be downloaded, True by default.

    Returns:
        The :class:`DataSet`.

    Raises:
        TypeError, ValueError: there is no data set of that name, a file is damaged, or ``ALTMIN_DATA`` is needed and
            is no directory.
        ImportError: scikit-learn (digits) or pooch (downloads) is missing; ``altmin_ext[data]`` installs both.
        FileNotFoundError: files are missing, and ``download`` is False.
        OSError: the download failed; nothing incomplete is kept.

    Examples:
        >>> from altmin_ext import data
        >>> digits = data.load("digits")
        >>> digits.shape, digits.n_in, digits.classes
        ((1, 8, 8), 64, 10)
        >>> x, y = digits.train
        >>> x.shape, y.shape, len(digits.test[0])
        (torch.Size([1437, 1, 8, 8]), torch.Size([1437]), 360)
    """
    source = _source(name)
    contents: list[object] = []
    if source.files:
        source, contents = _sources.read(name, download=download)
    try:
        train, test = source.tensors(contents)
    except Malformed as error:
        raise ValueError(f"{name} {error} (in {location(name)}).") from error
    return DataSet(name, train, test, source.classes)


def location(name: str) -> Path | None:
    """Find the directory from which :func:`load` would read a data set, without reading it.

    Args:
        name: one of :func:`names`.

    Returns:
        The directory of the files, for digits that of scikit-learn; None if the files would have to be downloaded, or
        scikit-learn is not installed.

    Raises:
        TypeError, ValueError: there is no data set of that name.
    """
    source = _source(name)
    if source.package is not None:
        spec = importlib.util.find_spec(source.package)
        return Path(spec.origin).parent if spec and spec.origin else None
    found = _sources.find(name)
    return found[1][0].parent if found else None


def _source(name: str) -> _sources.Source:
    return _sources.registry[_check.known("data set", name, _sources.registry)]


def split(
    data: tuple[Tensor, Tensor] | DataSet, fraction: float, seed: int = 0
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Set a random part of the training data aside for validation.

    Args:
        data: (x, y), x (N, ...) and y (N, ...); or a :class:`DataSet`, of which the training part is split.
        fraction: the part of the N samples to set aside, between 0 and 1; either side gets at least one sample.
        seed: of the choice; torch's global generator is not used.

    Returns:
        (training, validation), each a copied (x, y) in the original order.

    Raises:
        TypeError: x or y is no tensor, ``fraction`` no number, or ``seed`` no integer.
        ValueError: ``fraction`` is not between 0 and 1, or the samples are not at least two with one y each.

    Examples:
        >>> import torch
        >>> from altmin_ext import data
        >>> training, validation = data.split((torch.randn(100, 4), torch.arange(100) % 2), 0.2)
        >>> len(training[0]), len(validation[0])
        (80, 20)
    """
    x, y = data.train if isinstance(data, DataSet) else data
    x, y = _check.tensor("x", x), _check.tensor("y", y)
    fraction = _check.number("fraction", fraction, above=0.0, below=1.0)
    seed = _check.seed("seed", seed)
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


__all__ = ["DataSet", "describe", "graphs", "load", "location", "names", "split", "streams"]
