"""code_step: one gradient step of a code on its local objective."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import Activation, CodeScalar, reference

from . import oracle
from .calling import Output, Random, assert_accurate, assert_close, call, code_block, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

EXTENTS = (0, 1, 3, 31, 33, 200)
SHAPES = (*itertools.product(EXTENTS, EXTENTS), (32, 32), (127, 127), (5, 1024), (2, 513))
RELU, TANH, IDENTITY = Activation("relu"), Activation("tanh"), Activation("identity")
ELEMENTWISE = ("displacement", "velocity", "activation", "activation_displacement")
EPS = torch.finfo(torch.float32).eps


def case(
    random: Random,
    batch: int,
    width: int,
    sigma: Activation = RELU,
    *,
    first: bool = True,
    top: bool = False,
    change: bool = False,
    mask: bool = False,
    velocity: bool = False,
    gap: bool = False,
    unit: float = 1.0,
    **scalars: float,
) -> dict[str, Any]:
    """Arguments of one call; after the first iteration the displacement has a size of 1 in its unit."""
    shape = (batch, width)
    unit = 1.0 if top else unit
    above = None if top else code_block(unit=8 * unit, scale=unit)
    return {
        "code": random.normal(*shape, scale=2.0),
        "pulled_back": random.normal(*shape, scale=1.0 if top else 0.3),
        "pulled_back_change": random.normal(*shape) if change else None,
        "mask": random.mask(*shape) if mask else None,
        "displacement": Output(shape) if first else random.normal(*shape),
        "velocity": (Output(shape) if first else random.normal(*shape)) if velocity else None,
        "activation": Output(shape),
        "activation_displacement": None if top else Output(shape),
        "scalars": code_block(**{"step_taken": 0.4, "unit": unit, **scalars}),
        "above": above,
        "first": first,
        "sigma": sigma,
        "gap": random.normal(*shape, scale=unit).abs() if gap else None,
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return case(
        random,
        61,
        127,
        Activation("gelu"),
        first=False,
        change=True,
        mask=True,
        velocity=True,
        momentum=0.9,
        normalised=1.0,
    )


def random_case(random: Random, batch: int, width: int, sigma: Activation) -> dict[str, Any]:
    """One out of all combinations of the options."""
    threshold = random.choice((0.0, 0.0, 0.3))
    return case(
        random,
        batch,
        width,
        sigma,
        first=random.flip(),
        top=random.choice((False, False, True)),
        change=random.flip(),
        mask=random.flip(),
        velocity=random.flip(),
        gap=random.flip(),
        unit=1.0 if threshold else random.choice((1.0, 1e-3, 1e-6, 1e-20)),
        step_size=random.choice((0.4, -1.0)),
        curvature=0.7,
        sigma_squared=2.5,
        downstream=random.choice((1.0, 3.5)),
        anchor=random.choice((1.0, 0.0)),
        momentum=random.choice((0.0, 0.9)),
        threshold=threshold,
        normalised=random.choice((0.0, 1.0, 3.5)),
    )


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_float64(sigma: Activation, dtype: torch.dtype) -> None:
    random = Random(11)
    for batch, width in SHAPES:
        arguments = random_case(random, batch, width, sigma)
        exact = oracle.code_step(arguments)
        result = call(ops.code_step, arguments, dtype)
        twin = call(reference.code_step, arguments, dtype)
        for name, value in exact.items():
            what = f"{name}, {batch} x {width}"
            if dtype == torch.float64:
                # The activation's displacement: a difference of activations where it moves by more than 1e-3.
                assert_close(getattr(result, name), value, 4e-12, what)
            elif name == "scalars":
                # Of the displacement as it came out, rounded: one unit alone may be all cancellation.
                normalised = float(value[CodeScalar.normalised])
                square = result.displacement.double().square().sum()
                size = square.div(max(1, result.displacement.numel()) * (normalised or 1.0)).sqrt()
                scale = value[CodeScalar.unit] * (size if normalised and size > 0 else 1.0)
                assert_close(result.scalars[CodeScalar.scale], scale, 16 * EPS, what)
                moved = value[CodeScalar.unit] * size
                assert_close(result.scalars[CodeScalar.moved], moved, 16 * EPS, what)
                others = [e for e in CodeScalar if e not in (CodeScalar.scale, CodeScalar.moved)]
                assert torch.allclose(result.scalars[others], value[others], rtol=1e-14, atol=0), what
            else:
                assert_accurate(getattr(result, name), getattr(twin, name), value, what)
        assert result.guard == 0


# ------------------------------------------------------------- the objective that the formula comes from


class LocalObjective:
    """A code's own problem: what lies above it, and half the distance to where the encode left it.

    With a loss above: downstream * loss; else half the squared misfit of the code above.
    """

    def __init__(self, random: Random, sigma: Activation, mask: bool, top: bool) -> None:
        self.sigma, self.top = sigma, top
        self.batch, self.width, self.n_above = 7, 11, 5
        self.c0 = random.normal(self.batch, self.width)
        self.weight, self.bias = (
            random.normal(self.n_above, self.width, scale=0.3),
            random.normal(self.n_above),
        )
        self.mask = random.mask(self.batch, self.width) if mask else torch.ones(self.batch, self.width)
        self.labels = random.labels(self.batch, self.n_above)
        self.downstream = 0.9 if top else 1.0  # 1 / (2 mu)
        self.a0 = self.mask * oracle.value(sigma, self.c0)
        self.delta_above, self.unit_above = random.normal(self.batch, self.n_above), 0.05
        self.target = self.a0 @ self.weight.T + self.bias - self.unit_above * self.delta_above

    def __call__(self, c: Tensor) -> Tensor:
        z = self.mask * oracle.value(self.sigma, c) @ self.weight.T + self.bias
        if self.top:
            misfit = self.downstream * F.cross_entropy(z, self.labels, reduction="sum")
        else:
            misfit = (z - self.target).square().sum() / 2
        return misfit + (c - self.c0).square().sum() / 2

    def gradient(self, c: Tensor) -> Tensor:
        c = c.clone().requires_grad_()
        return torch.autograd.grad(self(c), c)[0]

    def pulled_back(self, a: Tensor) -> Tensor:
        """For the kernel: of the loss, or of the displacement above, at the start."""
        if not self.top:
            return self.delta_above @ self.weight
        return (
            torch.softmax(a @ self.weight.T + self.bias, 1) - F.one_hot(self.labels, self.n_above)
        ) @ self.weight


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_iterations_descend_the_local_objective(sigma: Activation, top: bool, threshold: float) -> None:
    """Nesterov's steps on the objective, differentiated by autograd, then the proximal map of the l1 term."""
    for momentum, mask in ((0.0, True), (0.9, False)):
        descend(sigma, top, threshold, momentum, mask)


def descend(sigma: Activation, top: bool, threshold: float, momentum: float, mask: bool) -> None:
    objective = LocalObjective(Random(12), sigma, mask, top)
    eta, shape = 0.2, objective.c0.shape
    c, v = objective.c0, torch.zeros(shape, dtype=torch.float64)
    scalars = code_block(
        step_size=eta, momentum=momentum, threshold=threshold, downstream=objective.downstream, normalised=1
    )
    above = None if top else code_block(unit=objective.unit_above, scale=0.02)
    displacement, velocity, change = Output(shape), Output(shape), None
    activation = objective.a0
    for iteration in range(6):
        g = objective.gradient(c)
        v = momentum * v + g
        c = c - eta * (g + momentum * v)
        if threshold:
            c = oracle.soft_threshold(c, eta * threshold)

        step = call(
            ops.code_step,
            {
                "code": objective.c0, "pulled_back": objective.pulled_back(activation), "pulled_back_change": change,
                "mask": objective.mask if mask else None, "displacement": displacement, "velocity": velocity,
                "activation": Output(shape), "activation_displacement": None if top else Output(shape),
                "scalars": scalars, "above": above, "first": iteration == 0, "sigma": sigma, "gap": None,
            },
        )  # fmt: skip
        displacement, velocity, scalars, activation = (
            step.displacement,
            step.velocity,
            step.scalars,
            step.activation,
        )
        unit = scalars[CodeScalar.unit]
        moved = objective.c0 - unit * displacement
        torch.testing.assert_close(moved, c, rtol=0, atol=1e-13)
        torch.testing.assert_close(activation, objective.mask * oracle.value(sigma, c), rtol=0, atol=1e-13)
        rms = float((objective.c0 - c).square().mean().sqrt())
        # What has no derivative does not move, unless by the threshold.
        assert float(scalars[CodeScalar.scale]) == pytest.approx(rms if rms > 0 else float(unit), rel=1e-11)
        if not top:
            away = step.activation_displacement * unit
            torch.testing.assert_close(away, activation - objective.a0, rtol=0, atol=1e-13)
            change = step.activation_displacement @ objective.weight.T @ objective.weight
        assert unit == (1.0 if top or threshold else 0.02)


# ------------------------------------------------------------------------------------ the parameter block


def run(arguments: dict[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, float]:
    scalars = call(ops.code_step, arguments, dtype).scalars
    return {entry.name: float(scalars[entry]) for entry in CodeScalar}


def test_step_size_is_given_or_follows_sigma() -> None:
    random = Random(13)
    assert run(case(random, 3, 4, step_size=0.25))["step_taken"] == 0.25
    assert run(case(random, 3, 4, step_size=0.0))["step_taken"] == 0.0
    automatic = run(case(random, 3, 4, step_size=-1.0, curvature=0.7, sigma_squared=2.5))
    assert automatic["step_taken"] == pytest.approx(1 / (1 + 0.7 * 2.5), rel=1e-15)
    # An iteration keeps the step size of the first.
    later = case(
        random, 3, 4, first=False, step_size=-1.0, curvature=0.7, sigma_squared=2.5, step_taken=0.125
    )
    assert run(later)["step_taken"] == 0.125


def test_unit_and_scale() -> None:
    random = Random(14)
    assert run(case(random, 3, 4, unit=0.01))["unit"] == 0.01  # the scale of the code above
    assert run(case(random, 3, 4, top=True))["unit"] == 1.0
    assert run(case(random, 3, 4, unit=0.01, threshold=0.1))["unit"] == 1.0
    assert run(case(random, 3, 4, unit=0.01, first=False))["unit"] == 0.01
    assert run(case(random, 3, 4, unit=0.01))["scale"] == 0.01
    for normalised in (1.0, 4.0):
        # Of a pooled code only the winner of every window is held, and the others have not moved.
        arguments = case(random, 3, 4, unit=0.01, normalised=normalised)
        result = call(ops.code_step, arguments)
        rms = (result.displacement.square().mean() / normalised).sqrt()
        assert float(result.scalars[CodeScalar.scale]) == pytest.approx(0.01 * float(rms), rel=1e-14)
        scaled = result.displacement * result.scalars[CodeScalar.unit] / result.scalars[CodeScalar.scale]
        assert float(scaled.square().mean()) == pytest.approx(normalised, rel=1e-13)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (3, 4)])
def test_nothing_moved_has_the_scale_of_its_unit(shape: tuple[int, int]) -> None:
    arguments = case(Random(15), *shape, unit=0.01, normalised=1.0)
    arguments["pulled_back"].zero_()
    assert run(arguments)["scale"] == 0.01
    assert call(ops.code_step, arguments).guard == 0


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("size", [1e-24, 1e-22, 1e-20, 1e-10, 1e10, 1e20, 1e30])
def test_scale_of_tiny_and_huge_displacements(size: float) -> None:
    """Whose squares float32 cannot hold."""
    arguments = case(Random(16), 9, 133, IDENTITY, unit=0.01, normalised=1.0)
    arguments["pulled_back"] *= size
    result = call(ops.code_step, arguments, torch.float32)
    expected = 0.01 * float(result.displacement.double().square().mean().sqrt())
    assert float(result.scalars[CodeScalar.scale]) == pytest.approx(expected, rel=1e-6)
    assert result.guard == 0


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("size", "damped"), [(1e-3, False), (1e-12, True), (1e-20, True)])
def test_scale_of_the_top_code_has_a_floor(size: float, damped: bool) -> None:
    """A loss of zero is not blown up: below an RMS of 1e-8 the scale stays, and the code below inherits it."""
    arguments = case(Random(16), 9, 133, IDENTITY, top=True, normalised=1.0)
    arguments["pulled_back"] *= size
    result = call(ops.code_step, arguments, torch.float64)
    rms = float(result.displacement.square().mean().sqrt())
    scale, damping = (float(result.scalars[entry]) for entry in (CodeScalar.scale, CodeScalar.damping))
    assert scale == pytest.approx(1e-8 if damped else rms, rel=1e-12)
    assert damping == pytest.approx(1e-8 / rms if damped else 1.0, rel=1e-12)


# ----------------------------------------------------------------------- free of cancellation


def displaced(
    sigma: Activation, c0: Tensor, delta: Tensor, unit: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """What the op makes of a code that has moved by unit * delta, and the exact displacement of its activation."""
    arguments = case(Random(17), *c0.shape, sigma, first=False, unit=unit, anchor=0.0)
    arguments |= {"code": c0, "displacement": delta, "pulled_back": torch.zeros_like(c0)}
    held = {name: arguments[name].to(dtype).double() for name in ("code", "displacement")}
    exact = oracle.difference(sigma, held["code"], held["displacement"], unit)
    return call(ops.code_step, arguments, dtype).activation_displacement.double(), exact


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
def test_displacement_of_the_activation_is_free_of_cancellation(sigma: Activation) -> None:
    """A difference of activations would be off by eps / unit, at 1e-20 by everything there is."""
    random = Random(18)
    c0, delta = random.normal(40, 33, scale=2.0), random.normal(40, 33)
    for unit, dtype in itertools.product(
        (1.0, 0.1, 1e-3, 1e-6, 1e-20, 1e-30), (torch.float32, torch.float64)
    ):
        result, exact = displaced(sigma, c0, delta, unit, dtype)
        # Plain differences are taken from a displacement of .1 (float64: .001) on, and lose as much.
        lost = 100 * EPS if dtype == torch.float32 else 4e-12
        size = torch.maximum(delta.abs().clamp(min=0.1), exact.abs())  # which of a sign is that of its jump
        assert float(((result - exact).abs() / size).max()) < lost, unit


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
def test_displacement_across_zero(sigma: Activation) -> None:
    """Codes as small as their displacements, zero itself among them: a dead layer's are."""
    random = Random(19)
    code, delta = random.normal(40, 33), random.normal(40, 33)
    code[:, ::4] = 0.0
    for unit, dtype in itertools.product((1.0, 1e-3, 1e-6, 1e-20), (torch.float32, torch.float64)):
        c0 = unit * code
        result, exact = displaced(sigma, c0, delta, unit, dtype)
        error = float(((result - exact).abs() / exact.abs().clamp(min=1.0)).max())
        assert error < (60 * EPS if dtype == torch.float32 else 1e-11), unit


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("unit", [0.1, 0.05, 1e-3])
def test_displacement_at_a_sharp_bend(unit: float) -> None:
    """Softplus with a large beta bends within a tenth."""
    random = Random(30)
    c0, delta = random.normal(40, 33, scale=0.4), random.normal(40, 33)
    result, exact = displaced(Activation("softplus", 10.0), c0, delta, unit, torch.float32)
    assert float((result - exact).abs().max()) < 60 * EPS


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
def test_units_that_float32_cannot_hold(sigma: Activation) -> None:
    """A unit shrinks by ten per layer: a chain of forty gets here, and must not end in NaN."""
    random = Random(20)
    c0, delta = random.normal(40, 33, scale=2.0), random.normal(40, 33)
    for unit in (1e-38, 1e-40, 1e-45, 1e-60):
        result, exact = displaced(sigma, c0, delta, unit, torch.float32)
        assert float((result - exact).abs().max()) < 40 * EPS, unit


# ------------------------------------------------------------------------------------- special cases


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_iteration_in_place_of_the_pull(dtype: torch.dtype) -> None:
    random = Random(21)
    for sigma, velocity in itertools.product(oracle.SIGMAS, (True, False)):
        arguments = case(
            random, 9, 133, sigma, change=True, mask=True, velocity=velocity, momentum=0.9, unit=0.1
        )
        apart = call(ops.code_step, arguments, dtype)
        in_place = call(ops.code_step, arguments, dtype, alias={"displacement": "pulled_back"})
        for name in ("displacement", "activation", "activation_displacement", "scalars"):
            assert same_bits(getattr(in_place, name), getattr(apart, name)), name


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [RELU, IDENTITY], ids=oracle.label)
def test_code_may_hold_its_activation(sigma: Activation, dtype: torch.dtype) -> None:
    """The encode may leave sigma(c0) in place of c0: a unit at rest stays there."""
    random = Random(22)
    for batch, width, top in ((9, 133, False), (9, 133, True), (0, 3, False), (1, 1, False)):
        arguments = case(random, batch, width, sigma, top=top, unit=0.1, normalised=1.0)
        apart = call(ops.code_step, arguments, dtype)
        arguments["code"] = oracle.value(sigma, arguments["code"])
        alias = {"activation": "code", "displacement": "pulled_back"}
        in_place = call(ops.code_step, arguments, dtype, alias=alias)
        for name in ("displacement", "activation", "scalars", *([] if top else ["activation_displacement"])):
            assert torch.equal(getattr(in_place, name), getattr(apart, name)), name


@pytest.mark.usefixtures("kernels")
def test_relu_has_no_derivative_at_zero() -> None:
    arguments = case(Random(23), 2, 3, unit=0.1)
    arguments["code"] = torch.tensor([[0.0, -0.0, 1e-30], [-1e-30, 1.0, -1.0]])
    arguments["pulled_back"].fill_(-1.0)  # would raise every unit
    result = call(ops.code_step, arguments, torch.float32)
    assert torch.equal(result.displacement != 0, arguments["code"] > 0)
    assert torch.equal(result.activation_displacement != 0, arguments["code"] > 0)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
def test_dropped_units_only_keep_their_anchor(sigma: Activation) -> None:
    for first in (True, False):
        arguments = case(Random(24), 9, 33, sigma, first=first, mask=True, change=True, unit=0.1)
        dropped = arguments["mask"] == 0
        result = call(ops.code_step, arguments)
        before = torch.zeros(9, 33, dtype=torch.float64) if first else arguments["displacement"]
        torch.testing.assert_close(result.displacement[dropped], 0.6 * before[dropped], rtol=1e-14, atol=0)
        assert not result.activation[dropped].any()
        assert not result.activation_displacement[dropped].any()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nonfinite_displacements_raise_the_guard(sigma: Activation, dtype: torch.dtype) -> None:
    random = Random(25)
    place = (4, 17)
    names = ("pulled_back", "pulled_back_change", "displacement", "velocity")
    for name, bad in itertools.product(names, (float("nan"), float("inf"), -float("inf"))):
        arguments = case(
            random, 9, 133, sigma, first=False, change=True, velocity=True, momentum=0.9, unit=0.1
        )
        arguments["code"][place] = 1.0  # where relu has a derivative
        clean = call(ops.code_step, arguments, dtype)
        arguments[name][place] = bad
        result = call(ops.code_step, arguments, dtype)
        assert clean.guard == 0
        others = torch.ones(9, 133, dtype=torch.bool)
        others[place] = False
        for output in ELEMENTWISE:
            assert same_bits(getattr(result, output)[others], getattr(clean, output)[others]), output
        if bad != bad and name == "displacement":
            assert torch.isnan(result.displacement[place])
            assert torch.isnan(result.activation[place])
        if name != "displacement" or sigma in (RELU, IDENTITY) or bad != bad:
            assert result.guard == 1


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
def test_a_code_that_is_no_number_stays_none(sigma: Activation) -> None:
    """The encode has raised the guard already; the activation must not come out as a number."""
    arguments = case(Random(26), 9, 33, sigma, unit=0.1)
    arguments["code"][4, 17] = float("nan")
    for dtype in (torch.float32, torch.float64):
        assert torch.isnan(call(ops.code_step, arguments, dtype).activation[4, 17])


def test_the_guard_is_never_lowered_and_may_be_absent() -> None:
    arguments = case(Random(27), 3, 5)
    assert call(ops.code_step, {**arguments, "guard": torch.ones(1)}).guard == 1
    call(ops.code_step, {**arguments, "guard": None})


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("sigma", [RELU, TANH, Activation("gelu")], ids=oracle.label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing_but_the_sum(sigma: Activation, dtype: torch.dtype) -> None:
    arguments = case(
        Random(28), 301, 127, sigma, first=False, change=True, mask=True, velocity=True, momentum=0.9, unit=0.1,
        normalised=1.0,
    )  # fmt: skip
    alone, both, again = (call(ops.code_step, arguments, dtype, threads=threads) for threads in (1, 2, 2))
    for name in ELEMENTWISE:
        assert same_bits(getattr(both, name), getattr(alone, name)), name
    assert same_bits(both.scalars, again.scalars)
    torch.testing.assert_close(both.scalars, alone.scalars, rtol=4 * torch.finfo(dtype).eps, atol=0)


def good_arguments(**options: Any) -> dict[str, Any]:
    arguments = case(Random(29), 3, 4, TANH, change=True, mask=True, velocity=True, **options)
    guard = torch.zeros(1, dtype=torch.float64)
    floats = {
        name: value.float()
        for name, value in arguments.items()
        if isinstance(value, Tensor) and name not in ("scalars", "above")
    }
    return {**arguments, **floats, "guard": guard}


def test_bad_arguments_are_refused() -> None:
    optional = ("pulled_back_change", "mask", "velocity", "activation_displacement", "above", "guard")
    for first in (True, False):
        arguments = good_arguments(first=first)
        assert_refuses_bad_tensors(ops.code_step, arguments, optional=optional, chooses_backend="code")
        allowed = [("displacement", "pulled_back")] if first else []
        assert_refuses_shared_memory(ops.code_step, arguments, allowed=allowed)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", ["sigmoid", "silu", "gelu", "tanh", "softplus"])
def test_the_slope_far_from_zero(name: str) -> None:
    """Of a code by itself. That of the sigmoid is accurate however small it is; of the others, to what a slope of 1
    is rounded to."""
    random = Random(0)
    for place in (-1e30, -60.0, -20.0, 20.0, 60.0, 1e30):
        code = torch.full((1, 1), place).double()
        slope, factor = (
            call(
                ops.code_step,
                case(random, 1, 1, sigma) | {"code": code, "pulled_back": torch.ones(1, 1).double()},
                torch.float32,
            )
            for sigma in (Activation(name, 1.0), Activation("identity"))
        )
        found = float(slope.displacement / factor.displacement)
        if name == "sigmoid":
            exact = math.exp(-abs(place)) / (1 + math.exp(-abs(place))) ** 2
            assert found == pytest.approx(exact, rel=1e-5, abs=1e-37), place
        else:
            exact = float(oracle.derivative(Activation(name, 1.0), code))
            assert found == pytest.approx(exact, abs=1e-6), place
