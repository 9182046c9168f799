"""Compiles the CUDA kernels with g++ for the emulator, and the module that calls them.

What is compiled is kept in ``build/emulator`` under a hash of all that went into it, so that a change compiles anew
what it concerns.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11

ROOT = Path(__file__).parents[2]
EMULATOR = Path(__file__).parent / "emulator"
KEPT = ROOT / "build" / "emulator"
COMPILER = "g++"

COMMON = ("-std=c++17", "-fPIC", "-g1", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
INCLUDES = (f"-I{EMULATOR.relative_to(ROOT)}", "-Icsrc")
KERNEL = (
    "-xc++",
    "-O2",
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
        "-fsanitize=thread",
        "-fsanitize=alignment,bounds,signed-integer-overflow,shift,integer-divide-by-zero",
        "--param=tsan-instrument-func-entry-exit=0",
    ),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}


def missing() -> str:
    """Why nothing can be compiled here, or nothing."""
    if shutil.which(COMPILER) is None:
        return f"the emulator needs {COMPILER}, which is not on the PATH"
    version = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout
    if "Free Software Foundation" not in version:
        return f"the emulator needs GNU's compiler, and {COMPILER} is another"
    return ""


def _hash(flags: Sequence[str], sources: Sequence[Path]) -> str:
    digest = hashlib.sha256(" ".join(flags).encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: Sequence[str | Path], output: Path) -> Path:
    """Run a command that ends in the name of the file to make, unless it is there."""
    if output.is_file():
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    # Under another name at first: a second process may be compiling the same.
    unfinished = output.with_name(f"{output.name}.{os.getpid()}")
    result = subprocess.run([*command, unfinished], capture_output=True, text=True, cwd=ROOT)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{result.stderr}")
    unfinished.replace(output)
    return output


def _objects(jobs: Sequence[tuple[Path, Sequence[str]]]) -> list[Path]:
    headers = sorted([*EMULATOR.glob("*.h"), *(ROOT / "csrc").rglob("*.h")])

    def compile_one(job: tuple[Path, Sequence[str]]) -> Path:
        source, flags = job
        all_flags = (*COMMON, *flags, *INCLUDES)
        name = f"{source.stem}-{_hash(all_flags, [source, *headers])}.o"
        return _run([COMPILER, *all_flags, "-c", source.relative_to(ROOT), "-o"], KEPT / name)

    with ThreadPoolExecutor(2) as pool:
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
        "ALTMIN_FLAGS": '"-O1"',
        "ALTMIN_CUDA_REASON": '"the emulator of the tests"',
    }
    include = (f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}")
    host = (
        "-O1",
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
                (path, host if path.stem == "instruction_set" else (*host, "-DALTMIN_ISA=baseline"))
                for path in cpu
            ),
        ]
    )
    link = ("-shared", "-fopenmp", f"-Wl,-rpath,{library.parent}")
    key = _hash([*link, *(path.name for path in objects), library.name], [])
    return _run([COMPILER, *link, *objects, library, "-o"], KEPT / f"_C-{key}.so"), library


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
