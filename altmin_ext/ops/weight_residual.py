from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import raise_unless_finite
from altmin_ext.ops.scalars import CodeScalar


def _stage_residual(
    displacement: Tensor,
    product: Tensor | None,
    bias: Tensor | None,
    code: Tensor | None,
    residual: Tensor,
    bias_gradient: Tensor | None,
    scalars: Tensor,
    below: Tensor | None,
    guard: Tensor | None,
) -> None:
    s = CodeScalar
    fit = torch.zeros_like(displacement) if product is None else product
    fit = fit if bias is None else fit + bias
    fit = fit if code is None else fit - code
    factor = 1.0 if below is None else below[s.unit]
    residual.copy_((scalars[s.unit] * displacement + factor * fit) / scalars[s.scale])
    if bias_gradient is not None:
        torch.sum(residual, 0, out=bias_gradient)
    scalars[s.residual_square] = residual.double().square().sum()
    raise_unless_finite(guard, scalars[s.residual_square])


@op(written=("residuals", "bias_gradients", "scalars", "guard"))
def weight_residual(
    displacements: Sequence[Tensor],
    *,
    products: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    codes: Sequence[Tensor | None],
    residuals: Sequence[Tensor],
    bias_gradients: Sequence[Tensor | None],
    scalars: Sequence[Tensor],
    below: Sequence[Tensor | None],
    guard: Tensor | None = None,
) -> None:
    """Residuals r = (W a + b - c) / scale of the weight subproblems of hidden stages.

    The subproblems are equation (6) of Choromanska et al. (2019), each divided by its stage's scale. Every argument
    except the guard is a list with an entry for each stage; all stages have the same B.

    Args:
        displacements: (B, n), of the stage's code, in its unit.
        products: (B, n), W times the activation displacement where ``below`` is given, else W a; None for zero.
        biases: (n,) or None.
        codes: (B, n), c0, or None.
        residuals: (B, n), out; may be the stage's displacement or product.
        bias_gradients: (n,), out: sum over the batch of the residual; or None.
        scalars: the code's parameter block, a row of :class:`CodeScalar`.
        below: the block of the code below, or None.
        guard: (stages,) float64, a flag each, raised if the residual is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    flags = [None if guard is None else guard[i : i + 1] for i in range(len(displacements))]
    stages = zip(
        displacements, products, biases, codes, residuals, bias_gradients, scalars, below, flags, strict=True
    )
    for stage in stages:
        _stage_residual(*stage)
