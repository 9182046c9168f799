"""Checks the CUDA kernels on a GPU, within a number of seconds.

    python -m benchmarks.gpu_check [--seconds 540] [--output runs/gpu-check]

Measures the card, builds the package for it, runs the tests of the ops and of whole steps on it, times steps beside
torch's, every op beside its floor, and counts launches, beside what benchmarks/cuda-cost.md foretells. It takes the
interpreter's own packages: torch for CUDA, numpy, tqdm, pip, scikit-build-core, pybind11, CMake, ninja, pytest, and
nvcc; no virtual environment and no network.

Each part is saved as it ends, as JSON, and the page report.md is written anew; the log has what was printed. A part
that fails, crashes, hangs or runs out of time is reported, and the next one runs. The exit status is 1 if any failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from . import report
from .isolation import NO_TIME, Setting
from .journal import write_whole
from .parts import PARTS, Check, Part

DRY_RUN_SECONDS = 3600.0  # it takes a minute, but for machines that are busy otherwise
STALL_SECONDS = 90.0  # of a case; torch.compile may take half of that
LEAST_SECONDS = 20.0  # of a part, where there are that many: to start and to import torch takes some


class Overview:
    """One line per part, and whether one of them failed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed = False

    def add(self, part: Part, text: str, seconds: float, failed: bool) -> None:
        self.failed = self.failed or failed
        self.lines.append(f"{part.name}: {'FAILED: ' if failed else ''}{text} ({seconds:.0f} s)")
        print(self.lines[-1], flush=True)


def said(content: dict[str, object]) -> tuple[str, bool]:
    """What a part's content comes to in a line, and whether that is a failure."""
    rows, failures, left_out = (list(content.get(key, [])) for key in ("rows", "failures", "left_out"))  # type: ignore[call-overload]
    tests = [row for row in rows if "passed" in row]
    counts = [f"{sum(row[key] for row in tests)} {key}" for key in ("passed", "failed", "skipped") if tests]
    parts = counts or [f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}"]
    if failures and not tests:
        parts.append(f"{len(failures)} failed, first: {failures[0]['error'].strip().splitlines()[-1]}")
    if left_out:
        parts.append(f"{len(left_out)} left out")
    if problem := content.get("problem"):
        parts.append(str(problem))
    return ", ".join(parts), bool(failures or (problem and problem != NO_TIME))


def run_part(part: Part, check: Check, setting: Setting, overview: Overview) -> None:
    begin = time.monotonic()
    try:
        part.run(check, setting)
        text, failed = said(check.contents.get(part.name, {}))
    except Exception as error:
        with setting.log.open("a") as log:
            traceback.print_exc(file=log)
        text, failed = f"{type(error).__name__}: {error}", True
        content = check.contents.get(part.name, {"rows": [], "left_out": []})
        problem = {"test": part.name, "error": text}
        check.save(
            part.name, {**content, "failures": [*content.get("failures", []), problem], "broken": True}
        )
    overview.add(part, text, time.monotonic() - begin, failed)


def missing(part: Part, contents: dict[str, dict[str, object]]) -> str:
    """Why the part cannot run, or nothing."""
    if not part.needs or (part.needs in contents and not contents[part.needs].get("broken")):
        return ""
    return f"it needs {part.needs}, which failed"


def run(parts: Sequence[Part], check: Check, overview: Overview, seconds: float) -> None:
    """Each with its share of what is left, so that time saved is the next ones'."""
    deadline, log = time.monotonic() + seconds, check.output / "log.txt"
    for number, part in enumerate(parts):
        left = deadline - time.monotonic()
        own = max(min(left, LEAST_SECONDS), left * part.share / sum(other.share for other in parts[number:]))
        if why := missing(part, check.contents):
            check.save(
                part.name, {"rows": [], "failures": [{"test": part.name, "error": why}], "broken": True}
            )
            overview.add(part, why, 0.0, True)
            continue
        stall = 600.0 if check.rehearses else STALL_SECONDS
        setting = Setting(check.environment(), time.monotonic() + own, log, stall)
        run_part(part, check, setting, overview)


def main(argv: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=540.0, help="for all parts together (default: 540)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/gpu-check"), help="folder for what is found"
    )
    parser.add_argument("--installed", action="store_true", help="check the package that the interpreter has")
    parser.add_argument(
        "--dry-run", action="store_true", help="go through it all on a CPU, up to the GPU itself"
    )
    arguments = parser.parse_args(argv)
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    (output / "log.txt").write_text("")
    overview = Overview()

    def changed() -> None:
        write_whole(output / "report.md", report.page(check.contents, overview.lines))

    check = Check(output, arguments.dry_run, arguments.installed, {}, changed)
    run(parts, check, overview, DRY_RUN_SECONDS if arguments.dry_run else arguments.seconds)
    changed()
    print(f"{output / 'report.md'} has the whole of it.")
    return int(overview.failed)


if __name__ == "__main__":
    sys.exit(main())
