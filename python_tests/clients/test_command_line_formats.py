"""One's own parquet files, and ONNX files, by the command line.

Oracle: the same table as csv; pyarrow's own reader; and the network in torch.
"""

import csv

import numpy as np
import pytest
import torch

from altmin_ext import data
from altmin_ext.__main__ import main
from altmin_ext.command_line.output import read

pandas = pytest.importorskip("pandas")
parquet = pytest.importorskip("pyarrow.parquet")

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(3, 2, (50, 2))
TABLE = pandas.DataFrame(
    {
        "a": X[:, 0],
        "b": X[:, 1].astype(np.float32),
        "flag": X[:, 0] > 3,
        "kind": np.where(X[:, 1] > 3, "ash", "birch"),
    }
)


@pytest.fixture
def mine(tmp_path):
    TABLE.to_parquet(tmp_path / "mine.parquet")
    TABLE.to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path / "mine.parquet"


def test_a_parquet_file_is_the_table_that_it_holds(mine):
    found, same = data.load_file(mine, "kind"), data.load_file(mine.with_suffix(".csv"), "kind")
    assert torch.allclose(found.train[0], same.train[0], atol=1e-6)
    assert torch.equal(found.test[1], same.test[1])
    assert found.preprocessing.features == ["a", "b", "flag"]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pandas.array([1, None] * 25, dtype="Int64"), "but row 2 of the data has none in column 'more'"),
        (
            pandas.date_range("2026-01-01", periods=50),
            "in row 1, column 'more', which is neither number nor word",
        ),
        ([[1, 2]] * 50, "in row 1, column 'more', which is neither number nor word"),
        ([b"x"] * 50, "in row 1, column 'more', which is neither number nor word"),
        ([None] * 50, "but row 1 of the data has none in column 'more'"),
    ],
    ids=["missing", "dates", "lists", "bytes", "nothing"],
)
def test_columns_that_cannot_be_taken(mine, column, words):
    TABLE.assign(more=column).to_parquet(mine)
    with pytest.raises(ValueError, match="mine") as refused:
        data.load_file(mine, "kind")
    assert words in str(refused.value)
    assert data.load_file(mine, "kind", drop=["more"]).shape == (3,)


def test_a_damaged_file_is_one_sentence(mine):
    good = mine.read_bytes()
    for content in (b"", b"junk", good[:-9], good[: len(good) // 2]):
        mine.write_bytes(content)
        with pytest.raises(ValueError, match=r"mine\.parquet is no parquet file \(.*\)\.$"):
            data.load_file(mine, "kind")


def test_predictions_as_parquet_and_a_network_as_onnx(mine, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run, written, model = (str(tmp_path / name) for name in ("run", "out.parquet", "mine.onnx"))
    train = ["train", "--data", str(mine), "--target", "kind", "--hidden", "6", "--epochs", "3", "--quiet"]
    assert main([*train, "--output", run]) == 0
    assert main(["predict", "--model", run, "--data", str(mine), "--probabilities", "--output", written]) == 0
    table = parquet.read_table(written).to_pydict()
    assert main(["predict", "--model", run, "--data", str(mine), "--output", str(tmp_path / "out.csv")]) == 0
    with open(tmp_path / "out.csv") as file:
        assert table["prediction"] == [row["prediction"] for row in csv.DictReader(file)]
    assert main(["export", "--model", run, "--output", model]) == 0
    session = onnxruntime.InferenceSession(model)
    description, network = read(tmp_path / "run")
    x, _ = description["preprocessing"].read(mine)
    raw = TABLE[["a", "b", "flag"]].to_numpy(dtype=np.float32)
    for rows in (1, 50):
        (logits,) = session.run(None, {"x": raw[:rows]})
        assert np.abs(logits - network(x[:rows]).detach().numpy()).max() < 1e-5
    assert (
        np.abs(np.array(table["probability_ash"]) - network(x).softmax(1)[:, 0].detach().numpy()).max() < 1e-6
    )
