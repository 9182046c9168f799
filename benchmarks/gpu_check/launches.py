"""What a step launches, as torch's profiler sees it."""

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


def cases(rehearses: bool) -> list[str]:
    return [f"{network}; {precision}" for network in NETWORKS for precision in (OFF, ON)]


def counted(call: Callable[[], object], device: torch.device) -> collections.Counter[tuple[str, str]]:
    """How often each (kind, name) was launched in ``STEPS`` calls; nothing on a CPU."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize(device)
    with profile(activities=activities) as watched:
        for _ in range(STEPS):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        watched.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return collections.Counter((event.get("cat", ""), event.get("name", "")) for event in events)


def _counts(call: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """What a row says of one call."""
    found = counted(call, device)
    if device.type == "cpu":
        return {"left_out": "kernels need the GPU itself"}
    counts = {
        kind: sum(n for (cat, _), n in found.items() if cat == own) / STEPS for kind, own in KINDS.items()
    }
    return {
        **counts,
        "by_kernel": {name: n / STEPS for (cat, name), n in found.most_common() if cat == "kernel"},
    }


def measure(case: str, device: torch.device) -> list[dict[str, Any]]:
    network, precision = case.split("; ")
    set_tf32(precision == ON)
    batch = SMALL_BATCH if device.type == "cpu" else BATCH
    rows = []
    for name in contenders(NETWORKS[network]):
        row: dict[str, Any] = {"network": network, "batch": batch, "precision": precision, "contender": name}
        calls, instead = prepared([name], NETWORKS[network], batch, device)
        rows.append(row | (_counts(calls[name], device) if name in calls else instead[name]))
    return rows
