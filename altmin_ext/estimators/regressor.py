"""A regressor for scikit-learn."""

from __future__ import annotations

from typing import Any, TypeVar

from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin

from altmin_ext.estimators.base import NetworkEstimator
from altmin_ext.losses import LossLike

Self = TypeVar("Self", bound="AMRegressor")


class AMRegressor(RegressorMixin, NetworkEstimator):
    """A network that predicts real numbers, trained by alternating minimisation or any other method of this package.

    The interface is that of ``sklearn.neural_network.MLPRegressor`` (Pedregosa et al. 2011), the default method
    AM-Adam (Choromanska et al. 2019). Inputs and targets should have about unit variance, as a ``StandardScaler`` and
    a ``TransformedTargetRegressor`` give them.

    What :class:`AMClassifier` says of ``partial_fit``, weights and early stopping holds here, too; early stopping
    monitors the loss.

    Args:
        hidden: widths of the hidden layers.
        method: one of :func:`altmin_ext.methods.names` that takes real targets.
        epochs: the largest number of passes of a ``fit``.
        batch_size: samples in a minibatch.
        random_state: of initial weights, order and method: an int, a ``RandomState``, or None for one from NumPy's
            global generator.
        module: a network, which is copied, or a function (n_in, n_out) that makes one; None for an
            :func:`altmin_ext.models.mlp`. It maps (B, n_in) to (B, n_out), an output for every target.
        activation: of the hidden layers, see :func:`altmin_ext.models.mlp`.
        loss: as for :func:`altmin_ext.train`; None for "mse".
        lr_schedule: of a ``fit``, as for :func:`altmin_ext.train`.
        shuffle: whether ``fit`` draws a new order for every pass.
        warm_start: whether ``fit`` goes on with what has been learned.
        early_stopping: whether training may end earlier.
        validation_fraction: the part of the samples that ``fit`` holds out for early stopping.
        patience: passes without an improvement after which training ends.
        device: where to train; None for the CPU, or where ``module`` is.
        **method_options: options of the method, such as ``lr``, and ``on_nonfinite`` and ``graph``, see
            :func:`altmin_ext.make_method`. They are parameters, too: ``set_params(lr=.01)``.

    Attributes:
        module_: the network.
        method_: the :class:`altmin_ext.Method`.
        history_: the :class:`altmin_ext.History` of all passes.
        loss_curve_: the mean training loss of every pass.
        n_iter_: the number of passes.
        stopped_: whether early stopping has ended the training.
        n_features_in_: the number of features.
        feature_names_in_: their names, if X had some.

    Raises:
        TypeError, ValueError: when fitting begins, for a parameter that is wrong; what was fitted before stays.
        DivergenceError: while fitting, as :func:`altmin_ext.train`.

    Examples:
        >>> import numpy as np
        >>> from altmin_ext.estimators import AMRegressor
        >>> X = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = X[:, 0] - np.abs(X[:, 1])
        >>> model = AMRegressor(hidden=(32,), epochs=50, batch_size=30, lr=0.01, random_state=0).fit(X, y)
        >>> model.score(X, y) > 0.9, model.predict(X).shape
        (True, (300,))
    """

    _takes_classes = False
    _has_class_indices = False

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(
        self: Self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Train anew, or go on with ``warm_start``.

        Args:
            X: (N, n_in), array or DataFrame. The network gets its dtype, float32 or float64; float64 for any other.
            y: (N,) or (N, C) numbers.
            sample_weight: (N,), at least 0; None for equal weights.
            X_val: held-out samples, evaluated after every pass, for ``history_`` and early stopping.
            y_val: their targets.

        Returns:
            The estimator.

        Raises:
            TypeError, ValueError: an argument or a parameter is wrong; what was fitted before stays.
            DivergenceError: as for :func:`altmin_ext.train`.
        """
        self._fit(X, y, sample_weight, X_val, y_val)
        return self

    def partial_fit(
        self: Self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Go on with one pass over these samples, in their order and in minibatches of ``batch_size``.

        Args:
            X, y, sample_weight, X_val, y_val: as for :meth:`fit`.

        Returns:
            The estimator.

        Raises:
            TypeError, ValueError: an argument or a parameter is wrong, or the method takes the whole training set;
                nothing has changed.
            DivergenceError: as for :meth:`altmin_ext.Method.step`.
        """
        self._partial_fit(X, y, sample_weight, X_val, y_val)
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the targets of samples.

        Args:
            X: (N, n_in).

        Returns:
            (N,) or (N, C) as in y, in the dtype of the network.

        Raises:
            ValueError: X does not fit.
        """
        outputs = self._outputs(X)
        return (outputs[:, 0] if self._is_one_number else outputs).numpy()

    def _read_targets(self, y: NDArray[Any], dtype: Any, first: bool) -> NDArray[Any]:
        columns = y.reshape(len(y), -1)
        if first:
            self._is_one_number, self._columns = y.ndim == 1, columns.shape[1]
        if columns.shape[1] != self._columns:
            raise ValueError(f"y must have {self._columns} columns as before, but has {columns.shape[1]}.")
        return columns.astype(dtype)

    def _default_loss(self) -> LossLike | None:
        return "mse"

    @property
    def _n_out(self) -> int:
        return self._columns
