"""Learning-rate schedules: a factor for every epoch that multiplies all learning rates of the method."""

from __future__ import annotations

import math
from collections.abc import Callable

from altmin_ext import _check

#: Maps the number of epochs finished so far (0 in the first epoch) to a factor, finite and at least 0.
Schedule = Callable[[int], float]


def _constant(epoch: int, epochs: int) -> float:
    return 1.0


def _cosine(epoch: int, epochs: int) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))


_schedules = {"constant": _constant, "cosine": _cosine}


def names() -> list[str]:
    """The names that ``lr_schedule=`` takes."""
    return list(_schedules)


def make_schedule(schedule: str | Schedule, epochs: int) -> Schedule:
    """Make the learning-rate schedule of a run.

    Args:
        schedule: "constant", always 1; "cosine", (1 + cos(pi e / E)) / 2 in epoch e of E, from 1 down to nearly 0
            (Loshchilov & Hutter 2017, without restarts); or any callable epoch -> factor. Epochs count from 0.
        epochs: the number of epochs of the run.

    Returns:
        A callable epoch -> factor. It raises a TypeError or ValueError if ``schedule`` is a callable and returns
        anything but a finite number of at least 0.

    Raises:
        TypeError: ``schedule`` is neither a string nor callable.
        ValueError: there is no schedule of that name.
    """
    if isinstance(schedule, str):
        named = _schedules[_check.known("lr_schedule", schedule, _schedules)]
        return lambda epoch: named(epoch, epochs)
    if not callable(schedule):
        raise TypeError(f"lr_schedule must be a name or a callable epoch -> factor, but is {schedule!r}.")

    def checked(epoch: int) -> float:
        factor = schedule(epoch)
        return _check.number(f"lr_schedule({epoch})", factor, 0.0)

    return checked


__all__ = ["Schedule", "make_schedule", "names"]
