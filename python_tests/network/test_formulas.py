"""Formulas that are read from the forward of a block's class.

Oracles: what each forward says, written down by hand as a list of steps; and torch, which runs blocks that no formula
must be read from. That a formula computes what its block does is tested in test_pieces.py, with the blocks of
modules.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext.network.formulas import formula_of
from altmin_ext.network.pieces import BlockPiece, LocalPiece, piece_of

from .modules import Block, Gated, Inner, Residual


def steps(module: nn.Module) -> list[tuple[str, str, tuple[int, ...]]]:
    formula = formula_of(module)
    assert formula is not None
    return [(step.path, type(step.module).__name__, step.inputs) for step in formula]


def test_steps_are_those_of_the_forward() -> None:
    assert steps(Residual(2, 3)) == [
        ("first", "Conv2d", (0,)),
        ("act", "ELU", (1,)),
        ("second", "Conv2d", (2,)),
        ("shortcut", "Conv2d", (0,)),
        ("", "NoneType", (3, 4)),
        ("tanh", "Tanh", (5,)),
    ]
    assert steps(Inner()) == [
        ("layers.0", "Linear", (0,)),
        ("layers.1", "Tanh", (1,)),
        ("layers.2", "Linear", (2,)),
        ("", "NoneType", (0, 3)),
    ]


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act, self.scale = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), 2.0


class Scales(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) * self.scale


class AddsNumber(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) + 1


class Depends(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) if self.training else self.b(x) + self.a(x)


class DependsOnData(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) if x.sum() > 0 else self.b(x) + self.a(x)


class Twice(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(self.a(x)))


class LeavesOut(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.a(x)


class Unused(Layers):
    def forward(self, x: Tensor) -> Tensor:
        self.a(x)
        return self.b(x)


class Draws(Layers):
    def forward(self, x: Tensor) -> Tensor:
        torch.rand(3)
        return self.b(self.a(x))


class Counts(Layers):
    def forward(self, x: Tensor) -> Tensor:
        self.scale = 3.0
        return self.b(self.a(x))


class Loops(Layers):
    def forward(self, x: Tensor) -> Tensor:
        while True:
            x = self.a(x)


class DropsByFunction(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(self.a(x), 0.5, self.training))


class Alpha(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.b(x), self.a(x), alpha=2)


class Optional(Layers):
    def forward(self, x: Tensor, factor: int = 1) -> Tensor:
        return self.b(self.a(x))


class OverwritesShared(Layers):
    """The skip sees what the activation has written."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.a(x)
        return self.b(self.act(inner)) + inner


class OverwritesView(OverwritesShared):
    def __init__(self) -> None:
        super().__init__()
        self.keep = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.a(x)
        return self.b(self.act(self.keep(inner))) + inner


class AddsInPlace(Layers):
    def forward(self, x: Tensor) -> Tensor:
        inner = self.a(x)
        before = inner
        inner += x
        return self.b(inner) + before


class Property(Layers):
    @property
    def inner(self) -> nn.Module:
        return self.b

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.a(x))


class OwnCall(Layers):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def hooked() -> nn.Module:
    block = Inner()
    block.register_forward_hook(lambda module, inputs, output: 2 * output)
    return block


REFUSED: list[Callable[[], nn.Module]] = [
    Scales, AddsNumber, Depends, DependsOnData, Twice, LeavesOut, Unused, Draws, Counts, Loops, DropsByFunction,
    Alpha, Optional, OverwritesShared, OverwritesView, AddsInPlace, Property, OwnCall, hooked, Block,
    lambda: nn.Linear(2, 2), nn.ReLU,
]  # fmt: skip


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_else_a_forward_may_do_is_left_to_torch(make: Callable[[], nn.Module]) -> None:
    """And reading it draws nothing, and changes nothing in the module."""
    module = make()
    drawn, kept = torch.get_rng_state(), copy.copy(vars(module))
    assert formula_of(module) is None
    assert torch.equal(torch.get_rng_state(), drawn)
    assert vars(module) == kept


def test_a_block_is_evaluated_by_its_formula_and_others_are_run() -> None:
    for block in (Residual(2, 2), Gated()):
        assert isinstance(piece_of("0", block), BlockPiece)
    assert isinstance(piece_of("0", Block()), LocalPiece)


class Normalised(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.drop(self.norm(self.a(x))))


def test_statistics_and_masks_are_those_of_one_forward_pass() -> None:
    """Of a copy of the block, as torch runs it; and every evaluation is that of the same function."""
    block = Normalised()
    one_pass, (a, delta) = copy.deepcopy(block), torch.randn(2, 6, 4)
    tried = piece_of("0", block)
    assert isinstance(tried, BlockPiece)
    torch.manual_seed(3)
    expected = one_pass(a).detach()
    torch.manual_seed(3)
    with torch.no_grad():
        torch.testing.assert_close(tried.begin(a).clone(), expected)
        tried.move(delta, torch.tensor(0.1))
        torch.testing.assert_close(tried.value(a), expected)
        tried.commit()
    torch.testing.assert_close(block.state_dict(), one_pass.state_dict())


class Recurrent(Layers):
    """A module in it returns more than one tensor, so that torch fails, and not the reading of it."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.GRU(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def test_a_block_around_a_module_that_fits_no_chain_is_run() -> None:
    assert isinstance(piece_of("0", Recurrent()), LocalPiece)


@pytest.mark.parametrize("change", ["other module", "hook inside", "shortcut"])
def test_a_block_that_changes_later_is_refused(change: str) -> None:
    block = Residual(2, 2)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), block, nn.Flatten(), nn.Linear(2 * 12, 3))
    method = altmin_ext.make_method("am-adam", model)
    x, y = torch.randn(5, 1, 4, 3), torch.randint(3, (5,))
    method.step(x, y)
    if change == "other module":
        block.first = nn.Conv2d(2, 2, 1)
    elif change == "shortcut":
        block.shortcut = nn.Conv2d(2, 2, 1)
    else:
        block.first.register_forward_hook(lambda module, inputs, output: 2 * output)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"^model must be as it was .*'2.*make a new method"):
        method.step(x, y)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
