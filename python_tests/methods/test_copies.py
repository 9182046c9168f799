"""Copies of methods: pickled, saved, copied, sent to another process.

The oracle is a method that was never copied: the copy goes on to its bits, step by step, on a model of its own. Views
are aliased if the copy's guard still stops a step that is not finite, and if the copy's own model is the one that
moves.
"""

from __future__ import annotations

import concurrent.futures
import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext.callbacks import TrainingState

from .test_methods_common import METHODS, assert_same_state, make, network, same, snapshot

FEATURES, CLASSES = 6, 3
STEPS = 10


@dataclass(frozen=True)
class Case:
    """A method with a network that it takes."""

    name: str
    build: Callable[[], nn.Module] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (FEATURES,)

    def method(self, dtype: torch.dtype = torch.float32) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = network(self.name) if self.build is None else self.build()
        return make(self.name, model.to(dtype), **self.options)

    def batch(self, method: Any, number: int = 0, size: int = 12) -> tuple[Any, ...]:
        """A minibatch, the same one if the method takes a whole training set in every step.

        Where the method keeps something for every sample, it is of one training set, and comes with an index.
        """
        fixed = method.full_batch or method.per_sample
        generator = torch.Generator().manual_seed(0 if fixed else number)
        samples = 2 * size if method.per_sample else size
        x = torch.randn(samples, *self.shape, generator=generator, dtype=torch.float64).to(method.dtype)
        y = torch.randint(CLASSES, (samples,), generator=generator)
        if not method.per_sample:
            return x, y
        index = torch.randperm(samples, generator=torch.Generator().manual_seed(number))[:size]
        return x[index], y[index], index


def dense(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 8), *between, nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, CLASSES))


def convolutions() -> nn.Sequential:
    below = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.Tanh()
    return nn.Sequential(*below, nn.Dropout(0.2), nn.Flatten(), nn.Linear(16, CLASSES))


def factors() -> nn.Sequential:
    return altmin_ext.models.deepfacto(
        nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.2)), 8, 5, nn.Linear(5, CLASSES)
    )


CASES = {name: Case(name) for name in METHODS}
for _name in ("sgd", "adam", "ste", "am-sgd", "am-adam", "am-adam-off", "block-admm"):
    CASES[f"{_name}, normalised and dropped"] = Case(
        _name, lambda: dense(nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
    )
    CASES[f"{_name}, convolutions"] = Case(_name, convolutions, shape=(1, 8, 8))
for _name in ("am-sgd", "am-adam", "am-adam-off", "sgd"):
    CASES[f"{_name}, Elman"] = Case(
        _name, lambda: altmin_ext.models.elman_rnn(2, 5, 7, CLASSES), shape=(7, 2)
    )
CASES |= {
    "sgd, no momentum": Case("sgd", options={"momentum": 0.0}),
    "am-adam, iterations": Case(
        "am-adam", options={"code_iterations": 3, "weight_iterations": 2, "code_momentum": 0.9, "mu_increment": 0.1}
    ),
    "am-adam, modules": Case("am-adam", lambda: dense(nn.LayerNorm(8), nn.SiLU()), {"on_nonfinite": "raise"}),
    "am-adam, criterion": Case("am-adam", options={"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}),
    "am-mem, memory": Case("am-mem", options={"targets": "memory", "lr_memory": 1.0, "prior": 0.5}),
    "am-mem, momentum": Case(
        "am-mem", options={"lr_memory_of": "outputs", "weight_momentum": 0.5, "exact": True, "memory_every": 3}
    ),
    "block-admm, stored": Case("block-admm", options={"duals": "stored", "workers": 2}),
    "deepfacto, normalised": Case("deepfacto", factors),
    "admm, random": Case("admm", options={"initialisation": "random"}),
    "dtp, dropped": Case("dtp", lambda: dense(nn.Tanh(), nn.Dropout(0.3))),
}  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES)


def through_pickle(method: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(method, protocol))


def through_a_file(method: Any) -> Any:
    file = io.BytesIO()
    torch.save(method, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {p}": partial(through_pickle, protocol=p) for p in range(pickle.HIGHEST_PROTOCOL + 1)},
    "torch.save": through_a_file,
    "deepcopy": copy.deepcopy,
}


def losses(method: Any, case: Case, first: int, steps: int) -> list[float]:
    """Of steps that draw the same masks for every method."""
    found = []
    with torch.random.fork_rng():
        for number in range(first, first + steps):
            torch.manual_seed(number)
            found.append(float(method.step(*case.batch(method, number)).loss))
    return found


def assert_goes_on_alike(copied: Any, method: Any, case: Case, first: int, steps: int = STEPS) -> None:
    """And by itself: neither moves with the other."""
    assert copied.model is not method.model
    before, state = snapshot(method.model), method.state_dict()
    own = losses(copied, case, first, steps)
    assert same(method.model.state_dict(), before)
    assert_same_state(method.state_dict(), state)
    assert not same(copied.model.state_dict(), before)
    assert own == losses(method, case, first, steps)
    assert same(copied.model.state_dict(), method.model.state_dict())
    assert_same_state(copied.state_dict(), method.state_dict())


@every_case
@pytest.mark.parametrize("way", ["pickle 5", "deepcopy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_copy_goes_on_to_the_same_bits(case: str, way: str, dtype: torch.dtype) -> None:
    method = CASES[case].method(dtype)
    losses(method, CASES[case], 0, 3)
    method.end_epoch()
    copied = WAYS[way](method)
    assert_goes_on_alike(copied, method, CASES[case], 3)
    for key, value in copied.model.state_dict().items():
        assert value.data_ptr() != method.model.state_dict()[key].data_ptr()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("steps", [0, 2])
def test_every_way_of_copying(name: str, way: str, steps: int) -> None:
    method = CASES[name].method()
    losses(method, CASES[name], 0, steps)
    method.learning_rate_factor = 0.5
    copied = WAYS[way](WAYS[way](method))
    assert type(copied) is type(method)
    assert (copied.options, copied.seed, copied.steps) == (method.options, method.seed, method.steps)
    assert (copied.on_nonfinite, copied.loss.name) == (method.on_nonfinite, method.loss.name)
    assert_goes_on_alike(copied, method, CASES[name], steps, 3)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("way", ["pickle 5", "torch.save", "deepcopy"])
@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_the_guard_of_a_copy_is_alive(name: str, way: str, on_nonfinite: str) -> None:
    case = Case(name, options={"on_nonfinite": on_nonfinite})
    method = case.method()
    losses(method, case, 0, 2)
    copied = WAYS[way](method)
    before, state = snapshot(copied.model), copied.state_dict()
    x, *rest = case.batch(copied, 2)
    x[1, 2] = torch.nan
    if on_nonfinite == "skip":
        copied.step(x, *rest)
    else:
        with pytest.raises(altmin_ext.DivergenceError):
            copied.step(x, *rest)
    assert same(copied.model.state_dict(), before)
    if on_nonfinite == "raise" and name not in ("mdlam", "dladmm"):  # which begin their codes anew
        assert_same_state(copied.state_dict(), state)
        assert_goes_on_alike(copied, method, case, 2, 2)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("way", ["pickle 5", "torch.save", "deepcopy"])
def test_a_method_and_its_model_stay_together(name: str, way: str) -> None:
    """Also within a callback's state, beside the history."""
    case = CASES[name]
    method = case.method()
    losses(method, case, 0, 1)
    state = TrainingState(method, altmin_ext.History(), 1, ("loss",))
    other = WAYS[way]({"model": method.model, "method": method, "state": state, "again": [method]})
    assert other["method"].model is other["model"]
    assert other["state"].method is other["again"][0] is other["method"]
    before = snapshot(other["model"])
    losses(other["method"], case, 1, 1)
    assert not same(other["model"].state_dict(), before)


@pytest.mark.parametrize("name", METHODS)
def test_a_shallow_copy_is_a_second_method_for_the_model(name: str) -> None:
    """Its state is its own: what the one has learnt of the past, the other does not forget."""
    case = CASES[name]
    method, reference = case.method(), case.method()
    for each in (method, reference):
        losses(each, case, 0, 2)
    second, state = copy.copy(method), method.state_dict()
    assert second.model is method.model
    assert losses(second, case, 2, 3) == losses(reference, case, 2, 3)
    assert_same_state(method.state_dict(), state)
    assert_same_state(second.state_dict(), reference.state_dict())


def test_what_a_model_cannot_tell_is_copied_too() -> None:
    """A prior that an empty first minibatch has used up, though the memory is still empty."""
    model = nn.Sequential(nn.Linear(FEATURES, 5, bias=False), nn.ReLU(), nn.Linear(5, CLASSES))
    method = altmin_ext.make_method("am-mem", model, prior=0.5, damping=0.1)
    case = Case("am-mem")
    method.step(torch.zeros(12, FEATURES), case.batch(method)[1])
    assert_goes_on_alike(copy.deepcopy(method), method, case, 0, 3)


@pytest.mark.parametrize("name", METHODS)
def test_a_model_that_has_changed_is_not_copied(name: str) -> None:
    """What the method keeps was made for the model as it was; the sentence is that of a step."""
    method = CASES[name].method()
    losses(method, CASES[name], 0, 1)
    next(method.model.parameters()).requires_grad_(False)
    for way in WAYS.values():
        with pytest.raises(ValueError, match=r"^model must be .* make a new method"):
            way(method)


def test_copies_of_a_method_draw_their_own_threads() -> None:
    method = CASES["block-admm, stored"].method()
    copied = pickle.loads(pickle.dumps(method))
    assert copied._map.__self__ is not method._map.__self__


def gone_on(method: Any, case: str) -> tuple[list[float], dict[str, Tensor]]:
    torch.set_num_threads(1)
    found = losses(method, CASES[case], 2, 3)
    return found, {key: value.clone() for key, value in method.model.state_dict().items()}


def gone_on_there(method: Any, model: nn.Module, case: str) -> bytes:
    assert method.model is model
    return pickle.dumps(gone_on(method, case))


@pytest.mark.long
def test_another_process_goes_on_to_the_same_bits() -> None:
    """On a model of its own: torch's way of sending a module to a process would have it train the sender's."""
    methods = {name: CASES[name].method() for name in METHODS}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        for name, method in methods.items():
            losses(method, CASES[name], 0, 2)
            before = snapshot(method.model)
            there = pickle.loads(pool.submit(gone_on_there, method, method.model, name).result())
            assert same(method.model.state_dict(), before)
            here = gone_on(method, name)
            assert there[0] == here[0]
            assert same(there[1], here[1])
