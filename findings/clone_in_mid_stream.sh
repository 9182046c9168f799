#!/usr/bin/env bash
# Guess: clone(include_attributes=True) in the middle of a stream goes on exactly as the original does, as a
#   pickled copy does.
# What happens: the copy of LogisticRegression or LinearRegression has the weights but a fresh optimiser.
#   Adam's moments are gone and the learning rate begins its schedule anew, also inside a Pipeline.
#   SoftmaxRegression keeps them.
# Why it matters: a copy that is scored beside the running model is another run; take it with copy.deepcopy.
# Seen with river 0.26.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    river==0.26.1 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import pickle
import sys
from importlib.metadata import version

import numpy as np
from river import linear_model, naive_bayes, optim, preprocessing

print({name: version(name) for name in ("river", "numpy")})
random = np.random.default_rng(0)
x = [dict(zip("abc", map(float, row), strict=True)) for row in random.normal(size=(400, 3))]
y = [bool(row["a"] + 0.3 * random.normal() > 0) for row in x]


def rate():
    return optim.SGD(optim.schedulers.InverseScaling(learning_rate=1.0))


learners = {
    "LogisticRegression, Adam": linear_model.LogisticRegression(optim.Adam(0.05)),
    "LogisticRegression, falling rate": linear_model.LogisticRegression(rate()),
    "StandardScaler | LogisticRegression, Adam": preprocessing.StandardScaler()
    | linear_model.LogisticRegression(optim.Adam(0.05)),
    "LinearRegression, falling rate": linear_model.LinearRegression(rate()),
    "SoftmaxRegression, Adam": linear_model.SoftmaxRegression(optim.Adam(0.05)),
    "GaussianNB": naive_bayes.GaussianNB(),
}


def learn(model, samples):
    for i in samples:
        model.learn_one(x[i], y[i])


def outputs(model):
    if hasattr(model, "predict_proba_one"):
        return np.array([model.predict_proba_one(row)[True] for row in x[300:]])
    return np.array([model.predict_one(row) for row in x[300:]])


changed = False
for name, model in learners.items():
    learn(model, range(200))
    copies = {"pickle": pickle.loads(pickle.dumps(model)), "clone": model.clone(include_attributes=True)}
    at_once = {way: float(np.abs(outputs(copy) - outputs(model)).max()) for way, copy in copies.items()}
    for one in (model, *copies.values()):
        learn(one, range(200, 300))
    later = {way: float(np.abs(outputs(copy) - outputs(model)).max()) for way, copy in copies.items()}
    print(
        f"{name}: outputs of the clone are off by {at_once['clone']:.4f} at once and {later['clone']:.4f} "
        f"after 100 more samples, of the pickle by {at_once['pickle']:.4f} and {later['pickle']:.4f}"
    )
    resets = "LogisticRegression" in name or "LinearRegression" in name
    changed |= max(*at_once.values(), later["pickle"]) > 0
    changed |= later["clone"] < 0.01 if resets else later["clone"] > 0
sys.exit("The behaviour has changed." if changed else 0)
EOF
