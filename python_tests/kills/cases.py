"""What is run: configurations, and for each the cases drawn for it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import altmin_ext
from python_tests.kills import data
from python_tests.kills.child import FAULTS, SIGNALS, TO_ALL, WORKER, Configuration
from python_tests.methods.test_methods_common import METHODS

if TYPE_CHECKING:
    from python_tests.kills.worker import Reference


@dataclasses.dataclass(frozen=True)
class End:
    """How a process is ended; by nothing, if all is empty.

    Attributes:
        triggers: (instant, what happens there).
        limit: of the size of files, in bytes.
        timer: seconds until it gets a signal, and the number of that.
    """

    triggers: tuple[tuple[str, str], ...] = ()
    limit: int | None = None
    timer: tuple[float, int] | None = None

    def __str__(self) -> str:
        words = [f"{what} at {instant!r}" for instant, what in self.triggers]
        if self.limit is not None:
            words.append(f"files of {self.limit} bytes at most")
        if self.timer is not None:
            words.append(f"{signal.Signals(self.timer[1]).name} after {self.timer[0]:.4f} s")
        return " and ".join(words)


@dataclasses.dataclass(frozen=True)
class Case:
    """A run that is ended and started again.

    Attributes:
        configuration: what is trained.
        ends: of all processes but the last.
        again: whether the run is started once more when it is over.
        fresh: whether every process is a fresh interpreter.
        gap: whether it is one of a series that visits every gap of a save.
    """

    configuration: Configuration
    ends: tuple[End, ...]
    again: bool = False
    fresh: bool = False
    gap: bool = False

    def __str__(self) -> str:
        return ", then ".join(map(str, self.ends)) + ", and once more when it is over" * self.again


@dataclasses.dataclass(frozen=True)
class Task:
    """The cases of a configuration.

    Attributes:
        configuration: what is trained.
        gaps: what is to happen in every gap between two system calls of some saves, one case each.
        saves: the numbers of these saves.
        cases: the ends of processes, each at an instant by a signal, for each of some cases.
        drawn: the number of other cases.
        seed: of what is drawn.
        fresh: whether every process is a fresh interpreter.
        mutant: the name of a fault of the library; none if empty.
    """

    configuration: Configuration
    gaps: tuple[str, ...] = ()
    saves: tuple[int, ...] = (1, 2)
    cases: tuple[tuple[tuple[str, str], ...], ...] = ()
    drawn: int = 0
    seed: int = 0
    fresh: bool = False
    mutant: str = ""

    def to_json(self) -> str:
        """For :meth:`from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The task that has been written so."""
        fields: dict[str, Any] = json.loads(text)
        fields["configuration"] = Configuration(**fields["configuration"])
        fields |= {"gaps": tuple(fields["gaps"]), "saves": tuple(fields["saves"])}
        fields["cases"] = tuple(tuple(map(tuple, ends)) for ends in fields["cases"])
        return cls(**fields)


# ---------------------------------------------------------------------------------------------- configurations


def forms_of(method: str) -> tuple[str, ...]:
    """The forms of data that a method takes."""
    whole = altmin_ext.methods.method_class(method).full_batch
    return ("tensors",) if whole else data.FORMS


def configurations(seed: int) -> Iterator[Configuration]:
    """Every method with every form of data that it takes; everything else is drawn, some of it twice."""
    chosen = random.Random(seed)
    for method in METHODS:
        forms = forms_of(method)
        for form in forms * (4 if len(forms) == 1 else 1):
            yield drawn_configuration(chosen, method, form)
    for _ in range(3):
        yield drawn_configuration(chosen, "block-admm", "tensors", stored=True)


def drawn_configuration(chosen: random.Random, method: str, form: str, **fixed: Any) -> Configuration:
    """A configuration with everything else drawn."""
    drawn: dict[str, Any] = {
        "noisy": chosen.random() < 0.7,
        "dtype": chosen.choice(["float32", "float64"]),
        "schedule": chosen.choice(["constant", "cosine"]),
        "every": chosen.choice([1, 1, 2, 3, 1000, "0.01s"]),
        "keep": chosen.choice([0, 0, 0, 2]),
        "monitor": chosen.choice(["validation_loss", "validation_loss", "loss"]),
        "patience": chosen.choice([1, 2]),
        "named": chosen.random() < 0.5,
    }
    return Configuration(method, form, **{**drawn, **fixed})


# ------------------------------------------------------------------------------------------------------- cases

# How often an instant is drawn that begins with this word.
WEIGHTS = {
    "save": 8.0,
    "compute": 2.0,
    "prepare": 0.5,
    "commit": 0.7,
    "finish": 0.7,
    "step": 2.0,
    "fetch": 1.5,
    "epoch": 1.5,
    "end_epoch": 1.0,
    "begin_epoch": 1.5,
    "validation": 2.0,
    "start": 0.3,
    "end": 0.7,
    "restore": 0.7,
    "worker": 1.0,
    "pass": 1.0,
    "line": 2.0,
    "any moment": 2.0,
}


def draw(task: Task, reference: Reference, chosen: random.Random) -> Iterator[Case]:
    """The cases of a task.

    Args:
        task: what is wanted.
        reference: the undisturbed run, whose instants are drawn from.
        chosen: draws.
    """
    configuration = task.configuration
    for ends in task.cases:
        yield Case(configuration, tuple(End((trigger,)) for trigger in ends), fresh=task.fresh)
    for what in task.gaps:
        for save in task.saves:
            for instant in gaps(reference.saves, save, fails=what in FAULTS):
                yield Case(configuration, (End(((instant, what),)),), fresh=task.fresh, gap=True)
    drawn = _Draw(task, reference, chosen)
    for _ in range(task.drawn):
        resumes = chosen.choice([1, 1, 2, 2, 5])
        yield Case(configuration, drawn.ends(resumes), again=chosen.random() < 0.15, fresh=task.fresh)


def gaps(saves: list[list[str]], save: int, *, fails: bool = False) -> Iterator[str]:
    """The instants between any two system calls of a save; or those at which one may fail."""
    calls = saves[save]
    for number, name in enumerate(calls, 1):
        yield f"save {save} {number} before"
        if name == "write":
            yield f"save {save} {number} within"
    if not fails:
        yield f"save {save} {len(calls)} after"


class _Draw:
    """Draws ends from the instants of the undisturbed run."""

    def __init__(self, task: Task, reference: Reference, chosen: random.Random) -> None:
        self._task, self._reference, self._chosen = task, reference, chosen
        self._order = {instant: number for number, instant in enumerate(reference.instants)}
        # Where epochs end.
        marks = [number for instant, number in self._order.items() if _is_epoch_end(instant)]
        self._epochs = list(zip([-1, *marks], [*marks, len(self._order)], strict=True))[: max(len(marks), 1)]
        self._several = len(marks) > 1 and len(marks) < reference.steps

    def ends(self, number: int) -> tuple[End, ...]:
        """The ends of so many processes, most of the time within one epoch."""
        window = (-1, len(self._order))
        if self._several and self._chosen.random() < 0.8:
            window = self._chosen.choice(self._epochs)
        within = [instant for instant, place in self._order.items() if window[0] < place <= window[1]]
        drawn = [self._end(within, first=i == 0) for i in range(number)]
        # In the order of time, so that each is reached; those of saves come wherever a process stands.
        timed = iter(sorted((end for end in drawn if self._place(end) is not None), key=self._place))
        return tuple(end if self._place(end) is None else next(timed) for end in drawn)

    def _place(self, end: End) -> int | None:
        return self._order.get(end.triggers[0][0]) if end.triggers else None

    def _end(self, within: list[str], first: bool) -> End:
        chosen, workers = self._chosen, "2 workers" in self._task.configuration.form
        kinds = {instant.split()[0] for instant in within} | {"save", "any moment", "line"}
        kinds |= {"worker"} if workers and first else set()
        kinds |= set() if first else {"restore"}
        kind = chosen.choices(*zip(*[(k, WEIGHTS[k]) for k in sorted(kinds)], strict=True))[0]
        what = chosen.choices(SIGNALS, [10, 5, 4, 1])[0]
        if kind == "any moment":
            seconds = chosen.uniform(0, self._reference.seconds)
            return End(timer=(seconds, getattr(signal, what)))
        if kind == "line":
            return End(((f"line {chosen.randint(1, self._reference.lines)}", what),))
        if kind == "restore":
            return End(((f"restore {chosen.choice(['before', 'after', 'callbacks'])}", what),))
        if kind == "worker":
            begun, worker = chosen.randrange(3) * data.MINIBATCHES, chosen.randrange(2)
            return End(((f"worker {begun} {worker} {chosen.randint(1, 2 * data.BATCH)}", WORKER),))
        if kind == "save":
            return self._end_in_save(what, first)
        instant = chosen.choice([instant for instant in within if instant.split()[0] == kind])
        if workers and chosen.random() < 0.3:
            return End(((instant, chosen.choice(list(TO_ALL))),))
        if what != "SIGKILL" and chosen.random() < 0.3:
            # A scheduler may not wait for what is written at its signal, or send that more than once.
            second = chosen.choice(["SIGKILL", "SIGKILL", "SIGTERM"])
            return End(((instant, what), (f"then save {chosen.randint(1, 12)} before", second)))
        return End(((instant, what),))

    def _end_in_save(self, what: str, first: bool) -> End:
        chosen, saves, sizes = self._chosen, self._reference.saves, self._reference.sizes
        if chosen.random() < 0.08:
            return End(limit=chosen.randrange(max(sizes)))
        if fails := chosen.random() < 0.2:
            what = chosen.choice(list(FAULTS))
        save = min(chosen.choice([1, 2, 2, 2, 3]), len(saves) - 1)
        # The first save of a process that resumes finds a file, as the second of the first does.
        as_in = save if first else max(save, min(2, len(saves) - 1))
        words = chosen.choice(list(gaps(saves, as_in, fails=fails))).split()
        return End(((" ".join(["save", str(save), *words[2:]]), what),))


def _is_epoch_end(instant: str) -> bool:
    return instant.startswith("epoch ") and instant.endswith("last")


# ---------------------------------------------------------------------------------------------------- the matrix

#: Five ends within the second epoch.
WITHIN_AN_EPOCH = tuple((f"step {step} last", "SIGKILL") for step in (7, 8, 9, 10, 11))


def whole(seed: int) -> list[Task]:
    """The tasks of the whole matrix."""
    tasks = [Task(configuration, drawn=4, seed=seed) for configuration in configurations(seed)]
    chosen = random.Random(f"{seed} gaps")
    for method in ("am-adam", "adam", "am-mem", "dtp", "block-admm", "mdlam"):
        configuration = drawn_configuration(
            chosen, method, chosen.choice(forms_of(method)[:1] + forms_of(method)[6:8]), every=1
        )
        tasks.append(Task(configuration, gaps=("SIGKILL", chosen.choice(["SIGTERM", "SIGINT"])), seed=seed))
    for method in ("am-sgd", "sgd"):
        configuration = drawn_configuration(chosen, method, "tensors", every=1)
        tasks.append(Task(configuration, gaps=("SIGKILL", *FAULTS), seed=seed))
    # The last save of a run, after which no other one clears anything.
    tasks.append(Task(Configuration("am-sgd", every=1000, keep=2), gaps=("SIGKILL",), saves=(4,), seed=seed))
    for method in ("am-adam", "adam", "am-mem"):
        configuration = drawn_configuration(chosen, method, "loader with 0 workers", noisy=True)
        tasks.append(Task(configuration, drawn=1, seed=seed, fresh=True))
    return tasks


def short(seed: int) -> list[Task]:
    """A small part of it: every method, every form, every gap of a save, and fresh interpreters."""
    chosen = random.Random(seed)
    forms = itertools.cycle(data.FORMS)
    tasks = []
    for method in METHODS:
        form = next(forms) if len(forms_of(method)) > 1 else "tensors"
        configuration = drawn_configuration(chosen, method, form)
        drawn = 1 if "2 workers" in form else 2
        tasks.append(Task(configuration, cases=((("step 2 last", "SIGKILL"),),), drawn=drawn, seed=seed))
    stored = Configuration("block-admm", stored=True, dtype="float64")
    tasks.append(Task(stored, cases=(WITHIN_AN_EPOCH,), seed=seed))
    keeping = Configuration("am-adam", schedule="cosine", keep=2)
    others = (
        (("step 3 last", "SIGTERM"), ("step 9 last", "SIGINT")),
        (("save 2 7 before", "disk full"),),
    )
    tasks.append(Task(keeping, gaps=("SIGKILL",), saves=(2,), cases=others, seed=seed))
    # Twice before the next pass begins; and in the last save of all, behind which no other one clears anything.
    validation = (("validation 6 4", "SIGINT"), ("validation 6 4", "SIGTERM"))
    tasks.append(Task(Configuration("am-sgd", "dataset"), cases=(validation,), seed=seed))
    last_save = (("save 4 14 before", "SIGKILL"),)
    tasks.append(Task(Configuration("am-sgd", every=1000, keep=2), cases=(last_save,), seed=seed))
    drawing = Configuration("am-adam", "loader with 0 workers", noisy=True, every=2)
    tasks.append(Task(drawing, cases=((("step 9 middle", "SIGKILL"),),), fresh=True))
    return tasks
