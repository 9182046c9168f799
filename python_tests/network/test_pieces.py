"""Pieces: value, change of value, and products with the Jacobian, of every kind of module.

Oracles: the module itself, as torch computes it, and torch.func's jvp and vjp of it in float64. A change of the value
at a tiny unit is the derivative up to that unit, which in float32 a difference of two values could not show.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from altmin_ext.network.pieces import LocalPiece, MaxPoolPiece, known_pieces, piece_of

from .modules import (
    BATCH,
    NORMALISATIONS,
    OTHERS,
    POOLS,
    SIGNS,
    SMOOTH,
    as_function,
    batch_norm_by,
    in_double,
    module_and_points,
    piece,
)

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-11}
ONE = torch.tensor(1.0, dtype=torch.float64)


@pytest.mark.parametrize("case", SMOOTH | SIGNS)
def test_value_is_the_modules(case: str) -> None:
    module, a, delta = module_and_points((SMOOTH | SIGNS)[case])
    f, tried = as_function(module), piece(module)
    with torch.no_grad():
        torch.testing.assert_close(tried.begin(a), f(a), **EXACT)
        torch.testing.assert_close(tried.value(a + delta), f(a + delta), **EXACT)


@pytest.mark.parametrize("case", SMOOTH | SIGNS)
@pytest.mark.parametrize("unit", [1.0, 0.01])
def test_move_is_the_change_of_the_value(case: str, unit: float) -> None:
    module, a, delta = module_and_points((SMOOTH | SIGNS)[case])
    f, tried = as_function(module), piece(module)
    with torch.no_grad():
        tried.begin(a)
        moved = tried.move(delta, torch.tensor(unit, dtype=torch.float64))
        torch.testing.assert_close(moved, (f(a + unit * delta) - f(a)) / unit, **EXACT)


@pytest.mark.parametrize("case", SMOOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_move_does_not_cancel(case: str, dtype: torch.dtype) -> None:
    """At a unit of which no value shows a trace, the change is J delta.

    Modules that no formula knows go by differences in float64, which is tried at a unit that those can bear.
    """
    module, a, delta = module_and_points(SMOOTH[case], dtype)
    known, single = case not in OTHERS, dtype == torch.float32
    unit = 1e-12 if single else 1e-20 if known else 1e-6
    expected = torch.func.jvp(as_function(in_double(module)), (a.double(),), (delta.double(),))[1]
    with torch.no_grad():
        tried = piece(module)
        tried.begin(a)
        moved = tried.move(delta, torch.tensor(unit, dtype=dtype)).double()
    tolerance = 2e-5 if single else 1e-11 if known else 1e-5
    assert float((moved - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("case", SMOOTH)
@pytest.mark.parametrize("arrival", ["begin", "value", "move"])
def test_products_with_the_jacobian(case: str, arrival: str) -> None:
    """J^T g and J_w^T g where the piece stands, however it came there."""
    module, a, delta = module_and_points(SMOOTH[case])
    tried, f = piece(module), as_function(module)
    with torch.no_grad():
        tried.begin(a)
        if arrival == "value":
            tried.value(a + delta)
        elif arrival == "move":
            tried.move(delta, ONE)
    point = a if arrival == "begin" else a + delta
    value, vjp, *_ = torch.func.vjp(f, point)
    gradient = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(tried.vjp(gradient), vjp(gradient)[0], **EXACT)

    def of_parameters(parameters: dict[str, Tensor]) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        output: Tensor = torch.func.functional_call(module, (parameters, buffers), (point.clone(),))
        return output

    named = {name: p.detach() for name, p in module.named_parameters()}
    expected = torch.func.vjp(of_parameters, named)[1](gradient)[0] if named else {}
    found = tried.parameter_gradients(gradient)
    assert [p.shape for p in tried.parameters] == [g.shape for g in found]
    torch.testing.assert_close(found, list(expected.values()), **EXACT)


@pytest.mark.parametrize("case", SMOOTH)
@pytest.mark.parametrize("samples", [1, 3, BATCH])
def test_products_of_the_first_samples(case: str, samples: int) -> None:
    """As if the statistics of a batch were constants: those of the whole minibatch."""
    module, a, delta = module_and_points(SMOOTH[case])
    tried = piece(module)
    with torch.no_grad():
        tried.begin(a)
        tried.move(delta, ONE)
    point = a + delta
    f = batch_norm_by(module, point) if case in NORMALISATIONS else as_function(module)
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(samples, *a.shape[1:], generator=generator, dtype=torch.float64)
    expected = torch.func.jvp(f, (point[:samples],), (v,))[1]
    g = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    pulled_back = torch.func.vjp(f, point[:samples])[1](g)[0]
    with torch.no_grad():
        torch.testing.assert_close(tried.sample_jvp(v), expected, **EXACT)
        torch.testing.assert_close(tried.sample_vjp(g), pulled_back, **EXACT)


@pytest.mark.parametrize(
    "case", [c for c, (make, _) in SMOOTH.items() if piece(make()).lipschitz is not None]
)
def test_lipschitz_bounds_the_norm_of_the_jacobian(case: str) -> None:
    module, a, _ = module_and_points(SMOOTH[case])
    tried = piece(module)
    with torch.no_grad():
        tried.begin(a)
    bound = tried.lipschitz
    assert bound is not None
    jacobian = torch.func.jacrev(as_function(module))(a[:1]).reshape(-1, a[0].numel())
    assert float(torch.linalg.matrix_norm(jacobian, 2)) <= bound * (1 + 1e-12)


@pytest.mark.parametrize(
    "case", [c for c, (make, _) in SMOOTH.items() if piece(make()).has_constant_jacobian]
)
def test_a_constant_jacobian_is_that_of_every_sample(case: str) -> None:
    """Pieces that say so are asked for one sample in place of several; the statistics of a batch stay its own."""
    module, a, _ = module_and_points(SMOOTH[case])
    tried = piece(module)
    with torch.no_grad():
        tried.begin(a)
        v = torch.randn(1, *a.shape[1:], dtype=torch.float64)
        products = tried.sample_jvp(v.expand_as(a))
        torch.testing.assert_close(products, products[:1].expand_as(products), **EXACT)


# --- max-pooling ---


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("shape", [(2, 6, 6), (3, 7, 8), (5, 9), (1, 3, 3)], ids=str)
def test_of_equal_maxima_the_first_one_is_taken(size: int, shape: tuple[int, ...]) -> None:
    """As torch does: by its values and by where its gradient goes, with few distinct numbers and one NaN."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-2, 2, (BATCH, *shape), generator=generator).float()
    a[(0,) * a.ndim] = torch.nan
    pool, at = nn.MaxPool2d(size), a.clone().requires_grad_()
    value = pool(at)
    gradient = torch.randn(value.shape, generator=generator)
    value.backward(gradient)
    tried = piece(pool)
    with torch.no_grad():
        torch.testing.assert_close(tried.begin(a), value.detach(), rtol=0, atol=0, equal_nan=True)
        kept = torch.ones_like(a, dtype=torch.bool)
        kept[0, ..., :size, :size] = False  # with a NaN torch takes the place of that
        assert torch.equal(tried.vjp(gradient)[kept], at.grad[kept])


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [(3, {"padding": 1}), ((1, 2), {"stride": (1, 2), "padding": (0, 1), "dilation": 2}), (1, {})],
    ids=["3x3", "1x2", "1x1"],
)
def test_a_large_value_of_a_convolution_is_kept_in_memory(kernel: Any, options: Any, bias: bool) -> None:
    """More than 1 MiB, in the same memory step by step, and for a smaller minibatch in part of it."""
    generator = torch.Generator().manual_seed(4)
    module = nn.Conv2d(3, 32, kernel, bias=bias, **options).double()
    tried, memory = piece(module), set()
    for batch in (12, 12, 10):
        a, delta = torch.randn(2, batch, 3, 32, 30, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            value = tried.begin(a)
            expected = module(a)
            torch.testing.assert_close(value, expected, **EXACT)
            memory.add(value.data_ptr())
            moved = tried.move(delta, torch.tensor(0.5, dtype=torch.float64))
            torch.testing.assert_close(moved, (module(a + delta / 2) - expected) * 2, **EXACT)
            torch.testing.assert_close(value, expected, **EXACT)
    assert len(memory) == 1


def test_a_window_that_does_not_fit_is_refused_as_by_torch() -> None:
    with pytest.raises(RuntimeError):
        piece(nn.MaxPool2d(4)).begin(torch.randn(2, 1, 3, 8))


# --- dropout ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_dropout_has_one_mask_from_begin_to_begin(dtype: torch.dtype) -> None:
    """And draws it as the module would: from torch's generator, once."""
    module, a = nn.Dropout(0.4), torch.randn(BATCH, 50, dtype=dtype)
    tried = piece(module)
    torch.manual_seed(0)
    value = tried.begin(a)
    torch.manual_seed(0)
    assert torch.equal(value, module(a))
    kept = value != 0
    assert 0.4 < float(kept.double().mean()) < 0.8
    torch.testing.assert_close(value[kept], a[kept] / 0.6)
    for product in (tried.value, tried.vjp, tried.sample_jvp, tried.sample_vjp):
        torch.testing.assert_close(product(2 * a), 2 * value)
    torch.testing.assert_close(tried.move(a, torch.tensor(1e-12, dtype=dtype)), value)
    torch.testing.assert_close(tried.sample_jvp(a[:2]), value[:2])
    assert tried.lipschitz == pytest.approx(1 / 0.6)
    assert not torch.equal(tried.begin(a), value)


def test_a_dropout_in_evaluation_mode_passes_everything() -> None:
    tried, a = piece(nn.Dropout(0.4).eval()), torch.randn(3, 5)
    state = torch.get_rng_state()
    assert torch.equal(tried.begin(a), a)
    assert torch.equal(torch.get_rng_state(), state)
    assert tried.lipschitz == 1.0


class Drops(nn.Module):
    """A module of the user's own that drops out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(40, 40), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.drop(self.linear(x))
        return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_module_that_drops_out_has_one_mask_from_begin_to_begin(dtype: torch.dtype) -> None:
    module, a, delta = module_and_points((Drops, (40,)), dtype)
    tried = piece(module)
    torch.manual_seed(0)
    with torch.no_grad():
        value = tried.begin(a)
        kept = value != 0
        assert 0.3 < float(kept.double().mean()) < 0.7
        unit = torch.tensor(0.1, dtype=dtype)
        for moved in (tried.value(a + delta), tried.move(delta, unit), tried.value(a)):
            assert torch.equal(moved != 0, kept)
        state = torch.get_rng_state()
        tried.move(delta, unit)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(tried.begin(a) != 0, kept)


# --- running statistics ---


@pytest.mark.parametrize("case", NORMALISATIONS)
def test_running_statistics_move_by_the_encode_alone(case: str) -> None:
    module, a, delta = module_and_points(NORMALISATIONS[case])
    passed, before = copy.deepcopy(module), copy.deepcopy(module.state_dict())
    tried = piece(module)
    with torch.no_grad():
        tried.begin(a)
        tried.move(delta, ONE)
        tried.value(a + delta)
        for name, kept in module.state_dict().items():
            assert torch.equal(kept, before[name])
        tried.commit()
        passed(a)
    torch.testing.assert_close(module.state_dict(), passed.state_dict(), **EXACT)


@pytest.mark.parametrize("case", ["batchnorm1d", "batchnorm2d without gain"])
def test_in_evaluation_mode_the_statistics_are_what_the_module_knows(case: str) -> None:
    module, a, delta = module_and_points(NORMALISATIONS[case])
    module.eval()
    f, tried = as_function(module), piece(module)
    before = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(tried.begin(a), f(a), **EXACT)
        torch.testing.assert_close(tried.move(delta, ONE), f(a + delta) - f(a), **EXACT)
        gradient = torch.randn_like(a)
        expected = torch.func.vjp(f, a + delta)[1](gradient)[0]
        torch.testing.assert_close(tried.vjp(gradient), expected, **EXACT)
        tried.commit()
    assert all(torch.equal(kept, before[name]) for name, kept in module.state_dict().items())


def test_a_single_sample_has_no_statistics() -> None:
    with pytest.raises(ValueError, match=r"^x must hold at least 2 samples .*, but holds 1[.]$"):
        piece(nn.BatchNorm1d(3)).begin(torch.randn(1, 3))


# --- parameters, pooling, the table ---


@pytest.mark.parametrize("case", ["linear", "conv2d", "conv2d, circular", "batchnorm1d", "block", "gru"])
def test_a_frozen_parameter_has_no_gradient(case: str) -> None:
    module, a, _ = module_and_points(SMOOTH[case])
    everything = piece(module)
    with torch.no_grad():
        gradient = torch.ones_like(everything.begin(a))
        full = everything.parameter_gradients(gradient)
    first, *rest = module.parameters()
    first.requires_grad_(False)
    tried = piece(module)
    with torch.no_grad():
        tried.begin(a)
        found = tried.parameter_gradients(gradient)
    assert [id(p) for p in tried.parameters] == [id(p) for p in rest]
    torch.testing.assert_close(found, full[1:], **EXACT)


@pytest.mark.parametrize(
    ("pool", "window"),
    [
        (nn.MaxPool2d(2), 2),
        (nn.MaxPool2d((3, 3), (3, 3)), 3),
        (nn.MaxPool2d(3, 2), None),
        (nn.MaxPool2d((2, 3)), None),
        (nn.MaxPool2d(2, padding=1), None),
        (nn.MaxPool2d(2, ceil_mode=True), None),
        (nn.MaxPool2d(2, dilation=2), None),
    ],
    ids=str,
)
def test_windows_of_a_pooling(pool: nn.MaxPool2d, window: int | None) -> None:
    """p where it is the maximum over the cells of a p x p grid; else None."""
    assert MaxPoolPiece(pool).window == window
    if window is not None:
        a = torch.randn(2, 1, 7, 8)
        rows, columns = 7 // window, 8 // window
        cells = a[..., : rows * window, : columns * window].reshape(2, 1, rows, window, columns, window)
        assert torch.equal(pool(a), cells.amax((3, 5)))


def test_a_pooling_whose_maximum_changes() -> None:
    """From the first place of a window to the second, which is above it by less than the unit resolves."""
    a = torch.tensor([[[[1.0, 1.0 - 2.0**-24]]]])
    delta = torch.tensor([[[[-1.0, 3.0]]]])
    unit = torch.tensor(2.0**-24)
    tried = piece(nn.MaxPool2d((1, 2)))
    tried.begin(a)
    # Before: 1. After: 1 - 2^-24 + 3 2^-24, which float32 cannot hold; of the change nothing is lost.
    assert float(tried.move(delta, unit)) == 2.0


@pytest.mark.parametrize("case", POOLS)
def test_a_piece_is_that_of_its_module(case: str) -> None:
    assert isinstance(piece(POOLS[case][0]()), MaxPoolPiece)


def test_a_subclass_of_a_known_module_computes_what_it_says() -> None:
    """Whose forward may be anything, so that no formula of its parent's is used."""

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    module = Doubled(3, 2)
    tried = piece(module)
    assert isinstance(tried, LocalPiece)
    a = torch.randn(4, 3)
    assert torch.equal(tried.begin(a), module(a))


def test_a_piece_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    class DoublePiece(LocalPiece):
        pass

    assert type(piece(Double())) is LocalPiece
    monkeypatch.setitem(known_pieces, Double, DoublePiece)
    assert type(piece(Double())) is DoublePiece


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Bilinear(2, 2, 2), "input1, input2"),
        (nn.Embedding(3, 2), "integers"),
        (nn.MultiheadAttention(4, 2), "more than one"),
        (nn.LSTM(2, 3), "altmin_ext.nn.LSTM"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_take_one_tensor_and_return_one(module: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=r"^model cannot be split at '4.inner': .*[.]$") as error:
        piece_of("4.inner", module)
    assert words in str(error.value)


def test_tests_cover_every_known_piece() -> None:
    tried = {type(make()) for make, _ in SMOOTH.values()} | {nn.Dropout}
    assert set(known_pieces) <= tried
