"""Citation graphs, whose nodes any network for vectors can classify by features of their neighbourhoods."""

from __future__ import annotations

import dataclasses
import io
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from altmin_ext import _check
from altmin_ext._files import read_file
from altmin_ext.data import _sources

if TYPE_CHECKING:
    from numpy.typing import NDArray

_names = ("cora", "citeseer")
_keys = ("x_data", "x_indices", "x_indptr", "x_shape", "edges", "y", "train", "val", "test")
_MOST = 1 << 30  # bytes of an array


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A graph with features and classes of its nodes, and the customary split of the nodes.

    Attributes:
        name: the argument of :func:`load_graph`.
        features: (N, D) float32, the features of every node.
        edges: (2, E) int64, pairs of neighbours, each pair in both directions, without self-loops.
        y: (N,) int64, the classes; -1 for a node without one.
        train, validation, test: int64, the numbers of the nodes for each purpose.
        classes: the number of classes.
    """

    name: str
    features: Tensor
    edges: Tensor
    y: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor
    classes: int

    def __repr__(self) -> str:
        return (
            f"Graph({self.name!r}: {len(self.y)} nodes of {self.features.shape[1]} features, "
            f"{self.edges.shape[1] // 2} edges, {self.classes} classes)"
        )

    def propagated(self, hops: int) -> Tensor:
        """Compute features of each node's neighbourhood, hop by hop: [X, AX, ..., A^hops X].

        A is D^-1/2 (G + I) D^-1/2 with G the adjacency of the graph and D the degrees of G + I (Kipf and Welling
        2017, arXiv 1609.02907, section 2).

        Args:
            hops: the number of times that features are passed on to neighbours, at least 0.

        Returns:
            (N, (hops + 1) D) float32.

        Raises:
            TypeError: ``hops`` is no integer.
            ValueError: ``hops`` is negative.
        """
        hops = _check.integer("hops", hops, minimum=0)
        nodes = len(self.y)
        loops = torch.arange(nodes).expand(2, nodes)
        pairs = torch.cat([self.edges, loops], dim=1)
        degree = pairs[0].bincount(minlength=nodes).float()
        weights = (degree[pairs[0]] * degree[pairs[1]]).rsqrt()
        adjacency = torch.sparse_coo_tensor(pairs, weights, (nodes, nodes), check_invariants=True).coalesce()
        blocks = [self.features]
        for _ in range(hops):
            blocks.append(torch.sparse.mm(adjacency, blocks[-1]))
        return torch.cat(blocks, dim=1)


def load_graph(name: str) -> Graph:
    """Load a citation graph by name, with the split of Planetoid (Yang et al. 2016, arXiv 1603.08861).

    - cora: 2,708 papers, 1,433 words, 5,278 citations, 7 classes; 140 papers to train on.
    - citeseer: 3,327 papers, 3,703 words, 4,552 citations, 6 classes; 120 papers to train on.

    500 papers are for validation and 1,000 for testing. A feature is 1 if the word occurs. The published files are
    Python pickles, which may run code when they are read, so nothing is downloaded. Instead, ``planetoid/<name>.npz``
    must be in the directory that ``ALTMIN_DATA`` names, or in the user's cache. It holds the features as a compressed
    sparse row matrix (``x_data``, ``x_indices``, ``x_indptr``, ``x_shape``), ``edges`` (E, 2) in both directions
    without self-loops, ``y``, and the nodes ``train``, ``val`` and ``test``.

    Args:
        name: "cora" or "citeseer".

    Returns:
        The :class:`Graph`.

    Raises:
        TypeError: ``name`` is no string.
        ValueError: there is no graph of that name, or the file does not hold such a graph.
        FileNotFoundError: there is no such file.
    """
    _check.known("graph", name, _names)
    roots = [root for root in (_sources.own_directory(), _sources.cache()) if root]
    paths = [root / "planetoid" / f"{name}.npz" for root in roots]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{name} was not found at {' or '.join(map(str, paths))}: set ALTMIN_DATA to a directory that holds "
            f"planetoid/{name}.npz."
        )
    return _read(name, path)


def _read(name: str, path: Path) -> Graph:
    content = read_file(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = {key: _read_array(archive, key) for key in _keys}
        return _graph(name, arrays)
    except Exception as error:  # zipfile and NumPy raise almost anything on damaged content
        reason = str(error).strip("'\"").rstrip(".") or type(error).__name__
        raise ValueError(
            f"{path} must hold a graph as load_graph describes it, but does not: {reason}."
        ) from error


def _read_array(archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    """Read an array from an .npz archive; what it announces takes no memory, what it holds does."""
    if f"{key}.npy" not in archive.namelist():
        raise ValueError(f"{key} is not a file in the archive")
    with archive.open(f"{key}.npy") as member:
        content = member.read(_MOST + 1)  # to the end, where zip has a checksum
    if len(content) > _MOST:
        raise ValueError(f"{key} has more than {_MOST:,} bytes")
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"{key} has the unknown version {version} of NumPy's format")
    shape, by_column, kind = read_header[version](file)
    values = content[file.tell() :]
    if kind.kind not in "iuf":
        raise ValueError(f"{key} holds no numbers, but {kind}")
    if len(values) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{key} announces the shape {shape} of {kind} but holds {len(values):,} bytes")
    return np.frombuffer(values, kind).reshape(shape, order="F" if by_column else "C")


def _graph(name: str, arrays: dict[str, NDArray[Any]]) -> Graph:
    """Make a graph from the arrays of its file; raise a ValueError if they make none."""
    for key, array in arrays.items():
        if key != "x_data" and array.dtype.kind == "f":
            raise ValueError(f"{key} must hold integers, but holds {array.dtype}")
        if array.ndim != (2 if key == "edges" else 1):
            raise ValueError(f"its parts do not fit each other: {key} has shape {array.shape}")
    integers = {key: array.astype(np.int64) for key, array in arrays.items() if key != "x_data"}
    if any((integers[key] != arrays[key]).any() for key in integers):
        raise ValueError("an integer is out of bounds")
    edges, y, columns, starts = (integers[key] for key in ("edges", "y", "x_indices", "x_indptr"))
    size = tuple(integers["x_shape"].tolist())
    if (
        len(size) != 2
        or edges.shape[1] != 2
        or len(y) != size[0]
        or len(starts) != size[0] + 1
        or len(columns) != len(arrays["x_data"])
        or starts[0] != 0
        or starts[-1] != len(columns)
        or (np.diff(starts) < 0).any()
    ):
        raise ValueError("its parts do not fit each other")
    if size[1] < 0 or math.prod(size) * 4 > _MOST:
        raise ValueError(
            f"it announces features of shape {size}, of which it can hold no more than {_MOST:,} bytes"
        )
    split = np.concatenate([integers["train"], integers["val"], integers["test"]])
    for what, numbers, end in (
        ("edges", edges, len(y)),
        ("the split", split, len(y)),
        ("x_indices", columns, size[1]),
        ("y", y + 1, len(y) + 1),
    ):
        if ((numbers < 0) | (numbers >= end)).any():
            raise ValueError(f"its parts do not fit each other: a number in {what} is out of bounds")
    rows = np.repeat(np.arange(size[0]), np.diff(starts))
    if len(np.unique(rows * size[1] + columns)) < len(columns):
        raise ValueError("a feature of a node occurs twice")
    with np.errstate(over="ignore"):
        values = torch.from_numpy(arrays["x_data"].astype(np.float32))
    if not values.isfinite().all():
        raise ValueError("a number in x_data is not finite")
    there, back = edges @ [len(y), 1], edges @ [1, len(y)]
    if (edges[:, 0] == edges[:, 1]).any() or not np.array_equal(np.sort(there), np.sort(back)):
        raise ValueError("its edges are not in both directions, or join a node to itself")
    if len(np.unique(there)) < len(there):
        raise ValueError("an edge occurs twice")
    if len(np.unique(split)) < len(split):
        raise ValueError("a node is twice in the split")
    if not len(split) or (y[split] < 0).any():
        raise ValueError("a node of the split has no class" if len(split) else "the split is empty")
    features = torch.zeros(size)
    features[torch.from_numpy(rows), torch.from_numpy(columns)] = values
    return Graph(
        name,
        features,
        torch.from_numpy(edges).T.contiguous(),
        torch.from_numpy(y),
        torch.from_numpy(integers["train"]),
        torch.from_numpy(integers["val"]),
        torch.from_numpy(integers["test"]),
        classes=int(y.max()) + 1,
    )


__all__ = ["Graph", "load_graph"]
