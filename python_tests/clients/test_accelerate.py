"""accelerate's wrappers around a method as an optimizer.

Oracles: the same loop with torch's Adam, for the rates; the method's own steps on the same minibatches; and a run
without interruption, for one that was saved and restored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

import altmin_ext

from .task import BATCH, BATCHES, LR, METHODS, network, same, samples

pytest.importorskip("accelerate")
from accelerate import Accelerator
from accelerate.state import AcceleratorState

SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=4 * BATCHES, cycle_momentum=False),
}
every_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS)


class Run:
    """A run as docs/optimizer.md shows; ``method`` is the name of one of ours, or None for torch's Adam."""

    def __init__(self, method: str | None, scheduler: str, **options: Any) -> None:
        self.accelerator = Accelerator(cpu=True, **options)
        model = network()
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=LR)
        if method is not None:
            made = altmin_ext.make_method(method, model, lr=LR, device=self.accelerator.device)
            optimizer = altmin_ext.as_optimizer(made)
        loader = DataLoader(samples(), batch_size=BATCH, shuffle=True)
        self.model, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            model, optimizer, loader, SCHEDULERS[scheduler](optimizer)
        )
        self.rates: list[float] = []

    def epoch(self, number: int) -> None:
        torch.manual_seed(number)  # of the order
        for batch in self.loader:
            self.rates.append(self.optimizer.param_groups[0]["lr"])
            self.step(batch)
            self.scheduler.step()

    def step(self, batch: Any) -> None:
        if isinstance(self.optimizer.optimizer, altmin_ext.MethodOptimizer):
            self.optimizer.step(lambda: batch)
            return
        x, y = batch
        self.accelerator.backward(torch.nn.functional.cross_entropy(self.model(x), y))
        self.optimizer.step()
        self.optimizer.zero_grad()


@every_scheduler
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_the_method_s_own_steps_at_adam_s_rates(method: str, scheduler: str) -> None:
    control, run = Run(None, scheduler), Run(method, scheduler)
    by_hand = altmin_ext.make_method(method, network(), lr=LR)
    for epoch in range(4):
        control.epoch(epoch)
        run.epoch(epoch)
        torch.manual_seed(epoch)
        rates = iter(control.rates[epoch * BATCHES :])
        for x, y in control.loader:
            by_hand.learning_rate_factor = next(rates) / LR
            by_hand.step(x, y)
    assert run.rates == control.rates
    assert len(set(run.rates)) > 1
    assert same(dict(run.model.state_dict()), dict(by_hand.model.state_dict()))
    assert float(run.optimizer.optimizer.report.loss) > 0  # which the wrapper's step does not return


@every_scheduler
@pytest.mark.parametrize("method", METHODS)
def test_a_restored_run_goes_on_to_the_same_bits(method: str, scheduler: str, tmp_path: Path) -> None:
    undisturbed = Run(method, scheduler)
    for epoch in range(4):
        if epoch == 2:
            undisturbed.accelerator.save_state(str(tmp_path / "state"))
        undisturbed.epoch(epoch)
    restored = Run(method, scheduler)
    restored.accelerator.load_state(str(tmp_path / "state"))
    for epoch in (2, 3):
        restored.epoch(epoch)
    assert restored.rates == undisturbed.rates[2 * BATCHES :]
    assert same(dict(restored.model.state_dict()), dict(undisturbed.model.state_dict()))
    assert same(restored.optimizer.state_dict(), undisturbed.optimizer.state_dict())


def test_what_concerns_gradients_is_harmless() -> None:
    run, plain = Run("am-adam", "StepLR"), Run("am-adam", "StepLR")
    for epoch in range(2):
        run.accelerator.clip_grad_norm_(run.model.parameters(), 0.1)
        run.optimizer.zero_grad()
        run.epoch(epoch)
        plain.epoch(epoch)
    assert same(dict(run.model.state_dict()), dict(plain.model.state_dict()))


def test_accumulated_minibatches_are_dropped() -> None:
    # accelerate leaves the optimizer alone in between: see docs/optimizer.md.
    run = Run("am-adam", "StepLR", gradient_accumulation_steps=5)
    for batch in run.loader:
        with run.accelerator.accumulate(run.model):
            run.step(batch)
    assert run.optimizer.optimizer.method.steps == 1


def test_mixed_precision_is_refused() -> None:
    AcceleratorState._reset_state()
    try:
        run = Run("am-adam", "StepLR", mixed_precision="bf16")
        with pytest.raises(ValueError, match=r"^model must be as it was .* with a forward of its own since"):
            run.epoch(0)
    finally:
        AcceleratorState._reset_state()
