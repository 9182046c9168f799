"""What learns a stream task by task: the library's methods, and rivals as their authors describe them."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from benchmarks.paper.continual.streams import Pixels


class Learner(abc.ABC):
    """Something that trains a network on a stream of minibatches, and may hear where tasks begin and end."""

    def begin_task(self, steps: int) -> None:  # noqa: B027  (most do nothing)
        """Hear that a task of so many steps begins."""

    @abc.abstractmethod
    def step(self, x: Tensor, y: Tensor) -> Any:
        """Learn one minibatch."""

    def end_task(self, x: Tensor, y: Tensor) -> None:  # noqa: B027  (most do nothing)
        """Hear that the task is over whose samples are these."""

    @abc.abstractmethod
    def kept(self) -> Iterable[Tensor]:
        """All that is kept from one minibatch to the next, beside the network's parameters."""


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """The bytes of their elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class ByMethod(Learner):
    """One of the library's methods; with ``forgets_at_tasks`` made anew for every task, so that it remembers none."""

    def __init__(
        self, name: str, model: nn.Module, seed: int, forgets_at_tasks: bool = False, **options: Any
    ) -> None:
        self._make = lambda: altmin_ext.make_method(name, model, seed=seed, **options)
        self._method, self._forgets = self._make(), forgets_at_tasks

    def step(self, x: Tensor, y: Tensor) -> Any:
        return self._method.step(x, y)

    def end_task(self, x: Tensor, y: Tensor) -> None:
        if self._forgets:
            self._method = self._make()

    def kept(self) -> Iterator[Tensor]:
        """The numbers in the method's state; what else is in it are random generators."""
        return (tensor for tensor in _tensors(self._method.state_dict()) if tensor.is_floating_point())


class OnFittedFilters(Learner):
    """A method on features whose filters the first minibatch sets, without its labels; nothing moves below it.

    Args:
        name: of the method.
        model: a network whose first module, a Sequential, makes the features.
        seed: of the filters and of the method.
        options: of the method.
    """

    def __init__(self, name: str, model: nn.Sequential, seed: int, **options: Any) -> None:
        self._features, self._seed, self._is_fitted = model[0], seed, False
        self._learner = ByMethod(name, model[1:], seed, **options)

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> Any:
        if not self._is_fitted:
            altmin_ext.fit_filters(self._features, x, seed=self._seed)
            self._is_fitted = True
        return self._learner.step(self._features(x), y)

    def kept(self) -> Iterator[Tensor]:
        return self._learner.kept()


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from _tensors(value)


class ElasticWeights(Learner):
    """Adam with elastic weight consolidation (Kirkpatrick et al. 2017, equation 3).

    The penalties of all tasks, strength / 2 sum of F (p - p*)^2, are one quadratic function of the parameters p: kept
    are the sums of F and of F p* alone, however many tasks there are. F is the diagonal of the Fisher information
    after a task, from 500 of its samples, one by one, with labels drawn from the network's own answer.
    """

    _samples = 500

    def __init__(self, model: nn.Module, seed: int, strength: float, lr: float) -> None:
        self._model, self._strength = model, strength
        self._parameters = list(model.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, lr)
        self._importances = [torch.zeros_like(p) for p in self._parameters]
        self._pulls = [torch.zeros_like(p) for p in self._parameters]
        self._generator = torch.Generator().manual_seed(seed)

    def step(self, x: Tensor, y: Tensor) -> None:
        self._optimizer.zero_grad()
        F.cross_entropy(self._model(x), y).backward()
        with torch.no_grad():
            for p, importance, pull in zip(self._parameters, self._importances, self._pulls, strict=True):
                assert p.grad is not None
                p.grad += self._strength * (importance * p - pull)
        self._optimizer.step()

    def end_task(self, x: Tensor, y: Tensor) -> None:
        rows = torch.randperm(len(x), generator=self._generator)[: self._samples]
        for sample in x[rows].split(1):
            scores = self._model(sample)
            drawn = torch.multinomial(scores.detach().softmax(1), 1, generator=self._generator)[:, 0]
            gradients = torch.autograd.grad(F.cross_entropy(scores, drawn), self._parameters)
            for p, gradient, importance, pull in zip(
                self._parameters, gradients, self._importances, self._pulls, strict=True
            ):
                fisher = gradient.square() / len(rows)
                importance += fisher
                pull += fisher * p.detach()

    def kept(self) -> Iterator[Tensor]:
        yield from self._importances
        yield from self._pulls
        yield from _tensors(self._optimizer.state_dict()["state"])


class OrthogonalWeights(Learner):
    """Orthogonal weights modification (Zeng, Chen, Cui & Yu 2019; arXiv 1810.01256).

    Each layer keeps a projector P, at first the identity. With r the minibatch's mean input and a 1 for the bias,

        k = P r,    P <- P - k k^T / (alpha + r^T k),

    and the gradient, clipped to the norm 10, goes through P into SGD with momentum .9. As in the authors' code for
    disjoint MNIST (github.com/beijixiong3510/OWM), alpha falls within every task: with l from 0 to 1 it is
    .9 * .001^l in the first layer, .1^l in the middle, and .6 in the last, here all times one factor, since their
    pixels are in [0, 1] and ours standardised.

    Args:
        model: an ``nn.Sequential`` whose parameters are those of its Linears.
        lr: the learning rate.
        alpha: the factor.
    """

    _momentum, _longest = 0.9, 10.0

    def __init__(self, model: nn.Sequential, lr: float, alpha: float) -> None:
        self._model, self._lr, self._alpha = model, lr, alpha
        self._layers = [module for module in model if isinstance(module, nn.Linear)]
        self._projectors = [torch.eye(layer.in_features + 1) for layer in self._layers]
        self._velocities = [torch.zeros(layer.out_features, layer.in_features + 1) for layer in self._layers]
        self._inputs: dict[nn.Module, Tensor] = {}
        for layer in self._layers:
            layer.register_forward_pre_hook(self._note)
        self._steps, self._done = 1, 0

    def _note(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        self._inputs[layer] = inputs[0].detach()

    def begin_task(self, steps: int) -> None:
        self._steps, self._done = steps, 0

    def _alphas(self) -> list[float]:
        """Of every layer, at this point of the task."""
        progress = self._done / self._steps
        middle = [0.1**progress] * (len(self._layers) - 2)
        return [self._alpha * alpha for alpha in (0.9 * 0.001**progress, *middle, 0.6)]

    def step(self, x: Tensor, y: Tensor) -> None:
        self._model.zero_grad()
        F.cross_entropy(self._model(x), y).backward()
        parts = zip(self._layers, self._projectors, self._velocities, self._alphas(), strict=True)
        with torch.no_grad():
            for layer, projector, velocity, alpha in parts:
                mean = F.pad(self._inputs[layer].mean(0), (0, 1), value=1.0)
                k = projector @ mean
                projector.addr_(k, k, alpha=-1 / float(alpha + mean @ k))
                assert layer.weight.grad is not None
                assert layer.bias.grad is not None
                gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1)
                gradient *= min(1.0, self._longest / max(float(gradient.norm()), 1e-12))
                velocity.mul_(self._momentum).add_(gradient @ projector)
                layer.weight.sub_(velocity[:, :-1], alpha=self._lr)
                layer.bias.sub_(velocity[:, -1], alpha=self._lr)
        self._inputs.clear()
        self._done += 1

    def kept(self) -> Iterator[Tensor]:
        yield from self._projectors
        yield from self._velocities


class Samples:
    """Room for so many samples, allocated at once: images as float32, or as the bytes they came from.

    Args:
        size: the number of samples.
        shape: of an image.
        pixels: makes bytes of images; None to store them as they are.
    """

    def __init__(self, size: int, shape: Sequence[int], pixels: Pixels | None) -> None:
        self._pixels = pixels
        self.x = torch.empty(size, *shape, dtype=torch.float32 if pixels is None else torch.uint8)
        self.y = torch.empty(size, dtype=torch.uint8)

    @staticmethod
    def that_fill(room: int, shape: Sequence[int], pixels: Pixels | None) -> Samples:
        """As many as ``room`` bytes hold."""
        of_one = math.prod(shape) * (4 if pixels is None else 1) + 1
        return Samples(room // of_one, shape, pixels)

    def __len__(self) -> int:
        return len(self.y)

    def put(self, places: Tensor, x: Tensor, y: Tensor) -> None:
        """Store samples at places that are all different."""
        self.x[places] = x if self._pixels is None else self._pixels.encode(x)
        self.y[places] = y.to(torch.uint8)

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The samples of these places, as they came."""
        x = self.x[places]
        return x if self._pixels is None else self._pixels.decode(x), self.y[places].long()


class Replay(Learner):
    """Adam on minibatches to which as many stored samples are added (experience replay, Chaudhry et al. 2019b).

    A reservoir (Vitter 1985, algorithm R) keeps every sample of the stream with the same probability.
    """

    def __init__(self, model: nn.Module, samples: Samples, seed: int, lr: float) -> None:
        self._adam = ByMethod("adam", model, seed, lr=lr)
        self._samples, self._seen = samples, 0
        self._generator = torch.Generator().manual_seed(seed)

    def step(self, x: Tensor, y: Tensor) -> None:
        if filled := min(self._seen, len(self._samples)):
            old = self._samples.take(torch.randint(filled, (len(x),), generator=self._generator))
            self._adam.step(torch.cat([x, old[0]]), torch.cat([y, old[1]]))
        else:
            self._adam.step(x, y)
        self._store(x, y)

    def _store(self, x: Tensor, y: Tensor) -> None:
        """Sample number n takes place n, or, when all are taken, a random one of n, if there is such a place."""
        numbers = torch.arange(self._seen, self._seen + len(x))
        self._seen += len(x)
        places = (torch.rand(len(x), dtype=torch.float64, generator=self._generator) * (numbers + 1)).long()
        places = torch.where(numbers < len(self._samples), numbers, places)
        # Of several samples for one place the last one stays.
        stored = {place: row for row, place in enumerate(places.tolist()) if place < len(self._samples)}
        if stored:
            rows = list(stored.values())
            self._samples.put(torch.tensor(list(stored)), x[rows], y[rows])

    def kept(self) -> Iterator[Tensor]:
        yield from (self._samples.x, self._samples.y)
        yield from self._adam.kept()


class AveragedGradientMemory(Learner):
    """A-GEM (Chaudhry, Ranzato, Rohrbach & Elhoseiny 2019; arXiv 1812.00420, equation 11), with SGD as there.

    A gradient g that would raise the loss of 256 stored samples of earlier tasks, whose gradient is r, loses its part
    along r: g <- g - (g^T r / r^T r) r if g^T r < 0. At the end of task t random samples of it take a t-th of the
    memory, empty places first and then random ones, so that all tasks have equal shares (as update_episodic_memory
    does in the authors' code, github.com/facebookresearch/agem).
    """

    _asked = 256

    def __init__(self, model: nn.Module, samples: Samples, seed: int, lr: float) -> None:
        self._model, self._samples, self._lr = model, samples, lr
        self._parameters = list(model.parameters())
        self._tasks, self._filled = 0, 0
        self._generator = torch.Generator().manual_seed(seed)

    def step(self, x: Tensor, y: Tensor) -> None:
        gradients = self._gradients(x, y)
        if self._filled:
            places = torch.randint(self._filled, (self._asked,), generator=self._generator)
            references = self._gradients(*self._samples.take(places))
            along = sum(float((g * r).sum()) for g, r in zip(gradients, references, strict=True))
            if along < 0:
                along /= sum(float(r.square().sum()) for r in references)
                for gradient, reference in zip(gradients, references, strict=True):
                    gradient.sub_(reference, alpha=along)
        with torch.no_grad():
            for p, gradient in zip(self._parameters, gradients, strict=True):
                p.sub_(gradient, alpha=self._lr)

    def _gradients(self, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(F.cross_entropy(self._model(x), y), self._parameters)

    def end_task(self, x: Tensor, y: Tensor) -> None:
        self._tasks += 1
        share = min(len(self._samples) // self._tasks, len(x))
        fresh = min(share, len(self._samples) - self._filled)
        taken = torch.randperm(self._filled, generator=self._generator)[: share - fresh]
        places = torch.cat([torch.arange(self._filled, self._filled + fresh), taken])
        self._filled += fresh
        rows = torch.randperm(len(x), generator=self._generator)[:share]
        self._samples.put(places, x[rows], y[rows])

    def kept(self) -> Iterator[Tensor]:
        yield from (self._samples.x, self._samples.y)
