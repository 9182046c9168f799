"""Ctrl-C between steps, not within them."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class HeldInterrupt:
    """Holds Ctrl-C back while a step runs, so that no step is left half done.

    Set ``held`` before the step and call :meth:`release` after it. A second Ctrl-C is not held back.
    """

    def __init__(self) -> None:
        self.held = False
        self._pending = False
        self._installed = False

    def __enter__(self) -> HeldInterrupt:
        # A handler of the user's program is left in place, and only the main thread may install one.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.held or self._pending:
            raise KeyboardInterrupt
        self._pending = True

    def release(self) -> None:
        self.held = False
        if self._pending:
            raise KeyboardInterrupt
