"""Finds the native module; if it is missing or broken, keeps the reason for the error message."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from altmin_ext._version import __version__

_name = "altmin_ext._C"
_remedy = "reinstall with `pip install .` (or `pip install -e .` to work on the sources)"


def _import() -> ModuleType:
    """The native module, even if a source tree on ``sys.path`` hides the installed package that has it."""
    try:
        return importlib.import_module(_name)
    except ModuleNotFoundError:
        try:
            installed = importlib.metadata.distribution("altmin_ext").locate_file("altmin_ext")
        except importlib.metadata.PackageNotFoundError:
            installed = None
        spec = installed and importlib.machinery.PathFinder.find_spec(_name, [str(installed)])
        if not spec or spec.loader is None:
            raise
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[_name] = module
        return module


def _load() -> tuple[ModuleType | None, str]:
    """The module and "", or None and one sentence of cause and remedy."""
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        return None, (
            f"torch {torch.__version__} has no DLPack C exchange API, which altmin_ext needs; "
            "upgrade with `pip install --upgrade torch`."
        )
    try:
        module = _import()
    except ModuleNotFoundError:
        where = Path(__file__).parents[1]
        return None, f"the native module altmin_ext._C was never built for the package in {where}; {_remedy}."
    except ImportError as error:
        return None, f"the native module altmin_ext._C cannot be loaded ({error}); {_remedy}."
    if module.version != __version__:
        return (
            None,
            f"the native module is of version {module.version}, but altmin_ext is {__version__}; {_remedy}.",
        )
    return module, ""


module, reason = _load()
has_cuda_kernels = module is not None and module.cuda_compiled_version() > 0


def describe() -> dict[str, Any]:
    """Describe the native module, for ``python -m altmin_ext info``.

    Returns:
        ``available``; if it is not, ``reason`` in one sentence; else ``version``, ``compiler``, ``flags``, ``isa``
        in use, ``threads``, ``openmp``, the file of the runtime that they belong to, and ``cuda`` in one sentence.
    """
    if module is None:
        return {"available": False, "reason": reason}
    return {
        "available": True,
        "version": module.version,
        "compiler": module.compiler,
        "flags": module.flags,
        "isa": module.instruction_set(),
        "threads": module.threads(),
        "openmp": module.openmp_runtime(),
        "cuda": _describe_cuda(module),
    }


def _describe_cuda(module: ModuleType) -> str:
    if module.cuda_compiled_version() == 0:
        return f"no: {module.cuda_reason}"
    if not torch.cuda.is_available():
        why = "torch is a CPU build" if torch.version.cuda is None else "torch finds no usable GPU"
        return f"compiled in ({module.cuda_reason}), but {why}"
    return f"yes: compiled in ({module.cuda_reason}), {module.cuda_device_count()} device(s)"
