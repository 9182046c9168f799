"""Filters of a convolution that are learned from images alone, without labels and without a derivative."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._mode import evaluating
from altmin_ext.network import may_write_input
from altmin_ext.network.known import described, known_as

_MOST_PATCHES = 20_000  # patches that filters are learned from: more change nothing
_CHUNK = 100  # images whose patches are in memory at a time
_ROUNDS = 10  # of k-means, which has settled by then


def fit_filters(model: nn.Module, x: Tensor, *, damping: float = 0.1, seed: int = 0) -> None:
    """Fit the filters of a model's first Conv2d to the patches of some images.

    Patches p of the layer's input are whitened, z = S (p - mean) with S = (C + d I)^(-1/2), where C is their
    covariance. Spherical k-means finds as many directions c of z as the layer has filters. These become
    w = S c and the bias -w mean, scaled such that the layer's outputs, which are <c, z>, have mean 0 and variance 1
    over the patches. This is the unsupervised learner of Coates & Ng (2012), with the threshold 0.

    A few images suffice, such as the first 100 of a stream. Closed-form learners can then learn a head on the
    filters, and nothing moves under it: pass ``fit_filters=True`` to ``method="rls"``, or call this before training::

        model = models.patch_features((3, 32, 32), 790, 10)
        altmin_ext.fit_filters(model, x[:100])
        altmin_ext.train(model, (x, y), method="rls")

    Only what stands before the layer decides what it sees; padding is left out. All else in the model stays as it is.

    Args:
        model: holds a Conv2d with a bias and ``groups=1``; it is changed in place.
        x: (N, ...), images as the model takes them, in its dtype and on its device. At most 20,000 patches are used,
            the same number of each image.
        damping: d in units of the mean variance of an entry of a patch, .1 by default. A small one shows fine
            detail and noise as strong as coarse shapes; a large one leaves patches as they are. Strokes, as in MNIST,
            do better with 3 than with .1.
        seed: of the choice of patches and of the first directions; torch's global generator is not used.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the model has no such layer or does not take x; or the images have fewer patches that differ from
            their mean than there are filters. Nothing has changed.

    References:
        Coates, Lee & Ng, An analysis of single-layer networks in unsupervised feature learning, AISTATS 2011.
        Coates & Ng, Learning feature representations with k-means, in Neural Networks: Tricks of the Trade, 2012.

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import models
        >>> model = models.patch_features((1, 8, 8), 90, 10, kernel_size=4)
        >>> altmin_ext.fit_filters(model, torch.randn(100, 1, 8, 8))
        >>> altmin_ext.filters.filters_of(model).weight.shape
        torch.Size([10, 1, 4, 4])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {_check.named_type(model)}.")
    x = _check.tensor("x", x)
    damping = _check.number("damping", damping, above=0.0)
    generator = torch.Generator().manual_seed(_check.seed("seed", seed))
    layer = filters_of(model)
    if len(x) == 0:
        raise ValueError("x must hold images, but is empty.")
    with torch.no_grad():
        patches = _sample(_inputs_of(layer, model, x), layer, generator).double()
        mean = patches.mean(0)
        deviations = patches - mean
        _check_differ(deviations, patches, layer)
        whitening = _whitening(deviations, damping)
        directions = _spherical_k_means(deviations @ whitening, layer.out_channels, generator)
        filters = directions @ whitening
        filters /= (deviations @ filters.T).square().mean(0).sqrt()[:, None]
        bias = -filters @ mean
        layer.weight.copy_(filters.view_as(layer.weight))
        layer.bias.copy_(bias)  # type: ignore[union-attr]


def filters_of(model: nn.Module) -> nn.Conv2d:
    """Find the layer whose filters :func:`fit_filters` fits.

    Args:
        model: any module.

    Returns:
        Its first Conv2d, in the order of ``model.modules()``.

    Raises:
        ValueError: there is none, or its filters are not those of whole patches.
    """
    layer = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if layer is None:
        raise ValueError("model must hold a Conv2d for its filters to be fitted, but holds none.")
    fault = ""
    if known_as(layer) is not nn.Conv2d:  # perhaps what is written to its weight would be lost
        fault = f"it is {described(layer)}"
    elif layer.groups != 1 or layer.bias is None:
        fault = "it has no bias" if layer.bias is None else f"it has groups={layer.groups}"
    if fault:
        raise ValueError(
            f"model must have a plain Conv2d with a bias and groups=1 as its first, but {fault}."
        )
    return layer


class _Found(Exception):
    """The layer has been reached; nothing behind it is needed."""


def _inputs_of(layer: nn.Conv2d, model: nn.Module, x: Tensor) -> Tensor:
    """The layer's inputs (N, channels, height, width) in evaluation mode."""
    seen: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise _Found

    x = x.clone() if may_write_input(model) else x
    handle = layer.register_forward_pre_hook(look)
    try:
        with evaluating(model):
            model(x)
    except _Found:
        pass
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as error:
        raise ValueError(f"x of shape {tuple(x.shape)} does not fit the model: {error}.") from error
    finally:
        handle.remove()
    fits = len(seen) == 1 and seen[0].ndim == 4 and seen[0].shape[1] == layer.in_channels
    if not fits or not bool(seen[0].isfinite().all()):
        raise ValueError(
            f"x must give the first Conv2d finite images of {layer.in_channels} channels, but does not."
        )
    return seen[0]


def _sample(images: Tensor, layer: nn.Conv2d, generator: torch.Generator) -> Tensor:
    """At most _MOST_PATCHES patches (M, entries of a filter), the same number of each image."""
    per_image = max(1, _MOST_PATCHES // max(1, len(images)))
    found = []
    for chunk in images[:_MOST_PATCHES].split(_CHUNK):
        try:
            patches = F.unfold(chunk, layer.kernel_size, layer.dilation).mT
        except RuntimeError:
            raise ValueError(
                f"x must give the first Conv2d images of at least its kernel's size {tuple(layer.kernel_size)}, "
                f"but they are {tuple(chunk.shape[2:])}."
            ) from None
        chances = torch.ones(patches.shape[:2])
        chosen = chances.multinomial(min(per_image, patches.shape[1]), generator=generator).to(chunk.device)
        found.append(patches.take_along_dim(chosen[:, :, None], 1).flatten(0, 1).cpu())
    return torch.cat(found)


def _check_differ(deviations: Tensor, patches: Tensor, layer: nn.Conv2d) -> None:
    """Raise a ValueError unless, by more than rounding, as many patches differ from their mean as there are filters.

    Squares must be in the range of the model's numbers, and so are filters then.
    """
    limits = torch.finfo(layer.weight.dtype)
    largest = float(patches.abs().max())
    if largest > limits.max**0.5:
        raise ValueError(
            f"x must give the first Conv2d numbers of at most {limits.max**0.5:.1e}, but gives {largest:.1e}; "
            "scale the images."
        )
    different = int((deviations.abs().amax(1) > max(limits.eps * largest, limits.tiny**0.5)).sum())
    if different < layer.out_channels:
        raise ValueError(
            f"x must hold at least {layer.out_channels} patches that differ from their mean, one for each filter, "
            f"but holds {different}; pass more images."
        )


def _whitening(deviations: Tensor, damping: float) -> Tensor:
    """(C + damping mean(diag C) I)^(-1/2), (n, n), of patches with these deviations (M, n) from their mean."""
    variances, axes = torch.linalg.eigh(deviations.T @ deviations / len(deviations))
    return (axes * (variances.clamp_min(0) + damping * variances.mean()).rsqrt()) @ axes.T


def _spherical_k_means(z: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` unit vectors (count, n): each the direction of the sum of the z (M, n) that it is nearest to.

    Short vectors say little about directions. They are seldom among the first ones, and weigh little in the sums.
    A vector that is nearest to none stays where it is.
    """
    weights = z.square().sum(1)
    directions = F.normalize(z[weights.multinomial(count, generator=generator)], dim=1)
    for _ in range(_ROUNDS):
        nearest = F.one_hot((z @ directions.T).argmax(1), count).to(z.dtype)
        sums = nearest.T @ z
        directions = F.normalize(torch.where(sums.any(1, keepdim=True), sums, directions), dim=1)
    return directions


__all__ = ["filters_of", "fit_filters"]
