"""Oracle: histories written down by hand, and what a file must give back."""

import json
import math
import sys

import pytest
import torch

from altmin_ext.history import History, plot_histories


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def make_history(accuracy=True):
    history = History()
    history.add_steps(
        double(2.0, math.nan, 0.1),
        double(0.25, 0.0, 0.75) if accuracy else None,
        double([0.5, 0.1], [math.inf, 0.2], [0.3, 0.4]),
    )
    for epoch in (1, 2):
        history.epochs.append(
            {
                "epoch": epoch,
                "loss": 3.0 / epoch,
                "accuracy": 0.4 * epoch if accuracy else None,
                "validation_loss": 2.0 / epoch,
                "validation_accuracy": 0.3 * epoch if accuracy else None,
                "seconds": 0.5,
                "samples_per_second": 1000.0,
                "learning_rate_factor": 1.0,
                "objective": [0.5, 0.25],
            }
        )
    return history


def test_save_and_load_give_the_same_history(tmp_path):
    history = make_history()
    history.objective_rose = True
    history.save(tmp_path / "history.json")
    loaded = History.load(tmp_path / "history.json")
    assert loaded.epochs == history.epochs
    assert loaded.steps == 3
    assert loaded.objective_rose is True
    for name in ("step_loss", "step_accuracy"):
        torch.testing.assert_close(
            getattr(loaded, name), getattr(history, name), rtol=0, atol=0, equal_nan=True
        )
    # JSON knows no infinity: a number that is not finite comes back as NaN.
    torch.testing.assert_close(
        loaded.step_objective, double([0.5, 0.1], [math.nan, 0.2], [0.3, 0.4]), rtol=0, atol=0, equal_nan=True
    )


def test_a_file_from_before_a_field_is_read(tmp_path):
    history = make_history()
    history.save(tmp_path / "history.json")
    document = json.loads((tmp_path / "history.json").read_text())
    del document["objective_rose"]
    (tmp_path / "history.json").write_text(json.dumps(document))
    loaded = History.load(tmp_path / "history.json")
    assert loaded.objective_rose is None
    assert loaded.epochs == history.epochs


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


def test_plot_draws_the_recorded_numbers(tmp_path):
    pytest.importorskip("matplotlib")
    figure = make_history().plot(tmp_path / "curve.png")
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")
    curves = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert curves == {"training": [[1, 3.0], [2, 1.5]], "validation": [[1, 2.0], [2, 1.0]]}
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]


def test_plot_without_accuracy_has_one_panel():
    pytest.importorskip("matplotlib")
    assert [axes.get_ylabel() for axes in make_history(accuracy=False).plot().axes] == ["loss"]


def test_several_histories_share_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    figure = plot_histories(
        {"am-adam": make_history(), "adam": make_history()}, tmp_path / "both.svg", held_out="test"
    )
    labels = [line.get_label() for line in figure.axes[1].lines]
    assert labels == ["am-adam, training", "am-adam, test", "adam, training", "adam, test"]
    colours = [line.get_color() for line in figure.axes[1].lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert "<svg" in (tmp_path / "both.svg").read_text()


def test_nothing_to_plot_is_a_value_error():
    with pytest.raises(ValueError, match="histories must hold at least one history"):
        plot_histories({})
    with pytest.raises(ValueError, match="at least one epoch each, but 'adam' has none"):
        plot_histories({"am-adam": make_history(), "adam": History()})


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
