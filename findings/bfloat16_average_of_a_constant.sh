#!/usr/bin/env bash
# Guess: an exponential moving average that starts at a constant and is fed that constant stays within one
#   bfloat16 step of it.
# What happens: optax.incremental_update in bfloat16 lets it sink by up to 14 % (1.9375 to 1.6640625); in
#   float32 it stays.
# Why it matters: averaged weights or statistics kept in bfloat16 shrink though nothing changes; keep the
#   average in float32.
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
seen = {1.5: 1.5, 1.75: 1.6640625, 1.9375: 1.6640625}  # constant: where its average ends
step_of_bfloat16 = 2**-7  # between 1 and 2

changed = False
for constant, end in seen.items():
    ends = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        new = average = jnp.array(constant, dtype)
        for _ in range(2000):
            average = optax.incremental_update(new, average, step_size=0.01)
        ends[jnp.dtype(dtype).name] = float(average)
    print(f"average of the constant {constant} after 2000 steps: {ends}")
    changed |= abs(ends["bfloat16"] - end) > step_of_bfloat16 or abs(ends["float32"] - constant) > 1e-3
sys.exit("The behaviour has changed." if changed else 0)
EOF
