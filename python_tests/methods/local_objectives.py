"""The oracle of the online AM tests: one step of am-sgd or am-adam, written as the scalars it minimises.

Nothing is derived by hand here. Every local objective is a scalar function of its code, or of its stage's
parameters; torch.autograd differentiates it, and textbook Nesterov, SGD and Adam follow the gradients. Slow
and plain on purpose, and meant for float64. It splits and trains a deep copy of the model that it is given.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)
NORMALISATIONS = (*BATCH_NORMALISATIONS, nn.LayerNorm)
POINTWISE = (
    nn.ELU,
    nn.GELU,
    nn.Identity,
    nn.LeakyReLU,
    nn.ReLU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Tanh,
)


@dataclass
class Stage:
    """A module with parameters and what belongs to it: output = mapping(before(input)). A code is such an output."""

    before: list[nn.Module]
    mapping: list[nn.Module]
    moments: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    steps: int = 0

    @property
    def linear(self) -> nn.Module:
        return next(module for module in self.mapping if not isinstance(module, NORMALISATIONS))

    @property
    def dropouts(self) -> list[nn.Dropout]:
        return [module for module in self.before if isinstance(module, nn.Dropout)]

    def parameters(self) -> list[nn.Parameter]:
        everything = [parameter for module in self.mapping for parameter in module.parameters()]
        # A parameter that is used twice has one gradient.
        return [parameter for parameter in dict.fromkeys(everything) if parameter.requires_grad]


@dataclass
class Report:
    """What a step reports: mean loss and hits at the encode's logits, and one objective per stage."""

    loss: float
    correct: int | None
    objective: list[float]


def leaves(module: nn.Module) -> list[nn.Module]:
    """The modules of a nested nn.Sequential in the order of the forward pass."""
    if isinstance(module, nn.Sequential):
        return [leaf for child in module for leaf in leaves(child)]
    return [module]


def split(model: nn.Module) -> list[Stage]:
    """The stages of a chain: normalisation right after a map belongs to it, any other to the next."""
    stages: list[Stage] = []
    before: list[nn.Module] = []
    norms: list[nn.Module] = []
    for module in leaves(model):
        if isinstance(module, NORMALISATIONS):
            if stages and not before and not norms:
                stages[-1].mapping.append(module)
            else:
                norms.append(module)
        elif any(True for _ in module.parameters()):
            stages.append(Stage(before, [*norms, module]))
            before, norms = [], []
        elif not norms:
            before.append(module)
        else:
            raise NotImplementedError(f"the reference does not know where to put {module}")
    if before or norms:
        raise NotImplementedError("the reference wants a map, or its normalisation, at the end")
    return stages


def spectral_bound(weight: Tensor) -> float:
    """The exact largest singular value, which the library estimates by power iteration."""
    return float(torch.linalg.matrix_norm(weight.detach().double(), 2))


def largest_slope(module: nn.Module) -> float:
    """max |sigma'| of a pointwise activation, found on a fine grid."""
    grid = torch.linspace(-20, 20, 400_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(copy.deepcopy(module)(grid.clone()).sum(), grid)
    return float(slope.abs().max())


def auto_step_size(weight: Tensor, *, mu: float | None = None, loss: str = "cross_entropy") -> float:
    """1 / (1 + s), the exact s for sigma' = 1: of the top code where `mu` is given, else of an inner one."""
    s = spectral_bound(weight) ** 2
    if mu is not None:
        # Hessian over 2 mu: the softmax's is at most 1/2, that of a mean of squares over C is 2 / C.
        s *= {"cross_entropy": 1 / 2, "mse": 2 / weight.shape[0]}[loss] / (2 * mu)
    return 1 / (1 + s)


class LocalObjectives:
    """Steps of am-sgd and am-adam by autograd on the local objectives. Options: the library's, by its names.

    `loss`: a name, or a function (logits, y) -> mean over the minibatch.

    With `lr_codes="auto"` every step is told the step sizes, as the library reports them after its own step;
    `auto_step_sizes` says what they should be close to. The masks of Dropout are told to every step as well.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str = "am-adam",
        *,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        lr: float | None = None,
        lr_out: float | None = None,
        lr_codes: float | str | None = None,
        stage_scaling: str | None = None,
        code_iterations: int | None = None,
        code_momentum: float | None = None,
        weight_iterations: int = 1,
        weight_decay: float = 0.0,
        mu: float | None = None,
        mu_increment: float = 0.0,
        mu_multiplier: float = 1.0,
        mu_max: float = math.inf,
        l1_codes: float = 0.0,
        l1_weights: float = 0.0,
        scaling: str = "paper",
    ) -> None:
        assert name in ("am-adam", "am-sgd"), name
        assert scaling in ("paper", "released"), scaling
        assert callable(loss) or loss in ("cross_entropy", "mse"), loss
        self.model = copy.deepcopy(model)
        for module in self.model.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # it would overwrite the codes
        self.stages = split(self.model)
        self.name, self.loss, self.paper = name, loss, scaling == "paper"

        defaults = {
            "lr": 1e-3 if name == "am-adam" else 0.1,
            "lr_codes": "auto" if self.paper else 0.3,
            "code_iterations": 1 if self.paper else 5,
            "code_momentum": 0.0 if self.paper else 0.9,
            "mu": 0.5 if self.paper else 0.003,
        }
        self.lr = defaults["lr"] if lr is None else lr
        self.lr_out = self.lr if lr_out is None else lr_out
        self.lr_codes = defaults["lr_codes"] if lr_codes is None else lr_codes
        self.code_iterations = defaults["code_iterations"] if code_iterations is None else code_iterations
        self.code_momentum = defaults["code_momentum"] if code_momentum is None else code_momentum
        self.mu = defaults["mu"] if mu is None else mu
        if stage_scaling is None:
            scales = self.lr_codes == "auto" and name == "am-adam"
            stage_scaling = "displacement" if scales else "none"
        self.displacement = stage_scaling == "displacement"
        self.weight_iterations, self.weight_decay = weight_iterations, weight_decay
        self.mu_increment, self.mu_multiplier, self.mu_max = mu_increment, mu_multiplier, mu_max
        self.l1_codes, self.l1_weights = l1_codes, l1_weights

        self.displacements: list[float] = []  # of the last step: RMS of c_l^0 - c_l, one per code
        self.scales: list[float] = []  # what displacement scaling divides the stages' weight objectives by
        self._masks: dict[int, Tensor] = {}

    # The network.

    def draw_masks(self, batch: int) -> list[Tensor]:
        """One mask per Dropout in forward order, from torch's generator: what the modules would draw."""
        masks = []
        for index, stage in enumerate(self.stages):
            width = self.stages[index - 1].linear.out_features if index else stage.linear.in_features
            ones = torch.ones(batch, width, dtype=stage.linear.weight.dtype)
            masks += [F.dropout(ones, module.p, True) for module in stage.dropouts]
        return masks

    def _run(self, modules: Sequence[nn.Module], value: Tensor) -> Tensor:
        for module in modules:
            if isinstance(module, BATCH_NORMALISATIONS):
                # By the statistics of the batch at hand, and differentiated through them.
                value = F.batch_norm(value, None, None, module.weight, module.bias, True, 0.0, module.eps)
            elif isinstance(module, nn.Dropout):
                value = value * self._masks[id(module)]
            else:
                value = module(value)
        return value

    def _output(self, index: int, below: Tensor) -> Tensor:
        return self._run([*self.stages[index].before, *self.stages[index].mapping], below)

    @torch.no_grad()
    def _encode(self, x: Tensor) -> list[Tensor]:
        """Every stage's output at the current weights. Running statistics follow this pass and no other."""
        outputs = []
        for stage in self.stages:
            for module in [*stage.before, *stage.mapping]:
                if isinstance(module, BATCH_NORMALISATIONS) and module.track_running_stats:
                    module.num_batches_tracked += 1
                    momentum = module.momentum
                    momentum = 1 / float(module.num_batches_tracked) if momentum is None else momentum
                    over = [0, *range(2, x.ndim)]
                    module.running_mean.lerp_(x.mean(over), momentum)
                    module.running_var.lerp_(x.var(over), momentum)
                x = self._run([module], x)
            outputs.append(x)
        return outputs

    # The objectives.

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean loss over the batch."""
        if callable(self.loss):
            return self.loss(logits, y)
        return F.cross_entropy(logits, y) if self.loss == "cross_entropy" else F.mse_loss(logits, y)

    def _code_objective(
        self, index: int, code: Tensor, start: Tensor, above: Tensor | None, y: Tensor
    ) -> Tensor:
        """What a code minimises: the misfit of the stage above it, and its distance from where it started.

        paper: summed over samples and units, divided by 2 mu. released: means, the loss divided by mu, and an
        anchor whose gradient is zero, so that it may as well be left out.
        """
        output = self._output(index + 1, code)
        if not self.paper:
            return self._loss(output, y) / self.mu if above is None else (output - above).square().mean()
        anchor = (code - start).square().sum() / 2
        if above is None:
            return self._loss(output, y) * len(y) / (2 * self.mu) + anchor
        return (output - above).square().sum() / 2 + anchor

    def _weight_objective(self, index: int, below: Tensor, code: Tensor | None, y: Tensor) -> Tensor:
        """What the parameters of a stage minimise, between the updated codes below and above it."""
        output = self._output(index, below)
        if code is None:
            return self._loss(output, y)
        squares = (output - code).square()
        objective = squares.sum() / (2 * len(y)) if self.paper else squares.mean()
        return objective / self.scales[index] if self.displacement else objective

    def _scales_of(self, displacements: list[float]) -> list[float]:
        """The displacements; for a code that has not moved the scale of the one above it, and 1 for the top one.

        Where the loss is next to nothing and the top code moves by less than 1e-8, all stages move less, too.
        """
        scales: list[float] = []
        top = displacements[-1] if displacements else 0.0
        damping = max(1.0, 1e-8 / top) if top > 0 else 1.0
        for displacement in reversed(displacements):
            unmoved = scales[0] if scales and not self.l1_codes else 1.0
            scales.insert(0, displacement * damping if displacement > 0 else unmoved)
        return scales

    @torch.no_grad()
    def _reported_objective(self, index: int, below: Tensor, code: Tensor | None, y: Tensor) -> float:
        output = self._output(index, below)
        if code is None:
            return float(self._loss(output, y))
        squares = (output - code).square()
        return float(self.mu * squares.sum() / len(y) if self.paper else squares.mean())

    # The step.

    def step(
        self,
        x: Tensor,
        y: Tensor,
        *,
        step_sizes: Sequence[float] | None = None,
        masks: Sequence[Tensor] = (),
    ) -> Report:
        """One minibatch. `step_sizes`: one per code, taken instead of a numeric lr_codes where given."""
        dropouts = [module for stage in self.stages for module in stage.dropouts]
        self._masks = {id(module): mask for module, mask in zip(dropouts, masks, strict=True)}

        *starts, logits = self._encode(x)
        etas = [float(self.lr_codes)] * len(starts) if step_sizes is None else step_sizes
        correct = None if y.is_floating_point() else int((logits.argmax(1) == y).sum())

        codes = self._update_codes(starts, y, etas)
        moved = [start - code for start, code in zip(starts, codes, strict=True)]
        self.displacements = [float(difference.square().mean().sqrt()) for difference in moved]
        self.scales = self._scales_of(self.displacements)

        sides = list(zip([x, *codes], [*codes, None], strict=True))
        objective = [self._reported_objective(i, below, code, y) for i, (below, code) in enumerate(sides)]
        for index, (below, code) in enumerate(sides):
            for iteration in range(self.weight_iterations):
                if self.stages[index].parameters():
                    self._fit(index, below, code, y, iteration)

        self.mu = min(self.mu + self.mu_increment, self.mu_max)
        return Report(float(self._loss(logits, y)), correct, objective)

    def _fit(self, index: int, below: Tensor, code: Tensor | None, y: Tensor, iteration: int) -> None:
        """A step of a stage's parameters on their objective."""
        parameters = self.stages[index].parameters()
        value = self._weight_objective(index, below, code, y)
        lr = self.lr_out if code is None else self.lr
        self._descend(self.stages[index], parameters, torch.autograd.grad(value, parameters), lr)

    def end_epoch(self) -> None:
        self.mu = min(self.mu * self.mu_multiplier, self.mu_max)

    def _update_codes(self, starts: list[Tensor], y: Tensor, etas: Sequence[float]) -> list[Tensor]:
        """From the top down, every code against the already updated one above it."""
        codes: list[Tensor] = []
        for index in reversed(range(len(starts))):
            start, eta, above = starts[index], etas[index], codes[0] if codes else None
            code, velocity = start.clone(), torch.zeros_like(start)
            for _ in range(self.code_iterations):
                code.requires_grad_()
                objective = self._code_objective(index, code, start, above, y)
                (gradient,) = torch.autograd.grad(objective, code)
                velocity = self.code_momentum * velocity + gradient
                code = code.detach() - eta * (gradient + self.code_momentum * velocity)
                if self.l1_codes:
                    code = F.softshrink(code, eta * self.l1_codes / (2 * self.mu))
            codes.insert(0, code)
        return codes

    @torch.no_grad()
    def _descend(
        self, stage: Stage, parameters: list[nn.Parameter], gradients: Sequence[Tensor], lr: float
    ) -> None:
        """Decoupled decay, SGD or Adam, then the proximal step of l1_weights on W."""
        if not stage.moments:
            stage.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        stage.steps += 1
        for parameter, gradient, (mean, square) in zip(parameters, gradients, stage.moments, strict=True):
            parameter.mul_(1 - lr * self.weight_decay)
            if self.name == "am-sgd":
                parameter.sub_(lr * gradient)
            else:
                mean.copy_(0.9 * mean + 0.1 * gradient)
                square.copy_(0.999 * square + 0.001 * gradient.square())
                first, second = mean / (1 - 0.9**stage.steps), square / (1 - 0.999**stage.steps)
                parameter.sub_(lr * first / (second.sqrt() + 1e-8))
            if self.l1_weights and parameter.ndim > 1:
                parameter.copy_(F.softshrink(parameter, lr * self.l1_weights))

    # The step sizes of lr_codes="auto".

    def auto_step_sizes(self) -> list[float]:
        """The exact eta of every code at the current weights and mu; for a chain without BatchNorm1d."""
        etas = []
        for stage in self.stages[1:]:
            assert stage.mapping == [stage.linear], "BatchNorm1d would scale W by statistics of the batch"
            weight = stage.linear.weight.detach()
            for module in stage.before:
                if isinstance(module, nn.Dropout):
                    weight = weight / (1 - module.p)
                elif isinstance(module, POINTWISE):
                    weight = weight * largest_slope(module)
            top = stage is self.stages[-1]
            etas.append(auto_step_size(weight, mu=self.mu if top else None, loss=self.loss))
        return etas
