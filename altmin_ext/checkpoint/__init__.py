"""Checkpoints: a model, its method and its history in one file, which is written whole or not at all.

A checkpoint is a safetensors file. Every reader of that format finds the weights in it, below ``model.``; none runs
code from it. Every bit is under a sha256, so that an altered file is refused. :func:`altmin_ext.train` writes such
files with ``checkpoint=``. The functions here are for loops of one's own::

    from altmin_ext import checkpoint

    method = altmin_ext.make_method("am-adam", model)
    for number, (x, y) in enumerate(minibatches, 1):
        method.step(x, y)
        if number % 1000 == 0:
            checkpoint.save("run.safetensors", method=method, number=number)

and in another process, which has made the same model and method::

    number = checkpoint.load("run.safetensors", method=method).extra["number"]
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from altmin_ext import _check, _state
from altmin_ext._interrupt import HeldInterrupt
from altmin_ext.checkpoint import _file, _model
from altmin_ext.checkpoint._summary import Summary, TensorEntry, inspect
from altmin_ext.history import History
from altmin_ext.methods import Method


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    All tensors are on the CPU, in memory of their own.

    Attributes:
        model: the model's parameters and all of its buffers, by their names in ``model.state_dict()``; and, by its
            name there, what modules save as extra state. None if no model was saved.
        method: the method's ``state_dict()``; None if no method was saved.
        history: the :class:`altmin_ext.History`; None if none was saved.
        extra: what else was passed to :func:`save`, by name.
        run: where the run of :func:`altmin_ext.train` that has written the file stands; None for a file of
            :func:`save`.
    """

    model: dict[str, Any] | None
    method: dict[str, Any] | None
    history: History | None
    extra: dict[str, Any]
    run: dict[str, Any] | None

    def __repr__(self) -> str:
        parts = [] if self.model is None else [f"model of {len(self.model)} tensors"]
        parts += [] if self.method is None else [f"method {self.method.get('method')!r}"]
        parts += [] if self.history is None else [repr(self.history)]
        parts += [] if not self.extra else [f"extra {', '.join(self.extra)}"]
        parts += [] if self.run is None else ["run"]
        return f"Checkpoint({', '.join(parts)})"


def save(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    method: Method | None = None,
    history: History | None = None,
    keep: int = 0,
    **extra: Any,
) -> None:
    """Write a checkpoint, completely or not at all.

    The file gets its name only when it is complete and on disk: at every moment, and after a power cut, the name
    stands for the earlier file or for the new one. Tensors on a GPU are copied to the CPU first. What is saved must
    not change in the meantime, for instance because another thread trains.

    Args:
        path: of the file; the usual suffix is ".safetensors". Missing folders are made, a link is followed, and
            mode and owner of an earlier file are kept.
        model: of which the parameters and all buffers are saved, also those with ``persistent=False``, and the
            results of ``get_extra_state()`` of modules that define it. None for the method's model.
        method: whose state is saved. Its options are noted for :func:`inspect`.
        history: of the training so far.
        keep: how many earlier checkpoints stay beside this one. With 2, "run.safetensors" after 3,000 steps has
            "run-2000.safetensors" and "run-1000.safetensors" beside it, named by the steps of the method, or else
            of the history. An earlier checkpoint of the same name is replaced. A file of your own with that name
            stays, and the checkpoint is then not kept. 0 leaves the files that are there alone.
        **extra: anything else by name, made of dicts (with strings and integers as keys), lists and tuples of None,
            bool, int, float, str, bytes, tensors, NumPy's arrays and numbers. It is read exactly as it was written,
            but for layout, device and ``requires_grad`` of tensors; an ``OrderedDict`` is read as a dict.

    Raises:
        TypeError: an argument has a wrong type, or there is something in it that a file does not hold.
        ValueError: the method is of another model; or ``keep`` is given without method and history; or there is
            nothing to save.
        DivergenceError: an earlier step of the method on a GPU was not finite.
        OSError: the file cannot be written. Whatever is raised, a file that was there before is untouched.

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import checkpoint, models
        >>> model = models.mlp(4, [16], 2)
        >>> checkpoint.save("mine.safetensors", model=model, fold=3)
        >>> checkpoint.load("mine.safetensors").extra
        {'fold': 3}
    """
    _check_objects(model, method)
    if history is not None and not isinstance(history, History):
        raise TypeError(f"history must be an altmin_ext.History, but is {_check.named_type(history)}.")
    keep = _check.integer("keep", keep, 0)
    if keep and method is None and history is None:
        raise ValueError(
            f"keep must be 0 without method and history, whose steps earlier files are named by, but is {keep}."
        )
    if method is not None:
        method.raise_if_diverged()
        model = method.model
    tree: dict[str, Any] = {} if model is None else {"model": _model.save(model)}
    if method is not None:
        with _state.shared():
            tree |= {"method": method.state_dict(), "options": _options(method)}
    if history is not None:
        tree["history"] = history.state_dict()
    if extra:
        tree["extra"] = extra
    if not tree:
        raise ValueError("save must be given something to save, but is given a path alone.")
    _file.write(path, tree, keep=keep)


def load(
    path: str | os.PathLike[str], *, model: nn.Module | None = None, method: Method | None = None
) -> Checkpoint:
    """Read a checkpoint, and restore a model and a method from it.

    Both are restored or neither: everything is checked before anything changes. Weights need not be finite.

    Args:
        path: of a file of :func:`save` or :func:`altmin_ext.train`.
        model: to restore, in place and where it is: of the architecture and dtypes of the one that was saved. None
            for the method's model.
        method: to restore together with its model, of the same name and for a model of the same architecture. Its
            options stay as they are.

    Returns:
        The :class:`Checkpoint`, whether or not anything was to be restored.

    Raises:
        OSError: the file cannot be read.
        TypeError: ``model`` or ``method`` has a wrong type.
        ValueError: the file is no checkpoint, has been altered, or is of a newer format; or what it holds does not
            fit the model or the method; or the method is of another model. Nothing has changed.

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import checkpoint, models
        >>> method = altmin_ext.make_method("am-adam", models.mlp(4, [16], 2))
        >>> _ = method.step(torch.randn(30, 4), torch.arange(30) % 2)
        >>> checkpoint.save("mine.safetensors", method=method)
        >>> again = altmin_ext.make_method("am-adam", models.mlp(4, [16], 2))
        >>> _ = checkpoint.load("mine.safetensors", method=again)
        >>> again.steps, torch.equal(again.model[1].weight, method.model[1].weight)
        (1, True)
    """
    _check_objects(model, method)
    tree = _file.read(path)
    try:
        found = _checkpoint(tree)
        restore = [] if method is None else [_restoring("method", method.restoring, found.method)]
        model = model if method is None else method.model
        if model is not None:
            own = model
            restore.insert(0, _restoring("model", lambda state: _model.restoring(own, state), found.model))
        with HeldInterrupt(held=True):
            for call in restore:
                call()
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{os.fspath(path)!r} must be a checkpoint of what it is loaded for, but is not: {reason}."
        ) from error
    return found


def _check_objects(model: Any, method: Any) -> None:
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {_check.named_type(model)}.")
    if method is not None and not isinstance(method, Method):
        raise TypeError(f"method must be an altmin_ext.Method, but is {_check.named_type(method)}.")
    if model is not None and method is not None and method.model is not model:
        raise ValueError("model must be the one that method trains, but is another; leave it out.")


def _options(method: Method) -> dict[str, Any]:
    """The method's options, for people to read."""
    values = {field.name: getattr(method.options, field.name) for field in dataclasses.fields(method.options)}
    plain = (type(None), bool, int, float, str)
    return {name: own if type(own) in plain else _check.shown(own) for name, own in values.items()}


def _checkpoint(tree: Any) -> Checkpoint:
    """The checkpoint in a tree that has been read; raises a ValueError if there is none."""
    parts = {"model", "method", "options", "history", "extra", "run"}
    if not isinstance(tree, Mapping) or not tree or not tree.keys() <= parts:
        raise ValueError("it holds another tree than save() and train() write")
    for name, part in tree.items():
        if not isinstance(part, dict):
            raise ValueError(f"{name} must be a dict, but is {_check.named_type(part)}")
    history = None
    if "history" in tree:
        history = History()
        history.load_state_dict(tree["history"])
    return Checkpoint(tree.get("model"), tree.get("method"), history, tree.get("extra", {}), tree.get("run"))


def _restoring(
    name: str, restoring: Callable[[Any], Callable[[], None]], state: dict[str, Any] | None
) -> Callable[[], None]:
    if state is None:
        raise ValueError(f"it holds no {name}")
    return restoring(state)


__all__ = ["Checkpoint", "Summary", "TensorEntry", "inspect", "load", "save"]
