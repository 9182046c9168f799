"""The package's own error. All other errors are a TypeError or ValueError with a message of one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DivergenceError(ArithmeticError):
    """A code or a weight is not finite; the message names the stage, the variable and the step.

    The model keeps the last finite weights: the failed step has changed nothing.
    """


def unknown_name(what: str, name: str, known: Iterable[str], *, similar: Iterable[str] = ()) -> ValueError:
    """Make the error for a name that is not in ``known``; it suggests names from there or ``similar`` like it."""
    known = list(known)
    nearest = difflib.get_close_matches(name, [*known, *similar], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, nearest))}? " if nearest else ""
    return ValueError(f"unknown {what} {name!r}: {hint}valid ones are {', '.join(sorted(known))}.")


__all__ = ["DivergenceError"]
