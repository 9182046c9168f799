"""Seeds one fault at a time into the package and sees whether the tests notice.

    python -m python_tests.mutations [--only WORDS] [--jobs J] [--output python_tests/mutations.md]

Each fault is a replacement of text in a copy of the package and its tests. Python finds that copy first, with the
native module of the installed package; a fault in csrc is compiled anew. The named tests must then fail. A fault that
survives, or whose text is no longer found once, fails the run. Faults of the CUDA kernels are in native/mutations.py.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import altmin_ext._C as native_module

ROOT = Path(__file__).parents[1]
LEFT_OUT = (
    ".git",
    ".venv",
    "build",
    "dist",
    "runs",
    "__pycache__",
    ".*_cache",
    ".benchmarks",
    "*.so",
    "results",
)


@dataclasses.dataclass(frozen=True)
class Fault:
    """``before`` becomes ``after`` in a file, named from the root.

    Attributes:
        kind: what kind of trust it breaks.
        what: what is wrong with it, in a few words.
        tests: files or pytest's node ids, of which at least one must fail.
    """

    kind: str
    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    @property
    def is_compiled(self) -> bool:
        return self.file.startswith("csrc/") or self.file == "CMakeLists.txt"


# kind, what, file, before, after, tests
BUGS: list[tuple[str, str, str, str, str, Sequence[str]]] = [
]  # fmt: skip


def faults(entries: Sequence[Sequence[object]]) -> list[Fault]:
    """The faults that such entries describe; tests may be one string or several."""
    found = []
    for kind, what, file, before, after, tests in entries:
        named = (tests,) if isinstance(tests, str) else tuple(tests)  # type: ignore[arg-type]
        found.append(Fault(str(kind), str(what), str(file), str(before), str(after), named))
    return found


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """A copy of package and tests, with the native module of the installed package."""
    with tempfile.TemporaryDirectory(prefix="altmin-mutation-") as name:
        folder = Path(name) / "copy"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        module = Path(str(native_module.__file__))
        shutil.copy(module, folder / "altmin_ext" / module.name)
        yield folder


def environment_for(folder: Path) -> dict[str, str]:
    """An environment in which Python finds the copy and not the installed package, even if that is editable."""
    (folder.parent / "sitecustomize.py").write_text(
        "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
    )
    path = os.pathsep.join(map(str, (folder, folder.parent)))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "250",
    }


def compile_native(folder: Path) -> str:
    """Replace the copy's native module by one of its own sources; returns what the compiler said if it failed."""
    target, package = folder / "build" / "target", folder / "altmin_ext"
    environment = {**os.environ, "ALTMIN_CUDA": "OFF", "PYTHONPATH": ""}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    if shutil.which("ccache"):  # most files are as they were
        environment |= {
            "CMAKE_CXX_COMPILER_LAUNCHER": "ccache",
            "CCACHE_BASEDIR": str(folder),
            "CCACHE_NOHASHDIR": "1",
        }
    command = ["install", "--no-deps", "--no-build-isolation", "--target", str(target), str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *command],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        return done.stdout[-2000:] + done.stderr[-2000:]
    for module in package.glob("_C*.so"):
        module.unlink()
    for module in (target / "altmin_ext").glob("_C*.so"):
        shutil.copy(module, package)
    return ""


def outcome(fault: Fault) -> str:
    """How the tests noticed the fault; nothing if they did not.

    Raises:
        LookupError: its text is not found once.
        RuntimeError: it does not compile, or the tests could not be run.
    """
    with copied() as folder:
        source = folder / fault.file
        text = source.read_text()
        if text.count(fault.before) != 1:
            raise LookupError(
                f"{fault.what!r} must find its text once in {fault.file}, not {text.count(fault.before)} times."
            )
        source.write_text(text.replace(fault.before, fault.after))
        if fault.is_compiled and (complaint := compile_native(folder)):
            raise RuntimeError(f"{fault.what!r} does not compile: {complaint}")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *fault.tests],
            cwd=folder, env=environment_for(folder), capture_output=True, text=True, timeout=1800,
        )  # fmt: skip
    if done.returncode == 0:
        return ""
    if done.returncode not in (1, 2) and done.returncode > 0:  # pytest's own: a wrong node id, no tests
        raise RuntimeError(
            f"{fault.what!r}: pytest stopped with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
        )
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", done.stdout, re.MULTILINE)
    if not failed:
        return f"pytest ended with {done.returncode}"
    test, reason = failed[0]
    report = f"{test.removeprefix('python_tests/')}: {reason}" if reason else test
    return report.replace(str(folder), "")


def line(fault: Fault, report: str) -> str:
    """The row of the table."""
    cells = (fault.kind, fault.what, f"`{fault.file}`", report or "**not caught**")
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="faults whose kind, name or file holds this")
    parser.add_argument("--jobs", type=int, default=1, help="faults at a time (default: 1)")
    parser.add_argument("--output", type=Path, help="write the table there")
    arguments = parser.parse_args()
    chosen = [f for f in faults(BUGS) if arguments.only in f"{f.kind} {f.what} {f.file}"]
    rows, survivors = [], []

    def tried(fault: Fault) -> str:
        try:
            return outcome(fault)
        except (LookupError, RuntimeError) as error:
            survivors.append(f"{fault.what} ({error})")
            return "**not tried**"

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for fault, report in zip(chosen, pool.map(tried, chosen), strict=True):
            if not report:
                survivors.append(fault.what)
            rows.append(line(fault, report))
            print(rows[-1], flush=True)
    if arguments.output:
        heading = "Faults seeded into the package, by `python -m python_tests.mutations`."
        table = ["| kind | seeded fault | file | how the tests report it |", "|---|---|---|---|", *rows]
        arguments.output.write_text("\n".join([heading, "", *table]) + "\n")
    print(
        f"{len(rows) - len(survivors)} of {len(rows)} caught" + "".join(f"; survived: {s}" for s in survivors)
    )
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
