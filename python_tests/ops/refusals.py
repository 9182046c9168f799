"""Bad arguments that every op must refuse, made from good ones: one sentence each, and nothing written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from . import calling
from .calling import Output, call_refused


def concrete(arguments: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The arguments as an op takes them: outputs allocated, tensors in their dtypes."""
    return {
        name: torch.zeros(value.shape, dtype=value.dtype or dtype) if isinstance(value, Output) else value
        for name, value in arguments.items()
    }


def assert_refuses_bad_tensors(
    op: Callable[..., None],
    arguments: Mapping[str, Any],
    optional: Collection[str],
    chooses_backend: str | None,
    any_length: Collection[str] = (),
    sets_shape: Collection[str] = (),
) -> None:
    """Every tensor argument in turn: of a wrong type, dtype, shape, layout, device, or missing.

    Args:
        op: the op.
        arguments: good ones, all optional ones given; at least two rows and two columns.
        optional: names of those that may be None.
        chooses_backend: the argument whose device decides between the kernel and the reference, and with whose
            dtype and shape others are compared; None: no tensor of ``arguments``.
        any_length: names of vectors whose length is free.
        sets_shape: names of further tensors with whose shape others are compared.
    """
    good = concrete(arguments, torch.float32)
    for name, value in good.items():
        if not isinstance(value, Tensor):
            continue
        wrong_dtypes = {torch.float16, torch.int32, torch.bool, torch.float32, torch.float64} - {value.dtype}
        for dtype in wrong_dtypes:
            # The first tensor sets the dtype of the others, so that another float of it is their mistake.
            if name == chooses_backend and dtype == torch.float64 and value.dtype == torch.float32:
                continue
            call_refused(op, {**good, name: torch.ones(value.shape, dtype=dtype)}, TypeError, name)
        for shape in ((*value.shape, 1), (*value.shape[:-1], 17), ()):
            if shape != tuple(value.shape) and not (name in any_length and len(shape) == 1):
                # Where others are compared with this one's shape, it is them the message names.
                words = () if name == chooses_backend or name in sets_shape else (name,)
                call_refused(op, {**good, name: torch.ones(shape, dtype=value.dtype)}, ValueError, *words)
        if value.numel() > 1:
            every_other = torch.stack([value, value], -1)[..., 0]
            call_refused(op, {**good, name: every_other}, ValueError, name, "contiguous")
            repeated = value.flatten()[:1].expand(value.shape)
            call_refused(op, {**good, name: repeated}, ValueError, name)
        if name != chooses_backend:
            call_refused(op, {**good, name: value.to("meta")}, ValueError, name, "meta")
            call_refused(op, {**good, name: value.to_sparse()}, ValueError, name, "sparse")
        call_refused(op, {**good, name: [1.0]}, TypeError, name, "torch.Tensor", "list")
        call_refused(op, {**good, name: value.numpy()}, TypeError, name, "torch.Tensor", "ndarray")
        if name not in optional:
            call_refused(op, {**good, name: None}, TypeError, name, "None")


def _sharing(first: Tensor, second: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Two tensors like these in one piece of memory, the second ``offset`` bytes behind the first."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in (first, second)]
    memory = torch.zeros(8 * (max(sizes[0], offset + sizes[1]) // 8 + 1), dtype=torch.uint8)
    views = [
        memory[start : start + size].view(tensor.dtype).view(tensor.shape)
        for tensor, start, size in zip((first, second), (0, offset), sizes, strict=True)
    ]
    return views[0], views[1]


def assert_refuses_shared_memory(
    op: Callable[..., None],
    arguments: Mapping[str, Any],
    allowed: Collection[tuple[str, str]] = (),
    written: Collection[str] | None = None,
) -> None:
    """Every output in turn with every other argument in the same memory, fully or in part.

    Args:
        op: the op.
        arguments: good ones, all optional ones given.
        allowed: (output, input) that may be one and the same tensor; overlap in part is refused all the same.
        written: names of the outputs; None: as the op's.
    """
    good = concrete(arguments, torch.float32)
    tensors = [name for name, value in good.items() if isinstance(value, Tensor)]
    outputs = calling.written(op) if written is None else written
    for output, other in itertools.product([name for name in tensors if name in outputs], tensors):
        if output == other:
            continue
        step = 8  # bytes: keeps float64 aligned
        last = (good[output].numel() * good[output].element_size() - step) // step * step
        offsets = {0, step, last} if last >= step else {0}
        for offset in offsets:
            whole = offset == 0 and good[output].shape == good[other].shape
            if whole and (output, other) in allowed:
                continue
            shared = dict(zip((output, other), _sharing(good[output], good[other], offset), strict=True))
            call_refused(op, {**good, **shared}, ValueError, output, other, "memory")
