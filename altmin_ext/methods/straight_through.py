"""The straight-through estimator: what most binary networks are trained by, and what alternating minimisation of them
is to be compared with."""

from __future__ import annotations

from torch import nn

from altmin_ext.methods.backprop import BackpropAdam
from altmin_ext.network import BoundStage
from altmin_ext.nn.sign import check_surrogates


class StraightThrough(BackpropAdam):
    """The straight-through estimator for binary units, with Adam.

    The gradient passes every :class:`altmin_ext.nn.Sign` as if its derivative were the surrogate (Bengio, Léonard &
    Courville 2013, arXiv 1308.3432).

    What sets it apart from ``adam`` is that it refuses a Sign without a surrogate, which no gradient passes.
    """

    name = "ste"

    def _cut(self, model: nn.Module) -> list[BoundStage]:
        check_surrogates(model)
        return super()._cut(model)
