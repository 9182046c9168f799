"""A classifier for river."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
from river.base import MiniBatchClassifier
from river.utils import dataframe

from altmin_ext import _check
from altmin_ext.river.base import Features, NetworkEstimator, nowhere


class AMClassifier(NetworkEstimator, MiniBatchClassifier):
    """A network that classifies, trained by alternating minimisation or any other method of this package.

    The interface is river's (Montiel et al. 2021), the default method AM-Adam (Choromanska et al. 2019). Each sample
    is a step of its own. Inputs should have about unit variance, as a ``StandardScaler`` gives them.

    Features are known by their names. The first sample that holds a new one adds an input to the network, with the
    weights of a new network; what has been learned stays, moments of the optimizer included. A feature that a sample
    lacks, or whose value is None or NaN, counts as 0, which is the mean behind a ``StandardScaler``. A prediction
    ignores features that no sample has had yet. A new class adds an output in the same way. Before the first sample,
    there are no probabilities, and the prediction is None.

    ``learn_many`` is ``learn_one`` on each row in its order, bit for bit, and some times as fast.

    Args:
        hidden: widths of the hidden layers; empty for a linear classifier.
        method: one of :func:`altmin_ext.methods.names` that takes minibatches.
        module: a function (n_in, n_out) that makes a network, whose tensors grow at their ends with these numbers;
            None for an :func:`altmin_ext.models.mlp`.
        activation: of the hidden layers, see :func:`altmin_ext.models.mlp`.
        loss: as for :func:`altmin_ext.train`; None for the method's default.
        seed: of the weights and the method; None for one from Python's global generator.
        **method_options: options of the method, such as ``lr``, and ``on_nonfinite``, see
            :func:`altmin_ext.make_method`.

    Attributes:
        classes_: the classes, in the order of the network's outputs.
        features_: the names of the features, in the order of its inputs.
        module_: the network.
        method_: the :class:`altmin_ext.Method`.

    Raises:
        TypeError, ValueError: with the first sample, for a parameter that is wrong.
    """

    _classifies = True

    @property
    def _multiclass(self) -> bool:
        return True

    @property
    def classes_(self) -> list[Hashable]:
        """The classes, in the order of the network's outputs."""
        return list(self._outputs)

    @property
    def _n_out(self) -> int:
        return len(self._outputs)

    # ---------------------------------------------------------------------------------------- learning

    def learn_one(self, x: Features, y: Any) -> None:
        """A step on one sample.

        Args:
            x: features by name.
            y: the class, of any kind that can be a key: a bool, a string, an integer.

        Raises:
            TypeError, ValueError: a value cannot be learned; nothing has changed.
            DivergenceError: as for :meth:`altmin_ext.Method.step`.
        """
        learner = self._learner
        try:
            output = self._outputs.get(y)
        except TypeError:
            _check_label(y)
            raise
        new = self._columns.write(x, nowhere if learner is None else learner.x)
        if learner is None or output is None or new:
            learner, output = self._grow(new, y)
            self._columns.write(x, learner.x)
        learner.y[0] = output
        learner.learn()

    def learn_many(self, X: Any, y: Any) -> None:
        """A step on each row, in order.

        Args:
            X: a data frame, of pandas, polars or any other that narwhals knows.
            y: its classes, a series.

        Raises:
            TypeError, ValueError: a value cannot be learned; nothing has changed.
            DivergenceError: as for :meth:`altmin_ext.Method.step`; rows that came before have been learned.
        """
        _, names, rows = self._rows(X)
        labels = dataframe.into_series(y).to_list()
        if len(labels) != len(rows):
            raise ValueError(f"y must have {len(rows)} classes like X, but has {len(labels)}.")
        for label in labels:
            _check_label(label)
        begin = 0
        while begin < len(rows):
            new = self._columns.new(names)
            learner, _ = self._grow(new, labels[begin])
            end = begin + 1
            while end < len(rows) and labels[end] in self._outputs:
                end += 1
            targets = np.array([self._outputs[label] for label in labels[begin:end]], np.int64)
            learner.learn_many(self._inputs(names, rows[begin:end]), targets)
            begin = end

    def _grow(self, names: list[Hashable], y: Any) -> tuple[Any, int]:
        """The learner with these further features and this class, and the output of the class."""
        _check_label(y)
        output = self._outputs.get(y, len(self._outputs))
        learner = self._admit(names, max(len(self._outputs), output + 1))
        self._outputs[y] = output
        return learner, output

    # --------------------------------------------------------------------------------------- predicting

    def predict_proba_one(self, x: Features) -> dict[Any, float]:
        """Find the probabilities of the classes; only with the loss "cross_entropy".

        Args:
            x: features by name.

        Returns:
            Class -> probability, for all classes so far.

        Raises:
            NotImplementedError: the loss gives no probabilities.
        """
        self._need_probabilities()
        if self._learner is None:
            return {}
        outputs = self._outputs_one(x).tolist()
        highest = max(outputs)
        masses = [math.exp(output - highest) for output in outputs]
        total = sum(masses)
        return {label: mass / total for label, mass in zip(self._outputs, masses, strict=True)}

    def predict_one(self, x: Features) -> Any:
        """Predict the class.

        Args:
            x: features by name.

        Returns:
            The class with the largest output; None before the first sample.
        """
        if self._learner is None:
            return None
        return self.classes_[self._outputs_one(x).argmax()]

    def predict_proba_many(self, X: Any) -> Any:
        """Find the probabilities of the classes for each row.

        Args:
            X: a data frame.

        Returns:
            A data frame of the same kind, with a column for every class so far.

        Raises:
            NotImplementedError: the loss gives no probabilities.
        """
        self._need_probabilities()
        frame, names, rows = self._rows(X)
        if self._learner is None:
            return dataframe.to_native_frame({}, like=frame)
        outputs = self._outputs_many(names, rows).astype(np.float64)
        masses = np.exp(outputs - outputs.max(1, keepdims=True))
        columns = (masses / masses.sum(1, keepdims=True)).T
        return dataframe.to_native_frame(dict(zip(self._outputs, columns, strict=True)), like=frame)

    def predict_many(self, X: Any) -> Any:
        """Predict the class of each row.

        Args:
            X: a data frame.

        Returns:
            A series of the same kind.
        """
        frame, names, rows = self._rows(X)
        found: list[Any] = [None] * len(rows)
        if self._learner is not None:
            classes = self.classes_
            found = [classes[i] for i in self._outputs_many(names, rows).argmax(1)]
        return dataframe.to_native_series(found, name=None, like=frame)

    def _need_probabilities(self) -> None:
        if not self._has_probabilities:
            raise NotImplementedError(
                f"probabilities need the loss 'cross_entropy', but the loss of {self.method!r} here is another; call "
                "predict_one."
            )


def _check_label(y: Any) -> None:
    sentence = f"y must be a class, such as a bool or a string, but is {_check.shown(y)}."
    try:
        hash(y)
    except TypeError:
        raise TypeError(sentence) from None
    if y is None or y != y:
        raise ValueError(sentence)
