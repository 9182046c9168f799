#!/usr/bin/env bash
# Guess: AveragedModel(use_buffers=True) averages BatchNorm's counter of batches like any number: 3 after the
#   counts 1 to 6, rounded down.
# What happens: with the plain average the counter stays at 1 for ever; with an exponential average of decay
#   0.9 it stays at 1 for ten updates, then runs ten behind.
# Why it matters: BatchNorm with momentum=None weighs a new batch by 1 / counter; an averaged net that goes on
#   training gives its next batch half the weight, whatever it saw before.
# Seen with torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

print({"torch": version("torch")})


def counters(steps, **averaging):
    torch.manual_seed(0)
    net = torch.nn.BatchNorm1d(2, momentum=None)
    averaged = AveragedModel(net, use_buffers=True, **averaging)
    seen = []
    for _ in range(steps):
        net(torch.randn(4, 2))
        averaged.update_parameters(net)
        seen.append(int(averaged.module.num_batches_tracked))
    return seen, averaged.module


plain, net = counters(100)
exponential, _ = counters(30, multi_avg_fn=get_ema_multi_avg_fn(0.9))
before = net.running_mean.clone()
net(torch.ones(4, 2))  # the averaged net goes on training: batch 101
weight = ((net.running_mean - before) / (1 - before)).mean().item()
print("counter of the net:              1 to 100\ncounter of its plain average:   ", set(plain))
print("exponential average, 30 updates:", exponential)
print(f"weight of batch 101 in the running mean: {weight:.3f} (1 / 101 in the net)")

same = set(plain) == {1} and exponential == [1] * 10 + [2, 3, 4, 5, 6, 6, 7] + list(range(8, 21))
sys.exit(0 if same and abs(weight - 0.5) < 1e-3 else "The behaviour has changed.")
EOF
