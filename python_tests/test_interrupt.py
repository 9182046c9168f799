"""Signals within a step. Oracle: what has happened when the step ends; the default meaning of signals afterwards.

And within train: the same run, ended regularly at that place.
"""

import errno
import io
import signal
import sys
import threading

import pytest
import torch

import altmin_ext
from altmin_ext._interrupt import HeldInterrupt, Terminated, terminations_raised
from altmin_ext._plan import Plan

signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def default_handlers():
    """The handlers of a program that has set none, which a test in the background may not have."""
    defaults = {signal.SIGINT: signal.default_int_handler}
    previous = {number: signal.signal(number, defaults.get(number, signal.SIG_DFL)) for number in signals}
    before = {number: signal.getsignal(number) for number in signals}
    yield
    assert {number: signal.getsignal(number) for number in signals} == before
    for number, handler in previous.items():
        signal.signal(number, handler)


def send(*numbers):
    for number in numbers:
        signal.raise_signal(number)


@pytest.mark.parametrize("number", signals)
def test_a_step_is_completed_first(number):
    def steps():
        with terminations_raised(), HeldInterrupt() as interrupt:
            interrupt.held = True
            send(number)
            done.append("step")
            interrupt.release()
            done.append("next step")

    done = []
    with pytest.raises(KeyboardInterrupt) as ended:
        steps()
    assert done == ["step"]
    assert getattr(ended.value, "signal", signal.SIGINT) == number


@pytest.mark.parametrize("number", signals)
def test_between_steps_nothing_is_held_back(number):
    def steps():
        with terminations_raised(), HeldInterrupt():
            send(number)
            done.append("next step")

    done = []
    with pytest.raises(KeyboardInterrupt):
        steps()
    assert done == []


def test_a_second_interrupt_is_not_held_back():
    def step():
        with HeldInterrupt(held=True):
            send(signal.SIGINT)
            done.append("half a step")
            send(signal.SIGINT)
            done.append("step")

    done = []
    with pytest.raises(KeyboardInterrupt):
        step()
    assert done == ["half a step"]


def test_a_second_termination_is_the_same_one():
    """The end of a terminal is told by the system and by the shell; kill and its group may both tell."""

    def run():
        with terminations_raised():
            try:
                with HeldInterrupt(held=True):
                    send(signal.SIGHUP, signal.SIGHUP, signal.SIGTERM)
                    done.append("step")
            finally:
                send(signal.SIGTERM, signal.SIGHUP)
                done.append("what was trained is written")

    done = []
    with pytest.raises(Terminated, match="SIGHUP") as ended:
        run()
    assert ended.value.signal == signal.SIGHUP
    assert done == ["step", "what was trained is written"]


def test_an_interrupt_that_nobody_released_is_raised_at_the_end():
    """The step failed after Ctrl-C: both are told."""

    def step():
        with HeldInterrupt(held=True):
            send(signal.SIGINT)
            raise ValueError("the step failed")

    with pytest.raises(KeyboardInterrupt) as ended:
        step()
    assert str(ended.value.__context__) == "the step failed"


def test_an_ignored_signal_stays_ignored():
    """nohup ignores SIGHUP, a shell ignores SIGINT for what it runs in the background."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)
    with terminations_raised(), HeldInterrupt() as interrupt:
        send(*signals)
        interrupt.held = True
        send(*signals)
        interrupt.release()
    for number in signals:
        assert signal.getsignal(number) is signal.SIG_IGN
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def test_without_the_command_line_a_termination_is_the_program_s_business():
    caught = []
    signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    with HeldInterrupt(held=True):
        send(signal.SIGTERM)
        assert caught == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_other_threads_leave_signals_alone():
    def work():
        with terminations_raised(), HeldInterrupt(held=True) as interrupt:
            found.extend(map(signal.getsignal, signals))
            interrupt.release()

    found = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]


# ------------------------------------------------------------------------------------------------------------ train


class Interrupts:
    """A callback that is hit by Ctrl-C at one of its calls, and keeps the history."""

    def __init__(self, call, number):
        self._call, self._number = call, number

    def _count(self, call, number, state):
        self.history = state.history
        if (call, number) == (self._call, self._number):
            send(signal.SIGINT)

    def on_start(self, state):
        self._count("start", 0, state)

    def on_step(self, state):
        self._count("step", state.step, state)

    def on_epoch(self, state):
        self._count("epoch", state.epoch, state)

    def on_end(self, state):
        self._count("end", 0, state)
        self.ended = True


def run(**arguments):
    """Train on ten samples, five minibatches an epoch; returns the model and the history, if it ends regularly."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(10, 4, generator=generator), torch.arange(10) % 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = altmin_ext.models.mlp(4, [5], 3)
    arguments = {"epochs": 3, "batch_size": 2, "shuffle": False, "progress": False, **arguments}
    try:
        return model, altmin_ext.train(model, (x, y), **arguments)
    except KeyboardInterrupt:
        return model, None


@pytest.mark.parametrize(
    ("call", "number", "steps", "epochs"),
    [("start", 0, 0, 0), ("step", 1, 1, 1), ("step", 7, 7, 2), ("epoch", 1, 5, 1), ("end", 0, 15, 3)],
)
@pytest.mark.parametrize("method", ["am-adam", "sgd", "dtp"])
def test_the_history_up_to_an_interrupt_is_that_of_a_shorter_run(call, number, steps, epochs, method):
    callback = Interrupts(call, number)
    model, returned = run(method=method, callbacks=[callback])
    assert returned is None
    history = callback.history
    assert (history.steps, len(history.step_loss), len(history.epochs)) == (steps, steps, epochs)
    if steps:
        shorter, expected = run(method=method, steps=steps)
        assert torch.equal(history.step_loss, expected.step_loss)
        assert [row["loss"] for row in history.epochs] == [row["loss"] for row in expected.epochs]
        for weight, other in zip(model.parameters(), shorter.parameters(), strict=True):
            assert torch.equal(weight, other)
    assert "History(" in repr(history)


@pytest.mark.parametrize("steps", [1, 2, 4], ids=["ordinary", "recorded", "replayed"])
def test_the_minibatch_during_which_ctrl_c_is_pressed_counts(steps, monkeypatch):
    callback = Interrupts("never", 0)
    begun = []

    def interrupted(run):
        def run_on(self, *arguments):
            begun.append(run)
            if len(begun) == steps:
                send(signal.SIGINT)
            return run(self, *arguments)

        return run_on

    method = altmin_ext.methods.method_class("am-adam")
    monkeypatch.setattr(method, "_compute", interrupted(method._compute))
    monkeypatch.setattr(Plan, "run", interrupted(Plan.run))
    model, returned = run(callbacks=[callback])
    monkeypatch.undo()
    assert returned is None
    assert (begun[-1] is Plan.run) == (steps == 4)
    shorter, expected = run(steps=steps)
    assert torch.equal(callback.history.step_loss, expected.step_loss)
    for weight, other in zip(model.parameters(), shorter.parameters(), strict=True):
        assert torch.equal(weight, other)


def test_an_interrupt_during_validation_keeps_the_epoch_and_the_modes():
    model_modes = []

    class Validation(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            if index == 3 and callback.history.epochs:
                send(signal.SIGINT)
            return torch.zeros(4), torch.tensor(0)

    class Modes(Interrupts):
        def on_step(self, state):
            super().on_step(state)
            model_modes.append([module.training for module in state.model.modules()])

    callback = Modes("never", 0)
    model, returned = run(callbacks=[callback], validation=Validation())
    assert returned is None
    (row,) = callback.history.epochs
    assert (row["epoch"], row["validation_loss"]) == (1, None)
    assert [module.training for module in model.modules()] == model_modes[0]


def test_the_best_weights_are_put_back_as_a_whole():
    """Ctrl-C comes between two weights."""

    class EarlyStopping(altmin_ext.callbacks.EarlyStopping):
        def on_end(self, state):
            send(signal.SIGINT)
            super().on_end(state)

    stopping = EarlyStopping("loss", patience=1)
    stopping._improves = lambda value: stopping.best is None  # no epoch after the first
    model, returned = run(callbacks=[stopping])
    assert returned is None
    first, _ = run(epochs=1)
    for weight, other in zip(model.parameters(), first.parameters(), strict=True):
        assert torch.equal(weight, other)


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("stream", [None, Broken()], ids=["none", "broken"])
def test_a_progress_bar_that_nobody_can_see_does_not_end_the_run(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    _, history = run(progress=True)
    assert history.steps == 15


def test_a_progress_bar_is_shown_on_standard_error(capsys):
    run(progress=True)
    out, error = capsys.readouterr()
    assert out == ""
    assert "epoch 3/3: 100%" in error
    assert "15/15" in error
