"""The straight-through estimator, by which most binary networks are trained: the baseline for alternating
minimisation of them."""

from __future__ import annotations

from torch import nn

from altmin_ext.methods.backprop import BackpropAdam
from altmin_ext.network import BoundStage
from altmin_ext.nn.sign import check_surrogates


class StraightThrough(BackpropAdam):
    """The straight-through estimator for binary units, with Adam.

    The gradient passes through every :class:`altmin_ext.nn.Sign` as if its derivative were the surrogate (Bengio,
    Léonard & Courville 2013, arXiv 1308.3432).

    The only difference from ``adam`` is that it refuses a Sign without a surrogate, through which no gradient passes.
    """

    name = "ste"

    def _cut(self, model: nn.Module) -> list[BoundStage]:
        check_surrogates(model)
        return super()._cut(model)
