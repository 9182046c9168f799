#!/usr/bin/env bash
# Guess: a study with GridSampler that is broken off and resumed tries the points that are left, each once,
#   whatever seed the new sampler has.
# What happens: the seed shuffles the grid and the study remembers places in that order, so under another seed
#   the places left are other points. Of 6 points one or two are tried twice and as many never, and the study
#   stops as if the grid were done; under the same seed all is right. BruteForceSampler is right under any
#   seed.
# Why it matters: a search that takes the number of its run as seed leaves holes in the grid without a word.
# Seen with optuna 5.0.0, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check optuna==5.0.0
"$folder/environment/bin/python" -W ignore - "$folder" <<'EOF'
import sys
from importlib.metadata import version

import optuna
from optuna.samplers import BruteForceSampler, GridSampler

print({"optuna": version("optuna")})
optuna.logging.set_verbosity(optuna.logging.ERROR)
space = {"layers": [1, 2, 3], "width": [8, 16]}


def tried(name, sampler, seed):
    """The points of a study of 3 trials under seed 0, resumed under `seed` until it stops by itself."""
    storage = f"sqlite:///{sys.argv[1]}/{name}{seed}.db"
    points = []

    def objective(trial):
        points.append(tuple(trial.suggest_categorical(key, values) for key, values in space.items()))
        return sum(points[-1])

    optuna.create_study(study_name="search", storage=storage, sampler=sampler(0)).optimize(
        objective, n_trials=3
    )
    study = optuna.load_study(study_name="search", storage=storage, sampler=sampler(seed))
    study.optimize(objective, n_trials=20)
    return points


samplers = {"GridSampler": lambda seed: GridSampler(space, seed), "BruteForceSampler": BruteForceSampler}
missing = {}
for name, sampler in samplers.items():
    for seed in range(6):
        points = tried(name, sampler, seed)
        missing[name, seed] = 6 - len(set(points))
        print(f"{name}, resumed under seed {seed}: {points}; {missing[name, seed]} of 6 points never tried")
        if len(points) != 6:
            sys.exit("The behaviour has changed.")
grid = [missing["GridSampler", seed] for seed in range(6)]
same = grid[0] == 0 and max(grid) > 0 and not any(missing["BruteForceSampler", seed] for seed in range(6))
sys.exit(0 if same else "The behaviour has changed.")
EOF
