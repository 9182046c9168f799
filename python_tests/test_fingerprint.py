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
    """More than are compared."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(250, 6, generator=generator), torch.arange(250) % 3
    return x, y if loss == "cross_entropy" else torch.eye(3)[y]


def started(name: str, loss: str = "cross_entropy") -> Any:
    torch.manual_seed(0)
    method = altmin_ext.make_method(name, altmin_ext.models.mlp(6, (5,), 3), loss=loss)
    method.step(*samples(loss))
    return method


OTHERS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "x is scaled": lambda x, y: (30 * x, y),
    "x is rounded": lambda x, y: (x.bfloat16().float(), y),
    "x is permuted": lambda x, y: (x.flip(0), y),
    "y is permuted": lambda x, y: (x, y.flip(0)),
    "both are permuted": lambda x, y: (x.flip(0), y.flip(0)),
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
