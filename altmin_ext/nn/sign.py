"""The binary activation, a step from -1 to +1, and the surrogates for its derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext.errors import unknown_name
from altmin_ext.ops.activation import sign, surrogates


class _StraightThrough(torch.autograd.Function):
    """The sign with a surrogate for its derivative."""

    @staticmethod
    def forward(c: Tensor, surrogate: str) -> Tensor:
        return sign(c)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        c, context.surrogate = inputs
        context.save_for_backward(c)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (c,) = context.saved_tensors
        return gradient * surrogates[context.surrogate](c), None


class _InEveryMode(_StraightThrough):
    """The same in every mode of torch: backward, forward, and under vmap. No graph of torch.compile holds it."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        _StraightThrough.setup_context(context, inputs, output)
        context.save_for_forward(inputs[0])

    @staticmethod
    def jvp(context: Any, tangent: Tensor, _: None) -> Tensor:
        (c,) = context.saved_tensors
        return tangent * surrogates[context.surrogate](c)


class Sign(nn.Module):
    """The sign, elementwise: -1 where the input is at most 0, +1 where it is greater; NaN stays NaN.

    Its derivative is zero wherever it exists. Autograd and the code updates of alternating minimisation use a
    surrogate instead (straight-through: Bengio, Léonard & Courville 2013, arXiv 1308.3432; clipped: Courbariaux et
    al. 2016, arXiv 1602.02830).

    Args:
        surrogate: "identity", the default: 1 everywhere. "clipped": 1 where the input lies in [-1, 1], else 0.
            "none": 0, with which backpropagation learns nothing below, while the code updates compare both signs of
            every unit instead (:func:`altmin_ext.ops.sign_flip`).

    Raises:
        ValueError: there is no surrogate of that name.

    Examples:
        >>> import torch
        >>> from altmin_ext.nn import Sign
        >>> Sign("none")(torch.tensor([-0.5, 0.0, 2.0]))
        tensor([-1., -1.,  1.])
    """

    def __init__(self, surrogate: str = "identity") -> None:
        super().__init__()
        if surrogate not in surrogates:
            raise unknown_name("surrogate", surrogate, surrogates)
        self.surrogate = surrogate

    def forward(self, c: Tensor) -> Tensor:
        function = _StraightThrough if torch.compiler.is_compiling() else _InEveryMode
        value: Tensor = function.apply(c, self.surrogate)
        return value

    def extra_repr(self) -> str:
        return f"surrogate={self.surrogate!r}"


def check_surrogates(model: nn.Module) -> None:
    """Raise a ValueError if no gradient can pass a :class:`Sign` of the model."""
    for path, module in model.named_modules():
        if isinstance(module, Sign) and module.surrogate == "none":
            raise ValueError(
                f"model must have a surrogate for every Sign, but that of {path!r} is 'none'; "
                "make it Sign('identity') or Sign('clipped')."
            )
