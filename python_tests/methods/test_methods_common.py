"""One behavioural suite for every method: what a user may rely on whichever one is named."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.overrides import TorchFunctionMode

import altmin_ext
from altmin_ext import models


@dataclass(frozen=True)
class Case:
    """How a method takes part: options with which it learns the blobs, and what kind of method it is."""

    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 60
    codes: bool = True  # cuts the network into stages, and names them in its errors
    mu: bool = True  # takes the options of alternating minimisation
    activation: type[nn.Module] = nn.Tanh  # in front of the last layer, where others have tanh
    dropout: bool = True  # takes networks that drop out
    factors: bool = False  # needs a layer of factors; takes -1 for no label
    modules: bool = True  # takes networks with modules of the user's own
    normalisation: bool = True  # likewise with batch normalisation
    learns_all: bool = True  # all layers, at a learning rate, and not the last one in closed form
    real_targets: bool = True  # takes loss="mse"
    falls_to: float = 0.2  # of the first loss on the blobs
    restarts: bool = False  # begins its codes anew where a step has failed midway, as its documentation says


METHODS = {
    "adam": Case({"lr": 0.01}, codes=False, mu=False),
    "admm": Case(
        {"relaxation": 1.0, "loss": "cross_entropy", "beta": 0.1, "ridge": 1e-4},
        mu=False,
        activation=nn.ReLU,
        dropout=False,
        modules=False,
    ),
    "am-adam": Case({"lr": 0.01}),
    "am-adam-off": Case({"lr": 0.01}),
    "am-mem-off": Case({"lr": 0.01, "lr_memory": 0.5}, normalisation=False),
    "am-mem": Case({"lr": 0.01, "lr_memory": 0.5}, normalisation=False),
    "am-sgd": Case({"lr": 0.5}),
    "dladmm": Case(
        {"relaxation": 1.0, "rho": 0.1, "nu": 0.1}, mu=False, dropout=False, modules=False, restarts=True
    ),
    "dtp": Case({"lr": 0.005, "lr_inverse": 0.002}, mu=False, modules=False),
    "block-admm": Case({"lr": 0.01}, mu=False),
    "deepfacto": Case({"lr": 0.01, "lr_dictionary": 1.0}, mu=False, factors=True),
    "mdlam": Case(
        {"relaxation": 1.0, "eps0": 0.1, "eps_decay": 0.7},
        mu=False,
        dropout=False,
        modules=False,
        restarts=True,
    ),
    "ncm": Case(codes=False, mu=False, learns_all=False, real_targets=False, falls_to=0.9),
    "rls": Case(
        {"ridge": 0.1, "loss": "cross_entropy"}, codes=False, mu=False, learns_all=False, falls_to=0.9
    ),
    "sgd": Case({"lr": 0.1, "momentum": 0.5}, codes=False, mu=False),
    "slda": Case({"ridge": 0.1}, codes=False, mu=False, learns_all=False, real_targets=False),
    "ste": Case({"lr": 0.01}, codes=False, mu=False),
}
every_method = pytest.mark.parametrize("name", METHODS)
methods_with_codes = pytest.mark.parametrize("name", [name for name, case in METHODS.items() if case.codes])
methods_with_lr = pytest.mark.parametrize("name", [name for name, case in METHODS.items() if case.learns_all])
methods_of_real_targets = pytest.mark.parametrize(
    "name", [name for name, case in METHODS.items() if case.real_targets]
)
methods_with_mu = pytest.mark.parametrize("name", [name for name, case in METHODS.items() if case.mu])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

FEATURES, CLASSES = 6, 3


def network(
    name: str, dtype: torch.dtype = torch.float32, *, hidden: int = 16, dropout: float = 0.0
) -> nn.Sequential:
    """The same for all methods, but for what one needs of its own."""
    case = METHODS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drop = [nn.Dropout(dropout)] if dropout else []
        below = [nn.Flatten(), nn.Linear(FEATURES, hidden), nn.ReLU(), *drop, nn.Linear(hidden, 12)]
        middle = [nn.ReLU(), altmin_ext.NonNegativeFactors(12, 12)] if case.factors else [case.activation()]
        return nn.Sequential(*below, *middle, nn.Linear(12, CLASSES)).to(dtype)


def blobs(dtype: torch.dtype = torch.float32, size: int = 48) -> tuple[Tensor, Tensor]:
    """Three well separated clouds."""
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.eye(CLASSES, FEATURES, dtype=torch.float64)
    y = torch.arange(size) % CLASSES
    noise = 0.3 * torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
    return (centres[y] + noise).to(dtype), y


def own_word(name: str, option: str) -> str:
    """What a method without a learning rate has in place of an option of those that have one."""
    own = {field.name for field in dataclasses.fields(altmin_ext.methods.method_class(name).Options)}
    words = {"lr": ("relaxation",), "weight_decay": ("l2_weights", "shrinkage")}.get(option, ())
    return next((word for word in words if word in own), option)


def make(name: str, model: nn.Module, **options: Any) -> Any:
    return altmin_ext.make_method(name, model, **{**METHODS[name].options, **options})


def run(method: Any, x: Tensor, y: Tensor, steps: int = 3) -> list[float]:
    return [float(method.step(x, y).loss) for _ in range(steps)]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit, in values and dtypes."""
    return one.keys() == other.keys() and all(same_bits(one[key], other[key]) for key in one)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """NaN is NaN."""
    bits = (tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in (one, other))
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)


def assert_sentence(error: pytest.ExceptionInfo[Any], *words: str) -> None:
    """The message is one line that says something, and holds the given words."""
    message = str(error.value)
    assert "\n" not in message
    assert len(message.split()) >= 4, message
    for word in words:
        assert word in message, message


def test_every_method_has_a_row() -> None:
    assert sorted(METHODS) == sorted(altmin_ext.methods.names())


# --- training ---


@every_method
@every_dtype
def test_learns_blobs(name: str, dtype: torch.dtype) -> None:
    model = network(name, dtype)
    x, y = blobs(dtype)
    losses = run(make(name, model), x, y, METHODS[name].steps)
    assert losses[-1] < METHODS[name].falls_to * losses[0]
    assert all(parameter.dtype == dtype for parameter in model.parameters())
    with torch.no_grad():
        assert float((model(x).argmax(1) == y).double().mean()) > 0.95


@methods_of_real_targets
def test_learns_with_mse(name: str) -> None:
    model = network(name, torch.float64)
    x, y = blobs(torch.float64)
    targets = nn.functional.one_hot(y, CLASSES).double()
    method = make(name, model, loss="mse")
    losses = run(method, x, targets, METHODS[name].steps)
    assert losses[-1] < 0.5 * losses[0]
    assert method.step(x, targets).correct is None


@every_method
@every_dtype
def test_report(name: str, dtype: torch.dtype) -> None:
    """Loss and hits of the network as it was before the step; an objective per stage where asked for."""
    model = network(name, dtype)
    x, y = blobs(dtype)
    with torch.no_grad():
        logits = model(x)
    report = make(name, model, report_objective=False).step(x, y)
    torch.testing.assert_close(report.loss, nn.functional.cross_entropy(logits, y))
    assert int(report.correct) == int((logits.argmax(1) == y).sum())
    assert report.objective is None
    assert not report.loss.requires_grad
    assert report.loss.shape == report.correct.shape == ()

    objective = make(name, model, report_objective=True).step(x, y).objective
    values = [float(value) for value in objective]
    case = METHODS[name]
    assert len(values) == (2 if case.factors else 3 if case.codes else 1)
    assert all(value >= 0 for value in values)


@pytest.mark.parametrize(
    ("name", "dropout"),
    [(name, rate) for name, case in METHODS.items() for rate in (0.0, 0.3) if case.dropout or rate == 0],
)
def test_same_seed_same_bits(name: str, dropout: float) -> None:
    x, y = blobs()
    results = []
    for _ in range(2):
        model = network(name, dropout=dropout)
        method = make(name, model, seed=5)
        torch.manual_seed(11)  # of no account but to the user's own Dropout
        run(method, x, y)
        results.append(snapshot(model))
    assert same(*results)


@every_method
def test_leaves_the_global_generator_alone(name: str) -> None:
    x, y = blobs()
    model = network(name)
    before = torch.random.get_rng_state()
    method = make(name, model)
    run(method, x, y)
    method.end_epoch()
    assert torch.equal(torch.random.get_rng_state(), before)


@every_method
def test_touches_nothing_but_the_weights(name: str) -> None:
    model = network(name)
    x, y = blobs()
    x_before, y_before = x.clone(), y.clone()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    identities = [id(parameter) for parameter in model.parameters()]
    run(make(name, model), x, y)
    assert torch.equal(x, x_before)
    assert torch.equal(y, y_before)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert model.training
    assert torch.is_grad_enabled()


@every_method
def test_frozen_parameters_stay(name: str) -> None:
    model = network(name)
    frozen = ("1.bias", "3.weight", "3.bias")
    for key in frozen:
        model.get_parameter(key).requires_grad_(False)
    if not METHODS[name].learns_all:
        frozen = ("1.weight", *frozen)
    before = snapshot(model)
    run(make(name, model), *blobs(), steps=8)  # in some methods labels take a step or two from layer to layer
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == (key in frozen), key


@every_method
def test_a_copy_goes_on_by_itself(name: str) -> None:
    """To the bits of the first; what is not finite in one of them is told by that one."""
    first = make(name, network(name))
    run(first, X, Y)
    second = copy.deepcopy(first)
    before = snapshot(second.model)
    losses = run(first, X, Y)
    assert same(second.model.state_dict(), before)
    with pytest.raises(altmin_ext.DivergenceError):
        second.step(spoiled(torch.nan), Y)
    assert run(second, X, Y) == losses
    assert same(second.model.state_dict(), first.model.state_dict())


def held_by_a_graph(tensor: Tensor) -> Tensor:
    """A sum whose derivative needs the tensor."""
    return (tensor * torch.ones_like(tensor, requires_grad=True)).sum()


@every_method
def test_a_graph_held_across_a_step_is_refused(name: str) -> None:
    """By autograd, as after a step of torch.optim: for every weight, and every buffer, that has been overwritten."""
    case = METHODS[name]
    model = network(name)
    if case.normalisation and case.modules:
        model = nn.Sequential(model[0], nn.BatchNorm1d(FEATURES), Running(), *list(model)[1:])
    method = make(name, model)
    moved = set()
    for _ in range(8):
        own, before = model.state_dict(keep_vars=True), snapshot(model)
        tensors = {key: tensor for key, tensor in own.items() if tensor.is_floating_point()}
        held = {key: held_by_a_graph(tensor) for key, tensor in tensors.items()}
        logits = model(X)
        method.step(X, Y)
        if not case.factors:  # through which no derivative passes anyway
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                logits.sum().backward()
        for key, value in held.items():
            if not same_bits(tensors[key], before[key]):
                moved.add(key)
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    value.backward()
    last = tuple(key for key, _ in model.named_parameters())[-2:]
    assert moved >= set(dict(model.named_parameters()) if case.learns_all else last)
    held = {key: held_by_a_graph(tensor) for key, tensor in tensors.items()}
    with pytest.raises(ValueError, match="y must"):
        method.step(X, Y[:3])
    for value in held.values():  # nothing has been overwritten
        value.backward()


class Running(nn.Module):
    """A module of the user's own that keeps a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))

    def forward(self, a: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * a.detach().mean(0)
        return a - self.mean


def last_of(model: nn.Module) -> nn.Linear:
    *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    return last


def give(parameter: Tensor, values: Tensor) -> None:
    """Other memory, without torch's knowledge."""
    parameter.data = values


def swap_children(model: Any) -> None:
    model._modules["0"], model._modules["1"] = model._modules["1"], model._modules["0"]


def tie(model: Any) -> None:
    model[3].bias = model[1].bias


def share_memory_of(model: Any) -> None:
    give(model[3].bias, model[3].weight.data[0, :12])


# What is done to the model, and what the refusal says.
MODEL_CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "frozen": (lambda model: model.get_parameter("3.weight").requires_grad_(False), "'3.weight' .* frozen"),
    "unfrozen": (lambda model: model.get_parameter("1.bias").requires_grad_(True), "'1.bias' .* unfrozen"),
    "all frozen": (lambda model: model.requires_grad_(False), "'1.weight' .* frozen"),
    "double": (lambda model: model.double(), "torch.float64 .* torch.float32"),
    "one layer is double": (lambda model: model[3].double(), "dtype of '3.weight'"),
    "one layer is elsewhere": (lambda model: model[3].to("meta"), "'3.weight' "),
    "a layer is replaced": (lambda model: model.__setitem__(3, nn.Linear(16, 12)), "'3' is another Linear"),
    "an activation is replaced": (lambda model: model.__setitem__(2, nn.Softsign()), "'2' is a Softsign .* ReLU"),
    "a new last layer": (lambda model: model.__setitem__(-1, nn.Linear(12, CLASSES)), "is another Linear"),
    "a layer is appended": (lambda model: model.append(nn.Linear(CLASSES, CLASSES)), "a Linear, is new"),
    "a layer is inserted": (lambda model: model.insert(2, nn.Tanh()), "'2' is a Tanh"),
    "a layer is deleted": (lambda model: model.__delitem__(2), "'2' is a Linear now, and was a ReLU"),
    "two layers change places": (swap_children, "'0' is a Linear now, and was a Flatten"),
    "assigned": (
        lambda model: model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True), "is another"
    ),
    "a new parameter": (
        lambda model: setattr(last_of(model), "weight", nn.Parameter(torch.ones(CLASSES, 12))), "is another parameter"
    ),
    "a parameter of the last layer": (
        lambda model: last_of(model).register_parameter("scale", nn.Parameter(torch.ones(1))), "scale' is new"
    ),
    "one more parameter": (lambda model: model.register_parameter("scale", nn.Parameter(torch.ones(1))), "is new"),
    "no bias": (lambda model: setattr(last_of(model), "bias", None), "bias' is gone"),
    "tied": (tie, "'3.bias' is gone"),
    "memory of another": (share_memory_of, "'3.bias' and '3.weight' share memory|'3.weight' and '3.bias' share"),
    "wider": (lambda model: give(last_of(model).weight, torch.ones(700, 12)), r"shape of .* is \(700, 12\)"),
    "shorter": (lambda model: give(model[3].bias, model[3].bias.data[:1]), r"shape of '3.bias' is \(1,\)"),
    "expanded": (lambda model: give(last_of(model).weight, torch.ones(1, 1).expand(CLASSES, 12)), "not contiguous"),
    "every other row": (lambda model: give(last_of(model).weight, torch.ones(6, 12)[::2]), "not contiguous"),
    "pruned": (
        lambda model: prune.random_unstructured(last_of(model), "weight", 0.5), "weight' is gone|Linear with a hook"
    ),
    "parametrised": (
        lambda model: nn.utils.parametrizations.weight_norm(last_of(model)), "is new"
    ),
}  # fmt: skip


def values_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items() if not value.is_meta}


@every_method
@pytest.mark.parametrize("change", MODEL_CHANGES)
@pytest.mark.parametrize("steps", [0, 3])
def test_model_that_has_changed_since(name: str, change: str, steps: int) -> None:
    """What a method keeps was made for the model as it was: a step is refused, in a sentence, and moves nothing."""
    model = network(name)
    model.get_parameter("1.bias").requires_grad_(False)
    method = make(name, model)
    run(method, X, Y, steps)
    apply, words = MODEL_CHANGES[change]
    apply(model)
    before, state = values_of(model), method.state_dict()
    x = X.to(next(model.parameters()).dtype)
    for use in (
        lambda: method.step(x, Y),
        lambda: method.step(X, Y),
        lambda: altmin_ext.train(model, (x, Y), method=method, progress=False),
    ):
        with pytest.raises(ValueError, match=rf"^model must be .*, but .*{words}.*[.]$") as error:
            use()
        assert_sentence(error, "new method")
    assert same(values_of(model), before)
    assert_same_state(method.state_dict(), state)
    if change in ("frozen", "all frozen", "double"):
        make(name, model.float().requires_grad_(True)).step(X, Y)


def in_other_memory(model: nn.Module) -> None:
    for parameter in model.parameters():
        give(parameter, parameter.data.clone())


def emptied_and_filled(model: nn.Module) -> None:
    values = snapshot(model)
    model.to_empty(device="cpu").load_state_dict(values)


FOLLOWED: dict[str, Callable[[nn.Module], Any]] = {
    "in other memory": in_other_memory,
    "emptied and filled": emptied_and_filled,
    "in shared memory": nn.Module.share_memory,
    "loaded": lambda model: model.load_state_dict(snapshot(model)),
    "moved away and back": lambda model: model.double().float(),
}


@every_method
@pytest.mark.parametrize("change", FOLLOWED)
def test_the_same_values_elsewhere_are_trained_on(name: str, change: str) -> None:
    """To the bits of a method whose model nobody has touched."""
    model, other = network(name), network(name)
    method, undisturbed = make(name, model), make(name, other)
    run(method, X, Y)
    run(undisturbed, X, Y)
    FOLLOWED[change](model)
    assert run(method, X, Y) == run(undisturbed, X, Y)
    assert same(model.state_dict(), other.state_dict())


@every_method
def test_weights_that_a_user_changes_between_steps_are_those_of_the_next(name: str) -> None:
    """The report is about the network as it is, and the step moves from there."""
    model = network(name, torch.float64)
    x, y = blobs(torch.float64)
    method = make(name, model)
    run(method, x, y)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
        expected = nn.functional.cross_entropy(model(x), y)
    report = method.step(x, y)
    torch.testing.assert_close(report.loss, expected)


READ_ONCE: dict[str, tuple[Callable[[], nn.Module], str, Any, Any]] = {
    "slope": (lambda: nn.LeakyReLU(0.1), "negative_slope", 0.1, 0.9),
    "approximation": (nn.GELU, "approximate", "none", "tanh"),
    "surrogate": (altmin_ext.nn.Sign, "surrogate", "identity", "clipped"),
    "alpha": (nn.ELU, "alpha", 1.0, 2.0),
}


@pytest.mark.parametrize("case", READ_ONCE)
@pytest.mark.parametrize("name", ["am-adam", "block-admm", "dtp"])
def test_an_activation_that_has_changed_since(name: str, case: str) -> None:
    """Its formula is chosen once: a step is refused until the attribute is what it was."""
    build, attribute, before, now = READ_ONCE[case]
    model = nn.Sequential(nn.Linear(FEATURES, 8), build(), nn.Linear(8, CLASSES))
    method = make(name, model)
    method.step(X, Y)
    setattr(model[1], attribute, now)
    with pytest.raises(
        ValueError, match=rf"^model must be .*{attribute} of its '1' is {now!r} now, and was {before!r}"
    ):
        method.step(X, Y)
    setattr(model[1], attribute, before)
    method.step(X, Y)


@pytest.mark.parametrize("name", [name for name, case in METHODS.items() if case.dropout])
@pytest.mark.parametrize("how", ["rate", "mode"])
def test_a_rate_of_dropout_that_changes(name: str, how: str) -> None:
    """Without dropout after a dozen steps: what a method would do on a model whose rate had been 0 all along.

    At a learning rate of zero, and without codes that move, the rate leaves no other trace than the step sizes of the
    codes, whose bound it is part of.
    """
    x, y = blobs(torch.float64)
    results = []
    for rate in (0.3, 0.0):
        model = network(name, torch.float64, dropout=rate)
        method = make(name, model)
        method.learning_rate_factor = 0.0
        run(method, x, y, 12)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                if how == "rate":
                    module.p = 0.0
                else:
                    module.eval()
        report = method.step(x, y)
        sizes = getattr(method, "code_step_sizes", torch.zeros(1))
        results.append([float(report.loss), *sizes.tolist()])
    assert results[0] == pytest.approx(results[1], rel=1e-6)


@every_method
@pytest.mark.parametrize("case", ["expanded", "transposed", "overlapping"])
def test_parameters_that_cannot_be_written_one_by_one(name: str, case: str) -> None:
    """Refused before anything moves: kernels and torch's fused optimisers would write beyond them, or twice."""
    model = network(name)
    last = last_of(model)
    if case == "overlapping":
        give(last.bias, last.weight.data[0, :CLASSES])
    else:
        wide = torch.ones(1, 1).expand(CLASSES, 12) if case == "expanded" else torch.ones(12, CLASSES).t()
        give(last.weight, wide)
    with pytest.raises(ValueError, match=r"contiguous") as error:
        make(name, model)
    assert_sentence(error)


@every_method
@every_dtype
@pytest.mark.parametrize("steps", [0, 3])
def test_resumes_bit_for_bit(name: str, dtype: torch.dtype, steps: int) -> None:
    """A method made anew, and given the state of another, goes on exactly as that one does."""
    x, y = blobs(dtype)
    model = network(name, dtype)
    method = make(name, model, seed=1)
    run(method, x, y, steps)
    method.end_epoch()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "method": method.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)  # plain containers, numbers and tensors only

    resumed_model = network(name, dtype)
    with torch.no_grad():
        for parameter in resumed_model.parameters():
            parameter.zero_()
    resumed_model.load_state_dict(saved["model"])
    resumed = make(name, resumed_model, seed=2)
    resumed.load_state_dict(saved["method"])
    assert run(method, x, y) == run(resumed, x, y)
    assert same(model.state_dict(), resumed_model.state_dict())


@every_method
def test_a_saved_state_does_not_move(name: str) -> None:
    x, y = blobs()
    model = network(name)
    method = make(name, model)
    run(method, x, y)
    weights, state = snapshot(model), copy.deepcopy(method.state_dict())
    first = run(method, x, y)
    model.load_state_dict(weights)
    method.load_state_dict(state)
    assert run(method, x, y) == first


@every_method
def test_state_of_another_method_is_refused(name: str) -> None:
    other = next(each for each in METHODS if each != name)
    method = make(name, network(name))
    with pytest.raises(ValueError, match="state") as error:
        method.load_state_dict(make(other, network(other)).state_dict())
    assert_sentence(error, name)


def assert_same_state(one: Any, other: Any) -> None:
    """Bit for bit, whatever containers the tensors lie in."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, (list, tuple)):
        for mine, theirs in zip(one, other, strict=True):
            assert_same_state(mine, theirs)
    else:
        assert same_bits(one, other) if isinstance(one, Tensor) else one == other


def assert_state_refused(name: str, wrong: dict[str, Any], *words: str) -> None:
    """In a sentence; and a method that has taken steps goes on as one that was never asked to load it."""
    model, undisturbed = network(name), network(name)
    method, other = make(name, model), make(name, undisturbed)
    run(method, X, Y)
    run(other, X, Y)
    weights, state = snapshot(model), copy.deepcopy(method.state_dict())
    with pytest.raises(ValueError, match=r"^state.* must .*, but .*[.]$") as error:
        method.load_state_dict(wrong)
    assert_sentence(error, *words)
    assert same(model.state_dict(), weights)
    assert_same_state(method.state_dict(), state)
    assert run(method, X, Y) == run(other, X, Y)
    assert same(model.state_dict(), undisturbed.state_dict())


@every_method
@pytest.mark.parametrize("hidden", [2, 300])
def test_state_of_another_width_is_refused(name: str, hidden: int) -> None:
    """Smaller ones above all, beyond whose end a kernel that believed them would write."""
    method = make(name, network(name, hidden=hidden))
    run(method, X, Y)
    state = method.state_dict()
    without_width = state.keys() == {"method", "steps", "learning_rate_factor", "data_order"}
    if without_width or not METHODS[name].learns_all:  # whose last layer is as wide
        make(name, network(name)).load_state_dict(state)
    else:
        assert_state_refused(name, state)


@every_method
def test_state_that_lacks_a_key_is_refused(name: str) -> None:
    method = make(name, network(name))
    run(method, X, Y)
    state = method.state_dict()
    for key, part in state.items():
        assert_state_refused(name, {other: state[other] for other in state if other != key}, key)
        for inner in part if isinstance(part, dict) else ():
            lacking = {other: part[other] for other in part if other != inner}
            assert_state_refused(name, {**state, key: lacking}, key, inner)


@every_method
def test_state_must_be_a_dict(name: str) -> None:
    with pytest.raises(TypeError, match=r"^state must be a dict, but is a list[.]$"):
        make(name, network(name)).load_state_dict([])


@methods_with_lr
def test_learning_rate_factor(name: str) -> None:
    """It scales the learning rate as the option would; 0 leaves every weight where it is, after other steps too."""
    x, y = blobs(torch.float64)
    model = network(name, torch.float64)
    before = snapshot(model)
    method = make(name, model)
    method.learning_rate_factor = 0.0
    run(method, x, y)
    assert same(model.state_dict(), before)
    method.learning_rate_factor = 1.0
    run(method, x, y)
    moved = snapshot(model)
    method.learning_rate_factor = 0.0
    run(method, x, y)
    assert same(model.state_dict(), moved)

    model, halved = network(name, torch.float64), network(name, torch.float64)
    method = make(name, model)
    method.learning_rate_factor = 0.5
    run(method, x, y)
    rates = {
        key: value / 2
        for key, value in METHODS[name].options.items()
        if key.startswith("lr") or key == "relaxation"
    }
    run(make(name, halved, **rates), x, y)
    for one, other in zip(model.parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


# --- inputs of every kind ---


def every_other_column(x: Tensor) -> Tensor:
    wide = torch.full((len(x), 2 * x.shape[1]), torch.nan, dtype=x.dtype)
    wide[:, ::2] = x
    return wide[:, ::2]


def by_columns(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def expanded_rows(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


@every_method
@pytest.mark.parametrize("layout", [every_other_column, by_columns, expanded_rows])
def test_strides_are_honoured(name: str, layout: Callable[[Tensor], Tensor]) -> None:
    x, y = blobs(torch.float64)
    strided, model, expected = layout(x), network(name, torch.float64), network(name, torch.float64)
    assert not strided.is_contiguous()
    run(make(name, model), strided, torch.stack([y, y], 1)[:, 0])
    run(make(name, expected), strided.contiguous(), y)
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@every_method
def test_inputs_that_require_grad(name: str) -> None:
    x, y = blobs()
    model, expected = network(name), network(name)
    watched = x.clone().requires_grad_()
    run(make(name, model), watched, y)
    run(make(name, expected), x, y)
    assert same(model.state_dict(), expected.state_dict())
    assert watched.grad is None


@every_method
def test_under_no_grad(name: str) -> None:
    x, y = blobs()
    model, expected = network(name), network(name)
    with torch.no_grad():
        run(make(name, model), x, y)
        assert not torch.is_grad_enabled()
    run(make(name, expected), x, y)
    assert same(model.state_dict(), expected.state_dict())


@every_method
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32], ids=str)
def test_labels_of_any_width(name: str, dtype: torch.dtype) -> None:
    x, y = blobs()
    model, expected = network(name), network(name)
    run(make(name, model), x, y.to(dtype))
    run(make(name, expected), x, y)
    assert same(model.state_dict(), expected.state_dict())


@every_method
def test_images_are_flattened_by_the_model(name: str) -> None:
    x, y = blobs()
    model, expected = network(name), network(name)
    run(make(name, model), x.reshape(-1, 1, 2, 3), y)
    run(make(name, expected), x, y)
    assert same(model.state_dict(), expected.state_dict())


@every_method
@every_dtype
@pytest.mark.parametrize("size", [1, 2, 17])
def test_batches_of_odd_sizes(name: str, dtype: torch.dtype, size: int) -> None:
    model = network(name, dtype)
    before = snapshot(model)
    losses = run(make(name, model), *blobs(dtype, size), 5)
    assert losses[-1] < losses[0]
    assert not same(model.state_dict(), before)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


# --- bad batches ---

X, Y = blobs()
BAD_BATCHES: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "x is a list": (X.tolist(), Y, TypeError, "x"),
    "x is narrower": (X[:, :4], Y, ValueError, "x"),
    "x is wider": (torch.cat([X, X], 1), Y, ValueError, "x"),
    "x is a vector": (X[0], Y[:1], ValueError, "x"),
    "x is a number": (X[0, 0], Y[:1], ValueError, "x"),
    "x is empty": (X[:0], Y[:0], ValueError, "x"),
    "x is double": (X.double(), Y, TypeError, "x"),
    "x is half": (X.half(), Y, TypeError, "x"),
    "x is integer": (X.long(), Y, TypeError, "x"),
    "x is complex": (X.to(torch.complex64), Y, TypeError, "x"),
    "x is elsewhere": (X.to("meta"), Y, ValueError, "x"),
    "y is a list": (X, Y.tolist(), TypeError, "y"),
    "y is shorter": (X, Y[:-1], ValueError, "y"),
    "y is longer": (X, torch.cat([Y, Y[:1]]), ValueError, "y"),
    "y is a column": (X, Y[:, None], ValueError, "y"),
    "y is a number": (X, Y[0], ValueError, "y"),
    "y is float": (X, Y.float(), TypeError, "y"),
    "y is bool": (X, Y > 0, TypeError, "y"),
    "y is one-hot": (X, nn.functional.one_hot(Y, CLASSES), ValueError, "y"),
    "y is elsewhere": (X, Y.to("meta"), ValueError, "y"),
    "y has a class too many": (X, torch.where(Y == 2, CLASSES, Y), ValueError, "y"),
    "y has a negative class": (X, torch.where(Y == 2, -1, Y), ValueError, "y"),
    "y has torch's ignored class": (X, torch.where(Y == 2, -100, Y), ValueError, "y"),
}


@pytest.mark.parametrize(
    ("name", "case"),
    # To a method of factors -1 says that there is no label.
    [
        (n, c)
        for n in METHODS
        for c in BAD_BATCHES
        if not (METHODS[n].factors and c == "y has a negative class")
    ],
)
def test_bad_batch(name: str, case: str) -> None:
    """Refused in a sentence that names the argument; the weights stay, and so does what the method keeps."""
    x, y, kind, argument = BAD_BATCHES[case]
    model, undisturbed = network(name), network(name)
    method, other = make(name, model), make(name, undisturbed)
    run(method, X, Y)
    run(other, X, Y)
    before = snapshot(model)
    with pytest.raises(kind) as error:
        method.step(x, y)
    assert_sentence(error)
    assert re.search(rf"\b{argument}\b", str(error.value)), error.value
    assert same(model.state_dict(), before)
    assert run(method, X, Y) == run(other, X, Y)
    assert same(model.state_dict(), undisturbed.state_dict())


BAD_TARGETS: dict[str, tuple[Tensor, type[Exception]]] = {
    "integer": (Y, TypeError),
    "integer matrix": (nn.functional.one_hot(Y, CLASSES), TypeError),
    "another float": (torch.zeros(len(X), CLASSES, dtype=torch.float64), TypeError),
    "one column": (torch.zeros(len(X), 1), ValueError),
    "a column too many": (torch.zeros(len(X), CLASSES + 1), ValueError),
    "a vector": (torch.zeros(len(X)), ValueError),
    "a row missing": (torch.zeros(len(X) - 1, CLASSES), ValueError),
}


@methods_of_real_targets
@pytest.mark.parametrize("case", BAD_TARGETS)
@pytest.mark.filterwarnings("error")
def test_bad_targets_of_mse(name: str, case: str) -> None:
    y, kind = BAD_TARGETS[case]
    model = network(name)
    method = make(name, model, loss="mse")
    before = snapshot(model)
    with pytest.raises(kind) as error:
        method.step(X, y)
    assert_sentence(error)
    assert re.search(r"\by\b", str(error.value)), error.value
    assert same(model.state_dict(), before)


NOT_FINITE = pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)


def spoiled(value: float) -> Tensor:
    """One entry of one sample is not finite."""
    x = X.clone()
    x[5, 2] = value
    return x


@every_method
@NOT_FINITE
def test_divergence_is_raised(name: str, value: float) -> None:
    model, undisturbed = network(name), network(name)
    method, other = make(name, model), make(name, undisturbed)
    run(method, X, Y, 2)
    run(other, X, Y, 2)
    before = snapshot(model)
    with pytest.raises(altmin_ext.DivergenceError) as error:
        method.step(spoiled(value), Y)
    assert_sentence(error, "not finite")
    assert re.search(r"\bstep 3\b", str(error.value)), error.value
    if METHODS[name].codes:
        assert re.search(r"\bstage \d", str(error.value)), error.value
        assert re.search(r"\b(activations?|codes?|weights?|logits?|loss)\b", str(error.value)), error.value
    assert same(model.state_dict(), before)
    assert run(method, X, Y) == run(other, X, Y)


@every_method
@NOT_FINITE
def test_divergence_is_skipped(name: str, value: float) -> None:
    """A batch that is skipped has never been."""
    model, undisturbed = network(name), network(name)
    method, other = make(name, model, on_nonfinite="skip"), make(name, undisturbed, on_nonfinite="skip")
    run(method, X, Y, 2)
    run(other, X, Y, 2)
    before = snapshot(model)
    method.step(spoiled(value), Y)
    assert same(model.state_dict(), before)
    assert run(method, X, Y) == run(other, X, Y)
    assert same(model.state_dict(), undisturbed.state_dict())


@methods_with_lr
@pytest.mark.parametrize("more", [{}, {"weight_iterations": 3}, {"iterations": 3}], ids=str)
def test_divergence_of_the_weights(name: str, more: dict[str, Any]) -> None:
    """A learning rate that blows the network up is told, by the next step at the latest, and that step undone."""
    model = network(name)
    fields = {field.name for field in dataclasses.fields(altmin_ext.methods.method_class(name).Options)}
    if not fields.issuperset(more) or name.endswith("-off"):
        return
    method = make(name, model, **{own_word(name, "lr"): 1e38}, **more)
    before: list[Any] = []

    def until_it_fails() -> None:
        for _ in range(5):
            before[:] = snapshot(model), method.state_dict()
            method.step(X, Y)

    with pytest.raises(altmin_ext.DivergenceError) as error:
        until_it_fails()
    assert_sentence(error, "not finite", "step")
    assert same(model.state_dict(), before[0])
    if not METHODS[name].restarts:
        assert_same_state(method.state_dict(), before[1])


def assert_all_or_nothing(method: Any, x: Tensor, y: Tensor, steps: int = 4) -> None:
    """A step that is not finite moves no weight or moment and is not counted; of others all weights are finite."""
    for _ in range(steps):
        before, update = snapshot(method.model), method.state_dict().get("update")
        try:
            method.step(x, y)
        except altmin_ext.DivergenceError:
            assert same(method.model.state_dict(), before)
            assert_same_state(method.state_dict().get("update"), update)
            return
        assert all(bool(value.isfinite().all()) for value in method.model.state_dict().values())


@methods_with_lr
@pytest.mark.parametrize("rate", [1e30, 3e37, 1e39, 1e300])
def test_a_learning_rate_that_overflows_is_all_or_nothing(name: str, rate: float) -> None:
    """Also where only some of the weights would overflow: those whose gradients are the largest."""
    x, y = blobs()
    x[:, :2] *= 1e4
    assert_all_or_nothing(make(name, network(name), **{own_word(name, "lr"): rate}), x, y)


@every_method
@pytest.mark.parametrize("exponent", range(12, 39, 3))
def test_samples_of_any_size_are_all_or_nothing(name: str, exponent: int) -> None:
    """Some features are ordinary ones, so that the gradients of their weights have squares that are finite."""
    x, y = blobs()
    x[:, :2] *= 10.0**exponent
    assert_all_or_nothing(make(name, network(name)), x, y)


# --- steps that an error ends ---


class Broken(Exception):
    """Of no kind that anything else raises or catches."""


class Breaks(nn.Module):
    """A module of the user's own, which fails at the n-th of all evaluations; with a buffer that moves in each."""

    evaluations, fails_at = 0, math.inf

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, a: Tensor) -> Tensor:
        Breaks.evaluations += 1
        self.seen += 1
        if Breaks.evaluations == Breaks.fails_at:
            raise Broken
        return nn.functional.softsign(a)


class BreaksInTorch(TorchFunctionMode):
    """Fails at the n-th use of torch from Python, as for want of memory."""

    def __init__(self, fails_at: float) -> None:
        super().__init__()
        self.uses, self.fails_at = 0, fails_at

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function not in (torch._C._set_grad_enabled, torch.set_rng_state, torch.Generator.set_state):
            self.uses += 1
            if self.uses == self.fails_at:
                raise Broken
        return function(*arguments, **(keywords or {}))


def breaking_network(name: str) -> nn.Sequential:
    case = METHODS[name]
    if not case.modules:
        return network(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = [nn.BatchNorm1d(8)] if case.normalisation else []
        factors = [nn.ReLU(), altmin_ext.NonNegativeFactors(8, 5)] if case.factors else [Breaks()]
        last = nn.Linear(5 if case.factors else 8, 8)
        layers = [nn.Flatten(), nn.Linear(FEATURES, 8), *norm, Breaks(), nn.Linear(8, 8)]
        return nn.Sequential(*layers, *factors, last, Breaks(), nn.Linear(8, CLASSES))


def assert_nothing_happens(
    name: str, evaluations: Callable[[Any], int], break_off: Callable[[Any, int], None], **options: Any
) -> None:
    """A step that is broken off leaves model and method as they were, and the next one is what it would have been.

    Args:
        evaluations: takes a method, takes a step on (X, Y) with it, and says how often that can be broken off.
        break_off: takes a method and where to break off the same step, which then raises Broken.
    """
    for steps in (0, 2):
        method = make(name, breaking_network(name), **options)
        run(method, X, Y, steps)
        for number in spread(evaluations(method)):
            method, other = (make(name, breaking_network(name), **options) for _ in range(2))
            assert run(method, X, Y, steps) == run(other, X, Y, steps)
            model, state = snapshot(method.model), method.state_dict()
            with pytest.raises(Broken):
                break_off(method, number)
            assert same(method.model.state_dict(), model)
            if not METHODS[name].restarts:
                assert_same_state(method.state_dict(), state)
                assert run(method, X, Y, 2) == run(other, X, Y, 2)
                assert same(method.model.state_dict(), other.model.state_dict())


def spread(count: int, points: int = 12) -> list[int]:
    """Numbers from 1 to count, the first and last among them."""
    return sorted({1 + (count - 1) * i // (points - 1) for i in range(points)}) if count else []


BROKEN: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name, case in METHODS.items() if case.modules),
    ("am-adam", {"weight_iterations": 2, "code_iterations": 2}),
    ("block-admm", {"iterations": 2}),
    ("block-admm", {"lr_codes": 0.5}),
]


@pytest.mark.parametrize(("name", "options"), BROKEN, ids=str)
def test_a_module_that_fails_midway(name: str, options: dict[str, Any]) -> None:
    def evaluations(method: Any) -> int:
        Breaks.evaluations = 0
        method.step(X, Y)
        return Breaks.evaluations

    def break_off(method: Any, number: int) -> None:
        Breaks.evaluations, Breaks.fails_at = 0, number
        try:
            method.step(X, Y)
        finally:
            Breaks.fails_at = math.inf

    assert_nothing_happens(name, evaluations, break_off, **options)


@pytest.mark.parametrize("name", [name for name, case in METHODS.items() if case.codes])
def test_a_step_that_fails_anywhere(name: str) -> None:
    """Of the other methods it would be the steps of torch's optimisers that are tested."""

    def uses(method: Any) -> int:
        with BreaksInTorch(math.inf) as counting:
            method.step(X, Y)
        return counting.uses

    def break_off(method: Any, number: int) -> None:
        with BreaksInTorch(number):
            method.step(X, Y)

    assert_nothing_happens(name, uses, break_off)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("am-adam", "linear"), ("am-adam", "convolutional"), ("am-adam", "recurrent"),
        ("am-mem", "linear"), ("am-mem", "convolutional"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sizes", [(6,), (6, 8), (8, 6)], ids=str)
def test_buffers_for_another_batch_that_fail(name: str, kind: str, sizes: tuple[int, ...]) -> None:
    """At every use of torch: whichever buffers are there by then, the next steps are what they would have been."""
    shape = {"linear": (6,), "convolutional": (1, 8, 8), "recurrent": (5, 6)}[kind]
    generator = torch.Generator().manual_seed(5)
    data = {
        size: (
            torch.randn(size, *shape, generator=generator, dtype=torch.float64),
            torch.arange(size) % CLASSES,
        )
        for size in (6, 8)
    }

    def made() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            below = {
                "linear": [nn.Linear(6, 8), nn.Tanh()],
                "convolutional": [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 8)],
                "recurrent": [models.Elman(6, 2), nn.Tanh(), nn.Flatten(), nn.Linear(10, 8)],
            }[kind]  # fmt: skip
            model = nn.Sequential(*below, nn.ReLU(), nn.Linear(8, CLASSES)).double()
        method = altmin_ext.make_method(name, model)
        for size in sizes[:-1]:
            method.step(*data[size])
        return method

    method = made()
    with BreaksInTorch(math.inf) as counting:
        method.step(*data[sizes[-1]])
    for number in range(1, counting.uses + 1):
        method, other = made(), made()
        before = snapshot(method.model)
        with BreaksInTorch(number), pytest.raises(Broken):
            method.step(*data[sizes[-1]])
        if not same(method.model.state_dict(), before):
            break  # all that needs memory came before
        for size in (sizes[0], sizes[-1]):
            for each in (method, other):
                each.step(*data[size])
        assert same(method.model.state_dict(), other.model.state_dict())
        assert_same_state(method.state_dict(), other.state_dict())
    assert number > 30


@pytest.mark.parametrize("name", ["am-adam", "am-mem", "am-sgd", "block-admm"])
@pytest.mark.parametrize("kind", ["pooled", "averaged"])
def test_images_of_another_size(name: str, kind: str) -> None:
    """In a minibatch of as many: the step is that of a method that has seen no other size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ends = {
            "pooled": [nn.MaxPool2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(32, CLASSES)],
            "averaged": [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, CLASSES)],
        }
        model = nn.Sequential(nn.Conv2d(1, 2, 1), *ends[kind]).double()
    method = altmin_ext.make_method(name, model)
    generator = torch.Generator().manual_seed(6)
    for size in (8, 9, 8):
        other = altmin_ext.make_method(name, copy.deepcopy(model))
        other.load_state_dict(method.state_dict())
        x = torch.randn(4, 1, size, size, generator=generator, dtype=torch.float64)
        for each in (method, other):
            each.step(x, torch.arange(4) % CLASSES)
        for own, expected in zip(model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)


def test_stored_codes_of_a_step_that_fails() -> None:
    """They are those of no sample that a step has not been taken on."""
    index = torch.arange(len(X))

    def made() -> Any:
        method = make("block-admm", breaking_network("block-admm"), duals="stored", dual_decay=0.5)
        method.step(X[:20], Y[:20], index=index[:20])
        Breaks.evaluations = 0
        return method

    undisturbed = made()
    undisturbed.step(X, Y, index=index)
    for number in spread(Breaks.evaluations):
        method = made()
        state, model = method.state_dict(), snapshot(method.model)
        Breaks.fails_at = number
        with pytest.raises(Broken):
            method.step(X, Y, index=index)
        Breaks.fails_at = math.inf
        assert same(method.model.state_dict(), model)
        assert_same_state(method.state_dict(), state)
        method.step(X, Y, index=index)
        assert_same_state(method.state_dict(), undisturbed.state_dict())


# --- bad options and models ---

BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "lr is negative": ({"lr": -0.1}, ValueError),
    "lr is infinite": ({"lr": float("inf")}, ValueError),
    "lr is nan": ({"lr": float("nan")}, ValueError),
    "lr is a word": ({"lr": "fast"}, TypeError),
    "lr is None": ({"lr": None}, TypeError),
    "weight_decay is negative": ({"weight_decay": -1.0}, ValueError),
    "loss is misspelt": ({"loss": "cross_entropie"}, ValueError),
    "loss is a number": ({"loss": 1.0}, TypeError),
    "loss is a class": ({"loss": nn.CrossEntropyLoss}, TypeError),
    "loss is a sum": ({"loss": nn.CrossEntropyLoss(reduction="sum")}, ValueError),
    "on_nonfinite is misspelt": ({"on_nonfinite": "ignore"}, ValueError),
    "seed is a word": ({"seed": "0"}, TypeError),
}
BAD_OPTIONS_OF_AM: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "code_iterations is 0": ({"code_iterations": 0}, ValueError),
    "code_iterations is negative": ({"code_iterations": -1}, ValueError),
    "code_iterations is a fraction": ({"code_iterations": 1.5}, TypeError),
    "code_momentum is negative": ({"code_momentum": -0.1}, ValueError),
    "code_momentum is 1": ({"code_momentum": 1.0}, ValueError),
    "l1_codes is negative": ({"l1_codes": -0.1}, ValueError),
    "l1_weights is negative": ({"l1_weights": -0.1}, ValueError),
    "lr_codes is misspelt": ({"lr_codes": "atuo"}, ValueError),
    "lr_codes is negative": ({"lr_codes": -0.1}, ValueError),
    "lr_codes is nan": ({"lr_codes": float("nan")}, ValueError),
    "lr_out is negative": ({"lr_out": -0.1}, ValueError),
    "mu is negative": ({"mu": -0.5}, ValueError),
    "mu is 0": ({"mu": 0.0}, ValueError),
    "mu is nan": ({"mu": float("nan")}, ValueError),
    "mu is a word": ({"mu": "large"}, TypeError),
    "mu_max is 0": ({"mu_max": 0.0}, ValueError),
    "mu_multiplier is negative": ({"mu_multiplier": -1.0}, ValueError),
    "scaling is misspelt": ({"scaling": "papre"}, ValueError),
    "stage_scaling is misspelt": ({"stage_scaling": "displacment"}, ValueError),
    "weight_iterations is 0": ({"weight_iterations": 0}, ValueError),
}


def assert_refused(name: str, options: dict[str, Any], kind: type[Exception], *words: str) -> None:
    model = network(name)
    before = snapshot(model)
    with pytest.raises(kind) as error:
        make(name, model, **options)
    assert_sentence(error, *words)
    assert same(model.state_dict(), before)


@methods_with_lr
@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_option(name: str, case: str) -> None:
    options, kind = BAD_OPTIONS[case]
    options = {own_word(name, key): value for key, value in options.items()}
    assert_refused(name, options, kind, *options)


@methods_with_mu
@pytest.mark.parametrize("case", BAD_OPTIONS_OF_AM)
def test_bad_option_of_am(name: str, case: str) -> None:
    options, kind = BAD_OPTIONS_OF_AM[case]
    assert_refused(name, options, kind, *options)


@methods_with_mu
def test_auto_is_not_for_the_released_scaling(name: str) -> None:
    assert_refused(name, {"scaling": "released", "lr_codes": "auto"}, ValueError, "lr_codes", "released")


@every_method
def test_misspelt_option_names_the_nearest(name: str) -> None:
    assert_refused(name, {"report_objectiev": True}, ValueError, "'report_objectiev'", "'report_objective'")


@methods_with_mu
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("code_iteration", "code_iterations"),
        ("lr_code", "lr_codes"),
        ("l1_weight", "l1_weights"),
        ("mu_", "mu"),
    ],
)
def test_misspelt_option_of_am_names_the_nearest(name: str, wrong: str, right: str) -> None:
    assert_refused(name, {wrong: 1}, ValueError, f"'{wrong}'", f"'{right}'")


@every_method
def test_misspelt_method_names_the_nearest(name: str) -> None:
    with pytest.raises(ValueError, match="did you mean") as error:
        altmin_ext.make_method(name + "m", network(name))
    assert_sentence(error, f"'{name}m'", f"'{name}'")


@every_method
@pytest.mark.parametrize("model", ["mlp", [nn.Linear(2, 2), 3]], ids=["str", "list"])
def test_model_must_be_a_module(name: str, model: Any) -> None:
    with pytest.raises(TypeError, match="model") as error:
        make(name, model)
    assert_sentence(error)


@every_method
@pytest.mark.parametrize(
    "model", [nn.Sequential(), nn.Sequential(nn.Flatten(), nn.ReLU())], ids=["empty", "none"]
)
def test_model_without_parameters(name: str, model: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=r"^model must have parameters to train, but Sequential has none[.]$"
    ):
        make(name, model)


def same_module_twice() -> nn.Sequential:
    shared = nn.Linear(FEATURES, FEATURES)
    return nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(FEATURES, CLASSES))


def tied_weights() -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, CLASSES)
    )
    model[2].weight = model[0].weight
    return model


@methods_with_codes
@pytest.mark.parametrize("build", [same_module_twice, tied_weights])
def test_parameters_shared_by_two_stages(name: str, build: Callable[[], nn.Sequential]) -> None:
    model = build()
    if METHODS[name].factors:
        model.insert(2, altmin_ext.NonNegativeFactors(FEATURES, FEATURES))
    before = snapshot(model)
    with pytest.raises(ValueError, match="share") as error:
        make(name, model)
    assert_sentence(error)
    assert same(model.state_dict(), before)


# --- how a method is made ---


class Watched(nn.Sequential):
    """A model that says where it has been moved."""

    def to(self, *arguments: Any, **keywords: Any) -> Any:
        self.__dict__.setdefault("places", []).append(str(arguments[0]))
        return super().to(*arguments, **keywords)


def all_frozen(model: nn.Sequential) -> None:
    model.requires_grad_(False)


def of_two_dtypes(model: nn.Sequential) -> None:
    model[1].double()


def with_a_second_output(model: nn.Sequential) -> None:
    model.insert(1, nn.GRU(FEATURES, FEATURES))


REFUSED: dict[str, tuple[Callable[[nn.Sequential], None], dict[str, Any], type[Exception], str]] = {
    "all frozen": (
        all_frozen, {}, ValueError, r"^model must have a parameter that requires a gradient, but all are frozen\.$"
    ),
    "two dtypes": (of_two_dtypes, {}, TypeError, "model must be float32 or float64 throughout"),
    "a graph on meta": (lambda model: None, {"graph": True}, ValueError, "graph must be False here: .* needs a GPU"),
    "another loss": (lambda model: None, {"loss": "none"}, ValueError, "loss"),
}  # fmt: skip


@every_method
@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_leaves_the_model_where_it_was(name: str, case: str) -> None:
    """In its place, with its values: everything is checked before the model is moved."""
    change, options, kind, words = REFUSED[case]
    model = Watched(*network(name))
    change(model)
    before = snapshot(model)
    with pytest.raises(kind, match=words) as error:
        make(name, model, device="meta", **options)
    assert_sentence(error)
    assert same(model.state_dict(), before)
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert not hasattr(model, "places")


@methods_with_codes
def test_a_model_that_cannot_be_cut_is_not_moved(name: str) -> None:
    model = Watched(*network(name))
    with_a_second_output(model)
    with pytest.raises(ValueError, match=r"cannot be split|must be a chain") as error:
        make(name, model, device="meta")
    assert_sentence(error)
    assert not hasattr(model, "places")


@every_method
def test_a_construction_that_fails_brings_the_model_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of memory, say."""

    def fails(self: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(altmin_ext.methods.method_class(name), "_allocate", fails)
    model = Watched(*network(name))
    before = snapshot(model)
    with pytest.raises(MemoryError):
        make(name, model, device="cpu:0")
    assert model.places == ["cpu:0", "cpu"]
    assert same(model.state_dict(), before)


class LeastMethod(altmin_ext.Method):
    """All that a method must have."""

    name = "least"

    def _compute(self, x: Tensor, y: Tensor) -> altmin_ext.StepReport:
        return altmin_ext.StepReport(self.loss.mean(self.model(x), y), None)


def test_a_method_is_captured_only_if_it_says_so() -> None:
    options = altmin_ext.methods.MethodOptions()
    report = LeastMethod(network("adam"), options).step(X, Y)
    assert report.loss.isfinite()
    with pytest.raises(
        ValueError, match=r"^graph must be False here: least looks at values in every step, .*\.$"
    ):
        LeastMethod(network("adam"), options, device="cuda", graph=True)


def test_methods_that_are_captured() -> None:
    captured = {name for name in METHODS if altmin_ext.methods.method_class(name).captures}
    assert captured == {"am-adam", "am-sgd", "adam", "sgd", "ste"}
