"""The seeded faults. Oracle: a copy of the package with a fault, on which the tests must fail."""

from __future__ import annotations

import pytest

from . import mutations
from .mutations import BUGS, ROOT, Fault, faults

FACTOR = Fault(
    "harness", "a schedule of ones", "altmin_ext/schedules.py", "", "", ("python_tests/test_schedules.py",)
)


@pytest.mark.parametrize("number", range(len(BUGS)))
def test_every_fault_can_be_seeded(number: int) -> None:
    """Its text is found once, and the tests that must fail are there."""
    (fault,) = faults(BUGS[number : number + 1])
    assert (ROOT / fault.file).read_text().count(fault.before) == 1, fault.what
    assert fault.before != fault.after
    assert fault.tests
    for test in fault.tests:
        assert (ROOT / test.partition("::")[0]).exists(), test


def test_a_fault_is_caught_in_a_copy() -> None:
    source = (ROOT / FACTOR.file).read_text()
    seeded = mutations.Fault(
        "harness", "a half cosine that never falls", FACTOR.file, "math.cos", "abs", FACTOR.tests
    )
    report = mutations.outcome(seeded)
    assert "test_schedules.py::" in report
    assert (ROOT / FACTOR.file).read_text() == source


def test_a_text_that_is_not_there_is_an_error() -> None:
    with pytest.raises(LookupError, match="once"):
        mutations.outcome(Fault("harness", "nothing", FACTOR.file, "no such text", "", FACTOR.tests))
