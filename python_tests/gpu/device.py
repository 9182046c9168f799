"""The GPU that the tests run on, or why there is none.

``ALTMIN_TEST_DEVICE=cpu`` rehearses them without one: what compares results runs on the CPU, eagerly, and what is
about the device itself is skipped.
"""

from __future__ import annotations

import os

import pytest
import torch

from altmin_ext.ops import _native as native

GPU = torch.device(os.environ.get("ALTMIN_TEST_DEVICE", "cuda:0"))
REHEARSES = GPU.type == "cpu"
needs_gpu = pytest.mark.skipif(REHEARSES, reason="this is about the GPU itself")


def missing() -> str:
    """Why the tests cannot run on the device, or nothing."""
    if not REHEARSES:
        if torch.version.cuda is None:
            return f"torch {torch.__version__} is a build without CUDA"
        if not torch.cuda.is_available():
            return (
                f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, but finds no usable GPU"
            )
    if native.module is None:
        return native.reason
    if not REHEARSES and not native.has_cuda_kernels:
        return f"the native module was built without CUDA kernels: {native.module.cuda_reason}"
    return ""
