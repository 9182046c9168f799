"""The straight-through estimator: what most binary networks are trained by, and what alternating minimisation of them
is to be compared with."""

from __future__ import annotations

from typing import Any

from torch import nn

from altmin_ext.methods.backprop import BackpropAdam
from altmin_ext.methods.base import MethodOptions
from altmin_ext.sign import Sign


class StraightThrough(BackpropAdam):
    """Adam on a gradient that passes every :class:`altmin_ext.models.Sign` as if its derivative were the surrogate
    (Bengio, Léonard & Courville 2013, arXiv 1308.3432).

    What sets it apart from ``adam`` is that it refuses a Sign without a surrogate, which no gradient passes.
    """

    name = "ste"

    def __init__(self, model: nn.Module, options: MethodOptions, **common: Any) -> None:
        for path, module in model.named_modules() if isinstance(model, nn.Module) else ():
            if isinstance(module, Sign) and module.surrogate == "none":
                raise ValueError(
                    f"model must have a surrogate for every Sign, but that of {path!r} is 'none'; "
                    "make it Sign('identity') or Sign('clipped')."
                )
        super().__init__(model, options, **common)
