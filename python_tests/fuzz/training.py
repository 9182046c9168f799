"""Target ``training``: random networks, methods, forms of data and options, through ``train`` and ``step``.

Oracle: an independent reference of every method's step in float64, which knows only the network, the options and the
minibatches that the method was given: autograd on the local objectives, textbook optimisers, torch's own optimisers
for backpropagation. After every step the weights agree to 1e-9 of the largest one. Besides: the minibatches hold the
user's samples, each once per epoch; reported losses are the reference's; ``evaluate`` and validation are torch's own
loss of the model in evaluation mode; the user's data and torch's global generator stay as they were; steps that are
planned, and those that ``learn`` repeats, are to the bit what they are one by one without plans.

The references are those of the methods' own tests. They are told what a method estimates: the step sizes of its
codes, and the norms of mdlam's weights. That of am-mem is also told what an inverse that is kept adds to its memory,
once it is certain that this is about the damping. They share this with the library: am-mem, dtp and the options'
defaults of deepfacto and of the lifted methods are read from it; the proximal maps of a loss are not.

Where the problem itself is ill-conditioned, rounding is allowed what it does to the reference: a hundred times the
distance that the reference moves when its inputs change in the last digit, or the share of a code's displacement that
is lost when the reference adds it to the code.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext.methods import method_class
from altmin_ext.network import map_spans
from altmin_ext.nn import Sign

from ..methods import (
    test_block_admm,
    test_deepfacto,
    test_difference_target,
    test_elman,
    test_taylor_admm,
)
from ..methods.local_objectives import LocalObjectives
from ..methods.test_am_mem import PAPER, MemoryObjectives
from ..methods.test_straight_through import Around
from ..side_by_side import SideBySide
from . import networks
from .alterations import Generator, pick
from .forms import Offer, offered
from .lifted import WrittenDLADMM, WrittenMDLAM, layers_of
from .networks import Network, drawn

NAME = "training"
TOLERANCE = 1e-9


# --- what a method was given, and what it did ---


@dataclasses.dataclass
class Step:
    """A minibatch and what the method has for it; then its report and the model, unless it diverged."""

    x: Tensor
    y: Tensor
    index: Tensor | None
    factor: float
    etas: list[float]
    norms: list[float]
    added: dict[int, float]
    loss: float = math.nan
    correct: int | None = None
    objective: list[float] | None = None
    state: dict[str, Tensor] | None = None


@dataclasses.dataclass
class BeginEpoch:
    """A pass over the data before the steps of an epoch."""

    x: list[Tensor]


@dataclasses.dataclass
class EndEpoch:
    """The end of an epoch, and the model there."""

    state: dict[str, Tensor]


Event = Step | BeginEpoch | EndEpoch


@contextlib.contextmanager
def recorded(name: str) -> Iterator[list[Event]]:
    """Records what every method of that name is given within the context."""
    cls, events = method_class(name), []
    step, begin, end = cls.step, cls.begin_epoch, cls.end_epoch

    def recorded_step(self: Any, x: Tensor, y: Tensor, **more: Any) -> Any:
        index = more.get("index")
        given = x.detach().clone(), y.clone(), None if index is None else index.clone()
        norms = norms_of(self, len(x))
        try:
            report = step(self, x, y, **more)
        except altmin_ext.DivergenceError:
            events.append(Step(*given, self.learning_rate_factor, etas_of(self), norms, {}))
            raise
        events.append(
            Step(
                *given, self.learning_rate_factor, etas_of(self), norms, added_of(self), float(report.loss),
                None if report.correct is None else int(report.correct),
                None if report.objective is None else report.objective.tolist(), state_of(self.model),
            )
        )  # fmt: skip
        return report

    def recorded_begin(self: Any, batches: Any) -> Any:
        seen: list[Tensor] = []

        def pass_on() -> Iterator[Any]:
            for x, y in batches:
                seen.append(x.detach().clone())
                yield x, y

        begin(self, pass_on())
        events.append(BeginEpoch(seen))

    def recorded_end(self: Any) -> Any:
        end(self)
        events.append(EndEpoch(state_of(self.model)))

    with (
        mock.patch.object(cls, "step", recorded_step),
        mock.patch.object(cls, "begin_epoch", recorded_begin),
        mock.patch.object(cls, "end_epoch", recorded_end),
    ):
        yield events


def norms_of(method: Any, samples: int) -> list[float]:
    """The squared norms that mdlam has for its weights before a step."""
    if method.name != "mdlam":
        return []
    method._spectral_norms.begin(samples)
    norms: list[float] = method.state_dict()["sigma_squared"].tolist()
    return norms


def added_of(method: Any) -> dict[int, float]:
    """By stage, what the inverses that am-mem keeps have added to A in the last step."""
    memories = enumerate(getattr(method, "_memories", []))
    return {l: memory.inverse.added for l, memory in memories if memory.inverse and memory.inverse.is_current}


def etas_of(method: Any) -> list[float]:
    """The step sizes of the codes in the last step."""
    return method.code_step_sizes.reshape(-1).tolist() if hasattr(method, "code_step_sizes") else []


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


# --- losses ---


@dataclasses.dataclass
class LossCase:
    """A loss as it is given, what it computes, and its targets: "classes", "real" numbers or "shares" of classes."""

    given: Any
    mean: Callable[[Tensor, Tensor], Tensor]
    targets: str = "classes"
    counts: bool = False  # whether its accuracy is the share of the largest logits


def quartic(logits: Tensor, y: Tensor) -> Tensor:
    return (logits - y).pow(4).mean() + 0.1 * logits.square().mean()


def sharpened(logits: Tensor, y: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(1.5 * logits, 1), y)


NAMED = [LossCase("cross_entropy", F.cross_entropy, counts=True), LossCase("mse", F.mse_loss, "real")]
CRITERIA = [
    LossCase(criterion, criterion, targets)
    for criterion, targets in (
        (nn.CrossEntropyLoss(label_smoothing=0.1), "classes"), (nn.CrossEntropyLoss(), "shares"),
        (nn.MSELoss(), "real"), (nn.SmoothL1Loss(), "real"), (nn.BCEWithLogitsLoss(), "shares"),
        (quartic, "real"), (sharpened, "classes"),
    )
]  # fmt: skip


def any_loss(rng: Generator) -> LossCase:
    chosen: LossCase = pick(rng, NAMED * 4 + CRITERIA)
    return chosen


def targets_for(rng: Generator, loss: LossCase, samples: int, outputs: int) -> Tensor:
    if loss.targets == "classes":
        return torch.from_numpy(rng.integers(outputs, size=samples))
    y = torch.from_numpy(rng.normal(size=(samples, outputs)))
    return y if loss.targets == "real" else y.softmax(1)


# --- references ---


class Follower(abc.ABC):
    """An independent reference of a method, driven by what the method was given.

    Attributes:
        objective: of every stage in the last step, if the reference knows it.
    """

    objective: list[float] | None = None

    def begin_epoch(self, event: BeginEpoch) -> None:  # noqa: B027  (most do nothing)
        """A pass over the data before an epoch."""

    @abc.abstractmethod
    def step(self, event: Step) -> float:
        """Take the same step; returns the loss before it."""

    def end_epoch(self) -> None:  # noqa: B027  (most do nothing)
        """The end of an epoch."""

    def lost(self) -> float:
        """The part of what the step was made of that rounding has taken from the reference."""
        return 0.0

    @abc.abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Weights and buffers, by their names in the model."""


def ones(reference: LocalObjectives) -> list[Tensor]:
    """Masks that drop nothing."""
    return [torch.ones(1, dtype=torch.float64) for stage in reference.stages for _ in stage.dropouts]


def around_signs(model: nn.Module) -> nn.Module:
    """A copy whose signs are written with detach, which sends the gradient around them."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for key, child in parent.named_children():
            if isinstance(child, Sign):
                setattr(parent, key, Around(child.surrogate == "clipped"))
    return model


class OnlineFollower(Follower):
    """am-sgd, am-adam and am-mem, and the last two on all samples at once."""

    def __init__(self, model: nn.Module, name: str, loss: LossCase, options: dict[str, Any]) -> None:
        options = {key: value for key, value in options.items() if key != "chunk_size"}
        if name.endswith("-off"):
            options = {"lr": 1e-2, **options}
            name = name.removesuffix("-off")
        given = loss.given if isinstance(loss.given, str) else loss.mean
        model = around_signs(model)
        if name == "am-mem":
            self._reference: LocalObjectives = MemoryObjectives(model, loss=given, **options)
        else:
            self._reference = LocalObjectives(model, name, loss=given, **options)
        self._rates = {
            key: getattr(self._reference, key)
            for key in ("lr", "lr_out", "rate")
            if hasattr(self._reference, key)
        }
        self._starts: list[Tensor] = []
        update_codes = self._reference._update_codes

        def recorded_update(starts: list[Tensor], y: Tensor, etas: Sequence[float]) -> list[Tensor]:
            self._starts = starts
            return update_codes(starts, y, etas)

        self._reference._update_codes = recorded_update  # type: ignore[method-assign]

    def lost(self) -> float:
        eps = torch.finfo(torch.float64).eps
        moved = zip(self._starts, self._reference.displacements, strict=True)
        return max([0.0, *(eps * float(start.abs().max()) / far for start, far in moved if far > 0)])

    def step(self, event: Step) -> float:
        for key, rate in self._rates.items():
            setattr(self._reference, key, rate * event.factor)
        masks = ones(self._reference)
        if isinstance(self._reference, MemoryObjectives):
            self._reference.added = event.added
        report = self._reference.step(event.x, event.y, step_sizes=event.etas, masks=masks)
        if isinstance(self._reference, MemoryObjectives):
            check_added(self._reference)
        self.objective = report.objective
        return report.loss

    def end_epoch(self) -> None:
        self._reference.end_epoch()

    def state(self) -> dict[str, Tensor]:
        return state_of(self._reference.model)


def check_added(reference: MemoryObjectives) -> None:
    """What was added to A is within about a factor of two of the damping, or next to nothing where that is zero."""
    for index, added in reference.added.items():
        diagonal = reference.memories[index][0].diagonal()
        nominal = reference.damping * float(diagonal.mean())
        assert 0.4 * nominal <= added <= 2.5 * nominal + 1e-12 * float(diagonal.max()), (
            f"the inverse of stage {index} adds {added}, the damping is {nominal}"
        )


class ElmanFollower(Follower):
    """am-sgd and am-adam on the Elman network."""

    def __init__(self, model: nn.Module, name: str, loss: LossCase, options: dict[str, Any]) -> None:
        own = {"code_iterations", "weight_iterations", "mu", "lr"}
        self._reference = test_elman.Reference(
            model, name, loss=loss.given, momentum=options.get("code_momentum", 0.0),
            scaled="lr_codes" not in options and name == "am-adam",
            **{key: value for key, value in options.items() if key in own},
        )  # fmt: skip

    def step(self, event: Step) -> float:
        return self._reference.step(event.x, event.y, event.etas)[0]

    def state(self) -> dict[str, Tensor]:
        return state_of(self._reference.model)


class BackpropFollower(Follower):
    """sgd, adam and ste: torch's own optimisers through the whole network."""

    def __init__(self, model: nn.Module, name: str, loss: LossCase, options: dict[str, Any]) -> None:
        self._model, self._loss = around_signs(model), loss.mean
        trained = [p for p in self._model.parameters() if p.requires_grad]
        kind = torch.optim.SGD if name == "sgd" else torch.optim.AdamW
        defaults = {"lr": 0.1} if name == "sgd" else {"lr": 1e-3, "weight_decay": 0.0}
        self._optimizer = kind(trained, **{**defaults, **options}, foreach=False)
        self._rate = self._optimizer.param_groups[0]["lr"]

    def step(self, event: Step) -> float:
        self._optimizer.param_groups[0]["lr"] = self._rate * event.factor
        loss = self._loss(self._model(event.x.clone()), event.y)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        return state_of(self._model)


def after_forward(model: nn.Module, x: Tensor, y: Tensor, loss: LossCase) -> tuple[float, dict[str, Tensor]]:
    """The loss before a step, and the running statistics behind its only forward pass."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        value = float(loss.mean(model(x.clone()), y))
    names = [name for name, _ in model.named_buffers()]
    state = model.state_dict()
    return value, {name: state[name] for name in names if name in state and "dictionary" not in name}


class BlockFollower(Follower):
    """block-admm, whose blocks begin at the given leaves."""

    def __init__(self, model: nn.Module, starts: list[int], loss: LossCase, options: dict[str, Any]) -> None:
        given = loss.given if isinstance(loss.given, str) else loss.mean
        rest = {key: v for key, v in options.items() if key not in ("lr_codes", "blocks")}
        self._reference = test_block_admm.Reference(around_signs(model), starts, loss=given, **rest)
        self._loss = loss

    def step(self, event: Step) -> float:
        loss, buffers = after_forward(self._reference.model, event.x, event.y, self._loss)
        self.objective = self._reference.step(event.x.clone(), event.y, event.etas, event.index)
        self._reference.model.load_state_dict(buffers, strict=False)
        return loss

    def state(self) -> dict[str, Tensor]:
        return state_of(self._reference.model)


class TargetFollower(Follower):
    """dtp, from the inverses and the noise of a method made alike."""

    def __init__(self, model: nn.Module, loss: LossCase, options: dict[str, Any], seed: int) -> None:
        twin = altmin_ext.make_method("dtp", copy.deepcopy(model), loss=loss.given, seed=seed, **options)
        own = {key: value for key, value in options.items() if key != "noise_epochs"}
        defaults = {"lr": 6.6e-4, "lr_inverse": 4.33e-4}
        self._reference = test_difference_target.Reference(twin, loss=loss.mean, **{**defaults, **own})
        self._noise, self._epochs = self._reference.noise, options.get("noise_epochs", 50.0)
        self._names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        self._alternates, self._epoch = False, 0

    def begin_epoch(self, event: BeginEpoch) -> None:
        self._alternates = True
        for x in event.x:
            self._reference.fit_inverses(self._reference.encode(x))

    def step(self, event: Step) -> float:
        h = self._reference.encode(event.x)
        if not self._alternates:
            self._reference.fit_inverses(h)
        loss, _, self.objective = self._reference.fit_layers(h, event.y)
        return loss

    def end_epoch(self) -> None:
        self._alternates = False
        self._epoch += 1
        self._reference.noise = self._noise / (1 + self._epoch / self._epochs)

    def state(self) -> dict[str, Tensor]:
        linears = zip(self._names, self._reference.layers, strict=True)
        return {f"{n}.{key}": p for n, (_, m, _) in linears for key, p in m.named_parameters()}


class TaylorFollower(Follower):
    """admm."""

    def __init__(self, model: nn.Module, loss: LossCase, options: dict[str, Any], seed: int) -> None:
        rest = {key: value for key, value in options.items() if key != "chunk_size"}
        self._loss = loss.given
        self._reference = test_taylor_admm.Reference(model, seed=seed, loss=loss.given, **rest)
        self._names = [
            (name, module.bias is not None)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
        ]

    def step(self, event: Step) -> float:
        result = self._reference.step(event.x.flatten(1), event.y, event.factor)
        self.objective = result["objective"]
        return float(test_taylor_admm.output_loss(self._loss, result["logits"], event.y).mean())

    def state(self) -> dict[str, Tensor]:
        found = {}
        for (name, biased), weights in zip(self._names, self._reference.weights, strict=True):
            found[f"{name}.weight"] = weights[:, :-1] if biased else weights
            if biased:
                found[f"{name}.bias"] = weights[:, -1]
        return found


class LiftedFollower(Follower):
    """mdlam and dladmm."""

    def __init__(self, model: nn.Module, name: str, loss: LossCase, options: dict[str, Any]) -> None:
        rest = {key: value for key, value in options.items() if key != "chunk_size"}
        self._reference = {"mdlam": WrittenMDLAM, "dladmm": WrittenDLADMM}[name](
            copy.deepcopy(model), loss.given, rest
        )

    def step(self, event: Step) -> float:
        if isinstance(self._reference, WrittenMDLAM):
            return self._reference.step(event.x, event.y, event.norms)
        return self._reference.step(event.x, event.y)

    def state(self) -> dict[str, Tensor]:
        return state_of(self._reference.model)


class FactorFollower(Follower):
    """deepfacto, whose least squares are solved by another algorithm."""

    def __init__(self, model: nn.Module, loss: LossCase, options: dict[str, Any]) -> None:
        given = loss.given if isinstance(loss.given, str) else loss.mean
        self._reference, self._loss = test_deepfacto.Reference(model, given, options), loss

    def step(self, event: Step) -> float:
        loss, buffers = after_forward(self._reference.model, event.x, event.y, self._loss)
        self.objective = self._reference.step(event.x, event.y, event.etas[0])
        self._reference.model.load_state_dict(buffers, strict=False)
        return loss

    def state(self) -> dict[str, Tensor]:
        return state_of(self._reference.model)


class ClosedFormFollower(Follower):
    """rls, slda and ncm: the solution for all samples so far at once, on filters fitted to the first minibatch."""

    def __init__(
        self, model: nn.Module, name: str, loss: LossCase, options: dict[str, Any], seed: int
    ) -> None:
        assert isinstance(model, nn.Sequential)
        self._model, self._name, self._loss, self._options = copy.deepcopy(model).eval(), name, loss, options
        self._seed = seed
        self.seen: list[tuple[Tensor, Tensor]] = []

    def step(self, event: Step) -> float:
        if self._options.get("fit_filters") and not self.seen:
            altmin_ext.fit_filters(self._model, event.x, seed=self._seed)
        with torch.no_grad():
            loss = float(self._loss.mean(self._model(event.x.clone()), event.y))
        self.seen.append((event.x, event.y))
        self.solve()
        return loss

    @torch.no_grad()
    def solve(self) -> None:
        """Set the head to the solution for what has been seen."""
        x, y = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        features, head = self._model[:-1](x.clone()), self._model[-1]
        ridge = self._options.get("ridge", 1.0) * torch.eye(features.shape[1], dtype=torch.float64)
        targets = F.one_hot(y, head.out_features).double() if y.dtype == torch.int64 else y
        if self._name == "rls":
            centre = head.bias is not None and head.bias.requires_grad
            inputs = features - features.mean(0) if centre else features
            wanted = targets - (targets.mean(0) if centre else 0 if head.bias is None else head.bias)
            head.weight.copy_(torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ wanted).T)
            if centre:
                head.bias.copy_(targets.mean(0) - head.weight @ features.mean(0))
            return
        counts = targets.sum(0)
        means = targets.T @ features / counts.clamp_min(1)[:, None]
        within = features - means[y]
        covariance = (
            (within.T @ within + ridge) / len(x) if self._name == "slda" else torch.eye(len(ridge)).double()
        )
        head.weight.copy_(torch.linalg.solve(covariance, means.T).T)
        bias = -(means * head.weight).sum(1) / 2
        if self._options.get("class_priors") == "observed":
            bias += (counts / counts.sum()).log()
        head.bias.copy_(torch.where(counts > 0, bias, -1e18))

    def state(self) -> dict[str, Tensor]:
        return state_of(self._model)


# --- cases by method ---


@dataclasses.dataclass
class Case:
    """A method with a network, a loss and options."""

    name: str
    network: Network
    loss: LossCase
    options: dict[str, Any]
    follow: Callable[[nn.Module], Follower]
    in_memory: bool = False
    schedule: bool = False  # whether the reference knows the learning-rate factor
    most: int = 200  # samples, for a reference that is slow
    trickles: bool = False  # whether its minibatches are small and many


def some(rng: Generator, choices: dict[str, Sequence[Any]], share: float = 0.35) -> dict[str, Any]:
    """Some of the options, each with one of its values."""
    return {key: pick(rng, values) for key, values in choices.items() if rng.random() < share}


ONLINE: dict[str, Sequence[Any]] = {
    "lr": (1e-3, 0.02), "lr_out": (0.02, 1e-4), "lr_codes": ("auto", 0.1, 0.5), "mu": (0.1, 0.5, 2.0),
    "stage_scaling": ("displacement", "none"), "code_iterations": (1, 2, 4), "code_momentum": (0.5, 0.9),
    "weight_decay": (0.1, 0.5), "mu_increment": (0.05,), "mu_multiplier": (1.5, 0.7), "mu_max": (0.4,),
    "l1_codes": (0.05, 0.5), "l1_weights": (0.01, 0.2),
}  # fmt: skip


def elman_case(rng: Generator, name: str) -> Case:
    network, loss = drawn(rng, networks.elman), pick(rng, NAMED)
    options = {"lr": 0.01} | some(
        rng,
        {
            "code_iterations": (1, 3), "weight_iterations": (1, 2), "code_momentum": (0.6,), "lr_codes": (0.15,),
            "mu": (0.2,), "lr": (1e-3,),
        },
    )  # fmt: skip
    return Case(name, network, loss, options, lambda model: ElmanFollower(model, name, loss, options))


def online_case(rng: Generator, name: str, seed: int) -> Case:
    if name in ("am-sgd", "am-adam") and rng.random() < 0.08:
        return elman_case(rng, name)
    network = drawn(rng, networks.plain_chain if "mem" in name else networks.any_chain)
    options = some(rng, ONLINE)
    if rng.random() < 0.15:
        options |= {"scaling": "released"}
        options |= {"lr_codes": 0.3} if options.get("lr_codes") == "auto" else {}
    if not name.endswith("-off"):
        options |= some(rng, {"weight_iterations": (2, 3)}, 0.2)
    # Divided by its displacement a stage is as much more curved: plain gradient steps must be small.
    if name == "am-sgd":
        options |= {"lr": 1e-3} if options.get("stage_scaling") == "displacement" else {}
    if "mem" in name:
        if rng.random() < 0.3:
            options |= PAPER
        options |= some(rng, {"sweeps": (2, 3), "prior": (0.2, 0.5), "damping": (0.1, 1.0)}, 0.25)
        options |= some(rng, {"forgetting": (0.1,), "predictor": ("memory",)}, 0.25)
        if rng.random() < 0.2:
            options |= {"nonnegative": True}
        elif rng.random() < 0.3 and not options.get("l1_weights"):
            options |= {"exact": True, "damping": pick(rng, (0.0, 0.1, 0.5, 3.0))}
            options |= {} if options["damping"] else {"prior": 0.5}
            options |= some(rng, {"forgetting": (0.0, 1e-3, 0.02)}, 0.8)
        if options.get("targets") != "memory":
            options |= some(rng, {"lr_memory": (0.2, 1.0)}, 0.25)
            options |= some(rng, {"memory_every": (2, 3, 10)}, 0.2)
            linear = not (name.endswith("-off") or {"nonnegative", "l1_weights"} & options.keys())
            if linear and rng.random() < 0.25:
                options.pop("weight_iterations", None)
                options |= {"lr_memory_of": "outputs"} | some(rng, {"weight_momentum": (0.0, 0.9)})
                options |= some(rng, {"lr_memory": (0.01,)})
    else:
        freeze_some_of(rng, network)
    if name.endswith("-off"):
        batch = network.smallest_batch
        options |= {} if batch > 1 else some(rng, {"chunk_size": (1, 5, 1000)}, 0.5)
    loss = any_loss(rng)
    if name.endswith("-off") and not isinstance(loss.given, str):
        options.pop("chunk_size", None)  # a criterion is evaluated chunk by chunk

    def follow(model: nn.Module) -> Follower:
        return OnlineFollower(model, name, loss, options)

    # Then an inverse of the memory is kept.
    trickles = name == "am-mem" and options.get("exact", False) and rng.random() < 0.7
    return Case(
        name,
        network,
        loss,
        options,
        follow,
        in_memory=name.endswith("-off"),
        schedule=True,
        trickles=trickles,
    )


def freeze_some_of(rng: Generator, network: Network) -> None:
    networks.freeze_some(rng, network.model)


def backprop_case(rng: Generator, name: str, seed: int) -> Case:
    network, loss = drawn(rng, networks.any_chain), any_loss(rng)
    if name == "ste":
        network.model.insert(len(network.model) - 1, Sign(pick(rng, ("identity", "clipped"))))
    options = some(rng, {"lr": (0.01, 0.3), "weight_decay": (0.1,)})
    options |= some(rng, {"momentum": (0.5, 0.9)}) if name == "sgd" else {}
    if options.get("momentum"):
        options.pop("weight_decay", None)
    freeze_some_of(rng, network)
    return Case(
        name,
        network,
        loss,
        options,
        lambda model: BackpropFollower(model, name, loss, options),
        schedule=True,
    )


def block_case(rng: Generator, name: str, seed: int) -> Case:
    network, loss = drawn(rng, networks.any_chain), any_loss(rng)
    options = some(
        rng,
        {
            "lr": (0.01,), "rho": (0.3, 2.0), "lr_codes": (0.2, 0.7), "iterations": (2, 3), "code_iterations": (2,),
            "order": ("jacobi",), "duals": ("none", "stored"), "weight_decay": (0.2,),
        },
    )  # fmt: skip
    if rng.random() < 0.2:
        options |= (
            {"proximal": "non-negative"} if rng.random() < 0.5 else {"proximal": "sparse", "l1_codes": 0.2}
        )
    if options.get("duals") == "stored":
        options |= some(rng, {"dual_decay": (0.5, 1.0)}, 0.5)
    maps = map_spans(network.model)
    starts = [end for _, end in maps[:-1]]
    if rng.random() < 0.3 and len(maps) > 1:
        # One cut, anywhere between the first module with parameters and the last.
        starts = [int(rng.integers(maps[0][1], maps[-1][0] + 1))]
        options |= {"blocks": starts}

    def follow(model: nn.Module) -> Follower:
        rest = {"dual_decay": 0.9, **options}
        return BlockFollower(model, starts, loss, rest)

    return Case(name, network, loss, options, follow, in_memory=options.get("duals") == "stored")


def target_case(rng: Generator, name: str, seed: int) -> Case:
    kinds = [nn.Tanh, nn.ReLU, nn.Sigmoid, nn.SiLU]
    network = drawn(rng, lambda rng: networks.linear_chain(rng, kinds, everywhere=False))
    loss = any_loss(rng)
    options = some(
        rng,
        {
            "lr": (0.005,), "lr_inverse": (0.002,), "target_step": (3.0, 0.5), "noise": (0.0, 0.2),
            "weight_decay": (0.2,), "noise_epochs": (2.0,),
        },
    )  # fmt: skip
    return Case(name, network, loss, options, lambda model: TargetFollower(model, loss, options, seed))


def taylor_case(rng: Generator, name: str, seed: int) -> Case:
    network = drawn(
        rng,
        lambda rng: networks.linear_chain(
            rng, [nn.ReLU], largest=5, outputs=test_taylor_admm.CLASSES, layers=int(rng.integers(3))
        ),
    )
    kind = pick(rng, ("hinge", "squared", "cross_entropy", "mse"))
    loss = LossCase(
        kind,
        lambda logits, y: test_taylor_admm.output_loss(kind, logits, y).mean(),
        "real" if kind == "mse" else "classes",
        counts=kind != "mse",
    )
    options = some(
        rng,
        {
            "relaxation": (0.6,), "shrinkage": (0.2,), "beta": (0.4, 2.0), "gamma": (2.0,),
            "multiplier_step": (2.0, 0.0), "warm_start": (0, 1), "ridge": (0.1,), "initialisation": ("random",),
            "chunk_size": (1, 7),
        },
    )  # fmt: skip
    freeze_some_of(rng, network)
    return Case(
        name, network, loss, options, lambda model: TaylorFollower(model, loss, options, seed), in_memory=True,
        most=15,
    )  # fmt: skip


def lifted_case(rng: Generator, name: str, seed: int) -> Case:
    kinds: list[Callable[[], nn.Module]] = [nn.ReLU, lambda: nn.LeakyReLU(0.1), nn.Identity]
    if name == "mdlam":
        kinds += [nn.Tanh, nn.Sigmoid]
    network = drawn(
        rng,
        lambda rng: networks.linear_chain(
            rng, kinds, largest=8, layers=int(rng.integers(3)), everywhere=False
        ),
    )
    choices: dict[str, Sequence[Any]] = {
        "l1_weights": (0.01, 0.1), "l2_weights": (0.1, 0.5), "relaxation": (0.6,), "line_search": ("doubling",),
        "rho": (0.05, 0.5), "chunk_size": (1, 7),
    }  # fmt: skip
    if name == "mdlam":
        options = {"eps0": 0.5} | some(rng, {"eps0": (0.1, 2.0), "eps_decay": (0.8, 1.0), "eps_min": (0.05,)})
    else:
        options = {"rho": 0.2, "nu": 0.1} | some(
            rng, {"nu": (0.5,), "rho_interval": (1, 2), "rho_multiplier": (2.0,)}
        )
    options |= some(rng, choices)
    if any(linear.in_features == 1 for linear in layers_of(network.model)[0]):
        # The curvature is the same in all directions, and rounding decides whether the search doubles it.
        options.pop("l1_weights", None)
    loss: LossCase = pick(rng, NAMED)
    freeze_some_of(rng, network)
    return Case(
        name, network, loss, options, lambda model: LiftedFollower(model, name, loss, options), in_memory=True
    )


def factor_case(rng: Generator, name: str, seed: int) -> Case:
    build = pick(rng, (test_deepfacto.vectors, test_deepfacto.normalised, test_deepfacto.maps))
    model = test_deepfacto.seeded(build)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.from_numpy(rng.normal(size=tuple(parameter.shape)))
    network = Network(model, (test_deepfacto.FEATURES,), test_deepfacto.CLASSES, 8)
    loss = any_loss(rng)
    options = some(
        rng,
        {
            "fidelity": (0.0, 0.3, 1.0), "rho": (1.0, 3.0), "iterations": (2, 3), "duals": ("none",), "lr": (0.01,),
            "code_iterations": (2,), "order": ("jacobi",), "lr_codes": (0.3,), "sweeps": (2,),
            "lr_dictionary": (0.5,), "forgetting": (0.0, 0.2), "prior_batches": (0.1,), "weight_decay": (0.2,),
        },
    )  # fmt: skip
    return Case(name, network, loss, options, lambda model: FactorFollower(model, loss, options))


SQUARED = LossCase(
    "squared", lambda z, y: (z - F.one_hot(y, z.shape[1])).square().sum() / len(z), counts=True
)


def closed_form_case(rng: Generator, name: str, seed: int) -> Case:
    network = drawn(rng, networks.any_chain)
    freeze_some_of(rng, network)
    head = nn.Linear(network.outputs, network.outputs, bias=name != "rls" or rng.random() < 0.8).double()
    if name == "rls" and head.bias is not None and rng.random() < 0.2:
        head.bias.requires_grad_(False)
    network.model.append(head)
    options = {} if name == "ncm" else some(rng, {"ridge": (0.03, 10.0)})
    options |= some(rng, {"class_priors": ("observed",)}) if name == "slda" else {}
    if rng.random() < 0.5 and fits_filters(rng, network):
        options |= {"fit_filters": True}
    loss = pick(rng, [*NAMED, SQUARED]) if name == "rls" else NAMED[0]
    return Case(
        name,
        network,
        loss,
        options,
        lambda model: ClosedFormFollower(model, name, loss, options, seed),
        schedule=True,
    )


def fits_filters(rng: Generator, network: Network) -> bool:
    """Whether few images have patches enough to fit filters to; then minibatches are made that large."""
    for count in range(network.smallest_batch, 9):
        x = torch.from_numpy(rng.normal(size=(count, *network.shape)))
        try:
            altmin_ext.fit_filters(copy.deepcopy(network.model), x)
        except ValueError:
            continue
        network.smallest_batch = count
        return True
    return False


def check_sums(rng: Generator, case: Case, model: nn.Module, seed: int) -> int:
    """Steps, samples forgotten and runs merged, in any order: the solution for what is left; returns how many."""
    follower = case.follow(model)
    if not isinstance(follower, ClosedFormFollower) or case.options.get("fit_filters"):
        return 0  # runs with filters of their own cannot be merged

    def made() -> Any:
        own = copy.deepcopy(model)
        return altmin_ext.make_method(case.name, own, loss=case.loss.given, seed=seed, **case.options)

    def draw() -> tuple[Tensor, Tensor]:
        count = int(rng.integers(1, 40))
        x = torch.from_numpy(rng.normal(size=(count, *case.network.shape)))
        return x, targets_for(rng, case.loss, count, case.network.outputs)

    method, acts = made(), int(rng.integers(2, 8))
    for _ in range(acts):
        kind = pick(rng, ("step", "step", "forget", "merge"))
        if kind == "forget" and follower.seen:
            x, y = (torch.cat(parts) for parts in zip(*follower.seen, strict=True))
            order = torch.from_numpy(rng.permutation(len(x)))
            gone = order[: int(rng.integers(1, len(x) + 1))]
            kept = order[len(gone) :]
            method.forget(x[gone], y[gone])
            follower.seen = [(x[kept], y[kept])] if len(kept) else []
        elif kind == "merge":
            other = made()
            for _ in range(int(rng.integers(3))):
                follower.seen.append(draw())
                other.step(*follower.seen[-1])
            method.merge(other)
        else:
            follower.seen.append(draw())
            method.step(*follower.seen[-1])
        if not follower.seen:
            continue
        follower.solve()
        for key, wanted in follower.state().items():
            found = method.model.state_dict()[key]
            largest = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
            assert bool(((found - wanted).abs() <= 1e-7 * largest).all()), f"{key} after {kind}"
    return acts


CASES: dict[str, Callable[[Generator, str, int], Case]] = {
    "am-sgd": online_case, "am-adam": online_case, "am-mem": online_case, "am-adam-off": online_case,
    "am-mem-off": online_case, "dtp": target_case, "block-admm": block_case, "admm": taylor_case,
    "deepfacto": factor_case, "mdlam": lifted_case, "dladmm": lifted_case, "ste": backprop_case,
    "sgd": backprop_case, "adam": backprop_case, "rls": closed_form_case, "slda": closed_form_case,
    "ncm": closed_form_case,
}  # fmt: skip


# --- a case ---


def run(seed: int) -> int:
    """Train a random network by a random method; returns the number of steps."""
    rng = np.random.default_rng(seed)
    name = pick(rng, list(CASES))
    method_seed = int(rng.integers(1000))
    case = CASES[name](rng, name, method_seed)
    model = copy.deepcopy(case.network.model)
    if case.loss.given is quartic:
        for key in ("lr_codes", "scaling"):  # a fixed step may be too long for a curvature without bound
            case.options.pop(key, None)
    case.options = {**case.options, **some(rng, {"report_objective": (True,)}, 0.3)}  # no reference reads it
    try:
        taken = check(rng, case, method_seed) + check_plans(rng, case, model, method_seed)
        return taken + check_sums(rng, case, model, method_seed)
    except Exception as error:
        said = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        raise AssertionError(f"{said}\n{name} {case.options}, loss {case.loss.given}, {model}") from error


def check(rng: Generator, case: Case, seed: int) -> int:
    """Train by the case, and check everything about it; returns the number of steps."""
    start, full = copy.deepcopy(case.network.model), method_class(case.name).full_batch
    smallest = case.network.smallest_batch
    largest = 4 if case.trickles else 65 if rng.random() < 0.1 else 17
    batch_size = int(rng.integers(smallest, max(smallest + 1, largest)))
    samples = batch_size * int(rng.integers(1, 80 if case.trickles else 4))
    if smallest == 1 and not full:
        samples = max(1, samples - int(rng.integers(batch_size)))
    samples = min(samples, case.most)
    x = torch.from_numpy(rng.normal(size=(samples, *case.network.shape)))
    y = targets_for(rng, case.loss, samples, case.network.outputs)
    offer = offered(rng, x, y, batch_size, in_memory=case.in_memory or full)
    before, generator = copies(offer.owned), generator_state()
    with recorded(case.name) as events:
        try:
            played = (play_train if rng.random() < 0.8 else play_steps)(rng, case, offer, batch_size, seed)
        except altmin_ext.DivergenceError:
            results = follow(case, start, events, 0.0)
            assert has_grown(start, results[-1]), "diverged, which the reference does not"
            check_steps(case, start, events[:-1])
            return len(results)
    steps = steps_of(events)
    assert steps, "no step was taken"
    assert torch.equal(generator_state(), generator), (
        f"torch's generator has moved ({type(offer.data).__name__})"
    )
    assert unchanged(offer.owned, before), f"the user's data have changed ({type(offer.data).__name__})"
    if played.whole_epochs:
        check_minibatches(events, offer, samples if full else batch_size, played.shuffle and not full)
    check_steps(case, start, events)
    check_history(case, steps, events, played, start)
    check_evaluation(rng, case)
    return len(steps)


def check_plans(rng: Generator, case: Case, start: nn.Module, seed: int) -> int:
    """Planned steps and ``learn`` are ordinary steps to the bit, also where one fails; returns how many there are."""
    if method_class(case.name).full_batch or case.options.get("duals") == "stored":
        return 0
    policies = ("raise", "skip", "restore") if method_class(case.name).has_rate else ("raise", "skip")
    pair = SideBySide(
        case.name, start, pick(rng, (torch.float32, torch.float64)), loss=case.loss.given, seed=seed,
        on_nonfinite=pick(rng, policies), **case.options,
    )  # fmt: skip
    least = case.network.smallest_batch
    sizes = [int(rng.integers(least, least + 12)) for _ in range(2)]
    for _ in range(int(rng.integers(4, 12))):
        size, learns = pick(rng, sizes), rng.random() < 0.3
        samples = size * int(rng.integers(1, 6)) + least * int(rng.integers(2)) if learns else size
        x = torch.from_numpy(rng.normal(size=(samples, *case.network.shape))).to(pair.planned.dtype)
        y = targets_for(rng, case.loss, samples, case.network.outputs)
        y = y if case.loss.targets == "classes" else y.to(x.dtype)
        spoiled = rng.random()
        if spoiled < 0.1:
            x.view(-1)[int(rng.integers(x.numel()))] = pick(rng, (math.nan, math.inf))
        elif spoiled < 0.2 and case.loss.targets == "classes":
            y[int(rng.integers(samples))] = case.network.outputs
        if rng.random() < 0.1:
            for method in pair.methods:
                method.learning_rate_factor *= 0.5
        if learns:
            pair.learn(x, y, size)
        else:
            pair.step(x, y)
    return pair.planned.steps


def has_grown(start: nn.Module, result: Result) -> bool:
    """Whether the weights of a step are a million times as large as those at the start, or not finite."""
    first, last = (
        max(float(value.abs().max()) for value in state.values() if value.numel())
        for state in (state_of(start), result.state)
    )
    return not last < 1e6 * first


def generator_state() -> Tensor:
    return torch.random.get_rng_state()


def copies(owned: Sequence[Any]) -> list[Any]:
    return [value.copy() if isinstance(value, np.ndarray) else value.clone() for value in owned]


def unchanged(owned: Sequence[Any], before: Sequence[Any]) -> bool:
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else torch.equal(a, b)
        for a, b in zip(owned, before, strict=True)
    )


@dataclasses.dataclass
class Played:
    """How the steps were taken."""

    history: Any = None
    validation: Offer | None = None
    shuffle: bool = False
    whole_epochs: bool = True


def longest(case: Case) -> int:
    """One more than the largest number of epochs: where an epoch is a step, momentum and duals take some to begin."""
    return 7 if method_class(case.name).full_batch else 3


def play_train(rng: Generator, case: Case, offer: Offer, batch_size: int, seed: int) -> Played:
    played = Played(shuffle=bool(rng.random() < 0.5))
    model: nn.Module = case.network.model
    epochs = int(rng.integers(1, longest(case))) if offer.repeats else 1
    arguments: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "shuffle": played.shuffle}
    if rng.random() < 0.2:
        arguments["steps"] = int(rng.integers(1, 4))
        played.whole_epochs = False
    if rng.random() < 0.4:
        n = int(rng.integers(1, 20))
        x = torch.from_numpy(rng.normal(size=(n, *case.network.shape)))
        y = targets_for(rng, case.loss, n, case.network.outputs)
        played.validation = offered(rng, x, y, 5, in_memory=method_class(case.name).full_batch or epochs > 1)
        arguments["validation"] = played.validation.data
    if case.schedule and rng.random() < 0.3:
        arguments["lr_schedule"] = lambda epoch: 0.5 / (1 + epoch)
    if rng.random() < 0.5:
        arguments |= {"method": case.name, "loss": case.loss.given, **case.options}
    else:
        arguments["method"] = altmin_ext.make_method(
            case.name, model, loss=case.loss.given, seed=seed, **case.options
        )
    played.history = altmin_ext.train(model, offer.data, seed=seed, progress=False, **arguments)
    return played


def play_steps(rng: Generator, case: Case, offer: Offer, batch_size: int, seed: int) -> Played:
    method = altmin_ext.make_method(
        case.name, case.network.model, loss=case.loss.given, seed=seed, **case.options
    )
    if method.full_batch:
        batch_size = len(offer.x)
    numbers = torch.arange(len(offer.x))
    parts = list(zip(*(t.split(batch_size) for t in (offer.x, offer.y, numbers)), strict=True))
    if method.full_batch:
        parts *= int(rng.integers(1, 7))
    for x, y, index in parts:
        if rng.random() < 0.3:
            x = torch.stack([x, -x], -1)[..., 0]
        before = x.clone()
        if case.options.get("duals") == "stored":
            method.step(x, y, index=index)
        else:
            method.step(x, y)
        assert torch.equal(x, before), f"{case.name}: a step wrote to x"
        if method.full_batch:
            method.end_epoch()
    if not method.full_batch:
        method.end_epoch()
    return Played()


def check_minibatches(events: Sequence[Event], offer: Offer, batch_size: int, shuffle: bool) -> None:
    """Every epoch holds every sample once, with its target, in the order of the data unless that may change."""
    epochs: list[list[Step]] = [[]]
    for event in events:
        if isinstance(event, Step):
            epochs[-1].append(event)
        elif isinstance(event, EndEpoch):
            epochs.append([])
    *epochs, rest = epochs
    assert not rest, "steps after the last epoch"
    sizes = offer.sizes or [len(part) for part in offer.x.split(batch_size)]
    for number, epoch in enumerate(epochs):
        assert [len(step.x) for step in epoch] == sizes, (
            f"minibatches of {[len(step.x) for step in epoch]} in epoch {number}, not of {sizes}"
        )
        x, y = torch.cat([step.x for step in epoch]), torch.cat([step.y for step in epoch])
        wanted_x, wanted_y = offer.x, offer.y
        if (shuffle and offer.shuffles) or (offer.sizes and offer.shuffles):
            own, theirs = order(x), order(wanted_x)
            x, y, wanted_x, wanted_y = x[own], y[own], wanted_x[theirs], wanted_y[theirs]
        assert torch.equal(x, wanted_x), f"the method was given other samples in epoch {number}"
        assert torch.equal(y, wanted_y), f"the samples have other targets in epoch {number}"


def order(x: Tensor) -> Tensor:
    """By the first number of every sample, which no two have in common."""
    return x.flatten(1)[:, 0].argsort()


def check_steps(case: Case, start: nn.Module, events: Sequence[Event]) -> None:
    """After every step weights, loss and objective are those of the reference."""
    found, lost = follow(case, start, events, 0.0), 0.0
    for number, (event, result) in enumerate(zip(steps_of(events), found, strict=True)):
        wrong, lost = disagreement(taken(event), result), max(lost, result.lost)
        if has_grown(start, result):
            return  # it diverges, and rounding with it
        if wrong <= max(TOLERANCE, 10 * lost):
            continue
        # How far does the reference itself move when its inputs change in their last digits?
        others = (follow(case, start, events, 1e-15 * scale)[number] for scale in (1, -1, 2))
        moved = max(disagreement(result, other) for other in others)
        assert wrong <= 100 * moved, (
            f"step {number + 1} is off by {wrong:.2e} of the largest, where an ulp of the inputs makes {moved:.2e}"
        )


def steps_of(events: Sequence[Event]) -> list[Step]:
    return [event for event in events if isinstance(event, Step)]


@dataclasses.dataclass
class Result:
    """What a step has come to.

    Attributes:
        loss: before the step.
        objective: of every stage; None if it was not asked for.
        state: the weights behind it.
        lost: what rounding has taken from the reference.
    """

    loss: float
    objective: list[float] | None
    state: dict[str, Tensor]
    lost: float = 0.0


def taken(event: Step) -> Result:
    assert event.state is not None
    return Result(event.loss, event.objective, event.state)


def follow(case: Case, start: nn.Module, events: Sequence[Event], perturbation: float) -> list[Result]:
    """The reference's result of every step, with every input changed by about that part of itself."""

    def changed(value: Tensor) -> Tensor:
        return value * (1 + perturbation * torch.cos(1e3 * value))

    start = copy.deepcopy(start)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.copy_(changed(parameter))
    with torch.random.fork_rng():
        reference = case.follow(start)
        found = []
        for event in events:
            if isinstance(event, BeginEpoch):
                reference.begin_epoch(event)
            elif isinstance(event, EndEpoch):
                reference.end_epoch()
            else:
                etas = [eta * (1 + perturbation) for eta in event.etas]
                loss = reference.step(dataclasses.replace(event, x=changed(event.x), etas=etas))
                state = {key: value.detach().clone() for key, value in reference.state().items()}
                found.append(Result(loss, reference.objective, state, reference.lost()))
    return found


def disagreement(one: Result, other: Result) -> float:
    """The largest difference, in units of the largest weight, of the loss and of the largest objective."""
    largest = max([1e-3, *(float(value.abs().max()) for value in other.state.values() if value.numel())])
    found = [abs(one.loss - other.loss) / max(1.0, abs(other.loss))]
    for key, value in other.state.items():
        found.append(float((one.state[key].double() - value.double()).abs().max()) / largest)
    if one.objective is not None and other.objective is not None:
        unit = max(1.0, *(abs(term) for term in other.objective))
        found += [abs(a - b) / unit for a, b in zip(one.objective, other.objective, strict=True)]
    return max(found, key=lambda value: math.inf if math.isnan(value) else value)


def check_history(
    case: Case, steps: list[Step], events: Sequence[Event], played: Played, start: nn.Module
) -> None:
    """The records are those of the reports; validation is torch's loss of the model at the end of the epoch."""
    history = played.history
    if history is None:
        return
    assert history.steps == len(steps), f"{history.steps} steps recorded, {len(steps)} taken"
    assert history.step_loss.tolist() == [step.loss for step in steps], "other losses in the history"
    ends = [event for event in events if isinstance(event, EndEpoch)]
    assert len(history.epochs) == len(ends), f"{len(history.epochs)} epochs recorded, {len(ends)} ended"
    left = list(steps)
    for row, end in zip(history.epochs, ends, strict=True):
        taken = left[: events_between(events, end)]
        left = left[len(taken) :]
        sizes = np.array([len(step.x) for step in taken])
        loss = float((sizes * np.array([step.loss for step in taken])).sum() / sizes.sum())
        assert math.isclose(row["loss"], loss, rel_tol=1e-12, abs_tol=1e-12), f"{row} instead of {loss}"
        if case.loss.counts:
            hits = sum(step.correct or 0 for step in taken)
            assert math.isclose(row["accuracy"], hits / sizes.sum(), rel_tol=1e-12), f"{row['accuracy']}"
        if played.validation is not None:
            model = copy.deepcopy(start)
            model.load_state_dict(end.state)
            wanted = torch_loss(model, case.loss, played.validation)
            assert math.isclose(row["validation_loss"], wanted, rel_tol=1e-9, abs_tol=1e-9), (
                f"validation loss {row['validation_loss']}, by torch {wanted}"
            )


def events_between(events: Sequence[Event], end: EndEpoch) -> int:
    """The number of steps in the epoch that ends there."""
    count = 0
    for event in events:
        if event is end:
            return count
        if isinstance(event, EndEpoch):
            count = 0
        elif isinstance(event, Step):
            count += 1
    raise LookupError("no such end of an epoch")


def torch_loss(model: nn.Module, loss: LossCase, offer: Offer) -> float:
    model.eval()
    with torch.no_grad():
        return float(loss.mean(model(offer.x.clone()), offer.y))


def check_evaluation(rng: Generator, case: Case) -> None:
    """``evaluate`` is torch's own loss in evaluation mode, and leaves all modes as they were."""
    model = case.network.model
    n = int(rng.integers(1, 20))
    x = torch.from_numpy(rng.normal(size=(n, *case.network.shape)))
    y = targets_for(rng, case.loss, n, case.network.outputs)
    offer = offered(rng, x, y, 4, in_memory=False)
    modes, before = [module.training for module in model.modules()], copies(offer.owned)
    generator = generator_state()
    found = altmin_ext.evaluate(model, offer.data, loss=case.loss.given)
    assert torch.equal(generator_state(), generator), (
        f"evaluate moved torch's generator ({type(offer.data).__name__})"
    )
    assert unchanged(offer.owned, before), f"evaluate changed the user's data ({type(offer.data).__name__})"
    assert [module.training for module in model.modules()] == modes, "evaluate left another mode"
    assert found.samples == n, f"{found.samples} of {n} samples evaluated"
    own = copy.deepcopy(model)
    wanted = torch_loss(own, case.loss, offer)
    assert math.isclose(found.loss, wanted, rel_tol=1e-9, abs_tol=1e-9), (
        f"evaluated as {found.loss}, by torch {wanted} ({type(offer.data).__name__})"
    )
    if case.loss.counts:
        with torch.no_grad():
            hits = (own(offer.x.clone()).argmax(1) == offer.y).double().mean()
        assert found.accuracy == float(hits), f"accuracy {found.accuracy}, by torch {float(hits)}"
