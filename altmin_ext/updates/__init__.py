"""How weights are fitted to the codes: by gradient steps, or by the memory of a stage."""

from __future__ import annotations

from altmin_ext.updates.gradient import AdamUpdate, SGDUpdate, WeightUpdate, copy_from_host
from altmin_ext.updates.inverse import RecursiveInverse
from altmin_ext.updates.memory import (
    Memory,
    StageMemory,
    gram_matrix,
    memory_shapes,
    merge_memories,
    read_memories,
    remembers,
)

__all__ = [
    "AdamUpdate",
    "Memory",
    "RecursiveInverse",
    "SGDUpdate",
    "StageMemory",
    "WeightUpdate",
    "copy_from_host",
    "gram_matrix",
    "memory_shapes",
    "merge_memories",
    "read_memories",
    "remembers",
]
