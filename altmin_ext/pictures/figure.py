"""Figures of matplotlib that show themselves in notebooks, and leave pyplot's state alone.

pyplot keeps every figure that it knows until it is closed, and draws it at the end of a notebook's cell. These
figures are unknown to it: they are shown once, as the value of a cell, and go when nothing refers to them.
"""

from __future__ import annotations

import io
import math
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullLocator

from altmin_ext.pictures.panels import Panel
from altmin_ext.pictures.ticks import log_ticks, tick_label

_most_columns = 3


class Picture(Figure):
    """A figure that is no figure of pyplot's, and is shown all the same."""

    def _repr_png_(self) -> bytes:
        """What a notebook shows of it, with or without ``%matplotlib inline``."""
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=100)
        return picture.getvalue()

    def show(self, warn: bool = True) -> None:
        """Show the figure: in a notebook below the cell; elsewhere in a window, and wait until that is closed.

        Args:
            warn: whether to warn where no window can be opened, as on a machine without a screen. A file can be
                written there, by ``savefig``.

        Raises:
            ValueError: matplotlib is older than 3.11, and cannot open a window for such a figure.
        """
        interactive: Any = sys.modules.get("IPython")
        if interactive is not None and hasattr(interactive.get_ipython(), "kernel"):
            interactive.display.display(self)
            return
        from matplotlib import pyplot  # only here, since it chooses a backend, and takes its time

        pyplot.figure(self)
        try:
            if type(self.canvas).required_interactive_framework is not None:
                pyplot.show(block=True)
            elif warn:
                warnings.warn(
                    "no window can be opened here; write the figure to a file by savefig, and look at that.",
                    stacklevel=2,
                )
        finally:
            pyplot.close(self)


class ReadableLog(Locator):
    """Ticks of a logarithmic axis, of which at least three are in sight, see :func:`log_ticks`."""

    def __call__(self) -> list[float]:
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        low, high = sorted((vmin, vmax))
        return log_ticks(low, high) if 0 < low < high < math.inf else []


def readable_log(axis: Axis) -> None:
    """Have a logarithmic axis show ticks that can be read off, labelled as people write numbers."""
    axis.set_major_locator(ReadableLog())
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))


def draw(panels: Sequence[Panel]) -> Picture:
    """Draw panels side by side, with one legend below.

    Args:
        panels: what to draw.
    """
    columns = min(len(panels), _most_columns)
    rows = -(-len(panels) // columns)
    figure = Picture(figsize=(4.8 * max(columns, 2), 3.6 * rows + 0.3), dpi=100, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid.flat, panels, strict=False):
        handles |= _draw(axes, panel)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(len(handles), 2 * columns),
        frameon=False,
    )
    return figure


def _draw(axes: Axes, panel: Panel) -> dict[str, Any]:
    """Draw a panel; returns the curves by label."""
    axes.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold")
    axes.set_xlabel(panel.along)
    axes.set_ylabel(f"{panel.name} ({panel.unit})" if panel.unit else panel.name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#7f7f7f", alpha=0.25, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.is_log:
        axes.set_yscale("log")
        readable_log(axes.yaxis)
    handles = {}
    for curve in panel.curves:
        # With markers, since a single epoch draws no line; hollow ones for training.
        (handles[curve.label],) = axes.plot(
            *zip(*curve.points, strict=True),
            "--" if curve.dashed else "-",
            color=curve.colour,
            linewidth=1.8,
            marker="o" if len(curve.points) <= 40 else None,
            markersize=4,
            markerfacecolor="white" if curve.dashed else None,
            label=curve.label,
        )
        missing = [x for x, y in curve.points if not math.isfinite(y)]
        axes.scatter(
            missing,
            [1.0] * len(missing),
            marker="x",
            color=curve.colour,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
    for x, text in panel.marks:
        axes.axvspan(x, x, color="#7f7f7f", linestyle=":")
        axes.annotate(
            text,
            (x, 0.98),
            (-3, 0),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="top",
            fontsize=8.5,
            color="#595959",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )
    return handles
