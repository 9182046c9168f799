#!/usr/bin/env bash
# Guess: with PatientPruner(None, patience=3) a trial whose loss falls to 0.9 at its second report and then
#   stays there is pruned at the fifth, and with min_delta=0.05 so is one that falls by 0.01 a report.
# What happens: neither is ever pruned. Optuna waits for a loss that has become worse by more than min_delta,
#   not for one that has not become better: one that rises by 0.01 a report is pruned at the sixth, and with
#   min_delta=0.05 at the eleventh.
# Why it matters: a net that has stopped learning, with an accuracy that stands still, trains to its last
#   epoch; stop it by early stopping in the objective.
# Seen with optuna 5.0.0, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check optuna==5.0.0
"$folder/environment/bin/python" -W ignore - <<'EOF'
import sys
from importlib.metadata import version

import optuna
from optuna.pruners import PatientPruner

print({"optuna": version("optuna")})
optuna.logging.set_verbosity(optuna.logging.ERROR)
losses = {
    "stands still": [1.0] + [0.9] * 19,
    "falls by 0.01": [1.0 - 0.01 * i for i in range(20)],
    "rises by 0.01": [1.0] + [0.9 + 0.01 * i for i in range(19)],
}


def pruned_at(min_delta, reports):
    """The report, from 1, after which the trial is pruned, or None."""
    trial = optuna.create_study(pruner=PatientPruner(None, patience=3, min_delta=min_delta)).ask()
    for step, loss in enumerate(reports, 1):
        trial.report(loss, step)
        if trial.should_prune():
            return step
    return None


outcome = {}
for name, reports in losses.items():
    for min_delta in (0.0, 0.05):
        outcome[name, min_delta] = pruned_at(min_delta, reports)
        print(f"the loss {name}, min_delta={min_delta}: pruned at {outcome[name, min_delta]}")
pruned = {case: step for case, step in outcome.items() if step is not None}
seen = {("rises by 0.01", 0.0): 6, ("rises by 0.01", 0.05): 11}
sys.exit("The behaviour has changed." if pruned != seen else 0)
EOF
