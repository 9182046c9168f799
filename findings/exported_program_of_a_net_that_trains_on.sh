#!/usr/bin/env bash
# Guess: torch.export.export takes a snapshot, so training the net on leaves the exported program as it was.
# What happens: the exported program holds the net's own parameters and buffers. Its outputs change with every
#   step, and a file saved later holds the later weights.
# Why it matters: a best net kept as an exported program is the last net; save it at once, or export a
#   copy.deepcopy.
# Seen with torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6
"$folder/environment/bin/python" -W ignore - "$folder" <<'EOF'
import copy
import sys
from importlib.metadata import version

import torch

print({name: version(name) for name in ("torch", "numpy")})
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 1)
)
x, target = torch.randn(20, 4), torch.ones(20, 1)

net.eval()
with torch.no_grad():
    before = net(x)
program = torch.export.export(net, (x,))
of_a_copy = torch.export.export(copy.deepcopy(net), (x,))
module = program.module()

net.train()
optimizer = torch.optim.SGD(net.parameters(), 0.1)
for _ in range(10):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(net(x), target).backward()
    optimizer.step()
net.eval()

torch.export.save(program, sys.argv[1] + "/later.pt2")
with torch.no_grad():
    after = net(x)
    outputs = {
        "module made before the training": module(x),
        "module made after it": program.module()(x),
        "file saved after it": torch.export.load(sys.argv[1] + "/later.pt2").module()(x),
        "export of a deepcopy": of_a_copy.module()(x),
    }
seen = {}
for name, output in outputs.items():
    apart = [float((output - other).abs().max()) for other in (before, after)]
    seen[name] = "before" if apart[0] < 1e-5 else "after" if apart[1] < 1e-5 else "neither"
    print(f"{name}: {apart[0]:.4f} off the net before the training, {apart[1]:.4f} off the net after it")
same = list(seen.values()) == ["after", "after", "after", "before"]
sys.exit(0 if same and float((after - before).abs().max()) > 0.1 else "The behaviour has changed.")
EOF
