from __future__ import annotations

import zlib

import pytest

from altmin_ext.ops import _native as native

from .emulation import EmulatedModule


@pytest.fixture
def emulated(
    emulated_module: EmulatedModule, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> EmulatedModule:
    """Runs the ops of this test on the emulator, with a schedule that belongs to the test."""
    monkeypatch.setattr(native, "module", emulated_module)
    emulated_module.emulator.seed(zlib.crc32(request.node.nodeid.encode()))
    return emulated_module
