"""What the figures of a table hold for: the processor with its instruction set, and versions of packages."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

_instruction_sets = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "asimd": "NEON"}


def described(cpuinfo: str) -> str | None:
    """Describe the first processor of /proc/cpuinfo.

    Args:
        cpuinfo: the content of that file.

    Returns:
        Such as "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz (AVX-512)". A virtual machine's name without a number
        gets family and model: "AMD EPYC (family 26, model 2, AVX-512)". None if there is no name.
    """
    entries: dict[str, str] = {}
    for line in cpuinfo.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        entries[key.strip()] = value.strip()
    name = entries.get("model name")
    if not name:
        return None
    flags = (entries.get("flags") or entries.get("Features", "")).split()
    notes = [text for flag, text in _instruction_sets.items() if flag in flags][:1]
    if not re.search(r"\d", name.replace("(R)", "")) and "cpu family" in entries:
        notes = [f"family {entries['cpu family']}", f"model {entries.get('model', '?')}", *notes]
    return f"{name} ({', '.join(notes)})" if notes else name


def name() -> str:
    """The processor of this machine."""
    try:
        found = described(Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found or platform.processor() or platform.machine()


def cores() -> list[int]:
    """The cores that this process may use; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def heading(*packages: str) -> str:
    """One line for above a table: the processor, its cores, and the versions of packages that are installed."""
    count = len(cores()) or os.cpu_count() or 1
    parts = [name(), f"{count} core{'s' if count > 1 else ''}"]
    for package in packages:
        try:
            parts.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)
