"""What the tests of adam_update and sgd_update share: random parameters, and bad lists of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .calling import Random, call_refused, refused

# Matrices and biases like a network's, an empty one, a single number, and nothing that is a multiple of a vector.
SHAPES = ((5, 7), (33,), (0, 4), (), (31, 127), (1,), (8, 16), (200,))


def parameters(
    random: Random, shapes: Sequence[tuple[int, ...]] = SHAPES, scale: float = 1.0
) -> list[torch.Tensor]:
    return [random.normal(*shape, scale=scale) for shape in shapes]


def assert_refuses_bad_lists(op: Callable[..., None], good: dict[str, Any]) -> None:
    """Every list argument in turn: of a wrong length, with a bad entry, or with entries that share memory.

    Args:
        op: adam_update or sgd_update.
        good: its arguments, lists of float32 tensors of two or more rows.
    """
    lists = [name for name, value in good.items() if isinstance(value, list)]
    for name in lists:
        entry = good[name][1]

        def with_entry(bad: Any, name: str = name) -> dict[str, Any]:
            return {**good, name: [good[name][0], bad, *good[name][2:]]}

        place = f"{name}[1]"
        call_refused(op, with_entry(entry.double()), TypeError, place, "float32", "float64")
        call_refused(op, with_entry(entry.to(torch.int32)), TypeError, place, "float32", "int32")
        call_refused(op, with_entry(None), TypeError, place, "None")
        with refused(TypeError, place, "torch.Tensor", "list"):
            op(**with_entry([1.0]))
        call_refused(op, with_entry(torch.stack([entry, entry], -1)[..., 0]), ValueError, place, "contiguous")
        call_refused(op, with_entry(entry.to("meta")), ValueError, place, "meta")
        if name != "weights":
            call_refused(op, with_entry(torch.zeros(*entry.shape, 1)), ValueError, place, "shape")
            call_refused(op, with_entry(entry.flatten()), ValueError, place, "shape")
            call_refused(op, {**good, name: good[name][:-1]}, ValueError, name, str(len(good["weights"])))
            call_refused(
                op, {**good, name: [*good[name], entry]}, ValueError, name, str(len(good["weights"]))
            )
    for i, name in enumerate(lists):
        for other in lists[i + 1 :]:
            shared = copy.copy(good)
            shared[name] = [good[name][0], good[other][1], *good[name][2:]]
            call_refused(op, shared, ValueError, f"{name}[1]", f"{other}[1]", "memory")
            memory = torch.zeros(entry.numel() + 1)
            halves = [memory[start : start + entry.numel()].view(entry.shape) for start in (0, 1)]
            for list_name, half in zip((name, other), halves, strict=True):
                shared[list_name] = [good[list_name][0], half, *good[list_name][2:]]
            call_refused(op, shared, ValueError, f"{name}[1]", f"{other}[1]", "memory")


def assert_refuses_bad_indices(op: Callable[..., None], good: dict[str, Any]) -> None:
    """``good`` has two flags and three weights."""
    for wrong in (-1, 2, 2**40):
        index = torch.tensor([0, wrong, 1])
        call_refused(op, {**good, "guard_index": index}, ValueError, "guard_index[1]", str(wrong), "[0, 2)")
    call_refused(op, {**good, "guard_index": torch.tensor([0, 1])}, ValueError, "guard_index", "(3,)", "(2,)")
    call_refused(op, {**good, "guard_index": torch.zeros(3)}, TypeError, "guard_index", "int64")
