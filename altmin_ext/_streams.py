"""Standard input, output and error, which may be closed or fail."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Unfailing:
    """A text stream for what may be lost, such as a progress bar: errors of writing are ignored.

    Args:
        stream: the stream to write to, whose other attributes this one has, too.
    """

    def __init__(self, stream: TextIO) -> None:
        self._wrapped = stream  # the name by which tqdm recognises the stream within

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed, or cannot encode the text
            self._wrapped.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._wrapped.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def __eq__(self, other: object) -> bool:
        return bool(self._wrapped == getattr(other, "_wrapped", other))

    __hash__ = None  # type: ignore[assignment]


@contextlib.contextmanager
def open_streams() -> Iterator[None]:
    """Within the block, standard streams that are closed lead to the null device.

    Otherwise Python has None in their place, and the next file to be opened would get the number of standard output
    or error, and what a library prints there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    names = [name for name in ("stdout", "stderr") if getattr(sys, name) is None]
    with open(os.devnull, "w") as nowhere:
        try:
            for name in names:
                setattr(sys, name, nowhere)
            yield
        finally:
            for name in names:
                setattr(sys, name, None)


def abandon(stream: TextIO) -> None:
    """Lead a stream that has failed to the null device, so that Python does not fail on it once more at the end."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor, as under a test
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
