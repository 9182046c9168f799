"""What a step launches, and how long its kernels take, as torch's profiler sees it."""

from __future__ import annotations

import collections
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .contenders import NETWORKS, contenders, prepared
from .steps import OFF, ON
from .timing import set_tf32

BATCH, SMALL_BATCH = 200, 4
STEPS = 4  # as many as there are minibatches
KINDS = {
    "kernels": "kernel",
    "copies": "gpu_memcpy",
    "fills": "gpu_memset",
}  # and what the profiler calls them
OWN = "altmin::"  # in the names of this package's kernels
Seen = dict[tuple[str, str], list[float]]  # microseconds of every launch of a (kind, name)


def cases(rehearses: bool) -> list[str]:
    return [f"{network}; {precision}" for network in NETWORKS for precision in (OFF, ON)]


def watched(call: Callable[[], object], device: torch.device) -> Seen:
    """What ``STEPS`` calls launched; nothing on a CPU."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize(device)
    with profile(activities=activities) as profiler:
        for _ in range(STEPS):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    seen: Seen = collections.defaultdict(list)
    for event in events:
        seen[event.get("cat", ""), event.get("name", "")].append(event.get("dur", 0.0))
    return seen


def _of_a_step(call: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """What a row says of one call."""
    seen = watched(call, device)
    if device.type == "cpu":
        return {"left_out": "kernels need the GPU itself"}
    counts = {
        kind: sum(len(times) for (cat, _), times in seen.items() if cat == own) / STEPS
        for kind, own in KINDS.items()
    }
    kernels = {name: sum(times) / STEPS for (cat, name), times in seen.items() if cat == KINDS["kernels"]}
    return {
        **counts,
        "kernel_microseconds": sum(kernels.values()),
        "own_kernel_microseconds": sum(time for name, time in kernels.items() if OWN in name),
        "by_kernel": {
            name: {"launches": len(seen[KINDS["kernels"], name]) / STEPS, "microseconds": time}
            for name, time in sorted(kernels.items(), key=lambda kernel: -kernel[1])
        },
    }


def measure(case: str, device: torch.device) -> list[dict[str, Any]]:
    network, precision = case.split("; ")
    set_tf32(precision == ON)
    batch = SMALL_BATCH if device.type == "cpu" else BATCH
    rows = []
    for name in contenders(NETWORKS[network]):
        row: dict[str, Any] = {"network": network, "batch": batch, "precision": precision, "contender": name}
        calls, instead = prepared([name], NETWORKS[network], batch, device)
        rows.append(row | (_of_a_step(calls[name], device) if name in calls else instead[name]))
    return rows
