"""am-adam-off and am-mem-off: steps on the whole training set, chunk by chunk.

Oracle: the reference of the online methods, given all samples as a single minibatch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import altmin_ext

from .local_objectives import LocalObjectives
from .test_am_mem import PAPER, MemoryObjectives
from .test_methods_common import assert_sentence
from .test_online_am import CLASSES, batches, distance, mlp, seeded

NAMES = ("am-adam-off", "am-mem-off")


def whole_set(samples: int = 45) -> tuple[Tensor, Tensor]:
    return next(batches((samples,)))


@pytest.mark.parametrize("chunk_size", [7, 45, 1000])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("am-adam-off", {}),
        ("am-adam-off", {"stage_scaling": "none", "l1_codes": 0.1}),
        ("am-adam-off", {"code_iterations": 3, "code_momentum": 0.5}),
        ("am-adam-off", {"scaling": "released", "lr_codes": 0.3, "mu": 0.003}),
        ("am-mem-off", {}),
        ("am-mem-off", PAPER),
        ("am-mem-off", {"sweeps": 2, "weight_decay": 0.1}),
        ("am-mem-off", {"prior": 0.5, "damping": 0.0, "exact": True, "predictor": "memory"}),
        ("am-mem-off", {**PAPER, "prior": 0.5}),
    ],
    ids=str,
)
def test_step(name: str, options: dict[str, Any], chunk_size: int) -> None:
    """Cut up or not, the same to rounding."""
    model = mlp()
    options = {"lr": 1e-2, **options}
    reference = (
        MemoryObjectives(model, **options) if name == "am-mem-off" else LocalObjectives(model, **options)
    )
    method = altmin_ext.make_method(name, model, chunk_size=chunk_size, report_objective=True, **options)
    x, y = whole_set()
    for number in range(6):
        report = method.step(x, y)
        expected = reference.step(x, y, step_sizes=method.code_step_sizes.tolist())
        assert float(report.loss) == pytest.approx(expected.loss, rel=1e-10)
        assert int(report.correct) == expected.correct
        assert report.objective.tolist() == pytest.approx(expected.objective, rel=1e-9)
        assert method.code_displacements.tolist() == pytest.approx(reference.displacements, rel=1e-9)
        assert distance(model, reference.model) < 1e-9, number


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_and_pooling(name: str) -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 8), nn.Tanh(),
            nn.Linear(8, CLASSES),
        )  # fmt: skip

    x, y = whole_set()
    at_once, in_chunks = seeded(build), seeded(build)
    for model, size in ((at_once, 45), (in_chunks, 13)):
        method = altmin_ext.make_method(
            name, model, chunk_size=size, lr_codes=0.3, stage_scaling="displacement"
        )
        for _ in range(4):
            method.step(x[:, None], y)
    assert distance(at_once, in_chunks) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_is_a_step(name: str) -> None:
    """train gives it all samples at once, whatever the batch size says, and in their order."""
    x, y = whole_set()
    trained, stepped = mlp(), mlp()
    history = altmin_ext.train(trained, (x, y), method=name, epochs=3, batch_size=4, progress=False)
    method = altmin_ext.make_method(name, stepped)
    for _ in range(3):
        method.step(x, y)
    assert distance(trained, stepped) == 0
    assert history.steps == len(history.epochs) == 3


def test_only_the_same_training_set() -> None:
    method = altmin_ext.make_method("am-adam-off", mlp())
    x, y = whole_set()
    method.step(x, y)
    with pytest.raises(ValueError, match="x must hold the 45 samples") as error:
        method.step(x[:44], y[:44])
    assert_sentence(error, "44", "am-adam-off")


def test_a_refused_step_binds_to_nothing() -> None:
    method = altmin_ext.make_method("am-adam-off", mlp())
    x, y = whole_set()
    with pytest.raises(ValueError, match="12 features"):
        method.step(x[:10, :, :3], y[:10])
    method.step(x, y)
    resumed = altmin_ext.make_method("am-adam-off", mlp())
    resumed.load_state_dict(method.state_dict())
    with pytest.raises(ValueError, match="x must hold the 45 samples"):
        resumed.step(x[:20], y[:20])


@pytest.mark.parametrize("name", NAMES)
def test_depth(name: str) -> None:
    """Displacements that float32 cannot hold, so far down, are summed up all the same."""

    def build() -> nn.Module:
        layers = [module for _ in range(55) for module in (nn.Linear(20, 20), nn.ReLU())]
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), *layers, nn.Linear(20, CLASSES))
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        return model

    model = seeded(build, dtype=torch.float32)
    before = copy.deepcopy(model)
    method = altmin_ext.make_method(name, model, chunk_size=20)
    x, y = next(batches((45,), dtype=torch.float32))
    method.step(x, y)
    for own, old in zip(model.modules(), before.modules(), strict=True):
        if isinstance(own, nn.Linear):
            assert not torch.equal(own.weight, old.weight)


@pytest.mark.parametrize("name", NAMES)
def test_a_well_fitted_chunk_does_not_hold_back_the_others(name: str) -> None:
    """What damps the step where the loss is next to nothing is the loss over all samples."""
    x, y = whole_set(40)
    models = [mlp(), mlp()]
    with torch.no_grad():
        y[20:] = models[0](x[20:]).argmax(1)
        for model in models:
            model[-1].weight.mul_(1e4)  # a loss of 0 on the second half
            model[-1].bias.mul_(1e4)
    options = {"lr_codes": 1e-15, "stage_scaling": "displacement", "lr": 1e-2}
    altmin_ext.make_method(name.removesuffix("-off"), models[0], **options).step(x, y)
    altmin_ext.make_method(name, models[1], chunk_size=20, **options).step(x, y)
    assert distance(*models) < 1e-9


def test_streams_are_refused() -> None:
    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        yield whole_set()

    with pytest.raises(ValueError, match="data must be") as error:
        altmin_ext.train(mlp(), stream(), method="am-mem-off", progress=False)
    assert_sentence(error, "am-mem-off", "generator")


def test_more_weight_iterations_are_refused() -> None:
    with pytest.raises(ValueError, match="weight_iterations") as error:
        altmin_ext.make_method("am-adam-off", mlp(), weight_iterations=2)
    assert_sentence(error, "2")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_of_a_step_that_was_not_finite(name: str) -> None:
    """Neither in the weights nor in the memory, though the first chunks were in order."""
    model = mlp()
    method = altmin_ext.make_method(name, model, chunk_size=10)
    x, y = whole_set()
    method.step(x, y)
    before, memories = copy.deepcopy(model), getattr(method, "memories", [])
    bad = x.clone()
    bad[33, 1, 1] = float("nan")
    with pytest.raises(altmin_ext.DivergenceError):
        method.step(bad, y)
    assert distance(model, before) == 0
    for one, other in zip(getattr(method, "memories", []), memories, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    method.step(x, y)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_whose_square_overflows_moves_nothing(name: str) -> None:
    """It is finite itself, as are the codes, and the squares of the gradients of ordinary features."""
    torch.manual_seed(0)
    model = altmin_ext.models.mlp(6, (8, 8), 3)
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    x[:, 3:] *= 1e21
    before = copy.deepcopy(model.state_dict())
    method = altmin_ext.make_method(name, model)
    with pytest.raises(altmin_ext.DivergenceError, match=r"weight gradient of stage 1 .* step 1;"):
        method.step(x, y)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
