#!/usr/bin/env bash
# Guess: class means by scatter_reduce, one of "sum", "mean", "amax", "amin" and "prod", come out of an
#   exported net in onnxruntime as in torch, or the export refuses.
# What happens: all are right but "mean", for which the export writes a plain scatter, without an error: each
#   class gets its last sample instead of its mean.
# Why it matters: a net with prototypes (nearest class mean, memories) is wrong after an export; divide a sum
#   by the counts.
# Seen with torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/environment/bin/python" -W ignore - "$folder" <<'EOF'
import logging
import sys
from importlib.metadata import version

import onnxruntime
import torch

packages = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
print({name: version(name) for name in packages})
logging.disable(logging.WARNING)
samples = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, -6.0], [-7.0, 8.0]])
labels = torch.tensor([0, 0, 1, 1])


class ByClass(torch.nn.Module):
    def __init__(self, reduction):
        super().__init__()
        self.reduction = reduction

    def forward(self, x, y):
        place = y[:, None].expand(-1, 2)
        return torch.zeros(2, 2).scatter_reduce(0, place, x, self.reduction, include_self=False)


changed = False
for reduction in ("sum", "mean", "amax", "amin", "prod"):
    net, file = ByClass(reduction), f"{sys.argv[1]}/{reduction}.onnx"
    torch.onnx.export(net, (samples, labels), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file)
    names = [entry.name for entry in session.get_inputs()]
    there = session.run(None, dict(zip(names, (samples.numpy(), labels.numpy()), strict=True)))[0].tolist()
    here = net(samples, labels).tolist()
    print(f"{reduction}: torch {here}, onnxruntime {there}")
    changed |= (there == here) != (reduction != "mean")
sys.exit("The behaviour has changed." if changed else 0)
EOF
