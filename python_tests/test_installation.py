"""Finding the native module, and what it is built from and runs on; processes of their own where it is loaded.

Oracle: the promised sentence, or the file given; the system's own lists of a process's files and threads; the files
of the source tree.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import altmin_ext
from altmin_ext.ops import _native as native

report = """
import altmin_ext
from altmin_ext.ops import _native as native
print(altmin_ext.__file__, native.module and native.module.__file__, native.reason, sep="\\n")
"""


@pytest.fixture
def source_tree(tmp_path):
    """A folder with the package as it lies in a clone: without the native module."""
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(Path(altmin_ext.__file__).parent, tmp_path / "clone" / "altmin_ext", ignore=ignored)
    return tmp_path / "clone"


@pytest.fixture
def installed(tmp_path):
    """A folder that looks to importlib like site-packages with the package installed, still without the module."""
    (tmp_path / "site" / "altmin_ext").mkdir(parents=True)
    information = tmp_path / "site" / f"altmin_ext-{altmin_ext.__version__}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Name: altmin_ext\nVersion: {altmin_ext.__version__}\n")
    return tmp_path / "site"


def run(source_tree, installed, *arguments):
    """Run Python where the source tree hides the installed package; -S keeps an editable installation out."""
    path = os.pathsep.join(map(str, [source_tree, installed, *filter(None, sys.path)]))
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=source_tree,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
    )


def found(source_tree, installed):
    """Where the package lies, where its native module does, and the reason if there is none."""
    done = run(source_tree, installed, "-c", report)
    assert done.returncode == 0, done.stderr
    package, module, reason = done.stdout.split("\n")[:3]
    assert Path(package) == source_tree / "altmin_ext" / "__init__.py"
    return module, reason


@pytest.mark.skipif(native.module is None, reason="the native module is not built")
def test_source_tree_finds_the_module_of_the_installed_package(source_tree, installed):
    copy = shutil.copy(native.module.__file__, installed / "altmin_ext")
    assert found(source_tree, installed) == (str(copy), "")


def test_missing_module_is_explained(source_tree, installed):
    module, reason = found(source_tree, installed)
    assert module == "None"
    assert "never built" in reason
    assert str(source_tree) in reason
    assert "pip install" in reason


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_broken_module_is_explained(source_tree, installed, content):
    (installed / "altmin_ext" / f"_C{EXTENSION_SUFFIXES[0]}").write_bytes(content)
    module, reason = found(source_tree, installed)
    assert module == "None"
    assert "cannot be loaded" in reason
    assert "pip install" in reason


@pytest.mark.skipif(native.module is None, reason="the native module is not built")
def test_module_of_another_version_is_explained(source_tree, installed):
    shutil.copy(native.module.__file__, installed / "altmin_ext")
    start = source_tree / "altmin_ext" / "_version.py"
    start.write_text(start.read_text().replace(f'"{altmin_ext.__version__}"', '"99.0"'))
    module, reason = found(source_tree, installed)
    assert module == "None"
    assert altmin_ext.__version__ in reason
    assert "99.0" in reason
    assert "pip install" in reason


def test_commands_fail_with_one_sentence(source_tree, installed):
    info = run(source_tree, installed, "-m", "altmin_ext", "info")
    assert info.returncode == 0, info.stderr
    assert "never built" in info.stdout
    train = run(source_tree, installed, "-m", "altmin_ext", "train", "--epochs", "1", "--quiet")
    assert train.returncode == 2
    assert train.stderr.count("\n") == 1
    assert "never built" in train.stderr


ROOT = Path(__file__).parents[1]

parallel = """
import os, torch, altmin_ext
from altmin_ext import ops
from altmin_ext.ops import _native as native
from python_tests.installed_wheel import openmp_runtimes

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(5)
torch.randn(1 << 20).exp()
before = threads()
code = torch.randn(1024, 1024)
ops.activate(code, activation=torch.empty_like(code), sigma=ops.Activation("relu"))
print(before, threads(), os.path.realpath(native.module.openmp_runtime()), *openmp_runtimes(), sep="\\n")
"""


@pytest.mark.skipif(native.module is None, reason="the native module is not built")
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system lists no threads in /proc")
def test_kernels_run_on_the_openmp_threads_of_torch():
    done = subprocess.run(
        [sys.executable, "-c", parallel], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    before, after, ours, *mapped = done.stdout.split()
    assert int(before) >= 5
    assert after == before
    assert mapped == [ours]


def test_wheels_are_for_the_pythons_of_the_classifiers():
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    classifiers = "\n".join(settings["project"]["classifiers"])
    minors = [int(minor) for minor in re.findall(r"Python :: 3\.(\d+)$", classifiers, re.MULTILINE)]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert settings["project"]["requires-python"] == f">=3.{minors[0]}"
    free = [f"cp3{minors[-1]}t-*"] if "Free Threading" in classifiers else []
    assert settings["tool"]["cibuildwheel"]["build"] == [*(f"cp3{minor}-*" for minor in minors), *free]


def test_source_distribution_is_complete(tmp_path):
    pytest.importorskip("scikit_build_core")
    build = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, tmp_path], cwd=ROOT, check=True, capture_output=True, timeout=600
    )
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    source = {"CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml"}
    for folder in ("altmin_ext", "csrc"):
        source |= {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
        }
    assert source - names == set()
    assert {name.partition("/")[0] for name in names} & {"build", ".venv", ".ci"} == set()
