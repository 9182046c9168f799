"""A plugin of pytest that keeps the journal: ``-p benchmarks.gpu_check.recorder``.

The environment names the journal, and the file of the tests that are done with.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .child import gpu_is_lost
from .isolation import LOST
from .journal import DONE, JOURNAL, Journal

_journal = Journal(Path(os.environ[JOURNAL]))
_done = set(Path(os.environ[DONE]).read_text().splitlines())
_reports: list[pytest.TestReport] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left = [item for item in items if item.nodeid not in _done]
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in _done])
    items[:] = left


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _journal.add({"case": report.nodeid, "outcome": "failed", "error": report.longreprtext[-4000:]})


def pytest_collection_finish(session: pytest.Session) -> None:
    _journal.add({"collected": len(session.items)})


def pytest_runtest_logstart(nodeid: str) -> None:
    _reports.clear()
    _journal.add({"begins": nodeid})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _reports.append(report)


def pytest_runtest_logfinish(nodeid: str) -> None:
    failed = [report for report in _reports if report.failed]
    outcome = "failed" if failed else "skipped" if any(r.skipped for r in _reports) else "passed"
    entry = {"case": nodeid, "outcome": outcome}
    if failed:
        entry["error"] = failed[0].longreprtext[-4000:]
    _journal.add(entry)
    if failed and gpu_is_lost():
        os._exit(LOST)
