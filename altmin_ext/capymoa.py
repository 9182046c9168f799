"""CapyMOA's learners on networks that are trained by any method of this package, one sample at a time.

::

    from capymoa.evaluation import prequential_evaluation
    from capymoa.stream.generator import SEA
    from altmin_ext.capymoa import AMClassifier

    stream = SEA()
    learner = AMClassifier(stream.get_schema(), method="am-sgd", lr=0.03)
    print(prequential_evaluation(stream, learner, max_instances=10_000).accuracy())

CapyMOA (Gomes et al. 2025) needs Java. ``import altmin_ext`` leaves both alone; this module imports them, and needs
at least CapyMOA 0.15. The number of inputs and outputs follows from the schema of the stream.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from altmin_ext import _check
from altmin_ext._estimator import Factory, is_cross_entropy, loss_or_default
from altmin_ext._extras import require
from altmin_ext._online import OnlineLearner, Recipe
from altmin_ext.losses import LossLike
from altmin_ext.methods import Method

try:
    require("capymoa", "capymoa")
except ImportError:
    raise
except Exception as _error:  # of the Java machine, which CapyMOA starts when it is imported
    raise ImportError(
        f"CapyMOA needs Java 17 or later, but cannot start it: {_check.first_sentence(_error)}; install a JDK, and "
        "set JAVA_HOME to its folder."
    ) from _error

from capymoa.base import Classifier, Regressor

# Names of train and of other estimators -> their names here.
_other_words = {"random_state": "random_seed", "seed": "random_seed", "hidden_layer_sizes": "hidden"}


class _Network:
    """What both learners share, but for the constructors: CapyMOA reads parameters off those of the classes alone."""

    _classifies: ClassVar[bool]
    schema: Any

    def _make(
        self,
        hidden: Any,
        method: str,
        module: Factory | None,
        activation: str,
        loss: LossLike | None,
        random_seed: int,
        options: dict[str, Any],
    ) -> None:
        n_out = self.schema.get_num_classes() if self._classifies else 1
        seed = _check.seed("random_seed", random_seed)
        recipe = Recipe(method, hidden, activation, module, loss, seed, options, _other_words)
        self._learner = OnlineLearner(recipe, self.schema.get_num_attributes(), n_out, self._classifies)
        self._has_probabilities = is_cross_entropy(loss_or_default(method, loss))

    @property
    def method_(self) -> Method:
        """The :class:`altmin_ext.Method`, whose ``model`` is the network."""
        return self._learner.method

    def get_params(self) -> dict[str, Any]:
        """The parameters, with the options of the method.

        Returns:
            Name -> value, without schema and seed.
        """
        params: dict[str, Any] = super().get_params()  # type: ignore[misc]
        options = params.pop("method_options", {})
        return {**params, **options}

    def _write(self, instance: Any) -> None:
        # CapyMOA marks missing features by NaN.
        np.copyto(self._learner.x, instance.x, casting="same_kind")
        np.nan_to_num(self._learner.x, copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)

    def _outputs(self, instance: Any) -> Any:
        """The network's outputs; None before the first sample."""
        if not self.method_.steps:
            return None
        self._write(instance)
        return self._learner.outputs(self._learner.x)


class AMClassifier(_Network, Classifier):
    """A network that classifies, trained by alternating minimisation or any other method of this package.

    The default method is AM-Adam (Choromanska et al. 2019). Each instance is a step of its own. Attributes should
    have about unit variance; a missing one counts as 0. Nominal attributes come as the numbers of their values.
    Instances without a label are not learned. Before the first instance there is no prediction.

    Args:
        schema: of the stream.
        random_seed: of the weights and the method.
        hidden: widths of the hidden layers; empty for a linear classifier.
        method: one of :func:`altmin_ext.methods.names` that takes minibatches.
        module: a function (n_in, n_out) that makes a network; None for an :func:`altmin_ext.models.mlp`.
        activation: of the hidden layers, see :func:`altmin_ext.models.mlp`.
        loss: as for :func:`altmin_ext.train`; None for the method's default.
        **method_options: options of the method, such as ``lr``, and ``on_nonfinite``, see
            :func:`altmin_ext.make_method`.

    Attributes:
        method_: the :class:`altmin_ext.Method`, whose ``model`` is the network.

    Raises:
        TypeError, ValueError: a parameter is wrong.
    """

    _classifies = True

    def __init__(
        self,
        schema: Any,
        random_seed: int = 1,
        hidden: Any = (100,),
        method: str = "am-adam",
        module: Factory | None = None,
        activation: str = "relu",
        loss: LossLike | None = None,
        **method_options: Any,
    ) -> None:
        super().__init__(schema, random_seed)
        self._make(hidden, method, module, activation, loss, random_seed, method_options)

    def train(self, instance: Any) -> None:
        """A step on one instance.

        Args:
            instance: a ``LabeledInstance``.

        Raises:
            DivergenceError: as for :meth:`altmin_ext.Method.step`.
        """
        if instance.y_index < 0:
            return
        self._write(instance)
        self._learner.y[0] = instance.y_index
        self._learner.learn()

    def predict(self, instance: Any) -> int | None:
        """Predict the class.

        Args:
            instance: an ``Instance``.

        Returns:
            The index of the class with the largest output; None before the first instance.
        """
        outputs = self._outputs(instance)
        return None if outputs is None else int(outputs.argmax())

    def predict_proba(self, instance: Any) -> Any:
        """Find the probabilities of the classes.

        Args:
            instance: an ``Instance``.

        Returns:
            (C,) float64, with another loss than "cross_entropy" 1 for the class of the largest output; None before
            the first instance.
        """
        outputs = self._outputs(instance)
        if outputs is None:
            return None
        outputs = outputs.astype(np.float64)
        masses = np.exp(outputs - outputs.max())
        if not self._has_probabilities:
            masses = np.arange(len(outputs)) == outputs.argmax()
        return masses / masses.sum()


class AMRegressor(_Network, Regressor):
    """A network that predicts a number, trained by alternating minimisation or any other method of this package.

    The default method is AM-Adam (Choromanska et al. 2019). What :class:`AMClassifier` says of attributes holds here,
    too; the target should also have about unit variance.

    Args:
        schema: of the stream.
        random_seed, hidden, method, module, activation: as for :class:`AMClassifier`.
        loss: as for :func:`altmin_ext.train`.
        **method_options: as for :class:`AMClassifier`.

    Attributes:
        method_: the :class:`altmin_ext.Method`, whose ``model`` is the network.

    Raises:
        TypeError, ValueError: a parameter is wrong.
    """

    _classifies = False

    def __init__(
        self,
        schema: Any,
        random_seed: int = 1,
        hidden: Any = (100,),
        method: str = "am-adam",
        module: Factory | None = None,
        activation: str = "relu",
        loss: LossLike = "mse",
        **method_options: Any,
    ) -> None:
        super().__init__(schema, random_seed)
        self._make(hidden, method, module, activation, loss, random_seed, method_options)

    def train(self, instance: Any) -> None:
        """A step on one instance.

        Args:
            instance: a ``RegressionInstance``.

        Raises:
            DivergenceError: as for :meth:`altmin_ext.Method.step`.
        """
        self._write(instance)
        self._learner.y[0] = instance.y_value
        self._learner.learn()

    def predict(self, instance: Any) -> float | None:
        """Predict the target.

        Args:
            instance: an ``Instance``.

        Returns:
            The output of the network; None before the first instance.
        """
        outputs = self._outputs(instance)
        return None if outputs is None else float(outputs[0])


__all__ = ["AMClassifier", "AMRegressor"]
