"""What the processes of a check leave on disk: a journal, line by line, and files that are never half written."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
# Variables of the environment that tell the plugin of pytest where to write, and which tests are done with.
JOURNAL, DONE = "ALTMIN_GPU_CHECK_JOURNAL", "ALTMIN_GPU_CHECK_DONE"


class Journal:
    """Lines of JSON, each on disk before the next thing happens.

    ``{"begins": case}`` and ``{"case": case, ...}`` with what came of it; a process that dies leaves the first alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, entry: Entry) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def entries(self) -> list[Entry]:
        """All that is whole: the last line may be cut short."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]


def finished(entries: Sequence[Entry]) -> list[str]:
    return [entry["case"] for entry in entries if "case" in entry]


def unfinished(entries: Sequence[Entry]) -> str | None:
    """The case that was begun last and never ended."""
    begun = [entry["begins"] for entry in entries if "begins" in entry]
    return begun[-1] if begun and begun[-1] not in finished(entries) else None


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one go."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    os.replace(new, path)


def write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1) + "\n")
