"""How far steps move codes, as steps and the History report it.

Oracle: the first step of a method on its own definition, in float64. For online AM that is the update of the codes in
the paper, with one code step of the size that the method says; for difference target propagation it is the
objectives, which are sums of squares of the same displacements.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext.methods import Method

MU = 0.5


def task() -> tuple[nn.Sequential, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)
        ).double()
        x, y = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3
    return model, x, y


def moved_by_am(model: nn.Sequential, x: Tensor, y: Tensor, sizes: Tensor) -> list[Tensor]:
    """c^0 - c of both codes: each a step along its local objective, the lower one with the moved code above it."""
    first, relu, second, tanh, last = model
    low = first(x)
    top = second(relu(low))
    probabilities = last(tanh(top)).softmax(1)
    error = probabilities - nn.functional.one_hot(y, 3)
    of_top = sizes[1] * (error @ last.weight) * (1 - tanh(top) ** 2) / (2 * MU)
    of_low = sizes[0] * (of_top @ second.weight) * (low > 0)
    return [of_low, of_top]


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


@pytest.mark.parametrize("name", ["am-adam", "am-sgd", "am-mem", "am-adam-off", "am-mem-off"])
@torch.no_grad()
def test_online_am_reports_how_far_the_paper_s_step_moves_each_code(name: str) -> None:
    model, x, y = task()
    before = copy.deepcopy(model)
    options: dict[str, Any] = {"chunk_size": 3} if name.endswith("off") else {}
    method = altmin_ext.make_method(name, model, mu=MU, report_objective=True, **options)
    report = method.step(x, y)
    assert report.displacement is not None
    assert report.displacement.dtype == torch.float64
    assert isinstance(method, altmin_ext.methods.online_am.OnlineAM)
    expected = [rms(moved) for moved in moved_by_am(before, x, y, method.code_step_sizes)]
    assert report.displacement.tolist() == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
def test_targets_of_dtp_are_as_far_away_as_the_objective_says() -> None:
    model, x, y = task()
    report = altmin_ext.make_method("dtp", model, report_objective=True).step(x, y)
    assert report.displacement is not None
    assert report.objective is not None
    # The objective of a layer is the mean over the samples of the sum over its 7 or 6 units.
    expected = [float(report.objective[layer] / width) ** 0.5 for layer, width in enumerate((7, 6))]
    assert report.displacement.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["am-adam", "am-adam-off", "dtp"])
def test_nothing_is_reported_unless_asked_for(name: str) -> None:
    model, x, y = task()
    assert altmin_ext.make_method(name, model).step(x, y).displacement is None


def test_a_network_without_codes_and_backprop_report_none() -> None:
    _, x, y = task()
    alone = nn.Sequential(nn.Linear(5, 3)).double()
    assert altmin_ext.make_method("am-adam", alone, report_objective=True).step(x, y).displacement is None
    assert altmin_ext.make_method("sgd", task()[0], report_objective=True).step(x, y).displacement is None


def test_a_report_is_copied_whole() -> None:
    model, x, y = task()
    report = altmin_ext.make_method("am-adam", model, report_objective=True).step(x, y)
    copied = report.copied().displacement
    assert copied is not None
    assert report.displacement is not None
    assert torch.equal(copied, report.displacement)
    assert copied.data_ptr() != report.displacement.data_ptr()


def reports(method: Method, x: Tensor, y: Tensor, size: int) -> Tensor:
    """The displacements of steps on minibatches, one after the other."""
    found = [method.step(*batch).displacement for batch in zip(x.split(size), y.split(size), strict=True)]
    return torch.stack([own for own in found if own is not None])


def test_a_stream_reports_every_step() -> None:
    model, x, y = task()
    one, other = (
        altmin_ext.make_method("am-adam", copy.deepcopy(model), report_objective=True) for _ in range(2)
    )
    learned = one.learn(x, y, 3).displacement
    assert learned is not None
    assert torch.equal(learned, reports(other, x, y, 3))


def test_an_epoch_has_the_mean_over_all_samples() -> None:
    """Minibatches of 3, 3 and 2."""
    model, x, y = task()
    method = altmin_ext.make_method("am-adam", copy.deepcopy(model), report_objective=True)
    first, second = reports(method, x, y, 3), reports(method, x, y, 3)
    history = altmin_ext.train(
        model, (x, y), epochs=2, batch_size=3, shuffle=False, report_objective=True, progress=False
    )
    weights = torch.tensor([3.0, 3.0, 2.0], dtype=torch.float64)[:, None] / 8
    for row, steps in zip(history.epochs, (first, second), strict=True):
        assert row["displacement"] == pytest.approx((weights * steps).sum(0).tolist(), rel=1e-12)
    assert [row["steps"] for row in history.epochs] == [3, 6]
    plain = altmin_ext.train(task()[0], (x, y), epochs=1, batch_size=3, progress=False)
    assert plain.epochs[0]["displacement"] is None


def test_a_skipped_minibatch_does_not_spoil_the_mean() -> None:
    model, x, y = task()
    bad = torch.full_like(x, torch.nan)
    expected = (
        altmin_ext.make_method("am-adam", copy.deepcopy(model), report_objective=True).step(x, y).displacement
    )
    history = altmin_ext.train(
        model, [(x, y), (bad, y)], on_nonfinite="skip", report_objective=True, progress=False
    )
    assert expected is not None
    assert history.epochs[0]["displacement"] == pytest.approx(expected.tolist(), rel=1e-12)
