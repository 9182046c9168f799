#!/usr/bin/env bash
# Guess: after 1000 samples river's EmpiricalPrecision is within 1 % of the inverse of the covariance.
# What happens: so it is for features of spread 1; at spread 0.1 it is 9 % too small, at 0.01 it is a tenth of
#   what it should be. It starts from the identity, so no eigenvalue gets beyond the number of samples.
#   EmpiricalCovariance is exact at each spread.
# Why it matters: a Mahalanobis distance or discriminant built on it depends on the unit of the features.
# Seen with river 0.26.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    river==0.26.1 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import numpy as np
from river.covariance import EmpiricalCovariance, EmpiricalPrecision

print({name: version(name) for name in ("river", "numpy")})
standard = np.random.default_rng(0).normal(size=(1000, 3))
seen = {1.0: (0.99, 1.01), 0.1: (0.85, 0.95), 0.01: (0.05, 0.15)}  # spread: bounds of the ratio


def matrix(estimate):
    """river's estimate as an array; the entries of a covariance are objects with a `get`."""
    entries = [[estimate[i, j] for j in range(3)] for i in range(3)]
    return np.array([[e.get() if hasattr(e, "get") else e for e in row] for row in entries])


changed = False
for spread, (low, high) in seen.items():
    samples = spread * standard
    covariance, precision = EmpiricalCovariance(), EmpiricalPrecision()
    for sample in samples:
        named = {i: float(feature) for i, feature in enumerate(sample)}
        covariance.update(named)
        precision.update(named)
    expected = np.linalg.inv(np.cov(samples.T))
    ratio = np.trace(matrix(precision)) / np.trace(expected)
    error = np.abs(matrix(covariance) - np.cov(samples.T)).max()
    print(f"spread {spread}: precision {ratio:.3f} of the inverse covariance, covariance off by {error:.1e}")
    changed |= not low < ratio < high or error > 1e-9
sys.exit("The behaviour has changed." if changed else 0)
EOF
