"""Stochastic Block-ADMM: backpropagation inside the blocks of a network, ADMM between them (Khorram et al. 2021,
arXiv 2105.00339).

The network is cut into blocks f_1, ..., f_T, which may be any sub-networks. Behind every block but the last is a code
X_t, tied to the block's output by a penalty rho and a scaled dual variable U_t:

    minimise  sum over samples of  loss(f_T(X_{T-1}), y)  +  sum_{t<T} rho/2 ||X_t - f_t(X_{t-1}) + U_t||^2 .

A step on a minibatch begins with X_t <- f_t(X_{t-1}) and U_t <- 0, and then, ``iterations`` times,

1. moves the codes: X_t <- prox(X_t - eta_t dJ/dX_t) from the top down, so that one sweep carries the labels through;
2. fits the weights: one Adam step of every block on its own term of J, all independently;
3. raises the duals: U_t <- U_t + X_t - f_t(X_{t-1}).

Only the abstract of the paper was available. The steps are derived from the problem that it states, not taken from
published code, and no published number is claimed.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._fingerprint import digests
from altmin_ext._guard import Subject
from altmin_ext._state import Part, Replaced, ReplacedList, Same
from altmin_ext._undo import Undo, Undoable
from altmin_ext.losses import Loss
from altmin_ext.methods._options import GradientOptions, choice, integer, number, option
from altmin_ext.methods.base import Method, StepReport
from altmin_ext.network import BoundStage, EvaluatedMap, leaves, map_spans, split_at
from altmin_ext.network.spectral_norms import SpectralNorms
from altmin_ext.nn.sign import check_surrogates, sign
from altmin_ext.ops import CodeScalar
from altmin_ext.ops.numerics import soft_threshold
from altmin_ext.parallel import WholeMinibatch
from altmin_ext.updates import AdamUpdate

Proximal: TypeAlias = Callable[[Tensor, float], Tensor]
# The norms of the weights are updated in each of the first so many steps, and then once in so many.
_spectral_norm_interval = 10


@dataclasses.dataclass(frozen=True)
class BlockOptions(GradientOptions):
    """The options of all methods with blocks and codes between them."""

    rho: float = option(1.0)
    lr_codes: float | str = option("auto")
    iterations: int = option(1, "rounds of codes, weights and duals per minibatch", integer())
    code_iterations: int = option(1)
    order: str = option(
        "gauss-seidel",
        "inputs to which weights are fitted: codes after the move, 'gauss-seidel', or before it, 'jacobi'",
        choice("gauss-seidel", "jacobi"),
    )
    workers: int = option(1, "threads that fit the blocks' weights, which are independent", integer())
    duals: str = option("online", check=choice("online", "none"))


def _checked_blocks(name: str, value: Any) -> int | list[int]:
    try:
        if isinstance(value, Iterable) and not isinstance(value, str):
            return _check.integers(name, value, minimum=-sys.maxsize)  # their range depends on the model
        return _check.integer(name, value)
    except TypeError:
        raise TypeError(f"{name} must be an integer or a list of integers, but is {value!r}.") from None


def _checked_proximal(name: str, value: Any) -> str | Proximal:
    if callable(value):
        proximal: Proximal = value
        return proximal
    return _check.choice(name, value, ("non-negative", "binary", "sparse"))


@dataclasses.dataclass(frozen=True)
class BlockADMMOptions(BlockOptions):
    """Options of :class:`BlockADMM`.

    A step size of 1 / rho can make the method fail. With ``order="gauss-seidel"`` a block is fitted to its target
    after the code below has moved; if that move alone reaches the target or overshoots it, nothing is left to fit,
    or the wrong direction is learnt. ``lr_codes="auto"`` takes the step of a majorised descent,
    eta_t = 1 / (rho + rho ||J_{t+1}||^2), with the curvature of the loss in place of the second rho for the topmost
    code. The norm is found by power iteration: one step after each of the first ten weight updates, then after every
    tenth. A block that is more than one linear map behind activations has no single norm; the first samples of the
    minibatch stand for all. Measured, that norm was up to a third too small, which such a step tolerates.

    Take ``order="jacobi"``, one round of one code step, and neither a proximal map nor stored duals. The weights are
    then fitted at the inputs that they had before the codes moved, and the gradient of block t is that of
    backpropagation times the product of rho eta over the codes above it: the two differ in scale alone. Duals that
    last for a minibatch begin at zero, so they have no effect in a single round.

    Duals are stored together with their codes, since a dual is the price of one code's constraint. They describe
    weights of the past, while weights move with every minibatch: expect slower learning.

    A code's displacement shrinks by the factor eta with every round and with every block below. With many blocks in
    float32, little of it reaches the lowest ones; take fewer blocks then.

    By default a block ends with a module with parameters, and the activation behind it belongs to the block above:
    codes are pre-activations, as in alternating minimisation. With ``codes="activations"`` the activation belongs to
    the block below, and the activations become non-negative or sparse. Codes of dead units then move, too, although
    the units cannot follow. The weights above are fitted to these moves and grow, and the network generalises worse.

    The proximal map applies a constraint or penalty to the codes: "non-negative" and "binary" project onto [0, inf)
    and {-1, +1}; "sparse" is the soft threshold by eta ``l1_codes``; a function is called with (X, eta), X (B, ...),
    and returns a tensor of the same shape. Projecting onto {-1, +1} undoes a short step, so "binary" takes
    eta = 1 / rho by default. Even so, nothing is learnt unless ``rho`` is .1 or less, behind a tanh or a sign.
    """

    blocks: int | Sequence[int] | None = option(
        None,
        "number of blocks; in Python also the list of the modules, by number, that begin a block",
        _checked_blocks,
        none="a block for each module with parameters",
    )
    codes: str = option(
        "pre-activations",
        "kind of the codes between blocks: 'pre-activations' or 'activations'",
        choice("pre-activations", "activations"),
    )
    duals: str = option("online")
    dual_decay: float = option(
        0.9, "factor of a sample's stored duals when the sample comes again", number(maximum=1.0)
    )
    proximal: str | Proximal | None = option(  # noqa: RUF009  (it makes a field)
        None,
        "proximal map after each step of a code: 'non-negative', 'binary' (with rho at most .1), 'sparse' (with "
        "l1_codes) or, in Python, a function",
        _checked_proximal,
        none="no map",
    )
    l1_codes: float = option(0.0)

    def complete(self) -> None:
        if self.proximal == "binary" and self.lr_codes == "auto":
            self._set("lr_codes", 1 / self.rho)

    def check(self) -> None:
        if self.proximal == "sparse" and self.l1_codes == 0:
            raise ValueError("l1_codes must be greater than 0 with proximal='sparse', but is 0.")
        if self.l1_codes > 0 and self.proximal != "sparse":
            raise ValueError(f"l1_codes must be 0 unless proximal='sparse', but is {self.l1_codes!r}.")

    def starts(self, model: nn.Module) -> list[int]:
        """The numbers of the modules that begin a block, except the first; a ValueError if that is impossible."""
        maps = map_spans(model)
        count = len(maps) if self.blocks is None else self.blocks
        if isinstance(count, int):
            if count > len(maps) > 0:
                raise ValueError(
                    f"blocks must be at most {len(maps)}, the model's modules with parameters, but is {count}."
                )
            firsts = [len(maps) * i // count for i in range(1, count)]
            return [maps[i][0] if self.codes == "activations" else maps[i - 1][1] for i in firsts]
        inside, starts = len(leaves(model)), list(count)
        if any(low >= high for low, high in itertools.pairwise([0, *starts, inside])):
            raise ValueError(
                f"blocks must be increasing numbers from 1 to {inside - 1} of the model's modules, but is {starts}."
            )
        return starts

    def proximal_map(self) -> Proximal:
        """The map, as a function of a code and its step size."""
        if callable(self.proximal):
            return _checked(self.proximal)
        maps: dict[str | None, Proximal] = {
            None: lambda code, step: code,
            "non-negative": lambda code, step: code.relu(),
            "binary": lambda code, step: sign(code),
            "sparse": lambda code, step: soft_threshold(code, step * self.l1_codes),
        }
        return maps[self.proximal]


def _checked(proximal: Proximal) -> Proximal:
    """The same function, with a ValueError if its result is not shaped like its argument."""

    def checked(code: Tensor, step: float) -> Tensor:
        result = proximal(code, step)
        if not isinstance(result, Tensor) or result.shape != code.shape or result.dtype != code.dtype:
            what = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else repr(result)
            raise ValueError(
                f"proximal must return a tensor like the code it is given, {code.dtype} {tuple(code.shape)}, but "
                f"returned {what}."
            )
        return result

    return checked


class Block:
    """A sub-network f with the code X and dual U behind it; its term is rho/2 ||X - f(input) + U||^2 per sample.

    Within a step the sub-network is the same function at every evaluation: same dropout mask, same statistics of the
    batch.

    Attributes:
        stage, pre, map: the sub-network, and its parts without and with parameters.
        input, output: the point of the last evaluation and the value there, both (B, ...).
        code, dual: X and U, (B, ...); None for a dual of zeros.
        curvature: a bound of the curvature of the block's term in its code.
    """

    def __init__(self, stage: BoundStage, rho: float, proximal: Proximal | None = None) -> None:
        assert isinstance(stage.map, EvaluatedMap)
        self.stage, self.pre, self.map, self._rho = stage, stage.pre, stage.map, rho
        self.curvature, self._proximal = rho, proximal
        self.input = self.output = self.code = torch.empty(0)
        self.dual: Tensor | None = None

    def output_shape(self, shape: torch.Size, like: Tensor) -> torch.Size:
        """The shape of the input of the block above, for a sample of this shape."""
        return self.stage.output_shape(shape, like)

    def encode(self, input: Tensor) -> None:
        """Evaluate f for the first time in a step: X <- f(input), U <- 0."""
        self.input = input
        self.output = self.code = self.map.encode(self.pre.begin(input), None)
        self.dual = None

    @property
    def above(self) -> Tensor:
        """The input of the block above: X."""
        return self.code

    def move(self, gradient: Tensor, eta: float) -> None:
        """X <- prox(X - eta dJ/dX); ``gradient`` is the part of dJ/dX from the block above."""
        if self.code is not self.output or self.dual is not None:  # otherwise its own term is at its minimum
            gradient = gradient - self.error()
        code = torch.sub(self.code, gradient, alpha=eta)
        self.code = code if self._proximal is None else self._proximal(code, eta)

    def stand_at(self, input: Tensor, *, anew: bool = False) -> None:
        """Evaluate f, unless the last evaluation was at this input; ``anew``: always, since weights have moved."""
        if anew or input is not self.input:
            self.input = input
            self.output = self.map.forward(self.pre.value(input), None)

    def error(self) -> Tensor:
        """The derivative of the block's term in its output, per sample."""
        return self.misfit().mul_(self._rho)

    def misfit(self) -> Tensor:
        """f(input) - X - U."""
        misfit = self.output - self.code
        return misfit if self.dual is None else misfit.sub_(self.dual)

    def vjp(self, error: Tensor) -> Tensor:
        """J^T error: the derivative of the block's term in its input."""
        return self.pre.vjp(self.map.vjp(error, None))

    def objective(self) -> Tensor:
        """The block's term, as the mean over the minibatch; 0-d float64."""
        misfit = self.misfit()
        return self._rho / 2 * misfit.double().square().sum() / len(misfit)

    def commit(self) -> None:
        """Update what depends on the encode, such as the running statistics of batch normalisation."""
        self.stage.commit()


class LastBlock(Block):
    """The block at the top, whose term is the loss.

    Attributes:
        targets: y of the minibatch.
        loss, correct: 0-d, the mean loss and the correct count at the last call of :meth:`error`; ``correct`` is None
            if it has no meaning.
    """

    def __init__(self, stage: BoundStage, loss: Loss, flag: Tensor) -> None:
        super().__init__(stage, rho=0.0)
        self._function, self._flag = loss, flag
        self.targets = self.loss = torch.empty(0)
        self.correct: Tensor | None = None

    def error(self) -> Tensor:
        residual, self.loss = torch.empty_like(self.output), self.output.new_empty(())
        correct = torch.empty((), dtype=torch.int64, device=residual.device)
        self._function.residual(
            self.output, None, self.targets, residual, None, self.loss, correct, self._flag
        )
        self.correct = correct if self._function.counts(self.targets, residual.shape[1]) else None
        return residual

    def curvature_at_output(self) -> float:
        """The curvature of the loss at the logits of the last evaluation."""
        return float(self._function.curvature_at(self.output, None, self.targets))

    def objective(self) -> Tensor:
        if isinstance(self._function, WholeMinibatch):  # of which no label is missing
            return self.loss.double()
        share = int(self._function.labelled(self.targets)) / len(self.targets)
        return self.loss.double() * share if share else torch.zeros_like(self.loss, dtype=torch.float64)


class BlockADMM(Method):
    """Stochastic Block-ADMM: backpropagation within blocks, ADMM between them, Adam on the weights.

    No derivative crosses more than one block. The weights of all blocks are fitted independently, by ``workers``
    threads, with the same bits for any number of them. Each of these threads uses as many threads as torch is set to,
    so call ``torch.set_num_threads(1)`` if there are several.

    Attributes:
        code_step_sizes: (T - 1,) float64, the step size of each code in the last step, lowest code first.
        codes, duals: the stored codes and duals of every sample: a tensor (N, ...) for each block but the last, with
            N greater than every index so far. Empty if none are stored.
    """

    name = "block-admm"
    shares = True
    Options: ClassVar[type[BlockOptions]] = BlockADMMOptions
    options: Any

    def _cut(self, model: nn.Module) -> list[BoundStage]:
        check_surrogates(model)
        self.per_sample = self.options.duals == "stored"
        self._starts: list[int] = self.options.starts(
            model
        )  # of the modules that begin a block, but the first
        stages = split_at(model, self._starts)
        if self.ranks is not None:
            self._check_options_of_ranks()
            for stage in stages:
                stage.share(self.ranks)
        return stages

    def _check_options_of_ranks(self) -> None:
        """Raise a ValueError if an option does not suit ranks that share minibatches."""
        o = self.options
        if o.duals == "stored":
            raise ValueError(
                "duals must be 'online' or 'none' with parallel='data', but is 'stored': a sample comes to another "
                "rank in every epoch."
            )
        if o.workers > 1:
            raise ValueError(
                f"workers must be 1 with parallel='data', but is {o.workers}: all ranks must make their sums in the "
                "same order."
            )

    def _flags(self) -> Sequence[Subject]:
        count = len(self._stages)
        return [*(("weight gradient", t) for t in range(count)), ("loss", count - 1)]

    def _allocate(self) -> None:
        stages, o = self._stages, self.options
        self._hidden = self._hidden_blocks(stages[:-1])
        self._last = self._last_block(stages[-1], self._guard.loss)
        self._blocks = [*self._hidden, self._last]
        self._update = AdamUpdate(stages, self._guard)
        self._auto = o.lr_codes == "auto"
        self._calls_modules = any(stage.calls_modules for stage in stages)

        count = len(self._hidden)
        self._scalars = torch.zeros(count, len(CodeScalar), dtype=torch.float64, device=self.device)
        self._spectral_norms = SpectralNorms(
            stages[1:], list(self._scalars), self.seed, self._like, self.ranks
        )
        self.code_step_sizes = self._like.new_zeros(count, dtype=torch.float64)
        self._step_sizes: list[float] | None = None
        self._dropping = [block.pre for block in self._blocks[1:] if block.pre.drops]
        self._step_sizes_are_for: list[float | None] = []
        self._bound_shape: torch.Size | None = None
        self._scalars_are_for: tuple[int, float] | None = None
        self.codes: list[Tensor] = []
        self.duals: list[Tensor] = []
        # Of every sample: whether it has stored codes and duals, and the digests of its x and y.
        self._seen = torch.zeros(0, dtype=torch.bool, device=self.device)
        self._digests = torch.zeros(0, 2, dtype=torch.int64, device=self.device)
        self._index: Tensor | None = None
        self._found = self._digests  # the digests of the minibatch
        self._map = map if o.workers == 1 else ThreadPoolExecutor(o.workers).map

    def _hidden_blocks(self, stages: Sequence[BoundStage]) -> Sequence[Block]:
        proximal = self.options.proximal_map()
        return [Block(stage, self.options.rho, proximal) for stage in stages]

    def _last_block(self, stage: BoundStage, flag: Tensor) -> LastBlock:
        return LastBlock(stage, self.loss, flag)

    def step(self, x: Tensor, y: Tensor, index: Tensor | None = None) -> StepReport:
        """Train on one minibatch; see :meth:`Method.step`.

        Args:
            x, y: the minibatch.
            index: (B,) integers from 0, the numbers of these samples in the training set, all different; needed and
                used only with ``duals="stored"``. A number stands for the same x and y in every step: a code that was
                found for other ones is not used.

        Returns:
            The report, as in :meth:`Method.step`.

        Raises:
            TypeError, ValueError, DivergenceError: as in :meth:`Method.step`, or ``index`` is wrong.
            MemoryError: there is no memory for codes up to the largest number in ``index``; nothing has changed.
        """
        if self.options.duals == "stored":
            _check_index(index, x)
            assert index is not None
            self._index = index.to(self.device, torch.int64)
        return super().step(x, y)

    # ------------------------------------------------------------------------------------------ a step

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self._bind(x.shape[1:])
        self.loss.check_target_shape(y, self.n_out)
        batch = self.samples(x)
        current = (batch, self.step_factor)
        if current != self._scalars_are_for:
            rate, count = self.options.lr * self.step_factor, len(self._blocks)
            self._update.set_scalars([rate] * count, [1 / batch] * count, self.options.weight_decay, 0.0)
            self._scalars_are_for = current
        if self._index is not None:
            self._found = torch.stack([digests(x), digests(y)], 1)
            self._check_samples(self._index, x)
            self._room = self._with_room(self._index)
        return x, y

    def _check_samples(self, index: Tensor, x: Tensor) -> None:
        """Raise a ValueError if a sample with stored codes is another than when they were stored."""
        if len(self._seen) == 0:
            return
        at, seen = self._places(index)
        others = seen & (self._found != self._digests[at]).any(1)
        others &= x.flatten(1).isfinite().all(1)  # the rest is left to the divergence guard
        if bool(others.any()):
            raise ValueError(
                f"index must give every sample the number that it had before, but number {int(index[others][0])} was "
                "another sample, or had another y; make a new method for another training set."
            )

    def _places(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Where samples are stored, and whether they are."""
        held = len(self._seen)
        at = index.clamp(max=held - 1)
        return at, self._seen[at] & (index < held)

    def _undoable(self) -> Sequence[Undoable]:
        modules = self._calls_modules  # which duals and spectral norms evaluate after the weights have moved
        parts: list[Undoable] = []
        if self._bound_shape is None or (self._auto and (modules or not self._spectral_norms.ready)):
            parts.append(self._spectral_norms)
        if modules or self.options.iterations > 1:
            parts += [self._weights, self._update]
        if modules and self._buffers:
            parts.append(self._buffers)
        return parts

    def _put_back(self, undo: Undo) -> None:
        super()._put_back(undo)
        self._bound_shape = (
            None  # vectors of the spectral norms may have been drawn for it, and are undone now
        )

    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        o = self.options
        loss, correct = self._encode(x, y)
        step_sizes = self._find_step_sizes(len(x))
        objective = None
        for iteration in range(o.iterations):
            inputs = [block.input for block in self._blocks]
            self._move_codes(step_sizes)
            if o.order == "gauss-seidel":
                inputs = [x, *(block.above for block in self._hidden)]
            self._weight_gradients(inputs)
            if iteration == 0 and o.report_objective:
                objective = torch.stack([self._mean(block.objective()) for block in self._blocks])
            self._update.update()
            if self._guard.raised():
                break
            if iteration + 1 < o.iterations or o.duals == "stored":
                self._raise_duals(x)
        return StepReport(loss, correct, objective)

    def _mean(self, of_samples: Tensor) -> Tensor:
        """The mean over the whole minibatch of what is the mean over the samples of each rank."""
        if self.ranks is None:
            return of_samples
        share = self.ranks.sizes[self.ranks.rank] / self.ranks.samples
        return self.ranks.sum(of_samples * share)

    def _encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """X_t <- f_t(X_{t-1}), or the stored code, for all t; returns the model's mean loss and correct count."""
        code = x
        for block in self._blocks:
            block.encode(code)
            code = block.above
        self._last.targets = y
        self._last.error()
        loss, correct = self._last.loss, self._last.correct
        if self.options.duals == "stored":
            self._fetch()
        return loss, correct

    def _move_codes(self, step_sizes: Sequence[float]) -> None:
        """X_t <- prox(X_t - eta_t dJ/dX_t), from the top down, each with the new codes above it."""
        pairs = zip(self._hidden, self._blocks[1:], step_sizes, strict=True)
        for block, above, eta in reversed(list(pairs)):
            for _ in range(self.options.code_iterations):
                above.stand_at(block.above)
                block.move(above.vjp(above.error()), eta)

    def _weight_gradients(self, inputs: Sequence[Tensor]) -> None:
        """Compute the gradient of every block's term in its weights at these inputs; raise a flag if not finite."""

        @torch.no_grad()  # a new thread does not inherit this
        def fit(block: Block, input: Tensor) -> Tensor:
            block.stand_at(input)
            block.map.weight_gradients(block.error(), block.input)
            # Adam squares gradients: if one overflows, its weights would stay behind while the others move.
            squares = (torch.dot(gradient.flatten(), gradient.flatten()) for gradient in block.map.gradients)
            return sum(squares, self._like.new_zeros(()))

        sums = torch.stack(list(self._map(fit, self._blocks, inputs)))
        self._guard.weights(0, len(sums)).copy_(~sums.isfinite())
        if self.ranks is not None:
            for stage in self._stages:
                self.ranks.start_sum(stage.map.gradients)
            self.ranks.wait()
            self.ranks.largest(self._guard.flags)

    def _raise_duals(self, x: Tensor) -> None:
        """U_t <- U_t + X_t - f_t(X_{t-1}), with the new weights."""
        for block, input in zip(self._blocks, [x, *(block.above for block in self._hidden)], strict=True):
            block.stand_at(input, anew=True)
        if self.options.duals != "none":
            for block in self._hidden:
                block.dual = -block.misfit()

    def _commit(self, batch: int) -> None:
        for block in self._blocks:
            block.commit()
        if self._auto and (self.steps < _spectral_norm_interval or self.steps % _spectral_norm_interval == 0):
            self._spectral_norms.iterate(batch)
            self._step_sizes = None
        if self._index is not None:
            self._store(self._index)

    def _remedy(self, variable: str) -> str:
        return "lower lr or lr_codes"

    # ------------------------------------------------------------------------------------- what it needs

    def _bind(self, shape: torch.Size) -> None:
        """Find the shapes of all codes, for samples of this shape."""
        if shape == self._bound_shape:
            return
        shapes = [shape]
        for block in self._blocks:
            shapes.append(block.output_shape(shapes[-1], self._like))
        if len(shapes[-1]) != 1:
            raise ValueError(
                f"model must give (B, C) logits, but gives {tuple(shapes[-1])} per sample; add a Flatten."
            )
        self.n_out = shapes[-1].numel()
        self._code_shapes = shapes[1:-1]
        inputs = [b.pre.output_shape(s, self._like) for b, s in zip(self._blocks, shapes, strict=False)]
        self._spectral_norms.set_shapes(self._code_shapes, inputs[1:])
        self._step_sizes = None
        self._bound_shape = shape

    def _find_step_sizes(self, batch: int) -> list[float]:
        """eta_t of every code; they change only when the spectral norms are updated.

        If the loss has no bound of its curvature for all logits, they are found anew for every minibatch.
        """
        slopes = [pre.lipschitz for pre in self._dropping]
        changes = self._auto and (
            self.loss.curvature(self.n_out) is None or slopes != self._step_sizes_are_for
        )
        if self._step_sizes is None or changes:
            self._step_sizes_are_for = slopes
            if self._auto:
                self._spectral_norms.begin(batch)
                self._step_sizes = self._majorising_step_sizes()
            else:
                size = float(self.options.lr_codes) * self._copies.factor
                self._step_sizes = [size] * len(self._hidden)
            self.code_step_sizes = self.code_step_sizes.new_tensor(self._step_sizes)
        return self._step_sizes

    def _majorising_step_sizes(self) -> list[float]:
        """One over the curvature of every code's terms, with the current spectral norms."""
        curvatures = [self.options.rho] * len(self._hidden)
        if curvatures:
            bound = self.loss.curvature(self.n_out)
            curvatures[-1] = self._last.curvature_at_output() if bound is None else bound
        norms = self._scalars[:, CodeScalar.sigma_squared].tolist()
        slopes = [block.pre.lipschitz for block in self._blocks[1:]]
        return [
            1 / (block.curvature + curvature * norm * (slope or 1.0) ** 2)
            for block, curvature, norm, slope in zip(self._hidden, curvatures, norms, slopes, strict=True)
        ]

    def _fetch(self) -> None:
        """Restore the stored codes, and the decayed duals, of those samples that have been seen before."""
        assert self._index is not None
        if len(self._seen) == 0:
            for block in self._hidden:
                block.dual = torch.zeros_like(block.code)
            return
        at, seen = self._places(self._index)
        for codes, duals, block in zip(self.codes, self.duals, self._hidden, strict=True):
            known = seen.view(-1, *[1] * (block.code.ndim - 1))
            block.code = torch.where(known, codes[at], block.code)
            block.dual = torch.where(known, self.options.dual_decay * duals[at], 0)
        for below, above in itertools.pairwise(self._blocks):
            above.stand_at(below.above)

    def _with_room(self, index: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """What is stored, with rows for these samples; made before anything moves, since memory may be wanting."""
        needed, held = int(index.max()) + 1, len(self._seen)
        if needed <= held:
            return self.codes, self.duals, self._seen, self._digests
        size = max(needed, 2 * held)  # at least doubled, so that growing costs little in the long run
        nothing = [self._like.new_zeros(0, *shape) for shape in self._code_shapes]
        try:
            codes, duals = (
                [_grown(part, size) for part in parts or nothing] for parts in (self.codes, self.duals)
            )
            return codes, duals, _grown(self._seen, size), _grown(self._digests, size)
        except RuntimeError as error:
            raise MemoryError(
                f"index must be as low as the numbers of the training set's samples, for each of which {self.name} "
                f"stores a code, but reaches {needed - 1}: {str(error).splitlines()[0]}."
            ) from error

    def _store(self, index: Tensor) -> None:
        """Store the codes and duals of these samples; at the end of a step, so that a failed one stores nothing."""
        self.codes, self.duals, self._seen, self._digests = self._room
        self._seen[index], self._digests[index] = True, self._found
        for codes, duals, block in zip(self.codes, self.duals, self._hidden, strict=True):
            assert block.dual is not None
            codes[index], duals[index] = block.code, block.dual

    def _state(self) -> dict[str, Part]:
        stored = [("stored", ...)] * len(self._hidden)  # the shapes of codes depend on the samples
        return {
            **super()._state(),
            "starts": Same(self._starts, "the modules at which this model is cut"),
            "update": self._update.state,
            "seen": Replaced(self, "_seen", ["stored"]),
            "digests": Replaced(self, "_digests", ["stored", 2]),
            "codes": ReplacedList(self, "codes", stored, self._like, empty="stored"),
            "duals": ReplacedList(self, "duals", stored, self._like, empty="stored"),
            **self._spectral_norms.state.parts,
        }

    def _check_state(self, state: Mapping[str, Any]) -> None:
        super()._check_state(state)
        if len(state["seen"]) and self.options.duals != "stored":
            raise ValueError("state must hold no codes without duals='stored', but holds some.")
        shapes = [[codes.shape[1:] for codes in state[name]] for name in ("codes", "duals")]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"state's duals must have the shapes of its codes, {_listed(shapes[0])} per sample, but have "
                f"{_listed(shapes[1])}."
            )
        if not self._fit_together(shapes[0]):
            raise ValueError(
                f"state's codes must have the shapes of this model's codes, but have {_listed(shapes[0])} per sample."
            )

    def _fit_together(self, codes: Sequence[torch.Size]) -> bool:
        """Whether every block makes the code above it of the code below it, for shapes per sample."""
        try:
            made = [
                b.output_shape(code, self._like) for b, code in zip(self._blocks[1:], codes, strict=False)
            ]
        except ValueError:
            return False
        return made[:-1] == list(codes[1:])

    def _forget_derived(self) -> None:
        super()._forget_derived()
        self._bound_shape = None
        self._scalars_are_for = None


def _listed(shapes: Sequence[torch.Size]) -> list[tuple[int, ...]]:
    return [tuple(shape) for shape in shapes]


def _grown(stored: Tensor, size: int) -> Tensor:
    """The tensor with ``size`` rows; new rows are zero."""
    grown = stored.new_zeros(size, *stored.shape[1:])
    grown[: len(stored)] = stored
    return grown


def _check_index(index: Tensor | None, x: Tensor) -> None:
    """Raise unless the index holds a different number for each sample of the minibatch."""
    if index is None:
        raise ValueError(
            "index must say which samples these are where duals are stored, but is missing: "
            "call step(x, y, index=...), or choose duals='online'."
        )
    if not isinstance(index, Tensor):
        raise TypeError(f"index must be a torch.Tensor, but is {_check.named_type(index)}.")
    if index.dtype.is_floating_point or index.dtype.is_complex or index.dtype == torch.bool:
        raise TypeError(f"index must be integers, but is {index.dtype}.")
    if isinstance(x, Tensor) and index.shape != x.shape[:1]:
        raise ValueError(f"index must have shape {tuple(x.shape[:1])}, but has {tuple(index.shape)}.")
    if len(index) and (int(index.min()) < 0 or len(index.unique()) < len(index)):
        raise ValueError("index must hold numbers from 0, all different, but does not.")
