#!/usr/bin/env bash
# Guess: a datasets stream shuffled with a buffer of 10 and resumed from its state has lost the 10 examples
#   in the buffer, and brings none twice.
# What happens: after 15 of 40 examples it has lost 6, brings one a second time, and ends 5 examples early.
# Why it matters: a run that is resumed within an epoch trains on some examples twice and never sees others.
# Seen with datasets 5.2.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    datasets==5.2.0 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import os
import sys
from importlib.metadata import version

os.environ["HF_HUB_OFFLINE"] = "1"
from datasets import Dataset

print({name: version(name) for name in ("datasets", "numpy")})


def stream():
    return Dataset.from_dict({"x": list(range(40))}).to_iterable_dataset().shuffle(seed=0, buffer_size=10)


before = []
first = stream()
for example in first:
    before.append(example["x"])
    if len(before) == 15:
        state = first.state_dict()
        break
second = stream()
second.load_state_dict(state)
after = [example["x"] for example in second]

lost = sorted(set(range(40)) - set(before) - set(after))
twice = sorted(set(before) & set(after))
print("before:", before, "\nafter: ", after)
print("lost:", lost, "twice:", twice)
seen = [10, 12, 13, 17, 21, 22], [15], 20
sys.exit("The behaviour has changed." if (lost, twice, len(after)) != seen else 0)
EOF
