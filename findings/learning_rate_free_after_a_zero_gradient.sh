#!/usr/bin/env bash
# Guess: the optimisers of optax.contrib that find their own learning rate stay finite if the very first
#   gradient is zero.
# What happens: prodigy and dadapt_adamw turn all weights into NaN for good; dog, dowg and cocob train on.
# Why it matters: the first batch may carry no gradient (all samples masked, a layer that starts at zero, a
#   frozen block), and then the run is lost at step 1.
# Seen with optax 0.2.8, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import jax.numpy as jnp
import optax

print({name: version(name) for name in ("optax", "jax", "jaxlib")})
seen_finite = {"prodigy": False, "dadapt_adamw": False, "dog": True, "dowg": True, "cocob": True}


def end(optimizer, first_gradient_is_zero, steps=100):
    """Where 100 steps on (w - 3) ** 2 / 2 from w = 1 end."""
    w = jnp.ones(2)
    state = optimizer.init(w)
    for step in range(steps):
        gradient = jnp.zeros(2) if first_gradient_is_zero and step == 0 else w - 3
        update, state = optimizer.update(gradient, state, w)
        w = optax.apply_updates(w, update)
    return float(w[0])


changed = False
for name, finite in seen_finite.items():
    usual, after_zero = (end(getattr(optax.contrib, name)(), zero) for zero in (False, True))
    print(f"{name}: ends at {usual:.3f}, after a zero first gradient at {after_zero:.3f}")
    changed |= usual != usual or (after_zero == after_zero) != finite
sys.exit("The behaviour has changed." if changed else 0)
EOF
