"""Runs a command with the CPU's kernels under sanitizers: ``python -m python_tests.native.sanitized COMMAND ...``

Compiles the module, if need be, and has the process of the command preload what it needs. There a target of the
fuzzer puts the module in place of the package's own by :func:`use`.
"""

from __future__ import annotations

import importlib.util
import os
import sys

from altmin_ext.ops import _native as native

from . import build

VARIABLE = "ALTMIN_SANITIZED_MODULE"


def use() -> None:
    """Take the sanitized module in place of the package's, if the process was started with one."""
    path = os.environ.get(VARIABLE)
    if path is None:
        return
    spec = importlib.util.spec_from_file_location("altmin_ext_sanitized._C", path)
    assert spec is not None
    assert spec.loader is not None
    native.module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native.module)


def main(command: list[str]) -> None:
    if reason := build.missing():
        raise SystemExit(f"{reason}.")
    module = build.sanitized_cpu_module()
    environment = {**os.environ, **build.address_environment(), VARIABLE: str(module)}
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main(sys.argv[1:])
