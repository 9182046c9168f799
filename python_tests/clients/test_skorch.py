"""skorch's NeuralNet with a method as its optimizer.

Oracles: the same net with torch's Adam, for rates and events; the method's own steps on the same minibatches; and a
fit without interruption, for one that was saved and resumed. skorch does not save its schedulers but makes them anew,
counted in epochs, so that a resumed schedule is another one for Adam as well: there, Adam alone is the oracle.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import altmin_ext

from .task import BATCH, BATCHES, LR, METHODS, network, same, samples

pytest.importorskip("skorch")
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, Checkpoint, EpochScoring, LoadInitState, LRScheduler
from skorch.dataset import unpack_data
from skorch.utils import to_tensor

X, Y = (tensor.numpy() for tensor in samples().tensors)
SCHEDULES = {
    "StepLR": {"policy": lr_scheduler.StepLR, "step_size": 2, "gamma": 0.5},
    "StepLR by minibatch": {
        "policy": lr_scheduler.StepLR,
        "step_size": 7,
        "gamma": 0.5,
        "step_every": "batch",
    },
    "OneCycleLR": {
        "policy": lr_scheduler.OneCycleLR,
        "max_lr": 0.05,
        "total_steps": 6 * BATCHES,
        "cycle_momentum": False,
        "step_every": "batch",
    },
    "ReduceLROnPlateau": {
        "policy": lr_scheduler.ReduceLROnPlateau,
        "monitor": lambda net: 1.0,
        "patience": 1,
    },
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


class Trained(NeuralNetClassifier):
    """Trained by one of our methods, as docs/optimizer.md shows; ``optimizer`` is its name."""

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        _, options = self.get_params_for_optimizer("optimizer", self.module_.named_parameters())
        method = altmin_ext.make_method(self.optimizer, self.module_, **options)
        self.optimizer_ = altmin_ext.as_optimizer(method)
        return self

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        minibatch = to_tensor(unpack_data(batch), self.device)
        report = self.optimizer_.step(lambda: minibatch)
        return {"loss": report.loss, "y_pred": None}


class Rates(Callback):
    """The rate of every step."""

    def initialize(self) -> Any:
        self.rates: list[float] = []
        return self

    def on_batch_begin(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        if training:
            self.rates.append(net.optimizer_.param_groups[0]["lr"])


def net(optimizer: Any, *callbacks: Any, epochs: int = 6, **options: Any) -> Any:
    """Trained by our method of that name, or by an optimizer of torch."""
    kind = Trained if isinstance(optimizer, str) else NeuralNetClassifier
    fixed = {"criterion": nn.CrossEntropyLoss, "batch_size": BATCH, "train_split": None, "verbose": 0}
    return kind(
        network(),
        optimizer=optimizer,
        lr=LR,
        max_epochs=epochs,
        callbacks=list(callbacks),
        **{**fixed, **options},
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_is_the_method_s_own_steps(method: str) -> None:
    fitted = net(method).fit(X, Y)
    by_hand = altmin_ext.make_method(method, network(), lr=LR)
    x, y = samples().tensors
    losses = []
    for _ in range(6):
        reports = [by_hand.step(*pair) for pair in zip(x.split(BATCH), y.split(BATCH), strict=True)]
        losses.append(sum(float(report.loss) for report in reports) / BATCHES)
    assert same(dict(fitted.module_.state_dict()), dict(by_hand.model.state_dict()))
    assert fitted.history[:, "train_loss"] == pytest.approx(losses)
    assert fitted.predict_proba(X).shape == (len(X), 3)


@every_schedule
def test_the_scheduler_sets_adam_s_rates(schedule: str) -> None:
    seen = {}
    for optimizer in ("am-adam", torch.optim.Adam):
        rates = Rates()
        fitted = net(optimizer, LRScheduler(**SCHEDULES[schedule]), rates).fit(X, Y)
        by_epoch = SCHEDULES[schedule].get("step_every") != "batch"
        events = fitted.history[:, "event_lr"] if by_epoch else fitted.history[:, "batches", :, "event_lr"]
        seen[optimizer] = (rates.rates, events)
    assert len(set(seen["am-adam"][0])) > 1
    assert seen["am-adam"] == seen[torch.optim.Adam]


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_fit_goes_on_to_the_same_bits(method: str, tmp_path: Path) -> None:
    undisturbed = net(method).fit(X, Y)
    saving = Checkpoint(monitor=None, dirname=tmp_path)
    net(method, saving, epochs=4).fit(X, Y)
    resumed = net(method, LoadInitState(Checkpoint(monitor=None, dirname=tmp_path)), epochs=2).fit(X, Y)
    assert resumed.history[:, "train_loss"] == undisturbed.history[:, "train_loss"]
    assert same(dict(resumed.module_.state_dict()), dict(undisturbed.module_.state_dict()))
    assert same(resumed.optimizer_.state_dict(), undisturbed.optimizer_.state_dict())


@every_schedule
@pytest.mark.parametrize("loads_first", [True, False])
@pytest.mark.parametrize("epochs", [3, 4])
def test_a_resumed_schedule_is_what_it_is_for_adam(
    epochs: int, loads_first: bool, schedule: str, tmp_path: Path
) -> None:
    seen = {}
    for optimizer in ("am-adam", torch.optim.Adam):
        folder, rates = tmp_path / str(optimizer), Rates()
        saving = Checkpoint(monitor=None, dirname=folder)
        net(optimizer, LRScheduler(**SCHEDULES[schedule]), saving, epochs=epochs).fit(X, Y)
        loading = LoadInitState(Checkpoint(monitor=None, dirname=folder))
        scheduling = LRScheduler(**SCHEDULES[schedule])
        order = [loading, scheduling] if loads_first else [scheduling, loading]
        net(optimizer, *order, rates, epochs=6 - epochs).fit(X, Y)
        seen[optimizer] = rates.rates
    assert len(seen["am-adam"]) == (6 - epochs) * BATCHES
    assert seen["am-adam"] == seen[torch.optim.Adam]


def test_parameters_are_saved_loaded_and_set(tmp_path: Path) -> None:
    files = {"f_params": tmp_path / "weights.pt", "f_optimizer": tmp_path / "optimizer.pt"}
    fitted = net("am-adam", epochs=2).fit(X, Y)
    fitted.save_params(**files)
    other = net("am-adam", epochs=2).initialize()
    other.load_params(**files)
    assert same(other.optimizer_.state_dict(), fitted.optimizer_.state_dict())
    for each in (fitted, other, copied := pickle.loads(pickle.dumps(fitted))):
        each.set_params(lr=0.5 * LR)
        assert each.optimizer_.param_groups[0]["lr"] == 0.5 * LR
        each.partial_fit(X, Y)
    for each in (other, copied):
        assert same(dict(each.module_.state_dict()), dict(fitted.module_.state_dict()))


def test_a_grid_of_methods_and_rates_is_searched() -> None:
    grid = {"optimizer": ["am-adam", "am-sgd"], "lr": [1e-6, LR], "optimizer__weight_decay": [0.0, 0.01]}
    search = GridSearchCV(net("am-adam"), grid, cv=2, refit=True, scoring="accuracy", error_score="raise")
    search.fit(X, Y)
    assert search.best_params_["lr"] == LR
    assert search.best_score_ > 0.9


def test_scores_of_training_data_come_from_a_forward_pass_of_their_own() -> None:
    score = EpochScoring("accuracy", on_train=True, use_caching=False, lower_is_better=False)
    fitted = net("am-adam", score).fit(X, Y)
    assert fitted.history[-1, "accuracy"] == (fitted.predict(X) == Y).mean()
