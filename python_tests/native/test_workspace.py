"""The memory that captured graphs hold on a GPU.

Oracle: what a graph may rely on. It has its memory for itself as long as it lives, and what no graph needs any more
serves those that come, so that as many pieces are ever made as graphs were alive at once.
"""

from __future__ import annotations

import ctypes

import pytest

from . import build


@pytest.mark.parametrize("alive", [1, 3])
@pytest.mark.parametrize("numbers", [10, 200_000], ids=["little", "more than is made at first"])
def test_graphs_hand_their_memory_on(alive: int, numbers: int) -> None:
    if reason := build.missing():
        pytest.skip(reason)
    sources = [
        build.ROOT / "csrc" / "cuda" / "workspace.cu",
        build.EMULATOR.parent / "emulator_kernels" / "captures.cu",
    ]
    library = ctypes.CDLL(str(build.kernels("captures", sources)))
    function = library.pieces_of_graphs
    function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64] * 3
    # Pieces of an earlier call that no graph needs may take part: they are spare.
    made = function(40, alive, numbers)
    assert made == alive
