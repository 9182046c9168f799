#!/usr/bin/env bash
# Guess: skorch's LRScheduler begins anew both in a second partial_fit and in a net that LoadInitState has
#   loaded, the latter from the first rate.
# What happens: 5 epochs and then partial_fit for 5 more have the rates of one fit of 10. After LoadInitState
#   the first epoch has the right rate and the schedule begins anew after it: an exponential one jumps up to
#   its second rate, a cosine and a StepLR go down from the rate where the run stood.
# Why it matters: the history goes on at epoch 6 and the weights and moments are the saved ones, so that
#   nothing tells of the wrong rates.
# Seen with skorch 1.4.0, torch 2.13.0, scikit-learn 1.9.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    skorch==1.4.0 torch==2.13.0 scikit-learn==1.9.1 numpy==2.4.6
"$folder/environment/bin/python" - "$folder" <<'EOF'
import sys
from importlib.metadata import version

import numpy as np
import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, LoadInitState, LRScheduler, TrainEndCheckpoint
from torch.optim import lr_scheduler

print({name: version(name) for name in ("skorch", "torch")})
x = y = np.zeros((2, 1), dtype="float32")


class Record(Callback):
    def on_epoch_begin(self, net, **others):
        rates.append(round(net.optimizer_.param_groups[0]["lr"], 4))


def net(epochs, policy, settings, *more):
    calls = [("schedule", LRScheduler(policy, **settings)), ("record", Record()), *more]
    return NeuralNetRegressor(
        torch.nn.Linear, module__in_features=1, module__out_features=1, max_epochs=epochs, lr=0.1,
        train_split=None, callbacks=calls, verbose=0,
    )  # fmt: skip


schedules = {
    lr_scheduler.LambdaLR: {"lr_lambda": lambda epoch: 0.9**epoch},
    lr_scheduler.CosineAnnealingLR: {"T_max": 10},
    lr_scheduler.StepLR: {"step_size": 3, "gamma": 0.5},
}
reloaded = {
    "LambdaLR": [0.0590, 0.09, 0.081, 0.0729, 0.0656],
    "CosineAnnealingLR": [0.05, 0.0488, 0.0452, 0.0397, 0.0327],
    "StepLR": [0.05, 0.05, 0.05, 0.025, 0.025],
}
changed = False
for policy, settings in schedules.items():
    outcome = {}
    outcome["one fit of 10"] = rates = []
    net(10, policy, settings).fit(x, y)
    outcome["fit, partial_fit"] = rates = []
    net(5, policy, settings).fit(x, y).partial_fit(x, y)
    outcome["fit, LoadInitState, fit"] = rates = []
    end = TrainEndCheckpoint(dirname=f"{sys.argv[1]}/{policy.__name__}")
    net(5, policy, settings, ("end", end)).fit(x, y)
    net(5, policy, settings, ("load", LoadInitState(end))).fit(x, y)
    whole, partial, loaded = outcome.values()
    print(policy.__name__, *(f"\n    {name}: {rates}" for name, rates in outcome.items()))
    changed |= partial != whole or loaded[:5] != whole[:5]
    changed |= max(abs(a - b) for a, b in zip(loaded[5:], reloaded[policy.__name__], strict=True)) > 1e-4
sys.exit("The behaviour has changed." if changed else 0)
EOF
