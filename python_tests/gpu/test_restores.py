"""on_nonfinite="restore" on a device whose kernels stop by themselves: each step is looked at after it.

Oracles: a method that never diverged, with half the learning rate from its first step on, since the only copy is that
of the first; for data that are not finite, a method that skips them.
"""

from __future__ import annotations

import torch

from altmin_ext import Method

from .cases import Batch, eager_and_graph, epoch, every_method, made, network, same, tensors_of, weights


def run(method: Method, batches: list[Batch]) -> list[torch.Tensor]:
    return [value for x, y in batches for value in tensors_of(method.step(x, y))]


@every_method
@eager_and_graph
def test_a_divergence_restores_the_copy(name: str, graph: bool) -> None:
    """Before the steps are captured, and after; twice, the second time from captured steps of the restored run."""
    batches = epoch(sizes=(32,) * 6)
    for before in (0, 1, 6):
        method = made(name, network(), graph=graph, on_nonfinite="restore")
        for restores in (1, 2):
            run(method, batches[:before])
            method.learning_rate_factor = 1e300
            for batch in batches:
                if method.restores < restores:
                    run(method, [batch])
            method.learning_rate_factor = 1.0
            assert (method.restores, method.steps) == (restores, 0)
        undisturbed = made(name, network(), graph=graph)
        undisturbed.learning_rate_factor = 0.25
        assert same(run(method, batches), run(undisturbed, batches))
        assert same(weights(method), weights(undisturbed))


@every_method
@eager_and_graph
def test_data_that_are_not_finite_are_skipped(name: str, graph: bool) -> None:
    good = epoch(sizes=(32, 32, 32, 9, 32, 9))
    method, skipping = (made(name, network(), graph=graph, on_nonfinite=p) for p in ("restore", "skip"))
    for x, y in good:
        spoiled = x.clone()
        spoiled[5, 2] = torch.nan
        for each in (method, skipping):
            run(each, [(spoiled, y)])
        assert same(run(method, [(x, y)]), run(skipping, [(x, y)]))
    assert method.restores == 0
    assert same(weights(method), weights(skipping))
