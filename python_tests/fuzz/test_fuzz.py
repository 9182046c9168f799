"""A short run of every fuzzer, and the cases that failed once. The targets state their oracles."""

from __future__ import annotations

import importlib

import pytest

from . import TARGETS, frame

# About five seconds each.
CASES = {"ops": 400, "training": 50, "files": 800}


@pytest.mark.parametrize("target", TARGETS)
def test_a_short_run(target: str) -> None:
    run = importlib.import_module(f"python_tests.fuzz.{target}").run
    failures = []
    for seed in [*frame.kept_seeds(target), *range(CASES[target])]:
        try:
            assert run(seed) > 0
        except AssertionError as error:
            failures.append(f"python -m python_tests.fuzz {target} --cases 1 --first-seed {seed}: {error}")
    assert not failures, f"{len(failures)} failures, of which the first: {failures[0]}"
