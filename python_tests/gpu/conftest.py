from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from .device import missing


class _LeftOut(pytest.Module):
    """A file of tests where they cannot run."""

    def collect(self) -> NoReturn:
        pytest.skip(f"there is no GPU to test on: {missing()}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Leave out the files of this folder, all for one reason, where there is no GPU for them."""
    return _LeftOut.from_parent(parent, path=module_path) if missing() else None
