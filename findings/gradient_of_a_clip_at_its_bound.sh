#!/usr/bin/env bash
# Guess: in JAX jnp.clip and jax.nn.relu6, both a minimum of a maximum, pass half the gradient at the upper
#   bound, hard_tanh all of it.
# What happens: at the bound jnp.clip passes 0.5, jax.nn.relu6 0, jax.nn.hard_tanh 1 and jax.lax.clamp 0:
#   one library, three gradients.
# Why it matters: weights clipped to [-1, 1] lie exactly on the bound, so a straight-through estimator
#   written with one or the other trains another net.
# Seen with jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp

print({name: version(name) for name in ("jax", "jaxlib")})
clips = {  # name: function, its upper bound, the gradient seen there
    "jnp.clip": (lambda x: jnp.clip(x, -1.0, 1.0), 1.0, 0.5),
    "jax.nn.relu6": (jax.nn.relu6, 6.0, 0.0),
    "jax.nn.hard_tanh": (jax.nn.hard_tanh, 1.0, 1.0),
    "jax.lax.clamp": (lambda x: jax.lax.clamp(-1.0, x, 1.0), 1.0, 0.0),
}
changed = False
for name, (clip, bound, seen) in clips.items():
    inside, at, outside = (float(jax.grad(clip)(bound + offset)) for offset in (-0.5, 0.0, 0.5))
    print(f"{name}: gradient {inside} inside, {at} at the bound, {outside} outside")
    changed |= (inside, at, outside) != (1.0, seen, 0.0)
sys.exit("The behaviour has changed." if changed else 0)
EOF
