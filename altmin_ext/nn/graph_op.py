"""Ops that stand for a layer in the graphs of torch.export and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("altmin_ext", "FRAGMENT")


def graph_op(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    keep: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Register an op with torch, as ``torch.ops.altmin_ext.<name>``.

    ``torch.library.custom_op`` would do the same, but looks through all modules for the source of an op, which makes
    the import of this library a fifth slower.

    Args:
        schema: its name, arguments and results, in torch's notation.
        kernel: computes it. No result may share memory with another tensor.
        fake: makes empty tensors in the shapes of the results.
        backward: the derivative, as ``torch.library.register_autograd`` takes it; None for an op without any.
        keep: what is kept for it, the ``setup_context`` of that function.

    Returns:
        The op.
    """
    name = schema.partition("(")[0]
    if not hasattr(torch.ops.altmin_ext, name):  # torch keeps that of an earlier import in this process
        _library.define(schema)
        _library.impl(name, kernel, "CompositeExplicitAutograd")
        _library.impl(name, fake, "Meta")
        if backward is not None:
            torch.library.register_autograd(f"altmin_ext::{name}", backward, setup_context=keep, lib=_library)
    op: Callable[..., Any] = getattr(torch.ops.altmin_ext, name).default
    return op


__all__ = ["graph_op"]
