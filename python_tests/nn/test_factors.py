"""The layer of non-negative factors.

Oracles: the conditions that a non-negative least squares solution satisfies (Karush, Kuhn & Tucker), scipy's solver,
and the closed form where atoms are orthonormal; all in float64.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import NonNegativeFactors, models


def layer(features: int = 12, rank: int = 7, sweeps: int = 30) -> NonNegativeFactors:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NonNegativeFactors(features, rank, sweeps).double()


def features(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).relu()


def misfit(factors: NonNegativeFactors, rows: Tensor) -> Tensor:
    """Of every row, (rows,)."""
    return (rows - factors(rows) @ factors.dictionary.t()).square().sum(1)


def test_atoms_are_drawn_non_negative_and_of_unit_norm() -> None:
    dictionary = layer(rank=20).dictionary
    assert dictionary.shape == (12, 20)
    assert float(dictionary.min()) >= 0
    torch.testing.assert_close(dictionary.norm(dim=0), torch.ones(20, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rank", [1, 7, 20])
def test_no_sweep_raises_the_misfit(rank: int) -> None:
    rows, factors = features(40, 12), layer(rank=rank)
    before = rows.square().sum(1)  # that of zero
    for sweeps in range(1, 40):
        factors.sweeps = sweeps
        after = misfit(factors, rows)
        assert bool((after <= before + 1e-12).all())
        before = after


@pytest.mark.parametrize("rank", [1, 7, 12])
def test_solves_the_least_squares(rank: int) -> None:
    """At the end s >= 0, the gradient is >= 0, and where one is positive the other is 0."""
    rows, factors = features(40, 12), layer(rank=rank, sweeps=3000)
    codes = factors(rows)
    gradient = (codes @ factors.dictionary.t() - rows) @ factors.dictionary
    assert float(codes.min()) >= 0
    assert float(torch.minimum(codes, gradient).abs().max()) < 1e-9


def test_agrees_with_scipy() -> None:
    nnls = pytest.importorskip("scipy.optimize").nnls
    rows, factors = features(15, 12), layer(sweeps=3000)
    expected = [nnls(factors.dictionary.numpy(), row.numpy())[0] for row in rows]
    torch.testing.assert_close(
        factors(rows), torch.stack([torch.from_numpy(code) for code in expected]), rtol=0, atol=1e-9
    )


def test_orthonormal_atoms_need_one_sweep() -> None:
    """The best code is then the positive part of the projections."""
    rows, factors = features(9, 12) - 0.3, layer(sweeps=1)
    factors.dictionary.copy_(torch.eye(12, 7))
    torch.testing.assert_close(factors(rows), rows[:, :7].relu(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 2)])
def test_every_position_is_a_row(shape: tuple[int, ...]) -> None:
    maps, factors = features(5, 12, *shape), layer()
    codes = factors(maps)
    assert codes.shape == (5, 7, *shape)
    rows = maps.movedim(1, -1).reshape(-1, 12)
    torch.testing.assert_close(codes.movedim(1, -1).reshape(-1, 7), factors(rows), rtol=0, atol=1e-14)
    restored = torch.einsum("cr,br...->bc...", factors.dictionary, codes)
    torch.testing.assert_close(factors.reconstruction(codes), restored, rtol=0, atol=1e-14)


def test_unused_atom_and_empty_batch() -> None:
    factors = layer()
    factors.dictionary[:, 2] = 0
    codes = factors(features(4, 12))
    assert bool((codes[:, 2] == 0).all())
    assert bool(codes.isfinite().all())
    assert factors(features(0, 12)).shape == (0, 7)
    assert factors(features(0, 12, 3)).shape == (0, 7, 3)


def test_nan_stays_in_its_row() -> None:
    rows, factors = features(4, 12), layer()
    expected = factors(rows)
    rows[1, 3] = torch.nan
    codes = factors(rows)
    assert not bool(codes[1].isfinite().any())
    assert torch.equal(codes[[0, 2, 3]], expected[[0, 2, 3]])


def test_is_an_ordinary_module() -> None:
    """Its atoms are in the state_dict, follow the dtype, and are no parameters."""
    one, other = models.deepfacto(nn.Linear(4, 12), 12, 7, nn.Linear(7, 3)), None
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other = models.deepfacto(nn.Linear(4, 12), 12, 7, nn.Linear(7, 3))
    other.load_state_dict(torch.load(file))
    x = torch.randn(5, 4)
    assert torch.equal(one(x), other(x))
    assert one.double()[2].dictionary.dtype == torch.float64
    assert [name for name, _ in one.named_parameters()] == ["0.weight", "0.bias", "3.weight", "3.bias"]
    evaluation = altmin_ext.evaluate(one, (x.double(), torch.tensor([0, 1, 2, 0, 1])))
    assert evaluation.samples == 5


def test_has_no_derivative() -> None:
    """Autograd may pass upwards, and says so when it should pass down."""
    model = models.deepfacto(nn.Linear(4, 12), 12, 7, nn.Linear(7, 3))
    logits = model(torch.randn(5, 4))
    with pytest.raises(NotImplementedError, match="no derivative") as error:
        logits.sum().backward()
    assert "deepfacto" in str(error.value)


@pytest.mark.parametrize("name", [name for name in altmin_ext.methods.names() if name != "deepfacto"])
def test_other_methods_refuse_it(name: str) -> None:
    model = models.deepfacto(nn.Linear(4, 12), 12, 7, nn.Linear(7, 3))
    with pytest.raises(
        ValueError, match=r"NonNegativeFactors|pointwise|must be Linear|and nothing else, in front of"
    ) as error:
        altmin_ext.make_method(name, model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "kind", "word"),
    [
        ((0, 3), ValueError, "features"),
        ((3, 0), ValueError, "rank"),
        ((3, 3, 0), ValueError, "sweeps"),
        ((3.0, 3), TypeError, "features"),
        ((3, True), TypeError, "rank"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], kind: type[Exception], word: str) -> None:
    with pytest.raises(kind, match=word):
        NonNegativeFactors(*arguments)


@pytest.mark.parametrize("shape", [(12,), (3, 11), (3, 11, 12)])
def test_bad_features(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features must be \(B, 12, ...\)"):
        layer()(features(*shape))


def test_under_torch_func() -> None:
    """vmap gives the codes of one sample after the other; no derivative in any mode."""
    factors, rows = layer(), features(5, 12)
    by_sample = torch.func.vmap(lambda row: factors(row[None])[0])
    torch.testing.assert_close(by_sample(rows), factors(rows))
    torch.testing.assert_close(torch.func.vmap(factors)(rows.view(5, 1, 12))[:, 0], factors(rows))
    dictionaries = torch.stack([factors.dictionary, factors.dictionary.flip(1)])

    def with_atoms(dictionary: Tensor) -> Tensor:
        return torch.func.functional_call(factors, {"dictionary": dictionary}, (rows,))

    found = torch.func.vmap(with_atoms)(dictionaries)
    torch.testing.assert_close(found, torch.stack([with_atoms(dictionary) for dictionary in dictionaries]))
    for transform in (torch.func.grad(lambda x: factors(x).sum()), torch.func.jacfwd(factors)):
        with pytest.raises(NotImplementedError, match=r"no derivative.*deepfacto"):
            transform(rows)


def test_computes_in_the_dtype_of_its_atoms_under_autocast() -> None:
    factors, rows = layer().float(), features(5, 12).float()
    expected = factors(rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(factors(rows), expected)
        assert factors(rows.bfloat16()).dtype == torch.float32
