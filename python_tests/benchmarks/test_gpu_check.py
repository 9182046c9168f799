"""The check of the kernels on a GPU, rehearsed on a CPU. Oracles: what it says that it measures must be in its files,
and figures that belong together must agree; processes that raise, die and hang cost their own case and no other; for
predictions the sheet's own table of expected times."""

from __future__ import annotations

import itertools
import json
import re
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from altmin_ext import ops
from benchmarks.gpu_check import (
    child,
    contenders,
    isolation,
    journal,
    launches,
    parts,
    prediction,
    steps,
    tests,
)
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.parts import Check, Part

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.long


class Found:
    """What a check left in its folder."""

    def __init__(self, folder: Path, status: int) -> None:
        self.folder, self.status = folder, status
        self.report = (folder / "report.md").read_text()

    def __getitem__(self, part: str) -> Any:
        return json.loads((self.folder / f"{part}.json").read_text())


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("gpu-check")
    return Found(folder, main(["--dry-run", "--output", str(folder)]))


def test_a_rehearsal_goes_through_all_parts(rehearsal: Found) -> None:
    assert rehearsal.status == 0, rehearsal.report
    names = {f"{part.name}.json" for part in parts.PARTS} | {"report.md", "log.txt"}
    assert {path.name for path in rehearsal.folder.iterdir()} == names
    for part in parts.PARTS:
        content = rehearsal[part.name]
        assert content["rows"], part.name
        assert not content["failures"], part.name
        assert not content.get("left_out"), part.name
        assert "problem" not in content, part.name


def test_the_build_says_what_it_would_run(rehearsal: Found) -> None:
    would = rehearsal["build"]["would_run"]
    for word in (
        "ALTMIN_CUDA_ARCHITECTURES=90-real",
        "--no-index",
        "--no-build-isolation",
        "--no-deps",
        "--target",
    ):
        assert word in would
    assert str(ROOT) not in would


def test_every_op_has_a_row_beside_its_floor(rehearsal: Found) -> None:
    card = {key: value for row in rehearsal["card"]["rows"] for key, value in row.items()}
    rows = rehearsal["floors"]["rows"]
    assert {row["op"] for row in rows} == set(ops.names)
    for row in rows:
        moving = row["bytes"] / card["copy_bytes_per_second"]
        computing = row["operations"] / card["float32_operations_per_second"]
        assert row["floor_microseconds"] == pytest.approx(1e6 * max(moving, computing))
        assert row["over_floor"] == pytest.approx(row["microseconds"] / row["floor_microseconds"])
        assert f"| {row['op']} | {row['batch']} |" in rehearsal.report


def test_the_bytes_of_an_op_are_those_it_reads_and_writes(rehearsal: Found) -> None:
    """activate, float32, 17 x 500: the code in and out, the bias in, the activation out, the guard in and out."""
    (row,) = (r for r in rehearsal["floors"]["rows"] if r["op"] == "activate" and r["batch"] == 17)
    assert row["bytes"] == 4 * (3 * 17 * 500 + 500) + 2 * 8
    assert row["operations"] == 0


def test_the_operations_of_an_op_are_two_for_each_multiplication(rehearsal: Found) -> None:
    """memory_update, 17 samples of 500 and a one behind: a triangle of the gram matrix, and the cross matrix."""
    (row,) = (r for r in rehearsal["floors"]["rows"] if r["op"] == "memory_update" and r["batch"] == 17)
    assert row["operations"] == 2 * 17 * (501 * 502 // 2 + 500 * 501)


def test_every_network_contender_and_batch_has_a_row(rehearsal: Found) -> None:
    rows = rehearsal["steps"]["rows"]
    expected = {
        (network, batch, precision, contender)
        for network, own in contenders.NETWORKS.items()
        for batch in steps.SMALL_BATCHES
        for precision in (steps.OFF, steps.ON)
        for contender in (*contenders.contenders(own), contenders.COMPILED)
    }
    found = [(row["network"], row["batch"], row["precision"], row["contender"]) for row in rows]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_a_ratio_is_the_quotient_of_its_two_times(rehearsal: Found) -> None:
    timed = [row for row in rehearsal["steps"]["rows"] if "left_out" not in row]
    assert {row["contender"] for row in timed} >= {"am-adam, eager", "am-sgd, eager", "am-mem, eager"}
    for row in timed:
        assert row["ratio"] == pytest.approx(row["milliseconds"] / row["baseline_milliseconds"])
        assert row["quartiles"][0] <= row["milliseconds"] <= row["quartiles"][1]
    for row in timed:
        if row["contender"] == contenders.BASELINE:
            assert row["ratio"] == 1.0


def test_only_what_needs_the_gpu_is_left_out(rehearsal: Found) -> None:
    left_out = [row for row in rehearsal["steps"]["rows"] if "left_out" in row]
    assert {row["contender"] for row in left_out} == {
        "am-adam, CUDA graph", "am-sgd, CUDA graph", contenders.GRAPH, contenders.COMPILED
    }  # fmt: skip
    assert all("need" in row["left_out"] for row in left_out)
    counted = {(row["network"], row["precision"], row["contender"]) for row in rehearsal["launches"]["rows"]}
    assert counted == {
        (network, precision, contender)
        for network, own in contenders.NETWORKS.items()
        for precision in (steps.OFF, steps.ON)
        for contender in contenders.contenders(own)
    }


def test_the_tests_of_the_gpu_are_rehearsed(rehearsal: Found) -> None:
    of_ops, of_gpu = rehearsal["tests"]["rows"]
    assert of_ops["passed"] > 0
    assert of_gpu["passed"] > 100
    assert of_ops["failed"] == of_gpu["failed"] == of_gpu["not_run"] == 0


def test_on_a_gpu_every_file_of_tests_is_run() -> None:
    arguments = [arguments[0] for _, arguments in tests.groups(rehearses=False)]
    files = [
        str(path.relative_to(ROOT))
        for folder in ("ops", "gpu")
        for path in (ROOT / "python_tests" / folder).glob("test_*.py")
    ]
    assert sorted(arguments) == sorted(files)


def raising(check: Check, setting: isolation.Setting) -> None:
    raise LookupError("raised on purpose")


def test_a_part_that_raises_is_reported_and_the_next_ones_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Part("broken", 0.1, raising)
    behind = Part("behind", 0.1, raising, needs="broken")
    card = Part("card", 0.8, parts.measures("card"))
    status = main(["--dry-run", "--output", str(tmp_path)], (broken, behind, card))
    found = Found(tmp_path, status)
    assert status == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["broken", "behind", "card"]
    assert "FAILED: LookupError: raised on purpose" in lines[0]
    assert "FAILED: it needs broken" in lines[1]
    assert "FAILED" not in lines[2]
    assert found["broken"]["failures"] == [{"test": "broken", "error": "LookupError: raised on purpose"}]
    assert len(found["card"]["rows"]) == 2
    assert "raised on purpose" in found.report
    assert "raised on purpose" in (tmp_path / "log.txt").read_text()


# Takes a journal, the file of what is done, and cases; needs no torch, so that it begins at once.
TROUBLED = """
import os, sys, time
from pathlib import Path
from benchmarks.gpu_check.journal import Journal

journal, done = Journal(Path(sys.argv[1])), Path(sys.argv[2]).read_text().splitlines()
for case in sys.argv[3:]:
    if case in done:
        continue
    journal.add({"begins": case})
    if case == "dies":
        os.abort()
    if case == "hangs":
        time.sleep(1000)
    journal.add({"case": case, "process": os.getpid()})
"""


def through(tmp_path: Path, *cases: str, seconds: float = 600.0) -> tuple[dict[str, Any], str]:
    script = tmp_path / "troubled.py"
    script.write_text(TROUBLED)

    def command(kept: Path, done: Path) -> list[str]:
        return [sys.executable, str(script), str(kept), str(done), *cases]

    settings = {"PYTHONPATH": str(ROOT)}
    deadline = time.monotonic() + seconds
    setting = isolation.Setting(settings, deadline, tmp_path / "log.txt", stall=10.0)
    entries, problem = isolation.through(command, setting)
    return {entry["case"]: entry for entry in entries if "case" in entry}, problem


def test_a_case_that_kills_its_process_costs_no_other(tmp_path: Path) -> None:
    found, problem = through(tmp_path, "first", "dies", "second", "hangs", "third")
    assert problem == ""
    assert list(found) == ["first", "dies", "second", "hangs", "third"]
    assert "ended by signal 6" in found["dies"]["error"]
    assert "no sign for 10 s" in found["hangs"]["error"]
    assert len({found[name]["process"] for name in ("first", "second", "third")}) == 3


def test_what_hangs_is_stopped_when_the_time_is_over(tmp_path: Path) -> None:
    begin = time.monotonic()
    found, problem = through(tmp_path, "first", "hangs", "second", seconds=8.0)
    assert time.monotonic() - begin < 100
    assert list(found) == ["first"]
    assert "no time left" in problem


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    kept, done = journal.Journal(tmp_path / "journal"), tmp_path / "done"
    done.write_text("card")
    seconds = "-1"
    assert child.main(["benchmarks.gpu_check.card", str(kept.path), str(done), "cpu", seconds]) == 0
    assert kept.entries() == [
        {"cases": ["card", "rates"]},
        {"case": "rates", "left_out": isolation.NO_TIME},
    ]


def test_a_line_that_was_cut_short_is_no_entry(tmp_path: Path) -> None:
    kept = journal.Journal(tmp_path / "journal")
    kept.add({"begins": "a"})
    kept.add({"case": "a"})
    kept.add({"begins": "b"})
    with kept.path.open("a") as file:
        file.write('{"case": "b", "val')
    assert journal.unfinished(kept.entries()) == "b"
    assert journal.finished(kept.entries()) == ["a"]


def test_a_test_that_kills_its_process_costs_no_other(tmp_path: Path) -> None:
    file = tmp_path / "test_troubled.py"
    file.write_text(
        textwrap.dedent("""
        import os, pytest
        def test_first(): pass
        def test_fails(): assert 1 == 2
        def test_dies(): os.abort()
        @pytest.mark.skip
        def test_skipped(): pass
        def test_last(): pass
        """)
    )
    check = Check(tmp_path, True, False, {}, lambda: None)
    setting = isolation.Setting(
        check.environment(), time.monotonic() + 600, tmp_path / "log.txt", stall=300.0
    )
    entries, problem = isolation.through(tests.command([str(file)]), setting, tests.FINE)
    row = tests.row("troubled", entries, problem)
    assert problem == ""
    assert row == {"tests": "troubled", "passed": 2, "failed": 2, "skipped": 1, "not_run": 0}
    errors = {entry["case"].rpartition("::")[2]: entry["error"] for entry in entries if "error" in entry}
    assert set(errors) == {"test_fails", "test_dies"}
    assert "assert 1 == 2" in errors["test_fails"]
    assert "ended by signal 6" in errors["test_dies"]


def expected_times() -> dict[tuple[str, int], tuple[float, float]]:
    """Microseconds on an H100 from the sheet's first table: ours with the power iterations, and autograd's."""
    rows = re.findall(r"^\| (784\S+) \| ([\d,]+) \|(.*)\|$", prediction.SHEET.read_text(), re.MULTILINE)
    found = {}
    for network, batch, rest in rows:
        of_h100 = re.findall(r"/ (\d+) = \*\*[\d.]+\*\*, ([\d.]+)", rest)[1]
        autograd, ratio = map(float, of_h100)
        found[network, int(batch.replace(",", ""))] = (autograd * ratio, autograd)
    return found


def test_predictions_are_those_of_the_sheet() -> None:
    """At the rates that the sheet takes for an H100, up to the rounding of its table."""
    rates = {
        "copy_bytes_per_second": 3.35e12,
        "float32_operations_per_second": 67e12,
        "launch_seconds": 1.5e-6,
    }
    expected = expected_times()
    assert len(expected) == 6
    for (network, batch), times in expected.items():
        for contender, microseconds in zip(("am-adam, CUDA graph", contenders.GRAPH), times, strict=True):
            found = prediction.step(network, batch, contender, rates)
            assert found is not None
            assert 1e6 * found == pytest.approx(microseconds, rel=0.04, abs=0.5)
    for network in ("784-100-100-10", "784-500-500-10"):
        assert prediction.launches(network, launches.BATCH, "am-adam, eager") == 19 + 2
        assert prediction.launches(network, launches.BATCH, contenders.BASELINE) == 22
    assert prediction.step("LeNet-5, 28 x 28", 200, "am-adam, CUDA graph", rates) is None


def test_a_module_that_cannot_be_imported_fails_its_part(tmp_path: Path) -> None:
    absent = Part("absent", 1.0, parts.measures("absent"))
    status = main(["--dry-run", "--output", str(tmp_path)], (absent,))
    assert status == 1
    assert "the process ended with status 1" in Found(tmp_path, status)["absent"]["problem"]
    assert "ModuleNotFoundError" in (tmp_path / "log.txt").read_text()


def test_what_is_worth_most_comes_first() -> None:
    batches = [case.split("; ")[1] for case in steps.cases(False) if case.endswith("TF32 off; steps")]
    assert [batch for batch, _ in itertools.groupby(batches)] == ["200", "8192", "1024", "1"]
    names = [part.name for part in parts.PARTS]
    assert names == ["card", "build", "tests", "steps", "floors", "launches"]
