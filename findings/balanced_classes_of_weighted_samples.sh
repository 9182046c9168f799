#!/usr/bin/env bash
# Guess: with class_weight="balanced" and sample_weight the classes are balanced by the numbers of samples in
#   all classifiers of scikit-learn, so a sample of weight 0 still counts.
# What happens: RidgeClassifier, SVC, DecisionTree and HistGradientBoosting count samples; LogisticRegression,
#   LinearSVC, RandomForest and ExtraTrees add up weights, so that a sample of weight 0 is as good as absent.
#   A tree and a forest of the same tree disagree. Without class_weight it is as good as absent in all eight.
# Why it matters: baselines on weighted data balance the classes in two ways; pass the product of both weights
#   as sample_weight.
# Seen with scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

print({name: version(name) for name in ("scikit-learn", "scipy", "numpy")})
random = np.random.default_rng(0)
x = random.normal(size=(300, 4))
y = (x[:, 0] + 0.5 * random.normal(size=300) > 0.6).astype(int)
weight = np.where(y == 1, random.random(300) < 0.3, True).astype(float)  # most of class 1 weigh nothing
kept = weight > 0
tree = {"max_depth": 3, "random_state": 0}
counts_samples = [
    RidgeClassifier(),
    SVC(gamma=0.5, tol=1e-8),
    DecisionTreeClassifier(**tree),
    HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=1),
]
adds_up_weights = [
    LogisticRegression(tol=1e-10, max_iter=5000),
    LinearSVC(tol=1e-10, max_iter=100_000),
    RandomForestClassifier(n_estimators=1, bootstrap=False, max_features=None, **tree),
    ExtraTreesClassifier(n_estimators=2, **tree),
]


def apart(classifier, class_weight):
    """The largest difference that samples of weight 0 make to the outputs."""
    outputs = []
    for rows, weights in ((slice(None), weight), (kept, weight[kept])):
        fitted = clone(classifier).set_params(class_weight=class_weight).fit(x[rows], y[rows], weights)
        score = getattr(fitted, "decision_function", None) or fitted.predict_proba
        outputs.append(score(x))
    return float(np.abs(outputs[0] - outputs[1]).max())


changed = False
for classifier in counts_samples + adds_up_weights:
    plain, balanced = apart(classifier, None), apart(classifier, "balanced")
    print(
        f"{type(classifier).__name__}: samples of weight 0 change the outputs by {plain:.4f}, with balanced "
        f"classes by {balanced:.4f}"
    )
    changed |= plain > 1e-3 or (balanced > 0.05) != (classifier in counts_samples) or 1e-3 < balanced < 0.05
sys.exit("The behaviour has changed." if changed else 0)
EOF
