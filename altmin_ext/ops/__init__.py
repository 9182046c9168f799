"""The arithmetic of training: one typed function per op, each in the file of its name.

An op runs a kernel of the native module if there is one for the device of its tensors. Otherwise it runs its twin in
plain torch, ``ops.reference.<op>``, which takes the same arguments and defines the op. The formulas are in
``csrc/ops/<op>.h`` as well. Ops write into tensors that they are given, and kernels allocate nothing. As torch's own
operations do, they raise the version counters of these tensors, except as ``ops.unversioned.<op>``, which methods use
on buffers of their own. Scalars that
change from step to step come in parameter blocks, rows of float64 named by :mod:`altmin_ext.ops.scalars`. A ``guard``
is a float64 tensor of one flag, raised (set to 1) when a result is not finite; it is never lowered.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from altmin_ext.ops import scalars
from altmin_ext.ops._declaration import backend, declared
from altmin_ext.ops._lanes import LANES
from altmin_ext.ops.activate import activate
from altmin_ext.ops.activation import Activation
from altmin_ext.ops.activation_difference import activation_difference
from altmin_ext.ops.activation_vjp import activation_vjp
from altmin_ext.ops.adam_update import adam_update
from altmin_ext.ops.bcd_columns import bcd_columns
from altmin_ext.ops.code_step import code_step
from altmin_ext.ops.convolution_vjp import convolution_vjp
from altmin_ext.ops.convolution_weight_gradient import convolution_weight_gradient
from altmin_ext.ops.convolve import convolve
from altmin_ext.ops.deinterleave import deinterleave
from altmin_ext.ops.elman_code_step import elman_code_step
from altmin_ext.ops.elman_encode import elman_encode
from altmin_ext.ops.hinge_prox import hinge_prox
from altmin_ext.ops.interleave import interleave
from altmin_ext.ops.matmul import matmul
from altmin_ext.ops.memory_solve import memory_solve
from altmin_ext.ops.memory_update import memory_update
from altmin_ext.ops.mse_residual import mse_residual
from altmin_ext.ops.power_iteration import power_iteration
from altmin_ext.ops.relu_prox import relu_prox
from altmin_ext.ops.scalars import AdamScalar, CodeScalar, MemoryScalar, UpdateScalar
from altmin_ext.ops.sgd_update import sgd_update
from altmin_ext.ops.sign_flip import sign_flip
from altmin_ext.ops.softmax_prox import softmax_prox
from altmin_ext.ops.softmax_residual import softmax_residual
from altmin_ext.ops.weight_residual import weight_residual

#: The names of all ops.
names = tuple(declared)
#: The twins in plain torch, one for each op, by its name.
reference = SimpleNamespace(**{name: op.reference for name, op in declared.items()})
if TYPE_CHECKING:
    from altmin_ext import ops as unversioned
else:
    #: The ops, leaving version counters as they are.
    unversioned = SimpleNamespace(**{name: op.unversioned for name, op in declared.items()})

__all__ = [
    "LANES",
    "Activation",
    "AdamScalar",
    "CodeScalar",
    "MemoryScalar",
    "UpdateScalar",
    "activate",
    "activation_difference",
    "activation_vjp",
    "adam_update",
    "backend",
    "bcd_columns",
    "code_step",
    "convolution_vjp",
    "convolution_weight_gradient",
    "convolve",
    "deinterleave",
    "elman_code_step",
    "elman_encode",
    "hinge_prox",
    "interleave",
    "matmul",
    "memory_solve",
    "memory_update",
    "mse_residual",
    "names",
    "power_iteration",
    "reference",
    "relu_prox",
    "scalars",
    "sgd_update",
    "sign_flip",
    "softmax_prox",
    "softmax_residual",
    "unversioned",
    "weight_residual",
]
