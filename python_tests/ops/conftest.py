from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import pytest

from altmin_ext.ops import _native as native

from ..gpu import device
from ..gpu.proxy import OnGpu
from ..native.emulation import EmulatedModule

INSTRUCTION_SETS = ["baseline", "avx2"]
WIDE_INSTRUCTION_SETS = [
    *INSTRUCTION_SETS,
    "avx512",
]  # what ops declared with ALTMIN_WIDE_OP are compiled for
GPUS = [] if device.missing() else ["gpu"]


@contextlib.contextmanager
def _instruction_set(name: str) -> Iterator[None]:
    assert native.module is not None, native.reason
    before = native.module.instruction_set()
    if not native.module.use_instruction_set(name):
        pytest.skip(f"this processor or build lacks {name}")
    yield
    native.module.use_instruction_set(before)


def _run_on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param in WIDE_INSTRUCTION_SETS:
        with _instruction_set(request.param):
            yield request.param
        return
    if request.param == "emulated":
        module: EmulatedModule | OnGpu = request.getfixturevalue("emulated_module")
        # The order of threads and blocks belongs to the test.
        module.emulator.seed(zlib.crc32(request.node.nodeid.encode()))
    else:
        module = OnGpu(native.module, device.GPU)
    monkeypatch.setattr(native, "module", module)
    yield request.param


@pytest.fixture(params=INSTRUCTION_SETS)
def cpu_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs the test once per instruction set that the CPU's kernels are compiled for."""
    yield from _run_on(request, monkeypatch)


@pytest.fixture(params=WIDE_INSTRUCTION_SETS)
def wide_cpu_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same for the ops that are declared with ALTMIN_WIDE_OP."""
    yield from _run_on(request, monkeypatch)


@pytest.fixture(params=[*INSTRUCTION_SETS, "emulated", *GPUS])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs the test on the CPU's kernels, on the CUDA kernels under the emulator, and on a GPU if there is one."""
    yield from _run_on(request, monkeypatch)


@pytest.fixture(params=[*WIDE_INSTRUCTION_SETS, "emulated", *GPUS])
def wide_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same for the ops that are declared with ALTMIN_WIDE_OP."""
    yield from _run_on(request, monkeypatch)
