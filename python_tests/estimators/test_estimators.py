"""AMClassifier and AMRegressor.

Oracles, to the bit: steps of the method on the same minibatches; one run for two that continue it; a copy for what
was pickled. Up to rounding: repeated samples for weights; weights for class weights; one run over all data for a sum
of estimators. The rest is scikit-learn's own contract: its clones, searches, pipelines, metadata routing and metrics.
"""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")

from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import altmin_ext
from altmin_ext._order import permutation
from altmin_ext.estimators import AMClassifier, AMRegressor

N, FEATURES, BATCH = 23, 5, 8
rng = np.random.default_rng(0)
X = rng.normal(size=(N, FEATURES))
LABELS = np.array(["cat", "dog", "owl"])[rng.integers(3, size=N)]
REALS = rng.normal(size=(N, 2))
INDICATORS = (rng.random((N, 4)) > 0.5).astype(int)
CUTS = [slice(start, start + BATCH) for start in range(0, N, BATCH)]

WEIGHING = ("am-adam", "am-sgd", "adam", "sgd", "ste")
REPEATING = ("am-mem", "block-admm", "rls", "slda", "ncm")
WITH_SUMS = ("rls", "slda", "ncm")

Estimator = AMClassifier | AMRegressor


def classifier(**parameters: Any) -> AMClassifier:
    return AMClassifier(
        **{"hidden": (7, 6), "batch_size": BATCH, "epochs": 1, "random_state": 0, **parameters}
    )


def regressor(**parameters: Any) -> AMRegressor:
    return AMRegressor(
        **{"hidden": (7, 6), "batch_size": BATCH, "epochs": 1, "random_state": 0, **parameters}
    )


def weights_of(estimator: Estimator) -> list[torch.Tensor]:
    return [value.clone() for value in estimator.module_.state_dict().values()]


def assert_same(one: Estimator, other: Estimator) -> None:
    for own, theirs in zip(weights_of(one), weights_of(other), strict=True):
        assert torch.equal(own, theirs)


def assert_close(one: Estimator, other: Estimator, tolerance: float = 1e-12) -> None:
    for own, theirs in zip(weights_of(one), weights_of(other), strict=True):
        torch.testing.assert_close(own, theirs, rtol=tolerance, atol=tolerance)


# -------------------------------------------------------------------------------- fit, and partial_fit by minibatch


@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("method", [*WEIGHING, *REPEATING])
def test_partial_fit_on_the_minibatches_is_fit(method, shuffle):
    whole = classifier(method=method, shuffle=shuffle).fit(X, LABELS)
    order = permutation(N, whole._seed, 0).numpy() if shuffle else np.arange(N)
    parts = classifier(method=method)
    for cut in CUTS:
        parts.partial_fit(X[order[cut]], LABELS[order[cut]], classes=np.unique(LABELS))
    assert_same(whole, parts)
    assert parts.n_iter_ == len(CUTS)
    assert whole.n_iter_ == 1


@pytest.mark.parametrize("method", WEIGHING)
def test_partial_fit_on_the_minibatches_is_fit_with_weights(method):
    weights = rng.random(N) + 0.1
    whole = classifier(method=method, shuffle=False).fit(X, LABELS, weights)
    parts = classifier(method=method)
    for cut in CUTS:
        parts.partial_fit(X[cut], LABELS[cut], np.unique(LABELS), weights[cut])
    assert_same(whole, parts)


def test_partial_fit_is_no_epoch_of_the_method():
    options = {"mu_multiplier": 3.0}  # after each epoch
    whole, parts = regressor(shuffle=False, **options).fit(X, REALS), regressor(**options)
    for cut in CUTS:
        parts.partial_fit(X[cut], REALS[cut])
    assert_same(whole, parts)


def test_partial_fit_of_many_samples_is_a_pass_in_their_order():
    assert_same(
        regressor(shuffle=False).fit(X, REALS),
        regressor().partial_fit(X, REALS),
    )


@pytest.mark.parametrize("method", ["am-adam", "am-mem", "rls"])
def test_fit_takes_the_steps_of_the_method(method):
    found = regressor(method=method, shuffle=False, epochs=2).fit(X, REALS)
    with torch.random.fork_rng():
        torch.manual_seed(found._seed)
        model = altmin_ext.models.mlp(FEATURES, (7, 6), 2).double()
    own = altmin_ext.make_method(method, model, loss="mse", seed=found._seed)
    for _ in range(2):
        for cut in CUTS:
            own.step(torch.from_numpy(X[cut]), torch.from_numpy(REALS[cut]))
        own.end_epoch()
    for expected, value in zip(model.parameters(), found.module_.parameters(), strict=True):
        assert torch.equal(expected, value)


def test_a_warm_start_goes_on():
    long = classifier(epochs=4).fit(X, LABELS)
    twice = classifier(epochs=2, warm_start=True).fit(X, LABELS).fit(X, LABELS)
    assert_same(long, twice)
    assert twice.n_iter_ == 4
    assert twice.loss_curve_ == long.loss_curve_
    assert [row["epoch"] for row in twice.history_.epochs] == [1, 2, 3, 4]
    cold = twice.set_params(warm_start=False).fit(X, LABELS)
    assert_same(cold, classifier(epochs=2).fit(X, LABELS))


def test_weights_may_come_later_in_a_stream():
    once = np.ones(BATCH)
    early, late = classifier(), classifier()
    for i, cut in enumerate(CUTS[:2]):
        early.partial_fit(X[cut], LABELS[cut], np.unique(LABELS), once)
        late.partial_fit(X[cut], LABELS[cut], np.unique(LABELS), None if i == 0 else once)
    assert_close(early, late)


def test_options_may_change_in_a_stream():
    changed = regressor(lr=0.01).partial_fit(X[CUTS[0]], REALS[CUTS[0]]).set_params(lr=0.03)
    changed.partial_fit(X[CUTS[1]], REALS[CUTS[1]])
    model = regressor(lr=0.01).partial_fit(X[CUTS[0]], REALS[CUTS[0]])
    model.method_.learning_rate_factor = 3.0
    model.partial_fit(X[CUTS[1]], REALS[CUTS[1]])
    assert_close(changed, model)
    with pytest.raises(ValueError, match="method must stay 'am-adam' where training goes on, but is 'sgd'"):
        changed.set_params(method="sgd").partial_fit(X, REALS)


# ------------------------------------------------------------------------------------------------------- weights


# The others take one label for each sample.
KINDS = [(method, "labels") for method in (*WEIGHING, *REPEATING)]
KINDS += [(method, kind) for method in (*WEIGHING, "am-mem", "rls") for kind in ("reals", "indicators")]


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_whole_weights_repeat_samples(method, kind):
    y = {"labels": LABELS, "reals": REALS, "indicators": INDICATORS}[kind]
    make = regressor if kind == "reals" else classifier
    times = rng.integers(4, size=N)
    times[:3] = 1, 2, 0
    options = {"method": method, "batch_size": 1000, "epochs": 3, "shuffle": False}
    weighted = make(**options).fit(X, y, times)
    repeated = make(**options).fit(X.repeat(times, axis=0), y.repeat(times, axis=0))
    assert_close(weighted, repeated)
    assert weighted.loss_curve_ == pytest.approx(repeated.loss_curve_, rel=1e-12)


@pytest.mark.parametrize("method", WEIGHING)
def test_only_ratios_of_weights_count(method):
    halves = rng.integers(1, 6, size=N)
    options = {"method": method, "batch_size": 1000, "epochs": 3}
    weighted = classifier(**options).fit(X, LABELS, halves / 2)
    assert_close(weighted, classifier(**options).fit(X, LABELS, halves))


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_weights_of_any_size(scale):
    x = X.astype(np.float32)
    one = classifier().fit(x, LABELS, scale * (1 + np.arange(N)))
    assert_close(one, classifier().fit(x, LABELS, 1.0 + np.arange(N)), 1e-5)


@pytest.mark.parametrize("weights", [None, 1.0 + np.arange(N)], ids=["alike", "weighted"])
def test_classes_by_a_loss_of_numbers(weights):
    found = classifier(loss="mse", shuffle=False).fit(X, LABELS, weights)
    hot = (LABELS[:, None] == np.unique(LABELS)).astype(float)
    assert_same(found, regressor(shuffle=False).fit(X, hot, weights))


@pytest.mark.parametrize("method", ["am-adam", "rls"])
def test_a_weight_for_a_class_is_one_for_its_samples(method):
    options = {"method": method, "epochs": 2}
    of_class = classifier(**options, class_weight={"cat": 3}).fit(X, LABELS, np.arange(N))
    of_sample = classifier(**options).fit(X, LABELS, np.arange(N) * np.where(LABELS == "cat", 3, 1))
    assert_same(of_class, of_sample)


def test_balanced_classes_have_the_same_mass():
    times = rng.integers(1, 4, size=N)
    balanced = classifier(class_weight="balanced").fit(X, LABELS, times)
    masses = {label: times[label == LABELS].sum() for label in np.unique(LABELS)}
    by_hand = classifier(class_weight={label: 1 / mass for label, mass in masses.items()}).fit(
        X, LABELS, times
    )
    assert_close(balanced, by_hand)


# ------------------------------------------------------------------------------------------------ early stopping


def test_early_stopping_keeps_the_best_weights():
    found = classifier(epochs=300, early_stopping=True, patience=3, lr=0.05).fit(
        X, LABELS, X_val=X[:9], y_val=LABELS[:9]
    )
    accuracies = [row["validation_accuracy"] for row in found.history_.epochs]
    assert found.stopped_
    assert found.n_iter_ == accuracies.index(max(accuracies)) + 1 + 3
    assert found.score(X[:9], LABELS[:9]) == max(accuracies)


def test_early_stopping_holds_samples_out():
    found = regressor(epochs=300, early_stopping=True, patience=2, validation_fraction=0.3, lr=0.05).fit(
        X, REALS
    )
    losses = [row["validation_loss"] for row in found.history_.epochs]
    assert found.stopped_
    assert found.n_iter_ == losses.index(min(losses)) + 1 + 2


@pytest.mark.parametrize("held_out", [True, False], ids=["held out", "before they are learned"])
def test_early_stopping_of_partial_fit(held_out):
    more = {"X_val": X[:9], "y_val": REALS[:9]} if held_out else {}
    found = regressor(early_stopping=True, patience=2, lr=0.1)
    monitor, kept = "validation_loss" if held_out else "loss", []
    for _ in range(300):
        found.partial_fit(X, REALS, **more)
        kept.append(weights_of(found))
        if found.stopped_:
            break
    assert found.stopped_
    losses = [row[monitor] for row in found.history_.epochs]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 2
    for own, expected in zip(weights_of(found), kept[best], strict=True):
        assert torch.equal(own, expected)
    before = weights_of(found)
    found.partial_fit(X, REALS, **more)
    assert all(map(torch.equal, before, weights_of(found)))
    assert found.n_iter_ == len(losses)


# ------------------------------------------------------------------------------------------------- scikit-learn


def test_options_of_the_method_are_parameters():
    one = classifier(lr=0.5, on_nonfinite="skip")
    assert one.get_params()["lr"] == 0.5
    other = clone(one).set_params(lr=0.25, mu=2.0, epochs=3)
    assert (other.get_params()["lr"], other.get_params()["mu"], other.epochs) == (0.25, 2.0, 3)
    copy.copy(one).set_params(lr=0.125)
    assert one.get_params()["lr"] == 0.5
    assert "mu" not in one.get_params()
    options = other.fit(X, LABELS).method_.options
    assert (options.lr, options.mu, other.method_.on_nonfinite) == (0.25, 2.0, "skip")
    assert "lr=0.5" in repr(one)
    default = altmin_ext.make_method("am-adam", altmin_ext.models.mlp(2, (2,), 2)).options.lr
    assert other.set_params(lr=None).fit(X, LABELS).method_.options.lr == default


def test_a_search_over_options_and_methods():
    x, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(
        StandardScaler(), AMClassifier(hidden=(8,), batch_size=32, epochs=4, random_state=0)
    )
    grid = [
        {"amclassifier__lr": [1e-5, 3e-2]},
        {"amclassifier__method": ["rls", "adam"]},
    ]
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(x, y)
    slow, fast, *of_methods = search.cv_results_["mean_test_score"]
    assert fast > slow
    assert len(of_methods) == 2
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() > 0.8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(dtype):
    one = classifier().fit(X.astype(dtype), LABELS)
    assert all(value.numpy().dtype == dtype for value in weights_of(one))
    assert one.predict_proba(X.astype(dtype)).dtype == dtype
    assert regressor().fit(X.astype(dtype), REALS).predict(X).dtype == dtype


def test_tables_have_names():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abcde"))
    one = classifier().fit(table, pandas.Series(LABELS))
    assert list(one.feature_names_in_) == list("abcde")
    assert_same(one, classifier().fit(X, LABELS))
    with pytest.raises(ValueError, match="feature names should match"):
        one.predict(table[list("edcba")])


def test_metadata_is_routed():
    with config_context(enable_metadata_routing=True):
        seen = []

        class Recording(AMClassifier):
            def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None):
                seen.append(sample_weight)
                return super().fit(X, y, sample_weight, X_val=X_val, y_val=y_val)

        estimator = Recording(hidden=(4,), epochs=1, random_state=0).set_fit_request(sample_weight=True)
        estimator.set_score_request(sample_weight=True)
        cross_validate(estimator, X, LABELS, params={"sample_weight": np.arange(N) + 1.0}, cv=2)
    assert len(seen) == 2
    assert all(weights is not None for weights in seen)


def test_what_was_pickled_goes_on_to_the_same_bits():
    one = classifier(method="am-mem", early_stopping=True).partial_fit(X, LABELS, classes=np.unique(LABELS))
    other = pickle.loads(pickle.dumps(one))
    for each in (one, other):
        each.partial_fit(X, LABELS)
    assert_same(one, other)
    assert one.loss_curve_ == other.loss_curve_


def test_global_generators_stay():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002  (scikit-learn's own)
    expected = torch.rand(1), np.random.get_state()[1].copy()  # noqa: NPY002
    torch.manual_seed(3)
    torch.rand(0)
    first = classifier(random_state=5).fit(X, LABELS)
    assert torch.equal(torch.rand(1), expected[0])
    assert np.array_equal(np.random.get_state()[1], expected[1])  # noqa: NPY002
    assert_same(first, classifier(random_state=5).fit(X, LABELS))
    assert_same(classifier(random_state=np.random.RandomState(5)).fit(X, LABELS), first)
    assert not torch.equal(weights_of(first)[0], weights_of(classifier(random_state=6).fit(X, LABELS))[0])


def test_predictions_of_labels():
    one = classifier(epochs=3).fit(X, LABELS)
    logits = one.module_(torch.from_numpy(X)).detach()
    assert np.array_equal(one.predict(X), one.classes_[logits.argmax(1).numpy()])
    np.testing.assert_allclose(one.predict_proba(X), logits.softmax(1).numpy(), rtol=1e-12)
    np.testing.assert_allclose(one.predict_log_proba(X), logits.log_softmax(1).numpy(), rtol=1e-12)
    assert one.score(X, LABELS) == accuracy_score(LABELS, one.predict(X))


def test_logarithms_are_finite_where_probabilities_round_to_zero():
    model = classifier().fit(X, LABELS)
    with torch.no_grad():
        for parameter in model.module_.parameters():
            parameter.mul_(1000)
    proba, logarithms = model.predict_proba(X), model.predict_log_proba(X)
    assert (proba == 0).any()
    assert np.isfinite(logarithms).all()
    np.testing.assert_allclose(np.exp(logarithms), proba, atol=1e-12)


def test_probabilities_of_indicators_are_of_each_alone():
    indicators = np.stack([X[:, 0] > 0, X[:, 1] > X[:, 2]], axis=1).astype(int)
    one = classifier().fit(X, indicators)
    logits = one.module_(torch.from_numpy(X)).detach()
    np.testing.assert_allclose(one.predict_proba(X), logits.sigmoid().numpy(), rtol=1e-12)


@pytest.mark.parametrize("columns", [(), (1,), (2,)])
def test_targets_come_out_in_the_shape_of_those_that_were_learned(columns):
    y = np.arange(len(X) * math.prod(columns), dtype=float).reshape(len(X), *columns)
    assert AMRegressor(hidden=(3,), epochs=1, random_state=0).fit(X, y).predict(X).shape == y.shape


def test_what_is_held_out_follows_from_the_random_state():
    found = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        found.append(classifier(early_stopping=True, random_state=3).fit(X, LABELS))
    assert_same(*found)


def test_held_out_samples_have_the_features_of_the_others():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abcde"))
    with pytest.raises(ValueError, match=r"X_val, y_val: .*feature names should match"):
        classifier().fit(table, LABELS, X_val=table[list("edcba")], y_val=LABELS)


def test_later_samples_have_the_features_of_the_first():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abcde"))
    one = classifier().partial_fit(table, LABELS, np.unique(LABELS))
    with pytest.raises(ValueError, match="feature names should match"):
        one.partial_fit(table[list("edcba")], LABELS)
    assert one.feature_names_in_.tolist() == list("abcde")


@pytest.mark.parametrize("method", ["am-adam", "rls"])
@pytest.mark.parametrize("dtype", [int, bool, np.uint8])
def test_predictions_of_indicators(method, dtype):
    learned = np.stack([X[:, 0] > 0, X[:, 1] > X[:, 2], X[:, 3] > 0.3], axis=1).astype(dtype)
    one = classifier(
        method=method,
        epochs=1 if method == "rls" else 60,
        hidden=(50,),
        batch_size=N,
        lr=None if method == "rls" else 0.02,
    )
    assert one.fit(X, learned).score(X, learned) > 0.9
    assert one.predict(X).dtype == dtype
    assert np.array_equal(one.decision_function(X) > 0, one.predict(X))
    assert hasattr(one, "predict_proba") == (method == "am-adam")


def test_modules():
    network = nn.Sequential(nn.Linear(FEATURES, 3))
    before = network[0].weight.clone()
    one = classifier(module=network, method="adam", lr=0.1).fit(X.astype(np.float32), LABELS)
    assert torch.equal(network[0].weight, before)
    assert not torch.equal(one.module_[0].weight, before)
    made = []

    def make(n_in: int, n_out: int) -> nn.Module:
        made.append((n_in, n_out))
        return altmin_ext.models.mlp(n_in, (4,), n_out)

    assert regressor(module=make).fit(X, REALS).predict(X).shape == REALS.shape
    assert made == [(FEATURES, 2)]


def test_a_fit_that_fails_changes_nothing():
    one = classifier().fit(X, LABELS)
    before = one.predict_proba(X)
    one.set_params(module=nn.Linear(4, 2))
    with pytest.raises(ValueError, match="x must fit the model"):
        one.fit(np.c_[X, X], LABELS == "cat")
    assert np.array_equal(one.predict_proba(X), before)
    assert list(one.classes_) == ["cat", "dog", "owl"]
    with pytest.raises(NotFittedError):
        classifier().predict(X)


def test_the_package_leaves_scikit_learn_alone():
    code = "import sys, altmin_ext; assert 'sklearn' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("method", WITH_SUMS)
def test_a_sum_has_learned_the_data_of_both(method):
    classes = np.unique(LABELS)
    one = classifier(method=method).partial_fit(X[:9], LABELS[:9], classes=classes)
    other = classifier(method=method).partial_fit(X[9:], LABELS[9:], classes=classes)
    kept = weights_of(one)
    both = one + other
    assert_close(both, classifier(method=method).partial_fit(X, LABELS, classes=classes), 1e-9)
    assert all(map(torch.equal, kept, weights_of(one)))
    assert both.n_iter_ == 2
    both.partial_fit(X, LABELS)
    assert all(map(torch.equal, kept, weights_of(one)))


def test_sums_of_regressors():
    parts = [regressor(method="rls").fit(X[cut], REALS[cut]) for cut in CUTS]
    assert_close(parts[0] + parts[1] + parts[2], regressor(method="rls").fit(X, REALS), 1e-9)


@pytest.mark.parametrize(
    ("one", "other", "error", "sentence"),
    [
        ({}, {}, ValueError, "method must be 'rls', 'slda' or 'ncm' for a sum"),
        ({"method": "am-mem"}, {"method": "am-mem"}, ValueError, "method must be 'rls', 'slda' or 'ncm' for a sum"),
        ({"method": "rls"}, {"method": "slda"}, TypeError, "other must be a method 'rls', but is a SLDA"),
        ({"method": "rls"}, {"method": "rls", "random_state": 1}, ValueError, "features, but '1.weight' differs"),
        ({"method": "rls"}, {"method": "rls", "ridge": 2.0}, ValueError, "other must have the options"),
    ],
    ids=["am-adam", "am-mem", "methods", "features", "options"],
)  # fmt: skip
def test_sums_that_are_not_exact_are_refused(one, other, error, sentence):
    with pytest.raises(error, match=sentence):
        classifier(**one).fit(X, LABELS) + classifier(**other).fit(X, LABELS)


def test_sums_of_other_classes_or_estimators_are_refused():
    one = classifier(method="rls").fit(X, LABELS)
    with pytest.raises(ValueError, match="other must have the classes_"):
        one + classifier(method="rls").fit(X, LABELS == "cat")
    with pytest.raises(TypeError, match="other must be an AMClassifier, but is an AMRegressor"):
        one + regressor(method="rls").fit(X, REALS)
    with pytest.raises(NotFittedError):
        one + classifier(method="rls")


# ------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("parameters", "error", "sentence"),
    [
        ({"method": "am-adm"}, ValueError, "unknown method 'am-adm': did you mean 'am-adam'"),
        ({"method": 3}, TypeError, "method must be a name"),
        ({"learning_rate": 0.1}, ValueError, "unknown option of 'am-adam': 'learning_rate': it is called 'lr' here"),
        ({"seed": 1}, ValueError, "seed is called random_state in an estimator"),
        ({"hidden_layer_sizes": 1}, ValueError, "hidden_layer_sizes is called hidden in an estimator"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be an integer"),
        ({"hidden": 3.0}, TypeError, "hidden must be a list of integers"),
        ({"module": 3}, TypeError, "module must be a torch.nn.Module, or a function"),
        ({"module": lambda a, b: 3}, TypeError, "module must return a torch.nn.Module, but returned an int"),
        ({"early_stopping": 1}, TypeError, "early_stopping must be a bool"),
        ({"early_stopping": True, "validation_fraction": 1.0}, ValueError, "validation_fraction must be greater"),
        ({"early_stopping": True, "patience": 0}, ValueError, "patience must be at least 1"),
        ({"class_weight": "even"}, ValueError, "class_weight must be 'balanced'"),
        ({"class_weight": {"emu": 2}}, ValueError, "class_weight must hold labels among"),
        ({"class_weight": {"cat": 0}}, ValueError, r"class_weight\['cat'\] must be greater than 0"),
        ({"class_weight": [1, 2, 3]}, TypeError, "class_weight must be a dict"),
        ({"method": "am-mem", "class_weight": {"cat": 0.5}}, ValueError, "weights must be whole numbers for am-mem"),
        ({"loss": lambda z, y: z.mean(), "class_weight": "balanced"}, ValueError, "loss must be a name"),
        ({"scaling": "released", "class_weight": "balanced"}, ValueError, "count all samples alike with scaling"),
    ],
    ids=lambda value: "" if callable(value) or isinstance(value, dict) else None,
)  # fmt: skip
def test_wrong_parameters_are_found_when_fitting_begins(parameters, error, sentence):
    estimator = classifier(**parameters)
    with pytest.raises(error, match=sentence) as caught:
        estimator.fit(X, LABELS)
    assert "\n" not in str(caught.value)
    assert not estimator.__sklearn_is_fitted__()


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        classifier().partial_fit(X, LABELS)
    one = classifier().partial_fit(X, LABELS, classes=["cat", "dog", "owl"])
    with pytest.raises(ValueError, match="classes must be those of the first call"):
        one.partial_fit(X, LABELS, classes=["cat", "dog"])
    with pytest.raises(ValueError, match=r"y must hold labels among .* but holds 'emu'"):
        one.partial_fit(X, np.where(LABELS == "cat", "emu", LABELS))
    with pytest.raises(
        ValueError, match="partial_fit must be called with a method of minibatches, but mdlam"
    ):
        classifier(method="mdlam").partial_fit(X, LABELS, classes=np.unique(LABELS))
    with pytest.raises(ValueError, match="class_weight must be a dict or None in partial_fit"):
        classifier(class_weight="balanced").partial_fit(X, LABELS, classes=np.unique(LABELS))
    with pytest.raises(ValueError, match="X_val and y_val must be given together"):
        classifier().fit(X, LABELS, X_val=X)
    with pytest.raises(ValueError, match="sample_weight must be at least 0, but holds -1"):
        classifier().fit(X, LABELS, -np.ones(N))
    with pytest.raises(AttributeError, match="predict_proba"):
        classifier(method="rls").fit(X, LABELS).predict_proba(X)
    with pytest.raises(ValueError, match="y must be indicators"):
        classifier().fit(X, INDICATORS).partial_fit(X, LABELS)
    with pytest.raises(ValueError, match="y must have 2 columns as before, but has 1"):
        regressor().fit(X, REALS).partial_fit(X, REALS[:, 0])
