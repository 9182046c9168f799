"""Which models may write to their input. Oracle: the input, after the model has run on it in both modes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext.network import may_write_input


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.5)


class Own(nn.Module):
    """Writes nothing, which nobody can know beforehand."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


def hooked(front: nn.Module) -> nn.Module:
    front.register_forward_pre_hook(lambda _, args: (args[0].mul_(0.5),))
    return front


def stage(pre: nn.Module) -> nn.Module:
    return altmin_ext.Stage(pre, nn.Linear(6, 6))


WRITING: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "behind views": lambda: nn.Sequential(nn.Identity(), nn.Flatten(), nn.ELU(inplace=True)),
    "nested": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Sequential(nn.Flatten(), nn.SiLU(inplace=True))
    ),
    "dropout": lambda: nn.Dropout(0.5, inplace=True),
    "behind dropout": lambda: nn.Sequential(nn.Dropout(), nn.ReLU(inplace=True)),
    "hardtanh": lambda: nn.Hardtanh(-0.1, 0.1, inplace=True),
    "own": Halved,
    "hook": lambda: hooked(nn.Linear(6, 6)),
    "hook of a chain": lambda: hooked(nn.Sequential(nn.Linear(6, 6))),
    "stage": lambda: stage(nn.ReLU(inplace=True)),
    "own in a stage": lambda: nn.Sequential(stage(Halved())),
}
READING: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: altmin_ext.models.mlp(6, [5], 3),
    "relu in place behind a Linear": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(6, 6), nn.ReLU(inplace=True)
    ),
    "relu in place behind a normalisation": lambda: nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(inplace=True)),
    "own behind a relu": lambda: nn.Sequential(nn.ReLU(), Halved()),
    "own behind a convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 1, 3), Halved()),
    "lenet5": lambda: altmin_ext.models.lenet5(),
    "stage": lambda: stage(nn.Tanh()),
    "dropout": lambda: nn.Sequential(nn.Dropout(), nn.Linear(6, 6)),
}


@pytest.mark.parametrize("name", WRITING)
def test_what_writes(name: str) -> None:
    model = WRITING[name]()
    assert may_write_input(model)
    given = torch.linspace(-1, 1, 24).view(4, 6)
    x = given.clone()
    with torch.no_grad():
        for training in (True, False):
            model.train(training)(x)
    assert not torch.equal(x, given)


@pytest.mark.parametrize("name", READING)
def test_what_only_reads_needs_no_copy(name: str) -> None:
    model = READING[name]()
    assert not may_write_input(model)
    x = (
        torch.linspace(-1, 1, 4 * 784).view(4, 1, 28, 28)
        if name == "lenet5"
        else torch.linspace(-1, 1, 24).view(4, 6)
    )
    given = x.clone()
    with torch.no_grad():
        for training in (True, False):
            model.train(training)(x)
    assert torch.equal(x, given)


def test_what_is_not_known_may_write() -> None:
    assert may_write_input(Own())


@pytest.mark.parametrize("name", ["am-adam", "block-admm", "adam"])
def test_own_modules_that_write_train_like_those_that_do_not(name: str) -> None:
    states = []
    for front in (Halved, Own):
        torch.manual_seed(0)
        model = nn.Sequential(front(), nn.Linear(6, 5), front(), nn.Tanh(), nn.Linear(5, 3))
        method = altmin_ext.make_method(name, model)
        for _ in range(3):
            method.step(torch.linspace(-1, 1, 24).view(4, 6), torch.tensor([0, 1, 2, 0]))
        states.append(model.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=0, atol=0)
