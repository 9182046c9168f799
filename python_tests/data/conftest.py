"""A small data set, written from the published format's definition, and an empty cache to keep it in."""

import dataclasses
import gzip
import hashlib
import struct
from functools import partial

import numpy as np
import pytest

from altmin_ext.data import _formats, _sources


def idx(array):
    """The IDX file of an array of bytes: magic number with type 8 and rank, big-endian sizes, values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def to_idx():
    return idx


@pytest.fixture
def home(tmp_path, monkeypatch):
    """No ALTMIN_DATA and an empty cache; returns the cache's directory."""
    monkeypatch.delenv("ALTMIN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache" / "altmin_ext"


@dataclasses.dataclass
class TinyMnist:
    """A registered "mnist" of five training and two test images of 2 x 3 pixels."""

    train: tuple
    test: tuple
    files: dict

    def write(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)


@pytest.fixture
def tiny_mnist(monkeypatch, home):
    generator = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte.gz": generator.integers(0, 256, (5, 2, 3), np.uint8),
        "train-labels-idx1-ubyte.gz": generator.integers(0, 10, 5, np.uint8),
        "t10k-images-idx3-ubyte.gz": generator.integers(0, 256, (2, 2, 3), np.uint8),
        "t10k-labels-idx1-ubyte.gz": generator.integers(0, 10, 2, np.uint8),
    }
    contents = {name: idx(array) for name, array in arrays.items()}
    files = tuple(
        _sources.File(
            name,
            partial(_formats.read_idx, ndim=arrays[name].ndim, sha256=hashlib.sha256(content).hexdigest()),
        )
        for name, content in contents.items()
    )
    small = dataclasses.replace(_sources.registry["mnist"], files=files, urls=())
    monkeypatch.setitem(_sources.registry, "mnist", small)
    train_x, train_y, test_x, test_y = arrays.values()
    return TinyMnist(
        (train_x, train_y), (test_x, test_y), {name: gzip.compress(c) for name, c in contents.items()}
    )
