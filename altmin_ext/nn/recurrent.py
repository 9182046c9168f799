"""Modules of recurrent networks: a sequence cut out of a sample, and layers that return their output sequence."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext.nn.graph_op import graph_op


class TimeSteps(nn.Module):
    """Cuts each sample into a sequence, ``n_in`` numbers at a time: images become sequences of pixels.

    (B, ...) becomes (B, T, n_in), where T n_in is the number of entries of a sample.

    Args:
        n_in: features of one time step.

    Raises:
        TypeError, ValueError: ``n_in`` is no integer, or below 1.
    """

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.n_in = _check.integer("n_in", n_in)

    def forward(self, x: Tensor) -> Tensor:
        """Cut samples into sequences.

        Args:
            x: (B, ...).

        Returns:
            (B, T, n_in), a view if possible.

        Raises:
            ValueError: the size of a sample is no multiple of ``n_in``.
        """
        features = math.prod(x.shape[1:])
        if features % self.n_in:
            raise ValueError(
                f"x must hold a multiple of {self.n_in} numbers per sample, but holds {features}."
            )
        return x.reshape(x.shape[0], features // self.n_in, self.n_in)

    def extra_repr(self) -> str:
        return f"n_in={self.n_in}"


def _states(x: Tensor, v: Tensor, u: Tensor, bias_v: Tensor, bias_u: Tensor, training: bool) -> Tensor:
    start = x.new_zeros(1, x.shape[0], u.shape[0])
    states: Tensor = torch.rnn_tanh(x, start, [v, u, bias_v, bias_u], True, 1, 0.0, training, False, True)[0]
    return states


def _fake_states(x: Tensor, v: Tensor, u: Tensor, bias_v: Tensor, bias_u: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], u.shape[0])


def _back_through_time(
    gradient: Tensor, states: Tensor, x: Tensor, v: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The derivatives by x, V, U and the bias."""
    by_sum = torch.zeros_like(states)  # by V x_t + U h_{t-1} + b
    later = states.new_zeros(states.shape[0], states.shape[2])
    for t in reversed(range(states.shape[1])):
        by_sum[:, t] = (gradient[:, t] + later) * (1 - states[:, t].square())
        later = by_sum[:, t] @ u
    rows = by_sum.flatten(0, 1)
    before = nn.functional.pad(states[:, :-1], (0, 0, 1, 0))
    return by_sum @ v, rows.t() @ x.flatten(0, 1), rows.t() @ before.flatten(0, 1), rows.sum(0)


def _fake_derivatives(
    gradient: Tensor, states: Tensor, x: Tensor, v: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), v.new_empty(v.shape), u.new_empty(u.shape), u.new_empty(u.shape[0])


def _keep_states(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs[:3])


def _pull_back(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    by_x, by_v, by_u, by_bias = _elman_backward(gradient, *ctx.saved_tensors)
    return by_x, by_v, by_u, by_bias, by_bias


# In a graph the recurrence is this one op, and not its formula once for each time step.
_elman = graph_op(
    "elman(Tensor x, Tensor v, Tensor u, Tensor bias_v, Tensor bias_u) -> Tensor",
    lambda x, v, u, bias_v, bias_u: _states(x, v, u, bias_v, bias_u, training=False).contiguous(),
    _fake_states,
    _pull_back,
    _keep_states,
)
_elman_backward = graph_op(
    "elman_backward(Tensor gradient, Tensor states, Tensor x, Tensor v, Tensor u)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _back_through_time,
    _fake_derivatives,
)


class Elman(nn.RNNBase):
    """The recurrent layer h_t = tanh(V x_t + U h_{t-1} + b) with h_0 = 0, which returns all h_t (Elman 1990).

    (B, T, n_in) -> (B, T, hidden). It is torch's RNN of one layer, with its parameters: V is ``weight_ih_l0``, U is
    ``weight_hh_l0``, and b is the sum of ``bias_ih_l0`` and ``bias_hh_l0``. It is no subclass of ``nn.RNN``, which
    ``torch.compile`` refuses.

    Args:
        n_in: features of one time step.
        hidden: units of the hidden state.

    Raises:
        TypeError, ValueError: a number is no integer, or below 1.
    """

    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter

    def __init__(self, n_in: int, hidden: int) -> None:
        n_in, hidden = _check.integer("n_in", n_in), _check.integer("hidden", hidden)
        super().__init__("RNN_TANH", n_in, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0
        if torch.compiler.is_compiling():
            states: Tensor = _elman(x, *weights)
            return states
        self.check_input(x, None)
        return _states(x, *weights, training=self.training)


class GRU(nn.GRU):
    """Torch's GRU, which returns the output sequence only and so fits into an ``nn.Sequential``.

    (B, T, input_size) -> (B, T, hidden_size), or twice as many features if ``bidirectional``; the hidden state starts
    at zero. It trains as a stage whose code is the output sequence, with torch's own derivative within the stage.
    Parameters and ``state_dict()`` are torch's (Cho et al. 2014, arXiv 1406.1078).

    Args:
        input_size: features of one time step.
        hidden_size: units of the hidden state.
        num_layers: number of layers on top of each other, all in one stage; 1 by default.
        bias: whether there are biases.
        batch_first: True, since minibatches always have the samples first here.
        dropout: rate of the dropout between layers, in training mode; 0 by default.
        bidirectional: whether each layer has a second one beside it that reads the sequence backwards.

    Raises:
        ValueError: ``batch_first`` is False, or torch refuses a value.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = True,
        dropout: float = 0.0, bidirectional: bool = False,
    ) -> None:  # fmt: skip
        _check_batch_first(batch_first)
        super().__init__(input_size, hidden_size, num_layers, bias, True, dropout, bidirectional)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        sequence: Tensor = super().forward(x)[0]
        return sequence


class LSTM(nn.LSTM):
    """Torch's LSTM, which returns the output sequence only and so fits into an ``nn.Sequential``.

    (B, T, input_size) -> (B, T, hidden_size), or ``proj_size`` features if that is above 0, and twice as many if
    ``bidirectional``; the states start at zero. It trains as a stage whose code is the output sequence, with torch's
    own derivative within the stage; the cell states are no codes. Parameters and ``state_dict()`` are torch's
    (Hochreiter & Schmidhuber 1997).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as for :class:`GRU`.
        proj_size: width of the projection of the hidden states; 0 for no projection.

    Raises:
        ValueError: ``batch_first`` is False, or torch refuses a value.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = True,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0,
    ) -> None:  # fmt: skip
        _check_batch_first(batch_first)
        super().__init__(input_size, hidden_size, num_layers, bias, True, dropout, bidirectional, proj_size)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        sequence: Tensor = super().forward(x)[0]
        return sequence


def _check_batch_first(batch_first: bool) -> None:
    if not batch_first:
        raise ValueError(
            f"batch_first must be True, but is {batch_first!r}; samples come first here, as in (B, T, input_size)."
        )
