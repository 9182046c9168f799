#!/usr/bin/env bash
# Guess: a StatefulDataLoader can be resumed several times in one epoch, and what it brings is the whole
#   epoch.
# What happens: over an iterable dataset without a state of its own one resume is exact. The state after a
#   resume counts the batches before it twice: resumed twice, after 3 and 3 of 10 batches, 3 are lost; after 2
#   and 2, 2.
# Why it matters: a run that is preempted twice in an epoch skips data, and a test with one resume passes.
# Seen with torchdata 0.11.0, torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torchdata==0.11.0 torch==2.13.0 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import logging
import sys
from importlib.metadata import version
from itertools import islice

import torch
from torch.utils.data import IterableDataset, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

print({name: version(name) for name in ("torchdata", "torch")})
logging.disable(logging.WARNING)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(10))


def loader(kind):
    return StatefulDataLoader(Stream() if kind == "stream" else TensorDataset(torch.arange(10)))


def values(batches):
    return [int(batch if torch.is_tensor(batch) else batch[0]) for batch in batches]


def brought(kind, pieces):
    """What comes in an epoch that is broken off after each of these numbers of batches."""
    current, seen = loader(kind), []
    for length in pieces:
        seen += values(islice(current, length))
        state = current.state_dict()
        current = loader(kind)
        current.load_state_dict(state)
    return seen + values(current)


outcome = {}
for kind in ("map", "stream"):
    for pieces in ((3,), (2, 2), (3, 3), (1, 1, 1)):
        lost = sorted(set(range(10)) - set(brought(kind, pieces)))
        print(f"{kind} dataset, broken off after {pieces}: lost {lost}")
        outcome[kind, pieces] = lost
seen = {key: [] for key in outcome}
seen |= {("stream", (2, 2)): [4, 5], ("stream", (3, 3)): [6, 7, 8], ("stream", (1, 1, 1)): [2, 4, 5, 6]}
sys.exit("The behaviour has changed." if outcome != seen else 0)
EOF
