"""Steps as CUDA graphs, as far as a machine without a GPU can tell: who is refused, and what happens between replays.

Oracle of the refusals: one sentence, and a model as it was. Oracle of the replays: the same steps without graphs, bit
for bit, where a graph is a stand-in that computes on its static tensors when it is replayed, and not before. What
kernels do under capture is left to python_tests/gpu.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext.methods import Method, StepReport

METHODS = {"am-adam": 0.01, "am-sgd": 0.1, "adam": 0.01, "sgd": 0.1}
METHODS_WITH_CODES = ("am-adam", "am-sgd")
every_method = pytest.mark.parametrize("name", METHODS)
methods_with_codes = pytest.mark.parametrize("name", METHODS_WITH_CODES)
Batch = tuple[Tensor, Tensor]


def network(*between: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(6, 8), *between, nn.Tanh(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)
        )


def minibatches(*sizes: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 6, generator=generator), torch.randint(3, (size,), generator=generator))
        for size in sizes
    ]


# --- refusals ---


def assert_refused(name: str, model: nn.Module, error: type[Exception], *words: str, **options: Any) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error, match="graph must be") as caught:
        altmin_ext.make_method(name, model, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.count(". ") == 0
    assert message.endswith(".")
    assert all(word in message for word in words), message
    after = model.state_dict()
    assert all(after[key].device == value.device for key, value in before.items())
    assert all(torch.equal(after[key], value) for key, value in before.items())


@every_method
@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")], ids=str)
def test_the_cpu_has_no_graphs(name: str, device: Any) -> None:
    assert_refused(name, network(), ValueError, "GPU", "cpu", device=device, graph=True)


@methods_with_codes
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_batch_normalisation_is_refused_anywhere(name: str, device: str) -> None:
    """And that before the model is moved."""
    words = ("'0'", "BatchNorm1d") if device == "cuda" else ()
    assert_refused(name, network(nn.BatchNorm1d(8)), ValueError, *words, device=device, graph=True)


@methods_with_codes
def test_objectives_are_refused(name: str) -> None:
    options = {"device": "cuda", "graph": True, "report_objective": True}
    assert_refused(name, network(), ValueError, "report_objective=True", **options)


@every_method
@pytest.mark.parametrize("graph", [1, 0, "yes", None, 1.0], ids=repr)
def test_graph_must_be_a_bool(name: str, graph: Any) -> None:
    assert_refused(name, network(), TypeError, "bool", repr(graph), graph=graph)


@every_method
def test_train_refuses_likewise(name: str) -> None:
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=r"graph must be False here: .* GPU"):
        altmin_ext.train(model, minibatches(9)[0], method=name, graph=True, progress=False)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True))


# --- replays ---


class Stream:
    """Writes down who waits for whom."""

    def __init__(self, *_: Any, name: str = "side", log: list[str] | None = None) -> None:
        self.name = name
        self.log = [] if log is None else log

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


class Graph:
    """What is called under capture, to be computed at every replay."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, StepReport]] = []
        self.replays = 0
        self.compute: Callable[[Tensor, Tensor], StepReport]

    def replay(self) -> None:
        self.replays += 1
        for x, y, report in self.calls:
            with torch.no_grad():
                result = self.compute(x, y)
            for field in dataclasses.fields(report):
                if (kept := getattr(report, field.name)) is not None:
                    kept.copy_(getattr(result, field.name))


class FakeCuda:
    """The part of torch.cuda that steps are captured with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.graphs: list[Graph] = []
        self._capturing: Graph | None = None
        default = Stream(name="default", log=self.log)
        monkeypatch.setattr(torch.cuda, "Stream", lambda *_: Stream(log=self.log))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: default)
        monkeypatch.setattr(torch.cuda, "stream", self._on)
        monkeypatch.setattr(torch.cuda, "device", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", self._graph)
        monkeypatch.setattr(torch.cuda, "graph", self._capture)

    def _graph(self) -> Graph:
        self.graphs.append(Graph())
        return self.graphs[-1]

    @contextlib.contextmanager
    def _on(self, stream: Stream) -> Iterator[None]:
        self.log.append(f"{stream.name} begins")
        yield
        self.log.append(f"{stream.name} ends")

    @contextlib.contextmanager
    def _capture(self, graph: Graph, **_: Any) -> Iterator[None]:
        self._capturing = graph
        try:
            yield
        finally:
            self._capturing = None

    def watch(self, method: Method) -> Method:
        """The method with its steps captured, as ``graph=True`` would have them on a GPU."""
        run = method._run

        def compute_or_capture(x: Tensor, y: Tensor) -> StepReport:
            if self._capturing is None:
                return run(x, y)
            # Memory for the results, of no content as yet.
            correct = torch.full((), -1) if method.loss.counts_correct else None
            report = StepReport(torch.full((), torch.nan), correct)
            self._capturing.calls.append((x, y, report))
            self._capturing.compute = run
            return report

        method._run = compute_or_capture  # type: ignore[method-assign]
        method._graph = True
        method._replayed = method._new_replays()
        return method


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def made(name: str, **options: Any) -> Method:
    options = {"lr": METHODS[name], **options}
    if name in METHODS_WITH_CODES:
        options = {"mu_increment": 0.05, "mu_multiplier": 1.5, **options}
    return altmin_ext.make_method(name, network(), **options)


def run(method: Method, epochs: list[list[Batch]]) -> list[Tensor]:
    """Train, the learning rate halved with every epoch; all reports of the run, and the weights it ends with."""
    reports = []
    for number, batches in enumerate(epochs):
        method.learning_rate_factor = 0.5**number
        reports += [method.step(x, y) for x, y in batches]
        method.end_epoch()
    values = [value for report in reports for value in (report.loss, report.correct)]
    return [*values, *(parameter.detach().clone() for parameter in method.model.parameters())]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("am-adam", {}),
        ("am-adam", {"scaling": "released"}),
        ("am-adam", {"code_iterations": 3, "weight_iterations": 2}),
        ("am-sgd", {}),
        ("adam", {}),
        ("sgd", {"momentum": 0.9}),
    ],
    ids=str,
)
def test_replays_equal_eager_steps(cuda: FakeCuda, name: str, options: dict[str, Any]) -> None:
    """Over minibatches of two shapes, a falling learning rate and a rising penalty."""
    epochs = [minibatches(16, 16, 5) for _ in range(4)]
    expected = run(made(name, **options), epochs)
    method = cuda.watch(made(name, **options))
    assert_same(run(method, epochs), expected)
    assert method.steps == 12
    # The first minibatch of a shape is stepped eagerly, the second captured, and that and all others replayed.
    assert [graph.replays for graph in cuda.graphs] == [7, 3]
    assert [len(graph.calls) for graph in cuda.graphs] == [1, 1]


@every_method
def test_captures_in_the_order_of_the_second_of_a_shape(cuda: FakeCuda, name: str) -> None:
    """Shapes may come in any order, and larger ones later."""
    epochs = [minibatches(5, 16, 16, 5, 32, 5, 16, 32, 32)]
    expected = run(made(name), epochs)
    assert_same(run(cuda.watch(made(name)), epochs), expected)
    assert [graph.replays for graph in cuda.graphs] == [2, 2, 2]
    assert [graph.calls[0][0].shape[0] for graph in cuda.graphs] == [16, 5, 32]


@every_method
def test_nothing_is_computed_under_capture(cuda: FakeCuda, name: str) -> None:
    """But once, by the replay that follows, on copies of the minibatch."""
    method = cuda.watch(made(name))
    batches = minibatches(16, 16)
    for x, y in batches:
        method.step(x, y)
    (graph,) = cuda.graphs
    ((static_x, static_y, _),) = graph.calls
    assert graph.replays == 1
    assert static_x.data_ptr() not in [x.data_ptr() for x, _ in batches]
    assert static_y.data_ptr() not in [y.data_ptr() for _, y in batches]


@every_method
def test_no_garbage_is_collected_during_a_capture(cuda: FakeCuda, name: str) -> None:
    """It may hold the graphs of another method, and CUDA destroys none meanwhile."""
    method = cuda.watch(made(name))
    during: list[bool] = []
    thresholds = gc.get_threshold()
    gc.callbacks.append(lambda *_: during.append(cuda._capturing is not None))
    gc.set_threshold(1)
    try:
        run(method, [minibatches(16, 16, 16)])
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.pop()
    assert len(cuda.graphs) == 1
    assert during
    assert not any(during)
    assert gc.isenabled()


@every_method
def test_reports_are_copies(cuda: FakeCuda, name: str) -> None:
    """A later replay does not change an earlier report."""
    method = cuda.watch(made(name))
    reports = [method.step(x, y) for x, y in minibatches(16, 16, 16)]
    kept = [(report.loss.clone(), report.correct.clone()) for report in reports]
    for x, y in minibatches(16, 16, 16, 16):
        method.step(x, y)
    for report, (loss, correct) in zip(reports, kept, strict=True):
        assert torch.equal(report.loss, loss)
        assert torch.equal(report.correct, correct)
    assert len({report.loss.data_ptr() for report in reports}) == 3


@every_method
def test_what_a_report_lacks_stays_lacking(cuda: FakeCuda, name: str) -> None:
    method, eager = cuda.watch(made(name, loss="mse")), made(name, loss="mse")
    for x, y in minibatches(16, 16, 16):
        targets = nn.functional.one_hot(y, 3).float()
        found, expected = method.step(x, targets), eager.step(x, targets)
        assert torch.equal(found.loss, expected.loss)
        assert found.correct is None
        assert found.objective is None


@every_method
def test_the_first_step_is_ordered_among_the_streams(cuda: FakeCuda, name: str) -> None:
    """It runs on the stream of the captures, after what came before and before what comes after."""
    method = cuda.watch(made(name))
    ((x, y),) = minibatches(16)
    method.step(x, y)
    assert cuda.log == ["side waits for default", "side begins", "side ends", "default waits for side"]


@every_method
def test_a_bad_minibatch_is_refused_each_time(cuda: FakeCuda, name: str) -> None:
    """And is nothing that a graph could be captured from."""
    method, undisturbed = cuda.watch(made(name)), made(name)
    good = minibatches(16, 16, 16)
    x, y = good[0]
    for _ in range(3):
        with pytest.raises(ValueError, match=r"\bx\b"):
            method.step(x[:, :4], y)
    assert cuda.graphs == []
    assert_same(run(method, [good]), run(undisturbed, [good]))


@every_method
def test_a_state_loaded_between_replays_counts(cuda: FakeCuda, name: str) -> None:
    first, second = minibatches(16, 16, 5), minibatches(16, 16, 16)
    eager, method = made(name), cuda.watch(made(name))
    run(eager, [first])
    run(method, [second, second])
    method.model.load_state_dict(eager.model.state_dict())
    method.load_state_dict(copy.deepcopy(eager.state_dict()))
    assert_same(run(method, [first, second]), run(eager, [first, second]))


@every_method
def test_a_copy_without_a_gpu_says_so(cuda: FakeCuda, name: str) -> None:
    """It would capture graphs of its own, and so needs what the first one needed."""
    method = cuda.watch(made(name))
    run(method, [minibatches(16, 16)])
    with pytest.raises(ValueError, match=r"^graph must be False here: .* GPU"):
        copy.deepcopy(method)
