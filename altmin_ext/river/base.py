"""What both estimators share: parameters, features by name, and the network that grows with them."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Hashable, Mapping, Sequence
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from river.base import Estimator
from river.utils import dataframe
from torch import nn

from altmin_ext import _check
from altmin_ext._estimator import Factory, is_cross_entropy, loss_or_default
from altmin_ext._online import OnlineLearner, Recipe
from altmin_ext.losses import LossLike
from altmin_ext.methods import Method

Features = Mapping[Hashable, Any]
nowhere = np.empty(0, np.float32)  # what a sample is written to as long as there are no columns

# Names of train and of other estimators -> their names here.
_other_words = {"random_state": "seed", "random_seed": "seed", "hidden_layer_sizes": "hidden"}


class Columns:
    """The columns of inputs that belong to features, by their names.

    Args:
        names: of the features, in the order of their columns.

    Attributes:
        numbers: name -> number of the column.
    """

    def __init__(self, names: Sequence[Hashable] = ()) -> None:
        self.numbers = {name: number for number, name in enumerate(names)}
        # For samples that hold exactly these features, and nothing but finite numbers.
        pick = itemgetter(*names) if names else None
        self._pick: Any = pick if len(names) > 1 else lambda x: (x[names[0]],) if names else ()
        self._packing = struct.Struct(f"={len(names)}f")

    def __reduce__(self) -> tuple[Any, ...]:
        return Columns, (list(self.numbers),)

    def write(self, x: Features, to: NDArray[Any]) -> list[Hashable]:
        """Write a sample into a row of inputs.

        Args:
            x: features by name; what is missing becomes 0.
            to: (columns,) float32.

        Returns:
            The names of features that have no column yet, whose values have been checked, too.

        Raises:
            TypeError, ValueError: a value is no number, or not finite.
        """
        try:
            values = self._pick(x)
            if len(values) == len(x) and math.isfinite(sum(values)):
                self._packing.pack_into(to.data, 0, *values)
                return []
        except (KeyError, TypeError, struct.error, OverflowError):
            pass
        new, inputs = [], [0.0] * len(self.numbers)
        for name, value in x.items():
            number, column = _number(name, value), self.numbers.get(name)
            if column is None:
                new.append(name)
            else:
                inputs[column] = number
        self._packing.pack_into(to.data, 0, *inputs)
        return new

    def new(self, names: Sequence[Hashable]) -> list[Hashable]:
        """Those of the names that have no column yet."""
        return [name for name in names if name not in self.numbers]


class NetworkEstimator(Estimator):
    """A network with a training method, behind river's interface. See :class:`AMClassifier`.

    The network is made with the first sample, and made larger with each sample that brings something new. As many
    columns of its input as there are names of features belong to these, in the order in which they came.
    """

    _classifies: ClassVar[bool]

    def __init__(
        self,
        hidden: Any = (100,),
        method: str = "am-adam",
        module: Factory | None = None,
        *,
        activation: str = "relu",
        loss: LossLike | None = None,
        seed: int | None = None,
        **method_options: Any,
    ) -> None:
        # river takes a tuple for a class with its parameters if its first entry is a class, and expects one.
        self.hidden = [] if hidden == () else hidden
        self.method = method
        self.module = module
        self.activation = activation
        self.loss = loss
        self.seed = seed
        self.method_options = method_options
        self._learner: OnlineLearner | None = None
        self._columns = Columns()
        self._outputs: dict[Hashable, int] = {}  # of the classes

    # ------------------------------------------------------------------------------------ what there is

    @property
    def module_(self) -> nn.Module:
        """The network; an AttributeError before the first sample."""
        return self.method_.model

    @property
    def method_(self) -> Method:
        """The :class:`altmin_ext.Method`; an AttributeError before the first sample."""
        if self._learner is None:
            raise AttributeError("the method is made with the first sample; call learn_one before.")
        return self._learner.method

    @property
    def features_(self) -> list[Hashable]:
        """The names of the features, in the order of the network's inputs."""
        return list(self._columns.numbers)

    @classmethod
    def _unit_test_params(cls) -> Any:
        yield {"hidden": (10,)}
        yield {"hidden": (), "lr": 0.01}

    # ------------------------------------------------------------------------------------------- growth

    @property
    def _n_out(self) -> int:
        """Outputs that the network has now."""
        return 1

    def _default_loss(self) -> LossLike | None:
        """The loss where none is given; None for the method's own."""
        return None

    def _admit(self, names: Sequence[Hashable], n_out: int) -> OnlineLearner:
        """The learner, with a column for each of these further names and this many outputs."""
        learner, n_in = self._learner, len(self._columns.numbers) + len(names)
        if learner is not None and (n_in, n_out) == (learner.n_in, learner.n_out):
            return learner
        if not n_in:
            raise ValueError("x must hold at least one feature, but is empty.")
        try:
            learner = self._first(n_in, n_out) if learner is None else learner.grown(n_in, n_out)
        except ValueError as error:
            if learner is None:
                raise
            new = f"the feature {names[0]!r}" if names else "another class"
            raise ValueError(
                f"{new} cannot be added to what {self.method!r} has learned: {_check.first_sentence(error)}; give "
                "all features and classes from the start, or use another method."
            ) from error
        # Sorted, so that their order in x makes no difference.
        self._columns = Columns([*self._columns.numbers, *sorted(names, key=repr)])
        self._learner = learner
        return learner

    def _first(self, n_in: int, n_out: int) -> OnlineLearner:
        if isinstance(self.module, nn.Module):
            raise TypeError(
                f"module must be a function (n_in, n_out) that makes a network, which grows with the stream, but is "
                f"{_check.named_type(self.module)}; write lambda n_in, n_out: ..."
            )
        seed = random.randrange(2**31) if self.seed is None else _check.seed("seed", self.seed)
        loss = self._default_loss() if self.loss is None else self.loss
        recipe = Recipe(
            self.method,
            self.hidden,
            self.activation,
            self.module,
            loss,
            seed,
            self.method_options,
            _other_words,
        )
        return OnlineLearner(recipe, n_in, n_out, self._classifies)

    # ---------------------------------------------------------------------------------- features to inputs

    def _rows(self, X: Any) -> tuple[Any, list[Hashable], NDArray[Any]]:
        """A data frame as narwhals knows it, the names of its columns, and its values, (N, columns) float32."""
        frame = dataframe.into_frame(X)
        try:
            values = dataframe.to_numpy(frame)
        except OverflowError as error:
            raise ValueError(
                "X must hold numbers within the range of float32, but holds a larger integer; scale it."
            ) from error
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"X must hold numbers, but does not: {_check.first_sentence(error)}; encode words before, as "
                "river.preprocessing.OneHotEncoder does."
            ) from error
        with np.errstate(over="ignore"):
            rows = np.where(np.isnan(values), 0.0, values).astype(np.float32)
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0]
            raise _not_finite(frame.columns[column], values[row, column])
        return frame, list(frame.columns), rows

    def _inputs(self, names: Sequence[Hashable], rows: NDArray[Any]) -> NDArray[Any]:
        """Rows of features as inputs, (N, n_in) float32; those without a column are left out."""
        numbers = self._columns.numbers
        inputs = np.zeros((len(rows), len(numbers)), np.float32)
        known = [i for i, name in enumerate(names) if name in numbers]
        inputs[:, [numbers[names[i]] for i in known]] = rows[:, known]
        return inputs

    # ----------------------------------------------------------------------------------------- outputs

    def _outputs_one(self, x: Features) -> NDArray[Any]:
        """The network's outputs, (n_out,)."""
        assert self._learner is not None
        inputs = self._learner.x
        self._columns.write(x, inputs)
        return self._learner.outputs(inputs)

    def _outputs_many(self, names: Sequence[Hashable], rows: NDArray[Any]) -> NDArray[Any]:
        """The network's outputs, (N, n_out)."""
        assert self._learner is not None
        return self._learner.outputs(self._inputs(names, rows))

    @property
    def _has_probabilities(self) -> bool:
        return is_cross_entropy(loss_or_default(self.method, self.loss))


def _number(name: Hashable, value: Any) -> float:
    """The value of a feature; 0 if it is missing."""
    if value is None:
        return 0.0
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        raise TypeError(
            f"feature {name!r} must be a number, but is {_check.shown(value)}; encode it before, as "
            "river.preprocessing.OneHotEncoder does."
        ) from None
    if number != number:
        return 0.0
    if not abs(number) <= _largest:
        raise _not_finite(name, value)
    return number


_largest = float(np.finfo(np.float32).max)


def _not_finite(name: Hashable, value: Any) -> ValueError:
    return ValueError(
        f"feature {name!r} must be within the range of float32, but is {_check.shown(value)}; scale it, or leave it "
        "out where it is unknown."
    )
