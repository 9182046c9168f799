"""The checkpoint of a training run: when it is written, what it holds, and how another process goes on from it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from altmin_ext import _check, _state
from altmin_ext._batches import Batches, MemoryBatches, StreamBatches
from altmin_ext._generators import ProcessGenerators, held_generators, load_generator, save_generator
from altmin_ext._interrupt import HeldInterrupt
from altmin_ext._progress import is_stateful
from altmin_ext.checkpoint import _file, _model
from altmin_ext.methods import Method

if TYPE_CHECKING:
    from altmin_ext._run import Run


def read_interval(value: Any) -> tuple[int | None, float]:
    """Read ``checkpoint_every``: after how many minibatches, or else after how many seconds, a file is written."""
    if isinstance(value, str):
        try:
            seconds = float(value.removesuffix("s")) if value.endswith("s") else 0.0
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise ValueError(
                'checkpoint_every must be a number of minibatches, or seconds as in "30s", but is '
                f"{_check.shown(value)}."
            )
        return None, seconds
    return _check.integer("checkpoint_every", value), 0.0


class RunFile:
    """The file of a run.

    Of several ranks that share minibatches, all read it, and rank 0, which stands for all, writes it: models, methods
    and data are the same. Another number of ranks may go on with it.

    Args:
        path: of the file.
        every: see :func:`read_interval`.
        keep: how many former files stay beside it.
        resume: whether to go on from the file if it is there.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no run; or there is one and ``resume`` is False.
    """

    def __init__(self, path: str | os.PathLike[str], every: Any, keep: int, resume: bool) -> None:
        try:
            # Where it is now, wherever the process goes to.
            self._path = Path(os.fspath(path)).absolute()
        except TypeError:
            raise TypeError(
                f"checkpoint must be the path of a file, but is {_check.named_type(path)}."
            ) from None
        self._steps, self._seconds = read_interval(every)
        self._keep = _check.integer("keep", keep, 0)
        self._tree: dict[str, Any] | None = None
        if self._path.exists():
            self._tree = _read_run(self._path)
            if not resume:
                run = self._tree["run"]
                raise ValueError(
                    f"checkpoint must name a new file where resume is False, but {str(self._path)!r} holds a run at "
                    f"step {run['step']} in epoch {run['epoch']}: pass resume=True to go on with it, or remove the "
                    "file."
                )
        self._written = time.monotonic()
        self._last = False  # whether what it holds now is to stay
        self._failed = False
        self._noted: dict[str, Any] = {}

    def bind(self, run: Run, description: dict[str, Any]) -> None:
        """Bind the run whose checkpoints are written, and have it go on from the file if that is there.

        Args:
            run: that has not begun.
            description: what the run of the file must have been, too, see :func:`describe`.

        Raises:
            ValueError: it was another run, or its data cannot be entered again; nothing has changed.
        """
        run.batches.check_kept()
        self._writes = run.state.method.ranks is None or run.state.method.ranks.rank == 0
        self._description = description
        self._method = run.state.method
        self._generators = ProcessGenerators(self._method.device)
        self._draws_elsewhere = isinstance(run.batches, StreamBatches)
        self._modules = held_generators(self._method.model)
        self._callbacks = [callback for callback in run.hooks.callbacks if is_stateful(callback)]
        if self._tree is not None:
            self._load(run, self._tree)
        run.batches.keep(self._modules)

    def _load(self, run: Run, tree: dict[str, Any]) -> None:
        saved = tree["run"]
        difference = _difference(saved["description"], self._description)
        names = [type(callback).__name__ for callback in self._callbacks]
        kept = [name for name, _ in saved["callbacks"]]
        if difference is None and names != kept:
            theirs, ours = (", ".join(listed) or "none" for listed in (kept, names))
            difference = f"callbacks that keep something, {theirs}, and not {ours}"
        for name, limit, made in (
            ("epochs", run.state.epochs, saved["epoch"]),
            ("steps", run.steps, saved["step"]),
        ):
            if difference is None and limit is not None and limit < made:
                raise ValueError(
                    f"{name} must be at least {made}, which the run in {str(self._path)!r} has begun, but is {limit}."
                )
        if difference is not None:
            raise ValueError(
                f"checkpoint must be of this very run, but {str(self._path)!r} is of one with {difference}: pass the "
                "arguments of that run, or another path."
            )
        model = _model.restoring(self._method.model, tree["model"], adopts_buffers=True)
        method = self._method.restoring(tree["method"])
        with HeldInterrupt(held=True):
            run.batches.load(saved["batches"])  # first, as a stream may refuse its state
            run.state.history.load_state_dict(tree["history"])
            model()
            method()
        for generator, state in zip(self._modules, saved["module generators"], strict=True):
            load_generator(generator, state)
        run.load(saved)

    def start(self, run: Run) -> None:
        """Begin; after the callbacks have been told that the run begins."""
        if self._tree is not None:
            for callback, (_, state) in zip(self._callbacks, self._tree["run"]["callbacks"], strict=True):
                callback.load_state_dict(copy.deepcopy(state))
            self._generators.load(self._tree["run"]["generators"])
            self._tree = None
            self.note()
            if (
                self._keep and self._writes
            ):  # a process that was killed in its last save has left one too many
                _file.remove_formers(self._path, self._keep)
        else:
            # So that what cannot be written is told now.
            self.write(run)

    def note(self) -> None:
        """Note where generators of the process stand, after a minibatch that has been trained on."""
        if self._draws_elsewhere:
            self._noted = self._generators.save()
        else:  # than in modules, most of which draw from torch's; the others take longer than a small step
            self._noted |= self._generators.save_torch()

    def is_due(self, step: int) -> bool:
        """Whether it is time to write the file."""
        if self._steps is not None:
            return step % self._steps == 0
        return time.monotonic() - self._written >= self._seconds

    def write(self, run: Run, last: bool = False) -> None:
        """Write the file, between two minibatches.

        Args:
            run: that is to be kept.
            last: whether the file is to stay as it is from then on.

        Raises:
            OSError: the file cannot be written; the one before is untouched.
        """
        if self._last or not self._writes:
            return
        self._noted = self._generators.save()
        self._method.raise_if_diverged()
        self._write(run)
        self._last = last

    def rescue(self, run: Run, error: BaseException) -> None:
        """Write the file because an exception ends the run, as of the last completed minibatch.

        A run that has not come to one since, or whose file could not be written before, leaves the file as it is.
        """
        if self._last or self._failed or not self._writes or not run.is_between_minibatches:
            return
        self._noted = self._generators.save() | self._noted
        try:
            self._write(run)
        except Exception as failure:  # the error that ends the run is what must reach the user
            warnings.warn(
                f"the checkpoint of the end by {type(error).__name__} is missing: {failure}", stacklevel=2
            )

    def _write(self, run: Run) -> None:
        with _state.shared():
            method = self._method.state_dict()
        stands = run.save()  # which completes the history
        tree = {
            "model": _model.save(self._method.model),
            "method": method,
            "history": run.state.history.state_dict(),
            "run": {
                "description": self._description,
                **stands,
                "callbacks": [
                    (type(callback).__name__, callback.state_dict()) for callback in self._callbacks
                ],
                "generators": self._noted,
                "module generators": [save_generator(generator) for generator in self._modules],
            },
        }
        self._failed = True
        _file.write(self._path, tree, keep=self._keep)
        self._failed = False
        self._written = time.monotonic()


def _read_run(path: Path) -> dict[str, Any]:
    """Read the tree of a run."""
    try:
        tree = _file.read(path)
    except ValueError as error:
        raise ValueError(
            f"{str(error).rstrip('.')}; remove it to begin anew, or put a former file in its place."
        ) from error
    if not isinstance(tree, dict) or "run" not in tree:
        raise ValueError(
            f"checkpoint must be a file that altmin_ext.train has written, but {str(path)!r} holds no run; "
            "altmin_ext.checkpoint.load reads it."
        )
    return tree


def describe(
    method: Method, batches: Batches, validation: Batches | None, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe a run by all that another process must have, too, to go on with it.

    Args:
        method: that trains.
        batches: to train on.
        validation: to validate with.
        arguments: of :func:`altmin_ext.train`.

    Returns:
        The names by which a difference is told, and values for a file.
    """
    model = method.model
    return {
        "method": method.name,
        "loss": method.loss.name,
        "criterion": _describe_criterion(method.loss.given),
        "options": {
            field.name: _plain(getattr(method.options, field.name))
            for field in dataclasses.fields(method.options)
        },
        "on_nonfinite": method.on_nonfinite,
        "the method's seed": method.seed,
        "modules": [f"{path}: {describe_module(module)}" for path, module in model.named_modules()],
        "parameters": [
            f"{name} {tuple(own.shape)} {own.dtype}{'' if own.requires_grad else ', frozen'}"
            for name, own in model.named_parameters()
        ],
        "generators of modules": [type(own).__name__ for own in held_generators(model)],
        "data": _describe_data(batches),
        "validation": None if validation is None else _describe_data(validation),
        **arguments,
    }


def _plain(value: Any) -> Any:
    """What a file can hold of the value of an option."""
    if isinstance(value, (Tensor, bool, int, float, str)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _describe_data(batches: Batches) -> dict[str, Any]:
    if isinstance(batches, MemoryBatches):
        return {name: _describe_tensor(tensor) for name, tensor in (("x", batches.x), ("y", batches.y))}
    assert isinstance(batches, StreamBatches)
    source = batches.source
    found: dict[str, Any] = {
        "type": type(source).__name__,
        "minibatches": batches.steps,
        "the last of them": batches.last,
    }
    if isinstance(source, (list, tuple)):
        found["content"] = _describe_list(source)
    if hasattr(source, "dataset"):
        found["samples"] = type(source.dataset).__name__
        with contextlib.suppress(TypeError):  # it has no length
            found["number of samples"] = len(source.dataset)
    found["generators"] = [type(own).__name__ for own in held_generators(source)]
    if hasattr(source, "num_workers"):
        found["num_workers"] = source.num_workers
    if hasattr(source, "batch_size"):
        found["batch_size"] = source.batch_size
    return found


def _describe_list(source: Sequence[Any]) -> str:
    """The arrays in a list of minibatches, by their sha256; what else is there is refused when it comes."""
    digest = hashlib.sha256()
    for batch in source:
        for item in batch if isinstance(batch, (list, tuple)) else []:
            if isinstance(item, (Tensor, np.ndarray)):
                tensor = item if isinstance(item, Tensor) else torch.from_numpy(np.array(item))
                digest.update(_describe_tensor(tensor).encode())
    return f"of sha256 {digest.hexdigest()}"


def _describe_tensor(tensor: Tensor) -> str:
    content = hashlib.sha256(_file.memory(tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()))
    return f"{tuple(tensor.shape)} {tensor.dtype} of sha256 {content.hexdigest()}"


def describe_module(module: nn.Module) -> str:
    """Its type; of torch's own and ours the options as well, which others may change as they train."""
    kind = type(module)
    known = kind.__module__.startswith(("torch.nn.", "altmin_ext."))
    return f"{kind.__name__}({module.extra_repr()})" if known else kind.__name__


def _describe_criterion(given: Any) -> dict[str, Any]:
    """The options of a criterion of torch."""
    if not isinstance(given, nn.Module) or not type(given).__module__.startswith("torch.nn."):
        return {}
    options = {name: own for name, own in vars(given).items() if not name.startswith("_")}
    del options["training"]
    return {
        **{name: _plain(own) for name, own in options.items()},
        **{name: _describe_tensor(own) for name, own in given.named_buffers()},
    }


def _difference(theirs: Any, ours: Any, name: str = "") -> str | None:
    """The first difference between two descriptions, as a part of a sentence; None if there is none."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in dict.fromkeys((*ours, *theirs)):
            inner = f"{name}'s {key}" if name else key
            if key not in theirs or key not in ours:
                return f"{'another' if key in ours else 'a further'} {inner}"
            found = _difference(theirs[key], ours[key], inner)
            if found is not None:
                return found
        return None
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, pair in enumerate(zip(theirs, ours, strict=True)):
            found = _difference(*pair, name=f"{name}[{index}]")
            if found is not None:
                return found
        return None
    if isinstance(theirs, Tensor) and isinstance(ours, Tensor):
        same = theirs.shape == ours.shape and bool((theirs == ours.cpu()).all())
        return None if same else f"another tensor as {name}"
    same = type(theirs) is type(ours) and (theirs == ours or (theirs != theirs and ours != ours))
    return None if same else f"{name} {_shown(theirs)} and not {_shown(ours)}"


def _shown(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list) else _check.shown(value)
