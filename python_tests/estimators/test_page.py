"""The examples of docs/estimators.md. Oracle: they must run as they stand, and learn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")

page = Path(__file__).parents[2] / "docs" / "estimators.md"
if not page.is_file():
    pytest.skip("only the tests are here, not the documentation", allow_module_level=True)


def test_the_examples_run_and_learn() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    held_out = names["X_test"], names["y_test"]
    assert names["search"].score(*held_out) > 0.95
    scores = [names[name].score(*held_out) for name in ("first", "second", "both")]
    assert scores[2] == max(scores) > 0.9
