"""The native module: what is said of it, its instruction sets, and what happens where it is missing or broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import altmin_ext
from altmin_ext import ops
from altmin_ext.errors import unknown_name
from altmin_ext.ops import Activation
from altmin_ext.ops import _native as native

from .calling import refused

# Each scenario imports its own copy of the package within one process, which imports torch once. `-S` keeps .pth
# files out, and with them the import hook of an editable install, which would find the package under test.
SCENARIOS = """
import importlib, importlib.metadata, json, sys, torch

def package_not_found(name):
    raise importlib.metadata.PackageNotFoundError(name)

def describe():
    from altmin_ext.ops import _native as native
    import altmin_ext
    from altmin_ext import ops
    report = {"where": altmin_ext.__file__, "description": native.describe()}
    code, activation = torch.ones(2, 3), torch.empty(2, 3)
    try:
        ops.activate(code, activation=activation, sigma=ops.Activation("relu"))
        report["call"] = "ok" if torch.equal(activation, code) else "wrong"
    except Exception as error:
        report["call"] = [type(error).__name__, str(error)]
    with ops.backend("reference"):
        ops.activate(code, activation=activation, sigma=ops.Activation("relu"))
        report["reference"] = torch.equal(activation, code)
    return report

reports = {}
for scenario, paths in json.loads(sys.argv[1]).items():
    for name in [name for name in sys.modules if name.partition(".")[0] == "altmin_ext"]:
        del sys.modules[name]
    before, distribution = list(sys.path), importlib.metadata.distribution
    sys.path[:0] = paths
    if len(paths) == 1:
        importlib.metadata.distribution = package_not_found
    importlib.invalidate_caches()
    capsule = torch.Tensor.__dlpack_c_exchange_api__
    if scenario == "old torch":
        del torch.Tensor.__dlpack_c_exchange_api__
    try:
        reports[scenario] = describe()
    except BaseException as error:
        reports[scenario] = {"died": repr(error)}
    torch.Tensor.__dlpack_c_exchange_api__ = capsule
    importlib.metadata.distribution = distribution
    sys.path[:] = before
print(json.dumps(reports))
"""


def copy_package(folder: Path) -> Path:
    """The package's Python, without its native module."""
    source = Path(altmin_ext.__file__).parent
    ignored = shutil.ignore_patterns("_C*", "__pycache__")
    shutil.copytree(source, folder / "altmin_ext", ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the package makes of itself in every scenario."""
    assert native.module is not None, native.reason
    file = Path(str(native.module.__file__))
    root = tmp_path_factory.mktemp("packages")
    folders = {
        name: copy_package(root / name.replace(" ", "_")) for name in ("whole", "missing", "broken", "stale")
    }
    folders |= {name: copy_package(root / name.replace(" ", "_")) for name in ("old torch", "source tree")}
    for name in ("whole", "old torch"):
        shutil.copy(file, folders[name] / "altmin_ext")
    (folders["broken"] / "altmin_ext" / file.name).write_bytes(b"\x7fELF, or so it says")
    (folders["stale"] / "altmin_ext" / "_C.py").write_text('version = "0.0.0"\n')
    # A source tree that hides an installed package: only the latter has the native module.
    installed = root / "site-packages"
    metadata = installed / f"altmin_ext-{altmin_ext.__version__}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: altmin_ext\nVersion: {altmin_ext.__version__}\n"
    )
    (installed / "altmin_ext").mkdir()
    shutil.copy(file, installed / "altmin_ext")

    paths = {name: [str(folder)] for name, folder in folders.items()}
    paths["source tree"].append(str(installed))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.run(
        [sys.executable, "-S", "-c", SCENARIOS, json.dumps(paths)],
        capture_output=True, text=True, env=environment, cwd=root, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    reports = json.loads(process.stdout)
    for name, folder in folders.items():
        assert reports[name]["where"].startswith(str(folder)), "another package was tested"
    return reports


def assert_unavailable(report: dict[str, Any], *words: str) -> None:
    """One sentence of cause and remedy, from describe() and from every op; the reference runs all the same."""
    description = report["description"]
    assert description["available"] is False
    sentence = description["reason"]
    assert report["call"] == ["ImportError", sentence]
    assert "\n" not in sentence
    assert sentence.endswith(".")
    for word in (*words, "pip install"):
        assert word in sentence
    assert report["reference"] is True


def test_a_whole_package(reports: dict[str, Any]) -> None:
    assert reports["whole"]["description"]["available"] is True
    assert reports["whole"]["call"] == "ok"


def test_a_missing_module(reports: dict[str, Any]) -> None:
    assert_unavailable(reports["missing"], "altmin_ext._C", "never built", "missing")


def test_a_broken_module(reports: dict[str, Any]) -> None:
    assert_unavailable(reports["broken"], "altmin_ext._C", "cannot be loaded")


def test_a_module_of_another_version(reports: dict[str, Any]) -> None:
    assert_unavailable(reports["stale"], "0.0.0", altmin_ext.__version__)


def test_a_torch_that_is_too_old(reports: dict[str, Any]) -> None:
    assert_unavailable(reports["old torch"], "torch", torch.__version__, "upgrade")


def test_a_source_tree_finds_the_installed_module(reports: dict[str, Any]) -> None:
    assert reports["source tree"]["description"]["available"] is True
    assert reports["source tree"]["call"] == "ok"


def test_describe() -> None:
    description = native.describe()
    assert description["available"] is True
    assert description["version"] == altmin_ext.__version__
    assert description["isa"] in ("baseline", "avx2", "avx512")
    assert description["threads"] >= 1
    for key in ("compiler", "flags", "cuda"):
        assert description[key]
        assert "\n" not in description[key]
    assert "-ffast-math" not in description["flags"]
    assert "-march=native" not in description["flags"]


def test_threads_follow_torch() -> None:
    """One pool of threads for both, sized by torch.set_num_threads."""
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert native.describe()["threads"] == threads
    finally:
        torch.set_num_threads(before)


def test_instruction_sets(cpu_kernels: str) -> None:
    assert native.module is not None
    assert native.describe()["isa"] == cpu_kernels
    assert not native.module.use_instruction_set("avx1024")
    assert native.describe()["isa"] == cpu_kernels


def test_instruction_sets_are_compiled_apart() -> None:
    """The results agree, but fused multiply-adds make some differ in the last bit: both are really run."""
    assert native.module is not None
    before = native.module.instruction_set()
    generator = torch.Generator().manual_seed(0)
    code = torch.randn(100, 100, generator=generator)
    results = []
    try:
        for name in ("baseline", "avx2"):
            if not native.module.use_instruction_set(name):
                pytest.skip(f"this processor or build lacks {name}")
            activation = torch.empty_like(code)
            ops.activate(code.clone(), activation=activation, sigma=Activation("tanh"))
            results.append(activation)
    finally:
        native.module.use_instruction_set(before)
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)
    assert not torch.equal(*results)


def test_backend() -> None:
    code, activation = torch.randn(3, 4), torch.empty(3, 4)
    with ops.backend("reference"):
        # The reference takes what the kernels refuse, and so tells the two apart.
        ops.activate(code.t(), activation=activation.t(), sigma=Activation("relu"))
        with ops.backend("native"), pytest.raises(ValueError, match="contiguous"):
            ops.activate(code.t(), activation=activation.t(), sigma=Activation("relu"))
        ops.activate(code.t(), activation=activation.t(), sigma=Activation("relu"))
    with pytest.raises(ValueError, match="contiguous"):
        ops.activate(code.t(), activation=activation.t(), sigma=Activation("relu"))
    with refused(ValueError, "backend", "'refrence'", "'reference'"), ops.backend("refrence"):
        pass
    assert isinstance(unknown_name("backend", "x", ("y",)), ValueError)


def test_what_is_no_activation() -> None:
    """A name for one, a module for one, and one of a later version, whose kind is unknown here."""
    assert native.module is not None
    code, activation = torch.ones(2, 3), torch.ones(2, 3)
    for other in ("relu", torch.nn.ReLU(), None, SimpleNamespace(kind="relu", parameter=0.0)):
        with refused(TypeError, "sigma must be an altmin_ext.ops.Activation", type(other).__name__):
            ops.activate(code, activation=activation, sigma=other)
    for kind in (-1, len(native.module.activation_names), 2**30, 2**70):
        with refused(ValueError, "sigma.kind", str(kind)):
            ops.activate(code, activation=activation, sigma=SimpleNamespace(kind=kind, parameter=0.0))
    with refused(ValueError, "unknown activation 'sigmod'", "did you mean 'sigmoid'", "softplus"):
        Activation("sigmod")
