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
    """What a step with one code iteration calls: the displacement in place of the pulled-back residual."""
    pulled_back = normal(*hidden_shape)
    time(
        "code_step",
        f"{network}, {sigma}, one iteration",
        code=normal(
            *hidden_shape
        ).abs(),  # all units active: relu would empty the memory that is used in place
        pulled_back=pulled_back,
        pulled_back_change=None,
        mask=None,
        displacement=pulled_back,
        velocity=None,
        activation=torch.empty(hidden_shape),
        activation_displacement=torch.empty(hidden_shape),
        scalars=code_block(),
        above=code_block(),
        first=True,
        sigma=Activation(sigma),
        guard=guard,
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
    """One of several code iterations; the anchor and a small step keep calls in a row from running off."""
    scalars = code_block()
    scalars[CodeScalar.momentum], scalars[CodeScalar.step_taken] = 0.9, 0.01
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
    )
