"""Every form of data at every entry point. Oracle: what the user's own object hands out, read by hand; copies of the
user's tensors and of torch's generators; and torch itself, where a form is the same numbers in other clothes.

The model begins with a spy, which notes what it is given and then writes to it, as a module that works in place may.
"""

from __future__ import annotations

import copy
import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
)

from altmin_ext import DivergenceError, evaluate, make_method, methods, models, train
from altmin_ext.data import DataSet
from altmin_ext.methods import MethodOptions
from altmin_ext.methods.base import Method, StepReport

FEATURES, CLASSES = 3, 4


def numbered(n: int, first: int) -> tuple[Tensor, Tensor]:
    """n samples whose first feature is their number, counted from ``first``."""
    x = torch.zeros(n, FEATURES)
    x[:, 0] = torch.arange(first, first + n)
    return x, torch.arange(n) % CLASSES


class Spy(nn.Module):
    """The identity, which notes the first feature of each sample and overwrites its input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.detach()[:, 0].tolist()
        kept = x.clone()
        x.fill_(-1.0)
        return kept


def spied(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(Spy(), nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def network(method: str = "am-adam") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if method == "deepfacto":
            return models.deepfacto(nn.Linear(FEATURES, 5), 5, 4, nn.Linear(4, CLASSES))
        return models.mlp(FEATURES, [5], CLASSES, "relu")


def assert_same(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    assert all(torch.equal(before[key], value) for key, value in after.items())


# ------------------------------------------------------------------------------------- every form, everywhere


class Pairs(Dataset[Any]):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], int(self.y[index])


class Stream(IterableDataset[Any]):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[Any]:
        return zip(self.x, self.y, strict=True)


class Tripled(TensorDataset):
    """Hands out other samples than the tensors that it holds."""

    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return 3 * x, y


class TripledSubset(Subset[Any]):
    def __getitem__(self, index: Any) -> Any:
        x, y = self.dataset[self.indices[index]]
        return 3 * x, y

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Unbound:
    """All that torch asks of a data set."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._samples = Pairs(x, y)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._samples[index]


class AtOnce(Unbound):
    """As those of Hugging Face: also an iterable, of samples."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))


class Column(Sequence[Any]):
    """Reads its entries when they are needed."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Tensor:
        return self._values[index]


class Table:
    """What pandas' columns have: a method for their numbers."""

    name = "a"

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().numpy()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._values

    def to_numpy(self) -> Any:
        return self._values


class Frame(Table):
    """Some of them."""

    columns = range(FEATURES)

    def items(self) -> Iterator[tuple[int, Table]]:
        return ((number, Table(torch.from_numpy(self._values[:, number]))) for number in self.columns)


class Labelled(Tensor):
    """A subclass that only carries something along."""


def made_in_inference_mode(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


def lazily_negated(x: Tensor) -> Tensor:
    view = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert view.is_neg()
    return view


def minibatches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(7), y.split(7), strict=True))


Form = Callable[[Tensor, Tensor], Any]
IN_MEMORY: dict[str, Form] = {
    "tensors": lambda x, y: (x, y),
    "list of two": lambda x, y: [x, y],
    "ndarrays": lambda x, y: (x.numpy(), y.numpy()),
    "dict": lambda x, y: {"y": y, "x": x},
    "columns": lambda x, y: (Column(x), Column(y)),
    "table": lambda x, y: (Frame(x), Table(y)),
    "long doubles": lambda x, y: (x.numpy().astype(np.longdouble), y.numpy()),
    "transposed": lambda x, y: (x.t().contiguous().t(), y),
    "requires grad": lambda x, y: (x.requires_grad_(), y),
    "parameter": lambda x, y: (nn.Parameter(x), y),
    "subclass": lambda x, y: (x.as_subclass(Labelled), y.as_subclass(Labelled)),
    "inference mode": lambda x, y: (made_in_inference_mode(x), made_in_inference_mode(y)),
    "lazily negated": lambda x, y: (lazily_negated(x), y),
    "uint16 labels": lambda x, y: (x, y.to(torch.uint16)),
    "uint64 labels": lambda x, y: (x, y.to(torch.uint64)),
    "TensorDataset": TensorDataset,
    "Subset": lambda x, y: Subset(TensorDataset(x, y), range(len(x))),
    "Subset of Subset": lambda x, y: Subset(Subset(TensorDataset(x, y), range(len(x))), range(len(x))),
    "DataSet": lambda x, y: DataSet("numbers", (x, y), (x, y), CLASSES),
}
STREAMED: dict[str, Form] = {
    "list of minibatches": minibatches,
    "two minibatches": lambda x, y: [(x[:10], y[:10]), (x[10:], y[10:])],
    "minibatches in inference mode": lambda x, y: [
        tuple(map(made_in_inference_mode, b)) for b in minibatches(x, y)
    ],
    "minibatches, uint16 labels": lambda x, y: [(a, b.to(torch.uint16)) for a, b in minibatches(x, y)],
    "generator": lambda x, y: (batch for batch in minibatches(x, y)),
    "dict minibatches": lambda x, y: [{"y": b, "x": a} for a, b in minibatches(x, y)],
    "Dataset": Pairs,
    "IterableDataset": Stream,
    "StackDataset": StackDataset,
    "StackDataset of a dict": lambda x, y: StackDataset(y=y, x=x),
    "data set without a base": Unbound,
    "data set of many at once": AtOnce,
    "ConcatDataset": lambda x, y: ConcatDataset([Pairs(x[:5], y[:5]), Pairs(x[5:], y[5:])]),
    "tripling TensorDataset": lambda x, y: Tripled(x / 3, y),
    "Subset of one": lambda x, y: Subset(Tripled(x / 3, y), range(len(x))),
    "tripling Subset": lambda x, y: TripledSubset(TensorDataset(x / 3, y), range(len(x))),
    "DataLoader": lambda x, y: DataLoader(Pairs(x, y), 7),
    "DataLoader of a stream": lambda x, y: DataLoader(Stream(x, y), 7),
    "DataLoader, own generator": lambda x, y: DataLoader(Pairs(x, y), 7, True, generator=torch.Generator()),
    "DataLoader, a worker": lambda x, y: DataLoader(Pairs(x, y), 7, num_workers=1),
    "DataLoader of a stream, a worker": lambda x, y: DataLoader(Stream(x, y), 7, num_workers=1),
}
FORMS = IN_MEMORY | STREAMED

Entry = Callable[[nn.Module, Any], Any]
other_data = numbered(21, 5000)


def training(method: str, **arguments: Any) -> Entry:
    arguments = {"batch_size": 7, "progress": False, **arguments}
    return lambda model, data: train(model, data, method=method, **arguments)


def validation(method: str) -> Entry:
    def run(model: nn.Module, data: Any) -> None:
        x, y = other_data
        train(model, (x.clone(), y), method=method, validation=data, batch_size=7, progress=False)

    return run


TRAINING: dict[str, Entry] = {
    "am-adam": training("am-adam"),
    "adam": training("adam"),
    "in order": training("am-sgd", shuffle=False, lr=1e-3),
    "adam in order": training("adam", shuffle=False),
}
FULL_BATCH: dict[str, Entry] = {"full batch": training("am-adam-off")}
EVALUATION: dict[str, Entry] = {
    "evaluate": lambda model, data: evaluate(model, data, batch_size=7),
    "validation": validation("am-adam"),
    "validation of adam": validation("adam"),
    "validation of a full batch": validation("am-adam-off"),
}
PLACES = [
    (form, entry)
    for forms, entries in ((FORMS, TRAINING | EVALUATION), (IN_MEMORY, FULL_BATCH))
    for form in forms
    for entry in entries
]


@pytest.mark.parametrize(("form", "entry"), PLACES)
def test_samples_are_those_handed_out_and_nothing_is_written(form: str, entry: str) -> None:
    x, y = numbered(21, 100)
    data = FORMS[form](x, y)
    kept, model = x.detach().clone(), spied()
    before = torch.get_rng_state()
    (TRAINING | FULL_BATCH | EVALUATION)[entry](model, data)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x.detach(), kept)
    # Zeros are trials of the model, made before any data are seen; a third, tripled, is rounded.
    found = {round(value, 3) for value in model[0].seen if value not in (0.0, *other_data[0][:, 0].tolist())}
    assert found == set(kept[:, 0].tolist())


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("use", ["train", "evaluate", "validation"])
def test_arrays_backwards(samples: int, use: str) -> None:
    """Even of a single sample, which NumPy takes for contiguous; the same as a copy of it."""
    rng = np.random.default_rng(0)
    backwards = rng.normal(size=(samples, 6))[::-1], rng.integers(3, size=samples)[::-1]
    results = []
    for data in (backwards, tuple(array.copy() for array in backwards)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Linear(6, 3).double()
        if use == "evaluate":
            results.append(evaluate(model, data).loss)
        else:
            validation = data if use == "validation" else None
            history = train(nn.Sequential(model), data, method="adam", validation=validation, progress=False)
            results.append(history.epochs[0]["validation_loss" if use == "validation" else "loss"])
    assert results[0] == results[1]


def test_own_shuffling_is_left_to_torch() -> None:
    """A DataLoader with shuffle=True and no generator draws its order from torch's, as in a loop written out."""
    data = TensorDataset(*numbered(20, 1))
    torch.manual_seed(3)
    expected = [x[:, 0].tolist() for x, _ in DataLoader(data, 5, shuffle=True)]
    torch.manual_seed(3)
    order = Order()
    train(order.model, DataLoader(data, 5, shuffle=True), method=order, progress=False)
    assert len(order.batches) == len(expected) == 4
    assert sorted(flat(order.batches)) == sorted(flat(expected))
    torch.manual_seed(4)
    other = Order()
    train(other.model, DataLoader(data, 5, shuffle=True), method=other, progress=False)
    assert other.batches != order.batches


class Worker(Dataset[Any]):
    """Random samples, as augmentation makes them."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(FEATURES), 0


def test_workers_draw_new_numbers_in_every_pass() -> None:
    runs = []
    for _ in range(2):
        order = Order()
        torch.manual_seed(0)
        for epochs in (2, 1):
            train(
                order.model,
                DataLoader(Worker(), 2, num_workers=1),
                method=order,
                epochs=epochs,
                progress=False,
            )
        runs.append(order.batches)
    assert len({value for batch in runs[0] for value in batch}) == 6
    assert runs[0] == runs[1]


# --------------------------------------------------------------------------------- validation leaves no trace


class Noisy(Pairs):
    """Draws from every global generator."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = super().__getitem__(index)
        noise = random.random() + float(np.random.rand())  # noqa: NPY002
        return x + torch.rand(FEATURES) + noise, y


class RunningMean(nn.Module):
    """Moves its buffers in evaluation mode, too: one in place, one by replacing it. Adds noise in both modes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean(0), 0.1)
        self.count = self.count + 1
        return x - self.mean + torch.rand(())


@pytest.mark.parametrize("method", ["am-adam", "adam"])
@pytest.mark.parametrize(
    "form", ["tensors", "Noisy", "DataLoader", "shuffling DataLoader", "list of minibatches"]
)
def test_validation_changes_nothing(form: str, method: str) -> None:
    forms: dict[str, Form] = {
        "Noisy": Noisy,
        "shuffling DataLoader": lambda x, y: DataLoader(Pairs(x, y), 7, True),
    }
    held_out = (FORMS | forms)[form](*numbered(10, 1))
    states = []
    for data in (None, held_out):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        model = nn.Sequential(nn.Linear(FEATURES, 5), RunningMean(), nn.Dropout(), nn.Linear(5, CLASSES))
        train(
            model,
            Noisy(*numbered(21, 1)),
            method=method,
            epochs=3,
            batch_size=7,
            validation=data,
            progress=False,
        )
        states.append(model.state_dict())
    assert_same(*states)


def test_validation_goes_through_the_model_in_minibatches() -> None:
    class Sizes(nn.Module):
        largest = 0

        def forward(self, x: Tensor) -> Tensor:
            self.largest = max(self.largest, len(x))
            return x

    model = nn.Sequential(Sizes(), nn.Linear(FEATURES, CLASSES))
    train(model, numbered(20, 1), method="am-adam-off", validation=numbered(2500, 1), progress=False)
    assert 20 < model[0].largest <= 1000


# -------------------------------------------------------------------------------------------------- refusals


def quietly(make: Callable[[], Tensor]) -> Tensor:
    """A tensor of a kind that torch means to change or drop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


x, y = numbered(12, 1)
nan_x = x.clone()
nan_x[7, 1] = torch.nan
labels = {"-2**63": torch.iinfo(torch.int64).min, "-100": -100, "-1": -1, "4": CLASSES}
huge = torch.full((12,), 2**64 - 1, dtype=torch.uint64)
# (x, y): whichever way they come, the sentence is the same.
WRONG_PAIRS: dict[str, tuple[Any, type[Exception], str]] = {
    **{
        f"label {name}": (
            (x, torch.where(y == 2, value, y)),
            ValueError,
            rf"y must lie in \[0, 4\), .* is {value}\.",
        )
        for name, value in labels.items()
    },
    "label 2**64 - 1": ((x, huge), ValueError, r"y must be less than 2\*\*63"),
    "labels as floats": ((x, y.float()), TypeError, "y must be integer class indices"),
    "labels as bools": ((x, y > 1), TypeError, "y must be integer class indices"),
    "fewer y": ((x, y[:-1]), ValueError, "y must have an entry for each of the 12 samples of x"),
    "fewer x": ((x[:1], y), ValueError, "y must have an entry for each of the 1 samples of x"),
    "one y": ((x, torch.tensor(1)), ValueError, "y must have an entry for each"),
    "empty": ((x[:0], y[:0]), ValueError, "x must hold at least one sample, but is empty"),
    "one dimension": ((x[:, 0], y), ValueError, "x must be .* with at least two dimensions"),
    "too few features": ((x[:, :2], y), ValueError, "x "),
    "sparse x": ((x.to_sparse(), y), TypeError, "x must be a dense tensor.*x.to_dense()"),
    "sparse y": ((x, y.to_sparse()), TypeError, "y must be a dense tensor.*y.to_dense()"),
    "complex x": ((x + 0j, y), TypeError, "x must be "),
    "integer x": ((x.long(), y), TypeError, "x must be "),
    "quantised x": (
        (quietly(lambda: torch.quantize_per_tensor(x, 1.0, 0, torch.qint8)), y),
        TypeError,
        "x must .*dequantize()",
    ),
    "x on meta": ((x.to("meta"), y), ValueError, "x must .*meta"),
    "nested x": (
        (quietly(lambda: torch.nested.nested_tensor([x[0], x[1]])), y[:2]),
        TypeError,
        "x must be a dense tensor",
    ),
}
# What is no pair of tensors: a step never takes it.
WRONG_FORMS: dict[str, tuple[Any, type[Exception], str]] = {
    "lists": (
        (x.tolist(), y.tolist()),
        TypeError,
        r"x must be .*numpy.ndarray, but is a list; .*numpy.asarray\(x\)",
    ),
    "tables": (
        (Table(x), Table(y + 0j)),
        TypeError,
        r"y must hold numbers, but holds complex64; number its classes from 0",
    ),
    "masked": ((np.ma.masked_greater(x.numpy(), 9), y.numpy()), ValueError, "x must have a value everywhere"),
    "dates": ((x.numpy(), np.full(12, "2020", "M8[D]")), TypeError, "y must hold numbers"),
    "dict": ({"image": x, "label": y}, TypeError, "data must .*a dict with the keys 'image', 'label'"),
    "dict of more": ({"x": x, "y": y, "w": y}, TypeError, "data must .*a dict with the keys 'x', 'y', 'w'"),
    "NaN in x": ((nan_x, y), ValueError, "x must be finite, but sample 7 holds NaN"),
}
WAYS: dict[str, Entry] = {
    "train": training("am-adam"),
    "train adam": training("adam"),
    "stream": lambda model, data: train(model, [data], method="am-adam", progress=False),
    "stream of adam": lambda model, data: train(model, [data], method="adam", progress=False),
    "step": lambda model, data: make_method("am-adam", model).step(*data),
    "step of adam": lambda model, data: make_method("adam", model).step(*data),
    "evaluate": evaluate,
    "evaluate stream": lambda model, data: evaluate(model, [data]),
    "validation": lambda model, data: train(model, (x, y), validation=data, progress=False),
    "validation stream": lambda model, data: train(model, (x, y), validation=[data], progress=False),
}
REFUSALS = [(wrong, way) for wrong in WRONG_PAIRS for way in WAYS] + [
    (wrong, way)
    for wrong in WRONG_FORMS
    for way in WAYS
    if "step" not in way and not (wrong == "NaN in x" and way.startswith("stream"))
]


@pytest.mark.parametrize(("wrong", "way"), REFUSALS)
def test_wrong_data_are_refused_in_a_sentence(wrong: str, way: str) -> None:
    data, error, sentence = (WRONG_PAIRS | WRONG_FORMS)[wrong]
    if wrong == "x on meta" and "step" in way:
        sentence = "x must be on cpu"
    model = network()
    before = copy.deepcopy(model.state_dict())
    prefix = "validation: " if "validation" in way else ""
    with pytest.raises(error, match=f"^{prefix}{sentence}") as caught:
        WAYS[way](model, data)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert_same(before, model.state_dict())


class Ragged(Pairs):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample, label = super().__getitem__(index)
        return sample[: 1 + index % 2], label


class Unsized(Dataset[Any]):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise IndexError


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        ([(x, y, y)], TypeError, "data must yield .* a tuple of 3; let it yield the two"),
        (TensorDataset(x, y, y), ValueError, "a TensorDataset must hold two tensors, x and y, but holds 3"),
        (DataLoader(TensorDataset(x, y, y)), TypeError, "data must yield .* a list of 3"),
        ({"train": Pairs(x, y)}, TypeError, r"data must be .* pass one part, as in data\['train'\]"),
        (Table(x), TypeError, r"data must be \(x, y\), but is a Table; pass the columns of x and that of y"),
        ([{"x": x.tolist(), "y": y}], TypeError, "data must yield tensors, but its 'x' is a list"),
        ([{"x": x, "y": y, "z": y}], TypeError, "data must yield .* a dict with the keys 'x', 'y', 'z'"),
        ([{"x": x}, {"x": x}], TypeError, "data must yield .* a dict with the keys 'x'"),
        ([x.tolist(), x.tolist(), x.tolist()], TypeError, "data must yield .* a list of 12"),
        (Ragged(x, y), ValueError, "data must hold samples that can be stacked"),
        (Unsized(), TypeError, "data must have a length as a torch Dataset, but Unsized has none"),
        (Pairs(x[:0], y[:0]), ValueError, "data must hold at least one sample, but the Pairs is empty"),
        (
            Subset(TensorDataset(x, y), [99]),
            ValueError,
            "a Subset must hold numbers of samples, but index 99",
        ),
        *(
            (
                Subset(TensorDataset(x, y), entries),
                TypeError,
                "a Subset must hold numbers of samples, but holds",
            )
            for entries in (
                [True] * len(x),
                np.ones(len(x), bool),
                torch.ones(len(x), dtype=torch.bool),
                [0.0],
            )
        ),
    ],
    ids=lambda _: None,
)
def test_other_wrong_data(data: Any, error: type[Exception], sentence: str) -> None:
    for prefix, call in (
        ("", lambda: train(network(), data, batch_size=4, shuffle=False, progress=False)),
        ("", lambda: evaluate(network(), data)),
        ("validation: ", lambda: train(network(), (x, y), validation=data, progress=False)),
    ):
        with pytest.raises(error, match=f"^{prefix}{sentence}") as caught:
            call()
        assert str(caught.value).endswith(".")


@pytest.mark.parametrize("way", ["evaluate stream", "validation stream"])
@pytest.mark.parametrize("data", [(x, x[:1]), (x[:1], x)], ids=["fewer y", "fewer x"])
def test_lengths_are_not_broadcast(data: tuple[Tensor, Tensor], way: str) -> None:
    """torch would broadcast (12, 3) and (1, 3) to a mean squared error."""
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES))
    ways: dict[str, Callable[[], Any]] = {
        "evaluate stream": lambda: evaluate(model, [data], loss="mse"),
        "validation stream": lambda: train(model, (x, x), loss="mse", validation=[data], progress=False),
    }
    with pytest.raises(ValueError, match="y must have an entry for each"):
        ways[way]()


class Pooled(nn.Module):
    """Loses the samples: its mean over them would be broadcast against the targets of all."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).mean(0, keepdim=True)


@pytest.mark.parametrize("name", ["sgd", "adam", "ste", "evaluate"])
def test_outputs_are_not_broadcast(name: str) -> None:
    def use() -> Any:
        if name == "evaluate":
            return evaluate(Pooled(), (x, x), loss="mse")
        return train(Pooled(), (x, x), method=name, loss="mse", progress=False)

    with pytest.raises(ValueError, match=r"model must return \(B, C\) logits, .* \(1, 3\) for 12 samples\.$"):
        use()


@pytest.mark.parametrize("criterion", [nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss])
@pytest.mark.parametrize("use", ["memory", "stream", "evaluate", "step"])
@pytest.mark.parametrize("name", ["am-adam", "adam"])
def test_criteria_do_not_broadcast(name: str, use: str, criterion: type[nn.Module]) -> None:
    """torch would compare each of the (12, 1) outputs with each of the (12,) targets."""
    method = make_method(name, models.mlp(FEATURES, [5], 1), loss=criterion())
    before = copy.deepcopy(method.model.state_dict())
    with pytest.raises(
        ValueError, match=r"y must have the shape of the logits, \(\d+, 1\), .* has \(\d+,\)\.$"
    ):
        USES[use](method, (x, torch.ones(12)))
    assert_same(before, method.model.state_dict())


# --------------------------------------------------------------------------------------- targets, every method


def in_memory(method: Method, data: tuple[Tensor, Tensor]) -> None:
    train(method.model, data, method=method, progress=False)


def streamed(method: Method, data: tuple[Tensor, Tensor]) -> None:
    train(method.model, [data], method=method, progress=False)


def evaluated(method: Method, data: tuple[Tensor, Tensor]) -> None:
    evaluate(method.model, data, loss=method.loss)


def validated(method: Method, data: tuple[Tensor, Tensor]) -> None:
    good = data[0], torch.zeros_like(data[1])
    train(method.model, good, method=method, validation=[data], progress=False)


def stepped(method: Method, data: tuple[Tensor, Tensor]) -> None:
    method.step(*data)


USES = {
    "memory": in_memory,
    "stream": streamed,
    "evaluate": evaluated,
    "validation": validated,
    "step": stepped,
}
every_method = pytest.mark.parametrize("name", methods.names())
CLOSED_FORMS = ("rls", "slda", "ncm")


@every_method
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("label", labels)
def test_a_missing_label_is_refused_by_every_method(name: str, use: str, label: str) -> None:
    method_class = methods.method_class(name)
    if method_class.full_batch and use == "stream":
        return
    method = make_method(name, network(name))
    data = x, torch.where(y == 2, labels[label], y)
    if method.factorises and label == "-1":  # declared: no label
        USES[use](method, data)
        return
    before = copy.deepcopy(method.model.state_dict())
    with pytest.raises(ValueError, match=r"^(validation: )?y must lie in \[0, 4\).* is -?\d+\.$"):
        USES[use](method, data)
    assert_same(before, method.model.state_dict())


@every_method
@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64"])
def test_labels_of_any_width_train_alike(name: str, kind: str) -> None:
    uses = [in_memory, stepped] + ([] if methods.method_class(name).full_batch else [streamed])
    for use in uses:
        states = []
        for labels_ in (y, y.to(getattr(torch, kind))):
            method = make_method(name, network(name))
            use(method, (x, labels_))
            states.append(method.model.state_dict())
        assert_same(*states)


@pytest.mark.parametrize("name", [n for n in methods.names() if n not in ("slda", "ncm")])
def test_nan_in_targets_is_found_beforehand_and_y_is_blamed(name: str) -> None:
    target = torch.zeros(12, CLASSES)
    target[7, 1] = torch.nan
    for use in USES.values():
        method = make_method(name, network(name), loss="mse")
        if use is streamed and method.full_batch:
            continue
        before = copy.deepcopy(method.model.state_dict())
        with pytest.raises((ValueError, DivergenceError)) as caught:
            use(method, (x, target))
        found = str(caught.value).removeprefix("validation: ")
        assert found.startswith("y must be finite, but sample 7 holds NaN") or (
            use in (stepped, streamed) and "; y holds NaN or Inf: clean or drop" in found
        )
        assert_same(before, method.model.state_dict())


@every_method
def test_nan_in_the_inputs_of_a_step_is_blamed_on_x(name: str) -> None:
    with pytest.raises(DivergenceError, match="x holds NaN or Inf: clean or drop such samples"):
        make_method(name, network(name)).step(nan_x, y)


def test_finite_data_are_not_blamed() -> None:
    method = make_method("sgd", nn.Sequential(nn.Linear(FEATURES, CLASSES)))
    method.step(x * 1e30, y)
    with pytest.raises(DivergenceError, match="x and y are finite, so lower lr"):
        method.step(x * 1e30, y)  # the logits overflow


# --------------------------------------------------------------------------------- a last minibatch of one


class Deviations(nn.Module):
    """Divides by the minibatch's deviations, which a single sample does not have: the result is NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x - x.mean(0)).square().mean(0).sqrt() if self.training else x


class AtLeastTwo(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            raise RuntimeError("two or more, please")
        return x


COUPLING: dict[str, Callable[[], nn.Module]] = {
    "batch normalisation": lambda: nn.BatchNorm1d(5),
    "division": Deviations,
    "own": AtLeastTwo,
}
SIZED: dict[str, Form] = {
    "tensors": lambda x, y: (x, y),
    "Dataset": Pairs,
    "DataLoader": lambda x, y: DataLoader(Pairs(x, y), 4),
}


def coupled(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 5), COUPLING[kind](), nn.ReLU(), nn.Linear(5, CLASSES))


@pytest.mark.parametrize("name", ["am-adam", "am-sgd", "block-admm", "sgd", "adam", "ste"])
@pytest.mark.parametrize("kind", COUPLING)
@pytest.mark.parametrize("form", SIZED)
def test_a_last_minibatch_of_one_is_found_before_the_first_step(form: str, kind: str, name: str) -> None:
    samples = (
        torch.randn(13, FEATURES, generator=torch.Generator().manual_seed(0)),
        torch.arange(13) % CLASSES,
    )
    model = coupled(kind)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"^batch_size must leave at least 2 samples .* leaves 1: .*\.$"):
        train(model, SIZED[form](*samples), method=name, batch_size=4, progress=False)
    assert_same(before, model.state_dict())
    # As long as it is never reached it does no harm.
    assert train(model, SIZED[form](*samples), method=name, batch_size=4, steps=3, progress=False).steps == 3


def test_a_last_minibatch_of_one_is_trained_on_where_it_can_be() -> None:
    samples = numbered(13, 1)
    assert train(network(), samples, batch_size=4, progress=False).steps == 4
    torch.manual_seed(0)
    # Three places of each sample give batch normalisation its statistics.
    model = nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(6, CLASSES)
    )
    assert train(model, samples, batch_size=4, progress=False).steps == 4
    dropping = DataLoader(Pairs(*samples), 4, drop_last=True)
    assert train(coupled("batch normalisation"), dropping, progress=False).steps == 3


# --------------------------------------------------------------------------- the order over several calls


class Order(Method):
    """Trains nothing; notes the first feature of every sample."""

    name = "order"

    def __init__(self) -> None:
        super().__init__(nn.Linear(FEATURES, CLASSES), MethodOptions())
        self.batches: list[list[float]] = []

    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        self.batches.append(x[:, 0].tolist())
        return StepReport(x.mean(), None)


def run(method: Order, data: Any, **arguments: Any) -> list[list[float]]:
    """The minibatches of one call."""
    start = len(method.batches)
    train(method.model, data, method=method, batch_size=5, progress=False, **arguments)
    return method.batches[start:]


def flat(batches: list[list[float]]) -> list[float]:
    return list(itertools.chain.from_iterable(batches))


@pytest.mark.parametrize("form", ["tensors", "Dataset"])
def test_a_second_call_goes_on_with_the_order(form: str) -> None:
    data = FORMS[form](*numbered(17, 1))
    both = run(Order(), data, epochs=2)
    method = Order()
    first = run(method, data)
    copies = copy.deepcopy(method), Order()
    copies[0].batches = []  # a copy is made of the method's own state
    copies[1].load_state_dict(method.state_dict())
    second = run(method, data)
    assert first + second == both
    assert flat(first) != flat(second)
    for each in copies:
        assert run(each, data) == second


def test_another_seed_starts_a_new_order() -> None:
    data = numbered(17, 1)
    method = Order()
    first = run(method, data, seed=1)
    assert run(method, data, seed=2) == run(Order(), data, seed=2)
    assert run(method, data, seed=1) == first


def test_a_call_without_shuffling_draws_no_order() -> None:
    data = numbered(17, 1)
    method, other = Order(), Order()
    run(method, data, shuffle=False)
    assert run(method, data) == run(other, data)


@pytest.mark.parametrize(
    ("broken", "error", "sentence"),
    [
        ({"seed": "a"}, TypeError, "state's data_order.seed must be an integer"),
        ({"seed": -1}, ValueError, "state's data_order.seed must be at least 0"),
        ({"passes": -1}, ValueError, "state's data_order.passes must be at least 0"),
        ({"passes": 1.5}, TypeError, "state's data_order.passes must be an integer"),
    ],
)
def test_a_state_with_a_broken_order_is_refused(
    broken: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    method = Order()
    state = method.state_dict()
    state["data_order"] |= broken
    with pytest.raises(error, match=sentence):
        method.load_state_dict(state)


# ------------------------------------------------------------------------------------------- criteria


@pytest.mark.parametrize(
    "name", [n for n in methods.names() if n not in ("admm", "mdlam", "dladmm", *CLOSED_FORMS)]
)
@pytest.mark.parametrize("use", USES)
def test_a_criterion_may_write_to_its_targets(name: str, use: str) -> None:
    """The kept y is the same, and so is what every call of the criterion gets."""
    target = torch.ones(12, CLASSES)
    given = []

    def criterion(z: Tensor, t: Tensor) -> Tensor:
        given.append(t.clone())
        loss = F.mse_loss(z, t.clone())
        t.fill_(7.0)
        return loss

    if methods.method_class(name).full_batch and use == "stream":
        return
    USES[use](make_method(name, network(name), loss=criterion), (x, target))
    assert torch.equal(target, torch.ones(12, CLASSES))
    assert given
    assert all(((t == 1) | (t == 0)).all() for t in given)


def leaves_out_missing(z: Tensor, t: Tensor) -> Tensor:
    known = ~t.isnan()
    return (z[known] - t[known]).square().mean()


@pytest.mark.parametrize("name", ["am-adam", "sgd"])
def test_a_function_may_leave_out_missing_targets(name: str) -> None:
    target = torch.zeros(12, CLASSES)
    target[7, 1] = torch.nan
    history = train(network(), (x, target), method=name, loss=leaves_out_missing, progress=False)
    assert history.steps == 1
    for loss in (nn.MSELoss(), lambda z, t: F.mse_loss(z, t)):
        with pytest.raises(ValueError, match=r"^y must be finite, but sample 7 holds NaN"):
            train(network(), (x, target), method=name, loss=loss, progress=False)
