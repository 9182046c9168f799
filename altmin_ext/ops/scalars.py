"""Parameter blocks: rows of float64 that carry the scalars of a step to the kernels (csrc/ops/scalars.h)."""

from __future__ import annotations

from enum import IntEnum


class CodeScalar(IntEnum):
    """Columns of a code's row."""

    step_size = 0
    curvature = 1
    downstream = 2
    anchor = 3
    momentum = 4
    threshold = 5
    normalised = 6
    sigma_squared = 7
    step_taken = 8
    unit = 9
    scale = 10
    damping = 11
    moved = 12
    residual_square = 13


class UpdateScalar(IntEnum):
    """Columns of a parameter tensor's row in a weight update."""

    learning_rate = 0
    gradient_factor = 1
    decay = 2
    threshold = 3


class AdamScalar(IntEnum):
    """Entries of Adam's own block; ``step`` counts the updates made."""

    beta1 = 0
    beta2 = 1
    epsilon = 2
    step = 3


class MemoryScalar(IntEnum):
    """Entries of the block of a stage that remembers its past in two matrices."""

    forgetting = 0
    threshold = 1
