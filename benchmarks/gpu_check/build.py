"""Compiles the package for the card at hand, with what the interpreter has, into a folder that nothing else uses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .isolation import ROOT, ended, started

FOLDER = ROOT / "build" / "gpu-check"
SITE = FOLDER / "site"
# An editable installation of scikit-build-core is found before any folder of the path.
HIDES = """
import sys
finders = [getattr(finder, "known_wheel_files", {}) for finder in sys.meta_path]
print(next((found["altmin_ext._C"] for found in finders if "altmin_ext._C" in found), ""))
"""
FOUND = """
import json
from altmin_ext.ops import _native as native
module = native.module
print(json.dumps({
    "module": module and module.__file__, "reason": native.reason, "version": module and module.version,
    "compiler": module and module.compiler, "cuda": module and module.cuda_reason,
    "has_cuda_kernels": native.has_cuda_kernels,
}))
"""


def environment(installed: bool) -> dict[str, str]:
    """What processes of the check run in: the package built here, else the interpreter's own beside these sources."""
    path = [str(ROOT)] if installed else [str(SITE), str(ROOT)]
    own = {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, "OMP_NUM_THREADS": "1", **own}


def compiler() -> str:
    """The path of nvcc, or nothing."""
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    candidates = [os.environ.get("CUDACXX"), shutil.which("nvcc")]
    candidates += [f"{home}/bin/nvcc" for home in (*homes, "/usr/local/cuda") if home]
    return next((path for path in candidates if path and shutil.which(path)), "")


def command() -> list[str]:
    """Without a venv, without a network, and without what an earlier build left."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "install"]
    alone = ["--no-build-isolation", "--no-deps", "--no-index", "--upgrade", "--target", str(SITE)]
    return [*pip, *alone, "--config-settings", f"build-dir={FOLDER / 'cmake'}", str(ROOT)]


def variables(architecture: str) -> dict[str, str]:
    """What tells the build to compile for this card alone, as fast as it can."""
    return {
        "ALTMIN_CUDA": "ON",
        "ALTMIN_CUDA_ARCHITECTURES": f"{architecture}-real",
        "CUDACXX": compiler(),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
    }


def command_line(architecture: str) -> str:
    """The build as one would type it in the sources' folder."""
    given = [
        f"{name}={value}" for name, value in variables(architecture).items() if name.startswith("ALTMIN")
    ]
    words = [word.replace(f"{ROOT}{os.sep}", "").replace(str(ROOT), ".") for word in command()[1:]]
    return " ".join([*given, "python", *words])


def hidden_by(settings: Mapping[str, str]) -> str:
    """The module of an editable installation, which would be found in place of a new one, or nothing."""
    return _python(HIDES, settings).stdout.strip()


def found(settings: Mapping[str, str]) -> dict[str, Any]:
    """The native module that processes of the check find."""
    done = _python(FOUND, settings)
    if done.returncode != 0:
        raise RuntimeError(f"altmin_ext cannot be imported: {done.stderr.strip()[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _python(script: str, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=dict(settings), cwd=ROOT
    )


def build(architecture: str, seconds: float, log: Path) -> None:
    """Raise a RuntimeError that says why there is no module."""
    if not compiler():
        raise RuntimeError("there is no nvcc: put it on the PATH, or its path into CUDACXX")
    shutil.rmtree(SITE, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"\n$ {' '.join(command())}\n".encode())
        output.flush()
        given = {**os.environ, **variables(architecture)}
        process = started(command(), output, given)
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the build took longer than {seconds:.0f} s") from None
        finally:
            ended(process)
    if status != 0:
        raise RuntimeError("the build failed; the log says why")
