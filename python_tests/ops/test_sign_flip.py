"""sign_flip: where the local objective wants a code that is read through a sign.

Oracle: the local objective itself, evaluated with each unit at -1 and at +1 in turn; its derivatives by autograd; and
the parabola through them, in float64.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import CodeScalar, reference

from .calling import Output, Random, assert_accurate, assert_close, call, code_block, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

EXTENTS = (0, 1, 3, 31, 33, 200)
SHAPES = (*itertools.product(EXTENTS, EXTENTS), (32, 32), (127, 128), (5, 1024), (2, 513))
EPS = torch.finfo(torch.float32).eps


def case(
    random: Random, batch: int, width: int, *, top: bool = False, mask: bool = False, **scalars: float
) -> dict[str, Any]:
    """Arguments of one call, in which a third of the codes are within reach, and half of these flip."""
    norm = 0.5 + random.normal(width).abs()
    norm[3::5] = 0.0
    return {
        "code": random.normal(batch, width, scale=2.0),
        "pulled_back": random.normal(batch, width, scale=1.0 if top else 0.1),
        "norm": norm,
        "mask": random.mask(batch, width) if mask else None,
        "displacement": Output((batch, width)),
        "scalars": code_block(**{"curvature": 1.0, "normalised": 1.0, **scalars}),
        "above": None if top else code_block(unit=2e-3, moved=2e-4, damping=1.5),
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return case(random, 70, 127, mask=True)


def random_case(random: Random, batch: int, width: int) -> dict[str, Any]:
    return case(
        random,
        batch,
        width,
        top=random.flip(),
        mask=random.flip(),
        downstream=random.choice((1.0, 3.5)),
        curvature=random.choice((1.0, 0.7)),
        normalised=random.choice((0.0, 1.0, 2.0)),
    )


def expected(arguments: dict[str, Any]) -> Tensor:
    """The displacement, from the parabola's slope at the sign and its second derivative."""
    s = {entry.name: float(arguments["scalars"][entry]) for entry in CodeScalar}
    above, code = arguments["above"], arguments["code"]
    amplification = 1.0
    if above is not None:
        unit, moved, damping = (
            float(above[entry]) for entry in (CodeScalar.unit, CodeScalar.moved, CodeScalar.damping)
        )
        amplification = unit / (moved * damping)
    mask = torch.ones_like(code) if arguments["mask"] is None else arguments["mask"]
    slope = s["downstream"] * amplification * mask * arguments["pulled_back"]
    bend = s["curvature"] * (mask * arguments["norm"]) ** 2
    target = torch.where(code > 0, 1.0, -1.0).double() - slope / bend
    return torch.where((code.abs() <= 1) & (bend > 0), code - target, 0.0)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_float64(dtype: torch.dtype) -> None:
    random = Random(1)
    for batch, width in SHAPES:
        arguments = random_case(random, batch, width)
        exact = expected(arguments)
        result = call(ops.sign_flip, arguments, dtype)
        what = f"{batch} x {width}"
        if dtype == torch.float64:
            assert_close(result.displacement, exact, 1e-14, what)
        else:
            twin = call(reference.sign_flip, arguments, dtype)
            assert_accurate(result.displacement, twin.displacement, exact, what)
        assert result.guard == 0


# -------------------------------------------------------------------- the objective that the formula comes from


class LocalObjective:
    """What lies above a code, per sample, as a function of what its units give off.

    For the top code a parabola above the loss, that touches it at the encode's signs; for another half the squared
    misfit of the code above, had that moved by a root mean square of one.
    """

    def __init__(self, random: Random, mask: bool, loss: str | None) -> None:
        self.batch, self.width, self.n_above, self.loss = 7, 11, 4, loss
        self.code = random.normal(self.batch, self.width)
        self.signs = torch.where(self.code > 0, 1.0, -1.0).double()
        self.mask = random.mask(self.batch, self.width) if mask else torch.ones(self.batch, self.width)
        self.weight = random.normal(self.n_above, self.width, scale=0.5)
        self.bias = random.normal(self.n_above)
        self.labels = random.labels(self.batch, self.n_above)
        self.downstream = 1.0 if loss is None else 0.9  # 1 / (2 mu)
        self.bend = {None: 1.0, "cross_entropy": 0.5, "mse": 2 / self.n_above}[loss]
        self.delta_above = random.normal(self.batch, self.n_above)
        logits = self.logits(self.signs).requires_grad_()
        residual = self.delta_above
        if loss is not None:
            (residual,) = torch.autograd.grad(self.loss_of(logits).sum(), logits)
        self.residual = residual

    def logits(self, a: Tensor) -> Tensor:
        return (self.mask.unsqueeze(-2) * a.view(self.batch, -1, self.width)).squeeze(
            1
        ) @ self.weight.T + self.bias

    def loss_of(self, logits: Tensor) -> Tensor:
        """Per sample, and candidate if there are several of a sample."""
        if self.loss == "mse":
            one_hot = F.one_hot(self.labels, self.n_above).double()
            return (logits - (one_hot if logits.ndim == 2 else one_hot[:, None])).square().mean(-1)
        labels = self.labels[:, None].expand(logits.shape[:-1]) if logits.ndim == 3 else self.labels
        return F.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")

    def __call__(self, candidates: Tensor) -> Tensor:
        """(B, k) of (B, k, n) candidates."""
        moved = self.logits(candidates) - self.logits(self.signs)[:, None]
        if self.loss is None:
            root_mean_square = self.delta_above.square().mean().sqrt()
            return (self.delta_above[:, None] / root_mean_square + moved).square().sum(-1) / 2
        linear = (self.residual[:, None] * moved).sum(-1)
        return self.downstream * (linear + self.bend / 2 * moved.square().sum(-1))

    def one_by_one(self, values: Tensor | float) -> Tensor:
        """(B, n, n): the signs, in whose row i unit i has the value instead."""
        each = torch.eye(self.width, dtype=torch.bool)
        values = torch.as_tensor(values, dtype=torch.float64).expand(self.batch, self.width)
        return torch.where(each, values[:, None, :], self.signs[:, None, :])

    def flipped(self) -> tuple[Tensor, Tensor]:
        """Where the op leads the code to, and which codes it moves."""
        unit = 1e-3
        above = None
        if self.loss is None:
            above = code_block(unit=unit, moved=unit * float(self.delta_above.square().mean().sqrt()))
        arguments = {
            "code": self.code,
            "pulled_back": self.residual @ self.weight,
            "norm": self.weight.norm(dim=0),
            "mask": self.mask if self.mask.min() == 0 else None,
            "displacement": Output(self.code.shape),
            "scalars": code_block(downstream=self.downstream, curvature=self.downstream * self.bend),
            "above": above,
        }
        displacement = call(ops.sign_flip, arguments).displacement
        return self.code - displacement, displacement != 0


objectives = pytest.mark.parametrize("loss", [None, "cross_entropy", "mse"], ids=str)
masks = pytest.mark.parametrize("mask", [False, True])


@pytest.mark.usefixtures("kernels")
@objectives
@masks
def test_takes_the_better_of_both_signs(loss: str | None, mask: bool) -> None:
    flips = 0
    for seed in range(10):
        objective = LocalObjective(Random(seed), mask, loss)
        minus, plus = (objective(objective.one_by_one(value)) for value in (-1.0, 1.0))
        better = torch.where(plus < minus, 1.0, -1.0).double()
        code, moves = objective.flipped()
        assert torch.equal(moves, (objective.code.abs() <= 1) & (objective.mask > 0))
        assert torch.equal(torch.sign(code[moves]), better[moves])
        assert torch.equal(code[~moves], objective.code[~moves])
        flips += int((better != objective.signs)[moves].sum())
    assert flips > 10


@objectives
@masks
def test_goes_to_the_minimum_of_each_unit(loss: str | None, mask: bool) -> None:
    objective = LocalObjective(Random(20), mask, loss)
    code, moves = objective.flipped()
    candidates = objective.one_by_one(code).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(candidates).sum(), candidates)
    of_own = torch.diagonal(gradient, dim1=1, dim2=2)
    torch.testing.assert_close(of_own[moves], torch.zeros_like(of_own[moves]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@masks
def test_a_flip_of_the_top_code_lowers_the_loss(loss: str, mask: bool) -> None:
    """The loss itself: the parabola lies above it."""
    flips = 0
    for seed in range(10):
        objective = LocalObjective(Random(seed), mask, loss)
        before = objective.loss_of(objective.logits(objective.signs))
        after = objective.loss_of(objective.logits(objective.one_by_one(-objective.signs)))
        code, moves = objective.flipped()
        flipped = moves & (code * objective.signs < 0)
        assert (after < before[:, None])[flipped].all()
        flips += int(flipped.sum())
    assert flips > 10


# ------------------------------------------------------------------------------------ the parameter block


@pytest.mark.parametrize("normalised", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("top", [True, False])
def test_parameter_block(top: bool, normalised: float) -> None:
    """The scale is the RMS, over ``normalised`` times as many numbers as are held, times the damping."""
    arguments = case(
        Random(21), 9, 33, top=top, normalised=normalised, unit=0.3, step_taken=0.2, step_size=0.1
    )
    result = call(ops.sign_flip, arguments)
    rms = float((result.displacement.square().sum() / (9 * 33 * (normalised or 1))).sqrt())
    changed = {
        CodeScalar.unit: 1.0,
        CodeScalar.step_taken: 1.0,
        CodeScalar.damping: 1.0 if top else 1.5,
        CodeScalar.moved: rms,
        CodeScalar.moved: rms,
        CodeScalar.scale: (rms * (1.0 if top else 1.5)) if normalised else 1.0,
    }
    block = arguments["scalars"].clone()
    for entry, value in changed.items():
        block[entry] = value
    torch.testing.assert_close(result.scalars, block, rtol=1e-14, atol=0)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (3, 4)])
def test_nothing_moved_has_a_scale_of_one(shape: tuple[int, int]) -> None:
    arguments = case(Random(22), *shape, unit=0.3)
    arguments["code"].fill_(2.0)
    result = call(ops.sign_flip, arguments)
    assert not result.displacement.any()
    assert result.scalars[CodeScalar.scale] == 1.0
    assert result.guard == 0


# -------------------------------------------------------------------------------------------- special cases


@pytest.mark.usefixtures("kernels")
def test_without_a_move_above_all_signs_are_right() -> None:
    arguments = case(Random(31), 9, 33)
    arguments["above"][CodeScalar.moved] = 0.0
    arguments["pulled_back"].zero_()
    arguments["norm"].fill_(0.5)
    code = arguments["code"]
    moved = code - call(ops.sign_flip, arguments).displacement
    signs = torch.where(code > 0, 1.0, -1.0).double()
    torch.testing.assert_close(moved, torch.where(code.abs() <= 1, signs, code), rtol=0, atol=1e-15)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reach(dtype: torch.dtype) -> None:
    """Codes up to 1 in size are led from their sign, which is -1 for zero, to half a unit below."""
    arguments = case(Random(23), 1, 8, top=True)
    arguments["norm"].fill_(0.5)
    arguments["pulled_back"].fill_(0.125)
    code = torch.tensor([[1.0, -1.0, 0.25, -0.25, 0.0, -0.0, 1.0000001, -1.0000001]])
    moved = code - call(ops.sign_flip, {**arguments, "code": code}, dtype).displacement
    target = torch.tensor([[0.5, -1.5, 0.5, -1.5, -1.5, -1.5, 1.0000001, -1.0000001]])
    assert torch.equal(moved.float(), target)


@pytest.mark.usefixtures("kernels")
def test_units_that_nothing_is_read_from_stay() -> None:
    arguments = case(Random(24), 9, 33, mask=True)
    arguments["code"] /= 10
    arguments["pulled_back"][:, 3::5] = 0.0  # as W^T makes it, of columns of zeros
    result = call(ops.sign_flip, arguments, torch.float32)
    idle = (arguments["mask"] == 0) | (arguments["norm"] == 0)
    assert torch.equal(result.displacement == 0, idle)
    assert result.guard == 0


@pytest.mark.usefixtures("kernels")
def test_norms_whose_squares_float32_cannot_hold() -> None:
    arguments = case(Random(25), 9, 32, top=True)
    arguments["code"] /= 10
    arguments["norm"] = torch.full((32,), 1e-25, dtype=torch.float64)
    arguments["pulled_back"] *= 1e-25
    result = call(ops.sign_flip, arguments, torch.float32)
    held = {**arguments, "norm": arguments["norm"].float().double()}
    held["pulled_back"] = arguments["pulled_back"].float().double()
    assert_close(result.displacement, expected(held), 4 * EPS)
    assert result.guard == 0


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_place_of_the_pull(dtype: torch.dtype) -> None:
    for mask in (False, True):
        arguments = case(Random(26), 9, 132, mask=mask)
        apart = call(ops.sign_flip, arguments, dtype)
        in_place = call(ops.sign_flip, arguments, dtype, alias={"displacement": "pulled_back"})
        assert same_bits(in_place.displacement, apart.displacement)
        assert same_bits(in_place.scalars, apart.scalars)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["code", "pulled_back", "norm"])
def test_nonfinite_displacements_raise_the_guard(dtype: torch.dtype, name: str) -> None:
    arguments = case(Random(27), 9, 133)
    arguments["code"][4, 17] = 0.5
    place = 17 if name == "norm" else (4, 17)
    clean = call(ops.sign_flip, arguments, dtype)
    assert clean.guard == 0
    arguments[name][place] = torch.nan
    result = call(ops.sign_flip, arguments, dtype)
    assert torch.isnan(result.displacement[4, 17])
    assert result.guard == 1
    others = torch.arange(133) != 17
    assert same_bits(result.displacement[:, others].contiguous(), clean.displacement[:, others].contiguous())


def test_the_guard_is_never_lowered_and_may_be_absent() -> None:
    arguments = case(Random(28), 3, 5)
    assert call(ops.sign_flip, {**arguments, "guard": torch.ones(1)}).guard == 1
    call(ops.sign_flip, {**arguments, "guard": None})


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing_but_the_sum(dtype: torch.dtype) -> None:
    arguments = case(Random(29), 301, 127, mask=True)
    alone, both, again = (call(ops.sign_flip, arguments, dtype, threads=threads) for threads in (1, 2, 2))
    assert same_bits(both.displacement, alone.displacement)
    assert same_bits(both.scalars, again.scalars)
    torch.testing.assert_close(both.scalars, alone.scalars, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_bad_arguments_are_refused() -> None:
    arguments = {**case(Random(30), 3, 4, mask=True), "guard": torch.zeros(1, dtype=torch.float64)}
    arguments |= {name: arguments[name].float() for name in ("code", "pulled_back", "norm", "mask")}
    assert_refuses_bad_tensors(
        ops.sign_flip, arguments, optional=("mask", "above", "guard"), chooses_backend="code"
    )
    assert_refuses_shared_memory(ops.sign_flip, arguments, allowed=[("displacement", "pulled_back")])
