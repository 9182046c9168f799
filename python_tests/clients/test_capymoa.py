"""Learners for CapyMOA, in CapyMOA's prequential evaluation.

Oracles: the same samples by a learner for river, a loop written out by hand, and the majority class or the mean.
"""

from __future__ import annotations

import importlib.abc
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import altmin_ext

try:
    import altmin_ext.capymoa
except ImportError as missing:  # CapyMOA, or Java
    pytest.skip(str(missing), allow_module_level=True)
from capymoa.base import Classifier, Regressor, learner_from_params
from capymoa.core import LabeledInstance
from capymoa.evaluation import prequential_evaluation
from capymoa.stream import NumpyStream

from altmin_ext.capymoa import AMClassifier, AMRegressor


def samples(count: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """Whether a point lies within a circle, which no linear classifier finds."""
    x = np.random.default_rng(0).standard_normal((count, 3))
    return x, ((x[:, :2] ** 2).sum(1) < 1.4).astype(int)


def stream(x: np.ndarray, y: np.ndarray, kind: str = "categorical") -> Any:
    return NumpyStream(x, y, dataset_name="made", target_type=kind)


def test_prequential_evaluation() -> None:
    x, y = samples()
    data = stream(x, y)
    learner = AMClassifier(data.get_schema(), method="am-sgd", hidden=(20,), lr=0.1)
    assert isinstance(learner, Classifier)
    found = prequential_evaluation(data, learner, store_predictions=True)
    assert found.accuracy() > 85  # per cent; the larger class is 50.5
    again, predictions = AMClassifier(data.get_schema(), method="am-sgd", hidden=(20,), lr=0.1), []
    data.restart()
    for instance in data:
        predictions.append(again.predict(instance))
        again.train(instance)
    assert list(found.predictions()) == predictions
    assert predictions[0] is None
    hits = np.mean([one == int(other) for one, other in zip(predictions, y, strict=True)])
    assert found.accuracy() == pytest.approx(100 * hits, abs=0.1)


def test_the_network_is_that_of_steps_without_capymoa() -> None:
    x, y = samples(60)
    data = stream(x, y)
    learner = AMClassifier(data.get_schema(), random_seed=4, hidden=(6,), lr=0.01)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = altmin_ext.models.mlp(3, (6,), 2)
    method = altmin_ext.make_method("am-adam", network, seed=4, lr=0.01, stage_scaling="none")
    for instance in data:
        learner.train(instance)
        own = torch.tensor(instance.x, dtype=torch.float32)[None]
        method.step(own, torch.tensor([instance.y_index]))
    pairs = zip(learner.method_.model.parameters(), network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    data.restart()
    instance = next(iter(data))
    with torch.no_grad():
        expected = network(torch.tensor(instance.x, dtype=torch.float32)[None]).softmax(1)[0]
    np.testing.assert_allclose(learner.predict_proba(instance), expected.numpy(), atol=1e-6)
    assert learner.predict(instance) == int(expected.argmax())


def test_missing_values_are_zero_and_missing_labels_are_left_out() -> None:
    x, y = samples(30)
    schema = stream(x, y).get_schema()
    gaps, zeros = (AMClassifier(schema, hidden=(6,)) for _ in range(2))
    for own, label in zip(x, y, strict=True):
        gap, zero = own.copy(), own.copy()
        gap[1], zero[1] = np.nan, 0.0
        gaps.train(LabeledInstance.from_array(schema, gap, int(label)))
        zeros.train(LabeledInstance.from_array(schema, zero, int(label)))
    pairs = zip(gaps.method_.model.parameters(), zeros.method_.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    gaps.train(LabeledInstance.from_array(schema, x[0], -1))
    assert gaps.method_.steps == 30
    with pytest.raises(altmin_ext.DivergenceError, match="x holds NaN or Inf"):
        gaps.train(LabeledInstance.from_array(schema, np.array([np.inf, 0.0, 0.0]), 1))


def test_regression() -> None:
    x, _ = samples(1500)
    y = np.abs(x[:, 0]) - x[:, 1]
    data = stream(x, y, "numeric")
    learner = AMRegressor(data.get_schema(), hidden=(20,), lr=0.01)
    assert isinstance(learner, Regressor)
    assert prequential_evaluation(data, learner).rmse() < 0.5 * y.std()


def test_a_loss_without_probabilities_votes_for_a_class() -> None:
    x, y = samples(100)
    data = stream(x, y)
    learner = AMClassifier(data.get_schema(), method="rls", hidden=(20,))
    for instance in data:
        learner.train(instance)
    found = learner.predict_proba(instance)
    assert sorted(found.tolist()) == [0.0, 1.0]
    assert int(found.argmax()) == learner.predict(instance)


def test_parameters_make_the_same_learner() -> None:
    x, y = samples(10)
    schema = stream(x, y).get_schema()
    learner = AMClassifier(schema, method="am-sgd", hidden=(7,), lr=0.3)
    params = learner.get_params()
    assert (params["hidden"], params["lr"]) == ((7,), 0.3)
    again = learner_from_params({"learner": "altmin_ext.capymoa.AMClassifier", "params": params}, schema)
    assert again.get_params() == params
    assert again.method_.options == learner.method_.options


def test_wrong_parameters() -> None:
    schema = stream(*samples(10)).get_schema()
    with pytest.raises(ValueError, match="seed is called random_seed in an estimator"):
        AMClassifier(schema, seed=3)
    with pytest.raises(ValueError, match="method must be one of minibatches for a stream"):
        AMClassifier(schema, method="mdlam")


def test_a_missing_capymoa_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "altmin_ext.capymoa")
    monkeypatch.setitem(sys.modules, "capymoa", None)  # type: ignore[arg-type]
    with pytest.raises(
        ImportError, match=r'capymoa is not installed; get it with: pip install "altmin_ext\[capymoa\]"'
    ):
        importlib.import_module("altmin_ext.capymoa")


def test_the_example_of_the_page_runs() -> None:
    """The blocks of docs/streams.md that need Java are marked as py, so that the page runs without it."""
    page = Path(__file__).parents[2] / "docs" / "streams.md"
    if not page.is_file():
        pytest.skip("only the tests are here, not the documentation")
    (block,) = re.findall(r"^```py\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    exec(compile(block, "docs/streams.md", "exec"), {"__name__": "example"})


def test_a_missing_java_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """CapyMOA starts Java while it is imported, and JPype's error is a ValueError."""

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, *rest: Any) -> None:
            if name == "capymoa":
                raise ValueError("No JVM shared library file (libjvm.so) found. Try setting JAVA_HOME.")

    for name in list(sys.modules):
        if name.partition(".")[0] == "capymoa" or name == "altmin_ext.capymoa":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(
        ImportError, match="CapyMOA needs Java 17 or later, but cannot start it: No JVM shared"
    ):
        importlib.import_module("altmin_ext.capymoa")
