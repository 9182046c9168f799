from __future__ import annotations

import pytest

from .native import build
from .native.emulation import EmulatedModule, load_module


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests, so that none is left to one process when the others have nothing more to do."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def emulated_module() -> EmulatedModule:
    """The native module with its CUDA kernels on the emulator, compiled if need be."""
    if reason := build.missing():
        pytest.skip(reason)
    return load_module(*build.module())
