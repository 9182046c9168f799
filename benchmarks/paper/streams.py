"""Streams of single samples in river: prequential accuracy and samples a second, beside river's own learners.

    python -m benchmarks.paper.streams tune [--contenders am-sgd ...] [--streams phishing ...]
    python -m benchmarks.paper.streams run [--seeds 5] [--contenders ...] [--streams ...]
    python -m benchmarks.paper.streams time [--rounds 5] [--contenders ...] [--streams phishing]
    python -m benchmarks.paper.streams table [--output FILE.md]

Every sample is predicted before it is learned, as ``river.evaluate.progressive_val_score`` does. The streams are
those that river brings along, without a network: Phishing (1,250 samples of 9 features, 2 classes), Bananas (5,300 of
2), ImageSegments (2,310 of 18, 7 classes), the first 10,000 of Shuttle (9 features, seldom an outlier); and 10,000
samples each of four generators: SEA whose rule changes after every quarter, Hyperplane that turns, RandomRBF whose
centres move, and Agrawal, whose rule is a small tree.

Every contender is tuned by twelve trials of Optuna on the first two fifths of each stream, by the accuracy there.
Then each learns the whole stream from the beginning: the table has the accuracy over the last three fifths, which no
trial has seen, and over the whole stream, with the defaults and with what was found. Linear models and networks stand
behind a ``StandardScaler``. deep-river needs an older river, so it runs in an environment of its own, see
benchmarks/README.md; its network and the space of its trials are those of am-sgd.

Times are processor seconds of one thread for predict_one, the metric and learn_one. Results are JSON lines under
benchmarks/results/river.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from altmin_ext.errors import DivergenceError
from altmin_ext.tuning import Choice, Range, Space
from benchmarks.paper import records
from benchmarks.paper.tuning import tuned

results = Path(__file__).parent.parent / "results" / "river"
trials, tuned_part, tuning_seed = 12, 0.4, 1000
Samples = list[tuple[dict[Any, float], Any]]

# ------------------------------------------------------------------------------------------------- streams


def _first(count: int, samples: Iterable[Any]) -> Samples:
    return [(x, y) for x, y in itertools.islice(samples, count)]


def _sea() -> Samples:
    from river.datasets import synth

    return [
        sample for rule in range(4) for sample in _first(2_500, synth.SEA(variant=rule, seed=rule, noise=0.1))
    ]


def _made(generator: str, **settings: Any) -> Callable[[], Samples]:
    def make() -> Samples:
        from river.datasets import synth

        return _first(10_000, getattr(synth, generator)(**settings))

    return make


def _brought(name: str) -> Callable[[], Samples]:
    def read() -> Samples:
        from river import datasets

        return _first(10_000, getattr(datasets, name)())

    return read


streams: dict[str, Callable[[], Samples]] = {
    "phishing": _brought("Phishing"),
    "bananas": _brought("Bananas"),
    "image segments": _brought("ImageSegments"),
    "shuttle": _brought("Shuttle"),
    "sea, changing": _sea,
    "hyperplane, turning": _made("Hyperplane", seed=1, n_features=10, mag_change=0.01, noise_percentage=0.05),
    "rbf, moving": _made(
        "RandomRBFDrift", seed_model=1, seed_sample=1, n_classes=4, n_features=10, change_speed=0.001
    ),
    "agrawal": _made("Agrawal", classification_function=2, seed=1),
}


@functools.cache
def samples_of(stream: str) -> Samples:
    return streams[stream]()


# ---------------------------------------------------------------------------------------------- contenders

Make = Callable[[dict[str, Any], int, Samples], Any]
"""(options, seed, the stream) -> a learner."""


def _logistic_regression(options: dict[str, Any], seed: int, samples: Samples) -> Any:
    from river import linear_model, multiclass, optim, preprocessing

    own = dict(options)
    optimizer = getattr(optim, own.pop("optimizer", "SGD"))(own.pop("lr", 0.01))
    model: Any = linear_model.LogisticRegression(optimizer, **own)
    if not all(y in (False, True) for _, y in samples):
        model = multiclass.OneVsRestClassifier(model)
    return preprocessing.StandardScaler() | model


def _hoeffding_tree(options: dict[str, Any], seed: int, samples: Samples) -> Any:
    from river import tree

    return tree.HoeffdingTreeClassifier(**options)


def _adaptive_tree(options: dict[str, Any], seed: int, samples: Samples) -> Any:
    from river import tree

    return tree.HoeffdingAdaptiveTreeClassifier(seed=seed, **options)


def _forest(options: dict[str, Any], seed: int, samples: Samples) -> Any:
    from river import forest

    return forest.ARFClassifier(seed=seed, **options)


def _network(method: str) -> Make:
    def make(options: dict[str, Any], seed: int, samples: Samples) -> Any:
        from river import preprocessing

        from altmin_ext.river import AMClassifier

        own = dict(options)
        hidden = (own.pop("width", 100),) * own.pop("depth", 1)
        return preprocessing.StandardScaler() | AMClassifier(hidden, method, seed=seed, **own)

    return make


def _deep_river(options: dict[str, Any], seed: int, samples: Samples) -> Any:
    from deep_river.classification import Classifier
    from river import preprocessing

    from altmin_ext.models import mlp

    own = {"width": 100, "depth": 1, "lr": 0.1, **options}  # am-sgd's defaults
    torch.manual_seed(seed)
    classes = len({y for _, y in samples})
    learner = Classifier(
        mlp(len(samples[0][0]), (own["width"],) * own["depth"], classes),
        loss_fn="cross_entropy",
        optimizer_fn="sgd",
        lr=own["lr"],
        seed=seed,
    )
    return preprocessing.StandardScaler() | learner


def _network_space(low: float, high: float) -> Space:
    widths = {"width": Choice((20, 100)), "depth": Range(1, 2, whole=True)}
    return {"lr": Range(low, high, log=True), **widths}


_linear_space: Space = {
    "optimizer": Choice(("SGD", "Adam")),
    "lr": Range(1e-3, 1.0, log=True),
    "l2": Range(1e-6, 1e-2, log=True),
}
_tree_space: Space = {
    "grace_period": Range(10, 400, log=True, whole=True),
    "delta": Range(1e-8, 1e-1, log=True),
    "leaf_prediction": Choice(("nba", "nb", "mc")),
}
_random_features_space: Space = {"width": Choice((20, 100)), "ridge": Range(1e-3, 1e2, log=True)}

contenders: dict[str, tuple[Make, Space, bool]] = {  # and whether a seed makes a difference
    "logistic regression": (_logistic_regression, _linear_space, False),
    "Hoeffding tree": (_hoeffding_tree, _tree_space, False),
    "Hoeffding adaptive tree": (_adaptive_tree, _tree_space, True),
    "adaptive random forest": (_forest, _tree_space, True),
    "am-sgd": (_network("am-sgd"), _network_space(3e-3, 1.0), True),
    "am-adam": (_network("am-adam"), _network_space(3e-4, 1e-1), True),
    "rls": (_network("rls"), _random_features_space, True),
    "deep-river": (_deep_river, _network_space(3e-3, 1.0), True),
}


def right_and_seconds(learner: Any, samples: Samples) -> tuple[list[bool], float]:
    """Of every sample whether it was predicted before it was learned, and the processor's seconds for all.

    Args:
        learner: one of river's interface.
        samples: the stream.
    """
    from river import metrics

    metric, right = metrics.Accuracy(), []
    started = time.process_time()
    for x, y in samples:
        predicted = learner.predict_one(x)
        right.append(predicted == y)
        if predicted is not None:
            metric.update(y, predicted)
        learner.learn_one(x, y)
    return right, time.process_time() - started


# ------------------------------------------------------------------------------------------------- actions


def _read(kind: str) -> list[dict[str, Any]]:
    return records.read(results / f"{kind}.jsonl")


def _append(kind: str, record: dict[str, Any]) -> None:
    records.append(results / f"{kind}.jsonl", record)


def _label(stream: str, contender: str) -> str:
    return f"{stream}, {contender}"


def tune(chosen: Sequence[str], on: Sequence[str]) -> None:
    """Twelve trials of every contender on the first part of every stream."""
    for stream in on:
        whole = samples_of(stream)
        samples = whole[: int(tuned_part * len(whole))]
        made = {_label(stream, contender): contenders[contender] for contender in chosen}

        def accuracy(
            label: str, options: dict[str, Any], part: float, made: Any = made, samples: Samples = samples
        ) -> float:
            return statistics.fmean(
                right_and_seconds(made[label][0](options, tuning_seed, samples), samples)[0]
            )

        spaces = {label: space for label, (_, space, _) in made.items()}
        tuned(results / "tuning.jsonl", accuracy, spaces, trials=trials, budget=tuned_part)


def _tried(stream: str, contender: str) -> list[dict[str, Any]]:
    return [record for record in _read("tuning") if record["contender"] == _label(stream, contender)]


def best_options(stream: str, contender: str) -> dict[str, Any]:
    """What was found best."""
    tried = _tried(stream, contender)
    if len(tried) < trials:
        raise SystemExit(f"{contender} has not been tuned on {stream}: run `tune`.")
    return dict(max(tried, key=lambda record: record["value"])["values"])


def run(chosen: Sequence[str], on: Sequence[str], seeds: int) -> None:
    """The whole stream, with the defaults and with what was found best."""
    done = {(r["stream"], r["contender"], r["settings"], r["seed"]) for r in _read("runs")}
    for stream, contender, settings in itertools.product(on, chosen, ("defaults", "tuned")):
        make, _, varies = contenders[contender]
        options = {} if settings == "defaults" else best_options(stream, contender)
        samples = samples_of(stream)
        for seed in range(seeds if varies else 1):
            if (stream, contender, settings, seed) in done:
                continue
            record = {"stream": stream, "contender": contender, "settings": settings, "seed": seed}
            try:
                right, seconds = right_and_seconds(make(options, seed, samples), samples)
            except DivergenceError:
                right, seconds = [False] * len(samples), float("nan")
            unseen = right[int(tuned_part * len(right)) :]
            record |= {
                "options": options,
                "accuracy": statistics.fmean(right),
                "unseen": statistics.fmean(unseen),
            }
            _append("runs", {**record, "samples": len(samples), "seconds": round(seconds, 4)})
            print(f"{stream}, {contender}, {settings}, {seed}: {record['accuracy']:.4f}", flush=True)


def take_times(chosen: Sequence[str], on: Sequence[str], rounds: int) -> None:
    """Processor seconds with what was found best, all contenders that have been tuned taking turns."""
    for stream in on:
        samples = samples_of(stream)
        ready = [contender for contender in chosen if len(_tried(stream, contender)) == trials]
        seconds: dict[str, list[float]] = {contender: [] for contender in ready}
        for _, contender in itertools.product(range(rounds), ready):
            learner = contenders[contender][0](best_options(stream, contender), 0, samples)
            seconds[contender].append(right_and_seconds(learner, samples)[1])
        for contender, values in seconds.items():
            record = {"stream": stream, "contender": contender, "samples": len(samples)}
            _append("times", {**record, "seconds": [round(value, 5) for value in values]})
            rate = len(samples) / statistics.median(values)
            print(f"{stream}, {contender}: {rate:,.0f} samples/s", flush=True)


def _cell(runs: list[dict[str, Any]], quantity: str) -> str:
    values = [100 * record[quantity] for record in runs]
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def table() -> str:
    """Accuracies in per cent, and samples a second."""
    lines = [
        "| stream | contender | unseen part, tuned | whole stream, tuned | whole stream, defaults | samples/s |",
        "|---|---|---|---|---|---|",
    ]
    runs, times = _read("runs"), _read("times")
    for stream, contender in itertools.product(streams, contenders):
        own = [r for r in runs if (r["stream"], r["contender"]) == (stream, contender)]
        if not own:
            continue
        at_best = [r for r in own if r["settings"] == "tuned"]
        timed = [r for r in times if (r["stream"], r["contender"]) == (stream, contender)]
        rate = "–"
        if timed:
            rate = f"{timed[-1]['samples'] / statistics.median(timed[-1]['seconds']):,.0f}"
        cells = [
            _cell(at_best, "unseen"),
            _cell(at_best, "accuracy"),
            _cell([r for r in own if r["settings"] == "defaults"], "accuracy"),
            rate,
        ]
        lines.append(f"| {stream} | {contender} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "run", "time", "table"))
    inside = [name for name in contenders if name != "deep-river"]
    parser.add_argument("--contenders", nargs="+", choices=list(contenders), default=inside)
    parser.add_argument("--streams", nargs="+", choices=list(streams), default=list(streams))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the table to a file, too")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    chosen, on = arguments.contenders, arguments.streams
    if arguments.action == "tune":
        tune(chosen, on)
    elif arguments.action == "run":
        run(chosen, on, arguments.seeds)
    elif arguments.action == "time":
        take_times(chosen, on, arguments.rounds)
    else:
        print(table())
        if arguments.output:
            arguments.output.write_text(table() + "\n")


if __name__ == "__main__":
    main()
