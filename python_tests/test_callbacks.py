"""Callbacks and early stopping. Oracle: runs whose weights and validation losses are known beforehand."""

import math

import pytest
import torch
from torch import nn

from altmin_ext import Method, StepReport, train
from altmin_ext.callbacks import EarlyStopping
from altmin_ext.methods import MethodOptions


class Counting(Method):
    """Adds 1 to the only weight of a linear model in every step."""

    name = "counting"

    def __init__(self):
        super().__init__(nn.Linear(1, 1, bias=False), MethodOptions(), loss="mse")
        with torch.no_grad():
            self.model.weight.zero_()

    def _compute(self, x, y):
        self.model.weight += 1
        return StepReport(x.new_tensor(0.0), None)

    @property
    def weight(self):
        return self.model.weight.item()


ones = torch.ones(1, 1)


def target(value):
    """Validation data whose loss at weight w is (w - value)^2."""
    return ones, ones * value


def run(callbacks, epochs=10, validation=None, **arguments):
    method = Counting()
    history = train(
        method.model,
        (ones.repeat(4, 1), ones.repeat(4, 1)),
        method=method,
        batch_size=4,
        epochs=epochs,
        validation=validation,
        callbacks=callbacks,
        progress=False,
        **arguments,
    )
    return method, history


class Log:
    def __init__(self, stop_at=None):
        self.calls = []
        self.stop_at = stop_at

    def _note(self, hook, state):
        self.calls.append((hook, state.epoch, state.step, len(state.history.epochs)))
        if self.calls[-1] == self.stop_at:
            state.stop()

    def on_start(self, state):
        self._note("start", state)

    def on_step(self, state):
        assert isinstance(state.report, StepReport)
        assert state.model is state.method.model
        self._note("step", state)

    def on_epoch(self, state):
        self._note("epoch", state)

    def on_end(self, state):
        self._note("end", state)


def test_hooks_are_called_in_order():
    log = Log()
    run([log], epochs=2)
    assert log.calls == [
        ("start", 0, 0, 0),
        ("step", 1, 1, 0),
        ("epoch", 1, 1, 1),
        ("step", 2, 2, 1),
        ("epoch", 2, 2, 2),
        ("end", 2, 2, 2),
    ]


def test_a_callback_may_have_a_single_hook():
    class OnlySteps:
        steps = 0

        def on_step(self, state):
            self.steps += 1

    callback = OnlySteps()
    run([callback], epochs=3)
    assert callback.steps == 3


@pytest.mark.parametrize("stop_at", [("step", 2, 2, 1), ("epoch", 2, 2, 2)])
def test_stop_ends_the_run_and_records_the_epoch(stop_at):
    log = Log(stop_at)
    method, history = run([log])
    assert method.weight == 2
    assert [row["epoch"] for row in history.epochs] == [1, 2]
    assert log.calls[-1] == ("end", 2, 2, 2)


def test_an_exception_ends_the_run_without_on_end():
    class Breaks(Log):
        def on_epoch(self, state):
            raise RuntimeError("mine")

    log = Breaks()
    with pytest.raises(RuntimeError, match="mine"):
        run([log])
    assert [hook for hook, *_ in log.calls] == ["start", "step"]


# The loss after epoch e is (e - 3)^2: best in epoch 3.


def test_early_stopping_waits_for_patience_and_restores_the_best_weights():
    stopping = EarlyStopping("validation_loss", patience=2)
    method, history = run([stopping], validation=target(3))
    assert len(history.epochs) == 5
    assert (stopping.best_epoch, stopping.best) == (3, 0.0)
    assert method.weight == 3


def test_early_stopping_may_keep_the_last_weights():
    method, _ = run([EarlyStopping("validation_loss", 2, restore_best=False)], validation=target(3))
    assert method.weight == 5


def test_best_weights_come_back_even_if_patience_never_ran_out():
    method, history = run([EarlyStopping("validation_loss", patience=9)], epochs=4, validation=target(3))
    assert len(history.epochs) == 4
    assert method.weight == 3


def test_small_gains_are_no_improvement():
    """The losses are 4, 1, 0, 1: from 1 to 0 is not more than 1.0."""
    stopping = EarlyStopping("validation_loss", patience=2, minimum_improvement=1.0)
    method, history = run([stopping], validation=target(3))
    assert stopping.best_epoch == 2
    assert len(history.epochs) == 4
    assert method.weight == 2


def test_losses_that_are_not_finite_are_no_improvement():
    stopping = EarlyStopping("validation_loss", patience=3)
    method = Counting()

    class Poison:
        def on_step(self, state):
            if state.epoch > 1:
                with torch.no_grad():
                    state.model.weight.fill_(math.nan)

    data = (ones, ones)
    history = train(
        method.model,
        data,
        method=method,
        epochs=9,
        validation=target(3),
        callbacks=[Poison(), stopping],
        progress=False,
    )
    assert len(history.epochs) == 4
    assert method.weight == 1


def test_accuracy_is_to_rise():
    """An untrained model's accuracy does not change: the first epoch stays the best."""
    model = nn.Linear(2, 3)
    stopping = EarlyStopping("accuracy", patience=2)
    data = (torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)
    history = train(model, data, method="sgd", lr=0.0, epochs=9, callbacks=[stopping], progress=False)
    assert stopping.best_epoch == 1
    assert len(history.epochs) == 3


def test_the_same_object_serves_a_second_run():
    stopping = EarlyStopping("validation_loss", patience=2)
    run([stopping], validation=target(3))
    method, history = run([stopping], validation=target(6))
    assert stopping.best_epoch == 6
    assert method.weight == 6
    assert len(history.epochs) == 8


def test_buffers_are_restored_as_well():
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    kept = {}

    class Keep:
        def on_epoch(self, state):
            if state.epoch == 1:
                kept.update({k: v.clone() for k, v in state.model.state_dict().items()})

    # With lr 0 the training loss repeats itself, while the running statistics move on.
    x = torch.randn(8, 1, generator=torch.Generator().manual_seed(0))
    train(
        model,
        (x, x),
        method="sgd",
        loss="mse",
        lr=0.0,
        epochs=5,
        shuffle=False,
        callbacks=[Keep(), EarlyStopping("loss", patience=2)],
        progress=False,
    )
    assert kept["1.num_batches_tracked"] == 1
    assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"monitor": "val_loss"}, ValueError, "unknown monitor 'val_loss': did you mean"),
        ({"patience": 0}, ValueError, "patience must be at least 1, but is 0"),
        ({"patience": 1.5}, TypeError, "patience must be an integer, but is 1.5"),
        ({"minimum_improvement": -1}, ValueError, "minimum_improvement must be at least 0"),
    ],
)
def test_bad_arguments(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        EarlyStopping(**arguments)


def test_monitor_that_the_run_does_not_record_is_found_before_training():
    method = Counting()
    with pytest.raises(ValueError, match="monitor must be one of loss in this run, but is 'validation_loss'"):
        train(method.model, (ones, ones), method=method, callbacks=[EarlyStopping("validation_loss")])
    assert method.steps == 0
