"""Filters that are fitted without labels.

Oracles:

- With as many filters as patches, every patch is the centre of its own cluster. The filters are then
  S S (p - mean), scaled, with S from torch's eigenvalues of the covariance that ``torch.cov`` takes.
- The layer's outputs over all patches, which torch convolves, have mean 0 and variance 1.
- Patches made of one of a few orthogonal directions each have these as their filters, however unequal the variances.
- k-means ends where every direction is that of the sum of the vectors nearest to it, summed here one by one.
- Filters of a layer with modules in front of it are those of the layer alone on what these return.
- ``patch_features`` are computed by formulas written out with torch's functions.
- ``rls`` with ``fit_filters=True`` is ``rls`` after ``fit_filters`` on its first minibatch, bit for bit.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models
from altmin_ext.filters import _spherical_k_means, fit_filters

closed_forms = pytest.mark.parametrize("name", ["rls", "slda", "ncm"])


def images(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Images with correlated pixels and a mean that is not 0."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randn(*shape, generator=generator, dtype=dtype)
    return rough + 2 * rough.roll(1, -1) + 0.5


def convolution(channels: int, filters: int, size: int = 3, dtype: torch.dtype = torch.float32) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(channels, filters, size, dtype=dtype)


def network() -> nn.Sequential:
    return models.patch_features((2, 8, 8), 54, 3, kernel_size=3)


def all_of(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
def test_as_many_filters_as_patches_are_the_whitened_patches(damping: float) -> None:
    count, entries = 40, 18
    x = images(count, 2, 3, 3, dtype=torch.float64)
    layer = convolution(2, count, dtype=torch.float64)
    fit_filters(layer, x, damping=damping)

    patches = x.flatten(1)
    centred = patches - patches.mean(0)
    covariance = torch.cov(patches.T, correction=0)
    damped = covariance + damping * covariance.trace() / entries * torch.eye(entries, dtype=torch.float64)
    expected = centred @ torch.linalg.inv(damped)
    expected /= (centred @ expected.T).std(0, correction=0)[:, None]
    found = layer.weight.detach().flatten(1)
    order = (F.normalize(found) @ F.normalize(expected).T).argmax(1)
    assert sorted(order.tolist()) == list(range(count))
    torch.testing.assert_close(found, expected[order])
    torch.testing.assert_close(layer.bias.detach(), -expected[order] @ patches.mean(0))


@pytest.mark.parametrize("dilation", [1, 2])
def test_outputs_have_mean_0_and_variance_1(dilation: int) -> None:
    x = images(30, 2, 9, 8, dtype=torch.float64)
    layer = nn.Conv2d(2, 7, (3, 2), dilation=dilation, dtype=torch.float64)
    fit_filters(layer, x)
    outputs = layer(x).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(outputs.mean(1), torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(outputs.var(1, correction=0), torch.ones(7, dtype=torch.float64))


def test_whitened_patches_are_uncorrelated_without_damping() -> None:
    """Outputs of filters (w_i) have the covariance w_i C w_j, which is <c_i, c_j> of the unit directions c."""
    x = images(50, 1, 8, 8, dtype=torch.float64)
    layer = convolution(1, 5, dtype=torch.float64)
    fit_filters(layer, x, damping=1e-12)
    filters = layer.weight.detach().flatten(1)
    covariance = torch.cov(F.unfold(x, 3).mT.flatten(0, 1).T, correction=0)
    values, axes = torch.linalg.eigh(covariance)
    directions = filters @ (axes * values.sqrt()) @ axes.T  # S^-1 w
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_directions_of_patches_are_found_whatever_their_variances() -> None:
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64))[0][:4]
    which = torch.arange(2000) % 4
    sizes = torch.tensor([10.0, 3.0, 1.0, 0.3], dtype=torch.float64)[which]
    sizes *= 1 + torch.rand(2000, generator=generator, dtype=torch.float64)
    deviations = axes[which] * sizes[:, None]
    x = (5 + torch.cat([deviations, -deviations])).view(-1, 1, 3, 3)
    layer = convolution(1, 40, dtype=torch.float64)
    fit_filters(layer, x, damping=1e-6)
    cosines = F.normalize(layer.weight.detach().flatten(1)) @ axes.T
    assert (cosines.abs().amax(1) > 1 - 1e-6).all()
    assert (cosines.amax(0) > 0).all()
    assert (cosines.amin(0) < 0).all()


def test_every_direction_is_that_of_the_vectors_nearest_to_it() -> None:
    """A fixed point of k-means, which ten rounds reach where clusters are apart."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(600, 6, generator=generator, dtype=torch.float64)
    z = torch.eye(6, dtype=torch.float64)[torch.arange(600) % 6] + 0.1 * noise
    directions = _spherical_k_means(z, 4, generator)
    nearest = [max(range(4), key=lambda c: float(row @ directions[c])) for row in z]
    for c in range(4):
        own = torch.stack([row for row, found in zip(z, nearest, strict=True) if found == c])
        torch.testing.assert_close(directions[c], F.normalize(own.sum(0), dim=0))


def test_the_layer_sees_what_stands_before_it_and_nothing_is_written() -> None:
    x = images(20, 2, 8, 8)
    alone = convolution(2, 6)
    model = nn.Sequential(
        nn.Flatten(), nn.ReLU(inplace=True), nn.Unflatten(1, (2, 8, 8)), copy.deepcopy(alone)
    )
    model.append(nn.BatchNorm2d(6)).append(nn.Flatten()).append(nn.Linear(6 * 36, 3))
    model[4].eval()
    before, rest, generator = x.clone(), all_of(model[4:]), torch.get_rng_state()
    fit_filters(alone, x.relu())
    fit_filters(model, x)
    assert same(all_of(model[3]), all_of(alone))
    assert torch.equal(x, before)
    assert same(all_of(model[4:]), rest)
    assert [module.training for module in model] == [True] * 4 + [False] + [True] * 2
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_seed_decides() -> None:
    x = images(40, 2, 8, 8)
    found = []
    for seed in (3, 3, 4):
        model = network()
        fit_filters(model, x, seed=seed)
        found.append(all_of(model))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def subclass(*arguments: int) -> nn.Conv2d:
    return type("Own", (nn.Conv2d,), {})(*arguments)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (nn.Linear(4, 2), images(5, 4), "model must hold a Conv2d"),
        (nn.Conv2d(2, 4, 3, bias=False), images(5, 2, 8, 8), "it has no bias"),
        (nn.Conv2d(2, 4, 3, groups=2), images(5, 2, 8, 8), "it has groups=2"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), images(5, 2, 8, 8), "plain Conv2d"),
        (subclass(2, 4, 3), images(5, 2, 8, 8), "plain Conv2d"),
        (nn.Conv2d(2, 4, 3), images(5, 3, 8, 8), "finite images of 2 channels"),
        (nn.Conv2d(2, 4, 3), images(5, 2, 8, 8) * float("nan"), "finite images of 2 channels"),
        (nn.Conv2d(2, 4, 3), images(5, 2, 8, 8) * 1e20, "numbers of at most 1.8e\\+19"),
        (nn.Conv2d(2, 4, 3), images(5, 2, 8, 8) * 1e-20, "at least 4 patches .* but holds 0"),
        (nn.Conv2d(2, 4, 3), images(5, 2, 2, 8), "at least its kernel's size"),
        (nn.Conv2d(2, 4, 3), images(3, 2, 3, 3), "at least 4 patches .* but holds 3"),
        (nn.Conv2d(2, 4, 3), images(0, 2, 8, 8), "x must hold images, but is empty"),
        (nn.Conv2d(2, 4, 3), torch.full((5, 2, 8, 8), 0.1), "at least 4 patches .* but holds 0"),
        (nn.Sequential(nn.Unflatten(1, (2, 8, 8)), nn.Conv2d(2, 4, 3)), images(5, 7), "does not fit the model"),
    ],
    ids=[
        "linear", "bias", "groups", "weight-norm", "subclass", "channels", "nan", "huge", "tiny", "small", "few",
        "none", "constant", "before",
    ],
)  # fmt: skip
def test_refused_before_anything_changes(model: nn.Module, x: Tensor, message: str) -> None:
    before = all_of(model)
    with pytest.raises(ValueError, match=message):
        fit_filters(model, x)
    assert same(all_of(model), before)


@closed_forms
def test_a_method_fits_them_to_its_first_minibatch(name: str) -> None:
    x, y = images(60, 2, 8, 8), torch.arange(60) % 3
    by_hand, by_method = network(), network()
    fit_filters(by_hand, x[:20], seed=7)
    for model, fits in ((by_hand, False), (by_method, True)):
        method = altmin_ext.make_method(name, model, seed=7, fit_filters=fits)
        for start in range(0, 60, 20):
            method.step(x[start : start + 20], y[start : start + 20])
    assert same(all_of(by_hand), all_of(by_method))


@closed_forms
def test_a_method_that_goes_on_fits_nothing(name: str) -> None:
    x, y = images(40, 2, 8, 8), torch.arange(40) % 3
    model = network()
    method = altmin_ext.make_method(name, model, fit_filters=True)
    method.step(x[:20], y[:20])
    resumed = copy.deepcopy(method)
    method.step(x[20:], y[20:])
    resumed.step(x[20:], y[20:])
    assert same(all_of(model), all_of(resumed.model))


def test_patch_features_are_roots_of_means_of_rectified_responses() -> None:
    x, model = images(5, 2, 11, 8), models.patch_features((2, 11, 8), 54, 3, kernel_size=3)
    weight, bias = all_of(model)[:2]
    fit_filters(model, x)
    fitted_weight, fitted_bias = all_of(model)[:2]
    assert not torch.equal(weight, fitted_weight)
    assert not torch.equal(bias, fitted_bias)
    responses = F.conv2d(x, fitted_weight, fitted_bias).relu()  # 9 x 6
    expected = F.avg_pool2d(responses, (3, 2)).sqrt().flatten(1)
    torch.testing.assert_close(model[:-1](x), expected)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    torch.testing.assert_close(
        altmin_ext.nn.SignedSquareRoot()(torch.tensor([-4.0, 0.0, 9.0])), torch.tensor([-2.0, 0.0, 3.0])
    )


@pytest.mark.parametrize("shape", [(2, 8), (2, 7, 8), (2, 8, 7)], ids=str)
def test_patch_features_refuse_images_that_are_too_small(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 8, two more than the kernel's"):
        models.patch_features(shape, 54, 3)


class Overflowing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float("inf")


@closed_forms
def test_a_first_step_that_fails_leaves_the_filters(name: str) -> None:
    x, y = images(20, 2, 8, 8), torch.arange(20) % 3
    model = nn.Sequential(nn.Conv2d(2, 4, 3), Overflowing(), nn.Flatten(), nn.Linear(144, 3))
    before = all_of(model)
    method = altmin_ext.make_method(name, model, fit_filters=True)
    with pytest.raises(altmin_ext.DivergenceError):
        method.step(x, y)
    assert same(all_of(model), before)
    with pytest.raises(altmin_ext.DivergenceError):
        method.step(x * float("nan"), y)
    assert same(all_of(model), before)
    with pytest.raises(ValueError, match="at least 4 patches"):
        method.step(torch.ones_like(x), y)
    assert same(all_of(model), before)


@closed_forms
def test_a_method_refuses_a_model_without_a_convolution(name: str) -> None:
    with pytest.raises(ValueError, match="model must hold a Conv2d"):
        altmin_ext.make_method(name, models.random_features(4, 5, 3), fit_filters=True)
