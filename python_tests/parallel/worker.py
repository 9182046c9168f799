"""One of several ranks: python -m python_tests.parallel.worker FOLDER RANK SIZE WHAT ....

It meets the others by a file in the folder, and leaves what it has found in another one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn
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


class Killer:
    """Kills its own process, by a signal that nobody can hold back, after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, state: Any) -> None:
        if state.step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def whole(checkpoint: Path | None = None, kill_at: int = 0) -> dict[str, Any]:
    """A run of 24 steps with dropout, perhaps with a checkpoint after every fourth step."""
    digits = data.load("digits")
    torch.manual_seed(0)
    hidden = nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 16), nn.ReLU()
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, 10))
    kept = {} if checkpoint is None else {"checkpoint": checkpoint, "checkpoint_every": 4, "resume": True}
    history = altmin_ext.train(
        model,
        (digits.train[0][:300], digits.train[1][:300]),
        epochs=4,
        batch_size=50,
        validation=digits.test,
        parallel="data",
        progress=False,
        callbacks=[Killer(kill_at)] if kill_at else [],
        **kept,
    )
    accuracies = [row["validation_accuracy"] for row in history.epochs]
    return {"weights": dict(model.state_dict()), "loss": history.step_loss, "accuracies": accuracies}


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
        "checkpoint": lambda: train(data=[(x, y)], checkpoint=f"{os.devnull}/run.safetensors"),
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
    if (
        asked[0] == "killed"
    ):  # killed RANK STEP: a run that one of its ranks does not survive, or is gone on with
        checkpoint = folder.parent / "run.safetensors"
        found = whole(checkpoint, int(asked[2]) if rank == int(asked[1]) else 0)
    else:
        finders: dict[str, Callable[[], Any]] = {
            "steps": steps,
            "runs": runs,
            "errors": errors,
            "whole": whole,
        }
        found = {what: finders[what]() for what in asked}
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
