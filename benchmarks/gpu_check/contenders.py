"""Training steps on a device: ours, and what they are compared with."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import traceback
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models

from .child import gpu_is_lost

Batch = tuple[Tensor, Tensor]
Step = Callable[[Tensor, Tensor], object]
CLASSES = 10
BASELINE = "Adam(fused), eager"
GRAPH = "Adam(fused), CUDA graph"
COMPILED = "Adam(fused), torch.compile(reduce-overhead)"
POOL = 4  # minibatches to take in turn: a single one would be learned by heart


class LeftOut(Exception):
    """A contender cannot take part, for the reason given."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, the shape of its samples, and which of our steps train it.

    Attributes:
        small: what a rehearsal on a CPU takes in its place.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    methods: Sequence[tuple[str, bool]]  # and whether as a CUDA graph
    small: tuple[Callable[[], nn.Module], tuple[int, ...]]


_linear = (
    ("am-adam", False), ("am-adam", True), ("am-sgd", False), ("am-sgd", True), ("am-mem", False),
    ("block-admm", False),
)  # fmt: skip
_any = (("am-adam", False), ("am-sgd", False))


def _mlp(width: int) -> Network:
    return Network(
        lambda: models.mlp(784, (width, width), CLASSES), (784,), _linear,
        (lambda: models.mlp(12, (8, 8), CLASSES), (12,)),
    )  # fmt: skip


NETWORKS = {
    "784-100-100-10": _mlp(100),
    "784-500-500-10": _mlp(500),
    "LeNet-5, 28 x 28": Network(
        lambda: models.lenet5(1, 28), (1, 28, 28), (*_any, ("am-mem", False)),
        (lambda: models.lenet5(1, 28), (1, 28, 28)),
    ),
    "Elman 15, 784 steps": Network(
        lambda: models.elman_rnn(hidden=15), (784,), _any,
        (lambda: models.elman_rnn(hidden=3, steps=7), (7,)),
    ),
}  # fmt: skip


def ours(network: Network, graphs: bool = True) -> list[str]:
    methods = [(name, graph) for name, graph in network.methods if graphs or not graph]
    return [f"{name}, {'CUDA graph' if graph else 'eager'}" for name, graph in methods]


def contenders(network: Network) -> list[str]:
    return [*ours(network), BASELINE, GRAPH]


def minibatches(network: Network, batch: int, device: torch.device) -> list[Batch]:
    """Standard normal inputs and uniform labels."""
    shape = network.small[1] if device.type == "cpu" else network.shape
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(batch, *shape, generator=generator).to(device),
            torch.randint(CLASSES, (batch,), generator=generator).to(device),
        )
        for _ in range(POOL)
    ]


def call_of(name: str, network: Network, batch: int, device: torch.device) -> Callable[[], object]:
    """A step of a new model per call, warmed up; LeftOut where there can be none."""
    torch.manual_seed(0)
    model = (network.small[0] if device.type == "cpu" else network.make)().to(device)
    data = minibatches(network, batch, device)
    endless = itertools.cycle(data)
    with _reasons():
        step = _step(name, network, model, data[0])
        for _ in range(2 if device.type == "cpu" else 6):
            step(*next(endless))
    return lambda: step(*next(endless))


def prepared(
    names: Sequence[str], network: Network, batch: int, device: torch.device
) -> tuple[dict[str, Callable[[], object]], dict[str, dict[str, str]]]:
    """The calls of those that take part, and what a row says in place of a time of those that do not."""
    calls, instead = {}, {}
    for name in names:
        try:
            calls[name] = call_of(name, network, batch, device)
        except LeftOut as reason:
            instead[name] = {"left_out": str(reason)}
        except Exception as error:
            if gpu_is_lost():
                raise
            traceback.print_exc()
            instead[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
    return calls, instead


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """A step that a method or torch refuses is left out; an error of the GPU is not."""
    try:
        yield
    except (ValueError, NotImplementedError, altmin_ext.DivergenceError) as error:
        raise LeftOut(f"{type(error).__name__}: {error}") from error


def _step(contender: str, network: Network, model: nn.Module, data: Batch) -> Step:
    if contender == BASELINE:
        return _eager(model)
    if not data[0].is_cuda and contender not in ours(network, graphs=False):
        raise LeftOut("a CUDA graph, by hand or by torch.compile, needs the GPU itself")
    if contender in (GRAPH, COMPILED):
        return _captured(model, data) if contender == GRAPH else _compiled(model, data)
    name, graph = network.methods[ours(network).index(contender)]
    # Those that look in every step at what it did could stop here: the samples are noise.
    looks = network.methods is not _linear or name not in ("am-adam", "am-sgd")
    return altmin_ext.make_method(name, model, graph=graph, on_nonfinite="skip" if looks else "raise").step


def _eager(model: nn.Module, capturable: bool = False) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), fused=True, capturable=capturable)
    criterion = nn.CrossEntropyLoss()

    def step(x: Tensor, y: Tensor) -> object:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def _captured(model: nn.Module, data: Batch) -> Step:
    """As torch's notes on CUDA graphs have it: warmed up on a stream of its own, then captured as a whole."""
    step = _eager(model, capturable=True)
    x, y = (tensor.clone() for tensor in data)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(x, y)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            loss = step(x, y)
    except RuntimeError as error:
        raise LeftOut(f"it cannot be captured: {str(error).splitlines()[0]}") from error

    def replay(new_x: Tensor, new_y: Tensor) -> object:
        x.copy_(new_x)
        y.copy_(new_y)
        graph.replay()
        return loss

    return replay


def _compiled(model: nn.Module, data: Batch) -> Step:
    """Forward and backward by torch.compile, which makes CUDA graphs of them."""
    if importlib.util.find_spec("triton") is None:
        raise LeftOut("torch.compile needs triton for a GPU, which is not installed")
    torch.compiler.reset()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    criterion = nn.CrossEntropyLoss()
    loss_of = torch.compile(lambda x, y: criterion(model(x), y), mode="reduce-overhead", dynamic=False)

    def step(x: Tensor, y: Tensor) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad()
        loss_of(x, y).backward()
        optimizer.step()

    try:
        step(*data)
        step(*data)
    except Exception as error:  # it asks for compilers that suit it, and fails in many ways without
        raise LeftOut(
            f"torch.compile fails here: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    return step
