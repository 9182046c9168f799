"""Fill in the tables of the written pages: results from the records, options of methods from the code.

    python -m benchmarks.pages

A table stands in a page between ``<!-- table: NAME -->`` and ``<!-- end -->``, with a name of :data:`tables`. What is
between them is written anew by this command; everything else is left as it is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from altmin_ext import methods
from altmin_ext.methods._options import help_of
from benchmarks.paper import accuracy, autoencoder, drift, factors, inverse_drift, mdlam, memory, taylor
from benchmarks.paper import methods as comparison
from benchmarks.paper.continual import report

root = Path(__file__).parents[1]
_between = re.compile(r"^<!-- table: ([^\n]+?) -->\n(.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)


def recorded(name: str) -> str:
    """A file of benchmarks/results that a command has written together with the machine and the date."""
    return (root / "benchmarks" / "results" / name).read_text(encoding="utf-8")


def options(method: str) -> str:
    """Name, default and meaning of every option of a method."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(methods.method_class(method).Options):
        default = f"`{field.default!r}`"
        if field.default is None:
            default = f"{default}: {field.metadata['none']}" if field.metadata["none"] else default
        meaning = help_of(field).replace("|", r"\|")
        lines.append(f"| `{field.name}` | {default} | {meaning} |")
    return "\n".join(lines)


tables: dict[str, Callable[[], str]] = {
    "accuracy": accuracy.table,
    "am-mem": memory.table,
    "autoencoder": autoencoder.table,
    "continual": report.table,
    "continual, overview": report.overview,
    "drift": drift.table,
    "factors": factors.table,
    "inverse drift": inverse_drift.table,
    "mdlam": mdlam.table,
    "taylor": taylor.table,
    **{f"methods, {name}": partial(comparison.table, name) for name in comparison.comparisons},
    "steps": partial(recorded, "steps/steps.md"),
    "steps of am-mem": partial(recorded, "steps/am_mem.md"),
    "single samples": partial(recorded, "steps/single.md"),
    "stages": partial(recorded, "steps/stages.md"),
    "versions": partial(recorded, "steps/versions.md"),
    "older steps": partial(recorded, "step-ratios.md"),
    "river": partial(recorded, "river/table.md"),
    "streams in memory": partial(recorded, "stream-memory.md"),
    "memory in float32": partial(recorded, "memory/float32-and-streams.md"),
    "directions": partial(recorded, "directions.md"),
    "kernels of am-mem": partial(recorded, "memory/kernels.md"),
    **{f"options of {name}": partial(options, name) for name in methods.names()},
}


def filled(text: str) -> str:
    """A page with its tables as they are now."""

    def table(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n\n{tables[found[1]]().strip()}\n\n<!-- end -->"

    return _between.sub(table, text)


def names(text: str) -> list[str]:
    """The tables that a page holds."""
    return [found[1] for found in _between.finditer(text)]


def pages() -> Iterator[Path]:
    """The written pages."""
    yield root / "README.md"
    yield from sorted((root / "docs").rglob("*.md"))


def main() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            page.write_text(filled(text), encoding="utf-8")
            print(page.relative_to(root))


if __name__ == "__main__":
    main()
