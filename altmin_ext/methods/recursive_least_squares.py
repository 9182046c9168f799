"""Recursive least squares: ridge regression of the last layer, exact after every minibatch.

With features x and targets y, one-hot for class labels, the head minimises over all samples seen so far

    sum of |W x + b - y|^2 + ridge |W|^2 .

The bias b is not penalised, so b = mean y - W mean x, and W (A + ridge I) = B with the sums A and B of the deviations
from these means. A minibatch with deviations X~ and Y~ moves W by

    W <- W - (X~ W^T - Y~)^T X~ P,  P = (A + ridge I)^-1 with the minibatch,

and P by a matrix of low rank. This is the classical recursion (Plackett 1950). Analytic class-incremental learning
(ACIL, Zhuang et al., NeurIPS 2022, arXiv 2205.14922), RanPAC (McDonnell et al., NeurIPS 2023, arXiv 2307.02251) and
RanDumb (Prabhu et al. 2024, arXiv 2402.08823) put it on the features of a frozen, pretrained or random, network.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from altmin_ext._state import Part
from altmin_ext.methods._closed_form import ClosedForm, ClosedFormOptions, Learned
from altmin_ext.methods._options import option
from altmin_ext.updates.scatter import Means, Scatter


@dataclasses.dataclass(frozen=True)
class RLSOptions(ClosedFormOptions):
    """Options of :class:`RLS`."""

    ridge: float = option(1.0)


class RLS(ClosedForm):
    """Recursive least squares: ridge regression of the last layer on frozen features, exact after every step.

    With ``loss="squared"``, the default, y holds class indices, learned as one-hot, or real targets (B, C);
    with "mse" real targets; with "cross_entropy" class indices. The loss only chooses what is reported: least
    squares are learned with each.

    The penalty is on the weights, not on the bias, as in scikit-learn's ``Ridge(alpha=ridge)``. A head without a
    bias, or with a frozen one, is fitted as it is.
    """

    name = "rls"
    default_loss = "squared"
    Options = RLSOptions
    options: RLSOptions
    _losses = ("squared", "mse", "cross_entropy")
    _needs_bias = False

    def _allocate(self) -> None:
        super()._allocate()
        head = self._head
        self._centres = head.bias is not None and head.bias.requires_grad
        self._scatter = Scatter(self._like, head.in_features, head.out_features, self.options.ridge)
        self._inputs = Means(self._like, 1, head.in_features)
        self._targets = Means(self._like, 1, head.out_features)

    def _learn(self, features: Tensor, y: Tensor, removes: bool) -> Learned | None:
        head, targets = self._head, self._as_targets(y)
        x = self._inputs.change(features, None, removes)
        t = self._targets.change(targets, None, removes)
        rows, wanted = (x.deviations, t.deviations) if self._centres else (features, targets)
        if not self._centres and head.bias is not None:
            wanted = wanted - head.bias
        change = self._scatter.remove(rows, wanted) if removes else self._scatter.add(rows, wanted)
        if change is None:
            return None
        before = head.weight if float(self._inputs.counts) else head.weight.new_zeros(head.weight.shape)
        weight = change.weights(before, rows @ before.t() - wanted)
        bias = t.means[0] - weight @ x.means[0] if self._centres else None
        return Learned(weight, bias, change, x, t)

    def _as_targets(self, y: Tensor) -> Tensor:
        if not self.loss.takes_classes(y):
            return y
        return F.one_hot(y, self.n_out).to(self.dtype)

    def _learn_from(self, other: RLS) -> Learned | None:
        x, t = self._inputs.merge(other._inputs), self._targets.merge(other._targets)
        apart = slice(None) if self._centres else slice(0)
        change = self._scatter.merge(other._scatter, x.deviations[apart], t.deviations[apart])
        if change is None:
            return None
        weight = change.weights(self._head.weight, self._head.weight[:0])
        bias = t.means[0] - weight @ x.means[0] if self._centres else None
        return Learned(weight, bias, change, x, t)

    def _check_learned(self, y: Tensor) -> None:
        learned = int(self._inputs.counts)
        if len(y) > learned:
            raise ValueError(
                f"x must be samples that have been learned, but holds {len(y)}, and {learned} have been learned."
            )

    def _state(self) -> dict[str, Part]:
        parts = {f"input_{name}": part for name, part in self._inputs.parts.items()}
        parts |= {f"target_{name}": part for name, part in self._targets.parts.items()}
        return {**super()._state(), **self._scatter.parts, **parts}
