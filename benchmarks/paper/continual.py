"""Does a memory of co-activations keep what was learnt before? One task after the other, by nine contenders.

    python -m benchmarks.paper.continual tune                           # every contender's number
    python -m benchmarks.paper.continual run split-mnist --passes 1     # five seeds of every contender
    python -m benchmarks.paper.continual table                          # what has been run, as a table
    python -m benchmarks.paper.continual figure                         # average accuracy after every task

A 784-100-100-10 network (CIFAR-10: 3072-200-200-10) with one head sees the tasks one after the other, each for so
many passes, in minibatches of 100, and nobody tells it which task a sample belongs to. After every task it is tested
on all tasks: over all classes (class-incremental), and, where tasks have classes of their own, over those of the task
alone (task-incremental). From the accuracies a[t][k] on task k after task t of T (Lopez-Paz & Ranzato 2017; Chaudhry
et al. 2018):

- average: the mean of a[T][k];
- forgetting: the mean over k < T of the best a[t][k] for k <= t < T minus a[T][k];
- forward transfer: the mean over k > 1 of a[k-1][k] minus the accuracy of the network before any training.

Every contender has one number to tune, with four values: the one with the best average on a held-out tenth of
Split-MNIST's training set, one pass, another seed, is used everywhere. What else they take was set by hand: for
am-mem prior .5 (1 is little worse) and the exact solution (sweeps reach .79 to .81), for EWC Adam's usual learning
rate. Every run has a single thread, and seconds are of its processor time.
Results are JSON lines under benchmarks/results/continual.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext.data import DataSet, streams
from benchmarks.paper import records

results = Path(__file__).parent.parent / "results" / "continual"
batch_size = 100


class Learner(Protocol):
    """What learns task by task."""

    def step(self, x: Tensor, y: Tensor) -> Any: ...
    def end_task(self, x: Tensor, y: Tensor) -> None: ...


class ByMethod:
    """One of our methods; with ``forgets_at_tasks`` made anew for every task, so that its memory is empty."""

    def __init__(
        self, name: str, model: nn.Module, seed: int, forgets_at_tasks: bool = False, **options: Any
    ) -> None:
        self._make = lambda: altmin_ext.make_method(name, model, seed=seed, **options)
        self._method, self._forgets = self._make(), forgets_at_tasks

    def step(self, x: Tensor, y: Tensor) -> Any:
        return self._method.step(x, y)

    def end_task(self, x: Tensor, y: Tensor) -> None:
        if self._forgets:
            self._method = self._make()


class ElasticWeights:
    """Adam with elastic weight consolidation (Kirkpatrick et al. 2017), the importances of all tasks added up."""

    def __init__(self, model: nn.Module, seed: int, strength: float, lr: float = 1e-3) -> None:
        self._model, self._strength = model, strength
        self._parameters = list(model.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, lr)
        self._anchors: list[tuple[list[Tensor], list[Tensor]]] = []

    def step(self, x: Tensor, y: Tensor) -> None:
        self._optimizer.zero_grad()
        loss = F.cross_entropy(self._model(x), y)
        for importances, places in self._anchors:
            for parameter, importance, place in zip(self._parameters, importances, places, strict=True):
                loss = loss + self._strength / 2 * (importance * (parameter - place).square()).sum()
        loss.backward()
        self._optimizer.step()

    def end_task(self, x: Tensor, y: Tensor) -> None:
        """The Fisher information's diagonal, from the labels of 500 samples, one by one."""
        importances = [torch.zeros_like(p) for p in self._parameters]
        chosen = range(0, len(x), max(1, len(x) // 500))
        for row in chosen:
            loss = F.cross_entropy(self._model(x[row : row + 1]), y[row : row + 1])
            for importance, gradient in zip(
                importances, torch.autograd.grad(loss, self._parameters), strict=True
            ):
                importance += gradient.square() / len(chosen)
        self._anchors.append((importances, [p.detach().clone() for p in self._parameters]))


class Replay:
    """Adam on minibatches to which as many samples from a small buffer are added; a reservoir fills the buffer."""

    def __init__(self, model: nn.Module, seed: int, size: int, lr: float = 1e-3) -> None:
        self._method = altmin_ext.make_method("adam", model, lr=lr)
        self._size, self._seen = size, 0
        self._generator = torch.Generator().manual_seed(seed)
        self._x: list[Tensor] = []
        self._y: list[Tensor] = []

    def step(self, x: Tensor, y: Tensor) -> None:
        if self._x:
            rows = torch.randint(len(self._x), (len(x),), generator=self._generator).tolist()
            old = torch.stack([self._x[i] for i in rows]), torch.stack([self._y[i] for i in rows])
            self._method.step(torch.cat([x, old[0]]), torch.cat([y, old[1]]))
        else:
            self._method.step(x, y)
        for sample, label in zip(x, y, strict=True):
            self._seen += 1
            place = int(torch.randint(self._seen, (1,), generator=self._generator))
            if len(self._x) < self._size:
                self._x.append(sample.clone())
                self._y.append(label)
            elif place < self._size:
                self._x[place], self._y[place] = sample.clone(), label

    def end_task(self, x: Tensor, y: Tensor) -> None:
        pass


kept: dict[str, Any] = {"damping": 0.0, "prior": 0.5, "exact": True, "predictor": "memory"}
Contender = Callable[[nn.Module, int, float], Learner]
# What they are, and the values of the number that is tuned.
contenders: dict[str, tuple[Contender, tuple[float, ...]]] = {
    "sgd": (lambda model, seed, value: ByMethod("sgd", model, seed, lr=value), (0.003, 0.01, 0.03, 0.1)),
    "adam": (lambda model, seed, value: ByMethod("adam", model, seed, lr=value), (1e-4, 3e-4, 1e-3, 3e-3)),
    "am-adam": (
        lambda model, seed, value: ByMethod("am-adam", model, seed, lr=value),
        (1e-4, 3e-4, 1e-3, 3e-3),
    ),
    "am-mem, as for one task": (
        lambda model, seed, value: ByMethod("am-mem", model, seed, lr_memory=value),
        (0.05, 0.15, 0.5, 1.0),
    ),
    "am-mem, memory of this task": (
        lambda model, seed, value: ByMethod(
            "am-mem", model, seed, forgets_at_tasks=True, forgetting=0.0, lr_memory=value, **kept
        ),
        (0.1, 0.2, 0.3, 0.5),
    ),
    "am-mem, memory kept": (
        lambda model, seed, value: ByMethod("am-mem", model, seed, forgetting=0.0, lr_memory=value, **kept),
        (0.1, 0.2, 0.3, 0.5),
    ),
    "am-mem, forgetting tuned": (
        lambda model, seed, value: ByMethod("am-mem", model, seed, forgetting=value, lr_memory=0.3, **kept),
        (3e-5, 1e-4, 3e-4, 1e-3),
    ),
    "EWC": (
        lambda model, seed, value: ElasticWeights(model, seed, strength=value),
        (1e2, 1e3, 1e4, 1e5),
    ),
    "replay, 200 samples": (
        lambda model, seed, value: Replay(model, seed, size=200, lr=value),
        (1e-4, 3e-4, 1e-3, 3e-3),
    ),
}
experiments: dict[str, Callable[[], list[DataSet]]] = {
    "split-mnist": lambda: streams.class_tasks(altmin_ext.data.load("mnist")),
    "split-fashion-mnist": lambda: streams.class_tasks(altmin_ext.data.load("fashion-mnist")),
    "split-cifar-10": lambda: streams.class_tasks(altmin_ext.data.load("cifar-10")),
    "permuted-mnist": lambda: streams.permuted_tasks(altmin_ext.data.load("mnist"), 10),
}


@torch.no_grad()
def accuracies(model: nn.Module, tasks: Sequence[DataSet]) -> tuple[list[float], list[float]]:
    """On the tests of the tasks: over all classes, and over those of the task alone."""
    model.eval()
    over_all, over_own = [], []
    for task in tasks:
        x, y = task.test
        logits = model(x)
        over_all.append(float((logits.argmax(1) == y).double().mean()))
        own = y.unique()
        over_own.append(float((own[logits[:, own].argmax(1)] == y).double().mean()))
    model.train()
    return over_all, over_own


def train_once(
    tasks: Sequence[DataSet], make: Contender, value: float, passes: int, seed: int
) -> dict[str, Any]:
    """One run through all tasks: for both ways of asking, the accuracies on all tasks before and after each."""
    width = 200 if tasks[0].n_in > 1000 else 100
    torch.manual_seed(seed)
    model = altmin_ext.models.mlp(tasks[0].n_in, [width, width], tasks[0].classes)
    learner, generator = make(model, seed, value), torch.Generator().manual_seed(seed)
    rows = [accuracies(model, tasks)]
    seconds = 0.0
    for task in tasks:
        (x, y), begin = task.train, time.process_time()
        for _ in range(passes):
            for chosen in torch.randperm(len(x), generator=generator).split(batch_size):
                learner.step(x[chosen], y[chosen])
        learner.end_task(x, y)
        seconds += time.process_time() - begin
        rows.append(accuracies(model, tasks))
    return {
        "class-incremental": [row[0] for row in rows],
        "task-incremental": [row[1] for row in rows],
        "seconds": seconds,
    }


def measures(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    """Average, forgetting and forward transfer; row 0 is before any training, row t after task t."""
    last, count = rows[-1], len(rows[0])
    lost = [max(row[k] for row in rows[k + 1 : -1]) - last[k] for k in range(count - 1)]
    ahead = [rows[k][k] - rows[0][k] for k in range(1, count)]
    return {
        "average": statistics.mean(last), "forgetting": statistics.mean(lost), "forward": statistics.mean(ahead)
    }  # fmt: skip


def _path(name: str, passes: int) -> Path:
    return results / f"{name}.{passes}.jsonl"


def _records(name: str, passes: int) -> list[dict[str, Any]]:
    return records.read(_path(name, passes))


def _runs(name: str, passes: int, contender: str) -> list[dict[str, Any]]:
    """With the value that is the best by now."""
    return [
        record
        for record in _records(name, passes)
        if record["contender"] == contender and record["value"] == best_value(contender)
    ]


def tune(chosen: Sequence[str]) -> None:
    """Every value of every contender on a held-out tenth of Split-MNIST; what is recorded already is kept."""
    tasks = []
    for task in experiments["split-mnist"]():
        train, held_out = altmin_ext.data.split(task.train, 0.1, seed=0)
        tasks.append(DataSet(task.name, train, held_out, task.classes))
    done = {(record["contender"], record["value"]) for record in _records("tuning", 1)}
    for contender in chosen:
        make, values = contenders[contender]
        for value in values:
            if (contender, value) in done:
                continue
            try:
                average = measures(train_once(tasks, make, value, 1, 1000)["class-incremental"])["average"]
            except altmin_ext.DivergenceError:
                average = 0.0
            records.append(_path("tuning", 1), {"contender": contender, "value": value, "average": average})
            print(f"{contender}, {value:g}: {average:.4f}", flush=True)


def best_value(contender: str) -> float:
    """What was found best."""
    tried = [record for record in _records("tuning", 1) if record["contender"] == contender]
    if not tried:
        raise SystemExit(f"{contender} has not been tuned: run `tune`.")
    return float(max(tried, key=lambda record: record["average"])["value"])


def run(name: str, passes: int, seeds: int, chosen: Sequence[str]) -> None:
    """Every contender from several seeds; runs already recorded are kept."""
    tasks = experiments[name]()
    done = {(record["contender"], record["value"], record["seed"]) for record in _records(name, passes)}
    for seed, contender in itertools.product(range(seeds), chosen):
        value = best_value(contender)
        if (contender, value, seed) in done:
            continue
        record = train_once(tasks, contenders[contender][0], value, passes, seed)
        record = {"contender": contender, "value": value, "seed": seed, **record}
        records.append(_path(name, passes), record)
        average = measures(record["class-incremental"])["average"]
        print(f"{name}, {passes}, {contender}, {seed}: {average:.4f}, {record['seconds']:.0f} s", flush=True)


def _experiments_run() -> list[tuple[str, int]]:
    found = [path.name.split(".") for path in results.glob("*.jsonl") if path.name != "tuning.1.jsonl"]
    order = {name: number for number, name in enumerate(experiments)}
    return sorted(((name, int(passes)) for name, passes, _ in found), key=lambda e: (order[e[0]], e[1]))


def table() -> str:
    """One row per experiment and contender: means over the seeds, with the average's 95 % interval."""
    lines = [
        "| tasks | passes | contender | average, all classes | average, own classes | forgetting | forward transfer "
        "| seconds | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    quantile = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # Student's t
    for name, passes in _experiments_run():
        for contender in contenders:
            if not (runs := _runs(name, passes, contender)):
                continue
            over_all, over_own = (
                [measures(record[way]) for record in runs]
                for way in ("class-incremental", "task-incremental")
            )

            def mean(found: Sequence[dict[str, float]], key: str) -> float:
                return statistics.mean(entry[key] for entry in found)

            averages = [found["average"] for found in over_all]
            spread = ""
            if len(runs) > 1:
                half = quantile.get(len(runs), 2.0) * statistics.stdev(averages) / len(runs) ** 0.5
                spread = f" ± {half:.3f}"
            seconds = statistics.mean(record["seconds"] for record in runs)
            lines.append(
                f"| {name} | {passes} | {contender} | {mean(over_all, 'average'):.3f}{spread} | "
                f"{mean(over_own, 'average'):.3f} | {mean(over_all, 'forgetting'):.3f} | "
                f"{mean(over_all, 'forward'):+.3f} | {seconds:.0f} | {len(runs)} |"
            )
    return "\n".join(lines)


def figure(path: Path) -> None:
    """Average accuracy over the tasks so far, after every task; a panel per experiment."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    found = _experiments_run()
    picture, axes = pyplot.subplots(
        1, len(found), figsize=(4 * len(found), 4.2), layout="constrained", squeeze=False, sharey=True
    )
    for axis, (name, passes) in zip(axes[0], found, strict=True):
        for contender in contenders:
            if not (runs := [r["class-incremental"] for r in _runs(name, passes, contender)]):
                continue
            count = len(runs[0][0])
            curve = [
                statistics.mean(statistics.mean(rows[t][:t]) for rows in runs) for t in range(1, count + 1)
            ]
            style = ".-" if contender.startswith("am-mem") else ".--"
            axis.plot(range(1, count + 1), curve, style, label=contender)
        axis.set(
            title=f"{name}, {passes} {'pass' if passes == 1 else 'passes'}", xlabel="tasks seen", ylim=(0, 1)
        )
        axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("average accuracy on them, all classes")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    picture.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 2 * len(found)), fontsize="small"
    )
    picture.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "run", "table", "figure"))
    parser.add_argument("experiment", nargs="*", choices=(*experiments, []))
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", choices=list(contenders), default=list(contenders))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.action == "tune":
        tune(arguments.contenders)
    elif arguments.action == "run":
        for name in arguments.experiment or experiments:
            run(name, arguments.passes, arguments.seeds, arguments.contenders)
    elif arguments.action == "table":
        print(table())
    else:
        figure(results / "continual.png")


if __name__ == "__main__":
    main()
