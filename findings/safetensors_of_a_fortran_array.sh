#!/usr/bin/env bash
# Guess: safetensors.numpy stores the values of a Fortran-ordered array in C order, so that it loads as it
#   was, or refuses it.
# What happens: it stores the memory as it lies and the shape as it is: the array loads with its elements in
#   other places, without a word.
# Why it matters: numpy weights are often transposed on the way from one framework's layout to another's,
#   and the file that is written is then wrong.
# Seen with safetensors 0.8.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    safetensors==0.8.0 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load, save

print({name: version(name) for name in ("safetensors", "numpy")})
weight = np.asfortranarray([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
seen = np.array([[0.0, 3.0, 1.0], [4.0, 2.0, 5.0]])

loaded = load(save({"weight": weight}))["weight"]
contiguous = load(save({"weight": np.ascontiguousarray(weight)}))["weight"]
print("saved:", weight.tolist(), "\nloaded:", loaded.tolist())
print("loaded after ascontiguousarray:", contiguous.tolist())
same = np.array_equal(loaded, seen) and np.array_equal(contiguous, weight)
sys.exit(0 if same else "The behaviour has changed.")
EOF
