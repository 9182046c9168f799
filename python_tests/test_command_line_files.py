"""One's own files on the command line: train, evaluate, predict and export.

Oracle: the same calls in Python on the same numbers; torch's own readers of what is exported; and files that are
written whole or not at all.
"""

import csv
import io
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import altmin_ext
from altmin_ext import data
from altmin_ext.__main__ import main
from altmin_ext.checkpoint import _file
from altmin_ext.command_line.output import read

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(3, 2, (60, 2))
Y = (X[:, 0] > 3).astype(int)


def run(capsys, *arguments, code=0):
    capsys.readouterr()
    found = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert found == code, err
    return out if code == 0 else err


def run_json(capsys, *arguments):
    return json.loads(run(capsys, *arguments, "--json"))


def write_csv(path, **columns):
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture
def mine(tmp_path):
    """A table of two features and a class; or, by another column, a number."""
    pytest.importorskip("pandas")
    return write_csv(
        tmp_path / "mine.csv", a=X[:, 0], b=X[:, 1], kind=np.array(["ash", "birch"])[Y], price=1000 * X[:, 0]
    )  # fmt: skip


def train(capsys, mine, target, folder, *more):
    other = {"kind": "price", "price": "kind"}[target]
    return run_json(
        capsys, "train", "--data", mine, "--target", target, "--drop", other, "--hidden", "4", "--epochs", "2",
        "--method", "sgd", "--output", folder, *more,
    )  # fmt: skip


@pytest.mark.parametrize(("target", "loss"), [("kind", "cross_entropy"), ("price", "mse")])
def test_a_run_is_that_in_python(capsys, mine, tmp_path, target, loss):
    document = train(capsys, mine, target, tmp_path / "run", "--lr", ".05")
    dataset = data.load_file(mine, target, drop=[{"kind": "price", "price": "kind"}[target]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = altmin_ext.models.mlp(2, [4], dataset.n_out)
    altmin_ext.train(
        model, dataset.train, method="sgd", lr=0.05, epochs=2, batch_size=1, loss=loss, progress=False
    )
    test = altmin_ext.evaluate(model, dataset.test, loss=loss)
    (result,) = document["methods"]
    assert (result["loss"], result["test"]["loss"], result["test"]["accuracy"]) == (
        loss,
        test.loss,
        test.accuracy,
    )
    assert document["loss"] == loss
    # The file of the model alone gives the same, on the rows held out and on any others.
    assert run_json(capsys, "evaluate", "--model", tmp_path / "run")["loss"] == test.loss
    again = run_json(capsys, "evaluate", "--model", tmp_path / "run" / "model.safetensors", "--data", mine)
    x, y = dataset.preprocessing.read(mine, labelled=True)
    assert again["loss"] == altmin_ext.evaluate(model, (x, y), loss=loss).loss
    assert again["samples"] == 60
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_predictions_are_in_the_words_of_the_file(capsys, mine, tmp_path):
    train(capsys, mine, "kind", tmp_path / "run")
    new = write_csv(tmp_path / "new.csv", b=X[:9, 1], a=X[:9, 0], id=range(9))
    description, model = read(tmp_path / "run")
    own = description["preprocessing"]
    mean, deviation = np.array(own.mean), np.array(own.deviation)
    logits = model(torch.tensor((X[:9] - mean) / deviation, dtype=torch.float32)).detach()
    expected = [("ash", "birch")[number] for number in logits.argmax(1)]
    arguments = ["predict", "--model", tmp_path / "run", "--data", new]
    rows = list(csv.DictReader(io.StringIO(run(capsys, *arguments, "--probabilities"))))
    assert [row["prediction"] for row in rows] == expected
    shares = [[float(row["probability_ash"]), float(row["probability_birch"])] for row in rows]
    assert np.abs(np.array(shares) - logits.softmax(1).numpy()).max() < 1e-6
    assert run_json(capsys, *arguments) == {"data": str(new), "samples": 9, "prediction": expected}
    for name in ("p.csv", "p.tsv"):
        said = run(capsys, *arguments, "--output", tmp_path / "out" / name)
        assert said == f"9 predictions written to {tmp_path / 'out' / name}\n"
        text = (tmp_path / "out" / name).read_text()
        assert text.split("\n") == ["prediction", *expected, ""]
    run(capsys, *arguments, "--probabilities", "--output", tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz") as arrays:
        assert arrays["prediction"].tolist() == expected
        assert np.abs(arrays["probability_ash"] - np.array(shares)[:, 0]).max() < 1e-12


def test_predictions_of_a_regression_are_in_the_units_of_the_file(capsys, mine, tmp_path):
    """After exact least squares, the linear target comes back."""
    train(capsys, mine, "price", tmp_path / "run", "--network", "random", "--hidden", "30", "--method", "rls")
    predicted = run_json(capsys, "predict", "--model", tmp_path / "run", "--data", mine)["prediction"]
    description, model = read(tmp_path / "run")
    own = description["preprocessing"]
    x = torch.tensor((X - own.mean) / own.deviation, dtype=torch.float32)
    outputs = model(x).detach().double().numpy()
    assert predicted == pytest.approx((outputs * own.target_deviation + own.target_mean)[:, 0].tolist())
    assert np.corrcoef(predicted, 1000 * X[:, 0])[0, 1] > 0.9


def test_images_are_predicted_by_their_names(capsys, tmp_path):
    images = pytest.importorskip("PIL.Image")
    for kind, shade in (("dark", 20), ("light", 220)):
        (tmp_path / "mine" / kind).mkdir(parents=True)
        for number in range(10):
            images.new("L", (4, 4), shade + number).save(tmp_path / "mine" / kind / f"{number}.png")
    run(
        capsys, "train", "--data", tmp_path / "mine", "--epochs", "9", "--method", "sgd", "--quiet", "--output",
        tmp_path / "run", "--hidden", "4", "--batch-size", "4",
    )  # fmt: skip
    predicted = run_json(capsys, "predict", "--model", tmp_path / "run", "--data", tmp_path / "mine")
    assert predicted["file"][9:11] == ["dark/9.png", "light/0.png"]
    assert predicted["prediction"] == ["dark"] * 10 + ["light"] * 10
    flat = run_json(capsys, "predict", "--model", tmp_path / "run", "--data", tmp_path / "mine" / "light")
    assert flat["prediction"] == ["light"] * 10


def test_a_test_file_and_two_npy_files(capsys, tmp_path):
    for name, rows in (("train", slice(0, 50)), ("test", slice(50, 60))):
        np.savez(tmp_path / f"{name}.npz", x=X[rows], y=Y[rows])
        np.save(tmp_path / f"x-{name}.npy", X[rows])
        np.save(tmp_path / f"y-{name}.npy", Y[rows])
    common = ["--epochs", "1", "--hidden", "3", "--method", "sgd", "--output", tmp_path / "run"]
    run(capsys, "train", "--data", tmp_path / "train.npz", "--test-data", tmp_path / "test.npz", *common)
    tested = run_json(capsys, "evaluate", "--model", tmp_path / "run")
    assert tested["samples"] == 10
    assert run_json(capsys, "evaluate", "--model", tmp_path / "run", "--data", tmp_path / "test.npz")[
        "loss"
    ] == pytest.approx(tested["loss"])
    run(capsys, "train", "--data", tmp_path / "x-train.npy", "--target", tmp_path / "y-train.npy", *common)
    arguments = ["--data", tmp_path / "x-test.npy", "--target", tmp_path / "y-test.npy"]
    assert run_json(capsys, "evaluate", "--model", tmp_path / "run", *arguments)["samples"] == 10
    assert len(run_json(capsys, "predict", "--model", tmp_path / "run", *arguments[:2])["prediction"]) == 10


def test_a_run_goes_on_with_the_same_file_only(capsys, mine, tmp_path):
    longer = train(capsys, mine, "kind", tmp_path / "whole", "--epochs", "3")
    train(capsys, mine, "kind", tmp_path / "run")
    assert "--test-fraction must be left out, as in the run of" in run(
        capsys, "train", "--data", mine, "--target", "kind", "--drop", "price", "--hidden", "4", "--epochs", "3",
        "--method", "sgd", "--output", tmp_path / "run", "--resume", "--test-fraction", ".5", code=2,
    )  # fmt: skip
    resumed = train(capsys, mine, "kind", tmp_path / "run", "--epochs", "3", "--resume")
    assert resumed["methods"][0]["test"] == longer["methods"][0]["test"]


def test_a_model_that_knows_of_no_preprocessing_is_read(capsys, tmp_path):
    """As it was written before there were files of one's own."""
    pytest.importorskip("sklearn")
    model = altmin_ext.models.mlp(64, [5], 10)
    description = {
        "data": "digits", "network": "mlp", "shape": [1, 8, 8], "features": 64, "hidden": [5], "classes": 10,
        "activation": "relu", "loss": "cross_entropy", "ended": "completed", "histories": {},
    }  # fmt: skip
    _file.write(tmp_path / "model.safetensors", {**model.state_dict(), "extra": description})
    test = data.load("digits").test
    found = run_json(capsys, "evaluate", "--model", tmp_path)
    assert found["loss"] == altmin_ext.evaluate(model, test).loss
    predicted = run_json(capsys, "predict", "--model", tmp_path, "--data", "digits")["prediction"]
    assert predicted == altmin_ext.predict(model, test[0]).argmax(1).tolist()
    for command in ("evaluate", "predict"):
        said = run(capsys, command, "--model", tmp_path, "--data", "mine.csv", code=2)
        assert "--data must be the name of a known data set for a network that was trained on digits" in said


# ---------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("target", ["kind", "price"])
def test_a_graph_takes_the_numbers_of_the_file(capsys, mine, tmp_path, target):
    train(capsys, mine, target, tmp_path / "run")
    said = run(capsys, "export", "--model", tmp_path / "run", "--output", tmp_path / "model.pt2")
    assert said.startswith(
        f"torch.export written to {tmp_path / 'model.pt2'}: x (batch, 2) float32, not standardised: a, b;"
    )
    description, model = read(tmp_path / "run")
    own = description["preprocessing"]
    graph = torch.export.load(tmp_path / "model.pt2").module()
    for rows in (1, 7):
        outputs = graph(torch.tensor(X[:rows], dtype=torch.float32)).detach()
        x = torch.tensor((X[:rows] - own.mean) / own.deviation, dtype=torch.float32)
        expected = model(x).detach()
        if target == "price":
            expected = expected * own.target_deviation[0] + own.target_mean[0]
        assert torch.allclose(outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("m.safetensors", None), ("m.pt", None), ("m.bin", "torch")])
def test_weights_are_an_ordinary_state_dict(capsys, mine, tmp_path, name, kind):
    train(capsys, mine, "kind", tmp_path / "run")
    arguments = ["--format", kind] if kind else []
    run(capsys, "export", "--model", tmp_path / "run", "--output", tmp_path / name, *arguments)
    weights = load_file(tmp_path / name) if name == "m.safetensors" else torch.load(tmp_path / name)
    model = altmin_ext.models.mlp(2, [4], 2)
    model.load_state_dict(weights)
    assert all(
        torch.equal(value, read(tmp_path / "run")[1].state_dict()[key]) for key, value in weights.items()
    )


# ---------------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_is_one_sentence(capsys, mine, tmp_path):
    train(capsys, mine, "kind", tmp_path / "run")
    train(capsys, mine, "price", tmp_path / "regression")
    before = mine.read_bytes()
    of = ["--model", tmp_path / "run"]
    for arguments, words in [
        (["train", "--target", "kind"], "--target must be left out for the known data set 'digits'; it is for files"),
        (["train", "--data", mine], "target must be the name of a column: 'a', 'b', 'kind', 'price'."),
        (["train", "--data", mine, "--target", "kin"], "unknown target 'kin': did you mean 'kind'?"),
        (["train", "--data", "mine"], "unknown data set 'mine'"),
        (["train", "--data", tmp_path / "no.csv"], "no.csv cannot be read: No such file or directory."),
        (
            ["train", "--data", mine, "--target", "price", "--drop", "kind", "--loss", "hinge"],
            "--loss must be mse for a regression, as of mine.csv, but is hinge.",
        ),
        (
            ["train", "--data", mine, "--target", "price", "--drop", "kind", "--metrics", "F1Score"],
            "--metrics must be left out for a regression",
        ),
        (["predict", *of], "the following arguments are required: --data (see altmin predict --help)"),
        (["predict", *of, "--data", mine, "--output", mine], "--output must be another file than --data"),
        (["predict", *of, "--data", mine, "--output", "p.xls"], "unknown suffix of --output '.xls'"),
        (["predict", *of, "--data", tmp_path / "no.csv"], "no.csv cannot be read: No such file or directory."),
        (
            ["predict", "--model", tmp_path / "regression", "--data", mine, "--probabilities"],
            "--probabilities must be left out for a network trained with the loss 'mse'",
        ),
        (["export", *of, "--output", "m.foo"], "--format must be one of onnx, torch.export, safetensors"),
        (["export", *of, "--output", "m.pt", "--format", "onxx"], "unknown --format 'onxx': did you mean 'onnx'?"),
        (["export", *of, "--output", tmp_path, "--format", "torch"], "must be a file, but is a folder."),
    ]:  # fmt: skip
        said = run(capsys, *arguments, code=2)
        assert words in said, arguments
        assert said.count("\n") == 1
    assert mine.read_bytes() == before


def test_patience_watches_the_loss_of_a_regression(capsys, mine, tmp_path):
    """Learning rate 0: no epoch is better than the first."""
    arguments = ["--lr", "0", "--epochs", "9", "--validation-fraction", ".2", "--patience", "2"]
    (result,) = train(capsys, mine, "price", tmp_path / "run", *arguments)["methods"]
    assert len(result["epochs"]) == 3
