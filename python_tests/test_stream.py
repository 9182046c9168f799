"""Method.learn. Oracle: a step on each minibatch, one after the other, to the bit.

A second method for a copy of the model, without plans, makes these steps. Reports, weights, state and exceptions must
be the same. For an interrupt, which comes at no certain step, the oracle makes as many steps as ``steps`` says.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import _stream, models
from altmin_ext.methods import Method, method_class

from .methods.test_methods_common import METHODS, assert_sentence, blobs, every_dtype, make
from .methods.test_methods_common import network as network_for
from .side_by_side import SideBySide, assert_same, everything, minibatches, network, ordinary, seeded

OF_MINIBATCHES = [name for name in METHODS if not method_class(name).full_batch]
NAMES = ("am-adam", "am-sgd")
every_name = pytest.mark.parametrize("name", NAMES)
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "several updates": {"code_iterations": 2, "weight_iterations": 2},
    "a rising penalty": {"mu_increment": 0.01, "mu_max": 0.55},
    "a penalty above its bound": {"mu_max": 0.1},
    "a penalty beyond its bound": {"mu_increment": 0.3, "mu_max": 0.1},
    "objectives": {"report_objective": True},
    "a fixed step": {"lr_codes": 0.2},
    "may overflow": {"lr": 1e35, "on_nonfinite": "skip"},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
every_loss = pytest.mark.parametrize("loss", ["cross_entropy", "mse"])


def stream(samples: int, **how: Any) -> tuple[Tensor, Tensor]:
    (batch,) = minibatches(samples, **how)
    return batch


@every_name
@every_option
@every_loss
@pytest.mark.parametrize("size", [1, 3, 100])
def test_learn_is_a_step_on_each_minibatch(name: str, options: dict[str, Any], loss: str, size: int) -> None:
    """The last one may be smaller, or the only one; then once more, by plans from the first on."""
    pair = SideBySide(name, seeded(network), loss=loss, **options)
    for seed in (1, 2):
        report = pair.learn(*stream(50, loss=loss, seed=seed), size)
        steps = -(-50 // size)
        assert report.loss.shape == (steps,)
        assert (report.correct is None) == (loss == "mse")
        assert (report.objective is not None) == ("report_objective" in options)
    assert pair.planned.steps == 2 * steps


@pytest.mark.parametrize("name", OF_MINIBATCHES)
@every_dtype
def test_every_method_of_minibatches(name: str, dtype: torch.dtype) -> None:
    x, y = blobs(dtype)
    found = []
    for learns in (True, False):
        method = make(name, network_for(name, dtype))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            if learns:
                report = method.learn(x, y, 5)
                found.append([report.loss, report.correct, everything(method)])
            else:
                ordinary(method)
                reports = [method.step(x[i : i + 5], y[i : i + 5]) for i in range(0, len(x), 5)]
                losses = torch.stack([r.loss for r in reports])
                correct = None if reports[0].correct is None else torch.stack([r.correct for r in reports])
                found.append([losses, correct, everything(method)])
    assert_same(*found)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in OF_MINIBATCHES])
def test_methods_of_all_samples_at_once_are_refused(name: str) -> None:
    method = make(name, network_for(name))
    before = everything(method)
    with pytest.raises(ValueError, match=f"^learn must be .* minibatches, but {name} .*call step") as error:
        method.learn(*blobs())
    assert_sentence(error)
    assert_same(everything(method), before)


def test_methods_with_variables_for_every_sample_are_refused() -> None:
    method = make("block-admm", network_for("block-admm"), duals="stored")
    with pytest.raises(ValueError, match=r"^learn must be .* minibatches, but block-admm"):
        method.learn(*blobs())
    assert method.steps == 0


@pytest.mark.parametrize("size", [0, -1, 1.5, "1", None, True], ids=repr)
def test_a_size_that_is_no_positive_integer_is_refused(size: Any) -> None:
    method = altmin_ext.make_method("am-adam", seeded(network))
    with pytest.raises((TypeError, ValueError), match=r"^batch_size must be") as error:
        method.learn(*stream(5), size)
    assert_sentence(error)
    assert method.steps == 0


@pytest.mark.parametrize("what", ["no samples", "wide", "labels", "dtype", "changed"])
def test_a_stream_that_does_not_fit_is_refused_at_once(what: str) -> None:
    pair = SideBySide("am-adam", seeded(network))
    x, y = stream(20)
    pair.learn(x, y)
    given: Any = {
        "no samples": (x[:0], y[:0]), "wide": (torch.cat([x, x], 1), y), "labels": (x, y[:-1]),
        "dtype": (x.double(), y), "changed": (x, y),
    }[what]  # fmt: skip
    if what == "changed":
        for method in pair.methods:
            method.model[0].weight.requires_grad_(False)
    outcome = pair.each(lambda method: method.learn(*given))
    assert isinstance(outcome, TypeError | ValueError)
    assert pair.planned.steps == 20


@pytest.mark.parametrize(
    "form", ["strided", "of inference mode", "with a gradient", "int32", "between two numbers"]
)
def test_forms_of_the_stream(form: str) -> None:
    """Taken as a minibatch of such a form is."""
    pair = SideBySide("am-adam", seeded(network))
    x, y = stream(30)
    given_x, given_y = x, y
    if form == "strided":
        given_x = torch.stack([x, x], -1)[..., 0]
    elif form == "of inference mode":
        with torch.inference_mode():
            given_x = x.clone()
    elif form == "with a gradient":
        given_x = x.clone().requires_grad_()
    elif form == "between two numbers":
        memory = torch.zeros(x.nbytes + 2, dtype=torch.uint8)
        given_x = torch.frombuffer(memory.numpy(), dtype=x.dtype, offset=2).view(x.shape).copy_(x)
    else:
        given_y = y.int()
    outcome = pair.each(lambda method: method.learn(given_x, given_y))
    if form == "between two numbers":
        assert isinstance(outcome, ValueError)
    else:
        assert not outcome.loss.requires_grad
        assert pair.planned.steps == 30


# --- failures within ---


@pytest.mark.parametrize("k", [0, 1, 2, 3, 17, 49])
@pytest.mark.parametrize("what", ["label", "NaN", "both"])
@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("dropout", [False, True])
def test_a_sample_that_no_step_can_take(k: int, what: str, policy: str, size: int, dropout: bool) -> None:
    """The steps before it have been taken; with ``skip``, those after a NaN, too."""
    between = (nn.ReLU(), nn.Dropout(0.3)) if dropout else (nn.ReLU(),)
    pair = SideBySide("am-adam", seeded(lambda: network(*between)), on_nonfinite=policy)
    x, y = stream(50)
    if what != "NaN":
        y[k] = 7
    if what != "label":
        x[k, 2] = torch.nan
    outcome = pair.learn(x, y, size)
    raises = policy == "raise" or what != "NaN"
    assert pair.planned.steps == (k // size if raises else -(-50 // size))
    assert isinstance(outcome, Exception) == raises
    if what == "label":
        assert isinstance(outcome, ValueError)
        assert f"y[{k % size}] is 7" in str(outcome)
    if raises and what == "NaN":
        assert isinstance(outcome, altmin_ext.DivergenceError)
        assert f"at step {k // size + 1}" in str(outcome)
    pair.learn(*stream(50, seed=2), size)


@pytest.mark.parametrize("k", [0, 1, 5, 6])
def test_a_native_call_that_fails_midway_counts_what_it_has_done(k: int) -> None:
    """As if memory had been short in the (k + 1)-th of eight steps: the next call, by itself, says why."""
    pair = SideBySide("am-adam", seeded(network))
    x, y = stream(20)
    pair.learn(x[:3], y[:3])
    plan = pair.planned._latest_plan
    assert plan is not None
    run = plan._plan.run

    def short(x: Tensor, y: Tensor, first: int, batches: int, *rest: Any) -> Any:
        if first + batches > k and first == k:
            raise MemoryError
        return run(x, y, first, min(batches, k - first), *rest)[0], plan._plan.native.refused

    with mock.patch.object(plan._plan, "run", short), pytest.raises(MemoryError):
        pair.planned.learn(x[3:], y[3:])
    for i in range(k):
        pair.by_steps.step(x[3 + i : 4 + i], y[3 + i : 4 + i])
    pair.compare()
    pair.learn(x, y)


@pytest.mark.parametrize("k", [0, 1, 4])
@pytest.mark.parametrize("what", ["label", "NaN", "memory"])
def test_a_native_call_that_ends_early_leaves_no_flag(k: int, what: str) -> None:
    """So that any other step may follow: the steps before have been taken, and nothing of the next one is left."""
    pair = SideBySide("am-adam", seeded(network))
    x, y = stream(9)
    pair.learn(x, y)
    method, native = pair.planned, pair.planned._latest_plan._plan.native
    if what == "label":
        y[k] = 7
    else:
        x[k, 2] = torch.nan
    losses, correct = x.new_empty(9), torch.empty(9, dtype=torch.int64)

    def failing(*arguments: Any) -> Any:
        native.run(*arguments)
        raise MemoryError

    planned = method.planned_for(x[:1], y[:1])
    if what == "memory":
        run = mock.patch.object(planned._plan, "run", failing)
        with run, pytest.raises(MemoryError):
            method.repeat(planned, x[k:], y[k:], 0, 5, losses, correct)
        k = 0
    else:
        assert method.repeat(planned, x, y, 0, 9, losses, correct) == k
    for i in range(k):
        pair.by_steps.step(x[i : i + 1], y[i : i + 1])
    found, expected = ({**everything(method), "last": None} for method in pair.methods)
    assert_same(found, expected)


# --- interrupts ---


@pytest.fixture
def default_handler():
    """That of a program which has set none, which a test in the background may not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def assert_ended_after_a_step(method: Method, x: Tensor, y: Tensor, size: int) -> None:
    """The model is that of exactly ``method.steps`` steps."""
    alone = ordinary(altmin_ext.make_method(method.name, seeded(network)))
    for i in range(method.steps):
        alone.step(x[i * size : (i + 1) * size], y[i * size : (i + 1) * size])
    assert_same(everything(method), everything(alone))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("number", [0, 3, 9])
@pytest.mark.parametrize("how", [os.kill, signal.pthread_kill], ids=["process", "thread"])
def test_an_interrupt_ends_it_between_two_steps(
    default_handler: None, size: int, number: int, how: Any
) -> None:
    """Another thread sends it while a native call is under way, or just after."""
    method = altmin_ext.make_method("am-adam", seeded(network))
    x, y = stream(60_000)
    whom = os.getpid() if how is os.kill else threading.main_thread().ident
    repeat, calls, now, sent = method.repeat, iter(range(10**6)), threading.Event(), threading.Event()

    def interrupted(*arguments: Any) -> int:
        if next(calls) != number:
            return repeat(*arguments)
        now.set()
        made = repeat(*arguments)
        assert sent.wait(60)
        return made

    def interrupt() -> None:
        now.wait(60)
        how(whom, signal.SIGINT)
        sent.set()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with mock.patch.object(method, "repeat", interrupted), pytest.raises(KeyboardInterrupt):
        method.learn(x, y, size)
    thread.join()
    assert next(calls) == number + 1
    assert 0 < method.steps < len(x) // size
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_ended_after_a_step(method, x, y, size)
    method.learn(x[:50], y[:50], size)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
@pytest.mark.parametrize("phase", ["_prepare", "_finish", "_raise_versions"])
def test_an_interrupt_at_each_phase(default_handler: None, at: int, phase: str) -> None:
    """Of the first steps and of a repeated one; what is under way is completed first."""
    method = altmin_ext.make_method("am-adam", seeded(network))
    x, y = stream(200)
    real, calls = getattr(method, phase), iter(range(99))

    def interrupted(*arguments: Any) -> Any:
        if next(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    with mock.patch.object(method, phase, interrupted), pytest.raises(KeyboardInterrupt):
        method.learn(x, y)
    assert 0 < method.steps < 200
    assert_ended_after_a_step(method, x, y, 1)


def test_an_interrupt_does_not_wait_for_a_long_stream(default_handler: None) -> None:
    """No native call is longer than the time that is allowed for it, once its steps have been timed."""
    method = altmin_ext.make_method("am-adam", seeded(network))
    x, y = stream(30_000)
    calls: list[int] = []
    repeat = method.repeat

    def counted(planned: Any, x: Tensor, y: Tensor, first: int, most: int, *rest: Any) -> int:
        calls.append(most)
        return repeat(planned, x, y, first, most, *rest)

    def clock() -> float:  # by which a step takes a tenth of a millisecond
        return sum(calls) * 1e-4

    with (
        mock.patch.object(method, "repeat", counted),
        mock.patch.object(_stream.time, "perf_counter", clock),
    ):
        method.learn(x, y)
    longest = _stream._longest_call / 1e-4
    assert max(calls) <= longest
    assert max(calls) > longest / 4
    assert sum(calls) == 30_000 - 2


def test_learn_in_another_thread_leaves_signals_alone(default_handler: None) -> None:
    method = altmin_ext.make_method("am-adam", seeded(network))
    x, y = stream(50)
    thread = threading.Thread(target=method.learn, args=(x, y))
    thread.start()
    thread.join()
    assert method.steps == 50
    assert_ended_after_a_step(method, x, y, 1)


# --- what is around ---


def test_most_steps_are_repeated_natively() -> None:
    method = altmin_ext.make_method("am-adam", seeded(network))
    x, y = stream(500)
    with mock.patch.object(method, "step", wraps=method.step) as step:
        method.learn(x, y)
        assert step.call_count == 2
        method.learn(x, y)
        assert step.call_count == 2
    assert method.steps == 1000


def test_learn_by_a_network_that_is_not_one_native_call() -> None:
    pair = SideBySide("am-adam", seeded(lambda: models.lenet5(1, 28, 10)))
    pair.learn(*stream(12, shape=(1, 28, 28), classes=10), 3)


def test_learn_after_steps_and_steps_after_learn() -> None:
    pair = SideBySide("am-adam", seeded(network))
    for size in (1, 4):
        pair.run(minibatches(size, size, size))
        for method in pair.methods:
            method.learning_rate_factor *= 0.5
            method.model.eval()
        pair.learn(*stream(33), size)
        pair.run(minibatches(size, 7, size))
    assert pair.planned.model.training


def test_learn_with_the_reference_ops() -> None:
    pair = SideBySide("am-adam", seeded(network))
    x, y = stream(20)
    pair.learn(x, y)

    def in_reference(call: Any) -> Any:
        def called(method: Method) -> Any:
            with altmin_ext.ops.backend("reference"):
                return call(method)

        return called

    pair.each(
        in_reference(lambda method: method.learn(x, y).loss),
        in_reference(
            lambda method: torch.stack([method.step(x[i : i + 1], y[i : i + 1]).loss for i in range(20)])
        ),
    )
    pair.learn(x, y)


def test_a_stream_is_read_and_never_written() -> None:
    method = altmin_ext.make_method("am-adam", seeded(network))
    x, y = stream(30)
    before = x.clone(), y.clone()
    method.learn(x, y)
    assert_same((x, y), before)
    assert x._version == y._version == 0
