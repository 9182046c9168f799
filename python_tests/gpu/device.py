"""The GPU that the tests run on, or why there is none."""

from __future__ import annotations

import torch

from altmin_ext.ops import _native as native

GPU = torch.device("cuda", 0)


def missing() -> str:
    """Why the CUDA kernels cannot run here; nothing if they can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, but finds no usable GPU"
    if native.module is None:
        return native.reason
    if not native.has_cuda_kernels:
        return f"the native module was built without CUDA kernels: {native.module.cuda_reason}"
    return ""
