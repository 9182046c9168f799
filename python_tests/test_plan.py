"""Planned steps. Oracle: the same steps one after the other without plans, to the bit.

A second method for a copy of the model has no plans. Weights, state, reports, what the method says of its last step,
exceptions with their messages, and the state of torch's generator must be the same after every step.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import DivergenceError, _plan, models
from altmin_ext.nn import Elman, Sign
from altmin_ext.ops import _native

from .side_by_side import SideBySide, assert_same, everything, minibatches, network, ordinary, seeded

NAMES = ("am-adam", "am-sgd")
every_name = pytest.mark.parametrize("name", NAMES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
MIXED = (5, 5, 5, 1, 1, 5, 1, 16, 5, 16, 16, 1)  # each size at least three times, in any order

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "released": {"scaling": "released"},
    "iterations": {"code_iterations": 3, "weight_iterations": 2},
    "momentum": {"code_iterations": 4, "code_momentum": 0.7},
    "l1": {"l1_codes": 0.05, "l1_weights": 0.01},
    "a rising penalty": {"weight_decay": 0.1, "mu_increment": 0.05, "mu_max": 0.7},
    "a penalty above its bound": {"mu_max": 0.3},
    "a fixed step": {"lr_codes": 0.2, "mu": 0.1, "lr_out": 0.02},
    "codes as they are": {"stage_scaling": "none"},
    "scaled displacements": {"stage_scaling": "displacement", "lr": 0.01},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def warm(name: str = "am-adam", *between: nn.Module, **options: Any) -> SideBySide:
    """Methods after some steps on minibatches of 5, so that the next one is replayed."""
    pair = SideBySide(name, seeded(lambda: network(*copy.deepcopy(between))), **options)
    pair.run(minibatches(5, 5, 5))
    pair.assert_planned()
    return pair


@every_name
@every_option
@every_dtype
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_options(name: str, options: dict[str, Any], dtype: torch.dtype, loss: str) -> None:
    pair = SideBySide(name, seeded(network), dtype, loss=loss, **options)
    pair.run(minibatches(*MIXED, dtype=dtype, loss=loss))
    pair.assert_planned()


def wide() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.Tanh(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 5),
    )


def elman() -> nn.Module:
    return nn.Sequential(Elman(2, 6), nn.Flatten(), nn.Linear(30, 3))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity, "relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.1), "elu": lambda: nn.ELU(0.5),
    "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "gelu by tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU, "softplus": lambda: nn.Softplus(2.0), "dropout": lambda: nn.Dropout(0.3),
    "sign": lambda: Sign("identity"), "clipped sign": lambda: Sign("clipped"), "sign to flip": lambda: Sign("none"),
    "relu, dropout": lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.3)),
    "tanh, sign to flip": lambda: nn.Sequential(nn.Tanh(), Sign("none")),
}  # fmt: skip
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{key: (lambda make=make: network(make()), (6,)) for key, make in ACTIVATIONS.items()},
    "no bias": (lambda: network(bias=False), (6,)),
    "a Flatten first": (lambda: network(front=[nn.Flatten()]), (2, 3)),
    "an activation first": (lambda: network(front=[nn.Tanh()]), (6,)),
    "a dropout first": (lambda: network(nn.ReLU(), nn.Dropout(0.2), front=[nn.Dropout(0.3)]), (6,)),
    "one Linear": (lambda: nn.Linear(6, 3), (6,)),
    "binary": (lambda: models.binary_mlp(6, [8, 8], 3), (6,)),
    "Elman": (elman, (5, 2)),
}
UNPLANNED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "batch normalisation": (lambda: network(nn.BatchNorm1d(8), nn.ReLU()), {}, "'0' is evaluated by torch"),
    "objectives": (network, {"report_objective": True}, "report_objective=True"),
    "a criterion": (network, {"loss": nn.CrossEntropyLoss()}, "differentiated by torch"),
    "softsign first": (lambda: network(front=[nn.Softsign()]), {}, "begins with modules"),
}


@every_name
@pytest.mark.parametrize("key", NETWORKS)
def test_networks(name: str, key: str) -> None:
    build, shape = NETWORKS[key]
    pair = SideBySide(name, seeded(build))
    pair.run(minibatches(*MIXED, shape=shape))
    pair.assert_planned()


@every_name
def test_lenet(name: str) -> None:
    pair = SideBySide(name, seeded(lambda: models.lenet5(1, 28, 10)))
    pair.run(minibatches(2, 2, 2, 17, 17, 17, 2, 1, 1, 1, 17, shape=(1, 28, 28), classes=10))
    pair.assert_planned()


@every_name
@pytest.mark.parametrize("weights", [1, 3])
@every_dtype
def test_elman_iterations(name: str, weights: int, dtype: torch.dtype) -> None:
    pair = SideBySide(name, seeded(elman), dtype, code_iterations=2, weight_iterations=weights)
    pair.run(minibatches(*MIXED, shape=(5, 2), dtype=dtype))
    pair.assert_planned()


@pytest.mark.parametrize("key", UNPLANNED)
def test_what_is_not_planned_says_why(key: str) -> None:
    build, options, words = UNPLANNED[key]
    pair = SideBySide("am-adam", seeded(build), **options)
    pair.run(minibatches(5, 5, 5))
    assert pair.planned.why_not_planned is not None
    assert words in pair.planned.why_not_planned
    assert pair.planned._latest_plan is None


@pytest.mark.parametrize("frozen", range(6))
def test_frozen_parameters(frozen: int) -> None:
    model = seeded(network)
    list(model.parameters())[frozen].requires_grad_(False)
    pair = SideBySide("am-adam", model)
    pair.run(minibatches(5, 5, 5, 5))
    pair.assert_planned()


def test_the_third_minibatch_of_a_shape_is_the_first_one_replayed() -> None:
    method = altmin_ext.make_method("am-adam", seeded(network))
    x, y = minibatches(5)[0]
    with mock.patch.object(method, "_compute", wraps=method._compute) as compute:
        for computed in (1, 2, 2, 2):
            method.step(x, y)
            assert compute.call_count == computed


# --- the minibatch ---


class Carrying(Tensor):
    """A tensor of a class of the user's."""


def elsewhere(tensor: Tensor, offset: int) -> Tensor:
    """The same numbers in memory that begins so many bytes behind a multiple of 64."""
    memory = torch.zeros(tensor.nbytes + 128, dtype=torch.uint8)
    first = (offset - memory.data_ptr()) % 64
    return torch.frombuffer(
        memory.numpy(), dtype=tensor.dtype, offset=first, count=tensor.numel()
    ).view(tensor.shape).copy_(tensor)  # fmt: skip


def in_inference_mode(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "transposed": lambda x: x.t().contiguous().t(),
    "negated": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
    "expanded": lambda x: x[:1].expand_as(x),
    "of inference mode": in_inference_mode,
    "with a gradient": lambda x: x.clone().requires_grad_(),
    "a parameter": lambda x: nn.Parameter(x.clone()),
    "of a class": lambda x: x.as_subclass(Carrying),
    "in the middle": lambda x: torch.cat([x[:1], x])[1:],
    "between two numbers": lambda x: elsewhere(x, 2),
    "double": Tensor.double, "half": Tensor.half, "integers": Tensor.int, "elsewhere": lambda x: x.to("meta"),
    "sparse": Tensor.to_sparse, "array": Tensor.numpy, "list": Tensor.tolist, "none": lambda x: None,
    "wide": lambda x: torch.cat([x, x], 1), "flat": Tensor.flatten, "deep": lambda x: x[None],
    "empty": lambda x: x[:0],
}  # fmt: skip
LABELS: dict[str, Callable[[Tensor], Any]] = {
    "int32": Tensor.int, "uint8": Tensor.byte, "int16": Tensor.short, "uint64": lambda y: y.to(torch.uint64),
    "float": Tensor.float, "bool": Tensor.bool, "strided": lambda y: torch.stack([y, y], 1)[:, 0],
    "too small": lambda y: y - 1, "too large": lambda y: y + 3, "column": lambda y: y[:, None],
    "too few": lambda y: y[:4], "between two numbers": lambda y: elsewhere(y, 4), "list": Tensor.tolist,
    "of inference mode": in_inference_mode,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_forms_of_the_inputs(form: str, loss: str) -> None:
    """As x, and as the targets of mse; a minibatch that is refused leaves no trace."""
    classes = 3 if loss == "cross_entropy" else 6
    pair = SideBySide("am-adam", seeded(lambda: network(classes=classes)), loss=loss)
    good = minibatches(5, 5, 5, classes=classes, loss=loss)
    for _ in range(2):
        pair.run(good)
        x, y = good[0]
        for _ in range(3):
            pair.step(*((FORMS[form](x), y) if loss == "cross_entropy" else (x, FORMS[form](y))))
    pair.run(good)
    pair.assert_planned()


@pytest.mark.parametrize("form", LABELS)
def test_forms_of_the_labels(form: str) -> None:
    pair = warm()
    x, y = minibatches(5)[0]
    for _ in range(3):
        pair.step(x, LABELS[form](y))
    pair.run(minibatches(5, 5))
    pair.assert_planned()


def test_inputs_that_are_their_own_targets() -> None:
    pair = SideBySide("am-adam", seeded(lambda: network(classes=6)), loss="mse")
    for x, _ in minibatches(5, 5, 5, 5):
        pair.run([(x, x)])
    pair.assert_planned()


def test_a_lazily_negated_number() -> None:
    """The only form of lazy negation that lies in memory as a plan could read it."""
    pair = SideBySide("am-adam", seeded(lambda: network(features=1)))
    ((x, y),) = minibatches(1, shape=(1,))
    pair.run([(x, y)] * 3)
    pair.run([(FORMS["negated"](x), y)] * 3)
    pair.assert_planned()


@pytest.fixture(params=["auto", "own", "blas"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of matrix products."""
    if not _native.module.matmul_backend(request.param):
        pytest.skip(f"there is no backend {request.param!r} here")
    yield request.param
    _native.module.matmul_backend("auto")


@pytest.mark.parametrize("offset", [0, 4, 8, 20, 32, 60])
@pytest.mark.parametrize("features", [5, 31])
@every_dtype
def test_anywhere_in_memory(backend: str, offset: int, features: int, dtype: torch.dtype) -> None:
    """A BLAS may round otherwise where memory begins elsewhere, also in the step that is recorded."""
    pair = SideBySide("am-adam", seeded(lambda: network(features=features)), dtype)
    for x, y in minibatches(*[8] * 6, shape=(features,), dtype=dtype):
        pair.run([(elsewhere(x, offset - offset % x.element_size()), y)])
    pair.assert_planned()


def test_a_minibatch_is_read_and_never_written() -> None:
    pair = warm()
    x, y = minibatches(5)[0]
    before = x.clone(), y.clone()
    versions = x._version, y._version
    for _ in range(3):
        pair.run([(x, y)])
    assert_same((x, y), before)
    assert (x._version, y._version) == versions


# --- failures ---


def spoiled(what: str) -> tuple[Tensor, Tensor]:
    ((x, y),) = minibatches(5, seed=7)
    if what in ("label", "both"):
        y[2] = 9
    if what in ("NaN", "both"):
        x[1, 2] = torch.nan
    if what == "Inf":
        x[4] = torch.inf
    return x, y


FAILURES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "several updates": {"weight_iterations": 2},
    "may overflow": {"lr": 1e38},
    "a fixed step": {"lr_codes": 0.2},
}


@every_name
@pytest.mark.parametrize("what", ["label", "NaN", "Inf", "both"])
@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize("options", FAILURES.values(), ids=FAILURES)
def test_steps_that_fail(name: str, what: str, policy: str, options: dict[str, Any]) -> None:
    """At first, where a step would be recorded, once and twice where it would be replayed, and what comes then."""
    for before in (0, 1, 2, 3):
        pair = SideBySide(name, seeded(network), on_nonfinite=policy, **options)
        for x, y in minibatches(*[5] * before):
            pair.step(x, y)
        for _ in range(2):
            outcome = pair.step(*spoiled(what))
            assert isinstance(outcome, Exception) == (policy == "raise" or what in ("label", "both"))
            assert not isinstance(outcome, RuntimeError) or isinstance(outcome, DivergenceError)
        for x, y in minibatches(5, 5, 5, 7, 7, 5):
            pair.step(x, y)
        if options.get("lr") != 1e38:
            pair.assert_planned()


@pytest.mark.parametrize("what", ["label", "NaN", "both"])
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_steps_with_dropout_that_fail(what: str, policy: str) -> None:
    """The masks of the next step are those that would have been drawn."""
    pair = warm("am-adam", nn.ReLU(), nn.Dropout(0.3), on_nonfinite=policy)
    for _ in range(2):
        pair.step(*spoiled(what))
        pair.run(minibatches(5, 5))
    pair.assert_planned()


class Interrupted(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("error", [Interrupted, MemoryError])
@pytest.mark.parametrize("op", ["activate", "softmax_residual", "adam_update", "power_iteration"])
@pytest.mark.parametrize("at", [0, 1])
def test_an_exception_while_a_step_is_recorded(error: type[BaseException], op: str, at: int) -> None:
    """At the first or second call of an op: nothing is recorded afterwards, and the model is as it would be."""
    from altmin_ext.ops import unversioned

    pair = SideBySide("am-adam", seeded(network))
    pair.run(minibatches(5))
    calls, real = iter(range(99)), getattr(unversioned, op)

    def failing(*args: Any, **kwargs: Any) -> None:
        if next(calls) == at:
            raise error
        real(*args, **kwargs)

    x, y = minibatches(5, seed=3)[0]
    for method in pair.methods:
        calls = iter(range(99))
        with mock.patch.object(unversioned, op, failing), contextlib.suppress(error):
            method.step(x, y)
    recorded = pair.planned._replayed
    assert recorded is not None
    native = next(iter(recorded._replays.values()))._plan.native if recorded._replays else None
    length = None if native is None else len(native)
    bystander = ordinary(altmin_ext.make_method("am-sgd", seeded(network)))
    bystander.step(x, y)
    assert length is None or len(native) == length
    pair.compare()
    pair.run(minibatches(5, 5, 5, seed=4))
    pair.assert_planned()


def test_what_torch_decides_by_values_is_not_planned() -> None:
    """The step is made once, with the masks that it would have drawn."""
    pair = SideBySide("am-adam", seeded(lambda: network(nn.ReLU(), nn.Dropout(0.3))))
    for method in pair.methods:
        move = method._move_codes

        def looking(y: Tensor, method: Any = method, move: Any = move) -> None:
            assert float(method._logits.sum()) < 1e9
            move(y)

        method._move_codes = looking
    pair.run(minibatches(5, 5, 5, 5))
    assert pair.planned._latest_plan is None
    assert "_local_scalar_dense" in str(pair.planned._replayed.reason)


# --- what changes between steps ---


def to_other_memory(method: Any) -> None:
    for parameter in method.model.parameters():
        parameter.data = parameter.data.clone()


def to_other_memory_and_back(method: Any) -> None:
    weight = method.model[0].weight
    before = weight.data
    weight.data = before.clone()
    method.step(*minibatches(5)[0])
    before.copy_(weight.data)
    weight.data = before


def to_double_and_back(method: Any) -> None:
    method.model.double()
    with pytest.raises(ValueError, match=r"float64"):
        method.step(*minibatches(5)[0])
    method.model.float()


def load_own_state(method: Any) -> None:
    state, weights = method.state_dict(), copy.deepcopy(method.model.state_dict())
    method.step(*minibatches(5, seed=9)[0])
    method.step(*minibatches(7, seed=9)[0])
    method.load_state_dict(state)
    method.model.load_state_dict(weights)


def scale_in_place(method: Any) -> None:
    with torch.no_grad():
        for parameter in method.model.parameters():
            parameter.mul_(0.9)


def train_by_another(method: Any) -> None:
    ordinary(altmin_ext.make_method("am-sgd", method.model)).step(*minibatches(5, seed=8)[0])


CHANGES: dict[str, Callable[[Any], Any]] = {
    "other memory": to_other_memory,
    "other memory and back": to_other_memory_and_back,
    "double and back": to_double_and_back,
    "state loaded": load_own_state,
    "weights scaled": scale_in_place,
    "another method for the model": train_by_another,
    "learning rate": lambda method: setattr(method, "learning_rate_factor", 0.3),
    "penalty": lambda method: setattr(method, "mu", 0.2),
    "end of an epoch": lambda method: method.end_epoch(),
    "mode": lambda method: method.model.eval() and None,
    "on_nonfinite": lambda method: setattr(method, "on_nonfinite", "skip"),
    "rate of dropout": lambda method: setattr(method.model[2], "p", 0.6),
    "no dropout": lambda method: setattr(method.model[2], "p", 0.0),
    "everything dropped": lambda method: setattr(method.model[2], "p", 1.0),
    "mode of dropout": lambda method: method.model[2].eval() and None,
    "nothing": lambda method: None,
}


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_between_steps(change: str, dropout: bool) -> None:
    pair = warm("am-adam", nn.ReLU(), nn.Dropout(0.3) if dropout else nn.Identity(), mu_multiplier=1.5)
    for _ in range(2):
        pair.each(CHANGES[change])
        if change == "on_nonfinite":
            pair.step(*spoiled("NaN"))
        pair.run(minibatches(5, 5, 7, 7, 7, 5, 5))
        pair.assert_planned()


def test_the_rate_of_a_dropout_in_front() -> None:
    pair = SideBySide("am-adam", seeded(lambda: network(front=[nn.Dropout(0.3)])))
    for rate in (0.3, 0.6, 0.0, 0.3):
        for method in pair.methods:
            method.model[0].p = rate
        pair.run(minibatches(5, 5, 5))
        pair.assert_planned()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda method: pickle.loads(pickle.dumps(method))],
    ids=["deepcopy", "copy", "pickle"],
)  # fmt: skip
def test_copies_midway(copied: Callable[[Any], Any]) -> None:
    pair = warm()
    pair.planned, pair.by_steps = copied(pair.planned), ordinary(copied(pair.by_steps))
    pair.run(minibatches(5, 5, 5, 5))
    pair.assert_planned()


CONTEXTS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad, "enable_grad": torch.enable_grad, "device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16), "inference_mode": torch.inference_mode,
    "reference": lambda: altmin_ext.ops.backend("reference"),
}  # fmt: skip


@pytest.mark.parametrize("context", CONTEXTS)
def test_contexts_around_steps(context: str) -> None:
    """More steps than reports have memory at once, each of them made, or refused, as without a plan."""

    def steps(method: Any) -> list[Any]:
        with CONTEXTS[context]():
            return [method.step(x, y) for _ in range(35)]

    pair = warm()
    x, y = minibatches(5)[0]
    for _ in range(2):
        pair.each(steps)
        pair.run([(x, y)])
    pair.assert_planned()


def test_a_transform_of_torch_func_around_a_step() -> None:
    """Its tensors have no memory that a plan could read."""
    pair = warm()
    x, y = minibatches(5)[0]
    for _ in range(2):
        outcome = pair.each(lambda method: torch.func.vmap(lambda v: method.step(v, y).loss)(x[None]))
        assert isinstance(outcome, ValueError)
        pair.run([(x, y)])
    pair.assert_planned()


def test_hooks_and_layers_that_come_later_are_refused() -> None:
    pair = warm()
    x, y = minibatches(5)[0]
    hooks = [method.model[0].register_forward_hook(lambda *_: None) for method in pair.methods]
    assert isinstance(pair.step(x, y), ValueError)
    for hook in hooks:
        hook.remove()
    pair.run([(x, y)])
    for method in pair.methods:
        method.model.append(seeded(lambda: nn.Linear(3, 3)))
    assert isinstance(pair.step(x, y), ValueError)


def test_settings_of_the_machine_between_steps() -> None:
    pair = warm()
    threads, isa = torch.get_num_threads(), _native.module.instruction_set()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            pair.run(minibatches(5, 5, 33, 33, 33))
        for name in ("baseline", isa):
            _native.module.use_instruction_set(name)
            pair.run(minibatches(5, 5, 33, 33, 33))
        torch.use_deterministic_algorithms(True)
        pair.run(minibatches(5, 6, 6, 6))
        torch.set_default_dtype(torch.float64)
        pair.run(minibatches(5, 5, 4, 4, 4))
    finally:
        torch.set_num_threads(threads)
        _native.module.use_instruction_set(isa)
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(torch.float32)
    pair.assert_planned()


@every_name
@pytest.mark.parametrize(
    "options", [{}, {"code_iterations": 2, "weight_iterations": 2}], ids=["once", "twice"]
)
@pytest.mark.parametrize("size", [64, 100])
def test_networks_whose_stages_are_fitted_side_by_side(name: str, options: dict[str, Any], size: int) -> None:
    """On two threads, where a plan is recorded and replayed on as many, or on another number, as it was recorded."""
    threads, recorded = torch.get_num_threads(), []
    batches = minibatches(*[size] * 3, shape=(64,), classes=5)
    _native.module.matmul_backend("own")  # the products of a BLAS stay one after the other
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            pair = SideBySide(name, seeded(wide), **options)
            pair.run(batches)
            torch.set_num_threads(3 - number)
            pair.run(batches)
            pair.step(batches[0][0], batches[0][1] + 1)
            pair.run(batches)
            if _native.module.matmul_backend("blas"):
                pair.run(batches)
                _native.module.matmul_backend("own")
            pair.assert_planned()
            recorded.append(len(pair.planned._latest_plan._plan.native))
    finally:
        torch.set_num_threads(threads)
        _native.module.matmul_backend("auto")
    assert recorded[1] < recorded[0]


# --- what is kept ---


def test_recordings_of_eight_shapes_are_kept() -> None:
    pair = SideBySide("am-adam", seeded(network))
    for size in range(1, 13):
        pair.run(minibatches(size, size, size))
    replays = pair.planned._replayed._replays
    assert [key[0][0] for key in replays] == list(range(5, 13))
    pair.run(minibatches(*[size for _ in range(2) for size in range(12, 0, -1)]))
    assert len(replays) == len(pair.planned._replayed._seen) == 8


def test_reports_do_not_change_later() -> None:
    method = warm().planned
    x, y = minibatches(5)[0]
    reports = [method.step(x, y) for _ in range(140)]
    losses = [float(report.loss) for report in reports]
    assert losses == sorted(losses, reverse=True)
    assert len({report.loss.data_ptr() for report in reports}) == len(reports)
    assert len({report.correct.data_ptr() for report in reports}) == len(reports)
    reports[0].loss.add_(1.0)
    assert [float(report.loss) for report in reports[1:]] == losses[1:]


@pytest.mark.parametrize("of", ["child", "parameter", "model"])
def test_a_method_that_hangs_on_its_model_is_collected(of: str) -> None:
    method = warm().planned
    owner = {"child": method.model[0], "parameter": method.model[0].weight, "model": method.model}[of]
    object.__setattr__(owner, "method", method)
    watched = weakref.ref(method)
    del method, owner
    gc.collect()
    assert watched() is None


def test_the_versions_of_weights_rise() -> None:
    """So that autograd refuses what has been overwritten."""
    method = warm().planned
    (x, y), weight = minibatches(5)[0], method.model[0].weight
    kept = (weight * weight).sum()
    method.step(x, y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


# --- threads ---


def test_recording_in_one_thread_leaves_others_alone() -> None:
    """Two methods record, replay and stream at the same time, each as it would alone."""
    turns = threading.Barrier(2, timeout=60)
    found: dict[int, Any] = {}

    def train(number: int, wait: Callable[[], Any]) -> Any:
        method = altmin_ext.make_method("am-adam", seeded(network), seed=number)
        for size in (5, 1, 9):
            compute = method._compute

            def meeting(x: Tensor, y: Tensor, compute: Any = compute) -> Any:
                wait()
                return compute(x, y)

            with mock.patch.object(method, "_compute", meeting):  # both are in their first, then second, step
                for x, y in minibatches(size, size, seed=number):
                    method.step(x, y)
            for x, y in minibatches(*[size] * 20, seed=number):
                method.step(x, y)
            method.learn(*minibatches(40, seed=number)[0], size)
        return everything(method)

    threads = [
        threading.Thread(target=lambda i=i: found.__setitem__(i, train(i, turns.wait))) for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert_same(found[i], train(i, lambda: None))


def test_a_method_that_passes_from_thread_to_thread() -> None:
    pair = SideBySide("am-adam", seeded(network))
    for x, y in minibatches(5, 5, 5, 7, 5, 7, 7):
        outcomes: list[Any] = []

        def step(x: Tensor = x, y: Tensor = y, outcomes: list[Any] = outcomes) -> None:
            outcomes.append(pair.planned.step(x, y))

        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
        assert_same(outcomes[0], pair.by_steps.step(x, y))
        pair.compare()
    pair.assert_planned()


def test_two_methods_for_one_model() -> None:
    """Each replays its plans on the weights that the other has moved."""
    results = []
    for prepare in (lambda method: method, ordinary):
        model = seeded(network)
        methods = [prepare(altmin_ext.make_method(name, model)) for name in NAMES]
        for x, y in minibatches(*[5] * 6):
            for method in methods:
                method.step(x, y)
        results.append([everything(method) for method in methods])
    assert_same(*results)


def test_ops_outside_a_step_are_not_recorded() -> None:
    pair = warm()
    native = pair.planned._latest_plan._plan.native
    length = len(native)
    a = torch.ones(2, 2)
    altmin_ext.ops.matmul(a, a, out=torch.empty(2, 2))
    ordinary(altmin_ext.make_method("am-sgd", seeded(network))).step(*minibatches(5)[0])
    assert len(native) == length
    assert _plan._refused == _native.module.Recording.refused
