"""Memory that an op cannot have: a MemoryError, and nothing written.

Oracle: every allocation of a call in turn fails, whichever thread makes it; a process that goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from altmin_ext import ops

from . import build, calls_without_memory


@pytest.mark.long
def test_every_allocation_may_fail() -> None:
    if reason := build.missing():
        pytest.skip(reason)
    library = build.failing_allocator()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "python_tests.native.calls_without_memory", library],
        cwd=build.ROOT,
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"after {done.stdout.splitlines()[-1:]}: {done.stderr[-2000:]}"
    calls = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [(op, threads) for threads in calls_without_memory.THREADS for op in ops.names]
    assert [(call["op"], call["threads"]) for call in calls] == expected
    assert all(count > 0 for call in calls for count in call["allocations"].values())


# softmax_prox takes 16 doubles of each class from a thread that has had only little, then more than the process may
# have.
WITHIN_A_LIMIT = """
import re, resource, torch
from altmin_ext import ops
torch.set_num_threads(4)

def arguments(classes):
    center = torch.randn(64, classes)
    return center, torch.zeros(64, dtype=torch.int64), torch.zeros_like(center)

def call(center, labels, out):
    ops.softmax_prox(center, labels, out=out, rho=1.0)

call(*arguments(1000))
large = arguments(60_000)
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 2_000_000, resource.RLIM_INFINITY))
try:
    call(*large)
except MemoryError:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("MemoryError", bool(large[2].any()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limit of address space")
def test_a_limit_of_memory() -> None:
    done = subprocess.run([sys.executable, "-c", WITHIN_A_LIMIT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["MemoryError", "False"]


def test_an_empty_batch_takes_no_memory() -> None:
    """Whatever the number of classes, of which a center holds 16 each."""
    classes = 2**44
    center, out = torch.empty(0, classes), torch.empty(0, classes)
    ops.softmax_prox(center, torch.empty(0, dtype=torch.int64), out=out, rho=1.0)
