"""The recurrent network of the paper: images read pixel by pixel."""

from __future__ import annotations

BATCH, STEPS, OUTPUTS = 128, 784, 10
WIDTHS = (15, 50)


def hidden_shape(width: int) -> tuple[int, ...]:
    """In lanes."""
    return (BATCH // 16, STEPS, width, 16)
