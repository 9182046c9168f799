"""A search for the options of several contenders, by Optuna, with the same budget for each.

::

    from altmin_ext.tuning import Range, best, search

    def objective(method, options, epochs):
        history = altmin_ext.train(network(), data, method=method, epochs=epochs, validation=held_out, **options)
        return history.epochs[-1]["validation_accuracy"]

    rate = {"lr": Range(1e-4, 1e-1, log=True)}
    found = search(objective, {"am-adam": rate, "adam": rate}, trials=20, budget=5)
    print(best(found["am-adam"]))

``altmin tune`` is this search with an objective of its own. It needs ``altmin_ext[tune]``.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from altmin_ext import _check
from altmin_ext._extras import require
from altmin_ext._order import derived_seed
from altmin_ext.errors import DivergenceError


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Attributes:
        low, high: the ends.
        log: whether the logarithm is uniform, rather than the number.
        whole: whether only integers are drawn.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        low, high = _check.number("low", self.low), _check.number("high", self.high)
        if not low < high or (self.log and low <= 0):
            kind = "positive numbers that rise" if self.log else "numbers that rise"
            raise ValueError(f"low and high must be {kind}, but are {low:g} and {high:g}.")

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that may be drawn."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def _distribution(self, optuna: Any) -> Any:
        kinds = optuna.distributions
        return (kinds.IntDistribution if self.whole else kinds.FloatDistribution)(*self.ends, log=self.log)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few values.

    Attributes:
        ends: the values: None, bools, numbers or strings.
    """

    ends: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.ends, tuple) or not self.ends:
            raise ValueError(f"ends must be a tuple of values, but is {_check.shown(self.ends)}.")

    def _distribution(self, optuna: Any) -> Any:
        return optuna.distributions.CategoricalDistribution(self.ends)


Space: TypeAlias = Mapping[str, Range | Choice]
"""What is searched, by the name of the option."""


@dataclasses.dataclass
class Trial:
    """One training of a contender.

    Attributes:
        values: what was drawn, by name.
        value: what it came to.
        ended: "completed", "pruned" or "diverged".
        seconds: of it all.
    """

    values: dict[str, Any]
    value: float
    ended: str
    seconds: float


class Trials:
    """Trials of several contenders, one of each in turn, so that each has had as many whenever the search ends.

    Args:
        studies: Optuna's, by contender.
        spaces: likewise.
        seed: what a trial draws follows from it, the trial's number, and the contender's trials before. Contenders
            that search the same option draw the same first values.
    """

    def __init__(self, studies: Mapping[str, Any], spaces: Mapping[str, Space], seed: int) -> None:
        self._optuna = require("optuna", "tune")
        self._studies, self._spaces, self._seed = studies, spaces, seed

    def finished(self, label: str) -> list[Trial]:
        """The trials of a contender that came to something, in their order."""
        states = self._optuna.trial.TrialState
        return [
            Trial(trial.params, trial.value, trial.user_attrs["ended"], trial.user_attrs["seconds"])
            for trial in self._studies[label].trials
            if trial.state in (states.COMPLETE, states.PRUNED)
        ]

    def make(
        self,
        number: int,
        objective: Callable[[str, dict[str, Any], Any], tuple[float, str]],
        told: Callable[[str, Trial], None],
    ) -> None:
        """Make the trials that are left, up to ``number`` of each contender.

        Args:
            number: of trials.
            objective: of a contender, the values and the trial of Optuna: what it came to, and how it ended.
            told: called with the contender and each trial.
        """
        made = {label: len(self.finished(label)) for label in self._studies}
        for done in range(min(made.values()), number):
            for label, study in self._studies.items():
                if made[label] > done:
                    continue
                seed = derived_seed(self._seed, done) % 2**32
                study.sampler = self._optuna.samplers.TPESampler(seed=seed)
                trial = study.ask(distributions(self._spaces[label]))
                started = time.perf_counter()
                value, ended = objective(label, dict(trial.params), trial)
                seconds = time.perf_counter() - started
                trial.set_user_attr("seconds", seconds)
                trial.set_user_attr("ended", ended)
                if ended == "pruned":
                    study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
                else:
                    study.tell(trial, value)
                told(label, Trial(dict(trial.params), value, ended, seconds))


def distributions(space: Space) -> dict[str, Any]:
    """A space as Optuna has it."""
    optuna = require("optuna", "tune")
    return {name: values._distribution(optuna) for name, values in space.items()}


def search(
    objective: Callable[[str, dict[str, Any], Any], float],
    spaces: Mapping[str, Space],
    *,
    trials: int,
    budget: Any,
    seed: int = 0,
    maximised: bool = True,
    earlier: Mapping[str, Sequence[Trial]] | None = None,
    told: Callable[[str, Trial], None] | None = None,
) -> dict[str, list[Trial]]:
    """Search the options of several contenders, with as many trials of the same budget for each.

    The values are drawn by Optuna's TPE sampler (Watanabe 2023, arXiv:2304.11127). They follow from the seed, so that
    a search can be repeated; contenders that search the same option draw the same first values. Trials are made of
    each contender in turn, so that a search that is broken off has treated all alike.

    Args:
        objective: of a contender, its values by name, and the budget: the number that is searched for. A trial whose
            number is NaN, or that raises :class:`altmin_ext.DivergenceError`, is the worst.
        spaces: by contender, what is searched. The same names need not stand there, but as many should.
        trials: of each contender.
        budget: of each trial, whatever the objective takes for it: epochs, seconds, minibatches. All get the same.
        seed: of the values that are drawn, not of the training.
        maximised: whether the number should be large.
        earlier: by contender, trials that have been made before, to go on from to the same values.
        told: called with the contender and each new trial, to record it.

    Returns:
        By contender, all trials in their order.

    Raises:
        TypeError, ValueError: an argument is wrong, or earlier trials do not belong to such a search.
        ImportError: optuna is not installed.
    """
    optuna = require("optuna", "tune")
    trials, seed = _check.integer("trials", trials), _check.seed("seed", seed)
    if not spaces or not all(spaces.values()):
        raise ValueError(
            f"spaces must name an option of every contender, but is {_check.shown(dict(spaces))}."
        )
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = "maximize" if maximised else "minimize"
    worst = -math.inf if maximised else math.inf
    studies = {label: optuna.create_study(direction=direction) for label in spaces}
    for label, made in (earlier or {}).items():
        for trial in made if label in studies else ():
            try:
                before = optuna.trial.create_trial(
                    params=trial.values, distributions=distributions(spaces[label]), value=trial.value,
                    user_attrs={"ended": trial.ended, "seconds": trial.seconds},
                )  # fmt: skip
            except ValueError as error:
                raise ValueError(
                    f"earlier must hold trials of this search, but one of {label!r} is of another: "
                    f"{_check.first_sentence(error)}."
                ) from error
            studies[label].add_trial(before)

    def guarded(label: str, values: dict[str, Any], _: Any) -> tuple[float, str]:
        try:
            value = float(objective(label, values, budget))
        except DivergenceError:
            return worst, "diverged"
        return (worst, "diverged") if math.isnan(value) else (value, "completed")

    found = Trials(studies, spaces, seed)
    try:
        found.make(trials, guarded, told or (lambda label, trial: None))
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {label: found.finished(label) for label in spaces}


def best(trials: Sequence[Trial], maximised: bool = True) -> Trial | None:
    """The best of the completed trials.

    Args:
        trials: of one contender.
        maximised: whether the number should be large.

    Returns:
        The trial, the first if several are as good; None if none was completed.
    """
    complete = [trial for trial in trials if trial.ended == "completed"]
    return (max if maximised else min)(complete, key=lambda trial: trial.value) if complete else None


__all__ = ["Choice", "Range", "Space", "Trial", "best", "search"]
