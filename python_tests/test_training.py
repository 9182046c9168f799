"""The training loop. Oracle: a method that writes down what it is given, and loops written out by hand."""

import copy
import math
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import altmin_ext
from altmin_ext import DivergenceError, Method, StepReport, evaluate, make_method, train
from altmin_ext.methods import MethodOptions


class Recorder(Method):
    """Trains nothing; keeps every minibatch. Its loss is the mean of x, and label 0 counts as correct."""

    name = "recorder"

    def __init__(self, model=None, **common):
        super().__init__(model or small_model(), MethodOptions(), **common)
        self.batches = []
        self.factors = []
        self.ended_epochs = 0
        self.objective = None

    def _compute(self, x, y):
        self.batches.append((x.clone(), y.clone()))
        self.factors.append(self.learning_rate_factor)
        correct = (y == 0).sum() if self.loss.counts_correct else None
        return StepReport(x.mean(), correct, self.objective)

    def end_epoch(self):
        self.ended_epochs += 1

    @property
    def sizes(self):
        return [len(x) for x, _ in self.batches]

    @property
    def seen(self):
        """The first feature of every sample, in the order trained on."""
        return torch.cat([x[:, 0] for x, _ in self.batches])


def small_model(seed=0, dropout=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(3, 5), nn.ReLU(), *([nn.Dropout()] if dropout else []), nn.Linear(5, 4)]
        return nn.Sequential(*layers)


def numbered(n):
    """n samples whose first feature is their number, in float32, which holds such integers exactly."""
    x = torch.zeros(n, 3)
    x[:, 0] = torch.arange(n)
    return x, torch.arange(n) % 4


def random_data(n=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator), torch.randint(4, (n,), generator=generator)


def record(data, **arguments):
    recorder = Recorder()
    history = train(recorder.model, data, method=recorder, progress=False, **arguments)
    return recorder, history


def trained_weights(data, **arguments):
    model = small_model()
    arguments = {"method": "sgd", "progress": False, **arguments}
    train(model, data, **arguments)
    return model.state_dict()


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


# ---------------------------------------------------------------------------------------------- minibatches


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_trains_on_every_sample_once(shuffle):
    x, y = numbered(23)
    recorder, history = record((x, y), epochs=3, batch_size=5, shuffle=shuffle)
    assert recorder.sizes == [5, 5, 5, 5, 3] * 3
    for epoch in recorder.seen.view(3, 23):
        torch.testing.assert_close(epoch.sort().values, x[:, 0])
    for batch_x, batch_y in recorder.batches:
        assert torch.equal(batch_y, batch_x[:, 0].long() % 4)
    assert recorder.ended_epochs == 3
    assert history.steps == 15


def test_shuffling_gives_another_order_in_every_epoch_and_for_every_seed():
    first, second = record(numbered(100), epochs=2)[0].seen.view(2, 100)
    assert not torch.equal(first, second)
    assert not torch.equal(first, first.sort().values)
    other = record(numbered(100), epochs=2, seed=1)[0].seen[:100]
    assert not torch.equal(first, other)


def test_without_shuffling_the_order_is_the_data_s():
    assert torch.equal(record(numbered(23), batch_size=5, shuffle=False)[0].seen, torch.arange(23.0))


def test_batch_larger_than_the_data_is_one_batch_of_all():
    assert record(numbered(7), batch_size=200)[0].sizes == [7]


@pytest.mark.parametrize(
    ("steps", "sizes"), [(1, [5]), (3, [5, 5, 2]), (4, [5, 5, 2, 5]), (99, [5, 5, 2] * 2)]
)
def test_steps_bound_the_whole_run(steps, sizes):
    recorder, history = record(numbered(12), epochs=2, batch_size=5, steps=steps)
    assert recorder.sizes == sizes
    assert len(history.epochs) == math.ceil(len(sizes) / 3)


def test_endless_stream_ends_after_steps_and_no_batch_is_read_ahead():
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield numbered(4)

    recorder, history = record(endless(), steps=6)
    assert len(recorder.batches) == 6
    assert len(read) == 6
    assert len(history.epochs) == 1


def test_the_user_s_tensors_are_not_written_to():
    x, y = random_data()
    kept = x.clone(), y.clone()
    trained_weights((x, y), epochs=2)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


# ------------------------------------------------------------------------------------------ forms of data


class Pairs(Dataset):
    """Map-style, sample by sample."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return zip(self.x, self.y, strict=True)


def reversed_twice(x):
    """The same numbers behind negative strides."""
    return np.ascontiguousarray(x.numpy()[::-1])[::-1]


def read_only(x):
    array = x.numpy().copy()
    array.setflags(write=False)
    return array


same_data = {
    "non-contiguous tensors": lambda x, y: (x.t().contiguous().t(), y.repeat_interleave(2)[::2]),
    "tensors that require grad": lambda x, y: (x.clone().requires_grad_(), y),
    "narrow labels": lambda x, y: (x, y.to(torch.uint8)),
    "list of tensors": lambda x, y: [x, y],
    "ndarrays": lambda x, y: (x.numpy(), y.numpy()),
    "float64 ndarrays": lambda x, y: (x.double().numpy(), y.numpy().astype(np.uint16)),
    "big-endian ndarrays": lambda x, y: (x.numpy().astype(">f4"), y.numpy().astype(">i2")),
    "reversed ndarrays": lambda x, y: (reversed_twice(x), reversed_twice(y)),
    "read-only ndarrays": lambda x, y: (read_only(x), read_only(y)),
    "TensorDataset": TensorDataset,
    "Subset": lambda x, y: Subset(TensorDataset(torch.cat([x, x]), torch.cat([y, y])), list(range(len(x)))),
    "map-style Dataset": Pairs,
    "IterableDataset": Stream,
    "DataLoader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=20),
    "list of batches": lambda x, y: list(zip(x.split(20), y.split(20), strict=True)),
    "tuple of batches": lambda x, y: tuple(zip(x.split(20), y.split(20), strict=True)),
    "batches as ndarrays": lambda x, y: [
        (a.double().numpy(), b.numpy()) for a, b in zip(x.split(20), y.split(20), strict=True)
    ],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", same_data.values(), ids=same_data.keys())
def test_every_form_of_the_same_data_gives_bitwise_the_same_weights(form):
    x, y = random_data()
    model = small_model()
    method = make_method("sgd", model)
    for _ in range(2):
        for start in range(0, 50, 20):
            method.step(x[start : start + 20], y[start : start + 20])
    assert_same_weights(
        trained_weights(form(x, y), epochs=2, batch_size=20, shuffle=False), model.state_dict()
    )


def test_float32_data_train_a_float64_model():
    x, y = random_data()
    model = small_model().double()
    train(model, (x, y), method="sgd", progress=False)
    reference = small_model().double()
    train(reference, (x.double(), y), method="sgd", progress=False)
    assert_same_weights(model.state_dict(), reference.state_dict())


def test_data_by_name_are_the_training_part_and_validation_by_name_the_test_part():
    pytest.importorskip("sklearn")
    digits = altmin_ext.data.load("digits")
    first, second = (altmin_ext.models.mlp(64, [], 10) for _ in range(2))
    second.load_state_dict(first.state_dict())
    history = train(first, "digits", validation="digits", method="sgd", progress=False)
    expected = train(second, digits.train, validation=digits.test, method="sgd", progress=False)
    assert_same_weights(first.state_dict(), second.state_dict())
    assert history.epochs[0]["validation_loss"] == expected.epochs[0]["validation_loss"]
    assert evaluate(first, "digits").loss == history.epochs[0]["validation_loss"]


# ------------------------------------------------------------------------------------------- reproducibility


def test_same_seed_same_weights_other_seed_other_weights():
    weights = [trained_weights(random_data(), epochs=2, batch_size=20, seed=seed) for seed in (3, 3, 4)]
    assert_same_weights(weights[0], weights[1])
    assert not torch.equal(weights[0]["0.weight"], weights[2]["0.weight"])


@pytest.mark.parametrize("form", [tuple, lambda data: TensorDataset(*data), lambda data: Pairs(*data)])
def test_torch_s_global_generator_is_left_alone(form):
    data = form(random_data())
    before = torch.get_rng_state()
    trained_weights(data, epochs=2, batch_size=20, validation=random_data(seed=1))
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------------ the record


def test_record_of_an_epoch_weighs_samples_equally():
    x = torch.zeros(5, 3)
    x[0] = 1.0
    y = torch.tensor([0, 1, 0, 0, 2])
    _, history = record((x, y), batch_size=2, shuffle=False)
    (row,) = history.epochs
    # Minibatch means 1/2, 0, 0 over 2, 2, 1 samples; three of five labels are 0.
    assert row["epoch"] == 1
    assert row["loss"] == pytest.approx(0.2, abs=1e-15)
    assert row["accuracy"] == pytest.approx(0.6, abs=1e-15)
    assert history.step_loss.tolist() == [0.5, 0.0, 0.0]
    assert history.step_accuracy.tolist() == [0.5, 1.0, 0.0]
    assert history.step_loss.dtype == torch.float64
    assert row["samples_per_second"] == pytest.approx(5 / row["seconds"])
    assert row["objective"] is row["validation_loss"] is row["validation_accuracy"] is None
    assert row["learning_rate_factor"] == 1.0


def test_skipped_minibatches_do_not_spoil_the_epoch_s_mean():
    recorder = Recorder()
    good = numbered(4)
    bad = (torch.full((4, 3), math.nan), torch.zeros(4, dtype=torch.int64))
    history = train(recorder.model, [good, bad], method=recorder, progress=False)
    # Of the good ones the mean of x is (0 + 1 + 2 + 3) / 12, and one of four labels is 0.
    assert history.epochs[0]["loss"] == pytest.approx(0.5)
    assert history.epochs[0]["accuracy"] == 0.25
    assert history.step_loss.isnan().tolist() == [False, True]


def test_objectives_are_recorded_by_stage():
    recorder = Recorder()
    recorder.objective = torch.tensor([1.0, 2.0, 4.0])
    history = train(recorder.model, numbered(10), method=recorder, batch_size=4, progress=False)
    assert history.epochs[0]["objective"] == [1.0, 2.0, 4.0]
    assert history.step_objective.tolist() == [[1.0, 2.0, 4.0]] * 3


def test_mse_has_no_accuracy():
    x, y = random_data()
    data = (x, F.one_hot(y, 4).double())
    history = train(
        small_model(), data, loss="mse", method="sgd", validation_fraction=0.5, batch_size=20, progress=False
    )
    assert history.step_accuracy is None
    assert history.epochs[0]["accuracy"] is None
    assert history.epochs[0]["validation_accuracy"] is None
    assert history.epochs[0]["validation_loss"] > 0


def test_long_epochs_are_recorded_whole():
    """Reports are fetched in groups of a hundred."""
    _, history = record([(torch.full((1, 3), float(i)), torch.zeros(1).long()) for i in range(250)])
    torch.testing.assert_close(history.step_loss, torch.arange(250, dtype=torch.float64))
    assert history.epochs[0]["loss"] == pytest.approx(249 / 2)
    assert history.epochs[0]["accuracy"] == 1.0


class Slow(nn.Module):
    """Takes an hour in evaluation mode only, by a clock that waits for nobody."""

    hours = 0

    def forward(self, x):
        self.hours += not self.training
        return x


def test_seconds_are_those_of_training(monkeypatch):
    model = nn.Sequential(Slow(), small_model())
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 3600 * model[0].hours)
    history = train(model, random_data(), method="sgd", validation=random_data(), progress=False)
    assert model[0].hours > 0
    assert history.epochs[0]["seconds"] < 3600


class CountSynchronisations(TorchDispatchMode):
    """Counts reads of a tensor's value, each of which would make a GPU wait."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_steps_do_not_wait_for_the_device():
    counts = []
    for n in (10, 90):
        recorder = Recorder()
        with CountSynchronisations() as mode:
            train(recorder.model, numbered(n), method=recorder, batch_size=1)
        counts.append(mode.count)
    assert counts[0] == counts[1]


# ------------------------------------------------------------------------------------------------ validation


def test_validation_is_the_evaluation_after_each_epoch():
    data, held_out = random_data(), random_data(seed=1)
    model = small_model(dropout=True)
    history = train(model, data, method="sgd", epochs=1, validation=held_out, progress=False)
    expected = evaluate(model, held_out)
    assert history.epochs[0]["validation_loss"] == expected.loss
    assert history.epochs[0]["validation_accuracy"] == expected.accuracy


def test_validation_does_not_change_the_training():
    weights = [trained_weights(random_data(), epochs=3, validation=v) for v in (None, random_data(seed=1))]
    assert_same_weights(*weights)


def test_validation_fraction_holds_samples_back():
    recorder, history = record(numbered(20), epochs=2, validation_fraction=0.25)
    trained = set(recorder.seen.tolist())
    assert len(trained) == 15
    assert recorder.sizes == [15, 15]
    x, y = numbered(20)
    held_out = torch.tensor([i not in trained for i in range(20)])
    expected = evaluate(recorder.model, (x[held_out], y[held_out]))
    assert history.epochs[0]["validation_loss"] == pytest.approx(expected.loss)


# ------------------------------------------------------------------------------------ schedule, ready methods


def test_schedule_sets_the_factor_of_every_epoch():
    recorder, history = record(numbered(4), epochs=4, batch_size=2, lr_schedule="cosine")
    expected = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert recorder.factors == pytest.approx([f for f in expected for _ in range(2)])
    assert [row["learning_rate_factor"] for row in history.epochs] == pytest.approx(expected)


def test_schedule_multiplies_the_learning_rate():
    data = random_data()
    halved = trained_weights(data, lr=0.2, lr_schedule=lambda epoch: 0.5)
    assert_same_weights(halved, trained_weights(data, lr=0.1))


def test_method_object_trains_like_its_name():
    model = small_model()
    method = make_method("adam", model, lr=0.01)
    train(model, random_data(), method=method, epochs=2, progress=False)
    assert_same_weights(model.state_dict(), trained_weights(random_data(), method="adam", lr=0.01, epochs=2))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lr": 0.1}, "lr cannot be set on a method that is made already"),
        ({"on_nonfinite": "skip"}, "on_nonfinite cannot be set on a method that is made already"),
        ({"loss": "mse"}, "loss must be the method's, 'cross_entropy', but is 'mse'"),
        ({"device": "meta"}, "device must be the method's, cpu, but is meta"),
    ],
)
def test_method_object_and_contradicting_arguments(arguments, sentence):
    model = small_model()
    with pytest.raises(ValueError, match=sentence):
        train(model, random_data(), method=make_method("sgd", model), **arguments)


def test_method_object_of_another_model():
    with pytest.raises(ValueError, match="model must be the one that method was made for"):
        train(small_model(), random_data(), method=make_method("sgd", small_model()))


@pytest.mark.parametrize("kind", [list, tuple])
def test_method_object_of_a_list_of_modules(kind):
    """The same modules in the same order are the same model; any others are another."""
    modules = kind(small_model())
    method = make_method("sgd", modules)
    train(modules, random_data(), method=method, progress=False)
    assert method.steps == 1
    for others in (kind(small_model()), modules[:-1], modules[::-1]):
        with pytest.raises(ValueError, match="model must be the one that method was made for"):
            train(others, random_data(), method=method, progress=False)


# ------------------------------------------------------------------------------------------------- bad input


def with_nan(row):
    x, y = random_data(10_000)
    x[row:, 1] = math.inf
    x[row:, 2] = -math.inf
    return x, y


x, y = random_data()
bad_arguments = [
    ({"epochs": 0}, ValueError, "epochs must be at least 1, but is 0"),
    ({"epochs": 1.5}, TypeError, "epochs must be an integer, but is 1.5"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1, but is 0"),
    ({"steps": 0}, ValueError, "steps must be at least 1, but is 0"),
    ({"steps": True}, TypeError, "steps must be an integer, but is True"),
    ({"seed": "x"}, TypeError, "seed must be an integer, but is 'x'"),
    ({"seed": -1}, ValueError, "seed must be at least 0"),
    ({"method": "sdg"}, ValueError, "unknown method 'sdg': did you mean 'sgd'"),
    ({"momentun": 0.5}, ValueError, "'momentun': did you mean 'momentum'"),
    ({"lr": -1.0}, ValueError, "lr must be at least 0 and finite, but is -1.0"),
    ({"loss": "msee"}, ValueError, "unknown loss 'msee': did you mean 'mse'"),
    ({"lr_schedule": "cosinus"}, ValueError, "unknown lr_schedule 'cosinus': did you mean 'cosine'"),
    ({"callbacks": [object()]}, TypeError, "callbacks must be objects with any of on_start, .* is an object"),
    ({"callbacks": 3}, TypeError, "callbacks must be a list of objects, but is an int"),
    ({"data": 3}, TypeError, "data must be .*, but is an int"),
    ({"data": x}, TypeError, "data must be .*, but is a Tensor"),
    ({"data": "minst"}, ValueError, "unknown data set 'minst': did you mean 'mnist'"),
    ({"data": (x, y, y)}, ValueError, r"\(x, y\) must have two items, but has 3"),
    ({"data": TensorDataset(x)}, ValueError, "TensorDataset must hold two tensors, x and y, but holds 1"),
    ({"data": (x, y.tolist())}, TypeError, "y must be a torch.Tensor or a numpy.ndarray, but is a list"),
    ({"data": (x.numpy().astype(object), y)}, TypeError, "x must hold numbers, but its dtype is object"),
    ({"data": (x[:0], y[:0])}, ValueError, "x must hold at least one sample, but is empty"),
    ({"data": (x, y[:-1])}, ValueError, r"y must have an entry for each of the 50 .* has shape \(49,\)"),
    ({"data": (x[:, 0], y)}, ValueError, r"x must be \(N, ...\) .* but has shape \(50,\)"),
    ({"data": (x[:, :2], y)}, ValueError, r"x must fit the model, but a sample of shape \(2,\) does not"),
    ({"data": ((x * 9).to(torch.uint8), y)}, TypeError, "x must be floating point, but is torch.uint8"),
    ({"data": (x, y.float())}, TypeError, "y must be integer class indices .*, but is torch.float32"),
    ({"data": (x, y[:, None])}, ValueError, r"y must have shape \(B,\) .*, but has shape \(50, 1\)"),
    ({"data": (x, y + 1)}, ValueError, r"y must lie in \[0, 4\), but y\[\d+\] is 4"),
    ({"data": (x, y - 1)}, ValueError, r"y must lie in \[0, 4\), but y\[\d+\] is -1"),
    ({"data": (x, y), "loss": "mse"}, TypeError, "y must be torch.float32 like the model for mse"),
    ({"data": (x, x), "loss": "mse"}, ValueError, "y must have 4 columns like the model's output, but has 3"),
    ({"data": with_nan(7000)}, ValueError, "x must be finite, but sample 7000 holds NaN or Inf"),
    ({"data": (x.double() * 1e300, y)}, ValueError, "x must be finite, but sample 0 holds NaN or Inf"),
    ({"data": []}, ValueError, "data must yield at least one minibatch, but was empty in epoch 1"),
    ({"data": iter([x])}, TypeError, r"data must yield \(x, y\) batches, but yielded a Tensor"),
    ({"data": [(x.long(), y)]}, TypeError, "x must be floating point, but is torch.int64"),
    ({"data": [(x, y - 1)]}, ValueError, r"y must lie in \[0, 4\), but y\[\d+\] is -1"),
    ({"data": (b for b in [(x, y)]), "epochs": 2}, ValueError, "epochs must be 1 with a generator"),
    ({"data": zip([x], [y], strict=True), "epochs": 2}, ValueError, "epochs must be 1 with a zip"),
    (
        {"validation": (b for b in [(x, y)]), "epochs": 2},
        ValueError,
        "validation: epochs must be 1 with a generator",
    ),
    ({"validation": 3}, TypeError, "validation: data must be"),
    ({"validation": (x, y + 1)}, ValueError, r"validation: y must lie in \[0, 4\)"),
    (
        {"validation_fraction": 1.0},
        ValueError,
        r"validation_fraction must be at least 0 and less than 1, but is 1.0",
    ),
    ({"validation_fraction": "a"}, TypeError, "validation_fraction must be a number, but is 'a'"),
    ({"validation_fraction": 0.1, "validation": (x, y)}, ValueError, "must be 0 where validation is given"),
    ({"validation_fraction": 0.1, "data": [(x, y)]}, ValueError, "must be 0 for data not held in memory"),
]


@pytest.mark.parametrize(("arguments", "error", "sentence"), bad_arguments, ids=lambda a: None)
def test_bad_input_is_one_sentence_and_leaves_the_model_as_it_was(arguments, error, sentence):
    model = small_model().eval()
    before = copy.deepcopy(model.state_dict())
    arguments = {"data": (x, y), "method": "sgd", "progress": False, **arguments}
    with pytest.raises(error, match=sentence) as caught:
        train(model, **arguments)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert_same_weights(model.state_dict(), before)


class Once:
    """Hands out its minibatches once, which its type does not tell."""

    def __init__(self, batches):
        self._batches = iter(batches)

    def __iter__(self):
        return self._batches


def test_iterable_that_cannot_start_anew_is_named_when_it_is_found_empty():
    with pytest.raises(
        ValueError, match=r"^data must .* empty in epoch 2: an iterable read in several epochs"
    ):
        train(small_model(), Once([random_data()]), epochs=2, method="sgd", progress=False)
    with pytest.raises(ValueError, match=r"^validation: data must yield at least one minibatch"):
        train(small_model(), (x, y), validation=Once([(x, y)]), epochs=2, method="sgd", progress=False)


def test_large_finite_values_are_not_mistaken_for_infinite_ones():
    """Their sum overflows although none of them does."""
    recorder, _ = record((torch.full((4, 3), 3e38), torch.zeros(4, dtype=torch.int64)))
    assert recorder.sizes == [4]


# ------------------------------------------------------------------------------------- exceptions on the way


class Fails(Recorder):
    def _compute(self, x, y):
        if self.steps == 2:
            raise DivergenceError("code of stage '0' is not finite at step 2.")
        return super()._compute(x, y)


def test_divergence_reaches_the_caller():
    method = Fails()
    with pytest.raises(DivergenceError, match="stage '0' is not finite at step 2"):
        train(method.model, numbered(10), method=method, batch_size=1, progress=False)
    assert len(method.batches) == 2


@pytest.fixture
def interruptible():
    """Ctrl-C is heard, which in the background of a shell script it is not: there the tests would wait forever."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


class Interrupted(Recorder):
    """Is hit by Ctrl-C in the middle of its second step."""

    finished = 0

    def _compute(self, x, y):
        if self.steps == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)
        report = super()._compute(x, y)
        self.finished += 1
        return report


@pytest.mark.usefixtures("interruptible")
def test_interrupt_waits_for_the_step_to_end():
    method = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        train(method.model, numbered(10), method=method, batch_size=1, progress=False)
    assert method.finished == method.steps == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class InterruptedBeforehand(Recorder):
    """Is hit by Ctrl-C in the middle of the second minibatch of its pass before the steps."""

    def __init__(self):
        super().__init__()
        self.begun = self.finished = 0

    def begin_epoch(self, batches):
        for _ in batches:
            self.begun += 1
            if self.begun == 2:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0)
            self.finished += 1


@pytest.mark.usefixtures("interruptible")
def test_interrupt_waits_for_the_minibatch_before_the_steps_to_end():
    method = InterruptedBeforehand()
    with pytest.raises(KeyboardInterrupt):
        train(method.model, numbered(10), method=method, batch_size=1, progress=False)
    assert method.begun == method.finished == 2
    assert method.steps == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_interrupt_between_steps_is_not_held_back():
    method = Recorder()

    def batches():
        yield numbered(2)
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        train(method.model, batches(), method=method, progress=False)
    assert len(method.batches) == 1


def test_the_program_s_own_interrupt_handler_is_respected():
    caught = []
    previous = signal.signal(signal.SIGINT, lambda *_: caught.append("mine"))
    try:
        method = Interrupted()
        train(method.model, numbered(10), method=method, batch_size=1, progress=False)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert caught == ["mine"]
    assert method.steps == 10


def test_training_works_outside_the_main_thread():
    recorder = Recorder()
    thread = threading.Thread(
        target=train, args=(recorder.model, numbered(10)), kwargs={"method": recorder, "progress": False}
    )
    thread.start()
    thread.join()
    assert recorder.sizes == [10]


# --------------------------------------------------------------------------------------------- progress bar


def test_bar_shows_epochs_and_results(capsys):
    train(small_model(), random_data(), method="sgd", epochs=2, validation=random_data(), batch_size=20)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 2/2: 100%" in err
    assert "6/6" in err
    assert "validation_accuracy=0." in err


def test_no_bar_no_output(capsys):
    record(numbered(10))
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------- evaluate


def test_evaluation_is_the_mean_over_all_samples():
    model = small_model()
    x, y = random_data(53)
    logits = model.double()(x.double())
    for batch_size in (1, 10, 53, 1000):
        found = evaluate(model, (x, y), batch_size=batch_size)
        assert found.loss == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-12)
        assert found.accuracy == (logits.argmax(1) == y).double().mean().item()
        assert found.samples == 53


def test_evaluation_of_mse():
    model = small_model().double()
    x, _ = random_data()
    target = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = evaluate(model, (x, target), loss="mse", batch_size=20)
    assert found.loss == pytest.approx(F.mse_loss(model(x.double()), target).item(), rel=1e-12)
    assert found.accuracy is None


def test_evaluation_leaves_every_module_in_its_mode():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 4))
    model.train()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    first = evaluate(model, random_data())
    assert [m.training for m in model.modules()] == [True, True, True, False, True]
    assert_same_weights(model.state_dict(), before)
    assert evaluate(model, random_data()) == first
    assert all(p.grad is None for p in model.parameters())


def test_failed_evaluation_leaves_every_module_in_its_mode():
    model = small_model(dropout=True).train()
    with pytest.raises(ValueError, match="y must lie in"):
        evaluate(model, [(x, y + 4)])
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"model": 3}, TypeError, "model must be a torch.nn.Module, but is an int"),
        ({"model": nn.Flatten(0)}, ValueError, r"model must return \(B, C\) logits, but returned shape"),
        ({"data": (x[:, :2], y)}, ValueError, r"x must fit the model, but a sample of shape \(2,\) does not"),
        ({"data": (x, y + 1)}, ValueError, r"y must lie in \[0, 4\)"),
        ({"data": []}, ValueError, "data must yield at least one minibatch"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"loss": "hnige"}, ValueError, "unknown loss 'hnige': did you mean 'hinge'"),
    ],
)
def test_evaluation_of_bad_input(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        evaluate(**{"model": small_model(), "data": (x, y), **arguments})
