#!/usr/bin/env bash
# Guess: numpy's sum of 1000 ones is 1000 in bfloat16 (ml_dtypes), as it is in float16, and only cumsum
#   stalls at 256.
# What happens: sum gives 256 and mean 0.256 in bfloat16, while float16 gives 1000 and 1.
# Why it matters: bfloat16 weights, gradients or losses that are brought to numpy (from JAX, safetensors)
#   have sums and means far too small, without a warning.
# Seen with numpy 2.4.6, ml_dtypes 0.6.0, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    numpy==2.4.6 ml_dtypes==0.6.0
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import ml_dtypes
import numpy as np

print({name: version(name) for name in ("numpy", "ml_dtypes")})
seen = {"float16": (1000.0, 1.0), "bfloat16": (256.0, 0.256)}  # sum, mean
changed = False
for dtype in (np.float16, ml_dtypes.bfloat16):
    ones = np.ones(1000, dtype)
    name, total, mean = ones.dtype.name, float(ones.sum()), float(ones.mean())
    print(f"{name}: sum {total}, mean {mean}, sum in float32 {float(ones.sum(dtype=np.float32))}")
    changed |= total != seen[name][0] or abs(mean - seen[name][1]) > 0.002
sys.exit("The behaviour has changed." if changed else 0)
EOF
