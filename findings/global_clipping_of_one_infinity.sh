#!/usr/bin/env bash
# Guess: with one infinite gradient, clipping by the global norm makes that one weight NaN and gives the
#   rest a step of 0, in Keras as in torch and optax.
# What happens: Keras turns every weight of every variable into NaN; optax only the one. With clipnorm, norm
#   by norm, Keras does as optax.
# Why it matters: one overflow destroys the whole net instead of one weight, and the place where it began
#   can no longer be seen.
# Seen with keras 3.15.1, optax 0.2.8, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    keras==3.15.1 optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import os
import sys
from importlib.metadata import version

os.environ["KERAS_BACKEND"] = "jax"
import jax.numpy as jnp
import keras
import numpy as np
import optax

print({name: version(name) for name in ("keras", "optax", "jax")})
gradients = [jnp.array([1.0, jnp.inf, 2.0]), jnp.array([3.0])]


def with_keras(**clipping):
    variables = [keras.Variable(np.zeros(3)), keras.Variable(np.zeros(1))]
    optimizer = keras.optimizers.SGD(1.0, **clipping)
    optimizer.build(variables)
    optimizer.apply(gradients, variables)
    return [np.isnan(variable.numpy()).tolist() for variable in variables]


def with_optax():
    clip = optax.clip_by_global_norm(1.0)
    updates, _ = clip.update(gradients, clip.init(gradients))
    return [np.isnan(update).tolist() for update in updates]


outcome = {
    "keras, global_clipnorm": with_keras(global_clipnorm=1.0),
    "keras, clipnorm": with_keras(clipnorm=1.0),
    "optax, clip_by_global_norm": with_optax(),
}
for name, is_nan in outcome.items():
    print(f"{name}: weights that are NaN after the step {is_nan}")
one = [[False, True, False], [False]]
seen = [[[True, True, True], [True]], one, one]
sys.exit("The behaviour has changed." if list(outcome.values()) != seen else 0)
EOF
