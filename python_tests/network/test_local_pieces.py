"""Modules that no formula knows: what they keep from call to call, what they draw, and derivatives of their own.

Oracles: one forward pass of a copy of the module, as torch runs it; the module's own backward pass, by
torch.autograd.grad; and surrogate derivatives written down by hand.
"""

from __future__ import annotations

import collections
import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altmin_ext.network import Chain
from altmin_ext.network.pieces import LocalPiece, piece_of
from altmin_ext.nn import Sign

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
WIDTH = 5


def points(dtype: torch.dtype = torch.float64, batch: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, delta = torch.randn(2, batch, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    return a, delta


# --- what a module keeps ---


class InPlace(nn.Module):
    """Subtracts a running mean that it changes in place, in evaluation mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.mean


class Reassigned(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)  # with its graph
        return x - self.mean


class PlainAttributes(nn.Module):
    """Keeps a tensor that is no buffer, a count, and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.calls, self.memory = torch.zeros(WIDTH, dtype=torch.float64), 0, {}

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean(0), 0.1)
        self.calls += 1
        self.memory["first"] = self.memory.get("first", 0) + x.detach()[0]
        return (x - self.mean) * self.calls + self.memory["first"]


class Collections(nn.Module):
    """Keeps a tensor in a list that it changes in place, a deque, a set, and a list within a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = [torch.zeros(WIDTH, dtype=torch.float64)]
        self.calls: set[int] = set()
        self.memory: dict[str, Any] = {"recent": collections.deque(maxlen=3), "all": []}

    def forward(self, x: Tensor) -> Tensor:
        self.mean[0].lerp_(x.detach().mean(0), 0.1)
        self.calls.add(len(self.calls))
        for kept in self.memory.values():
            kept.append(float(x.detach().sum()))
        return (x - self.mean[0]) * len(self.calls) + sum(self.memory["recent"]) + len(self.memory["all"])


class OwnGenerators(nn.Module):
    """Draws from generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.Generator().manual_seed(0)
        self.calls = [np.random.default_rng(0), np.random.RandomState(0)]
        self.memory = {"python": random.Random(0)}

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(x.shape, generator=self.mean, dtype=x.dtype)
        return x * noise + self.calls[0].random() + self.calls[1].rand() + self.memory["python"].random()


class Late(nn.Module):
    """Makes its buffer in the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is None:
            self.mean = x.detach().mean(0)
        return x - self.mean


KEEPING: dict[str, Callable[[], nn.Module]] = {
    "in place": InPlace,
    "reassigned": Reassigned,
    "plain attributes": PlainAttributes,
    "collections": Collections,
    "own generators": OwnGenerators,
    "late": Late,
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, WIDTH)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten()
    ),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "batch norm within": lambda: nn.Sequential(nn.BatchNorm1d(WIDTH, momentum=None), nn.Linear(WIDTH, 3)),
}


def kept_by(module: nn.Module) -> list[Any]:
    """All that a module holds besides its parameters."""
    own = ("mean", "calls", "memory")
    found = [vars(part)[name] for part in module.modules() for name in own if name in vars(part)]
    return [*map(comparable, found), *(buffer.clone() for buffer in module.buffers())]


def comparable(kept: Any) -> Any:
    """What is kept, where generators stand for what they draw next."""
    if isinstance(kept, torch.Generator):
        return kept.get_state()
    if isinstance(kept, (np.random.Generator, np.random.RandomState, random.Random)):
        return float(copy.deepcopy(kept).random())
    if isinstance(kept, dict):
        return {name: comparable(value) for name, value in kept.items()}
    return [comparable(value) for value in kept] if isinstance(kept, (list, collections.deque, set)) else kept


@pytest.mark.parametrize("kind", KEEPING)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_what_a_module_keeps_moves_as_in_one_forward_pass(kind: str, training: bool) -> None:
    """However often it is evaluated in a step; and every evaluation is that of the same function."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = KEEPING[kind]().double().train(training)
    passed = copy.deepcopy(module)
    piece = LocalPiece(module)
    for _ in range(2):
        a, delta = points()
        before = copy.deepcopy(kept_by(module))
        expected = passed(a)
        with torch.no_grad():
            torch.testing.assert_close(piece.begin(a), expected.detach(), **EXACT)
            piece.move(delta, torch.tensor(0.1, dtype=torch.float64))
            torch.testing.assert_close(piece.value(a), expected.detach(), **EXACT)
            piece.sample_vjp(piece.sample_jvp(delta[:2]))
            torch.testing.assert_close(kept_by(module), before, rtol=0, atol=0)
            piece.commit()
        torch.testing.assert_close(kept_by(module), kept_by(passed), **EXACT)
        for part in passed.modules():  # which torch would differentiate through
            for tensors in (part._buffers, vars(part)):
                detached = {n: t.detach() for n, t in tensors.items() if isinstance(t, Tensor)}
                tensors.update(detached)


def test_buffers_changed_in_place_stay_the_same_tensors() -> None:
    module = InPlace()
    mean = module.mean
    piece = LocalPiece(module)
    piece.begin(points()[0])
    piece.commit()
    assert module.mean is mean
    assert float(mean.abs().sum()) > 0


def test_a_trial_run_leaves_no_trace() -> None:
    module = PlainAttributes()
    before = copy.deepcopy(kept_by(module))
    shape = Chain([LocalPiece(module)]).output_shape(torch.Size([WIDTH]), torch.empty(0, dtype=torch.float64))
    assert shape == (WIDTH,)
    torch.testing.assert_close(kept_by(module), before, rtol=0, atol=0)


# --- what a module draws ---


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Noise(nn.Module):
    """Draws in evaluation mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.randn_like(x)


DRAWING: dict[str, Callable[[], nn.Module]] = {
    "functional dropout": FunctionalDropout,
    "noise": Noise,
    "rrelu": nn.RReLU,
    "alpha dropout": lambda: nn.AlphaDropout(0.5),
}


@pytest.mark.parametrize("kind", DRAWING)
@every_dtype
def test_the_same_numbers_are_drawn_all_through_a_step(kind: str, dtype: torch.dtype) -> None:
    """Those that a forward pass would draw from torch's generator, which moves on by as much."""
    module = DRAWING[kind]()
    a, delta = points(dtype)
    piece = LocalPiece(module)
    torch.manual_seed(3)
    expected, after = module(a), torch.get_rng_state()
    torch.manual_seed(3)
    with torch.no_grad():
        assert torch.equal(piece.begin(a), expected)
        assert torch.equal(torch.get_rng_state(), after)
        piece.move(delta, torch.tensor(0.1, dtype=dtype))
        assert torch.equal(piece.value(a), expected)
        piece.sample_jvp(delta[:2])
        assert torch.equal(torch.get_rng_state(), after)
        assert not torch.equal(piece.begin(a), expected)


def test_what_draws_nothing_in_evaluation_mode_is_evaluated_without_a_generator() -> None:
    piece = LocalPiece(FunctionalDropout().eval())
    a, _ = points()
    assert torch.equal(piece.begin(a), a)
    assert piece._random_state is None


# --- derivatives of their own ---


class _Clipped(torch.autograd.Function):
    """As straight-through binarisers are written."""

    @staticmethod
    def forward(context: Any, v: Tensor) -> Tensor:
        context.save_for_backward(v)
        return torch.where(v > 0, 1.0, -1.0).to(v.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (v,) = context.saved_tensors
        return gradient * (v.abs() <= 1)


class _Masked(_Clipped):
    """The same derivative, by an operation in place."""

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (v,) = context.saved_tensors
        gradient = gradient.clone()
        gradient[v.abs() > 1] = 0
        return gradient


class _ArcTangent(_Clipped):
    """A spike with a surrogate gradient, as packages of spiking networks write them."""

    @staticmethod
    def forward(context: Any, v: Tensor) -> Tensor:
        context.save_for_backward(v)
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (v,) = context.saved_tensors
        return gradient.clone() / (1 + (torch.pi * v).pow_(2))


class _ClipsGradients(_Clipped):
    """The identity for short gradients only."""

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return F.hardtanh(gradient)


class _Once(_Clipped):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (v,) = context.saved_tensors
        return gradient * (v.abs() <= 1)


class _Detached(_Clipped):
    """Leaves torch's graph, and says so to nobody."""

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (v,) = context.saved_tensors
        return gradient.detach() * (v.abs() <= 1)


class Applied(nn.Module):
    def __init__(self, function: type[torch.autograd.Function], skips: bool = False) -> None:
        super().__init__()
        self.function, self.skips = function, skips

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.function.apply(x)
        return x + value if self.skips else value


def clipped(a: Tensor) -> Tensor:
    return (a.abs() <= 1).to(a)


SURROGATES: dict[str, tuple[type[torch.autograd.Function], Callable[[Tensor], Tensor]]] = {
    "clipped": (_Clipped, clipped),
    "masked": (_Masked, clipped),
    "arc tangent": (_ArcTangent, lambda a: 1 / (1 + (torch.pi * a) ** 2)),
    "clips gradients": (_ClipsGradients, torch.ones_like),
}


@pytest.mark.parametrize("kind", SURROGATES)
@pytest.mark.parametrize("skips", [False, True], ids=["alone", "residual"])
@every_dtype
def test_an_ordinary_function_is_differentiated(kind: str, skips: bool, dtype: torch.dtype) -> None:
    """J is diagonal, so that J v and J^T v are the same: the surrogate times v, and v once more beside a skip."""
    function, surrogate = SURROGATES[kind]
    piece = LocalPiece(Applied(function, skips))
    a, delta = points(dtype)
    with torch.no_grad():
        piece.begin(a)
        slope = surrogate(a) + skips
        v = delta / 10
        for product in (piece.vjp, piece.sample_jvp, piece.sample_vjp):
            torch.testing.assert_close(product(v), slope * v)
        torch.testing.assert_close(piece.sample_jvp(v[:2]), slope[:2] * v[:2])


class Constant(nn.Module):
    """Divides by what torch.no_grad() hides from the backward pass, but not from forward mode."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.square().mean(1, keepdim=True).sqrt()
        return x / scale


class StraightThroughByDetaching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + (torch.sign(x) - x).detach()


class BinaryBlock(nn.Module):
    """A residual block with a binary unit inside."""

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, 7), unit, nn.Linear(7, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.inner(x)
        return x + inner


OWN_DERIVATIVES: dict[str, Callable[[], nn.Module]] = {
    "no_grad": Constant,
    "detached": StraightThroughByDetaching,
    "block with a function": lambda: BinaryBlock(Applied(_Clipped)),
    "block with an arc tangent": lambda: BinaryBlock(Applied(_ArcTangent)),
    "block with Sign": lambda: BinaryBlock(Sign()),
    "block with a clipped Sign": lambda: BinaryBlock(Sign("clipped")),
}


@pytest.mark.parametrize("kind", OWN_DERIVATIVES)
@every_dtype
def test_products_are_those_of_the_backward_pass(kind: str, dtype: torch.dtype) -> None:
    """J from the rows that torch.autograd.grad returns, one output at a time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = OWN_DERIVATIVES[kind]().to(dtype)
    piece = LocalPiece(module)
    a, v = points(dtype, batch=1)
    at = a.clone().requires_grad_()
    value = module(at)[0]
    jacobian = torch.stack([torch.autograd.grad(unit, at, retain_graph=True)[0][0] for unit in value])
    with torch.no_grad():
        piece.begin(a)
        torch.testing.assert_close(piece.sample_jvp(v)[0], jacobian @ v[0])
        torch.testing.assert_close(piece.sample_vjp(v)[0], jacobian.T @ v[0])
        torch.testing.assert_close(piece.vjp(v)[0], jacobian.T @ v[0])


@pytest.mark.parametrize("function", [_Once, _Detached], ids=lambda f: f.__name__)
@pytest.mark.parametrize("skips", [False, True], ids=["alone", "residual"])
def test_a_backward_pass_that_torch_cannot_differentiate(
    function: type[torch.autograd.Function], skips: bool
) -> None:
    """J^T is known, and J v is not: an estimate of a norm is refused, and never a wrong one returned."""
    piece = piece_of("2.unit", Applied(function, skips))
    a, v = points()
    piece.begin(a)
    slope = clipped(a) + skips
    torch.testing.assert_close(piece.vjp(v), slope * v)
    with pytest.raises(ValueError, match=r"^lr_codes must be a number .*'2.unit' \(Applied\).*\.$"):
        piece.sample_jvp(v)


class _CubedOnce(torch.autograd.Function):
    """Has forward mode, but no second derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        return a**3

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        context.save_for_backward(*inputs)
        context.save_for_forward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (a,) = context.saved_tensors
        return 3 * a**2 * gradient

    @staticmethod
    def jvp(context: Any, tangent: Tensor) -> Tensor:
        (a,) = context.saved_tensors
        return 3 * a**2 * tangent


@every_dtype
def test_forward_mode_is_taken_where_the_backward_pass_has_no_derivative(dtype: torch.dtype) -> None:
    """J v is 3 a^2 v."""
    piece = LocalPiece(Applied(_CubedOnce))
    a, v = points(dtype)
    with torch.no_grad():
        piece.begin(a)
        for _ in range(2):
            torch.testing.assert_close(piece.sample_jvp(v), 3 * a**2 * v)


@pytest.mark.parametrize("kind", [*SURROGATES, "once"])
@pytest.mark.parametrize("unit", [0.05, 1e-6])
def test_a_value_that_jumps_is_followed_in_float32(kind: str, unit: float) -> None:
    """Where a unit flips, its change is the flip; elsewhere it is zero, whatever the surrogate says."""
    module = Applied(SURROGATES[kind][0] if kind in SURROGATES else _Once)
    piece = LocalPiece(module)
    a, delta = points(torch.float32, batch=200)
    a[:20] = -unit / 2  # which some displacements take across zero
    scale = torch.tensor(unit)
    before, after = module(a), module(a + scale * delta)
    assert 0 < int((before != after).sum()) < a.numel() / 2
    with torch.no_grad():
        piece.begin(a)
        torch.testing.assert_close(piece.move(delta, scale), (after - before) / scale)


@pytest.mark.parametrize("kind", ["block with a function", "block with Sign", "block with an arc tangent"])
def test_a_block_that_jumps_is_followed_in_float32(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = OWN_DERIVATIVES[kind]()
    piece = LocalPiece(module)
    a, delta = points(torch.float32, batch=200)
    unit = torch.tensor(0.02)
    with torch.no_grad():
        before, after = (copy.deepcopy(module).double()(x.double()) for x in (a, a + unit * delta))
        piece.begin(a)
        moved = unit * piece.move(delta, unit)
    torch.testing.assert_close(moved.double(), after - before, rtol=1e-4, atol=1e-5)


def test_an_output_without_a_derivative_passes_none_on() -> None:
    """As under backpropagation, where nothing below such a module learns from above."""

    class Rounds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(WIDTH, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.scale).detach().round()

    piece = LocalPiece(Rounds())
    a, v = points()
    with torch.no_grad():
        assert torch.equal(piece.begin(a), a.round())
        for product in (piece.vjp(v), piece.sample_jvp(v), piece.sample_vjp(v)):
            assert torch.equal(product, torch.zeros_like(v))
        assert torch.equal(piece.parameter_gradients(v)[0], torch.zeros(WIDTH, dtype=torch.float64))


def test_a_module_may_write_to_its_input() -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x.mul_(2), inplace=True)

    piece = LocalPiece(Writes())
    a, v = points()
    kept = a.clone()
    assert torch.equal(piece.begin(a), (2 * kept).relu())
    assert torch.equal(a, kept)
    torch.testing.assert_close(piece.vjp(v), 2 * v * (kept > 0))
    torch.testing.assert_close(piece.sample_jvp(v), 2 * v * (kept > 0))


# --- compiled and scripted modules, and outputs that do not fit ---


@pytest.mark.parametrize("compiled", ["torch.compile", "module.compile", "within"])
def test_what_is_compiled_is_differentiated_as_what_it_was(compiled: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = BinaryBlock(nn.Tanh()).double()
    module = copy.deepcopy(plain)

    def backend(*_: Any) -> Any:
        raise AssertionError("compiled, so that it could not be differentiated twice")

    if compiled == "torch.compile":
        module = torch.compile(module, backend=backend)
    elif compiled == "module.compile":
        module.compile(backend=backend)
    else:
        module.inner = torch.compile(module.inner, backend=backend)
    one, other = LocalPiece(module), LocalPiece(plain)
    a, v = points()
    assert torch.equal(one.begin(a), other.begin(a))
    for name in ("vjp", "sample_jvp", "sample_vjp"):
        torch.testing.assert_close(getattr(one, name)(v), getattr(other, name)(v), **EXACT)


def test_a_scripted_module_is_refused() -> None:
    scripted = torch.jit.trace(nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, 2)), torch.randn(1, WIDTH))
    with pytest.raises(ValueError, match=r"^model cannot be split at '1': .* scripted .*\.$"):
        piece_of("1", scripted)


class Returns(nn.Module):
    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(x)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: (x, x), "returns a tuple"),
        (lambda x: {"logits": x}, "returns a dict"),
        (lambda x: None, "returns a NoneType"),
        (lambda x: x.bfloat16(), "returns torch.bfloat16"),
        (lambda x: x.flatten(), "returns shape"),
        (lambda x: x.sum(), "returns shape ()"),
    ],
    ids=["tuple", "dict", "None", "bfloat16", "flat", "scalar"],
)
def test_an_output_that_fits_no_chain(change: Callable[[Tensor], Any], words: str) -> None:
    chain = Chain([piece_of("3.last", Returns(change))])
    with pytest.raises(TypeError, match=r"^model must consist of .*'3.last' \(Returns\) .*\.$") as error:
        chain.output_shape(torch.Size([WIDTH]), torch.empty(0))
    assert words in str(error.value)


def test_a_sign_without_derivative_within_a_module_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^model cannot be split at '1': BinaryBlock .* surrogate\.$"):
        piece_of("1", BinaryBlock(Sign("none")))
