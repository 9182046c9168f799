"""What a History keeps of the run itself. Oracles: the arguments that the run was given, and how it was ended."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import altmin_ext
from altmin_ext import History, train
from altmin_ext.callbacks import TrainingState
from altmin_ext.ops import _native as native

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3


def network() -> nn.Sequential:
    return altmin_ext.models.mlp(4, [5], 3)


class Then:
    """A callback that does something after the second minibatch."""

    def __init__(self, act: Any) -> None:
        self._act = act
        self.history = History()

    def on_start(self, state: TrainingState) -> None:
        self.history = state.history

    def on_step(self, state: TrainingState) -> None:
        if state.step == 2:
            self._act(state)


def divide(_: TrainingState) -> None:
    raise ZeroDivisionError("in a callback")


def spoil(state: TrainingState) -> None:
    with torch.no_grad():
        next(state.model.parameters()).fill_(torch.nan)


@pytest.mark.parametrize(
    ("act", "raised", "ended"),
    [
        (lambda _: None, None, "completed"),
        (lambda state: state.stop(), None, "stopped"),
        (lambda _: signal.raise_signal(signal.SIGINT), KeyboardInterrupt, "interrupted"),
        (spoil, altmin_ext.DivergenceError, "diverged"),
        (divide, ZeroDivisionError, "ended by ZeroDivisionError"),
    ],
    ids=["completed", "stopped", "interrupted", "diverged", "error"],
)
def test_how_a_run_ended(act: Any, raised: type[BaseException] | None, ended: str) -> None:
    then = Then(act)
    if raised is None:
        train(network(), (X, Y), batch_size=5, callbacks=[then], progress=False)
    else:
        with pytest.raises(raised):
            train(network(), (X, Y), batch_size=5, callbacks=[then], progress=False)
    assert then.history.ended == ended
    assert len(then.history.epochs) == 1


def test_a_run_that_goes_on_has_not_ended() -> None:
    ended: list[Any] = []
    then = Then(lambda state: ended.append(state.history.ended))
    train(network(), (X, Y), batch_size=5, callbacks=[then], progress=False)
    assert ended == [None]


def test_settings_are_those_of_the_run() -> None:
    history = train(
        network().double(), (X.double(), Y), method="am-sgd", lr=0.01, epochs=2, batch_size=5, seed=3, shuffle=False,
        lr_schedule="cosine", on_nonfinite="skip", progress=False,
    )  # fmt: skip
    assert history.settings is not None
    expected = {
        "method": "am-sgd", "lr": 0.01, "epochs": 2, "batch_size": 5, "seed": 3, "shuffle": False,
        "lr_schedule": "cosine", "on_nonfinite": "skip", "loss": "cross_entropy", "device": "cpu", "dtype": "float64",
        "parameters": 4 * 5 + 5 + 5 * 3 + 3, "stages": ["1", "3"],
        "mu_max": "inf",  # as a word, since files know no infinity
    }  # fmt: skip
    assert {name: history.settings.get(name) for name in expected} == expected
    assert history.settings["network"] == [
        "0: Flatten(start_dim=1, end_dim=-1)",
        "1: Linear(in_features=4, out_features=5, bias=True)",
        "2: ReLU()",
        "3: Linear(in_features=5, out_features=3, bias=True)",
    ]


def test_environment_is_that_of_the_process() -> None:
    environment = train(network(), (X, Y), progress=False).environment
    assert environment is not None
    assert environment["torch"] == torch.__version__
    assert environment["altmin_ext"] == altmin_ext.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert native.module is not None
    assert environment["instruction set"] == native.module.instruction_set()


def test_everything_survives_a_file_and_a_state(tmp_path: Path) -> None:
    history = train(network(), (X, Y), report_objective=True, progress=False)
    history.save(tmp_path / "history.json")
    again = History()
    again.load_state_dict(history.state_dict())
    for other in (History.load(tmp_path / "history.json"), again):
        for name in ("settings", "environment", "ended", "epochs"):
            assert getattr(other, name) == getattr(history, name)


def test_a_module_that_cannot_describe_itself_does_no_harm() -> None:
    class Mute(nn.Linear):
        def extra_repr(self) -> str:
            raise RuntimeError("no words")

    history = train(nn.Sequential(Mute(4, 3)), (X, Y), method="sgd", progress=False)
    assert history.settings is not None
    assert history.settings["network"] == ["0: Mute"]


def test_a_deep_network_is_told_in_part() -> None:
    model = nn.Sequential(*[nn.Identity() for _ in range(300)], nn.Linear(4, 3))
    settings = train(model, (X, Y), method="sgd", progress=False).settings
    assert settings is not None
    assert len(settings["network"]) == 201
    assert settings["network"][-1] == "and 101 more"


def test_a_resumed_run_has_the_settings_and_the_threads_of_the_last_process(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "batch_size": 5,
        "checkpoint": tmp_path / "run.safetensors",
        "progress": False,
    }
    model = network()
    train(model, (X, Y), epochs=1, **arguments)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        history = train(model, (X, Y), epochs=2, resume=True, **arguments)
    finally:
        torch.set_num_threads(threads)
    assert history.settings is not None
    assert history.environment is not None
    assert (history.settings["epochs"], history.environment["threads"]) == (2, threads + 1)
    assert history.ended == "completed"
    assert [row["steps"] for row in history.epochs] == [4, 8]


@pytest.mark.parametrize("after", [3, 6])
def test_restores_are_counted_by_epoch(after: int) -> None:
    """The weights are spoiled once, which one restore mends."""

    class Spoil:
        def on_step(self, state: TrainingState) -> None:
            if state.step == after:
                spoil(state)

    history = train(
        network(), (X, Y), epochs=2, batch_size=5, on_nonfinite="restore", callbacks=[Spoil()], progress=False
    )
    assert history.restores == 1
    assert [row["restores"] for row in history.epochs] == ([1, 1] if after == 3 else [0, 1])
