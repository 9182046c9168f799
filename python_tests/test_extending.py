"""docs/extending.md: its examples, applied to a copy of the sources, do what it says.

Oracles: the tests that the examples bring along, each of which states its own; for the table, the names of the files
in front of the blocks. What the page's diffs take away or leave must be in the sources as they are now.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from altmin_ext import ops
from altmin_ext.ops import _native as native

from .native import build
from .test_house import FLOORS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
if not PAGE.is_file():
    pytest.skip("the tests run without the source tree's docs/extending.md", allow_module_level=True)
# At most so many files of code may a new one take: no joint may come apart again.
LIMITS = {"an activation": 3, "a loss": 1, "a method": 3, "an op": 8, "a map": 3, "a data set": 2}
NATIVE = ("An activation", "An op")
IN_PYTHON = ("A loss", "A method", "A map", "A data set")
# The ops that are compiled into the copy besides that of the example: a whole build would take twice as long.
COMPILED = ("activate", "activation_difference", "activation_vjp", "code_step")


@dataclass(frozen=True)
class Block:
    """A block of code: its language, the file that it belongs to, "" for none, and the text."""

    language: str
    path: str
    text: str


@dataclass(frozen=True)
class Section:
    """A section of the page: its blocks, and the tests that it says to run."""

    blocks: list[Block]

    @property
    def paths(self) -> set[str]:
        return {block.path for block in self.blocks if block.path}

    @property
    def tests(self) -> tuple[str, list[str]]:
        """The expression and the paths that pytest is given."""
        (line,) = (block.text for block in self.blocks if block.language == "sh")
        match = re.search(r'pytest -k (?:"([^"]+)"|(\S+)) (.+)$', line)
        assert match is not None, line
        return match[1] or match[2], match[3].split()


def sections() -> dict[str, Section]:
    found = {}
    for part in PAGE.read_text().split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        blocks = re.findall(r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
        found[title] = Section([Block(*block) for block in blocks])
    return found


SECTIONS = sections()


def patched(text: str, diff: str, path: str) -> str:
    """A text after a diff, each hunk of which must have its place there, and only one."""
    for hunk in diff.split("@@\n")[1:]:
        lines = [line or " " for line in hunk.splitlines()]
        assert all(line[0] in " +-" for line in lines), hunk
        before, after = (
            "".join(f"{line[1:]}\n" for line in lines if line[0] in kinds) for kinds in (" -", " +")
        )
        count = f"\n{text}".count(f"\n{before}")
        assert count == 1, f"docs/extending.md expects this {count} times in {path}:\n{before}"
        start = f"\n{text}".index(f"\n{before}")
        text = text[:start] + after + text[start + len(before) :]
    return text


def contents(folders: Sequence[str], names: Collection[str]) -> dict[str, str]:
    """The text of every file in folders of the sources, by its path, after the blocks of these sections."""
    kinds = {".py", ".h", ".cpp", ".cu", ".md", ".txt", ".toml", ".typed"}
    files = [
        ROOT / name for name in ("CMakeLists.txt", "docs/data.md", "docs/methods/index.md", "pyproject.toml")
    ]
    for folder in folders:
        files += [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in kinds]
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in files}
    for name in names:
        for block in SECTIONS[name].blocks:
            if block.language == "diff":
                texts[block.path] = patched(texts[block.path], block.text, block.path)
            elif block.path:
                assert block.path not in texts, f"{block.path} is there already"
                texts[block.path] = block.text
    return texts


def write(tree: Path, texts: dict[str, str]) -> None:
    """Make a tree hold these files; what is as it should be stays untouched, and is not compiled again."""
    for path, text in texts.items():
        file = tree / path
        if not file.is_file() or file.read_text() != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    for folder in {path.partition("/")[0] for path in texts if "/" in path}:
        for file in (tree / folder).rglob("*"):
            if (
                file.is_file()
                and file.suffix not in (".so", ".pyc")
                and str(file.relative_to(tree)) not in texts
            ):
                file.unlink()


# The copy, and not the installed package; an editable installation would come before sys.path.
RUN = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith("_editable")]
sys.path.insert(0, ".")
import altmin_ext, pytest
assert altmin_ext.__file__.startswith(sys.argv[1]), altmin_ext.__file__
from altmin_ext.ops import _native
assert _native.module.__file__.startswith(sys.argv[1]), _native.module.__file__
sys.exit(pytest.main(sys.argv[2:]))
"""


def assert_examples_pass(
    tree: Path, names: Collection[str], report: Path, options: Sequence[str] = ()
) -> None:
    """Run in a copy what the sections say to run: all passes, and for every name in it something does."""
    tests = [SECTIONS[name].tests for name in names]
    words = [word for expression, _ in tests for word in expression.split(" or ")]
    paths = dict.fromkeys(path for _, paths in tests for path in paths)
    arguments = ["-k", f"({' or '.join(words)}) and not emulated", *paths, "--junitxml", str(report)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tree), *arguments, *options, "-p", "no:cacheprovider"],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    passed = [
        f"{case.get('classname')} {case.get('name')}"
        for case in ElementTree.parse(report).iter("testcase")
        if not len(case)
    ]
    for word in words:
        assert any(word in case for case in passed), f"no test of {word} has run"


def test_the_page_has_every_extension_point() -> None:
    assert tuple(name for name in SECTIONS if name != "How a step runs") == (
        *("An activation", "A loss", "A method", "An op", "A map", "A data set"),
    )


def test_the_table_counts_the_files() -> None:
    rows = re.findall(r"^\| \[(.+)\]\(#(.+)\) \| (\d+) \| (\d+) \|$", PAGE.read_text(), re.MULTILINE)
    assert [name for name, *_ in rows] == list(LIMITS)
    for name, anchor, code, tests in rows:
        assert anchor == name.replace(" ", "-")
        paths = {path for path in SECTIONS[name.capitalize()].paths if not path.endswith(".md")}
        of_tests = {path for path in paths if path.startswith("python_tests/")}
        assert (int(code), int(tests)) == (len(paths - of_tests), len(of_tests)), name
        assert int(code) <= LIMITS[name]


def test_the_op_is_on_every_floor() -> None:
    floors = {floor.format("scale_shift") for floor in FLOORS}
    assert SECTIONS["An op"].paths == {*floors, "altmin_ext/ops/__init__.py"}


@pytest.mark.parametrize(
    "name",
    [name for name, s in SECTIONS.items() if any(b.language == "python" and not b.path for b in s.blocks)],
)
def test_what_needs_no_file_runs_as_printed(name: str) -> None:
    for block in SECTIONS[name].blocks:
        if block.language == "python" and not block.path:
            scope: dict[str, object] = {}
            with torch.random.fork_rng():
                exec(compile(block.text, PAGE.name, "exec"), scope)


def test_examples_in_python(tmp_path: Path) -> None:
    assert native.module is not None, native.reason
    tree = tmp_path / "copy"
    write(tree, contents(["altmin_ext", "python_tests"], IN_PYTHON))
    shutil.copy(native.module.__file__ or "", tree / "altmin_ext")
    assert_examples_pass(tree, IN_PYTHON, tmp_path / "report.xml")


@pytest.mark.long
def test_examples_that_are_compiled(tmp_path: Path) -> None:
    """Kept in build/extending, so that only a change is compiled."""
    if not (ROOT / "csrc").is_dir() or shutil.which("c++") is None:
        pytest.skip("compiling the examples needs the source tree and a C++ compiler")
    tree = ROOT / "build" / "extending" / "copy"
    texts = contents(["altmin_ext", "python_tests", "benchmarks/micro", "csrc"], NATIVE)
    left_out = set(ops.names) - set(COMPILED)
    for name in left_out:
        del texts[f"csrc/cpu/{name}.cpp"], texts[f"csrc/bindings/{name}.cpp"]
    with build.locked(tree):
        write(tree, texts)
        module = build.cpu_module(tree, tree.with_name("cmake"))
        link = tree / "altmin_ext" / module.name  # a copy would be written while another process runs it
        if not link.is_symlink():
            link.symlink_to(module)
    if not build.missing():  # the emulator's own tests would take minutes to build
        kernel = tree / "csrc" / "cuda" / "scale_shift.cu"
        flags = (*build.COMMON, "-xc++", "-Werror", f"-I{build.EMULATOR}", f"-I{tree / 'csrc'}")
        subprocess.run([build.COMPILER, *flags, "-fsyntax-only", kernel], check=True)
    ignored = [f"--ignore=python_tests/ops/test_{name}.py" for name in left_out]
    assert_examples_pass(tree, NATIVE, tmp_path / "report.xml", ignored)
