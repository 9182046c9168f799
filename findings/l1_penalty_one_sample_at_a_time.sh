#!/usr/bin/env bash
# Guess: without shuffling, 500 samples give SGDClassifier the same weights in one call of partial_fit or in
#   500 calls.
# What happens: with penalty="l2" they do. With "l1" one call sets all 17 irrelevant weights to zero, calls of
#   50 samples 11 of them, calls of one sample only 1: each call forgets the penalty that the one before left
#   unpaid.
# Why it matters: as a baseline on a stream it is no sparse learner, and its weights depend on how the stream
#   is cut into calls.
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
from importlib.metadata import version

import numpy as np
from sklearn.linear_model import SGDClassifier

print({name: version(name) for name in ("scikit-learn", "numpy")})
random = np.random.default_rng(0)
x = random.normal(size=(500, 20))
y = x[:, 0] + 2 * x[:, 1] - x[:, 2] > 0  # the other 17 inputs are irrelevant


def weights(penalty, size):
    model = SGDClassifier(
        loss="log_loss", penalty=penalty, alpha=0.05, learning_rate="constant", eta0=0.01, shuffle=False
    )
    for start in range(0, 500, size):
        model.partial_fit(x[start : start + size], y[start : start + size], classes=[False, True])
    return model.coef_[0]


zeros, apart = {}, {}
for penalty in ("l1", "l2"):
    for size in (500, 50, 5, 1):
        found = weights(penalty, size)
        zeros[penalty, size] = int((found == 0).sum())
        apart[penalty, size] = float(np.abs(found - weights(penalty, 500)).max())
        print(
            f"{penalty}, {size:3} samples a call: {zeros[penalty, size]:2} weights are zero; "
            f"largest difference to one call {apart[penalty, size]:.4f}"
        )
same = (
    zeros["l1", 500] == 17
    and 5 < zeros["l1", 50] < 17
    and zeros["l1", 1] <= 2
    and apart["l1", 1] > 0.02
    and apart["l2", 1] < 1e-12
)
sys.exit(0 if same else "The behaviour has changed.")
EOF
