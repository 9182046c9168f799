"""Contenders take turns within one process, so that the machine's drift hits all alike."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

round_seconds = 0.15


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is timed.

    Attributes:
        step: called with the entries of ``data`` in turn, round and round.
        data: pairs of arguments.
        steps: how many steps one call takes.
    """

    step: Callable[[Any, Any], object]
    data: Sequence[tuple[Any, Any]]
    steps: int = 1

    def ahead(self, calls: int, first: int = 0) -> Iterator[tuple[Any, Any]]:
        """The arguments of the next so many calls."""
        return itertools.islice(itertools.cycle(self.data), first, first + calls)

    def run(self, arguments: Iterable[tuple[Any, Any]]) -> None:
        """Call ``step`` with each pair."""
        step = self.step
        for x, y in arguments:
            step(x, y)


def take_turns(
    entries: Mapping[str, Entry],
    rounds: int,
    seconds: float = round_seconds,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every entry in every round, in alternating order.

    Args:
        entries: what is timed, by name.
        rounds: how often.
        seconds: how long a turn is; one call at least, and three if they are shorter than that.
        clock: returns seconds.

    Returns:
        Per entry the seconds per step, round by round.
    """
    calls = {}
    for name, entry in entries.items():
        trial = 2 if len(entry.data) < 10 else 5
        entry.run(entry.ahead(trial))  # makes buffers, compiles
        start = time.perf_counter()
        entry.run(entry.ahead(trial))
        each = max((time.perf_counter() - start) / trial, 1e-9)
        calls[name] = max(1 if each > seconds else 3, int(seconds / each))
    times: dict[str, list[float]] = {name: [] for name in entries}
    for number in range(rounds):
        for name in entries if number % 2 == 0 else reversed(list(entries)):
            entry, count = entries[name], calls[name]
            entry.run(entry.ahead(1))  # the caches belong to the contender before
            arguments = entry.ahead(count, first=1)
            start = clock()
            entry.run(arguments)
            times[name].append((clock() - start) / (count * entry.steps))
    return times


@dataclasses.dataclass(frozen=True)
class Quartiles:
    """Of the ratios of all rounds; the median is the figure."""

    low: float
    median: float
    high: float


def ratio(times: Mapping[str, Sequence[float]], name: str, base: str) -> Quartiles:
    """Quartiles of one contender's time over another's, round by round."""
    return Quartiles(
        *statistics.quantiles(
            [a / b for a, b in zip(times[name], times[base], strict=True)], n=4, method="inclusive"
        )
    )
