"""am-sgd and am-adam against autograd on the local objectives, closed forms, and laws the step must obey."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext import ops

from .local_objectives import LocalObjectives, auto_step_size, spectral_bound

NAMES = ("am-adam", "am-sgd")
TOLERANCE = 1e-10
CLASSES = 5
WIDTHS = (12, 16, 11, CLASSES)
SMALL_STEPS = {"paper": {"lr_codes": 0.1}, "released": {"scaling": "released", "lr_codes": 0.3, "mu": 0.003}}


def seeded(build: Callable[[], nn.Module], seed: int = 1, dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().to(dtype)


def mlp(
    widths: tuple[int, ...] = WIDTHS, activation: Callable[[], nn.Module] = nn.ReLU, **options: Any
) -> nn.Module:
    def build() -> nn.Module:
        modules: list[nn.Module] = [nn.Flatten(), nn.Linear(widths[0], widths[1])]
        for n_in, n_out in itertools.pairwise(widths[1:]):
            modules += [activation(), nn.Linear(n_in, n_out)]
        return nn.Sequential(*modules)

    return seeded(build, **options)


def batches(
    sizes: tuple[int, ...] = (32,) * 20,
    *,
    loss: str = "cross_entropy",
    seed: int = 7,
    dtype: torch.dtype = torch.float64,
) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for size in sizes:
        x = torch.randn(size, 3, 4, generator=generator, dtype=torch.float64)
        if loss == "mse":
            y = torch.randn(size, CLASSES, generator=generator, dtype=torch.float64).to(dtype)
        else:
            y = torch.randint(CLASSES, (size,), generator=generator)
        yield x.to(dtype), y


def distance(one: nn.Module, other: nn.Module) -> float:
    """The largest difference between two models' parameters and buffers."""
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    return max(float((left[key].double() - right[key].double()).abs().max()) for key in left)


def eta_list(method: Any) -> list[float]:
    step_sizes = method.code_step_sizes
    assert step_sizes.dtype == torch.float64
    assert step_sizes.dim() <= 1
    return step_sizes.reshape(-1).tolist()


def replay(
    name: str,
    model: nn.Module,
    *,
    loss: str = "cross_entropy",
    sizes: tuple[int, ...] = (32,) * 20,
    epoch: int = 0,
    tolerance: float = TOLERANCE,
    **options: Any,
) -> tuple[Any, LocalObjectives]:
    """Runs the library and the reference side by side; reports and weights must agree after every step.

    The reference takes the step sizes that the library says it used, and draws the masks of Dropout that the
    library must have drawn. `epoch`: how many steps an epoch has, 0 for no epochs.
    """
    reference = LocalObjectives(model, name, loss=loss, **options)
    method = altmin_ext.make_method(name, model, loss=loss, report_objective=True, **options)
    for number, (x, y) in enumerate(batches(sizes, loss=loss), start=1):
        torch.manual_seed(number)
        report = method.step(x, y)
        etas = eta_list(method)
        assert len(etas) == len(reference.stages) - 1
        if reference.lr_codes != "auto":
            assert etas == [reference.lr_codes] * len(etas)

        torch.manual_seed(number)
        expected = reference.step(x, y, step_sizes=etas, masks=reference.draw_masks(len(x)))
        close = {"rel": tolerance, "abs": tolerance}
        assert float(report.loss) == pytest.approx(expected.loss, **close), number
        assert (None if report.correct is None else int(report.correct)) == expected.correct, number
        objective = [float(value) for value in report.objective]
        assert objective == pytest.approx(expected.objective, **close), number
        assert distance(model, reference.model) < tolerance, number
        if epoch and number % epoch == 0:
            method.end_epoch()
            reference.end_epoch()
    return method, reference


# --- the step against the reference ---


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scaling", ["paper", "released"])
@pytest.mark.parametrize("code_iterations", [1, 5])
@pytest.mark.parametrize("code_momentum", [0.0, 0.9])
def test_step(name: str, scaling: str, code_iterations: int, code_momentum: float) -> None:
    momentum = {"code_iterations": code_iterations, "code_momentum": code_momentum}
    replay(name, mlp(), **SMALL_STEPS[scaling], **momentum)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scaling", ["paper", "released"])
def test_defaults(name: str, scaling: str) -> None:
    """paper: auto, 1 iteration, mu .5, displacement; released: .3, 5 iterations, momentum .9, mu .003."""
    replay(name, mlp(), **({} if scaling == "paper" else {"scaling": scaling}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage_scaling", ["displacement", "none"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("code_iterations", [1, 5])
def test_auto_step_sizes(name: str, stage_scaling: str, loss: str, code_iterations: int) -> None:
    options = {"lr_codes": "auto", "stage_scaling": stage_scaling, "code_iterations": code_iterations}
    replay(name, mlp(), loss=loss, **options)


@pytest.mark.parametrize("name", NAMES)
def test_displacement_scaling_with_a_numeric_step(name: str) -> None:
    replay(name, mlp(), lr_codes=0.2, stage_scaling="displacement")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scaling", ["paper", "released"])
@pytest.mark.parametrize("code_iterations", [1, 5])
def test_mse(name: str, scaling: str, code_iterations: int) -> None:
    replay(name, mlp(), loss="mse", code_iterations=code_iterations, **SMALL_STEPS[scaling])


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "elu": lambda: nn.ELU(1.5),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "softplus": lambda: nn.Softplus(beta=2.0),
    "identity": nn.Identity,
    "two": lambda: nn.Sequential(nn.Tanh(), nn.LeakyReLU(0.2)),
}
ONE_OF_EACH = ("relu", "leaky_relu", "elu", "tanh", "sigmoid", "gelu", "silu", "softplus")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("lr_codes", ["auto", 0.2])
@pytest.mark.parametrize("code_iterations", [1, 3])
def test_activations(activation: str, lr_codes: float | str, code_iterations: int) -> None:
    model = mlp(activation=ACTIVATIONS[activation])
    replay("am-adam", model, lr_codes=lr_codes, code_iterations=code_iterations)


OPTIONS: dict[str, dict[str, Any]] = {
    "l1_codes": {"l1_codes": 0.2},
    "l1_codes, 4 iterations": {"l1_codes": 0.2, "code_iterations": 4, "code_momentum": 0.5},
    "l1_codes, released": {"l1_codes": 1e-3, **SMALL_STEPS["released"]},
    "l1_weights": {"l1_weights": 0.05},
    "l1_weights, lr_out": {"l1_weights": 0.05, "lr_out": 0.003},
    "l1_weights, 3 weight iterations": {"l1_weights": 0.05, "weight_iterations": 3, "lr": 1e-3},
    "weight_decay": {"weight_decay": 0.3},
    "weight_decay, lr_out": {"weight_decay": 0.3, "lr_out": 0.003},
    # Divided by its displacement a stage is as much more curved: repeated SGD steps need a small lr.
    "weight_iterations": {"weight_iterations": 3, "lr": 1e-3},
    "weight_iterations, released": {"weight_iterations": 3, **SMALL_STEPS["released"]},
    "weight_iterations, no stage scaling": {"weight_iterations": 3, "stage_scaling": "none"},
    "lr": {"lr": 0.004},
    "lr_out": {"lr_out": 0.02},
    "mu": {"mu": 0.1},
    "everything": {
        "code_iterations": 3,
        "code_momentum": 0.5,
        "l1_codes": 0.2,
        "l1_weights": 0.05,
        "lr": 0.001,
        "lr_out": 0.02,
        "mu": 0.2,
        "mu_increment": 0.01,
        "weight_decay": 0.3,
        "weight_iterations": 2,
    },
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", OPTIONS)
def test_options(name: str, case: str) -> None:
    untouched = mlp()
    _, reference = replay(name, copy.deepcopy(untouched), **OPTIONS[case])

    # The option must matter, or agreement says nothing about it.
    scaling = {"scaling": OPTIONS[case].get("scaling", "paper")}
    plain = LocalObjectives(untouched, name, **scaling)
    for x, y in batches():
        plain.step(x, y, step_sizes=plain.auto_step_sizes() if plain.lr_codes == "auto" else None)
    assert distance(plain.model, reference.model) > 1e-5


@pytest.mark.parametrize("scaling", ["paper", "released"])
@pytest.mark.parametrize(
    "schedule",
    [
        {"mu_increment": 0.01},
        {"mu_multiplier": 1.5},
        {"mu_multiplier": 0.5},
        {"mu_increment": 0.01, "mu_multiplier": 1.5, "mu_max": 0.2},
        {"mu_increment": 0.01, "mu_max": 0.05},  # below the first mu: it falls to mu_max after the first step
    ],
    ids=str,
)
def test_mu_schedule(schedule: dict[str, float], scaling: str) -> None:
    steps = {"paper": "auto", "released": 0.3}[scaling]
    replay("am-sgd", mlp(), scaling=scaling, lr_codes=steps, mu=0.1, epoch=4, **schedule)


# --- networks ---


def batch_norm_after() -> nn.Module:
    # Without a bias: its gradient is zero but for rounding, which Adam would blow up.
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(12, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 11, bias=False),
        nn.BatchNorm1d(11, momentum=None),
        nn.Tanh(),
        nn.Linear(11, CLASSES),
    )


def batch_norm_before() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(12),
        nn.Linear(12, 16),
        nn.ReLU(),
        nn.BatchNorm1d(16, eps=1e-3),
        nn.Linear(16, 11),
        nn.ReLU(),
        nn.BatchNorm1d(11, affine=False, track_running_stats=False),
        nn.Linear(11, CLASSES),
    )


def batch_norm_on_both_sides() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(12, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.BatchNorm1d(16),
        nn.Linear(16, CLASSES),
    )


def dropout() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(12, 16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(16, 11),
        nn.Dropout(0.1),
        nn.Tanh(),
        nn.Linear(11, CLASSES),
    )


def dropout_and_batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(12, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.Dropout(0.2),
        nn.Tanh(),
        nn.Linear(16, CLASSES),
    )


def nested() -> nn.Module:
    block = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(16, 11), nn.Sequential(nn.ReLU())))
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(12, 16)), block, nn.Linear(11, CLASSES))


def without_bias() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 16, bias=False), nn.ReLU(), nn.Linear(16, CLASSES, bias=False)
    )


def linear_after_linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Linear(16, 11), nn.Linear(11, CLASSES))


NETWORKS = {
    build.__name__: build
    for build in (
        batch_norm_after,
        batch_norm_before,
        batch_norm_on_both_sides,
        dropout,
        dropout_and_batch_norm,
        linear_after_linear,
        nested,
        without_bias,
    )
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr_codes": 0.2, "code_iterations": 3},
        {"scaling": "released"},
        {"lr_codes": 0.2, "weight_iterations": 2},
    ],
    ids=["auto", "fixed", "released", "twice"],
)
def test_networks(name: str, network: str, options: dict[str, Any]) -> None:
    replay(name, seeded(NETWORKS[network]), **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("stage_scaling", ["displacement", "none"])
def test_six_hidden_layers(name: str, activation: Callable[[], nn.Module], stage_scaling: str) -> None:
    model = mlp((12, 16, 15, 14, 13, 12, 11, CLASSES), activation)
    replay(name, model, lr_codes="auto", stage_scaling=stage_scaling)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("options", [{}, {"scaling": "released"}, {"weight_iterations": 3}], ids=str)
def test_no_hidden_layer(name: str, loss: str, options: dict[str, Any]) -> None:
    """Without a code the step is plain gradient descent on the mean loss."""
    replay(name, mlp((12, CLASSES)), loss=loss, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "frozen", [("1.weight",), ("3.weight", "3.bias"), ("1.bias", "5.weight"), ("5.weight", "5.bias")], ids=str
)
def test_frozen_parameters_stay(name: str, frozen: tuple[str, ...]) -> None:
    model = mlp()
    for key in frozen:
        model.get_parameter(key).requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    replay(name, model, weight_decay=0.1, l1_weights=0.01)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == (key in frozen), key


@pytest.mark.parametrize("name", NAMES)
def test_smaller_last_batch(name: str) -> None:
    replay(name, mlp(), sizes=(32, 32, 7) * 4, epoch=3)


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_one(name: str) -> None:
    replay(name, mlp(), sizes=(1,) * 10)


def test_nesting_changes_nothing() -> None:
    model = seeded(nested)
    flat = nn.Sequential(nn.Flatten(), *(copy.deepcopy(m) for m in model.modules() if not list(m.children())))
    methods = [altmin_ext.make_method("am-adam", each) for each in (model, flat)]
    for x, y in batches((32,) * 5):
        for method in methods:
            method.step(x, y)
    for one, other in zip(model.parameters(), flat.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("options", [{}, {"lr_codes": 0.2, "code_iterations": 5}], ids=["auto", "fixed"])
def test_float32_follows_float64(name: str, activation: str, options: dict[str, Any]) -> None:
    model = mlp(activation=ACTIVATIONS[activation], dtype=torch.float32)
    reference = LocalObjectives(copy.deepcopy(model).double(), name, **options)
    method = altmin_ext.make_method(name, model, **options)
    start = [p.detach().double().clone() for p in model.parameters()]
    for x, y in batches(dtype=torch.float32):
        report = method.step(x, y)
        expected = reference.step(x.double(), y, step_sizes=eta_list(method))
        assert report.loss.dtype == torch.float32
        assert float(report.loss) == pytest.approx(expected.loss, rel=1e-3)
    for mine, theirs, origin in zip(model.parameters(), reference.model.parameters(), start, strict=True):
        mine, theirs = mine.detach().double(), theirs.detach()
        error, travelled = (mine - theirs).norm(), (theirs - origin).norm()
        # Adam divides by the size of the gradient and so keeps the rounding of near-zero ones visible.
        assert float(error / travelled) < (1e-3 if name == "am-sgd" else 1e-2)


# --- closed forms, without the reference ---


@pytest.mark.parametrize("stage_scaling", ["displacement", "none"])
def test_many_iterations_reach_the_minimiser_of_a_linear_network(stage_scaling: str) -> None:
    """Without activations and with mse every code's objective is quadratic: a linear system minimises it."""
    model = seeded(linear_after_linear)
    first, second, top = (copy.deepcopy(m) for m in model if isinstance(m, nn.Linear))
    mu, lr, size = 0.3, 0.05, 32
    (x, y), *_ = batches((size,), loss="mse")
    method = altmin_ext.make_method(
        "am-sgd",
        model,
        loss="mse",
        lr=lr,
        mu=mu,
        lr_codes="auto",
        stage_scaling=stage_scaling,
        code_iterations=400,
    )
    method.step(x, y)

    with torch.no_grad():
        x = x.flatten(1)
        start_1 = first(x)
        start_2 = second(start_1)

        def minimiser(start: Tensor, above: nn.Linear, target: Tensor, weight: float) -> Tensor:
            """argmin_c weight / 2 |W c + b - target|^2 + 1/2 |c - start|^2 of every row."""
            gram = torch.eye(start.shape[1], dtype=torch.float64) + weight * above.weight.T @ above.weight
            return torch.linalg.solve(gram, (start + weight * (target - above.bias) @ above.weight).T).T

        code_2 = minimiser(start_2, top, y, 1 / (mu * CLASSES))
        code_1 = minimiser(start_1, second, code_2, 1.0)
        expected = []
        for linear, below, start, code in ((first, x, start_1, code_1), (second, code_1, start_2, code_2)):
            residual = (linear(below) - code) / size
            if stage_scaling == "displacement":
                residual = residual / (start - code).square().mean().sqrt()
            expected += [linear.weight - lr * residual.T @ below, linear.bias - lr * residual.sum(0)]
        residual = 2 * (top(code_2) - y) / (size * CLASSES)
        expected += [top.weight - lr * residual.T @ code_2, top.bias - lr * residual.sum(0)]
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=0, atol=1e-10)


def moves(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> list[Tensor]:
    """How far one step moves every parameter of a copy of the model."""
    model = copy.deepcopy(model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    altmin_ext.make_method("am-sgd", model, **options).step(x, y)
    return [new.detach() - old for new, old in zip(model.parameters(), before, strict=True)]


def backprop(model: nn.Module, x: Tensor, y: Tensor, loss: str = "cross_entropy") -> list[Tensor]:
    model = copy.deepcopy(model).double()
    logits = model(x.double())
    value = F.cross_entropy(logits, y) if loss == "cross_entropy" else F.mse_loss(logits, y.double())
    return list(torch.autograd.grad(value, list(model.parameters())))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(F.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("scaling", ["paper", "released"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_one_small_code_step_is_backprop_up_to_a_factor(
    activation: Callable[[], nn.Module], scaling: str, loss: str
) -> None:
    """One gradient step moves codes along the chain rule, and so every stage along backprop's gradient."""
    model = mlp(activation=activation)
    (x, y), *_ = batches((32,), loss=loss)
    step = {"paper": {"lr_codes": 1e-5}, "released": {"lr_codes": 1e-2, "mu": 1.0}}[scaling]
    options = {"code_iterations": 1, "code_momentum": 0.0, "scaling": scaling, "lr": 1e9, "lr_out": 1.0}
    moved = moves(model, x, y, loss=loss, **options, **step)
    for move, gradient in zip(moved, backprop(model, x, y, loss), strict=True):
        assert cosine(move, -gradient) > 1 - 1e-6


@pytest.mark.parametrize("activation", ONE_OF_EACH)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_displacements_survive_rounding(activation: str, dtype: torch.dtype) -> None:
    """Small code steps through four hidden layers: the bottom code moves by less than eps of its own size.

    Formed as a difference of codes it would be rounding, or zero. Carried by itself, and divided by its own
    size, it still points along backprop's gradient.
    """
    model = mlp((12, 16, 15, 14, 13, CLASSES), ACTIVATIONS[activation], dtype=dtype)
    (x, y), *_ = batches((32,), dtype=dtype)
    # lr: large enough that the move is not lost in the weight that it is read from.
    moved = moves(model, x, y, lr_codes=1e-3, stage_scaling="displacement", lr=1.0)
    for move, gradient in zip(moved, backprop(model, x, y), strict=True):
        assert cosine(move, -gradient) > 1 - 1e-4


@pytest.mark.parametrize("lr_codes", ["auto", 0.3])
@pytest.mark.parametrize("code_iterations", [1, 4])
def test_displacement_scaling_only_rescales(lr_codes: float | str, code_iterations: int) -> None:
    model = mlp()
    (x, y), *_ = batches((32,))
    options = {"lr_codes": lr_codes, "code_iterations": code_iterations}
    reference = LocalObjectives(model, "am-sgd", **options)
    method = altmin_ext.make_method("am-sgd", copy.deepcopy(model), **options)
    method.step(x, y)
    reference.step(x, y, step_sizes=eta_list(method))

    plain = moves(model, x, y, stage_scaling="none", **options)
    scaled = moves(model, x, y, stage_scaling="displacement", **options)
    scales = [scale for scale in [*reference.displacements, 1.0] for _ in ("weight", "bias")]
    for one, other, scale in zip(plain, scaled, scales, strict=True):
        torch.testing.assert_close(one, other * scale, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("stage_scaling", ["displacement", "none"])
def test_order_and_repetition_of_samples_change_nothing(stage_scaling: str) -> None:
    """Codes are per sample and weight objectives are means, so a batch twice over is the batch itself."""
    model = mlp()
    (x, y), *_ = batches((32,))
    options = {"lr_codes": 0.2, "code_iterations": 3, "stage_scaling": stage_scaling}
    expected = moves(model, x, y, **options)
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0)) % 32
    for move, value in zip(moves(model, x[shuffled], y[shuffled], **options), expected, strict=True):
        torch.testing.assert_close(move, value, rtol=0, atol=1e-12)


def test_a_code_without_signal_leaves_its_stage_alone() -> None:
    """A dead layer passes nothing down: nothing is divided by its displacement of zero."""
    model = mlp()
    with torch.no_grad():
        model[3].bias.fill_(-100.0)  # no unit of the second hidden layer is active
    (x, y), *_ = batches((32,))
    *hidden, weight, bias = moves(model, x, y)
    assert all(torch.equal(move, torch.zeros_like(move)) for move in hidden)
    assert torch.equal(weight, torch.zeros_like(weight))
    assert bias.abs().max() > 0


# --- lr_codes="auto" ---


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("activation", ONE_OF_EACH)
@pytest.mark.parametrize("mu", [0.5, 0.01])
def test_auto_approaches_the_exact_bound(loss: str, activation: str, mu: float) -> None:
    """One power iteration follows every step, so that 200 steps with fixed weights find sigma_max."""
    model = mlp(activation=ACTIVATIONS[activation])
    exact = LocalObjectives(model, loss=loss, mu=mu).auto_step_sizes()
    method = altmin_ext.make_method("am-sgd", model, loss=loss, mu=mu, lr=0.0)
    for x, y in batches((8,) * 200, loss=loss):
        method.step(x, y)
    # The lipschitz slopes of these two are known to the library as rounded numbers.
    tolerance = 2e-3 if activation in ("gelu", "silu") else 1e-6
    assert eta_list(method) == pytest.approx(exact, rel=tolerance)


def test_auto_with_dropout() -> None:
    model = seeded(dropout)
    exact = LocalObjectives(model).auto_step_sizes()
    method = altmin_ext.make_method("am-sgd", model, lr=0.0)
    for x, y in batches((8,) * 200):
        method.step(x, y)
    assert eta_list(method) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_auto_from_twenty_power_iterations(seed: int) -> None:
    """Power iteration nears sigma_max from below, so eta nears the exact one from above; fast given a gap."""
    model = mlp(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    (x, y), *_ = batches((8,))

    def first_etas() -> tuple[list[float], list[float]]:
        exact = [
            auto_step_size(model[3].weight),
            auto_step_size(model[5].weight, mu=0.5),
        ]
        method = altmin_ext.make_method("am-sgd", copy.deepcopy(model), seed=seed)
        method.step(x, y)
        return eta_list(method), exact

    for eta, exact in zip(*first_etas(), strict=True):
        assert exact * (1 - 1e-12) <= eta < exact * 1.2  # a random matrix may have no gap to speak of

    with torch.no_grad():
        for linear in (model[3], model[5]):
            left, values, right = torch.linalg.svd(linear.weight, full_matrices=False)
            values = 1.5 * 0.8 ** torch.arange(len(values), dtype=torch.float64)
            linear.weight.copy_(left * values @ right)
            assert spectral_bound(linear.weight) == pytest.approx(1.5)
            linear.bias.normal_(generator=generator)
    etas, exact = first_etas()
    assert exact == pytest.approx([1 / (1 + 1.5**2), 1 / (1 + 1.5**2 / 2)])
    assert etas == pytest.approx(exact, rel=1e-2)
    assert all(eta >= bound * (1 - 1e-12) for eta, bound in zip(etas, exact, strict=True))


def test_auto_follows_mu_and_the_weights() -> None:
    model = mlp()
    reference = LocalObjectives(model, "am-sgd", mu=0.1)
    method = altmin_ext.make_method("am-sgd", model, mu=0.1, mu_increment=0.05, lr=0.02)
    for number, (x, y) in enumerate(batches((32,) * 100)):
        reference.model.load_state_dict(model.state_dict())
        reference.mu = 0.1 + 0.05 * number
        exact = reference.auto_step_sizes()
        method.step(x, y)
        if number >= 20:
            assert eta_list(method) == pytest.approx(exact, rel=1e-3)
    assert exact[-1] > 0.9  # a large mu leaves almost nothing but the anchor


@pytest.mark.parametrize("mu", [0.01, 0.5, 10.0])
@pytest.mark.parametrize("code_iterations", [1, 2, 20])
def test_auto_descends(mu: float, code_iterations: int) -> None:
    """Where the bound is exact (no activations, power iteration done) no step raises a local objective.

    A code starts where its anchor is zero, so that the rest of its objective, the misfit above it, must fall.
    """
    model = seeded(linear_after_linear)
    options = {"mu": mu, "code_iterations": code_iterations, "lr": 0.0}
    reference = LocalObjectives(model, "am-sgd", **options)
    method = altmin_ext.make_method("am-sgd", model, report_objective=True, **options)
    for x, y in batches((8,) * 50):
        report = method.step(x, y)
        reference.step(x, y, step_sizes=eta_list(method))
    units = [stage.linear.out_features for stage in reference.stages]
    above = (
        mu * units[1] * reference.displacements[1] ** 2
    )  # what stage 2 was off by before the lower code moved
    assert float(report.objective[1]) < above
    assert float(report.objective[-1]) < float(report.loss)


@pytest.mark.parametrize("name", NAMES)
def test_seed_draws_the_power_iteration(name: str) -> None:
    """Other start vectors give other first estimates, and the same seed gives the same ones bit for bit."""
    (x, y), *_ = batches((32,))

    def etas(seed: int) -> list[float]:
        method = altmin_ext.make_method(name, mlp(), seed=seed)
        method.step(x, y)
        return eta_list(method)

    assert etas(3) == etas(3)
    assert etas(3) != etas(4)


def test_a_loss_of_zero_is_a_place_to_stay() -> None:
    """A minibatch learned by heart leaves nothing to do: the displacements vanish, and no scaling may revive them.

    Scaled without a floor they become steps of full size in directions of rounding error, and the weights blow up.
    """
    torch.manual_seed(0)
    model = altmin_ext.models.mlp(20, [64, 64], 4)
    method = altmin_ext.make_method("am-adam", model, lr=1e-2)
    x, y = torch.randn(32, 20), torch.randint(4, (32,))
    losses = [float(method.step(x, y).loss) for _ in range(1500)]
    assert losses[-1] < 1e-6
    assert max(losses[500:]) < 1e-2


@pytest.mark.parametrize("at_once", [False, True])
def test_residuals_that_are_not_finite_stop_the_step(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether stages are fitted one by one, as on a CPU, or in one call: the kernel's flags are the guard's own."""
    model = altmin_ext.models.mlp(6, [5, 4], 3)
    method = altmin_ext.make_method("am-adam", model)
    method._residuals_at_once = at_once
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weight_residual = ops.unversioned.weight_residual

    def overflowing(*arguments: Any, guard: Tensor, **keywords: Any) -> None:
        weight_residual(*arguments, guard=guard, **keywords)
        guard[-1] = 1.0

    monkeypatch.setattr(ops.unversioned, "weight_residual", overflowing)
    x, y = torch.randn(7, 6), torch.randint(3, (7,))
    with pytest.raises(altmin_ext.DivergenceError, match="weight gradient of stage"):
        method.step(x, y)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
