"""Data sets of one's own files.

Oracle: the numbers that the tests write, standardised by their definition in float64; and of whatever cannot be taken
as it is, one sentence that names the file and, where there is one, row and column.
"""

import json
import os
import sys

import numpy as np
import pytest
import torch

import altmin_ext
from altmin_ext import data
from altmin_ext.data import _contents

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(3, 2, (40, 3))
Y = GENERATOR.integers(0, 3, 40)
WORDS = np.array(["ash", "birch", "cedar"])[Y]


def table(path, columns, separator=",", head="", newline="\n"):
    """Write a table of named columns."""
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    text = head + "".join(separator.join(map(str, row)) + newline for row in rows)
    path.write_bytes(text.encode())
    return path


def columns(**more):
    return {"a": X[:, 0].tolist(), "b": X[:, 1].tolist(), "label": WORDS.tolist(), **more}


def standardised(x, rows):
    """By the definition: with the mean and the deviation of the rows to train on."""
    return ((x - x[rows].mean(0)) / x[rows].std(0)).astype(np.float32)


def split_rows(n, fraction=0.2):
    numbers = torch.arange(n)
    (train, _), (test, _) = data.split((numbers, numbers), fraction)
    return train.numpy(), test.numpy()


# ---------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("suffix", "separator", "head", "newline"),
    [
        (".csv", ",", "", "\n"),
        (".csv", ",", "\ufeff", "\r\n"),
        (".csv", ";", "", "\n"),
        (".csv", "\t", "", "\n"),
        (".tsv", "\t", "\n", "\n"),
        (".CSV", ", ", "", "\n"),
    ],
    ids=["csv", "BOM and CRLF", "semicolons", "tabs", "tsv", "spaces"],
)
def test_a_table_of_numbers_and_words(tmp_path, suffix, separator, head, newline):
    pytest.importorskip("pandas")
    path = table(tmp_path / f"mine{suffix}", columns(), separator, head, newline)
    found = data.load_file(path, "label")
    train, test = split_rows(40)
    expected = standardised(X[:, :2], train)
    for (x, y), rows in ((found.train, train), (found.test, test)):
        assert np.abs(x.numpy() - expected[rows]).max() < 1e-6
        assert np.array_equal(y.numpy(), Y[rows])
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert found.preprocessing.classes == ("ash", "birch", "cedar")
    assert found.preprocessing.features == ["a", "b"]
    assert (found.name, found.classes, found.n_out, found.shape) == (path.name, 3, 3, (2,))


def test_words_become_one_hot_features_and_truth_values_numbers(tmp_path):
    pytest.importorskip("pandas")
    colours = np.array(["red", "green"])[Y % 2]
    path = table(tmp_path / "mine.csv", columns(colour=colours.tolist(), flag=(Y > 1).tolist()))
    found = data.load_file(path, "label", drop=["a"])
    assert found.preprocessing.features == ["b", "colour=green", "colour=red", "flag"]
    x = np.stack([X[:, 1], colours == "green", colours == "red", Y > 1], 1).astype(float)
    train, _ = split_rows(40)
    assert np.abs(found.train[0].numpy() - standardised(x, train)[train]).max() < 1e-6


def test_a_constant_feature_becomes_zero(tmp_path):
    pytest.importorskip("pandas")
    found = data.load_file(table(tmp_path / "mine.csv", columns(c=[0.1] * 40)), "label")
    assert (found.train[0][:, 2] == 0).all()
    assert (found.test[0][:, 2] == 0).all()


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        ([5, 7, 5, 6], "auto", (5, 6, 7)),
        ([5.0, 7.0, 5.0, 6.0], "classification", (5, 6, 7)),
        (["True", "False", "True", "True"], "auto", (False, True)),
        ([1.5, 2.5, 1.5, 1.5], "classification", (1.5, 2.5)),
        ([1.5, 2.5, 1.5, 1.5], "auto", ()),
        ([5, 7, 5, 6], "regression", ()),
    ],
)
def test_the_task_follows_from_the_targets_unless_it_is_named(tmp_path, values, task, classes):
    pytest.importorskip("pandas")
    found = data.load_file(table(tmp_path / "m.csv", {"a": [1, 2, 4, 8], "y": values}), "y", task=task)
    assert found.preprocessing.classes == classes
    assert found.classes == len(classes)


def test_targets_of_a_regression_are_standardised_and_come_back(tmp_path):
    pytest.importorskip("pandas")
    price = X[:, 2] * 1000
    path = table(tmp_path / "mine.csv", {"a": X[:, 0].tolist(), "price": price.tolist()})
    found = data.load_file(path, "price")
    train, test = split_rows(40)
    expected = standardised(price[:, None], train)
    assert np.abs(found.train[1].numpy() - expected[train]).max() < 1e-6
    assert np.abs(found.test[1].numpy() - expected[test]).max() < 1e-6
    assert found.n_out == 1
    assert found.preprocessing.values(found.test[1]) == pytest.approx(price[test].tolist(), rel=1e-6)
    assert "regression of 1 number)" in repr(found)
    with pytest.raises(
        ValueError, match=r"data must have classes to make tasks of, but 'mine\.csv' is for regression"
    ):
        data.streams.class_tasks(found)


def test_a_test_file_is_standardised_by_the_training_file(tmp_path):
    pytest.importorskip("pandas")
    path = table(tmp_path / "mine.csv", columns())
    shuffled = {"label": ["cedar", "ash"], "b": [1.0, 2.0], "more": ["x", "y"], "a": [0.0, 5.0]}
    found = data.load_file(path, "label", test=table(tmp_path / "test.csv", shuffled))
    assert len(found.train[1]) == 40
    own = np.array([[0.0, 1.0], [5.0, 2.0]])
    expected = (own - X[:, :2].mean(0)) / X[:, :2].std(0)
    assert np.abs(found.test[0].numpy() - expected).max() < 1e-6
    assert found.test[1].tolist() == [2, 0]
    x, y = found.preprocessing.read(tmp_path / "test.csv", labelled=True)
    assert torch.equal(x, found.test[0])
    assert torch.equal(y, found.test[1])
    assert data.Preprocessing.from_dict(found.preprocessing.to_dict()) == found.preprocessing


def test_large_numbers_are_standardised_in_double_precision(tmp_path):
    """Times in seconds: in float32 they would all be the same."""
    pytest.importorskip("pandas")
    seconds = 1.7e9 + np.arange(40)
    found = data.load_file(table(tmp_path / "mine.csv", columns(a=seconds.tolist())), "label")
    train, _ = split_rows(40)
    assert np.abs(found.train[0][:, 0].numpy() - standardised(seconds, train)[train]).max() < 1e-6


GOOD = "a,y\n1,u\n2,v\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,y\n", "holds no rows"),
        ("a,y\n1,u\n", "must hold at least two classes, but has only 'u' in 'y'"),
        ("a,y\n1,u\n2,u\n", "must hold at least two classes, but has only 'u' in 'y'"),
        ("a,y\n1,.5\n", "must hold at least two rows"),
        ("a,a,y\n1,2,u\n1,2,v\n", "must name each column once, but has 'a' twice"),
        (",a,y\n0,1,u\n1,2,v\n", "must name all of its columns, but not column 1"),
        ("1,2\n3,4\n", "must have the names of its columns in the first row, but has numbers there"),
        ("a,y\n1,u\n,v\n", "but row 2 of the data has none in column 'a'"),
        ("a,y\n1,u\nNA,v\n", "but row 2 of the data has none in column 'a'"),
        ("a,y\n1,u\n2\n", "but row 2 of the data has none in column 'y'"),
        ("a,y\nred,u\n,v\n", "but row 2 of the data has none in column 'a'"),
        ("a,y\n1,.5\n2,\n", "but row 2 of the data has none in column 'y'"),
        ("a,y\n1,u\n2,v\n12a,v\n", "holds '12a' in row 3, column 'a', which is no number"),
        ("a;y\n1,5;u\n2,5;v\n", "holds '1,5' in row 1, column 'a', which is no number"),
        ("a,y\n1,u\ninf,v\n", "holds inf in row 2, column 'a', where numbers are finite and at most 1e+150"),
        ("a,y\n1,2,3\n4,5,6\n", "has rows of more than the 2 columns that its header names"),
        ("a,y\n1,u\n4,v,6\n", "is no table (Expected 2 fields in line 3, saw 3)"),
        ('a,y\n"1,u\n4,v\n', "is no table"),
        ("y\nu\nv\n", "must have columns besides 'y', but has none"),
        ("a,y\n1,é\n2,v\n".encode("latin-1"), "must be text in UTF-8, but has the byte 0xe9"),
        (GOOD.encode("utf-16"), "must be text in UTF-8, but has the byte 0xff"),
        (bytes(range(256)), "must be text in UTF-8"),
        ("c,y\n" + "".join(f"w{i}x,{'uv'[i % 2]}\n" for i in range(101)), "holds 101 different words in column 'c'"),
        ("a,y\n" + "".join(f"{i},{i}\n" for i in range(21)), "has 21 different whole numbers in 'y'"),
    ],
    ids=range(26),
)  # fmt: skip
def test_a_table_that_cannot_be_taken_is_refused_in_one_sentence(tmp_path, content, words):
    pytest.importorskip("pandas")
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="mine") as refused:
        data.load_file(path, "y")
    assert str(refused.value).startswith(f"{path} ")
    assert words in str(refused.value)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({}, ValueError, "target must be the name of a column: 'a', 'y'."),
        ({"target": "Y"}, ValueError, "unknown target 'Y': did you mean 'y'?"),
        ({"target": 3}, TypeError, "target must be a name, but is 3."),
        ({"target": "y", "drop": ["b"]}, ValueError, "unknown column to drop 'b'"),
        ({"target": "y", "drop": "a"}, TypeError, "drop must be a list of names of columns, but is 'a'."),
        ({"target": "y", "task": "classify"}, ValueError, "task must be 'auto' or 'classification' or"),
        ({"target": "y", "task": "regression"}, ValueError, "holds 'u' in row 1, column 'y', which is no number"),
        ({"target": "y", "test_fraction": 1.0}, ValueError, "test_fraction must be greater than 0 and less"),
        ({"target": "y", "image_size": 8}, ValueError, "is no folder of images"),
        ({"target": "y", "image_size": (8,)}, ValueError, "image_size must be (height, width) or one number"),
        ({"target": "y", "test": 3}, TypeError, "test must be a path, but is 3."),
        ({"target": "y", "test": "x.npy"}, ValueError, "test must hold targets, too, which x.npy cannot"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_sentence(tmp_path, arguments, kind, words):
    pytest.importorskip("pandas")
    (tmp_path / "mine.csv").write_text(GOOD)
    with pytest.raises(kind) as refused:
        data.load_file(tmp_path / "mine.csv", **arguments)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("b,y\n1,u\n", "must have the column 'a', as in training, but has 'b', 'y'"),
        (
            "a,c,y\n1,blue,u\n",
            "holds 'blue' in row 1, column 'c', but in training there was only 'green', 'red'",
        ),
        (
            "a,c,y\n1,red,u\n2,green,w\n",
            "holds the class 'w' in row 2, but in training there was only 'u', 'v'",
        ),
        ("a,c\n1,red\n", "must have the column 'y', the target"),
        ("a,c,y\n1,7,u\n", "holds 7 in row 1, column 'c', but in training there was only"),
        ("a,c,y\n1,,u\n", "but row 1 of the data has none in column 'c'"),
        ("a,c,y\nx,red,u\n", "holds 'x' in row 1, column 'a', which is no number"),
    ],
)
def test_a_file_that_does_not_fit_that_of_training_is_refused(tmp_path, content, words):
    pytest.importorskip("pandas")
    (tmp_path / "mine.csv").write_text("a,c,y\n1,red,u\n2,green,v\n3,red,v\n")
    (tmp_path / "test.csv").write_text(content)
    found = data.load_file(tmp_path / "mine.csv", "y")
    with pytest.raises(ValueError, match=r"test\.csv") as refused:
        found.preprocessing.read(tmp_path / "test.csv", labelled=True)
    assert words in str(refused.value)
    with pytest.raises(ValueError, match=r"test\.csv"):
        data.load_file(tmp_path / "mine.csv", "y", test=tmp_path / "test.csv")


def test_a_preprocessing_whose_parts_do_not_fit_is_refused(tmp_path):
    pytest.importorskip("pandas")
    colours = np.array(["red", "green"])[Y % 2].tolist()
    found = data.load_file(table(tmp_path / "mine.csv", columns(colour=colours)), "label").preprocessing
    document = found.to_dict()
    assert data.Preprocessing.from_dict(json.loads(json.dumps(document))) == found
    for name, value in [
        ("kind", "text"),
        ("target", 3),
        ("classes", []),
        ("classes", [None, "a"]),
        ("columns", ["a"]),
        ("columns", "a"),
        ("categories", {"colour": ["red"]}),
        ("shape", [3]),
        ("shape", []),
        ("image_size", [0, 2]),
        ("mean", [0.0]),
        ("mean", ["0", "1", "2", "3"]),
        ("deviation", [1.0, 1.0, 0.0, 1.0]),
        ("target_mean", [1.0]),
    ]:
        with pytest.raises((TypeError, ValueError)):
            data.Preprocessing.from_dict({**document, name: value})
    with pytest.raises(TypeError):
        data.Preprocessing.from_dict({**document, "more": 1})


def test_numbers_that_are_too_large(tmp_path):
    pytest.importorskip("pandas")
    (tmp_path / "mine.csv").write_text("a,y\n1,u\n1e200,v\n")
    with pytest.raises(
        ValueError, match=r"mine\.csv holds 1e\+200 in row 2, column 'a', where numbers are finite"
    ):
        data.load_file(tmp_path / "mine.csv", "y")
    (tmp_path / "mine.csv").write_text("a,y\n1,u\n2,v\n4,v\n")
    (tmp_path / "new.csv").write_text("a\n1\n1e100\n")
    with pytest.raises(ValueError, match=r"new\.csv holds numbers in sample 1 that are too large"):
        data.load_file(tmp_path / "mine.csv", "y").preprocessing.read(tmp_path / "new.csv")


def test_words_that_are_numbers_in_a_file_where_all_of_them_are(tmp_path):
    pytest.importorskip("pandas")
    (tmp_path / "mine.csv").write_text("a,c,y\n1,red,1\n2,7,one\n3,blue,one\n")
    (tmp_path / "test.csv").write_text("a,c,y\n1,7,1\n")
    found = data.load_file(tmp_path / "mine.csv", "y").preprocessing
    assert found.categories == {"c": ("7", "blue", "red")}
    x, y = found.read(tmp_path / "test.csv", labelled=True)
    assert y.tolist() == [found.classes.index("1")]
    assert x[0, 1] > x[0, 2]


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.csv cannot be read: No such file or directory\.$"):
        data.load_file(tmp_path / "no.csv", "y")
    with pytest.raises(FileNotFoundError, match=r"nowhere cannot be read: No such file or directory\.$"):
        data.load_file(tmp_path / "nowhere", "y")
    (tmp_path / "mine.xlsx").touch()
    with pytest.raises(ValueError, match=r"mine\.xlsx must be a folder of images, or end in \.csv"):
        data.load_file(tmp_path / "mine.xlsx", "y")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(OSError, match=r"pipe\.npz must be a file, but is a pipe"):
        data.load_file(tmp_path / "pipe.npz")


@pytest.mark.parametrize(
    "call",
    [data.load, data.describe, lambda name: altmin_ext.train(torch.nn.Linear(2, 2), name)],
    ids=["load", "describe", "train"],
)
def test_a_file_where_a_name_is_expected(call):
    with pytest.raises(
        ValueError, match=r"^'mine\.csv' is the name of a file .*: load it by altmin_ext\.data\.load_file"
    ):
        call("mine.csv")


def test_more_than_the_memory_is_refused_unread(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    (tmp_path / "mine.csv").write_text(GOOD)
    monkeypatch.setattr(os, "sysconf", lambda name: 2)
    with pytest.raises(ValueError, match=r"mine\.csv must fit into the 0\.0 GiB of memory here"):
        data.load_file(tmp_path / "mine.csv", "y")


def test_without_pandas_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "mine.csv").write_text(GOOD)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "altmin_ext\[pandas\]"'):
        data.load_file(tmp_path / "mine.csv", "y")


# ---------------------------------------------------------------------------------------------------- arrays


def saved(folder, **arrays):
    np.savez(folder / "mine.npz", **arrays)
    return folder / "mine.npz"


@pytest.mark.parametrize("names", [("x", "y"), ("X", "y")])
def test_arrays(tmp_path, names):
    found = data.load_file(saved(tmp_path, **dict(zip(names, (X, WORDS), strict=True))))
    train, test = split_rows(40)
    assert np.abs(found.train[0].numpy() - standardised(X, train)[train]).max() < 1e-6
    assert np.array_equal(found.test[1].numpy(), Y[test])
    assert found.preprocessing.classes == ("ash", "birch", "cedar")


@pytest.mark.parametrize("names", [("x", "y"), ("x_train", "y_train")])
def test_arrays_with_a_test_part(tmp_path, names):
    arrays = dict(zip((*names, "x_test", "y_test"), (X, Y, X[:5] + 1, Y[:5]), strict=True))
    found = data.load_file(saved(tmp_path, **arrays))
    assert len(found.train[1]) == 40
    expected = (X[:5] + 1 - X.mean(0)) / X.std(0)
    assert np.abs(found.test[0].numpy() - expected).max() < 1e-6
    assert np.array_equal(found.test[1].numpy(), Y[:5])
    with pytest.raises(ValueError, match="test must be left out"):
        data.load_file(tmp_path / "mine.npz", test=tmp_path / "mine.npz")


def test_images_in_an_array_are_standardised_by_channel(tmp_path):
    images = GENERATOR.integers(0, 256, (40, 3, 4, 5), np.uint8)
    train, _ = split_rows(40)
    found = data.load_file(saved(tmp_path, x=images, y=Y))
    part = images[train].astype(float)
    expected = (part - part.mean((0, 2, 3), keepdims=True)) / part.std((0, 2, 3), keepdims=True)
    assert np.abs(found.train[0].numpy() - expected).max() < 1e-6
    assert data.load_file(saved(tmp_path, x=images[:, 0], y=Y)).shape == (1, 4, 5)


def test_columns_and_other_names(tmp_path):
    found = data.load_file(saved(tmp_path, a=X[:, 0], b=X[:, 1], kind=WORDS), "kind")
    assert found.preprocessing.features == ["a", "b"]
    found = data.load_file(saved(tmp_path, x=X, kind=Y), "kind")
    assert found.classes == 3
    assert data.load_file(saved(tmp_path, x=X, y=X[:, :2])).n_out == 2


def test_two_npy_files(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    found = data.load_file(tmp_path / "x.npy", str(tmp_path / "y.npy"))
    assert torch.equal(found.train[0], data.load_file(saved(tmp_path, x=X, y=Y)).train[0])
    x, y = found.preprocessing.read(tmp_path / "x.npy", target=str(tmp_path / "y.npy"), labelled=True)
    assert len(x) == len(y) == 40
    assert found.preprocessing.read(tmp_path / "x.npy")[1] is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.array([{}, 1], dtype=object), "y": Y}, "pickled objects are not read"),
        ({"x": X, "y": np.array([{}] * 40)}, "pickled objects are not read"),
        ({"x": X, "y": Y[:3]}, "must hold a target for each of its 40 samples, but has some of shape (3,)"),
        ({"x": X[:0], "y": Y[:0]}, "holds no rows"),
        ({"x": X[:, :0], "y": Y}, "must hold x (N, ...) with at least two dimensions"),
        ({"x": X[:, 0], "y": Y}, "must hold x (N, ...) with at least two dimensions"),
        (
            {"x": np.where(np.arange(40)[:, None] == 7, np.nan, X), "y": Y},
            "but x[7] has NaN, Inf or larger ones",
        ),
        ({"x": X * 1j, "y": Y}, "must hold x of numbers, but of complex128"),
        ({"x": X, "y": np.eye(3, dtype=int)[Y]}, "must hold one class for each sample"),
        ({"x": X, "y": np.where(Y == 2, np.nan, 1.5)}, "must have no missing values"),
        ({"x": X}, "must have the targets 'y' beside the samples"),
        (
            {"z": X},
            "must hold x and y, or x_train, y_train, x_test and y_test, or columns of one length, but",
        ),
        ({}, "but holds nothing"),
        (
            {"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y},
            "must hold samples of shape (3,), as in training",
        ),
        ({"x": X, "y": Y, "x_test": X}, "must have the targets 'y' beside the samples"),
    ],
    ids=range(15),
)
def test_arrays_that_cannot_be_taken_are_refused_in_one_sentence(tmp_path, arrays, words):
    path = saved(tmp_path, **arrays)
    with pytest.raises(ValueError, match="mine") as refused:
        data.load_file(path)
    assert str(refused.value).startswith(f"{path} ")
    assert words in str(refused.value)


def test_damaged_archives_are_refused_in_one_sentence(tmp_path):
    good = saved(tmp_path, x=X, y=Y).read_bytes()
    for content in (b"", b"junk", good[:-30], good[: len(good) // 2], good[:300] + b"?" + good[301:]):
        (tmp_path / "mine.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"mine\.npz is no \.npz file of arrays \(.*\)\.$"):
            data.load_file(tmp_path / "mine.npz")
    for content in (b"", b"junk", b"\x80\x04K\x05.", good):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npy is no \.npy file of an array"):
            data.load_file(tmp_path / "x.npy", str(tmp_path / "x.npy"))


def test_an_array_that_is_announced_but_not_there_takes_no_memory(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 1000000), }\n" % 10**9
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npy is no \.npy file of an array"):
        data.load_file(tmp_path / "x.npy", "y.npy")


# ---------------------------------------------------------------------------------------------------- images


def image(path, mode="RGB", size=(4, 3), seed=0, alpha=255):
    """Write an image of random pixels, (width, height) = size; returns its bytes of colour (H, W, 3)."""
    images = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    made = images.fromarray(pixels)
    if mode == "RGBA":
        made.putalpha(alpha)
    elif mode in ("I;16", "F"):
        made = images.fromarray(pixels[:, :, 0].astype(np.uint16 if mode == "I;16" else np.float32))
    else:
        made = made.convert(mode)
    made.save(path)
    return np.asarray(made.convert("RGB")) if mode not in ("I;16", "F") else None


def folder_of(tmp_path, *modes, **more):
    """Two classes of images of these modes; returns the pixels in the order of the files."""
    found = [
        image(
            tmp_path / name / f"{number}.{more.get('suffix', 'png')}",
            mode,
            seed=number + 10 * (name == "owl"),
        )
        for name in ("cat", "owl")
        for number, mode in enumerate(modes)
    ]
    return np.stack(found).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("modes", "channels"),
    [
        (["RGB", "RGB"], 3),
        (["L", "L"], 1),
        (["1", "L"], 1),
        (["L", "RGB"], 3),
        (["P", "RGBA"], 3),
        (["LA", "LA"], 1),
    ],
    ids=["RGB", "L", "1 and L", "L and RGB", "P and RGBA", "LA"],
)
def test_a_folder_of_images(tmp_path, modes, channels):
    pixels = folder_of(tmp_path, *modes)
    (tmp_path / "cat" / ".DS_Store").touch()
    found = data.load_file(tmp_path, test_fraction=0.25)
    train, test = split_rows(4, 0.25)
    part = pixels[train, :channels].astype(float)
    mean, deviation = part.mean((0, 2, 3), keepdims=True), part.std((0, 2, 3), keepdims=True)
    expected = (pixels[:, :channels] - mean) / deviation
    for (x, y), rows in ((found.train, train), (found.test, test)):
        assert np.abs(x.numpy() - expected[rows]).max() < 1e-5
        assert y.tolist() == (rows // 2).tolist()
    assert found.preprocessing.classes == ("cat", "owl")
    assert found.shape == (channels, 3, 4)


def test_images_of_different_sizes_are_brought_to_one(tmp_path):
    folder_of(tmp_path, "RGB", "RGB")
    image(tmp_path / "owl" / "9.png", size=(5, 3))
    with pytest.raises(
        ValueError, match=r"cat/0\.png has 4 x 3 and owl/9\.png 5 x 3 pixels; choose one with image_size"
    ):
        data.load_file(tmp_path)
    assert data.load_file(tmp_path, image_size=8).shape == (3, 8, 8)
    found = data.load_file(tmp_path, image_size=(2, 6))
    assert found.shape == (3, 2, 6)
    x, y = found.preprocessing.read(tmp_path / "owl")
    assert (tuple(x.shape), y) == ((3, 3, 2, 6), None)


def test_grey_images_fit_a_network_of_coloured_ones_but_not_the_other_way(tmp_path):
    folder_of(tmp_path / "coloured", "RGB", "RGB")
    folder_of(tmp_path / "grey", "L", "L")
    coloured, grey = (data.load_file(tmp_path / name).preprocessing for name in ("coloured", "grey"))
    assert coloured.read(tmp_path / "grey")[0].shape == (4, 3, 3, 4)
    with pytest.raises(ValueError, match=r"must hold samples of shape \(1, 3, 4\), as in training"):
        grey.read(tmp_path / "coloured")
    with pytest.raises(ValueError, match="must be a folder of images, as in training, but is an array"):
        grey.read(saved(tmp_path, x=X, y=Y))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: (p / "cat").mkdir(), "must hold images of every class, but none in cat"),
        (lambda p: None, "holds no images"),
        (lambda p: image(p / "0.png"), "must have a folder for each class"),
        (lambda p: image(p / "cat" / "0.png"), "must hold at least two classes, but has only 'cat' in its folders"),
        (lambda p: (folder_of(p, "RGB"), image(p / "0.png")), "but holds both"),
        (lambda p: image(p / "cat" / "old" / "0.png"), "is a folder within one"),
        (lambda p: (folder_of(p, "RGB"), (p / "cat" / "notes.txt").touch()), "but holds notes.txt; take it away"),
        (lambda p: (folder_of(p, "RGB"), (p / "cat" / "0.png").write_bytes(b"")), "cat/0.png, which is no image"),
        (lambda p: (folder_of(p, "RGB"), image(p / "cat" / "0.png", "RGBA", alpha=9)), "must be opaque"),
        (lambda p: image(p / "cat" / "0.png", "I;16"), "but has Pillow's mode I;16"),
        (lambda p: image(p / "cat" / "0.tiff", "F"), "but has Pillow's mode F"),
        (lambda p: image(p / "cat" / "0.jpg", "CMYK"), "but has Pillow's mode CMYK"),
    ],
    ids=range(12),
)  # fmt: skip
def test_folders_that_cannot_be_taken_are_refused_in_one_sentence(tmp_path, make, words):
    pytest.importorskip("PIL")
    (tmp_path / "mine").mkdir()
    make(tmp_path / "mine")
    with pytest.raises(ValueError, match="mine") as refused:
        data.load_file(tmp_path / "mine")
    assert str(refused.value).startswith(f"{tmp_path / 'mine'} ")
    assert words in str(refused.value)


def test_damaged_images_are_refused(tmp_path):
    """Cut anywhere, a file is refused, or its pixels are still all there."""
    pixels = folder_of(tmp_path, "RGB", "RGB")
    path = tmp_path / "cat" / "0.png"
    good = path.read_bytes()
    refused = 0
    for length in range(1, len(good), 7):
        path.write_bytes(good[:length])
        try:
            assert np.array_equal(_contents.read(tmp_path, None, None).x, pixels)
        except ValueError as error:
            refused += "cat/0.png, which is no image that Pillow can read" in str(error)
    assert (
        refused > len(good) // 7 - 5
    )  # without its last chunk, which is empty, a file holds all of its pixels


def test_several_images_in_one_file_are_refused(tmp_path):
    images = pytest.importorskip("PIL.Image")
    folder_of(tmp_path, "RGB")
    frames = [images.fromarray(np.full((3, 4), shade, np.uint8)) for shade in (0, 200)]
    frames[0].save(tmp_path / "cat" / "9.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"cat/9\.gif, which must be one image, but has 2"):
        data.load_file(tmp_path)


def test_an_image_that_unpacks_to_gigabytes_is_refused(tmp_path):
    images = pytest.importorskip("PIL.Image")
    folder_of(tmp_path, "RGB")
    images.new("1", (10_000, 10_000)).save(tmp_path / "cat" / "9.png")
    with pytest.raises(ValueError, match=r"cat/9\.png, which is no image that Pillow can read \(Image size"):
        data.load_file(tmp_path)
