"""The tables and the plot of what has been run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.continual import streams
from benchmarks.paper.continual.contenders import contenders
from benchmarks.paper.continual.study import experiments, measures, runs, tuned

_quantile = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # Student's t


def interval(numbers: Sequence[float]) -> str:
    """Their mean, with the half width of its 95 % interval if there are several."""
    mean = statistics.mean(numbers)
    if len(numbers) == 1:
        return f"{mean:.3f}"
    half = _quantile.get(len(numbers), 2.0) * statistics.stdev(numbers) / len(numbers) ** 0.5
    return f"{mean:.3f} ± {half:.3f}"


def _averages(
    found: Sequence[dict[str, Any]], way: str = "class-incremental", what: str = "average"
) -> list[float]:
    return [measures(record[way])[what] for record in found]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*titles: str) -> list[str]:
    return [_row(*titles), "|" + "---|" * len(titles)]


def table() -> str:
    """Accuracies by learner and stream; then per stream what they cost; then what was tuned."""
    return "\n\n".join([overview(), *(_details(*one) for one in experiments()), _options()])


def overview() -> str:
    """The averages over all classes, by learner and stream."""
    found = experiments()
    lines = _head("average over all classes", *(f"{name}, {_times(passes)}" for name, passes in found))
    for contender in contenders:
        cells = [runs(name, passes, contender) for name, passes in found]
        if any(cells):
            lines.append(_row(contender, *(interval(_averages(cell)) if cell else "" for cell in cells)))
    return "\n".join(lines)


def _times(passes: int) -> str:
    return "one pass" if passes == 1 else f"{passes} passes"


def _details(name: str, passes: int) -> str:
    lines = _head(
        f"{name}, {_times(passes)}", "all classes", "own classes", "forgetting", "forward transfer",
        "kB kept", "kB in all", "ms per step", "seeds",
    )  # fmt: skip
    for contender in contenders:
        if not (found := runs(name, passes, contender)):
            continue
        last = found[-1]
        time = statistics.mean(1e3 * record["seconds"] / record["steps"] for record in found)
        own = _averages(found, "task-incremental")
        lost, ahead = (_averages(found, what=what) for what in ("forgetting", "forward"))
        lines.append(
            _row(
                contender, interval(_averages(found)), f"{statistics.mean(own):.3f}",
                f"{statistics.mean(lost):.3f}", f"{statistics.mean(ahead):+.3f}", f"{last['kept'] / 1000:,.0f}",
                f"{last['in all'] / 1000:,.0f}", f"{time:.2f}", str(len(found)),
            )
        )  # fmt: skip
    return "\n".join(lines)


def _options() -> str:
    """The best options of every learner on every stream, with their average on the held-out tenth."""
    names = [name for name in streams.names if any(tuned(name, contender) for contender in contenders)]
    lines = _head("best of those tried, and its average on the held-out tenth", *names)
    for contender, entry in contenders.items():
        if len(entry.tried) == 1:
            continue
        cells = []
        for name in names:
            tried = tuned(name, contender)
            best = max(tried, key=lambda record: float(record["average"]), default=None)
            cells.append("" if best is None else f"{_named(best['options'])}: {best['average']:.3f}")
        if any(cells):
            lines.append(_row(f"{contender} ({len(entry.tried)})", *cells))
    return "\n".join(lines)


def _named(options: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in options.items())


# Of all learners, those whose course is drawn: the colours are for these, grey for the others.
_courses = ("AM-mem, memory kept", "SLDA, fitted convolution", "replay, uint8", "SGD")


def figure(path: Path) -> None:
    """Accuracy at the end of every learner, with the bytes it keeps, above the course of some; streams beside."""
    from benchmarks.paper.drawing import AM, BACKPROP, GREEN, GREY, PURPLE, save, sheet

    colours = dict(zip(_courses, (AM, GREEN, PURPLE, BACKPROP), strict=True))
    found = [(name, passes) for name, passes in experiments() if passes == 1]
    named = [own for own in contenders if any(runs(*one, own) for one in found)]
    ends = {
        (own, one): statistics.mean(_averages(recorded))
        for own in named
        for one in found
        if (recorded := runs(*one, own))
    }
    first = found[0]
    shown = sorted((own for own in _courses if (own, first) in ends), key=lambda own: -ends[own, first])
    numbers = ", ".join(f"{own} {ends[own, first]:.3f}" for own in shown)
    picture, axes = sheet(
        2, len(found), 9.6, f"{first[0]}, average accuracy after all tasks: {numbers}",
        sharey="row", height_ratios=(2.1, 1),
    )  # fmt: skip
    # From the best on the first stream down; those that were not run on it last.
    order = sorted(named, key=lambda own: ends.get((own, first), -1.0))
    for column, one in enumerate(found):
        above, below = axes[:, column]
        for place, own in enumerate(order):
            if (own, one) not in ends:
                continue
            colour = colours.get(own, GREY)
            above.plot(ends[own, one], place, "o", color=colour, markersize=6)
            rows = [record["class-incremental"] for record in runs(*one, own)]
            count = len(rows[0][0])
            if own in colours:
                curve = [
                    statistics.mean(statistics.mean(row[t][:t]) for row in rows) for t in range(1, count + 1)
                ]
                below.plot(range(1, count + 1), curve, ".-", color=colour, linewidth=1.6, label=own)
        above.set_title(one[0].replace("-", "-\n", 1), loc="left", fontsize=10.5)
        above.set(xlim=(-0.04, 1.08), xticks=(0, 0.5, 1))
        above.set_xlabel("accuracy", fontsize=10)
        below.set_xlabel("tasks seen", fontsize=10)
        below.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_yticks(range(len(order)), [f"{own} ({_kept(own, found)})" for own in order])
    for label, own in zip(axes[0, 0].get_yticklabels(), order, strict=True):
        label.set_color(colours.get(own, "#404040"))
    axes[1, 0].set_ylabel("average accuracy on the tasks so far", fontsize=10)
    handles = {
        label: handle
        for axis in axes[1]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if handles:
        picture.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=10)
    save(picture, path)


def _kept(contender: str, found: Sequence[tuple[str, int]]) -> str:
    """What a learner keeps beside the network's parameters, in kB or MB: the range over the streams."""
    kept = [recorded[-1]["kept"] / 1000 for one in found if (recorded := runs(*one, contender))]
    return " – ".join(dict.fromkeys(_bytes(kilobytes) for kilobytes in (min(kept), max(kept))))


def _bytes(kilobytes: float) -> str:
    if kilobytes < 0.5:
        return "nothing"
    return f"{kilobytes / 1000:.1f} MB" if kilobytes >= 1000 else f"{kilobytes:.0f} kB"
