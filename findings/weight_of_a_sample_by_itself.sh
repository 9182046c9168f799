#!/usr/bin/env bash
# Guess: in MLPClassifier.partial_fit, as in SGDClassifier's, a sample_weight of 0.001 makes the SGD step of a
#   sample that comes by itself a thousand times smaller.
# What happens: the net takes the same steps for every weight, since it divides by the sum of the weights of
#   the minibatch at hand; SGDClassifier's steps grow with the weight.
# Why it matters: on a stream fed one sample at a time the weights of rare or old samples have no effect on
#   this baseline.
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
from sklearn.neural_network import MLPClassifier

print({name: version(name) for name in ("scikit-learn", "numpy")})
random = np.random.default_rng(0)
x = random.normal(size=(400, 4))
y = (x[:, 0] + x[:, 1] > 0).astype(int)
weights = (0.001, 1.0, 1000.0)


def net():
    return MLPClassifier((5,), solver="sgd", learning_rate_init=0.01, momentum=0, alpha=0, random_state=0)


def linear():
    return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, alpha=0, shuffle=False)


def way(build, weight, size):
    """How far 300 samples move the first layer, `size` of them a call; one call more settles it in."""
    model, first = build(), None
    for start in range(0, 300 + size, size):
        rows = slice(start, start + size)
        model.partial_fit(x[rows], y[rows], classes=[0, 1], sample_weight=np.full(size, weight))
        layer = model.coefs_[0] if hasattr(model, "coefs_") else model.coef_
        first = layer.copy() if first is None else first
    return float(np.linalg.norm(layer - first))


outcome = {}
for build in (net, linear):
    for size in (1, 100):
        outcome[build, size] = [way(build, weight, size) for weight in weights]
        print(
            f"{build.__name__}, {size:3} samples a call: 300 samples with the weights {weights} move it by "
            + ", ".join(f"{length:.5f}" for length in outcome[build, size])
        )
same = all(np.allclose(outcome[net, size], outcome[net, size][0], rtol=1e-6) for size in (1, 100))
same &= min(outcome[net, 1]) > 0.01
same &= all(100 * outcome[linear, size][0] < outcome[linear, size][1] for size in (1, 100))
sys.exit(0 if same else "The behaviour has changed.")
EOF
