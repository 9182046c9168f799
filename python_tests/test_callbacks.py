"""Callbacks, early stopping, best models, loggers. Oracle: runs whose weights and losses are known beforehand."""

import math
import sys

import pytest
import torch
from torch import nn

from altmin_ext import Method, StepReport, checkpoint, train
from altmin_ext.callbacks import (
    Checkpoint,
    EarlyStopping,
    Logger,
    MLflowLogger,
    OptunaPruning,
    TensorBoardLogger,
    WandbLogger,
)
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


def test_a_first_loss_that_is_not_a_number_is_bettered_by_any():
    class Recovers:
        def on_step(self, state):
            with torch.no_grad():
                state.model.weight.fill_(math.nan if state.epoch == 1 else state.epoch)

    stopping = EarlyStopping("validation_loss", patience=3)
    method, _ = run([Recovers(), stopping], epochs=4, validation=target(3))
    assert (stopping.best_epoch, stopping.best) == (3, 0.0)
    assert method.weight == 3


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


@pytest.mark.parametrize("monitor", ["accuracy", "validation_accuracy"])
def test_an_accuracy_that_a_stream_turns_out_not_to_have_is_told_in_a_sentence(monitor):
    """Of probabilities as targets; that they are these is seen with the first minibatch."""
    stream = [(torch.ones(2, 3), torch.full((2, 2), 0.5))]
    with pytest.raises(ValueError, match=f"monitor must be one of loss, .*, but is '{monitor}'"):
        train(
            nn.Linear(3, 2), stream, method="adam", loss=nn.CrossEntropyLoss(), validation=stream, epochs=2,
            callbacks=[EarlyStopping(monitor)], progress=False,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------- on_close


class Closed:
    """Notes how it is closed; ``raises`` is what it raises then."""

    def __init__(self, raises=None):
        self.errors = []
        self.raises = raises

    def on_close(self, state, error):
        self.errors.append(error)
        if self.raises is not None:
            raise self.raises


class Breaks:
    def __init__(self, hook, error):
        setattr(self, hook, self._raise)
        self.error = error

    def _raise(self, *_):
        raise self.error


def test_close_is_the_last_call_of_a_complete_run():
    log, closed = Log(), Closed()
    log.on_close = lambda state, error: log.calls.append(("close", state.epoch, error))
    run([log, closed], epochs=1)
    assert log.calls[-2:] == [("end", 1, 1, 1), ("close", 1, None)]
    assert closed.errors == [None]


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("hook", ["on_start", "on_step", "on_epoch", "on_end"])
def test_close_is_called_with_the_exception_that_ends_the_run(hook, error):
    before, after = Closed(), Closed()
    with pytest.raises(type(error)) as raised:
        run([before, Breaks(hook, error), after])
    assert raised.value is error
    assert before.errors == after.errors == [error]


def test_all_are_closed_even_if_one_raises():
    own = RuntimeError("mine")
    first, second = Closed(own), Closed()
    with pytest.raises(RuntimeError, match="mine"):
        run([first, second])
    assert second.errors == [None]

    cause = ValueError("the cause")
    with (
        pytest.raises(ValueError, match="the cause"),
        pytest.warns(UserWarning, match="a callback was not closed: RuntimeError: mine"),
    ):
        run([first, second, Breaks("on_step", cause)])
    assert second.errors == [None, cause]


def test_the_checkpoint_is_written_before_anything_is_closed(tmp_path):
    path = tmp_path / "run.safetensors"
    steps = []

    class Reads:
        def on_close(self, state, error):
            steps.append(checkpoint.inspect(path).run["step"])

    class BreaksLate:
        def on_step(self, state):
            if state.step == 3:
                raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        run([Reads(), BreaksLate()], checkpoint=path)
    assert steps == [3]


# ------------------------------------------------------------------------------------------------- Checkpoint


def test_the_best_model_is_in_the_file(tmp_path):
    path = tmp_path / "best.safetensors"
    keeping = Checkpoint(path, "validation_loss")
    method, _ = run([keeping], epochs=5, validation=target(3))
    assert method.weight == 5
    assert (keeping.best_epoch, keeping.best) == (3, 0.0)
    again = Counting()
    found = checkpoint.load(path, method=again)
    assert again.weight == 3
    assert found.extra == {"epoch": 3, "validation_loss": 0.0}
    assert [row["validation_loss"] for row in found.history.epochs] == [4, 1, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


def test_former_best_models_stay_beside_it(tmp_path):
    run(
        [Checkpoint(tmp_path / "best.safetensors", "validation_loss", keep=1)], epochs=5, validation=target(3)
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best-2.safetensors", "best.safetensors"]
    assert checkpoint.load(tmp_path / "best-2.safetensors").model["weight"].item() == 2


def test_the_mode_says_what_is_best(tmp_path):
    """With the largest loss as the best, the first epoch's stays."""
    keeping = Checkpoint(tmp_path / "worst.safetensors", "validation_loss", mode="max")
    run([keeping], epochs=5, validation=target(3))
    assert (keeping.best_epoch, keeping.best) == (1, 4.0)


def test_a_resumed_run_keeps_the_best_model_of_the_whole(tmp_path):
    """The run breaks in epoch 5, after the best one; the losses of epochs 4 to 6 are 1, 4 and 9."""
    path, own = tmp_path / "best.safetensors", tmp_path / "run.safetensors"

    class Break:
        def on_step(self, state):
            if state.step == 5:
                raise RuntimeError("mine")

    arguments = {"validation": target(3), "checkpoint": own, "epochs": 6}
    with pytest.raises(RuntimeError, match="mine"):
        run([Checkpoint(path, "validation_loss"), Break()], **arguments)
    keeping = Checkpoint(path, "validation_loss")
    method, _ = run([keeping], resume=True, **arguments)
    assert method.weight == 6
    assert (keeping.best_epoch, keeping.best) == (3, 0.0)
    assert checkpoint.load(path).model["weight"].item() == 3


def test_a_best_model_that_could_not_be_written_is_written_by_the_resumed_run(tmp_path, monkeypatch):
    """That of the first epoch, which is the best."""
    path, own = tmp_path / "best.safetensors", tmp_path / "run.safetensors"
    arguments = {"validation": target(1), "checkpoint": own, "epochs": 4}

    def fail(*_, **__):
        raise OSError("the disk is full")

    with monkeypatch.context() as context:
        context.setattr(checkpoint, "save", fail)
        with pytest.raises(OSError, match="the disk is full"):
            run([Checkpoint(path, "validation_loss")], **arguments)
    assert not path.exists()
    run([Checkpoint(path, "validation_loss")], resume=True, **arguments)
    assert checkpoint.load(path).extra["epoch"] == 1


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"path": 3}, TypeError, "path must be the path of a file, but is an int"),
        ({"path": "a", "keep": -1}, ValueError, "keep must be at least 0, but is -1"),
        ({"path": "a", "monitor": "acuracy"}, ValueError, "unknown monitor 'acuracy': did you mean"),
    ],
)
def test_bad_arguments_of_a_checkpoint(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        Checkpoint(**arguments)


def test_a_file_that_cannot_be_written_is_found_before_training(tmp_path):
    method = Counting()
    with pytest.raises(OSError, match="must be a file, but is a folder"):
        train(
            method.model,
            (ones, ones),
            method=method,
            callbacks=[Checkpoint(tmp_path, "loss")],
            progress=False,
        )
    assert method.steps == 0


# ------------------------------------------------------------------------------------------------- loggers


class Recorder(Logger):
    """Keeps what it is told."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.told, self.closed = [], []

    def log(self, numbers, step):
        self.told.append((step, dict(numbers)))

    def close(self, error):
        self.closed.append(error)


def test_a_logger_is_told_every_number_of_the_history():
    recorder = Recorder()
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    data = (torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)
    history = train(
        model, data, epochs=2, batch_size=4, validation=data, metrics={"half": lambda logits, y: 0.5},
        report_objective=True, callbacks=[recorder], progress=False,
    )  # fmt: skip
    assert [step for step, _ in recorder.told] == [2, 4]
    for (_, told), row in zip(recorder.told, history.epochs, strict=True):
        by_stage = {
            f"{name}.{stage}": value
            for name in ("objective", "displacement")
            for stage, value in enumerate(row[name])
        }
        assert by_stage.keys() == {"objective.0", "objective.1", "displacement.0"}
        single = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        assert told == single | by_stage
        assert told["validation_half"] == 0.5
    assert recorder.closed == [None]


def test_a_logger_is_told_the_loss_of_every_so_many_minibatches():
    recorder = Recorder(every=2)
    _, history = run([recorder], epochs=5)
    told = {step: numbers["step_loss"] for step, numbers in recorder.told if "step_loss" in numbers}
    assert told == {2: history.step_loss[1].item(), 4: history.step_loss[3].item()}


def test_the_settings_describe_the_run():
    settings = []

    class Reads:
        def on_start(self, state):
            settings.append(state.settings)

    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    data = (torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)
    train(
        model, data, method="am-adam", lr=0.02, batch_size=4, seed=7, epochs=2, lr_schedule="cosine",
        callbacks=[Reads()], progress=False,
    )  # fmt: skip
    expected = {
        "method": "am-adam", "loss": "cross_entropy", "epochs": 2, "seed": 7, "batch_size": 4, "shuffle": True,
        "lr_schedule": "cosine", "lr": 0.02, "mu": 0.5,
    }  # fmt: skip
    assert {name: settings[0][name] for name in expected} == expected

    # An option that is an object, of which a logger cannot make anything.
    def rectified(code, step):
        return code.relu()

    train(model, data, method="block-admm", proximal=rectified, callbacks=[Reads()], progress=False)
    assert "rectified" in settings[1]["proximal"]
    plain = (type(None), bool, int, float, str)
    assert all(type(value) in plain for own in settings for value in own.values())


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [
        (TensorBoardLogger, "tensorboard", "tensorboard"),
        (MLflowLogger, "mlflow", "mlflow"),
        (WandbLogger, "wandb", "wandb"),
        (lambda: OptunaPruning(None), "optuna", "tune"),
    ],
    ids=["tensorboard", "mlflow", "wandb", "optuna"],
)
def test_a_missing_package_is_named(kind, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'{module} is not installed; .* "altmin_ext\[{extra}\]"'):
        kind()
