"""The CUDA kernels, compiled by nvcc for every target of a release.

Oracle: ptxas' own report. No kernel may spill a register, and none may use more than the budget below, which keeps
as many threads resident as its memory traffic needs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
TARGETS = {
    "sm_80": "arch=compute_80,code=sm_80",
    "sm_90": "arch=compute_90,code=sm_90",
    "sm_100": "arch=compute_100,code=sm_100",
    "PTX": "arch=compute_80,code=compute_80",
}
# Registers per thread, of float32 and of float64. A multiprocessor has 65,536: at 64 it holds 1024 threads, at 128
# half of them. float64 is there to be exact; its exponentials and error functions take what they need.
BUDGET = {
    "activate": (56, 72),
    "adam_update": (48, 64),
    "bcd_columns": (96, 128),
    "code_step": (128, 224),
    "convolution_vjp": (80, 80),
    "convolution_weight_gradient": (128, 128),
    "convolve": (96, 128),
    "deinterleave": (32, 32),
    "elman_code_step": (120, 200),
    "elman_encode": (40, 56),
    "hinge_prox": (32, 40),
    "interleave": (32, 32),
    "memory_update": (80, 128),
    "mse_residual": (56, 56),
    "power_iteration": (48, 48),
    "relu_prox": (32, 40),
    "sgd_update": (32, 40),
    "sign_flip": (64, 80),
    "softmax_prox": (80, 80),
    "softmax_residual": (64, 80),
    "weight_residual": (64, 64),
}


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


def test_no_kernel_spills_or_exceeds_its_registers(reports: dict[str, str]) -> None:
    found = 0
    for name, report in reports.items():
        for entry in report.split("Compiling entry function")[1:]:
            function = entry.split("'")[1]
            spilled = sum(int(count) for count in re.findall(r"(\d+) bytes spill", entry))
            registers = int(re.findall(r"Used (\d+) registers", entry)[0])
            budget = BUDGET[name][bool(re.search(r"kernelI(?:Li\d+E)?d", function))]
            assert spilled == 0, f"{function} spills {spilled} bytes"
            assert registers <= budget, f"{function} uses {registers} registers, its budget is {budget}"
            found += 1
    # PTX alone has no registers yet.
    assert found == 0 or found >= len(BUDGET)
