"""The pictures of results. Oracles: the records that they are drawn from; labels that a reader can tell apart."""

from __future__ import annotations

import itertools
import json
import random
import statistics
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from benchmarks.paper import depth, drawing, first_minibatches, methods

RESULTS = Path(methods.__file__).parents[1] / "results"
if not RESULTS.is_dir():
    pytest.skip("only the tests are here, not the results", allow_module_level=True)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would be saved."""
    figures: list[Any] = []
    monkeypatch.setattr(drawing, "save", lambda figure, _: figures.append(figure))
    return figures


def curves(axis: Any) -> list[list[float]]:
    return [list(line.get_ydata()) for line in axis.lines]


def assert_told_apart(axis: Any) -> None:
    """Labels stand to the right of the panel, and none on another."""
    figure = axis.get_figure()
    figure.draw_without_rendering()
    places = sorted((label.get_unitless_position()[1], label.get_text().count("\n")) for label in axis.texts)
    height = axis.get_window_extent().height
    for (below, lines), (above, others) in itertools.pairwise(places):
        tall = axis.texts[0].get_fontsize() / 72 * figure.dpi / height
        assert above - below >= tall * (1 + (lines + others) / 2) * 0.99
    assert all(label.get_unitless_position()[0] > 1 for label in axis.texts)


def test_errors_are_medians_over_the_seeds(drawn: list[Any], tmp_path: Path) -> None:
    methods.figure("mlp", tmp_path / "mlp.png")
    (figure,) = drawn
    seconds, epochs = figure.axes
    expected, times = [], []
    for contender in methods.comparisons["mlp"].contenders:
        runs = methods._runs("mlp", contender.name)
        length = min(len(run["curve"]) for run in runs)
        expected.append([1 - statistics.median(run["curve"][i] for run in runs) for i in range(length)])
        times.append([statistics.median(run["seconds"][i] for run in runs) for i in range(length)])
    assert curves(seconds) == curves(epochs) == expected
    assert [list(line.get_xdata()) for line in seconds.lines] == times
    assert [list(line.get_xdata()) for line in epochs.lines] == [
        list(range(1, len(own) + 1)) for own in expected
    ]
    names = {contender.name for contender in methods.comparisons["mlp"].contenders}
    best = min(own[-1] for own in expected)
    assert f"{best:.3f}" in figure.get_suptitle()
    for axis in figure.axes:
        assert {label.get_text() for label in axis.texts} == names
        assert_told_apart(axis)


def test_first_minibatches_are_drawn_from_the_record(drawn: list[Any], tmp_path: Path) -> None:
    record = json.loads((RESULTS / "first-minibatches.json").read_text())
    first_minibatches.draw(record, tmp_path / "first.png")
    (axis,) = drawn[0].axes
    assert curves(axis) == [found["mean"] for found in record.values()]
    title = " ".join(drawn[0].get_suptitle().split())
    assert all(f"{name} {found['mean'][-1]:.3f}" in title for name, found in record.items())
    assert_told_apart(axis)


def test_depth_is_drawn_from_the_record(drawn: list[Any], tmp_path: Path) -> None:
    record = {"2 x 100": json.loads((RESULTS / "depth.json").read_text())["2 x 100"]}
    depth.draw(record, tmp_path / "depth.png")
    codes, weights = drawn[0].axes
    (found,) = record.values()
    assert curves(codes) == [numbers["displacement"] for numbers in found.values()]
    assert curves(weights) == [numbers["weight_change"] for numbers in found.values()]


@pytest.mark.parametrize("seed", range(20))
def test_labels_move_as_little_as_it_takes(seed: int) -> None:
    """No other heights with these gaps are nearer to those wished for, as sums of squares."""
    draw = random.Random(seed)
    wished = sorted(draw.uniform(0, 1) for _ in range(draw.randint(1, 8)))
    gaps = [0.0, *(draw.uniform(0, 0.3) for _ in wished[1:])]
    found = drawing._apart(wished, gaps)

    def allowed(heights: list[float]) -> bool:
        steps = (above - below for below, above in itertools.pairwise(heights))
        return all(step >= gap - 1e-12 for step, gap in zip(steps, gaps[1:], strict=True))

    def moved(heights: list[float]) -> float:
        return sum((height - wish) ** 2 for height, wish in zip(heights, wished, strict=True))

    assert allowed(found)
    for _ in range(2000):
        other = [height + draw.gauss(0, 0.02) for height in found]
        assert not allowed(other) or moved(other) >= moved(found) - 1e-12


def test_labels_with_room_stay_where_they_are() -> None:
    assert drawing._apart([0.1, 0.5, 0.9], [0.0, 0.1, 0.1]) == pytest.approx([0.1, 0.5, 0.9])


PICTURES = ("depth", "first-minibatches", "methods/mlp", "continual/continual", "autoencoder/autoencoder")


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_wide_enough_for_a_sharp_screen(name: str) -> None:
    """1,600 pixels: a page shows 800 points, with two pixels each. The size stands in bytes 16 to 24 of a PNG."""
    head = (RESULTS / f"{name}.png").read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert int.from_bytes(head[16:20], "big") == 1600
