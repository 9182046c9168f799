"""A process that trains as a user's program would, and ends where it is told to.

``python -m python_tests.kills.child JSON`` is one of a fresh interpreter. Such processes differ in nothing from those
that ``worker`` forks.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import errno
import functools
import json
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, get_worker_info

import altmin_ext
from altmin_ext._plan import Plan
from python_tests.kills import data
from python_tests.kills.recorder import Recorder
from python_tests.methods.test_methods_common import METHODS, Case

#: The modules between whose lines a signal may come.
TRACED = ("_batches", "_interrupt", "_order", "_progress", "_run", "_run_file", "history")

#: How a process says that it has ended, besides 0 and the signals.
INTERRUPTED, TERMINATED, HUNG_UP = (128 + n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
NOT_WRITTEN, FAILED = os.EX_IOERR, os.EX_SOFTWARE

#: What a trigger may do: signals to this process; the same to its workers, too; the end of the worker that is there;
#: faults of the call at which it is.
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
TO_ALL = {"SIGTERM to all": "SIGTERM", "SIGINT to all": "SIGINT"}
WORKER = "SIGKILL of a worker"
FAULTS = {"disk full": errno.ENOSPC, "disk broken": errno.EIO}


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What is trained and how.

    Attributes:
        method: its name.
        form: of the data, one of data.FORMS.
        noisy: whether the network has dropout, batch normalisation, a module with a buffer and one with a generator,
            where the method takes them; the method then reports objectives, too.
        dtype: "float32" or "float64".
        schedule: of learning rates.
        every: checkpoint_every.
        keep: former files.
        monitor: what early stopping looks at.
        patience: of early stopping.
        stored: whether block-admm keeps duals of every sample.
        named: whether train makes the method itself.
    """

    method: str
    form: str = "tensors"
    noisy: bool = False
    dtype: str = "float32"
    schedule: str = "constant"
    every: int | str = 1
    keep: int = 0
    monitor: str = "validation_loss"
    patience: int = 2
    stored: bool = False
    named: bool = False

    def __str__(self) -> str:
        words = [self.method, self.form, self.dtype, self.schedule, f"every {self.every}"]
        words += [word for word in ("noisy", "stored", "named") if getattr(self, word)]
        return ", ".join(words + [f"keep {self.keep}"] * bool(self.keep))


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of the run.

    Attributes:
        triggers: (instant, what happens there): one of SIGNALS, TO_ALL, FAULTS, or WORKER. The instants of whichever
            save comes after another trigger begin with "then save".
        checkpoint: whether there is a checkpoint at all.
        seed: of the global generators and the initial weights.
        limit: of the size of files, in bytes.
        tells: whether it says all instants that it has reached.
        mutant: the name of a fault of the library; none if empty.
    """

    triggers: tuple[tuple[str, str], ...] = ()
    checkpoint: bool = True
    seed: int = 0
    limit: int | None = None
    tells: bool = False
    mutant: str = ""


class Noise(nn.Module):
    """A module of the user's own with a generator of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, a: Tensor) -> Tensor:
        if self.training:
            return a + 0.05 * torch.randn(a.shape, generator=self.generator, dtype=a.dtype)
        return a


class Running(nn.Module):
    """A module of the user's own with a buffer that moves."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(data.FEATURES))

    def forward(self, a: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * a.detach().mean(0)
        return a - self.mean


def network(configuration: Configuration, seed: int) -> nn.Sequential:
    """A small network that the method takes."""
    case = METHODS[configuration.method]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first: list[nn.Module] = []
        drop: list[nn.Module] = []
        if configuration.noisy and case.normalisation and case.modules:
            first = [nn.BatchNorm1d(data.FEATURES), Running(), Noise(seed)]
        if configuration.noisy and case.dropout:
            drop = [nn.Dropout(0.2)]
        middle = [nn.ReLU(), altmin_ext.NonNegativeFactors(5, 5)] if case.factors else [case.activation()]
        model = nn.Sequential(
            *first, nn.Linear(data.FEATURES, 6), nn.ReLU(), *drop, nn.Linear(6, 5), *middle,
            nn.Linear(5, data.CLASSES),
        )  # fmt: skip
    return model.to(getattr(torch, configuration.dtype))


def options(configuration: Configuration) -> dict[str, Any]:
    """The options of the method."""
    case: Case = METHODS[configuration.method]
    chosen: dict[str, Any] = {**case.options, "report_objective": configuration.noisy}
    if configuration.stored:
        chosen |= {"duals": "stored", "dual_decay": 0.5}
    return chosen


class Hooks:
    """Where the process is, and what happens there."""

    def __init__(self, triggers: tuple[tuple[str, str], ...], say: Callable[..., None]) -> None:
        self._waiting = dict(triggers)
        self._say = say
        self._process = os.getpid()
        self._fired = False
        self.instants: dict[str, None] = {}  # those that have been reached, but for saves and lines
        self.lines = 0  # of the traced modules
        self._place = ""  # in their source
        self.method: Any = None
        self.fetched = 0
        self._passes: collections.Counter[int] = (
            collections.Counter()
        )  # that a DataLoader has begun, by steps

    @property
    def steps(self) -> int:
        """Minibatches trained on, by all processes of the run."""
        return 0 if self.method is None else self.method.steps

    def reached(self, instant: str) -> int | None:
        """The process is at an instant; returns the number of the error that is to happen."""
        if not instant.startswith(("save", "line")):
            self.instants[instant] = None
        elif self._fired and instant not in self._waiting:
            instant = " ".join(["then save", *instant.split()[2:]])
        what = self._waiting.get(instant)
        if what is None or (os.getpid() == self._process) == (what == WORKER):
            return None
        del self._waiting[instant]
        self._fired = True
        self._say(kill=instant, what=what, steps=self.steps, place=self._place)
        if what in FAULTS:
            return FAULTS[what]
        if what in TO_ALL:
            os.killpg(0, getattr(signal, TO_ALL[what]))
        else:
            os.kill(os.getpid(), signal.SIGKILL if what == WORKER else getattr(signal, what))
        return None

    def around(self, owner: Any, name: str, instant: Callable[..., str]) -> None:
        """Make the beginning and the end of a function instants."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def called(*arguments: Any, **keywords: Any) -> Any:
            where = instant(*arguments)
            self.reached(f"{where} before")
            found = function(*arguments, **keywords)
            self.reached(f"{where} after")
            return found

        setattr(owner, name, called)

    def install(self, method: type[altmin_ext.Method]) -> None:
        """Make instants of the parts of steps and epochs of a method."""
        for phase in ("_prepare", "_compute", "_commit", "_finish"):
            self.around(method, phase, lambda own, *_, phase=phase: f"{phase[1:]} {own.steps}")
        self.around(Plan, "run", lambda *_: f"compute {self.steps}")
        self.around(DataLoader, "__iter__", lambda *_: self._pass())
        self.around(method, "end_epoch", lambda own: f"end_epoch {own.steps}")
        self.around(method, "restoring", lambda *_: "restore")
        begin = method.begin_epoch

        def begin_epoch(own: Any, batches: Any) -> None:
            def counted() -> Any:
                for number, batch in enumerate(batches, 1):
                    yield batch
                    self.reached(f"begin_epoch {own.steps} {number}")

            self.reached(f"begin_epoch {own.steps} 0")
            begin(own, counted())

        method.begin_epoch = begin_epoch  # type: ignore[method-assign]

    def trace(self) -> None:
        """Make an instant of every line of the traced modules, by its number in this process."""
        root = Path(altmin_ext.__file__).parent
        files = {str(root / f"{name}.py") for name in TRACED}

        def line(frame: Any, event: str, argument: Any) -> Any:
            if event == "line":
                self.lines += 1
                self._place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                self.reached(f"line {self.lines}")
            return line

        sys.settrace(lambda frame, *_: line if frame.f_code.co_filename in files else None)

    def _pass(self) -> str:
        self._passes[self.steps] += 1
        return f"pass {self.steps} {self._passes[self.steps]}"

    def fetch(self) -> None:
        """A sample or minibatch is fetched, perhaps by a worker, which has been started when ``steps`` were made."""
        worker = get_worker_info()
        if worker is None:
            self.reached(f"fetch {self.steps}")
        else:
            self.fetched += 1
            self.reached(f"worker {self.steps} {worker.id} {self.fetched}")


class Place:
    """A callback that makes instants of its calls."""

    def __init__(self, name: str, hooks: Hooks, stepped: Callable[[], None]) -> None:
        self._name, self._hooks, self._stepped = name, hooks, stepped

    def on_start(self, state: Any) -> None:
        self._hooks.method = state.method
        self._hooks.reached(f"start {self._name}")

    def on_step(self, state: Any) -> None:
        self._stepped()
        self._hooks.reached(f"step {state.method.steps} {self._name}")

    def on_epoch(self, state: Any) -> None:
        self._hooks.reached(f"epoch {state.epoch} {self._name}")

    def on_end(self, state: Any) -> None:
        self._hooks.reached(f"end {self._name}")


class Losses:
    """A callback with a state: all that it has been told."""

    def __init__(self, hooks: Hooks) -> None:
        self.told: list[Any] = []
        self._hooks = hooks

    def on_step(self, state: Any) -> None:
        self.told.append(("step", state.step, state.epoch, float(state.report.loss)))
        self._hooks.reached(f"step {state.method.steps} told")

    def on_epoch(self, state: Any) -> None:
        row = state.history.epochs[-1]
        self.told.append(("epoch", state.epoch, row["loss"], row["validation_loss"]))
        self._hooks.reached(f"epoch {state.epoch} told")

    def state_dict(self) -> dict[str, Any]:
        return {"told": list(self.told)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.told = list(state["told"])
        self._hooks.reached("restore callbacks")


class Last:
    """A callback that keeps the weights as they were before the other callbacks' ``on_end``."""

    def on_end(self, state: Any) -> None:
        self.model = copy.deepcopy(state.model.state_dict())


def generators() -> dict[str, Any]:
    """The states of the global generators."""
    return {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}  # noqa: NPY002


def trained(
    configuration: Configuration, start: Start, path: Path, say: Callable[..., None]
) -> dict[str, Any]:
    """Train; returns what the run has led to."""
    hooks = Hooks(start.triggers, say)
    recorder = Recorder(path, hooks.reached, say)
    recorder.install()
    hooks.install(altmin_ext.methods.method_class(configuration.method))
    if start.mutant:
        from python_tests.kills.mutants import MUTANTS  # which are made of configurations

        MUTANTS[start.mutant].seed()

    torch.manual_seed(start.seed)
    np.random.seed(start.seed)  # noqa: NPY002
    random.seed(start.seed)
    dtype = getattr(torch, configuration.dtype)
    model = network(configuration, start.seed)
    source = data.made(configuration.form, dtype, start.seed)
    data.watchers.append(hooks.fetch)
    x, y = data.samples(dtype, 1, 6)

    def validates() -> None:
        nonlocal validated
        validated += 1
        hooks.reached(f"validation {hooks.steps} {validated % len(x)}")

    validated = 0
    losses, others, last = Losses(hooks), Losses(hooks), Last()
    stopping = altmin_ext.callbacks.EarlyStopping(configuration.monitor, configuration.patience, 0.02)
    first, middle, behind = (Place(name, hooks, recorder.completed) for name in ("first", "middle", "last"))
    whole = altmin_ext.methods.method_class(configuration.method).full_batch
    arguments: dict[str, Any] = {"epochs": 6 if whole else 3}
    if configuration.form == "endless stream":
        arguments = {"epochs": 1, "steps": 20}
    if start.checkpoint:
        arguments |= {"checkpoint": path, "checkpoint_every": configuration.every, "resume": True}
        arguments |= {"keep": configuration.keep} if configuration.keep else {}
    if configuration.named:
        arguments |= {"method": configuration.method, **options(configuration)}
    else:
        arguments["method"] = altmin_ext.make_method(configuration.method, model, **options(configuration))
    if start.tells or any(instant.startswith("line") for instant, _ in start.triggers):
        hooks.trace()
    try:
        history = altmin_ext.train(
            model, source, **arguments, batch_size=data.BATCH, validation=data.Validation(x, y, validates),
            callbacks=[last, first, losses, middle, others, stopping, behind],
            lr_schedule=configuration.schedule, progress=False,
        )  # fmt: skip
    except BaseException:
        say(steps=hooks.steps)
        raise
    sys.settrace(None)
    recorder.completed()
    say(steps=hooks.steps)
    if start.tells:
        say(saves=recorder.saves, instants=list(hooks.instants), lines=hooks.lines)
    after = generators()
    public = {key: value for key, value in vars(history).items() if not key.startswith("_")}
    times = ("seconds", "samples_per_second")
    public["epochs"] = [{k: v for k, v in row.items() if k not in times} for row in history.epochs]
    return {
        "model": model.state_dict(),
        "model before on_end": last.model,
        "method": hooks.method.state_dict(),
        "history": public,
        "losses": losses.told,
        "other losses": others.told,
        "early stopping": (stopping.best, stopping.best_epoch),
        "data": data.state_of(source),
        "generators": after,
    }


def main(configuration: Configuration, start: Start, path: Path, outcome: Path, log: int) -> NoReturn:
    """Train, write what it has led to, and end the process.

    Args:
        configuration, start: what to train, and how it is to end.
        path: of the checkpoint.
        outcome: a file for what it has led to.
        log: a descriptor for JSON lines about what happens.
    """

    def say(**what: Any) -> None:
        os.write(log, json.dumps(what).encode() + b"\n")

    code = FAILED
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if start.limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (start.limit, resource.RLIM_INFINITY))
        found = trained(configuration, start, path, say)
        if start.limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        torch.save(found, outcome)
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else FAILED
    except OSError:
        code = NOT_WRITTEN
        say(error=traceback.format_exc())
    except BaseException:
        say(error=traceback.format_exc())
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    configuration, start, path, outcome, log = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    start["triggers"] = tuple(map(tuple, start["triggers"]))
    main(Configuration(**configuration), Start(**start), Path(path), Path(outcome), log)
