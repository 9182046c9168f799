"""The evaluation of a model, and calls of it that leave no trace."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._batches import Batches, MemoryBatches, make_batches, read, read_inputs
from altmin_ext._generators import ProcessGenerators, held_generators, load_generator, save_generator
from altmin_ext._metrics import Metrics
from altmin_ext._undo import Buffers
from altmin_ext.losses import Loss, LossLike, make_loss
from altmin_ext.network import as_chain, may_write_input
from altmin_ext.nn import NonNegativeFactors
from altmin_ext.parallel import Ranks


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        loss: the mean over the samples.
        accuracy: the part of the samples that are classified correctly; None if nothing is classified, as with
            ``loss="mse"``.
        samples: the number of samples with a label.
        metrics: what was passed as ``metrics``, by name.
    """

    loss: float
    accuracy: float | None
    samples: int
    metrics: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)


EVALUATION_BATCH = 1000


def evaluate(
    model: nn.Module | Sequence[nn.Module],
    data: Any,
    *,
    loss: LossLike = "cross_entropy",
    batch_size: int = EVALUATION_BATCH,
    device: torch.device | str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Find loss and accuracy of a model in evaluation mode; afterwards every module is in its previous mode.

    Args:
        model: any module that maps x to logits (B, C), or a list of modules, one behind the other.
        data: as in :func:`train`, but of a data set the test part. If the model holds a
            :class:`altmin_ext.NonNegativeFactors`, samples may have no label, -1; they are left out.
        loss: as in :func:`train`, "cross_entropy" by default; or the ``loss`` of a method.
        batch_size: samples evaluated at a time, 1000 by default. The mean over batches is weighted by their numbers
            of samples. For a criterion that divides by something else, such as weights, it differs slightly from the
            mean over all samples at once.
        device: where to evaluate; the model is moved there. None keeps the model where it is.
        metrics: further numbers by name, as in :func:`train`.

    Returns:
        An :class:`Evaluation`.

    Raises:
        TypeError, ValueError: an argument is wrong, or data and model do not fit each other.

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import models
        >>> found = altmin_ext.evaluate(models.mlp(4, [16], 2), (torch.randn(50, 4), torch.arange(50) % 2))
        >>> found.samples, 0 <= found.accuracy <= 1
        (50, True)
    """
    model = as_chain(model)
    _check.model_in_memory(model)
    batch_size = _check.integer("batch_size", batch_size)
    device = _check.device("device", device)
    wanted = Metrics(metrics)
    # A model that can learn from samples without a label may be evaluated on such samples, too.
    loss_function = make_loss(loss, partial=any(isinstance(m, NonNegativeFactors) for m in model.modules()))
    source = read(data, "test")
    if device is not None:
        model.to(device)
    weight = next(model.parameters(), torch.empty(0))
    loss_function = loss_function.to(weight.device, weight.dtype)
    batches = make_batches(
        source, loss=loss_function, dtype=weight.dtype, device=weight.device, batch_size=batch_size
    )
    return evaluate_batches(model, batches, loss_function, wanted)


def predict(
    model: nn.Module | Sequence[nn.Module],
    x: Tensor | np.ndarray[Any, Any],
    *,
    batch_size: int = EVALUATION_BATCH,
    device: torch.device | str | None = None,
) -> Tensor:
    """Find the outputs of a model in evaluation mode; afterwards every module is in its previous mode.

    Args:
        model: any module that maps x to logits (B, C), or a list of modules, one behind the other.
        x: (N, ...), tensor, ndarray or table, floating point; converted to the model's dtype and read, never
            written. N may be 0 where the model ends with a Linear.
        batch_size: samples evaluated at a time, 1000 by default.
        device: where to evaluate; the model is moved there. None keeps the model where it is.

    Returns:
        (N, C) logits in the order of x, on the model's device, without a graph.

    Raises:
        TypeError, ValueError: an argument is wrong, or x does not fit the model.

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import models
        >>> logits = altmin_ext.predict(models.mlp(4, [16], 3), torch.randn(50, 4))
        >>> logits.shape, logits.requires_grad
        (torch.Size([50, 3]), False)
    """
    model = as_chain(model)
    _check.model_in_memory(model)
    batch_size = _check.integer("batch_size", batch_size)
    device = _check.device("device", device)
    samples = read_inputs(x)
    if device is not None:
        model.to(device)
    weight = next(model.parameters(), samples)
    copies = may_write_input(model)
    with evaluation_mode(model):
        parts = []
        for part in samples.split(batch_size):
            own = part.to(weight.device, weight.dtype)
            parts.append(_logits(model, own.clone() if copies else own.contiguous()))
        return torch.cat(parts)


def evaluate_batches(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    metrics: Metrics | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Evaluate a model on all batches; with ``ranks``, which have different ones, on those of all of them."""
    metrics = metrics or Metrics(None)
    samples = 0
    total_loss: Tensor | float = 0.0
    correct: Tensor | int | None = 0
    copies = may_write_input(model)
    with evaluation_mode(model), metrics.accumulation(loss) as further:
        for x, y in checked_batches(model, batches, loss):
            logits = _logits(model, x.clone() if copies else x)
            labelled = int(loss.labelled(y))
            if labelled == 0:
                continue
            further.update(logits, y)  # first: a criterion may write to the logits
            hits = loss.correct(logits, y)
            total_loss = total_loss + loss.mean(logits, y).double() * labelled
            correct = None if hits is None or correct is None else correct + hits
            samples += labelled
        if ranks is not None:
            own = [float(total_loss), 0.0 if correct is None else float(correct), float(samples)]
            sums = ranks.sum(torch.tensor(own, dtype=torch.float64))
            total_loss, samples = sums[0], int(sums[2])
            correct = None if correct is None else sums[1]
        if samples == 0:
            raise ValueError("data must hold at least one sample with a label, but has none.")
        accuracy = None if correct is None else float(correct) / samples
        return Evaluation(float(total_loss) / samples, accuracy, samples, further.compute())


def checked_batches(model: nn.Module, batches: Batches, loss: Loss) -> Iterator[tuple[Tensor, Tensor]]:
    """The minibatches, at least one, with all their values checked."""
    n_out = None
    for x, y in batches:
        if len(x) == 0:  # this rank's share of a minibatch that has fewer samples than there are ranks
            continue
        if n_out is None:
            n_out = output_width(model, x)
        if not isinstance(batches, MemoryBatches):
            _check.finite("x", x)
        y = loss.check_targets(y, x.dtype)
        loss.check_target_values(y, n_out)
        yield x, y
    if n_out is None:
        raise ValueError("data must yield at least one minibatch, but is empty.")


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    with modes_kept(model), torch.no_grad():
        model.eval()
        yield


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Leave every module in its mode, training or evaluation."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def without_trace(model: nn.Module, like: Tensor, source: object = None) -> Iterator[None]:
    """Leave the model's modes and buffers, and all global random generators, as they were.

    Args:
        model: whose buffers, such as running statistics, and generators a forward pass may move.
        like: a tensor on the model's device.
        source: data whose generators may be drawn from.
    """
    buffers, generators = Buffers(model), ProcessGenerators(like.device)
    kept, drawn = buffers.remember(), generators.save()
    held = [(own, save_generator(own)) for own in held_generators((model, source))]
    try:
        with modes_kept(model):
            yield
    finally:
        generators.load(drawn)
        for own, state in held:
            load_generator(own, state)
        with torch.no_grad():
            buffers.recall(kept)


def output_width(model: nn.Module, x: Tensor) -> int:
    """The number of the model's outputs for the first sample of x; raises if x does not fit the model."""
    with without_trace(model, x), evaluation_mode(model):
        return _logits(model, x[:1].clone()).shape[1]


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """The model's outputs; raises unless x fits the model and the outputs are (B, C)."""
    try:
        logits = model(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"x must fit the model, but a sample of shape {tuple(x.shape[1:])} does not: {reason}."
        ) from error
    return _check.logits(logits, len(x))


@contextlib.contextmanager
def naming(argument: str) -> Iterator[None]:
    """Put the name of the argument in front of errors about its x or y."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{argument}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error


__all__ = ["Evaluation", "evaluate", "predict"]
