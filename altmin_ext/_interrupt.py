"""Ctrl-C and termination between steps, not within them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any]


class Terminated(KeyboardInterrupt):
    """A signal asks the process to end, as Ctrl-C does.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


# What asks a process to end, where the system has it: kill, and the end of the terminal or connection.
_terminations = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class _Termination:
    """Raises :class:`Terminated` once; a closed terminal, for instance, tells its processes twice."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._told:
            self._told = True
            raise Terminated(number)


@contextlib.contextmanager
def terminations_raised() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise :class:`Terminated`, unless somebody has decided otherwise before.

    Only the main thread may decide on signals; in other threads the block changes nothing.
    """
    changed = []
    try:
        if threading.current_thread() is threading.main_thread():
            handler = _Termination()
            for number in _terminations:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, handler)
                    changed.append(number)
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def terminations_end_the_process() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise SystemExit with the exit code 128 + number, as a shell reports them.

    It comes where :func:`terminations_raised` raises: within another block of that kind nothing changes.
    """
    # Before the first handler is in place, which may be called at once.
    ours = [number for number in _terminations if signal.getsignal(number) is signal.SIG_DFL]
    try:
        with terminations_raised():
            yield
    except Terminated as error:
        if error.signal not in ours:
            raise
        raise SystemExit(128 + error.signal) from error


class HeldInterrupt:
    """Holds Ctrl-C back while a step runs, so that no step is left half done.

    The same holds for SIGTERM and SIGHUP within :func:`terminations_raised`. Set ``held`` before the step and call
    :meth:`release` after it. A second Ctrl-C is not held back. An interrupt that is still held back at the end of the
    block is raised then. A termination that was raised, but dropped on its way up, is raised again by the next
    :meth:`release`.

    Args:
        held: whether it is held back from the beginning.
    """

    def __init__(self, held: bool = False) -> None:
        self.held = held
        self._pending: tuple[int, FrameType | None] | None = None
        self._dropped: int | None = None  # a termination that was raised at once
        self._handlers: dict[int, _Handler] = {}

    def __enter__(self) -> HeldInterrupt:
        # A handler of the user's program is left in place, and only the main thread may install one.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *_terminations):
                handler = signal.getsignal(number)
                if handler is signal.default_int_handler or isinstance(handler, _Termination):
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if not isinstance(error, KeyboardInterrupt):
            self.release()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        insisting = self._pending is not None and number == signal.SIGINT
        if not self.held or insisting:
            # Python drops what is raised within a hook of a fork or a __del__; the next release raises it again.
            self._dropped = number if number in _terminations else self._dropped
            self._handlers[number](number, frame)
        elif self._pending is None:
            self._pending = number, frame

    def release(self) -> None:
        """Raise an interrupt that has been held back, and hold none back from now on."""
        self.held = False
        if self._dropped is not None:
            raise Terminated(self._dropped)
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._handlers[pending[0]](*pending)
