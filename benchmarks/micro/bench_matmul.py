"""matmul: the three products of a hidden layer in a step, for a minibatch, a small one and a single sample."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.mark.parametrize("batch", [200, 28, 1])
@pytest.mark.parametrize("product", ["forward", "pull back", "weight gradient"])
def test_matmul(
    time: Callable[..., None],
    normal: Callable[..., Tensor],
    network: str,
    widths: tuple[int, ...],
    batch: int,
    product: str,
) -> None:
    n_in, n_out = widths[:2]
    activation, code, weight = normal(batch, n_in), normal(batch, n_out), normal(n_out, n_in)
    a, b, out, transposed = {
        "forward": (activation, weight, code, (False, True)),
        "pull back": (code, weight, activation, (False, False)),
        "weight gradient": (code, activation, weight, (True, False)),
    }[product]
    time(
        "matmul",
        f"{network}, {product}, batch {batch}",
        a=a,
        b=b,
        out=torch.empty_like(out),
        transpose_a=transposed[0],
        transpose_b=transposed[1],
    )
