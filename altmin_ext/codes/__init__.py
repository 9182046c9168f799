"""How the codes of hidden stages are held while a minibatch is trained on: made, moved, and fitted to."""

from __future__ import annotations

from altmin_ext.codes.base import Code, Flags
from altmin_ext.codes.convolution import ConvolutionCode
from altmin_ext.codes.elman import ElmanCode, OutputSequenceCode
from altmin_ext.codes.flipped import FlippedCode
from altmin_ext.codes.matrix import MatrixCode

__all__ = ["Code", "ConvolutionCode", "ElmanCode", "Flags", "FlippedCode", "MatrixCode", "OutputSequenceCode"]
