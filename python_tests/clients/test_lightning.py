"""Lightning's trainer with a method as its optimizer.

Oracles: the same LightningModule with torch's Adam and automatic optimisation, for steps, epochs and rates; the
method's own steps on the same minibatches; and a run without interruption, for one that was saved and resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

import altmin_ext

from .task import BATCH, BATCHES, LR, METHODS, ShuffledByEpoch, minibatches, network, same, samples

lightning = pytest.importorskip("lightning")
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers.logger import DummyLogger  # noqa: E402
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
]

SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=40, cycle_momentum=False),
}


class Control(lightning.LightningModule):
    """Trained by torch's Adam."""

    def __init__(self, scheduler: str = "StepLR", interval: str = "step") -> None:
        super().__init__()
        self.model, self.scheduler, self.interval = network(), scheduler, interval

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=LR)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer()
        scheduler = SCHEDULERS[self.scheduler](optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.interval, "name": "lr"},
        }

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return torch.nn.functional.cross_entropy(self.model(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("validation_loss", torch.nn.functional.cross_entropy(self.model(x), y))


class Trained(Control):
    """Trained by one of our methods, as docs/optimizer.md shows."""

    def __init__(self, method: str, scheduler: str = "StepLR", interval: str = "step") -> None:
        super().__init__(scheduler, interval)
        self.automatic_optimization = False
        self.method = method

    def optimizer(self) -> torch.optim.Optimizer:
        method = altmin_ext.make_method(self.method, self.model, lr=LR)
        return altmin_ext.as_optimizer(method)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        report = self.optimizers().step(closure=lambda: batch)
        if self.interval == "step":
            self.lr_schedulers().step()
        self.log("loss", report.loss)
        return report.loss

    def on_train_epoch_end(self) -> None:
        if self.interval == "epoch":
            self.lr_schedulers().step()


class Rates(DummyLogger):
    """The rates that a LearningRateMonitor logs, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.logged += [(step, value) for name, value in metrics.items() if name == "lr"]


def trainer(folder: Path, **options: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, **{"logger": False, **quiet, **options}
    )


def loader() -> DataLoader[Any]:
    return DataLoader(samples(), batch_size=BATCH, sampler=ShuffledByEpoch())


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_is_the_method_s_own_steps(method: str, tmp_path: Path) -> None:
    module = Trained(method)
    trainer(tmp_path, max_epochs=3).fit(module, loader())
    by_hand = altmin_ext.make_method(method, network(), lr=LR)
    for k, (x, y) in enumerate(minibatches(3)):
        lr = LR * 0.3 ** (k // 3)
        by_hand.learning_rate_factor = lr / LR
        by_hand.step(x, y)
    for one, other in zip(module.model.parameters(), by_hand.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)  # 0.3 ** k is rounded in another way
    assert module.optimizers().method.steps == by_hand.steps == 3 * BATCHES


@pytest.mark.parametrize(
    "limits",
    [{"max_epochs": 2}, {"max_steps": 7}, {"max_steps": 10}, {"max_steps": 3, "max_epochs": 2}],
    ids=str,
)
def test_steps_are_counted_and_bounded_as_adam_s(limits: dict[str, int], tmp_path: Path) -> None:
    runs = {}
    for module in (Control(), Trained("am-adam")):
        fitted = trainer(tmp_path, **limits)
        fitted.fit(module, loader())
        runs[type(module)] = (fitted.global_step, fitted.current_epoch)
    assert runs[Trained] == runs[Control]
    expected = limits.get("max_steps", 2 * BATCHES)
    assert runs[Trained][0] == expected == module.optimizers().method.steps


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_the_monitor_logs_adam_s_rates(interval: str, scheduler: str, tmp_path: Path) -> None:
    logged = {}
    for module in (Control(scheduler, interval), Trained("am-adam", scheduler, interval)):
        rates = Rates()
        options = {"logger": rates, "log_every_n_steps": 1, "callbacks": [LearningRateMonitor()]}
        trainer(tmp_path, max_epochs=4, **options).fit(module, loader())
        logged[type(module)] = rates.logged
    assert len({rate for _, rate in logged[Control]}) > 1
    assert logged[Trained] == logged[Control]


class Stateful(DataLoader[Any]):
    """A loader that goes on where it stood, by the protocol of torchdata that Lightning looks for."""

    taken = resumed = 0

    def __iter__(self) -> Iterator[Any]:
        first, self.resumed = self.resumed, 0
        for self.taken, batch in enumerate(super().__iter__(), 1):
            if self.taken > first:
                yield batch
        self.taken = 0

    def state_dict(self) -> dict[str, int]:
        return {
            "taken": self.taken % len(self)
        }  # Lightning begins the next epoch with the state of an epoch's end

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.resumed = state["taken"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("steps", [BATCHES, BATCHES + 2], ids=["at an epoch's end", "within an epoch"])
def test_a_resumed_fit_goes_on_to_the_same_bits(
    steps: int, scheduler: str, method: str, tmp_path: Path
) -> None:
    def stateful() -> Stateful:
        return Stateful(samples(), batch_size=BATCH, sampler=ShuffledByEpoch())

    undisturbed = Trained(method, scheduler)
    trainer(tmp_path, max_epochs=3).fit(undisturbed, stateful())

    saving = ModelCheckpoint(tmp_path, filename="run", every_n_train_steps=steps, save_top_k=-1)
    options = {"callbacks": [saving], "enable_checkpointing": True}
    trainer(tmp_path, max_steps=steps, **options).fit(Trained(method, scheduler), stateful())

    class Counted(Callback):
        first: int | None = None

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            self.first = trainer.global_step if self.first is None else self.first

    resumed, counted = Trained(method, scheduler), Counted()
    fitted = trainer(tmp_path, max_epochs=3, callbacks=[counted])
    fitted.fit(resumed, stateful(), ckpt_path=saving.best_model_path, weights_only=True)
    assert counted.first == steps
    assert fitted.global_step == 3 * BATCHES
    assert same(dict(resumed.model.state_dict()), dict(undisturbed.model.state_dict()))
    assert same(resumed.optimizers().state_dict(), undisturbed.optimizers().state_dict())


def test_another_method_s_checkpoint_is_refused(tmp_path: Path) -> None:
    saved = trainer(tmp_path, max_epochs=1)
    saved.fit(Trained("am-adam"), loader())
    saved.save_checkpoint(tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match=r"^state must be of method 'am-sgd', but is of 'am-adam'\.$"):
        trainer(tmp_path, max_epochs=2).fit(Trained("am-sgd"), loader(), ckpt_path=tmp_path / "run.ckpt")


def test_automatic_optimisation_is_refused(tmp_path: Path) -> None:
    class Automatic(Trained):
        def __init__(self) -> None:
            super().__init__("am-adam")
            self.automatic_optimization = True

        training_step = Control.training_step

    with pytest.raises(TypeError, match=r"returns a Tensor; .* automatic_optimization = False\.$"):
        trainer(tmp_path, max_epochs=1).fit(Automatic(), loader())


@pytest.mark.parametrize("option", [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 1.0}], ids=str)
def test_lightning_itself_refuses_what_concerns_gradients(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="manual optimization"):
        trainer(tmp_path, max_epochs=1, **option).fit(Trained("am-adam"), loader())


def test_mixed_precision_is_refused_and_double_taken(tmp_path: Path) -> None:
    module = Trained("am-adam")
    trainer(tmp_path, max_epochs=1, precision="64-true").fit(module, loader())
    assert all(parameter.dtype == torch.float64 for parameter in module.parameters())
    with pytest.raises(ValueError, match=r"^step must be called outside torch\.autocast"):
        trainer(tmp_path, max_epochs=1, precision="bf16-mixed").fit(Trained("am-adam"), loader())


def test_validation_in_between_changes_nothing(tmp_path: Path) -> None:
    def fitted(**options: Any) -> dict[str, Tensor]:
        module = Trained("am-adam")
        trainer(tmp_path, max_epochs=2, **options).fit(module, loader(), loader())
        return dict(module.model.state_dict())

    assert same(fitted(limit_val_batches=0), fitted(val_check_interval=2))


def test_fabric_takes_the_same_steps_and_keeps_the_state(tmp_path: Path) -> None:
    fabric = lightning.Fabric(accelerator="cpu", devices=1)

    def made() -> tuple[Any, Any]:
        model = network()
        return fabric.setup(model, altmin_ext.as_optimizer(altmin_ext.make_method("am-adam", model, lr=LR)))

    (model, optimizer), by_hand = made(), altmin_ext.make_method("am-adam", network(), lr=LR)
    for batch in minibatches(1):
        report, expected = take(optimizer, batch), by_hand.step(*batch)
        assert float(report.loss) == float(expected.loss)
    fabric.save(tmp_path / "run.ckpt", {"model": model, "optimizer": optimizer})
    other = made()
    fabric.load(tmp_path / "run.ckpt", dict(zip(("model", "optimizer"), other, strict=True)))
    for wrapped, optimizer_of in ((model, optimizer), other):
        assert same(dict(wrapped.state_dict()), dict(by_hand.model.state_dict()))
        assert same(optimizer_of.method.state_dict(), by_hand.state_dict())


def take(optimizer: Any, batch: Any) -> Any:
    return optimizer.step(lambda: batch)
