#!/usr/bin/env bash
# Guess: progressive_val_score(delay=1000) on 2000 samples scores 2000 predictions of every river classifier.
# What happens: a prediction made before the first label is scored for the learners that have one by then
#   (LogisticRegression, Perceptron, PAClassifier answer False) and left out for those that answer None
#   (GaussianNB, HoeffdingTree, KNN, SoftmaxRegression): 2000 predictions against 1000. LogisticRegression
#   drops from 0.93 to 0.65 and GaussianNB stays at 0.93, though they are equally good.
# Why it matters: a comparison of learners under delayed labels ranks them by how they answer before they know
#   anything; score from the first label on.
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
from river import evaluate, linear_model, metrics, naive_bayes, neighbors, tree

print({name: version(name) for name in ("river", "numpy")})
random = np.random.default_rng(0)
x = random.normal(size=(2000, 3))
y = x[:, 0] + 0.5 + 0.2 * random.normal(size=2000) > 0
stream = [
    (dict(zip("abc", map(float, row), strict=True)), bool(label)) for row, label in zip(x, y, strict=True)
]


class CountedAccuracy(metrics.Accuracy):
    predictions = 0

    def update(self, y_true, y_pred, w=1.0):
        self.predictions += 1
        super().update(y_true, y_pred, w)


learners = (
    linear_model.LogisticRegression,
    linear_model.Perceptron,
    linear_model.PAClassifier,
    naive_bayes.GaussianNB,
    tree.HoeffdingTreeClassifier,
    neighbors.KNNClassifier,
    linear_model.SoftmaxRegression,
)
changed = False
for place, learner in enumerate(learners):
    scored, accuracy = {}, {}
    for delay in (None, 1000):
        metric = CountedAccuracy()
        evaluate.progressive_val_score(stream, learner(), metric, delay=delay)
        scored[delay], accuracy[delay] = metric.predictions, metric.get()
    print(
        f"{learner.__name__}: {scored[None]} predictions scored {accuracy[None]:.3f}; with labels 1000 "
        f"samples late {scored[1000]} scored {accuracy[1000]:.3f}"
    )
    answers = place < 3
    changed |= scored != ({None: 2000, 1000: 2000} if answers else {None: 1999, 1000: 1000})
    changed |= (accuracy[None] - accuracy[1000] > 0.2) != answers
sys.exit("The behaviour has changed." if changed else 0)
EOF
