#!/usr/bin/env bash
# Guess: the sign of NaN is 0 in torch and also in onnxruntime, where the exported net runs.
# What happens: torch gives 0, onnxruntime gives NaN.
# Why it matters: a binarised net hides a NaN as long as it runs in torch and shows it once it is exported;
#   a test on clean data sees neither.
# Seen with torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import io
import logging
import sys
import warnings
from importlib.metadata import version

import numpy as np
import onnxruntime
import torch

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
print({name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")})


class Sign(torch.nn.Module):
    def forward(self, x):
        return torch.sign(x)


x = torch.tensor([float("nan"), -2.0, 0.0, 2.0])
program = torch.onnx.export(Sign().eval(), (x,), dynamo=True, verbose=False)
file = io.BytesIO()
program.save(file)
session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
in_torch = Sign()(x).numpy()
in_onnxruntime = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
print("torch:      ", in_torch)
print("onnxruntime:", in_onnxruntime)
nan_kept = np.array_equal(in_onnxruntime, [np.nan, -1, 0, 1], equal_nan=True)
same = np.array_equal(in_torch, [0, -1, 0, 1]) and nan_kept
sys.exit(0 if same else "The behaviour has changed.")
EOF
