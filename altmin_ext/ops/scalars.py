"""Parameter blocks: rows of float64 that carry the scalars of a step to the kernels (csrc/ops/scalars.h)."""

from __future__ import annotations

from enum import IntEnum


class CodeScalar(IntEnum):
    """Columns of a code's row. The code is held as its displacement delta from the encode: c0 - c = unit delta.

    The first seven are set by the host, the others by kernels.

    Attributes:
        step_size: eta, the step size of the code; below 0 for 1 / (1 + curvature sigma_squared).
        curvature: a bound of the second derivative of the term above, without the factor sigma_max(W)^2.
        downstream: factor of the pulled-back residual in the gradient.
        anchor: factor of c - c0 in the gradient.
        momentum: Nesterov momentum.
        threshold: soft threshold of the code, per unit of step size; 0 for none.
        normalised: above 0, ``scale`` is the RMS of the displacement over ``normalised`` times as many numbers as are
            held; at 0 it is ``unit``.
        sigma_squared: estimate of sigma_max(W)^2 for the stage above.
        step_taken: eta of the last step.
        unit: the unit of delta.
        scale: divisor of the stage's weight objective.
        damping: ``scale`` over the RMS of the displacement; set by the top code, the same for all codes.
        moved: RMS of c0 - c.
        residual_square: sum of squares of the stage's last weight residual.
    """

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
    """Columns of a parameter tensor's row in a weight update.

    Attributes:
        learning_rate: of the step.
        gradient_factor: factor of the gradient, such as 1 / B.
        decay: decoupled weight decay, per unit of learning rate.
        threshold: soft threshold of the weight, per unit of learning rate.
    """

    learning_rate = 0
    gradient_factor = 1
    decay = 2
    threshold = 3


class AdamScalar(IntEnum):
    """Entries of Adam's own block (Kingma & Ba 2015).

    Attributes:
        beta1: decay of the first moments.
        beta2: decay of the second moments.
        epsilon: added to the root of the second moments.
        step: the number of updates so far.
    """

    beta1 = 0
    beta2 = 1
    epsilon = 2
    step = 3


class MemoryScalar(IntEnum):
    """Entries of the block of a stage that remembers its past in two matrices.

    Attributes:
        forgetting: the share of the past that is dropped before a minibatch is added; below 0 the past grows.
        threshold: soft threshold of the weights, times A_jj.
        damping: what the diagonal of A is raised by while weights are fitted, in units of its mean.
    """

    forgetting = 0
    threshold = 1
    damping = 2


__all__ = ["AdamScalar", "CodeScalar", "MemoryScalar", "UpdateScalar"]
