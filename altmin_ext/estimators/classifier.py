"""A classifier for scikit-learn."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d
from torch import nn

from altmin_ext import _check
from altmin_ext._estimator import is_cross_entropy, loss_or_default
from altmin_ext.estimators.base import Module, NetworkEstimator
from altmin_ext.losses import LossLike
from altmin_ext.methods import method_class

Self = TypeVar("Self", bound="AMClassifier")


def _has_probabilities(estimator: AMClassifier) -> bool:
    loss = loss_or_default(estimator.method, estimator.loss)
    if is_cross_entropy(loss) or isinstance(loss, nn.BCEWithLogitsLoss):
        return True
    raise AttributeError(
        f"probabilities need the loss 'cross_entropy', but {type(estimator).__name__} has {loss!r}; call "
        "decision_function."
    )


class AMClassifier(ClassifierMixin, NetworkEstimator):
    """A network that classifies, trained by alternating minimisation or any other method of this package.

    The interface is that of ``sklearn.neural_network.MLPClassifier`` (Pedregosa et al. 2011), the default method
    AM-Adam (Choromanska et al. 2019).

    ``partial_fit`` on the minibatches, one call for each, does what ``fit`` does in a pass over them, bit for bit:
    with ``shuffle=False`` on ``X[:batch_size]``, ``X[batch_size:2 * batch_size]`` and so on, else on those of the
    order that ``fit`` draws. So it is with every method of minibatches except ``dtp``, which makes a pass of its own
    for its inverses, and with a constant ``lr_schedule``.

    A weight of 2 is a sample that stands there twice. With ``am-adam``, ``am-sgd``, ``adam``, ``sgd`` and ``ste`` a
    step weighs what it sums over the samples of a minibatch, which equals a step on repeated samples up to rounding;
    only ratios of weights within a minibatch matter, and batch normalisation does not know of them. With the other
    methods samples are repeated, and weights must be whole numbers. A weight of 0 leaves a sample out.

    With ``early_stopping``, training ends when the accuracy (with multilabel targets the loss) has not improved for
    ``patience`` passes, and the best weights are put back. It is taken on ``X_val`` and ``y_val`` if these are given;
    else ``fit`` holds out a part of its samples, and ``partial_fit`` takes its samples before it learns them. After
    that, ``stopped_`` is True, and ``partial_fit`` changes nothing more until the next ``fit``.

    Args:
        hidden: widths of the hidden layers.
        method: one of :func:`altmin_ext.methods.names`.
        epochs: the largest number of passes of a ``fit``.
        batch_size: samples in a minibatch.
        random_state: of initial weights, order and method: an int, a ``RandomState``, or None for one from NumPy's
            global generator.
        module: a network, which is copied, or a function (n_in, n_out) that makes one; None for an
            :func:`altmin_ext.models.mlp`. It maps (B, n_in) to (B, n_out), an output for every class; begin with an
            ``nn.Unflatten`` for images.
        activation: of the hidden layers, see :func:`altmin_ext.models.mlp`.
        loss: as for :func:`altmin_ext.train`; None for the method's default, and ``nn.BCEWithLogitsLoss()`` for
            multilabel targets ("squared" with ``rls`` and methods of proximal maps).
        lr_schedule: of a ``fit``, as for :func:`altmin_ext.train`.
        shuffle: whether ``fit`` draws a new order for every pass.
        warm_start: whether ``fit`` goes on with what has been learned.
        early_stopping: whether training may end earlier, see above.
        validation_fraction: the part of the samples that ``fit`` holds out for early stopping.
        patience: passes without an improvement after which training ends.
        device: where to train; None for the CPU, or where ``module`` is.
        class_weight: label -> weight, 1 where none is given; "balanced" for weights inversely proportional to the
            frequencies of the classes; or None. Multiplied with ``sample_weight``.
        **method_options: options of the method, such as ``lr``, and ``on_nonfinite`` and ``graph``, see
            :func:`altmin_ext.make_method`. They are parameters, too: ``set_params(lr=.01)``.

    Attributes:
        classes_: the labels, sorted; the numbers of the columns for multilabel targets.
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
        >>> from altmin_ext.estimators import AMClassifier
        >>> X = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(X[:, 0] > X[:, 1], "left", "right")
        >>> model = AMClassifier(hidden=(16,), epochs=20, batch_size=30, lr=0.01, random_state=0).fit(X, y)
        >>> model.score(X, y) > 0.9, model.predict_proba(X).shape, model.classes_.tolist()
        (True, (300, 2), ['left', 'right'])
    """

    _takes_classes = True
    classes_: NDArray[Any]

    def __init__(
        self,
        hidden: Any = (100,),
        method: str = "am-adam",
        epochs: int = 10,
        batch_size: int = 200,
        random_state: Any = None,
        module: Module | None = None,
        *,
        activation: str = "relu",
        loss: LossLike | None = None,
        lr_schedule: Any = "constant",
        shuffle: bool = True,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 5,
        device: Any = None,
        class_weight: Any = None,
        **method_options: Any,
    ) -> None:
        super().__init__(
            hidden, method, epochs, batch_size, random_state, module, activation=activation, loss=loss,
            lr_schedule=lr_schedule, shuffle=shuffle, warm_start=warm_start, early_stopping=early_stopping,
            validation_fraction=validation_fraction, patience=patience, device=device, **method_options,
        )  # fmt: skip
        self.class_weight = class_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # ---------------------------------------------------------------------------------------- learning

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
            y: (N,) labels of any kind, or (N, C) indicators, 0 or 1.
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
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Go on with one pass over these samples, in their order and in minibatches of ``batch_size``.

        Args:
            X, y: as for :meth:`fit`.
            classes: all labels that will ever come; needed in the first call, unless targets are multilabel.
            sample_weight, X_val, y_val: as for :meth:`fit`.

        Returns:
            The estimator.

        Raises:
            TypeError, ValueError: an argument or a parameter is wrong, or the method takes the whole training set;
                nothing has changed.
            DivergenceError: as for :meth:`altmin_ext.Method.step`.
        """
        first = not self.__sklearn_is_fitted__()
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight must be a dict or None in partial_fit, which does not know all frequencies, but is "
                f"{self.class_weight!r}; compute weights beforehand."
            )
        with self._all_or_nothing():
            if classes is not None:
                given = np.unique(np.asarray(classes))
                if not first and not np.array_equal(given, self.classes_):
                    raise ValueError(
                        f"classes must be those of the first call, {self.classes_}, but are {given}."
                    )
                self.classes_ = given
            elif first and type_of_target(y) != "multilabel-indicator":
                raise ValueError("classes must be passed on the first call to partial_fit, but is None.")
            self._partial_fit(X, y, sample_weight, X_val, y_val)
        return self

    def _read_targets(self, y: NDArray[Any], dtype: Any, first: bool) -> NDArray[Any]:
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind == "multiclass-multioutput":
            raise ValueError(
                "y must be labels (N,) or indicators (N, C) of 0 and 1, but has several columns of labels; use "
                "sklearn.multioutput.MultiOutputClassifier."
            )
        is_multilabel = kind == "multilabel-indicator"
        if first:
            self._indicators = y.dtype if is_multilabel else None
            if is_multilabel:
                self.classes_ = np.arange(y.shape[1])
            elif not hasattr(self, "classes_"):  # else told to partial_fit
                self.classes_ = np.unique(column_or_1d(y))
        if is_multilabel != (self._indicators is not None):
            wanted = "indicators (N, C)" if self._indicators is not None else "labels (N,)"
            raise ValueError(f"y must be {wanted} as before, but is {kind}.")
        if is_multilabel:
            if y.shape[1] != self._n_out:
                raise ValueError(f"y must have {self._n_out} columns as before, but has {y.shape[1]}.")
            return y.astype(dtype)
        labels = column_or_1d(y, warn=True)
        found = np.searchsorted(self.classes_, labels).clip(max=len(self.classes_) - 1)
        unknown = self.classes_[found] != labels
        if unknown.any():
            raise ValueError(
                f"y must hold labels among {self.classes_.tolist()}, but holds {labels[unknown].tolist()[0]!r}."
            )
        return found.astype(np.int64)

    def _class_weights(self, y: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any] | None:
        given = self.class_weight
        if given is None:
            return weights
        if not self._has_class_indices:
            raise ValueError(
                f"class_weight must be None with multilabel targets, but is {_check.shown(given)}."
            )
        if isinstance(given, str):
            _check.choice("class_weight", given, ("balanced",))
            masses = np.bincount(y, weights, minlength=self._n_out)
            with np.errstate(divide="ignore"):
                factors = masses.sum() / (np.count_nonzero(masses) * masses)
        elif isinstance(given, dict):
            if unknown := [label for label in given if label not in self.classes_]:
                raise ValueError(
                    f"class_weight must hold labels among {self.classes_.tolist()}, but holds {unknown[0]!r}."
                )
            factors = np.array([
                _check.number(f"class_weight[{label!r}]", given.get(label, 1.0), above=0.0)
                for label in self.classes_.tolist()
            ])  # fmt: skip
        else:
            raise TypeError(f"class_weight must be a dict, 'balanced' or None, but is {_check.shown(given)}.")
        return factors[y] if weights is None else factors[y] * weights

    def _default_loss(self) -> LossLike | None:
        if self._has_class_indices:
            return None
        cls = method_class(self.method)
        squares = cls.default_loss == "squared" or "proximal" in cls.needs
        return "squared" if squares else nn.BCEWithLogitsLoss()

    @property
    def _n_out(self) -> int:
        return len(self.classes_)

    @property
    def _has_class_indices(self) -> bool:
        return self._indicators is None

    # --------------------------------------------------------------------------------------- predicting

    def decision_function(self, X: ArrayLike) -> NDArray[Any]:
        """Find the outputs of the network.

        Args:
            X: (N, n_in).

        Returns:
            (N, C); for two classes (N,), the difference of the second output and the first. With multilabel targets
            (N, C), greater than 0 where the label is predicted.

        Raises:
            ValueError: X does not fit.
        """
        outputs = self._outputs(X)
        if not self._has_class_indices:
            is_logit = isinstance(self.method_.loss.given, nn.BCEWithLogitsLoss)
            return (outputs if is_logit else outputs - 0.5).numpy()
        return (outputs[:, 1] - outputs[:, 0] if self._n_out == 2 else outputs).numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the labels of samples.

        Args:
            X: (N, n_in).

        Returns:
            (N,) labels as in y, or (N, C) indicators.

        Raises:
            ValueError: X does not fit.
        """
        decision = self.decision_function(X)
        if self._indicators is not None:
            return (decision > 0).astype(self._indicators)
        numbers = (decision > 0).astype(int) if decision.ndim == 1 else decision.argmax(1)
        return self.classes_[numbers]

    @available_if(_has_probabilities)
    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Find the probabilities of the classes; only with the loss "cross_entropy".

        Args:
            X: (N, n_in).

        Returns:
            (N, C), columns as in ``classes_``; rows add up to 1, except for multilabel targets.

        Raises:
            ValueError: X does not fit.
        """
        outputs = self._outputs(X)
        found = outputs.softmax(1) if self._has_class_indices else outputs.sigmoid()
        return found.numpy()

    @available_if(_has_probabilities)
    def predict_log_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Find the logarithms of the probabilities, finite where these are rounded to 0.

        Args:
            X: (N, n_in).

        Returns:
            (N, C), as for :meth:`predict_proba`.

        Raises:
            ValueError: X does not fit.
        """
        outputs = self._outputs(X)
        found = outputs.log_softmax(1) if self._has_class_indices else F.logsigmoid(outputs)
        return found.numpy()
