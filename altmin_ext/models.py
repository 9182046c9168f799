"""The papers' architectures as plain torch modules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from altmin_ext import _check
from altmin_ext._generators import torch_kept
from altmin_ext.network.activations import known_activations
from altmin_ext.nn import Elman, NonNegativeFactors, Sign, SignedSquareRoot, TimeSteps


def _checked_widths(n_in: int, hidden: Sequence[int], n_out: int) -> list[int]:
    return [
        _check.integer("n_in", n_in),
        *_check.integers("hidden", hidden),
        _check.integer("n_out", n_out),
    ]


def mlp(n_in: int, hidden: Sequence[int], n_out: int, activation: str = "relu") -> nn.Sequential:
    """A fully connected network: flatten, then a Linear and an activation per hidden layer, then a Linear.

    Args:
        n_in: number of features of a flattened sample.
        hidden: width of every hidden layer; empty for a linear classifier.
        n_out: classes, or outputs for ``loss="mse"``.
        activation: "identity", "relu", "leaky_relu", "elu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu",
            "softplus", or a :class:`altmin_ext.nn.Sign` with one of its surrogates: "sign", "sign_clipped" or
            "sign_none".

    Returns:
        An ``nn.Sequential`` that takes (B, ...) to logits (B, n_out).

    Raises:
        TypeError: a width is no integer, ``hidden`` no list, or ``activation`` no name.
        ValueError: there is no activation of that name, or a width is below 1.

    Examples:
        >>> import torch
        >>> from altmin_ext import models
        >>> models.mlp(784, [100, 100], 10)(torch.randn(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """
    activation = _check.known("activation", activation, known_activations)
    widths = _checked_widths(n_in, hidden, n_out)
    modules: list[nn.Module] = [nn.Flatten()]
    for width_in, width_out in itertools.pairwise(widths[:-1]):
        modules += [nn.Linear(width_in, width_out), known_activations[activation].make()]
    return nn.Sequential(*modules, nn.Linear(widths[-2], widths[-1]))


def binary_mlp(
    n_in: int = 784, hidden: Sequence[int] = (500, 500), n_out: int = 10, surrogate: str = "identity"
) -> nn.Sequential:
    """The binary network of Choromanska et al. (2019): flatten, Linear, Tanh, Sign, ..., Linear, Tanh, Linear.

    Every hidden layer except the last passes only its signs to the next one.

    Args:
        n_in: number of features of a flattened sample.
        hidden: width of every hidden layer; with fewer than two there is no Sign.
        n_out: classes, or outputs for ``loss="mse"``.
        surrogate: the surrogate for the derivative of :class:`altmin_ext.nn.Sign`: "identity", "clipped" or "none".

    Returns:
        An ``nn.Sequential`` that takes (B, ...) to logits (B, n_out).

    Raises:
        TypeError: a width is no integer, or ``hidden`` no list.
        ValueError: there is no surrogate of that name, or a width is below 1.

    Examples:
        >>> import torch
        >>> from altmin_ext import models
        >>> model = models.binary_mlp(64, (30, 30), 10, surrogate="none")
        >>> model[:4](torch.randn(100, 64)).unique().tolist()
        [-1.0, 1.0]
    """
    widths = _checked_widths(n_in, hidden, n_out)
    modules: list[nn.Module] = [nn.Flatten()]
    for width_in, width_out in itertools.pairwise(widths[:-1]):
        modules += [nn.Linear(width_in, width_out), nn.Tanh(), Sign(surrogate)]
    if len(widths) > 2:
        modules.pop()
    return nn.Sequential(*modules, nn.Linear(widths[-2], widths[-1]))


def lenet5(in_channels: int = 1, size: int = 28, n_out: int = 10) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling, as in Choromanska et al. (2019).

    Two 5 x 5 convolutions of 6 and 16 channels, each with a ReLU and a 2 x 2 max-pooling, then 120, 84 and n_out
    units.

    Args:
        in_channels: channels of the images, 1 by default.
        size: height and width of the images, 28 or 32 in the paper; at least 16, with which the last pooling leaves
            one pixel.
        n_out: classes, or outputs for ``loss="mse"``.

    Returns:
        An ``nn.Sequential`` that takes (B, in_channels, size, size) to logits (B, n_out).

    Raises:
        TypeError: a number is no integer.
        ValueError: the images are too small, or a number is below 1.

    Examples:
        >>> import torch
        >>> from altmin_ext import models
        >>> models.lenet5(in_channels=3, size=32)(torch.randn(5, 3, 32, 32)).shape
        torch.Size([5, 10])
    """
    in_channels, n_out = _check.integer("in_channels", in_channels), _check.integer("n_out", n_out)
    size = _check.integer("size", size, minimum=16)
    side = ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * side * side, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, n_out),
    )  # fmt: skip


def elman_rnn(n_in: int = 1, hidden: int = 50, steps: int = 784, n_out: int = 10) -> nn.Sequential:
    """The recurrent network of Choromanska et al. (2019), appendix C: Elman, ReLU, flatten, then a Linear.

    It reads an image pixel by pixel, or any other (B, ...) input with ``steps * n_in`` numbers per sample.

    Args:
        n_in: features of one time step.
        hidden: units of the hidden state.
        steps: length of every sequence.
        n_out: classes, or outputs for ``loss="mse"``.

    Returns:
        An ``nn.Sequential`` that takes (B, ...) with ``steps * n_in`` numbers per sample to logits (B, n_out).

    Raises:
        TypeError: a size is no integer.
        ValueError: a size is below 1.

    Examples:
        >>> import torch
        >>> from altmin_ext import models
        >>> models.elman_rnn(n_in=8, hidden=15, steps=8)(torch.randn(5, 1, 8, 8)).shape  # row by row
        torch.Size([5, 10])
    """
    sizes = {"n_in": n_in, "hidden": hidden, "steps": steps, "n_out": n_out}
    n_in, hidden, steps, n_out = (_check.integer(name, value) for name, value in sizes.items())
    return nn.Sequential(
        TimeSteps(n_in), Elman(n_in, hidden), nn.ReLU(), nn.Flatten(), nn.Linear(steps * hidden, n_out)
    )


def deepfacto(encoder: nn.Module, features: int, rank: int, head: nn.Module) -> nn.Sequential:
    """A network for DeepFacto (Khorram et al. 2021): encoder, ReLU, NonNegativeFactors, head.

    Args:
        encoder: maps x to features (B, C), or to maps of features (B, C, ...), whose positions share one dictionary.
        features: C.
        rank: r, the number of factors.
        head: maps codes (B, r), or maps of codes (B, r, ...), to logits.

    Returns:
        An ``nn.Sequential`` of the four.

    Raises:
        TypeError, ValueError: ``features`` or ``rank`` is no integer, or below 1.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from altmin_ext import models
        >>> model = models.deepfacto(nn.Linear(64, 100), 100, 30, nn.Linear(30, 10))
        >>> codes = model[:-1](torch.randn(5, 64))
        >>> codes.shape, bool((codes >= 0).all())
        (torch.Size([5, 30]), True)
    """
    return nn.Sequential(encoder, nn.ReLU(), NonNegativeFactors(features, rank), head)


def random_features(
    n_in: int | Sequence[int], width: int, n_out: int, activation: str = "relu", seed: int = 0
) -> nn.Sequential:
    """A frozen random layer under a Linear head, for a head that is solved for, as by ``method="rls"``.

    The random weights are normal with the variance 2 / inputs (He et al. 2015), without biases. For images the layer
    is a convolution of 5 x 5, whose outputs are averaged over a grid of 3 x 3 windows.

    Args:
        n_in: number of features of a flattened sample, for a fully connected layer; or the shape of an image,
            (channels, height, width), for a convolution.
        width: number of features that the head reads. A convolution has about so many: 9 for every filter.
        n_out: classes, or outputs for real targets.
        activation: of the random layer, as for :func:`mlp`.
        seed: of the random layer and of the head's first weights; torch's global generator is not used.

    Returns:
        An ``nn.Sequential`` that takes (B, ...), flat or as images, to logits (B, n_out). Only the head requires a
        gradient.

    Raises:
        TypeError: a number is no integer, or ``activation`` no name.
        ValueError: there is no activation of that name, a number is below 1, or ``n_in`` is not the shape of an
            image.

    Examples:
        >>> from altmin_ext import models
        >>> model = models.random_features(64, 500, 10)
        >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        ['3.weight', '3.bias']
    """
    activation = _check.known("activation", activation, known_activations)
    width, n_out = _check.integer("width", width), _check.integer("n_out", n_out)
    is_image = isinstance(n_in, (list, tuple))
    sizes = _check.integers("n_in", n_in) if is_image else [_check.integer("n_in", n_in)]
    if is_image and len(sizes) != 3:
        raise ValueError(f"n_in must be a number or (channels, height, width), but is {tuple(sizes)}.")
    with torch_kept():
        torch.manual_seed(_check.seed("seed", seed))
        below: list[nn.Module] = [nn.Flatten()]
        if is_image:
            channels, height, width_of_image = sizes
            kernel = min(5, height), min(5, width_of_image)
            grid = min(3, height - kernel[0] + 1), min(3, width_of_image - kernel[1] + 1)
            filters = max(1, round(width / math.prod(grid)))
            width = filters * math.prod(grid)
            layer: nn.Module = nn.Conv2d(channels, filters, kernel, bias=False)
            below += [nn.Unflatten(1, tuple(sizes)), layer, known_activations[activation].make()]
            below += [nn.AdaptiveAvgPool2d(grid), nn.Flatten()]
        else:
            layer = nn.Linear(sizes[0], width, bias=False)
            below += [layer, known_activations[activation].make()]
        (weight,) = layer.parameters()
        nn.init.kaiming_normal_(weight, nonlinearity="relu").requires_grad_(False)
        return nn.Sequential(*below, nn.Linear(width, n_out))


def patch_features(
    shape: Sequence[int], width: int, n_out: int, kernel_size: int = 6, seed: int = 0
) -> nn.Sequential:
    """A frozen convolution under a Linear head, for filters that :func:`altmin_ext.fit_filters` fits to images.

    This is the single-layer network of Coates, Lee & Ng (AISTATS 2011): filters with a bias, a ReLU, and the mean
    over each of 3 x 3 windows. The square root behind it comes from Perronnin, Sanchez & Mensink (ECCV 2010). Until
    they are fitted, filters are random: normal, with the variance 2 / inputs.

    Args:
        shape: of an image, (channels, height, width); height and width at least ``kernel_size + 2``.
        width: number of features that the head reads, about: 9 for every filter.
        n_out: classes, or outputs for real targets.
        kernel_size: height and width of a filter, 6 by default; 9 suits the strokes of MNIST.
        seed: of the filters and of the head's first weights; torch's global generator is not used.

    Returns:
        An ``nn.Sequential`` that takes (B, ...), flat or as images, to logits (B, n_out). Only the head requires a
        gradient.

    Raises:
        TypeError: a number is no integer, or ``shape`` no list.
        ValueError: ``shape`` does not have three numbers, images are too small, or a number is below 1.

    Examples:
        >>> import torch
        >>> from altmin_ext import models
        >>> models.patch_features((3, 32, 32), 900, 10)(torch.randn(5, 3, 32, 32)).shape
        torch.Size([5, 10])
    """
    width, n_out = _check.integer("width", width), _check.integer("n_out", n_out)
    kernel_size, sizes = _check.integer("kernel_size", kernel_size), _check.integers("shape", shape)
    if len(sizes) != 3 or min(sizes[1:]) < kernel_size + 2:
        raise ValueError(
            f"shape must be (channels, height, width) with a height and width of at least {kernel_size + 2}, two "
            f"more than the kernel's, but is {tuple(sizes)}."
        )
    filters = max(1, round(width / 9))
    with torch_kept():
        torch.manual_seed(_check.seed("seed", seed))
        convolution = nn.Conv2d(sizes[0], filters, kernel_size)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        return nn.Sequential(
            nn.Flatten(), nn.Unflatten(1, tuple(sizes)),
            convolution.requires_grad_(False), nn.ReLU(), nn.AdaptiveAvgPool2d(3),
            SignedSquareRoot(), nn.Flatten(),
            nn.Linear(9 * filters, n_out),
        )  # fmt: skip


__all__ = ["binary_mlp", "deepfacto", "elman_rnn", "lenet5", "mlp", "patch_features", "random_features"]
