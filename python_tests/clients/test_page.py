"""The examples of docs/optimizer.md. Oracle: they must run as they stand, and learn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import altmin_ext

page = Path(__file__).parents[2] / "docs" / "optimizer.md"
if not page.is_file():
    pytest.skip("only the tests are here, not the documentation", allow_module_level=True)
BLOCKS = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
CLIENTS = {"lightning": 1, "skorch": 2, "accelerate": 3}


def test_every_example_has_a_test() -> None:
    assert len(BLOCKS) == 1 + len(CLIENTS)


@pytest.mark.parametrize("client", ["torch", *CLIENTS])
def test_an_example_runs_and_learns(client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip(client)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    blocks = [BLOCKS[0]] if client == "torch" else [BLOCKS[0], BLOCKS[CLIENTS[client]]]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks:
            exec(compile(block, "docs/optimizer.md", "exec"), names)
    trained = {
        "lightning": lambda: names["trainer"].lightning_module.model,
        "skorch": lambda: names["net"].module_,
    }.get(client, lambda: names["model"])()
    accuracy = altmin_ext.evaluate(trained, names["digits"].test).accuracy
    assert accuracy is not None
    assert accuracy > 0.8
