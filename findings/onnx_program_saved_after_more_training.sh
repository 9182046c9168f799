#!/usr/bin/env bash
# Guess: the program that torch.onnx.export returns is a snapshot; saved after more training it is still the
#   net that was exported.
# What happens: it is neither that net nor the trained one. The layer in front of a BatchNorm was folded at
#   the export and is old; the others share the net's parameters and are new, so the file holds a mixture that
#   never was.
# Why it matters: a net exported at its best epoch and saved at the end of the run gives other outputs than
#   any epoch did; save it at once, or export a copy.deepcopy.
# Seen with torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/environment/bin/python" -W ignore - "$folder" <<'EOF'
import copy
import logging
import sys
from importlib.metadata import version

import onnxruntime
import torch
from torch.nn import BatchNorm1d, Linear, ReLU, Sequential

packages = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
print({name: version(name) for name in packages})
logging.disable(logging.WARNING)
torch.manual_seed(0)
net = Sequential(Linear(4, 8), BatchNorm1d(8), ReLU(), Linear(8, 1)).eval()
x, target = torch.randn(20, 4), torch.ones(20, 1)

old = copy.deepcopy(net)
program = torch.onnx.export(net, (x,), dynamo=True, verbose=False)
of_a_copy = torch.onnx.export(copy.deepcopy(net), (x,), dynamo=True, verbose=False)
program.save(sys.argv[1] + "/at once.onnx")
net.train()
optimizer = torch.optim.SGD(net.parameters(), 0.1)
for _ in range(10):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(net(x), target).backward()
    optimizer.step()
net.eval()
program.save(sys.argv[1] + "/later.onnx")
of_a_copy.save(sys.argv[1] + "/copy, later.onnx")

nets = {"old net": old, "new net": net, "old layers before the ReLU, new after": Sequential(*old[:3], net[3])}
same = True
for file, expected in (("at once", "old net"), ("copy, later", "old net"), ("later", list(nets)[2])):
    session = onnxruntime.InferenceSession(f"{sys.argv[1]}/{file}.onnx")
    output = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    apart = {name: float((output - other(x)).abs().max()) for name, other in nets.items()}
    print(f"saved {file}, off by: " + ", ".join(f"{value:.4f} ({name})" for name, value in apart.items()))
    same &= {name for name, value in apart.items() if value < 1e-4} == {expected}
sys.exit(0 if same else "The behaviour has changed.")
EOF
