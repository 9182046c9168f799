"""Python's side of the emulator: steers it, and stands in for the native module."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .build import EMULATOR, ROOT


class Counters(ctypes.Structure):
    """What the launches of a call did to the memory of its tensors and to what the kernels allocated.

    ``unique`` counts each byte once, however often it is read or written.
    """

    launches: int
    bytes_loaded: int
    bytes_stored: int
    unique_bytes_loaded: int
    unique_bytes_stored: int
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("launches", "bytes_loaded", "bytes_stored", "unique_bytes_loaded", "unique_bytes_stored")
    ]


class Emulator:
    """The emulator within a shared object of kernels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.library.emulator_error.restype = ctypes.c_char_p

    def seed(self, seed: int) -> None:
        """Begin the schedule that belongs to the seed."""
        self.library.emulator_seed(ctypes.c_uint64(seed))

    def set_multiprocessors(self, count: int) -> None:
        self.library.emulator_set_multiprocessors(count)

    def set_checking(self, checking: bool) -> None:
        """Without checks launches are faster, and their blocks run one after the other."""
        self.library.emulator_set_checking(ctypes.c_bool(checking))

    def begin_call(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """Until the next call kernels may access these tensors, and nothing else that they did not allocate."""
        self.library.emulator_begin_call()
        for name, tensor in tensors:
            extent = 1 + sum(
                (size - 1) * abs(stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
            )
            bytes_ = extent * tensor.element_size() if tensor.numel() else 0
            self.library.emulator_add_tensor(
                ctypes.c_void_p(tensor.data_ptr()), ctypes.c_size_t(bytes_), name.encode()
            )

    def counters(self) -> Counters:
        counters = Counters()
        self.library.emulator_counters(ctypes.byref(counters))
        return counters

    def error(self) -> str:
        """The first fault of the call in one sentence, or nothing."""
        text: str = self.library.emulator_error().decode()
        text = re.sub(r"kernel \+(0x[0-9a-f]+)", lambda found: self._function(found[1]) or found[0], text)
        return re.sub(r"at \+(0x[0-9a-f]+)", lambda found: self._line(found[1]) or found[0], text)

    def _ask(self, *command: str) -> list[str]:
        """What a program of the binutils says, line by line; nothing if it is not installed."""
        if shutil.which(command[0]) is None:
            return []
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    def _function(self, offset: str) -> str:
        symbols = self._ask("addr2line", "-e", str(self.path), "-f", offset)
        names = self._ask("c++filt", "-p", symbols[0]) if symbols else []
        return f"kernel {names[0].replace('(anonymous namespace)::', '')}" if names else ""

    def _line(self, offset: str) -> str:
        for frame in self._ask("addr2line", "-e", str(self.path), "-i", offset):
            place = frame.split(" ")[0]
            if not place.startswith(f"{EMULATOR}/"):
                return f"at {place.removeprefix(f'{ROOT}/')}"
        return ""


def _tensors(arguments: Sequence[Any]) -> list[tuple[str, Tensor]]:
    named: list[tuple[str, Any]] = []
    for i, argument in enumerate(arguments, 1):
        if isinstance(argument, list | tuple):
            named += [(f"argument {i}[{j}]", entry) for j, entry in enumerate(argument)]
        else:
            named.append((f"argument {i}", argument))
    return [
        (name, value)
        for name, value in named
        if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    ]


class EmulatedModule:
    """The native module, its CUDA kernels emulated: a fault of theirs is an AssertionError of the call."""

    def __init__(self, module: ModuleType, emulator: Emulator) -> None:
        self._module = module
        self.emulator = emulator

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._module, name)
        return self._checked(attribute) if callable(attribute) else attribute

    def _checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.emulator.begin_call(_tensors(arguments))
            try:
                result = function(*arguments)
            except Exception as refused:
                if error := self.emulator.error():
                    raise AssertionError(error) from refused
                raise
            if error := self.emulator.error():
                raise AssertionError(error)
            return result

        return call


def load_module(path: Path, kernels: Path) -> EmulatedModule:
    """Import what :func:`build.module` has compiled."""
    spec = importlib.util.spec_from_file_location("altmin_ext_emulated._C", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return EmulatedModule(module, Emulator(kernels))
