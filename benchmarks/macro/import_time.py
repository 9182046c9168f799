"""What the import costs beyond torch: ``python -m benchmarks.macro.import_time [--rounds 15] [--before PYTHON]``.

In seconds of the processor, each time in a process of its own that has imported torch; the interpreters, and Python's
collector on and off, take turns. The collector goes through all that torch has made, whenever an import happens to
make one object too many; without it a time is the package's own. Modules are compiled in a first round that does not
count.

Args of the command: ``--before`` is the interpreter of an environment with another version of the package.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.macro import processor

_program = """
import gc, sys, time
import torch
if {off}: gc.disable()
begun = time.process_time()
import altmin_ext
print(time.process_time() - begun)
"""


def seconds(interpreter: str, off: bool) -> float:
    """The time of one import, by an interpreter whose collector is on or off."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [interpreter, "-c", _program.format(off=off)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.macro.import_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--before", help="the interpreter of an environment with another version")
    arguments = parser.parse_args(argv)
    interpreters = {"this version": sys.executable}
    if arguments.before:
        interpreters["before"] = arguments.before
    times: dict[tuple[str, bool], list[float]] = {}
    for number in range(arguments.rounds + 1):
        for name, interpreter in interpreters.items():
            for off in (False, True):
                taken = seconds(interpreter, off)
                if number:
                    times.setdefault((name, off), []).append(taken)
    print(f"{processor.heading('torch')}\n")
    print("| import altmin_ext, after torch | collector on, ms | off, ms |\n|---|---|---|")
    for name in interpreters:
        on, off = (1e3 * statistics.median(times[name, off]) for off in (False, True))
        print(f"| {name} | {on:.0f} | {off:.0f} |")


if __name__ == "__main__":
    main()
