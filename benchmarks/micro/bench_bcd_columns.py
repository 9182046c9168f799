"""bcd_columns: one sweep over the first hidden layer's weights and bias."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def test_bcd_columns(
    time: Callable[..., None], normal: Callable[..., Tensor], network: str, widths: tuple[int, ...]
) -> None:
    columns, rows = widths[0] + 1, widths[1]
    samples = normal(2 * columns, columns)
    time(
        "bcd_columns",
        f"{network}, {columns} columns x {rows} rows",
        weight=normal(rows, columns),
        gram=samples.T @ samples,
        cross=normal(rows, 2 * columns) @ samples,
        scalars=torch.zeros(3, dtype=torch.float64),
        sweeps=1,
        has_bias=True,
        nonnegative=False,
    )
