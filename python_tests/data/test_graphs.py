"""Citation graphs: the reader against a graph written by hand, propagation against the matrices of its definition."""

import contextlib

import numpy as np
import pytest
import torch

from altmin_ext.data import _sources
from altmin_ext.data.graphs import load_graph

# A path 0 - 1 - 2, and a node 3 that nothing cites.
FEATURES = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]], np.float32)
EDGES = [(0, 1), (1, 0), (1, 2), (2, 1)]
ARRAYS = {
    "x_data": np.ones(6, np.float32),
    "x_indices": np.array([0, 3, 1, 1, 2, 4], np.int32),
    "x_indptr": np.array([0, 2, 3, 3, 6], np.int32),
    "x_shape": np.array([4, 5]),
    "edges": np.array(EDGES, np.int32),
    "y": np.array([0, 2, 1, -1], np.int16),
    "train": np.array([0], np.int32),
    "val": np.array([1], np.int32),
    "test": np.array([2], np.int32),
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a graph's arrays where ALTMIN_DATA points to; returns the file."""
    monkeypatch.setenv("ALTMIN_DATA", str(tmp_path))
    (tmp_path / "planetoid").mkdir()

    def write(**changes):
        path = tmp_path / "planetoid" / "cora.npz"
        arrays = {key: value for key, value in {**ARRAYS, **changes}.items() if value is not None}
        np.savez(path, **arrays)
        return path

    return write


def test_a_graph_is_read_as_it_was_written(written):
    written()
    graph = load_graph("cora")
    assert np.array_equal(graph.features.numpy(), FEATURES)
    assert graph.edges.T.tolist() == [list(edge) for edge in EDGES]
    assert graph.y.tolist() == [0, 2, 1, -1]
    assert (graph.train.tolist(), graph.validation.tolist(), graph.test.tolist()) == ([0], [1], [2])
    assert graph.classes == 3
    assert repr(graph) == "Graph('cora': 4 nodes of 5 features, 2 edges, 3 classes)"


def test_propagation_multiplies_by_the_normalised_adjacency(written):
    written()
    graph = load_graph("cora")
    adjacency = np.eye(4)
    adjacency[tuple(np.array(EDGES).T)] = 1
    scale = np.diag(adjacency.sum(1) ** -0.5)
    adjacency = scale @ adjacency @ scale
    expected = np.hstack([FEATURES, adjacency @ FEATURES, adjacency @ adjacency @ FEATURES])
    np.testing.assert_allclose(graph.propagated(2).numpy(), expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(graph.propagated(0), graph.features)
    with pytest.raises(ValueError, match=r"^hops must be at least 0, but is -1\.$"):
        graph.propagated(-1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"y": None}, "y is not a file in the archive"),
        ({"edges": np.array([[0, 4], [4, 0]], np.int32)}, "its parts do not fit each other"),
        ({"y": np.array([0, 1], np.int16)}, "its parts do not fit each other"),
        ({"y": np.array([[0], [2], [1], [-1]], np.int16)}, "its parts do not fit each other"),
        ({"x_indices": np.array([0, 3, 1, 1, 2, -1], np.int32)}, "its parts do not fit each other"),
        ({"edges": np.array([[0, 1], [1, 0], [1, 2]], np.int32)}, "its edges are not in both directions"),
        ({"edges": np.array([[0, 1], [1, 0], [2, 2]], np.int32)}, "or join a node to itself"),
        ({"train": np.array([3], np.int32)}, "a node of the split has no class"),
        ({"x_indices": np.array([0, 3, 1, 1, 2, 5], np.int32)}, "out of bounds"),
    ],
)
def test_a_file_that_holds_no_such_graph_is_refused(written, changes, reason):
    path = written(**changes)
    with pytest.raises(ValueError, match=reason) as error:
        load_graph("cora")
    assert str(error.value).startswith(f"{path} must hold a graph as load_graph describes it, but does not: ")


def test_a_damaged_file_is_refused(written):
    path = written()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="must hold a graph as load_graph describes it"):
        load_graph("cora")


def test_damage_within_what_is_compressed_is_refused(written):
    path = written()
    np.savez_compressed(path, **ARRAYS)
    whole = path.read_bytes()
    for at in range(30, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(ValueError, OSError):  # or what was hit is of no account
            load_graph("cora")


def test_what_is_not_there_is_said_to_be_missing(written):
    with pytest.raises(
        FileNotFoundError, match=r"set ALTMIN_DATA to a directory that holds planetoid/cora\.npz\.$"
    ):
        load_graph("cora")
    with pytest.raises(ValueError, match="graph"):
        load_graph("coral")


# As published: nodes, words, pairs of papers one of which cites the other, classes, papers to train on.
@pytest.mark.parametrize(
    ("name", "facts"), [("cora", (2708, 1433, 5278, 7, 140)), ("citeseer", (3327, 3703, 4552, 6, 120))]
)
def test_published_graphs(name, facts):
    root = _sources.own_directory()
    if root is None or not (root / "planetoid" / f"{name}.npz").is_file():
        pytest.skip(
            f"{name} was not found; to run this test, set ALTMIN_DATA to a directory with planetoid/{name}.npz"
        )
    graph = load_graph(name)
    shape = (*graph.features.shape, graph.edges.shape[1] // 2, graph.classes, len(graph.train))
    assert shape == facts
    assert torch.equal(graph.y[graph.train].bincount(), torch.full((graph.classes,), 20))
    assert (len(graph.validation), len(graph.test)) == (500, 1000)
    assert set(graph.features.unique().tolist()) == {0.0, 1.0}
