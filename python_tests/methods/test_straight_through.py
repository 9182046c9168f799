"""The straight-through estimator.

Oracle: torch's own AdamW on a network whose Sign is written with detach, which sends the gradient around it.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext.models import binary_mlp
from altmin_ext.nn import Sign


class Around(nn.Module):
    def __init__(self, clip: bool) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, c: Tensor) -> Tensor:
        through = c.clamp(-1, 1) if self.clip else c
        return (torch.where(c > 0, 1.0, -1.0) - through).detach() + through


def network(surrogate: str) -> nn.Sequential:
    """One whose Sign sees codes beyond 1, where clipping tells."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 16), Sign(surrogate), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def clouds() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(60) % 3
    return 3 * torch.eye(3, 6, dtype=torch.float64)[y] + torch.randn(
        60, 6, generator=generator, dtype=torch.float64
    ), y


@pytest.mark.parametrize("surrogate", ["identity", "clipped"])
def test_is_adam_around_the_sign(surrogate: str) -> None:
    model = network(surrogate).double()
    twin = copy.deepcopy(model)
    twin[1] = Around(surrogate == "clipped")
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.1)
    method = altmin_ext.make_method("ste", model, lr=0.01, weight_decay=0.1)
    x, y = clouds()
    for _ in range(5):
        loss = F.cross_entropy(twin(x), y)
        torch.testing.assert_close(method.step(x, y).loss, loss.detach(), rtol=1e-12, atol=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("surrogate", ["identity", "clipped"])
@pytest.mark.parametrize("name", ["ste", "adam", "sgd", "am-adam"])
def test_a_binary_network_learns(name: str, surrogate: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = binary_mlp(6, (16, 8), 3, surrogate).double()
    before = copy.deepcopy(model)
    method = altmin_ext.make_method(name, model, lr=0.3 if name == "sgd" else 0.02)
    x, y = clouds()
    losses = [float(method.step(x, y).loss) for _ in range(60)]
    assert losses[-1] < 0.3 * losses[0]
    assert not torch.equal(model[1].weight, before[1].weight)


def test_a_sign_without_surrogate_is_refused() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 5), Sign("none")), nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"^model must have a surrogate .* '0\.1' is 'none'; make it .*\.$"):
        altmin_ext.make_method("ste", model)
