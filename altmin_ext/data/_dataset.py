"""What a loaded data set is."""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """A data set for classification, held in memory.

    Attributes:
        name: as in :func:`altmin_ext.data.names`, or what a task of it is called.
        train: (x, y); x (N, C, H, W) or (N, features) float32, y (N,) int64 from 0 to ``classes`` - 1.
        test: (x, y) likewise.
        classes: how many classes there are.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample: (C, H, W) or (features,)."""
        return tuple(self.train[0].shape[1:])

    @property
    def n_in(self) -> int:
        """Features of one sample once flattened."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        return (
            f"DataSet({self.name!r}: {len(self.train[1])} training and {len(self.test[1])} test samples "
            f"of shape {self.shape}, {self.classes} classes)"
        )
