"""What the commands print: results on standard output, all else on standard error."""

from __future__ import annotations

import sys

from tqdm.auto import tqdm

from altmin_ext._streams import Unfailing, abandon


class OutputLost(OSError):
    """Standard output takes no more text.

    Attributes:
        reader_gone: whether the reason is that the process at the other end of a pipe has ended.
    """

    def __init__(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or error
        super().__init__(f"standard output cannot be written: {reason}.")
        self.reader_gone = isinstance(error, BrokenPipeError)


def say(text: str = "") -> None:
    """Print text on standard output, above a progress bar where one is shown, and at once.

    Raises:
        OutputLost: this is not possible.
    """
    stream = sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: the stream is closed
        abandon(stream)
        raise OutputLost(error) from error


def complain(text: str) -> None:
    """Print a line on standard error, if anybody is there to read it."""
    print(text, file=Unfailing(sys.stderr))
