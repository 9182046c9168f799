"""Declarations: an op takes the kernel where there is one for the tensors at hand, else its twin.

The oracle is a native module of the test's own, which remembers what it was given.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import _declaration
from altmin_ext.ops import _native as native

from .calling import Random, call, refused, same_bits


class Kernels(SimpleNamespace):
    """A native module; ``calls`` has the arguments of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def scale(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    scale_all = scale


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    module = Kernels()
    monkeypatch.setattr(native, "module", module)
    monkeypatch.setattr(native, "has_cuda_kernels", False)
    return module


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Two ops that are none of the package's."""
    monkeypatch.setattr(_declaration, "declared", {})

    @_declaration.op(written=("out",))
    def scale(x: Tensor, factor: float = 2.0, *, out: Tensor, negative: bool = False) -> None:
        """out = factor x."""
        out.copy_(-factor * x if negative else factor * x)

    @_declaration.op(written=("outs",))
    def scale_all(xs: Sequence[Tensor], *, outs: Sequence[Tensor]) -> None:
        """out = 2 x, of each."""
        for x, out in zip(xs, outs, strict=True):
            out.copy_(2 * x)

    assert list(_declaration.declared) == ["scale", "scale_all"]
    return SimpleNamespace(scale=scale, scale_all=scale_all)


def test_a_kernel_gets_the_arguments_by_position(kernels: Kernels, declared: SimpleNamespace) -> None:
    x, out = torch.ones(3), torch.zeros(3)
    declared.scale(x, out=out)
    declared.scale(out=out, negative=True, factor=3.0, x=x)
    assert [[type(a) for a in call] for call in kernels.calls] == [[Tensor, float, Tensor, bool]] * 2
    assert kernels.calls[0][0] is x
    assert kernels.calls[0][2] is out
    assert [call[1::2] for call in kernels.calls] == [(2.0, False), (3.0, True)]
    assert out.tolist() == [0, 0, 0]


def test_the_twin_is_the_reference(kernels: Kernels, declared: SimpleNamespace) -> None:
    x, out = torch.ones(3), torch.zeros(3)
    with ops.backend("reference"):
        declared.scale(x, 4.0, out=out, negative=True)
    assert out.tolist() == [-4, -4, -4]
    declared.scale.reference(x, out=out)
    assert out.tolist() == [2, 2, 2]
    assert kernels.calls == []


class Cuda(Tensor):
    """What says of itself that it is on a GPU."""

    is_cpu, is_cuda = False, True


@pytest.mark.parametrize("xs", [[], [torch.ones(2)], (torch.ones(2),)], ids=["empty", "list", "tuple"])
def test_the_first_entry_of_a_list_decides(
    kernels: Kernels, declared: SimpleNamespace, xs: Sequence[Tensor]
) -> None:
    declared.scale_all(xs, outs=[])
    assert len(kernels.calls) == 1
    declared.scale_all(type(xs)(x.as_subclass(Cuda) for x in xs), outs=[x.clone() for x in xs])
    assert len(kernels.calls) == (2 if len(xs) == 0 else 1)


def test_where_there_is_no_kernel_the_twin_runs(
    kernels: Kernels, declared: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another device's tensors; a CUDA tensor is one of them unless there are CUDA kernels."""
    x, out = torch.ones(3).as_subclass(Cuda), torch.zeros(3)
    declared.scale(x, out=out)
    assert out.tolist() == [2, 2, 2]
    assert kernels.calls == []
    monkeypatch.setattr(native, "has_cuda_kernels", True)
    declared.scale(x, out=out)
    assert len(kernels.calls) == 1


@pytest.mark.parametrize("wrong", [None, 3, "x", [1.0], torch.ones(3, device="meta")], ids=str)
def test_what_is_no_tensor_or_has_no_memory_is_the_kernels_to_refuse(
    kernels: Kernels, declared: SimpleNamespace, wrong: Any
) -> None:
    declared.scale.unversioned(wrong, out=wrong)
    declared.scale_all.unversioned(wrong, outs=wrong)
    assert len(kernels.calls) == 2


def test_without_a_native_module_the_reason_is_given(
    declared: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "module", None)
    monkeypatch.setattr(native, "reason", "it was never built.")
    with refused(ImportError, "it was never built."):
        declared.scale(torch.ones(3), out=torch.zeros(3))


def test_an_op_is_the_function_that_was_declared(declared: SimpleNamespace) -> None:
    scale = declared.scale
    assert inspect.signature(scale) == inspect.signature(scale.reference)
    assert (scale.__name__, scale.__doc__, scale.__module__) == ("scale", "out = factor x.", __name__)
    assert scale.written == ("out",)
    with pytest.raises(TypeError, match="positional"):
        scale(torch.ones(3), 2.0, torch.ones(3))
    with pytest.raises(TypeError, match=r"scale.*out"):
        scale(torch.ones(3))


def tensors_of(arguments: dict[str, Any], names: Sequence[str]) -> list[Tensor]:
    values = [arguments[name] for name in names]
    entries = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    return [entry for entry in entries if isinstance(entry, Tensor)]


def arguments_of(op: Any) -> dict[str, Any]:
    """Good ones, as a call has left them."""
    case = importlib.import_module(f"..test_{op.__name__}", __name__).kernel_case(Random(0))
    return vars(call(op.unversioned, case))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", ops.names)
def test_what_an_op_overwrites_is_lost_to_autograd(name: str, backend: str) -> None:
    """A graph that has saved it is refused, as after torch's own operations; what is only read stays good."""
    op = getattr(ops, name)
    arguments = arguments_of(op)
    written = [t for t in tensors_of(arguments, op.written) if t.is_floating_point()]
    ids = {id(tensor) for tensor in written}
    read = [t for t in tensors_of(arguments, list(arguments)) if t.is_floating_point() and id(t) not in ids]
    held = [[(t * torch.ones_like(t, requires_grad=True)).sum() for t in each] for each in (written, read)]
    assert written
    with ops.backend(backend):
        op(**arguments)
    for value in held[0]:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()
    for value in held[1]:
        value.backward()


@pytest.mark.parametrize("name", ops.names)
def test_an_unversioned_op_leaves_the_versions(name: str) -> None:
    """And is the same op otherwise. Tensors made in inference mode have no version to raise."""
    op = getattr(ops, name)
    assert inspect.signature(op.unversioned) == inspect.signature(op)
    one, other = arguments_of(op), arguments_of(op)
    versions = [tensor._version for tensor in tensors_of(other, list(other))]
    op(**one)
    op.unversioned(**other)
    assert [tensor._version for tensor in tensors_of(other, list(other))] == versions
    assert getattr(ops.unversioned, name) is op.unversioned
    with torch.inference_mode():
        third = arguments_of(op)
    op(**third)
    for same in (other, third):
        found, expected = tensors_of(same, op.written), tensors_of(one, op.written)
        assert all(same_bits(*pair) for pair in zip(found, expected, strict=True))
