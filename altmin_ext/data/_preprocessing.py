"""How a user's own data become tensors: the order of the columns, their categories, the classes, standardisation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from altmin_ext import _check
from altmin_ext.data._contents import Content, number_in, read
from altmin_ext.data._formats import Malformed
from altmin_ext.errors import unknown_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Most different words in a column of which one-hot columns are made.
_MOST_CATEGORIES = 100
#: Numbers whose squares can be added up in float64.
_LARGEST = 1e150
#: Whole numbers are taken for classes without a word if there are no more than this, or few for the rows.
_FEW_CLASSES = 20

Class = str | int | float | bool


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How the contents of a file become tensors, and what a network's outputs stand for.

    It is found from the training part of a file by :func:`altmin_ext.data.load_file`, and applied to further files by
    :meth:`read`. ``altmin train`` keeps it in the file of the model.

    Attributes:
        kind: of the file: "table", "array" or "images".
        target: the name of the column, or of the array, with the targets; None where there is none.
        classes: as they are in the file, in the order of a network's outputs; empty for regression.
        columns: of a table, those that are features, in their order.
        categories: by name, the words in a column of words: one feature each, which is 1 for that word and else 0.
        shape: of a sample: (features,) or (C, H, W).
        image_size: (height, width) that images are brought to; None for images that all have the same size.
        mean, deviation: of every feature of the training part, or of every channel of samples (C, ...). A feature
            becomes (feature - mean) / deviation. The deviation of a constant one is kept as 1.
        target_mean, target_deviation: of every target, for regression; targets are standardised likewise.
    """

    kind: str
    target: str | None
    classes: tuple[Class, ...]
    columns: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    shape: tuple[int, ...]
    image_size: tuple[int, int] | None
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_deviation: tuple[float, ...] = ()

    @property
    def features(self) -> list[str]:
        """The names of the features of a table: a column's own, or ``column=word`` of a column of words."""
        return [
            name if words is None else f"{name}={words}"
            for name in self.columns
            for words in self.categories.get(name, (None,))
        ]

    def read(
        self, path: str | Path, *, target: str | None = None, labelled: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Read another file of the same columns, or samples of the same shape.

        Args:
            path: of a file as :func:`altmin_ext.data.load_file` takes it. Further columns of a table are passed over.
            target: of an .npy file, the one with the targets.
            labelled: whether targets are needed.

        Returns:
            x float32, standardised; and y, int64 or for regression float32 (N, K), standardised; None unless
            ``labelled``.

        Raises:
            ValueError: the file cannot be taken as it is, or does not fit.
            ImportError: a package that reads it is missing.
            OSError: it cannot be read.
        """
        path = Path(path)
        with refusing(path):
            content = content_of(self, path, target)
            return inputs(self, content), targets(self, content) if labelled else None

    def values(self, outputs: Tensor) -> list[Any]:
        """Find what the outputs of a network stand for.

        Args:
            outputs: (N, C).

        Returns:
            For every sample its class as it is in the file; for regression a number in the units of the file, or a
            list of numbers if there are several.
        """
        if self.classes:
            return [self.classes[number] for number in outputs.argmax(1).tolist()]
        numbers = outputs.double() * torch.tensor(self.target_deviation, dtype=torch.float64)
        numbers += torch.tensor(self.target_mean, dtype=torch.float64)
        return [row[0] if len(row) == 1 else row for row in numbers.tolist()]

    def to_dict(self) -> dict[str, Any]:
        """The attributes, as a file holds them.

        Returns:
            A dict of None, strings, numbers, tuples and dicts.
        """
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> Preprocessing:
        """Make one of what :meth:`to_dict` has returned.

        Args:
            document: the result of :meth:`to_dict`, also after JSON has made lists of its tuples.

        Returns:
            The preprocessing.

        Raises:
            TypeError, ValueError: the document is another one.
        """

        def frozen(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: frozen(item) for key, item in value.items()}
            return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else value

        found = Preprocessing(**frozen(document))
        found._check()
        return found

    def _check(self) -> None:
        """Raise a ValueError unless all parts fit each other, as those of a file may not."""
        outputs = len(self.target_mean)
        wide = self.shape[0] if self.shape else 0
        sound = (
            self.kind in ("table", "array", "images")
            and isinstance(self.target, str | None)
            and all(isinstance(name, str) for name in (*self.columns, *self.categories))
            and all(isinstance(value, (str, int, float)) for value in self.classes)
            and all(isinstance(size, int) and size > 0 for size in (*self.shape, *(self.image_size or ())))
            and (self.kind != "table" or self.shape == (len(self.features),))
            and len(self.mean) == len(self.deviation) == wide > 0
            and len(self.target_deviation) == outputs
            and bool(self.classes) != bool(outputs)
            and all(isinstance(value, float) for value in (*self.mean, *self.target_mean))
            and all(
                isinstance(value, float) and value > 0 for value in (*self.deviation, *self.target_deviation)
            )
        )
        if not sound:
            raise ValueError("the parts of its preprocessing do not fit each other")


# --- applying it ---


def content_of(found: Preprocessing, path: Path, target: str | None = None) -> Content:
    """Read a file of the same kind; raises Malformed."""
    own = found.target if found.kind == "array" and path.suffix.lower() == ".npz" else None
    content = read(path, target or own, found.image_size)
    if content.kind != found.kind:
        kinds = {"table": "a table", "array": "an array", "images": "a folder of images"}
        raise Malformed(f"must be {kinds[found.kind]}, as in training, but is {kinds[content.kind]}")
    return content


def inputs(found: Preprocessing, content: Content) -> Tensor:
    """x of a content; raises Malformed."""
    return standardised(found, numbers(found, content))


def targets(found: Preprocessing, content: Content) -> Tensor:
    """y of a content; raises Malformed."""
    return standardised_targets(found, target_numbers(found, content))


def numbers(found: Preprocessing, content: Content) -> NDArray[Any]:
    """The features, (N, ...), before they are standardised; raises Malformed."""
    if found.kind == "table":
        return np.column_stack([_columns_of(found, name, content.x) for name in found.columns])
    x: NDArray[Any] = content.x
    if found.kind == "images" and x.shape[1] == 1 and found.shape[0] == 3:
        x = x.repeat(3, 1)
    if x.shape[1:] != found.shape:
        raise Malformed(
            f"must hold samples of shape {found.shape}, as in training, but holds some of {x.shape[1:]}"
        )
    if x.dtype.kind == "f" and not (np.abs(x) <= _LARGEST).all():
        row = int((np.abs(x) <= _LARGEST).reshape(len(x), -1).all(1).argmin())
        raise Malformed(
            f"must hold finite numbers up to {_LARGEST:g}, but x[{row}] has NaN, Inf or larger ones"
        )
    return x


def _columns_of(found: Preprocessing, name: str, table: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    if name not in table:
        raise Malformed(f"must have the column {name!r}, as in training, but has {_listed(table)}")
    values = table[name]
    if name not in found.categories:
        return _as_numbers(name, values)[:, None]
    known = found.categories[name]
    place = {word: number for number, word in enumerate(known)}
    features = np.zeros((len(values), len(known)))
    for row, word in enumerate(values.tolist()):
        if word is None or word != word:
            raise Malformed(_missing(row, name))
        found_at = _place_of(word, place)
        if found_at is None:
            raise Malformed(
                f"holds {_check.shown(word)[:200]} in row {row + 1}, column {name!r}, but in training there was "
                f"only {', '.join(map(repr, known[:20]))}"
            )
        features[row, found_at] = 1
    return features


def _place_of(value: Any, place: Mapping[Any, int]) -> int | None:
    """Where a value stands; a file that happens to hold numbers alone has them in place of words such as "1"."""
    return place[value] if value in place else place.get(str(value))


def target_numbers(found: Preprocessing, content: Content) -> NDArray[Any]:
    """The targets before they are standardised: the numbers of classes (N,), or numbers (N, K)."""
    values = target_values(content, found.target)
    if not found.classes:
        numbers = _as_targets(values, found.target)
        if found.target_mean and numbers.shape[1] != len(found.target_mean):
            raise Malformed(
                f"must hold {len(found.target_mean)} targets of a sample, but holds {numbers.shape[1]}"
            )
        return numbers
    place = {known: number for number, known in enumerate(found.classes)}
    labels = _as_classes(values, found.target)
    found_numbers = np.empty(len(labels), dtype=np.int64)
    for row, value in enumerate(labels):
        number = _place_of(value, place)
        if number is None:
            shown = ", ".join(map(repr, found.classes[:20]))
            raise Malformed(
                f"holds the class {value!r} in row {row + 1}, but in training there was only {shown}"
            )
        found_numbers[row] = number
    return found_numbers


def standardised(found: Preprocessing, numbers: NDArray[Any]) -> Tensor:
    """x of what :meth:`numbers` returns."""
    ndim = max(numbers.ndim - 2, 0)
    mean, deviation = (
        np.reshape(np.array(values, dtype=np.float64), (-1, *[1] * ndim))
        for values in (found.mean, found.deviation)
    )
    x = np.empty(numbers.shape, dtype=np.float32)
    for start in range(0, len(x), _CHUNK):  # in float64, which shall not take the memory of all
        with np.errstate(over="ignore"):
            x[start : start + _CHUNK] = (numbers[start : start + _CHUNK] - mean) / deviation
    if not np.isfinite(x).all():
        row = int(np.isfinite(x).reshape(len(x), -1).all(1).argmin())
        raise Malformed(
            f"holds numbers in sample {row} that are too large beside those of training for float32"
        )
    return torch.from_numpy(x)


def standardised_targets(found: Preprocessing, numbers: NDArray[Any]) -> Tensor:
    """y of what :meth:`target_numbers` returns."""
    if found.classes:
        return torch.from_numpy(numbers)
    y = (numbers - np.array(found.target_mean)) / np.array(found.target_deviation)
    return torch.from_numpy(y.astype(np.float32))


_CHUNK = 4096


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Within the block, Malformed and the errors of the system become sentences that begin with the path."""
    try:
        yield
    except Malformed as error:
        raise ValueError(f"{path} {error}.") from error
    except OSError as error:
        if not error.strerror:  # a sentence already
            raise
        raise type(error)(f"{error.filename or path} cannot be read: {error.strerror}.") from error


# --- finding it ---


def fit(
    content: Content, target: str | None, task: str, drop: Sequence[str], image_size: tuple[int, int] | None
) -> Preprocessing:
    """Find how a content becomes numbers; standardisation is left to :func:`standardising`.

    Raises:
        Malformed: the content cannot be taken as it is.
        ValueError: ``target`` or ``drop`` is none of its columns.
    """
    columns: list[str] = []
    categories: dict[str, tuple[str, ...]] = {}
    if content.kind == "table":
        table: Mapping[str, NDArray[Any]] = content.x
        if target is None:
            raise ValueError(f"target must be the name of a column: {_listed(table)}.")
        for what, name in [("target", target), *(("column to drop", name) for name in drop)]:
            if name not in table:
                raise unknown_name(what, name, table)
        columns = [name for name in table if name != target and name not in drop]
        if not columns:
            raise Malformed(
                f"must have columns besides {', '.join(map(repr, [target, *drop]))}, but has none"
            )
        for name in columns:
            if (words := _categories(name, table[name])) is not None:
                categories[name] = words
    elif drop:
        raise Malformed("is no table, so that there is no column to drop")
    elif content.kind == "array":
        target = target or "y"
    elif target is not None:
        raise Malformed("is a folder, whose classes are the names of its folders; leave target out")
    found = Preprocessing(
        kind=content.kind,
        target=target,
        classes=_classes(target_values(content, target), target, task),
        columns=tuple(columns),
        categories=categories,
        shape=() if content.kind == "table" else content.x.shape[1:],
        image_size=image_size,
    )
    return dataclasses.replace(found, shape=(len(found.features),)) if content.kind == "table" else found


def standardising(found: Preprocessing, x: NDArray[Any], y: NDArray[Any]) -> Preprocessing:
    """The same, with mean and deviation of the training part."""
    mean, deviation = _moments(x)
    found = dataclasses.replace(found, mean=mean, deviation=deviation)
    if found.classes:
        return found
    mean, deviation = _moments(y)
    return dataclasses.replace(found, target_mean=mean, target_deviation=deviation)


def _moments(x: NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of every column, or of every channel of samples (C, ...)."""
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axes, dtype=np.float64)
    wide = mean.reshape(-1, *[1] * (x.ndim - 2))
    squares = np.zeros_like(mean)
    for start in range(0, len(x), _CHUNK):
        squares += ((x[start : start + _CHUNK] - wide) ** 2).sum(axes)
    deviation = np.sqrt(squares / (x.size / len(mean)))
    constant = deviation <= 1e-12 * np.abs(mean)  # up to the rounding of its mean
    mean[constant] = x[0].reshape(len(mean), -1)[constant, 0]
    deviation[constant] = 1.0
    return tuple(mean.tolist()), tuple(deviation.tolist())


def target_values(content: Content, target: str | None) -> NDArray[Any]:
    """The targets in a content; raises Malformed if there are none."""
    values = content.x.get(target) if content.kind == "table" else content.y
    if values is None:
        missing = {
            "table": f"the column {target!r}, the target, but has {_listed(content.x)}",
            "array": f"the targets {target!r} beside the samples",
            "images": "a folder for each class",
        }
        raise Malformed(f"must have {missing[content.kind]}")
    return np.asarray(values)


def _classes(values: NDArray[Any], target: str | None, task: str) -> tuple[Class, ...]:
    """The classes in their order; none for regression."""
    _check.choice("task", task, ("auto", "classification", "regression"))
    whole = values.dtype.kind in "iub" and values.ndim == 1
    if task == "regression" or (task == "auto" and values.dtype.kind == "f"):
        _as_targets(values, target)
        return ()
    if values.ndim != 1:
        raise Malformed(
            f"must hold one class for each sample, but has {_named(target)} of shape {values.shape}; choose the task "
            "'regression' if these are numbers to predict"
        )
    found = sorted(set(_as_classes(values, target)), key=lambda value: (isinstance(value, str), value))
    if task == "auto" and whole and len(found) > max(_FEW_CLASSES, len(values) // 10):
        raise Malformed(
            f"has {len(found):,} different whole numbers in {_named(target)}, which may be classes or quantities: "
            "choose the task 'classification' or 'regression'"
        )
    if len(found) < 2:
        raise Malformed(f"must hold at least two classes, but has only {found[0]!r} in {_named(target)}")
    return tuple(found)


def _named(target: str | None) -> str:
    return "its folders" if target is None else f"{target!r}"


def _as_classes(values: NDArray[Any], target: str | None) -> list[Class]:
    """Classes as plain Python objects, whole numbers as int."""
    if values.dtype.kind == "O":
        for row, value in enumerate(values):
            if value is None:
                raise Malformed(_missing(row, target))
            if not isinstance(value, (str, bool, int, float)):
                raise Malformed(_neither(value, row, target))
        return list(values)
    if values.dtype.kind not in "iufb":
        raise Malformed(f"must hold classes in {_named(target)}, but holds {values.dtype}")
    if values.dtype.kind == "f":
        _check_finite(values, target)
        if np.array_equal(values, np.trunc(values)):
            return [int(value) for value in values.tolist()]
    return list(values.tolist())


def _as_targets(values: NDArray[Any], target: str | None) -> NDArray[np.float64]:
    """Numbers to predict, (N, K)."""
    numbers = (
        _as_numbers(target, values.reshape(-1)) if values.dtype.kind == "O" else values.astype(np.float64)
    )
    _check_finite(numbers, target)
    return numbers.reshape(len(values), -1)


def _as_numbers(name: str | None, values: NDArray[Any]) -> NDArray[np.float64]:
    """A column of numbers, none missing; raises Malformed."""
    if values.dtype.kind in "biuf":
        numbers = values.astype(np.float64)
        _check_finite(numbers, name)
        return numbers
    if values.dtype.kind != "O":
        raise Malformed(f"holds {values.dtype} in column {name!r}, which is neither numbers nor words")
    numbers = np.empty(len(values))
    for row, value in enumerate(values):
        if value is None:
            raise Malformed(_missing(row, name))
        number = number_in(value) if isinstance(value, str) else float(value) if _is_number(value) else None
        if number is None:
            raise Malformed(
                f"holds {_check.shown(value)[:200]} in row {row + 1}, column {name!r}, which is no number (between "
                "digits there may be a decimal point, but no comma)"
            )
        numbers[row] = number
    _check_finite(numbers, name)
    return numbers


def _categories(name: str, values: NDArray[Any]) -> tuple[str, ...] | None:
    """The words in a column; None for a column of numbers."""
    if values.dtype.kind != "O":
        return None
    for row, value in enumerate(values):
        if value is None:
            raise Malformed(_missing(row, name))
        if not isinstance(value, (str, bool, int, float)):
            raise Malformed(_neither(value, row, name))
    if not all(isinstance(value, str) for value in values):
        return None
    words = sorted(set(values))
    if 2 * sum(map(_like_a_number, words)) > len(words):
        return None  # _as_numbers says which one is none
    if len(words) > _MOST_CATEGORIES:
        raise Malformed(
            f"holds {len(words):,} different words in column {name!r}, of which at most {_MOST_CATEGORIES} can be "
            "made one-hot features; drop that column, or make numbers of it"
        )
    return tuple(words)


def _like_a_number(word: str) -> bool:
    """Whether a word is a number, perhaps with a decimal comma or separated thousands."""
    return number_in(word.replace(",", "")) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float))


def _check_finite(numbers: NDArray[Any], name: str | None) -> None:
    finite = (np.abs(numbers) <= _LARGEST).reshape(len(numbers), -1).all(1)
    if not finite.all():
        row = int(finite.argmin())
        if np.isnan(numbers[row]).any():
            raise Malformed(_missing(row, name))
        raise Malformed(
            f"holds {numbers[row]} in row {row + 1}, column {name!r}, where numbers are finite and at most "
            f"{_LARGEST:g}"
        )


def _missing(row: int, name: str | None) -> str:
    return (
        f"must have no missing values, but row {row + 1} of the data has none in column {name!r} (an empty cell, "
        "or a word such as NA); fill it in or take the row out"
    )


def _neither(value: object, row: int, name: str | None) -> str:
    return (
        f"holds {_check.named_type(value)} in row {row + 1}, column {name!r}, which is neither number nor word; "
        "convert it, or drop that column"
    )


def _listed(table: Mapping[str, Any]) -> str:
    """The names of the first columns."""
    names = list(map(repr, table))
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
