from __future__ import annotations

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import raise_unless_finite
from altmin_ext.ops.activation import Activation
from altmin_ext.ops.numerics import smallest_displacement, soft_threshold
from altmin_ext.ops.scalars import CodeScalar


def conclude(displacement: Tensor, scalars: Tensor, above: Tensor | None, guard: Tensor | None) -> None:
    """Record the results of a step in the code's parameter block."""
    s = CodeScalar
    square = displacement.double().square().sum()
    normalised = scalars[s.normalised] > 0
    count = displacement.numel() * torch.where(normalised, scalars[s.normalised], 1.0)
    rms = (square / count.clamp(min=1)).sqrt()
    own = torch.where(rms > 0, (smallest_displacement / rms).clamp(min=1.0), 1.0)
    scalars[s.damping] = own if above is None else above[s.damping]
    scalars[s.moved] = scalars[s.unit] * rms
    scalars[s.scale] = torch.where(
        normalised & (rms > 0), scalars[s.unit] * rms * scalars[s.damping], scalars[s.unit]
    )
    raise_unless_finite(guard, square)


@op(written=("displacement", "velocity", "activation", "activation_displacement", "scalars", "guard"))
def code_step(
    code: Tensor,
    pulled_back: Tensor,
    *,
    pulled_back_change: Tensor | None = None,
    mask: Tensor | None = None,
    displacement: Tensor,
    velocity: Tensor | None = None,
    activation: Tensor,
    activation_displacement: Tensor | None = None,
    gap: Tensor | None = None,
    scalars: Tensor,
    above: Tensor | None,
    first: bool,
    sigma: Activation,
    guard: Tensor | None = None,
) -> None:
    """One gradient step of a code on its local objective (Choromanska et al. 2019, equations 4 and 5).

    The code c is held as its displacement from the encode, c0 - c = unit * displacement.

    Args:
        code: (B, n), c0. With relu or the identity, and a single iteration without threshold, sigma(c0) suffices.
        pulled_back: (B, n), W^T times the residual of the stage above, in the unit of the code above.
        pulled_back_change: (B, n), W^T W (a - a0) in this code's unit, or None.
        mask: (B, n) dropout mask or None.
        displacement: (B, n), in and out; only out on the first iteration, where it may be ``pulled_back``.
        velocity: (B, n), the momentum's velocity, in and out; only out on the first iteration. None without momentum
            or for a single iteration.
        activation: (B, n), out: mask * sigma(c); with relu or the identity it may be ``code`` on the first iteration.
        activation_displacement: (B, n), out: mask * (sigma(c) - sigma(c0)) / unit, without cancellation;
            None if nothing needs it.
        gap: (B, n), how far the code may fall before another code of its pooling window is larger; None without
            pooling. For ``activation`` and ``activation_displacement``, a code that falls farther has fallen by its
            gap.
        scalars: this code's parameter block, a row of :class:`CodeScalar`.
        above: the block of the code above, None for the top code.
        first: whether this is the first iteration of the minibatch.
        sigma: the activation.
        guard: (1,) float64, raised if a displacement is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    s = CodeScalar
    if first:
        pulled_back = pulled_back.clone()  # which the displacement may be
        displacement.zero_()
        one = torch.ones_like(scalars[s.unit])
        scalars[s.unit] = one if above is None else torch.where(scalars[s.threshold] > 0, one, above[s.scale])
        auto = 1 / (1 + scalars[s.curvature] * scalars[s.sigma_squared])
        scalars[s.step_taken] = torch.where(scalars[s.step_size] >= 0, scalars[s.step_size], auto)
        if velocity is not None:
            velocity.zero_()
    unit, eta = scalars[s.unit], scalars[s.step_taken]
    incoming = 1.0 if above is None else above[s.unit] / unit

    m = 1.0 if mask is None else mask
    c = code - unit * displacement
    downstream = incoming * pulled_back
    if pulled_back_change is not None:
        downstream = downstream + pulled_back_change
    g = scalars[s.downstream] * downstream * m * sigma.derivative(c) - scalars[s.anchor] * displacement
    v = g
    if velocity is not None:
        v = velocity.mul_(scalars[s.momentum]).add_(g)
    displacement += eta * (g + scalars[s.momentum] * v)

    shrunk = (code - soft_threshold(code - unit * displacement, eta * scalars[s.threshold])) / unit
    displacement.copy_(torch.where(scalars[s.threshold] > 0, shrunk, displacement))
    moved = displacement
    if gap is not None:
        moved = torch.where(unit * displacement > gap, gap / unit, displacement)
    if activation_displacement is not None:
        activation_displacement.copy_(m * sigma.difference(code, moved, unit))
    activation.copy_(m * sigma.value(code - unit * moved))

    conclude(displacement, scalars, above, guard)
