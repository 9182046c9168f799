"""on_nonfinite="restore": where a run diverges, model and method go back to a copy, and steps become half as large.

Oracles: snapshots that the test takes itself at the steps where a copy is due; a twin that never diverged, made from
such a snapshot, with half the rates; for backpropagation the same loop written by hand in plain torch.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import DivergenceError, _restore
from altmin_ext.data import streams

from ..side_by_side import everything, ordinary
from .test_methods_common import (
    CLASSES,
    FEATURES,
    METHODS,
    assert_same_state,
    assert_sentence,
    make,
    network,
    same,
    snapshot,
)

WITHOUT_RATE = ("ncm", "rls", "slda")
RESTORING = [name for name in METHODS if name not in WITHOUT_RATE]
every_restoring = pytest.mark.parametrize("name", RESTORING)
EVERY = 4  # steps between two copies
SPIKE = 1e300  # a factor of the rates that no method survives
OF_THE_RUN = ("learning_rate_factor", "data_order", "restores", "alternates")


@pytest.fixture(autouse=True)
def copies_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_shortest", "_shortest_of_full_batch", "_longest"):
        monkeypatch.setattr(_restore, name, EVERY)


def batch(method: Any, number: int) -> tuple[Tensor, Tensor]:
    """The minibatch of this number; the same for each if the method takes the whole training set."""
    generator = torch.Generator().manual_seed(0 if method.full_batch else number)
    x = torch.randn(16, FEATURES, generator=generator, dtype=torch.float64).to(method.dtype)
    return x, torch.randint(CLASSES, (16,), generator=generator)


def restoring(name: str, **options: Any) -> Any:
    return make(name, network(name), **{"on_nonfinite": "restore", **options})


def taken(method: Any) -> dict[str, Any]:
    """What a copy holds."""
    state = {key: value for key, value in method.state_dict().items() if key not in OF_THE_RUN}
    return {"model": snapshot(method.model), "method": state}


def assert_taken(method: Any, expected: dict[str, Any]) -> None:
    found = taken(method)
    assert same(found["model"], expected["model"])
    assert_same_state(found["method"], expected["method"])


def blow_up(method: Any, first: int, copies: dict[int, Any] | None = None) -> int:
    """Steps that are far too large, until one is not finite; returns the number of the next minibatch.

    Snapshots where a copy is due are added to ``copies``.
    """
    before = method.restores
    method.learning_rate_factor = SPIKE
    for number in range(first, first + 5):
        if copies is not None and method.steps % EVERY == 0:
            copies[method.steps] = taken(method)
        method.step(*batch(method, number))
        if method.restores > before:
            method.learning_rate_factor = 1.0
            return number + 1
    raise AssertionError("the method has not diverged")


def halved(name: str, times: int = 1, **options: Any) -> Any:
    """A method whose own options are what those of the one restored so often have become."""
    fields = dataclasses.fields(altmin_ext.methods.method_class(name).Options)
    given = {**{field.name: field.default for field in fields}, **METHODS[name].options, **options}
    rates = {"lr", "lr_out", "lr_inverse", "lr_memory", "lr_dictionary", "relaxation"} & given.keys()
    smaller = {rate: given[rate] / 2**times for rate in rates if given[rate] is not None}
    return make(name, network(name), **{**options, **smaller})


def as_it_was(method: Any, snapshot_of: dict[str, Any]) -> Any:
    """Give another method the model and the state of a snapshot."""
    method.model.load_state_dict(snapshot_of["model"])
    own = method.state_dict()
    method.load_state_dict({**own, **snapshot_of["method"]})
    return method


# --- what a restore does ---


@every_restoring
@pytest.mark.parametrize("before", [0, 1, EVERY - 1, EVERY, EVERY + 2, 3 * EVERY])
def test_model_and_method_are_the_copy_and_go_on_from_it(name: str, before: int) -> None:
    """Bit for bit; and from there as a method whose learning rates are half as large in its options."""
    method = restoring(name)
    copies = {}
    for number in range(before):
        if number % EVERY == 0:
            copies[number] = taken(method)
        method.step(*batch(method, number))
    number = blow_up(method, before, copies)
    assert method.restores == 1
    assert method.step_factor == 0.5
    assert_taken(method, copies[max(copies)])
    if (
        max(copies) > before
    ):  # it was due between the first step that was too large and the one that was not finite
        return
    twin = as_it_was(halved(name), copies[method.steps])
    for later in range(number, number + EVERY + 2):
        found, expected = method.step(*batch(method, later)), twin.step(*batch(method, later))
        assert torch.equal(found.loss, expected.loss)
    assert same(method.model.state_dict(), twin.model.state_dict())
    assert method.restores == 1


@pytest.mark.parametrize("name", ["am-adam", "am-sgd", "block-admm"])
def test_a_step_size_of_codes_is_halved_with_the_rates(name: str) -> None:
    method = restoring(name, lr_codes=0.2)
    before = taken(method)
    for number in range(2):
        method.step(*batch(method, number))
    number = blow_up(method, 2)
    twin = as_it_was(halved(name, lr_codes=0.1), before)
    for later in range(number, number + 3):
        assert torch.equal(method.step(*batch(method, later)).loss, twin.step(*batch(method, later)).loss)
    assert same(method.model.state_dict(), twin.model.state_dict())


class Backpropagation:
    """The same loop by hand."""

    def __init__(self, model: nn.Module, make_optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
        self.model, self.optimizer = model, make_optimizer(model.parameters())
        self.rate = self.optimizer.param_groups[0]["lr"]
        self.halvings, self.steps, self.in_a_row, self.copies = 0, 0, 0, list[Any]()

    def step(self, x: Tensor, y: Tensor, factor: float = 1.0) -> None:
        if not self.copies or self.steps - self.copies[-1][2] >= EVERY:
            self.copies = [
                *self.copies[-1:],
                copy.deepcopy((self.model, self.optimizer.state_dict(), self.steps)),
            ]
            self.in_a_row = 0
        self.optimizer.param_groups[0]["lr"] = self.rate * factor / 2**self.halvings
        loss = nn.functional.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in self.model.parameters()]
        finite = all(bool(g.isfinite().all()) for g in gradients if g is not None)
        if finite and loss.isfinite():
            self.optimizer.step()
            self.steps += 1
        if loss.isfinite() and finite and all(bool(p.isfinite().all()) for p in self.model.parameters()):
            return
        if self.in_a_row and len(self.copies) > 1:
            self.copies.pop()
        model, state, self.steps = copy.deepcopy(self.copies[-1])
        self.model.load_state_dict(model.state_dict())
        self.optimizer.load_state_dict(state)
        self.halvings += 1
        self.in_a_row += 1


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.125, momentum=0.5, fused=True),
    "adam": lambda parameters: torch.optim.AdamW(parameters, lr=2**-7, weight_decay=0.0, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("spikes", [(6,), (6, 7), (6, 7, 8), (1, 13), (5, 11, 12, 22)], ids=str)
def test_backpropagation_by_hand(name: str, spikes: tuple[int, ...]) -> None:
    """Minibatches on which the rate is far too large, some of them close together: the older copy is restored."""
    options = {"sgd": {"lr": 0.125, "momentum": 0.5}, "adam": {"lr": 2**-7}}[name]
    method = restoring(name, **options)
    by_hand = Backpropagation(network(name), OPTIMIZERS[name])
    for number in range(30):
        factor = SPIKE if number in spikes else 1.0
        method.learning_rate_factor = factor
        method.step(*batch(method, number))
        by_hand.step(*batch(method, number), factor)
        assert (method.restores, method.steps) == (by_hand.halvings, by_hand.steps), number
        for found, expected in zip(method.model.parameters(), by_hand.model.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert method.restores >= len(spikes) - 1 > -1
    assert method.restores > 0


class Running(nn.Module):
    """A module of the user's that counts its calls in a buffer, and replaces another one each time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("mask", torch.full((8,), -torch.inf))

    def forward(self, a: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            self.mean = 0.9 * self.mean + 0.1 * a.detach().mean(0)
        return a - self.mean


@pytest.mark.parametrize("name", ["sgd", "adam", "am-adam", "block-admm"])
def test_buffers_go_back(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), Running(), nn.Tanh(), nn.Linear(8, CLASSES)]
        model = nn.Sequential(*layers)
    method = make(name, model, on_nonfinite="restore")
    for number in range(EVERY):
        method.step(*batch(method, number))
    before = snapshot(model)
    method.step(*batch(method, EVERY))
    blow_up(method, EVERY + 1)
    assert method.steps == EVERY
    assert same(snapshot(model), before)


# --- minibatches that are not finite themselves ---


@every_restoring
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_data_that_are_not_finite_are_skipped(name: str, value: float) -> None:
    """The run is that of "skip"."""
    method, skipping = restoring(name), restoring(name, on_nonfinite="skip")
    for number in range(2 * EVERY + 1):
        x, y = batch(method, number)
        spoiled = x.clone()
        spoiled[3, 2] = value
        for each in (method, skipping):
            if not each.full_batch or number > 0:
                each.step(spoiled, y)
            each.step(x, y)
    assert method.restores == 0
    assert method.step_factor == 1.0
    assert same(method.model.state_dict(), skipping.model.state_dict())


def test_targets_that_are_not_finite_are_skipped() -> None:
    method = restoring("sgd", loss="mse")
    x, _ = batch(method, 0)
    y = torch.full((16, CLASSES), torch.nan)
    before = snapshot(method.model)
    for _ in range(30):
        method.step(x, y)
    assert method.restores == 0
    assert same(method.model.state_dict(), before)


# --- again and again ---


@every_restoring
def test_the_older_copy_is_restored_the_second_time(name: str) -> None:
    method = restoring(name)
    copies = {}
    for number in range(2 * EVERY + 1):
        if number % EVERY == 0:
            copies[number] = taken(method)
        method.step(*batch(method, number))
    number = blow_up(method, 2 * EVERY + 1)
    number = blow_up(method, number)
    assert method.steps == EVERY
    assert_taken(method, copies[EVERY])
    number = blow_up(method, number)
    assert method.steps == EVERY
    assert_taken(method, copies[EVERY])
    assert method.step_factor == 2**-3


@every_restoring
def test_ten_restores_without_a_new_copy_are_all(name: str) -> None:
    """Then an error, with the last copy restored; not if there was one in between."""
    method = restoring(name)
    before = taken(method)
    method.learning_rate_factor = SPIKE
    with pytest.raises(DivergenceError) as error:
        disturbed(method, 0, 60, tuple(range(60)))
    assert_sentence(error, "not finite", "ever smaller steps", "lower")
    assert method.restores == 10
    assert_taken(method, before)
    method.learning_rate_factor = 1.0
    for number in range(EVERY + 1):
        method.step(*batch(method, number))
    assert method.steps == EVERY + 1
    for _ in range(9):
        blow_up(method, 0)
    assert method.restores == 19


# --- a state holds all of it ---


def disturbed(method: Any, number: int, batches: int, spikes: tuple[int, ...]) -> list[Any]:
    """Steps of a run whose rate is too large at some minibatches; returns losses, and all of method and model."""
    losses = []
    for i in range(number, batches):
        method.learning_rate_factor = SPIKE if i in spikes else 1.0
        losses.append(method.step(*batch(method, i)).loss.tolist())
    return [repr(losses), everything(method)["model"], method.state_dict()]


@every_restoring
def test_a_resumed_run_restores_what_the_undisturbed_one_does(name: str) -> None:
    """From every minibatch, also between two restores of which the second goes back further."""
    spikes, batches = (6, 7, 9, 10, 19), 24
    method = restoring(name)
    kept = []
    for number in range(batches):
        kept.append((copy.deepcopy(method.model), method.state_dict()))
        method.learning_rate_factor = SPIKE if number in spikes else 1.0
        method.step(*batch(method, number))
    assert method.restores >= 2
    expected = [snapshot(method.model), method.state_dict()]
    for number, (model, state) in enumerate(kept):
        resumed = make(name, model, on_nonfinite="restore")
        resumed.load_state_dict(state)
        assert_same_state(resumed.state_dict(), state)
        found = disturbed(resumed, number, batches, spikes)
        assert same(snapshot(resumed.model), expected[0])
        assert_same_state(found[2], expected[1])


def test_a_state_without_copies_is_the_first_copy() -> None:
    """One of "raise", for instance, whose run has diverged; counts begin anew."""
    raising, method = restoring("am-adam", on_nonfinite="raise"), restoring("am-adam")
    for number in range(EVERY + 1):
        for each in (raising, method):
            each.step(*batch(each, number))
    blow_up(method, 0)
    method.model.load_state_dict(raising.model.state_dict())
    method.load_state_dict(raising.state_dict())
    assert (method.restores, method.step_factor) == (0, 1.0)
    expected = taken(method)
    method.step(*batch(method, 0))
    blow_up(method, 1)
    assert_taken(method, expected)


def altered(change: Callable[[Any], None]) -> Callable[[], Any]:
    def alter() -> Any:
        method = restoring("am-adam")
        for number in range(EVERY + 1):
            method.step(*batch(method, number))
        state = method.state_dict()
        change(state["restores"])
        return state

    return alter


ALTERED: dict[str, tuple[Callable[[Any], None], str]] = {
    "count": (lambda r: r.update(count=-1), "count"),
    "no list": (lambda r: r.update(copies={}), "must be a list"),
    "three copies": (lambda r: r.update(copies=r["copies"] * 2), "at most 2"),
    "a weight's name": (lambda r: r["copies"][0]["model"].pop("1.weight"), "1.weight"),
    "a weight's shape": (lambda r: r["copies"][1]["model"].update({"1.bias": torch.zeros(3)}), "1.bias"),
    "a weight that is no number": (
        lambda r: r["copies"][1]["model"].update({"1.bias": torch.full((16,), torch.nan)}),
        "1.bias",
    ),
    "a method's entry": (lambda r: r["copies"][0]["method"].pop("mu"), "mu"),
    "another method": (lambda r: r["copies"][0]["method"].update(method="sgd"), "sgd"),
}


@pytest.mark.parametrize(("change", "word"), ALTERED.values(), ids=ALTERED)
def test_altered_copies_are_refused(change: Callable[[Any], None], word: str) -> None:
    state = altered(change)()
    method = restoring("am-adam")
    method.step(*batch(method, 0))
    before = everything(method)
    with pytest.raises((TypeError, ValueError), match=word) as error:
        method.load_state_dict(state)
    assert_sentence(error, "must")
    assert same(method.model.state_dict(), before["model"])
    assert_same_state(method.state_dict(), before["method"])


def test_a_state_does_not_change_with_the_method() -> None:
    method = restoring("am-adam")
    for number in range(EVERY + 1):
        method.step(*batch(method, number))
    state = method.state_dict()
    kept = copy.deepcopy(state)
    for copied in state["restores"]["copies"]:
        copied["model"]["1.weight"].fill_(7.0)
    assert_same_state(method.state_dict(), kept)
    blow_up(method, EVERY + 1)
    assert not bool((method.model[1].weight == 7).any())


# --- steps that are recorded, many at a time, or not looked at ---


@pytest.mark.parametrize("name", ["am-adam", "am-sgd"])
def test_planned_steps_are_restored_alike(name: str) -> None:
    spikes, batches = (6, 7, 9, 10, 19), 24
    planned, by_steps = restoring(name), ordinary(restoring(name))
    found, expected = (disturbed(each, 0, batches, spikes) for each in (planned, by_steps))
    assert planned.restores == by_steps.restores > 2
    assert found[0] == expected[0]
    assert same(found[1], expected[1])
    assert_same_state(found[2], expected[2])


class Outliers:
    """Samples, a few of which are so large that a step on them ends in weights that are not finite."""

    def __init__(self, count: int, at: tuple[int, ...], size: float) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(count, FEATURES, generator=generator)
        self.y = torch.randint(CLASSES, (count,), generator=generator)
        self.x[list(at)] = size * self.x[list(at)].sign()


@pytest.mark.parametrize("name", RESTORING)
@pytest.mark.parametrize("size", [1, 3])
def test_learn_is_one_step_after_the_other(name: str, size: int) -> None:
    """Copies are made at the same steps, however many a native call makes at once."""
    data = Outliers(120, (50, 51, 52, 95), 3e38)
    methods = [restoring(name) for _ in range(2)]
    if methods[0].full_batch or methods[0].per_sample:
        pytest.skip("it learns from no stream")
    report = methods[0].learn(data.x, data.y, batch_size=size)
    pairs = zip(data.x.split(size), data.y.split(size), strict=True)
    losses = torch.stack([methods[1].step(x, y).loss for x, y in pairs])
    torch.testing.assert_close(report.loss, losses, rtol=0, atol=0, equal_nan=True)
    assert same(methods[0].model.state_dict(), methods[1].model.state_dict())
    assert_same_state(methods[0].state_dict(), methods[1].state_dict())
    assert methods[0].restores == methods[1].restores
    if name.startswith("am-"):
        assert methods[0].restores > 0


@pytest.mark.parametrize("name", ["am-adam", "am-sgd"])
def test_a_method_that_does_not_look_within_a_step_does_so_after_it(name: str) -> None:
    """As on a GPU, where kernels stop by themselves once a flag is raised."""
    spikes, batches = (6, 7, 9, 10, 19), 24
    looking, deferring = ordinary(restoring(name)), ordinary(restoring(name))
    deferring._defers_guard = True
    found, expected = (disturbed(each, 0, batches, spikes) for each in (deferring, looking))
    assert deferring.restores == looking.restores > 2
    assert same(found[1], expected[1])
    assert_same_state(found[2], expected[2])


# --- in a run of training ---


def batches_of(method: Any, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    return (batch(method, number) for number in range(count))


@every_restoring
def test_train_goes_on_and_counts(name: str) -> None:
    method = restoring(name)
    if method.full_batch or method.per_sample:
        data: Any = batch(method, 0)
    else:
        data = list(batches_of(method, 12))

    history = altmin_ext.train(
        method.model, data, method=method, epochs=20, progress=False,
        lr_schedule=lambda epoch: SPIKE if epoch == 8 else 1.0,
    ) if method.full_batch else altmin_ext.train(
        method.model, data, method=method, epochs=3, progress=False, callbacks=[SpikesAt(15)]
    )  # fmt: skip
    assert history.restores == method.restores > 0
    assert all(bool(parameter.isfinite().all()) for parameter in method.model.parameters())
    assert len(history.epochs) == (20 if method.full_batch else 3)


class SpikesAt:
    """A callback that makes rates far too large at one step, until the method has diverged."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, state: Any) -> None:
        spikes = state.step >= self._step and state.method.restores == 0
        state.method.learning_rate_factor = SPIKE if spikes else 1.0


@pytest.mark.parametrize("steps", [5, 7, 8, 11, 16])
def test_a_checkpoint_holds_the_copies(steps: int, tmp_path: Path) -> None:
    """A run over a stream that ends and goes on in between, and diverges before and after, is one run."""

    def trained(method: Any, steps: int, path: Path, resume: bool) -> altmin_ext.History:
        x, y = batch(method, 0)
        stream = streams.endless(x, y, 5)
        return altmin_ext.train(
            method.model, stream, method=method, steps=steps, checkpoint=path, resume=resume, progress=False,
            callbacks=[Spikes(6, 7, 10, 18)],
        )  # fmt: skip

    whole, parts = restoring("am-adam"), [restoring("am-adam") for _ in range(2)]
    expected = trained(whole, 24, tmp_path / "whole.safetensors", False)
    trained(parts[0], steps, tmp_path / "parts.safetensors", False)
    found = trained(parts[1], 24, tmp_path / "parts.safetensors", True)
    assert found.restores == expected.restores == whole.restores > 2
    assert torch.equal(found.step_loss.nan_to_num(), expected.step_loss.nan_to_num())
    assert same(parts[1].model.state_dict(), whole.model.state_dict())
    assert_same_state(parts[1].state_dict(), whole.state_dict())


class Spikes:
    """A callback that makes rates far too large behind some steps."""

    def __init__(self, *steps: int) -> None:
        self._steps = steps

    def on_step(self, state: Any) -> None:
        state.method.learning_rate_factor = SPIKE if state.step in self._steps else 1.0


@pytest.mark.parametrize(("minibatches", "expected"), [(1, 2 * EVERY), (2, EVERY), (5, EVERY)])
def test_an_inverse_that_diverges_before_an_epoch_is_restored(minibatches: int, expected: int) -> None:
    """Of dtp, whose inverses are fitted in passes of their own."""
    method = restoring("dtp")
    copies = {}
    for number in range(2 * EVERY):
        copies[number] = taken(method)
        method.step(*batch(method, number))
    copies[2 * EVERY] = taken(method)
    method.learning_rate_factor = SPIKE
    method.begin_epoch(batches_of(method, minibatches))
    assert method.restores == minibatches
    assert_taken(method, copies[expected])


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_history_counts_only_where_there_is_something_to_count(policy: str) -> None:
    method = restoring("sgd", on_nonfinite=policy)
    history = altmin_ext.train(method.model, batch(method, 0), method=method, progress=False)
    assert history.restores is None


# --- who has nothing to make smaller ---


@pytest.mark.parametrize("name", WITHOUT_RATE)
def test_closed_forms_refuse_it(name: str) -> None:
    with pytest.raises(ValueError, match="no learning rate to make smaller, but is 'restore'") as error:
        restoring(name)
    assert_sentence(error, "on_nonfinite", name)


@every_restoring
def test_nothing_is_different_where_nothing_diverges(name: str) -> None:
    method, raising = restoring(name), restoring(name, on_nonfinite="raise")
    for number in range(2 * EVERY + 1):
        for each in (method, raising):
            each.step(*batch(method, number))
    assert same(method.model.state_dict(), raising.model.state_dict())
    state = method.state_dict()
    del state["restores"]
    assert_same_state(state, raising.state_dict())
