"""Methods as torch optimizers.

Oracles: ``torch.optim.Adam`` under the same scheduler, for the rate of every step, and its weights, trained with
``backward()``, for those of ``adam`` and ``sgd``; the method's own ``step``, with the rate set by hand or made with
that rate; and a run without interruption, for one that was saved and restored.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import altmin_ext
from altmin_ext import MethodOptimizer, as_optimizer

from .methods.test_methods_common import (
    METHODS,
    assert_same_state,
    blobs,
    every_dtype,
    make,
    network,
    same,
    snapshot,
)

CASES = {name: (name, {}) for name in METHODS} | {"block-admm, stored": ("block-admm", {"duals": "stored"})}
every_case = pytest.mark.parametrize("case", CASES)
WITHOUT_RATE = {"rls", "slda", "ncm"}
every_case_with_rate = pytest.mark.parametrize("case", [case for case in CASES if case not in WITHOUT_RATE])
# Every other option that is a learning rate, at the value that METHODS gives it.
OTHER_RATES = {
    "am-mem": "lr_memory",
    "am-mem-off": "lr_memory",
    "dtp": "lr_inverse",
    "deepfacto": "lr_dictionary",
}

STEPS = 12
Scheduler = Callable[[torch.optim.Optimizer], Any]
SCHEDULERS: dict[str, Scheduler] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=STEPS, cycle_momentum=False),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 0.02, step_size_up=4, cycle_momentum=False),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS - 3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, factor=0.3),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda k: 1 / (1 + k)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.PolynomialLR(o, 6)],
        milestones=[5],
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, total_iters=3), lr_scheduler.ExponentialLR(o, 0.8)]
    ),
}
every_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS)

X, Y = blobs(size=24)


def made(case: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    name, own = CASES[case]
    return make(name, network(name, dtype), **own, **options)


def minibatch(method: Any, k: int = 0) -> tuple[Tensor, ...]:
    """The k-th of two minibatches, or all samples for a method that takes them all."""
    rows = slice(None) if method.full_batch else slice(k % 2, None, 2)
    x, y, index = X[rows].to(method.dtype), Y[rows], torch.arange(len(X))[rows]
    return (x, y, index) if method.per_sample else (x, y)


def train(optimizer: MethodOptimizer, scheduler: Any = None, steps: int = 3, first: int = 0) -> list[float]:
    """The rates of the steps."""
    rates = []
    for k in range(first, first + steps):
        samples = minibatch(optimizer.method, k)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step(lambda: samples)  # noqa: B023  (called at once)
        advance(scheduler, k)
    return rates


def advance(scheduler: Any, k: int) -> None:
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step([3.0, 2.0, 2.5, 2.5, 2.5, 1.0][k % 6])
    elif scheduler is not None:
        scheduler.step()


def rates_of_adam(scheduler: Scheduler, lr: float, steps: int) -> list[float]:
    """The rates at which torch's Adam takes its steps under the scheduler."""
    control = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduled, rates = scheduler(control), []
    for k in range(steps):
        rates.append(control.param_groups[0]["lr"])
        control.step()
        advance(scheduled, k)
    return rates


def assert_same_run(one: Any, other: Any) -> None:
    """Two methods, with their models."""
    assert same(snapshot(one.model), snapshot(other.model))
    assert_same_state(one.state_dict(), other.state_dict())


def rate(method: Any) -> float:
    """The option that lr stands for, as the documentation has it."""
    return float(getattr(method.options, "lr", getattr(method.options, "relaxation", 1.0)))


# ------------------------------------------------------------------------------------------- learning rates


@every_scheduler
@every_case_with_rate
def test_a_scheduled_run_is_the_method_s_own_with_adam_s_rates(case: str, scheduler: str) -> None:
    optimizer, by_hand = as_optimizer(made(case)), made(case)
    assert optimizer.param_groups[0]["lr"] == rate(by_hand)
    expected = rates_of_adam(SCHEDULERS[scheduler], rate(by_hand), STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that the scheduler had been stepped first
        assert train(optimizer, SCHEDULERS[scheduler](optimizer), STEPS) == expected
    for k, lr in enumerate(expected):
        by_hand.learning_rate_factor = lr / rate(by_hand)
        by_hand.step(*minibatch(by_hand, k))
    assert len(set(expected)) > 2
    assert_same_run(optimizer.method, by_hand)


@every_case_with_rate
def test_a_step_at_half_the_rate_is_that_of_a_method_made_with_half_the_rate(case: str) -> None:
    name = CASES[case][0]
    optimizer = as_optimizer(made(case, torch.float64))
    option = "lr" if hasattr(optimizer.method.options, "lr") else "relaxation"
    halved = {option: 0.5 * rate(optimizer.method)}
    if name in OTHER_RATES:
        halved[OTHER_RATES[name]] = 0.5 * getattr(optimizer.method.options, OTHER_RATES[name])
    half, whole = made(case, torch.float64, **halved), made(case, torch.float64)
    optimizer.param_groups[0]["lr"] *= 0.5
    train(optimizer)
    for k in range(3):
        half.step(*minibatch(half, k))
        whole.step(*minibatch(whole, k))
    assert same(snapshot(optimizer.method.model), snapshot(half.model))
    assert not same(snapshot(half.model), snapshot(whole.model))


@every_scheduler
@pytest.mark.parametrize("name", ["adam", "sgd"])
@every_dtype
def test_the_baselines_train_as_torch_s_optimizers(dtype: torch.dtype, name: str, scheduler: str) -> None:
    options = {"lr": 0.02} if name == "adam" else {"lr": 0.02, "momentum": 0.9}
    kind = torch.optim.Adam if name == "adam" else torch.optim.SGD
    model, control = network(name, dtype), network(name, dtype)
    optimizer = as_optimizer(altmin_ext.make_method(name, model, loss=nn.CrossEntropyLoss(), **options))
    train(optimizer, SCHEDULERS[scheduler](optimizer), STEPS)
    torch_s = kind(control.parameters(), **options, fused=True)
    scheduled = SCHEDULERS[scheduler](torch_s)
    for k in range(STEPS):
        x, y = minibatch(optimizer.method, k)
        torch_s.zero_grad()
        nn.functional.cross_entropy(control(x), y).backward()
        torch_s.step()
        advance(scheduled, k)
    if dtype == torch.float32:
        assert same(snapshot(model), snapshot(control))
    for one, other in zip(
        model.parameters(), control.parameters(), strict=True
    ):  # rates are rounded once more
        torch.testing.assert_close(one, other, rtol=0, atol=1e3 * torch.finfo(dtype).eps)


def test_an_untouched_rate_is_the_method_s_own_to_the_bit() -> None:
    # lr = 1e-3 * f would give back another factor for one f in ten.
    for k in range(1, 200):
        method = made("am-adam", lr=1e-3)
        method.learning_rate_factor = factor = 1 / math.sqrt(k)
        train(as_optimizer(method), steps=1)
        assert method.learning_rate_factor == factor


@pytest.mark.parametrize("name", sorted(WITHOUT_RATE))
def test_a_method_without_a_rate_refuses_a_schedule(name: str) -> None:
    optimizer, by_hand = as_optimizer(made(name)), made(name)
    assert optimizer.param_groups[0]["lr"] == 1.0
    train(optimizer, lr_scheduler.ConstantLR(optimizer, 1.0))
    for k in range(3):
        by_hand.step(*minibatch(by_hand, k))
    assert_same_run(optimizer.method, by_hand)
    lr_scheduler.StepLR(optimizer, 1, gamma=0.5).step()
    with pytest.raises(ValueError, match=rf"^lr must stay 1\.0 with {name}, .* but is 0\.5; remove"):
        train(optimizer, steps=1)
    assert_same_run(optimizer.method, by_hand)


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf, "fast", None, True, torch.tensor(0.1)], ids=repr)
def test_a_rate_that_is_none_is_refused(lr: Any) -> None:
    optimizer, untouched = as_optimizer(made("am-adam")), made("am-adam")
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises((TypeError, ValueError), match=r"^lr must be .*, but is .*\.$"):
        train(optimizer, steps=1)
    assert_same_run(optimizer.method, untouched)


def test_a_rate_of_zero_has_no_multiple() -> None:
    optimizer = as_optimizer(made("am-adam", lr=0.0))
    train(optimizer)
    optimizer.param_groups[0]["lr"] = 0.1
    with pytest.raises(ValueError, match=r"^lr must stay 0 where the method's lr is 0"):
        train(optimizer, steps=1)


@pytest.mark.parametrize("scheduler", [lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR], ids=["one", "cyclic"])
def test_torch_refuses_to_cycle_a_momentum(scheduler: Any) -> None:
    own = {"total_steps": 5} if scheduler is lr_scheduler.OneCycleLR else {"max_lr": 0.1}
    with pytest.raises(ValueError, match="momentum"):
        scheduler(as_optimizer(made("am-adam")), 0.01, **own)


# ---------------------------------------------------------------------------------------------------- steps


def test_a_step_reports_and_counts_as_the_method_s() -> None:
    optimizer, by_hand = as_optimizer(made("am-adam")), made("am-adam")
    assert optimizer.report is None
    x, y = minibatch(by_hand)
    report, expected = optimizer.step(lambda: [x, y]), by_hand.step(x, y)
    assert report is optimizer.report
    assert float(report.loss) == float(expected.loss)
    assert optimizer.method.steps == 1


def test_hooks_and_the_closure_are_called_once() -> None:
    optimizer, calls = as_optimizer(made("am-adam")), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> tuple[Tensor, ...]:
        calls.append("closure")
        return minibatch(optimizer.method)

    optimizer.step(closure)
    optimizer.step(closure=closure)
    assert calls == ["before", "closure", "after"] * 2


@pytest.mark.parametrize(
    ("case", "closure", "sentence"),
    [
        ("am-adam", None, r"closure must be a function that returns the minibatch, but is None; call .*\."),
        (
            "am-adam",
            lambda: None,
            r"closure must return the minibatch, \(x, y\), but returns a NoneType; .*\.",
        ),
        (
            "am-adam",
            lambda: X.sum(),
            r"closure must .* but returns a Tensor; .* automatic_optimization = False\.",
        ),
        ("am-adam", lambda: (X, Y, Y), r"closure must .*, \(x, y\), but returns a tuple of 3; .*\."),
        ("am-adam", lambda: (X[:, :2], Y), r"x .*\."),
        (
            "block-admm, stored",
            lambda: [X, Y],
            r"closure must .*, \(x, y, index\), but returns a list of 2; .*\.",
        ),
    ],
    ids=["none", "nothing", "loss", "three", "shape", "no index"],
)
def test_a_step_without_a_minibatch_is_refused(case: str, closure: Any, sentence: str) -> None:
    optimizer, untouched = as_optimizer(made(case)), made(case)
    optimizer.param_groups[0]["lr"] *= 0.5
    with pytest.raises((TypeError, ValueError), match=f"^{sentence}$"):
        optimizer.step(closure)
    assert_same_run(optimizer.method, untouched)
    assert optimizer.report is None


@every_case
def test_gradients_are_neither_read_nor_needed(case: str) -> None:
    optimizer, by_hand = as_optimizer(made(case)), made(case)
    parameters = optimizer.param_groups[0]["params"]
    assert parameters == [p for p in optimizer.method.model.parameters() if p.requires_grad]
    for k, to_none in enumerate([True, False, True]):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 7.0)
        nn.utils.clip_grad_norm_(parameters, 0.1)
        if k:
            optimizer.zero_grad(set_to_none=to_none)
        train(optimizer, steps=1, first=k)
        by_hand.step(*minibatch(by_hand, k))
    assert_same_run(optimizer.method, by_hand)


def test_a_scaler_of_losses_is_harmless_or_refused() -> None:
    optimizer, by_hand = as_optimizer(made("am-adam")), made("am-adam")
    samples = minibatch(by_hand)
    torch.amp.GradScaler("cpu", enabled=False).step(optimizer, lambda: samples)
    by_hand.step(*samples)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    with pytest.raises(AssertionError, match="No inf checks"):
        scaler.step(optimizer, lambda: samples)
    with torch.autocast("cpu"), pytest.raises(ValueError, match=r"outside torch\.autocast"):
        optimizer.step(lambda: samples)
    assert_same_run(optimizer.method, by_hand)


def test_no_group_can_be_added() -> None:
    optimizer = as_optimizer(made("am-adam"))
    with pytest.raises(ValueError, match=r"^param_groups must stay the one of .*\.$"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    assert len(optimizer.param_groups) == 1


def test_frozen_parameters_are_in_no_group() -> None:
    model = network("am-adam")
    frozen = next(model.parameters()).requires_grad_(False)
    optimizer = as_optimizer(make("am-adam", model))
    assert not any(parameter is frozen for parameter in optimizer.param_groups[0]["params"])


def test_only_a_method_becomes_an_optimizer() -> None:
    with pytest.raises(TypeError, match=r"^method must be a Method, .*, but is 'am-adam'\.$"):
        as_optimizer("am-adam")  # type: ignore[arg-type]


def test_processes_that_train_together_are_refused() -> None:
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    method = made("am-adam")
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=fake.FakeStore())
    try:
        with pytest.raises(
            ValueError, match=r"^as_optimizer must be called in a single process, but 2 .*\.$"
        ):
            as_optimizer(method)
    finally:
        torch.distributed.destroy_process_group()
    as_optimizer(method)


# ----------------------------------------------------------------------------------------------- checkpoints


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_case
def test_a_restored_run_goes_on_to_the_same_bits(case: str) -> None:
    scheduler = SCHEDULERS["ReduceLROnPlateau" if case in WITHOUT_RATE else "OneCycleLR"]
    patient = case in WITHOUT_RATE  # so that the rate stays
    optimizer = as_optimizer(made(case))
    scheduled = None if patient else scheduler(optimizer)
    train(optimizer, scheduled, 4)
    saved = through_a_file(
        [optimizer.method.model.state_dict(), optimizer.state_dict(), scheduled and scheduled.state_dict()]
    )
    undisturbed = train(optimizer, scheduled, 4, first=4)

    fresh = as_optimizer(made(case))
    other = None if patient else scheduler(fresh)
    fresh.method.model.load_state_dict(saved[0])
    if other is not None:
        other.load_state_dict(saved[2])
    fresh.load_state_dict(saved[1])
    assert train(fresh, other, 4, first=4) == undisturbed
    assert_same_run(fresh.method, optimizer.method)
    assert_same_state(fresh.state_dict(), optimizer.state_dict())


def test_the_state_is_in_torch_s_form() -> None:
    optimizer = as_optimizer(made("am-adam"))
    lr_scheduler.StepLR(optimizer, 1)
    control = torch.optim.Adam(network("am-adam").parameters(), lr=0.01)
    lr_scheduler.StepLR(control, 1)
    (own,), (torch_s,) = optimizer.state_dict()["param_groups"], control.state_dict()["param_groups"]
    assert own == {key: torch_s[key] for key in ("lr", "initial_lr", "params")}
    assert_same_state(optimizer.state_dict()["state"]["method"], optimizer.method.state_dict())
    assert not optimizer.state


def altered(state: dict[str, Any], path: Sequence[Any], value: Any) -> dict[str, Any]:
    state = copy.deepcopy(state)
    entry: Any = state
    for key in path[:-1]:
        entry = entry[key]
    if value is KeyError:
        del entry[path[-1]]
    else:
        entry[path[-1]] = value
    return state


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["state"], KeyError),
        (["param_groups"], KeyError),
        (["more"], 1),
        (["state"], {}),
        (["state"], {0: {"step": torch.ones(())}}),
        (["state"], 3),
        (["state", "method", "steps"], -1),
        (["state", "method", "method"], "am-sgd"),
        (["param_groups"], []),
        (["param_groups"], 3),
        (["param_groups", 0], None),
        (["param_groups", 0, "lr"], KeyError),
        (["param_groups", 0, "lr"], math.nan),
        (["param_groups", 0, "lr"], "fast"),
        (["param_groups", 0, "params"], KeyError),
        (["param_groups", 0, "params"], [0]),
    ],
    ids=lambda entry: ".".join(map(str, entry)) if isinstance(entry, list) else type(entry).__name__,
)
def test_a_state_is_loaded_whole_or_not_at_all(path: list[Any], value: Any) -> None:
    source = as_optimizer(made("am-adam"))
    train(source, SCHEDULERS["StepLR"](source), 4)
    optimizer, untouched = as_optimizer(made("am-adam")), made("am-adam")
    before = optimizer.state_dict()
    with pytest.raises((TypeError, ValueError), match=r"^[^\n]*\.$"):
        optimizer.load_state_dict(altered(source.state_dict(), path, value))
    assert_same_state(optimizer.state_dict(), before)
    assert_same_run(optimizer.method, untouched)


@pytest.mark.parametrize("wrong", [None, 3, torch.optim.SGD([torch.zeros(1)]).state_dict()], ids=type)
def test_another_state_is_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^state_dict.* must .*\.$"):
        as_optimizer(made("am-adam")).load_state_dict(wrong)


def test_hooks_of_states_see_and_change_them() -> None:
    optimizer, calls = as_optimizer(made("am-adam")), []
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "saved by": "hook"})
    optimizer.register_load_state_dict_pre_hook(
        lambda _, state: {key: state[key] for key in ("state", "param_groups")}
    )
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append(o.param_groups[0]["lr"]))
    state = optimizer.state_dict()
    assert state["saved by"] == "hook"
    state["param_groups"][0]["lr"] = 0.25
    optimizer.load_state_dict(state)
    assert calls == ["saving", 0.25]


def test_a_loaded_state_is_not_shared() -> None:
    optimizer = as_optimizer(made("am-adam"))
    state = optimizer.state_dict()
    state["param_groups"][0]["own"] = [1]
    optimizer.load_state_dict(state)
    state["param_groups"][0]["own"].append(2)
    state["param_groups"][0]["lr"] = 3.0
    assert optimizer.param_groups[0]["own"] == [1]
    assert optimizer.param_groups[0]["lr"] == rate(optimizer.method)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
    "to a process": lambda optimizer: pickle.loads(bytes(ForkingPickler.dumps(optimizer))),
}


@pytest.mark.parametrize("copied", COPIES)
@every_case
def test_a_copy_goes_on_to_the_same_bits_with_a_model_of_its_own(case: str, copied: str) -> None:
    optimizer = as_optimizer(made(case))
    if case not in WITHOUT_RATE:
        optimizer.param_groups[0]["lr"] *= 0.3
    train(optimizer)
    before = snapshot(optimizer.method.model)
    twin = COPIES[copied](optimizer)
    trained = [p for p in twin.method.model.parameters() if p.requires_grad]
    assert all(one is other for one, other in zip(twin.param_groups[0]["params"], trained, strict=True))
    assert twin.report is None
    rates = train(twin, first=3)
    assert same(snapshot(optimizer.method.model), before)
    assert train(optimizer, first=3) == rates
    assert_same_run(twin.method, optimizer.method)


def test_a_model_and_its_optimizer_are_copied_together() -> None:
    optimizer = as_optimizer(made("am-adam"))
    model, twin = copy.deepcopy((optimizer.method.model, optimizer))
    assert twin.method.model is model
    shallow = copy.copy(optimizer)
    assert shallow.method is optimizer.method
