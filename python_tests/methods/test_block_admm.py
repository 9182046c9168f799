"""Stochastic Block-ADMM.

Oracles: the augmented Lagrangian written down as one scalar, which autograd differentiates in every code and every
block's weights, in float64, with textbook Adam (:class:`Reference`); backpropagation, whose gradient the first code
step hands down times rho eta per block; torch's AdamW where there is one block only; and the definitions of the
proximal maps.
"""

from __future__ import annotations

import copy
import io
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext._order import permutation
from altmin_ext.nn import Sign

from .local_objectives import leaves

TOLERANCE = 1e-10
FEATURES, CLASSES = 6, 4


class Residual(nn.Module):
    """x + f(x), with activations inside that no block may see."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(torch.tanh(self.first(x)))
        return x + inner


class Masked(nn.Module):
    """Stands in for a Dropout whose mask is known."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(),
        nn.Linear(6, CLASSES),
    )  # fmt: skip


def residual() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(FEATURES, 8), Residual(8), nn.Sigmoid(), altmin_ext.Stage(nn.ELU(), nn.Linear(8, CLASSES))
    )


def normalised() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 7),
        nn.BatchNorm1d(7, momentum=None), nn.ReLU(), nn.LayerNorm(7), nn.Linear(7, CLASSES),
    )  # fmt: skip


def images() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d((1, 2))),
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, CLASSES)),
    )


def dropping() -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(0.2), nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, CLASSES)
    )


def seeded(build: Callable[[], nn.Sequential], dtype: torch.dtype = torch.float64) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build().to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():  # so that no gain is 1 and no bias 0
                parameter += 0.2 * torch.randn_like(parameter)
    return model


def batches(number: int, size: int = 12, loss: str = "cross_entropy") -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    found = []
    for _ in range(number):
        x = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
        y = torch.randint(CLASSES, (size,), generator=generator)
        found.append((x, y if loss == "cross_entropy" else F.one_hot(y, CLASSES).double()))
    return found


PROXIMAL_MAPS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "non-negative": lambda x, eta, weight: torch.where(x > 0, x, torch.zeros_like(x)),
    "binary": lambda x, eta, weight: torch.where(x > 0, torch.ones_like(x), -torch.ones_like(x)),
    "sparse": lambda x, eta, weight: F.softshrink(x, eta * weight),
}


class Reference:
    """Steps by autograd on the augmented Lagrangian. Blocks begin at the given leaves of a copy of the model."""

    def __init__(
        self,
        model: nn.Sequential,
        starts: Sequence[int],
        *,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        rho: float = 1.0,
        iterations: int = 1,
        code_iterations: int = 1,
        order: str = "gauss-seidel",
        duals: str = "online",
        dual_decay: float = 1.0,
        proximal: str | Callable[[Tensor, float], Tensor] | None = None,
        l1_codes: float = 0.0,
    ) -> None:
        self.model, self.loss, self.lr, self.decay, self.rho = (
            copy.deepcopy(model),
            loss,
            lr,
            weight_decay,
            rho,
        )
        modules = leaves(self.model)
        for module in modules:
            if getattr(module, "inplace", False):
                module.inplace = False
        cuts = [0, *starts, len(modules)]
        self.blocks = [nn.Sequential(*modules[a:b]) for a, b in itertools.pairwise(cuts)]
        self.iterations, self.code_iterations = iterations, code_iterations
        self.order, self.duals, self.dual_decay = order, duals, dual_decay
        self.proximal, self.l1_codes = proximal, l1_codes
        self.stored: dict[int, list[tuple[Tensor, Tensor]]] = {}  # sample -> its codes and duals
        self.moments: dict[int, tuple[Tensor, Tensor]] = {}
        self.steps = 0

    def term(self, t: int, below: Tensor, code: Tensor | None, dual: Tensor | None, y: Tensor) -> Tensor:
        """What a block has to do with the Lagrangian, summed over samples."""
        output = self.blocks[t](below)
        if code is None or dual is None:
            named = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
            mean = self.loss if callable(self.loss) else named[self.loss]
            return len(y) * mean(output, y)
        return self.rho / 2 * (code - output + dual).square().sum()

    def lagrangian(self, x: Tensor, codes: list[Tensor], duals: list[Tensor], y: Tensor) -> Tensor:
        terms = [self.term(t, *of, y) for t, of in enumerate(self.sides(x, codes, codes, duals))]
        return torch.stack(terms).sum() - self.rho / 2 * sum(dual.square().sum() for dual in duals)

    @staticmethod
    def sides(
        x: Tensor, below: list[Tensor], codes: list[Tensor], duals: list[Tensor]
    ) -> list[tuple[Any, ...]]:
        return list(zip([x, *below], [*codes, None], [*duals, None], strict=True))

    def encode(self, x: Tensor) -> list[Tensor]:
        outputs = []
        with torch.no_grad():
            for block in self.blocks:
                x = block(x)
                outputs.append(x)
        return outputs

    def move(
        self, x: Tensor, y: Tensor, codes: list[Tensor], duals: list[Tensor], etas: Sequence[float]
    ) -> None:
        for t in reversed(range(len(codes))):
            for _ in range(self.code_iterations):
                codes[t] = codes[t].detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.lagrangian(x, codes, duals, y), codes[t])
                moved = codes[t].detach() - etas[t] * gradient
                if callable(self.proximal):
                    moved = self.proximal(moved, etas[t])
                elif self.proximal is not None:
                    moved = PROXIMAL_MAPS[self.proximal](moved, etas[t], self.l1_codes)
                codes[t] = moved

    def step(self, x: Tensor, y: Tensor, etas: Sequence[float], index: Tensor | None = None) -> list[float]:
        """One minibatch; returns every block's term as a mean, after the first move of the codes."""
        *codes, _ = self.encode(x)
        duals = [torch.zeros_like(code) for code in codes]
        samples = [] if index is None else index.tolist()
        for row, sample in enumerate(samples):
            for t, (code, dual) in enumerate(self.stored.get(sample, [])):
                codes[t][row], duals[t][row] = code, self.dual_decay * dual
        objective: list[float] = []
        for _ in range(self.iterations):
            before = list(codes)
            self.move(x, y, codes, duals, etas)
            below = codes if self.order == "gauss-seidel" else before
            gradients: list[tuple[nn.Parameter, Tensor]] = []
            terms = []
            for t, of in enumerate(self.sides(x, below, codes, duals)):
                term = self.term(t, *of, y) / len(x)
                parameters = [p for p in self.blocks[t].parameters() if p.requires_grad]
                gradients += zip(parameters, torch.autograd.grad(term, parameters), strict=True)
                terms.append(float(term.detach()))
            objective = objective or terms
            self.adam(gradients)
            if self.duals != "none":
                outputs = (
                    [self.blocks[t](b).detach() for t, b in enumerate([x, *codes[:-1]])] if codes else []
                )
                duals = [u + c - o for u, c, o in zip(duals, codes, outputs, strict=True)]
        for row, sample in enumerate(samples):
            self.stored[sample] = [(c[row], u[row]) for c, u in zip(codes, duals, strict=True)]
        return objective

    @torch.no_grad()
    def adam(self, gradients: list[tuple[nn.Parameter, Tensor]]) -> None:
        self.steps += 1
        for parameter, gradient in gradients:
            mean, square = self.moments.get(id(parameter), (torch.zeros_like(gradient),) * 2)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient.square()
            self.moments[id(parameter)] = mean, square
            first, second = mean / (1 - 0.9**self.steps), square / (1 - 0.999**self.steps)
            parameter.mul_(1 - self.lr * self.decay)
            parameter.sub_(self.lr * first / (second.sqrt() + 1e-8))


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def replay(
    build: Callable[[], nn.Sequential],
    starts: list[int],
    options: dict[str, Any],
    *,
    cut: bool = True,
    indices: Sequence[Tensor | None] = (None,) * 5,
    size: int = 12,
) -> None:
    """The method and the reference, side by side; the reference is told the method's step sizes."""
    loss = options.get("loss", "cross_entropy")
    model = seeded(build)
    rest = {key: value for key, value in options.items() if key not in ("lr_codes", "loss")}
    reference = Reference(model, starts, loss=loss, **rest)
    if cut:
        options = {**options, "blocks": starts}
    method = altmin_ext.make_method("block-admm", model, report_objective=True, **options)
    ((every_x, every_y),) = batches(1, 31, loss)  # the training set that an index refers to
    for (x, y), index in zip(batches(len(indices), size, loss), indices, strict=True):
        if index is not None:
            x, y = every_x[index], every_y[index]
        report = method.step(x, y) if index is None else method.step(x, y, index=index)
        objective = reference.step(x, y, method.code_step_sizes.tolist(), index)
        torch.testing.assert_close(
            report.objective, torch.tensor(objective, dtype=torch.float64), rtol=1e-9, atol=1e-14
        )
        assert distance(model, reference.model) < TOLERANCE


# --- the exact oracle ---


def gradients_of(method: Any) -> list[Tensor]:
    """Of the first step, from Adam's first moments."""
    return [moment / 0.1 for moment in method.state_dict()["update"]["first_moments"]]


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("starts", [None, [1, 3, 5], [1, 6], [3]])
@pytest.mark.parametrize(("rho", "eta"), [(1.0, 1.0), (1.0, 0.1), (0.5, 0.7)])
def test_one_code_step_is_backprop_times_a_power(
    loss: str, starts: list[int] | None, rho: float, eta: float
) -> None:
    """K = 1, one code step, no dual, weights fitted at the forward inputs: (rho eta)^(T-t) times backprop's."""
    model = seeded(mlp)
    ((x, y),) = batches(1, loss=loss)
    mean = F.cross_entropy if loss == "cross_entropy" else F.mse_loss
    expected = list(torch.autograd.grad(mean(model(x), y), list(model.parameters())))
    owners = [i for i, module in enumerate(model) for _ in module.parameters()]
    cuts = [1, 3, 5] if starts is None else starts
    above = [sum(start > owner for start in cuts) for owner in owners]
    method = altmin_ext.make_method(
        "block-admm", model, loss=loss, blocks=starts, rho=rho, lr_codes=eta, order="jacobi"
    )
    method.step(x, y)
    for gradient, backprop, power in zip(gradients_of(method), expected, above, strict=True):
        torch.testing.assert_close(gradient, (rho * eta) ** power * backprop, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("options", [{}, {"iterations": 1, "order": "jacobi"}, {"code_iterations": 3}])
def test_one_block_is_adam(options: dict[str, Any]) -> None:
    model = seeded(residual)
    twin = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.1)
    method = altmin_ext.make_method("block-admm", model, blocks=1, lr=0.01, weight_decay=0.1, **options)
    for x, y in batches(5):
        loss = F.cross_entropy(twin(x), y)
        torch.testing.assert_close(method.step(x, y).loss, loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert distance(model, twin) < TOLERANCE
    assert method.code_step_sizes.shape == (0,)


# --- the reference ---


@pytest.mark.parametrize("order", ["gauss-seidel", "jacobi"])
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("code_iterations", [1, 2])
@pytest.mark.parametrize("duals", ["online", "none"])
def test_step(order: str, iterations: int, code_iterations: int, duals: str) -> None:
    options = {"order": order, "iterations": iterations, "code_iterations": code_iterations, "duals": duals}
    replay(mlp, [1, 3, 5], options, cut=False)


OPTIONS: dict[str, dict[str, Any]] = {
    "numeric step": {"lr_codes": 0.3, "iterations": 2},
    "rho": {"rho": 0.2, "iterations": 2},
    "mse": {"loss": "mse", "lr": 0.02, "rho": 3.0},
    "weight decay": {"weight_decay": 0.3},
    "non-negative": {"proximal": "non-negative", "iterations": 2},
    "binary": {"proximal": "binary", "code_iterations": 2},
    "sparse": {"proximal": "sparse", "l1_codes": 0.3, "iterations": 2},
    "a function": {"proximal": lambda x, eta: x / (1 + 0.3 * eta), "code_iterations": 2},
    "a function in place": {"proximal": lambda x, eta: x.clamp_(-0.5, 0.5), "code_iterations": 2},
}


@pytest.mark.parametrize("order", ["gauss-seidel", "jacobi"])
@pytest.mark.parametrize("case", OPTIONS)
def test_options(case: str, order: str) -> None:
    replay(mlp, [2, 6], {**OPTIONS[case], "order": order})


NETWORKS: dict[
    str, tuple[Callable[[], nn.Sequential], list[int], list[int]]
] = {  # starts by default, and others
    "residual": (residual, [1, 2], [2]),
    "normalised": (normalised, [2, 5], [2, 4]),
    "images": (images, [3, 6], [5, 8]),
}


@pytest.mark.parametrize("options", [{}, {"iterations": 2, "code_iterations": 2}], ids=["once", "twice"])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_networks(network: str, cut: bool, options: dict[str, Any]) -> None:
    build, default, others = NETWORKS[network]
    replay(build, others if cut else default, options, cut=cut)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_odd_sizes(size: int) -> None:
    replay(mlp, [2, 6], {"iterations": 2}, size=size)


BLOCKS = [
    (mlp, "pre-activations", {1: [], 2: [3], 3: [1, 3], 4: [1, 3, 5]}),
    (mlp, "activations", {1: [], 2: [4], 3: [2, 4], 4: [2, 4, 6]}),
    (normalised, "activations", {2: [3], 3: [3, 6]}),
    (images, "activations", {2: [5], 3: [5, 8]}),
]


@pytest.mark.parametrize(
    ("build", "codes", "parts", "starts"),
    [(build, codes, *case) for build, codes, cases in BLOCKS for case in cases.items()],
)
def test_a_number_of_blocks(
    build: Callable[[], nn.Sequential], codes: str, parts: int, starts: list[int]
) -> None:
    """Blocks begin behind a module with parameters, or with one; the last takes what is left over."""
    one, other = seeded(build), seeded(build)
    methods = [
        altmin_ext.make_method("block-admm", model, blocks=blocks, codes=codes)
        for model, blocks in ((one, parts), (other, starts))
    ]
    for x, y in batches(3):
        for method in methods:
            method.step(x, y)
    assert distance(one, other) == 0


# --- what has to be the same in all evaluations of a step ---


@pytest.mark.parametrize("options", [{}, {"iterations": 3, "code_iterations": 2}], ids=["once", "often"])
def test_running_statistics_move_once(options: dict[str, Any]) -> None:
    """Just as by one forward pass."""
    model = seeded(normalised)
    twin = copy.deepcopy(model)
    method = altmin_ext.make_method("block-admm", model, lr=0.0, **options)
    for x, y in batches(3):
        method.step(x, y)
        twin(x)
    for (name, one), other in zip(model.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0, msg=name)


@pytest.mark.parametrize("start", [2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"iterations": 3, "code_iterations": 2}], ids=["once", "often"])
def test_one_mask_for_a_step(options: dict[str, Any], start: int) -> None:
    """That which one forward pass would draw."""
    model = seeded(dropping)
    ((x, y),) = batches(1)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        masks = [
            F.dropout(torch.ones(12, width, dtype=x.dtype), p) for width, p in ((FEATURES, 0.2), (8, 0.5))
        ]
        known = copy.deepcopy(model)
        known[0], known[3] = Masked(masks[0]), Masked(masks[1])
        reference = Reference(known, [start], **options)
        method = altmin_ext.make_method("block-admm", model, blocks=[start], **options)
        torch.manual_seed(5)
        method.step(x, y)
    reference.step(x, y, method.code_step_sizes.tolist())
    assert distance(model, reference.model) < TOLERANCE


class Counting(nn.Module):
    """A module of the user's own that counts its calls."""

    calls: Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.inner(x)
        return result


@pytest.mark.parametrize("blocks", [None, [1], 1])
def test_buffers_of_an_unknown_module_move_once(blocks: Any) -> None:
    inner = [Counting(nn.Tanh()), Counting(nn.Linear(8, 8)), Counting(nn.ReLU())]
    model = nn.Sequential(nn.Linear(FEATURES, 8), *inner, nn.Linear(8, CLASSES)).double()
    method = altmin_ext.make_method("block-admm", model, blocks=blocks, iterations=2, code_iterations=2)
    for x, y in batches(3):
        method.step(x, y)
    assert [float(module.calls) for module in inner] == [3, 3, 3]


def test_evaluation_mode_of_a_part_stays() -> None:
    model = seeded(normalised)
    model[1].eval()
    before = [buffer.clone() for buffer in model[1].buffers()]
    method = altmin_ext.make_method("block-admm", model)
    for x, y in batches(2):
        method.step(x, y)
    assert not model[1].training
    assert all(torch.equal(*pair) for pair in zip(before, model[1].buffers(), strict=True))


# --- step sizes ---


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_auto_is_one_over_a_bound_of_the_curvature(loss: str) -> None:
    """Of matrices behind activations: their norm times the lipschitz slope."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Linear(FEATURES, 8), nn.Sigmoid(), nn.Linear(8, 7), nn.Dropout(0.5), nn.Linear(7, 6), nn.ReLU(),
            nn.Linear(6, CLASSES),
        )
    )  # fmt: skip
    method = altmin_ext.make_method("block-admm", model, blocks=[1, 3, 5], loss=loss, rho=0.3, lr=0.0)
    with torch.random.fork_rng():
        for x, y in 200 * batches(1, loss=loss):
            method.step(x, y)
    top = 0.5 if loss == "cross_entropy" else 2 / CLASSES
    expected = [
        1 / (0.3 + curvature * (slope * float(torch.linalg.matrix_norm(model[i].weight.detach(), 2))) ** 2)
        for i, slope, curvature in ((2, 1 / 4, 0.3), (4, 2, 0.3), (6, 1, top))
    ]
    torch.testing.assert_close(
        method.code_step_sizes, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_auto_with_several_layers_in_a_block() -> None:
    """The norm of the whole block's Jacobian, over the first samples of the minibatch."""
    model = seeded(mlp)
    method = altmin_ext.make_method("block-admm", model, blocks=[2], lr=0.0, lr_codes="auto")
    ((x, y),) = batches(1, 8)
    code = model[:2](x)
    jacobians = [torch.autograd.functional.jacobian(model[2:], row) for row in code]
    norm = max(float(torch.linalg.matrix_norm(jacobian, 2)) ** 2 for jacobian in jacobians)
    for _ in range(300):
        method.step(x, y)
    # Where the codes have moved to is where the block stands after a step.
    assert float(method.code_step_sizes[0]) == pytest.approx(1 / (1 + 0.5 * norm), rel=0.1)


@pytest.mark.parametrize("build", [mlp, residual, normalised, images])
@pytest.mark.parametrize("rho", [0.1, 1.0, 10.0])
def test_auto_descends(build: Callable[[], nn.Sequential], rho: float) -> None:
    model = seeded(build)
    starts = {mlp: [2, 6], residual: [1, 2], normalised: [2, 5], images: [3, 6]}[build]
    method = altmin_ext.make_method("block-admm", model, blocks=starts, rho=rho)
    reference = Reference(model, starts, rho=rho)
    ((x, y),) = batches(1)
    method.step(x, y)
    *codes, _ = reference.encode(x)
    duals = [torch.zeros_like(code) for code in codes]
    before = float(reference.lagrangian(x, codes, duals, y).detach())
    reference.move(x, y, codes, duals, method.code_step_sizes.tolist())
    assert float(reference.lagrangian(x, codes, duals, y).detach()) < before


def test_the_step_that_fails_and_auto() -> None:
    """Behind an orthogonal block a step of 1 / rho brings the block to its target: nothing is left to fit."""
    model = seeded(lambda: nn.Sequential(nn.Linear(FEATURES, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)))
    nn.init.orthogonal_(model[1].weight, generator=torch.Generator().manual_seed(0))
    ((x, y),) = batches(1)
    largest = {}
    for eta in (1.0, "auto"):
        method = altmin_ext.make_method("block-admm", copy.deepcopy(model), lr_codes=eta)
        method.step(x, y)
        largest[eta] = float(gradients_of(method)[2].abs().max())
    assert largest[1.0] < 1e-14
    assert largest["auto"] > 1e-3


@pytest.mark.parametrize("rho", [0.1, 2.0])
def test_auto_before_a_projection_onto_signs(rho: float) -> None:
    method = altmin_ext.make_method("block-admm", seeded(mlp), proximal="binary", rho=rho)
    ((x, y),) = batches(1)
    method.step(x, y)
    assert method.code_step_sizes.tolist() == [1 / rho] * 3


# --- learning ---


@pytest.mark.parametrize("codes", ["pre-activations", "activations"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": "jacobi"},
        {"iterations": 2},
        {"proximal": "non-negative"},
        {"proximal": "sparse", "l1_codes": 0.01},
        {"proximal": "binary", "rho": 0.1},
        {"duals": "stored", "lr": 1e-3},
    ],
    ids=str,
)
def test_learns_digits(options: dict[str, Any], codes: str) -> None:
    """Far above the .1 of chance."""
    digits = altmin_ext.data.load("digits")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 60), nn.Tanh(), nn.Linear(60, 60), nn.Tanh(), nn.Linear(60, 10)
    )
    altmin_ext.train(
        model, digits.train, method="block-admm", codes=codes, epochs=6, batch_size=50, progress=False,
        **{"lr": 3e-3, **options},
    )  # fmt: skip
    assert float(altmin_ext.evaluate(model, digits.test).accuracy or 0) > 0.6


# --- stored duals ---

INDICES = [
    torch.tensor(samples) for samples in ([3, 0, 9, 4], [1, 2, 11], [3, 9, 2, 0], [30, 4], [9, 30, 3, 1])
]


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("options", [{}, {"iterations": 2, "order": "jacobi"}], ids=["once", "twice"])
def test_stored_duals(options: dict[str, Any], decay: float) -> None:
    replay(mlp, [2, 6], {**options, "duals": "stored", "dual_decay": decay}, indices=INDICES)


def test_stored_duals_of_images() -> None:
    replay(images, [3, 6], {"duals": "stored", "dual_decay": 0.9}, indices=INDICES)


class Hidden(nn.Module):
    """A dropout within a module that no method knows, which draws from torch's one generator."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.3))

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(2e-4)  # lets another thread go on
        result: Tensor = x + self.inside(x)
        return result


def dropping_inside() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 8), *(Hidden(8) for _ in range(3)), nn.Linear(8, CLASSES))


@pytest.mark.parametrize("build", [mlp, images, dropping, dropping_inside, residual])
@pytest.mark.parametrize("order", ["gauss-seidel", "jacobi"])
def test_workers_change_nothing(build: Callable[[], nn.Sequential], order: str) -> None:
    """Blocks are fitted independently: to the same bits, and none needs another's thread."""
    models, states = [], []
    for workers in (1, 3):
        model = seeded(build)
        method = altmin_ext.make_method("block-admm", model, order=order, workers=workers, iterations=2)
        torch.manual_seed(0)
        for x, y in batches(4):
            method.step(x, y)
        models.append(model)
        states.append(torch.get_rng_state())
    assert distance(*models) == 0
    assert torch.equal(*states)
    assert distance(models[0], seeded(build)) > 1e-4


@pytest.mark.parametrize("steps", [0, 2])
def test_a_copy_has_workers_of_its_own(steps: int) -> None:
    """It goes on to the same bits, also where the threads of the first have ended."""
    first = altmin_ext.make_method("block-admm", seeded(mlp), workers=2)
    for x, y in batches(steps):
        first.step(x, y)
    second = copy.deepcopy(first)
    ((x, y),) = batches(1)
    first.step(x, y)
    first._map.__self__.shutdown()
    assert distance(first.model, second.model) > 0
    second.step(x, y)
    assert distance(first.model, second.model) == 0


def test_an_error_in_a_worker_is_the_caller_s() -> None:
    method = altmin_ext.make_method("block-admm", seeded(mlp), workers=2)
    (x, y), *_ = batches(1)
    threads = set()

    def fails(*arguments: Any) -> None:
        threads.add(threading.get_ident())
        raise RuntimeError("no gradient today")

    method._blocks[1].map.weight_gradients = fails
    with pytest.raises(RuntimeError, match="no gradient today"):
        method.step(x, y)
    assert threads.isdisjoint({threading.get_ident()})


@pytest.mark.parametrize("shuffle", [True, False])
def test_train_says_which_samples_they_are(shuffle: bool) -> None:
    """As a loop does that draws the same orders, from the seed and the number of the pass."""
    x, y = (torch.cat(parts) for parts in zip(*batches(3), strict=True))
    model, other = seeded(mlp), seeded(mlp)
    altmin_ext.train(
        model,
        (x, y),
        method="block-admm",
        duals="stored",
        epochs=3,
        batch_size=10,
        shuffle=shuffle,
        progress=False,
    )
    method = altmin_ext.make_method("block-admm", other, duals="stored")
    for number in range(3):
        order = permutation(len(x), 0, number) if shuffle else torch.arange(len(x))
        for rows in order.split(10):
            method.step(x[rows], y[rows], index=rows)
    assert distance(model, other) == 0
    assert distance(model, seeded(mlp)) > 1e-3


def test_train_refuses_minibatches_of_unknown_samples() -> None:
    model = seeded(mlp)
    with pytest.raises(ValueError, match=r"^data must be .*index.*\.$"):
        altmin_ext.train(model, batches(2), method="block-admm", duals="stored", progress=False)
    assert distance(model, seeded(mlp)) == 0


def test_stored_duals_are_saved() -> None:
    model = seeded(mlp)
    method = altmin_ext.make_method("block-admm", model, duals="stored")
    ((x, y),) = batches(1, 31)

    def steps(of: Any, part: list[Any]) -> list[float]:
        return [float(of.step(x[i], y[i], index=i.int()).loss) for i in part]

    steps(method, INDICES[:2])
    file = io.BytesIO()
    torch.save((model.state_dict(), method.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file)
    other = seeded(mlp)
    other.load_state_dict(weights)
    resumed = altmin_ext.make_method("block-admm", other, duals="stored", seed=3)
    resumed.load_state_dict(state)
    assert steps(method, INDICES[2:]) == steps(resumed, INDICES[2:])
    assert distance(model, other) == 0
    assert all(torch.equal(*pair) for pair in zip(method.duals, resumed.duals, strict=True))
    assert all(torch.equal(*pair) for pair in zip(method.codes, resumed.codes, strict=True))


@pytest.mark.parametrize(
    ("index", "error", "words"),
    [
        (None, ValueError, "duals='online'"),
        ([0, 1], TypeError, "torch.Tensor"),
        (torch.arange(12.0), TypeError, "integers"),
        (torch.arange(12) > 3, TypeError, "integers"),
        (torch.arange(11), ValueError, "shape"),
        (torch.arange(12) - 1, ValueError, "from 0"),
        (torch.arange(12) // 2, ValueError, "all different"),
    ],
    ids=str,
)
def test_stored_duals_want_an_index(index: Any, error: type[Exception], words: str) -> None:
    model = seeded(mlp)
    before = copy.deepcopy(model)
    method = altmin_ext.make_method("block-admm", model, duals="stored")
    ((x, y),) = batches(1)
    with pytest.raises(error, match=r"^index must .*\.$") as raised:
        method.step(x, y, index=index)
    assert words in str(raised.value)
    assert distance(model, before) == 0


OTHER_SAMPLES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "another x": (lambda x, y: (torch.where(torch.arange(12)[:, None] == 7, x + 1e-9, x), y)),
    "another y": (lambda x, y: (x, torch.where(torch.arange(12) == 7, (y + 1) % CLASSES, y))),
    "another order": (lambda x, y: (x[[*range(7), 8, 7, *range(9, 12)]], y)),
    "signs of two features": (lambda x, y: (torch.where(torch.arange(12)[:, None] == 7, -x, x), y)),
}


@pytest.mark.parametrize("case", OTHER_SAMPLES)
@pytest.mark.parametrize("saved", [False, True])
def test_stored_codes_are_for_the_sample_that_they_were_stored_for(case: str, saved: bool) -> None:
    """A number that stands for another sample is refused before anything moves; also after a save."""
    method = altmin_ext.make_method("block-admm", seeded(mlp), duals="stored")
    ((x, y),) = batches(1)
    index = torch.arange(12) + 20
    method.step(x, y, index=index)
    if saved:
        state, method = (
            method.state_dict(),
            altmin_ext.make_method("block-admm", method.model, duals="stored"),
        )
        method.load_state_dict(state)
    model, codes = copy.deepcopy(method.model), [code.clone() for code in method.codes]
    with pytest.raises(ValueError, match=r"^index must give every sample .*number 27 .*\.$"):
        method.step(*OTHER_SAMPLES[case](x, y), index=index)
    assert distance(method.model, model) == 0
    assert all(torch.equal(*pair) for pair in zip(method.codes, codes, strict=True))
    method.step(x, y, index=index)
    method.step(*OTHER_SAMPLES[case](x, y), index=index + 12)  # new samples of the same training set


def test_a_number_that_memory_cannot_hold() -> None:
    """Of a code for each number up to 2^60: nothing has moved, and the next step is an ordinary one."""
    method = altmin_ext.make_method("block-admm", seeded(mlp), duals="stored")
    ((x, y),) = batches(1)
    index = torch.arange(12)
    method.step(x, y, index=index)
    model = copy.deepcopy(method.model)
    with pytest.raises(MemoryError, match=rf"^index must .*{2**60}.*\.$"):
        method.step(x, y, index=torch.where(index == 5, 2**60, index + 12))
    assert distance(method.model, model) == 0
    method.step(x, y, index=index)


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_a_bad_minibatch_leaves_stored_duals_alone(on_nonfinite: str) -> None:
    method = altmin_ext.make_method("block-admm", seeded(mlp), duals="stored", on_nonfinite=on_nonfinite)
    ((x, y),) = batches(1)
    index = torch.arange(12)
    method.step(x, y, index=index)
    before = [tensor.clone() for tensor in method.codes + method.duals]
    assert all(float(tensor.abs().max()) > 0 for tensor in before)
    bad = x.clone()
    bad[2, 2] = torch.nan
    if on_nonfinite == "raise":
        with pytest.raises(altmin_ext.DivergenceError):
            method.step(bad, y, index=index)
    else:
        method.step(bad, y, index=index)
    assert all(torch.equal(*pair) for pair in zip(before, method.codes + method.duals, strict=True))


# --- divergence ---


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_divergence_in_a_later_round_undoes_the_step(on_nonfinite: str) -> None:
    """The first round of a step blows the weights up, the second one sees it."""
    model = seeded(mlp, torch.float32)
    before = copy.deepcopy(model)
    method = altmin_ext.make_method("block-admm", model, lr=1e30, iterations=3, on_nonfinite=on_nonfinite)
    state = method.state_dict()["update"]
    x, y = batches(1)[0]
    if on_nonfinite == "raise":
        with pytest.raises(
            altmin_ext.DivergenceError, match=r"of stage \d \('.*'\) (is|are) not finite at step 1; "
        ):
            method.step(x.float(), y)
    else:
        method.step(x.float(), y)
    assert distance(model, before) == 0
    after = method.state_dict()["update"]
    assert state["updates"] == after["updates"] == 0
    assert all(float(moment.abs().max()) == 0 for moment in after["first_moments"])


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_a_gradient_whose_square_overflows_moves_nothing(on_nonfinite: str) -> None:
    """It is finite itself, and so are the squares of other gradients."""
    model = seeded(mlp, torch.float32)
    before = copy.deepcopy(model)
    method = altmin_ext.make_method("block-admm", model, blocks=2, lr_codes=1e22, on_nonfinite=on_nonfinite)
    x, y = batches(1)[0]
    if on_nonfinite == "raise":
        with pytest.raises(altmin_ext.DivergenceError, match=r"weight gradient of stage \d"):
            method.step(x.float(), y)
    else:
        method.step(x.float(), y)
    assert distance(model, before) == 0
    assert method.state_dict()["update"]["updates"] == 0


# --- refusals ---


def sharing() -> nn.Sequential:
    shared = nn.Linear(FEATURES, FEATURES)
    return nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(FEATURES, CLASSES))


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], type[Exception], str]] = {
    "blocks is 0": (mlp, {"blocks": 0}, ValueError, "blocks must be at least 1"),
    "too many blocks": (mlp, {"blocks": 5}, ValueError, "blocks must be at most 4"),
    "blocks is a word": (mlp, {"blocks": "two"}, TypeError, "blocks must be an integer or a list"),
    "blocks is a fraction": (mlp, {"blocks": 1.5}, TypeError, "blocks must be an integer"),
    "a start is a fraction": (mlp, {"blocks": [1.5]}, TypeError, "blocks must be an integer or a list"),
    "starts decrease": (mlp, {"blocks": [4, 2]}, ValueError, "blocks must be increasing"),
    "a start is 0": (mlp, {"blocks": [0, 2]}, ValueError, "blocks must be increasing numbers from 1 to 6"),
    "a start is behind the end": (mlp, {"blocks": [7]}, ValueError, "blocks must be increasing"),
    "a block without parameters": (mlp, {"blocks": [1, 2]}, ValueError, "'1' holds none"),
    "rho is 0": (mlp, {"rho": 0.0}, ValueError, "rho must be greater than 0"),
    "lr_codes is misspelt": (mlp, {"lr_codes": "atuo"}, ValueError, "lr_codes must be a number or 'auto'"),
    "lr_codes is 0": (mlp, {"lr_codes": 0.0}, ValueError, "lr_codes must be greater"),
    "iterations is 0": (mlp, {"iterations": 0}, ValueError, "iterations must be at least 1"),
    "code_iterations is 0": (mlp, {"code_iterations": 0}, ValueError, "code_iterations must be at least 1"),
    "order is misspelt": (mlp, {"order": "gauss"}, ValueError, "order must be 'gauss-seidel' or 'jacobi'"),
    "codes is misspelt": (mlp, {"codes": "activation"}, ValueError, "codes must be 'pre-activations' or"),
    "duals is misspelt": (mlp, {"duals": "offline"}, ValueError, "duals must be 'online' or"),
    "no workers": (mlp, {"workers": 0}, ValueError, "workers must be at least 1"),
    "dual_decay is above 1": (mlp, {"dual_decay": 1.1}, ValueError, "dual_decay must be at least 0 and at most 1"),
    "proximal is misspelt": (mlp, {"proximal": "nonnegative"}, ValueError, "proximal must be 'non-negative' or"),
    "sparse without weight": (mlp, {"proximal": "sparse"}, ValueError, "l1_codes must be greater than 0"),
    "weight without sparse": (mlp, {"l1_codes": 0.1}, ValueError, "l1_codes must be 0 unless"),
    "a shared parameter": (sharing, {}, ValueError, "share a parameter"),
    "a module of two outputs": (
        lambda: nn.Sequential(nn.LSTM(FEATURES, 4), nn.Linear(4, CLASSES)), {}, ValueError, "cannot be split"
    ),
    "no chain": (lambda: nn.ModuleDict({"a": mlp()}), {}, ValueError, "model must be an nn.Sequential"),
    "a sign that nothing passes": (
        lambda: nn.Sequential(nn.Linear(FEATURES, 4), Sign("none"), nn.Linear(4, CLASSES)), {}, ValueError,
        "surrogate",
    ),
    "a graph": (mlp, {"graph": True}, ValueError, "graph must be False"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_sentence(case: str) -> None:
    build, options, error, words = REFUSED[case]
    with pytest.raises(error) as raised:
        altmin_ext.make_method("block-admm", build(), **options)
    assert words in str(raised.value)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


def test_a_parameter_may_be_used_twice_within_a_block() -> None:
    replay(sharing, [3], {"iterations": 2})


@pytest.mark.parametrize("wrong", [lambda x, eta: x[:1], lambda x, eta: None, lambda x, eta: x.float()])
def test_a_proximal_map_that_returns_something_else(wrong: Any) -> None:
    model = seeded(mlp)
    before = copy.deepcopy(model)
    method = altmin_ext.make_method("block-admm", model, proximal=wrong)
    ((x, y),) = batches(1)
    with pytest.raises(ValueError, match=r"^proximal must return a tensor like .*\.$"):
        method.step(x, y)
    assert distance(model, before) == 0


def test_a_proximal_map_that_fails_in_a_later_round() -> None:
    """The weights have moved by then, and are put back."""
    calls = itertools.count()

    def fails(x: Tensor, eta: float) -> Tensor:
        if next(calls) == 4:
            raise RuntimeError("out of codes")
        return x

    model = seeded(mlp)
    before = copy.deepcopy(model)
    method = altmin_ext.make_method("block-admm", model, proximal=fails, iterations=2)
    ((x, y),) = batches(1)
    with pytest.raises(RuntimeError, match="out of codes"):
        method.step(x, y)
    assert distance(model, before) == 0
    assert method.state_dict()["update"]["updates"] == 0
    method.step(x, y)
    assert distance(model, before) > 0


def test_a_state_of_other_blocks_is_refused() -> None:
    state = altmin_ext.make_method("block-admm", seeded(mlp)).state_dict()
    with pytest.raises(ValueError, match="state"):
        altmin_ext.make_method("block-admm", seeded(mlp), blocks=2).load_state_dict(state)


@pytest.mark.parametrize("duals", ["online", "stored"])
def test_a_state_of_as_many_blocks_cut_elsewhere_is_refused(duals: str) -> None:
    """The weights are the same, but the codes lie elsewhere."""
    options = {"duals": duals, "blocks": [2]}
    method = altmin_ext.make_method("block-admm", seeded(mlp), **options)
    x, y = batches(1)[0]
    method.step(x, y, index=torch.arange(len(x)))
    other = altmin_ext.make_method("block-admm", seeded(mlp), **{**options, "blocks": [1]})
    with pytest.raises(ValueError, match=r"^state's starts must be \[1\], .* is cut, but is \[2\]"):
        other.load_state_dict(method.state_dict())


def test_a_network_without_logits() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 2, 1)).double()
    method = altmin_ext.make_method("block-admm", model)
    with pytest.raises(ValueError, match=r"model must give \(B, C\) logits"):
        method.step(*batches(1)[0])
