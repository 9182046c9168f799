"""The stand-in for the native module that runs the ops' tests on a GPU.

Oracle: what it promises: one piece of memory stays one, at addresses of the same remainder, and all of it comes back.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from altmin_ext.ops import Activation
from altmin_ext.ops import _native as native

from .device import GPU
from .proxy import OnGpu


def seen(**functions: Any) -> OnGpu:
    return OnGpu(SimpleNamespace(**functions), GPU)


def test_addresses_keep_their_remainders_and_their_distances() -> None:
    memory = torch.arange(40, dtype=torch.float32)
    views = [memory, memory[3:], memory[3:13].view(2, 5), memory[:1].expand(4), memory[::2]]

    def look(first: Tensor, *others: Tensor) -> None:
        for own, view in zip((first, *others), views, strict=True):
            assert own.device == GPU
            assert own.shape == view.shape
            assert own.stride() == view.stride()
            assert torch.equal(own.cpu(), view)
            assert own.data_ptr() - first.data_ptr() == view.data_ptr() - memory.data_ptr()
            assert own.data_ptr() % 256 == view.data_ptr() % 256

    seen(look=look).look(*views)


def test_views_of_other_dtypes_share_the_memory() -> None:
    memory = torch.zeros(64, dtype=torch.uint8)
    single, double = memory[8:40].view(torch.float32), memory[16:64].view(torch.float64)

    def write(single: Tensor, doubles: list[Tensor]) -> None:
        assert doubles[0].data_ptr() == single.data_ptr() + 8
        doubles[0].fill_(1.0)

    seen(write=write).write(single, [double])
    assert torch.equal(double, torch.ones(6, dtype=torch.float64))
    assert single[2:4].view(torch.float64) == 1.0


def test_what_is_written_beside_a_tensor_comes_back() -> None:
    memory = torch.zeros(10)

    def write_behind(tensor: Tensor) -> None:
        torch.as_strided(tensor, (1,), (1,), tensor.storage_offset() + len(tensor)).fill_(7.0)

    seen(write_behind=write_behind).write_behind(memory[2:5])
    assert memory.tolist() == [0, 0, 0, 0, 0, 7, 0, 0, 0, 0]


def test_what_is_no_dense_cpu_tensor_passes_as_it_is() -> None:
    others = [None, 3, "a", torch.zeros(2, device="meta"), torch.eye(2).to_sparse(), torch.zeros(2).numpy()]

    def look(*arguments: Any) -> None:
        assert all(own is other for own, other in zip(arguments, others, strict=True))

    seen(look=look).look(*others)


def test_the_guard_index_stays_on_the_cpu() -> None:
    """Where adam_update and sgd_update read it."""
    index = torch.zeros(1, dtype=torch.int64)
    for op, others in (("adam_update", 7), ("sgd_update", 4)):
        proxy = seen(**{op: lambda *arguments: arguments[-1] is index})
        assert getattr(proxy, op)(*[None] * others, index)


def test_an_op_runs_on_the_gpu() -> None:
    """relu(c + b) in place, which only the copy on the GPU can have computed."""
    code, bias = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([1.0, 1.0, -1.0])
    guard = torch.zeros(1, dtype=torch.float64)
    relu = Activation("relu")
    OnGpu(native.module, GPU).activate(code, bias, None, code, relu, guard)
    assert code.tolist() == [[2.0, 0.0, 0.0]]
    assert bias.tolist() == [1.0, 1.0, -1.0]
    assert guard.item() == 0.0
