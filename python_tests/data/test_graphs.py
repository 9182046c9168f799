"""Citation graphs: the reader against a graph written by hand, propagation against the matrices of its definition."""

import contextlib
import io
import zipfile

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
        ({"x_data": np.array([1, 1, np.nan, 1, 1, 1], np.float32)}, "a number in x_data is not finite"),
        ({"x_data": np.array([1, 1, np.inf, 1, 1, 1])}, "a number in x_data is not finite"),
        ({"x_data": np.array([1, 1, 1e300, 1, 1, 1])}, "a number in x_data is not finite"),
        ({"x_data": np.ones(5, np.float32)}, "its parts do not fit each other"),
        ({"x_data": np.array(["1"] * 6)}, "x_data holds no numbers, but <U1"),
        ({"x_data": np.array([None] * 6)}, "x_data holds no numbers, but object"),
        ({"x_indices": np.array([0, 0, 1, 1, 2, 4])}, "a feature of a node occurs twice"),
        ({"x_indptr": np.array([0, 3, 2, 3, 6])}, "its parts do not fit each other"),
        ({"x_indptr": np.array([0, 2, 3, 3, 5])}, "its parts do not fit each other"),
        ({"x_shape": np.array([4, 2**40])}, r"it announces features of shape \(4, 1099511627776\)"),
        ({"x_shape": np.array([2**31, 2**31])}, "its parts do not fit each other"),
        ({"x_shape": np.array([4, -5])}, r"it announces features of shape \(4, -5\)"),
        ({"x_shape": np.array(4)}, "its parts do not fit each other: x_shape has shape"),
        ({"edges": np.array(EDGES, np.float32)}, "edges must hold integers, but holds float32"),
        ({"edges": np.array([[0, 1], [1, 0], [0, 1], [1, 0]])}, "an edge occurs twice"),
        ({"edges": np.array([[0, 2**63], [2**63, 0]], np.uint64)}, "an integer is out of bounds"),
        ({"y": np.array([0, 2**40, 1, -1])}, "a number in y is out of bounds"),
        ({"y": np.array([0, 2, 1, -2], np.int16)}, "a number in y is out of bounds"),
        ({"val": np.array([0])}, "a node is twice in the split"),
        (
            {"train": np.empty(0, int), "val": np.empty(0, int), "test": np.empty(0, int)},
            "the split is empty",
        ),
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
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(ValueError):
            graph = load_graph("cora")
            # What was hit is of no account, such as a date.
            assert np.array_equal(graph.features.numpy(), FEATURES)
            assert graph.edges.T.tolist() == [list(edge) for edge in EDGES]
            assert (graph.y.tolist(), graph.train.tolist()) == ([0, 2, 1, -1], [0])
            assert (graph.validation.tolist(), graph.test.tolist()) == ([1], [2])


def test_an_array_that_announces_more_than_there_is_takes_no_memory(written):
    path = written()
    header = io.BytesIO()
    announced = {"descr": "<f4", "fortran_order": False, "shape": (2**31, 2**31)}
    np.lib.format.write_array_header_1_0(header, announced)
    written(x_data=None)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("x_data.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"x_data announces the shape \(2147483648, 2147483648\)"):
        load_graph("cora")


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"PK\x05\x06" + bytes(18)], ids=["empty", "junk", "no files"]
)
def test_what_is_no_archive_is_refused(written, content):
    written().write_bytes(content)
    with pytest.raises(ValueError, match="must hold a graph as load_graph describes it, but does not: "):
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
