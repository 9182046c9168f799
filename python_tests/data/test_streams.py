"""Tasks and endless streams.

Oracles: what belongs to a task, counted from the data set itself; for the orders of a stream, a permutation that
torch draws from the digest of seed and pass; for a stream that goes on, the one that was never left.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import altmin_ext
from altmin_ext import data
from altmin_ext.data import streams


def test_class_tasks_cut_the_set_into_its_classes() -> None:
    digits = data.load("digits")
    tasks = streams.class_tasks(digits, 2)
    assert len(tasks) == 5
    for part in ("train", "test"):
        pieces = [getattr(task, part) for task in tasks]
        assert sum(len(y) for _, y in pieces) == len(getattr(digits, part)[1])
        for number, (x, y) in enumerate(pieces):
            assert set(y.tolist()) == {2 * number, 2 * number + 1}
            assert len(x) == len(y)
    first = (digits.train[1] < 2).nonzero()[0, 0]
    assert torch.equal(tasks[0].train[0][0], digits.train[0][first])
    assert all(task.classes == 10 for task in tasks)


def test_permuted_tasks_hold_the_same_pixels_elsewhere() -> None:
    digits = data.load("digits")
    tasks = streams.permuted_tasks(digits, 3, seed=1)
    assert torch.equal(tasks[0].train[0], digits.train[0])
    for task, again in zip(tasks, streams.permuted_tasks(digits, 3, seed=1), strict=True):
        assert torch.equal(task.train[0], again.train[0])
        assert torch.equal(task.train[0].flatten(1).sort(1).values, digits.train[0].flatten(1).sort(1).values)
        assert torch.equal(task.train[1], digits.train[1])
    # The same order for all samples, the test's too: a pixel's sum over them only moves.
    moved, sums = tasks[1], digits.train[0].flatten(1).sum(0)
    order = [int((sums == s).nonzero()[0, 0]) for s in moved.train[0].flatten(1).sum(0)]
    distinct = [i for i, pixel in enumerate(order) if int((sums == sums[pixel]).sum()) == 1]
    assert len(distinct) > 40
    for i in distinct:
        assert torch.equal(moved.test[0].flatten(1)[:, i], digits.test[0].flatten(1)[:, order[i]])
    assert not torch.equal(tasks[1].train[0], tasks[2].train[0])


def test_endless_goes_through_everything_again_and_again() -> None:
    x, y = torch.arange(10.0)[:, None], torch.arange(10)
    stream = streams.endless(x, y, batch_size=4, seed=3)
    passes = [list(itertools.islice(stream, 3)) for _ in range(3)]
    orders = [torch.cat([labels for _, labels in batches]) for batches in passes]
    for batches, order in zip(passes, orders, strict=True):
        assert [len(labels) for _, labels in batches] == [4, 4, 2]
        assert sorted(order.tolist()) == list(range(10))
        assert all(torch.equal(values[:, 0], labels.float()) for values, labels in batches)
    assert not torch.equal(orders[0], orders[1])


def order_of(samples: int, seed: int, number: int) -> Tensor:
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randperm(samples, generator=generator)


@pytest.mark.parametrize(("samples", "batch_size"), [(10, 4), (10, 5), (10, 10), (10, 20), (1, 1)])
def test_the_order_of_a_pass_follows_from_seed_and_number(samples: int, batch_size: int) -> None:
    x, y = torch.arange(float(samples))[:, None], torch.arange(samples)
    stream, before = streams.endless(x, y, batch_size, seed=2**62), torch.get_rng_state()
    for number in range(5):
        for rows in order_of(samples, 2**62, number).split(batch_size):
            values, labels = next(stream)
            assert labels.tolist() == rows.tolist()
            assert torch.equal(values[:, 0], rows.float())
    assert torch.equal(torch.get_rng_state(), before)


WAYS: dict[str, Callable[[streams.Endless], streams.Endless]] = {
    "pickle": lambda stream: pickle.loads(pickle.dumps(stream)),
    "copy": copy.deepcopy,
    "state": lambda stream: gone_on_with(stream.state_dict()),
}
DATA = torch.arange(10.0)[:, None], torch.arange(10)


def gone_on_with(state: dict[str, int]) -> streams.Endless:
    """Another stream, which has been elsewhere before."""
    stream = streams.endless(*DATA, batch_size=4, seed=99)
    for _ in range(4):
        next(stream)
    stream.load_state_dict(state)
    return stream


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_stream_goes_on_from_anywhere(way: Callable[[streams.Endless], streams.Endless]) -> None:
    """And from where that one stands, several times within a pass."""
    labels = [y.tolist() for _, y in itertools.islice(streams.endless(*DATA, 4, seed=3), 20)]
    stream = streams.endless(*DATA, 4, seed=3)
    for number in range(12):
        other = way(way(stream))
        assert other.state_dict() == stream.state_dict()
        assert [y.tolist() for _, y in itertools.islice(other, 8)] == labels[number : number + 8]
        assert iter(stream) is stream
        assert next(stream)[1].tolist() == labels[number]


def test_a_state_is_a_few_numbers() -> None:
    stream = streams.endless(torch.zeros(1000, 3), torch.zeros(1000), batch_size=100, seed=5)
    states = [stream.state_dict()]
    for _ in range(25):
        next(stream)
        states.append(stream.state_dict())
    assert [(state["pass"], state["position"]) for state in states] == [divmod(n, 10) for n in range(26)]
    assert states[3] == {"seed": 5, "pass": 0, "position": 3, "samples": 1000, "batch_size": 100}


WRONG: dict[str, tuple[Any, str]] = {
    "no dict": ([], "must be a dict"),
    "no seed": ({"seed": None}, "seed must be an integer"),
    "a negative pass": ({"pass": -1}, "pass must be at least 0"),
    "beyond the pass": ({"position": 3}, "position must be less than the 3 minibatches of a pass, but is 3"),
    "a fraction": ({"position": 0.5}, "position must be an integer"),
    "other data": ({"samples": 11}, "samples must be 10, as in this stream, but is 11"),
    "another size": ({"batch_size": 5}, "batch_size must be 4, as in this stream, but is 5"),
    "more": ({"generator": 1}, "generator"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_a_state_of_another_stream_is_refused(change: Any, words: str) -> None:
    stream = streams.endless(*DATA, 4, seed=3)
    next(stream)
    before = stream.state_dict()
    with pytest.raises((TypeError, ValueError), match=words):
        stream.load_state_dict({**before, **change} if isinstance(change, dict) else change)
    assert stream.state_dict() == before
    del before["seed"]
    with pytest.raises(ValueError, match="lacks seed"):
        stream.load_state_dict(before)


def test_training_goes_on_where_a_stream_was_left() -> None:
    """Two runs, the second with another stream, are one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = altmin_ext.models.mlp(1, [4], 10)
    whole = copy.deepcopy(first)
    altmin_ext.train(whole, streams.endless(*DATA, 4), method="sgd", steps=17, progress=False)
    method, stream = altmin_ext.make_method("sgd", first), streams.endless(*DATA, 4)
    altmin_ext.train(first, stream, method=method, steps=7, progress=False)
    other = gone_on_with(stream.state_dict())
    altmin_ext.train(first, other, method=method, steps=10, progress=False)
    for one, expected in zip(first.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, expected)


def test_a_stream_without_end_is_one_epoch() -> None:
    model = altmin_ext.models.mlp(1, [4], 10)
    with pytest.raises(ValueError, match="epochs must be 1 with an Endless"):
        altmin_ext.train(model, streams.endless(*DATA), epochs=2, progress=False)


def test_training_on_a_stream_ends_with_its_steps() -> None:
    digits = data.load("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = altmin_ext.models.mlp(64, [16], 10)
    stream = streams.endless(*digits.train, batch_size=50)
    history = altmin_ext.train(model, stream, method="am-mem", steps=70, progress=False)
    assert history.steps == 70
    assert altmin_ext.evaluate(model, digits.test).accuracy > 0.5  # of ten classes


@pytest.mark.parametrize("wrong", [3, 11])
def test_classes_that_do_not_divide(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"^classes_per_task must divide the 10 classes .* is {wrong}\.$"):
        streams.class_tasks(data.load("digits"), wrong)


def test_bad_numbers() -> None:
    with pytest.raises(ValueError, match=r"^classes_per_task must be at least 1, but is 0\.$"):
        streams.class_tasks(data.load("digits"), 0)
    with pytest.raises(ValueError, match=r"^tasks must be at least 1, but is 0\.$"):
        streams.permuted_tasks(data.load("digits"), 0)
    with pytest.raises(ValueError, match=r"^batch_size must be at least 1, but is 0\.$"):
        streams.endless(torch.zeros(3, 1), torch.zeros(3), 0)
    with pytest.raises(
        ValueError, match=r"^y must have an entry for each of the 3 samples of x, but has 2\.$"
    ):
        streams.endless(torch.zeros(3, 1), torch.zeros(2))
    with pytest.raises(TypeError, match=r"^tasks must be an integer, but is 2\.5\.$"):
        streams.permuted_tasks(data.load("digits"), 2.5)
    with pytest.raises(TypeError, match=r"^classes_per_task must be an integer, but is '2'\.$"):
        streams.class_tasks(data.load("digits"), "2")
    with pytest.raises(TypeError, match=r"^batch_size must be an integer, but is 2\.5\.$"):
        streams.endless(torch.zeros(3, 1), torch.zeros(3), 2.5)
    with pytest.raises(ValueError, match=r"^x must hold samples, but is empty\.$"):
        streams.endless(torch.zeros(0, 1), torch.zeros(0))


def test_labels_of_any_width_and_what_is_no_data_set() -> None:
    x, y = torch.arange(8.0)[:, None], torch.arange(8) % 4
    for kind in (torch.uint8, torch.uint16, torch.uint64, torch.int8):
        tasks = streams.class_tasks(data.DataSet("small", (x, y.to(kind)), (x, y.to(kind)), 4), 2)
        assert [task.train[1].tolist() for task in tasks] == [[0, 1, 0, 1], [2, 3, 2, 3]]
        _, batch = next(streams.endless(x, y.to(kind), batch_size=8))
        assert sorted(batch.tolist()) == sorted(y.tolist())
    for make in (streams.class_tasks, streams.permuted_tasks):
        with pytest.raises(TypeError, match=r"^data must be a DataSet, .*, but is a str\.$"):
            make("digits")
    with pytest.raises(TypeError, match=r"^x must be a torch\.Tensor, but is a ndarray\.$"):
        streams.endless(x.numpy(), y)
