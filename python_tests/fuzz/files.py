"""Target ``files``: every loader with altered content.

Oracle: an altered file or state is refused by a ValueError or TypeError in one sentence, which names the file, and
nothing has changed; or it is loaded as just what it says, read a second time here by other code, and that is
something which the loader's documentation allows. Content with a published checksum is never loaded altered.
"""

from __future__ import annotations

import abc
import atexit
import contextlib
import copy
import csv
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import math
import os
import re
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import altmin_ext
from altmin_ext import History, checkpoint, data
from altmin_ext import __main__ as command
from altmin_ext.data import _formats, _sources, _tensors, graphs

from ..checkpoint.second_reader import Parts, tree_in, with_header
from ..methods.test_methods_common import METHODS, blobs, network
from .alterations import (
    SCALARS,
    Generator,
    all_finite,
    altered_bytes,
    altered_tensor,
    altered_tree,
    as_double,
    numbers,
    pick,
    same,
)

NAME = "files"


def run(seed: int) -> int:
    """Load one altered file or state; returns 1."""
    rng = np.random.default_rng(seed)
    loader = made(pick(rng, LOADERS))
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loader.check(rng)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{type(loader).__name__}: {type(error).__name__}: {error}") from error
    if not isinstance(loader, ModelFolder):  # a command makes its model from torch's generator
        assert torch.equal(before, torch.random.get_rng_state()), "torch's global generator has moved"
    return 1


@functools.cache
def made(kind: type[Loader]) -> Loader:
    """A loader with its good content, made once in a process."""
    return kind()


@functools.cache
def folder() -> Path:
    """A folder in memory, for this process alone."""
    in_memory = Path("/dev/shm")
    made_here = tempfile.mkdtemp(prefix="altmin-fuzz-", dir=in_memory if in_memory.is_dir() else None)
    atexit.register(shutil.rmtree, made_here, ignore_errors=True)
    return Path(made_here)


class Loader(abc.ABC):
    """A loader and its good content."""

    @abc.abstractmethod
    def check(self, rng: Generator) -> None:
        """Load an altered copy; an AssertionError says what is wrong."""


def attempt(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What the call returns, or the exception that it raises."""
    try:
        return call(), None
    except Exception as error:
        return None, error


def refused(error: Exception, what: str, *words: str) -> None:
    """Check an error: its kind, and one sentence that holds the words."""
    message = str(error)
    kind = type(error).__name__
    assert isinstance(error, (TypeError, ValueError)), f"{what}: {kind}: {message}"
    assert message, f"{what}: {kind} without a word"
    assert "\n" not in message, f"{what}: more than a line: {message}"
    for word in words:
        assert word in message, f"{what}: does not name {word}: {message}"


# --- histories ---


OLDER = "altmin_ext history 1"


class HistoryFile(Loader):
    """``History.load``. A file with a seal is known by it; in an older one what is detectable is what is no JSON by
    the standard, or not of History's documented types."""

    def __init__(self) -> None:
        self._path = folder() / "history.json"
        x, y = blobs(torch.float64)
        history = altmin_ext.train(
            network("am-adam", torch.float64), (x, y), epochs=2, batch_size=20, validation=(x, y),
            report_objective=True, progress=False,
        )  # fmt: skip
        plain = altmin_ext.train(
            network("sgd", torch.float64), (x, y[:, None].expand(-1, 3) * 0.5), method="sgd", loss="mse",
            progress=False,
        )  # fmt: skip
        self._good = [self._saved(history), self._saved(plain)]
        older = [{key: v for key, v in tree.items() if key != "sha256"} for tree in self._good]
        self._older = [{**tree, "format": OLDER} for tree in older]

    def _saved(self, history: History) -> Any:
        history.save(self._path)
        return json.loads(self._path.read_bytes())

    def check(self, rng: Generator) -> None:
        content, what = self._altered(rng)
        self._path.write_bytes(content)
        expected = strict_json(content)
        is_older = isinstance(expected, dict) and expected.get("format") == OLDER
        if not (is_history(expected) if is_older else expected in self._good):
            expected = None
        history, error = attempt(lambda: History.load(self._path))
        if error is not None:
            refused(error, what, str(self._path))
            assert expected is None or what != REORDERED, f"{what}: good content is refused: {error}"
            return
        assert expected is not None, f"{what}: loaded, although it is no history"
        assert says(history, expected), f"{what}: {vars(history)} is loaded, and the file says {expected}"
        assert repr(history)
        assert (history.objective is None) == (history.step_objective is None), what
        history.save(self._path)
        assert says(History.load(self._path), expected), f"{what}: saved and loaded again, another history"

    def _altered(self, rng: Generator) -> tuple[bytes, str]:
        tree, kind = pick(rng, self._good + 2 * self._older), rng.random()
        if kind < 0.4:
            return altered_bytes(rng, json.dumps(tree).encode())
        if kind < 0.45:
            depth = int(rng.choice([50, 2000, 100_000]))
            return b"[" * depth + b"]" * depth, f"{depth} brackets"
        if kind < 0.5:
            return json.dumps({key: tree[key] for key in reversed(tree)}, indent=1).encode(), REORDERED
        if kind < 0.55:
            key = pick(rng, list(tree))
            doubled = f'{{"{key}": {json.dumps(pick(rng, SCALARS))}, {json.dumps(tree)[1:]}'
            return doubled.encode(), f"{key} doubled"
        tree, what = altered_tree(rng, tree, SCALARS)
        return json.dumps(tree).encode(), what


REORDERED = "another order and layout"


def says(history: History, document: Any) -> bool:
    """Whether a history holds what a document says, null standing for NaN in numbers."""
    found = {
        "epochs": history.epochs, "loss": history.loss, "steps": history.steps, "step_loss": history.step_loss,
        "step_accuracy": history.step_accuracy, "step_objective": history.step_objective,
        "objective_rose": history.objective_rose, "restores": history.restores, "ended": history.ended,
        "settings": history.settings, "environment": history.environment,
    }  # fmt: skip
    plain = {key: v.tolist() if isinstance(v, Tensor) else v for key, v in found.items()}
    document = whole(document)
    return all(same(with_null(value), with_null(document.get(key))) for key, value in plain.items())


def whole(document: Any) -> Any:
    """A history with None for what older versions did not write."""
    rows = [dict.fromkeys(("displacement", "steps", "restores")) | row for row in document["epochs"]]
    return dict.fromkeys(("ended", "settings", "environment")) | document | {"epochs": rows}


def with_null(tree: Any) -> Any:
    """NaN as None, and every number as float64."""
    if isinstance(tree, dict):
        return {key: with_null(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [with_null(value) for value in tree]
    if isinstance(tree, bool) or not isinstance(tree, (int, float)):
        return tree
    number = as_double(tree)
    return None if math.isnan(number) else number


def strict_json(content: bytes) -> Any:
    """The document, or None if it is no JSON by RFC 8259 or says two things about one key."""

    def pairs(found: list[tuple[Any, Any]]) -> dict[Any, Any]:
        keys = [key for key, _ in found]
        if len(set(keys)) < len(keys):
            raise ValueError("a key twice")
        return dict(found)

    def constant(name: str) -> Any:
        raise ValueError(name)

    try:
        return json.loads(content, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError):
        return None


def is_number(value: Any) -> bool:
    """A number of JSON that float64 can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_history(tree: Any) -> bool:
    """Whether a document without a seal is what History's documentation describes."""
    if not {"epochs", "steps", "step_loss", "step_accuracy", "step_objective"} <= tree.keys():
        return False

    def numbers_or_none(value: Any) -> bool:
        return isinstance(value, list) and all(item is None or is_number(item) for item in value)

    losses, accuracies, objectives = tree["step_loss"], tree["step_accuracy"], tree["step_objective"]
    if not is_count(tree["steps"]) or not numbers_or_none(losses) or len(losses) > tree["steps"]:
        return False
    if accuracies is not None and not numbers_or_none(accuracies):
        return False
    if objectives is not None:
        if not isinstance(objectives, list) or not all(numbers_or_none(row) for row in objectives):
            return False
        if len({len(row) for row in objectives}) > 1:
            return False
    if not isinstance(tree.get("loss"), str | None) or not isinstance(
        tree.get("objective_rose"), bool | None
    ):
        return False
    if tree.get("restores") is not None and not is_count(tree["restores"]):
        return False
    if not isinstance(tree.get("ended"), str | None):
        return False
    if not all(is_settings(tree.get(name)) for name in ("settings", "environment")):
        return False
    return isinstance(tree["epochs"], list) and all(is_epoch(row) for row in tree["epochs"])


def is_settings(value: Any) -> bool:
    def is_plain(item: Any) -> bool:
        return item is None or isinstance(item, bool | int | float | str)

    return value is None or (
        isinstance(value, dict)
        and all(
            is_plain(own) or (isinstance(own, list) and all(isinstance(item, str) for item in own))
            for own in value.values()
        )
    )


def is_epoch(row: Any) -> bool:
    numeric = {
        "loss", "accuracy", "validation_loss", "validation_accuracy", "seconds", "samples_per_second",
        "learning_rate_factor",
    }  # fmt: skip
    if not isinstance(row, dict) or not numeric | {"epoch", "objective"} <= row.keys():
        return False
    if not is_count(row["epoch"]) or not all(row[key] is None or is_number(row[key]) for key in numeric):
        return False
    if not all(row.get(key) is None or is_count(row[key]) for key in ("steps", "restores")):
        return False
    return all(
        listed is None
        or (isinstance(listed, list) and all(item is None or is_number(item) for item in listed))
        for listed in (row["objective"], row.get("displacement"))
    )


# --- states of methods ---

ALLOWED_IN_A_STEP = (ValueError, TypeError, altmin_ext.DivergenceError)


class State(Loader):
    """``load_state_dict`` of one method, with a state whose values have been altered.

    What loads must be the state that was given, finite wherever the good one is; the next step is taken or refused,
    and the weights stay finite.
    """

    name: str

    def __init__(self) -> None:
        self._x, self._y = blobs(torch.float64, size=24)
        case = METHODS[self.name]
        model = network(self.name, torch.float64, hidden=4)
        self._method = altmin_ext.make_method(self.name, model, **case.options)
        self._new = copy.deepcopy(self._method)
        for _ in range(2):
            self._method.step(self._x, self._y)
        self._good, self._weights = self._method.state_dict(), copy.deepcopy(model.state_dict())
        self._saved = saved(self._good)

    def check(self, rng: Generator) -> None:
        if rng.random() < 0.3:
            content, what = altered_bytes(rng, self._saved)
            try:
                state = torch.load(io.BytesIO(content), weights_only=True)
            except Exception:  # torch's own, which may raise anything
                return
        elif rng.random() < 0.03:
            state = pick(rng, (None, [], 3, "state", [self._good], {}, {"method": self.name}))
            what = f"{str(state)[:40]} instead of a state"
        else:
            state, what = altered_tree(rng, self._good, SCALARS)
        self.check_state(state, f"{self.name}: {what}", int(rng.integers(2)))

    def check_state(self, state: Any, what: str, is_new: int) -> None:
        """Load a state, into a method that has not taken a step, or into the one that it came from."""
        method = copy.deepcopy(self._new) if is_new else self._method
        before, weights = method.state_dict(), copy.deepcopy(method.model.state_dict())
        _, error = attempt(lambda: method.load_state_dict(state))
        if error is not None:
            refused(error, what)
            assert same(method.state_dict(), before), f"{what}: refused ({error}), but the state has changed"
            assert same(method.model.state_dict(), weights), f"{what}: refused, but the weights have changed"
            return
        self._method = self._fresh()
        found = method.state_dict()
        given = {key: state[key] for key in found if key in state}
        kept, wanted = without_torch(found), without_torch(given)
        assert same(kept, wanted), f"{what}: loaded is something else: {difference(kept, wanted)}"
        bounded = {
            key: value for key, value in found.items() if key != "mu"
        }  # which mu_multiplier raises for ever
        assert all_finite(bounded), f"{what}: a number that is not finite has been loaded"
        for tensor in tensors(state):
            if tensor.is_floating_point() and tensor.numel():
                tensor.detach().fill_(0.5)
        assert same(method.state_dict(), found), f"{what}: the loaded state is still that of the caller"
        _, error = attempt(lambda: method.step(self._x, self._y))
        if error is not None:
            kind = type(error).__name__
            assert isinstance(error, ALLOWED_IN_A_STEP), f"{what}: the next step: {kind}: {error}"
            # By moments at the end of float64 an update overflows, element by element; weights stay finite then.
            extreme = any(bool((torch.as_tensor(v).double().abs() > 1e150).any()) for v in numbers(found))
            assert extreme or same(method.model.state_dict(), weights), (
                f"{what}: a step refused ({error}) moved weights"
            )
        assert all_finite(dict(method.model.state_dict())), f"{what}: weights are not finite after a step"

    def _fresh(self) -> Any:
        method = copy.deepcopy(self._new)
        method.model.load_state_dict(self._weights)
        method.load_state_dict(copy.deepcopy(self._good))
        assert same(method.state_dict(), self._good), f"{self.name}: its own state is loaded as another"
        return method


# --- checkpoints ---


class CheckpointFile(Loader):
    """``checkpoint.load`` and ``inspect``, of a file altered by its bytes; by its document, with every sha256 made
    right again; or by what was saved.

    What loads must be what the second reader finds in the file. Otherwise model and method are as they were.
    """

    def __init__(self) -> None:
        self._path = folder() / "run.safetensors"
        self._x, self._y = blobs(torch.float64, size=24)
        self._kept = [self._saved(*self._trained(name)) for name in ("am-adam", "am-mem")]

    def _trained(self, name: str) -> tuple[Any, History]:
        model = network(name, torch.float64, hidden=4)
        model[0].register_buffer("scale", torch.tensor([2, 3]), persistent=False)
        method = altmin_ext.make_method(name, model, **METHODS[name].options)
        history = altmin_ext.train(model, (self._x, self._y), method=method, batch_size=8, progress=False)
        return method, history

    def _saved(self, method: Any, history: History) -> tuple[Any, Any, bytes]:
        """A method, what is restored to it after each case, and its file."""
        extra = {
            "words": ["a", None, True, (1, 2.5, math.inf)],
            "by_number": {3: np.arange(3)},
            "bytes": b"bytes",
        }
        checkpoint.save(self._path, method=method, history=history, number=2**70, **extra)
        return method, checkpoint.load(self._path), self._path.read_bytes()

    def check(self, rng: Generator) -> None:
        method, good, original = pick(rng, self._kept)
        content, what = self._altered(rng, original, method)
        self._path.write_bytes(content)
        found, error = attempt(lambda: checkpoint.load(self._path, method=method))
        summary, _ = attempt(lambda: checkpoint.inspect(self._path))
        if error is not None:
            assert content != original, f"{what}: the good file is refused: {error}"
            refused(error, what, str(self._path))
            assert isinstance(error, ValueError), f"{what}: {type(error).__name__}"
            self._check_untouched(method, good, f"{what}: refused ({error})")
            return
        wanted = as_tensors(tree_in(content))
        assert summary is not None, f"{what}: loaded, but cannot be inspected"
        assert "\n" in str(summary), what
        for name in ("model", "method", "extra"):
            own = as_tensors(getattr(found, name))
            assert same(own, wanted.get(name, {})), f"{what}: loaded is something else: {name}"
        if found.history is not None:
            record = found.history.state_dict()
            assert same(with_null(record), with_null(whole(wanted["history"]))), f"{what}: another history"
        assert same(checkpoint._model.save(method.model), wanted["model"]), f"{what}: other weights"
        state = without_torch(method.state_dict())
        assert same(state, without_torch(wanted["method"])), f"{what}: another state of the method"
        _, error = attempt(lambda: method.step(self._x, self._y))
        assert error is None or isinstance(error, ALLOWED_IN_A_STEP), f"{what}: the next step: {error}"
        self._path.write_bytes(original)
        checkpoint.load(self._path, method=method)
        self._check_untouched(method, good, f"{what}: the good file, loaded after it")

    def _check_untouched(self, method: Any, good: Any, what: str) -> None:
        assert same(checkpoint._model.save(method.model), good.model), f"{what}, but the weights have changed"
        assert same(method.state_dict(), good.method), f"{what}, but the state has changed"

    def _altered(self, rng: Generator, content: bytes, method: Any) -> tuple[bytes, str]:
        kind = rng.random()
        if kind < 0.3:
            return altered_bytes(rng, content)
        if kind < 0.4:
            length = int.from_bytes(content[:8], "little")
            header, what = altered_bytes(rng, content[8 : 8 + length])
            return with_header(header, content[8 + length :]), f"header, made right: {what}"
        if kind < 0.75:
            parts = Parts(content)
            name = pick(rng, ("header", "tree", "tree", "digests", "metadata"))
            tree, what = altered_tree(rng, getattr(parts, name), DOCUMENT_SCALARS)
            setattr(parts, name, tree)
            try:
                if rng.random() < 0.6:
                    parts.hash_again()
                return parts.content(), f"{name}, made right: {what}"
            except (TypeError, KeyError, ValueError, AttributeError):  # no longer of such a form
                return altered_bytes(rng, content)
        self._path.write_bytes(content)
        whole = checkpoint._file.read(self._path)
        name = pick(rng, ("model", "model", "method", "method", "history", "extra", None))
        if name is None:
            whole, what = altered_tree(rng, whole, SCALARS)
        else:
            whole[name], what = altered_tree(rng, whole[name], SCALARS)
        _, error = attempt(lambda: checkpoint._file.write(self._path, whole))
        if error is not None:
            refused(error, what)
            return altered_bytes(rng, content)
        return self._path.read_bytes(), f"{name} saved: {what}"


DOCUMENT_SCALARS = [
    *SCALARS, "F32", "I64", "<f8", "|b1", "0" * 64, "model.1.weight", [0, 8], [2**63, 2],
    {"dict": {}}, {"tuple": [1]},
    {"float": "7ff8000000000001"}, {"int": "-0x1"}, {"scalar": "<f2", "bytes": "003c"}, {"bytes": "model.1.bias"},
    {"tensor": "model.1.weight"}, {"array": "model.1.weight", "dtype": "<f8"},
]  # fmt: skip


def as_tensors(tree: Any) -> Any:
    """A tree with tensors instead of arrays, and Python's numbers instead of NumPy's."""
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, dict):
        return {key: as_tensors(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(as_tensors(value) for value in tree)
    return torch.from_numpy(tree.copy()) if isinstance(tree, np.ndarray) else tree


def without_torch(tree: Any) -> Any:
    """Without what is torch's own: states of generators, in which it normalises bytes that have no meaning, and how
    an optimiser is implemented."""
    if isinstance(tree, dict):
        found = {key: without_torch(value) for key, value in tree.items() if key not in IMPLEMENTATIONS}
        return {key: value for key, value in found.items() if not is_generator(value)}
    return [without_torch(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


IMPLEMENTATIONS = ("foreach", "fused", "capturable", "differentiable")


def is_generator(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.numel() > 1000


def saved(tree: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    return buffer.getvalue()


def tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, dict):
        return [found for value in tree.values() for found in tensors(value)]
    if isinstance(tree, (list, tuple)):
        return [found for value in tree for found in tensors(value)]
    return [tree] if isinstance(tree, Tensor) else []


def difference(one: Any, other: Any, path: str = "") -> str:
    """Where two trees differ first, and how."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        pairs = [(key, *pair) for key, pair in enumerate(zip(one, other, strict=True))]
    else:
        return f"{path} is {str(one)[:80]}, not {str(other)[:80]}"
    return next(difference(a, b, f"{path}.{key}") for key, a, b in pairs if not same(a, b))


# --- models of the command line ---


class ModelFolder(Loader):
    """``altmin evaluate --model DIR``: the same result as with the good folder, or exit status 2 and one sentence."""

    def __init__(self) -> None:
        self._folder = folder() / "model"
        self._load = functools.cache(altmin_ext.data.load)
        arguments = "train --data digits --hidden 4 --epochs 1 --batch-size 500 --quiet --output"
        with contextlib.redirect_stdout(io.StringIO()):
            assert command.main([*arguments.split(), str(self._folder)]) == 0
        self._path = self._folder / "model.safetensors"
        self._content = self._path.read_bytes()
        self._good = self._evaluated()
        assert self._good[0] == 0, self._good

    def _evaluated(self) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(altmin_ext.data, "load", self._load),
        ):
            status = command.main(["evaluate", "--model", str(self._folder), "--json"])
        return status, out.getvalue(), err.getvalue()

    def check(self, rng: Generator) -> None:
        content, what = self._altered(rng)
        self._path.write_bytes(content)
        result, error = attempt(self._evaluated)
        self._path.write_bytes(self._content)
        assert error is None, f"{what}: {type(error).__name__}: {error}"
        status, out, err = result
        if status == 0:
            assert out == self._good[1], f"{what}: evaluated as {out}, and unaltered as {self._good[1]}"
            return
        assert status == 2, f"{what}: exit status {status}: {err}"
        assert not out, f"{what}: {out}"
        lines = err.strip().splitlines()
        assert len(lines) == 1, f"{what}: not one line: {err}"
        assert lines[0].startswith("altmin: error: "), f"{what}: {err}"

    def _altered(self, rng: Generator) -> tuple[bytes, str]:
        if rng.random() < 0.6:
            return altered_bytes(rng, self._content)
        end = 8 + int.from_bytes(self._content[:8], "little")
        tree, what = altered_tree(rng, json.loads(self._content[8:end]), SCALARS)
        header = json.dumps(tree).encode()
        return struct.pack("<Q", len(header)) + header + self._content[end:], what


# --- data sets ---


class Published(Loader):
    """A data set by name, in a registered source of our own with small files."""

    name: str

    def __init__(self) -> None:
        self._home = folder() / "data"
        self._paths: list[Path] = []
        self._registered = {self.name: self._source()}
        self._good_files = {path: path.read_bytes() for path in self._paths}
        self._good = self._loaded()

    @abc.abstractmethod
    def _source(self) -> _sources.Source:
        """Write the good files and describe them."""

    def _write(self, name: str, content: bytes) -> None:
        path = self._home / self.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self._paths.append(path)

    def _loaded(self) -> list[Tensor]:
        with (
            mock.patch.dict(_sources.registry, self._registered),
            mock.patch.dict(os.environ, {"ALTMIN_DATA": str(self._home)}),
        ):
            data = altmin_ext.data.load(self.name, download=False)
        return [*data.train, *data.test]

    def check(self, rng: Generator) -> None:
        path = pick(rng, self._paths)
        content, what = self._altered(rng, self._good_files[path])
        what = f"{path.name}: {what}"
        path.write_bytes(content)
        found, error = attempt(self._loaded)
        path.write_bytes(self._good_files[path])
        if error is not None:
            refused(error, what, str(path.parent))
            return
        self._check_loaded(found, content, what)

    def _altered(self, rng: Generator, good: bytes) -> tuple[bytes, str]:
        """The file itself altered, or what is packed in it."""
        if rng.random() < 0.5:
            return altered_bytes(rng, good)
        content, what = altered_bytes(rng, gzip.decompress(good))
        return gzip.compress(content, 1), f"unpacked, {what}"

    def _check_loaded(self, found: list[Tensor], content: bytes, what: str) -> None:
        assert same(found, self._good), f"{what}: loaded, although its checksum cannot be right"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class IDX(Published):
    """Four IDX files, known by their checksums."""

    name = "fuzzed-idx"

    def _source(self) -> _sources.Source:
        rng = np.random.default_rng(0)
        arrays = [
            rng.integers(0, 256, (5, 2, 3), np.uint8), rng.integers(0, 10, 5, np.uint8),
            rng.integers(0, 256, (2, 2, 3), np.uint8), rng.integers(0, 10, 2, np.uint8),
        ]  # fmt: skip
        files = []
        for number, array in enumerate(arrays):
            content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
            self._write(f"{number}.gz", gzip.compress(content))
            read = partial(_formats.read_idx, ndim=array.ndim, sha256=sha256(content))
            files.append(_sources.File(f"{number}.gz", read))
        tensors = partial(_tensors.images, mean=(0.1,), deviation=(0.3,))
        return _sources.Source("", 10, tensors, tuple(files))


class CIFAR(Published):
    """An archive whose members are known by their checksums."""

    name = "fuzzed-cifar"

    def _source(self) -> _sources.Source:
        rng = np.random.default_rng(0)
        members = {}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name in ("one.bin", "two.bin"):
                records = rng.integers(0, 10, (2, 3073), np.uint8)
                members[name] = records.tobytes()
                entry = tarfile.TarInfo(f"folder/{name}")
                entry.size = records.nbytes
                archive.addfile(entry, io.BytesIO(members[name]))
        self._write("archive.tar.gz", packed.getvalue())
        read = partial(_formats.read_cifar, sha256={name: sha256(c) for name, c in members.items()})
        tensors = partial(_tensors.image_batches, mean=(0.1, 0.2, 0.3), deviation=(0.3, 0.2, 0.1))
        return _sources.Source("", 10, tensors, (_sources.File("archive.tar.gz", read),))


class Rows(Published):
    """HIGGS's kind of table, without a checksum: what loads must be the numbers in its text, all of them finite."""

    name = "fuzzed-rows"
    test_rows = 3

    def _source(self) -> _sources.Source:
        rng = np.random.default_rng(0)
        table = np.column_stack([rng.integers(0, 2, 9), rng.normal(size=(9, 3))])
        self._text = "".join(",".join(f"{value:.6e}" for value in row) + "\n" for row in table).encode()
        self._write("rows.csv.gz", gzip.compress(self._text))
        read = partial(_formats.read_csv, columns=4)
        tensors = partial(_tensors.table, classes=2, test_rows=self.test_rows)
        return _sources.Source("", 2, tensors, (_sources.File("rows.csv.gz", read),))

    def _altered(self, rng: Generator, good: bytes) -> tuple[bytes, str]:
        kind = rng.random()
        if kind < 0.2:
            return altered_bytes(rng, good)
        if kind < 0.5:
            text, what = altered_bytes(rng, self._text)
        else:
            rows = [line.split(",") for line in self._text.decode().splitlines()]
            cells = pick(rng, rows)
            what = pick(rng, ("a cell less", "a cell more", "another cell", "a row less", "a column alike"))
            if what == "a cell less":
                cells.pop()
            elif what == "a cell more":
                cells.append("1.0")
            elif what == "a row less":
                rows = rows[: int(rng.integers(len(rows)))]
            elif what == "a column alike":
                column = int(rng.integers(4))
                for row in rows:
                    row[column] = rows[0][column]
            else:
                words = ("nan", "inf", "-inf", "", " ", "2", "-1", "0.5", "1e39", "1e400", "9" * 400, "x", "1_0",
                         "0x1", "1e-50", "١", '"1"', "1 2", "#1", "1\r", "true")  # fmt: skip
                place = int(rng.integers(4))
                cells[place] = pick(rng, words)
                what = f"{cells[place]!r} in column {place}"
            text = "\n".join(",".join(row) for row in rows).encode()
        return gzip.compress(text, 1), f"text, {what}"

    def _check_loaded(self, found: list[Tensor], content: bytes, what: str) -> None:
        assert all_finite(found), f"{what}: loaded with numbers that are not finite"
        rows = []
        for line in gzip.decompress(content).splitlines():
            if not line.strip():
                continue
            cells = [cell.strip() for cell in line.decode("latin-1").split(",")]
            for cell in cells:
                number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", cell)
                assert number, f"{what}: {cell!r} is loaded as a number"
            rows.append([float(cell) for cell in cells])
        table = np.array(rows, np.float32)  # which the rows are held in, so that 1e-50 is 0
        assert table.ndim == 2, f"{what}: rows of different lengths are loaded"
        assert table.shape[1] == 4, f"{what}: {table.shape[1]} columns are loaded"
        y = table[:, 0].astype(np.int64)
        assert set(table[:, 0]) <= {0.0, 1.0}, f"{what}: a class that is none"
        x = table[:, 1:]
        train = x[: -self.test_rows].astype(np.float64)
        with np.errstate(all="ignore"):
            wanted = (x - train.mean(0)) / train.std(0)
        loaded_x, loaded_y = torch.cat(found[::2]).double().numpy(), torch.cat(found[1::2]).numpy()
        assert np.array_equal(loaded_y, y), f"{what}: other classes"
        largest = np.abs(train).max(0) / train.std(0)  # where float32 cancels
        assert loaded_x.shape == wanted.shape, f"{what}: {loaded_x.shape} instead of {wanted.shape}"
        error = np.abs(loaded_x - wanted) / (1 + np.abs(wanted) + largest)
        assert error.max() < 1e-4, f"{what}: other numbers, by {error.max()}"


class Graph(Loader):
    """``load_graph``: what loads must be the arrays in the archive, read by numpy, and must fit each other."""

    def __init__(self) -> None:
        self._path = folder() / "graphs" / "planetoid" / "cora.npz"
        self._path.parent.mkdir(parents=True)
        self._arrays = {
            "x_data": np.array([1, 2, 3, 4], np.float32), "x_indices": np.array([0, 2, 1, 0], np.int32),
            "x_indptr": np.array([0, 2, 3, 3, 4], np.int32), "x_shape": np.array([4, 3]),
            "edges": np.array([[0, 1], [1, 0], [2, 3], [3, 2]]), "y": np.array([0, 1, -1, 2]),
            "train": np.array([0]), "val": np.array([1]), "test": np.array([3]),
        }  # fmt: skip
        self._good = packed(self._arrays)

    def check(self, rng: Generator) -> None:
        content, what = self._altered(rng)
        self._path.write_bytes(content)
        with mock.patch.dict(os.environ, {"ALTMIN_DATA": str(folder() / "graphs")}):
            found, error = attempt(lambda: graphs.load_graph("cora"))
        if error is not None:
            refused(error, what, str(self._path))
            return
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {key: io.BytesIO(archive.read(f"{key}.npy")) for key in self._arrays}
        arrays = {key: np.lib.format.read_array(member) for key, member in members.items()}
        wanted = read_graph(arrays)
        assert wanted is not None, f"{what}: loaded, although it is no graph: {found}"
        for key, array in wanted.items():
            value = getattr(found, key).numpy()
            assert np.array_equal(value, array), f"{what}: {key} is {value}, not {array}"
        assert all_finite(found.features), f"{what}: features that are not finite"
        assert all_finite(found.propagated(1)), f"{what}: features that are not finite, propagated"

    def _altered(self, rng: Generator) -> tuple[bytes, str]:
        if rng.random() < 0.4:
            return altered_bytes(rng, self._good)
        arrays = dict(self._arrays)
        key = pick(rng, list(arrays))
        array, kind = arrays[key], rng.random()
        if kind < 0.1:
            del arrays[key]
            return packed(arrays), f"{key} dropped"
        if kind < 0.5 and array.size:
            place = int(rng.integers(array.size))
            new = pick(rng, (-1, 0, 1, 2, 3, 4, 100, 2**40, -(2**63), 0.5, np.nan, np.inf))
            is_real = isinstance(new, float) or array.dtype.kind == "f"
            changed = array.astype(np.float64 if is_real else np.int64)
            changed.flat[place] = new
            arrays[key], what = changed, f"{key}[{place}] is {new}"
        elif kind < 0.8:
            tensor, what = altered_tensor(rng, torch.from_numpy(array.copy()))
            try:
                arrays[key] = np.array(tensor.detach()) if isinstance(tensor, Tensor) else np.array(tensor)
            except Exception:
                arrays[key] = np.array(3)
            what = f"{key}: {what}"
        else:
            kind_of = pick(rng, ("f2", "f4", "f8", "i1", "u1", "i2", "u8", "c16", "U5", "?", ">i4", "M8[s]"))
            arrays[key], what = array.astype(np.int64).astype(kind_of), f"{key} as {kind_of}"
        return packed(arrays), what


class OwnTable(Loader):
    """``data.load_file`` of a table: what loads must be the cells, read by Python's csv, none of them missing."""

    def __init__(self) -> None:
        self._path = folder() / "own.csv"
        rng = np.random.default_rng(0)
        self._rows = [
            [f"{a:.6f}", f"{b:.3e}", ("red", "blue")[number % 2], ("ash", "birch", "cedar")[number % 3]]
            for number, (a, b) in enumerate(rng.normal(3, 2, (12, 2)))
        ]

    def check(self, rng: Generator) -> None:
        content, what = self._altered(rng)
        self._path.write_bytes(content)
        found, error = attempt(lambda: data.load_file(self._path, "kind", test_fraction=0.25))
        if error is not None:
            refused(error, what, str(self._path))
            return
        with open(self._path, newline="", encoding="utf-8-sig") as file:
            header, *rows = [
                row for row in csv.reader(file, skipinitialspace=True) if any(map(str.strip, row))
            ]
        own = found.preprocessing
        (train, _), (test, _) = data.split((torch.arange(len(rows)), torch.arange(len(rows))), 0.25)
        order = torch.cat([train, test])
        x, y = torch.cat([found.train[0], found.test[0]]), torch.cat([found.train[1], found.test[1]])
        assert all_finite(x), f"{what}: loaded with numbers that are not finite"
        assert len(x) == len(rows), f"{what}: {len(x)} rows instead of {len(rows)}"
        raw = x.double().numpy() * own.deviation + own.mean
        size = 1 + np.abs(own.mean) + np.abs(raw).max(0)
        for place, row in zip(raw, order.tolist(), strict=True):
            assert not any(rows[row][4:]), (
                f"{what}: a cell is lost"
            )  # an empty one is a separator at the end of a line
            cells = dict(zip(header, rows[row][:4], strict=True))
            wanted = []
            for name in own.columns:
                words = own.categories.get(name)
                cell = cells[name]
                wanted += [float(cell)] if words is None else [float(cell == word) for word in words]
            error_here = (np.abs(place - wanted) / size).max()
            assert error_here < 1e-5, f"{what}: {place} instead of {wanted}"
        classes = [str(own.classes[number]) for number in y.tolist()]
        assert classes == [rows[row][3] for row in order.tolist()], f"{what}: other classes"

    def _altered(self, rng: Generator) -> tuple[bytes, str]:
        rows = [list(row) for row in self._rows]
        cells, what = (
            pick(rng, rows),
            pick(rng, ("a cell less", "a cell more", "another cell", "rows less", "bytes")),
        )
        if what == "a cell less":
            cells.pop()
        elif what == "a cell more":
            cells.append(pick(rng, ("1.0", "", "x")))
        elif what == "rows less":
            rows = rows[: int(rng.integers(len(rows)))]
        elif what == "another cell":
            words = ("nan", "inf", "", " ", "2", "-1", "1e39", "1e200", "1e400", "9" * 400, "x", "1_0", "0x1",
                     "1e-50", "1,5", "١", "NA", "null", "#1", "red", "true", "\0", "ä", "1;2")  # fmt: skip
            place = int(rng.integers(4))
            cells[place] = pick(rng, words)
            what = f"{cells[place]!r} in column {place}"
            cells[place] = f'"{cells[place]}"' if rng.random() < 0.3 or "," in cells[place] else cells[place]
        text = "\n".join(",".join(row) for row in [["a", "b", "colour", "kind"], *rows]).encode()
        if what == "bytes":
            head, body = text.split(b"\n", 1)
            place = int(rng.integers(len(body)))
            text = head + b"\n" + body[:place] + bytes([int(rng.integers(128, 256))]) + body[place + 1 :]
        return text, what


def packed(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def read_graph(arrays: dict[str, Any]) -> dict[str, Any] | None:
    """The graph in such arrays, entry by entry; None if they are none."""
    exact: dict[str, Any] = {}
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            return None
        if key != "x_data":
            if any(value != int(value) for value in array.ravel().tolist()):
                return None
            array = array.astype(np.int64)
        exact[key] = array
    shape, indptr, indices, data = (exact[key] for key in ("x_shape", "x_indptr", "x_indices", "x_data"))
    if shape.shape != (2,) or indptr.ndim != 1 or indices.ndim != 1 or data.shape != indices.shape:
        return None
    nodes, columns = shape.tolist()
    starts = indptr.tolist()
    if len(starts) != nodes + 1 or starts[0] != 0 or starts[-1] != len(indices) or starts != sorted(starts):
        return None
    features = np.zeros((nodes, columns), np.float32)
    for row in range(nodes):
        own = indices[starts[row] : starts[row + 1]].tolist()
        if len(set(own)) < len(own) or any(not 0 <= column < columns for column in own):
            return None
        for column, value in zip(own, data[starts[row] : starts[row + 1]], strict=True):
            features[row, column] = value
    edges, y = exact["edges"], exact["y"]
    if edges.ndim != 2 or edges.shape[1] != 2 or y.shape != (nodes,) or (y < -1).any():
        return None
    pairs = [tuple(pair) for pair in edges.tolist()]
    if any(a == b or not (0 <= a < nodes and 0 <= b < nodes) for a, b in pairs):
        return None
    if sorted(pairs) != sorted((b, a) for a, b in pairs):
        return None
    for key in ("train", "val", "test"):
        part = exact[key]
        if part.ndim != 1 or any(not 0 <= node < nodes or y[node] < 0 for node in part.tolist()):
            return None
    return {
        "features": features, "edges": edges.T, "y": y, "train": exact["train"],
        "validation": exact["val"], "test": exact["test"],
    }  # fmt: skip


def _state_of(name: str) -> type[State]:
    return dataclasses.make_dataclass(
        f"State_{name}", [], bases=(State,), namespace={"name": name}, init=False
    )


STATES: list[type[Loader]] = [_state_of(name) for name in METHODS]
# A loader's share of the cases: the methods' states have fourteen, and each of the others a few.
LOADERS: list[type[Loader]] = [
    *STATES,
    *(CheckpointFile for _ in range(6)),
    *(kind for kind in (HistoryFile, Graph, Rows) for _ in range(4)),
    *(OwnTable for _ in range(4)),
    *(kind for kind in (IDX, CIFAR) for _ in range(2)),
    ModelFolder,
]
