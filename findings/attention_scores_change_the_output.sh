#!/usr/bin/env bash
# Guess: Keras's MultiHeadAttention has the same output whether or not the attention scores are asked for.
# What happens: for a query whose keys are all masked it is the mean of the values without the scores, and
#   zero with them.
# Why it matters: a net with padded queries that is inspected (scores on) is not the net that was trained
#   (scores off).
# Seen with keras 3.15.1, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import os
import sys
from importlib.metadata import version

os.environ["KERAS_BACKEND"] = "jax"
import keras
import numpy as np

print({name: version(name) for name in ("keras", "jax", "numpy")})
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(1, 3, 4)).astype("float32")
mask = np.ones((1, 3, 3), bool)
mask[0, 0] = False  # the first query may see no key

attention = keras.layers.MultiHeadAttention(num_heads=1, key_dim=4, use_bias=False)
plain = np.asarray(attention(x, x, attention_mask=mask))[0]
both = attention(x, x, attention_mask=mask, return_attention_scores=True)
scored, scores = (np.asarray(part)[0] for part in both)
uniform = np.asarray(attention(0 * x, x))[0, 0]  # a zero query weighs all keys alike
print("first query, without scores:", plain[0], "\nfirst query, with scores:   ", scored[0])
print("mean over all keys:         ", uniform, "\nits scores:                 ", scores[0, 0])

same = (
    np.abs(plain[0]).max() > 0.01
    and np.allclose(plain[0], uniform, atol=1e-5)
    and not scored[0].any()
    and np.allclose(plain[1:], scored[1:], atol=1e-5)
)
sys.exit(0 if same else "The behaviour has changed.")
EOF
