"""GRU, LSTM and Elman layers as stages whose code is their output sequence.

Oracles: autograd on the local objectives in float64 (local_objectives.py), where such a layer is a module like any
other; one forward pass of the model, for what a dropout between layers draws; float64 steps for float32 ones; and
torch's own Adam through the whole network for how fast a small one learns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models
from altmin_ext.network import LocalMap, split
from altmin_ext.nn import GRU, LSTM, Elman, TimeSteps

from .local_objectives import LocalObjectives
from .test_online_am import distance, eta_list, seeded

TOLERANCE = 1e-9
CLASSES, STEPS, FEATURES = 3, 5, 4


class Last(nn.Module):
    """The output at the last time step, (B, T, d) -> (B, d): a module of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1]


def head(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(STEPS * width, CLASSES)]


CHAINS: dict[str, Callable[[], nn.Module]] = {
    "gru": lambda: nn.Sequential(GRU(FEATURES, 6), *head(6)),
    "lstm": lambda: nn.Sequential(LSTM(FEATURES, 6), *head(6)),
    "two layers, both directions": lambda: nn.Sequential(
        GRU(FEATURES, 3, num_layers=2, bidirectional=True), nn.Tanh(), *head(6)
    ),
    "projected, without biases": lambda: nn.Sequential(
        LSTM(FEATURES, 6, proj_size=2, bias=False), nn.ReLU(), *head(2)
    ),
    "one on another": lambda: nn.Sequential(LSTM(FEATURES, 4), GRU(4, 3), *head(3)),
    "last step": lambda: nn.Sequential(
        TimeSteps(FEATURES), GRU(FEATURES, 6), Last(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, CLASSES)
    ),
    "elman on elman": lambda: nn.Sequential(Elman(FEATURES, 4), Elman(4, 3), nn.ReLU(), *head(3)),
    "elman, two linear": lambda: nn.Sequential(
        Elman(FEATURES, 4), nn.ReLU(), nn.Flatten(), nn.Linear(STEPS * 4, 6), nn.Tanh(), nn.Linear(6, CLASSES)
    ),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "fixed": {"lr_codes": 0.1, "stage_scaling": "none"},
    "iterations": {"code_iterations": 3, "code_momentum": 0.5, "weight_iterations": 2, "lr": 1e-3},
    "released": {"scaling": "released"},
    "l1": {"l1_codes": 0.1, "l1_weights": 0.01},
}


def sequences(size: int, number: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, STEPS, FEATURES, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(CLASSES, (size,), generator=generator)


def follow(model: nn.Module, name: str, options: dict[str, Any]) -> None:
    """12 steps beside autograd on the local objectives, some of them with a smaller minibatch."""
    reference = LocalObjectives(model, name, **options)
    method = altmin_ext.make_method(name, model, report_objective=True, **options)
    for number in range(12):
        x, y = sequences(5 if number % 7 == 6 else 12, number)
        report = method.step(x, y)
        expected = reference.step(x, y, step_sizes=eta_list(method))
        assert float(report.loss) == pytest.approx(expected.loss, rel=TOLERANCE, abs=TOLERANCE)
        objective = [float(value) for value in report.objective]
        assert objective == pytest.approx(expected.objective, rel=TOLERANCE, abs=TOLERANCE), number
        assert distance(model, reference.model) < TOLERANCE, number


@pytest.mark.parametrize("name", ["am-adam", "am-sgd"])
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("options", OPTIONS)
def test_step(name: str, chain: str, options: str) -> None:
    model = seeded(CHAINS[chain])
    assert isinstance(split(model)[0].map, LocalMap)
    follow(model, name, OPTIONS[options])


@pytest.mark.parametrize("name", ["am-adam", "am-sgd"])
@pytest.mark.parametrize("options", ["released", "l1"])
def test_an_elman_network_without_the_codes_that_lack_an_option(name: str, options: str) -> None:
    """The paper's codes of an Elman layer lack both; its output sequence, as a code, has them."""
    model = seeded(lambda: models.elman_rnn(FEATURES, 6, STEPS, CLASSES))
    assert not isinstance(split(model)[0].map, LocalMap)
    follow(model, name, OPTIONS[options])


@pytest.mark.parametrize("layer", [GRU, LSTM])
def test_step_sizes_are_those_of_the_bound(layer: type[nn.Module]) -> None:
    """1 / (1 + sigma^2): of a Linear above by its matrix, of a layer above by its Jacobian at the encode's codes.

    A Jacobian stands for those of all samples; the largest of several is at least each and at most the whole
    minibatch's, which is their maximum since no sample sees another.
    """
    model = seeded(lambda: nn.Sequential(Elman(FEATURES, 4), layer(4, 3), *head(3)))
    method = altmin_ext.make_method("am-adam", model, lr=0.0, mu=0.3)
    x, y = sequences(6, 0)
    for _ in range(60):
        method.step(x, y)
    with torch.no_grad():
        codes = model[0](x)
    norms = [
        float(torch.linalg.matrix_norm(jacobian.detach().reshape(STEPS * 3, STEPS * 4), 2))
        for jacobian in (torch.func.jacrev(lambda c: model[1](c[None])[0])(code) for code in codes)
    ]
    output = float(torch.linalg.matrix_norm(model[3].weight.detach(), 2)) ** 2
    expected = [1 / (1 + max(norms) ** 2), 1 / (1 + output / (4 * 0.3))]
    assert method.code_step_sizes.tolist() == pytest.approx(expected, rel=1e-2)


# --- dropout between layers, float32, evaluation mode ---


def dropping() -> nn.Module:
    return nn.Sequential(GRU(FEATURES, 6, num_layers=2, dropout=0.5), *head(6))


@pytest.mark.parametrize("code_iterations", [1, 3])
def test_a_dropout_between_layers_draws_as_in_one_forward_pass(code_iterations: int) -> None:
    model = seeded(dropping)
    passed = copy.deepcopy(model).train()
    method = altmin_ext.make_method("am-adam", model, code_iterations=code_iterations)
    x, y = sequences(12, 0)
    torch.manual_seed(5)
    report = method.step(x, y)
    after_step = torch.rand(3)
    torch.manual_seed(5)
    loss = nn.functional.cross_entropy(passed(x), y)
    assert torch.equal(after_step, torch.rand(3))
    assert float(report.loss) == pytest.approx(float(loss), rel=1e-12)


def test_a_dropout_between_layers_has_one_mask_per_step() -> None:
    """The oracle's layer draws from the same seed at every evaluation of a step."""
    seed = 0

    class Seeded(GRU):
        def forward(self, x: Tensor) -> Tensor:
            torch.manual_seed(seed)
            return super().forward(x)

    model = seeded(dropping)
    same = seeded(lambda: nn.Sequential(Seeded(FEATURES, 6, num_layers=2, dropout=0.5), *head(6)))
    options: dict[str, Any] = {"code_iterations": 3, "weight_iterations": 2, "lr": 1e-3}
    reference = LocalObjectives(same, "am-adam", **options)
    method = altmin_ext.make_method("am-adam", model, **options)
    for seed in range(4):
        x, y = sequences(12, seed)
        torch.manual_seed(seed)
        method.step(x, y)
        reference.step(x, y, step_sizes=eta_list(method))
        assert distance(model, reference.model) < TOLERANCE, seed


@pytest.mark.parametrize("layer", [GRU, LSTM])
def test_float32_follows_float64(layer: Callable[[int, int], nn.Module]) -> None:
    """Torch's fused LSTM, float32's on a CPU, has no second derivative; moves take one."""
    dtypes = (torch.float32, torch.float64)
    chains = {
        t: seeded(lambda: nn.Sequential(layer(FEATURES, 6), layer(6, 5), *head(5)), dtype=t) for t in dtypes
    }
    methods = {t: altmin_ext.make_method("am-adam", chain) for t, chain in chains.items()}
    for number in range(5):
        for dtype, method in methods.items():
            method.step(*sequences(33, number, dtype))
    left, right = (method.code_displacements for method in methods.values())
    torch.testing.assert_close(left, right, rtol=1e-3, atol=0)


def test_resumed_is_uninterrupted() -> None:
    straight, first = (seeded(CHAINS["one on another"]) for _ in range(2))
    method = altmin_ext.make_method("am-adam", straight)
    half = altmin_ext.make_method("am-adam", first)
    for number in range(6):
        method.step(*sequences(8, number))
        if number < 3:
            half.step(*sequences(8, number))
    second = copy.deepcopy(first)
    resumed = altmin_ext.make_method("am-adam", second, seed=9)
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    for number in range(3, 6):
        resumed.step(*sequences(8, number))
    assert distance(straight, second) == 0


# --- learning, and what cannot learn ---


def accuracy(name: str, layer: Callable[[int, int], nn.Module], **options: Any) -> float:
    """On the test digits, read row by row, after a few epochs."""
    torch.manual_seed(0)
    model = nn.Sequential(TimeSteps(8), layer(8, 32), nn.Flatten(), nn.Linear(8 * 32, 10))
    altmin_ext.train(model, "digits", method=name, epochs=6, batch_size=50, progress=False, **options)
    found = altmin_ext.evaluate(model, "digits").accuracy
    assert found is not None
    return found


METHODS: dict[str, dict[str, Any]] = {
    "am-adam": {"lr": 5e-3},
    "am-sgd": {"lr": 3.0, "lr_out": 0.3},
    "block-admm": {"lr": 5e-3},
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("layer", [GRU, LSTM])
def test_digits_are_learned(name: str, layer: Callable[[int, int], nn.Module]) -> None:
    """To at least nine tenths of what torch's Adam reaches through the whole network; a guess hits one in ten."""
    by_adam = accuracy("adam", layer, lr=5e-3)
    assert by_adam > 0.5
    assert accuracy(name, layer, **METHODS[name]) >= 0.9 * by_adam


@pytest.mark.parametrize("name", ["am-mem", "am-mem-off", "dtp", "mdlam", "dladmm", "admm"])
@pytest.mark.parametrize("layer", [GRU, LSTM])
def test_methods_of_linear_layers_refuse_with_a_sentence(
    name: str, layer: Callable[[int, int], nn.Module]
) -> None:
    """Their closed forms want a map that is linear in its weights, or has an inverse with as many inputs."""
    options = {"loss": "hinge"} if name == "admm" else {}
    model = nn.Sequential(layer(FEATURES, 6), *head(6))
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"^model must [^\n]*\.$"):
        altmin_ext.make_method(name, model, **options)
    assert distance(model, before) == 0


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM, nn.RNN])
def test_layers_that_return_their_states_too_are_refused(layer: type[nn.RNNBase]) -> None:
    """As nn.Sequential itself would; the sentence names the layer that returns one tensor."""
    model = nn.Sequential(layer(FEATURES, 6, batch_first=True), *head(6))
    name = "Elman" if layer is nn.RNN else layer.__name__
    with pytest.raises(
        ValueError, match=rf"^model cannot be split at '0': .*altmin_ext[.]nn[.]{name}\b.*[.]$"
    ):
        altmin_ext.make_method("am-adam", model)


def test_sequences_that_do_not_fit() -> None:
    method = altmin_ext.make_method("am-adam", seeded(CHAINS["gru"]))
    for shape in ((5, STEPS, FEATURES + 1), (5, STEPS + 1, FEATURES), (5, 2, 2, STEPS, FEATURES)):
        with pytest.raises(ValueError, match=r"^x must suit the model.*[.]$"):
            method.step(torch.randn(shape, dtype=torch.float64), torch.zeros(5, dtype=torch.int64))
