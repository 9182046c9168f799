"""Samples with weights.

Oracles, in float64: a step on the samples, each repeated as often as its weight says; for the mean its formula. So
every method that weighs must move exactly as it would without weights, whatever its options, and however near to zero
the loss has come.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext.losses import Criterion, Loss, Weighted, make_loss
from altmin_ext.models import binary_mlp, elman_rnn, lenet5, mlp

SIZE, CLASSES = 9, 3
WEIGHTS = torch.tensor([1.0, 2, 3, 1, 1, 4, 2, 1, 5], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 1, 0])
generator = torch.Generator().manual_seed(0)
REALS = torch.randn(SIZE, CLASSES, generator=generator, dtype=torch.float64)
FLAT = torch.randn(SIZE, 6, generator=generator, dtype=torch.float64)
IMAGES = torch.randn(SIZE, 1, 16, 16, generator=generator, dtype=torch.float64)

TARGETS: dict[str, tuple[Any, Tensor]] = {
    "cross_entropy": ("cross_entropy", LABELS),
    "squared": ("squared", LABELS),
    "hinge": ("hinge", LABELS),
    "mse": ("mse", REALS),
    "two classes each": (nn.BCEWithLogitsLoss(), (REALS > 0).double()),
    "huber": (nn.HuberLoss(), REALS),
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mlp": (lambda: mlp(6, (8, 7), CLASSES), FLAT),
    "linear": (lambda: mlp(6, (), CLASSES), FLAT),
    "tanh": (lambda: mlp(6, (8, 7), CLASSES, "tanh"), FLAT),
    "binary": (lambda: binary_mlp(6, (8, 7), CLASSES), FLAT),
    "lenet5": (lambda: lenet5(1, 16, CLASSES), IMAGES),
}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "am-adam": ("am-adam", {}),
    "am-adam without scaling": ("am-adam", {"stage_scaling": "none"}),
    "am-adam, iterations": ("am-adam", {"code_iterations": 3, "weight_iterations": 2, "code_momentum": 0.5}),
    "am-adam, thresholds": ("am-adam", {"l1_codes": 0.01, "l1_weights": 0.001}),
    "am-sgd": ("am-sgd", {}),
    "am-sgd with scaling": ("am-sgd", {"stage_scaling": "displacement", "lr": 0.01}),
    "adam": ("adam", {}),
    "sgd": ("sgd", {"lr": 0.1}),
    "ste": ("ste", {}),
}
CASES = [(options, "mlp", loss) for options in OPTIONS for loss in TARGETS]
CASES += [
    (options, network, "cross_entropy") for options in OPTIONS for network in NETWORKS if network != "mlp"
]


def weighted(loss: Any, y: Tensor) -> tuple[Loss, Tensor]:
    """The loss, and the targets with a column of weights."""
    targets = y.double().reshape(SIZE, -1)
    return Weighted(make_loss(loss), classes=not y.is_floating_point()), torch.cat(
        [targets, WEIGHTS[:, None]], 1
    )


def difference(method: str, options: dict[str, Any], network: str, target: str, steps: int) -> float:
    """The largest difference between weights after steps with weighted and with repeated samples."""
    make, x = NETWORKS[network]
    loss, y = TARGETS[target]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = make().double()
    other = copy.deepcopy(one)
    weighing, columns = weighted(loss, y)
    own = altmin_ext.make_method(method, one, loss=weighing, **options)
    plain = altmin_ext.make_method(method, other, loss=loss, **options)
    times = WEIGHTS.long()
    for step in range(steps):
        order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(step))
        report = own.step(x[order], columns[order])
        expected = plain.step(x.repeat_interleave(times, 0), y.repeat_interleave(times, 0))
    assert float(report.loss) == pytest.approx(float(expected.loss), rel=1e-6, abs=1e-15)
    return max(
        float((p - q).detach().abs().max()) for p, q in zip(one.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize(("options", "network", "target"), CASES)
def test_a_weighted_sample_counts_as_often_as_its_weight_says(options, network, target):
    assert difference(*OPTIONS[options], network, target, steps=6) < 1e-13


def test_weights_count_where_displacements_are_tiny():
    """Learned by heart, where the RMS displacement of the top code is below what stages are scaled by."""
    assert difference("am-adam", {"lr": 0.03}, "mlp", "cross_entropy", steps=100) < 1e-10


@pytest.mark.parametrize("target", TARGETS)
def test_the_mean_is_weighted(target):
    loss, y = TARGETS[target]
    weighing, columns = weighted(loss, y)
    logits = torch.randn(SIZE, CLASSES, generator=generator, dtype=torch.float64)
    each = torch.stack([make_loss(loss).mean(logits[i : i + 1], y[i : i + 1]) for i in range(SIZE)])
    torch.testing.assert_close(weighing.mean(logits, columns), (each * WEIGHTS).sum() / WEIGHTS.sum())
    torch.testing.assert_close(weighing.each(logits, columns), each)
    assert weighing.weights(columns).mean() == pytest.approx(1)


def test_training_and_evaluation_with_weights():
    loss, columns = weighted("cross_entropy", LABELS)
    model = NETWORKS["mlp"][0]().double()
    history = altmin_ext.train(
        model, (FLAT, columns), loss=loss, epochs=2, validation=(FLAT, columns), progress=False
    )
    expected = (F.cross_entropy(model(FLAT), LABELS, reduction="none") * WEIGHTS).sum() / WEIGHTS.sum()
    assert history.epochs[-1]["validation_loss"] == pytest.approx(float(expected.detach()))


@pytest.mark.parametrize(
    "name",
    ["am-mem", "am-adam-off", "am-mem-off", "dtp", "block-admm", "mdlam", "dladmm", "rls", "slda", "ncm"],
)
def test_methods_that_do_not_weigh_refuse(name):
    loss, _ = weighted("squared" if name == "rls" else "cross_entropy", LABELS)
    with pytest.raises(
        ValueError, match=f"loss must count all samples alike for {name}, but is a Weighted one"
    ):
        altmin_ext.make_method(name, mlp(6, (5,), CLASSES), loss=loss)


@pytest.mark.parametrize(
    ("model", "options", "what"),
    [
        (mlp(6, (5,), CLASSES), {"scaling": "released"}, "scaling='released'"),
        (binary_mlp(6, (5, 4), CLASSES, "none"), {}, "Sign"),
        (elman_rnn(1, 3, 6, CLASSES), {}, "an Elman layer"),
    ],
    ids=["released", "flips", "elman"],
)
def test_steps_that_couple_samples_refuse(model, options, what):
    loss, _ = weighted("cross_entropy", LABELS)
    with pytest.raises(ValueError, match=f"loss must count all samples alike with {what}"):
        altmin_ext.make_method("am-adam", model, loss=loss, **options)


def test_wrong_weights_and_losses_are_refused():
    loss, columns = weighted("cross_entropy", LABELS)
    model = mlp(6, (5,), CLASSES).double()
    for value, sentence in (
        (0.0, "greater than 0 in its last column, but holds 0"),
        (torch.nan, "y must be finite"),
    ):
        wrong = columns.clone()
        wrong[2, -1] = value
        with pytest.raises(ValueError, match=sentence):
            altmin_ext.train(model, (FLAT, wrong), loss=loss, progress=False)
    wrong = columns.clone()
    wrong[2, 0] = CLASSES
    with pytest.raises(ValueError, match=r"y must lie in \[0, 3\)"):
        altmin_ext.train(model, (FLAT, wrong), loss=loss, progress=False)
    with pytest.raises(TypeError, match=r"y must be torch\.float64 like the model"):
        altmin_ext.train(model, (FLAT, LABELS), loss=loss, progress=False)

    class MeanOnly(Loss):
        name = "mean_only"

        def mean(self, logits: Tensor, y: Tensor) -> Tensor:
            return logits.mean()

    with pytest.raises(ValueError, match="'mean_only' knows their mean only"):
        Weighted(MeanOnly(), classes=True)
    for criterion in (Criterion(lambda z, y: z.mean()), Criterion(nn.CrossEntropyLoss(torch.ones(CLASSES)))):
        with pytest.raises(ValueError, match="loss must be a name, or a criterion of torch without weights"):
            Weighted(criterion, classes=True).each(REALS, columns)
