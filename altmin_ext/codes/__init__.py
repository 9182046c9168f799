"""The codes of hidden stages: how they are held, made and moved, and how weights are fitted to them.

:func:`code_for` is the one place that says which map has which code.
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
    """Make the code of a stage, chosen by the type of its map.

    To add a kind of code, register a function of ``(map, slot)`` for its map by ``code_for.register``.

    Args:
        map: the map of ``slot.stage``.
        slot: where the code stands, and what it has to do in a step.

    Returns:
        The code.

    Raises:
        TypeError: no code is known for a map of this type.
        ValueError: no kind of code has a step for the way in which the stage above reads it.
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
