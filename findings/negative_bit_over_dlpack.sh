#!/usr/bin/env bash
# Guess: numpy refuses, over DLPack, a torch tensor with the negative bit set, as it does for the conjugate
#   bit and as Tensor.numpy() does.
# What happens: the imaginary part of a conjugate reaches numpy, and even torch.from_dlpack, with its sign
#   lost, without an error.
# Why it matters: an extension that takes its tensors over DLPack computes with the wrong sign; call
#   resolve_neg() first.
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

import numpy as np
import torch

print({name: version(name) for name in ("torch", "numpy")})
x = torch.tensor([3.0 + 2.0j, 5.0 - 1.0j]).conj().imag
print("values:", x.tolist(), "negative bit:", x.is_neg())
outcome = {
    "np.from_dlpack": np.from_dlpack(x).tolist(),
    "torch.from_dlpack": torch.from_dlpack(x).tolist(),
    "np.from_dlpack after resolve_neg": np.from_dlpack(x.resolve_neg()).tolist(),
}
conjugate = torch.tensor([3.0 + 2.0j]).conj()
refused = {"Tensor.numpy": x.numpy, "np.from_dlpack, conjugate bit": lambda: np.from_dlpack(conjugate)}
for name, attempt in refused.items():
    try:
        outcome[name] = attempt().tolist()
    except (RuntimeError, BufferError) as error:
        outcome[name] = type(error).__name__
for name, result in outcome.items():
    print(f"{name}: {result}")
seen = [[2.0, -1.0], [2.0, -1.0], [-2.0, 1.0], "RuntimeError", "BufferError"]
sys.exit("The behaviour has changed." if list(outcome.values()) != seen else 0)
EOF
