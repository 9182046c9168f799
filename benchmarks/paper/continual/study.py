"""Training on streams, what is measured, and the records of tuning and of final runs."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import altmin_ext
from altmin_ext.data import DataSet
from benchmarks.paper import records
from benchmarks.paper.continual import streams
from benchmarks.paper.continual.contenders import Contender, Options, contenders
from benchmarks.paper.continual.learners import bytes_of
from benchmarks.paper.continual.streams import Stream

results = Path(__file__).parents[2] / "results" / "continual"
batch_size = 100
_asked_meanwhile = 500  # of the test samples of a task, until the last task
_seed_of_tuning = 1000

Accuracies = tuple[list[float], list[float]]


@torch.no_grad()
def accuracies(model: nn.Module, tasks: Sequence[DataSet], most: int | None = None) -> Accuracies:
    """On the tests of the tasks: over all classes, and over those of the task alone.

    Args:
        model: the network.
        tasks: the tasks.
        most: samples of a test to ask, evenly spaced; None for all.
    """
    model.eval()
    over_all, over_own = [], []
    for task in tasks:
        x, y = task.test
        step = 1 if most is None else math.ceil(len(x) / most)
        logits = torch.cat([model(part) for part in x[::step].split(500)])
        asked = y[::step]
        over_all.append(float((logits.argmax(1) == asked).double().mean()))
        own = y.unique()
        over_own.append(float((own[logits[:, own].argmax(1)] == asked).double().mean()))
    model.train()
    return over_all, over_own


def train_once(
    contender: Contender, stream: Stream, options: Options, passes: int, seed: int
) -> dict[str, Any]:
    """One run through all tasks.

    Returns:
        For both ways of asking, the accuracies on all tasks before and after each; seconds, steps, and the bytes
        ``kept`` and ``in all``.
    """
    torch.manual_seed(seed)
    model = contender.network(stream, seed)
    learner = contender.learner(model, stream, seed, **options)
    generator = torch.Generator().manual_seed(seed)
    rows = [accuracies(model, stream.tasks, _asked_meanwhile)]
    seconds, steps = 0.0, 0
    for task in stream.tasks:
        (x, y), begin = task.train, time.process_time()
        learner.begin_task(passes * math.ceil(len(x) / batch_size))
        for _ in range(passes):
            for chosen in torch.randperm(len(x), generator=generator).split(batch_size):
                learner.step(x[chosen], y[chosen])
                steps += 1
        learner.end_task(x, y)
        seconds += time.process_time() - begin
        last = task is stream.tasks[-1]
        rows.append(accuracies(model, stream.tasks, None if last else _asked_meanwhile))
    kept = bytes_of(learner.kept())
    return {
        "class-incremental": [row[0] for row in rows],
        "task-incremental": [row[1] for row in rows],
        "seconds": seconds,
        "steps": steps,
        "kept": kept,
        "in all": kept + bytes_of(model.state_dict().values()),
    }


def measures(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    """Average, forgetting and forward transfer; row 0 is before any training, row t after task t."""
    last, count = rows[-1], len(rows[0])
    lost = [max(row[k] for row in rows[k + 1 : -1]) - last[k] for k in range(count - 1)]
    ahead = [rows[k][k] - rows[0][k] for k in range(1, count)]
    return {
        "average": statistics.mean(last), "forgetting": statistics.mean(lost), "forward": statistics.mean(ahead)
    }  # fmt: skip


def _tuning(stream: str) -> Path:
    return results / f"{stream}.tuning.jsonl"


def _final(stream: str, passes: int) -> Path:
    return results / f"{stream}.{passes}.jsonl"


def tuned(stream: str, contender: str) -> list[dict[str, Any]]:
    """What was recorded of the options that are tried."""
    tried = contenders[contender].tried
    return [
        record
        for record in records.read(_tuning(stream))
        if record["contender"] == contender and record["options"] in tried
    ]


def best_options(stream: str, contender: str) -> Options:
    """What was found best on a stream."""
    if len(contenders[contender].tried) == 1:
        return contenders[contender].tried[0]
    if not (tried := tuned(stream, contender)):
        raise SystemExit(f"{contender} has not been tuned on {stream}: run `tune {stream}`.")
    return dict(max(tried, key=lambda record: record["average"])["options"])


def runs(stream: str, passes: int, contender: str) -> list[dict[str, Any]]:
    """The recorded runs with the options that are the best by now; none for a contender that was not tuned."""
    if len(contenders[contender].tried) > 1 and not tuned(stream, contender):
        return []
    best = best_options(stream, contender)
    return [
        record
        for record in records.read(_final(stream, passes))
        if record["contender"] == contender and record["options"] == best
    ]


def experiments() -> list[tuple[str, int]]:
    """The streams and numbers of passes of which there are runs."""
    found = [path.name.split(".") for path in results.glob("*.jsonl")]
    counts = {(name, int(passes)) for name, passes, _ in found if passes.isdecimal()}
    return sorted(counts, key=lambda one: (one[1], streams.names.index(one[0])))


def tune(name: str, chosen: Sequence[str]) -> None:
    """All options of the contenders on what stands for a stream; what is recorded already is kept."""
    todo = [
        (contender, options)
        for contender in chosen
        for options in contenders[contender].tried
        if len(contenders[contender].tried) > 1
        and options not in [record["options"] for record in tuned(name, contender)]
    ]
    stream = streams.load_for_tuning(name) if todo else None
    for contender, options in todo:
        assert stream is not None
        seconds = 0.0
        try:
            record = train_once(contenders[contender], stream, options, 1, _seed_of_tuning)
            average, seconds = measures(record["class-incremental"])["average"], record["seconds"]
        except altmin_ext.DivergenceError:
            average = 0.0
        found = {"contender": contender, "options": options, "average": average, "seconds": seconds}
        records.append(_tuning(name), found)
        print(f"{name}, {contender}, {options}: {average:.4f}, {seconds:.1f} s", flush=True)


def run(name: str, passes: int, seeds: int, chosen: Sequence[str]) -> None:
    """The contenders from several seeds; what is recorded already is kept."""
    todo = [
        (seed, contender)
        for seed, contender in itertools.product(range(seeds), chosen)
        if (seed == 0 or contenders[contender].seeded)
        and seed not in [record["seed"] for record in runs(name, passes, contender)]
    ]
    stream = streams.load(name) if todo else None
    for seed, contender in todo:
        assert stream is not None
        options = best_options(name, contender)
        record = train_once(contenders[contender], stream, options, passes, seed)
        record = {"contender": contender, "options": options, "seed": seed, **record}
        records.append(_final(name, passes), record)
        average = measures(record["class-incremental"])["average"]
        print(f"{name}, {contender}, {seed}: {average:.4f}, {record['seconds']:.1f} s", flush=True)
