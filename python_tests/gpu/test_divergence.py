"""What is not finite on a GPU: steps do not wait to find out, the weights stand still, and who asks is told.

Oracle: a method that never saw the bad minibatch. The codes' step size is given here, so that a minibatch left out
leaves nothing behind, not even a power iteration, and not a bit may differ.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import altmin_ext
from altmin_ext import DivergenceError, Method

from ..ops.calling import refused
from .cases import (
    METHODS_WITH_CODES,
    Batch,
    eager_and_graph,
    epoch,
    every_method,
    made,
    methods_with_codes,
    network,
    same,
    tensors_of,
    weights,
)
from .device import needs_gpu

pytestmark = needs_gpu
NOT_FINITE = pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)


def built(name: str, graph: bool, **options: Any) -> Method:
    given = {"lr_codes": 0.3, "mu_increment": 0.0} if name in METHODS_WITH_CODES else {}
    return made(name, network(), graph=graph, **given, **options)


def spoiled(batch: Batch, value: float = float("nan")) -> Batch:
    x = batch[0].clone()
    x[5, 2] = value
    return x, batch[1]


def step(method: Method, batches: list[Batch]) -> list[Tensor]:
    return [value for x, y in batches for value in tensors_of(method.step(x, y))]


@every_method
@eager_and_graph
def test_a_copy_knows_what_the_first_has_not_told(name: str, graph: bool) -> None:
    """And each of the two tells it once."""
    good = epoch(sizes=(32,) * 6)
    method, undisturbed = built(name, graph), built(name, graph)
    step(method, good[:3])
    step(undisturbed, good[:3])
    method.raise_if_diverged()
    step(method, [spoiled(good[3])])
    copied = copy.deepcopy(method)
    for each in (copied, method):
        step(each, [good[4]])
        with refused(DivergenceError, "not finite", "one of the steps 4 to 5"):
            each.raise_if_diverged()
        assert same(weights(each), weights(undisturbed))
    assert same(step(copied, good), step(undisturbed, good))


@every_method
@eager_and_graph
def test_a_state_loaded_after_a_divergence_is_trained_on(name: str, graph: bool) -> None:
    good = epoch(sizes=(32,) * 6)
    method, undisturbed = built(name, graph), built(name, graph)
    step(method, good[:3])
    step(undisturbed, good[:3])
    state = method.state_dict()
    step(method, [spoiled(good[3])])
    method.load_state_dict(state)
    assert same(step(method, good), step(undisturbed, good))
    method.raise_if_diverged()
    assert same(weights(method), weights(undisturbed))


@every_method
@eager_and_graph
@NOT_FINITE
def test_weights_stand_still_until_someone_asks(name: str, graph: bool, value: float) -> None:
    good = epoch(sizes=(32,) * 8)
    method, undisturbed = built(name, graph), built(name, graph)
    step(method, good[:3])
    step(undisturbed, good[:3])
    method.raise_if_diverged()
    step(method, [spoiled(good[3], value), good[4], good[5]])
    assert same(weights(method), weights(undisturbed))

    with refused(DivergenceError, "not finite", "one of the steps 4 to 6", "lower lr"):
        method.raise_if_diverged()
    assert same(weights(method), weights(undisturbed))
    method.raise_if_diverged()

    assert same(step(method, good), step(undisturbed, good))
    method.raise_if_diverged()
    assert same(weights(method), weights(undisturbed))


@every_method
@eager_and_graph
def test_the_first_minibatch_may_be_the_bad_one(name: str, graph: bool) -> None:
    good = epoch(sizes=(32,) * 4)
    method, undisturbed = built(name, graph), built(name, graph)
    step(method, [spoiled(good[0])])
    with pytest.raises(DivergenceError):
        method.raise_if_diverged()
    assert same(step(method, good), step(undisturbed, good))
    assert same(weights(method), weights(undisturbed))


@every_method
@eager_and_graph
def test_each_look_is_about_the_steps_since_the_last(name: str, graph: bool) -> None:
    good = epoch(sizes=(32,) * 4)
    method = built(name, graph)
    for steps in ("1 to 4", "5 to 8", "9 to 12"):
        step(method, [*good[:3], spoiled(good[3])])
        with pytest.raises(DivergenceError, match=f"steps {steps};"):
            method.raise_if_diverged()
    step(method, good)
    method.raise_if_diverged()
    step(method, [spoiled(good[0])])
    with pytest.raises(DivergenceError, match=r"step(s 17 to)? 17;"):
        method.raise_if_diverged()


@methods_with_codes
@eager_and_graph
def test_the_stage_is_named(name: str, graph: bool) -> None:
    """The lowest: there a NaN in x shows first."""
    method = built(name, graph)
    step(method, [spoiled(batch) for batch in epoch(sizes=(32, 32, 32))])
    with pytest.raises(DivergenceError, match=r"the code of stage 1 \('1'\) is not finite .* steps 1 to 3;"):
        method.raise_if_diverged()


@every_method
@eager_and_graph
@NOT_FINITE
def test_skipping_goes_on_by_itself(name: str, graph: bool, value: float) -> None:
    good = epoch(sizes=(32, 32, 32, 9, 32, 9))
    method, undisturbed = built(name, graph, on_nonfinite="skip"), built(name, graph, on_nonfinite="skip")
    step(method, [spoiled(good[0], value)])
    for batch in good:
        step(method, [spoiled(batch, value)])
        assert same(weights(method), weights(undisturbed))
        assert same(step(method, [batch]), step(undisturbed, [batch]))
    method.raise_if_diverged()
    assert same(weights(method), weights(undisturbed))


@every_method
def test_train_raises_at_the_end_of_the_epoch(name: str) -> None:
    """From a stream, whose values nobody has seen before."""
    batches = epoch()
    model = network()
    with refused(DivergenceError, "not finite", "steps 1 to 5"):
        altmin_ext.train(
            model, [*batches, spoiled(batches[0])], method=name, device="cuda", epochs=2, progress=False
        )
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# In a process of its own: were such a label to reach torch's kernels, the process could not use the GPU again.
LABELS = """
import itertools
import torch
from altmin_ext import DivergenceError, make_method, models

for graph, label in itertools.product((False, True), (5, -1, -100, 2**40)):
    model = models.mlp(12, (20, 16), 5)
    method = make_method("{name}", model, device="cuda", graph=graph)
    x, y = torch.randn(32, 12, device="cuda"), torch.zeros(32, dtype=torch.int64, device="cuda")
    for _ in range(3):
        method.step(x, y)
    before = [parameter.clone() for parameter in model.parameters()]
    wrong = y.clone()
    wrong[7] = label
    assert method.step(x, wrong).loss.isnan(), (graph, label)
    method.step(x, y)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before)), (graph, label)
    try:
        method.raise_if_diverged()
    except DivergenceError as error:
        print(error)
    method.step(x, y)
    method.raise_if_diverged()
    assert not torch.equal(model[1].weight, before[0]), (graph, label)
"""


@every_method
def test_a_label_outside_the_classes_is_reported_likewise(name: str) -> None:
    """Without a look at the labels, for which the host would have to wait."""
    script = LABELS.format(name=name)
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    messages = done.stdout.splitlines()
    assert len(messages) == 8
    for message in messages:
        assert re.search(
            r"not finite at one of the steps 1 to 5;.*labels (outside \[0, 5\)|out of range)", message
        )
        assert name not in METHODS_WITH_CODES or "the loss of stage 3" in message


def test_train_refuses_labels_outside_the_classes_beforehand() -> None:
    """Data held in memory are looked at once, before the first step."""
    x, y = (torch.cat(parts) for parts in zip(*epoch(), strict=True))
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    y[50] = 5
    with refused(ValueError, "y must lie in [0, 5)", "y[50] is 5"):
        altmin_ext.train(model, (x, y), device="cuda", progress=False)
    assert same([parameter.detach().cpu() for parameter in model.parameters()], before)
