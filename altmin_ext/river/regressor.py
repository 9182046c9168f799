"""A regressor for river."""

from __future__ import annotations

from typing import Any

import numpy as np
from river.base import MiniBatchRegressor
from river.utils import dataframe

from altmin_ext import _check
from altmin_ext.losses import LossLike
from altmin_ext.river.base import Features, NetworkEstimator, nowhere


class AMRegressor(NetworkEstimator, MiniBatchRegressor):
    """A network that predicts a number, trained by alternating minimisation or any other method of this package.

    The interface is river's (Montiel et al. 2021), the default method AM-Adam (Choromanska et al. 2019). Inputs and
    targets should have about unit variance, as a ``StandardScaler`` and a ``TargetStandardScaler`` give them.

    What :class:`AMClassifier` says of features, of ``learn_many`` and of growth holds here, too. Before the first
    sample, the prediction is 0.

    Args:
        hidden: widths of the hidden layers; empty for a linear model.
        method: one of :func:`altmin_ext.methods.names` that takes minibatches and real targets.
        module: a function (n_in, n_out) that makes a network, as for :class:`AMClassifier`; n_out is 1.
        activation: of the hidden layers, see :func:`altmin_ext.models.mlp`.
        loss: as for :func:`altmin_ext.train`; None for "mse".
        seed: of the weights and the method; None for one from Python's global generator.
        **method_options: options of the method, such as ``lr``, and ``on_nonfinite``, see
            :func:`altmin_ext.make_method`.

    Attributes:
        features_: the names of the features, in the order of the network's inputs.
        module_: the network.
        method_: the :class:`altmin_ext.Method`.

    Raises:
        TypeError, ValueError: with the first sample, for a parameter that is wrong.
    """

    _classifies = False

    def _default_loss(self) -> LossLike | None:
        return "mse"

    def learn_one(self, x: Features, y: Any) -> None:
        """A step on one sample.

        Args:
            x: features by name.
            y: the target, a number.

        Raises:
            TypeError, ValueError: a value cannot be learned; nothing has changed.
            DivergenceError: as for :meth:`altmin_ext.Method.step`.
        """
        target, learner = _check.number("y", y), self._learner
        new = self._columns.write(x, nowhere if learner is None else learner.x)
        if learner is None or new:
            learner = self._admit(new, 1)
            self._columns.write(x, learner.x)
        learner.y[0] = target
        learner.learn()

    def learn_many(self, X: Any, y: Any) -> None:
        """A step on each row, in order.

        Args:
            X: a data frame, of pandas, polars or any other that narwhals knows.
            y: its targets, a series.

        Raises:
            TypeError, ValueError: a value cannot be learned; nothing has changed.
            DivergenceError: as for :meth:`altmin_ext.Method.step`; rows that came before have been learned.
        """
        _, names, rows = self._rows(X)
        targets = [_check.number("y", value) for value in dataframe.into_series(y).to_list()]
        if len(targets) != len(rows):
            raise ValueError(f"y must have {len(rows)} numbers like X, but has {len(targets)}.")
        if targets:
            learner = self._admit(self._columns.new(names), 1)
            learner.learn_many(self._inputs(names, rows), np.array(targets, np.float32)[:, None])

    def predict_one(self, x: Features) -> float:
        """Predict the target.

        Args:
            x: features by name.

        Returns:
            The output of the network; 0 before the first sample.
        """
        return 0.0 if self._learner is None else float(self._outputs_one(x)[0])

    def predict_many(self, X: Any) -> Any:
        """Predict the target of each row.

        Args:
            X: a data frame.

        Returns:
            A series of the same kind.
        """
        frame, names, rows = self._rows(X)
        found = np.zeros(len(rows))
        if self._learner is not None:
            found = self._outputs_many(names, rows)[:, 0].astype(np.float64)
        return dataframe.to_native_series(found, name=None, like=frame)
