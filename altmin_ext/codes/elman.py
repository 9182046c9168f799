"""The codes of an Elman layer (Choromanska et al. 2019, appendix C): all its time steps, and its output sequence."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from altmin_ext.codes.base import Code, Slot
from altmin_ext.network import ElmanMap, OutputSequenceMap
from altmin_ext.ops import LANES, CodeScalar
from altmin_ext.ops import unversioned as ops
from altmin_ext.ops.activation import identity


class ElmanCode(Code):
    """The pre-activations of all time steps, with 16 samples side by side.

    One call makes all iterations of all time steps, from the last time step to the first. It also computes the sums
    to which the recurrent weights are fitted: sum r a^T and, for several weight updates, sum a a^T, over all samples
    and time steps, with a = [h_{t-1}; x_t; 1].

    Memory: B T d numbers, and as many again for the output sequence.

    Args:
        map: the map of ``slot.stage``.
        slot: where it stands.
    """

    iterates_itself = True

    def __init__(self, map: ElmanMap, slot: Slot) -> None:
        super().__init__(slot)
        self._map, self._elman = map, map.module
        self._sigma, self._reader = map.output.sigma, map.output.reader
        self._iterations, self._weight_iterations = slot.code_iterations, slot.weight_iterations
        self.activation_displacement = None

    def _make_buffers(self, batch: int, like: Tensor) -> None:
        steps, width = self.shape
        columns = width + self._elman.input_size + 1
        self._hidden = like.new_empty(-(-batch // LANES), steps, width, LANES)
        self.activation = like.new_empty(batch, self._reader.n_out)
        self._reader.output = like.new_empty(batch, steps * width)
        self._cross = like.new_empty(width, columns)
        self._gram = like.new_empty(columns, columns) if self._weight_iterations > 1 else None

    def buffers(self) -> Any:
        return dict(vars(self))

    def encode(self, activation: Tensor) -> Tensor:
        """Make the codes of a new minibatch, and the product of the map that reads the output sequence.

        Args:
            activation: (B, T, n), the input sequences.

        Returns:
            (B, m), W o with W the map that reads the output sequence o.
        """
        e = self._elman
        self._reader.has_output = False
        self._x = activation.contiguous()
        ops.elman_encode(
            self._x,
            input_weight=e.weight_ih_l0,
            recurrent_weight=e.weight_hh_l0,
            input_bias=e.bias_ih_l0,
            recurrent_bias=e.bias_hh_l0,
            output_weight=self._reader.weight,
            hidden=self._hidden,
            product=self.activation,
            sigma=self._sigma,
        )
        return self.activation

    def step(self, pulled_back: Tensor, change: Tensor | None, above: Tensor | None, first: bool) -> None:
        assert above is not None
        ops.elman_code_step(
            self._hidden,
            self._x,
            recurrent_weight=self._elman.weight_hh_l0,
            output_weight=self._reader.weight,
            displacement=pulled_back,
            cross=self._cross,
            gram=self._gram,
            output=self._reader.output,
            scalars=self.row,
            above=above,
            iterations=self._iterations,
            sigma=self._sigma,
            guard=self.flags.code,
        )
        self._reader.has_output = True

    def rescale(self, ratio: Tensor) -> None:
        self._cross *= ratio.to(self._cross)
        self.row[CodeScalar.residual_square] *= ratio**2

    def vjp(self, out: Tensor | None) -> Tensor:
        raise AssertionError("nothing lies below the time steps")

    def vjp_after_move(self, below: Code, pulled_back: Tensor, more: int) -> tuple[Tensor, Tensor | None]:
        raise AssertionError("nothing lies below the time steps")

    def _weights(self) -> Tensor:
        """[U V b], the weights that the sums are about."""
        e = self._elman
        return torch.cat([e.weight_hh_l0, e.weight_ih_l0, (e.bias_ih_l0 + e.bias_hh_l0)[:, None]], 1)

    def fit(self, activation: Tensor, below: Code | None, first: bool) -> None:
        gradient = self._cross
        if first:
            self._weights_of_encode = self._weights()
        else:
            # The objective is quadratic: the two sums give its gradient at the current weights.
            assert self._gram is not None
            change = self._weights() - self._weights_of_encode
            gradient = gradient + change @ self._gram / self.row[CodeScalar.scale]
        width = len(gradient)
        parts = {"weight_hh_l0": gradient[:, :width], "weight_ih_l0": gradient[:, width:-1]}
        parts |= dict.fromkeys(("bias_ih_l0", "bias_hh_l0"), gradient[:, -1])
        for name, part in parts.items():
            buffer = self._map.gradient_of(getattr(self._elman, name))
            if buffer is not None:
                buffer.copy_(part)


class OutputSequenceCode(Code):
    """The output sequence o, held as s in o0 - o = W^T s, with W the map that reads it.

    The downstream gradient of o is W^T (dloss / dlogits), so a step on o is a step on s along dloss / dlogits.

    Args:
        map: the map of ``slot.stage``.
        slot: where it stands.
    """

    def __init__(self, map: OutputSequenceMap, slot: Slot) -> None:
        super().__init__(slot)
        self._reader = map.reader
        self._several = slot.code_iterations > 1
        # By the size of the minibatch: as long as a recording of steps writes to one, it is the one to read, too.
        self._displacements: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
        self._gram = self._reader.weight.new_empty(self._reader.n_out, self._reader.n_out)
        self.activation_displacement = None

    def _make_buffers(self, batch: int, like: Tensor) -> None:
        shape = (batch, self._reader.n_out)
        self._displacement = self._displacements.setdefault(batch, like.new_empty(shape))
        self._scratch = like.new_empty(shape)
        self._velocity = like.new_empty(shape) if self._several else None
        self.activation = like.new_empty(shape)

    def buffers(self) -> Any:
        return dict(vars(self))

    def encode(self, activation: Tensor) -> Tensor:
        weight = self._reader.weight
        ops.matmul(weight, weight, out=self._gram, transpose_b=True)
        self._product = activation
        return activation

    @property
    def moved(self) -> Tensor:
        square = ((self._displacement @ self._gram) * self._displacement).double().sum()
        return self.unit * (square / (self._batch * self.width)).sqrt()

    def step(self, pulled_back: Tensor, change: Tensor | None, above: Tensor | None, first: bool) -> None:
        ops.code_step(
            self._product,
            pulled_back,
            displacement=self._displacement,
            velocity=self._velocity,
            activation=self._scratch,
            scalars=self.row,
            above=above,
            first=first,
            sigma=identity,
            guard=self.flags.code,
        )
        torch.addmm(self._product, self._displacement, self._gram, alpha=-1.0, out=self.activation)

    def vjp(self, out: Tensor | None) -> Tensor:
        return self._displacement

    def vjp_after_move(self, below: Code, pulled_back: Tensor, more: int) -> tuple[Tensor, Tensor | None]:
        raise AssertionError("the time steps take all their steps at once")

    def fit(self, activation: Tensor, below: Code | None, first: bool) -> None:
        """Do nothing: the map has no parameters.

        Args:
            activation, below, first: as for :meth:`Code.fit`; unused.
        """
