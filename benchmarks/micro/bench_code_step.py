"""code_step: on the codes of one hidden layer that has another above it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from altmin_ext.ops import Activation, CodeScalar


@pytest.mark.parametrize("sigma", ["relu", "tanh", "gelu"])
def test_single_iteration(
    time: Callable[..., None],
    normal: Callable[..., Tensor],
    code_block: Callable[[], Tensor],
    guard: Tensor,
    network: str,
    hidden_shape: tuple[int, int],
    sigma: str,
) -> None:
    """What a step with one code iteration calls, but for the memory of the displacement.

    A step puts it in place of the pulled-back residual, which calls in a row would shrink until it underflows.
    """
    time(
        "code_step",
        f"{network}, {sigma}, one iteration",
        code=normal(*hidden_shape),
        pulled_back=normal(*hidden_shape),
        pulled_back_change=None,
        mask=None,
        displacement=torch.empty(hidden_shape),
        velocity=None,
        activation=torch.empty(hidden_shape),
        activation_displacement=torch.empty(hidden_shape),
        scalars=code_block(),
        above=code_block(),
        first=True,
        sigma=Activation(sigma),
        guard=guard,
        gap=None,
    )


@pytest.mark.parametrize("sigma", ["relu", "tanh"])
def test_later_iteration_with_momentum(
    time: Callable[..., None],
    normal: Callable[..., Tensor],
    code_block: Callable[[], Tensor],
    guard: Tensor,
    network: str,
    hidden_shape: tuple[int, int],
    sigma: str,
) -> None:
    """One of several code iterations, with a step size of 0: converging calls would underflow, and slow down."""
    scalars = code_block()
    scalars[CodeScalar.momentum], scalars[CodeScalar.step_taken] = 0.9, 0.0
    time(
        "code_step",
        f"{network}, {sigma}, later iteration with momentum",
        code=normal(*hidden_shape),
        pulled_back=normal(*hidden_shape),
        pulled_back_change=normal(*hidden_shape),
        mask=None,
        displacement=normal(*hidden_shape),
        velocity=normal(*hidden_shape),
        activation=torch.empty(hidden_shape),
        activation_displacement=torch.empty(hidden_shape),
        scalars=scalars,
        above=code_block(),
        first=False,
        sigma=Activation(sigma),
        guard=guard,
        gap=None,
    )
