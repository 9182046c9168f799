#!/usr/bin/env bash
# Guess: 500 samples give the same averaged weights (average=True) in one partial_fit or in 500.
# What happens: SGDClassifier begins each call with its first intercept, so one sample at a time it learns
#   none: 0.003 instead of 0.55, and an accuracy of 0.64 instead of 0.91. SGDRegressor is exact, and so is
#   SGDClassifier without averaging.
# Why it matters: the averaged linear baseline on a stream is scored without its intercept; give it a constant
#   input of 1.
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
from sklearn.linear_model import SGDClassifier, SGDRegressor

print({name: version(name) for name in ("scikit-learn", "numpy")})
random = np.random.default_rng(0)
x = random.normal(size=(500, 3))
label = (x[:, 0] + 1 + 0.3 * random.normal(size=500) > 0).astype(int)
settings = {"learning_rate": "constant", "eta0": 0.01, "shuffle": False}


def classifier(average, size):
    model = SGDClassifier(loss="log_loss", average=average, **settings)
    for start in range(0, 500, size):
        model.partial_fit(x[start : start + size], label[start : start + size], classes=[0, 1])
    return model.intercept_[0], model.score(x, label)


def regressor(average, size):
    model = SGDRegressor(average=average, **settings)
    for start in range(0, 500, size):
        model.partial_fit(x[start : start + size], x[start : start + size, 0] + 5)
    return model.intercept_[0], model.score(x, x[:, 0] + 5)


outcome = {}
for learner in (classifier, regressor):
    for average in (False, True):
        for size in (500, 50, 1):
            intercept, score = outcome[learner, average, size] = learner(average, size)
            print(
                f"{learner.__name__}, average={average}, {size:3} samples a call: "
                f"intercept {intercept:.4f}, score {score:.3f}"
            )
same = all(
    np.allclose(outcome[learner, average, size], outcome[learner, average, 500])
    for learner, average in ((classifier, False), (regressor, False), (regressor, True))
    for size in (50, 1)
)
same &= outcome[classifier, True, 500][0] > 0.5 > 0.1 > outcome[classifier, True, 50][0]
same &= outcome[classifier, True, 1][0] < 0.01 and outcome[classifier, True, 1][1] < 0.7
sys.exit(0 if same else "The behaviour has changed.")
EOF
