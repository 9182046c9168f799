"""How pictures of results look: readable at 800 pixels, the finding as title, curves labelled where they end."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from altmin_ext.pictures.figure import readable_log
from altmin_ext.pictures.panels import COLOURS

#: Alternating minimisation, backpropagation, and three more; told apart by the colour-blind.
AM, BACKPROP, GREEN, PURPLE, GREY, BROWN = COLOURS
_width = 8.0  # inches: 1,600 pixels, which a page shows at half of that
_letters = 76  # of a line of the title


def sheet(rows: int, columns: int, height: float, title: str, **options: Any) -> tuple[Figure, Any]:
    """A figure of some panels.

    Args:
        rows, columns: of panels.
        height: in inches.
        title: what is found, in lines as they fit.
        **options: of ``Figure.subplots``.

    Returns:
        The figure, and its axes (rows, columns).
    """
    figure = Figure(figsize=(_width, height), dpi=200, layout="constrained")
    figure.suptitle(textwrap.fill(title, _letters), x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.grid(color="#7f7f7f", alpha=0.2, linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=10)
    return figure, axes


def log(axis: Axes, *which: str) -> None:
    """Make "x" or "y" logarithmic, with ticks that can be read off."""
    for name in which:
        axis.set(**{f"{name}scale": "log"})
        readable_log(getattr(axis, f"{name}axis"))


def label_ends(axis: Axes, ends: Mapping[str, tuple[float, float, str]], size: float = 10) -> None:
    """Write the label of each curve to the right of the panel, at the height of its end if there is room.

    Args:
        axis: with all curves drawn, and its limits as they stay.
        ends: by label, the last point (x, y) and the colour.
        size: of the letters, in points.
    """
    if not ends:
        return
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    to_share = (axis.transData + axis.transAxes.inverted()).transform
    places = {label: to_share((x, y)) for label, (x, y, _) in ends.items()}
    order = sorted(places, key=lambda label: float(places[label][1]))
    height = axis.get_window_extent().height
    line = 1.25 * size / 72 * figure.dpi / height
    tall = [line * (1 + label.count("\n")) for label in order]
    gaps = [0.0, *((below + above) / 2 for below, above in itertools.pairwise(tall))]
    heights = _apart([float(places[label][1]) for label in order], gaps)
    for label, at in zip(order, heights, strict=True):
        x, y, colour = ends[label]
        axis.annotate(
            label, (x, y), (1.03, at), "data", axis.transAxes, color=colour, fontsize=size, va="center",
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 1,
                "shrinkB": 2,
            },
            annotation_clip=False,
        )  # fmt: skip


def _apart(heights: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """The heights, in rising order, moved as little as it takes: neighbours that are too close share the move.

    Args:
        heights: where labels would be.
        gaps: the least distance of each from the one before.
    """
    offsets = list(itertools.accumulate(gaps))
    groups: list[tuple[int, float]] = []  # how many labels, and the mean of their heights less their offsets
    for height, offset in zip(heights, offsets, strict=True):
        count, mean = 1, height - offset
        while groups and groups[-1][1] > mean:
            before, other = groups.pop()
            count, mean = count + before, (count * mean + before * other) / (count + before)
        groups.append((count, mean))
    means = [mean for count, mean in groups for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=200, facecolor="white")
