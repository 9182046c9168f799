"""A run that another process goes on with. Oracle: the undisturbed run, ``torch.equal``, for everything but times.

Another process is played by a new model and a new method, and generators of the process that are seeded otherwise;
real processes, killed at every instant, are in kills/.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from altmin_ext import History, checkpoint, evaluate, make_method, models, train
from altmin_ext.callbacks import EarlyStopping, TrainingState
from altmin_ext.data.streams import endless

N, FEATURES, CLASSES = 50, 5, 3
DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, FEATURES, generator=DRAWN), torch.randint(CLASSES, (N,), generator=DRAWN)
STEPS = 5  # minibatches of 10 in an epoch


class Noise(nn.Module):
    """Adds noise, drawn from a generator of its own, and counts its calls in a buffer that state_dict leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        self.calls += 1
        return x + 0.1 * torch.randn(x.shape, generator=self.generator) + 0.01 * self.calls


class Drawing(Dataset[Any]):
    """Adds what a function of the sample draws."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index] + self.draw(X[index]), Y[index]


class Held:
    """Draws from a generator in a list of its own, as a transform of torchvision's Compose does."""

    def __init__(self) -> None:
        self.parts = [{"generator": torch.Generator().manual_seed(5)}]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.parts[0]["generator"])


class Slotted:
    __slots__ = ("generator",)

    def __init__(self) -> None:
        self.generator = np.random.default_rng(5)

    def __call__(self, x: Tensor) -> float:
        return self.generator.normal()


def network(kind: str = "drawing") -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "plain":
            return models.mlp(FEATURES, [8], CLASSES, "relu")
        return nn.Sequential(
            Noise(), nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES)
        )  # fmt: skip


def seed_process(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


class Broken(Exception):
    """What ends a run here."""


class BreakAt:
    """Ends the run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, state: TrainingState) -> None:
        if state.step == self.step:
            self.step = 0  # not once more when it is called again
            raise Broken


def run(
    path: Path | None,
    break_at: int = 0,
    seed: int = 3,
    data: Any = (X, Y),
    kind: str = "drawing",
    **more: Any,
) -> tuple[nn.Module, History]:
    """One process."""
    seed_process(seed)
    model = network(kind)
    arguments: dict[str, Any] = {"epochs": 3, "batch_size": 10, "validation": (X[:20], Y[:20]), **more}
    if path is not None:
        arguments = {"checkpoint": path, "resume": True, **arguments}
    arguments["callbacks"] = [*arguments.get("callbacks", ()), BreakAt(break_at)]
    return model, train(model, data, progress=False, **arguments)


def untimed(history: History) -> dict[str, Any]:
    state = history.state_dict()
    for row in state["epochs"]:
        del row["seconds"], row["samples_per_second"]
    return state


def assert_same(one: tuple[nn.Module, History], other: tuple[nn.Module, History]) -> None:
    tensors = [
        dict(itertools.chain(model.named_parameters(), model.named_buffers())) for model, _ in (one, other)
    ]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name]), name
    histories = [untimed(history) for _, history in (one, other)]
    assert histories[0].keys() == histories[1].keys()
    for name, value in histories[0].items():
        same = (
            torch.equal(value, histories[1][name])
            if isinstance(value, Tensor)
            else value == histories[1][name]
        )
        assert same, name


def assert_same_weights(one: tuple[nn.Module, History], other: tuple[nn.Module, History]) -> None:
    for own, same in zip(one[0].parameters(), other[0].parameters(), strict=True):
        assert torch.equal(own, same)


@pytest.mark.parametrize("breaks", [(1,), (4, 5, 6), (5, 11, 15), (7, 8, 9, 10, 14)])
def test_a_broken_run_goes_on_to_the_same_bits(tmp_path: Path, breaks: tuple[int, ...]) -> None:
    path = tmp_path / "run.safetensors"
    for number, step in enumerate(breaks):
        with pytest.raises(Broken):
            run(path, step, seed=3 + number)
    assert_same(run(path, seed=99), run(None))
    assert os.listdir(tmp_path) == [path.name]


def test_the_oracle_would_notice(tmp_path: Path) -> None:
    """The net draws from the generators that another process seeds otherwise, and each order is another."""
    with pytest.raises(AssertionError):
        assert_same(run(None, seed=4), run(None, seed=3))
    losses = run(None, kind="plain", lr=1e-12)[1].step_loss
    assert len(set(losses.tolist())) == 3 * STEPS


@pytest.mark.parametrize(
    ("first", "then"), [({"steps": 7}, {"steps": 13}), ({"steps": 5}, {}), ({"epochs": 1}, {})]
)
def test_a_longer_run_goes_on_as_if_it_had_been_so_long_from_the_beginning(
    tmp_path: Path, first: dict[str, Any], then: dict[str, Any]
) -> None:
    path = tmp_path / "run.safetensors"
    best = {"lr_schedule": lambda epoch: 1 / (1 + epoch)}
    run(path, **first, **best, callbacks=[EarlyStopping(patience=9)])
    assert_same(
        run(path, seed=99, **then, **best, callbacks=[EarlyStopping(patience=9)]),
        run(None, **then, **best, callbacks=[EarlyStopping(patience=9)]),
    )


@pytest.mark.parametrize(
    "arguments", [{}, {"steps": 7}, {"callbacks": [EarlyStopping(patience=1)], "lr": 1.0}]
)
def test_a_finished_run_is_not_trained_again(tmp_path: Path, arguments: dict[str, Any]) -> None:
    path = tmp_path / "run.safetensors"
    first = run(path, **arguments)
    steps: list[int] = []

    class Count:
        def on_step(self, state: TrainingState) -> None:
            steps.append(state.step)

    arguments = {**arguments, "callbacks": [*arguments.get("callbacks", ()), Count()]}
    assert_same(run(path, seed=99, **arguments), first)
    assert steps == []


def test_early_stopping_goes_on_waiting(tmp_path: Path) -> None:
    """The best weights and the epochs waited for are those of before."""
    path = tmp_path / "run.safetensors"
    arguments = {"epochs": 12, "lr": 0.1, "seed": 1}

    def stopping() -> list[Any]:
        return [EarlyStopping("validation_loss", patience=3)]

    whole = run(None, callbacks=stopping(), **arguments)
    assert 3 < len(whole[1].epochs) < 12
    for epoch in range(1, len(whole[1].epochs)):
        with pytest.raises(Broken):
            run(path, epoch * STEPS + 1, callbacks=stopping(), **arguments)
    assert_same(run(path, callbacks=stopping(), **arguments), whole)


def test_a_callback_that_raises_is_called_again_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    called: list[tuple[str, int]] = []

    class Note:
        def __init__(self, name: str) -> None:
            self.name = name

        def on_epoch(self, state: TrainingState) -> None:
            called.append((self.name, state.epoch))

    class Raise:
        def on_epoch(self, state: TrainingState) -> None:
            raise Broken

    with pytest.raises(Broken):
        run(path, callbacks=[Note("a"), Raise(), Note("b")], epochs=2)
    run(path, callbacks=[Note("a"), Note("c"), Note("b")], epochs=2)
    assert called == [("a", 1), ("c", 1), ("b", 1), ("a", 2), ("c", 2), ("b", 2)]


@pytest.mark.parametrize(
    "make",
    [lambda: (X, Y), lambda: DataLoader(TensorDataset(X, Y), 10, shuffle=True)],
    ids=["tensors", "loader"],
)
def test_a_run_may_end_again_before_its_next_pass(tmp_path: Path, make: Callable[[], Any]) -> None:
    """Between two passes, three times in a row."""

    class Raise:
        def on_epoch(self, state: TrainingState) -> None:
            raise Broken

    class Pass:
        def on_epoch(self, state: TrainingState) -> None:
            pass

    for seed in range(3):
        with pytest.raises(Broken):
            run(tmp_path / "run", seed=3 + seed, data=make(), callbacks=[Raise()])
    assert_same(run(tmp_path / "run", seed=99, data=make(), callbacks=[Pass()]), run(None, data=make()))


def test_callbacks_are_told_that_a_run_is_resumed(tmp_path: Path) -> None:
    told: list[tuple[bool, int]] = []

    class Told:
        def on_start(self, state: TrainingState) -> None:
            told.append((state.resumed, state.step))

    with pytest.raises(Broken):
        run(tmp_path / "run", 3, callbacks=[Told()])
    run(tmp_path / "run", callbacks=[Told()])
    assert told == [(False, 0), (True, 3)]


# ------------------------------------------------------------------------------------------ when it is written


class Numbers:
    """The step that the file stands at, after each step."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, list[int]()

    def on_step(self, state: TrainingState) -> None:
        run = checkpoint.load(self.path).run
        assert run is not None
        self.found.append(run["step"])


def test_it_is_written_so_often(tmp_path: Path) -> None:
    """The first step sees the file from before it; epochs end at 5 and 10."""
    numbers = Numbers(tmp_path / "run")
    run(tmp_path / "run", checkpoint_every=3, epochs=2, callbacks=[numbers])
    assert numbers.found == [0, 0, 0, 3, 3, 5, 6, 6, 6, 9]


def test_it_is_written_after_so_many_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 0.0)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0] + next(clock))

    class Tick:
        def on_step(self, state: TrainingState) -> None:
            now[0] += 1.0

    numbers = Numbers(tmp_path / "run")
    run(tmp_path / "run", checkpoint_every="2s", epochs=1, callbacks=[numbers, Tick()])
    assert numbers.found == [0, 0, 2, 2, 4]


@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("30", ValueError), ("0s", ValueError)]
    + [(word, ValueError) for word in ("infs", "nans", "-1s", "s", "", "1m")]
    + [(None, TypeError), (True, TypeError)],
)
def test_other_intervals_are_refused(tmp_path: Path, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^checkpoint_every must be"):
        run(tmp_path / "run", checkpoint_every=value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_is_obeyed_once_the_file_is_written(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "run.safetensors"

    class Raise:
        def on_step(self, state: TrainingState) -> None:
            if state.step == 7:
                signal.raise_signal(number)

    with pytest.raises((SystemExit, KeyboardInterrupt)) as ended:
        run(path, callbacks=[Raise()])
    if number == signal.SIGINT:
        assert type(ended.value) is KeyboardInterrupt
    else:
        assert isinstance(ended.value, SystemExit)
        assert ended.value.code == 128 + number
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    found = checkpoint.load(path).run
    assert found is not None
    assert found["step"] == 7
    assert_same(run(path, seed=99), run(None))


def test_a_program_that_handles_terminations_itself_is_left_to_it(tmp_path: Path) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))

    class Raise:
        def on_step(self, state: TrainingState) -> None:
            if state.step == 2:
                signal.raise_signal(signal.SIGTERM)

    try:
        run(tmp_path / "run", callbacks=[Raise()], epochs=1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_a_full_disk_ends_the_run_and_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Fill:
        def on_step(self, state: TrainingState) -> None:
            if state.step == 6:
                monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match=r"run.safetensors cannot be written: No space left on device\.$"):
        run(path, checkpoint_every=4, callbacks=[Fill()])
    monkeypatch.undo()
    assert os.listdir(tmp_path) == [path.name]
    found = checkpoint.load(path).run
    assert found is not None
    assert found["step"] == 5
    assert_same(run(path, seed=99), run(None))


def test_the_error_that_ends_a_run_is_not_hidden_by_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Fill:
        def on_step(self, state: TrainingState) -> None:
            monkeypatch.setattr(os, "fsync", full)

    with (
        pytest.warns(UserWarning, match="^the checkpoint of the end by Broken is missing: .*No space left"),
        pytest.raises(Broken),
    ):
        run(tmp_path / "run", 3, callbacks=[Fill()])


# -------------------------------------------------------------------------------------------- what is refused


def other_data(place: int) -> tuple[Tensor, Tensor]:
    x, y = X.clone(), Y.clone()
    (x if place == 0 else y).view(-1)[-1] += 1 if place == 0 else 0
    y[-1] = (y[-1] + place) % CLASSES
    return x, y


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "am-sgd"}, "method 'am-adam' and not 'am-sgd'"),
        ({"lr": 0.5}, "options's lr 0.001 and not 0.5"),
        ({"batch_size": 9}, "batch_size 10 and not 9"),
        ({"shuffle": False}, "shuffle True and not False"),
        ({"loss": "mse"}, "loss"),
        ({"lr_schedule": "cosine"}, "lr_schedule 'constant' and not 'cosine'"),
        ({"data": other_data(0)}, "data's x"),
        ({"data": other_data(1)}, "data's y"),
        ({"data": (X[1:], Y[1:])}, "data's x"),
        ({"data": TensorDataset(X, Y), "validation": None}, "validation"),
        ({"data": [(X, Y)]}, "data"),
        ({"kind": "plain"}, "modules"),
        ({"on_nonfinite": "skip"}, "on_nonfinite 'raise' and not 'skip'"),
        ({"callbacks": [EarlyStopping()]}, "callbacks that keep something, none, and not EarlyStopping"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(Broken):
        run(path, 3)
    content = path.read_bytes()
    model = network(change.pop("kind", "drawing"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments: dict[str, Any] = {"data": (X, Y), "validation": (X[:20], Y[:20]), "batch_size": 10, **change}
    if change.get("loss") == "mse":
        arguments |= {"data": (X, torch.zeros(N, CLASSES)), "validation": (X, torch.zeros(N, CLASSES))}
    data = arguments.pop("data")
    with pytest.raises(
        ValueError, match=r"^checkpoint must be of this very run, but .*run.safetensors' is of"
    ) as e:
        train(model, data, epochs=3, progress=False, checkpoint=path, resume=True, **arguments)
    assert words in str(e.value)
    assert path.read_bytes() == content
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def a_list(shift: float) -> list[Any]:
    return [(X[:10] + shift, Y[:10].numpy())] * STEPS


def a_loader(x: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, Y[: len(x)]), 10)


def smoothing(by: float, weight: list[float]) -> nn.Module:
    return nn.CrossEntropyLoss(label_smoothing=by, weight=torch.tensor(weight))


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ({"data": a_list(0.0)}, {"data": a_list(1.0)}, "data's content"),
        ({"data": a_loader(X)}, {"data": a_loader(X[:49])}, "data's the last of them 10 and not 9"),
        ({"data": a_loader(X)}, {"data": DataLoader(Drawing(Held()), 10)}, "data's samples 'TensorDataset'"),
        (
            {"loss": smoothing(0.1, [1.0, 1.0, 2.0])},
            {"loss": smoothing(0.2, [1.0, 1.0, 2.0])},
            "criterion's label_smoothing 0.1 and not 0.2",
        ),
        (
            {"loss": smoothing(0.1, [1.0, 1.0, 2.0])},
            {"loss": smoothing(0.1, [1.0, 2.0, 2.0])},
            "criterion's weight",
        ),
    ],
    ids=["list", "length", "data set", "smoothing", "weights"],
)
def test_another_run_of_the_same_kind_is_refused(
    tmp_path: Path, first: dict[str, Any], then: dict[str, Any], words: str
) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(Broken):
        run(path, 3, **first)
    with pytest.raises(ValueError, match=r"^checkpoint must be of this very run") as e:
        run(path, **{**first, **then})
    assert words in str(e.value)


def test_another_rate_of_dropout_is_refused(tmp_path: Path) -> None:
    def train_with(rate: float, *callbacks: Any) -> History:
        model = nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(rate), nn.Linear(8, CLASSES))
        return train(
            model, (X, Y), progress=False, checkpoint=tmp_path / "run", resume=True, callbacks=callbacks
        )

    train_with(0.2)
    with pytest.raises(ValueError, match=r"'1: Dropout\(p=0.2, .*' and not '1: Dropout\(p=0.5, "):
        train_with(0.5)


def test_nothing_has_changed_if_a_stream_refuses_its_state(tmp_path: Path) -> None:
    """Its size of minibatches is known to the stream alone."""
    with pytest.raises(Broken):
        run(tmp_path / "run", 3, data=endless(X, Y, 10), epochs=1, steps=9)
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"^state's batch_size must be 9"):
        train(
            model, endless(X, Y, 9), batch_size=10, validation=(X[:20], Y[:20]), epochs=1, steps=9,
            checkpoint=tmp_path / "run", resume=True, progress=False,
        )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("limit", [{"epochs": 1}, {"steps": 6}])
def test_a_run_that_has_come_further_is_refused(tmp_path: Path, limit: dict[str, int]) -> None:
    with pytest.raises(Broken):
        run(tmp_path / "run", 7)
    ((name, value),) = limit.items()
    made = {"epochs": 2, "steps": 7}[name]
    with pytest.raises(ValueError, match=rf"^{name} must be at least {made}, .* but is {value}\.$"):
        run(tmp_path / "run", **limit)


@pytest.mark.parametrize("more", [{"resume": True}, {"keep": 2}])
def test_what_needs_a_file_is_refused_without_one(more: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=rf"^checkpoint must be the path of a file where {next(iter(more))} is"
    ):
        run(None, **more)


def test_a_call_that_is_refused_does_not_change_the_order_of_the_next() -> None:
    def second(*refused: Any) -> Tensor:
        method = make_method("am-adam", network("plain"))
        arguments: dict[str, Any] = {"method": method, "batch_size": 10, "progress": False}
        train(method.model, (X, Y), **arguments)
        for validation in refused:
            with pytest.raises(ValueError, match="validation: "):
                train(method.model, (X, Y), seed=7, validation=validation, **arguments)
        return train(method.model, (X, Y), **arguments).step_loss

    assert torch.equal(second((X[:, :2], Y)), second())


def test_the_file_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a callback goes to another folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()

    class Go:
        def on_step(self, state: TrainingState) -> None:
            os.chdir(tmp_path / "other")

    run(Path("run"), callbacks=[Go()])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["other", "run"]
    found = checkpoint.load(tmp_path / "run").run
    assert found is not None
    assert found["step"] == 3 * STEPS


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(path, steps=7)
    content = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"holds a run at step 7 in epoch 2: pass resume=True to go on with it"
    ):
        run(path, resume=False)
    assert path.read_bytes() == content


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, model=network())
    with pytest.raises(ValueError, match="holds no run"):
        run(path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"run.safetensors' must be a checkpoint written by altmin_ext"):
        run(path)
    with pytest.raises(IsADirectoryError):
        run(tmp_path)


def minibatches() -> Iterator[tuple[Tensor, Tensor]]:
    yield X, Y


class Restarting:
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return minibatches()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (minibatches, "a generator cannot"),
        (Restarting, "a Restarting cannot"),
        (
            lambda: DataLoader(TensorDataset(X, Y), num_workers=1, persistent_workers=True),
            "data must be a DataLoader without persistent_workers",
        ),
    ],
)
def test_data_that_cannot_be_entered_again_are_refused_beforehand(
    tmp_path: Path, make: Callable[[], Any], words: str
) -> None:
    model = network()
    with pytest.raises(ValueError, match=words):
        train(model, make(), checkpoint=tmp_path / "run", progress=False, validation=None)
    assert os.listdir(tmp_path) == []
    assert torch.equal(model[1].weight, network()[1].weight)


@pytest.mark.parametrize("path", [3, b"", None.__class__])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^checkpoint must be"):
        run(None, checkpoint=path)


# ------------------------------------------------------------------------------------- what it leaves alone


def enclosed() -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(5)
    return lambda x: torch.randn(x.shape, generator=generator)


def drawn(x: Tensor, generator: random.Random) -> float:
    return generator.random()


class OwnBatches:
    """Derived from nothing."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(5)

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(STEPS):
            yield torch.randint(N, (10,), generator=self.generator).tolist()


class Collate:
    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self, samples: list[Any]) -> tuple[Tensor, Tensor]:
        x, y = default_collate(samples)
        return x + torch.randn(x.shape, generator=self.generator), y


def of_the_process(x: Tensor) -> float:
    return np.random.normal() + random.random() + float(torch.rand(()))  # noqa: NPY002


TENSORS = TensorDataset(X, Y)
HOLDERS: dict[str, Callable[[], Any]] = {
    "list": lambda: Drawing(Held()),
    "slot": lambda: Drawing(Slotted()),
    "closure": lambda: Drawing(enclosed()),
    "method": lambda: Drawing(Held().__call__),
    "partial": lambda: Drawing(functools.partial(drawn, generator=random.Random(5))),
    "dict of data sets": lambda: Drawing({"a": Drawing(Held())}["a"].draw),
    "process": lambda: Drawing(of_the_process),
    "collate": lambda: DataLoader(TENSORS, 10, collate_fn=Collate()),
    "batch sampler": lambda: DataLoader(TENSORS, batch_sampler=OwnBatches()),  # type: ignore[arg-type]
    "shared": lambda: shared_loader(),
}


def shared_loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    return DataLoader(TENSORS, 10, shuffle=True, generator=generator)


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("argument", ["data", "validation"])
def test_generators_are_found_wherever_data_hold_them(tmp_path: Path, argument: str, holder: str) -> None:
    for step in (2, 7):
        with pytest.raises(Broken):
            run(tmp_path / "run", step, **{argument: HOLDERS[holder]()})
    whole = run(None, **{argument: HOLDERS[holder]()})
    assert_same(run(tmp_path / "run", seed=99, **{argument: HOLDERS[holder]()}), whole)


class Following(Drawing):
    """A data set that is a callback, too, and knows the method that trains."""

    def __init__(self) -> None:
        super().__init__(Held())
        self.method: Any = None

    def on_start(self, state: TrainingState) -> None:
        self.method = state.method


def test_a_method_that_data_hold_keeps_its_generators_itself(tmp_path: Path) -> None:
    """Those of its model are drawn from within steps, which are not made again when minibatches are read again."""
    for step in (2, 7):
        data = Following()
        with pytest.raises(Broken):
            run(tmp_path / "run", step, data=data, callbacks=[data])
    data, again = Following(), Following()
    assert_same(
        run(tmp_path / "run", seed=99, data=again, callbacks=[again]),
        run(None, data=data, callbacks=[data]),
    )


@pytest.mark.parametrize("loader", [False, True])
def test_a_generator_may_be_shared_by_model_and_data(tmp_path: Path, loader: bool) -> None:
    """A model's draws are not made again when minibatches are read again, and the order may be drawn from it, too."""

    def shared(path: Path | None, step: int = 0) -> tuple[nn.Module, History]:
        seed_process(3)
        model = network()
        generator = model[0].generator
        data: Any = Drawing(lambda x: torch.randn(x.shape, generator=generator))
        if loader:
            data = DataLoader(data, 10, shuffle=True, generator=generator)
        arguments: dict[str, Any] = {} if path is None else {"checkpoint": path, "resume": True}
        return model, train(
            model, data, epochs=3, batch_size=10, progress=False, callbacks=[BreakAt(step)], **arguments
        )

    for step in (2, 7):
        with pytest.raises(Broken):
            shared(tmp_path / "run", step)
    assert_same_weights(shared(tmp_path / "run"), shared(None))


class Late:
    """Makes its generator when it first draws."""

    generator: torch.Generator | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.generator is None:
            self.generator = torch.Generator().manual_seed(5)
        return torch.randn(x.shape, generator=self.generator)


def test_data_that_hold_other_generators_are_refused(tmp_path: Path) -> None:
    """At the beginning of the second pass they had made one, which those of another process have yet to make."""
    path = tmp_path / "run"
    with pytest.raises(Broken):
        run(path, 7, data=Drawing(Late()))
    content, model = path.read_bytes(), network()
    with pytest.raises(ValueError, match=r"^data must hold the 2 random generators .* but hold 1: make them"):
        train(
            model, Drawing(Late()), epochs=3, batch_size=10, validation=(X[:20], Y[:20]), checkpoint=path,
            resume=True, progress=False,
        )  # fmt: skip
    assert path.read_bytes() == content
    for own, same in zip(model.parameters(), network().parameters(), strict=True):
        assert torch.equal(own, same)


@pytest.mark.parametrize("holder", ["list", "shared"])
def test_validation_moves_no_generator_of_the_training(holder: str) -> None:
    """The same data set, or loader, may be trained on and validated with."""
    data = HOLDERS[holder]()
    validated = run(None, data=data, validation=data)
    assert_same_weights(validated, run(None, data=HOLDERS[holder](), validation=None))


class Nested(Noise):
    """Holds its generators in a dict, and draws in validation as well."""

    def __init__(self) -> None:
        super().__init__()
        self.generators = {"own": self.generator, "other": np.random.default_rng(1)}
        del self.generator

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=self.generators["own"])  # type: ignore[call-overload]
        return x + noise * self.generators["other"].normal()


def test_generators_are_found_wherever_modules_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "Noise", Nested)
    with pytest.raises(Broken):
        run(tmp_path / "run", 7)
    assert_same(run(tmp_path / "run", seed=99), run(None))
    assert_same_weights(run(None), run(None, validation=None))


class Growing(Noise):
    """Keeps what it has seen in buffers that it replaces: one grows, one is None at first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))
        self.register_buffer("mean", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen = torch.cat([self.seen, x.detach().mean(0)])
            self.mean = self.seen.mean()
        return x if self.mean is None else x + self.mean


def test_buffers_that_a_module_replaces_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Noise", Growing)
    for step in (1, 7):
        with pytest.raises(Broken):
            run(tmp_path / "run", step)
    assert_same(run(tmp_path / "run", seed=99), run(None))


def test_generators_of_the_process_go_on_as_without_a_break(tmp_path: Path) -> None:
    """Also those that are drawn from for the first time after the break, or after the run."""

    class Draw:
        def on_epoch(self, state: TrainingState) -> None:
            with torch.no_grad():
                state.model[1].weight += np.random.normal() + random.random()  # noqa: NPY002

    with pytest.raises(Broken):
        run(tmp_path / "run", 3, kind="plain", callbacks=[Draw()])
    resumed = run(tmp_path / "run", seed=99, kind="plain", callbacks=[Draw()])
    after = [torch.rand(()), np.random.normal(), random.random()]  # noqa: NPY002
    assert_same(resumed, run(None, kind="plain", callbacks=[Draw()]))
    assert [torch.rand(()), np.random.normal(), random.random()] == after  # noqa: NPY002


def test_a_run_with_a_checkpoint_is_the_run_without_one(tmp_path: Path) -> None:
    assert_same(run(tmp_path / "run", checkpoint_every=1), run(None))


def test_the_weights_in_the_file_are_those_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    model, history = run(path, kind="plain")
    other = network("plain")
    found = checkpoint.load(path, model=other)
    assert evaluate(other, (X, Y)) == evaluate(model, (X, Y))
    assert found.history is not None
    assert untimed(found.history)["epochs"] == untimed(history)["epochs"]


def test_former_files_stay(tmp_path: Path) -> None:
    run(tmp_path / "run.safetensors", checkpoint_every=2, epochs=2, keep=2)
    names = sorted(os.listdir(tmp_path))
    assert len(names) == 3
    runs = [checkpoint.load(tmp_path / name).run for name in names]
    assert sorted(found["step"] for found in runs if found is not None) == [6, 8, 10]


# ------------------------------------------------------------------------------------------------- its page

PAGE = Path(__file__).parents[1] / "docs" / "checkpoints.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="only the tests are here, not the documentation")
def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page calls the weights of the file are those of the model."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            exec(compile(block, PAGE.name, "exec"), names)
        if block == blocks[0]:
            trained = {name: value.clone() for name, value in names["model"].state_dict().items()}
            assert len(names["history"].epochs) == 10
    assert names["step"] == 20
    assert names["weights"].keys() == trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in names["weights"].items())
