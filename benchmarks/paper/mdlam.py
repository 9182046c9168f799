"""mDLAM: small Fashion-MNIST, the citation graphs of its paper, and the authors' code beside it.

    python -m benchmarks.paper.mdlam tune             # boxes and rho, on held-out training images of Fashion-MNIST
    python -m benchmarks.paper.mdlam fashion          # with the best of those, and with the paper's
    python -m benchmarks.paper.mdlam graphs           # rho chosen on the validation nodes
    python -m benchmarks.paper.mdlam published --code <checkout of github.com/xianggebenben/mDLAM>
    python -m benchmarks.paper.mdlam monotone         # whether F rises while eps stands still
    python -m benchmarks.paper.mdlam memory           # of 60,000 x 784 (--samples) with three layers of 1000 units
    python -m benchmarks.paper.mdlam table

- ``fashion``: the first 10,000 training images, 784-100-100-10, 200 iterations; accuracy on the test part.
- ``graphs``: Cora and Citeseer with inputs [X, AX, ..., A^4 X], two hidden layers of 100 units, 200 iterations on the
  labelled nodes, rho the best on the validation nodes after 50 (seed 0). The paper (Tables 4 and 5): .742, .666.
- ``published``: processor seconds per iteration, the two in turns on the same 10,000 images. ALTMIN_PUBLISHED_MDLAM
  may name the checkout, too. Its data module is replaced, and its loop interrupted after each iteration.

Results are JSON lines under benchmarks/results/mdlam; what is recorded already is kept.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import itertools
import os
import resource
import statistics
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext.data.graphs import load_graph
from benchmarks.paper import records

results = Path(__file__).parent.parent / "results" / "mdlam"
iterations, samples = 200, 10_000
paper: dict[str, Any] = {"rho": 1e-3, "eps0": 100.0, "eps_decay": 0.5}
trials: list[dict[str, Any]] = [
    paper,
    {"rho": 1e-3, "eps0": 1e-3, "eps_decay": 1.0},
    *(
        {"rho": rho, "eps0": 1.0, "eps_decay": decay}
        for rho, decay in ((1e-3, 0.7), (1e-3, 0.8), (1e-3, 0.9), (1e-2, 0.7), (1e-2, 0.8))
    ),
]
penalties = (1e-4, 1e-3, 1e-2, 1e-1)  # rho, on the graphs


def _fashion() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What is trained on, held out of the training part, and tested on."""
    data = altmin_ext.data.load("fashion-mnist")
    (x, y), test = data.train, data.test
    return (x[:samples], y[:samples]), (x[-samples:], y[-samples:]), test


def _model(n_in: int, classes: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return altmin_ext.models.mlp(n_in, (100, 100), classes)


def _curve(
    train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], seed: int, epochs: int, **options: Any
) -> dict[str, Any]:
    """Accuracy on what is held out, and the objective, after every iteration."""
    model = _model(train[0][0].numel(), int(train[1].max()) + 1, seed)
    history = altmin_ext.train(
        model, train, method="mdlam", seed=seed, epochs=epochs, validation=held_out, progress=False, **options
    )
    assert history.objective is not None
    return {
        "curve": [row["validation_accuracy"] for row in history.epochs],
        "objective": (len(train[0]) * history.objective).tolist(),
    }


def _done(study: str, **key: Any) -> dict[str, Any] | None:
    found = records.read(results / f"{study}.jsonl")
    return next((r for r in found if all(r.get(name) == value for name, value in key.items())), None)


def _record(study: str, record: dict[str, Any]) -> None:
    records.append(results / f"{study}.jsonl", record)
    settings = {name: value for name, value in record.items() if not isinstance(value, list)}
    print(study, settings, *(f"{accuracy:.4f}" for accuracy in record.get("curve", [])[-1:]), flush=True)


def tune() -> None:
    """Fifty iterations of every trial, seed 0."""
    train, held_out, _ = _fashion()
    for options in trials:
        if not _done("tune", **options):
            _record("tune", {**options, **_curve(train, held_out, 0, 50, **options)})


def best() -> dict[str, Any]:
    """The options of the best trial."""
    winner = max(records.read(results / "tune.jsonl"), key=lambda record: record["curve"][-1])
    return {name: winner[name] for name in paper}


def fashion(seeds: int) -> None:
    train, _, test = _fashion()
    for seed, options in itertools.product(range(seeds), (best(), paper)):
        if not _done("fashion", seed=seed, **options):
            _record("fashion", {"seed": seed, **options, **_curve(train, test, seed, iterations, **options)})


def graphs(seeds: int) -> None:
    for name in ("cora", "citeseer"):
        graph = load_graph(name)
        x = graph.propagated(4)
        train, validation, test = (
            (x[nodes], graph.y[nodes]) for nodes in (graph.train, graph.validation, graph.test)
        )
        for rho in penalties:
            if not _done("graphs", graph=name, nodes="validation", rho=rho):
                found = _curve(train, validation, 0, 50, rho=rho)
                _record("graphs", {"graph": name, "nodes": "validation", "seed": 0, "rho": rho, **found})
        tried = [r for r in records.read(results / "graphs.jsonl") if r["nodes"] == "validation"]
        chosen = max((r for r in tried if r["graph"] == name), key=lambda record: record["curve"][-1])["rho"]
        for seed in range(seeds):
            if not _done("graphs", graph=name, nodes="test", seed=seed):
                found = _curve(train, test, seed, iterations, rho=chosen)
                _record("graphs", {"graph": name, "nodes": "test", "seed": seed, "rho": chosen, **found})


def published_iterations(
    code: Path, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> Iterator[tuple[float, float]]:
    """The authors' script, iteration by iteration: its processor seconds and its test accuracy."""
    script = ast.parse((code / "mDLAM.py").read_text())
    for node in ast.walk(script):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
            node.attr = "process_time"
    loops = [node for node in script.body if isinstance(node, ast.For)]
    loops[-1].body += ast.parse("yield after - pre, test_acc[i]", mode="exec").body
    whole = ast.parse("def run(): pass")
    assert isinstance(whole.body[0], ast.FunctionDef)
    whole.body[0].body = script.body
    data = types.SimpleNamespace(num_classes=int(train[1].max()) + 1)
    for part, (x, y) in (("train", train), ("test", test)):
        setattr(data, f"x_{part}", x.flatten(1))
        setattr(data, f"y_{part}", nn.functional.one_hot(y).float())
    module: Any = types.ModuleType("input_data")
    module.cora = module.pubmed = module.citeseer = module.coauthor_cs = lambda: data
    sys.modules["input_data"] = module
    namespace: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(whole), "mDLAM.py", "exec"), namespace)
    loop = namespace["run"]()
    while True:
        with contextlib.redirect_stdout(io.StringIO()):
            seconds, accuracy = next(loop)
        yield seconds, float(accuracy)


def published(code: Path, count: int) -> None:
    """One iteration of theirs, one of ours with the paper's options, and so on."""
    train, _, test = _fashion()
    x, test_x = (0.3081 * pixels + 0.1307 for pixels in (train[0], test[0]))  # in [0, 1]
    model = _model(784, 10, 0)
    method = altmin_ext.make_method("mdlam", model, **paper)
    theirs = published_iterations(code, (x, train[1]), (test_x, test[1]))
    rows = []
    for _, (seconds, accuracy) in zip(range(count), theirs, strict=False):
        start = time.process_time()
        method.step(x, train[1])
        own = time.process_time() - start
        row = seconds, own, accuracy, altmin_ext.evaluate(model, (test_x, test[1])).accuracy
        rows.append(row)
        print(len(rows), *(f"{value:.3f}" for value in row), flush=True)
    names = ("published_seconds", "seconds", "published_curve", "curve")
    record = dict(zip(names, (list(values) for values in zip(*rows, strict=True)), strict=True))
    _record("published", record)


def monotone(count: int) -> None:
    """Rises of F over the iterations, boxes as they are after 20 iterations of the paper's schedule."""
    (x, y), _, _ = _fashion()
    for dtype, line_search in itertools.product((torch.float64, torch.float32), ("exact", "doubling")):
        key = {"dtype": str(dtype), "line_search": line_search}
        if _done("monotone", **key):
            continue
        model = _model(784, 10, 0).to(dtype)
        method = altmin_ext.make_method("mdlam", model, line_search=line_search, **paper)
        inputs, labels = x[:1000].to(dtype), y[:1000]
        objective = [float(method.step(inputs, labels).objective.sum()) for _ in range(20 + count)][20:]
        rises = [max(0.0, after / before - 1) for before, after in itertools.pairwise(objective)]
        found = {"rises": sum(rise > 0 for rise in rises), "largest": max(rises)}
        flag = {"objective_rose": method.objective_rose}
        _record("monotone", {**key, **found, **flag, "objective": objective})


def memory(size: int) -> None:
    """Peak resident memory over two steps, beyond that of the data."""
    x, y = torch.rand(size, 784), torch.arange(size) % 10
    torch.manual_seed(0)
    model = altmin_ext.models.mlp(784, (1000, 1000, 1000), 10)
    method = altmin_ext.make_method("mdlam", model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    method.step(x, y)
    method.step(x, y)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{grown / 1024**2:.2f} GiB beyond {before / 1024**2:.2f} GiB for torch, the data and the model")


def table() -> str:
    """Means over the seeds."""
    lines = ["| run | options | accuracy at 50 | at 200 | seeds |", "|---|---|---|---|---|"]
    groups: dict[tuple[str, str], list[list[float]]] = {}
    for record in records.read(results / "fashion.jsonl"):
        options = ", ".join(f"{name} {record[name]:g}" for name in paper)
        groups.setdefault(("fashion", options), []).append(record["curve"])
    for record in records.read(results / "graphs.jsonl"):
        if record["nodes"] == "test":
            groups.setdefault((record["graph"], f"rho {record['rho']:g}"), []).append(record["curve"])
    for (run, options), curves in groups.items():
        early, late = ([curve[k - 1] for curve in curves] for k in (50, iterations))
        cells = (
            f"{statistics.mean(v):.4f} ± {statistics.stdev(v) if v[1:] else 0:.4f}" for v in (early, late)
        )
        lines.append(f"| {run} | {options} | {' | '.join(cells)} | {len(curves)} |")
    for record in records.read(results / "published.jsonl"):
        own, theirs = record["seconds"], record["published_seconds"]
        ratio = statistics.median(a / b for a, b in zip(own, theirs, strict=True))
        lines.append(
            f"\nProcessor seconds of {len(own)} iterations, ours over the published code's: "
            f"{sum(own) / sum(theirs):.3f}, median of the iterations {ratio:.3f}."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = ("tune", "fashion", "graphs", "published", "monotone", "memory", "table")
    parser.add_argument("action", choices=actions)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=iterations, help="of published and monotone")
    parser.add_argument("--samples", type=int, default=60_000, help="of memory")
    parser.add_argument("--code", type=Path, default=os.environ.get("ALTMIN_PUBLISHED_MDLAM"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.action == "published":
        if arguments.code is None:
            parser.error("published needs --code, a checkout of github.com/xianggebenben/mDLAM")
        published(Path(arguments.code), arguments.iterations)
    elif arguments.action == "monotone":
        monotone(arguments.iterations)
    elif arguments.action in ("fashion", "graphs"):
        {"fashion": fashion, "graphs": graphs}[arguments.action](arguments.seeds)
    elif arguments.action == "table":
        print(table())
    elif arguments.action == "memory":
        memory(arguments.samples)
    else:
        tune()


if __name__ == "__main__":
    main()
