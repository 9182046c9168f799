"""The package's own error. All other errors are a TypeError or ValueError with a message of one sentence."""

from __future__ import annotations

from collections.abc import Iterable

from altmin_ext._words import nearest

_MOST_NAMES = 40


class DivergenceError(ArithmeticError):
    """A code or a weight is not finite; the message names the stage, the variable and the step.

    The model keeps the last finite weights: the failed step has changed nothing.
    """


def unknown_name(what: str, name: str, known: Iterable[str], *, similar: Iterable[str] = ()) -> ValueError:
    """Make the error for a name that is not in ``known``; it suggests names from there or ``similar`` like it."""
    known = list(known)
    meant = nearest(name, [*known, *similar])
    hint = f"did you mean {' or '.join(map(repr, meant))}? " if meant else ""
    listed = ", ".join(sorted(known)[:_MOST_NAMES])
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return ValueError(f"unknown {what} {name!r}: {hint}valid ones are {listed}{more}.")


__all__ = ["DivergenceError"]
