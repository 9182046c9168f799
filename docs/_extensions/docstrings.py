"""Docstrings as they are written here, for Sphinx."""

from __future__ import annotations

import re
import sys
from typing import Any

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

# In a section: names, and a text that goes on as long as it is indented further.
SEVERAL = re.compile(r"^ {4}(\w+(?:, \w+)+):(.*(?:\n+ {5,}\S.*)*)", re.MULTILINE)


def one_entry_each(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """``first, second: text`` becomes an entry for each, which Napoleon does under Args alone."""
    text = SEVERAL.sub(lambda m: "\n".join(f"    {n}:{m[2]}" for n in m[1].split(", ")), "\n".join(lines))
    lines[:] = text.split("\n")


def no_types(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """What stands before the first colon of a property is no type, as Napoleon takes it to be in the first line."""
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]  # an empty comment


def comments_of_constants(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """A constant has no docstring but a ``#:`` comment, in the module that defines it and not where it is named."""
    if what != "data":
        return
    own = name.rpartition(".")[2]
    modules = [m for m in sorted(sys.modules) if m.startswith("altmin_ext")]
    defining = (m for m in modules if vars(sys.modules[m]).get(own) is value)
    found = (ModuleAnalyzer.for_module(m).find_attr_docs().get(("", own)) for m in defining if "_C" not in m)
    lines[:] = next((comment for comment in found if comment), lines)


def leave_out(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """What estimators inherit from scikit-learn, whose documentation is on its own pages."""
    module = getattr(value, "__module__", None) or ""
    return True if module.startswith("sklearn.") or name.endswith("_request") else None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", one_entry_each, priority=400)
    app.connect("autodoc-process-docstring", no_types, priority=400)
    app.connect("autodoc-process-docstring", comments_of_constants, priority=400)
    app.connect("autodoc-skip-member", leave_out)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
