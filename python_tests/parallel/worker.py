"""One of several ranks: python -m python_tests.parallel.worker FOLDER RANK SIZE WHAT ....

It meets the others by a file in the folder, and leaves what it has found in another one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch.utils.data import Dataset, TensorDataset

import altmin_ext
from altmin_ext import data, models
from python_tests.parallel.cases import CASES, trained


class Opaque(Dataset):
    """A Dataset that no one can look into."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self._samples = TensorDataset(x, y)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, i: int) -> Any:
        return self._samples[i]


def steps() -> dict[str, Any]:
    """Every case, twice."""
    return {name: (trained(case, "data"), trained(case, "data")) for name, case in CASES.items()}


def runs(parallel: str | None = "data") -> dict[str, Any]:
    """Runs of training on the forms of data, in minibatches of 99 samples and a last one of 11."""
    digits = data.load("digits")
    x, y = digits.train[0][:1001].double(), digits.train[1][:1001]

    def own(rank: int, size: int) -> Any:
        """Minibatches that each rank has its own part of."""
        pairs = zip(x.split(99), y.split(99), strict=True)
        return [(a.tensor_split(size)[rank], b.tensor_split(size)[rank]) for a, b in pairs]

    rank, size = (distributed.get_rank(), distributed.get_world_size()) if parallel else (0, 1)
    forms = {
        "tensors": (x, y),
        "a Dataset": Opaque(x, y),
        "a list": own(rank, size),
        "the whole training set": (x, y),
    }
    found = {}
    for form, source in forms.items():
        torch.manual_seed(0)
        model = models.mlp(digits.n_in, [32, 32], 10).double()
        history = altmin_ext.train(
            model,
            source,
            method="admm" if form == "the whole training set" else "am-adam",
            epochs=2,
            batch_size=99,
            validation=digits.test,
            parallel=parallel,
            progress=False,
        )
        row = history.epochs[-1]
        kept = ("loss", "accuracy", "validation_loss", "validation_accuracy")
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        found[form] = {
            "weights": weights,
            "row": torch.tensor([row[name] for name in kept], dtype=torch.float64),
        }
    return found


def errors() -> dict[str, str]:
    """What is refused, on every rank alike."""
    rank = distributed.get_rank()
    digits = data.load("digits")
    x, y = digits.train[0][:64], digits.train[1][:64]

    def train(**changed: Any) -> None:
        model = models.mlp(64, [8 if "width" not in changed else changed.pop("width")], 10)
        arguments = {"method": "am-adam", "batch_size": 16, "parallel": "data", "progress": False, **changed}
        altmin_ext.train(model, arguments.pop("data", (x, y)), **arguments)

    strided = torch.zeros(4, 4)[:, 1]
    asked: dict[str, Callable[[], Any]] = {
        "method": lambda: train(method="am-adam-off"),
        "threads": lambda: train(method="block-admm", workers=2),
        "stages": lambda: train(parallel="stages"),
        "checkpoint": lambda: train(checkpoint="run.safetensors"),
        "last minibatch": lambda: train(data=(x[:33], y[:33])),
        "another width": lambda: train(width=8 + rank),
        "another option": lambda: train(mu=0.5 + rank),
        "streams of other lengths": lambda: train(data=[(x[:8], y[:8])] * (2 + rank)),
        "a strided tensor": lambda: altmin_ext.parallel.Ranks().sum(strided),
        "a label outside on the last rank": lambda: train(
            data=[(x[:8], y[:8] + (100 if rank == distributed.get_world_size() - 1 else 0))]
        ),
    }
    said = {}
    for name, ask in asked.items():
        try:
            ask()
        except (TypeError, ValueError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def main() -> None:
    folder, rank, size, asked = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    finders: dict[str, Callable[[], Any]] = {"steps": steps, "runs": runs, "errors": errors}
    torch.save({what: finders[what]() for what in asked}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
