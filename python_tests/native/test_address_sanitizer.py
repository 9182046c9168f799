"""The CUDA kernels under AddressSanitizer and UndefinedBehaviorSanitizer, in a process that has them preloaded.

They see what the emulator's own checks cannot: accesses between the arrays of a kernel's stack, and shifts,
conversions and null pointers anywhere in it. Oracle: a process that ends well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import build

TESTS = ["test_alignment_changes_nothing_but_the_order_of_sums", "test_softmax_of_any_number_of_classes"]


@pytest.mark.long
def test_kernels_run_clean() -> None:
    if reason := build.missing():
        pytest.skip(reason)
    build.module("address")  # by a process that is not slowed down
    environment = {**os.environ, **build.address_environment(), "ALTMIN_EMULATOR": "address"}
    file = Path(__file__).with_name("test_kernels.py").relative_to(build.ROOT)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *(f"{file}::{test}" for test in TESTS),
        ],
        cwd=build.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
