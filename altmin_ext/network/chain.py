"""Chains of pieces, evaluated and differentiated as one function."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from altmin_ext._generators import torch_kept
from altmin_ext.network.pieces import (
    DropoutPiece,
    MaxPoolPiece,
    Piece,
    PointwisePiece,
    ReshapePiece,
    WrongOutput,
)
from altmin_ext.ops import Activation
from altmin_ext.ops.activation import fused, identity
from altmin_ext.parallel.ranks import Ranks


class Chain:
    """Pieces one after the other, with the methods of a single :class:`Piece`.

    Args:
        pieces: in the order of the forward pass; empty for the identity.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = list(pieces)

    def begin(self, a: Tensor) -> Tensor:
        """Evaluate the chain for the first time in a step, at a0; the pieces remember this point.

        Args:
            a: (B, ...), a0.

        Returns:
            The value f(a0).
        """
        for piece in self.pieces:
            a = piece.begin(a)
        return a

    def value(self, a: Tensor) -> Tensor:
        """Evaluate the chain at another point, where the pieces stand from now on.

        Args:
            a: (B, ...).

        Returns:
            The value f(a).
        """
        for piece in self.pieces:
            a = piece.value(a)
        return a

    def move(self, delta: Tensor, unit: Tensor, point: Tensor | None = None) -> Tensor:
        """Move the pieces to a0 + unit delta, where they stand from now on.

        Args:
            delta: shaped like a0.
            unit: 0-d, positive.
            point: a0 + unit delta, if some of its numbers are exact; None: it is added up.

        Returns:
            (f(a0 + unit delta) - f(a0)) / unit, without cancellation as far as the pieces allow.
        """
        for number, piece in enumerate(self.pieces):
            delta = piece.move(delta, unit, point if number == 0 else self.pieces[number - 1].here)
        return delta

    @property
    def here(self) -> Tensor | None:
        """f(a0 + unit delta) after :meth:`move`, if some of its numbers are exact; else None."""
        return self.pieces[-1].here if self.pieces else None

    def vjp(self, gradient: Tensor) -> Tensor:
        """Multiply by the transposed Jacobian where the pieces stand.

        Args:
            gradient: shaped like the value.

        Returns:
            J^T gradient, shaped like the input.
        """
        for piece in reversed(self.pieces):
            gradient = piece.vjp(gradient)
        return gradient

    def parameter_gradients(self, gradient: Tensor) -> list[Tensor]:
        """The gradients in the parameters where the pieces stand.

        Args:
            gradient: shaped like the value.

        Returns:
            J_w^T gradient for each parameter w, in the order of the pieces and their ``parameters``.
        """
        found: list[Tensor] = []
        learned = [i for i, piece in enumerate(self.pieces) if piece.parameters]
        for i in reversed(range(min(learned, default=len(self.pieces)), len(self.pieces))):
            if i == learned[0]:
                return self.pieces[i].parameter_gradients(gradient) + found
            gradient, own = self.pieces[i].gradients(gradient)
            found = own + found
        return found

    def output_shape(self, shape: torch.Size, like: Tensor) -> torch.Size:
        """Find the shape of a sample's value by a trial run.

        Args:
            shape: of a sample's input.
            like: a tensor of the model's dtype and device.

        Returns:
            The shape of its value.

        Raises:
            TypeError: a module returns something else than one tensor.
            ValueError: the chain cannot take such a sample. The message is half a sentence; the caller puts the
                stage's name in front.
        """
        # Two samples, since batch normalisation needs more than one.
        trial = like.new_zeros(2, *shape)
        try:
            with torch.no_grad(), torch_kept(*([like.device] if like.is_cuda else [])):
                return self.begin(trial).shape[1:]
        except WrongOutput:
            raise
        except (RuntimeError, TypeError, IndexError) as error:
            raise ValueError(f"fails with {str(error).splitlines()[0].rstrip('.')!r}") from error

    def sample_jvp(self, v: Tensor) -> Tensor:
        """Multiply by the Jacobian of single samples; the coupling of samples by batch normalisation is left out.

        Args:
            v: shaped like the input of the first len(v) samples.

        Returns:
            J v, shaped like their value.
        """
        for piece in self.pieces:
            v = piece.sample_jvp(v)
        return v

    def sample_vjp(self, v: Tensor) -> Tensor:
        """Multiply by the transposed Jacobian of single samples, as in :meth:`sample_jvp`.

        Args:
            v: shaped like the value of the first len(v) samples.

        Returns:
            J^T v, shaped like their input.
        """
        for piece in reversed(self.pieces):
            v = piece.sample_vjp(v)
        return v

    def commit(self) -> None:
        """Update what depends on the encode, such as running statistics."""
        for piece in self.pieces:
            piece.commit()

    def share(self, ranks: Ranks) -> None:
        """Evaluate the samples of one rank, see :meth:`Piece.share`.

        Args:
            ranks: that share the minibatches.

        Raises:
            ValueError: a piece needs all samples at once.
        """
        for piece in self.pieces:
            piece.share(ranks)

    @property
    def calls_modules(self) -> bool:
        """Whether a piece runs the code of a module whose formula is not known."""
        return any(piece.calls_module for piece in self.pieces)

    @property
    def saves_output(self) -> bool:
        """Whether the value must not be overwritten until the next evaluation."""
        return any(piece.saves_output for piece in self.pieces)


class PreMap(Chain):
    """The part of a stage in front of its map: activations, dropout, pooling, anything without parameters.

    Args:
        pieces: one for each module, in the order of the forward pass.

    Attributes:
        pieces: the same function in as few pieces and as little work as possible: identities are dropped,
            neighbouring activations are fused, and a monotone activation comes behind a max-pooling, where fewer
            numbers are left.
        unfused: one piece for each module except identities.
        activation: the activation, possibly the identity, if the kernels of Linear stages can compute the pre-map:
            one activation, then at most one dropout, and flattening anywhere. Otherwise None.
        pooled_activation: the activation, possibly the identity, if the kernels of convolutions can compute the
            pre-map: a monotone activation and a max-pooling without overlap, in either order, then perhaps
            flattening. Otherwise None.
        pool: the side of the pooling windows that belong to ``pooled_activation``; 1 without pooling.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__(_fused(pieces))
        self.unfused = [p for p in pieces if not (isinstance(p, PointwisePiece) and p.activation == identity)]
        acting = [piece for piece in self.pieces if not isinstance(piece, ReshapePiece)]
        activations = [piece.activation for piece in acting if isinstance(piece, PointwisePiece)]
        drops = [piece for piece in acting if isinstance(piece, DropoutPiece)]
        pools = [piece for piece in acting if isinstance(piece, MaxPoolPiece)]
        known = len(acting) == len(activations) + len(drops) + len(pools)
        few = known and len(activations) <= 1 and len(drops) <= 1 and len(pools) <= 1
        last_drops = all(piece is acting[-1] for piece in drops)
        alone = activations[0] if activations else identity
        self.activation: Activation | None = alone if few and last_drops and not pools else None
        self.pooled_activation: Activation | None = None
        self.pool = 1
        reshapes_last = not any(isinstance(p, ReshapePiece) for p in self.pieces[: len(acting)])
        if few and not drops and reshapes_last and alone.is_monotone:
            sizes = [piece.window for piece in pools]
            if all(size is not None for size in sizes):
                self.pooled_activation = alone
                self.pool = sizes[0] or 1 if sizes else 1
        self._dropout = drops[0] if self.activation is not None and drops else None

    def draw_mask(self, code: Tensor) -> Tensor | None:
        """Draw the dropout mask of this step for the kernels, if the pre-map has an ``activation``.

        Args:
            code: (B, n), whose shape, dtype and device the mask gets.

        Returns:
            The mask, 0 or 1 / (1 - p); None if nothing is dropped.
        """
        return None if self._dropout is None else self._dropout.draw(code)

    @property
    def keeps_shape(self) -> bool:
        """Whether its pieces are of kinds that turn n features into n features."""
        return all(isinstance(p, PointwisePiece | DropoutPiece | ReshapePiece) for p in self.pieces)

    @property
    def drops(self) -> bool:
        """Whether it holds a dropout, whose rate may change between steps."""
        return any(isinstance(piece, DropoutPiece) for piece in self.pieces)

    @property
    def is_identity(self) -> bool:
        """Whether it returns its input unchanged, in training and in evaluation mode."""
        return not self.pieces

    @property
    def is_relu_or_identity(self) -> bool:
        """Whether it is a relu or the identity, which return an entry unchanged, or as 0 with derivative 0."""
        return (
            self._dropout is None
            and self.activation is not None
            and self.activation.name in ("relu", "identity")
        )

    @property
    def has_sign_without_derivative(self) -> bool:
        """Whether it holds a Sign without a surrogate derivative."""
        return any(isinstance(p, PointwisePiece) and p.activation.name == "sign_none" for p in self.pieces)

    @property
    def lipschitz(self) -> float | None:
        """A bound of the norm of its Jacobian; None if a piece has none."""
        slopes = [piece.lipschitz for piece in self.pieces]
        return None if None in slopes else math.prod(slope for slope in slopes if slope is not None)


def _fused(pieces: Sequence[Piece]) -> list[Piece]:
    """The same function with identities dropped, and neighbouring activations fused if kernels know the result.

    The maximum of a monotone activation is the activation of the maximum, which is taken once per window.
    """
    result: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, PointwisePiece) and piece.activation == identity:
            continue
        if result and isinstance(piece, PointwisePiece) and isinstance(result[-1], PointwisePiece):
            both = fused(result[-1].activation, piece.activation)
            if both is not None:
                result[-1] = PointwisePiece(both)
                continue
        place = len(result)
        if isinstance(piece, MaxPoolPiece):
            while place > 0 and _is_monotone(result[place - 1]):
                place -= 1
        result.insert(place, piece)
    return result


def _is_monotone(piece: Piece) -> bool:
    return isinstance(piece, PointwisePiece) and piece.activation.is_monotone
