"""Differential fuzzing: ``python -m python_tests.fuzz [TARGET ...] --seconds N | --cases N``.

A target is a module of this folder with ``run(seed) -> calls``: it draws one case from the seed, compares what the
library does with an oracle, and raises an AssertionError that says what is wrong. Cases run in processes of their
own, so that a crash or a hang is known by its seed. The exit status is 1 if a case failed.
"""

from __future__ import annotations

import argparse
import sys
import time

from . import TARGETS, frame


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m python_tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)} (default: all)")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument(
        "--seconds", type=float, metavar="N", help="run so long in all, shared by the targets"
    )
    length.add_argument("--cases", type=int, metavar="N", help="run so many cases of each target")
    parser.add_argument(
        "--first-seed", type=int, metavar="S", help="begin there (default: the time, so that each run is new)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (default: 1)")
    parser.add_argument(
        "--limit", type=float, default=60.0, metavar="N", help="seconds until a case hangs (default: 60)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="add failing seeds to the seeds that the tests repeat"
    )
    arguments = parser.parse_args()
    unknown = [target for target in arguments.targets if target not in TARGETS]
    if unknown:
        parser.error(f"there is no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    targets = arguments.targets or list(TARGETS)
    first = int(time.time()) * 1000 if arguments.first_seed is None else arguments.first_seed
    failed = False
    for target in targets:
        outcome = frame.run(
            f"python_tests.fuzz.{target}",
            first_seed=first,
            cases=arguments.cases,
            seconds=None if arguments.seconds is None else arguments.seconds / len(targets),
            jobs=arguments.jobs,
            limit=arguments.limit,
        )
        print(
            f"{target}: {outcome.cases:,} cases from seed {first}, {outcome.calls:,} checked calls, "
            f"{len(outcome.failures):,} failures, {outcome.seconds:.0f} s",
            flush=True,
        )
        for seed, failure in outcome.failures.items():
            failed = True
            print(f"\n  seed {seed}: {failure.strip()}".replace("\n", "\n    "))
            print(f"  again: python -m python_tests.fuzz {target} --cases 1 --first-seed {seed}", flush=True)
            if arguments.keep:
                reason = failure.strip().partition("\n")[0]
                frame.SEEDS.mkdir(exist_ok=True)
                with (frame.SEEDS / f"{target}.txt").open("a") as file:
                    file.write(f"{seed}  # {reason}\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
