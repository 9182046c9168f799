"""Streams of data: a data set as a sequence of tasks, and endless minibatches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from altmin_ext import _check
from altmin_ext._order import permutation
from altmin_ext._state import check_keys, count
from altmin_ext.data._dataset import DataSet


def class_tasks(data: DataSet, classes_per_task: int = 2) -> list[DataSet]:
    """Split a data set by classes into tasks: task i holds the i-th group of ``classes_per_task`` classes.

    Labels do not change, so that one head can serve all tasks (class-incremental learning; van de Ven & Tolias 2019).
    With 2 classes per task, mnist becomes Split-MNIST.

    Args:
        data: a data set with all classes, as returned by :func:`altmin_ext.data.load`.
        classes_per_task: number of classes in a task, 2 by default; it must divide the number of classes.

    Returns:
        The tasks, each a :class:`altmin_ext.data.DataSet` with all ``data.classes``.

    Raises:
        TypeError: ``data`` is no DataSet, or ``classes_per_task`` no integer.
        ValueError: it does not divide the number of classes, or there are no classes.

    Examples:
        >>> from altmin_ext import data
        >>> tasks = data.streams.class_tasks(data.load("digits"))
        >>> [task.train[1].unique().tolist() for task in tasks]
        [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    """
    _check_data_set(data)
    if not data.classes:
        raise ValueError(f"data must have classes to make tasks of, but {data.name!r} is for regression.")
    classes_per_task = _check.integer("classes_per_task", classes_per_task)
    if data.classes % classes_per_task:
        raise ValueError(
            f"classes_per_task must divide the {data.classes} classes of {data.name!r}, but is {classes_per_task}."
        )
    tasks = []
    for first in range(0, data.classes, classes_per_task):
        last = first + classes_per_task - 1
        train, test = _between(data.train, first, last), _between(data.test, first, last)
        tasks.append(DataSet(f"{data.name}, classes {first} to {last}", train, test, data.classes))
    return tasks


def _between(part: tuple[Tensor, Tensor], first: int, last: int) -> tuple[Tensor, Tensor]:
    x, y = part
    labels = y.long()  # torch does not compare unsigned integers of more than 8 bits
    rows = (labels >= first) & (labels <= last)
    return x[rows], y[rows]


def _check_data_set(data: object) -> None:
    if not isinstance(data, DataSet):
        raise TypeError(
            f"data must be a DataSet, such as altmin_ext.data.load returns, but is {_check.named_type(data)}."
        )


def permuted_tasks(data: DataSet, tasks: int = 10, seed: int = 0) -> list[DataSet]:
    """Make tasks of a data set by permuting its features, in a different order for each task but the first.

    This is Permuted MNIST (Goodfellow et al. 2013): the tasks are equally hard, and have only their labels in common.

    Args:
        data: a data set, as returned by :func:`altmin_ext.data.load`.
        tasks: the number of tasks, 10 by default.
        seed: of the orders.

    Returns:
        The tasks, each a :class:`altmin_ext.data.DataSet`.

    Raises:
        TypeError: ``data`` is no DataSet, or ``tasks`` or ``seed`` no integer.
        ValueError: ``tasks`` is less than 1, or ``seed`` negative.
    """
    _check_data_set(data)
    tasks = _check.integer("tasks", tasks)
    generator = torch.Generator().manual_seed(_check.seed("seed", seed))
    result = []
    for number in range(tasks):
        order = torch.randperm(data.n_in, generator=generator) if number else torch.arange(data.n_in)
        (x, y), (x_test, y_test) = data.train, data.test
        train, test = (part.flatten(1)[:, order].view_as(part) for part in (x, x_test))
        result.append(DataSet(f"{data.name}, order {number}", (train, y), (test, y_test), data.classes))
    return result


class Endless:
    """Endless minibatches of data in memory, in a new order for every pass; made by :func:`endless`.

    An iterator that can be left anywhere, and gone on with from there by another one: the order of a pass follows
    from its number and the seed alone. :meth:`state_dict` and :meth:`load_state_dict` are those of torchdata.

    Args:
        x: (N, ...), the inputs.
        y: (N,) or (N, C), the targets.
        batch_size: samples in a minibatch; the last minibatch of a pass may be smaller.
        seed: of the orders.
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, seed: int) -> None:
        self._x, self._y = x, y
        self._batch_size, self._seed = batch_size, seed
        self._pass = self._position = 0  # of the next minibatch, counted in minibatches
        self._order: Tensor | None = None  # of the pass, once it has been begun

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self._order is None:
            self._order = permutation(len(self._x), self._seed, self._pass)
        first = self._position * self._batch_size
        rows = self._order[first : first + self._batch_size]
        self._position += 1
        if self._position == self._minibatches:
            self._pass, self._position, self._order = self._pass + 1, 0, None
        return self._x[rows], self._y[rows]

    @property
    def _minibatches(self) -> int:
        """In a pass."""
        return -(-len(self._x) // self._batch_size)

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands.

        Returns:
            ``seed``, ``pass`` (its number, from 0) and ``position`` (minibatches taken in it); ``samples`` and
            ``batch_size``, which must be those of the stream that goes on from there.
        """
        return {
            "seed": self._seed,
            "pass": self._pass,
            "position": self._position,
            "samples": len(self._x),
            "batch_size": self._batch_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another stream of the same data stands.

        Args:
            state: the result of :meth:`state_dict`. Its seed takes the place of this stream's.

        Raises:
            TypeError, ValueError: it is not the state of a stream of as many samples in minibatches of this size;
                nothing has changed.
        """
        check_keys("state", state, self.state_dict())
        for name, own in (("samples", len(self._x)), ("batch_size", self._batch_size)):
            if count(f"state's {name}", state[name]) != own:
                raise ValueError(
                    f"state's {name} must be {own}, as in this stream, but is {state[name]}: the same data in "
                    "minibatches of the same size are needed to go on."
                )
        seed, number = _check.seed("state's seed", state["seed"]), count("state's pass", state["pass"])
        position = count("state's position", state["position"])
        if position >= self._minibatches:
            raise ValueError(
                f"state's position must be less than the {self._minibatches} minibatches of a pass, but is "
                f"{position}."
            )
        self._seed, self._pass, self._position, self._order = seed, number, position, None


def endless(x: Tensor, y: Tensor, batch_size: int = 200, seed: int = 0) -> Endless:
    """Make endless minibatches, in a new order for every pass; ``steps`` of :func:`altmin_ext.train` ends the run.

    Args:
        x: (N, ...), the inputs.
        y: (N,) or (N, C), the targets.
        batch_size: samples in a minibatch, 200 by default; the last minibatch of a pass may be smaller.
        seed: of the orders.

    Returns:
        An iterator of (x, y) that never ends; its ``state_dict`` and ``load_state_dict`` let another one go on where
        it stands.

    Raises:
        TypeError: x or y is no tensor, or ``batch_size`` or ``seed`` no integer.
        ValueError: ``batch_size`` is less than 1, there are no samples, or x and y do not belong together.
    """
    x, y = _check.tensor("x", x), _check.tensor("y", y)
    batch_size, seed = _check.integer("batch_size", batch_size), _check.seed("seed", seed)
    if len(x) != len(y):
        raise ValueError(f"y must have an entry for each of the {len(x)} samples of x, but has {len(y)}.")
    if len(x) == 0:
        raise ValueError("x must hold samples, but is empty.")
    return Endless(x, y, batch_size, seed)


__all__ = ["Endless", "class_tasks", "endless", "permuted_tasks"]
