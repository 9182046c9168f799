"""A process that measures: python -m benchmarks.gpu_check.child MODULE JOURNAL DONE DEVICE SECONDS.

MODULE has ``cases(dry)``, the most valuable first, and ``measure(case, device)``, which returns rows.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from .isolation import LOST, NO_TIME
from .journal import Journal


def gpu_is_lost() -> bool:
    """Whether it answers with an error, as it does for the rest of a process after a kernel's fault."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def main(argv: Sequence[str]) -> int:
    module = importlib.import_module(argv[0])
    journal, done = Journal(Path(argv[1])), Path(argv[2]).read_text().splitlines()
    device, deadline = torch.device(argv[3]), time.monotonic() + float(argv[4])
    cases = module.cases(device.type == "cpu")
    journal.add({"cases": cases})
    for case in cases:
        if case in done:
            continue
        if time.monotonic() > deadline:
            journal.add({"case": case, "left_out": NO_TIME})
            continue
        journal.add({"begins": case})
        try:
            journal.add({"case": case, "rows": module.measure(case, device)})
        except Exception as error:
            traceback.print_exc()
            journal.add({"case": case, "error": f"{type(error).__name__}: {error}"[:2000]})
        gc.collect()  # a model and its captured graphs know each other
        if gpu_is_lost():
            sys.stdout.flush()
            os._exit(LOST)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
