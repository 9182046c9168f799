"""One training step in pytest-benchmark: ours, autograd, compiled autograd, and the authors' code if it is at hand.

For ratios use ``python -m benchmarks.macro.ratios``, whose contenders take turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks.macro.contenders import contenders
from benchmarks.macro.networks import minibatches, networks, published


@pytest.fixture(params=[1, 2], ids=lambda threads: f"{threads} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("contender", contenders)
@pytest.mark.parametrize("network", published)
def test_step(benchmark: Any, network: str, contender: str, threads: int) -> None:
    benchmark.group = f"step, {network}, {threads} threads"
    try:
        trainer = contenders[contender](networks[network])
    except LookupError as reason:
        pytest.skip(str(reason))
    data = itertools.cycle(trainer.converted(minibatches(networks[network])))
    benchmark.pedantic(lambda: trainer.step(*next(data)), iterations=5, rounds=20, warmup_rounds=3)
