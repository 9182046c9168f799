"""The signed square root of features."""

from __future__ import annotations

from torch import Tensor, nn


class SignedSquareRoot(nn.Module):
    """``sign(x) sqrt(|x|)``, element by element: large features count for less.

    It makes means of activations fitter for linear classifiers ("power normalisation": Perronnin, Sanchez & Mensink,
    Improving the Fisher kernel for large-scale image classification, ECCV 2010). Its derivative is infinite at 0, so
    nothing below should need one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Take the root.

        Args:
            x: any shape.

        Returns:
            The signed roots, in the same shape.
        """
        return x.sign() * x.abs().sqrt()


__all__ = ["SignedSquareRoot"]
