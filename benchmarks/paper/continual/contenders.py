"""The rows of the table: every learner with its network and the options that are tried for it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import altmin_ext
from benchmarks.paper.continual.learners import (
    AveragedGradientMemory,
    ByMethod,
    ElasticWeights,
    Learner,
    OnFittedFilters,
    OrthogonalWeights,
    Replay,
    Samples,
    bytes_of,
)
from benchmarks.paper.continual.streams import Stream

Options = dict[str, float]
random_units = (
    790  # whose matrix of 790^2 numbers is as large as that of the 785 inputs of AM-mem's first layer
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A row of the table.

    Attributes:
        network: makes the network for a stream; the global generator has been seeded.
        learner: makes what trains it, of the network, the stream, a seed and the options.
        tried: the options to choose from.
        seeded: whether the result depends on the seed beyond rounding; if not, one run stands for all.
    """

    network: Callable[[Stream, int], nn.Sequential]
    learner: Callable[..., Learner]
    tried: Sequence[Options]
    seeded: bool = True


def values(name: str, *numbers: float) -> list[Options]:
    """Options with one name."""
    return [{name: number} for number in numbers]


def hidden_layers(stream: Stream, seed: int) -> nn.Sequential:
    """Two hidden layers."""
    width = 200 if stream.n_in > 1000 else 100
    return altmin_ext.models.mlp(stream.n_in, [width, width], stream.classes)


def pixels(stream: Stream, seed: int) -> nn.Sequential:
    """No hidden layer."""
    return altmin_ext.models.mlp(stream.n_in, [], stream.classes)


def random_layer(stream: Stream, seed: int) -> nn.Sequential:
    """A frozen random layer of ReLUs."""
    return altmin_ext.models.random_features(stream.n_in, random_units, stream.classes, seed=seed)


def random_convolution(stream: Stream, seed: int) -> nn.Sequential:
    """A frozen random convolution with ReLUs, and averages over its maps."""
    return altmin_ext.models.random_features(stream.shape, random_units, stream.classes, seed=seed)


def fitted_convolution(stream: Stream, seed: int) -> nn.Sequential:
    """A convolution whose filters the first minibatch sets, without its labels, and averages over its maps."""
    return altmin_ext.models.patch_features(stream.shape, random_units, stream.classes, seed=seed)


def fitted_convolution_under_a_layer(stream: Stream, seed: int) -> nn.Sequential:
    """The same features under a hidden layer of 300."""
    features = fitted_convolution(stream, seed)[:-1]
    units = features(stream.tasks[0].train[0][:1]).shape[1]
    return nn.Sequential(features, *altmin_ext.models.mlp(units, [300], stream.classes))


def by_method(name: str, **fixed: Any) -> Callable[..., Learner]:
    """A method of the library with some options fixed."""

    def learner(model: nn.Sequential, stream: Stream, seed: int, **options: Any) -> Learner:
        return ByMethod(name, model, seed, **fixed, **options)

    return learner


_kept: dict[str, Any] = {"forgetting": 0.0, "damping": 0.0, "exact": True, "predictor": "memory"}
_memory_kept = by_method("am-mem", **_kept)


def _on_fitted_filters(model: nn.Sequential, stream: Stream, seed: int, **options: float) -> Learner:
    return OnFittedFilters("am-mem", model, seed, **_kept, **options)


@functools.cache
def room_for_samples(stream: Stream) -> int:
    """The bytes that AM-mem keeps on a stream."""
    with torch.random.fork_rng(devices=[]):
        model = hidden_layers(stream, 0)
        learner = _memory_kept(model, stream, 0, prior=0.5, lr_memory=0.3)
        x, y = stream.tasks[0].train
        learner.step(x[:2], y[:2])
        return bytes_of(learner.kept())


def _samples(stream: Stream, as_bytes: bool) -> Samples:
    return Samples.that_fill(room_for_samples(stream), stream.shape, stream.pixels if as_bytes else None)


def _replay(as_bytes: bool) -> Callable[..., Learner]:
    def learner(model: nn.Sequential, stream: Stream, seed: int, lr: float) -> Learner:
        return Replay(model, _samples(stream, as_bytes), seed, lr)

    return learner


def _a_gem(model: nn.Sequential, stream: Stream, seed: int, lr: float) -> Learner:
    return AveragedGradientMemory(model, _samples(stream, as_bytes=True), seed, lr)


def _ewc(model: nn.Sequential, stream: Stream, seed: int, strength: float, lr: float) -> Learner:
    return ElasticWeights(model, seed, strength, lr)


def _owm(model: nn.Sequential, stream: Stream, seed: int, alpha: float, lr: float) -> Learner:
    return OrthogonalWeights(model, lr, alpha)


_memories = [
    {"prior": prior, "lr_memory": lr} for prior, lr in itertools.product((0.05, 0.5), (0.2, 0.3, 1.0, 2.0))
]
_rates_adam = values("lr", 1e-4, 3e-4, 1e-3, 3e-3)
_rates_replay = values("lr", 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_rates_sgd = values("lr", 0.003, 0.01, 0.03, 0.1)
_ridges = values(
    "ridge", 1.0
)  # of .01, 1, 10, 100 none is ahead of it by more than .0012 on Split-MNIST, held out
_features = {
    "pixels": pixels,
    "random layer": random_layer,
    "random convolution": random_convolution,
}
_closed_forms: tuple[tuple[str, str, Sequence[Options]], ...] = (
    ("rls", "RLS", _ridges),
    ("slda", "SLDA", _ridges),
    ("ncm", "NCM", [{}]),
)

contenders: dict[str, Contender] = {
    "AM-mem, memory kept": Contender(hidden_layers, _memory_kept, _memories),
    "AM-mem, fitted convolution": Contender(
        fitted_convolution_under_a_layer,
        _on_fitted_filters,
        [
            {"lr_memory": 0.3, "prior": 1e-5, "prior_out": 0.05},
            {"lr_memory": 1.0, "prior": 1e-5, "prior_out": 0.05},
            {"lr_memory": 1.0, "prior": 2e-4, "prior_out": 0.5},
        ],
    ),
    "AM-mem, emptied at every task": Contender(
        hidden_layers, by_method("am-mem", forgets_at_tasks=True, prior=0.5, lr_memory=0.3, **_kept), [{}]
    ),
    **{
        f"{name}, {features}": Contender(network, by_method(method), tried, seeded=features != "pixels")
        for method, name, tried in _closed_forms
        for features, network in _features.items()
    },
    **{
        f"{name}, fitted convolution": Contender(
            fitted_convolution, by_method(method, fit_filters=True), tried
        )
        for method, name, tried in _closed_forms
        if method != "ncm"
    },
    "replay, float32": Contender(hidden_layers, _replay(as_bytes=False), _rates_replay),
    "replay, uint8": Contender(hidden_layers, _replay(as_bytes=True), _rates_replay),
    "A-GEM, uint8": Contender(hidden_layers, _a_gem, values("lr", 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)),
    "OWM": Contender(
        hidden_layers,
        _owm,
        [{"alpha": alpha, "lr": lr} for alpha in (0.3, 1.0, 3.0, 10.0) for lr in (3e-3, 0.01, 0.03, 0.1)],
    ),
    "EWC": Contender(
        hidden_layers,
        _ewc,
        [
            {"strength": strength, "lr": lr}
            for strength in (1.0, 10.0, 1e2, 1e3, 1e4, 1e5)
            for lr in (1e-4, 1e-3)
        ],
    ),
    "SGD": Contender(hidden_layers, by_method("sgd"), _rates_sgd),
    "Adam": Contender(hidden_layers, by_method("adam"), _rates_adam),
    "AM-Adam": Contender(hidden_layers, by_method("am-adam"), _rates_adam),
}
