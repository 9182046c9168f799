"""Learning from single samples by a network that grows.

Oracles: the method's own steps on tensors made for each of them; torch's modules; for growth the network before it,
a network of the larger size from the start where a closed form makes that equal, and zeros for new moments.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from altmin_ext._online import OnlineLearner, Recipe

METHODS = ["am-sgd", "am-adam", "am-mem", "dtp", "block-admm", "rls", "slda", "ncm", "ste", "sgd", "adam"]
N_IN, SAMPLES = 5, 12


def recipe(method: str = "am-adam", **given: Any) -> Recipe:
    settings = {
        "hidden": (7, 6),
        "activation": "relu",
        "module": None,
        "loss": None,
        "seed": 3,
        "options": {},
    }
    return Recipe(method=method, other_words={"random_state": "seed"}, **{**settings, **given})


def samples(n_in: int = N_IN, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((SAMPLES, n_in)).astype(np.float32)
    return x, np.concatenate([np.arange(classes), generator.integers(classes, size=SAMPLES - classes)])


def taught(learner: OnlineLearner, x: np.ndarray, y: np.ndarray) -> OnlineLearner:
    for own, target in zip(x, y, strict=True):
        learner.x[: len(own)] = own
        learner.y[:] = target
        learner.learn()
    return learner


def weights(learner: OnlineLearner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.method.model.state_dict().items()}


def leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]


def same(one: Any, other: Any) -> bool:
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("method", METHODS)
def test_learning_is_a_step_on_each_sample(method: str) -> None:
    x, y = samples()
    learner, stepped = taught(OnlineLearner(recipe(method), N_IN, 3, True), x, y), recipe(method)(N_IN, 3)
    for own, target in zip(x, y, strict=True):
        labels = torch.tensor([target])
        stepped.step(torch.tensor(own)[None], stepped.loss.from_labels(labels, 3, torch.float32))
    assert same(weights(learner), stepped.model.state_dict())
    assert same(learner.method.state_dict(), stepped.state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_learning_many_is_learning_each(method: str) -> None:
    x, y = samples()
    one, many = (OnlineLearner(recipe(method), N_IN, 3, True) for _ in range(2))
    taught(one, x, y)
    for part in (slice(0, 1), slice(1, 8), slice(8, None)):
        many.learn_many(x[part], y[part])
    assert same(weights(one), weights(many))
    assert same(one.method.state_dict(), many.method.state_dict())


def test_numbers_as_targets() -> None:
    x, _ = samples()
    y = x.sum(1, keepdims=True)
    one, many = (OnlineLearner(recipe(loss="mse"), N_IN, 1, False) for _ in range(2))
    taught(one, x, y)
    many.learn_many(x, y)
    stepped = recipe(loss="mse")(N_IN, 1)
    for own, target in zip(x, y, strict=True):
        stepped.step(torch.tensor(own)[None], torch.tensor(target)[None])
    assert same(weights(one), stepped.model.state_dict())
    assert same(weights(many), stepped.model.state_dict())


NETWORKS = {
    "relu": {},
    "tanh": {"activation": "tanh"},
    "identity": {"activation": "identity"},
    "linear": {"hidden": ()},
    "gelu": {"activation": "gelu"},
    "no bias": {
        "module": lambda n, m: nn.Sequential(nn.Linear(n, 4, bias=False), nn.ReLU(), nn.Linear(4, m))
    },
    "layer normalisation": {"module": lambda n, m: nn.Sequential(nn.LayerNorm(n), nn.Linear(n, m))},
    "dropout": {
        "module": lambda n, m: nn.Sequential(nn.Linear(n, 9), nn.Dropout(), nn.ReLU(), nn.Linear(9, m))
    },
    "two activations": {
        "module": lambda n, m: nn.Sequential(nn.Linear(n, 9), nn.Tanh(), nn.ReLU(), nn.Linear(9, m))
    },
    "nested": {
        "module": lambda n, m: nn.Sequential(nn.Sequential(nn.Linear(n, 9), nn.ReLU()), nn.Linear(9, m))
    },
}


@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_are_those_of_the_network_in_evaluation_mode(network: str) -> None:
    x, y = samples()
    learner = OnlineLearner(recipe("adam", **NETWORKS[network]), N_IN, 3, True)
    learner.learn_many(np.concatenate([x, x]), np.concatenate([y, y]))
    model = copy.deepcopy(learner.method.model).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(learner.outputs(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(learner.outputs(x[4]), expected[4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("place", [0, 1])
def test_a_hook_is_not_forgotten(place: int) -> None:
    def plain_module(n_in: int, n_out: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(n_in, n_out, bias=False))

    def hooked(n_in: int, n_out: int) -> nn.Module:
        model = plain_module(n_in, n_out)
        model[place].register_forward_hook(lambda module, inputs, output: 2 * output)
        return model

    x, _ = samples()
    learner, plain = (
        OnlineLearner(recipe("adam", module=make), N_IN, 3, True) for make in (hooked, plain_module)
    )
    np.testing.assert_allclose(learner.outputs(x), 2 * plain.outputs(x), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- growth


def assert_grown(before: Tensor, after: Tensor, rest: Tensor) -> None:
    """``before`` in the corner of ``after``, which elsewhere is ``rest``."""
    corner = tuple(slice(size) for size in before.shape)
    expected = rest.clone()
    expected[corner] = before
    assert torch.equal(after, expected)


@pytest.mark.parametrize(("n_in", "n_out"), [(N_IN + 2, 3), (N_IN, 4), (N_IN + 1, 5)])
@pytest.mark.parametrize("method", ["am-sgd", "am-adam", "adam"])
def test_what_was_learned_stays(method: str, n_in: int, n_out: int) -> None:
    x, y = samples()
    learner = taught(OnlineLearner(recipe(method), N_IN, 3, True), x, y)
    before, state = weights(learner), learner.method.state_dict()
    larger, fresh = learner.grown(n_in, n_out), OnlineLearner(recipe(method), n_in, n_out, True)
    assert same(before, weights(learner))
    assert same(state, learner.method.state_dict())
    for name, tensor in weights(larger).items():
        assert_grown(before[name], tensor, fresh.method.model.state_dict()[name])
    shapes = [p.shape for p in larger.method.model.parameters()]
    kept = leaves(state)
    found = leaves(larger.method.state_dict())
    grown = 0
    for old, new in zip(kept, found, strict=True):
        if isinstance(old, Tensor) and old.shape != new.shape:
            assert new.shape in shapes
            assert_grown(old, new, torch.zeros_like(new))
            grown += 1
        else:
            assert same(old, new)
    affected = 2 * (n_out > 3) + (n_in > N_IN)  # the head's weight and bias, the first layer's weight
    assert grown == (0 if method == "am-sgd" else 2 * affected)  # two moments each
    padded = np.zeros((SAMPLES, n_in), np.float32)
    padded[:, :N_IN] = x
    np.testing.assert_allclose(larger.outputs(padded)[:, :3], learner.outputs(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_new_classes_and_goes_on(method: str) -> None:
    x, y = samples()
    learner = taught(OnlineLearner(recipe(method), N_IN, 3, True), x, y).grown(N_IN, 5)
    taught(learner, x, np.full(SAMPLES, 4))
    assert learner.method.steps == 2 * SAMPLES
    assert np.isfinite(learner.outputs(x)).all()


@pytest.mark.parametrize("method", ["rls", "slda", "ncm"])
def test_closed_forms_grow_as_if_all_classes_had_been_known(method: str) -> None:
    """Their features are drawn before the head, so that they are the same for any number of classes."""
    x, y = samples()
    grown, known = (OnlineLearner(recipe(method), N_IN, classes, True) for classes in (2, 3))
    order = np.argsort(y == 2, kind="stable")  # the third class last
    first = order[: np.count_nonzero(y != 2)]
    taught(grown, x[first], y[first])
    grown = taught(grown.grown(N_IN, 3), x[order[len(first) :]], y[order[len(first) :]])
    taught(known, x[order], y[order])
    found, expected = grown.outputs(x), known.outputs(x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["am-mem", "rls"])
def test_sums_over_inputs_cannot_grow(method: str) -> None:
    x, y = samples()
    hidden = () if method == "rls" else (7,)  # the head's inputs, those of a hidden layer
    learner = taught(OnlineLearner(recipe(method, hidden=hidden), N_IN, 3, True), x, y)
    before, state = weights(learner), learner.method.state_dict()
    with pytest.raises(ValueError, match=r"must have|cannot grow"):
        learner.grown(N_IN + 1, 3)
    assert same(before, weights(learner))
    assert same(state, learner.method.state_dict())


def test_growth_leaves_the_generator_of_the_process() -> None:
    x, y = samples()
    before = torch.random.get_rng_state()
    module = NETWORKS["dropout"]["module"]
    learner = OnlineLearner(recipe("am-adam", module=module), N_IN, 3, True)
    assert torch.equal(before, torch.random.get_rng_state())
    taught(learner, x, y)
    before = torch.random.get_rng_state()
    learner.grown(N_IN + 1, 3)
    assert torch.equal(before, torch.random.get_rng_state())


# ----------------------------------------------------------------------------------------- copies, refusals


@pytest.mark.parametrize("method", METHODS)
def test_a_copy_goes_on_to_the_same_bits(method: str) -> None:
    x, y = samples()
    learner = taught(OnlineLearner(recipe(method), N_IN, 3, True), x[:6], y[:6]).grown(N_IN, 4)
    pickled = pickle.dumps(learner)
    assert pickle.dumps(learner) == pickled
    copied = pickle.loads(pickled)
    taught(learner, x[6:], y[6:])
    taught(copied, x[6:], y[6:])
    assert same(weights(learner), weights(copied))
    assert same(learner.method.state_dict(), copied.method.state_dict())


def test_stages_are_not_scaled_by_the_displacement_of_a_single_sample() -> None:
    assert recipe("am-adam")(N_IN, 3).options.stage_scaling == "none"
    given = recipe("am-adam", options={"stage_scaling": "displacement"})
    assert given(N_IN, 3).options.stage_scaling == "displacement"


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"method": "mdlam"}, ValueError, "method must be one of minibatches for a stream, but 'mdlam'"),
        (
            {"method": "block-admm", "options": {"duals": "stored"}},
            ValueError,
            "'block-admm' takes the whole training set or keeps variables of every sample",
        ),
        ({"method": "adm"}, ValueError, "adm"),
        ({"options": {"leer": 1}}, ValueError, "unknown option of 'am-adam': 'leer'"),
        ({"options": {"random_state": 1}}, ValueError, "random_state is called seed in an estimator"),
        ({"module": 3}, TypeError, "module must be a torch.nn.Module, or a function"),
        ({"module": lambda n, m: 3}, TypeError, "module must return a torch.nn.Module, but returned an int"),
    ],
    ids=[
        "whole set",
        "variables of samples",
        "no method",
        "no option",
        "other word",
        "no function",
        "no module",
    ],
)
def test_refusals(given: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        recipe(**given)(N_IN, 3)
