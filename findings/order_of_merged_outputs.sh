#!/usr/bin/env bash
# Guess: a.merge_state(b) of torchmetrics leaves in a what one pass over a's data and then b's had left, for
#   every metric that takes it.
# What happens: for sums and scores it does; a CatMetric holds b's values before a's.
# Why it matters: outputs collected in pieces and merged in the order of the pieces no longer fit the inputs.
# Seen with torchmetrics 1.9.0, torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import torch
import torchmetrics

print({name: version(name) for name in ("torchmetrics", "torch")})
values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
targets = torch.tensor([2.0, 1.0, 3.0, 5.0, 4.0, 6.0])
metrics = {
    "MeanMetric": (torchmetrics.MeanMetric, (values,)),
    "MeanSquaredError": (torchmetrics.MeanSquaredError, (values, targets)),
    "SpearmanCorrCoef": (torchmetrics.SpearmanCorrCoef, (values, targets)),
    "CatMetric": (torchmetrics.CatMetric, (values,)),
}
outcome = {}
for name, (make, data) in metrics.items():
    whole, pieces = make(), [make() for _ in range(3)]
    for piece in range(3):
        part = [d[2 * piece : 2 * piece + 2] for d in data]
        whole.update(*part)
        pieces[piece].update(*part)
    pieces[0].merge_state(pieces[1])
    pieces[0].merge_state(pieces[2])
    outcome[name] = [metric.compute().tolist() for metric in (whole, pieces[0])]
    print(f"{name}: one pass {outcome[name][0]}, three pieces merged {outcome[name][1]}")
unlike = {name: merged for name, (whole, merged) in outcome.items() if whole != merged}
sys.exit("The behaviour has changed." if unlike != {"CatMetric": [5, 6, 3, 4, 1, 2]} else 0)
EOF
