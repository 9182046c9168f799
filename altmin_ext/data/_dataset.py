"""The class of a loaded data set."""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """A data set for classification, held in memory.

    Attributes:
        name: one of :func:`altmin_ext.data.names`, or the name of a task made from it.
        train: (x, y) to train on; x (N, C, H, W) or (N, features) float32, y (N,) int64 from 0 to ``classes`` - 1.
        test: (x, y) to test on, with the same shapes apart from N.
        classes: the number of classes.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, (C, H, W) or (features,)."""
        return tuple(self.train[0].shape[1:])

    @property
    def n_in(self) -> int:
        """The number of features of one flattened sample."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        return (
            f"DataSet({self.name!r}: {len(self.train[1])} training and {len(self.test[1])} test samples "
            f"of shape {self.shape}, {self.classes} classes)"
        )
