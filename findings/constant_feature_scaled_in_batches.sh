#!/usr/bin/env bash
# Guess: river's StandardScaler makes a constant feature 0, whether it learns by learn_one or by learn_many,
#   as scikit-learn's partial_fit does.
# What happens: after learn_many the rounding errors of the merged variances stand for the spread. In batches
#   of ten, of 255 constant features k/255 about a hundred become numbers as large as 5.6 and about fifty
#   complex numbers, since their variance is negative; even batches of one row do harm. learn_one and
#   scikit-learn give 0 throughout.
# Why it matters: a pixel that never changes reaches the net as a large constant; drop such columns before a
#   stream is scaled in batches.
# Seen with river 0.26.1, pandas 3.1.1, scikit-learn 1.9.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    river==0.26.1 pandas==3.1.1 scikit-learn==1.9.1 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
from river.preprocessing import StandardScaler
from sklearn.preprocessing import StandardScaler as BatchScaler

print({name: version(name) for name in ("river", "pandas", "scikit-learn", "numpy")})
names = [f"pixel{k}" for k in range(1, 256)]
rows = pd.DataFrame(np.tile(np.arange(1, 256) / 255, (200, 1)), columns=names)  # every column is constant
row = rows.iloc[0].to_dict()


def report(way, scaled):
    """How many of the 255 scaled values are off by more than 0.01, and how many are no real numbers."""
    unreal = sum(isinstance(value, complex) for value in scaled)
    off = [abs(value) for value in scaled if abs(value) > 0.01]
    print(
        f"{way}: {len(off)} values are not 0 (the largest is {max(off, default=0):.2f}), {unreal} are complex"
    )
    return len(off), unreal


one, batch = StandardScaler(), BatchScaler()
for start in range(0, 200, 10):
    for _, sample in rows[start : start + 10].iterrows():
        one.learn_one(sample.to_dict())
    batch.partial_fit(rows[start : start + 10])
changed = report("river, learn_one", one.transform_one(row).values()) != (0, 0)
changed |= report("scikit-learn, 10 rows a call", batch.transform(rows[:1])[0]) != (0, 0)
for size in (1, 10, 20):
    many = StandardScaler()
    for start in range(0, 200, size):
        many.learn_many(rows[start : start + size])
    off, unreal = report(f"river, learn_many of {size}", many.transform_one(row).values())
    changed |= off < 20 or (unreal < 20 if size > 1 else unreal > 0)
sys.exit("The behaviour has changed." if changed else 0)
EOF
