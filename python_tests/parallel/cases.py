"""What ranks train together, and one process by itself: small nets of every kind, on minibatches of 37 samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models

SAMPLES, CLASSES, STEPS = 37, 5, 4


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def _residual() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), Residual(), nn.ReLU(), nn.Linear(16, CLASSES))


def _dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, CLASSES))


def _normalised() -> nn.Module:
    # Without biases in front of a normalisation: their gradient is zero but for rounding, which Adam blows up.
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        *(nn.BatchNorm2d(4), nn.ReLU()),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
        *(nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        nn.Linear(144, CLASSES),
    )


def _mlp(activation: str = "relu") -> nn.Module:
    return models.mlp(20, [16, 12], CLASSES, activation=activation)


@dataclasses.dataclass(frozen=True)
class Case:
    """A net and a method.

    Attributes:
        method: its name.
        model: makes the net.
        shape: of a sample.
        options: of the method.
        loss: for ``make_method``.
    """

    method: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...] = (20,)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    loss: Any = None


_weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64))

CASES = {
    "am-adam": Case("am-adam", _mlp),
    "am-sgd": Case("am-sgd", _mlp),
    "am-sgd, objectives": Case(
        "am-sgd", _mlp, options={"report_objective": True, "stage_scaling": "displacement", "lr": 0.01}
    ),
    "several iterations": Case(
        "am-adam", lambda: _mlp("tanh"), options={"code_iterations": 3, "weight_iterations": 2}
    ),
    "the released scaling": Case("am-adam", _mlp, options={"scaling": "released"}),
    "a criterion that divides by weights": Case("am-adam", _mlp, loss=_weighted),
    "a loss without a bound": Case("am-adam", _mlp, loss=nn.MultiMarginLoss(p=2)),
    "dropout": Case("am-adam", _dropping),
    "convolutions": Case("am-adam", lambda: models.lenet5(1, 16, CLASSES), (1, 16, 16)),
    "batch normalisation": Case("am-adam", _normalised, (1, 8, 8)),
    "a residual block with batch normalisation": Case("am-sgd", _residual, options={"lr": 0.05}),
    "binary units": Case("am-adam", lambda: models.binary_mlp(20, [16, 12], CLASSES)),
    "binary units without a derivative": Case(
        "am-adam", lambda: models.binary_mlp(20, [16, 12], CLASSES, surrogate="none")
    ),
    "an Elman layer": Case(
        "am-adam", lambda: models.elman_rnn(4, 6, 5, CLASSES), options={"report_objective": True}
    ),
    "convolutions, not normalised": Case(
        "am-sgd", lambda: models.lenet5(1, 16, CLASSES), (1, 16, 16), {"report_objective": True}
    ),
    "am-mem": Case("am-mem", _mlp),
    "am-mem, exact": Case("am-mem", _mlp, options={"exact": True, "forgetting": 0.0}),
    "am-mem, several iterations": Case(
        "am-mem", _mlp, options={"weight_iterations": 2, "predictor": "memory"}
    ),
    "am-mem, steps of the outputs": Case(
        "am-mem", _mlp, options={"lr_memory_of": "outputs", "weight_momentum": 0.5}
    ),
    "am-mem with targets": Case("am-mem", _mlp, options={"targets": "memory"}),
    "am-mem, convolutions": Case("am-mem", lambda: models.lenet5(1, 16, CLASSES), (1, 16, 16)),
    "dtp": Case("dtp", lambda: _mlp("tanh"), options={"report_objective": True}),
    "dtp, dropout": Case("dtp", _dropping),
    "block-admm": Case("block-admm", _mlp),
    "block-admm, jacobi, several iterations": Case(
        "block-admm", _mlp, options={"order": "jacobi", "iterations": 2, "report_objective": True}
    ),
    "block-admm, batch normalisation": Case("block-admm", _normalised, (1, 8, 8), {"blocks": 2}),
    "mdlam": Case("mdlam", _mlp),
    "mdlam, a curvature without a Gram matrix": Case(
        "mdlam", lambda: models.mlp(60, [8, 12], CLASSES), (60,)
    ),
    "dladmm": Case("dladmm", _mlp),
    "dladmm, tanh": Case("dladmm", lambda: _mlp("tanh"), options={"l1_weights": 0.01}),
    "admm": Case("admm", _mlp, options={"report_objective": True}),
    "admm, random": Case("admm", _mlp, options={"initialisation": "random", "warm_start": 0}),
    "rls": Case("rls", lambda: models.random_features(20, 16, CLASSES)),
    "slda": Case("slda", lambda: models.random_features(20, 16, CLASSES)),
    "ncm": Case("ncm", lambda: models.random_features(20, 16, CLASSES)),
    "rls on fitted filters": Case(
        "rls", lambda: models.patch_features((1, 16, 16), 4, CLASSES), (1, 16, 16), {"fit_filters": True}
    ),
    "sgd": Case("sgd", lambda: models.lenet5(1, 16, CLASSES), (1, 16, 16), {"momentum": 0.9}),
    "adam": Case("adam", _mlp),
    "adam, a criterion that divides by weights": Case("adam", _mlp, loss=_weighted),
    "ste": Case("ste", lambda: models.binary_mlp(20, [16, 12], CLASSES)),
}


def trained(case: Case, parallel: str | None) -> dict[str, Any]:
    """Train on minibatches that all ranks draw alike, and of which each steps on its share.

    Returns:
        The weights and buffers, the losses and the counts of correct samples.
    """
    torch.manual_seed(0)
    model = case.model().double()
    method = altmin_ext.make_method(case.method, model, loss=case.loss, parallel=parallel, **case.options)
    generator, reports = torch.Generator().manual_seed(1), []
    torch.manual_seed(2)
    for step in range(STEPS):
        if method.full_batch and step > 0:  # the same samples in every step
            generator.manual_seed(1)
        x = torch.randn(SAMPLES, *case.shape, generator=generator, dtype=torch.float64)
        y = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
        if method.ranks is not None:
            own = method.ranks.share(SAMPLES)
            x, y = x[own], y[own]
        reports.append(method.step(x, y))
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "loss": torch.stack([report.loss for report in reports]),
        "correct": torch.stack([report.correct for report in reports if report.correct is not None]),
        "displacement": torch.stack(
            [report.displacement for report in reports if report.displacement is not None] or [y[:0]]
        ),
        "objective": torch.stack(
            [report.objective for report in reports if report.objective is not None] or [y[:0]]
        ),
    }
