"""The command line: ``altmin`` or ``python -m altmin_ext``, with its commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from altmin_ext._interrupt import Terminated, terminations_raised
from altmin_ext._streams import open_streams
from altmin_ext.command_line import (
    arguments,
    completion,
    evaluate,
    export,
    info,
    inspect,
    predict,
    train,
    tune,
)
from altmin_ext.command_line.streams import OutputLost, complain
from altmin_ext.errors import DivergenceError

_commands = {
    "train": train.run,
    "tune": tune.run,
    "evaluate": evaluate.run,
    "predict": predict.run,
    "export": export.run,
    "inspect": inspect.run,
    "info": info.run,
    "completion": completion.run,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    However a training ends, what was trained until then is written, tested and reported first.

    Args:
        argv: the arguments; None for the process's own.

    Returns:
        The exit code: 0; 1 if a training diverged; 2 for a wrong argument or a file that cannot be read or
        written; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP; 141 if the reader of standard output is gone.
    """
    argv = sys.argv[1:] if argv is None else argv
    with open_streams(), terminations_raised():
        return _run(argv)


def _run(argv: Sequence[str]) -> int:
    try:
        parsed = arguments.parse(argv)
        if parsed.command is not None:
            _commands[parsed.command](parsed)
    except DivergenceError as error:
        return _fail(error, 1)
    except OutputLost as error:
        return _fail(error, 141 if error.reader_gone else 2)
    except (ValueError, TypeError, ImportError, OSError, MemoryError) as error:
        return _fail(error, 2)
    except Terminated as error:
        complain(f"altmin: ended by {error}")
        return 128 + error.signal
    except KeyboardInterrupt:
        complain("altmin: interrupted")
        return 130
    return 0


def _fail(error: Exception, code: int) -> int:
    sentence = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:  # the system's, not ours
        sentence = f"{error.filename} cannot be read: {error.strerror}."
    complain(f"altmin: error: {sentence or type(error).__name__}")
    return code


__all__ = ["main"]
