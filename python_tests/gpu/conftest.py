from __future__ import annotations

import pytest

from .device import missing


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """All tests of this folder need one."""
    if reason := missing():
        pytest.skip(f"the tests on a GPU are left out: {reason}")
