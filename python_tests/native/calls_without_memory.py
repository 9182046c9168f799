"""Every op with its first, second, ... allocation failing; prints a line of JSON for each op and number of threads.

Run with failing_allocator.cpp preloaded, whose path is the argument. Each call is made by a new thread, which has
none of the memory that earlier calls left to theirs.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
import threading
from typing import Any

import torch

from altmin_ext import ops
from altmin_ext.ops import Activation

from ..ops import (
    test_bcd_columns,
    test_elman_code_step,
    test_elman_encode,
    test_memory_update,
    test_weight_residual,
)
from ..ops.calling import PARAMETER_BLOCKS, Output, Random, same_bits
from ..ops.elman import Layer

THREADS = (1, 3)


def case(op: str, random: Random) -> dict[str, Any]:
    """Large enough for three threads, as far as that depends on the shapes."""
    gelu = Activation("gelu")
    if op == "bcd_columns":
        return test_bcd_columns.kernel_case(random, 200, 260)
    if op == "elman_code_step":
        return test_elman_code_step.case(random, Layer.random(random, 50, 40, 2, 31, 5, gelu), iterations=2)
    if op == "elman_encode":
        return test_elman_encode.case(random, 50, 40, 2, 31, 5, gelu)
    if op == "memory_update":
        return test_memory_update.kernel_case(random, 600, 150, 200)
    if op == "power_iteration":
        weights = [random.normal(50, 90), random.normal(600, 130)]
        vectors = [random.normal(weight.shape[1]) for weight in weights]
        return {"weights": weights, "vectors": vectors, "sigma_squared": [torch.zeros(1), torch.zeros(1)]}
    if op == "weight_residual":
        return test_weight_residual.kernel_case(random, 500, (30, 130))
    module = importlib.import_module(f"..ops.test_{op}", __package__)
    return module.kernel_case(random)


def concrete(op: str, arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    def made(name: str, value: Any) -> Any:
        kind = torch.float64 if name in PARAMETER_BLOCKS else dtype
        if isinstance(value, list):
            return [made(name, entry) for entry in value]
        if isinstance(value, Output):
            return torch.full(value.shape, 7, dtype=value.dtype or kind)
        if isinstance(value, torch.Tensor):
            return value.to(kind) if value.is_floating_point() else value
        return value

    return {name: made(name, value) for name, value in arguments.items()}


def tensors(arguments: dict[str, Any]) -> list[torch.Tensor]:
    values = (
        entry for value in arguments.values() for entry in (value if isinstance(value, list) else [value])
    )
    return [value for value in values if isinstance(value, torch.Tensor)]


def failures(library: ctypes.CDLL, op: str, dtype: torch.dtype, threads: int) -> int:
    """Call until no allocation fails; returns how many there were to fail."""
    arguments = concrete(op, case(op, Random(1)), dtype)
    before = [tensor.clone() for tensor in tensors(arguments)]
    function, outcome = getattr(ops, op), []

    def attempt(count: int) -> None:
        raised = None
        torch.set_num_threads(threads)  # of this thread alone
        library.fail_after(count)
        try:
            function(**arguments)
        except BaseException as error:
            raised = error
        outcome.append((library.fail_no_more(), raised))

    for count in range(1000):
        thread = threading.Thread(target=attempt, args=(count,))
        thread.start()
        thread.join()
        failed, error = outcome.pop()
        if not failed:
            assert error is None, f"{op}: {error!r}"
            return count
        assert isinstance(error, MemoryError), f"{op}, allocation {count}: {error!r}"
        for tensor, old in zip(tensors(arguments), before, strict=True):
            assert same_bits(tensor, old), f"{op}, allocation {count}: it wrote before it failed"
    raise AssertionError(f"{op} allocates without end")


def main(path: str) -> None:
    library = ctypes.CDLL(path)
    library.fail_after.argtypes = (ctypes.c_long,)
    library.fail_no_more.restype = ctypes.c_bool
    for threads in THREADS:
        for op in ops.names:
            found = {
                str(dtype): failures(library, op, dtype, threads) for dtype in (torch.float32, torch.float64)
            }
            print(json.dumps({"op": op, "threads": threads, "allocations": found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
