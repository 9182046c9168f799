"""Methods that hold variables for every sample of the training set refuse others. Oracle: what was done to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import altmin_ext

every_name = pytest.mark.parametrize("name", ["mdlam", "dladmm", "admm"])


def samples(loss: str = "cross_entropy") -> tuple[Tensor, Tensor]:
    """More than are compared where torch knows that nobody has written to them."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(250, 6, generator=generator), torch.arange(250) % 3
    return x, y if loss == "cross_entropy" else torch.eye(3)[y]


def started(name: str, loss: str = "cross_entropy") -> Any:
    torch.manual_seed(0)
    method = altmin_ext.make_method(name, altmin_ext.models.mlp(6, (5,), 3), loss=loss)
    method.step(*samples(loss))
    return method


def with_one_changed(tensor: Tensor, number: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    changed = tensor.clone()
    changed[number] = change(changed[number])
    return changed


def two_exchanged(tensor: Tensor) -> Tensor:
    return tensor[[*range(101), 102, 101, *range(103, len(tensor))]]


def signs_of_two(row: Tensor) -> Tensor:
    """What only the uppermost bits tell."""
    return torch.cat([row[:1], -row[1:2], row[2:3], -row[3:4], row[4:]])


OTHERS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "x is scaled": lambda x, y: (30 * x, y),
    "x is rounded": lambda x, y: (x.bfloat16().float(), y),
    "x is permuted": lambda x, y: (x.flip(0), y),
    "y is permuted": lambda x, y: (x, y.flip(0)),
    "both are permuted": lambda x, y: (x.flip(0), y.flip(0)),
    "x of one sample": lambda x, y: (with_one_changed(x, 101, lambda row: row.nextafter(row + 1)), y),
    "x of one sample in two signs": lambda x, y: (with_one_changed(x, 101, signs_of_two), y),
    "y of one sample": lambda x, y: (
        x,
        with_one_changed(y, 101, lambda own: own.flip(0) if own.ndim else 2 - own),
    ),
    "x of two exchanged": lambda x, y: (two_exchanged(x), y),
}


@every_name
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("case", OTHERS)
def test_other_samples_are_refused(name: str, loss: str, case: str) -> None:
    """The sentence says which argument it is; the step has never been, and the same samples are welcome after it."""
    method, undisturbed = started(name, loss), started(name, loss)
    x, y = samples(loss)
    with pytest.raises(
        ValueError, match=rf"^{case[0] if case[0] in 'xy' else 'x'} must hold .*, but .*{name}.*\.$"
    ):
        method.step(*OTHERS[case](x, y))
    assert float(method.step(x, y).loss) == float(undisturbed.step(x, y).loss)


@every_name
def test_the_same_samples_elsewhere_are_taken(name: str) -> None:
    """A copy, other strides, and those of before a save."""
    method = started(name)
    x, y = samples()
    resumed = started(name)
    resumed.load_state_dict(method.state_dict())
    resumed.model.load_state_dict(method.model.state_dict())
    losses = [
        [float(method.step(x.clone(), y.clone()).loss) for _ in range(2)],
        [float(resumed.step(x.t().contiguous().t(), y.int()).loss) for _ in range(2)],
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@every_name
def test_a_state_brings_its_samples(name: str) -> None:
    method, (x, y) = started(name), samples()
    other = altmin_ext.make_method(name, altmin_ext.models.mlp(6, (5,), 3))
    other.step(2 * x, y)
    other.load_state_dict(method.state_dict())
    with pytest.raises(ValueError, match="x must hold"):
        other.step(2 * x, y)
    other.step(x, y)


def by_torch(x: Tensor) -> None:
    x[101, 3] += 1


def through_a_view(x: Tensor) -> None:
    x.view(-1)[611].neg_()


@every_name
@pytest.mark.parametrize("write", [by_torch, through_a_view])
@pytest.mark.parametrize("which", ["x", "y"])
def test_samples_that_are_changed_in_place(name: str, write: Callable[[Tensor], None], which: str) -> None:
    """One number of one sample, in the memory that every step has been passed."""
    torch.manual_seed(0)
    method = altmin_ext.make_method(name, altmin_ext.models.mlp(6, (5,), 6), loss="mse")
    x, y = samples()[0], torch.eye(6)[samples()[1]]
    for _ in range(3):
        method.step(x, y)
    changed = {"x": x, "y": y}[which]
    before = changed.clone()
    write(changed)
    with pytest.raises(ValueError, match=rf"^{which} must hold"):
        method.step(x, y)
    changed.copy_(before)
    method.step(x, y)


@every_name
def test_samples_that_are_changed_without_torch_s_knowledge(name: str) -> None:
    """By numpy: told within as many steps as there are hundreds of samples."""
    method = started(name)
    x, y = samples()
    for _ in range(2):
        method.step(x, y)
    x.numpy()[101, 3] += 1

    def three_steps() -> None:
        for _ in range(3):
            method.step(x, y)

    with pytest.raises(ValueError, match=r"^x must hold"):
        three_steps()


@every_name
@pytest.mark.parametrize("number", [100, 101, 102])
def test_a_state_s_samples_are_not_taken_for_those_of_the_last_step(name: str, number: int) -> None:
    """Samples that had passed before a state was loaded are compared with those of the state, every one."""
    method, (x, y) = started(name), samples()
    other = altmin_ext.make_method(name, altmin_ext.models.mlp(6, (5,), 3))
    changed = with_one_changed(x, number, lambda row: row + 1)
    for _ in range(2):
        other.step(changed, y)
    other.load_state_dict(method.state_dict())
    with pytest.raises(ValueError, match=r"^x must hold"):
        other.step(changed, y)


@every_name
@pytest.mark.parametrize("form", ["tensors", "arrays"])
def test_train_with_another_training_set(name: str, form: str) -> None:
    method, (x, y) = started(name), samples()
    given: tuple[Any, Any] = (x, y) if form == "tensors" else (x.numpy(), y.numpy())
    altmin_ext.train(method.model, given, method=method, epochs=2, progress=False)
    x[101, 3] += 1
    with pytest.raises(ValueError, match=r"^x must hold"):
        altmin_ext.train(method.model, given, method=method, epochs=2, progress=False)


@every_name
@pytest.mark.parametrize("count", [1, 129])
def test_a_single_number_of_any_stride(name: str, count: int) -> None:
    """Samples of one feature, the last of which may stand alone: every other number of a larger tensor."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 2, generator=generator, dtype=torch.float64)[..., 0]
    method = altmin_ext.make_method(name, altmin_ext.models.mlp(1, (4,), 3).double(), loss="cross_entropy")
    method.step(x, torch.arange(count) % 3)
    method.step(x.clone(), torch.arange(count) % 3)
    with pytest.raises(ValueError, match="x must hold the samples of the first step"):
        method.step(x + 1, torch.arange(count) % 3)
