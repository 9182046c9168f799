"""Runs that are killed and started again end as undisturbed ones, bit for bit.

Oracle: the same run in a process that nothing disturbs and that writes no checkpoint. Besides, what a reader finds
in the folder after every kill: a whole checkpoint, the last or the one before, and in the end nothing else; and the
order of the system calls of a save, by which the file outlives the machine. That the matrix can fail at all is shown
by seeded faults.
"""

from __future__ import annotations

import collections
import dataclasses

import pytest
import torch

from python_tests.kills import cases, matrix
from python_tests.kills.comparison import differences
from python_tests.kills.data import FORMS
from python_tests.kills.mutants import MUTANTS
from python_tests.methods.test_methods_common import METHODS

# That many must have landed, or the test says nothing.
KILLS, WITHIN_SAVES = 75, 25


@pytest.mark.long
def test_a_run_that_is_killed_ends_as_the_undisturbed_one() -> None:
    """The short form: every method, every form of data, every kind of signal, and every gap in a save."""
    rows = matrix.run(cases.short(seed=0))
    assert matrix.failures(rows) == []
    landed = matrix.kills(rows)
    signals = [kill for kill in landed if matrix.is_signal(kill)]
    assert len(signals) >= KILLS
    assert sum(map(matrix.is_within_save, signals)) >= WITHIN_SAVES
    assert {row["method"] for row in landed} == set(METHODS)
    assert {row["form"] for row in landed} == set(FORMS)
    assert {row["what"] for row in landed} >= {"SIGKILL", "SIGTERM", "SIGINT", "disk full"}
    assert {row["resumes"] for row in landed} >= {1, 2, 5}
    gaps = [row["kills"] for row in rows if row["gap"]]
    assert len(gaps) > 12
    assert all(len(kills) == 1 for kills in gaps)


def test_the_matrix_notices_a_fault_of_checkpoints() -> None:
    """Each fault fails its cases, in its own way, and without it they pass."""
    tasks = {
        name: cases.Task(mutant.configuration, cases=(mutant.ends,), mutant=name)
        for name, mutant in MUTANTS.items()
    }
    sound = {dataclasses.replace(task, mutant="") for task in tasks.values()}
    found = collections.defaultdict(list)
    for row in matrix.run([*tasks.values(), *sound]):
        found[row["mutant"]].append(row["failure"])
    assert set(found.pop("")) == {None}
    unnoticed = {
        name: found[name]
        for name, mutant in MUTANTS.items()
        if not any((failure or "").startswith(mutant.notice) for failure in found[name])
    }
    assert unnoticed == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.0, -0.0),
        (1, 1.0),
        (True, 1),
        ((1,), [1]),
        ({"a": 1}, {"b": 1}),
        (torch.zeros(2), -torch.zeros(2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.zeros(1, 2)),
    ],
    ids=str,
)
def test_what_differs_is_told(one: object, other: object) -> None:
    nan = float("nan")
    assert differences([nan, one], [nan, one]) == []
    assert len(differences([nan, one], [nan, other])) == 1
