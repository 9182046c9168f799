"""Lets the tests of the ops, which hold CPU tensors, run on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

# The argument that an op reads on the CPU wherever the others are.
GUARD_INDEX = {"adam_update": 7, "sgd_update": 4}
ALIGNMENT = 256  # more than any kernel asks for


def _bytes(memory: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=memory.device).set_(memory)


class _Copies:
    """Copies on a GPU of all the memory that the CPU tensors of a call lie in.

    Memory is copied as a whole: what shares some on the CPU does so on the GPU, addresses keep their remainders, and
    what a kernel writes beside its outputs comes back for the test to see.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: dict[int, tuple[Tensor, Tensor, torch.UntypedStorage, int]] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.of(entry) for entry in value]
        if not isinstance(value, Tensor) or value.device.type != "cpu" or value.layout != torch.strided:
            return value
        storage = value.untyped_storage()
        if storage.data_ptr() not in self._copies:
            size = storage.nbytes()
            memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=self._device)
            shift = (storage.data_ptr() - memory.data_ptr()) % ALIGNMENT
            on_cpu, on_gpu = _bytes(storage), memory[shift : shift + size]
            on_gpu.copy_(on_cpu)
            self._copies[storage.data_ptr()] = (on_cpu, on_gpu, memory.untyped_storage(), shift)
        *_, memory, shift = self._copies[storage.data_ptr()]
        offset = shift // value.element_size() + value.storage_offset()
        tensor = torch.empty(0, dtype=value.dtype, device=self._device)
        return tensor.set_(memory, offset, value.shape, value.stride())

    def bring_back(self) -> None:
        for on_cpu, on_gpu, *_ in self._copies.values():
            on_cpu.copy_(on_gpu)


class OnGpu:
    """Stands in for ``altmin_ext.ops._native.module``: calls it with copies on a GPU, and brings the results back."""

    def __init__(self, module: ModuleType | Any, device: torch.device) -> None:
        self._module = module
        self._device = device

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._module, name)
        return self._copying(attribute, GUARD_INDEX.get(name)) if callable(attribute) else attribute

    def _copying(self, function: Callable[..., Any], stays: int | None) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            copies = _Copies(self._device)
            on_gpu = [value if i == stays else copies.of(value) for i, value in enumerate(arguments)]
            try:
                return function(*on_gpu)
            finally:
                copies.bring_back()

        return call
