"""Models with parts that are frozen. Oracle: their description, read off their modules, parameters and outputs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from altmin_ext.models import random_features

SHAPES: list[Any] = [20, (1, 28, 28), [3, 9, 12], (2, 3, 4)]


@pytest.mark.parametrize("n_in", SHAPES, ids=str)
def test_random_features(n_in: Any) -> None:
    """Flat samples and images alike; only the head learns; as many features as asked for, or nearly."""
    model = random_features(n_in, 90, 5)
    head = model[-1]
    assert isinstance(head, nn.Linear)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        f"{len(model) - 1}.weight", f"{len(model) - 1}.bias"
    ]  # fmt: skip
    assert abs(head.in_features - 90) <= 9 / 2
    shape = (n_in,) if isinstance(n_in, int) else tuple(n_in)
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0))
    assert model(x).shape == (7, 5)
    assert torch.equal(model(x), model(x.flatten(1)))


@pytest.mark.parametrize("n_in", [400, (4, 28, 28)], ids=str)
def test_random_weights(n_in: Any) -> None:
    """Normal with the variance 2 / inputs: within five standard errors, of the mean and of the mean square."""
    model = random_features(n_in, 900, 5)
    (weight,) = [p.double() for p in model.parameters() if not p.requires_grad]
    inputs, count = weight[0].numel(), weight.numel()
    assert abs(float(weight.mean())) < 5 * math.sqrt(2 / inputs / count)
    assert abs(float(weight.square().mean()) * inputs / 2 - 1) < 5 * math.sqrt(2 / count)


def test_random_features_follow_from_the_seed() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (random_features(20, 30, 5, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ((0, 30, 5), ValueError),
        ((20.5, 30, 5), TypeError),
        (((28, 28), 30, 5), ValueError),
        (((1, 28, 0), 30, 5), ValueError),
        ((20, 0, 5), ValueError),
        ((20, 30, 0), ValueError),
        ((20, 30, 5, "rely"), ValueError),
        ((20, 30, 5, "relu", -1), ValueError),
    ],
    ids=str,
)
def test_random_features_that_cannot_be(arguments: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind) as error:
        random_features(*arguments)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".") or str(error.value).endswith("?")
