"""The contenders of a training step. Oracle: eager torch with the same optimiser on the same minibatches, from which
a contender may differ by rounding; for the products, the arithmetic of a product. Extras that are missing are skipped
with their own sentence."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.macro import contenders as module
from benchmarks.macro.contenders import contenders
from benchmarks.macro.networks import Network, made, minibatches, mlp, networks
from benchmarks.macro.trainers import Trainer, imported

SINGLE = networks["8-16-4, batch 1"]
OF_ADAM = ["torch.compile, Adam(fused)", "numpy by hand, Adam"]
OF_SGD = [
    "numpy by hand, SGD", "scikit-learn, partial_fit", "deep-river, learn_one", "CapyMOA, Finetune.train",
]  # fmt: skip


def contender(name: str, network: Network) -> Trainer:
    try:
        return contenders[name](network)
    except LookupError as reason:
        pytest.skip(str(reason))


def trained(network: Network, optimizer: str, steps: int = 4) -> nn.Module:
    net = made(network)
    if optimizer == "Adam":
        chosen: torch.optim.Optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    else:
        chosen = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in minibatches(network, steps):
        chosen.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        chosen.step()
    return net


@pytest.mark.parametrize(
    ("name", "optimizer"), [*((name, "Adam") for name in OF_ADAM), *((name, "SGD") for name in OF_SGD)]
)
def test_takes_the_steps_of_torch(name: str, optimizer: str) -> None:
    trainer = contender(name, SINGLE)
    before = trainer.weights()
    torch.testing.assert_close(before, list(made(SINGLE).parameters()), check_dtype=False)
    for x, y in trainer.converted(minibatches(SINGLE, 4)):
        trainer.step(x, y)
    expected = [parameter.detach() for parameter in trained(SINGLE, optimizer).parameters()]
    moved = max(float((a - b).abs().max()) for a, b in zip(expected, before, strict=True))
    assert moved > 1e-3
    torch.testing.assert_close(trainer.weights(), expected, rtol=1e-3, atol=1e-3 * moved, check_dtype=False)


@pytest.mark.parametrize(
    "network",
    [
        "8-16-4, batch 1", "2x500, gelu", "2x500, elu", "2x500, softplus", "binary 2x500", "lenet5 28x28", "elman 15",
        "convolutions 64-128", "vgg of stages",
    ],
)  # fmt: skip
def test_network_in_jax_computes_and_learns_the_same(network: str) -> None:
    """Compared by the outputs, before and after four steps, since it holds its weights in other layouts."""
    contender("jax.jit, optax adam", SINGLE)
    from benchmarks.macro import jax_network

    chosen = dataclasses.replace(networks[network], batch=3)
    net = made(chosen)
    parameters, apply = jax_network.translated(net)
    step, convert = jax_network.trainer(net, 1e-3)
    data, after = minibatches(chosen, 4), trained(chosen, "Adam")
    x, _ = convert(*data[0])

    def outputs(found: Any) -> torch.Tensor:
        return torch.tensor(apply(found, x).tolist())

    with torch.no_grad():
        before, expected = net(data[0][0]), after(data[0][0])
    torch.testing.assert_close(outputs(parameters), before, rtol=1e-4, atol=1e-4)
    for minibatch in data:
        parameters = step(*convert(*minibatch))
    moved = float((expected - before).abs().max())
    torch.testing.assert_close(outputs(parameters), expected, rtol=0, atol=0.02 * moved)


def test_jax_says_what_it_does_not_know() -> None:
    contender("jax.jit, optax adam", SINGLE)
    with pytest.raises(LookupError, match="BatchNorm2d is not translated to JAX"):
        contenders["jax.jit, optax adam"](networks["residual, batch norm"])


def test_missing_extras_are_said_in_one_sentence() -> None:
    with pytest.raises(
        LookupError, match=r"^to time it, pip install no_such_package \(No module named"
    ) as found:
        imported("no_such_package", install="pip install no_such_package")
    assert found.value.args[0].endswith(").")


@pytest.mark.parametrize("name", ["am-adam's products alone", "autograd's products alone"])
@pytest.mark.parametrize("network", ["2x100, batch 28", "binary 2x500", "8-16-4, batch 1"])
def test_products_alone_are_those_of_a_step(name: str, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient is a sum over the samples of residual times input: none where the input is zero, and twice as much
    with twice the input. Those of higher stages have their own inputs."""
    stages: list[Any] = []
    split = module.split
    monkeypatch.setattr(module, "split", lambda net: stages.extend(split(net)) or stages)
    trainer = contenders[name](networks[network])
    (x, y), *_ = minibatches(networks[network], 1)
    x[:, 0] = 0
    trainer.step(x, y)
    lowest, *higher = [stage.map.gradient_of(stage.map.weight) for stage in stages]
    once = lowest.clone()
    assert bool((once[:, 0] == 0).all())
    assert bool((once[:, 1:] != 0).all())
    assert all(bool((gradient != 0).any(1).all()) for gradient in higher)
    trainer.step(2 * x, y)
    torch.testing.assert_close(lowest, 2 * once)


@pytest.mark.parametrize("network", networks)
def test_labels_are_those_of_the_networks_outputs(network: str) -> None:
    chosen = networks[network]
    with torch.no_grad():
        outputs = made(chosen)(torch.randn(2, *chosen.shape))
    assert outputs.shape == (2, chosen.classes)
    labels = torch.cat([y for _, y in minibatches(chosen, 200 // chosen.batch + 1)])
    assert sorted(set(labels.tolist())) == list(range(chosen.classes))


def test_contenders_for_some_networks_only_say_so() -> None:
    ready, left_out = module.entries(
        mlp((6, 5, 3), batch=4, activation="gelu"),
        ["am-adam", "numpy by hand, Adam", "am-adam's products alone"],
    )
    assert list(ready) == ["am-adam", "am-adam's products alone"]
    assert left_out == {"numpy by hand, Adam": "for the MLPs with ReLU only."}
    _, left_out = module.entries(networks["2x100"], ["numpy by hand, SGD"])
    assert left_out == {"numpy by hand, SGD": "for single samples only."}
