"""The strategy for Avalanche that docs/neighbours.md shows, on Avalanche's benchmarks, with its metrics and plugins.

Oracle: the method's own steps on the minibatches of the experiences, to the bit; ``evaluate`` for the accuracy.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import altmin_ext

from .task import BATCH, network, same, samples

try:
    pytest.importorskip("torchvision")  # which Avalanche imports
except RuntimeError as error:
    pytest.skip(f"torchvision is not that of this torch: {error}", allow_module_level=True)
pytest.importorskip("avalanche")
page = Path(__file__).parents[2] / "docs" / "neighbours.md"
if not page.is_file():
    pytest.skip("only the tests are here, not the documentation", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.benchmarks import tensors_benchmark
    from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin

    names: dict[str, Any] = {"altmin_ext": altmin_ext, "torch": torch}
    (strategy_of_the_page,) = re.findall(
        r"^(?:from avalanche[^\n]*\n)+\n\n(?:class ByMethod.*?)(?=^def parts)",
        page.read_text("utf-8"),
        re.M | re.S,
    )
    exec(compile(strategy_of_the_page, "docs/neighbours.md", "exec"), names)

pytestmark = pytest.mark.filterwarnings("ignore")  # Avalanche's, of its own constructors
X, Y = samples().tensors
PARTS = [(X[Y < 2], Y[Y < 2]), (X[Y == 2], Y[Y == 2])]


@pytest.fixture
def scenario() -> Any:
    return tensors_benchmark(
        train_tensors=PARTS, test_tensors=PARTS, task_labels=[0, 0], complete_test_set_only=False
    )


def strategy_of(method: altmin_ext.Method, **arguments: Any) -> Any:
    metrics = accuracy_metrics(epoch=True, stream=True), loss_metrics(minibatch=True)
    return names["ByMethod"](
        method=method, train_mb_size=BATCH, eval_mb_size=BATCH, evaluator=EvaluationPlugin(*metrics, loggers=[]),
        **arguments,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["am-adam", "am-mem", "slda"])
def test_it_makes_the_steps_of_the_method(scenario: Any, method: str) -> None:
    by_hand = altmin_ext.make_method(method, network())
    losses = []
    for x, y in PARTS:
        for _ in range(2):
            for own, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
                losses.append(altmin_ext.evaluate(by_hand.model, (own, labels)).loss)
                by_hand.step(own, labels)
    strategy = strategy_of(altmin_ext.make_method(method, network()), train_epochs=2)
    for experience in scenario.train_stream:
        strategy.train(experience, shuffle=False)
    assert same(strategy.model.state_dict(), by_hand.model.state_dict())
    assert same(strategy.optimizer.method.state_dict(), by_hand.state_dict())
    told = strategy.evaluator.get_all_metrics()["Loss_MB/train_phase/train_stream/Task000"][1]
    assert told == pytest.approx(losses)


def test_its_metrics_are_those_of_evaluate(scenario: Any) -> None:
    strategy = strategy_of(altmin_ext.make_method("slda", network()))
    for experience in scenario.train_stream:
        strategy.train(experience)
    found = strategy.eval(scenario.test_stream)
    accuracy = altmin_ext.evaluate(strategy.model, (X, Y)).accuracy
    assert found["Top1_Acc_Stream/eval_phase/test_stream/Task000"] == pytest.approx(accuracy)
    assert accuracy is not None
    assert accuracy > 0.9


def test_a_plugin_of_avalanche_takes_part(scenario: Any) -> None:
    """Replay: minibatches of the second experience hold the classes of the first, too."""
    method = altmin_ext.make_method("am-adam", network())
    steps: list[set[int]] = []
    step = method.step

    def spied(x: Any, y: Any) -> Any:
        steps.append(set(y.tolist()))
        return step(x, y)

    method.step = spied  # type: ignore[method-assign]
    strategy = strategy_of(method, plugins=[ReplayPlugin(mem_size=20)])
    first, second = scenario.train_stream
    strategy.train(first)
    assert set().union(*steps) == {0, 1}
    steps.clear()
    strategy.train(second)
    assert set().union(*steps) == {0, 1, 2}


def test_an_experience_is_data_without_its_task_labels(scenario: Any) -> None:
    experience = scenario.train_stream[0]
    loader = DataLoader(experience.dataset, BATCH)
    model, other = network(), network()
    altmin_ext.train(model, [(x, y) for x, y, _ in loader], epochs=2, progress=False)
    altmin_ext.train(other, PARTS[0], epochs=2, batch_size=BATCH, shuffle=False, progress=False)
    assert same(model.state_dict(), other.state_dict())
    before = model.state_dict()
    for data in (experience.dataset, loader):
        with pytest.raises(TypeError, match=r"data must yield \(x, y\) batches, but yielded a list of 3"):
            altmin_ext.train(model, data, progress=False)
    assert same(model.state_dict(), before)
