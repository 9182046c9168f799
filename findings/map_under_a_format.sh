#!/usr/bin/env bash
# Guess: a map that adds a column and hands back its example leaves a float64 column as it was, under
#   with_format("torch") and with_format("numpy").
# What happens: the format hands out float32, and map writes that back into the column, which is still named
#   float64: 16777217 becomes 16777216. With numpy that happens in batches only. A map that returns nothing
#   but the new column leaves the others alone.
# Why it matters: inputs and targets that were not touched are rounded for good before a net sees them; return
#   the new column only, or map before the format is set.
# Seen with datasets 5.2.0, torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    datasets==5.2.0 torch==2.13.0 numpy==2.4.6
HF_HOME="$folder" "$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import datasets

print({name: version(name) for name in ("datasets", "torch", "numpy")})
datasets.disable_progress_bars()
data = datasets.Dataset.from_dict({"x": [0.1, 16777217.0], "row": [0, 1]})


def hands_back(example):
    example["twice"] = [2 * row for row in example["row"]] if batched else 2 * example["row"]
    return example


def returns_the_new_one(example):
    return {"twice": hands_back(example)["twice"]}


changed = False
for form in ("torch", "numpy", None):
    for batched in (False, True):
        for function in (hands_back, returns_the_new_one):
            mapped = data.with_format(form).map(function, batched=batched).with_format(None)
            x, kind = list(mapped["x"]), mapped.features["x"].dtype
            print(f"{form}, batched={batched}, {function.__name__}: {x}, {kind}")
            rounds = function is hands_back and (form == "torch" or (form == "numpy" and batched))
            changed |= kind != "float64" or x != (
                [0.10000000149011612, 16777216.0] if rounds else [0.1, 16777217.0]
            )
sys.exit("The behaviour has changed." if changed else 0)
EOF
