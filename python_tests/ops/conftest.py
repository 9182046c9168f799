from __future__ import annotations

from collections.abc import Iterator

import pytest

from altmin_ext.ops import native


@pytest.fixture(params=["baseline", "avx2"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once per instruction set that kernels are compiled for."""
    assert native.module is not None, native.reason
    before = native.module.instruction_set()
    if not native.module.use_instruction_set(request.param):
        pytest.skip(f"this processor or build lacks {request.param}")
    yield request.param
    native.module.use_instruction_set(before)
