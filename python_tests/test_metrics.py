"""Metrics of one's own. Oracle: the same number, found from the outputs of the model by plain torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from altmin_ext import EarlyStopping, History, NonNegativeFactors, evaluate, models, train

N, FEATURES, CLASSES = 60, 5, 3
DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, FEATURES, generator=DRAWN), torch.randint(CLASSES, (N,), generator=DRAWN)
HELD_OUT = (X[:25], Y[:25])


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.mlp(FEATURES, [8], CLASSES, "relu")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The mean logit of the right class."""
    return logits.gather(1, y[:, None]).mean()


class Margin:
    """The same, minibatch by minibatch, as torchmetrics does it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sum, self.samples = torch.zeros(()), 0

    def update(self, logits: Tensor, y: Tensor) -> None:
        self.sum += logits.gather(1, y[:, None]).sum()
        self.samples += len(y)

    def compute(self) -> Tensor:
        return self.sum / self.samples


def run(data: Any = (X, Y), **more: Any) -> tuple[nn.Sequential, History]:
    model = network()
    arguments = {"epochs": 3, "batch_size": 10, "validation": HELD_OUT, "progress": False, **more}
    return model, train(model, data, **arguments)


def test_after_every_epoch_a_metric_is_that_of_the_model_then() -> None:
    expected = []

    class Outputs:
        def on_epoch(self, state: Any) -> None:
            with torch.no_grad():
                expected.append(float(margin(state.model(HELD_OUT[0]), HELD_OUT[1])))

    _, history = run(metrics={"object": Margin(), "function": margin}, callbacks=[Outputs()])
    assert len(set(expected)) == 3
    for name in ("object", "function"):
        assert [row[f"validation_{name}"] for row in history.epochs] == pytest.approx(expected)
    assert all(type(row["validation_object"]) is float for row in history.epochs)


@pytest.mark.parametrize("form", ["tensors", "loader", "list"])
def test_a_function_is_called_once_with_all_samples_in_their_order(form: str) -> None:
    calls = []

    def note(logits: Tensor, y: Tensor) -> int:
        calls.append((logits, y))
        return 1

    forms = {
        "tensors": HELD_OUT,
        "loader": DataLoader(TensorDataset(*HELD_OUT), batch_size=7),
        "list": list(zip(HELD_OUT[0].split(7), HELD_OUT[1].split(7), strict=True)),
    }
    model = network()
    found = evaluate(model, forms[form], metrics={"note": note}, batch_size=7)
    ((logits, y),) = calls
    assert not logits.requires_grad
    assert torch.equal(y, HELD_OUT[1])
    assert torch.allclose(logits, model(HELD_OUT[0]), atol=1e-6)
    assert found.metrics == {"note": 1.0}


def test_evaluate_without_metrics_has_none() -> None:
    assert evaluate(network(), HELD_OUT).metrics == {}


def test_metrics_change_nothing_else() -> None:
    """The same weights to the bit with metrics as without, of a model that draws, and validation data that stay."""

    def spoil(logits: Tensor, y: Tensor) -> Tensor:
        torch.rand(3)
        logits.zero_()
        return y.zero_().sum()

    class Spoiling(Margin):
        def update(self, logits: Tensor, y: Tensor) -> None:
            spoil(logits, y)
            super().update(logits, y)

    results = []
    for metrics in (None, {"one": spoil, "other": Spoiling()}):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES))
        held_out = (HELD_OUT[0].clone(), HELD_OUT[1].clone())
        history = train(
            model, (X, Y), epochs=2, batch_size=10, validation=held_out, metrics=metrics, progress=False
        )
        assert torch.equal(held_out[1], HELD_OUT[1])
        rows = [(row["loss"], row["validation_loss"]) for row in history.epochs]
        results.append((rows, [own.detach().clone() for own in model.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(map(torch.equal, results[0][1], results[1][1]))


def test_an_object_holds_nothing_between_epochs_or_after_an_error() -> None:
    metric = Margin()
    held = []

    class Watch:
        def on_epoch(self, state: Any) -> None:
            held.append(metric.samples)

    metric.update(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))  # of the user's own
    run(metrics={"margin": metric}, callbacks=[Watch()])
    assert held == [0, 0, 0]

    def fail(logits: Tensor, y: Tensor) -> None:
        raise ZeroDivisionError("nothing was found")

    with pytest.raises(ValueError, match="metrics"):
        evaluate(network(), HELD_OUT, metrics={"margin": metric, "broken": fail})
    assert metric.samples == 0


def test_what_an_object_held_before_does_not_count() -> None:
    """And the numbers stand in the order in which they were asked for."""
    metric = Margin()
    metric.update(torch.full((4, 3), 100.0), torch.zeros(4, dtype=torch.int64))
    found = evaluate(network(), HELD_OUT, metrics={"z": margin, "a": metric, "m": margin})
    expected = float(margin(network()(HELD_OUT[0]), HELD_OUT[1]))
    assert found.metrics == pytest.approx(dict.fromkeys("zam", expected))
    assert list(found.metrics) == ["z", "a", "m"]


def test_a_criterion_that_writes_to_the_outputs_spoils_no_metric() -> None:
    """Neither one that is found minibatch by minibatch nor one of all outputs."""

    def spoiling(logits: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits, y)
        with torch.no_grad():
            logits.zero_()
        return loss

    metrics = {"function": margin, "object": Margin()}
    found = evaluate(network(), HELD_OUT, loss=spoiling, metrics=metrics, batch_size=10)
    expected = float(margin(network()(HELD_OUT[0]), HELD_OUT[1]))
    assert found.metrics == pytest.approx(dict.fromkeys(metrics, expected))


def test_samples_without_a_label_are_left_out() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(FEATURES, 8), nn.ReLU(), NonNegativeFactors(8, 4), nn.Linear(4, CLASSES)
        )
    y = Y.clone()
    y[::3] = -1
    seen = []

    def note(logits: Tensor, y: Tensor) -> float:
        seen.append((logits, y))
        return float(len(y))

    kept = y >= 0
    found = evaluate(model, (X, y), metrics={"note": note})
    assert found.samples == int(kept.sum()) == found.metrics["note"]
    assert torch.equal(seen[0][1], y[kept])


def test_an_output_that_is_not_finite_makes_every_metric_nan() -> None:
    model = network()
    with torch.no_grad():
        model[-1].bias.fill_(math.inf)

    def never(logits: Tensor, y: Tensor) -> float:
        raise AssertionError("called")

    class Finite(Margin):
        def update(self, logits: Tensor, y: Tensor) -> None:
            assert logits.isfinite().all()

    found = evaluate(model, HELD_OUT, metrics={"function": never, "object": Finite()})
    assert all(math.isnan(value) for value in found.metrics.values())
    assert list(found.metrics) == ["function", "object"]


def test_a_metric_may_be_nan_and_nan_is_no_improvement() -> None:
    values = iter([0.0, math.nan, 0.5, math.nan, math.nan])  # the first is that of the trial
    stopping = EarlyStopping("validation_odd", patience=2, mode="max")
    _, history = run(metrics={"odd": lambda logits, y: next(values)}, epochs=9, callbacks=[stopping])
    assert len(history.epochs) == 4
    assert (stopping.best, stopping.best_epoch) == (0.5, 2)


@pytest.mark.parametrize(("mode", "best"), [("max", 3), ("min", 2)])
def test_early_stopping_follows_a_metric(mode: str, best: int) -> None:
    values = iter([0.0, 2.0, 1.0, 3.0, 2.5, 2.5])
    stopping = EarlyStopping("validation_odd", patience=9, mode=mode)
    run(metrics={"odd": lambda logits, y: next(values)}, epochs=5, callbacks=[stopping])
    assert stopping.best_epoch == best


@pytest.mark.parametrize(
    ("metrics", "error", "sentence"),
    [
        ([margin], TypeError, "metrics must be a dict from names to metrics, .* but is a list"),
        ({3: margin}, TypeError, "metrics must have strings as names, but one is 3"),
        ({"loss": margin}, ValueError, "metrics must have names other than loss, accuracy .* one is 'loss'"),
        ({"": margin}, ValueError, "but one is ''"),
        ({"f1": 0.5}, TypeError, r"metrics\['f1'\] must be an object with update, .* but is a float"),
        ({"f1": lambda logits: 1}, ValueError, r"metrics\['f1'\] must take .* but raises TypeError"),
        (
            {"f1": lambda logits, y: logits},
            ValueError,
            r"metrics\['f1'\] must come to one number, .*\(25, 3\)",
        ),
        ({"f1": lambda logits, y: {}}, ValueError, r"metrics\['f1'\] must come to one number, .* a dict"),
        ({"f1": lambda logits, y: "0.5"}, ValueError, r"metrics\['f1'\] must come to one number, .* a str"),
        (
            {"f1": lambda logits, y: 1 // 0},
            ValueError,
            r"validation: metrics\['f1'\] .* raises ZeroDivisionError",
        ),
    ],
    ids=[
        "list",
        "number as name",
        "loss",
        "empty",
        "number",
        "one argument",
        "matrix",
        "dict",
        "str",
        "raises",
    ],
)
def test_a_wrong_metric_is_found_before_training(metrics: Any, error: type[Exception], sentence: str) -> None:
    model = network()
    before = [own.detach().clone() for own in model.parameters()]
    with pytest.raises(error, match=sentence):
        train(model, (X, Y), validation=HELD_OUT, metrics=metrics, progress=False)
    assert all(map(torch.equal, before, model.parameters()))


def test_metrics_need_validation_data() -> None:
    with pytest.raises(ValueError, match=r"metrics must come with validation data, .* but 'margin' has none"):
        run(validation=None, metrics={"margin": margin})
    _, history = run(validation=None, validation_fraction=0.2, metrics={"margin": margin})
    assert isinstance(history.epochs[0]["validation_margin"], float)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"monitor": "validation_f1"}, "mode must be 'max' or 'min' where a metric of your own is monitored"),
        ({"monitor": "validation_f1", "mode": "up"}, "mode must be 'max' or 'min', but is 'up'"),
    ],
)
def test_a_metric_needs_a_mode(arguments: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        EarlyStopping(**arguments)


def test_a_metric_that_the_run_does_not_have_is_found_before_training() -> None:
    with pytest.raises(ValueError, match=r"monitor must be one of .*validation_margin in this run"):
        run(metrics={"margin": margin}, callbacks=[EarlyStopping("validation_f1", mode="max")])


def test_the_history_keeps_shows_and_draws_them(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    _, history = run(metrics={"margin": margin})
    path = tmp_path / "history.json"
    history.save(path)
    read = History.load(path)
    assert read.epochs == history.epochs
    column = read.to_pandas()["validation_margin"]
    pandas.testing.assert_series_equal(column, history.to_pandas()["validation_margin"])
    assert "validation_margin" in repr(read)
    panels = read.plot().axes
    assert [panel.get_ylabel() for panel in panels] == ["loss", "accuracy", "margin"]
    (line,) = panels[2].get_lines()
    assert line.get_ydata().tolist() == [row["validation_margin"] for row in history.epochs]


def test_an_epoch_that_was_broken_off_has_none() -> None:
    class Break:
        def on_start(self, state: Any) -> None:
            self.history = state.history

        def on_step(self, state: Any) -> None:
            if state.epoch == 2:
                raise KeyboardInterrupt

    breaking = Break()
    with pytest.raises(KeyboardInterrupt):
        run(metrics={"margin": margin}, callbacks=[breaking])
    assert breaking.history.epochs[1]["validation_margin"] is None
    assert "validation_margin" not in repr(breaking.history)


def test_the_progress_bar_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    _, history = run(metrics={"margin": margin}, progress=True)
    assert f"validation_margin={history.epochs[-1]['validation_margin']:.4f}" in capsys.readouterr().err


def test_a_resumed_run_has_the_same_metrics(tmp_path: Path) -> None:
    class Break:
        def on_step(self, state: Any) -> None:
            if state.step == 8:
                raise RuntimeError("mine")

    arguments: dict[str, Any] = {"metrics": {"object": Margin(), "function": margin}}
    _, undisturbed = run(**arguments)
    file = {"checkpoint": tmp_path / "run.safetensors"}
    with pytest.raises(RuntimeError, match="mine"):
        run(callbacks=[Break()], **arguments, **file)
    _, resumed = run(resume=True, **arguments, **file)
    for name in ("validation_object", "validation_function"):
        assert [row[name] for row in resumed.epochs] == [row[name] for row in undisturbed.epochs]
    with pytest.raises(
        ValueError, match=r"metrics 'object by .*Margin, function by .*margin' and not 'none'"
    ):
        run(resume=True, **file)
