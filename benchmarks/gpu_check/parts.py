"""The parts of a check, the most valuable first, each with its share of the time."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import build, prediction, tests
from .isolation import Command, Setting, through
from .journal import write_json

Content = dict[str, Any]


@dataclasses.dataclass
class Check:
    """What the parts of one check share.

    Attributes:
        output: the folder for their files.
        rehearses: whether it all runs on a CPU, up to the GPU itself.
        installed: whether to check the package that the interpreter has instead of a new build.
        contents: what the parts so far have found, by their names.
        changed: called when there is more to report.
    """

    output: Path
    rehearses: bool
    installed: bool
    contents: dict[str, Content]
    changed: Callable[[], None]
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def device(self) -> str:
        return "cpu" if self.rehearses else "cuda:0"

    def environment(self) -> dict[str, str]:
        own = {"ALTMIN_TEST_DEVICE": self.device}
        return {**build.environment(self.installed or self.rehearses), **own}

    def rates(self) -> Mapping[str, float] | None:
        """What the card was measured to do, if it was."""
        rows = self.contents.get("card", {}).get("rows", [])
        return next((row for row in rows if "copy_bytes_per_second" in row), None)

    def save(self, part: str, content: Content) -> None:
        with self.lock:
            self.contents[part] = content
            write_json(self.output / f"{part}.json", content)
            self.changed()


@dataclasses.dataclass(frozen=True)
class Part:
    """One of them.

    Attributes:
        share: of the time, next to the shares of those that follow.
        run: does it, within the setting's time, and saves what it finds.
        needs: the name of a part without which it makes no sense.
    """

    name: str
    share: float
    run: Callable[[Check, Setting], None]
    needs: str = ""


def measures(module: str, finish: Callable[[Check, Content], None] | None = None) -> Callable[..., None]:
    """A part whose cases a module of this package measures."""

    def command(check: Check, setting: Setting) -> Command:
        name = module if "." in module else f"benchmarks.gpu_check.{module}"
        of_python = [sys.executable, "-m", "benchmarks.gpu_check.child", name]
        return lambda journal, done: [
            *of_python, str(journal), str(done), check.device, str(max(0.0, setting.left - 5.0))
        ]  # fmt: skip

    def run(check: Check, setting: Setting) -> None:
        entries, problem = through(command(check, setting), setting)
        listed: list[str] = next((entry["cases"] for entry in entries if "cases" in entry), [])
        ended = {entry["case"]: entry for entry in entries if "case" in entry}
        content: Content = {
            "rows": [row for entry in ended.values() for row in entry.get("rows", [])],
            "failures": [entry for entry in ended.values() if "error" in entry]
            + [
                {"case": f"{case}; {row['contender']}", "error": row["error"]}
                for case, entry in ended.items()
                for row in entry.get("rows", [])
                if "error" in row
            ],
            "left_out": [case for case in listed if case not in ended or "left_out" in ended[case]],
        }
        if problem:
            content["problem"] = problem
        if finish is not None:
            finish(check, content)
        check.save(module.rpartition(".")[2], content)

    return run


def run_build(check: Check, setting: Setting) -> None:
    settings = check.environment()
    content: Content = {"rows": [], "failures": []}
    if check.rehearses:
        content["would_run"] = build.command_line("90")
    elif not check.installed:
        if hides := build.hidden_by(settings):
            raise RuntimeError(
                f"an editable installation, {hides}, would be found in place of a new build: uninstall it, or check "
                "it itself with --installed"
            )
        card = next(row for row in check.contents["card"]["rows"] if "architecture" in row)
        build.build(card["architecture"], setting.left, setting.log)
    found = build.found(settings)
    content["rows"] = [{**found, "module": Path(found["module"] or "").name}]
    if not found["module"]:
        raise RuntimeError(found["reason"])
    if not check.rehearses and not found["has_cuda_kernels"]:
        raise RuntimeError(f"{found['module']} has no CUDA kernels: {found['cuda']}")
    if not (check.installed or check.rehearses) and build.SITE not in Path(found["module"]).parents:
        raise RuntimeError(f"{found['module']} is found in place of the new build in {build.SITE}")
    check.save("build", content)


def run_tests(check: Check, setting: Setting) -> None:
    def save(rows: list[Content], failures: list[Content]) -> None:
        problems = {row["tests"]: row["problem"] for row in rows if "problem" in row}
        left_out = [f"{name}: {problem}" for name, problem in problems.items()]
        check.save("tests", {"rows": rows, "failures": failures, "left_out": left_out})

    tests.run(setting, check.rehearses, save)


def need_a_card(check: Check, content: Content) -> None:
    """Without one nothing else makes sense; without its rates all else does."""
    if not check.rehearses and not any("architecture" in row for row in content["rows"]):
        content["broken"] = True


def add_floors(check: Check, content: Content) -> None:
    """The longer of what an op moves and what it computes, at the card's rates."""
    if (rates := check.rates()) is None:
        return
    for row in content["rows"]:
        moving = 1e6 * row["bytes"] / rates["copy_bytes_per_second"]
        computing = 1e6 * row["operations"] / rates["float32_operations_per_second"]
        row["floor_microseconds"] = max(moving, computing)
        row["over_floor"] = row["microseconds"] / row["floor_microseconds"]


def add_predicted_times(check: Check, content: Content) -> None:
    rates = check.rates()
    for row in content["rows"]:
        if rates is None or row["precision"] != "TF32 off":
            continue
        seconds = prediction.step(row["network"], row["batch"], row["contender"], rates)
        if seconds is not None:
            row["predicted_milliseconds"] = 1e3 * seconds


def add_predicted_launches(check: Check, content: Content) -> None:
    for row in content["rows"]:
        count = prediction.launches(row["network"], row.get("batch", 200), row["contender"])
        if count is not None:
            row["predicted_kernels"] = count


PARTS = (
    Part("card", 0.06, measures("card", need_a_card)),
    Part("build", 0.24, run_build, needs="card"),
    Part("tests", 0.26, run_tests, needs="build"),
    Part("steps", 0.30, measures("steps", add_predicted_times), needs="build"),
    Part("floors", 0.08, measures("floors", add_floors), needs="build"),
    Part("launches", 0.06, measures("launches", add_predicted_launches), needs="build"),
)
