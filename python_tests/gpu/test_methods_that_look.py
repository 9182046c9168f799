"""The methods that look in every step at what it did: whole steps, bad minibatches, resuming, streams.

Oracles: the same steps on the CPU, which python_tests/methods holds against references of its own; in float64 they
differ by the order of their sums, see test_parity.py. A method that never saw the bad minibatch, was never
interrupted, or ran on the default stream, to the last bit.
"""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from altmin_ext import DivergenceError, Method

from ..ops.calling import assert_close, refused, same_bits
from .cases import data_for, made, methods_that_look, network_for, run, same, weights
from .device import GPU, needs_gpu

TOLERANCE = 1e-9


def built(name: str, device: torch.device = GPU, **options: object) -> Method:
    return made(name, network_for(name, torch.float64), device, **options)


def trained(name: str, **options: object) -> list[Tensor]:
    method = built(name, **options)
    return run(method, data_for(method))


def with_the_same_inverses(methods: list[Method]) -> list[Method]:
    """dtp draws its own on the method's device, and no two kinds of device draw alike; the others have none."""
    for own, other in zip(*(getattr(method, "inverses", []) for method in methods), strict=True):
        own.load_state_dict(other.state_dict())
    return methods


@methods_that_look
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_they_compute_what_they_compute_on_the_cpu(name: str, loss: str) -> None:
    if name in ("ncm", "slda") and loss == "mse":  # which learn class labels alone
        return
    methods = [built(name, device, loss=loss) for device in (GPU, torch.device("cpu"))]
    on_gpu, on_cpu = (
        run(method, data_for(method, 5, loss=loss)) for method in with_the_same_inverses(methods)
    )
    assert len(on_cpu) > 20
    for i, (own, expected) in enumerate(zip(on_gpu, on_cpu, strict=True)):
        assert expected.double().isfinite().all()
        if expected.dtype == torch.int64:
            assert torch.equal(own.cpu(), expected)
        else:
            assert_close(own.cpu(), expected, TOLERANCE, f"result {i}")


@methods_that_look
def test_a_bad_minibatch_raises_at_once(name: str) -> None:
    method = built(name)
    (x, y), *_ = data_for(method)[0]
    bad = x.clone()
    bad[5, 2] = torch.nan
    before = weights(method)
    with refused(DivergenceError, "not finite", "step 1"):
        method.step(bad, y)
    assert same(weights(method), before)


@methods_that_look
def test_they_resume_bit_for_bit(name: str) -> None:
    method = built(name)
    first, *rest = data_for(method)
    run(method, [first])
    file = io.BytesIO()
    torch.save({"model": method.model.state_dict(), "method": method.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, map_location=GPU)
    other = built(name, seed=1)
    other.model.load_state_dict(saved["model"])
    other.load_state_dict(saved["method"])
    assert same(run(other, rest), run(method, rest))


@methods_that_look
def test_two_runs_are_the_same(name: str) -> None:
    assert same(trained(name), trained(name))


@needs_gpu
@methods_that_look
def test_a_side_stream_equals_the_default_one(name: str) -> None:
    expected = trained(name)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        found = trained(name)
        torch.cuda.synchronize()
    assert all(same_bits(own, other) for own, other in zip(found, expected, strict=True))


@needs_gpu
@methods_that_look
def test_they_refuse_to_be_captured(name: str) -> None:
    with refused(ValueError, "graph must be False here"):
        built(name, graph=True)


@needs_gpu
@methods_that_look
@pytest.mark.parametrize("argument", ["x", "y"])
def test_a_minibatch_elsewhere_is_refused(name: str, argument: str) -> None:
    method = built(name)
    given = dict(zip(("x", "y"), data_for(method)[0][0], strict=True))
    given[argument] = given[argument].cpu()
    before = weights(method)
    with refused(ValueError, f"{argument} must be on {GPU} like the model", "cpu"):
        method.step(**given)
    assert same(weights(method), before)
