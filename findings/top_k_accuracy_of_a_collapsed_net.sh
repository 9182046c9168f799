#!/usr/bin/env bash
# Guess: Keras on JAX gives a net with ten equal outputs a top-5 accuracy of 0.5 on balanced labels, and its
#   top-1 is its accuracy, 0.1.
# What happens: the top-k accuracy is 1.0 for every k, also k = 1 and also when all outputs are NaN, while
#   SparseCategoricalAccuracy says 0.1.
# Why it matters: a dead or diverged net shows a perfect score in a sweep that ranks by top-k accuracy.
# Seen with keras 3.15.1, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import os
import sys
from importlib.metadata import version

os.environ["KERAS_BACKEND"] = "jax"
import keras
import numpy as np

print({name: version(name) for name in ("keras", "jax", "numpy")})
labels = np.repeat(np.arange(10), 10)
seen = {"accuracy": 0.1, "top-1": 1.0, "top-5": 1.0}
changed = False
for output in (0.0, float("nan")):
    metrics = {
        "accuracy": keras.metrics.SparseCategoricalAccuracy(),
        "top-1": keras.metrics.SparseTopKCategoricalAccuracy(k=1),
        "top-5": keras.metrics.SparseTopKCategoricalAccuracy(k=5),
    }
    for metric in metrics.values():
        metric.update_state(labels, np.full((100, 10), output, "float32"))
    outcome = {name: round(float(metric.result()), 4) for name, metric in metrics.items()}
    print(f"all ten outputs {output}: {outcome}")
    changed |= outcome != seen
sys.exit("The behaviour has changed." if changed else 0)
EOF
