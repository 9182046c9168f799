"""What a step of am-adam costs on a GPU: launches and bytes, counted on the emulator.

Oracle: the launches are those of the design, 6 L + 7 with L hidden layers; the bytes, that each tensor need be read
and written once, and gradients read once more, before any weight moves.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import cuda_cost

from .emulation import EmulatedModule


@pytest.fixture
def device(emulated_module: EmulatedModule) -> Iterator[EmulatedModule]:
    """The emulated GPU, as large as a real one."""
    yield cuda_cost.prepare(emulated_module)
    emulated_module.emulator.set_multiprocessors(3)  # as it begins


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_launches_of_a_step(device: EmulatedModule, hidden: int) -> None:
    widths = (16,) * (hidden + 1) + (10,)
    step, power_iterations = cuda_cost.apart(cuda_cost.am_adam_costs(widths, 16, device))
    launches = cuda_cost.total(step).launches
    assert launches <= 6 * hidden + 7
    assert launches < cuda_cost.total(cuda_cost.autograd_costs(widths, 16)).launches
    assert cuda_cost.total(power_iterations).launches == 2


def test_bytes_of_a_step(device: EmulatedModule) -> None:
    step, _ = cuda_cost.apart(cuda_cost.am_adam_costs((784, 100, 100, 10), 200, device))
    kernels = [cost for cost in step if cost.is_ours]
    assert cuda_cost.total(kernels).over_floor <= cuda_cost.BYTES_OVER_FLOOR, [
        (cost.op, round(cost.over_floor, 2)) for cost in kernels
    ]
