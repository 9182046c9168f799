#!/usr/bin/env bash
# Guess: a StatefulDataLoader that shuffles goes on as undisturbed after a resume, in this epoch and the next.
# What happens: without a generator it does. With generator=, the rest of this epoch is right and every later
#   epoch has another order, but only with no workers: with two the later ones are right as well.
# Why it matters: a seeded generator is passed to make runs repeatable; here it is what sets the resumed run
#   apart, and not before the epoch that a test of a resume looks at has ended.
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
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

print({name: version(name) for name in ("torchdata", "torch")})


def loader(seeded, workers):
    return StatefulDataLoader(
        TensorDataset(torch.arange(12)), batch_size=2, shuffle=True, num_workers=workers,
        generator=torch.Generator().manual_seed(0) if seeded else None,
    )  # fmt: skip


def values(batches):
    return [int(x) for (batch,) in batches for x in batch]


outcome = {}
for seeded in (False, True):
    for workers in (0, 2):
        torch.manual_seed(1)
        undisturbed = loader(seeded, workers)
        whole = [values(undisturbed) for _ in range(3)]
        torch.manual_seed(1)
        first = loader(seeded, workers)
        before = values(islice(first, 2))
        state = first.state_dict()
        torch.manual_seed(2)
        second = loader(seeded, workers)
        second.load_state_dict(state)
        resumed = [before + values(second), values(second), values(second)]
        same = [a == b for a, b in zip(whole, resumed)]
        print(
            f"{'generator' if seeded else 'no generator'}, {workers} workers: epochs as undisturbed: {same}"
        )
        outcome[seeded, workers] = same
seen = {key: [True, True, True] for key in outcome} | {(True, 0): [True, False, False]}
sys.exit("The behaviour has changed." if outcome != seen else 0)
EOF
