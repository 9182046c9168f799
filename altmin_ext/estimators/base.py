"""What both estimators share: parameters, the network and its method, passes over data, early stopping, sums."""

from __future__ import annotations

import abc
import contextlib
import copy
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._estimator import Factory, checked_options, make_network
from altmin_ext._generators import torch_kept
from altmin_ext.callbacks import EarlyStopping, TrainingState
from altmin_ext.evaluation import evaluate, naming, predict
from altmin_ext.history import EpochRecord, History
from altmin_ext.losses import LossLike, Weighted
from altmin_ext.methods import make_method, method_class
from altmin_ext.training import train

Self = TypeVar("Self", bound="NetworkEstimator")

Module = nn.Module | Factory
"""A network, or a function (n_in, n_out) -> network."""

# Names of train, and of sklearn.neural_network -> their names here.
_other_words = {"seed": "random_state", "hidden_layer_sizes": "hidden", "n_iter_no_change": "patience"}


class Samples(NamedTuple):
    """Samples as the network takes them.

    Attributes:
        x: (N, n_in), of one of the dtypes of a network.
        y: (N,) int64 class indices, or (N, C) in the dtype of x.
        weights: (N,) greater than 0, or None.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    weights: NDArray[Any] | None

    def rows(self, which: NDArray[Any]) -> Samples:
        """The samples of these numbers."""
        weights = None if self.weights is None else self.weights[which]
        return Samples(self.x[which], self.y[which], weights)


def _dtypes(X: Any) -> tuple[Any, ...]:
    """The dtypes that samples keep; any other becomes the first."""
    # scikit-learn sees the dtype of arrays and of tables of pandas; those of polars have to be looked at here.
    kinds = {str(kind) for kind in X.dtypes} if hasattr(X, "iter_columns") else set()
    return (np.float32,) if kinds == {"Float32"} else (np.float64, np.float32)


class NetworkEstimator(BaseEstimator, abc.ABC):
    """A network with a training method, behind scikit-learn's interface. See :class:`AMClassifier`.

    The options of a method are parameters like those that ``__init__`` names: ``get_params`` returns the ones that
    have been given, ``set_params`` takes any, so that clones and searches know them. As scikit-learn wants it, all
    values are checked when fitting begins. None stands for a method's own default.
    """

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
        **method_options: Any,
    ) -> None:
        self.hidden = hidden
        self.method = method
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state
        self.module = module
        self.activation = activation
        self.loss = loss
        self.lr_schedule = lr_schedule
        self.shuffle = shuffle
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.device = device
        self._method_options = method_options

    # --------------------------------------------------------------------------------------- parameters

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters, with the options of the method that have been given.

        Args:
            deep: whether to include those of parameters that are estimators.

        Returns:
            Name -> value.
        """
        return {**super().get_params(deep), **self._method_options}

    def set_params(self: Self, **params: Any) -> Self:
        """Set parameters.

        Args:
            **params: those of ``__init__``, or any option of the method; None for an option's default.

        Returns:
            The estimator.

        Raises:
            ValueError: a name with two underscores stands for a parameter of another estimator, and there is none.
        """
        own = set(self._get_param_names())
        named = {name: value for name, value in params.items() if name in own or "__" in name}
        super().set_params(**named)
        options = {name: value for name, value in params.items() if name not in named}
        self._method_options = {**self._method_options, **options}
        return self

    def _checked_options(self) -> dict[str, Any]:
        """The options to make the method with."""
        return checked_options(self.method, self._method_options, _other_words)

    # -------------------------------------------------------------------------------------- fitted state

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "method_")

    @property
    def module_(self) -> nn.Module:
        """The network."""
        return self.method_.model

    @property
    def loss_curve_(self) -> list[float]:
        """The mean training loss of every pass."""
        return [row["loss"] for row in self.history_.epochs]

    @property
    def n_iter_(self) -> int:
        """The number of passes over data; a call of ``partial_fit`` makes one."""
        return len(self.history_.epochs)

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """If something fails, have the attributes of before."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    # ------------------------------------------------------------------------------------ what is learned

    _takes_classes: ClassVar[bool]  # whether y may hold class indices

    @abc.abstractmethod
    def _read_targets(self, y: NDArray[Any], dtype: Any, first: bool) -> NDArray[Any]:
        """The targets as the network learns them; notes what ``first`` ones tell."""

    @abc.abstractmethod
    def _default_loss(self) -> LossLike | None:
        """The loss where none is given; None for the method's own."""

    @property
    @abc.abstractmethod
    def _n_out(self) -> int:
        """Outputs of the network."""

    @property
    @abc.abstractmethod
    def _has_class_indices(self) -> bool:
        """Whether the targets are class indices."""

    def _class_weights(self, y: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any] | None:
        """The weights of samples, (N,), times those of their classes."""
        return weights

    def _samples(self, X: ArrayLike, y: ArrayLike | None, sample_weight: Any, first: bool) -> Samples:
        """Check samples, and leave out those that count nothing."""
        x, targets = validate_data(
            self, X, y, reset=first, dtype=_dtypes(X), multi_output=True, y_numeric=not self._takes_classes
        )
        if hasattr(targets, "toarray"):
            targets = targets.toarray()
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, x, dtype=np.float64)
            if (weights < 0).any():
                raise ValueError(f"sample_weight must be at least 0, but holds {weights.min():g}.")
            counts = weights > 0
            if not counts.any():
                raise ValueError(
                    "sample_weight must hold a weight greater than zero, but all weights are zero; give some."
                )
            x, targets, weights = x[counts], targets[counts], weights[counts]
        learned = self._read_targets(targets, x.dtype, first)
        return Samples(x, learned, self._class_weights(learned, weights))

    # ------------------------------------------------------------------------------ the network and method

    def _begin(self, dtype: Any) -> None:
        """Make the network and its method; passes are counted anew."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        method_class(self.method)  # first of all: options are checked against it
        options = self._checked_options()
        with torch_kept():
            torch.manual_seed(seed)
            model = self._make_module()
        model.to(torch.float32 if dtype == np.float32 else torch.float64)
        loss = self._default_loss() if self.loss is None else self.loss
        self.method_ = make_method(
            self.method, model, loss=loss, seed=seed, device=_check.device("device", self.device), **options
        )
        self._made_with = options
        self.history_ = History()
        self.history_.loss = self.method_.loss.name
        self.stopped_ = False
        self._seed = seed
        self._stopping: EarlyStopping | None = None

    def _make_module(self) -> nn.Module:
        if isinstance(self.module, nn.Module):
            return copy.deepcopy(self.module)
        return make_network(self.module, self.n_features_in_, self._n_out, self.hidden, self.activation)

    def _go_on(self, weighs: bool) -> None:
        """Let the method take weights, and the options as they are now; what it has learned stays.

        Args:
            weighs: whether samples have weights; once they had some, the method takes them for good.
        """
        former, options = self.method_, self._checked_options()
        if self.method != former.name:
            raise ValueError(
                f"method must stay {former.name!r} where training goes on, but is {self.method!r}; call fit with "
                "warm_start=False."
            )
        loss, made_with = former.loss, self._made_with
        if weighs and former.weighs and not isinstance(loss, Weighted):
            loss = Weighted(loss, classes=loss.takes_classes(torch.empty(0, dtype=torch.int64)))
        changed = options.keys() != made_with.keys() or any(options[k] is not made_with[k] for k in options)
        if loss is former.loss and not changed:
            return
        remade = make_method(self.method, former.model, loss=loss, seed=former.seed, **options)
        remade.load_state_dict(former.state_dict())
        self.method_, self._made_with = remade, options

    def _as_data(self, samples: Samples) -> tuple[NDArray[Any], NDArray[Any]]:
        """The samples as ``train`` and the method take them."""
        x, y, weights = samples
        loss = self.method_.loss
        if self._has_class_indices:
            y = loss.from_labels(torch.from_numpy(y), self._n_out, self.method_.dtype).numpy()
        if isinstance(loss, Weighted):
            own = np.ones(len(x)) if weights is None else weights
            # By a power of two, so that neither sums nor float32 overflow, and no bit of a ratio is lost.
            own = np.ldexp(own, -np.frexp(own.max())[1])
            columns = y.reshape(len(y), -1)
            return x, np.concatenate([columns, own[:, None]], axis=1).astype(x.dtype)
        if weights is None:
            return x, y
        times = np.rint(weights).astype(np.int64)
        if not np.array_equal(times, weights):
            fraction = weights[times != weights][0]
            raise ValueError(
                f"weights must be whole numbers for {self.method_.name}, which repeats samples, but one is "
                f"{fraction:g}; use a method that weighs, such as am-adam."
            )
        return x.repeat(times, axis=0), y.repeat(times, axis=0)

    # ---------------------------------------------------------------------------------------- passes

    def _fit(self, X: Any, y: Any, sample_weight: Any, X_val: Any, y_val: Any) -> None:
        stops = _check.boolean("early_stopping", self.early_stopping)
        continues = _check.boolean("warm_start", self.warm_start) and self.__sklearn_is_fitted__()
        with self._all_or_nothing():
            if not continues:
                self.__dict__.pop("classes_", None)
            samples = self._samples(X, y, sample_weight, first=not continues)
            held_out = self._held_out(X_val, y_val)
            if not continues:
                self._begin(samples.x.dtype)
            if stops and held_out is None:
                samples, held_out = self._split(samples)
            self._go_on(samples.weights is not None)
            self.stopped_, self._stopping = False, None
            stopping = self._new_stopping(held_out) if stops else None
            history = train(
                self.module_,
                self._as_data(samples),
                method=self.method_,
                epochs=self.epochs,
                batch_size=self.batch_size,
                shuffle=self.shuffle,
                validation=None if held_out is None else self._as_data(held_out),
                seed=self._seed,
                progress=False,
                callbacks=[] if stopping is None else [stopping],
                lr_schedule=self.lr_schedule,
            )
            self._extend(history)
            if stopping is not None:
                self.stopped_ = len(history.epochs) - stopping.best_epoch >= self.patience

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, X_val: Any, y_val: Any) -> None:
        stops = _check.boolean("early_stopping", self.early_stopping)
        size = _check.integer("batch_size", self.batch_size)
        first = not self.__sklearn_is_fitted__()
        with self._all_or_nothing():
            samples = self._samples(X, y, sample_weight, first)
            held_out = self._held_out(X_val, y_val)
            if first:
                self._begin(samples.x.dtype)
            method = self.method_
            if method.full_batch or method.per_sample:
                raise ValueError(
                    f"partial_fit must be called with a method of minibatches, but {method.name} takes the whole "
                    "training set or keeps variables of every sample; call fit."
                )
            if self.stopped_:
                return
            self._go_on(samples.weights is not None)
            if stops and self._stopping is None:
                self._stopping = self._new_stopping(held_out)
                self._stopping.on_start(self._training_state(held_out))
            self._pass(self._as_data(samples), size)
            if held_out is not None:
                self._validate(held_out)
            if stops and self._stopping is not None:
                state = self._training_state(held_out)
                self._stopping.on_epoch(state)
                if state.stopped:
                    self._stopping.on_end(state)
                    self.stopped_ = True

    def _pass(self, data: tuple[NDArray[Any], NDArray[Any]], size: int) -> None:
        """A step on each minibatch, in order."""
        method = self.method_
        x, y = (torch.from_numpy(np.require(values, requirements=["C", "W"])) for values in data)
        x = x.to(method.device, method.dtype)
        y = y.to(method.device, method.dtype if y.is_floating_point() else y.dtype)
        record = EpochRecord(self.history_, self.n_iter_ + 1, method.learning_rate_factor)
        try:
            for own, targets in zip(x.split(size), y.split(size), strict=True):
                record.add(method.step(own, targets), len(own), len(own))
            method.raise_if_diverged()
        finally:
            record.close()

    def _held_out(self, X: Any, y: Any) -> Samples | None:
        if (X is None) != (y is None):
            raise ValueError("X_val and y_val must be given together, but one is None.")
        if X is None:
            return None
        with naming("X_val, y_val"):
            return self._samples(X, y, None, first=False)

    def _split(self, samples: Samples) -> tuple[Samples, Samples]:
        """Hold out some of the samples."""
        fraction = _check.number("validation_fraction", self.validation_fraction, above=0.0, below=1.0)
        if len(samples.x) < 2:
            raise ValueError("early_stopping must be False with one sample, since it holds some out.")
        numbers = np.arange(len(samples.x))
        kept, held_out = train_test_split(numbers, test_size=fraction, random_state=self._seed)
        return samples.rows(kept), samples.rows(held_out)

    def _validate(self, held_out: Samples) -> None:
        evaluation = evaluate(self.module_, self._as_data(held_out), loss=self.method_.loss)
        row = self.history_.epochs[-1]
        row["validation_loss"], row["validation_accuracy"] = evaluation.loss, evaluation.accuracy

    def _new_stopping(self, held_out: Samples | None) -> EarlyStopping:
        quantity = "accuracy" if self._has_class_indices and self.method_.loss.counts_correct else "loss"
        return EarlyStopping(quantity if held_out is None else f"validation_{quantity}", self.patience)

    def _training_state(self, held_out: Samples | None) -> TrainingState:
        metrics = ["loss", "accuracy"] if self._has_class_indices else ["loss"]
        if held_out is not None:
            metrics += [f"validation_{name}" for name in metrics]
        return TrainingState(self.method_, self.history_, self.n_iter_, tuple(metrics), epoch=self.n_iter_)

    def _extend(self, history: History) -> None:
        """Append what another run has recorded."""
        own, before = self.history_, self.n_iter_
        own.epochs += [{**row, "epoch": row["epoch"] + before} for row in history.epochs]
        own.add_steps(history.step_loss, history.step_accuracy, history.step_objective)
        own.objective_rose, own.restores = history.objective_rose, history.restores

    # ------------------------------------------------------------------------------------ what is found

    def _outputs(self, X: ArrayLike) -> Tensor:
        """The network's outputs, (N, C), on the CPU."""
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=_dtypes(X))
        return predict(self.module_, x).cpu()

    def __add__(self: Self, other: Self) -> Self:
        """An estimator that has learned what both have, as if it had gone through the data of both.

        Exact, and therefore possible, with a method that keeps sums over all samples: ``rls``, ``slda`` and ``ncm``,
        on the same features. Both estimators stay as they are.

        Args:
            other: fitted, with the same classes and features; the same ``random_state`` gives the same features.

        Returns:
            A new estimator.

        Raises:
            TypeError: ``other`` is no such estimator.
            ValueError: what they have learned cannot be added exactly.
        """
        if type(other) is not type(self):
            raise TypeError(f"other must be an {type(self).__name__}, but is {_check.named_type(other)}.")
        check_is_fitted(self)
        check_is_fitted(other)
        merge = getattr(self.method_, "merge", None)
        if merge is None:
            raise ValueError(
                f"method must be 'rls', 'slda' or 'ncm' for a sum, which only they add up to exactly, but is "
                f"{self.method!r}; let one estimator partial_fit the data of both."
            )
        for name in ("n_features_in_", "feature_names_in_", "classes_"):
            own, theirs = getattr(self, name, None), getattr(other, name, None)
            if not np.array_equal(own, theirs):  # type: ignore[arg-type]
                raise ValueError(f"other must have the {name} {own}, but has {theirs}.")
        merged = copy.deepcopy(self)
        merged.method_.merge(other.method_)  # type: ignore[attr-defined]
        merged._extend(other.history_)
        return merged
