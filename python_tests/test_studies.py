"""What the studies in benchmarks/paper compute by themselves. Oracle: the definitions, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from altmin_ext import data
from benchmarks.macro import trajectories
from benchmarks.paper import autoencoder, drift, factors, mdlam, taylor


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 4])
def test_turned_by_right_angles(quarters: int) -> None:
    x = torch.randn(3, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        drift.turned(x, 90.0 * quarters), torch.rot90(x, quarters, (2, 3)), rtol=0, atol=1e-5
    )


def test_labels_change_places(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(300, 28), torch.zeros(300, dtype=torch.int64)
    set_ = data.DataSet("higgs", (x, y), (x, y), 2)
    monkeypatch.setattr(data, "load", lambda name: set_)
    abrupt = torch.stack([labels.double().mean() for _, labels in drift.flip_abrupt(0)])
    assert abrupt.tolist() == [0.0] * 334 + [1.0] * 333 + [0.0] * 333
    gradual = torch.stack([labels.double().mean() for _, labels in drift.flip_gradual(0)])
    assert gradual[:100].mean() == pytest.approx(0.05, abs=0.02)
    assert gradual[-100:].mean() == pytest.approx(0.95, abs=0.02)


def test_time_to_an_accuracy_is_that_of_the_first_point_there() -> None:
    points = [(0.5, 0.60), (1.0, 0.63), (1.5, 0.61), (2.0, 0.65)]
    assert taylor.seconds_to(points, 0.63) == 1.0
    assert taylor.seconds_to(points, 0.64) == 2.0
    assert taylor.seconds_to(points, 0.66) is None


def test_published_script_is_run_iteration_by_iteration(tmp_path: Path) -> None:
    """A script of the same build: functions that use globals, a loop that prints and takes its own time."""
    (tmp_path / "mDLAM.py").write_text(
        "import time\n"
        "import numpy as np\n"
        "from input_data import cora, pubmed\n"
        "dataset = cora()\n"
        "def accuracy(i):\n"
        "    return shape[0] + i\n"
        "shape = dataset.x_train.shape, dataset.y_test.shape, dataset.num_classes\n"
        "shape = [10 * dataset.x_train.shape[1] + dataset.num_classes]\n"
        "test_acc = np.zeros(3)\n"
        "for i in range(3):\n"
        "    pre = time.time()\n"
        "    print('iteration', i)\n"
        "    after = time.time()\n"
        "    test_acc[i] = accuracy(i)\n"
    )
    train, test = (torch.zeros(4, 1, 2, 2), torch.arange(4)), (torch.zeros(2, 1, 2, 2), torch.arange(2))
    found = mdlam.published_iterations(tmp_path, train, test)
    rows = [next(found) for _ in range(3)]
    assert [accuracy for _, accuracy in rows] == [44.0, 45.0, 46.0]
    assert all(0 <= seconds < 1 for seconds, _ in rows)


def test_measures_of_factors() -> None:
    """Four classes in two groups, two samples each: factors of one class, of one group, of none."""
    y = torch.tensor([0, 0, 2, 2, 1, 1, 3, 3])  # tops, tops; trousers and dresses
    own = torch.nn.functional.one_hot(y, 4).double()
    group = torch.nn.functional.one_hot(factors.groups[y], 2).double()
    none = torch.ones(8, 2, dtype=torch.float64)
    assert [factors.purity(codes, y) for codes in (own, group, none)] == pytest.approx([1.0, 0.5, 0.25])
    assert [factors.information(codes, y) for codes in (own, group, none)] == pytest.approx([2.0, 1.0, 0.0])
    assert [factors.within(codes, y) for codes in (own, group, none)] == pytest.approx([1.0, 0.0, 0.0])
    assert [factors.hoyer(codes) for codes in (own, none)] == pytest.approx([1.0, 0.0])
    unused = torch.cat([own, torch.zeros(8, 3, dtype=torch.float64)], 1)
    assert factors.purity(unused, y) == pytest.approx(1.0)


def test_codes_of_networks_with_and_without_the_layer() -> None:
    x = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for build, widths in ((factors.network, (64, 256)), (factors.convolutional, (32, 64))):
        for layer, width in zip((True, False), widths, strict=True):
            codes = factors.codes_of(build(layer, 4).eval(), x)
            assert codes.shape == (5, width)
            assert float(codes.min()) >= 0


def test_trajectories_are_compared_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    """The third of four steps differs, by a hundredth of the largest number."""
    before = {
        "one": {"hashes": list("abcd"), "losses": [0.5], "last": [1.0, -2.0]},
        "other": {"hashes": ["e"], "losses": [], "last": []},
    }
    assert trajectories.compare(before, before) == 0
    after = {**before, "one": {"hashes": list("abxy"), "last": [1.02, -2.0]}}
    assert trajectories.compare(before, after) == 1
    assert "one: from step 3 on, 1.0e-02 of the largest" in capsys.readouterr().out
    assert trajectories.compare(before, {"one": before["one"]}) == 1


def test_time_to_an_error_is_interpolated() -> None:
    curve = [
        (0.5, 2.0, 0.5, 1.0),
        (1.0, 4.0, 0.3, 1.0),
        (1.5, 6.0, 0.1, 1.0),
    ]  # epochs, seconds, training, test
    assert autoencoder.seconds_to({"curve": curve}, 0.2) == pytest.approx(5.0)
    assert autoencoder.seconds_to({"curve": curve}, 0.3) == pytest.approx(4.0)
    assert autoencoder.seconds_to({"curve": curve}, 0.6) == pytest.approx(2.0)
    assert autoencoder.seconds_to({"curve": curve}, 0.05) == float("inf")


@pytest.mark.parametrize("shape", [(7, 30), (30, 7), (12, 12)])
def test_muon_s_directions_are_nearly_orthogonal(shape: tuple[int, int]) -> None:
    """Singular values from .03 to 1 come out around 1, and singular vectors stay."""
    left, right = (torch.linalg.qr(torch.randn(n, min(shape))).Q for n in shape)
    values = torch.logspace(-1.5, 0, min(shape))
    found = autoencoder.orthogonalised(left * values @ right.t())
    inner = left.t() @ found @ right
    assert 0.6 < float(inner.diagonal().min()) <= float(inner.diagonal().max()) < 1.3
    torch.testing.assert_close(inner, inner.diagonal().diag(), rtol=0, atol=1e-4)
