"""The ranks of a training that torchrun has started: all train, and rank 0 writes and reports."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def process_group(parallel: str | None, device: str | None) -> Iterator[bool]:
    """Meet the other ranks; leave them after the block.

    Args:
        parallel: ``--parallel``; None for a process by itself.
        device: ``--device``.

    Yields:
        Whether this process writes and reports.

    Raises:
        ValueError: torchrun has not started the process.
    """
    if parallel is None:
        yield True
        return
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        raise ValueError(
            f"--parallel must be left out of a program that torchrun has not started, but is {parallel!r}: use "
            "torchrun --nproc-per-node 2 -m altmin_ext train --parallel data."
        )
    from torch import distributed

    on_gpu = device is not None and device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield distributed.get_rank() == 0
    finally:
        distributed.destroy_process_group()
