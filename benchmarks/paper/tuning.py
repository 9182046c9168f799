"""The search of options that the studies have in common: as many trials of the same budget for every contender."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from altmin_ext.tuning import Space, Trial, best, search
from benchmarks.paper import records


def tuned(
    path: Path,
    objective: Callable[[str, dict[str, Any], Any], float],
    spaces: Mapping[str, Space],
    *,
    trials: int,
    budget: Any,
    seed: int = 0,
) -> dict[str, Trial]:
    """Search what :func:`altmin_ext.tuning.search` does, with every trial in a file of records.

    Args:
        path: of the file. Trials that it holds are not made again, so that a search that was cut off goes on.
        objective: of a contender, its values and the budget: what should be large.
        spaces: by contender; as many options for each, of as many decades.
        trials: of each contender.
        budget: of each trial, as JSON has it.
        seed: of the values.

    Returns:
        By contender, the best trial.

    Raises:
        SystemExit: the file holds trials of another budget or seed, or a contender has none that was completed.
    """
    earlier: dict[str, list[Trial]] = {label: [] for label in spaces}
    for record in records.read(path):
        made_with = {"budget": budget, "seed": seed}
        if {key: record[key] for key in made_with} != made_with:
            raise SystemExit(f"{path} holds trials of another budget or seed: move it away.")
        if record["contender"] in earlier:
            own = {field.name: record[field.name] for field in dataclasses.fields(Trial)}
            earlier[record["contender"]].append(Trial(**own))

    def told(label: str, trial: Trial) -> None:
        record = {"contender": label, **dataclasses.asdict(trial), "budget": budget, "seed": seed}
        records.append(path, record)
        print(label, trial.values, f"{trial.value:.4f}", flush=True)

    found = search(objective, spaces, trials=trials, budget=budget, seed=seed, earlier=earlier, told=told)
    tops = {label: best(own) for label, own in found.items()}
    if failed := [label for label, top in tops.items() if top is None]:
        raise SystemExit(f"no trial of {', '.join(failed)} was completed: search another space.")
    return {label: top for label, top in tops.items() if top is not None}
