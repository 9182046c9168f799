"""Citation graphs, whose nodes any network for vectors can classify by features of their neighbourhoods."""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from altmin_ext import _check
from altmin_ext.data import _sources

_names = ("cora", "citeseer")
_keys = ("x_data", "x_indices", "x_indptr", "x_shape", "edges", "y", "train", "val", "test")


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
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _keys}
        size = tuple(arrays["x_shape"].tolist())
        rows, columns = np.repeat(np.arange(size[0]), np.diff(arrays["x_indptr"])), arrays["x_indices"]
        features = torch.zeros(size)
        features[torch.from_numpy(rows), torch.from_numpy(columns.astype(np.int64))] = torch.from_numpy(
            arrays["x_data"].astype(np.float32)
        )
        edges, y, train, validation, test = (
            torch.from_numpy(arrays[key].astype(np.int64)) for key in ("edges", "y", "train", "val", "test")
        )
        nodes = torch.cat([edges.flatten(), train, validation, test])
        if (
            edges.ndim != 2
            or edges.shape[1] != 2
            or y.shape != size[:1]
            or (nodes < 0).any()
            or (nodes >= len(y)).any()
            or (columns < 0).any()
        ):
            raise IndexError("its parts do not fit each other")
        there, back = (edges @ torch.tensor(pair) for pair in ([size[0], 1], [1, size[0]]))
        if (edges[:, 0] == edges[:, 1]).any() or not torch.equal(there.sort().values, back.sort().values):
            raise IndexError("its edges are not in both directions, or join a node to itself")
        if (y[torch.cat([train, validation, test])] < 0).any():
            raise IndexError("a node of the split has no class")
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        RuntimeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = str(error).strip("'\"").rstrip(".")
        raise ValueError(
            f"{path} must hold a graph as load_graph describes it, but does not: {reason}."
        ) from error
    return Graph(name, features, edges.T.contiguous(), y, train, validation, test, int(y.max()) + 1)


__all__ = ["Graph", "load_graph"]
