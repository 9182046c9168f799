"""Linear discriminants of class means: streaming linear discriminant analysis, and the nearest class mean.

Both keep the mean mu_c of the features of every class. SLDA (Hayes & Kanan, CVPR workshops 2020, arXiv 1909.01520)
takes the features of a class for normal with the class's mean and a covariance Sigma that all classes share, so that

    W_c = Sigma^-1 mu_c,  b_c = -mu_c^T Sigma^-1 mu_c / 2

are the logits of a class, up to what all classes have in common. With Sigma = I it is the nearest class mean
(Mensink et al. 2013).

Sigma is (S + ridge I) / N after N samples, with the scatter S of the features around their class's mean. Since a
minibatch adds one row per sample to S, the inverse follows by a matrix of low rank, as in recursive least squares.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from altmin_ext._state import Part
from altmin_ext.methods._closed_form import ClosedForm, ClosedFormOptions, Learned
from altmin_ext.methods._options import choice, option
from altmin_ext.updates.scatter import Change, Means, MeansChange, Scatter

_never = -1e18  # the logit of a class without samples, in place of -inf


class _Discriminant(ClosedForm):
    """A linear discriminant of class means.

    A class without samples has the weights 0 and a bias of -1e18, so that it is never predicted.
    """

    def _allocate(self) -> None:
        super()._allocate()
        self._classes = Means(self._like, self.n_out, self._head.in_features)

    def _check_learned(self, y: Tensor) -> None:
        count = torch.bincount(y, minlength=self.n_out)
        learned = self._classes.counts.to(torch.int64)
        if bool((count > learned).any()):
            first = int((count > learned).nonzero()[0])
            raise ValueError(
                f"x must be samples that have been learned, but holds {int(count[first])} of class {first}, of which "
                f"{int(learned[first])} have been learned."
            )

    def _learned_from(self, change: Change | None, x: MeansChange) -> Learned:
        counts, means = x.of_all()
        weight = self._weights_of(means, float(counts.sum()), change)
        bias = self._log_priors(counts).to(self.dtype) - (means * weight).sum(1) / 2
        bias[counts == 0] = _never
        return Learned(weight, bias, *([] if change is None else [change]), x)

    def _weights_of(self, means: Tensor, total: float, change: Change | None) -> Tensor:
        return means

    def _log_priors(self, counts: Tensor) -> Tensor:
        return torch.zeros_like(counts)

    def _state(self) -> dict[str, Part]:
        return {**super()._state(), **self._classes.parts}


class NCM(_Discriminant):
    """Nearest class mean: a sample belongs to the class whose mean feature is the nearest.

    The logits are W_c x + b_c with W_c = mu_c and b_c = -|mu_c|^2 / 2.
    """

    name = "ncm"

    def _learn(self, features: Tensor, y: Tensor, removes: bool) -> Learned | None:
        return self._learned_from(None, self._classes.change(features, y, removes))

    def _learn_from(self, other: NCM) -> Learned | None:
        return self._learned_from(None, self._classes.merge(other._classes))


@dataclasses.dataclass(frozen=True)
class SLDAOptions(ClosedFormOptions):
    """Options of :class:`SLDA`."""

    ridge: float = option(1.0)
    class_priors: str = option(
        "uniform",
        "'uniform': all classes are as likely; 'observed': as likely as in the samples seen",
        choice("uniform", "observed"),
    )


class SLDA(_Discriminant):
    """Streaming linear discriminant analysis: class means, and a covariance that all classes share."""

    name = "slda"
    Options = SLDAOptions
    options: SLDAOptions

    def _allocate(self) -> None:
        super()._allocate()
        self._scatter = Scatter(self._like, self._head.in_features, 0, self.options.ridge)

    def _learn(self, features: Tensor, y: Tensor, removes: bool) -> Learned | None:
        x = self._classes.change(features, y, removes)
        none = features[:, :0]
        change = (
            self._scatter.remove(x.deviations, none) if removes else self._scatter.add(x.deviations, none)
        )
        return None if change is None else self._learned_from(change, x)

    def _learn_from(self, other: SLDA) -> Learned | None:
        x = self._classes.merge(other._classes)
        change = self._scatter.merge(other._scatter, x.deviations, x.deviations[:, :0])
        return None if change is None else self._learned_from(change, x)

    def _weights_of(self, means: Tensor, total: float, change: Change | None) -> Tensor:
        assert change is not None
        return change.times_inverse(means) * total

    def _log_priors(self, counts: Tensor) -> Tensor:
        if self.options.class_priors == "uniform":
            return super()._log_priors(counts)
        return (counts / counts.sum()).clamp_min(torch.finfo(torch.float64).tiny).log()

    def _state(self) -> dict[str, Part]:
        return {**super()._state(), **self._scatter.parts}
