"""Modules of recurrent networks: a sequence cut out of a sample, and Elman's layer."""

from __future__ import annotations

import math

from torch import Tensor, nn


class TimeSteps(nn.Module):
    """Takes the numbers of each sample in order, ``n_in`` at a time: images become sequences of pixels.

    (B, ...) becomes (B, T, n_in), where T n_in is how many numbers a sample has.

    Args:
        n_in: features of one time step.
    """

    def __init__(self, n_in: int) -> None:
        super().__init__()
        if n_in < 1:
            raise ValueError(f"n_in must be at least 1, but is {n_in}.")
        self.n_in = n_in

    def forward(self, x: Tensor) -> Tensor:
        """Raises ValueError if a sample cannot be cut into steps of ``n_in``."""
        features = math.prod(x.shape[1:])
        if features % self.n_in:
            raise ValueError(
                f"x must hold a multiple of {self.n_in} numbers per sample, but holds {features}."
            )
        return x.reshape(len(x), features // self.n_in, self.n_in)

    def extra_repr(self) -> str:
        return f"n_in={self.n_in}"


class Elman(nn.RNN):
    """h_t = tanh(V x_t + U h_{t-1} + b) from h_0 = 0: (B, T, n_in) -> (B, T, hidden), all the h_t (Elman 1990).

    An ``nn.RNN`` of one layer, with its parameters: V is ``weight_ih_l0``, U ``weight_hh_l0``, and b the sum of
    ``bias_ih_l0`` and ``bias_hh_l0``.
    """

    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter

    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__(n_in, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        sequence: Tensor = super().forward(x)[0]
        return sequence
