"""Every micro and macro benchmark: ``python -m benchmarks [--output runs/benchmarks] [pytest arguments]``.

Writes benchmarks.json (pytest-benchmark: each op, and the step by every contender), step-ratios.json and
step-ratios.md (the step's contenders in turns). Run it with nothing else running. The accuracy studies are commands
of their own in benchmarks/paper.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from pathlib import Path

import pytest

from benchmarks.macro import ratios

folder = Path(__file__).parent


class _Both(io.TextIOBase):
    """Writes to the terminal and to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)  # type: ignore[union-attr]
        return self._file.write(text)

    def flush(self) -> None:
        self._file.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    arguments, rest = parser.parse_known_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    json = arguments.output / "benchmarks.json"
    status = pytest.main(
        [
            str(folder),
            "-o",
            "python_files=bench_*.py",
            f"--benchmark-json={json}",
            "--benchmark-group-by=group",
            *rest,
        ]
    )
    with contextlib.redirect_stdout(_Both(arguments.output / "step-ratios.md")):
        ratios.main(["--output", str(arguments.output / "step-ratios.json")])
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
