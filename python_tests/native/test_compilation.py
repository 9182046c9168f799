"""The CUDA build as a release has it: every kernel compiled by nvcc for every target, and the module linked.

Oracle: ptxas' own report. No kernel may spill a register, and none may use more than the budget at the head of its
file, which keeps as many threads resident as its memory traffic needs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from altmin_ext import ops

from ..test_house import WITHOUT_CUDA_KERNEL
from . import build

KERNELS = tuple(name for name in ops.names if name not in WITHOUT_CUDA_KERNEL)
TARGETS = ("sm_80", "sm_90", "sm_100")
# What each source file says its kernels may use. A multiprocessor has 65,536 registers: at 64 it holds 1024
# threads, at 128 half of them. float64 is there to be exact; its exponentials and error functions take more.
BUDGET = re.compile(r"^// Registers per thread: at most (\d+) in float32, (\d+) in float64\.$", re.MULTILINE)


def budget_of(name: str) -> tuple[int, int]:
    """Registers per thread in float32 and in float64."""
    stated = BUDGET.search((build.ROOT / "csrc" / "cuda" / f"{name}.cu").read_text())
    assert stated is not None, f"csrc/cuda/{name}.cu does not say how many registers its kernels may use"
    return int(stated[1]), int(stated[2])


pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def release() -> tuple[Path, dict[str, str]]:
    """The module with CUDA, and what ptxas says about each file's kernels."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on the PATH, so that the CUDA kernels cannot be compiled here")
    return build.cuda_module()


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_a_budget(name: str) -> None:
    assert all(0 < registers <= 255 for registers in budget_of(name))


@pytest.mark.parametrize("target", TARGETS)
def test_no_kernel_spills_or_exceeds_its_registers(release: tuple[Path, dict[str, str]], target: str) -> None:
    measured = set()
    for name, report in release[1].items():
        for entry in report.split("Compiling entry function")[1:]:
            if f"for '{target}'" not in entry.partition("\n")[0]:
                continue
            measured.add(name)
            function = entry.split("'")[1]
            spilled = sum(int(count) for count in re.findall(r"(\d+) bytes spill", entry))
            registers = int(re.findall(r"Used (\d+) registers", entry)[0])
            budget = budget_of(name)[bool(re.search(r"kernelI(?:Li\d+E)?d", function))]
            assert spilled == 0, f"{function} spills {spilled} bytes"
            assert registers <= budget, f"{function} uses {registers} registers, its budget is {budget}"
    assert measured == set(KERNELS)


def test_later_gpus_find_ptx(release: tuple[Path, dict[str, str]]) -> None:
    assert "code=[compute_100" in (build.NVCC / "build.ninja").read_text()


def test_module_is_imported_without_a_gpu(release: tuple[Path, dict[str, str]]) -> None:
    script = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("_C", {str(release[0])!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.cuda_compiled_version() > 0, module.cuda_device_count())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    with_cuda, devices = done.stdout.split()
    assert with_cuda == "True"
    assert int(devices) <= 0
