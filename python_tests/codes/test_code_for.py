"""Which kind of code holds the output of which map.

Oracle: the table below, by hand, from what the kernels of each kind compute.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models
from altmin_ext.codes import Code, Flags, MatrixCode, Slot, code_for
from altmin_ext.network import BoundStage, LocalMap, Map, known_maps, split
from altmin_ext.nn import GRU, Sign
from altmin_ext.ops import CodeScalar

CHAINS: dict[str, tuple[Callable[[], nn.Module], list[str], list[str]]] = {
    # By hand: with a single step of everything, and with several.
    "linear": (lambda: models.mlp(4, (3, 3), 2), ["MatrixCode"] * 2, ["MatrixCode"] * 2),
    "convolutions": (
        lambda: models.lenet5(1, 16), [*["ConvolutionCode"] * 2, *["MatrixCode"] * 2], ["MatrixCode"] * 4,
    ),
    "a convolution that the kernels do not compute": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)),
        ["MatrixCode"], ["MatrixCode"],
    ),
    "a pre-map that they do not": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)),
        ["MatrixCode"], ["MatrixCode"],
    ),
    "signs": (
        lambda: nn.Sequential(nn.Linear(4, 3), Sign("none"), nn.Linear(3, 3), Sign(), nn.Linear(3, 2)),
        ["FlippedCode", "MatrixCode"], ["FlippedCode", "MatrixCode"],
    ),
    "elman": (
        lambda: models.elman_rnn(1, 3, 4, 2),
        ["ElmanCode", "OutputSequenceCode"], ["ElmanCode", "OutputSequenceCode"],
    ),
    "gru": (lambda: nn.Sequential(GRU(1, 3), nn.Flatten(), nn.Linear(12, 2)), ["MatrixCode"], ["MatrixCode"]),
}  # fmt: skip


def codes_of(stages: list[BoundStage], iterations: int, once: bool) -> list[Code]:
    codes = []
    for stage in stages:
        stage.map.allocate(torch.empty(0))
    for stage, above in itertools.pairwise(stages):
        row, flag = torch.zeros(len(CodeScalar), dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        slot = Slot(stage, above, row, Flags(flag, flag), iterations, iterations, once)
        codes.append(code_for(stage.map, slot))
    return codes


@pytest.mark.parametrize("chain", CHAINS)
def test_kinds(chain: str) -> None:
    make, single, several = CHAINS[chain]
    stages = split(make())
    assert [type(code).__name__ for code in codes_of(stages, 1, once=True)] == single
    assert [type(code).__name__ for code in codes_of(stages, 3, once=False)] == several


def test_codes_know_which_are_beside_them() -> None:
    """From the method that makes them; lanes are handed on where both sides have them."""
    codes = altmin_ext.make_method("am-adam", models.lenet5(1, 16))._codes
    assert [code.below for code in codes] == [None, *codes[:-1]]
    assert [code.above for code in codes] == [*codes[1:], None]
    assert [(code._from_lanes, code._to_lanes) for code in codes[:2]] == [(False, True), (True, False)]


def test_a_map_without_a_code_is_refused() -> None:
    class Unheard(Map):
        def output_shape(self, shape: torch.Size) -> torch.Size:
            return shape

    stage, above = split(models.mlp(4, (3,), 2))
    flag = torch.zeros(1, dtype=torch.float64)
    slot = Slot(stage, above, torch.zeros(len(CodeScalar), dtype=torch.float64), Flags(flag, flag))
    with pytest.raises(TypeError, match=r"^map must be .*, but is an Unheard[.]$"):
        code_for(Unheard(()), slot)


class Counting(nn.Linear):
    """A module of one's own."""


class CountingMap(LocalMap):
    """Its map, whose weights want two steps."""

    default_iterations = altmin_ext.network.Iterations(codes=1, weights=2)

    def __init__(self, module: Counting) -> None:
        super().__init__([altmin_ext.network.pieces.LinearPiece(module)], module.weight.detach()[:0])


class CountingCode(MatrixCode):
    """Its code, which counts how often it is fitted to."""

    fits = 0

    def fit(self, activation: Tensor, below: Code | None, first: bool) -> None:
        self.fits += 1
        super().fit(activation, below, first)


@code_for.register
def _(map: CountingMap, slot: Slot) -> Code:
    return CountingCode(map, slot)


def test_a_map_brings_its_code_and_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known_maps, Counting, CountingMap)
    model = nn.Sequential(Counting(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    method = altmin_ext.make_method("am-adam", model)
    assert (method.options.code_iterations, method.options.weight_iterations) == (1, 2)
    assert [type(code) for code in method._codes] == [CountingCode, MatrixCode]
    for _ in range(3):
        method.step(torch.randn(5, 4), torch.arange(5) % 2)
    assert method._codes[0].fits == 6
    given = altmin_ext.make_method("am-adam", model, weight_iterations=1)
    assert given.options.weight_iterations == 1
