"""No instruction set leaks into another, and every one computes what it should.

Oracles: the symbol tables of the objects that the native module was linked from, since the linker takes a function
that several objects define from any of them; their instructions, as objdump reads them; and whole steps under qemu,
which emulates a processor that knows no more than the instruction set in question, beside the same steps by the
reference in float64.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import altmin_ext
from altmin_ext.ops import _native

from .emulated_steps import NETWORKS

ROOT = Path(__file__).parents[2]
WIDE = re.compile(r"^ALTMIN_WIDE_(?:CPU_)?OP\((\w+),", re.MULTILINE)
# In AT&T's order: a mask, what is stored, and an address; a load has the address first.
MASKED_STORE = re.compile(r"\bvp?maskmov\w+\s+%\w+,%\w+,[^%]")

needs_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="only x86-64 has several instruction sets"
)


# --- objects ---


def build_folder() -> Path:
    """Where the native module of this interpreter was compiled."""
    for folder in (ROOT / "build").glob(f"cp{sys.version_info.major}{sys.version_info.minor}-*"):
        if (folder / "build.ninja").is_file():
            return folder
    pytest.skip("build/ holds no build for this interpreter; pip install --editable . makes one")


def linked_objects() -> list[Path]:
    """What the native module was linked from, as the build says."""
    folder, module = build_folder(), f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    rule = re.search(
        rf"^build {re.escape(module)}: \S+ (.*?) [|]", (folder / "build.ninja").read_text(), re.MULTILINE
    )
    assert rule is not None
    return [folder / name for name in rule[1].split() if name.endswith(".o")]


@cache
def symbols(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Those of an object that others can use, and those that it wants of others."""
    if shutil.which("nm") is None:
        pytest.skip("nm, which reads the objects, is not on the PATH; install binutils")
    listed = subprocess.run(["nm", "--format=posix", path], capture_output=True, text=True, check=True).stdout
    defined, wanted = set(), set()
    for line in listed.splitlines():
        name, kind = line.split()[:2]
        # Lower-case kinds are local, but for weak and unique ones; a V or W without a value is wanted.
        if kind in ("U", "w", "v"):
            wanted.add(name)
        elif kind.isupper() or kind == "u":
            defined.add(name)
    return frozenset(defined), frozenset(wanted)


def by_instruction_set() -> dict[str, list[Path]]:
    objects = defaultdict(list)
    for path in linked_objects():
        if match := re.search(r"kernels_([a-z0-9]+)", str(path)):
            objects[match[1]].append(path)
    return objects


def namespace(isa: str) -> str:
    """How the mangled name of everything in altmin::cpu::<isa> begins."""
    return f"_ZN6altmin3cpu{len(isa)}{isa}"


@needs_x86
def test_objects_share_nothing_across_instruction_sets() -> None:
    objects = by_instruction_set()
    assert sorted(objects) == ["avx2", "avx512", "baseline"]
    for isa, paths in objects.items():
        shared = {name for path in paths for name in symbols(path)[0] if not name.startswith(namespace(isa))}
        assert not shared, (
            f"the objects for {isa} define {len(shared)} symbols that are not in its namespace, and which the linker "
            f"may take for others: {sorted(shared)[:5]}"
        )


@needs_x86
def test_objects_define_what_others_want_of_them() -> None:
    """An op marked as wide, but compiled without AVX-512, would be missed only where the processor has it."""
    objects = by_instruction_set()
    for isa in objects:
        defined = {name for path in objects[isa] for name in symbols(path)[0]}
        wanted = {
            name
            for path in linked_objects()
            for name in symbols(path)[1]
            if name.startswith(namespace(isa)) and name not in defined
        }
        assert not wanted


@needs_x86
def test_ops_are_compiled_for_the_sets_that_their_headers_say() -> None:
    objects = by_instruction_set()
    headers = {path.stem: path.read_text() for path in (ROOT / "csrc" / "ops").glob("*.h")}
    ops = {name for name in headers if name in altmin_ext.ops.names}
    wide = {name for name in ops if WIDE.search(headers[name])}
    for isa, expected in {"baseline": ops, "avx2": ops, "avx512": wide}.items():
        defined = {name for path in objects[isa] for name in symbols(path)[0]}
        compiled = {
            op
            for op in ops
            for dtype in "fd"
            if f"{namespace(isa)}{len(op)}{op}I{dtype}E" in "\n".join(defined)
        }
        assert compiled == expected, isa


# --- instructions ---


def masked_stores(listing: str) -> dict[str, int]:
    """How many each function of a disassembly has."""
    found: dict[str, int] = defaultdict(int)
    function = ""
    for line in listing.splitlines():
        if line.endswith(">:"):
            function = line
        elif MASKED_STORE.search(line):
            found[function] += 1
    return dict(found)


@needs_x86
@pytest.mark.parametrize("isa", ["avx2", "avx512", "baseline"])
def test_no_kernel_stores_through_a_vector_mask(isa: str) -> None:
    """AMD's Zen 1 to 3 take 80 ns for such a store, which GCC makes of `a[i] = condition ? b : a[i]`. The stores of
    AVX-512, whose masks have registers of their own, cost no more than any other."""
    if shutil.which("objdump") is None:
        pytest.skip("objdump, which reads the objects, is not on the PATH; install binutils")
    for path in by_instruction_set()[isa]:
        command = [
            "objdump",
            "--disassemble",
            "--demangle",
            "--no-show-raw-insn",
            "--disassembler-options=att",
            path,
        ]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert listing.count(">:\n") > 20, f"{path} holds no kernels"
        found = masked_stores(listing)
        assert not found, f"store without a condition, or choose by bits, in {found}"


# --- steps ---


def qemu_version() -> str:
    listed = subprocess.run(["qemu-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    return listed.splitlines()[0]


def emulated(model: str, feature: str) -> list[dict[str, Any]]:
    """The lines of :mod:`emulated_steps` on such a processor."""
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("qemu-x86_64, which emulates other processors, is not on the PATH; install qemu-user")
    if _native.module is None:
        pytest.skip(_native.reason)
    emulator = ["qemu-x86_64", "-cpu", model]
    probe = subprocess.run([*emulator, "/bin/true"], capture_output=True, text=True)
    if feature and re.search(rf"doesn't support requested feature: .*\b{feature}\b", probe.stderr):
        pytest.skip(f"{qemu_version()} emulates no {feature}")
    script = Path(__file__).with_name("emulated_steps.py")
    # What torch and numpy do with AVX2 is theirs: numpy's OpenBLAS takes it where it does not know the processor, and
    # a fused optimiser of torch's dies of qemu's.
    plain = {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Nehalem"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **plain}
    command = [*emulator, sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    last = lines[-1] if lines else "before the first step"
    assert done.returncode == 0, f"{done.returncode} after {last}: {done.stderr[-2000:]}"
    return lines


@pytest.mark.long
@needs_x86
@pytest.mark.parametrize(
    ("model", "feature", "isa"),
    [
        ("Nehalem", "", "baseline"),
        ("Haswell", "avx2", "avx2"),
        ("Skylake-Server", "avx512f", "avx512"),
    ],
)
def test_steps_on_processors_that_know_no_more(model: str, feature: str, isa: str) -> None:
    """Rounding reaches a loss as it is. Adam divides a gradient by its own size, and so makes a step of what is
    rounding alone: parameters are compared in float64, where that stays below Adam's own epsilon."""
    head, *cases = emulated(model, feature)
    assert head == {"instruction_set": isa}
    taken = [case for case in cases if "refused" not in case]
    assert {case["method"] for case in taken} == set(altmin_ext.methods.names())
    assert {case["network"] for case in taken} == set(NETWORKS)
    for case in taken:
        tolerance = torch.finfo(getattr(torch, case["dtype"])).eps ** 0.5
        assert case["loss"] < tolerance, case
        if case["dtype"] == "float64":
            assert case["parameters"] < tolerance, case
