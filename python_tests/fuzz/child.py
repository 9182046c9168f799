"""A process that runs cases of one target: ``python -m python_tests.fuzz.child MODULE FIRST STEP COUNT``.

It says on its standard output, one JSON line each, which seed it is at, and how the case ended. What the case itself
prints goes to standard error.
"""

from __future__ import annotations

import faulthandler
import importlib
import itertools
import json
import os
import sys
import traceback
from typing import Any


def main(module: str, first: int, step: int, count: int) -> None:
    """Run the seeds first, first + step, ...; ``count`` of them, or without end if it is negative."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    faulthandler.enable()

    def say(**what: Any) -> None:
        channel.write(json.dumps(what) + "\n")
        channel.flush()

    run = importlib.import_module(module).run
    say(ready=True)
    for seed in itertools.islice(itertools.count(first, step), None if count < 0 else count):
        say(begin=seed)
        try:
            calls = run(seed)
        except Exception as error:
            words = str(error) if isinstance(error, AssertionError) else ""
            say(seed=seed, failure=words or traceback.format_exc())
        else:
            say(seed=seed, calls=calls)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
