"""The ops of graphs (altmin_ext/nn) in ONNX. Importing this needs onnxscript."""

from __future__ import annotations

from typing import Any, TypeVar, Union

import numpy as np
import onnxscript
from onnxscript import DOUBLE, FLOAT
from onnxscript import opset18 as op

Real = TypeVar("Real", bound=Union[FLOAT, DOUBLE])  # noqa: UP007, the only spelling that onnxscript reads
_functions = onnxscript.values.Opset("altmin_ext", 1)


def elman(x: Any, v: Any, u: Any, bias_v: Any, bias_u: Any) -> Any:
    """h_t = tanh(V x_t + U h_{t-1} + b): ONNX has an operator for it, with the time steps first."""
    bias = op.Unsqueeze(op.Concat(bias_v, bias_u, axis=0), [0])
    one_direction = op.Unsqueeze(v, [0]), op.Unsqueeze(u, [0]), bias
    states, _ = op.RNN(op.Transpose(x, perm=[1, 0, 2]), *one_direction, hidden_size=int(u.shape[0]))
    return op.Transpose(op.Squeeze(states, [1]), perm=[1, 0, 2])


def non_negative_codes(rows: Any, dictionary: Any, sweeps: int) -> Any:
    """Non-negative least squares by sweeps over the entries of a code."""
    return _sweeps(rows, dictionary, sweeps=sweeps, epsilon=float(np.finfo(rows.dtype.numpy()).eps))


# One iteration of the loop sets entry j of all codes, which lie in row j. An atom that is zero keeps its zeros.
@onnxscript.script(_functions, default_opset=op)
def _sweeps(rows: Real, dictionary: Real, sweeps: int, epsilon: float) -> Real:
    atoms = op.Transpose(dictionary, perm=[1, 0])
    gram = op.MatMul(atoms, dictionary)
    cross = op.MatMul(atoms, op.Transpose(rows, perm=[1, 0]))
    squares = op.ReduceSum(atoms * atoms, [1], keepdims=1)
    smallest = op.ReduceMax(squares, keepdims=1) * op.CastLike(op.Constant(value_float=epsilon), squares)
    is_used = squares > smallest
    codes = op.CastLike(op.Expand(0.0, op.Shape(cross)), cross)
    rank = op.Shape(gram, start=0, end=1)
    for i in range(op.Squeeze(rank) * op.Constant(value_int=sweeps)):
        j = op.Mod(op.Reshape(i, op.Constant(value_ints=[1])), rank)
        missing = op.Gather(cross, j) - op.MatMul(op.Gather(gram, j), codes)
        code = op.Gather(codes, j)
        best = op.Where(op.Gather(is_used, j), op.Relu(code + missing / op.Gather(squares, j)), code)
        codes = op.ScatterND(codes, op.Unsqueeze(j, [1]), best)
    return op.Transpose(codes, perm=[1, 0])
