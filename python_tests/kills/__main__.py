"""The whole matrix: every method, every form of data, every instant and every signal.

    python -m python_tests.kills [--seed S] [--jobs J] [--only WORDS] [--output python_tests/kills/matrix.md]

Exit status 1 if a run has not ended as the undisturbed one, or if fewer kills have landed than stated.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

from python_tests.kills import cases, matrix


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="workers (default: 1)")
    parser.add_argument("--only", default="", help="configurations that hold these words")
    parser.add_argument("--kills", type=int, default=1000, help="by signal, at least (default: 1000)")
    parser.add_argument("--within-saves", type=int, default=300, help="of them, at least (default: 300)")
    parser.add_argument("--output", type=Path, help="write the tables there")
    arguments = parser.parse_args()
    tasks = [task for task in cases.whole(arguments.seed) if arguments.only in str(task.configuration)]

    numbers = itertools.count(1)

    def told(row: matrix.Row) -> None:
        for failure in matrix.failures([row]):
            print(failure, flush=True)
        if (number := next(numbers)) % 100 == 0:
            print(f"{number} cases", flush=True)

    begun = time.monotonic()
    rows = matrix.run(tasks, arguments.jobs, told)
    text = matrix.report(rows)
    print(text)
    print(f"{time.monotonic() - begun:.0f} s")
    if arguments.output:
        command = f"python -m python_tests.kills --seed {arguments.seed}"
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(f"Runs that were killed and went on, by `{command}`.\n\n{text}")
    signals = [kill for kill in matrix.kills(rows) if matrix.is_signal(kill)]
    within = sum(map(matrix.is_within_save, signals))
    enough = len(signals) >= arguments.kills and within >= arguments.within_saves
    if not enough:
        print(
            f"There must be {arguments.kills} kills, {arguments.within_saves} of them within a save, but only "
            f"{len(signals)} have landed, {within} within a save."
        )
    sys.exit(not enough or bool(matrix.failures(rows)))


if __name__ == "__main__":
    main()
