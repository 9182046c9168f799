"""The convolutions of LeNet-5, on a minibatch of 128 images."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    """A convolution with a 5 x 5 kernel, and max-pooling by 2."""

    inputs: int
    outputs: int
    size: int

    groups = 8  # of 16 images

    @property
    def input(self) -> tuple[int, ...]:
        return self.groups, self.inputs, self.size, self.size, 16

    @property
    def weight(self) -> tuple[int, ...]:
        return self.outputs, self.inputs, 5, 5

    @property
    def code(self) -> tuple[int, ...]:
        size = (self.size - 4) // 2
        return self.groups, self.outputs, size, size, 16


STAGES = {
    "28 x 28, first": Stage(1, 6, 28),
    "28 x 28, second": Stage(6, 16, 12),
    "3 x 32 x 32, first": Stage(3, 6, 32),
    "3 x 32 x 32, second": Stage(6, 16, 14),
}
GEOMETRY = {"padding": (0, 0), "pool": 2}
