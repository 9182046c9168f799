"""Tables and columns of pandas and polars as data, and in scikit-learn's pipelines around the estimators.

Oracle: the same numbers as tensors or arrays, which must come to the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import altmin_ext

from .task import BATCH, network, same, samples

X, Y = samples().tensors
NAMES = list("abcdef")
WORDS = np.array(["ant", "bee", "cat"])[Y]
COUNTS = (10 * X).round()


class Pandas:
    """How a table is made, and a column; ``kinds`` are names of dtypes that can hold the numbers of X and Y."""

    floats = ("float32", "float64", "Float32", "Float64", "float[pyarrow]", "double[pyarrow]")
    integers = ("int64", "uint8", "Int64", "int16[pyarrow]")

    def __init__(self) -> None:
        self.module = pytest.importorskip("pandas")

    def table(self, values: Any, kind: str | None = None) -> Any:
        made = self.module.DataFrame(np.asarray(values), columns=NAMES[: values.shape[1]])
        return made if kind is None else made.astype(kind)

    def column(self, values: Any, kind: str | None = None) -> Any:
        return self.module.Series(np.asarray(values), dtype=kind)

    def categories(self, words: Any) -> Any:
        return self.column(words).astype("category")

    def beside(self, table: Any, **columns: Any) -> Any:
        return table.assign(**columns)

    def missing(self, values: list[Any], kind: str) -> Any:
        return self.module.Series(values, dtype={"Int64": "Int64", "Boolean": "boolean"}[kind])


class Polars:
    floats = ("Float32", "Float64")
    integers = ("Int64", "UInt8", "Int16")

    def __init__(self) -> None:
        self.module = pytest.importorskip("polars")

    def table(self, values: Any, kind: str | None = None) -> Any:
        made = self.module.DataFrame(np.asarray(values), schema=NAMES[: values.shape[1]])
        return made if kind is None else made.cast(getattr(self.module, kind))

    def column(self, values: Any, kind: str | None = None) -> Any:
        made = self.module.Series(np.asarray(values))
        return made if kind is None else made.cast(getattr(self.module, kind))

    def categories(self, words: Any) -> Any:
        return self.module.Series(list(words), dtype=self.module.Categorical)

    def beside(self, table: Any, **columns: Any) -> Any:
        return table.with_columns(**columns)

    def missing(self, values: list[Any], kind: str) -> Any:
        return self.module.Series(values, dtype=getattr(self.module, kind))


LIBRARIES = {"pandas": Pandas, "polars": Polars}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Any:
    return LIBRARIES[request.param]()


def trained(data: Any, **arguments: Any) -> dict[str, Any]:
    model = network()
    history = altmin_ext.train(model, data, epochs=2, batch_size=BATCH, progress=False, **arguments)
    return {"weights": model.state_dict(), "loss": [row["loss"] for row in history.epochs]}


# ------------------------------------------------------------------------------------- train, evaluate, predict


def of_kinds() -> list[Any]:
    return [
        pytest.param(name, floats, integers, id=f"{name}, {floats}, {integers}")
        for name, own in LIBRARIES.items()
        for number, floats in enumerate(own.floats)
        for integers in own.integers[number % len(own.integers) :][:1]
    ]


@pytest.mark.parametrize(("name", "floats", "integers"), of_kinds())
def test_a_table_and_a_column_are_x_and_y(name: str, floats: str, integers: str) -> None:
    if "pyarrow" in floats + integers:
        pytest.importorskip("pyarrow")
    library = LIBRARIES[name]()
    data = library.table(X, floats), library.column(Y, integers)
    assert same(trained(data), trained((X, Y)))
    assert same(trained({"y": data[1], "x": data[0]}, validation=data), trained((X, Y), validation=(X, Y)))
    assert altmin_ext.evaluate(network(), data) == altmin_ext.evaluate(network(), (X, Y))
    assert torch.equal(altmin_ext.predict(network(), data[0]), altmin_ext.predict(network(), X))


def test_counts_and_targets_of_several_columns(library: Any) -> None:
    """A table of integers is one of numbers; a table of booleans, as of indicators, too."""
    targets = X[:, :3].contiguous()
    data = library.table(COUNTS.long()), library.table(targets)
    assert same(trained(data, loss="mse"), trained((COUNTS, targets), loss="mse"))
    positive = X > 0
    assert same(trained((library.table(positive), library.column(Y))), trained((positive.float(), Y)))


def test_columns_of_different_dtypes(library: Any) -> None:
    whole, positive = COUNTS[:, 0].long(), X[:, 2] > 0
    mixed = library.beside(library.table(X), a=library.column(whole), c=library.column(positive))
    expected = torch.cat([COUNTS[:, :1], X[:, 1:2], positive.float()[:, None], X[:, 3:]], 1)
    assert same(trained((mixed, library.column(Y))), trained((expected, Y)))


def test_columns_of_one_name_are_all_taken() -> None:
    """Only pandas allows them."""
    twice = Pandas().table(X)
    twice.columns = ["a"] * 6
    assert torch.equal(altmin_ext.predict(network(), twice), altmin_ext.predict(network(), X))


@pytest.mark.parametrize(
    ("case", "error", "sentence"),
    [
        ("words as y", TypeError, r"y must hold numbers, but holds \w+; number its classes from 0"),
        ("categories as y", TypeError, r"y must hold numbers, but holds \w+; number its classes from 0"),
        ("categories in x", TypeError, r"x must hold numbers, but its column 'g' holds \w+; encode it by numbers"),
        ("missing labels", ValueError, "y must have a value everywhere, but misses some: fill or drop them"),
        ("missing counts", ValueError, "x must have a value everywhere, but its column 'g' misses some"),
        ("missing truth", TypeError, r"x must hold numbers, but its column 'g' holds \w+"),
        ("NaN in x", ValueError, "x must be finite, but sample 1 holds NaN"),
        ("the whole table", TypeError, r"data must be \(x, y\), but is a DataFrame; pass the columns of x and that"),
        ("not collected", TypeError, r"x must be .*, but is a LazyFrame; make it one, as in x\.collect\(\)"),
    ],
)  # fmt: skip
def test_what_holds_no_numbers_is_refused(
    library: Any, case: str, error: type[Exception], sentence: str
) -> None:
    table, column = library.table(X), library.column(Y)
    if case == "not collected" and not hasattr(table, "lazy"):
        pytest.skip("pandas has no such tables")
    data = {
        "words as y": lambda: (table, library.column(WORDS)),
        "categories as y": lambda: (table, library.categories(WORDS)),
        "categories in x": lambda: (library.beside(table, g=library.categories(WORDS)), column),
        "missing labels": lambda: (table, library.missing([None, *Y[1:].tolist()], "Int64")),
        "missing counts": lambda: (
            library.beside(table, g=library.missing([None, *Y[1:].tolist()], "Int64")),
            column,
        ),
        "missing truth": lambda: (
            library.beside(table, g=library.missing([None, *(Y[1:] > 0).tolist()], "Boolean")),
            column,
        ),
        "NaN in x": lambda: (library.table(X.masked_fill(torch.arange(len(X))[:, None] == 1, torch.nan)), column),
        "the whole table": lambda: table,
        "not collected": lambda: (table.lazy(), column),
    }[case]()  # fmt: skip
    model = network()
    for use in (altmin_ext.train, altmin_ext.evaluate):
        with pytest.raises(error, match=f"^{sentence}") as caught:
            use(model, data)
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)
    assert same(model.state_dict(), network().state_dict())


# --------------------------------------------------------------------------------------------- the estimators


def classifier(**parameters: Any) -> Any:
    estimators = pytest.importorskip("altmin_ext.estimators")
    return estimators.AMClassifier(hidden=(8,), epochs=2, batch_size=BATCH, random_state=0, **parameters)


def test_an_estimator_takes_tables(library: Any) -> None:
    """In both dtypes, which stay as they are; labels of any kind, and columns by name."""
    for values, kind in ((X.numpy(), library.floats[0]), (X.double().numpy(), library.floats[1])):
        expected = classifier().fit(values, WORDS).predict_proba(values)
        table = library.table(values, kind)
        for labels in (library.column(WORDS), library.categories(WORDS)):
            found = classifier().fit(table, labels)
            assert found.feature_names_in_.tolist() == NAMES
            assert found.classes_.tolist() == ["ant", "bee", "cat"]
            proba = found.predict_proba(table)
            assert proba.dtype == values.dtype
            assert np.array_equal(proba, expected)
            assert found.predict(table).tolist() == classifier().fit(values, WORDS).predict(values).tolist()
        with pytest.raises(ValueError, match="feature names should match"):
            found.predict(table[NAMES[::-1]])


def test_it_holds_out_and_goes_on_with_tables(library: Any) -> None:
    x, table, labels = X.numpy(), library.table(X), library.column(WORDS)
    weights = 1.0 + Y.numpy()
    one = classifier().fit(x, WORDS, weights, X_val=x, y_val=WORDS)
    other = classifier().fit(table, labels, library.column(weights), X_val=table, y_val=labels)
    assert same(one.module_.state_dict(), other.module_.state_dict())
    assert one.history_.epochs[-1]["validation_loss"] == other.history_.epochs[-1]["validation_loss"]
    one = classifier().partial_fit(x, WORDS, ["ant", "bee", "cat"])
    other = classifier().partial_fit(table, labels, library.column(["ant", "bee", "cat"]))
    assert same(one.module_.state_dict(), other.module_.state_dict())


def test_a_regressor_takes_tables(library: Any) -> None:
    estimators = pytest.importorskip("altmin_ext.estimators")
    for columns in ("a", ["a", "b"]):
        made = [estimators.AMRegressor(hidden=(8,), epochs=2, random_state=0) for _ in range(2)]
        table = library.table(X)
        found = made[0].fit(table, table[columns]).predict(table)
        target = X[:, 0] if columns == "a" else X[:, :2]
        assert np.array_equal(found, made[1].fit(X.numpy(), target.numpy()).predict(X.numpy()))


def test_a_pipeline_hands_on_tables(library: Any, request: pytest.FixtureRequest) -> None:
    """``set_output`` has transformers make tables, whose names reach the estimator; categories are encoded before."""
    pytest.importorskip("sklearn")
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    name = type(library).__name__.lower()
    table = library.beside(library.table(X), g=library.categories(WORDS))
    encode = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["g"]),
        (StandardScaler(), NAMES),
        verbose_feature_names_out=False,
    )
    tables = make_pipeline(encode.set_output(transform=name), classifier()).fit(table, library.column(WORDS))
    assert tables[-1].feature_names_in_.tolist() == ["g_ant", "g_bee", "g_cat", *NAMES]
    inputs = np.asarray(tables[:-1].transform(table))
    arrays = classifier().fit(inputs, WORDS)
    assert np.array_equal(tables.predict_proba(table), arrays.predict_proba(inputs))
