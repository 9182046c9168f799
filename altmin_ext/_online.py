"""Learning from one sample at a time, by a network whose inputs and outputs may grow in number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from altmin_ext import evaluation
from altmin_ext._estimator import Factory, checked_options, make_network
from altmin_ext._generators import torch_kept
from altmin_ext.checkpoint import _model
from altmin_ext.losses import LossLike
from altmin_ext.methods import Method, make_method, option_names
from altmin_ext.methods._closed_form import ClosedForm
from altmin_ext.network.known import known_as, runs_as

Numbers = NDArray[Any]

# Scaled by the displacement of its code, each sample would move the weights alike, whether it was classified right or
# wrong: a minibatch weighs such samples against each other, a single one has no other.
_defaults = {"stage_scaling": "none"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make a method and its network, of any size.

    Attributes:
        method: the name of the method.
        hidden, activation: of the network, as for :func:`altmin_ext.models.mlp`.
        module: a function (n_in, n_out) that makes another one, or None.
        loss: as for :func:`altmin_ext.make_method`.
        seed: of the weights and the method.
        options: of the method. ``stage_scaling`` is "none" unless given.
        other_words: names of parameters elsewhere -> here.
    """

    method: str
    hidden: Any
    activation: str
    module: Factory | None
    loss: LossLike | None
    seed: int
    options: Mapping[str, Any]
    other_words: Mapping[str, str]

    def __call__(self, n_in: int, n_out: int) -> Method:
        """A method, in float32 on the CPU; the same sizes give the same weights."""
        options = checked_options(self.method, self.options, self.other_words)
        known = option_names(self.method)
        options = {name: value for name, value in _defaults.items() if name in known} | options
        with torch_kept():
            torch.manual_seed(self.seed)
            model = make_network(self.module, n_in, n_out, self.hidden, self.activation)
        made = make_method(self.method, model.to(torch.float32), loss=self.loss, seed=self.seed, **options)
        if made.full_batch or made.per_sample:
            raise ValueError(
                f"method must be one of minibatches for a stream, but {self.method!r} takes the whole training set "
                "or keeps variables of every sample; use am-adam."
            )
        return made


class OnlineLearner:
    """A method that learns one sample at a time.

    Args:
        recipe: how to make it.
        n_in: inputs of the network.
        n_out: its outputs.
        classifies: whether targets are class indices; else they are ``n_out`` numbers.

    Attributes:
        method: the method, which has the network.
        x: (n_in,) float32, the sample, to be written to.
        y: (1,) int64 or (n_out,) float32, its target, to be written to.
    """

    def __init__(self, recipe: Recipe, n_in: int, n_out: int, classifies: bool) -> None:
        self.recipe, self.n_in, self.n_out, self.classifies = recipe, n_in, n_out, classifies
        self.method = recipe(n_in, n_out)
        self._x = torch.zeros(1, n_in)
        self._y = torch.zeros(1, dtype=torch.int64) if classifies else torch.zeros(1, n_out)
        self.x: Numbers = self._x.numpy()[0]
        self.y: Numbers = self._y.numpy().reshape(-1)
        self._takes_targets_as_they_are = self._targets(self._y) is self._y
        self._layers = _layers(self.method.model)

    def _targets(self, y: Tensor) -> Tensor:
        """The targets as the loss takes them."""
        return self.method.loss.from_labels(y, self.n_out, torch.float32) if self.classifies else y

    def learn(self) -> None:
        """A step on the sample in ``x`` and ``y``."""
        y = self._y if self._takes_targets_as_they_are else self._targets(self._y)
        self.method.step(self._x, y)

    def learn_many(self, x: Numbers, y: Numbers) -> None:
        """A step on each sample, one after the other.

        Args:
            x: (N, n_in) float32.
            y: (N,) int64 or (N, n_out) float32.
        """
        self.method.learn(torch.from_numpy(x), self._targets(torch.from_numpy(y)))

    def outputs(self, x: Numbers) -> Numbers:
        """The network's outputs in evaluation mode.

        Args:
            x: (n_in,) or (N, n_in) float32.

        Returns:
            (n_out,) or (N, n_out).
        """
        if self._layers is None:
            found = evaluation.predict(self.method.model, x.reshape(-1, self.n_in)).numpy()
            return found.reshape(*x.shape[:-1], self.n_out)
        for weight, bias, activate in self._layers:
            x = x @ weight
            if bias is not None:
                x += bias
            if activate is not None:
                activate(x)
        return x

    def grown(self, n_in: int, n_out: int) -> OnlineLearner:
        """A learner of a larger network, which has learned what this one has.

        Weights and what the method keeps for them, such as moments, stay; further inputs and outputs come last, with
        weights of a new network, and zeros for the rest.

        Args:
            n_in: its inputs, at least as many.
            n_out: its outputs, at least as many.

        Returns:
            The new learner; this one stays as it is.

        Raises:
            ValueError: the network or the method cannot grow so.
        """
        if self.method.steps == 0:
            return OnlineLearner(self.recipe, n_in, n_out, self.classifies)
        larger = OnlineLearner(self.recipe, n_in, n_out, self.classifies)
        if isinstance(self.method, ClosedForm) and isinstance(larger.method, ClosedForm):
            own, head = self.method.head, larger.method.head
            if head.in_features != own.in_features:
                raise ValueError(
                    f"sums over the {own.in_features} inputs of the last layer cannot grow to {head.in_features}."
                )
            with torch.no_grad():
                for parameter in head.parameters():  # of a class without samples the solution is 0
                    parameter.zero_()
        before = _model.save(self.method.model)
        fresh = _mapped(Tensor.clone, _model.save(larger.method.model))
        growths = {
            sizes
            for name, tensor in before.items()
            if isinstance(tensor, Tensor)
            for sizes in zip(tensor.shape, fresh[name].shape, strict=True)
            if sizes[0] != sizes[1]
        }
        with torch_kept():  # which dropout draws from
            larger.learn()  # some methods make their state in a step
        larger._load(
            {name: _enlarged(tensor, fresh[name], growths, fresh[name]) for name, tensor in before.items()},
            _enlarged(self.method.state_dict(), larger.method.state_dict(), growths),
        )
        return larger

    def _load(self, model: Mapping[str, Any], method: Mapping[str, Any]) -> None:
        restore_model = _model.restoring(self.method.model, model)
        restore_method = self.method.restoring(method)
        restore_model()
        restore_method()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made from; the same bytes whenever nothing has been learned in between."""
        return {
            "made": (self.recipe, self.n_in, self.n_out, self.classifies),
            "model": _mapped(Tensor.numpy, _model.save(self.method.model)),
            "method": _mapped(Tensor.numpy, self.method.state_dict()),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["made"])  # type: ignore[misc]
        self._load(*(_mapped(torch.from_numpy, state[name], np.ndarray) for name in ("model", "method")))


# ------------------------------------------------------------------------------------------ states as trees


def _mapped(function: Callable[[Any], Any], tree: Any, kind: type = Tensor) -> Any:
    """A state with every object of a kind replaced by what the function returns for it."""
    if isinstance(tree, kind):
        return function(tree)
    if isinstance(tree, Mapping):
        return {name: _mapped(function, value, kind) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_mapped(function, value, kind) for value in tree)
    return tree


def _enlarged(value: Any, pattern: Any, growths: set[tuple[int, int]], rest: Tensor | None = None) -> Any:
    """A state whose tensors have grown to the sizes of a larger one's.

    Args:
        value: the state, or a part of it.
        pattern: the same of a larger network.
        growths: sizes that the network's own tensors have grown from and to; all others are kept.
        rest: what stands in the new part of a tensor; None for zeros.
    """
    if isinstance(value, Mapping) and isinstance(pattern, Mapping):
        return {name: _enlarged(own, pattern.get(name), growths) for name, own in value.items()}
    if isinstance(value, (list, tuple)) and isinstance(pattern, (list, tuple)) and len(value) == len(pattern):
        return type(value)(_enlarged(*pair, growths) for pair in zip(value, pattern, strict=True))
    if not (isinstance(value, Tensor) and isinstance(pattern, Tensor) and value.ndim == pattern.ndim):
        return value
    sizes = [
        new if (old, new) in growths else old for old, new in zip(value.shape, pattern.shape, strict=True)
    ]
    if sizes == list(value.shape):
        return value
    result = value.new_zeros(sizes) if rest is None else rest.clone()
    result[tuple(slice(size) for size in value.shape)] = value
    return result


# ----------------------------------------------------------------------------------------- plain networks

_in_place: dict[type[nn.Module], Callable[[Numbers], object] | None] = {
    nn.ReLU: lambda a: np.maximum(a, 0, out=a),
    nn.Tanh: lambda a: np.tanh(a, out=a),
    nn.Identity: None,
}

_Layer = tuple[Numbers, "Numbers | None", "Callable[[Numbers], object] | None"]


def _layers(model: nn.Module) -> list[_Layer] | None:
    """The layers of a network of Linear, ReLU and Tanh: transposed weight and bias, in the network's own memory, and
    activation. None for any other network.

    For a single sample NumPy is some times faster than a call of torch's modules.
    """
    layers: list[_Layer] = []
    for module in _leaves(model):
        kind = known_as(module)
        if isinstance(module, nn.Linear) and kind is nn.Linear:
            bias = module.bias
            layers.append(
                (module.weight.detach().numpy().T, None if bias is None else bias.detach().numpy(), None)
            )
        elif kind in _in_place and layers and layers[-1][2] is None:
            layers[-1] = (*layers[-1][:2], _in_place[kind])
        elif layers or kind is not nn.Flatten or (module.start_dim, module.end_dim) != (1, -1):
            return None
    return layers or None


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that run one after the other."""
    children: Sequence[nn.Module] = list(module) if runs_as(module, nn.Sequential) else []
    if not children:
        yield module
    for child in children:
        yield from _leaves(child)
