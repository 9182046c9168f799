"""What arguments may be. Oracle: Python's own number protocols, and torch's documented ranges of seeds and devices.

Every option of every method is put through all wrong kinds of value here, and through NumPy's numbers, which must
give what Python's give, bit for bit.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import _check, data, methods, models
from altmin_ext.callbacks import EarlyStopping
from altmin_ext.data import streams
from altmin_ext.methods import _options

# ------------------------------------------------------------------------------------------------- the checks


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.int16(3), np.array(3)], ids=repr)
def test_integers_of_every_kind(value: Any) -> None:
    found = _check.integer("count", value)
    assert (type(found), found) == (int, 3)


@pytest.mark.parametrize("value", [3.0, "3", None, True, np.bool_(True), np.float32(3), [3], 3j], ids=repr)
def test_what_is_no_integer(value: Any) -> None:
    with pytest.raises(TypeError) as error:
        _check.integer("count", value)
    assert str(error.value) == f"count must be an integer, but is {value!r}."


def test_integers_have_a_least() -> None:
    assert _check.integer("count", 0, minimum=0) == 0
    assert _check.integer("count", 10**30) == 10**30
    with pytest.raises(ValueError, match=r"^count must be at least 1, but is 0\.$"):
        _check.integer("count", np.int64(0))


@pytest.mark.parametrize(
    "values", [[5, 6], (5, 6), np.array([5, 6]), iter([5, 6])], ids=lambda v: type(v).__name__
)
def test_lists_of_integers(values: Any) -> None:
    found = _check.integers("hidden", values)
    assert found == [5, 6]
    assert {type(value) for value in found} == {int}


@pytest.mark.parametrize(
    ("values", "error", "sentence"),
    [
        (5, TypeError, "hidden must be a list of integers, but is 5."),
        ("56", TypeError, "hidden must be a list of integers, but is '56'."),
        (None, TypeError, "hidden must be a list of integers, but is None."),
        ([5, 5.5], TypeError, "hidden[1] must be an integer, but is 5.5."),
        ([0, 5], ValueError, "hidden[0] must be at least 1, but is 0."),
    ],
)
def test_what_is_no_list_of_integers(values: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as raised:
        _check.integers("hidden", values)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    "value",
    [0.5, np.float64(0.5), np.float32(0.5), np.float16(0.5), Fraction(1, 2), np.longdouble(0.5)],
    ids=repr,
)
def test_numbers_of_every_kind(value: Any) -> None:
    found = _check.number("lr", value)
    assert (type(found), found) == (float, 0.5)


def test_integers_are_numbers() -> None:
    assert [_check.number("lr", value) for value in (2, np.int32(2), -(10**30))] == [2.0, 2.0, -1e30]


@pytest.mark.parametrize(
    "value", ["0.5", None, True, np.bool_(False), 1j, [0.5], torch.tensor(0.5)], ids=repr
)
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError) as error:
        _check.number("lr", value)
    assert str(error.value) == f"lr must be a number, but is {value!r}."


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "words"),
    [
        ({"minimum": 0.0}, [0.0, 1e300], [-1e-9, math.inf, math.nan, 10**400], "at least 0 and finite"),
        ({"above": 0.0}, [1e-300], [0.0, -1.0, math.nan, math.inf], "greater than 0 and finite"),
        ({"minimum": 0.0, "maximum": 1.0}, [0.0, 1.0], [1.1, -0.1, math.nan], "at least 0 and at most 1"),
        ({"minimum": 0.0, "below": 1.0}, [0.0, 0.999], [1.0, math.nan], "at least 0 and less than 1"),
        ({"above": 0.0, "infinite": True}, [1.0, math.inf], [0.0, math.nan, -math.inf], "greater than 0"),
        ({}, [-1e300], [math.inf, -math.inf, math.nan], "finite"),
    ],
)
def test_bounds(bounds: dict[str, Any], good: list[float], bad: list[float], words: str) -> None:
    assert [_check.number("lr", value, **bounds) for value in good] == good
    for value in bad:
        with pytest.raises(ValueError, match="lr") as error:
            _check.number("lr", value, **bounds)
        assert str(error.value) == f"lr must be {words}, but is {value!r}."


def test_words() -> None:
    assert _check.choice("order", np.str_("rows"), ("rows", "columns")) == "rows"
    for value, kind in (("row", ValueError), (3, TypeError), (None, TypeError), (["rows"], TypeError)):
        with pytest.raises(kind) as error:
            _check.choice("order", value, ("rows", "columns"))
        assert str(error.value) == f"order must be 'rows' or 'columns', but is {value!r}."
    with pytest.raises(ValueError, match=r"^unknown order 'row': did you mean 'rows'"):
        _check.known("order", "row", ["rows", "columns"])
    with pytest.raises(TypeError, match=r"^order must be a name, such as 'rows', but is 3\.$"):
        _check.known("order", 3, ["rows", "columns"])
    assert _check.number_or("auto", "step", "auto") == "auto"
    assert _check.number_or("auto", "step", np.float32(0.5)) == 0.5
    with pytest.raises(ValueError, match=r"^step must be a number or 'auto', but is 'atuo'\.$"):
        _check.number_or("auto", "step", "atuo")


def test_booleans() -> None:
    assert [_check.boolean("exact", value) for value in (True, np.bool_(False))] == [True, False]
    for value in (1, 0, "True", None, [], np.int64(1)):
        with pytest.raises(TypeError) as error:
            _check.boolean("exact", value)
        assert str(error.value) == f"exact must be a bool, but is {value!r}."


@pytest.mark.parametrize(
    ("value", "words"), [(3, "an int"), ([], "a list"), (None, "a NoneType"), (object(), "an object")]
)
def test_types_have_their_article(value: object, words: str) -> None:
    assert _check.named_type(value) == words


# ---------------------------------------------------------------------------------------------------- tensors


class Carrying(Tensor):
    """A subclass without rules of its own."""


class Wrapping(Tensor):
    """A subclass with rules of its own, and without memory."""

    @staticmethod
    def __new__(cls, like: Tensor) -> Wrapping:
        made: Wrapping = Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype)
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError


def test_an_ordinary_tensor_is_taken_as_it_is() -> None:
    x = torch.randn(3, 2)
    assert _check.tensor("x", x) is x


@pytest.mark.parametrize(
    "kind", ["requires grad", "result", "subclass", "parameter", "negated", "conjugated", "inference"]
)
def test_other_tensors_become_ordinary(kind: str) -> None:
    x = torch.randn(3, 2)
    with torch.inference_mode():
        inference = x.clone()
    given = {
        "requires grad": x.clone().requires_grad_(),
        "result": x.clone().requires_grad_() * 1,
        "subclass": x.clone().as_subclass(Carrying),
        "parameter": nn.Parameter(x.clone()),
        "negated": torch.complex(x, -x).conj().imag,
        "conjugated": torch.complex(x, -x).conj(),
        "inference": inference,
    }[kind]
    found = _check.tensor("x", given)
    assert type(found) is Tensor
    assert torch.equal(found, torch.complex(x, x) if kind == "conjugated" else x)
    assert not (found.requires_grad)
    assert not (found.is_neg())
    assert not (found.is_conj())
    assert not (found.is_inference())


def test_tensors_that_no_kernel_could_read() -> None:
    x = torch.randn(3, 2)
    with pytest.raises(TypeError, match=r"^x must be a torch\.Tensor, but is a list\.$"):
        _check.tensor("x", [1.0])
    with pytest.raises(
        TypeError, match=r"^x must be a plain torch\.Tensor, but is a Wrapping; make it one\.$"
    ):
        _check.tensor("x", Wrapping(x))
    with pytest.raises(
        TypeError, match=r"^y must be a dense tensor, but is torch\.sparse_coo; .*y\.to_dense\(\)\.$"
    ):
        _check.tensor("y", x.to_sparse())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(9000,), (9000, 3)])
def test_the_first_sample_that_is_not_finite_is_named(shape: tuple[int, ...], bad: float) -> None:
    values = torch.zeros(shape)
    _check.finite("y", values)
    _check.finite("y", torch.full(shape, 3e38))  # whose sum overflows
    values[[5000, 7000]] = bad
    with pytest.raises(ValueError, match=r"^y must be finite, but sample 5000 holds NaN or Inf: .*\.$"):
        _check.finite("y", values)


# -------------------------------------------------------------------------------------------- seeds and devices

SEEDS: dict[str, Callable[[Any], Any]] = {
    "train": lambda seed: altmin_ext.train(small(), XY, seed=seed, progress=False),
    "make_method": lambda seed: altmin_ext.make_method("am-adam", small(), seed=seed),
    "split": lambda seed: data.split(XY, 0.5, seed),
    "permuted_tasks": lambda seed: streams.permuted_tasks(data.DataSet("tiny", XY, XY, 3), 2, seed),
    "endless": lambda seed: next(streams.endless(*XY, 5, seed)),
}


def small() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.mlp(6, [8], 3)


XY = torch.linspace(-1, 1, 72).reshape(12, 6), torch.arange(12) % 3


@pytest.mark.parametrize("place", SEEDS)
def test_seeds_follow_one_rule(place: str) -> None:
    for seed in (0, 2**63 - 1, np.int64(7), np.uint32(7)):
        SEEDS[place](seed)
    for seed, kind, words in (
        (-1, ValueError, "at least 0, but is -1"),
        (2**63, ValueError, r"less than 2\*\*63, but is 9223372036854775808"),
        (2**70, ValueError, r"less than 2\*\*63"),
        (1.0, TypeError, "an integer, but is 1.0"),
        ("1", TypeError, "an integer, but is '1'"),
        (True, TypeError, "an integer, but is True"),
        (None, TypeError, "an integer, but is None"),
    ):
        with pytest.raises(kind, match=rf"^seed must be {words}"):
            SEEDS[place](seed)


DEVICES: dict[str, Callable[[nn.Module, Any], Any]] = {
    "train": lambda model, device: altmin_ext.train(model, XY, device=device, progress=False),
    "evaluate": lambda model, device: altmin_ext.evaluate(model, XY, device=device),
    "make_method": lambda model, device: altmin_ext.make_method("am-adam", model, device=device),
}


@pytest.mark.parametrize("place", DEVICES)
def test_devices_are_checked_before_the_model_moves(place: str) -> None:
    for device in ("cpu", torch.device("cpu"), None):
        DEVICES[place](small(), device)
    absent = "xla" if torch.cuda.is_available() else "cuda"
    for device, kind, words in (
        ("gpu", ValueError, "a device of torch, such as 'cpu' or 'cuda', but is 'gpu'"),
        ("", ValueError, "a device of torch"),
        (absent, ValueError, f"usable here, but is '{absent}': "),
        ("meta", ValueError, "a device whose tensors hold numbers, but is 'meta'"),
        (0, TypeError, r"a string or a torch\.device, but is 0"),
        (["cpu"], TypeError, r"a string or a torch\.device, but is \['cpu'\]"),
    ):
        model = small()
        with pytest.raises(kind, match=rf"^device must be {words}.*\.$"):
            DEVICES[place](model, device)
        assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert _check.threads("--threads", 4) == 4
    with pytest.raises(
        ValueError, match=r"^--threads must be at most 4, the CPUs of this machine, but is 5\.$"
    ):
        _check.threads("--threads", 5)


# ------------------------------------------------------------------------------- every option of every method

OPTIONS = [
    (name, field.name)
    for name in methods.names()
    for field in dataclasses.fields(methods.method_class(name).Options)
]
every_option = pytest.mark.parametrize(("method", "name"), OPTIONS)
WRONG: list[Any] = [
    object(),
    None,
    "nonsense",
    True,
    3,
    0.5,
    -1,
    -0.5,
    math.nan,
    math.inf,
    [0.5],
    {},
    2j,
    b"adam",
]


def field_of(method: str, name: str) -> dataclasses.Field[Any]:
    return next(f for f in dataclasses.fields(methods.method_class(method).Options) if f.name == name)


def made(method: str, **options: Any) -> Any:
    return methods.method_class(method).Options(**options)


@every_option
def test_wrong_values_are_one_sentence(method: str, name: str) -> None:
    """Whatever the value: it is kept, or refused in a sentence that begins with an option."""
    refused = 0
    for value in WRONG:
        try:
            made(method, **{name: value})
        except (TypeError, ValueError) as error:
            refused += 1
            sentence = str(error)
            assert sentence.endswith("."), sentence
            assert "\n" not in sentence
            assert " must be " in sentence, sentence
            first = sentence.split()[0].partition("[")[0]
            assert first in {field.name for field in dataclasses.fields(methods.method_class(method).Options)}
    assert refused >= 4
    with pytest.raises(TypeError, match=rf"^{name} must be "):
        made(method, **{name: object()})


@every_option
def test_numbers_are_kept_as_plain_objects(method: str, name: str) -> None:
    default = made(method)
    value = getattr(default, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    kinds = [np.int64, np.uint16] if isinstance(value, int) else [np.float64]
    for kind in kinds:
        options = made(method, **{name: kind(value)})
        kept = getattr(options, name)
        assert type(kept) is type(value)
        assert kept == value


@pytest.mark.parametrize(("method", "options"), [
    ("am-adam", {"lr": 0.01, "mu": 0.3, "code_iterations": 2, "weight_decay": 0.1}),
    ("am-mem", {"lr_memory": 0.3, "sweeps": 2, "damping": 1.0}),
    ("block-admm", {"rho": 0.3, "iterations": 2, "blocks": 2}),
    ("mdlam", {"relaxation": 0.7, "rho": 0.1, "chunk_size": 5}),
    ("sgd", {"lr": 0.1, "momentum": 0.5}),
])  # fmt: skip
def test_numpys_numbers_train_to_the_same_bits(method: str, options: dict[str, Any]) -> None:
    weights = []
    for convert in (lambda v: v, lambda v: np.int64(v) if isinstance(v, int) else np.float64(v)):
        model = small()
        altmin_ext.train(
            model, XY, method=method, epochs=convert(2), batch_size=convert(5), seed=convert(3), progress=False,
            **{name: convert(value) for name, value in options.items()},
        )  # fmt: skip
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*weights)


def test_numpys_numbers_elsewhere() -> None:
    stopping = EarlyStopping(
        patience=np.int64(3), minimum_improvement=np.float32(0.5), restore_best=np.bool_(True)
    )
    assert (stopping.patience, stopping.minimum_improvement, stopping.restore_best) == (3, 0.5, True)
    history = altmin_ext.train(
        small(), XY, validation_fraction=np.float32(0.5), steps=np.int8(1), lr_schedule=lambda epoch: np.float32(1),
        progress=False,
    )  # fmt: skip
    assert history.steps == 1
    assert altmin_ext.evaluate(small(), XY, batch_size=np.int64(5)).samples == 12


# ---------------------------------------------------------------------------------------- meanings and other words


def test_a_shared_meaning_is_shared() -> None:
    """It is that of two methods or more whose options classes declare it apart, and stands in one place."""
    declared: dict[str, set[type]] = {}
    for method in methods.names():
        for kind in methods.method_class(method).Options.__mro__:
            for name in vars(kind).get("__annotations__", {}):
                declared.setdefault(name, set()).add(kind)
    for name in _options._shared:
        assert name in ("report_objective", "weight_decay") or len(declared[name]) > 1, name
    for method, name in OPTIONS:
        field = field_of(method, name)
        assert bool(field.metadata["help"]) != (name in _options._shared), (method, name)


def test_arguments_that_are_no_options() -> None:
    """The table of them is what the two signatures say."""
    of_train, of_make = (
        inspect.signature(function).parameters for function in (altmin_ext.train, altmin_ext.make_method)
    )
    skipped = {"model", "data", "name", "method_options", "options"}
    assert set(methods._arguments) == ({*of_train, *of_make} - skipped)


@pytest.mark.parametrize(
    ("method", "word", "sentence"),
    [
        ("admm", "lr", "unknown option of 'admm': 'lr': it is called 'relaxation' here."),
        (
            "mdlam",
            "learning_rate",
            "unknown option of 'mdlam': 'learning_rate': it is called 'relaxation' here.",
        ),
        ("adam", "learning_rate", "unknown option of 'adam': 'learning_rate': it is called 'lr' here."),
        (
            "dladmm",
            "weight_decay",
            "unknown option of 'dladmm': 'weight_decay': it is called 'l2_weights' here.",
        ),
        ("admm", "weight_decay", "unknown option of 'admm': 'weight_decay': it is called 'shrinkage' here."),
        ("block-admm", "beta", "unknown option of 'block-admm': 'beta': it is called 'rho' here."),
        ("deepfacto", "prior", "unknown option of 'deepfacto': 'prior': it is called 'prior_batches' here."),
        ("sgd", "optimizer", "unknown option of 'sgd': 'optimizer': it is called 'method' here."),
        ("sgd", "random_state", "unknown option of 'sgd': 'random_state': it is called 'seed' here."),
        ("sgd", "batchSize", "unknown option of 'sgd': 'batchSize': it is called 'batch_size' here."),
        ("sgd", "epoch", "unknown option of 'sgd': 'epoch': it is called 'epochs' here."),
        ("sgd", "n_iter", "unknown option of 'sgd': 'n_iter': it is called 'epochs' here."),
        ("sgd", "verbose", "unknown option of 'sgd': 'verbose': it is called 'progress' here."),
        ("sgd", "criterion", "unknown option of 'sgd': 'criterion': it is called 'loss' here."),
        ("sgd", "lr_scheduler", "unknown option of 'sgd': 'lr_scheduler': it is called 'lr_schedule' here."),
        ("sgd", "val_data", "unknown option of 'sgd': 'val_data': it is called 'validation' here."),
        ("sgd", "sample_weights", "unknown option of 'sgd': 'sample_weights': weights are a column of y, "),
        ("sgd", "patience", "unknown option of 'sgd': 'patience': pass callbacks=[EarlyStopping(...)] "),
        ("sgd", "dtype", "unknown option of 'sgd': 'dtype': the model's dtype counts, "),
        ("sgd", "epochz", "unknown option of 'sgd': 'epochz': did you mean 'epochs'?"),
        ("sgd", "epochs", "unknown option of 'sgd': 'epochs': it is an argument of altmin_ext.train."),
        ("sgd", "sample_weight", "unknown option of 'sgd': 'sample_weight': weights are a column of y, "),
        ("adam", "momentum", "unknown option of 'adam': 'momentum' is one of sgd; those of 'adam' are "),
        ("adam", "lrr", "unknown option of 'adam': 'lrr': did you mean 'lr'?"),
    ],
)
def test_other_words(method: str, word: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^unknown option") as error:
        altmin_ext.make_method(method, small(), **{word: 1})
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith(".")


def test_other_words_point_somewhere() -> None:
    known = {name for _, name in OPTIONS} | set(methods._arguments)
    for word, meant in _options.other_words.items():
        assert meant
        assert set(meant) <= known, word
        assert word not in meant


# ---------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("build", "error", "sentence"),
    [
        (lambda: models.mlp(64, 5, 10), TypeError, "hidden must be a list of integers, but is 5."),
        (lambda: models.mlp(64, [5.5], 10), TypeError, "hidden[0] must be an integer, but is 5.5."),
        (lambda: models.mlp("64", [5], 10), TypeError, "n_in must be an integer, but is '64'."),
        (lambda: models.mlp(64, [5], 0), ValueError, "n_out must be at least 1, but is 0."),
        (
            lambda: models.mlp(64, [5], 10, nn.ReLU),
            TypeError,
            "activation must be a name, such as ",
        ),
        (lambda: models.binary_mlp(64, [5, 0]), ValueError, "hidden[1] must be at least 1, but is 0."),
        (lambda: models.lenet5(1, "28"), TypeError, "size must be an integer, but is '28'."),
        (lambda: models.lenet5(1, 15), ValueError, "size must be at least 16, but is 15."),
        (lambda: models.lenet5(0), ValueError, "in_channels must be at least 1, but is 0."),
        (lambda: models.elman_rnn(0), ValueError, "n_in must be at least 1, but is 0."),
        (lambda: models.elman_rnn(steps=2.0), TypeError, "steps must be an integer, but is 2.0."),
        (lambda: models.TimeSteps(0), ValueError, "n_in must be at least 1, but is 0."),
    ],
)
def test_networks_that_cannot_be(build: Callable[[], Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as raised:
        build()
    assert str(raised.value).startswith(sentence)


def test_networks_of_numpys_integers() -> None:
    model = models.mlp(np.int64(6), np.array([4, 5]), np.int32(3))
    assert [tuple(p.shape) for p in model.parameters()] == [(4, 6), (4,), (5, 4), (5,), (3, 5), (3,)]
    assert models.elman_rnn(np.int64(2), np.int64(3), np.int64(4), np.int64(5))(torch.zeros(7, 8)).shape == (
        7,
        5,
    )
    layer = altmin_ext.NonNegativeFactors(np.int64(4), np.int64(2))
    assert (type(layer.features), layer.dictionary.shape) == (int, (4, 2))


# ------------------------------------------------------------------------------------------------- our own data


@pytest.fixture
def tiny() -> data.DataSet:
    x, y = XY
    return data.DataSet("tiny", (x[:9], y[:9]), (x[9:], y[9:]), 3)


def test_a_data_set_is_its_training_part_or_its_test_part(tiny: data.DataSet) -> None:
    """By itself as by its parts, to the bit."""
    one, other = small(), small()
    found = altmin_ext.train(one, tiny, validation=tiny, batch_size=4, progress=False)
    expected = altmin_ext.train(other, tiny.train, validation=tiny.test, batch_size=4, progress=False)
    for key in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        assert found.epochs[0][key] == expected.epochs[0][key]
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert altmin_ext.evaluate(one, tiny) == altmin_ext.evaluate(one, tiny.test)
    assert altmin_ext.evaluate(one, tiny).samples == 3


def test_samples_without_a_label_are_left_out_of_an_evaluation() -> None:
    """Of a model with a layer of factors, which can learn from them; others refuse them."""
    model = models.deepfacto(nn.Linear(6, 8), 8, 4, nn.Linear(4, 3))
    x, y = XY
    labelled: Tensor = torch.arange(12) % 2 == 0
    found = altmin_ext.evaluate(model, (x, torch.where(labelled, y, -1)))
    expected = altmin_ext.evaluate(model, (x[labelled], y[labelled]))
    assert (found.samples, found.accuracy) == (expected.samples, expected.accuracy)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    with pytest.raises(ValueError, match=r"^y must lie in"):
        altmin_ext.evaluate(small(), (x, torch.where(labelled, y, -1)))
