"""How far the recursive inverse of a memory drifts from the inverse, in float32, over many minibatches.

    python -m benchmarks.paper.inverse_drift run [kept forgotten pixels probed]
    python -m benchmarks.paper.inverse_drift table

- ``kept``: nothing is forgotten; 1,000,000 single inputs of 31 correlated ReLU units and a bias, P = A^-1 on the way
  and at the end, and the weights of a recursive least-squares fit of a teacher with noise;
- ``forgotten``: the share .001, .1 or .8 of the memory is forgotten with each of 100,000 minibatches of 4 such
  inputs, of which half fall silent after 1,000. ``added`` fades; P is made anew once it has left the range from half
  to twice its nominal value, max(damping mean A_ii, n eps max A_ii);
- ``pixels``: nothing is forgotten; 784 pixels of MNIST and a bias, 100,000 minibatches of 20, which see each image 33
  times; P of a prior of .5 times the trace of the first minibatch. In ``pixels, probed`` P is made anew where the
  probe is above .001, as every thousandth minibatch asks.

The oracle is float64: A summed up in it, its inverse, and weights that are changed by solutions with A + added I. So
are others in float32, by a factor for each minibatch. Errors are in the spectral norm, relative; that of X P is for
the last minibatch. Results are JSON lines under benchmarks/results/inverse-drift.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altmin_ext import data
from altmin_ext.updates import RecursiveInverse
from benchmarks.paper import records

results = Path(__file__).parent.parent / "results" / "inverse-drift"
units, outputs, noise = 32, 5, 0.1


def error(found: Tensor, exact: Tensor) -> float:
    """Relative, in the spectral norm."""
    return float(torch.linalg.matrix_norm(found.double() - exact, 2) / torch.linalg.matrix_norm(exact, 2))


def activations(batches: int, batch: int, silent_from: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs with a 1 for the bias, in float64 but of float32's values, and what a teacher with noise makes of them.

    Args:
        batches: how many.
        batch: their size.
        silent_from: the first batch in which half of the inputs are zero.
    """
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(units - 1, units - 1, generator=generator) / units**0.5
    mixing *= torch.logspace(0, -1, units - 1)  # a spectrum over two decades
    teacher = torch.randn(outputs, units, generator=generator).double()
    part = 1000
    for first in range(0, batches, part):
        count = min(part, batches - first)
        x = torch.relu(torch.randn(count, batch, units - 1, generator=generator) @ mixing + 0.1)
        x[max(0, silent_from - first) :, :, ::2] = 0
        inputs = torch.cat([x, torch.ones(count, batch, 1)], 2).double()
        targets = (
            inputs @ teacher.T + noise * torch.randn(count, batch, outputs, generator=generator).double()
        )
        yield from zip(inputs, targets, strict=True)


class Fit:
    """A recursive least-squares fit with P in float32, beside the same with factors of A in float32 and in float64.

    Args:
        added: the multiple of the identity that A begins with.
        forgetting: the share of A that each minibatch displaces.
        damping: of the nominal value of ``added``, in units of A's mean diagonal.
    """

    def __init__(self, added: float, forgetting: float = 0.0, damping: float = 0.0) -> None:
        self._forgetting, self._damping = forgetting, damping
        self.inverse = RecursiveInverse(torch.zeros(1), units)
        self.inverse.start(added)
        self.gram = torch.zeros(units, units, dtype=torch.float64)
        self.own_gram = torch.zeros(units, units)  # what P is made anew from
        self.added, self.renewals, self.largest = added, 0, 0.0
        self.weights = torch.zeros(outputs, units)
        self.factor_weights, self.exact_weights = self.weights.clone(), self.weights.double()

    def nominal(self) -> float:
        """The value that ``added`` should have."""
        diagonal = self.own_gram.diagonal()
        floor = units * torch.finfo(torch.float32).eps * float(diagonal.max())
        return max(self._damping * float(diagonal.mean()), floor)

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        """Take in a minibatch.

        Args:
            inputs: X~ (B, units).
            targets: (B, outputs).
        """
        kept, x = 1 - self._forgetting, inputs.float()
        self._last = inputs
        self.gram = kept * self.gram + inputs.T @ inputs
        self.own_gram = kept * self.own_gram + x.T @ x
        z = self.inverse.solve(x, self._forgetting)
        assert z is not None
        self.inverse.commit()
        self.added *= kept
        if self._forgetting and not 0.5 <= self.added / self.nominal() <= 2:
            self.added = self.nominal()
            assert self.inverse.renew(self.own_gram, self.added)
            self.renewals += 1
            z = self.inverse.multiply(x)
        self.weights -= (x @ self.weights.T - targets.float()).T @ z
        factor = torch.linalg.cholesky(self.own_gram + self.added * torch.eye(units))
        change = torch.cholesky_solve(x.T, factor).T
        self.factor_weights -= (x @ self.factor_weights.T - targets.float()).T @ change
        exact_change = torch.cholesky_solve(inputs.T, torch.linalg.cholesky(self.damped())).T
        self.exact_weights -= (inputs @ self.exact_weights.T - targets).T @ exact_change

    def damped(self) -> Tensor:
        """A + added I in float64."""
        return self.gram + self.added * torch.eye(units, dtype=torch.float64)

    def errors(self) -> dict[str, float]:
        """Of P and the weights, and the largest entry of P."""
        exact = torch.linalg.inv(self.damped())
        return {
            "of_p": error(self.inverse.matrix, exact),
            "of_solution": error(self.inverse.multiply(self._last.float()), self._last @ exact),
            "of_weights": error(self.weights, self.exact_weights),
            "of_factor_weights": error(self.factor_weights, self.exact_weights),
            "largest_of_p": float(self.inverse.matrix.abs().max()),
            "probe": self.inverse.probe(self.own_gram, self.added),
        }


def kept(updates: int = 1_000_000) -> Iterator[dict[str, Any]]:
    """Yield a record at every power of ten."""
    fit = Fit(added=1.0)
    for i, (inputs, targets) in enumerate(activations(updates, 1, updates), 1):
        fit.observe(inputs, targets)
        if i >= 1000 and str(i).strip("0") == "1":
            yield {"study": "kept", "updates": i, **fit.errors()}


def forgotten(updates: int = 100_000, silent_from: int = 1000) -> Iterator[dict[str, Any]]:
    """Yield the worst of the errors from where half is silent on, for each share and damping."""
    for forgetting in (0.001, 0.1, 0.8):
        for damping in (0.0, 0.1):
            fit = Fit(1.0, forgetting, damping)
            worst: dict[str, float] = {}
            for i, (inputs, targets) in enumerate(activations(updates, 4, silent_from), 1):
                fit.observe(inputs, targets)
                if i >= silent_from and (i % 100 == 0 or i < silent_from + 30):
                    for name, value in fit.errors().items():
                        worst[name] = max(value, worst.get(name, 0.0))
            yield {"study": "forgotten", "forgetting": forgetting, "damping": damping, "updates": updates} | {
                **worst, "renewals": fit.renewals,
            }  # fmt: skip


def pixels(probed: bool, updates: int = 100_000, batch: int = 20) -> Iterator[dict[str, Any]]:
    """Yield a record at every power of ten."""
    x = data.load("mnist").train[0].flatten(1)
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    n = x.shape[1]
    generator = torch.Generator().manual_seed(1)
    inverse = RecursiveInverse(x, n)
    gram, own_gram = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, n)
    renewals = 0
    seconds, order = 0.0, torch.empty(0, dtype=torch.int64)
    for i in range(1, updates + 1):
        if len(order) < batch:
            order = torch.randperm(len(x), generator=generator)
        inputs, order = x[order[:batch]], order[batch:]
        if i == 1:
            prior = 0.5 * float(inputs.square().sum())
            inverse.start(prior)
            gram.diagonal().fill_(prior)
            own_gram.diagonal().fill_(prior)
        exact = inputs.double()
        gram.addmm_(exact.T, exact)
        own_gram.addmm_(inputs.T, inputs)
        begin = time.process_time()
        assert inverse.solve(inputs) is not None
        inverse.commit()
        if probed and i % 1000 == 0 and not inverse.probe(own_gram, 0.0) < 1e-3:
            assert inverse.renew(own_gram, 0.0)
            renewals += 1
        seconds += time.process_time() - begin
        if i >= 1000 and str(i).strip("0") == "1":
            wanted = torch.linalg.inv(gram)
            yield {
                "study": "pixels, probed" if probed else "pixels", "updates": i,
                "of_p": error(inverse.matrix, wanted),
                "of_solution": error(inverse.multiply(inputs), exact @ wanted),
                "largest_of_p": float(inverse.matrix.abs().max()),
                "probe": inverse.probe(own_gram, 0.0), "ms_per_update": 1000 * seconds / i, "renewals": renewals,
            }  # fmt: skip


def table() -> str:
    """The records as a Markdown table."""
    lines = [
        "| study | forgetting | damping | updates | error of P | of X P | of the weights | of weights by factors |"
        " largest of P | probe | renewals |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    columns = ("of_p", "of_solution", "of_weights", "of_factor_weights", "largest_of_p", "probe")
    for r in records.read(results / "runs.jsonl"):
        numbers = [f"{r[name]:.1e}" if name in r else "" for name in columns]
        cells = [r["study"], r.get("forgetting", 0), r.get("damping", ""), f"{r['updates']:,}", *numbers]
        lines.append("| " + " | ".join(map(str, [*cells, r.get("renewals", "")])) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("studies", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    studies = {
        "kept": kept,
        "forgotten": forgotten,
        "pixels": lambda: pixels(probed=False),
        "probed": lambda: pixels(probed=True),
    }
    if arguments.command == "run":
        for name in arguments.studies or studies:
            for record in studies[name]():
                print(record, flush=True)
                records.append(results / "runs.jsonl", record)
    (results / "table.md").write_text(table())


if __name__ == "__main__":
    main()
