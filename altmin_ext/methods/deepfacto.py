"""DeepFacto: a layer of non-negative factors within a network, learnt by stochastic Block-ADMM (Khorram et al. 2021,
arXiv 2105.00339).

Between an encoder f_1 and a head f_2 is a :class:`altmin_ext.NonNegativeFactors`. It factorises the encoder's
features into codes S, with a row for each sample or for each position of a sample's map, and a dictionary M that all
share. Only the codes reach the head:

    minimise  sum over samples of  loss(f_2(S), y)  +  rho/2 ||S M^T - f_1(x) + U||^2   subject to  S >= 0, M >= 0 .

This is Block-ADMM of two blocks, whose code X = S M^T is held in factors. A step on a minibatch begins with
S <- argmin ||f_1(x) - S M^T||^2, as the layer does in inference. No dictionary reproduces the features exactly:
R = f_1(x) - S M^T is left over. An encoder that had to make up for all of R would learn features that are easy to
reproduce. In the penalty, f_1(x) is therefore replaced by f_1(x) - (1 - fidelity) R, which leaves only the share
``fidelity`` of R. Then U <- 0, and ``iterations`` times the step

1. moves the codes, ``code_iterations`` times, to the minimum of the objective in which the loss is replaced by its
   linear approximation at S plus ||. - S||^2 / (2 eta), by the layer's sweeps;
2. fits encoder and head, one Adam step each, on their own terms;
3. raises the duals: U <- U + S M^T - f_1(x).

In 2 the dictionary is also fitted to all codes S and features F so far, which are kept in two matrices,
A <- (1 - forgetting) A + S^T S and B <- (1 - forgetting) B + F^T S. Sweeps over the atoms set
m_j <- max(0, m_j + (B_j - M A_j) / A_jj) (HALS: Cichocki & Phan 2009; online: Mairal et al. 2010). Atoms are then
scaled to unit norm. An atom that no code has used for long restarts from the row that is fitted worst.

A sample without a label, -1, takes part in the factorisation but not in the loss.

Only the abstract of the paper was available. The steps are derived from the problem that it states, not taken from
published code, and no published number is claimed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from altmin_ext._guard import Subject
from altmin_ext._state import InPlace, Listed, Part
from altmin_ext.methods._options import number, option
from altmin_ext.methods.block_admm import Block, BlockADMM, BlockOptions
from altmin_ext.network import BoundStage, leaves, split_at
from altmin_ext.network.known import known_as
from altmin_ext.nn.factors import NonNegativeFactors, as_maps, as_rows, least_squares
from altmin_ext.nn.sign import check_surrogates
from altmin_ext.ops import MemoryScalar
from altmin_ext.ops import unversioned as ops
from altmin_ext.updates import gram_matrix

_unused = 1e-6  # an atom whose A_jj is at most this share of the largest one restarts


@dataclasses.dataclass(frozen=True)
class DeepFactoOptions(BlockOptions):
    """Options of :class:`DeepFacto`.

    With ``lr_codes="auto"`` eta is one over a bound of the loss's curvature in the codes, found as in Block-ADMM, so
    the objective falls with every move. The least-squares part is solved exactly: non-negative atoms resemble one
    another, and a gradient step short enough for what they share would barely move along their differences, which are
    what the head needs.

    With a larger ``rho`` the encoder's gradient comes closer to that of backpropagation through the least squares.
    The codes then move less, which Adam makes up for.

    ``fidelity=1`` is the problem as stated: the encoder is drawn towards features that the dictionary can reproduce,
    the nearest of which is zero, and learns little else. At 0 it follows the loss alone, whatever the dictionary
    leaves over, and learns nothing from samples without a label. The loss is one number per sample, while every
    position of a map adds to what is left over: with 7 x 7 positions a ``fidelity`` of 2e-5 weighs as much as the
    default does for a vector, and learnt better. An encoder that ends with a normalisation cannot make its features
    small, and learns better.

    The encoder keeps changing, and so do the features that the dictionary describes: ``forgetting`` sets how fast the
    dictionary follows.
    """

    rho: float = option(10.0)
    fidelity: float = option(
        1e-3,
        "share of the factorisation error for which the encoder is penalised: 1 as the problem is stated, 0 to "
        "follow the loss alone",
        number(maximum=1.0),
    )
    lr_dictionary: float = option(
        1.0, "part of each sweep's change of the atoms that is taken: 1 all of it", number(maximum=1.0)
    )
    forgetting: float = option(0.02)
    prior_batches: float = option(
        1.0,
        "weight of the initial dictionary, in minibatches; forgotten like the past",
        number(),
    )
    sweeps: int = option(1)


class FactorisedBlock(Block):
    """A block whose code X is S M^T; the input of the block above is S.

    Attributes:
        layer: the layer with the dictionary M.
        features: F, the encoder's output; ``output`` is F - (1 - fidelity) R.
        codes: S, (B, r, ...).
    """

    def __init__(self, stage: BoundStage, layer: NonNegativeFactors, options: DeepFactoOptions) -> None:
        super().__init__(stage, options.rho)
        self._fidelity = options.fidelity
        self.layer = layer
        self.curvature = (
            1e-6 * options.rho
        )  # matters only for a head of zeros, where the loss has no curvature
        self._scalars = torch.zeros(len(MemoryScalar), dtype=torch.float64, device=layer.dictionary.device)
        self.codes = self.features = torch.empty(0)

    def output_shape(self, shape: torch.Size, like: Tensor) -> torch.Size:
        features = super().output_shape(shape, like)
        if features[:1] != (self.layer.features,):
            raise ValueError(
                f"model must give ({self.layer.features}, ...) features per sample to its NonNegativeFactors, but "
                f"gives {tuple(features)}."
            )
        return torch.Size([self.layer.rank, *features[1:]])

    def encode(self, input: Tensor) -> None:
        super().encode(input)
        self.features = self.output
        codes = least_squares(as_rows(self.features), self.layer.dictionary, self.layer.sweeps)
        self._hold(codes)
        left = self.features - self.code
        self._let_go, self._kept = (1 - self._fidelity) * left, self._fidelity * left
        gain = as_rows(left) @ self.layer.dictionary
        self._prices = gain.neg_().relu_().masked_fill_(codes > 0, 0)
        self.output = self.features - self._let_go

    def stand_at(self, input: Tensor, *, anew: bool = False) -> None:
        if anew or input is not self.input:
            super().stand_at(input, anew=True)
            self.features, self.output = self.output, self.output - self._let_go

    @property
    def above(self) -> Tensor:
        return self.codes

    def move(self, gradient: Tensor, eta: float) -> None:
        """S <- argmin over S >= 0 of the block's term + <gradient, S> + ||S - current S||^2 / (2 eta).

        The result of the encode's least squares is taken for its exact solution, however many sweeps that would have
        needed. Codes then move because of the loss alone. For an exact solution the rest R is orthogonal to the atoms
        in use, and every unused atom has a price, the gradient of the least squares in its code.
        """
        if eta == 0:  # one over a norm that has overflowed
            return
        dictionary, codes = self.layer.dictionary, as_rows(self.codes).clone()
        gram = self._rho * dictionary.t() @ dictionary
        gram.diagonal().add_(1 / eta)
        aim = self.output if self.dual is None else self.output - self.dual
        targets = as_rows(aim - self._kept)
        cross = (targets @ dictionary).sub_(self._prices).mul_(self._rho)
        cross.add_(codes / eta).sub_(as_rows(gradient))
        ops.bcd_columns(codes, gram, cross, scalars=self._scalars, sweeps=self.layer.sweeps, nonnegative=True)
        self._hold(codes)

    def _hold(self, codes: Tensor) -> None:
        """Set S to these rows, and the code to S M^T."""
        self.codes = as_maps(codes, self.features)
        self.code = as_maps(codes @ self.layer.dictionary.t(), self.features)


class OnlineDictionary:
    """The dictionary M, fitted to all codes and features so far, which two matrices sum up.

    Attributes:
        gram, cross: A = sum of s s^T, (r, r), and B = sum of f s^T, (C, r), over all rows so far, older ones decayed.
    """

    def __init__(self, layer: NonNegativeFactors, options: DeepFactoOptions) -> None:
        self._layer, self._options = layer, options
        like = layer.dictionary
        self.gram, self.cross = like.new_zeros(layer.rank, layer.rank), torch.zeros_like(like)
        self._scalars = torch.zeros(len(MemoryScalar), dtype=torch.float64, device=like.device)
        self._scalars[MemoryScalar.forgetting] = options.forgetting
        self._found = (self.gram, self.cross, like)

    def learn(self, codes: Tensor, features: Tensor, rate: float) -> bool:
        """Find the next A, B and M from the rows of a minibatch; returns whether they are finite."""
        gram, cross, dictionary = self.gram.clone(), self.cross.clone(), self._layer.dictionary.clone()
        if not bool(gram.any()):
            gram.fill_diagonal_(self._options.prior_batches * float(codes.square().sum()) / len(gram))
            cross.copy_(dictionary @ gram)
        ops.memory_update(codes, features, gram=gram, cross=cross, scalars=self._scalars)
        if not _are_finite(gram, cross):
            return False
        ops.bcd_columns(
            dictionary, gram, cross, scalars=self._scalars, sweeps=self._options.sweeps, nonnegative=True
        )
        dictionary = torch.lerp(self._layer.dictionary, dictionary, rate)

        norms = torch.linalg.vector_norm(dictionary, dim=0)
        dead = (norms == 0) | (gram.diagonal() <= _unused * gram.diagonal().max())
        scales = torch.where(norms > 0, norms, 1)
        dictionary /= scales
        cross *= scales
        gram *= scales * scales[:, None]
        if bool(dead.any()):
            _begin_anew(dead, codes, features, gram, cross, dictionary)
        self._found = (gram, cross, dictionary)
        return _are_finite(dictionary)

    def commit(self) -> None:
        """Replace A, B and M by those that :meth:`learn` has found."""
        self._layer.dictionary.copy_(self._found[2])
        self.gram, self.cross, _ = self._found


def _are_finite(*tensors: Tensor) -> bool:
    return math.isfinite(sum(float((tensor * 0).sum()) for tensor in tensors))


def _begin_anew(
    dead: Tensor, codes: Tensor, features: Tensor, gram: Tensor, cross: Tensor, dictionary: Tensor
) -> None:
    """Set each unused atom to the positive part of the error of one of the rows that are fitted worst."""
    left = (features - codes @ dictionary.t()).relu()
    norms, worst = left.norm(dim=1).topk(min(int(dead.sum()), len(left)))
    for atom, norm, row in zip(dead.nonzero()[:, 0], norms, worst, strict=False):
        gram[atom], gram[:, atom], cross[:, atom] = 0, 0, 0
        if norm > 0:
            dictionary[:, atom] = left[row] / norm


class DeepFacto(BlockADMM):
    """DeepFacto: a layer of non-negative factors in the network, learnt by Block-ADMM; Adam on the rest.

    It takes models with one :class:`altmin_ext.NonNegativeFactors` and parameters below and above it, such as those
    of :func:`altmin_ext.models.deepfacto`. If y are integer labels, -1 means that a sample has none. Loss and correct
    count in a report are those of the samples with a label; if there are none, the loss is NaN.

    Attributes:
        code_step_sizes: (1,) float64, eta of the last step.
        memory: copies of A (r, r) and B (C, r), to which the dictionary is fitted.
    """

    name = "deepfacto"
    shares = False
    factorises = True
    Options = DeepFactoOptions
    options: DeepFactoOptions

    @property
    def memory(self) -> tuple[Tensor, Tensor]:
        return self._dictionary.gram.clone(), self._dictionary.cross.clone()

    def _cut(self, model: nn.Module) -> list[BoundStage]:
        """The stages of encoder and head, without the layer between them."""
        check_surrogates(model)
        at, _ = _layer(model)
        self._starts = [at]
        parts = leaves(model)
        paths = [path for path, _ in parts[:at] + parts[at + 1 :]]
        modules = [module for _, module in parts[:at] + parts[at + 1 :]]
        for side, part in (("below", modules[:at]), ("above", modules[at:])):
            if not any(True for module in part for _ in module.parameters()):
                raise ValueError(
                    f"model must have parameters {side} its NonNegativeFactors, but has none there."
                )
        stages = split_at(nn.Sequential(*modules), [at])
        return [dataclasses.replace(stage, name=paths[int(stage.name)]) for stage in stages]

    def _flags(self) -> Sequence[Subject]:
        return [*super()._flags(), ("dictionary", 0)]

    def _allocate(self) -> None:
        super()._allocate()
        self._dictionary = OnlineDictionary(_layer(self.model)[1], self.options)

    def _hidden_blocks(self, stages: Sequence[BoundStage]) -> Sequence[FactorisedBlock]:
        self._block = FactorisedBlock(stages[0], _layer(self.model)[1], self.options)
        return [self._block]

    def _weight_gradients(self, inputs: Sequence[Tensor]) -> None:
        super()._weight_gradients(inputs)
        block, rate = self._block, self.options.lr_dictionary * self.step_factor
        if rate > 0:
            finite = self._dictionary.learn(as_rows(block.codes), as_rows(block.features), min(rate, 1.0))
            if not finite:
                self._guard.put_up("dictionary", 0)

    def _commit(self, batch: int) -> None:
        super()._commit(batch)
        if self.options.lr_dictionary * self.step_factor > 0:
            self._dictionary.commit()

    def _state(self) -> dict[str, Part]:
        gram, cross = self._dictionary.gram, self._dictionary.cross
        return {**super()._state(), "memory": Listed([InPlace(gram, gram_matrix), InPlace(cross)])}


def _layer(model: nn.Module) -> tuple[int, NonNegativeFactors]:
    """The number of the layer of factors among the model's modules, and the layer; ValueError unless there is one."""
    layers = [
        (i, module)
        for i, (_, module) in enumerate(leaves(model))
        if isinstance(module, NonNegativeFactors) and known_as(module) is NonNegativeFactors
    ]
    held = sum(isinstance(module, NonNegativeFactors) for module in model.modules())
    if held > len(layers):
        raise ValueError(
            f"model must hold its NonNegativeFactors in its chain, as it is, but holds {held - len(layers)} within "
            "other modules, or with a hook or a forward of its own; take it out, or remove that."
        )
    if len(layers) != 1:
        raise ValueError(
            f"model must hold one NonNegativeFactors in its chain, but holds {len(layers)}; "
            "altmin_ext.models.deepfacto makes such models."
        )
    return layers[0]
