"""What a run was made of: its settings, and the machine and versions that it ran on."""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from altmin_ext._run_file import describe_module
from altmin_ext._version import __version__
from altmin_ext.callbacks import TrainingState
from altmin_ext.errors import DivergenceError
from altmin_ext.ops import _native as native

_longest_network = 200  # modules of the summary


def settings(state: TrainingState) -> dict[str, Any]:
    """The settings of a run, as :attr:`History.settings` keeps them."""
    method = state.method
    values = {
        **state.settings,
        "on_nonfinite": method.on_nonfinite,
        "device": str(method.device),
        "dtype": str(method.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in method.model.parameters()),
        "network": list(_lines(method.model)),
        "stages": [stage.name for stage in method._stages],
    }
    return {name: _finite_or_word(value) for name, value in values.items()}


def _finite_or_word(value: Any) -> Any:
    """Files of JSON know no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _lines(model: nn.Module) -> Iterator[str]:
    """A line for every module that holds no other one, up to a number of them."""
    leaves = [(path, own) for path, own in model.named_modules() if not any(own.children())]
    for path, own in leaves[:_longest_network]:
        yield f"{path}: {describe_module(own)}".removeprefix(": ")
    if len(leaves) > _longest_network:
        yield f"and {len(leaves) - _longest_network} more"


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and the versions of a run on a device, as :attr:`History.environment` keeps them."""
    gpu = {"GPU": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {**_lasting_environment(), "threads": torch.get_num_threads(), **gpu}


@functools.cache
def _lasting_environment() -> dict[str, Any]:
    found = native.describe()
    return {
        "altmin_ext": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "CPU": _cpu(),
        "instruction set": found.get("isa", "none: the native module is missing"),
    }


def _cpu() -> str | None:
    """The name of the CPU, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or None


def how_it_ended(error: BaseException) -> str:
    """The word of :attr:`History.ended` for a run that an exception ends."""
    if isinstance(error, DivergenceError):
        return "diverged"
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return "interrupted"
    return f"ended by {type(error).__name__}"
