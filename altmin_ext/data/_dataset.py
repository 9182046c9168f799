"""The class of a loaded data set."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from altmin_ext.data._preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """A data set in memory.

    Attributes:
        name: one of :func:`altmin_ext.data.names`, the name of a file, or that of a task made from one of these.
        train: (x, y) to train on; x (N, C, H, W) or (N, features) float32, y (N,) int64 from 0 to ``classes`` - 1;
            for regression (N, K) float32.
        test: (x, y) to test on, with the same shapes apart from N.
        classes: the number of classes; 0 for regression.
        preprocessing: how a file became these tensors, see :func:`altmin_ext.data.load_file`; None for a data set
            by name.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int
    preprocessing: Preprocessing | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, (C, H, W) or (features,)."""
        return tuple(self.train[0].shape[1:])

    @property
    def n_in(self) -> int:
        """The number of features of one flattened sample."""
        return math.prod(self.shape)

    @property
    def n_out(self) -> int:
        """The number of outputs that a network for it has: one for each class, or for each number to predict."""
        return self.classes or self.train[1].shape[1]

    def __repr__(self) -> str:
        targets = f"regression of {self.n_out} number{'s' if self.n_out > 1 else ''}"
        outputs = f"{self.classes} classes" if self.classes else targets
        return (
            f"DataSet({self.name!r}: {len(self.train[1])} training and {len(self.test[1])} test samples "
            f"of shape {self.shape}, {outputs})"
        )
