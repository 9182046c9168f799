"""The one place that says whether a module computes what its type says.

A formula is known for a module of exactly one type, and only as long as nothing about the instance makes it compute
something else. Every table of formulas asks :func:`known_as`. What is not known is run as it is, and torch
differentiates it.
"""

from __future__ import annotations

import sys
from typing import TypeGuard, TypeVar

from torch import Tensor, nn

Container = TypeVar("Container", bound=nn.Module)

hook_tables = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def alteration(module: nn.Module) -> str:
    """What makes a module compute something else than its type says.

    Args:
        module: any module; its children are not looked at.

    Returns:
        The reason, such as "a hook"; "" if there is none.
    """
    own = vars(module)
    if "forward" in own:
        return "a forward of its own"
    if any(own.get(table) for table in hook_tables):
        return "a hook"
    if any(
        parameter is not None and parameter._backward_hooks
        for parameter in own.get("_parameters", {}).values()
    ):
        return "a hook on a parameter"
    if any(isinstance(own.get(name), Tensor) for name in ("weight", "bias")):  # which something computes
        return "a weight that is no parameter"
    return ""


def known_as(module: nn.Module) -> type[nn.Module] | None:
    """Find the type whose formula a module follows.

    Args:
        module: any module.

    Returns:
        Its exact type. None if the instance computes something else: it has hooks or a forward of its own, or its
        weight is computed from other parameters.
    """
    return None if alteration(module) else type(module)


def runs_as(module: nn.Module, container: type[Container]) -> TypeGuard[Container]:
    """Whether a module runs its children exactly as a type of container does, so that they may be run one by one.

    Args:
        module: any module.
        container: the type, such as ``nn.Sequential``.

    Returns:
        Whether it is of that type or of a subclass that leaves the forward alone, and has no hooks.
    """
    kind = type(module)
    names = ("forward", "__call__", "__iter__")
    inherits = all(getattr(kind, name, None) is getattr(container, name, None) for name in names)
    return isinstance(module, container) and inherits and not alteration(module)


def uncompiled(module: nn.Module) -> nn.Module:
    """Find the module that a result of ``torch.compile`` was made from.

    Args:
        module: any module.

    Returns:
        The original, which computes the same function; the module itself if it is not compiled.
    """
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # to import it takes seconds
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        original: nn.Module = module._orig_mod
        return original
    return module


def described(module: nn.Module) -> str:
    """The type of a module for error messages, with what alters the instance: "Linear with a hook"."""
    altered = alteration(module)
    return f"{type(module).__name__} with {altered}" if altered else type(module).__name__
