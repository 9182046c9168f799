"""Data sets as whole tensors: those of the papers, by name, and those of your own files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altmin_ext import _check
from altmin_ext.data import _sources, graphs, streams
from altmin_ext.data._dataset import DataSet
from altmin_ext.data._formats import Malformed
from altmin_ext.data._split import split

if TYPE_CHECKING:
    from altmin_ext.data._own_files import load_file
    from altmin_ext.data._preprocessing import Preprocessing


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
    if isinstance(name, str) and name not in _sources.registry:
        from altmin_ext.data._own_files import is_file_name

        if is_file_name(name):
            raise ValueError(
                f"{name!r} is the name of a file and no known data set: load it by altmin_ext.data.load_file."
            )
    return _sources.registry[_check.known("data set", name, _sources.registry)]


def __getattr__(name: str) -> Any:
    # Files of one's own are read with what an import of the library does not need.
    if name in ("load_file", "Preprocessing"):
        from altmin_ext.data import _own_files

        return getattr(_own_files, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DataSet",
    "Preprocessing",
    "describe",
    "graphs",
    "load",
    "load_file",
    "location",
    "names",
    "split",
    "streams",
]
