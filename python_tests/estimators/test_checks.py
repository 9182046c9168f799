"""All of scikit-learn's checks of an estimator pass, with none skipped and none expected to fail.

Oracle: scikit-learn itself, and the number of its checks, since a tag can have it leave some out in silence.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")

# Version -> checks of a classifier, of a regressor. A newer version has at least as many as the last one here.
CHECKS = {"1.6": (67, 60), "1.7": (66, 59), "1.8": (66, 59), "1.9": (67, 60)}


@functools.cache
def run() -> dict[str, Any]:
    script = str(Path(__file__).with_name("checks.py"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", [0, 1], ids=["AMClassifier", "AMRegressor"])
def test_all_checks_pass(number: int) -> None:
    found = run()
    checks = found["checks"][("AMClassifier", "AMRegressor")[number]]
    assert [check for check in checks if check[1] != "passed"] == []
    version = ".".join(found["version"].split(".")[:2])
    if version in CHECKS:
        assert len(checks) == CHECKS[version][number]
    else:
        assert len(checks) >= CHECKS["1.9"][number]
