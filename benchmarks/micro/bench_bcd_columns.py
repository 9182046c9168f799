"""bcd_columns: one sweep over the first hidden layer's weights and bias."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.mark.parametrize("from_zero", [False, True])
def test_bcd_columns(
    time: Callable[..., None],
    normal: Callable[..., Tensor],
    network: str,
    widths: tuple[int, ...],
    from_zero: bool,
) -> None:
    columns, rows = widths[0] + 1, widths[1]
    samples = normal(2 * columns, columns)
    time(
        "bcd_columns",
        f"{network}, {columns} columns x {rows} rows" + ", from zero" * from_zero,
        weight=normal(rows, columns),
        gram=samples.T @ samples,
        cross=normal(rows, 2 * columns) @ samples,
        scalars=torch.zeros(3, dtype=torch.float64),
        sweeps=1,
        has_bias=True,
        nonnegative=False,
        from_zero=from_zero,
    )
