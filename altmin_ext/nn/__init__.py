"""Modules that users put into networks."""

from __future__ import annotations

from altmin_ext.nn.factors import NonNegativeFactors
from altmin_ext.nn.recurrent import GRU, LSTM, Elman, TimeSteps
from altmin_ext.nn.sign import Sign
from altmin_ext.nn.signed_square_root import SignedSquareRoot
from altmin_ext.nn.stage import Stage

__all__ = ["GRU", "LSTM", "Elman", "NonNegativeFactors", "Sign", "SignedSquareRoot", "Stage", "TimeSteps"]
