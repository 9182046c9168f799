#!/usr/bin/env bash
# Guess: torchdata.nodes resumes a RandomSampler with a seeded generator exactly, in whichever epoch the run
#   was broken off.
# What happens: in the first epoch it does. In a later one the rest of the epoch is taken from the order of
#   the first: of 12 examples, broken off after 4, three come twice and three never; the next epoch is the
#   second.
# Why it matters: the state loads without complaint, and a test that breaks off in the first epoch passes.
# Seen with torchdata 0.11.0, torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torchdata==0.11.0 torch==2.13.0 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version
from itertools import islice

import torch
from torch.utils.data import RandomSampler
from torchdata.nodes import Loader, SamplerWrapper

print({name: version(name) for name in ("torchdata", "torch")})


def loader():
    return Loader(SamplerWrapper(RandomSampler(range(12), generator=torch.Generator().manual_seed(0))))


undisturbed = loader()
whole = [list(undisturbed) for _ in range(4)]
print("undisturbed:", *whole, sep="\n    ")

outcome = []
for epoch in range(3):
    first = loader()
    for _ in range(epoch):
        list(first)
    before = list(islice(first, 4))
    second = loader()
    second.load_state_dict(first.state_dict())
    after, following = list(second), list(second)
    twice = len(set(before) & set(after))
    print(f"broken off in epoch {epoch + 1}: {before}, resumed: {after}, {twice} come twice")
    print(f"    next epoch: {following}")
    outcome.append((before + after == whole[epoch], after == whole[0][4:], following == whole[1], twice))
seen = [(True, True, True, 0), (False, True, True, 3), (False, True, True, 2)]
sys.exit("The behaviour has changed." if outcome != seen else 0)
EOF
