"""The card and what it can do: the rates that floors and predictions rest on."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import time
from typing import Any

import torch

from .timing import of_kernels, set_tf32

SIDE, SMALL_SIDE = 8192, 64
COPY_BYTES, SMALL_COPY_BYTES = 2**31, 2**16
FEW_NUMBERS, LAUNCHES = 1024, 200


def cases(rehearses: bool) -> list[str]:
    return ["card", "rates"]


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    found = subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()
    return found[0] if found else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def description(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, finds no usable GPU"
        )
    known: dict[str, Any] = {
        "name": platform.processor() or platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        known |= {
            "name": properties.name,
            "architecture": f"{properties.major}{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "cache_bytes": getattr(properties, "L2_cache_size", 0),
            "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        }
    return known


def _copy_rate(device: torch.device) -> float:
    source = torch.randn((SMALL_COPY_BYTES if device.type == "cpu" else COPY_BYTES) // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / of_kernels([lambda: target.copy_(source)], device)


def _product_rate(device: torch.device, tf32: bool) -> float:
    side = SMALL_SIDE if device.type == "cpu" else SIDE
    left, right = (torch.randn(side, side, device=device) for _ in range(2))
    product = torch.empty_like(left)
    set_tf32(tf32)
    return 2 * side**3 / of_kernels([lambda: torch.mm(left, right, out=product)], device)


def rates(device: torch.device) -> dict[str, float]:
    """Bytes of a copy, read and written, and operations of a large float32 product, per second; a launch's cost.

    The last is the time of a kernel with next to nothing to do, one of many in a CUDA graph.
    """
    found = {
        "copy_bytes_per_second": _copy_rate(device),
        "float32_operations_per_second": _product_rate(device, tf32=False),
        "tf32_operations_per_second": _product_rate(device, tf32=True),
    }
    few = torch.zeros(FEW_NUMBERS, device=device)
    found["launch_seconds"] = of_kernels(
        [lambda: few.add_(1.0)] * (2 if device.type == "cpu" else LAUNCHES), device
    )
    return found


def measure(case: str, device: torch.device) -> list[dict[str, Any]]:
    return [description(device) if case == "card" else rates(device)]
