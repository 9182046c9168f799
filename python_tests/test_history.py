"""Oracle: histories written down by hand, what a file must give back, and the documented types of its columns."""

import json
import math
import sys

import numpy as np
import pytest
import torch

import altmin_ext
from altmin_ext._files import sealed
from altmin_ext.history import History

from .histories import double, make_history

NEWER = ("displacement", "steps", "restores")  # of a row: what the first versions did not keep


def test_save_and_load_give_the_same_history(tmp_path):
    history = make_history()
    history.objective_rose = True
    history.restores = 2
    history.ended = "interrupted"
    history.settings = {
        "method": "am-adam",
        "lr": 0.1,
        "shuffle": True,
        "lr_out": None,
        "network": ["0: Linear()"],
    }
    history.environment = {"torch": "2.13.0", "threads": 2}
    history.save(tmp_path / "history.json")
    loaded = History.load(tmp_path / "history.json")
    for name in ("epochs", "ended", "settings", "environment"):
        assert getattr(loaded, name) == getattr(history, name)
    assert loaded.steps == 3
    assert loaded.objective_rose is True
    assert loaded.restores == 2
    for name in ("step_loss", "step_accuracy"):
        torch.testing.assert_close(
            getattr(loaded, name), getattr(history, name), rtol=0, atol=0, equal_nan=True
        )
    # JSON knows no infinity: a number that is not finite comes back as NaN.
    torch.testing.assert_close(
        loaded.step_objective, double([0.5, 0.1], [math.nan, 0.2], [0.3, 0.4]), rtol=0, atol=0, equal_nan=True
    )


def first_format(history, path):
    """What the first versions wrote: the same document without a seal."""
    history.save(path)
    document = json.loads(path.read_text())
    assert document.pop("sha256")
    return {**document, "format": "altmin_ext history 1"}


def test_a_file_from_before_a_field_is_read(tmp_path):
    history = make_history()
    document = first_format(history, tmp_path / "history.json")
    for name in ("objective_rose", "loss", "restores", "ended", "settings", "environment"):
        del document[name]
    for row in document["epochs"]:
        for name in NEWER:
            del row[name]
    (tmp_path / "history.json").write_text(json.dumps(document))
    loaded = History.load(tmp_path / "history.json")
    for name in ("objective_rose", "loss", "restores", "ended", "settings", "environment"):
        assert getattr(loaded, name) is None
    assert loaded.epochs == [row | dict.fromkeys(NEWER) for row in history.epochs]
    assert list(loaded.epochs[0]) == list(history.epochs[0])
    assert loaded.steps == 3


def test_a_sealed_file_from_before_restores_were_counted_is_read(tmp_path):
    history = make_history()
    history.save(tmp_path / "history.json")
    document = json.loads(history.to_bytes())
    del document["restores"], document["sha256"]
    (tmp_path / "history.json").write_bytes(sealed(document))
    loaded = History.load(tmp_path / "history.json")
    assert loaded.restores is None
    assert loaded.epochs == history.epochs


def altered_rows(key, value):
    return lambda d: d["epochs"][1].update({key: value})


def altered(key, value):
    return lambda d: d.update({key: value})


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda d: d.pop("epochs"), "it lacks 'epochs'"),
        (lambda d: d.pop("steps"), "it lacks 'steps'"),
        (lambda d: d.pop("step_loss"), "it lacks 'step_loss'"),
        (lambda d: d.pop("step_accuracy"), "it lacks 'step_accuracy'"),
        (altered("epoahs", []), "it has an unknown 'epoahs'"),
        (altered("epochs", None), "epochs is no list"),
        (altered("epochs", {"a": 1}), "epochs is no list"),
        (altered("epochs", [5]), r"epochs\[0\] is no object"),
        (altered("epochs", [{"epoch": 1, "loss": 1.0}]), r"epochs\[0\] lacks 'accuracy'"),
        (altered_rows("loss", "low"), r"epochs\[1\].loss is no number"),
        (altered_rows("loss", True), r"epochs\[1\].loss is no number"),
        (altered_rows("loss", 10**400), r"epochs\[1\].loss is too large a number"),
        (altered_rows("epoch", 1.5), r"epochs\[1\].epoch is no whole number of at least 0"),
        (altered_rows("epoch", -1), r"epochs\[1\].epoch is no whole number of at least 0"),
        (altered_rows("validation_accuracy", []), r"epochs\[1\].validation_accuracy is no number"),
        (altered_rows("objective", 0.5), r"epochs\[1\].objective is no list"),
        (altered_rows("objective", [0.5, "x"]), r"epochs\[1\].objective\[1\] is no number"),
        (altered("steps", "x"), "steps is no whole number of at least 0"),
        (altered("steps", True), "steps is no whole number of at least 0"),
        (altered("steps", 2), "step_loss has 3 entries for 2 steps"),
        (altered("loss", 3), "loss is no str"),
        (altered("objective_rose", 0), "objective_rose is no bool"),
        (altered("restores", -1), "restores is no whole number of at least 0"),
        (altered("ended", 1), "ended is no str"),
        (altered("settings", []), "settings is no dict"),
        (altered("settings", {"lr": {}}), "settings.lr is neither a word nor a number"),
        (altered("environment", {"CPU": [1]}), "environment.CPU is neither a word nor a number"),
        (altered_rows("steps", 0.5), r"epochs\[1\].steps is no whole number of at least 0"),
        (altered_rows("displacement", 1.0), r"epochs\[1\].displacement is no list"),
        (altered("step_loss", "x"), "step_loss is no list"),
        (altered("step_loss", [1.0, [2.0], 3.0]), r"step_loss\[1\] is no number"),
        (altered("step_loss", [10**400]), r"step_loss\[0\] is too large a number"),
        (altered("step_accuracy", [0.5]), "step_accuracy has 1 entries and step_loss 3"),
        (altered("step_objective", [[1.0], [1.0, 2.0], [1.0]]), "step_objective has rows of different lengths"),
        (altered("step_objective", [1.0, 1.0, 1.0]), r"step_objective\[0\] is no list"),
    ],
)  # fmt: skip
def test_a_file_without_a_seal_must_have_the_types_that_are_documented(tmp_path, alter, reason):
    path = tmp_path / "history.json"
    document = first_format(make_history(), path)
    alter(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"history\.json' must be a history written .*: {reason}\.$"):
        History.load(path)


def test_no_altered_byte_passes(tmp_path):
    """Whatever is hit: the same history, or a ValueError that names the file."""
    path = tmp_path / "history.json"
    history = make_history()
    history.save(path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"history\.json' must be a history"):
            History.load(path)
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"history\.json' must be a history"):
            History.load(path)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"\xff\x00", b"null", b'{"format": []}', b'{"format": {}}']
)
def test_content_of_no_sense_is_a_value_error(tmp_path, content):
    (tmp_path / "history.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"history\.json' must be a history"):
        History.load(tmp_path / "history.json")


def test_a_folder_or_nothing_is_an_os_error(tmp_path):
    with pytest.raises(IsADirectoryError, match="must be a file, but is a folder"):
        History.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        History.load(tmp_path / "nothing.json")


def test_what_a_callback_adds_to_a_row_is_kept(tmp_path):
    history = make_history()
    history.epochs[0]["f1"] = np.float32(0.5)
    history.save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json").epochs[0]["f1"] == 0.5


def test_numbers_that_are_not_finite_survive_as_nan(tmp_path):
    """A run all of whose minibatches were skipped; a number that every epoch has stays a number."""
    history = make_history()
    for row in history.epochs:
        row["loss"] = row["accuracy"] = math.nan
        row["objective"] = [math.inf, 1.0]
    history.save(tmp_path / "history.json")
    loaded = History.load(tmp_path / "history.json")
    for row in loaded.epochs:
        assert math.isnan(row["loss"])
        assert math.isnan(row["accuracy"])
        assert math.isnan(row["objective"][0])
        assert row["objective"][1] == 1.0
    assert repr(loaded).startswith("History(2 epochs, 3 steps: loss nan, accuracy nan, validation_loss 1,")
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "history.json").read_bytes()


def skipped():
    """The history of a run whose minibatches were all skipped, since x is NaN."""
    x, y = torch.full((6, 4), math.nan), torch.arange(6) % 2
    model = altmin_ext.models.mlp(4, [3], 2)
    return altmin_ext.train(model, [(x, y)], on_nonfinite="skip", progress=False)


@pytest.mark.parametrize("make", [skipped, make_history])
def test_a_loaded_history_is_drawn_and_tabled_like_the_saved_one(tmp_path, make):
    pytest.importorskip("matplotlib")
    pandas = pytest.importorskip("pandas")
    history = make()
    history.save(tmp_path / "history.json")
    loaded = History.load(tmp_path / "history.json")
    for figure in (history.plot(), loaded.plot()):
        assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    pandas.testing.assert_frame_equal(loaded.to_pandas(), history.to_pandas())


def test_a_minibatch_that_is_not_classified_has_no_accuracy():
    """Labels in one minibatch, probabilities of the classes in the other: the epoch's is of the labels."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    labels, probabilities = torch.tensor([0, 1, 0, 1]), torch.full((4, 2), 0.5)
    history = altmin_ext.train(
        model,
        [(x, labels), (x, probabilities)],
        method="sgd",
        lr=0.0,
        loss=torch.nn.CrossEntropyLoss(),
        progress=False,
    )
    assert history.step_accuracy[0] == 0.75
    assert history.step_accuracy[1].isnan()
    assert history.epochs[0]["accuracy"] == 0.75


def test_records_that_begin_or_end_within_a_run_are_filled_with_nan():
    history = History()
    history.add_steps(double(1.0, 2.0), None, None)
    history.add_steps(double(3.0), double(0.5), double([1.0, 2.0]))
    history.add_steps(double(4.0), None, None)
    assert history.step_accuracy.nan_to_num(nan=-1).tolist() == [-1, -1, 0.5, -1]
    assert history.step_objective.nan_to_num(nan=-1).tolist() == [[-1, -1], [-1, -1], [1, 2], [-1, -1]]


def test_what_was_not_recorded_stays_none(tmp_path):
    history = History()
    history.add_steps(double(1.0), None, None)
    history.save(tmp_path / "history.json")
    loaded = History.load(tmp_path / "history.json")
    assert loaded.step_accuracy is None
    assert loaded.step_objective is None
    assert loaded.objective_rose is None
    assert loaded.epochs == []


def test_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "history.json"
    history = make_history()
    history.save(path)
    before = path.read_bytes()
    history.epochs[0]["loss"] = object()
    with pytest.raises(TypeError):
        history.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"epochs": []}'])
def test_loading_something_else_says_so(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other\.json' must be a history"):
        History.load(path)


def test_step_records_are_bounded(monkeypatch):
    monkeypatch.setattr(History, "step_limit", 5)
    history = History()
    for start in range(0, 12, 4):
        values = torch.arange(start, start + 4, dtype=torch.float64)
        history.add_steps(values, values / 100, values[:, None].repeat(1, 3))
    # 12 steps, numbered from 0; the last five are kept.
    assert history.steps == 12
    torch.testing.assert_close(history.step_loss, double(7, 8, 9, 10, 11))
    torch.testing.assert_close(history.step_accuracy, double(7, 8, 9, 10, 11) / 100)
    assert history.step_objective.shape == (5, 3)
    assert history.step_loss.untyped_storage().nbytes() == 5 * 8


def test_repr_shows_where_the_run_ended():
    assert repr(make_history()) == (
        "History(2 epochs, 3 steps: loss 1.5, accuracy 0.8, validation_loss 1, validation_accuracy 0.6)"
    )
    assert repr(History()) == "History(0 epochs, 0 steps)"


def test_pandas_frame_has_a_row_per_epoch():
    pytest.importorskip("pandas")
    frame = make_history().to_pandas()
    assert list(frame.index) == [1, 2]
    assert frame.index.name == "epoch"
    assert list(frame["loss"]) == [3.0, 1.5]
    assert list(frame["objective"]) == [[0.5, 0.25]] * 2


def test_pandas_frame_without_epochs_has_the_columns():
    pytest.importorskip("pandas")
    frame = History().to_pandas()
    assert len(frame) == 0
    assert frame.index.name == "epoch"
    assert list(frame.columns) == list(make_history().to_pandas().columns)


@pytest.mark.parametrize(
    ("module", "use", "extra"),
    [("pandas", "to_pandas", "pandas"), ("matplotlib.figure", "plot", "plot")],
)
def test_missing_extra_is_named(monkeypatch, module, use, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'is not installed.* pip install "altmin_ext\[{extra}\]"'):
        getattr(make_history(), use)()


def test_saved_file_is_standard_json(tmp_path):
    make_history().save(tmp_path / "history.json")
    text = (tmp_path / "history.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)["step_loss"] == [2.0, None, 0.1]
