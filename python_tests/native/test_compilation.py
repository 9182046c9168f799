"""The CUDA build as a release has it: every kernel compiled by nvcc for every target, and the module linked.

Oracle: ptxas' own report. No kernel may spill a register, and none may use more than the budget below, which keeps
as many threads resident as its memory traffic needs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import build

TARGETS = ("sm_80", "sm_90", "sm_100")
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


pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def release() -> tuple[Path, dict[str, str]]:
    """The module with CUDA, and what ptxas says about each file's kernels."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on the PATH, so that the CUDA kernels cannot be compiled here")
    return build.cuda_module()


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
            budget = BUDGET[name][bool(re.search(r"kernelI(?:Li\d+E)?d", function))]
            assert spilled == 0, f"{function} spills {spilled} bytes"
            assert registers <= budget, f"{function} uses {registers} registers, its budget is {budget}"
    assert measured == BUDGET.keys()


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
