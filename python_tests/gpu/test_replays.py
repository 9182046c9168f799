"""Steps that are replayed as CUDA graphs, with everything between steps that may change.

Oracle: the same steps launched one by one. The kernels are the same, in the same order, and cuBLAS and these kernels
add up in an order of their own choosing but always the same, so that not a bit may differ.
"""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .cases import METHODS, Batch, epoch, epochs, every_method, made, network, run, same, tensors_of, weights
from .device import needs_gpu

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "am-adam": [
        {},
        {"scaling": "released"},
        {"code_iterations": 5, "code_momentum": 0.9, "weight_iterations": 2},
        {"on_nonfinite": "skip"},
    ],
    "am-sgd": [{}, {"code_iterations": 5, "l1_codes": 0.01, "l1_weights": 0.01}],
    "adam": [{}, {"on_nonfinite": "skip"}],
    "sgd": [{}, {"momentum": 0.0}],
}
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_replays_equal_eager_steps(name: str, options: dict[str, Any], loss: str, dtype: torch.dtype) -> None:
    """Over a falling learning rate, a rising penalty and a smaller last minibatch."""
    data = epochs(loss=loss, dtype=dtype)
    results = [
        run(made(name, network(nn.Tanh, dtype), graph=graph, loss=loss, **options), data)
        for graph in (False, True)
    ]
    assert same(*results)


@every_method
def test_larger_minibatches_after_small_ones(name: str) -> None:
    """The method's memory grows, and graphs that were captured in the old one still run."""
    data = [epoch(seed, sizes) for seed, sizes in enumerate([(8, 8, 8), (32, 8, 32), (64, 8, 32, 64, 8)])]
    assert same(*(run(made(name, network(), graph=graph), data) for graph in (False, True)))


@every_method
def test_inputs_of_any_layout(name: str) -> None:
    """Another layout of the next minibatch is no other shape."""
    data = epoch(sizes=(16,) * 6)
    images = [(x.reshape(-1, 1, 3, 4), y) for x, y in data]
    by_columns = [(x.t().contiguous().t(), y.int()) for x, y in data]
    mixed = [*data[:2], *by_columns[2:4], *images[4:]]
    assert same(*(run(made(name, network(), graph=True), [batches]) for batches in (data, mixed)))


@every_method
def test_reports_are_the_callers_own(name: str) -> None:
    """A later replay leaves them as they were."""
    method = made(name, network(), graph=True)
    batches = epoch(sizes=(32,) * 8)
    reports = [method.step(x, y) for x, y in batches]
    kept = [[value.clone() for value in tensors_of(report)] for report in reports]
    for x, y in batches:
        method.step(x, y)
    assert all(same(tensors_of(report), values) for report, values in zip(reports, kept, strict=True))


def alternating(names: tuple[str, str], data: list[Batch], graph: bool) -> list[list[Tensor]]:
    methods = [made(name, network(), graph=graph) for name in names]
    reports: list[list[Tensor]] = [[], []]
    for x, y in data:
        for method, report in zip(methods, reports, strict=True):
            report += tensors_of(method.step(x, y))
    return [report + weights(method) for report, method in zip(reports, methods, strict=True)]


@pytest.mark.parametrize("names", [("am-adam", "am-sgd"), ("am-adam", "am-adam"), ("adam", "am-adam")])
def test_two_methods_take_turns(names: tuple[str, str]) -> None:
    """Their graphs share no memory."""
    data = [batch for batches in epochs() for batch in batches]
    for own, expected in zip(alternating(names, data, True), alternating(names, data, False), strict=True):
        assert same(own, expected)


@every_method
def test_weights_loaded_between_replays_count(name: str) -> None:
    method = made(name, network(), graph=True)
    batches = epoch(sizes=(32,) * 4)
    for x, y in batches:
        method.step(x, y)
    method.model.load_state_dict(network().state_dict())
    x, y = batches[0]
    with torch.no_grad():
        logits = network().to(x.device)(x)
    torch.testing.assert_close(method.step(x, y).loss, nn.functional.cross_entropy(logits, y))


@every_method
@pytest.mark.parametrize("steps", [0, 1, 6])
def test_a_copy_captures_graphs_of_its_own(name: str, steps: int) -> None:
    """And goes on to the same bits, while the first one's graphs leave the copy's weights alone."""
    method, batches = made(name, network(), graph=True), epoch(sizes=(32,) * 12)
    for x, y in batches[:steps]:
        method.step(x, y)
    for copied in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        found = run(copied, [batches[6:]])
        assert same(found, run(copy.deepcopy(method), [batches[6:]]))
        assert not same(weights(copied), weights(method))


@every_method
def test_a_graph_held_across_a_replay_is_refused(name: str) -> None:
    method, batches = made(name, network(), graph=True), epoch(sizes=(32,) * 4)
    for x, y in batches:
        logits = method.model(x)
        method.step(x, y)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            logits.sum().backward()


@every_method
def test_a_model_that_was_moved_away_and_back_is_trained(name: str) -> None:
    """Its weights then lie elsewhere, where the captured graphs do not know them."""
    models = [network(), network()]
    for model, moves in zip(models, (False, True), strict=True):
        method = made(name, model, graph=True)
        for batches in epochs(3):
            for x, y in batches:
                method.step(x, y)
            if moves:
                model.cpu()
                model.to(method.device)
    assert same(*(model.state_dict().values() for model in models))


@every_method
def test_dropout_draws_new_masks_in_every_replay(name: str) -> None:
    """With a learning rate of zero, nothing else changes the loss from step to step."""
    layers = list(network())
    model = nn.Sequential(*layers[:-1], nn.Dropout(0.5), layers[-1])
    options = {key: value for key, value in METHODS[name].items() if not key.startswith("mu")}
    method = made(name, model, graph=True, **{**options, "lr": 0.0, "weight_decay": 0.0})
    ((x, y),) = epoch(sizes=(32,))
    losses = {float(method.step(x, y).loss) for _ in range(10)}
    assert len(losses) == 10


@needs_gpu
def test_a_method_may_become_garbage_during_a_capture() -> None:
    """Its graphs are destroyed later, as CUDA would end the capture with an error."""
    (batches,) = epochs(1)
    expected = run(made("adam", network()), [batches])
    others = [made("adam", network(), graph=True)]
    run(others[0], [batches])

    def forget(*_: object) -> None:
        if torch.cuda.is_current_stream_capturing():
            others.clear()

    model = network()
    model.register_forward_hook(forget)
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        found = run(made("adam", model, graph=True), [batches])
    finally:
        gc.set_threshold(*thresholds)
    assert not others
    assert same(found, expected)
