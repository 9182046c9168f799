#!/usr/bin/env bash
# Guess: MLPRegressor with warm_start=True goes on where it stopped, so 20 fits of 10 iterations are one fit
#   of 200.
# What happens: each fit begins with fresh moments of Adam, or no velocity, and ends elsewhere; 200 calls of
#   partial_fit keep them and end exactly where the one fit does.
# Why it matters: as a baseline that is trained on and on and looked at in between, only partial_fit is the
#   uninterrupted run.
# Seen with scikit-learn 1.9.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    scikit-learn==1.9.1 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
import warnings
from importlib.metadata import version

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

print({name: version(name) for name in ("scikit-learn", "numpy")})
warnings.simplefilter("ignore", ConvergenceWarning)
random = np.random.default_rng(0)
x = random.normal(size=(50, 3))
y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2]


def net(solver, iterations):  # full batches in a fixed order, never stopped early
    return MLPRegressor(
        hidden_layer_sizes=(8,), solver=solver, max_iter=iterations, warm_start=True, batch_size=50,
        shuffle=False, random_state=0, tol=0, n_iter_no_change=1000,
    )  # fmt: skip


changed = False
for solver in ("sgd", "adam"):
    whole, warm, partial = net(solver, 200).fit(x, y), net(solver, 10), net(solver, 10)
    for _ in range(20):
        warm.fit(x, y)
    for _ in range(200):
        partial.partial_fit(x, y)
    apart = [
        max(np.abs(a - b).max() for a, b in zip(whole.coefs_, other.coefs_)) for other in (warm, partial)
    ]
    print(
        f"{solver}: loss after one fit {whole.loss_:.4f}, after 20 warm starts {warm.loss_:.4f}, after 200 "
        f"partial_fit {partial.loss_:.4f}; weights apart by {apart[0]:.4f} and {apart[1]:.1e}"
    )
    changed |= apart[0] < 0.01 or apart[1] > 1e-9
sys.exit("The behaviour has changed." if changed else 0)
EOF
