"""Every table of step times: ``python -m benchmarks.macro [--output runs/steps] [--tables steps single ...]``.

Writes one Markdown file per table: the step of am-adam beside all contenders (steps.md), that of am-mem over eager
Adam's (am_mem.md), single samples (single.md),
`train` beside a bare loop (throughput.md), stages in parallel (stages.md), and with ``--before PYTHON``, the
interpreter of an environment with another version of the package, all methods beside those of that version
(versions.md). Run it with nothing else running; it takes the better part of an hour.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

tables = ["steps", "am_mem", "single", "throughput", "stages", "versions"]
_quick = {
    "steps": ["--rounds", "2", "--seconds", "0.001"],
    "throughput": ["--rounds", "2", "--samples", "2000"],
}
_quick |= {
    "single": _quick["steps"],
    "stages": _quick["steps"],
    "am_mem": _quick["steps"],
    "versions": ["--rounds", "2"],
}


def write(table: str, options: Sequence[str], file: Path) -> int:
    """Make a table in a process of its own, on the terminal and in a file; returns the exit status."""
    command = [sys.executable, "-m", f"benchmarks.macro.{table}", *options]
    with file.open("w") as output, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            output.write(line)
            output.flush()
    return process.returncode


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.macro",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("runs/steps"))
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables)
    parser.add_argument("--before", help="the interpreter of an environment with the other version")
    parser.add_argument(
        "--quick", action="store_true", help="two short rounds, to see that all contenders run"
    )
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    status = 0
    for table in arguments.tables:
        options = list(_quick[table]) if arguments.quick else []
        if table == "versions":
            if not arguments.before:
                continue
            options += ["--before", arguments.before]
        status = max(status, abs(write(table, options, arguments.output / f"{table}.md")))
        print(flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
