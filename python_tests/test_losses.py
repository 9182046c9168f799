"""Losses: those with a name, torch's criteria and functions of a user.

Oracles, in float64: every loss written down a second time as a formula; its derivative in the logits by finite
differences; steps of every method that follows a gradient by autograd on the local objectives, told that formula; a
step by the fused kernels, which a loss without any must reproduce; Hessians by ``torch.func.hessian``. Proximal maps:
no perturbation of the minimiser does better. What is counted as correct: tables.
"""

from __future__ import annotations

import copy
import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext import losses
from altmin_ext.__main__ import main
from altmin_ext.callbacks import EarlyStopping
from altmin_ext.losses import CrossEntropy, Loss, MeanSquaredError, make_loss

from .methods.local_objectives import LocalObjectives
from .methods.test_am_mem import MemoryObjectives
from .methods.test_block_admm import Reference as BlockReference
from .methods.test_deepfacto import RANK
from .methods.test_deepfacto import Reference as FactoReference
from .methods.test_deepfacto import seeded as with_dictionary
from .methods.test_difference_target import Reference as TargetReference
from .methods.test_methods_common import METHODS, assert_sentence, same, snapshot

FEATURES, CLASSES, SIZE = 6, 3, 13
Function = Callable[[Tensor, Tensor], Tensor]
by_gradient = [
    name
    for name, case in METHODS.items()
    if case.learns_all and not altmin_ext.methods.method_class(name).needs
]
every_gradient_method = pytest.mark.parametrize("name", by_gradient)


# --- the losses, and their formulas ---

WEIGHTS = torch.tensor([0.5, 3.0, 1.0], dtype=torch.float64)
POSITIVE = torch.tensor([2.5], dtype=torch.float64)


def of_label(z: Tensor, y: Tensor) -> Tensor:
    return z[torch.arange(len(y)), y]


def smoothed(z: Tensor, y: Tensor) -> Tensor:
    share = 0.9 * F.one_hot(y, z.shape[1]).double() + 0.1 / z.shape[1]
    return -(share * (z - z.logsumexp(1, keepdim=True))).sum(1).mean()


def weighted(z: Tensor, y: Tensor) -> Tensor:
    w = WEIGHTS[y]
    return (w * (z.logsumexp(1) - of_label(z, y))).sum() / w.sum()


def huber(z: Tensor, y: Tensor) -> Tensor:
    e = (z - y).abs()
    return torch.where(e < 0.5, e**2 / 2, 0.5 * (e - 0.25)).mean()


def margin(z: Tensor, y: Tensor) -> Tensor:
    violated = (1 - of_label(z, y)[:, None] + z).clamp(min=0)
    return ((violated * (1 - F.one_hot(y, z.shape[1]))).sum(1) / z.shape[1]).mean()


def squared_margin(z: Tensor, y: Tensor) -> Tensor:
    violated = (1 - of_label(z, y)[:, None] + z).clamp(min=0) ** 2
    return ((violated * (1 - F.one_hot(y, z.shape[1]))).sum(1) / z.shape[1]).mean()


def one_logit(z: Tensor, y: Tensor) -> Tensor:
    return (POSITIVE * y * F.softplus(-z) + (1 - y) * F.softplus(z)).mean()


def weighted_squares(z: Tensor, y: Tensor) -> Tensor:
    return (WEIGHTS * (z - y) ** 2).mean()


def hinge(z: Tensor, y: Tensor) -> Tensor:
    own = F.one_hot(y, z.shape[1]) == 1
    return torch.where(own, (1 - z).clamp(min=0), z.clamp(min=0)).sum(1).mean()


def squared(z: Tensor, y: Tensor) -> Tensor:
    return ((z - F.one_hot(y, z.shape[1])) ** 2).sum(1).mean()


def named(name: str) -> Function:
    return lambda z, y: F.cross_entropy(z, y) if name == "cross_entropy" else F.mse_loss(z, y)


@dataclass(frozen=True)
class Case:
    """What ``loss=`` is given, its formula, and what targets it takes: "labels", "reals", or "bits" of one logit."""

    given: Any
    formula: Function
    targets: str = "labels"

    @property
    def outputs(self) -> int:
        return 1 if self.targets == "bits" else CLASSES


CASES = {
    "label smoothing": Case(nn.CrossEntropyLoss(label_smoothing=0.1), smoothed),
    "class weights": Case(nn.CrossEntropyLoss(weight=WEIGHTS.float()), weighted),
    "huber": Case(nn.HuberLoss(delta=0.5), huber, "reals"),
    "multi-margin": Case(nn.MultiMarginLoss(), margin),
    "squared multi-margin": Case(nn.MultiMarginLoss(p=2), squared_margin),
    "one logit": Case(nn.BCEWithLogitsLoss(pos_weight=POSITIVE), one_logit, "bits"),
    "function": Case(weighted_squares, weighted_squares, "reals"),
    "hinge": Case("hinge", hinge),
    "squared": Case("squared", squared),
    "squared of reals": Case("squared", lambda z, y: ((z - y) ** 2).sum(1).mean(), "reals"),
}
NAMED = {
    "cross_entropy": Case("cross_entropy", named("cross_entropy")),
    "mse": Case("mse", named("mse"), "reals"),
}
every_case = pytest.mark.parametrize("case", CASES)
every_loss = pytest.mark.parametrize("case", {**CASES, **NAMED})


def find(case: str) -> Case:
    return {**CASES, **NAMED}[case]


def batch(targets: str, number: int = 0, size: int = SIZE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
    if targets == "reals":
        return x, torch.randn(size, CLASSES, generator=generator, dtype=torch.float64)
    y = torch.randint(CLASSES if targets == "labels" else 2, (size,), generator=generator)
    return x, y if targets == "labels" else y[:, None].double()


def network(name: str, outputs: int = CLASSES) -> nn.Sequential:
    if name == "deepfacto":
        return with_dictionary(
            lambda: altmin_ext.models.deepfacto(nn.Linear(FEATURES, 9), 9, RANK, nn.Linear(RANK, outputs))
        )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(FEATURES, 9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, outputs)
        ).double()


def assert_close_models(one: nn.Module, other: nn.Module, tolerance: float = 1e-9) -> None:
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


# --- the derivative in the logits ---


def finite_differences(function: Callable[[Tensor], Tensor], z: Tensor, h: float = 1e-6) -> Tensor:
    derivative = torch.zeros_like(z)
    for i in range(z.numel()):
        step = torch.zeros_like(z)
        step.view(-1)[i] = h
        derivative.view(-1)[i] = (function(z + step) - function(z - step)) / (2 * h)
    return derivative


@every_loss
@pytest.mark.parametrize("with_bias", [True, False])
def test_residual(case: str, with_bias: bool) -> None:
    """Per sample, so B times the derivative of the mean; with the sum over the batch, the mean and the hits."""
    c = find(case)
    loss = make_loss(c.given).to(torch.device("cpu"), torch.float64)
    _, y = batch(c.targets)
    y = loss.check_targets(y, torch.float64)
    generator = torch.Generator().manual_seed(9)
    logits = 2 * torch.randn(SIZE, c.outputs, generator=generator, dtype=torch.float64)
    bias = torch.randn(c.outputs, generator=generator, dtype=torch.float64) if with_bias else None
    z = logits if bias is None else logits + bias
    before = logits.clone()
    out, bias_gradient, value = torch.empty_like(logits), z.new_empty(c.outputs), z.new_empty(())
    correct, flag = torch.full((), -1), torch.zeros(1, dtype=torch.float64)
    with torch.no_grad():
        loss.residual(logits, bias, y, out, bias_gradient, value, correct, flag)
        assert not torch.is_grad_enabled()
    expected = SIZE * finite_differences(lambda z: c.formula(z, y), z)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(bias_gradient, out.sum(0), rtol=0, atol=1e-12)
    assert float(value) == pytest.approx(float(c.formula(z, y)), rel=1e-12)
    hits = (
        int((z.argmax(1) == y).sum())
        if c.targets == "labels"
        else int(((z > 0) == (y == 1)).sum())
        if c.targets == "bits"
        else -1
    )
    assert int(correct) == hits
    assert not flag.any()
    assert torch.equal(logits, before)
    assert not out.requires_grad

    loss.residual(logits, bias, y, logits, None, value, correct, None)  # in place
    assert torch.equal(logits, out)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@every_loss
def test_residual_that_is_not_finite_raises_the_flag(case: str, value: float) -> None:
    c = find(case)
    loss = make_loss(c.given).to(torch.device("cpu"), torch.float64)
    _, y = batch(c.targets)
    logits = torch.zeros(SIZE, c.outputs, dtype=torch.float64)
    logits[3] = value
    mean, correct, flag = logits.new_empty(()), torch.empty((), dtype=torch.int64), torch.zeros(1).double()
    loss.residual(logits, None, y, torch.empty_like(logits), None, mean, correct, flag)
    assert flag.tolist() == [1.0]


def test_a_derivative_alone_that_is_not_finite_raises_the_flag() -> None:
    """The root of a square at 0 is 0 and has the derivative 0 / 0."""
    loss = make_loss(lambda z, y: (z - y).square().sum().sqrt())
    y = torch.ones(4, 2, dtype=torch.float64)
    value, flag = y.new_empty(()), torch.zeros(1, dtype=torch.float64)
    loss.residual(
        y.clone(), None, y, torch.empty_like(y), None, value, torch.empty((), dtype=torch.int64), flag
    )
    assert float(value) == 0
    assert flag.tolist() == [1.0]


# --- steps against autograd on the local objectives ---


@every_case
@pytest.mark.parametrize("name", ["am-sgd", "am-adam"])
@pytest.mark.parametrize(
    "options", [{}, {"lr_codes": 0.2, "code_iterations": 3, "weight_iterations": 2}], ids=str
)
def test_online_steps(name: str, case: str, options: dict[str, Any]) -> None:
    c, model = CASES[case], network(name, CASES[case].outputs)
    reference = LocalObjectives(model, name, loss=c.formula, **options)
    method = altmin_ext.make_method(name, model, loss=c.given, report_objective=True, **options)
    for number in range(5):
        x, y = batch(c.targets, number)
        report = method.step(x, y)
        expected = reference.step(x, y, step_sizes=method.code_step_sizes.tolist())
        assert float(report.loss) == pytest.approx(expected.loss, rel=1e-9)
        assert report.objective.tolist() == pytest.approx(expected.objective, rel=1e-8, abs=1e-12)
        if c.targets != "bits":
            assert (None if report.correct is None else int(report.correct)) == expected.correct
        assert_close_models(model, reference.model)


@every_case
@pytest.mark.parametrize("name", ["am-mem", "am-mem-off", "am-adam-off"])
def test_steps_with_a_memory_or_the_whole_set(name: str, case: str) -> None:
    c, model = CASES[case], network(name, CASES[case].outputs)
    kind = LocalObjectives if name == "am-adam-off" else MemoryObjectives
    reference = kind(model, loss=c.formula, lr=0.01)
    method = altmin_ext.make_method(name, model, loss=c.given, lr=0.01)
    for _ in range(4):
        x, y = batch(c.targets)
        method.step(x, y)
        reference.step(x, y, step_sizes=method.code_step_sizes.tolist())
        assert_close_models(model, reference.model)


@every_case
def test_whole_set_in_chunks(case: str) -> None:
    """But for the losses that a chunk couples, such as the mean by weights, they are the same as all at once."""
    c = CASES[case]
    if case == "class weights":
        pytest.skip("its mean divides by the weights of the chunk")
    models = [network("am-adam-off", c.outputs) for _ in range(2)]
    for model, chunk_size in zip(models, (1000, 5), strict=True):
        method = altmin_ext.make_method(
            "am-adam-off", model, loss=c.given, lr_codes=0.3, chunk_size=chunk_size
        )
        for _ in range(3):
            method.step(*batch(c.targets))
    assert_close_models(*models)


@every_case
@pytest.mark.parametrize("options", [{}, {"lr_codes": 0.3, "iterations": 2}], ids=str)
def test_block_admm_steps(case: str, options: dict[str, Any]) -> None:
    c, model = CASES[case], network("block-admm", CASES[case].outputs)
    rest = {key: value for key, value in options.items() if key != "lr_codes"}
    reference = BlockReference(model, [1, 3], loss=c.formula, **rest)
    method = altmin_ext.make_method("block-admm", model, loss=c.given, report_objective=True, **options)
    for number in range(5):
        x, y = batch(c.targets, number)
        report = method.step(x, y)
        objective = reference.step(x, y, method.code_step_sizes.tolist())
        assert report.objective.tolist() == pytest.approx(objective, rel=1e-8, abs=1e-14)
        assert_close_models(model, reference.model)


@every_case
def test_dtp_steps(case: str) -> None:
    c, model = CASES[case], network("dtp", CASES[case].outputs)
    method = altmin_ext.make_method("dtp", model, loss=c.given, lr=0.005, lr_inverse=0.002)
    reference = TargetReference(method, loss=c.formula)
    for number in range(4):
        x, y = batch(c.targets, number)
        report = method.step(x, y)
        loss, _, _ = reference.step(x, y)
        assert float(report.loss) == pytest.approx(loss, rel=1e-9)
        for mine, theirs in zip(model.parameters(), reference.weights(), strict=False):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


@every_case
def test_deepfacto_steps(case: str) -> None:
    """As near as the layer's sweeps come to the reference's solver."""
    c, model = CASES[case], network("deepfacto", CASES[case].outputs)
    reference = FactoReference(model, c.formula, {})
    method = altmin_ext.make_method("deepfacto", model, loss=c.given)
    for number in range(3):
        x, y = batch(c.targets, number)
        method.step(x, y)
        reference.step(x, y, float(method.code_step_sizes[0]))
        assert_close_models(model, reference.model, 1e-7)


@every_case
@pytest.mark.parametrize("name", ["sgd", "adam", "ste"])
def test_backpropagation_steps(name: str, case: str) -> None:
    c, model = CASES[case], network(name, CASES[case].outputs)
    twin = copy.deepcopy(model)
    kind = torch.optim.SGD if name == "sgd" else torch.optim.AdamW
    optimizer = kind(twin.parameters(), lr=0.01, weight_decay=0.0)
    method = altmin_ext.make_method(name, model, loss=c.given, lr=0.01)
    for number in range(5):
        x, y = batch(c.targets, number)
        loss = c.formula(twin(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert float(method.step(x, y).loss) == pytest.approx(float(loss.detach()), rel=1e-10)
        assert_close_models(model, twin)


# --- without a kernel the same as with it ---


class PlainCrossEntropy(CrossEntropy):
    residual = Loss.residual


class PlainMeanSquaredError(MeanSquaredError):
    residual = Loss.residual


def as_function(z: Tensor, y: Tensor) -> Tensor:
    return ((z - y) ** 2).mean()


@every_gradient_method
@pytest.mark.parametrize(
    ("loss", "given", "numeric"),
    [
        ("cross_entropy", PlainCrossEntropy(), False),
        ("cross_entropy", nn.CrossEntropyLoss(label_smoothing=0), True),
        ("mse", PlainMeanSquaredError(), False),
        ("mse", as_function, False),
        ("mse", as_function, True),
        ("mse", nn.MSELoss(), False),
    ],
    ids=["plain cross_entropy", "criterion", "plain mse", "function", "function, lr_codes", "MSELoss"],
)
def test_derived_steps_equal_fused_steps(name: str, loss: str, given: Any, numeric: bool) -> None:
    """The Hessian of mse is known, so that the step sizes agree, too; that of the cross-entropy is but bounded."""
    options = {}
    if numeric and hasattr(altmin_ext.methods.method_class(name).Options, "lr_codes"):
        options["lr_codes"] = 0.3
    model, twin = network(name), network(name)
    method = altmin_ext.make_method(name, model, loss=given, **options)
    fused = altmin_ext.make_method(name, twin, loss=loss, **options)
    for number in range(5):
        x, y = batch("labels" if loss == "cross_entropy" else "reals", 0 if method.full_batch else number)
        one, other = method.step(x, y), fused.step(x, y)
        assert float(one.loss) == pytest.approx(float(other.loss), rel=1e-10)
        assert (one.correct is None) == (other.correct is None)
        assert one.correct is None or int(one.correct) == int(other.correct)
        assert_close_models(model, twin)


# --- a third loss trains on itself ---


class Cubic(Loss):
    """sum |z - y|^3 / 3, with a residual of its own."""

    name = "cubic"
    counts_correct = False

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        return ((logits - y).abs() ** 3).sum() / 3 / len(logits)

    def residual(
        self, logits: Tensor, bias: Tensor | None, y: Tensor, out: Tensor, bias_gradient: Tensor | None,
        loss: Tensor, correct: Tensor, flag: Tensor | None = None,
    ) -> None:  # fmt: skip
        z = logits if bias is None else logits + bias
        loss.copy_(self.mean(z, y))
        torch.mul((z - y).abs(), z - y, out=out)
        if bias_gradient is not None:
            torch.sum(out, 0, out=bias_gradient)

    def takes_classes(self, y: Tensor) -> bool:
        return False

    def check_targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return y


@every_gradient_method
def test_a_registered_loss_trains_on_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses._losses, "cubic", Cubic)
    trained = []
    for loss in ("cubic", lambda z, y: ((z - y).abs() ** 3).sum() / 3 / len(z), "mse", "squared"):
        model = network(name)
        method = altmin_ext.make_method(name, model, loss=loss)
        for _ in range(3):
            report = method.step(*batch("reals"))
        trained.append((model, float(report.loss)))
    (own, own_loss), (derived, derived_loss), *others = trained
    assert own_loss == pytest.approx(derived_loss, rel=1e-9)
    assert_close_models(own, derived)
    for other, other_loss in others:
        assert other_loss != pytest.approx(own_loss, rel=1e-2)
        with pytest.raises(AssertionError):
            assert_close_models(own, other, 1e-6)


class Focal(Loss):
    """As little as a loss has to say: its name and its mean."""

    name = "focal"

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        log_p = logits.log_softmax(1).gather(1, y[:, None])
        return -((1 - log_p.exp()) ** 2 * log_p).mean()


@every_gradient_method
def test_a_name_and_a_mean_are_enough(name: str) -> None:
    """The same as the mean as a function; labels out of range are told where the residual is asked for."""
    model, twin = network(name), network(name)
    method = altmin_ext.make_method(name, model, loss=Focal())
    derived = altmin_ext.make_method(name, twin, loss=Focal().mean)
    for _ in range(3):
        one, other = method.step(*batch("labels")), derived.step(*batch("labels"))
        assert float(one.loss) == float(other.loss)
        assert int(one.correct) == int(other.correct)
    assert same(model.state_dict(), twin.state_dict())
    assert derived.loss.name == "mean"
    x, y = batch("labels")
    y[3] = 7
    if name not in ("sgd", "adam", "ste"):
        with pytest.raises(ValueError, match=r"y must lie in \[0, 3\)") as error:
            method.step(x, y)
        assert_sentence(error)
    assert same(model.state_dict(), twin.state_dict())


# --- curvature ---


def hessians(formula: Function, z: Tensor, y: Tensor) -> Tensor:
    """(B, C, C), of each sample's loss."""
    whole = torch.func.hessian(lambda z: len(z) * formula(z, y))(z)
    return torch.stack([whole[b, :, b, :] for b in range(len(z))])


def logits_for(case: Case, scale: float, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return scale * torch.randn(SIZE, case.outputs, generator=generator, dtype=torch.float64)


@every_loss
def test_known_curvatures_bound_the_hessian(case: str) -> None:
    """No eigenvalue is larger, and some logits come close, where there is any curvature at all."""
    c = find(case)
    bound = make_loss(c.given).curvature(c.outputs)
    if bound is None:
        return
    largest = 0.0
    for number in range(30):
        z = logits_for(c, 3 * 2.0**-number, number)
        eigenvalues = torch.linalg.eigvalsh(hessians(c.formula, z, batch(c.targets, number)[1]))
        largest = max(largest, float(eigenvalues.max()))
    z, y = torch.zeros(SIZE, c.outputs, dtype=torch.float64), batch(c.targets)[1]
    z[:, 2:] = -50  # two classes that are equally likely: the most that a softmax can bend
    largest = max(largest, float(torch.linalg.eigvalsh(hessians(c.formula, z, y)).max()))
    assert largest <= bound + 1e-12
    assert largest >= 0.9 * bound


@pytest.mark.parametrize("case", ["huber", "function", "squared of reals", "mse", "squared"])
def test_estimate_is_exact_where_the_hessian_is_constant(case: str) -> None:
    """Huber within its parabola, and squares, weighted or not."""
    c = find(case)
    loss = make_loss(c.given).to(torch.device("cpu"), torch.float64)
    _, y = batch(c.targets)
    target = F.one_hot(y, CLASSES).double() if c.targets == "labels" else y
    bias = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    z = target + 0.05 * logits_for(c, 1.0, 3)
    expected = {
        "huber": 1 / CLASSES, "function": 2 * 3.0 / CLASSES, "mse": 2 / CLASSES, "squared": 2.0,
        "squared of reals": 2.0,
    }[case]  # fmt: skip
    found = float(loss.curvature_at(z - bias, bias, y))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("case", ["label smoothing", "class weights", "one logit", "huber", "cross_entropy"])
def test_estimate_beside_the_largest_eigenvalue(case: str) -> None:
    """Never above it, and short of it by little."""
    c = find(case)
    loss = make_loss(c.given).to(torch.device("cpu"), torch.float64)
    for number in range(10):
        z, (_, y) = logits_for(c, 0.5, number), batch(c.targets, number)
        exact = float(torch.linalg.eigvalsh(hessians(c.formula, z, y)).max())
        assert 0.97 * exact < float(loss.curvature_at(z, None, y)) <= exact * (1 + 1e-9)


def test_no_curvature_where_a_loss_is_linear() -> None:
    z, y = torch.randn(4, 3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64)
    for function in (lambda z, y: (z * y).mean(), nn.L1Loss()):
        assert float(make_loss(function).curvature_at(z, None, y)) == 0


@pytest.mark.parametrize("name", ["am-adam", "am-sgd", "am-mem", "am-adam-off", "am-mem-off"])
@pytest.mark.parametrize("slope", [1.0, 2.0])
def test_automatic_step_size_of_the_top_code(name: str, slope: float) -> None:
    """1 / (1 + s lambda / (2 mu)), with the lambda of this minibatch and s the squared norm of what is above."""
    w = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)
    model = nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, CLASSES)).double()
    if slope == 2:
        model[1] = nn.LeakyReLU(2.0)
    method = altmin_ext.make_method(
        name, model, loss=lambda z, y: (w * (z - y) ** 2).mean(), mu=0.7, lr=0.0, lr_out=0.0
    )
    for number in range(100):  # the norm is iterated once in each
        method.step(*batch("reals", 0 if method.full_batch else number))
    s = float(torch.linalg.matrix_norm(model[-1].weight.detach(), 2)) ** 2
    expected = 1 / (1 + s * slope**2 * (2 * 4 / CLASSES) / (2 * 0.7))
    assert float(method.code_step_sizes[-1]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["block-admm", "deepfacto"])
def test_automatic_step_size_of_blocks(name: str) -> None:
    """1 / (rho + s lambda); the codes of factors have next to no rho of their own."""
    w = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)
    model = network(name)
    method = altmin_ext.make_method(name, model, loss=lambda z, y: (w * (z - y) ** 2).mean(), rho=0.8)
    s = float(torch.linalg.matrix_norm(model[-1].weight.detach(), 2)) ** 2
    method.step(*batch("reals"))
    own = 0.8 if name == "block-admm" else 0.8e-6
    expected = 1 / (own + s * 2 * 4 / CLASSES)
    assert float(method.code_step_sizes[-1]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["am-sgd", "am-mem", "block-admm"])
def test_estimate_follows_the_minibatch(name: str) -> None:
    """Of weights that a minibatch brings along in its targets, also where the norms have come to rest."""
    rates = {"lr_memory": 0.0} if name == "am-mem" else {}
    method = altmin_ext.make_method(name, network(name), lr=0.0, loss=lambda z, y: (y * z**2).mean(), **rates)
    sizes = []
    for weight in [2.0] * 40 + [1.0, 3.0, 1.0]:
        method.step(batch("reals")[0], torch.full((SIZE, CLASSES), weight, dtype=torch.float64))
        sizes.append(float(method.code_step_sizes[-1]))
    once, thrice, again = sizes[-3:]
    assert 1 / thrice - 1 == pytest.approx(3 * (1 / once - 1), rel=1e-4)
    assert again == pytest.approx(once, rel=1e-4)


def test_a_loss_without_second_derivative_wants_a_number() -> None:
    def own_margin(z: Tensor, y: Tensor) -> Tensor:
        return F.multi_margin_loss(z, y)

    for name in ("am-adam", "am-mem-off", "block-admm", "deepfacto"):
        model = network(name)
        before = snapshot(model)
        with pytest.raises(ValueError, match="lr_codes must be a number with the loss 'own_margin'") as error:
            altmin_ext.make_method(name, model, loss=own_margin).step(*batch("labels"))
        assert_sentence(error)
        assert same(model.state_dict(), before)
        altmin_ext.make_method(name, model, loss=own_margin, lr_codes=0.1).step(*batch("labels"))
        assert not same(model.state_dict(), before)


# --- proximal maps ---


@pytest.mark.parametrize("case", ["cross_entropy", "mse", "hinge", "squared", "squared of reals"])
@pytest.mark.parametrize("rho", [0.3, 4.0])
@pytest.mark.parametrize("into", [True, False])
def test_proximal(case: str, rho: float, into: bool) -> None:
    c = find(case)
    loss = make_loss(c.given)
    _, y = batch(c.targets)
    center = logits_for(c, 2.0, 5)
    before = center.clone()
    out, flag = (torch.empty_like(center), torch.zeros(1, dtype=torch.float64)) if into else (None, None)
    z = loss.proximal(center, y, rho, out, flag)
    assert out is None or z is out
    assert flag is None or not flag.any()
    assert torch.equal(center, before)

    def objective(z: Tensor) -> Tensor:
        return len(z) * c.formula(z, y) + rho / 2 * (z - center).square().sum()

    least = float(objective(z))
    generator = torch.Generator().manual_seed(0)
    for size in (1e-5, 1e-3, 1e-1, 1.0):
        for _ in range(20):
            noise = size * torch.randn(z.shape, generator=generator, dtype=z.dtype)
            assert float(objective(z + noise)) >= least - 1e-12


@pytest.mark.parametrize("case", ["cross_entropy", "mse", "hinge", "squared"])
def test_proximal_raises_the_flag(case: str) -> None:
    c, flag = find(case), torch.zeros(1, dtype=torch.float64)
    make_loss(c.given).proximal(
        torch.full((SIZE, CLASSES), torch.nan).double(), batch(c.targets)[1], 1.0, None, flag
    )
    assert flag.tolist() == [1.0]


@pytest.mark.parametrize("name", ["mdlam", "dladmm", "admm"])
@pytest.mark.parametrize(
    ("given", "called"),
    [
        pytest.param(nn.CrossEntropyLoss(), "CrossEntropyLoss", id="criterion"),
        pytest.param(as_function, "as_function", id="function"),
    ],
)
def test_methods_without_derivatives_ask_for_a_proximal_map(name: str, given: Any, called: str) -> None:
    model = nn.Sequential(nn.Linear(FEATURES, 5), nn.ReLU(), nn.Linear(5, CLASSES))
    with pytest.raises(ValueError, match=r"^loss must know its proximal map") as error:
        altmin_ext.make_method(name, model, loss=given)
    assert_sentence(error, name, called, "'cross_entropy'", "'hinge'", "'mse'", "'squared'")


@pytest.mark.parametrize("name", ["mdlam", "dladmm", "admm"])
@pytest.mark.parametrize("case", ["hinge", "squared", "squared of reals"])
def test_methods_without_derivatives_minimise_what_they_are_told(name: str, case: str) -> None:
    c = CASES[case]
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES)).double()
    x, y = batch(c.targets, size=60)
    options = {"rho": 1.0} if name == "mdlam" else {"rho": 0.1, "nu": 0.1} if name == "dladmm" else {}
    method = altmin_ext.make_method(name, model, loss=c.given, **options)
    found = []
    for _ in range(15):
        with torch.no_grad():
            expected = float(c.formula(model(x), y))
        found.append(float(method.step(x, y).loss))
        assert found[-1] == pytest.approx(expected, rel=1e-9)
    assert min(found[1:]) < found[0]


def test_default_losses() -> None:
    for name in altmin_ext.methods.names():
        model = network(name) if name != "admm" else nn.Sequential(nn.Linear(FEATURES, CLASSES))
        expected = {"admm": "hinge", "rls": "squared"}.get(name, "cross_entropy")
        assert altmin_ext.make_method(name, model).loss.name == expected


# --- what is counted ---

COUNTS: dict[str, tuple[Any, list[list[float]], Any, int | None]] = {
    "labels": (nn.MultiMarginLoss(), [[1, 0], [0, 1], [0, 1]], torch.tensor([0, 1, 0]), 2),
    "labels of a function": (lambda z, y: F.nll_loss(z, y), [[1, 0], [0, 1]], torch.tensor([0, 0]), 1),
    "reals": (nn.L1Loss(), [[1.0, 0], [0, 1]], torch.tensor([[1.0, 0], [0, 1]]), None),
    "probabilities": (nn.CrossEntropyLoss(), [[1.0, 0], [0, 1]], torch.tensor([[1.0, 0], [0, 1]]), None),
    "bits": (nn.BCEWithLogitsLoss(), [[1.0], [-1.0], [0.0]], torch.tensor([[1.0], [1.0], [0.0]]), 2),
    "signs": (nn.SoftMarginLoss(), [[1.0], [-1.0], [-2.0]], torch.tensor([[1.0], [-1.0], [1.0]]), 2),
    "integer bits": (lambda z, y: F.softplus(z[:, 0]).mean(), [[1.0], [-1.0]], torch.tensor([1, 1]), 1),
    "bools": (lambda z, y: F.softplus(z[:, 0]).mean(), [[1.0], [-1.0]], torch.tensor([True, False]), 2),
    "one real": (nn.HuberLoss(), [[1.0], [-1.0]], torch.tensor([[1.0], [0.0]]), None),
    "several bits": (nn.BCEWithLogitsLoss(), [[1.0, 1], [-1, 1]], torch.tensor([[1.0, 1], [0, 1]]), None),
    "ignored": (nn.CrossEntropyLoss(ignore_index=0), [[1.0, 0], [0, 1]], torch.tensor([0, 1]), 1),
}


@pytest.mark.parametrize("case", COUNTS)
def test_correct(case: str) -> None:
    given, logits, y, expected = COUNTS[case]
    loss, z = make_loss(given), torch.tensor(logits)
    found = loss.correct(z, loss.check_targets(y, torch.float32))
    assert (None if found is None else int(found)) == expected
    assert loss.counts(y, z.shape[1]) == (expected is not None)


def test_ignored_labels_count_in_nothing() -> None:
    """Neither in the history nor in an evaluation; the loss is the mean of the others."""
    x, y = batch("labels", size=40)
    y[::3] = -100
    model = network("sgd")
    known = y != -100
    with torch.no_grad():
        logits = model(x)
    expected_loss = float(F.cross_entropy(logits[known], y[known]))
    expected_accuracy = float((logits.argmax(1) == y)[known].double().mean())
    found = altmin_ext.evaluate(model, (x, y), loss=nn.CrossEntropyLoss(), batch_size=7)
    assert found.loss == pytest.approx(expected_loss)
    assert found.accuracy == pytest.approx(expected_accuracy)
    assert found.samples == int(known.sum())
    history = altmin_ext.train(
        model, (x, y), method="sgd", lr=0.0, loss=nn.CrossEntropyLoss(), batch_size=7, progress=False
    )
    assert history.epochs[0]["loss"] == pytest.approx(expected_loss)
    assert history.epochs[0]["accuracy"] == pytest.approx(expected_accuracy)


def test_samples_without_a_label_leave_a_criterion_alone() -> None:
    """deepfacto's -1, of any loss by labels: what it steps on is the mean over the others."""
    x, y = batch("labels", size=20)
    y[::3] = -1
    known = y != -1
    for given, formula in ((nn.CrossEntropyLoss(weight=WEIGHTS), weighted), ("hinge", hinge)):
        model = network("deepfacto")
        with torch.no_grad():
            logits = model(x)
        method = altmin_ext.make_method("deepfacto", model, loss=given)
        evaluation = altmin_ext.evaluate(model, (x, y), loss=method.loss)
        report = method.step(x, y)
        expected = float(formula(logits[known], y[known]))
        assert float(report.loss) == pytest.approx(expected, rel=1e-6)
        assert evaluation.loss == pytest.approx(expected)
        assert evaluation.samples == int(known.sum())
        assert int(report.correct) == int((logits.argmax(1) == y)[known].sum())
        assert evaluation.accuracy == int(report.correct) / int(known.sum())
        assert bool(method.step(x, torch.full_like(y, -1)).loss.isnan())


# --- what is refused, and what that leaves behind ---


class WithParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.scale * F.cross_entropy(z, y)


REFUSED_LOSSES: dict[str, tuple[Any, type[Exception], str]] = {
    "a number": (3.0, TypeError, "a name, a torch criterion or a function"),
    "nothing to call": (["mse"], TypeError, "but is a list"),
    "misspelt": ("cross_entropi", ValueError, "did you mean 'cross_entropy'"),
    "a class": (nn.HuberLoss, TypeError, r"pass an instance, HuberLoss\(\)"),
    "a sum": (nn.MSELoss(reduction="sum"), ValueError, "MSELoss has reduction='sum'"),
    "one per sample": (nn.CrossEntropyLoss(reduction="none"), ValueError, "reduction='none'"),
    "with a parameter": (WithParameter(), ValueError, "has the parameter 'scale'"),
}


@every_gradient_method
@pytest.mark.parametrize("case", REFUSED_LOSSES)
def test_refused_losses(name: str, case: str) -> None:
    given, kind, words = REFUSED_LOSSES[case]
    with pytest.raises(kind, match=words) as error:
        altmin_ext.make_method(name, network(name), loss=given)
    assert_sentence(error, "loss")


FAILING_LOSSES: dict[str, tuple[Any, type[Exception], str]] = {
    "of another shape": (
        nn.CrossEntropyLoss(weight=torch.ones(CLASSES + 1)),
        ValueError,
        "raised a RuntimeError",
    ),
    "a fault of its own": (lambda z, y: z.nonsense, ValueError, "raised a AttributeError"),
    "one per sample": (lambda z, y: z.sum(1), ValueError, r"returned torch.float64 of shape \(13,\)"),
    "an integer": (lambda z, y: z.argmax(), ValueError, "returned torch.int64"),
    "a number": (lambda z, y: 1.0, TypeError, "returned 1.0"),
    "no derivative": (lambda z, y: (z.argmax(1) != y).double().mean(), ValueError, "differentiable"),
    "detached": (lambda z, y: F.cross_entropy(z.detach(), y), ValueError, "differentiable"),
    "a label too many": (
        lambda z, y: F.cross_entropy(z, y + 1),
        ValueError,
        "IndexError: Target 3 is out of bounds",
    ),
}


@every_gradient_method
@pytest.mark.parametrize("case", FAILING_LOSSES)
def test_losses_that_fail_at_a_step(name: str, case: str) -> None:
    """In one sentence; the model, the grad mode and what the method goes on with are as they were."""
    given, kind, words = FAILING_LOSSES[case]
    fails = False

    def loss(z: Tensor, y: Tensor) -> Any:
        return given(z, y) if fails else F.cross_entropy(z, y)

    model, undisturbed = network(name), network(name)
    method, other = (altmin_ext.make_method(name, each, loss=loss) for each in (model, undisturbed))
    for steps in (0, 2):
        for _ in range(steps):
            assert float(method.step(*batch("labels")).loss) == float(other.step(*batch("labels")).loss)
        before, fails = snapshot(model), True
        with pytest.raises(kind, match=words) as error:
            method.step(*batch("labels"))
        assert_sentence(error, "loss must")
        assert same(model.state_dict(), before)
        assert torch.is_grad_enabled()
        fails = False
    assert float(method.step(*batch("labels")).loss) == float(other.step(*batch("labels")).loss)
    assert same(model.state_dict(), undisturbed.state_dict())


@every_gradient_method
def test_targets_of_another_kind(name: str) -> None:
    for given, y, words in (
        (as_function, torch.zeros(SIZE, CLASSES), "y must be torch.float64 like the model, or integers"),
        ("hinge", torch.zeros(SIZE), "y must be integer class indices for hinge"),
        ("squared", torch.zeros(SIZE), "y must be torch.float64 like the model for squared"),
        ("squared", torch.zeros(SIZE).double(), r"y must have shape \(B, C\) for squared"),
        ("squared", torch.zeros(SIZE, 2).double(), "y must have 3 columns"),
        ("squared", torch.full((SIZE,), 3), r"y must lie in \[0, 3\)"),
        ("hinge", torch.full((SIZE,), -2), r"y must lie in \[0, 3\)"),
    ):
        model = network(name)
        before = snapshot(model)
        method = altmin_ext.make_method(name, model, loss=given)
        with pytest.raises((TypeError, ValueError), match=words) as error:
            method.step(batch("labels")[0], y)
        assert_sentence(error)
        assert same(model.state_dict(), before)


def test_graphs_are_refused() -> None:
    """Before the model is moved to a GPU, or would be."""
    for name in ("am-adam", "am-sgd", "sgd", "adam"):
        for given in (nn.HuberLoss(), "hinge"):
            with pytest.raises(ValueError, match=r"^graph must be False here") as error:
                altmin_ext.make_method(name, network(name).float(), loss=given, graph=True, device="cuda")
            assert_sentence(error, "differentiated by torch")


# --- the user's criterion, generator and modes ---


def test_the_criterion_of_the_user_stays_as_it_is() -> None:
    """Its buffers follow the model in a copy; what is done to it later is of no account."""
    criterion = nn.CrossEntropyLoss(weight=WEIGHTS.float())
    criterion.eval()
    model = network("am-adam")
    method = altmin_ext.make_method("am-adam", model, loss=criterion)
    x, y = batch("labels")
    with torch.no_grad():
        expected = float(weighted(model(x), y))
    report = method.step(x, y)
    assert criterion.weight.dtype == torch.float32
    assert not criterion.training
    assert float(report.loss) == pytest.approx(expected, rel=1e-12)
    twin, other = network("am-adam"), copy.deepcopy(criterion)
    second = altmin_ext.make_method("am-adam", twin, loss=other)
    other.weight.fill_(7.0)
    second.step(x, y)
    assert same(model.state_dict(), twin.state_dict())


@every_gradient_method
def test_generator_and_grad_mode_are_left_alone(name: str) -> None:
    method = altmin_ext.make_method(name, network(name), loss=nn.CrossEntropyLoss(label_smoothing=0.1))
    generator = torch.random.get_rng_state()
    with torch.no_grad():
        method.step(*batch("labels"))
        assert not torch.is_grad_enabled()
    method.step(*batch("labels"))
    assert torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), generator)


@every_gradient_method
def test_resumes_bit_for_bit(name: str) -> None:
    """With step sizes that depend on the minibatch, too."""
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    model, other = network(name), network(name)
    method = altmin_ext.make_method(name, model, loss=criterion)
    numbers = [0] * 6 if method.full_batch else range(6)
    for number in list(numbers)[:3]:
        method.step(*batch("labels", number))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "method": method.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    other.load_state_dict(saved["model"])
    resumed = altmin_ext.make_method(name, other, loss=criterion)
    resumed.load_state_dict(saved["method"])
    copied = copy.deepcopy(method)
    for number in list(numbers)[3:]:
        values = [float(each.step(*batch("labels", number)).loss) for each in (method, resumed, copied)]
        assert values[0] == values[1] == values[2]
    assert same(model.state_dict(), other.state_dict())
    assert same(model.state_dict(), copied.model.state_dict())


@every_gradient_method
def test_float32_models(name: str) -> None:
    """A float64 weight does not make the step one in float64."""
    model = network(name).float()
    method = altmin_ext.make_method(name, model, loss=nn.CrossEntropyLoss(weight=WEIGHTS))
    x, y = batch("labels")
    report = method.step(x.float(), y.to(torch.int16))
    assert report.loss.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@every_gradient_method
def test_divergence(name: str) -> None:
    model = network(name)
    method = altmin_ext.make_method(name, model, loss=nn.CrossEntropyLoss(label_smoothing=0.1))
    x, y = batch("labels")
    x[2, 1] = torch.nan
    before = snapshot(model)
    with pytest.raises(altmin_ext.DivergenceError):
        method.step(x, y)
    assert same(model.state_dict(), before)


# --- training, evaluation, the command line ---


def test_train_with_a_criterion() -> None:
    """The history names the loss; validation, early stopping and evaluation are by it, too."""
    x, y = batch("labels", size=60)
    criterion = nn.CrossEntropyLoss(weight=WEIGHTS)
    model = network("am-adam")
    history = altmin_ext.train(
        model, (x, y), loss=criterion, epochs=3, batch_size=20, validation=(x, y), progress=False,
        callbacks=[EarlyStopping(restore_best=False)],
    )  # fmt: skip
    assert history.loss == "CrossEntropyLoss"
    with torch.no_grad():
        logits = model(x)
    found = altmin_ext.evaluate(model, (x, y), loss=criterion)
    assert found.loss == pytest.approx(float(weighted(logits, y)), rel=1e-6)
    assert history.epochs[-1]["validation_loss"] == pytest.approx(found.loss)
    assert history.epochs[-1]["validation_accuracy"] == found.accuracy
    assert found.accuracy == pytest.approx(float((logits.argmax(1) == y).double().mean()))


def test_train_on_one_logit() -> None:
    x, _ = batch("bits", size=80)
    y = (x[:, :1] + x[:, 1:2] > 0).double()
    model = network("am-adam", 1)
    history = altmin_ext.train(
        model, (x, y), loss=nn.BCEWithLogitsLoss(), lr=0.01, epochs=20, batch_size=20, progress=False
    )
    assert history.epochs[-1]["accuracy"] > 0.9
    assert history.epochs[-1]["loss"] < 0.6 * history.epochs[0]["loss"]
    with torch.no_grad():
        expected = float(((model(x) > 0) == (y == 1)).double().mean())
    assert altmin_ext.evaluate(model, (x, y), loss=nn.BCEWithLogitsLoss()).accuracy == expected


def test_names_in_the_history(tmp_path: Any) -> None:
    x, y = batch("reals", size=20)
    for given, name in (
        ("mse", "mse"),
        (nn.HuberLoss(), "HuberLoss"),
        (as_function, "as_function"),
        (functools.partial(F.huber_loss, delta=0.5), "huber_loss"),
        (Cubic(), "cubic"),
    ):
        history = altmin_ext.train(network("sgd"), (x, y), method="sgd", loss=given, progress=False)
        assert history.loss == name
        history.save(tmp_path / "history.json")
        assert altmin_ext.History.load(tmp_path / "history.json").loss == name
    document = json.loads((tmp_path / "history.json").read_text())
    del document["loss"], document["sha256"]  # as the first versions wrote it
    document["format"] = "altmin_ext history 1"
    (tmp_path / "history.json").write_text(json.dumps(document))
    assert altmin_ext.History.load(tmp_path / "history.json").loss is None


def test_early_stopping_without_an_accuracy() -> None:
    """Of data in memory that is known before the first step; of a stream after the first epoch."""
    x, y = batch("reals", size=20)
    for data in ((x, y), [(x, y)]):
        model = network("sgd")
        before = snapshot(model)
        with pytest.raises(
            ValueError, match=r"^monitor must be one of loss in this run, but is 'accuracy'"
        ) as error:
            altmin_ext.train(
                model, data, method="sgd", loss=nn.HuberLoss(), epochs=3, progress=False,
                callbacks=[EarlyStopping("accuracy")],
            )  # fmt: skip
        assert_sentence(error)
        assert same(model.state_dict(), before) == isinstance(data, tuple)


def test_streams_have_the_accuracy_that_their_targets_allow() -> None:
    for targets, counted in (("labels", True), ("reals", False)):
        history = altmin_ext.train(
            network("sgd"), [batch(targets, 0), batch(targets, 1)], method="sgd", loss=lambda z, y: z.square().mean(),
            progress=False,
        )  # fmt: skip
        assert (history.epochs[0]["accuracy"] is not None) == counted
        assert (history.step_accuracy is not None) == counted


def test_loss_of_a_method_that_is_made() -> None:
    x, y = batch("labels", size=20)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    model = network("sgd")
    method = altmin_ext.make_method("sgd", model, loss=criterion)
    for loss in (None, criterion):
        altmin_ext.train(model, (x, y), method=method, loss=loss, progress=False)
    for loss in ("cross_entropy", nn.CrossEntropyLoss(label_smoothing=0.1)):
        with pytest.raises(ValueError, match="loss must be the method's, 'CrossEntropyLoss'") as error:
            altmin_ext.train(model, (x, y), method=method, loss=loss, progress=False)
        assert_sentence(error)


def test_labels_outside_are_told_before_the_first_step() -> None:
    x, y = batch("labels", size=20)
    for given in ("hinge", "squared", nn.CrossEntropyLoss(), nn.MultiMarginLoss()):
        model = network("am-adam")
        before = snapshot(model)
        with pytest.raises(ValueError, match=r"y must lie in \[0, 3\).*but y\[4\] is 3") as error:
            altmin_ext.train(model, (x, torch.where(torch.arange(20) == 4, 3, y)), loss=given, progress=False)
        assert_sentence(error)
        assert same(model.state_dict(), before)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    assert main(["train", *map(str, arguments), "--epochs", "1", "--quiet", "--json", "--hidden", "8"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.parametrize("name", losses.names())
def test_command_line(name: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    document = run_json(capsys, "--loss", name, "--method", "sgd", "--lr", "0.01", "--output", tmp_path)
    (result,) = document["methods"]
    assert document["loss"] == result["loss"] == name
    assert (result["test"]["accuracy"] is None) == (name == "mse")
    assert main(["evaluate", "--model", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == result["test"]["loss"]


def test_command_line_compares_losses(capsys: pytest.CaptureFixture[str]) -> None:
    """Every method has its own loss unless one is given, and may be told another behind its name."""
    document = run_json(capsys, "--method", "sgd", "--compare", "admm", "--compare", "sgd:loss=mse")
    assert [result["loss"] for result in document["methods"]] == ["cross_entropy", "hinge", "mse"]
