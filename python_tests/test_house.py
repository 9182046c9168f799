"""The house: one op has one name on every floor, and what is written twice agrees."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from enum import IntEnum
from pathlib import Path

import pytest

import altmin_ext
from altmin_ext import ops
from altmin_ext.ops import (
    Activation,
    AdamScalar,
    CodeScalar,
    MemoryScalar,
    UpdateScalar,
    activation,
    numerics,
)
from altmin_ext.ops import _native as native

ROOT = Path(__file__).parents[1]
FLOORS = (
    "csrc/ops/{}.h",
    "csrc/cpu/{}.cpp",
    "csrc/cuda/{}.cu",
    "csrc/bindings/{}.cpp",
    "altmin_ext/ops/{}.py",
    "python_tests/ops/test_{}.py",
    "benchmarks/micro/bench_{}.py",
)
# Ops without a kernel of ours on GPUs, and what computes them there.
WITHOUT_CUDA_KERNEL = {"matmul": "torch.mm, which calls cuBLAS"}
# Files of these folders that are no op's.
NOT_OPS = {
    "csrc/ops/{}.h": {
        "activation",
        "backend",
        "convolution",
        "elementary",
        "guard",
        "lanes",
        "platform",
        "proximal",
        "scalars",
        "update",
    },
    "csrc/cpu/{}.cpp": {"activation_loops", "blas", "convolution", "instruction_set", "lane_product"},
    "csrc/cuda/{}.cu": {"device", "workspace"},
    "csrc/bindings/{}.cpp": {"call", "geometry", "held", "module", "recording", "tensor"},
    "altmin_ext/ops/{}.py": {"activation", "numerics", "scalars"},
    "python_tests/ops/test_{}.py": {"activation", "call", "declaration", "empty", "native"},
    "benchmarks/micro/bench_{}.py": set(),
}


def source(path: str) -> str:
    if not (ROOT / path).is_file():
        pytest.skip(f"the tests run without the source tree's {path}")
    return (ROOT / path).read_text()


@pytest.mark.parametrize("floor", FLOORS)
def test_every_op_is_on_every_floor(floor: str) -> None:
    folder = (ROOT / floor).parent
    if not folder.is_dir():
        pytest.skip(f"the tests run without the source tree's {floor.rpartition('/')[0]}")
    expected = {*ops.names} - (WITHOUT_CUDA_KERNEL.keys() if "/cuda/" in floor else set())
    missing = [floor.format(name) for name in expected if not (ROOT / floor.format(name)).is_file()]
    assert missing == []
    prefix, suffix = Path(floor).name.split("{}")
    found = {path.name[len(prefix) : -len(suffix)] for path in folder.glob(f"{prefix}*{suffix}")}
    found = {name for name in found if not name.startswith("_")}  # private
    assert found - NOT_OPS[floor] == expected


@pytest.mark.parametrize("name", ops.names)
def test_every_op_is_declared_once(name: str) -> None:
    """What users call, the twin and the kernel have the same arguments in the same order."""
    op, twin = getattr(ops, name), getattr(ops.reference, name)
    assert name in ops.__all__
    assert op.__doc__
    assert op.__module__ == f"altmin_ext.ops.{name}"
    assert inspect.signature(op) == inspect.signature(twin)
    assert set(op.written) <= set(inspect.signature(op).parameters)
    assert native.module is not None
    taken = re.findall(r"arg\d+: ", getattr(native.module, name).__doc__)
    assert len(taken) == len(inspect.signature(op).parameters)
    parameters = re.search(
        rf"^void {name}\((.*?)\) \{{", source(f"csrc/bindings/{name}.cpp"), re.DOTALL | re.MULTILINE
    )
    assert parameters is not None
    assert re.findall(r"(\w+)(?:,|$)", parameters[1]) == list(inspect.signature(op).parameters)


@pytest.mark.parametrize("name", ops.names)
def test_bindings_list_what_is_written_as_outputs(name: str) -> None:
    """An op's declaration and its binding say the same of every tensor."""
    text = source(f"csrc/bindings/{name}.cpp")
    if '#include "update.h"' in text:
        text += source("csrc/bindings/update.h")
    assert set(re.findall(r'call\.(?:in_)?out\("(\w+)"', text)) == set(getattr(ops, name).written)


def test_the_module_holds_no_op() -> None:
    """Ops are entered from their own files; what module.cpp enters is about the module."""
    text = source("csrc/bindings/module.cpp")
    assert set(re.findall(r'module\.def\("(\w+)"', text)).isdisjoint(ops.names)
    assert not re.search(r"ALTMIN_(RUN|REGISTER)", text)


@pytest.mark.parametrize(
    ("table", "scalars"),
    [
        ("code_scalar_names", CodeScalar),
        ("update_scalar_names", UpdateScalar),
        ("adam_scalar_names", AdamScalar),
        ("memory_scalar_names", MemoryScalar),
    ],
)
def test_parameter_blocks_have_the_same_columns(table: str, scalars: type[IntEnum]) -> None:
    assert getattr(native.module, table) == tuple(entry.name for entry in scalars)
    assert [entry.value for entry in scalars] == list(range(len(scalars)))


def test_activations_are_the_same() -> None:
    assert native.module is not None
    assert native.module.activation_names == activation.names
    for name, parameter in itertools.product(activation.names, (-0.5, 0.0, 0.01, 2.0)):
        sigma = Activation(name, parameter)
        assert native.module.is_monotone(sigma) == sigma.is_monotone, sigma


def test_constants_are_the_same() -> None:
    assert native.module is not None
    assert native.module.lanes == ops.LANES
    assert native.module.smallest_displacement == numerics.smallest_displacement


def test_nothing_imports_a_twin() -> None:
    """The twins are the oracle: what trains calls ops, which choose between kernel and twin."""
    package = Path(altmin_ext.__file__).parent
    for path in package.rglob("*.py"):
        if path.parent == package / "ops":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("altmin_ext.ops"):
                imported = {alias.name for alias in node.names}
                assert "reference" not in imported, path
                assert node.module in (
                    "altmin_ext.ops",
                    "altmin_ext.ops.activation",
                    "altmin_ext.ops.numerics",
                ), path
            if isinstance(node, ast.Attribute):
                assert not ast.unparse(node).endswith("ops.reference"), path
