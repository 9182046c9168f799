"""Compiles the CUDA kernels: with g++ for the emulator and the module that calls them, with nvcc as for a release.

For the emulator each file is kept in ``build/emulator`` under a hash of all that went into it, so that a change
compiles anew what it concerns; nvcc's build is CMake's own, in ``build/nvcc``. Processes that test side by side share
both: what one is compiling the other waits for.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pybind11

ROOT = Path(__file__).parents[2]
EMULATOR = Path(__file__).parent / "emulator"
KEPT = ROOT / "build" / "emulator"
NVCC = ROOT / "build" / "nvcc"
SANITIZED = ROOT / "build" / "sanitized"
COMPILER = "g++"

COMMON = ("-std=c++17", "-fPIC", "-g1", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
INCLUDES = (f"-I{EMULATOR.relative_to(ROOT)}", "-Icsrc")
KERNEL = (
    "-xc++",
    # Accesses stay as the source has them: joined into vectors or calls of memset they would tell less.
    "-fno-tree-vectorize",
    "-fno-tree-loop-distribute-patterns",
    # Two shared objects with the same kernel each have their own shared memory.
    "-fno-gnu-unique",
    "-fno-extern-tls-init",
)
# How kernels are watched: by the emulator, through g++'s hooks, or by AddressSanitizer.
FLAVOURS = {
    "emulator": (
        "-O2",
        "-fsanitize=thread",
        "-fsanitize=alignment,bounds,signed-integer-overflow,shift,integer-divide-by-zero",
        "--param=tsan-instrument-func-entry-exit=0",
    ),
    # -O2 would take half as long again to compile, and leave out more accesses.
    "address": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def missing() -> str:
    """Why nothing can be compiled for the emulator here, or nothing."""
    if shutil.which(COMPILER) is None:
        return f"the emulator needs {COMPILER}, which is not on the PATH"
    if "Free Software Foundation" not in _version(COMPILER):
        return f"the emulator needs GNU's compiler, and {COMPILER} is another"
    return ""


def _hash(flags: Sequence[str], sources: Sequence[Path]) -> str:
    digest = hashlib.sha256(" ".join([_version(COMPILER), *flags]).encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """One process at a time makes ``output``; the lock of one that dies is free again."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.with_name(f"{output.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str | Path], output: Path) -> Path:
    """Run a command that ends in the name of the file to make, unless it is there."""
    if output.is_file():
        return output
    with locked(output):
        if output.is_file():
            return output
        # Under another name at first: an interrupted compiler leaves half a file.
        unfinished = output.with_name(f"{output.name}.unfinished")
        result = subprocess.run([*command, unfinished], capture_output=True, text=True, cwd=ROOT)
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{result.stderr}")
        unfinished.replace(output)
    return output


def _with_headers(source: Path) -> list[Path]:
    """A file and all of this repository that it includes."""
    found = [source]
    for file in found:
        for name in re.findall(r'^ *# *include *[<"](.+)[>"]', file.read_text(), flags=re.MULTILINE):
            places = (folder / name for folder in (file.parent, EMULATOR, ROOT / "csrc"))
            header = next((place.resolve() for place in places if place.is_file()), None)
            if header is not None and header not in found:
                found.append(header)
    return found


def _objects(jobs: Sequence[tuple[Path, Sequence[str]]]) -> list[Path]:
    def compile_one(job: tuple[Path, Sequence[str]]) -> Path:
        source, flags = job
        all_flags = (*COMMON, *flags, *INCLUDES)
        name = f"{source.stem}-{_hash(all_flags, _with_headers(source))}.o"
        return _run([COMPILER, *all_flags, "-c", source.relative_to(ROOT), "-o"], KEPT / name)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, jobs))


def _joined(sources: Sequence[Path]) -> Path:
    """One source of several, which then read their headers once."""
    text = "".join(f'#line 1 "{path.relative_to(ROOT)}"\n{path.read_text()}' for path in sources)
    joined = KEPT / f"bindings-{hashlib.sha256(text.encode()).hexdigest()[:16]}.cpp"
    if not joined.is_file():
        joined.parent.mkdir(parents=True, exist_ok=True)
        unfinished = joined.with_name(f"{joined.name}.{os.getpid()}")
        unfinished.write_text(text)
        unfinished.replace(joined)
    return joined


def kernels(name: str, sources: Sequence[Path], flavour: str = "emulator") -> Path:
    """The shared object of these ``.cu`` files and the emulator."""
    watched = FLAVOURS[flavour]
    emulator = sorted(EMULATOR.glob("*.cpp"))
    host: tuple[str, ...] = ("-O2", "-fvisibility=hidden")
    libraries: tuple[str, ...] = ()
    if flavour == "address":
        # The sanitizers bring their own.
        emulator.remove(EMULATOR / "instrumentation.cpp")
        host += ("-fsanitize=address",)
        libraries = ("-fsanitize=address,undefined",)
    objects = _objects(
        [*((source, host) for source in emulator), *((source, (*KERNEL, *watched)) for source in sources)]
    )
    link = ("-shared", "-Wl,--no-undefined", *libraries)
    key = _hash([*link, *(path.name for path in objects)], [])
    return _run([COMPILER, *link, *objects, "-o"], KEPT / f"{name}-{key}.so")


def module(flavour: str = "emulator") -> tuple[Path, Path]:
    """The Python module ``_C`` whose CUDA device is the emulator, and the shared object of its kernels."""
    library = kernels("kernels", sorted((ROOT / "csrc" / "cuda").glob("*.cu")), flavour)
    found = re.search(r'__version__ = "(.*)"', (ROOT / "altmin_ext" / "_version.py").read_text())
    assert found is not None
    macros: Mapping[str, str] = {
        "ALTMIN_WITH_CUDA": "1",
        "ALTMIN_CUDA_DEVICE": "1",
        "ALTMIN_VERSION": f'"{found[1]}"',
        "ALTMIN_COMPILER": '"g++"',
        "ALTMIN_FLAGS": '"-O0"',
        "ALTMIN_CUDA_REASON": '"the emulator of the tests"',
    }
    include = (f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}")
    host = (
        "-O0",  # the bindings only check and call, and of the CPU's kernels, which must be there to link, none runs
        "-fopenmp",
        "-fvisibility=hidden",
        *(f"-D{name}={value}" for name, value in macros.items()),
    )
    cpu = sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))
    objects = _objects(
        [
            (
                _joined(sorted((ROOT / "csrc" / "bindings").glob("*.cpp"))),
                (*host, *include, "-Icsrc/bindings"),
            ),
            *(
                (path, host if path.stem in ("blas", "instruction_set") else (*host, "-DALTMIN_ISA=baseline"))
                for path in cpu
            ),
        ]
    )
    link = ("-shared", "-fopenmp", f"-Wl,-rpath,{library.parent}")
    key = _hash([*link, *(path.name for path in objects), library.name], [])
    return _run([COMPILER, *link, *objects, library, "-o"], KEPT / f"_C-{key}.so"), library


def failing_allocator() -> Path:
    """The operator new that fails on demand."""
    source = Path(__file__).with_name("failing_allocator.cpp")
    command = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", source.relative_to(ROOT), "-o"]
    return _run(command, KEPT / f"failing_allocator-{_hash([], [source])}.so")


def address_environment() -> dict[str, str]:
    """What a Python process that loads the flavour "address" must have in its environment."""

    def library(name: str) -> str:
        command = [COMPILER, f"-print-file-name={name}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    # The C++ library too, so that AddressSanitizer finds the functions of it that it wraps.
    return {
        "LD_PRELOAD": " ".join(map(library, ("libasan.so", "libubsan.so", "libstdc++.so"))),
        "ASAN_OPTIONS": "detect_leaks=0",
    }


def _cmake(*arguments: str | Path, log: Path) -> None:
    """CMake, of the environment or another on the PATH; what it prints is added to the log."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path, "NINJA_STATUS": "[%f/%t] "}
    command = [shutil.which("cmake", path=path) or "cmake", *arguments]
    with log.open("a") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{log.read_text()[-8000:]}")


def cpu_module(source: Path, folder: Path, *options: str) -> Path:
    """The module ``_C`` of a source tree, without CUDA, built in a folder that the caller has locked.

    Warnings are errors. The options are CMake's.
    """
    log = folder / "build.log"
    folder.mkdir(parents=True, exist_ok=True)
    _cmake(
        *("-S", source, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
        *("-DALTMIN_CUDA=OFF", "-DALTMIN_WERROR=ON", *options),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
        log=log,
    )
    _cmake("--build", folder, log=log)
    return folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"


def sanitized_cpu_module() -> Path:
    """The module ``_C`` with the CPU's kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""
    with locked(SANITIZED):
        return cpu_module(ROOT, SANITIZED, "-DALTMIN_SANITIZE=address,undefined")


def cuda_module() -> tuple[Path, dict[str, str]]:
    """The module ``_C`` as a release with CUDA has it, and by kernel's file what nvcc said when it compiled that.

    Warnings of nvcc are errors, and ptxas reports the registers.
    """
    log = NVCC / "build.log"
    with locked(NVCC):
        NVCC.mkdir(exist_ok=True)
        _cmake(
            *("-S", ROOT, "-B", NVCC, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
            *("-DALTMIN_CUDA=ON", "-DALTMIN_CUDA_ARCHITECTURES="),
            "-DCMAKE_CUDA_FLAGS=-Werror all-warnings -Xptxas -v",
            *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
            log=log,
        )
        _cmake("--build", NVCC, log=log)
        steps = re.split(r"^\[\d+/\d+\] ", log.read_text(), flags=re.MULTILINE)
    # Only what has changed is compiled anew, so that what was said of a file may be long ago; the last word counts.
    found = (re.match(r"Building CUDA object \S*/(\w+)\.cu\.o\n", step) for step in steps)
    present = {path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu")}
    reports = {
        match[1]: step for match, step in zip(found, steps, strict=True) if match and match[1] in present
    }
    return NVCC / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}", reports
