"""Times on a device: by CUDA's events on a GPU, by the clock on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Call = Callable[[], object]


def set_tf32(on: bool) -> None:
    """For products and convolutions alike."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on


def seconds(call: Call, count: int, device: torch.device) -> float:
    """Of one call, the mean of so many; what the device did before is done."""
    if device.type == "cpu":
        begin = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - begin) / count
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    first.record()
    for _ in range(count):
        call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / count


def in_turns(
    calls: Mapping[str, Call], device: torch.device, rounds: int = 9, round_seconds: float = 0.015
) -> dict[str, list[float]]:
    """Seconds of every call in every round, forwards and backwards in turns; warmed up."""
    if device.type == "cpu":
        rounds, round_seconds = 2, 0.0
    counts = {}
    for name, call in calls.items():
        one = seconds(call, 2, device)
        counts[name] = max(2, min(1000, int(round_seconds / max(one, 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls) if number % 2 == 0 else list(reversed(list(calls))):
            call = calls[name]
            call()  # the caches belong to the call before
            times[name].append(seconds(call, counts[name], device))
    return times


def of_kernels(calls: Sequence[Call], device: torch.device, rounds: int = 9) -> float:
    """Median seconds of one of several calls that launch kernels, the host's part left out by a CUDA graph."""
    for call in calls:
        call()
    if device.type == "cpu":
        return statistics.median(seconds(call, 1, device) for call in calls)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for call in calls:  # libraries keep memory per stream
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    count = max(1, min(100, int(0.01 / max(seconds(graph.replay, 2, device), 1e-6))))
    return statistics.median(seconds(graph.replay, count, device) for _ in range(rounds)) / len(calls)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
