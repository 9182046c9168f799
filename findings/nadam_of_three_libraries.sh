#!/usr/bin/env bash
# Guess: with equal rates and epsilon NAdam takes the same path in torch and Keras, since both follow the
#   schedule of its author, and another in optax.
# What happens: three libraries, three ends; torch meets Keras only if its momentum_decay is 1 instead of
#   0.004.
# Why it matters: a result tuned with one NAdam does not carry over to another, though all hyperparameters
#   have the same names.
# Seen with torch 2.13.0, optax 0.2.8, jax 0.10.2, jaxlib 0.10.2, keras 3.15.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 keras==3.15.1 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import os
import sys
from importlib.metadata import version

os.environ["KERAS_BACKEND"] = "torch"
import keras
import optax
import torch

print({name: version(name) for name in ("torch", "optax", "keras")})
steps, rate, beta1, beta2, epsilon = 20, 0.1, 0.9, 0.99, 1e-8  # minimise w ** 2 / 2 from w = 1


def with_torch(**extra):
    w = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.NAdam([w], lr=rate, betas=(beta1, beta2), eps=epsilon, **extra)
    for _ in range(steps):
        w.grad = w.detach().clone()
        optimizer.step()
    return w.item()


def with_optax():
    w = optax.tree.ones_like(0.0)
    optimizer = optax.nadam(rate, b1=beta1, b2=beta2, eps=epsilon)
    state = optimizer.init(w)
    for _ in range(steps):
        update, state = optimizer.update(w, state, w)
        w = optax.apply_updates(w, update)
    return float(w)


def with_keras():
    w = keras.Variable([1.0])
    optimizer = keras.optimizers.Nadam(rate, beta_1=beta1, beta_2=beta2, epsilon=epsilon)
    optimizer.build([w])
    for _ in range(steps):
        optimizer.apply([keras.ops.copy(w.value.detach())], [w])
    return w.value.item()


outcome = [with_torch(), with_torch(momentum_decay=1.0), with_keras(), with_optax()]
print(dict(zip(["torch", "torch, momentum_decay=1", "keras", "optax"], outcome)))
seen = [-0.0328, -0.0860, -0.0860, -0.2108]
sys.exit("The behaviour has changed." if max(abs(a - b) for a, b in zip(outcome, seen)) > 2e-3 else 0)
EOF
