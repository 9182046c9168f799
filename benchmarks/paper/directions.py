"""How far a step of alternating minimisation follows backpropagation: cosines of weight changes with the gradient.

    python -m benchmarks.paper.directions

MNIST in minibatches of 200, at the initial weights and after training by am-adam with default options: the weight
change of an am-sgd step, which is the gradient of every stage's own objective times a rate, beside autograd's
gradient of the loss; the mean of three minibatches. am-adam takes Adam's steps along the same gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext import data, models

results = Path(__file__).parent.parent / "results"
networks: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "784-100-100-10": (lambda: models.mlp(784, [100, 100], 10), 300),
    "LeNet-5": (models.lenet5, 40),
}


def cosines(model: nn.Module, x: Tensor, y: Tensor, code_iterations: int) -> Tensor:
    """The cosine of every weight's change with its gradient, from the input up; the model is left as it is."""
    stepped = copy.deepcopy(model)
    altmin_ext.make_method("am-sgd", stepped, lr=1e-3, code_iterations=code_iterations).step(x, y)
    weights = {name: p for name, p in model.named_parameters() if name.endswith("weight")}
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(weights.values()))
    after = dict(stepped.named_parameters())
    changes = [(weight - after[name]).detach().flatten() for name, weight in weights.items()]
    pairs = zip(changes, gradients, strict=True)
    return torch.stack([torch.cosine_similarity(change, g.flatten(), 0) for change, g in pairs])


def table() -> str:
    """A row for each network, number of steps trained, and number of code steps."""
    lines = ["| network | trained | code steps | cosine, from the lowest layer up |", "|---|---|---|---|"]
    train = data.load("mnist").train
    held = [tuple(part[-200 * (k + 1) : len(part) - 200 * k] for part in train) for k in range(3)]
    for name, (make, most) in networks.items():
        for steps in (0, most):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = make()
            if steps:
                altmin_ext.train(model, train, steps=steps, batch_size=200, progress=False)
            for count in (1, 5, 20):
                found = torch.stack([cosines(model, x, y, count) for x, y in held]).mean(0)
                cells = " ".join(f"{value:.3f}" for value in found.tolist())
                lines.append(f"| {name} | {steps} steps | {count} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    path = results / "directions.md"
    path.write_text(f"`python -m benchmarks.paper.directions`, torch {torch.__version__}\n\n{table()}\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
