"""The emulator on kernels written for it.

Right kernels must pass under every schedule, and give what their formula says; the same kernels with one fault must
be reported as having that very fault.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor

from . import build
from .emulation import Emulator

KERNELS = Path(__file__).parent / "emulator_kernels" / "kernels.cu"
SEEDS = range(12)


class Runner:
    """Runs the kernels of ``emulator_kernels`` by name."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.library = emulator.library

    def __call__(
        self,
        kernel: str,
        blocks: int,
        threads: int,
        input: Tensor,
        output: Tensor,
        counters: Tensor | None = None,
        size: int | None = None,
        shared_bytes: int = 0,
    ) -> str:
        """The emulator's complaint, or nothing; ``input`` and ``output`` may be views with memory behind them."""
        counters = torch.zeros(16, dtype=torch.int32) if counters is None else counters
        self.emulator.begin_call([("input", input), ("output", output), ("counters", counters)])
        code = self.library.run(
            kernel.encode(),
            blocks,
            threads,
            shared_bytes,
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (input, output, counters)),
            len(input) if size is None else size,
        )
        error = self.emulator.error()
        assert (code != 0) == bool(error)
        return error


@pytest.fixture(scope="session")
def runner() -> Runner:
    if reason := build.missing():
        pytest.skip(reason)
    return Runner(Emulator(build.kernels("test_kernels", [KERNELS])))


@pytest.fixture(params=SEEDS)
def run(runner: Runner, request: pytest.FixtureRequest) -> Runner:
    """A runner, for each of several schedules."""
    runner.emulator.seed(request.param)
    return runner


def numbers(size: int) -> Tensor:
    """Whole numbers, whose sums are exact in every order."""
    return torch.arange(size, dtype=torch.float32) % 11 - 4


def fresh(size: int) -> Tensor:
    return torch.full((size,), torch.nan)


def test_block_sum(run: Runner) -> None:
    x, y = numbers(1000), fresh(8)
    assert run("block_sum", 8, 128, x, y) == ""
    assert torch.equal(y, torch.stack([part.sum() for part in x.split(128)]))


def test_neighbours(run: Runner) -> None:
    x, y = numbers(512), fresh(512)
    assert run("neighbours", 4, 128, x, y) == ""
    assert torch.equal(y.view(4, 128), 2 * x.view(4, 128) + x.view(4, 128).roll(-1, 1))


def test_lanes_beside(run: Runner) -> None:
    x, y = numbers(256), fresh(256)
    assert run("lanes_beside", 2, 128, x, y) == ""
    assert torch.equal(y, x.view(-1, 2).flip(1).flatten())


def test_ballot(run: Runner) -> None:
    x, counters = numbers(200), torch.zeros(4, dtype=torch.int32)
    assert run("count_positive", 4, 64, x, fresh(1), counters) == ""
    assert counters.tolist() == [int((part > 0).sum()) for part in x.split(64)]


@pytest.mark.parametrize("size", [16, 37, 48])
def test_transpose_in_dynamic_shared_memory(run: Runner, size: int) -> None:
    x, y = numbers(size * size), fresh(size * size)
    tiles = -(-size // 16)
    assert run("transpose", tiles * tiles, 256, x, y, size=size, shared_bytes=16 * 17 * 4) == ""
    assert torch.equal(y.view(size, size), x.view(size, size).t())


def test_sum_by_the_last_block(run: Runner) -> None:
    x, counters = numbers(3000), torch.zeros(1, dtype=torch.int32)
    # Twice: the first launch must have set the counter back.
    for _ in range(2):
        y = fresh(1 + 7 * 64)
        assert run("last_block_sum", 7, 64, x, y, counters) == ""
        assert y[0] == x.sum()


@pytest.mark.parametrize("blocks", [1, 5])
def test_strided_vectors(run: Runner, blocks: int) -> None:
    x, y = numbers(2048), numbers(2048).flip(0)
    expected = 2 * x + y
    assert run("saxpy", blocks, 64, x, y) == ""
    assert torch.equal(y, expected)


def test_histogram(run: Runner) -> None:
    x, counters = torch.arange(500.0) % 8, torch.zeros(8, dtype=torch.int32)
    assert run("histogram", 4, 128, x, fresh(1), counters) == ""
    assert torch.equal(counters, torch.bincount(x.int(), minlength=8).int())


def test_atomic_floats(run: Runner) -> None:
    y = torch.zeros(1)
    assert run("count_blocks", 9, 33, fresh(1), y) == ""
    assert y == 9


FAULTS = [
    ("block_sum without barrier", 2, 128, "Race within a block"),
    ("neighbours without second barrier", 2, 128, "Race within a block"),
    ("lanes_beside without __syncwarp", 1, 64, "Race within a block"),
    ("histogram without atomic", 1, 128, "Race within a block"),
    ("last_block_sum without barrier", 7, 64, "Race between blocks"),
    ("last_block_sum without fence", 7, 64, "Race between blocks"),
    ("last_block_sum without atomic", 7, 64, "Race between blocks"),
    ("count_blocks without atomic", 2, 1, "Race between blocks"),
    ("peek", 2, 1, "Race between blocks"),
    ("block_sum of an unguarded tail", 1, 128, "Read of uninitialised memory"),
    ("block_sum past the array", 1, 1024, "takes element 32 of 'float [32]'"),
    ("block_sum without a lane", 1, 64, "Warp operation without all its lanes"),
    ("block_sum with a foreign mask", 1, 64, "Warp operation without all its lanes"),
    ("block_sum", 1, 48, "Warp operation without all its lanes"),
    ("barrier on two lines", 1, 64, "Divergent barrier"),
    ("barrier after an early return", 1, 64, "Divergent barrier"),
    ("barrier against a warp operation", 1, 64, "Warp operation without all its lanes"),
    ("overflow", 1, 1, "overflows in an addition"),
]


@pytest.mark.parametrize(("kernel", "blocks", "threads", "fault"), FAULTS, ids=[row[0] for row in FAULTS])
def test_fault_is_reported(run: Runner, kernel: str, blocks: int, threads: int, fault: str) -> None:
    error = run(kernel, blocks, threads, numbers(1024).abs(), torch.zeros(1024))
    assert fault in error
    assert "emulator_kernels/kernels.cu:" in error
    assert kernel.split(" ")[0].replace("barrier", "divergent") in error
    assert error.endswith(".")
    assert "\n" not in error


def test_access_past_the_end_of_a_tensor(run: Runner) -> None:
    memory = torch.zeros(256)
    error = run("read_past_the_end", 2, 64, memory[:100], torch.zeros(128))
    assert "Access out of bounds" in error
    assert "reads 4 bytes" in error
    assert "behind input" in error
    error = run("write_past_the_end", 2, 64, torch.zeros(128), memory[:100])
    assert "writes 4 bytes" in error
    assert "behind output" in error
    assert torch.equal(memory[100:], torch.zeros(156))


def test_access_past_dynamic_shared_memory(run: Runner) -> None:
    error = run("transpose", 1, 256, numbers(256), torch.zeros(256), size=16, shared_bytes=16 * 17 * 4 - 8)
    assert "Access out of bounds" in error
    assert "shared memory" in error


def test_uninitialised_dynamic_shared_memory(run: Runner) -> None:
    error = run(
        "transpose without guard", 1, 256, numbers(49), torch.zeros(1024), size=7, shared_bytes=16 * 17 * 4
    )
    assert "Read of uninitialised memory" in error


def test_misaligned_vector(run: Runner) -> None:
    memory = numbers(65)
    error = run("saxpy", 1, 16, memory[1:], torch.zeros(64))
    assert "makes a misaligned access" in error


@pytest.mark.parametrize(
    ("clear", "give_back", "fault"),
    [(True, False, ""), (False, False, "Read of uninitialised memory"), (True, True, "Access out of bounds")],
)
def test_memory_of_cudaMalloc(runner: Runner, clear: bool, give_back: bool, fault: str) -> None:
    y = fresh(32)
    runner.emulator.begin_call([("output", y)])
    runner.library.copy_from_allocation(ctypes.c_void_p(y.data_ptr()), 32, clear, give_back)
    error = runner.emulator.error()
    assert fault in error
    assert bool(fault) == bool(error)
    if not fault:
        assert torch.equal(y, torch.zeros(32))


@pytest.mark.parametrize(
    ("blocks", "threads", "reason"),
    [
        (0, 32, "a dimension of its grid or block is 0"),
        (1, 0, "a dimension of its grid or block is 0"),
        (1, 1056, "1056 threads"),
    ],
)
def test_impossible_launch_is_refused(runner: Runner, blocks: int, threads: int, reason: str) -> None:
    error = runner("count_blocks", blocks, threads, fresh(1), torch.zeros(1))
    assert "Refused to launch kernel" in error
    assert reason in error


def test_shared_memory_has_a_limit(runner: Runner) -> None:
    x, y = numbers(256), torch.zeros(256)

    def transpose(shared_bytes: int) -> str:
        return runner("transpose", 1, 256, x, y, size=16, shared_bytes=shared_bytes)

    assert transpose(48 << 10) == ""
    assert "49153 bytes of dynamic shared memory" in transpose((48 << 10) + 1)
    assert runner.library.allow_shared_bytes(b"transpose", 64 << 10) == 0
    assert transpose(64 << 10) == ""
    assert "dynamic shared memory" in transpose((64 << 10) + 1)
    assert runner.library.allow_shared_bytes(b"transpose", (227 << 10) + 1) != 0


def test_static_arrays_count_towards_the_limit(runner: Runner) -> None:
    y = torch.zeros(64)
    assert runner("large_static_array", 1, 64, fresh(1), y, shared_bytes=16 << 10) == ""
    error = runner("large_static_array", 1, 64, fresh(1), y, shared_bytes=20 << 10)
    assert "Too much shared memory" in error


def test_unknown_launch_attribute_is_refused(runner: Runner) -> None:
    y = torch.zeros(1)
    runner.emulator.begin_call([("output", y)])
    assert runner.library.run_cooperatively(ctypes.c_void_p(y.data_ptr())) != 0
    assert "attribute" in runner.emulator.error()


def test_schedule_belongs_to_the_seed(runner: Runner) -> None:
    def order(seed: int) -> list[float]:
        y = fresh(20)
        runner.emulator.seed(seed)
        assert runner("order_of_blocks", 20, 64, fresh(1), y) == ""
        assert sorted(y.tolist()) == list(range(20))
        return y.tolist()

    assert order(3) == order(3)
    assert len({tuple(order(seed)) for seed in range(10)}) == 10


def test_bytes_are_counted(runner: Runner) -> None:
    x, y = numbers(2048), numbers(2048)
    assert runner("saxpy", 3, 64, x, y) == ""
    counters = runner.emulator.counters()
    assert counters.launches == 1
    assert counters.bytes_loaded == counters.unique_bytes_loaded == x.nbytes + y.nbytes
    assert counters.bytes_stored == counters.unique_bytes_stored == y.nbytes
    # Every block writes its sum once; all threads of a warp but the first read nothing else than their input.
    assert runner("block_sum", 8, 128, x, y) == ""
    counters = runner.emulator.counters()
    assert (counters.unique_bytes_loaded, counters.unique_bytes_stored) == (8 * 128 * 4, 8 * 4)


def test_launches_after_a_fault_are_skipped(runner: Runner) -> None:
    y = torch.zeros(64)
    runner.emulator.begin_call([("output", y)])
    for clear in (False, True):
        runner.library.copy_from_allocation(ctypes.c_void_p(y.data_ptr()), 32, clear, False)
    assert "uninitialised" in runner.emulator.error()
    assert runner.emulator.counters().launches == 1


def test_without_checks(runner: Runner) -> None:
    x, y = numbers(37 * 37), fresh(37 * 37)
    runner.emulator.set_checking(False)
    try:
        assert runner("transpose", 9, 256, x, y, size=37, shared_bytes=16 * 17 * 4) == ""
        assert runner("barrier after an early return", 1, 64, x, y) != ""
    finally:
        runner.emulator.set_checking(True)
    assert torch.equal(y.view(37, 37), x.view(37, 37).t())


@pytest.mark.parametrize(
    ("kernel", "blocks", "threads", "size", "fault"),
    [
        ("transpose", 4, 256, 32, ""),
        ("block_sum", 4, 256, 1024, ""),
        ("last_block_sum", 3, 256, 1024, ""),
        ("read_past_the_end", 3, 500, 1024, "heap-buffer-overflow"),
        ("block_sum past the array", 1, 1024, 1024, "out of bounds"),
        ("barrier after an early return", 1, 64, 0, "Divergent barrier"),
    ],
)
def test_under_address_sanitizer(kernel: str, blocks: int, threads: int, size: int, fault: str) -> None:
    if reason := build.missing():
        pytest.skip(reason)
    library = build.kernels("test_kernels", [KERNELS], "address")
    script = f"""
        import ctypes
        library = ctypes.CDLL({str(library)!r})
        library.emulator_error.restype = ctypes.c_char_p
        input, output, counters = ((ctypes.c_float * 1024)() for _ in range(3))
        library.run({kernel.encode()!r}, {blocks}, {threads}, 1088, input, output, counters, {size})
        exit(library.emulator_error().decode() or None)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={**os.environ, **build.address_environment()},
    )
    assert fault in result.stderr
    assert (result.returncode != 0) == bool(fault), result.stderr
