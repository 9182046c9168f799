"""Recurrent layers that return their output sequence, and the sequences that they read.

Oracles: torch's own GRU and LSTM with the same parameters; for Elman's layer its recurrence, written as a loop.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from altmin_ext.nn import GRU, LSTM, Elman, TimeSteps

CASES: dict[str, tuple[type[nn.RNNBase], type[nn.RNNBase], dict[str, Any], int]] = {
    "gru": (GRU, nn.GRU, {}, 5),
    "gru, two layers, both directions": (GRU, nn.GRU, {"num_layers": 2, "bidirectional": True}, 10),
    "gru, without biases": (GRU, nn.GRU, {"bias": False}, 5),
    "gru, dropout": (GRU, nn.GRU, {"num_layers": 2, "dropout": 0.5}, 5),
    "lstm": (LSTM, nn.LSTM, {}, 5),
    "lstm, projected": (LSTM, nn.LSTM, {"proj_size": 2, "bidirectional": True}, 4),
}


@pytest.mark.parametrize("case", CASES)
def test_layers_are_torchs_but_for_what_they_return(case: str) -> None:
    ours, torchs, options, features = CASES[case]
    torch.manual_seed(0)
    layer = ours(3, 5, **options)
    torch.manual_seed(0)
    reference = torchs(3, 5, batch_first=True, **options)
    assert list(layer.state_dict()) == list(reference.state_dict())
    x = torch.randn(4, 6, 3)
    torch.manual_seed(1)
    sequence: Tensor = layer(x)
    torch.manual_seed(1)
    expected: Tensor = reference(x)[0]
    assert sequence.shape == (4, 6, features)
    assert torch.equal(sequence, expected)
    sequence.square().sum().backward()
    expected.square().sum().backward()
    for one, other in zip(layer.parameters(), reference.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("layer", [GRU, LSTM])
def test_samples_come_first(layer: type[nn.RNNBase]) -> None:
    assert layer(3, 5, batch_first=True).batch_first
    with pytest.raises(ValueError, match=r"^batch_first must be True, but is False; .*[.]$"):
        layer(3, 5, batch_first=False)


def test_elman_is_its_recurrence() -> None:
    layer, x = Elman(3, 5), torch.randn(4, 6, 3)
    h, states = torch.zeros(4, 5), []
    for t in range(6):
        c = (
            x[:, t] @ layer.weight_ih_l0.t()
            + h @ layer.weight_hh_l0.t()
            + layer.bias_ih_l0
            + layer.bias_hh_l0
        )
        h = torch.tanh(c)
        states.append(h)
    torch.testing.assert_close(layer(x), torch.stack(states, 1))


def test_time_steps_are_the_numbers_in_order() -> None:
    x = torch.arange(24.0).view(2, 1, 3, 4)
    steps = TimeSteps(4)(x)
    assert steps.shape == (2, 3, 4)
    assert torch.equal(steps.flatten(), x.flatten())
    assert TimeSteps(1)(x).shape == (2, 12, 1)


def test_time_steps_that_cannot_be_had() -> None:
    with pytest.raises(
        ValueError, match=r"^x must hold a multiple of 5 numbers per sample, but holds 12[.]$"
    ):
        TimeSteps(5)(torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match=r"^n_in must be at least 1, but is 0[.]$"):
        TimeSteps(0)
