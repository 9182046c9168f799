"""The CUDA kernels, compiled by nvcc for every target of a release.

Oracle: ptxas' own report. No kernel may spill a register, and none may use more than the budget at the head of its
file, which keeps as many threads resident as its memory traffic needs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from altmin_ext import ops

ROOT = Path(__file__).parents[2]
KERNELS = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
TARGETS = {
    "sm_80": "arch=compute_80,code=sm_80",
    "sm_90": "arch=compute_90,code=sm_90",
    "sm_100": "arch=compute_100,code=sm_100",
    "PTX": "arch=compute_80,code=compute_80",
}
# What each source file says its kernels may use. A multiprocessor has 65,536 registers: at 64 it holds 1024
# threads, at 128 half of them. float64 is there to be exact; its exponentials and error functions take more.
BUDGET = re.compile(r"^// Registers per thread: at most (\d+) in float32, (\d+) in float64\.$", re.MULTILINE)


def budget_of(name: str) -> tuple[int, int]:
    """Registers per thread in float32 and in float64."""
    stated = BUDGET.search((ROOT / "csrc" / "cuda" / f"{name}.cu").read_text())
    assert stated is not None, f"csrc/cuda/{name}.cu does not say how many registers its kernels may use"
    return int(stated[1]), int(stated[2])


def compile_kernel(source: Path, target: str, folder: Path) -> str:
    """What ptxas says about a file's kernels."""
    output = folder / f"{source.stem}-{target}.o"
    flags = (
        "-std=c++17",
        "-O3",
        "--expt-relaxed-constexpr",
        "-Werror",
        "all-warnings",
        "-Xptxas",
        "-v",
        "-Icsrc",
    )
    done = subprocess.run(
        ["nvcc", *flags, "-gencode", TARGETS[target], "-c", source, "-o", output],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module", params=TARGETS)
def reports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on the PATH, so that the CUDA kernels cannot be compiled here")
    folder = tmp_path_factory.mktemp("kernels")
    with ThreadPoolExecutor(2) as pool:
        texts = pool.map(lambda source: compile_kernel(source, request.param, folder), KERNELS)
        return dict(zip((source.stem for source in KERNELS), texts, strict=True))


@pytest.mark.parametrize("name", ops.names)
def test_every_kernel_has_a_budget(name: str) -> None:
    assert all(0 < registers <= 255 for registers in budget_of(name))


def test_no_kernel_spills_or_exceeds_its_registers(reports: dict[str, str]) -> None:
    found = 0
    for name, report in reports.items():
        for entry in report.split("Compiling entry function")[1:]:
            function = entry.split("'")[1]
            spilled = sum(int(count) for count in re.findall(r"(\d+) bytes spill", entry))
            registers = int(re.findall(r"Used (\d+) registers", entry)[0])
            budget = budget_of(name)[bool(re.search(r"kernelI(?:Li\d+E)?d", function))]
            assert spilled == 0, f"{function} spills {spilled} bytes"
            assert registers <= budget, f"{function} uses {registers} registers, its budget is {budget}"
            found += 1
    # PTX alone has no registers yet.
    assert found == 0 or found >= len(ops.names)
