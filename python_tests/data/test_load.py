"""The data sets themselves, where they are found, against published facts; the split for validation."""

import csv
import gzip
import subprocess
import sys

import numpy as np
import pytest
import torch

from altmin_ext import data


@pytest.fixture(scope="module")
def load():
    """Loads a data set that is on this machine; skips the test for one that is not."""

    def load(name):
        if data.location(name) is None:
            at = f"set ALTMIN_DATA to a directory that holds {name}/"
            remedy = "install scikit-learn" if name == "digits" else at
            pytest.skip(f"{name} was not found; to run this test, {remedy}")
        return data.load(name, download=False)

    return load


# Class counts of the training and test sets, shape of a sample, first training labels: as published.
FACTS = {
    "mnist": (
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        (1, 28, 28),
        [5, 0, 4, 1, 9],
    ),
    "fashion-mnist": ([6000] * 10, [1000] * 10, (1, 28, 28), [9, 0, 0, 3, 0]),
    "cifar-10": ([5000] * 10, [1000] * 10, (3, 32, 32), [6, 9, 9, 4, 1]),
}


@pytest.mark.parametrize("name", FACTS)
def test_images(load, name):
    images = load(name)
    train_counts, test_counts, shape, first = FACTS[name]
    x, y = images.train
    assert images.name == name
    assert data.describe(name).startswith(f"{len(y):,} + {len(images.test[1]):,} images {shape}, 10 classes;")
    assert images.classes == 10
    assert images.shape == shape
    assert images.n_in == np.prod(shape)
    assert y.bincount().tolist() == train_counts
    assert y[:5].tolist() == first
    assert images.test[1].bincount().tolist() == test_counts
    for x, y in (images.train, images.test):
        assert x.shape == (len(y), *shape)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert x.is_contiguous()
        assert y.is_contiguous()
    if name in ("mnist", "cifar-10"):  # Fashion-MNIST takes MNIST's constants
        # The constants have four digits: half of the last one, over the deviation, is what may remain.
        deviation, mean = torch.std_mean(images.train[0], dim=(0, 2, 3))
        assert mean.abs().max() < 5e-5 / 0.24
        assert (deviation - 1).abs().max() < 5e-5 / 0.24


@pytest.mark.parametrize(
    ("name", "mean", "deviation"), [("mnist", 0.1307, 0.3081), ("fashion-mnist", 0.1307, 0.3081)]
)
def test_pixels_are_bytes(load, name, mean, deviation):
    """Undoing the standardisation gives whole numbers from 0 to 255, both ends included."""
    pixels = (load(name).test[0].double() * deviation + mean) * 255
    assert (pixels - pixels.round()).abs().max() < 1e-3
    assert (pixels.round().min(), pixels.round().max()) == (0, 255)


def test_digits_are_scikit_learns(load):
    digits = load("digits")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    assert (len(digits.train[1]), len(digits.test[1])) == (1437, 360)
    assert (digits.shape, digits.n_in, digits.classes) == ((1, 8, 8), 64, 10)
    assert (digits.train[0].dtype, digits.train[1].dtype) == (torch.float32, torch.int64)
    x = torch.cat([digits.train[0], digits.test[0]]).flatten(1)
    np.testing.assert_array_equal(x.numpy() * 16, pixels)
    np.testing.assert_array_equal(torch.cat([digits.train[1], digits.test[1]]).numpy(), labels)


def test_higgs_sample(load):
    """Against Python's own csv reader and float64 statistics."""
    directory = data.location("higgs")
    if directory and (directory / "HIGGS.csv.gz").exists():
        pytest.skip(
            "the complete HIGGS is in use; to run this test, set ALTMIN_DATA to a copy with the sample"
        )
    higgs = load("higgs")
    with gzip.open(directory / "higgs_sample.csv.gz", "rt") as file:
        rows = np.array(list(csv.reader(file)), dtype=np.float64)
    train = rows[:-5000, 1:]
    expected = (rows[:, 1:] - train.mean(0)) / train.std(0)
    assert (higgs.shape, higgs.n_in, higgs.classes) == ((28,), 28, 2)
    for (x, y), part in ((higgs.train, slice(0, -5000)), (higgs.test, slice(-5000, None))):
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        np.testing.assert_allclose(x.numpy(), expected[part], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(y.numpy(), rows[part, 0])


def test_repr_fits_a_line():
    x, y = torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    text = repr(data.DataSet("tiny", (x, y), (x[:1], y[:1]), classes=2))
    assert text == "DataSet('tiny': 3 training and 1 test samples of shape (1, 2, 2), 2 classes)"


@pytest.mark.parametrize("function", [data.load, data.location, data.describe])
def test_unknown_name(function):
    assert data.names() == ["digits", "mnist", "fashion-mnist", "cifar-10", "higgs"]
    with pytest.raises(ValueError, match="unknown data set 'minst': did you mean 'mnist'"):
        function("minst")
    with pytest.raises(TypeError, match=r"^data set must be a name, such as 'digits', but is 3\.$"):
        function(3)


def test_import_is_cheap():
    """What only some data sets need is imported when they are loaded."""
    code = "import sys, altmin_ext.data; print({'pooch', 'requests', 'sklearn'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(("fraction", "n_validation"), [(0.1, 10), (0.254, 25), (1e-9, 1), (0.9999, 99)])
def test_split(fraction, n_validation):
    """Every sample on one side, in the order it had, with its own y."""
    x = torch.arange(100.0).reshape(100, 1)
    y = torch.arange(100)
    train, validation = data.split((x, y), fraction, seed=3)
    assert len(validation[1]) == n_validation
    assert sorted(train[1].tolist() + validation[1].tolist()) == list(range(100))
    for part_x, part_y in (train, validation):
        assert part_y.tolist() == sorted(part_y.tolist())
        assert part_x.flatten().tolist() == part_y.tolist()


def test_split_depends_on_its_seed_alone():
    x, y = torch.zeros(100, 2), torch.arange(100)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    chosen = [data.split((x, y), 0.2, seed)[1][1] for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


@pytest.mark.parametrize(
    ("n_x", "n_y", "fraction", "complaint"),
    [
        (10, 10, 0.0, "fraction must be greater than 0 and less than 1, but is 0.0"),
        (10, 10, 1, "fraction must be"),
        (10, 10, float("nan"), "fraction must be"),
        (10, 9, 0.5, "one entry for each of the 10 samples of x, but has 9"),
        (1, 1, 0.5, "at least two samples"),
    ],
)
def test_split_refuses(n_x, n_y, fraction, complaint):
    with pytest.raises(ValueError, match=complaint):
        data.split((torch.zeros(n_x, 2), torch.zeros(n_y)), fraction)


def test_a_data_set_s_training_part_is_split():
    x, y = torch.arange(20.0)[:, None], torch.arange(20)
    small = data.DataSet("small", (x, y), (x[:2], y[:2]), 20)
    for found, expected in zip(data.split(small, 0.3), data.split((x, y), 0.3), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    with pytest.raises(TypeError, match=r"y must be a torch\.Tensor, but is a ndarray"):
        data.split((x, y.numpy()), 0.3)
