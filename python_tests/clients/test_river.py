"""Estimators for river, in river.

Oracles: river's own checks, and their number; the same stream with 0 where a feature is missing; one ``learn_one``
for each row; loops written out by hand for what river evaluates; a network that is learned without river.
"""

from __future__ import annotations

import copy
import math
import pickle
import random
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import altmin_ext
from altmin_ext.models import mlp

river = pytest.importorskip("river", minversion="0.26")
pd = pytest.importorskip("pandas")
from river import checks, datasets, drift, ensemble, evaluate, metrics, preprocessing, stats  # noqa: E402

from altmin_ext.river import AMClassifier, AMRegressor  # noqa: E402

PHISHING = list(datasets.Phishing())
# Version -> checks of a classifier, of a regressor. A newer version has at least as many as the last one here.
CHECKS = {"0.26": (65, 28)}

CASES = [(kind, params) for kind in (AMClassifier, AMRegressor) for params in kind._unit_test_params()]


def bits(model: Any) -> bytes:
    return pickle.dumps(model)


def same_weights(one: Any, other: Any) -> bool:
    pairs = zip(one.module_.parameters(), other.module_.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def taught(model: Any, samples: Any) -> Any:
    for x, y in samples:
        model.learn_one(x, y)
    return model


@pytest.mark.parametrize(
    ("kind", "params"), CASES, ids=[f"{k.__name__}-{i}" for i, (k, _) in enumerate(CASES)]
)
def test_all_checks_pass(kind: type[Any], params: dict[str, Any]) -> None:
    assert kind()._unit_test_skips() == set()
    model, count = kind(**params), 0
    for check in checks.yield_checks(model):
        check(model.clone())
        count += 1
    expected = CHECKS.get(".".join(river.__version__.split(".")[:2]))
    number = kind is AMRegressor
    assert count == expected[number] if expected else count >= CHECKS["0.26"][number]


# -------------------------------------------------------------------------------------------------- learning


def test_a_network_is_taught_as_without_river() -> None:
    """Inputs in the order of the names, classes in the order of their coming."""
    samples = PHISHING[:40]
    names = sorted(samples[0][0])
    assert {y for _, y in samples[:1]} == {True}
    model = taught(AMClassifier((8,), lr=0.01, seed=5), samples[:1])  # one class
    assert model.classes_ == [True]
    assert model.features_ == names
    taught(model, samples[1:])
    assert model.classes_ == [True, False]
    count = next(i for i, (_, y) in enumerate(samples) if not y)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = mlp(9, (8,), 1)
        torch.manual_seed(5)
        larger = mlp(9, (8,), 2)
    settings = {"lr": 0.01, "stage_scaling": "none"}
    method = altmin_ext.make_method("am-adam", network, seed=5, **settings)
    for x, _ in samples[:count]:
        method.step(torch.tensor([[float(x[n]) for n in names]]), torch.tensor([0]))
    with torch.no_grad():
        for own, old in zip(larger.parameters(), network.parameters(), strict=True):
            own[tuple(slice(size) for size in old.shape)] = old
    state = method.state_dict()
    method = altmin_ext.make_method("am-adam", larger, seed=5, **settings)
    for moments in (state["update"]["first_moments"], state["update"]["second_moments"]):
        for i, tensor in enumerate(moments[-2:], len(moments) - 2):
            moments[i] = torch.cat([tensor, torch.zeros_like(tensor)])
    method.load_state_dict(state)
    for x, y in samples[count:]:
        method.step(torch.tensor([[float(x[n]) for n in names]]), torch.tensor([int(not y)]))
    pairs = zip(model.module_.parameters(), larger.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def batches() -> list[tuple[list[dict[str, Any]], list[Any]]]:
    """Rows whose features come and go, and among whose classes are new ones in the middle."""
    generator = random.Random(0)
    sets = ["ab", "abcd", "cd", "a", "dcbaef", "f"]
    classes = ["x", "xy", "y", "zx", "zyxw", "wv"]
    found = []
    for names, labels in zip(sets, classes, strict=True):
        rows = [{name: generator.gauss(0, 1) for name in names} for _ in range(9)]
        rows[3][names[0]] = float("nan")
        found.append((rows, [generator.choice(labels) for _ in rows]))
    return found


@pytest.mark.parametrize("method", ["am-adam", "am-sgd", "adam", "ncm"])
def test_many_rows_are_one_after_the_other(method: str) -> None:
    one, many = (AMClassifier((6,), method, seed=1) for _ in range(2))
    for rows, labels in batches():
        taught(one, zip(rows, labels, strict=True))
        many.learn_many(pd.DataFrame(rows), pd.Series(labels))
        assert bits(one) == bits(many)
    assert one.features_ == ["a", "b", "c", "d", "e", "f"]
    assert set(one.classes_) == set("xyzwv")


def test_many_rows_of_a_regressor() -> None:
    one, many = (AMRegressor((6,), seed=1) for _ in range(2))
    for rows, _ in batches():
        targets = [float(len(row) + i) for i, row in enumerate(rows)]
        taught(one, zip(rows, targets, strict=True))
        many.learn_many(pd.DataFrame(rows), pd.Series(targets))
        assert bits(one) == bits(many)


def test_frames_of_polars() -> None:
    polars = pytest.importorskip("polars")
    one, many = (AMClassifier((6,), seed=1) for _ in range(2))
    rows, labels = batches()[1]
    one.learn_many(pd.DataFrame(rows), pd.Series(labels))
    many.learn_many(polars.DataFrame(rows), polars.Series(labels))
    assert bits(one) == bits(many)
    frame = polars.DataFrame(rows)
    assert many.predict_many(frame).to_list() == [one.predict_one(row) for row in rows]
    probabilities = many.predict_proba_many(frame)
    assert isinstance(probabilities, polars.DataFrame)
    assert probabilities.columns == one.classes_


def test_predictions_of_many_rows_keep_the_index() -> None:
    model = taught(AMClassifier((6,), seed=1), PHISHING[:50])
    frame = pd.DataFrame([x for x, _ in PHISHING[50:60]], index=range(50, 60))
    assert list(model.predict_many(frame).index) == list(range(50, 60))
    found = model.predict_proba_many(frame)
    assert list(found.columns) == model.classes_
    for i, (x, _) in enumerate(PHISHING[50:60]):
        assert model.predict_many(frame).iloc[i] == model.predict_one(x)
        assert found.iloc[i].to_dict() == pytest.approx(model.predict_proba_one(x), abs=1e-6)


# -------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize(
    "missing", [None, math.nan, np.nan, "left out"], ids=["None", "nan", "numpy", "left out"]
)
def test_a_missing_feature_is_zero(missing: Any) -> None:
    generator = random.Random(1)
    gaps, zeros = (AMClassifier((6,), seed=2) for _ in range(2))
    for model in (gaps, zeros):
        model.learn_one({"a": 1.0, "b": 2.0, "c": -1.0}, 0)
    for _ in range(20):
        full = {name: generator.gauss(0, 1) for name in "abc"}
        gone = generator.choice("abc")
        gap = {k: v for k, v in full.items() if k != gone} | (
            {} if missing == "left out" else {gone: missing}
        )
        zero = {**full, gone: 0.0}
        assert gaps.predict_proba_one(gap) == zeros.predict_proba_one(zero)
        y = generator.choice("pq")
        gaps.learn_one(gap, y)
        zeros.learn_one(zero, y)
    assert bits(gaps) == bits(zeros)


def test_a_new_feature_adds_an_input() -> None:
    model = taught(AMClassifier((6,), seed=2), [({"b": 1.0}, 0), ({"b": -1.0}, 1), ({"b": 2.0}, 0)])
    before = copy.deepcopy(model)
    assert model.predict_proba_one({"b": 0.5, "a": 9.0}) == before.predict_proba_one({"b": 0.5})
    assert bits(model) == bits(before)
    model.learn_one({"a": 0.0, "b": 0.5, "c": 0.0}, 0)
    assert model.features_ == ["b", "a", "c"]
    before.learn_one({"b": 0.5}, 0)
    first, former = model.module_[1].weight, before.module_[1].weight
    assert first.shape == (6, 3)
    assert torch.equal(first[:, :1], former)  # inputs of 0 do not teach the others


def test_a_new_class_adds_an_output() -> None:
    model = AMClassifier((6,), seed=2)
    assert model.predict_one({"a": 1.0}) is None
    assert model.predict_proba_one({"a": 1.0}) == {}
    x = {"a": 1.0, "b": -1.0}
    for i, label in enumerate(["one", 2, True, ("a", "tuple")]):
        before = model.module_[-1].weight.clone() if i else None
        model.learn_one(x, label)
        found = model.predict_proba_one(x)
        assert list(found) == model.classes_
        assert sum(found.values()) == pytest.approx(1)
        assert len(found) == i + 1
        if before is not None:  # a step of Adam moves each by the learning rate at most, some 1e-3
            torch.testing.assert_close(model.module_[-1].weight[:i], before, rtol=0, atol=0.011)
    for _ in range(200):
        model.learn_one(x, 2)
    assert model.predict_one(x) == 2


def test_names_and_numbers_of_any_kind() -> None:
    plain, other = (AMClassifier((6,), seed=2) for _ in range(2))
    for i in range(10):
        plain.learn_one({"a": float(i), 7: 1.0, ("t", 1): 0.0}, True)
        plain.learn_one({"a": float(-i), 7: 0.0, ("t", 1): 0.0}, False)
        other.learn_one({("t", 1): np.float32(0), 7: True, "a": i}, np.True_)
        other.learn_one({7: np.bool_(False), ("t", 1): 0, "a": np.int64(-i)}, np.False_)
    assert same_weights(plain, other)


# -------------------------------------------------------------------------------------------------- refusals

WRONG = {
    "a word": ({"a": "red"}, 1, TypeError, "feature 'a' must be a number, but is 'red'; encode it"),
    "a list": ({"a": [1.0]}, 1, TypeError, r"feature 'a' must be a number, but is \[1.0\]"),
    "infinite": (
        {"a": math.inf},
        1,
        ValueError,
        "feature 'a' must be within the range of float32, but is inf",
    ),
    "two infinite": ({"a": math.inf, "b": -math.inf}, 1, ValueError, "must be within the range of float32"),
    "too large": (
        {"a": 1e39},
        1,
        ValueError,
        r"feature 'a' must be within the range of float32, but is 1e\+39",
    ),
    "a huge integer": ({"a": 10**400}, 1, ValueError, "feature 'a' must be within the range of float32"),
    "new and infinite": ({"a": 1.0, "new": math.inf}, 1, ValueError, "feature 'new' must be within"),
    "no class": ({"a": 1.0}, None, ValueError, "y must be a class, such as a bool or a string, but is None"),
    "nan as a class": ({"new": 1.0}, math.nan, ValueError, "y must be a class, .* but is nan"),
    "a list as a class": ({"a": 1.0}, [1], TypeError, r"y must be a class, .* but is \[1\]"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("begun", [False, True], ids=["first", "later"])
def test_wrong_values_change_nothing(case: str, begun: bool) -> None:
    x, y, error, sentence = WRONG[case]
    model = AMClassifier((6,), seed=2)
    if begun:
        taught(model, [({"a": 1.0, "b": 0.0}, 0), ({"a": -1.0, "b": 1.0}, 1)])
    before = bits(model)
    with pytest.raises(error, match=sentence):
        model.learn_one(x, y)
    assert bits(model) == before
    # As objects, since pandas makes no numbers of an integer that is too large for a float.
    table = pd.DataFrame([{"a": 0.5, "c": 1.0}, x], dtype=object)
    with pytest.raises(error):
        model.learn_many(table, pd.Series([0, y], dtype=object))
    assert bits(model) == before


@pytest.mark.parametrize("y", [math.nan, math.inf, "1", None], ids=str)
def test_wrong_targets_change_nothing(y: Any) -> None:
    model = taught(AMRegressor((6,), seed=2), [({"a": 1.0}, 0), ({"a": -1.0}, 1)])
    before = bits(model)
    with pytest.raises((TypeError, ValueError), match="y must be"):
        model.learn_one({"a": 1.0, "new": 2.0}, y)
    assert bits(model) == before


def test_a_diverging_step_changes_nothing() -> None:
    model = AMRegressor((), "am-sgd", lr=10.0, seed=0)
    for i in range(1000):
        before = bits(model)
        try:
            model.learn_one({"a": 1e3 * (i % 7), "b": 1e3}, 1.0)
        except altmin_ext.DivergenceError:
            break
    else:
        pytest.fail("the step size is far beyond what is stable, and yet nothing has diverged")
    assert bits(model) == before


PARAMETERS = [
    (lambda: AMClassifier(lr=-1.0), ValueError, "lr must be at least 0"),
    (lambda: AMClassifier(random_state=0), ValueError, "random_state is called seed in an estimator"),
    (
        lambda: AMClassifier(module=mlp(2, (3,), 2)),
        TypeError,
        "module must be a function .* write lambda n_in",
    ),
    (lambda: AMClassifier(method="mdlam"), ValueError, "method must be one of minibatches for a stream"),
    (lambda: AMClassifier(seed=-1), ValueError, "seed must be"),
    (lambda: AMClassifier(hidden=(0,)), ValueError, "hidden"),
]


@pytest.mark.parametrize(
    ("make", "error", "sentence"), PARAMETERS, ids=[str(i) for i in range(len(PARAMETERS))]
)
def test_wrong_parameters(make: Any, error: type[Exception], sentence: str) -> None:
    model = make()
    with pytest.raises(error, match=sentence):
        model.learn_one({"a": 1.0}, True)
    assert model.predict_one({"a": 1.0}) is None


def test_what_cannot_grow_says_so() -> None:
    model = taught(AMClassifier((), "rls", seed=0), [({"a": 1.0}, 0), ({"a": 2.0}, 1)])
    before = bits(model)
    with pytest.raises(
        ValueError, match=r"the feature 'b' cannot be added to what 'rls' .*: sums .*; give all"
    ):
        model.learn_one({"a": 1.0, "b": 1.0}, 0)
    assert bits(model) == before


def test_no_features() -> None:
    with pytest.raises(ValueError, match="x must hold at least one feature, but is empty"):
        AMClassifier().learn_one({}, 1)


def test_a_loss_without_probabilities() -> None:
    model = taught(AMClassifier((100,), "rls", seed=0), PHISHING[:200])
    with pytest.raises(NotImplementedError, match="probabilities need the loss 'cross_entropy'"):
        model.predict_proba_one(PHISHING[0][0])
    hits = sum(model.predict_one(x) == y for x, y in PHISHING[:200])
    assert hits > 150


# ------------------------------------------------------------------------------------------ copies and seeds


def test_copies_go_on_to_the_same_bits() -> None:
    model = taught(AMClassifier((6,), seed=2), PHISHING[:30])
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), model.clone(include_attributes=True)]
    taught(model, PHISHING[30:60])
    for other in copies:
        taught(other, PHISHING[30:60])
        assert same_weights(model, other)
    assert model.clone().predict_one(PHISHING[0][0]) is None


def test_seeds() -> None:
    models = [taught(AMClassifier((6,), seed=seed), PHISHING[:5]) for seed in (1, 1, 2, None, None)]
    assert same_weights(*models[:2])
    assert not same_weights(*models[1:3])
    assert not same_weights(*models[3:])
    for model in models[3:]:
        random.seed(4)
        model = taught(AMClassifier((6,)), PHISHING[:5])
    random.seed(4)
    assert same_weights(model, taught(AMClassifier((6,)), PHISHING[:5]))


def test_parameters_of_the_method_are_parameters() -> None:
    model = AMClassifier((6,), "am-sgd", lr=0.3, mu=0.2)
    assert model.clone({"lr": 0.1})._get_params() == {**model._get_params(), "lr": 0.1}


# --------------------------------------------------------------------------------------------- within river


def test_progressive_validation() -> None:
    def make() -> Any:
        return preprocessing.StandardScaler() | AMClassifier((20,), lr=0.01, seed=0)

    found = evaluate.progressive_val_score(datasets.Phishing(), make(), metrics.Accuracy() + metrics.ROCAUC())
    model, hits = make(), 0
    for x, y in PHISHING:
        hits += model.predict_one(x) == y
        model.learn_one(x, y)
    count = len(PHISHING)
    assert found[0].get() == pytest.approx(
        hits / count, abs=1.5 / count
    )  # the first sample has no prediction
    assert found[0].get() > 0.87  # river's LogisticRegression comes to .893, the larger class is .562
    assert found[1].get() > 0.93


def test_several_classes() -> None:
    model = preprocessing.StandardScaler() | AMClassifier((50,), "am-sgd", lr=0.1, seed=0)
    accuracy = evaluate.progressive_val_score(datasets.ImageSegments(), model, metrics.Accuracy()).get()
    assert accuracy > 0.83  # a Hoeffding tree comes to .778, one of seven classes is .143


def test_regression() -> None:
    def error(model: Any) -> float:
        return float(evaluate.progressive_val_score(datasets.TrumpApproval(), model, metrics.MAE()).get())

    network = preprocessing.StandardScaler() | preprocessing.TargetStandardScaler(
        regressor=AMRegressor((20,), lr=0.01, seed=0)
    )
    mean, deviations = stats.Mean(), stats.Mean()
    for _, y in datasets.TrumpApproval():
        deviations.update(abs(y - mean.get()))
        mean.update(y)
    assert error(network) < 0.6 * deviations.get()


def flipped(samples: list[Any]) -> list[Any]:
    half = len(samples) // 2
    return samples[:half] + [(x, not y) for x, y in samples[half:]]


@pytest.mark.parametrize("around", ["drift detector", "bagging"])
def test_what_watches_for_drift(around: str) -> None:
    """After a change that turns every label round, the second half is learned."""
    learner = AMClassifier((20,), "am-sgd", seed=0)
    model: Any = {
        "drift detector": lambda: drift.DriftRetrainingClassifier(learner, drift.binary.DDM()),
        "bagging": lambda: ensemble.ADWINBaggingClassifier(learner, n_models=3, seed=0),
    }[around]()
    hits = []
    for x, y in flipped(PHISHING):
        hits.append(model.predict_one(x) == y)
        model.learn_one(x, y)
    assert np.mean(hits[400:625]) > 0.85
    assert np.mean(hits[-225:]) > 0.8


# ----------------------------------------------------------------------------------------------- not there


@pytest.mark.parametrize("version", [None, "0.25.0"], ids=["missing", "old"])
def test_a_missing_river_is_named(version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in sys.modules if name.partition(".")[0] == "river" or "altmin_ext.river" in name
    ]:
        monkeypatch.delitem(sys.modules, name)
    old = None
    if version:
        old = ModuleType("river")
        old.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "river", old)  # type: ignore[arg-type]
    sentence = "river is not installed" if version is None else "river must be at least 0.26, but is 0.25.0"
    with pytest.raises(ImportError, match=sentence + r'; get it with: pip install "altmin_ext\[river\]"$'):
        import altmin_ext.river  # noqa: F401


def test_the_examples_of_the_page_run() -> None:
    page = Path(__file__).parents[2] / "docs" / "streams.md"
    if not page.is_file():
        pytest.skip("only the tests are here, not the documentation")
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    names = {"__name__": "example"}
    with torch.random.fork_rng():
        for block in blocks:
            exec(compile(block, "docs/streams.md", "exec"), names)


def test_the_study_counts_what_was_predicted_before_it_was_learned() -> None:
    streams = pytest.importorskip("benchmarks.paper.streams")

    class Last:
        predicted = None

        def predict_one(self, x: Any) -> Any:
            return self.predicted

        def learn_one(self, x: Any, y: Any) -> None:
            self.predicted = y

    right, seconds = streams.right_and_seconds(Last(), [({}, y) for y in "aabba"])
    assert right == [False, True, False, True, False]
    assert seconds >= 0
    rules = streams.samples_of("sea, changing")
    assert len(rules) == 10_000
    assert rules[:2500] != rules[2500:5000]
