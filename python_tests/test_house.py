"""The house: one op has one name on every floor, and tables that are written twice agree."""

from __future__ import annotations

import inspect
from enum import IntEnum
from pathlib import Path

import pytest

from altmin_ext import ops
from altmin_ext.ops import AdamScalar, CodeScalar, MemoryScalar, UpdateScalar, activation, native, reference

ROOT = Path(__file__).parents[1]
FLOORS = (
    "csrc/ops/{}.h",
    "csrc/cpu/{}.cpp",
    "csrc/cuda/{}.cu",
    "python_tests/ops/test_{}.py",
    "benchmarks/micro/bench_{}.py",
)
# Files of these folders that are no op's.
NOT_OPS = {
    "csrc/ops/{}.h": {
        "activation",
        "backend",
        "convolution",
        "elementary",
        "lanes",
        "platform",
        "proximal",
        "scalars",
    },
    "csrc/cpu/{}.cpp": {"convolution", "instruction_set"},
    "csrc/cuda/{}.cu": {"device", "workspace"},
    "python_tests/ops/test_{}.py": {"activation", "native"},
    "benchmarks/micro/bench_{}.py": set(),
}


@pytest.mark.parametrize("floor", FLOORS)
def test_every_op_is_on_every_floor(floor: str) -> None:
    folder = (ROOT / floor).parent
    if not folder.is_dir():
        pytest.skip(f"the tests run without the source tree's {floor.rpartition('/')[0]}")
    missing = [floor.format(name) for name in ops.names if not (ROOT / floor.format(name)).is_file()]
    assert missing == []
    prefix, suffix = Path(floor).name.split("{}")
    found = {path.name[len(prefix) : -len(suffix)] for path in folder.glob(f"{prefix}*{suffix}")}
    assert found - NOT_OPS[floor] == set(ops.names)


@pytest.mark.parametrize("name", ops.names)
def test_every_op_is_a_function_with_a_twin(name: str) -> None:
    op, twin = (inspect.signature(getattr(module, name)) for module in (ops, reference))
    assert list(op.parameters) == list(twin.parameters)
    assert hasattr(native.module, name)
    documentation = getattr(ops, name).__doc__
    assert documentation
    assert name in ops.__all__


def test_every_function_with_a_twin_is_an_op() -> None:
    public = {
        name
        for name, value in inspect.getmembers(reference, inspect.isfunction)
        if value.__module__ == reference.__name__ and not name.startswith("_")
    }
    assert public - {"soft_threshold"} == set(ops.names)


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


def test_activations_have_the_same_numbers() -> None:
    assert native.module is not None
    assert native.module.activation_names == activation.names
