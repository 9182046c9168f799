"""A random part of training data, set aside."""

from __future__ import annotations

import torch
from torch import Tensor

from altmin_ext import _check
from altmin_ext.data._dataset import DataSet


def split(
    data: tuple[Tensor, Tensor] | DataSet, fraction: float, seed: int = 0
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Set a random part of the training data aside for validation.

    Args:
        data: (x, y), x (N, ...) and y (N, ...); or a :class:`DataSet`, of which the training part is split.
        fraction: the part of the N samples to set aside, between 0 and 1; either side gets at least one sample.
        seed: of the choice; torch's global generator is not used.

    Returns:
        (training, validation), each a copied (x, y) in the original order.

    Raises:
        TypeError: x or y is no tensor, ``fraction`` no number, or ``seed`` no integer.
        ValueError: ``fraction`` is not between 0 and 1, or the samples are not at least two with one y each.

    Examples:
        >>> import torch
        >>> from altmin_ext import data
        >>> training, validation = data.split((torch.randn(100, 4), torch.arange(100) % 2), 0.2)
        >>> len(training[0]), len(validation[0])
        (80, 20)
    """
    x, y = data.train if isinstance(data, DataSet) else data
    x, y = _check.tensor("x", x), _check.tensor("y", y)
    fraction = _check.number("fraction", fraction, above=0.0, below=1.0)
    seed = _check.seed("seed", seed)
    if len(x) != len(y):
        raise ValueError(f"y must have one entry for each of the {len(x)} samples of x, but has {len(y)}.")
    if len(x) < 2:
        raise ValueError(f"data must hold at least two samples to be split, but holds {len(x)}.")
    n_validation = min(max(round(fraction * len(x)), 1), len(x) - 1)
    generator = torch.Generator().manual_seed(seed)
    set_aside = torch.zeros(len(x), dtype=torch.bool)
    set_aside[torch.randperm(len(x), generator=generator)[:n_validation]] = True
    set_aside = set_aside.to(x.device)
    return (x[~set_aside], y[~set_aside]), (x[set_aside], y[set_aside])


__all__ = ["split"]
