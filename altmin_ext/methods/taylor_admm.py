"""ADMM without gradients (Taylor, Burmeister, Xu, Singh, Patel & Goldstein, ICML 2016, arXiv 1605.02026).

Every layer's pre-activations z_l and activations a_l are variables, for every sample of the training set; a_0 = x::

    minimise  sum over samples of  loss(z_L, y) + <lambda, z_L> + beta ||z_L - W_L a_{L-1} - b_L||^2
                 + sum_{l<L} gamma ||a_l - relu(z_l)||^2 + beta ||z_l - W_l a_{l-1} - b_l||^2 .

An iteration takes the whole training set and goes through the layers from l = 1 to L. Each variable is set to the
minimiser of all terms that contain it:

1. W_l, b_l:  least squares of z_l by a_{l-1}, from two sums over samples, A = sum a~ a~^T and B = sum z_l a~^T with
              a~ = [a_{l-1}; 1];
2. a_l:       relu(z_l) + W^T (W W^T + gamma/beta I)^{-1} (z_{l+1} - W relu(z_l) - b), with the old W and b of layer
              l + 1;
3. z_l:       the minimiser of gamma (a_l - relu(z))^2 + beta (z - W_l a_{l-1} - b_l)^2; at the top the proximal map
              of the loss, and then lambda <- lambda + multiplier_step beta (z_L - W_L a_{L-1} - b_L).

No derivative is taken. If workers share the samples, they need to add up A and B only; everything else belongs to
single samples. Activations are computed anew in each iteration, so only z_l and lambda are kept.

The body of the paper was not available. The objective and the order of the updates are those on which three
independent implementations agree. The closed forms are derived from the objective; that of a_l is the
implementations' own, written so that the system to be solved is as wide as the layer above.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from altmin_ext._fingerprint import Fingerprint
from altmin_ext._guard import Subject
from altmin_ext._state import Attribute, Part, Replaced, ReplacedList, count
from altmin_ext._undo import Undoable
from altmin_ext.methods._lifted import product
from altmin_ext.methods._options import MethodOptions, choice, integer, number, option, positive
from altmin_ext.methods.base import Method, StepReport
from altmin_ext.network import BoundStage, LinearMap, split
from altmin_ext.ops import unversioned as ops

Reduce: TypeAlias = Callable[[list[Tensor]], None]


def _checked_reduce(name: str, value: Any) -> Reduce:
    if not callable(value):
        raise TypeError(f"{name} must be a function of a list of tensors, but is {value!r}.")
    reduce: Reduce = value
    return reduce


@dataclasses.dataclass(frozen=True)
class TaylorADMMOptions(MethodOptions):
    """Options of :class:`TaylorADMM`.

    ``multiplier_step=1`` is the published value; 2 is the textbook's for a penalty of beta ||.||^2 without a half,
    and makes lambda = -dloss/dz_L after every iteration. Activations move towards the label of their sample, which
    the activations of a forward pass cannot do, and the multiplier drives them further. On 10,000 images of
    Fashion-MNIST accuracy rose for twenty iterations and then fell, faster with a larger step; with 0, the penalty
    alone, it rose for fifty.

    ``relaxation`` is the part of the way to the least-squares solution that weights take; the paper's is 1.
    """

    relaxation: float = option(1.0)
    shrinkage: float = option(
        0.0, "part of the weights that each iteration takes off, times relaxation", number()
    )
    beta: float = option(
        1.0, "factor of the penalty beta ||.||^2 that ties pre-activations to the layer below", positive()
    )
    gamma: float = option(
        10.0, "factor of the penalty gamma ||.||^2 that ties activations to pre-activations", positive()
    )
    multiplier_step: float = option(1.0, "step of the multiplier in units of beta; 0 leaves it out", number())
    warm_start: int = option(10, "iterations before the multiplier begins to move", integer(0))
    ridge: float = option(1e-2)
    initialisation: str = option(
        "forward",
        "initial pre-activations: the model's 'forward' pass, or 'random' normal numbers as in the paper",
        choice("forward", "random"),
    )
    chunk_size: int = option(1000)
    reduce: Reduce | None = option(  # noqa: RUF009  (it makes a field)
        None, "adds up tensors over all workers, in place", _checked_reduce, flag=False
    )


class Gram(NamedTuple):
    """A of a layer, and the Cholesky factor by which its least squares are solved."""

    matrix: Tensor
    factor: Tensor


class Iteration(NamedTuple):
    """All results of an iteration, before anything has been changed."""

    x: Tensor
    y: Tensor
    weights: list[Tensor]
    codes: list[Tensor]
    multiplier: Tensor
    first_gram: Gram


class TaylorLayer:
    """One Linear and the least squares that its weights solve.

    Weights are W~ = [W b] (m, n + 1), or W (m, n) without a bias; the Linear's own change only by :meth:`put`.

    Args:
        linear: the module; frozen parameters do not change.
        ridge: see :class:`TaylorADMMOptions`.

    Attributes:
        features: n.
        shape: of W~.
    """

    def __init__(self, linear: nn.Linear, ridge: float) -> None:
        self._linear, self._ridge = linear, ridge
        self.features = n = linear.in_features
        bias = linear.bias
        self.shape = (linear.out_features, n + (bias is not None))
        trains_bias = bias is not None and bias.requires_grad
        # The columns that are fitted.
        self._free = slice(0 if linear.weight.requires_grad else n, n + 1 if trains_bias else n)
        self._frozen = slice(self._free.stop, None) if linear.weight.requires_grad else slice(0, n)
        self._augmented = linear.weight.new_empty(0, self.shape[1], dtype=torch.float64, requires_grad=False)

    @property
    def weights(self) -> Tensor:
        """A copy of the Linear's current W~."""
        m = self._linear
        return m.weight.clone() if m.bias is None else torch.cat([m.weight, m.bias[:, None]], 1)

    def put(self, weights: Tensor) -> None:
        """Set the Linear's parameters, except frozen ones."""
        m = self._linear
        if m.weight.requires_grad:
            m.weight.copy_(weights[:, : m.in_features])
        if m.bias is not None and m.bias.requires_grad:
            m.bias.copy_(weights[:, -1])

    def apply(self, weights: Tensor, a: Tensor) -> Tensor:
        """W a + b (B, m) for a (B, n)."""
        center = product(a, weights[:, : self.features], transpose_b=True)
        return center if self._linear.bias is None else center.add_(weights[:, -1])

    def gain(self, weights: Tensor, ratio: float) -> Tensor:
        """(m, n), the transpose of W^T (W W^T + ratio I)^{-1}."""
        matrix = weights[:, : self.features].double()
        square = product(matrix, matrix, transpose_b=True)
        square.diagonal().add_(ratio)
        return torch.cholesky_solve(matrix, _cholesky_factor(square)).to(weights.dtype).contiguous()

    def augmented(self, a: Tensor) -> Tensor:
        """a~ (B, n + 1), in float64; valid until the next call."""
        if len(self._augmented) < len(a):
            self._augmented = a.new_ones(len(a), self.shape[1], dtype=torch.float64)
        augmented = self._augmented[: len(a)]
        augmented[:, : self.features] = a
        return augmented

    def factor(self, gram: Tensor) -> Tensor:
        """The Cholesky factor of A with the ridge, for the columns that are fitted."""
        ridged = gram.clone()
        ridged.diagonal()[: self.features].add_(self._ridge * gram.diagonal().mean())
        return _cholesky_factor(ridged[self._free, self._free])

    def fitted(self, old: Tensor, gram: Gram, cross: Tensor, rate: float, decay: float) -> Tensor:
        """(1 - decay) times the point at ``rate`` on the way from ``old`` to the solution of W~ (A + ridge) = B.

        Frozen columns keep their values in ``old``.
        """
        weights = old.double()
        target = cross[:, self._free] - weights[:, self._frozen] @ gram.matrix[self._frozen, self._free]
        solution = torch.cholesky_solve(target.t(), gram.factor).t()
        weights[:, self._free] = (1 - decay) * weights[:, self._free].lerp(solution, rate)
        return weights.to(old.dtype)


class TaylorADMM(Method):
    """ADMM without gradients on the whole training set at once (Taylor et al. 2016).

    It takes Linear layers with ReLU between them; the module's text describes the iteration.

    A step is an iteration and takes the whole training set, the same samples in the same order every time. Its report
    costs one more forward pass. Memory: twice the pre-activations of all samples and the multiplier, since a step
    that fails must leave the old ones, the activations of two layers, and in float64 every layer's inputs of a chunk.
    A network for two classes has two outputs. The default loss is the hinge, one class against the rest.

    With ``reduce``, every worker makes its own method, from the same initial weights, and steps on its own share of
    the samples. Up to rounding, it finds the weights that one worker would find for all samples. ``reduce`` is called
    with tensors to be summed over the workers in place, equally often by each worker::

        def reduce(tensors):
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    Reports are about the worker's own share. Give the workers different seeds; otherwise their random initial
    pre-activations are the same. With ``parallel="data"`` the ranks do all this by themselves, and reports are about
    all samples.

    Attributes:
        codes: z_1 to z_L of all samples, a tensor (N, n_l) each; empty before the first step.
        multiplier: lambda (N, n_L).
        iterations: the number of iterations so far.
    """

    name = "admm"
    full_batch = True
    shares = True
    default_loss = "hinge"
    needs = ("proximal",)
    Options = TaylorADMMOptions
    options: TaylorADMMOptions

    def _cut(self, model: nn.Module) -> list[BoundStage]:
        stages = split(model)
        _check_model(stages)
        if self.ranks is not None and self.options.reduce is not None:
            raise ValueError("reduce must be None with parallel='data', which sums over the ranks itself.")
        return stages

    def _flags(self) -> Sequence[Subject]:
        stages = range(len(self._stages))
        weights, codes = ([(variable, l) for l in stages] for variable in ("weights", "code"))
        return [("loss", len(stages) - 1), *weights, *codes]

    def _allocate(self) -> None:
        modules = [stage.map.affine for stage in self._stages]
        self._layers = [TaylorLayer(m, self.options.ridge) for m in modules if isinstance(m, nn.Linear)]
        self._shape = torch.Size()  # of a sample
        self.codes: list[Tensor] = []
        self.multiplier = self._like.new_zeros(0, self._layers[-1].shape[0])
        self.iterations = 0
        self._fingerprint = Fingerprint(self.device)
        self._first_gram: Gram | None = None  # of layer 1, whose inputs are the same in every iteration
        self._found: Iteration | None = None

    # ------------------------------------------------------------------------------------- an iteration

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.codes and len(x) != len(self.multiplier):
            raise ValueError(
                f"x must hold the {len(self.multiplier)} samples of the first step, but holds {len(x)}: {self.name} "
                "takes the whole training set in every step."
            )
        if x.shape[1:] != self._shape:
            shape = x.shape[1:]
            for stage in self._stages:
                shape = stage.output_shape(shape, self.multiplier)
            self._shape = x.shape[1:]
        self.loss.check_target_values(y, self._layers[-1].shape[0])
        self._fingerprint.check(x, y, self.name)
        return x.flatten(1), y

    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        old = [layer.weights for layer in self._layers]
        loss, correct = self._encode(x, y, old)
        codes = self.codes or self._initial_codes(x, old)
        multiplier = self.multiplier if self.codes else torch.zeros_like(codes[-1])
        first_gram = self._first_gram or self._gram(self._layers[0], x)

        a, weights, new_codes, objective = x, [], [], []
        for l, layer in enumerate(self._layers):
            gram = self._gram(layer, a) if l > 0 else first_gram
            weights.append(self._fit(l, old[l], gram, a, codes[l]))
            if layer is not self._layers[-1]:
                a, z, term = self._move(l, weights[l], a, codes[l], old[l + 1], codes[l + 1])
            else:
                z, multiplier, term = self._move_output(weights[l], a, y, multiplier)
            new_codes.append(z)
            objective.append(term)
        self._sum(self._guard.flags)  # a flag of one worker stops all of them
        self._found = Iteration(x, y, weights, new_codes, multiplier, first_gram)
        terms = None
        if self.options.report_objective:
            terms = super()._sum(torch.stack(objective)) / self.samples(x)
        return StepReport(loss, correct, terms)

    def _undoable(self) -> Sequence[Undoable]:
        return [self._weights]

    def _commit(self, batch: int) -> None:
        found = self._found
        assert found is not None
        for layer, fitted in zip(self._layers, found.weights, strict=True):
            layer.put(fitted)
        if not self.codes:
            self._fingerprint.keep(found.x, found.y)
        self.codes, self.multiplier, self._first_gram = found.codes, found.multiplier, found.first_gram
        self.iterations += 1
        self._found = None

    def _encode(self, x: Tensor, y: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The mean loss and the correct count of the current model."""
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        correct: Tensor | None = torch.zeros((), dtype=torch.int64, device=self.device)
        for chunk in self._chunks(len(x)):
            logits = self._forward(x[chunk], weights)[-1]
            loss += self.loss.mean(logits, y[chunk]) * len(logits)
            hits = self.loss.correct(logits, y[chunk])
            correct = None if hits is None or correct is None else correct + hits
        self._guard.loss.copy_(~loss.isfinite())
        correct = None if correct is None else super()._sum(correct)
        return (super()._sum(loss) / self.samples(x)).to(self.dtype), correct

    def _forward(self, x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """z_1 to z_L of a forward pass."""
        codes: list[Tensor] = []
        for layer, own in zip(self._layers, weights, strict=True):
            codes.append(layer.apply(own, codes[-1].relu() if codes else x))
        return codes

    def _initial_codes(self, x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """z_1 to z_L before the first iteration."""
        codes = [x.new_empty(len(x), layer.shape[0]) for layer in self._layers]
        if self.options.initialisation == "random":
            generator = torch.Generator(self.device).manual_seed(self.seed)
            for z in codes:
                if self.ranks is None:
                    z.normal_(generator=generator)
                else:  # all draw those of all samples, and take their own
                    z.copy_(
                        z.new_empty(self.ranks.samples, z.shape[1]).normal_(generator=generator)[
                            self.ranks.own
                        ]
                    )
            return codes
        for chunk in self._chunks(len(x)):
            for z, forward in zip(codes, self._forward(x[chunk], weights), strict=True):
                z[chunk] = forward
        return codes

    def _gram(self, layer: TaylorLayer, a: Tensor) -> Gram:
        """A over all samples of all workers, and its factor."""
        width = layer.shape[1]
        gram = torch.zeros(width, width, dtype=torch.float64, device=self.device)
        for chunk in self._chunks(len(a)):
            own = layer.augmented(a[chunk])
            gram += product(own, own, transpose_a=True)
        self._sum(gram)
        return Gram(gram, layer.factor(gram))

    def _fit(self, l: int, old: Tensor, gram: Gram, a: Tensor, z: Tensor) -> Tensor:
        """Move W_l towards the least-squares fit of z_l by a_{l-1}."""
        layer, rate = self._layers[l], self.options.relaxation * self.step_factor
        cross = torch.zeros(layer.shape, dtype=torch.float64, device=self.device)
        for chunk in self._chunks(len(a)):
            cross += product(z[chunk].double(), layer.augmented(a[chunk]), transpose_a=True)
        self._sum(cross)
        fitted = layer.fitted(old, gram, cross, rate, rate * self.options.shrinkage)
        self._guard.weights(l).copy_(~fitted.isfinite().all())
        return fitted

    def _move(
        self, l: int, weights: Tensor, below: Tensor, z: Tensor, weights_above: Tensor, z_above: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """a_l, z_l and the sum of stage l's terms, from W_l, a_{l-1}, the old z_l, W_{l+1} and z_{l+1}."""
        o, layer, above = self.options, self._layers[l], self._layers[l + 1]
        gain = above.gain(weights_above, o.gamma / o.beta)
        a, new = torch.empty_like(z), torch.empty_like(z)
        objective = torch.zeros((), dtype=torch.float64, device=self.device)
        flag = self._guard.code(l)
        for chunk in self._chunks(len(z)):
            h = z[chunk].relu()
            ops.matmul(z_above[chunk] - above.apply(weights_above, h), gain, out=a[chunk])
            a[chunk] += h
            center = layer.apply(weights, below[chunk])
            ops.relu_prox(a[chunk], center, out=new[chunk], gamma=o.gamma, beta=o.beta, guard=flag)
            if o.report_objective:
                objective += o.gamma * (a[chunk] - new[chunk].relu()).double().square().sum()
                objective += o.beta * (new[chunk] - center).double().square().sum()
        return a, new, objective

    def _move_output(
        self, weights: Tensor, below: Tensor, y: Tensor, multiplier: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z_L, lambda and the sum of the last stage's terms, from W_L, a_{L-1} and the old lambda."""
        o, beta, layer = self.options, self.options.beta, self._layers[-1]
        z, new = torch.empty_like(multiplier), multiplier.clone()
        objective = torch.zeros((), dtype=torch.float64, device=self.device)
        flag = self._guard.code(len(self._layers) - 1)
        for chunk in self._chunks(len(z)):
            center = layer.apply(weights, below[chunk])
            tilted = center - multiplier[chunk] / (2 * beta)
            self.loss.proximal(tilted, y[chunk], 2 * beta, z[chunk], flag)
            misfit = z[chunk] - center
            if self.iterations >= o.warm_start:
                new[chunk].add_(misfit, alpha=o.multiplier_step * beta)
            if o.report_objective:
                objective += len(misfit) * self.loss.mean(z[chunk], y[chunk])
                objective += beta * misfit.double().square().sum()
        return z, new, objective

    # ------------------------------------------------------------------------------------- what it needs

    def _chunks(self, samples: int) -> Iterator[slice]:
        size = self.options.chunk_size
        return (slice(start, start + size) for start in range(0, samples, size))

    def _sum(self, tensor: Tensor) -> Tensor:
        """Sum over all workers or ranks, in place."""
        if self.options.reduce is not None:
            self.options.reduce([tensor])
        return super()._sum(tensor)

    def _is_at_fault(self, x: Tensor, y: Tensor) -> bool:
        own = torch.tensor(float(bool(self._fault(x, y))), device=self.device)
        self._sum(own)  # all workers restore, or none
        return bool(own)

    def _remedy(self, variable: str) -> str:
        return "lower relaxation or raise ridge"

    def _state(self) -> dict[str, Part]:
        widths = [layer.shape[0] for layer in self._layers]
        codes = [("samples", width) for width in widths]
        return {
            **super()._state(),
            "multiplier": Replaced(self, "multiplier", ["samples", widths[-1]]),
            "codes": ReplacedList(self, "codes", codes, self.multiplier, empty="samples"),
            "iterations": Attribute(self, "iterations", count),
            "fingerprint": self._fingerprint.state,
        }

    def _forget_derived(self) -> None:
        super()._forget_derived()
        self._first_gram = None


def _cholesky_factor(matrix: Tensor) -> Tensor:
    """The Cholesky factor; NaN if there is none, which raises a flag later."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where(failed == 0, factor, torch.nan)


def _check_model(stages: Sequence[BoundStage]) -> None:
    """Raise unless the stages are Linear layers with a ReLU between them."""
    for i, stage in enumerate(stages):
        wanted = "identity" if i == 0 else "relu"
        known = stage.pre.activation is not None and stage.pre.activation.name == wanted
        if not isinstance(stage.map, LinearMap) or not known or not stage.pre.is_relu_or_identity:
            where = "in front of the first" if i == 0 else "between it and the Linear below"
            what = "at most Flatten" if i == 0 else "a single ReLU"
            raise ValueError(
                f"model must be Linear layers with {what} {where} for admm, but stage {stage.name!r} is not."
            )
