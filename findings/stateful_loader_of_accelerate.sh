#!/usr/bin/env bash
# Guess: accelerate with use_stateful_dataloader=True, saved after 4 of 10 batches and loaded under the same
#   seed, brings the other 6, and later epochs as undisturbed.
# What happens: torchdata's loader by itself does. Prepared by accelerate it goes on in another order: 2 of
#   the 10 come twice and 2 never, and the next epoch differs, too.
# Why it matters: the loader's state is saved and loaded for the very purpose of an exact resume.
# Seen with accelerate 1.15.0, torchdata 0.11.0, torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    accelerate==1.15.0 torchdata==0.11.0 torch==2.13.0 numpy==2.4.6
"$folder/environment/bin/python" -W ignore - "$folder" <<'EOF'
import sys
from importlib.metadata import version

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

print({name: version(name) for name in ("accelerate", "torchdata", "torch")})
data = TensorDataset(torch.arange(10))


class Bare:
    """torchdata's loader without accelerate."""

    def __init__(self):
        set_seed(0)
        self.loader = StatefulDataLoader(data, shuffle=True)

    def save(self):
        self.state = self.loader.state_dict()

    def load(self, saved):
        self.loader.load_state_dict(saved.state)


class Prepared:
    def __init__(self):
        AcceleratorState._reset_state(True)  # as in a new process
        GradientState._reset_state()
        set_seed(0)
        settings = DataLoaderConfiguration(use_stateful_dataloader=True)
        self.accelerator = Accelerator(cpu=True, dataloader_config=settings)
        self.loader = self.accelerator.prepare(DataLoader(data, shuffle=True))

    def save(self):
        self.accelerator.save_state(sys.argv[1] + "/saved")

    def load(self, saved):
        self.accelerator.load_state(sys.argv[1] + "/saved")


def values(batches):
    return [int(batch[0]) for batch in batches]


outcome = {}
for name, make in (("torchdata", Bare), ("accelerate", Prepared)):
    undisturbed = make()
    whole = [values(undisturbed.loader) for _ in range(3)]
    for epoch in range(2):
        first = make()
        for _ in range(epoch):
            values(first.loader)
        before = []
        for batch in first.loader:
            before += values([batch])
            if len(before) == 4:
                first.save()
                break
        second = make()
        second.load(first)
        resumed = before + values(second.loader)
        lost = len(set(range(10)) - set(resumed))
        outcome[name, epoch] = (resumed == whole[epoch], lost, values(second.loader) == whole[epoch + 1])
        print(f"{name}, broken off in epoch {epoch + 1}: {resumed}, undisturbed {whole[epoch]}")
        print(f"    lost {lost}; next epoch as undisturbed: {outcome[name, epoch][2]}")
seen = {("torchdata", epoch): (True, 0, True) for epoch in range(2)}
seen |= {("accelerate", epoch): (False, 2, False) for epoch in range(2)}
sys.exit("The behaviour has changed." if outcome != seen else 0)
EOF
