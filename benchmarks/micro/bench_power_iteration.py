"""power_iteration: on the matrices above all codes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn


def test_power_iteration(
    time: Callable[..., None], normal: Callable[..., Tensor], network: str, widths: tuple[int, ...]
) -> None:
    matrices = [normal(n_out, n_in) for n_in, n_out in itertools.pairwise(widths[1:])]
    time(
        "power_iteration",
        network,
        weights=matrices,
        vectors=[nn.functional.normalize(normal(matrix.shape[1]), dim=0) for matrix in matrices],
        sigma_squared=[torch.empty(1, dtype=torch.float64) for _ in matrices],
    )
