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


def figure(path: Path) -> None:
    """Accuracy at the end against the bytes kept, and on the tasks so far after every task; a column per stream."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    found = [(name, passes) for name, passes in experiments() if passes == 1]
    picture, axes = pyplot.subplots(
        2, len(found), figsize=(4.2 * len(found), 8.6), layout="constrained", squeeze=False, sharey="col"
    )
    for column, (name, passes) in enumerate(found):
        above, below = axes[0, column], axes[1, column]
        for contender, entry in contenders.items():
            if not (recorded := runs(name, passes, contender)):
                continue
            color, marker = entry.look
            style: dict[str, Any] = {"color": color, "marker": marker, "label": contender}
            kept = max(recorded[-1]["kept"] / 1000, 10)  # none has no place on a logarithmic axis
            above.plot([kept], [statistics.mean(_averages(recorded))], linestyle="none", **style)
            rows = [record["class-incremental"] for record in recorded]
            count = len(rows[0][0])
            curve = [
                statistics.mean(statistics.mean(row[t][:t]) for row in rows) for t in range(1, count + 1)
            ]
            below.plot(range(1, count + 1), curve, linewidth=1, markersize=4, **style)
        above.set(title=name, xscale="log", xlabel="kB kept beside the network's parameters (10 for less)")
        below.set(xlabel="tasks seen")
        below.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        for axis in (above, below):
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("average accuracy at the end, all classes")
    axes[1, 0].set_ylabel("average accuracy on the tasks so far, all classes")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    picture.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 2 * len(found)), fontsize="small"
    )
    picture.savefig(path, dpi=130)
