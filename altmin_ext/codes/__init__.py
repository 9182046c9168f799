"""How the codes of hidden stages are held while a minibatch is trained on: made, moved, and fitted to.

Which map has which code is said here, once.
"""

from __future__ import annotations

import functools

from altmin_ext._check import named_type
from altmin_ext.codes.base import Code, Flags, Slot
from altmin_ext.codes.convolution import ConvolutionCode
from altmin_ext.codes.elman import ElmanCode, OutputSequenceCode
from altmin_ext.codes.flipped import FlippedCode
from altmin_ext.codes.matrix import MatrixCode
from altmin_ext.network import ElmanMap, EvaluatedMap, LocalMap, Map, OutputSequenceMap

__all__ = [
    "Code",
    "ConvolutionCode",
    "ElmanCode",
    "Flags",
    "FlippedCode",
    "MatrixCode",
    "OutputSequenceCode",
    "Slot",
    "code_for",
]


@functools.singledispatch
def code_for(map: Map, slot: Slot) -> Code:
    """The code of a stage, by the type of its map. A new kind of code is entered by ``code_for.register``.

    Args:
        map: that of ``slot.stage``.
        slot: where the code stands, and what is asked of it.

    Raises:
        TypeError: no code is known for such a map.
        ValueError: the stage above reads the code in a way that no kind of code has a step for.
    """
    raise TypeError(f"map must be one that a code is known for, but is {named_type(map)}.")


@code_for.register
def _as_matrix(map: EvaluatedMap, slot: Slot) -> Code:
    return FlippedCode(map, slot) if FlippedCode.suits(slot.above) else MatrixCode(map, slot)


@code_for.register
def _by_kernels_that_convolve(map: LocalMap, slot: Slot) -> Code:
    if map.convolution is not None and ConvolutionCode.suits(slot):
        return ConvolutionCode(map.convolution, slot)
    return _as_matrix(map, slot)


code_for.register(ElmanMap, ElmanCode)
code_for.register(OutputSequenceMap, OutputSequenceCode)
