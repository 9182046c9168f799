"""Tables that are shown as they grow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def teller(output: Path | None) -> Callable[[str], None]:
    """Make a function that prints a text, and writes it to a file behind all that it was told before.

    Args:
        output: the file, whose folder is made if need be; None for none.
    """
    lines: list[str] = []

    def tell(text: str) -> None:
        print(text, flush=True)
        lines.append(text)
        if output:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text("\n".join(lines) + "\n")

    return tell
