"""torchmetrics' objects as metrics of a run. Oracle: torchmetrics itself, on the model's outputs after each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import altmin_ext
from altmin_ext import data, models
from altmin_ext.__main__ import main

from .task import BATCH, network, samples

pytest.importorskip("torchmetrics")
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassCalibrationError,
    MulticlassF1Score,
)
from torchmetrics.regression import MeanSquaredError, R2Score

X, Y = samples().tensors
METRICS = {
    "f1": lambda: MulticlassF1Score(3),
    "auroc": lambda: MulticlassAUROC(3),
    "calibration": lambda: MulticlassCalibrationError(3),
    "precision": lambda: MulticlassAveragePrecision(3),
}


def test_they_are_recorded_after_every_epoch() -> None:
    expected: list[dict[str, float]] = []

    class ByHand:
        def on_epoch(self, state: Any) -> None:
            with torch.no_grad():
                logits = state.model.eval()(X)
            expected.append({name: float(make()(logits, Y)) for name, make in METRICS.items()})

    metrics = {name: make() for name, make in METRICS.items()}
    history = altmin_ext.train(
        network(), (X, Y), epochs=4, batch_size=BATCH, lr=0.003, validation=samples(), metrics=metrics,
        callbacks=[ByHand()], progress=False,
    )  # fmt: skip
    assert len({row["calibration"] for row in expected}) == 4
    for row, own in zip(history.epochs, expected, strict=True):
        assert {name: row[f"validation_{name}"] for name in METRICS} == pytest.approx(own, abs=1e-6)
    assert all(metric.update_count == 0 for metric in metrics.values())


def test_of_regression_they_get_outputs_and_targets() -> None:
    targets = X[:, :3].contiguous()
    model = network()
    found = altmin_ext.evaluate(
        model, (X, targets), loss="mse", metrics={"mse": MeanSquaredError(), "r2": R2Score()}, batch_size=7
    )
    assert found.metrics["mse"] == pytest.approx(found.loss)
    with torch.no_grad():
        assert found.metrics["r2"] == pytest.approx(float(R2Score()(model(X), targets)))


def test_early_stopping_follows_one() -> None:
    stopping = altmin_ext.EarlyStopping("validation_f1", patience=2, mode="max")
    history = altmin_ext.train(
        network(), (X, Y), epochs=20, batch_size=BATCH, lr=0.01, validation=samples(),
        metrics={"f1": MulticlassF1Score(3)}, callbacks=[stopping], progress=False,
    )  # fmt: skip
    values = [row["validation_f1"] for row in history.epochs]
    assert stopping.best == max(values)
    assert stopping.best_epoch == 1 + values.index(max(values)) == len(values) - 2


@pytest.mark.parametrize(
    "metric", [lambda: MulticlassF1Score(3, average=None), lambda: MetricCollection([MulticlassF1Score(3)])],
    ids=["by class", "collection"],
)  # fmt: skip
def test_one_that_gives_several_numbers_is_named(metric: Any) -> None:
    with pytest.raises(ValueError, match=r"metrics\['f1'\] must come to one number"):
        altmin_ext.evaluate(network(), (X, Y), metrics={"f1": metric()})


def test_one_that_does_not_fit_the_classes_is_named() -> None:
    with pytest.raises(ValueError, match=r"metrics\['f1'\].update must take the model's outputs"):
        altmin_ext.evaluate(network(), (X, Y), metrics={"f1": MulticlassF1Score(2)})


def test_the_command_line_has_columns_of_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    command = [
        "train",
        "--hidden",
        "8",
        "--epochs",
        "2",
        "--metrics",
        "F1Score",
        "AUROC",
        "--output",
        str(tmp_path),
    ]
    assert main(command) == 0
    heading, *rows = capsys.readouterr().out.splitlines()[3:6]
    assert heading.split()[-4:] == ["F1Score", "test", "AUROC", "samples/s"]
    history = altmin_ext.History.load(tmp_path / "history.json")
    for row, own in zip(rows, history.epochs, strict=True):
        told = [f"{own[f'validation_{name}']:.4f}" for name in ("F1Score", "AUROC")]
        assert row.split()[-3:-1] == told
    # The last epoch's are those of the model that was written.
    digits = data.load("digits")
    model = models.mlp(digits.n_in, [8], digits.classes)
    altmin_ext.checkpoint.load(tmp_path / "checkpoint.safetensors", model=model)
    with torch.no_grad():
        f1 = MulticlassF1Score(10)(model(digits.test[0]), digits.test[1])
    assert history.epochs[-1]["validation_F1Score"] == pytest.approx(float(f1))
    assert main(["train", "--metrics", "F1score"]) == 2
    assert "did you mean 'F1Score'" in capsys.readouterr().err
