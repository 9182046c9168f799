from __future__ import annotations

import pytest

from .native import build
from .native.emulation import EmulatedModule, load_module


@pytest.fixture(scope="session")
def emulated_module() -> EmulatedModule:
    """The native module with its CUDA kernels on the emulator, compiled if need be."""
    if reason := build.missing():
        pytest.skip(reason)
    return load_module(*build.module())
