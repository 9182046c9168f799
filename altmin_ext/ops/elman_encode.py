from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._lanes import LANES
from altmin_ext.ops.activation import Activation


@op(written=("hidden", "product"))
def elman_encode(
    x: Tensor,
    *,
    input_weight: Tensor,
    recurrent_weight: Tensor,
    input_bias: Tensor | None = None,
    recurrent_bias: Tensor | None = None,
    output_weight: Tensor,
    hidden: Tensor,
    product: Tensor,
    sigma: Activation,
) -> None:
    """h_t = tanh(V x_t + U h_{t-1} + b) from h_0 = 0, and product = W (sigma(h_1), ..., sigma(h_T)).

    The Elman network of Choromanska et al. (2019), appendix C, up to the map W that reads its output sequence.

    Args:
        x: (B, T, n).
        input_weight: (d, n), V.
        recurrent_weight: (d, d), U.
        input_bias, recurrent_bias: (d,) each, whose sum is b, or None.
        output_weight: (m, T d), W.
        hidden: (ceil(B / 16), T, d, 16), out: h with 16 samples side by side; zero beyond the batch.
        product: (B, m), out.
        sigma: the activation of the output sequence.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    batch, steps, _ = x.shape
    h = x.new_zeros(batch, len(recurrent_weight))
    sequence = x.new_zeros(batch, steps, len(recurrent_weight))
    for t in range(steps):
        c = x[:, t] @ input_weight.T + h @ recurrent_weight.T
        for bias in (input_bias, recurrent_bias):
            c = c if bias is None else c + bias
        sequence[:, t] = h = torch.tanh(c)
    filled = F.pad(sequence, (0, 0, 0, 0, 0, LANES * len(hidden) - batch))
    hidden.copy_(filled.unflatten(0, (-1, LANES)).permute(0, 2, 3, 1))
    product.copy_(sigma.value(sequence).flatten(1) @ output_weight.T)
