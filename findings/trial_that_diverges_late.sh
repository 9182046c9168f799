#!/usr/bin/env bash
# Guess: after five trials with a loss of 1 throughout, one that reports 0.5, 0.5 and then 10, infinity or NaN
#   is pruned at its third report by MedianPruner, and at its next rung by SuccessiveHalvingPruner.
# What happens: MedianPruner and PercentilePruner never prune it, since they look at a trial's best loss so
#   far and pass over NaN. SuccessiveHalvingPruner does at its rung; WilcoxonPruner does for 10 alone.
# Why it matters: `altmin tune` prunes by MedianPruner. A loss that turns NaN ends the trial by altmin_ext's
#   DivergenceError, but one that only becomes bad trains to its last epoch; set a ThresholdPruner in a study
#   of your own.
# Seen with optuna 5.0.0, scipy 1.17.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    optuna==5.0.0 scipy==1.17.1 numpy==2.4.6
"$folder/environment/bin/python" -W ignore - <<'EOF'
import math
import sys
from importlib.metadata import version

import optuna
from optuna import pruners

print({name: version(name) for name in ("optuna", "scipy", "numpy")})
optuna.logging.set_verbosity(optuna.logging.ERROR)
kinds = {
    "MedianPruner": lambda: pruners.MedianPruner(),
    "PercentilePruner": lambda: pruners.PercentilePruner(25.0),
    "SuccessiveHalvingPruner": lambda: pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    "WilcoxonPruner": lambda: pruners.WilcoxonPruner(),
    "ThresholdPruner": lambda: pruners.ThresholdPruner(upper=5.0),
}
late = {bad: [0.5, 0.5] + [bad] * 18 for bad in (10.0, math.inf, math.nan)}


def reports_taken(study, reports):
    """The report, from 1, after which a trial with these losses is pruned, or None."""
    trial = study.ask()
    for step, loss in enumerate(reports, 1):
        trial.report(loss, step)
        if trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return step
    study.tell(trial, 1.0)
    return None


def pruned_at(pruner, reports):
    study = optuna.create_study(study_name="five and one", pruner=pruner)
    for _ in range(5):
        reports_taken(study, [1.0] * 20)
    return reports_taken(study, reports)


outcome = {}
for name, make in kinds.items():
    outcome[name] = [pruned_at(make(), reports) for reports in late.values()]
    outcome[name].append(pruned_at(make(), [math.nan] + [0.5] * 19))
    ten, infinite, nan, first = outcome[name]
    print(
        f"{name}: 10 from the third report on, pruned at {ten}; infinity at {infinite}; NaN at {nan}; "
        f"NaN in the first report at {first}"
    )
seen = {
    "MedianPruner": [None, None, None, 1],
    "PercentilePruner": [None, None, None, 1],
    "SuccessiveHalvingPruner": [4, 4, 4, 1],
    "WilcoxonPruner": [6, None, None, None],
    "ThresholdPruner": [3, 3, 3, 1],
}
sys.exit("The behaviour has changed." if outcome != seen else 0)
EOF
