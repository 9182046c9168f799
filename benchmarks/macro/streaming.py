"""Libraries that learn from one sample at a time, as contenders of a step of SGD at batch 1."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from benchmarks.macro.networks import Network, made
from benchmarks.macro.trainers import Trainer, imported, lr_sgd, needs_plain, needs_single_samples, weights_of


def partial_fit(network: Network) -> Trainer:
    """scikit-learn's MLPClassifier.partial_fit. Of two classes it makes one logistic output."""
    widths = needs_plain(network)
    needs_single_samples(network)
    (neural_network,) = imported("sklearn.neural_network", install="pip install scikit-learn")
    learner = neural_network.MLPClassifier(
        widths[1:-1], solver="sgd", learning_rate_init=lr_sgd, momentum=0.0, alpha=0.0, batch_size=1
    )
    labels = list(range(widths[-1]))
    learner.partial_fit(
        torch.zeros(1, widths[0]).numpy(), [0], classes=labels
    )  # it only makes its weights now
    parameters = list(made(network).parameters())
    if learner.coefs_[-1].shape[1] == widths[-1]:
        for own, weight in zip(learner.coefs_, parameters[::2], strict=True):
            own[:] = weight.detach().t()
        for own, bias in zip(learner.intercepts_, parameters[1::2], strict=True):
            own[:] = bias.detach()

    def weights() -> list[Tensor]:
        pairs = zip(learner.coefs_, learner.intercepts_, strict=True)
        return [torch.tensor(part) for weight, bias in pairs for part in (weight.T, bias)]

    return Trainer(learner.partial_fit, lambda x, y: (x.numpy(), y.numpy()), weights)


def river(network: Network) -> Trainer:
    """deep-river's Classifier.learn_one; river itself has had no neural network since version 0.26."""
    needs_plain(network)
    needs_single_samples(network)
    (classification,) = imported(
        "deep_river.classification",
        install="pip install 'river<0.26' sortedcontainers, and pip install --no-deps deep-river torchviz graphviz",
    )
    learner = classification.Classifier(
        module=made(network), loss_fn="cross_entropy", optimizer_fn="sgd", lr=lr_sgd
    )

    def convert(x: Tensor, y: Tensor) -> tuple[Any, Any]:
        return {f"x{i:04d}": value for i, value in enumerate(x[0].tolist())}, int(y[0])

    return Trainer(learner.learn_one, convert, weights_of(learner.module))


def capymoa(network: Network) -> Trainer:
    """CapyMOA's Finetune.train, which gives a single instance to a torch module."""
    needs_plain(network)
    needs_single_samples(network)
    core, stream, classifier = imported(
        "capymoa.core", "capymoa.stream", "capymoa.classifier", install="install Java and pip install capymoa"
    )
    features = [f"x{i}" for i in range(network.widths[0])]
    labels = [str(label) for label in range(network.classes)]
    schema = stream.Schema.from_custom([*features, "label"], "label", {"label": labels})
    learner = classifier.Finetune(
        schema, made(network), optimizer=functools.partial(torch.optim.SGD, lr=lr_sgd)
    )

    def convert(x: Tensor, y: Tensor) -> tuple[Any, Any]:
        return core.LabeledInstance.from_array(schema, x[0].double().numpy(), int(y[0])), None

    return Trainer(lambda instance, _: learner.train(instance), convert, weights_of(learner.model))
