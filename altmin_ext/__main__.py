"""``python -m altmin_ext``, which is the same as ``altmin``; see :mod:`altmin_ext.command_line`."""

from __future__ import annotations

import sys

from altmin_ext.command_line import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
