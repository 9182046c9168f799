from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops.activation import Activation
from altmin_ext.ops.code_step import conclude
from altmin_ext.ops.scalars import CodeScalar


def _sequences_of(hidden: Tensor, batch: int) -> Tensor:
    """(B, T, d) of what lies in lanes, (groups, T, d, 16)."""
    return hidden.permute(0, 3, 1, 2).flatten(0, 1)[:batch]


def _hidden_difference(h0: Tensor, delta: Tensor, unit: Tensor) -> Tensor:
    """(tanh(c0 - unit delta) - tanh(c0)) / unit of h0 = tanh(c0), by the addition theorem."""
    tanh = torch.tanh(unit * delta)
    step = torch.where((unit * delta) ** 2 < torch.finfo(h0.dtype).eps, delta, tanh / unit)
    return -step * (1 - h0 * h0) / (1 - h0 * tanh)


@op(written=("cross", "gram", "output_gradient", "output", "scalars", "guard"))
def elman_code_step(
    hidden: Tensor,
    x: Tensor,
    *,
    recurrent_weight: Tensor,
    output_weight: Tensor,
    displacement: Tensor,
    residual: Tensor | None = None,
    cross: Tensor,
    gram: Tensor | None = None,
    output_gradient: Tensor | None = None,
    output: Tensor | None = None,
    scalars: Tensor,
    above: Tensor,
    iterations: int,
    sigma: Activation,
    guard: Tensor | None = None,
) -> None:
    """All gradient steps of an Elman layer's codes, and the sums to which its weights are then fitted.

    The codes c_t of Choromanska et al. (2019), appendix C, move from t = T down to 1, ``iterations`` steps each. By
    then the output sequence o has moved by gradient steps on a loss of W o. These leave it in the row space of W:
    o0 - o = W^T displacement, in the unit of ``above``. The weights minimise the sum over t of
    ||c_t - [U V b] a_t||^2, with a_t = [h_{t-1}; x_t; 1] at the updated codes. ``cross`` is its gradient, divided by
    the scale; after the weights have moved by D, the gradient is cross + D gram / scale.

    Args:
        hidden: (ceil(B / 16), T, d, 16), h of the encode.
        x: (B, T, n).
        recurrent_weight: (d, d), U.
        output_weight: (m, T d), W.
        displacement: (B, m).
        residual: (B, m), the residual of the map W at the updated output; None without ``output_gradient``.
        cross: (d, d + n + 1), out: the sum of r_t a_t^T over the batch and time, r = ([U V b] a - c) / scale.
        gram: (d + n + 1, d + n + 1), out: the sum of a_t a_t^T; or None.
        output_gradient: (m, T d), out: residual^T o; or None.
        output: (B, T d), out: o; or None.
        scalars: the codes' parameter block, a row of :class:`CodeScalar`; a step size below 0 stands for
            1 / (1 + curvature (1 + sigma_squared)), and the threshold is not used.
        above: the parameter block that ``displacement`` belongs to.
        iterations: gradient steps of each code, at least 1.
        sigma: the activation of the output sequence.
        guard: (1,) float64, raised if a displacement is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, ``iterations`` is less than 1, or arguments
            share memory.
    """
    s = CodeScalar
    batch, steps, _ = x.shape
    h0 = _sequences_of(hidden, batch)
    pulled_back = (displacement @ output_weight).view(h0.shape)
    o = sigma.value(h0) - above[s.unit] * pulled_back

    unit = scalars[s.unit] = above[s.scale]
    auto = 1 / (1 + scalars[s.curvature] * (1 + scalars[s.sigma_squared]))
    eta = scalars[s.step_taken] = torch.where(scalars[s.step_size] >= 0, scalars[s.step_size], auto)
    delta, moved = torch.zeros_like(h0), torch.zeros_like(h0)  # moved: (h - h0) / unit
    for t in reversed(range(steps)):
        v = torch.zeros_like(h0[:, t])
        for _ in range(iterations):
            h = h0[:, t] + unit * moved[:, t]
            difference = sigma.difference(h0[:, t], -moved[:, t], unit)
            p = (difference + above[s.unit] / unit * pulled_back[:, t]) * sigma.derivative(h)
            if t + 1 < steps:
                p = p + (moved[:, t] @ recurrent_weight.T + delta[:, t + 1]) @ recurrent_weight
            g = scalars[s.downstream] * p * (1 - h * h) - scalars[s.anchor] * delta[:, t]
            v = scalars[s.momentum] * v + g
            delta[:, t] += eta * (g + scalars[s.momentum] * v)
            moved[:, t] = _hidden_difference(h0[:, t], delta[:, t], unit)

    conclude(delta, scalars, above, guard)

    before = F.pad(moved, (0, 0, 1, 0))[:, :steps]  # of h_{t-1}
    r = unit / scalars[s.scale] * (delta + before @ recurrent_weight.T)
    scalars[s.residual_square] = r.double().square().sum()
    h = F.pad(h0 + unit * moved, (0, 0, 1, 0))[:, :steps]
    a = torch.cat([h, x, x.new_ones(batch, steps, 1)], 2).flatten(0, 1)
    cross.copy_(r.flatten(0, 1).T @ a)
    if gram is not None:
        gram.copy_(a.T @ a)
    if output_gradient is not None:
        assert residual is not None
        output_gradient.copy_(residual.T @ o.flatten(1))
    if output is not None:
        output.copy_(o.flatten(1))
