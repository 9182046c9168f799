"""Figures of learning curves.

Oracles: the numbers of a history that is written down by hand; pyplot's own list of figures; a backend of matplotlib
that notes what it is asked to show; the contrast of colours as WCAG 2 defines it.
"""

import gc
import math
import pickle
import sys
import weakref

import pytest

from altmin_ext.history import History, plot_histories
from altmin_ext.pictures.panels import COLOURS

from ..histories import make_history

pytest.importorskip("matplotlib")


def test_plot_draws_the_recorded_numbers(tmp_path):
    figure = make_history().plot(tmp_path / "curve.png")
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")
    curves = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert curves == {"training": [[1, 3.0], [2, 1.5]], "validation": [[1, 2.0], [2, 1.0]]}
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]


def test_plot_without_accuracy_has_one_panel():
    assert [axes.get_ylabel() for axes in make_history(accuracy=False).plot().axes] == ["loss"]


def test_several_histories_share_a_picture(tmp_path):
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
    with pytest.raises(ValueError, match="at least one epoch each, but this one has none: train first"):
        History().plot()


def test_curves_are_told_apart_by_more_than_colour():
    training, validation = make_history().plot().axes[0].lines
    assert training.get_linestyle() != validation.get_linestyle()
    assert training.get_markerfacecolor() != validation.get_markerfacecolor()


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_are_seen_on_light_and_on_dark_pages(colour):
    """Graphics need a contrast of 3 to 1, WCAG 2, 1.4.11."""
    for page in ("#ffffff", "#121212"):
        lighter, darker = sorted([luminance(colour) + 0.05, luminance(page) + 0.05], reverse=True)
        assert lighter / darker >= 3


def test_titles_tell_the_last_numbers():
    history = make_history()
    history.loss = "hinge"
    loss, accuracy = history.plot().axes
    assert loss.get_title(loc="left") == "loss (hinge): training 1.5, validation 1"
    assert accuracy.get_title(loc="left") == "accuracy: training 0.8, validation 0.6"


def test_a_loss_that_falls_far_has_a_logarithmic_axis_with_readable_ticks():
    history = make_history()
    history.epochs[1]["loss"] = 0.02
    figure = history.plot()
    figure.canvas.draw()
    loss, accuracy = figure.axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    assert [label.get_text() for label in loss.get_yticklabels()] == [
        "0.02",
        "0.05",
        "0.1",
        "0.2",
        "0.5",
        "1",
        "2",
    ]
    assert make_history().plot().axes[0].get_yscale() == "linear"


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_how_a_run_ended_and_where_it_was_restored_is_marked():
    history = make_history()
    history.epochs[0]["restores"], history.epochs[1]["restores"] = 1, 3
    history.ended = "interrupted"
    for axes in history.plot().axes:
        assert texts(axes) == ["restored 1 time", "restored 2 times", "interrupted"]
        assert [text.xy[0] for text in axes.texts] == [1, 2, 2]
    history.ended = "completed"
    for row in history.epochs:
        row["restores"] = 0
    assert [texts(axes) for axes in history.plot().axes] == [[], []]


def test_numbers_that_are_not_finite_are_crosses_at_the_edge():
    history = make_history()
    history.epochs[0]["validation_loss"], history.epochs[1]["validation_loss"] = math.nan, math.inf
    loss = history.plot().axes[0]
    _, crosses = loss.collections
    assert crosses.get_offsets().tolist() == [[1, 1], [2, 1]]
    assert crosses.get_offset_transform() == loss.get_xaxis_transform()


def test_a_figure_shows_itself_in_a_notebook():
    assert make_history().plot()._repr_png_().startswith(b"\x89PNG")


def test_a_figure_is_none_of_pyplot_s_and_goes_when_it_is_forgotten():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    figure = make_history().plot()
    figure._repr_png_()
    assert pyplot.get_fignums() == before
    kept = weakref.ref(figure)
    del figure
    gc.collect()
    assert kept() is None


def test_a_figure_is_pickled():
    figure = pickle.loads(pickle.dumps(make_history().plot()))
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]


SCREEN = """
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

shown = []

class FigureManager(FigureManagerBase):
    @classmethod
    def pyplot_show(cls, *, block=None):
        from matplotlib import pyplot
        shown.append((pyplot.get_fignums(), block))

class FigureCanvas(FigureCanvasAgg):
    required_interactive_framework = "none that is known"
    manager_class = FigureManager
"""


def adopts_figures():
    matplotlib = pytest.importorskip("matplotlib")
    if tuple(map(int, matplotlib.__version__.split(".")[:2])) < (3, 11):
        pytest.skip("pyplot of this version opens no window for a figure that is not its own")


def test_show_opens_a_window_waits_and_leaves_nothing(tmp_path, monkeypatch):
    adopts_figures()
    from matplotlib import get_backend, pyplot

    (tmp_path / "altmin_ext_screen.py").write_text(SCREEN)
    monkeypatch.syspath_prepend(tmp_path)
    before, figures = get_backend(), pyplot.get_fignums()
    figure = make_history().plot()
    # A backend with a framework of its own can only be entered where none runs, as in a script.
    monkeypatch.setattr("matplotlib.cbook._get_running_interactive_framework", lambda: None)
    pyplot.switch_backend("module://altmin_ext_screen")
    try:
        figure.show()
        figure.show()
    finally:
        pyplot.switch_backend(before)
    (first, again) = sys.modules["altmin_ext_screen"].shown
    assert first == again == ([*figures, max(figures, default=0) + 1], True)
    assert pyplot.get_fignums() == figures
    assert figure.canvas.manager is None  # which would be of a window that is closed
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_show_says_where_no_window_can_be_opened(monkeypatch):
    adopts_figures()
    from matplotlib import get_backend, pyplot

    before, figures = get_backend(), pyplot.get_fignums()
    pyplot.switch_backend("agg")
    try:
        with pytest.warns(UserWarning, match="write the figure to a file by savefig"):
            make_history().plot().show()
    finally:
        pyplot.switch_backend(before)
    assert pyplot.get_fignums() == figures
