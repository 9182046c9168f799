"""What the host's compiler says of the sources that it compiled.

Oracle: the compiler, which warns of nothing.
"""

from __future__ import annotations

import json
import shlex
import subprocess

import pybind11
import pytest

from .test_instruction_sets import build_folder


@pytest.mark.long
def test_no_warnings() -> None:
    """The build's own commands, up to code generation."""
    entries = json.loads((build_folder() / "compile_commands.json").read_text())
    entries = [entry for entry in entries if not entry["file"].endswith(".cu")]
    assert len(entries) >= 2, "kernels and bindings"
    for entry in entries:
        command = [*shlex.split(entry["command"]), "-fsyntax-only", "-Wall", "-Wextra", "-Wshadow", "-Werror"]
        # That which pip built with is gone.
        command += ["-isystem", pybind11.get_include()]
        done = subprocess.run(command, capture_output=True, text=True, cwd=entry["directory"])
        assert done.returncode == 0, f"{entry['file']}\n{done.stderr}"
