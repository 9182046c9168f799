#!/usr/bin/env bash
# Guess: ignite's ReduceLROnPlateauScheduler, resumed from its state_dict and the optimiser's, keeps the rate
#   and at worst counts its patience anew, so that the next drop comes a little late.
# What happens: the rate never drops again, through memory or through a file: the state holds a bound method
#   of the old scheduler, which goes on lowering the old optimiser.
# Why it matters: a resumed run stays at the rate that it was broken off with, without a word.
# Seen with pytorch-ignite 0.5.5, torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    pytorch-ignite==0.5.5 torch==2.13.0 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import io
import sys
from importlib.metadata import version

import torch
from ignite.engine import Engine, Events
from ignite.handlers.param_scheduler import ReduceLROnPlateauScheduler

print({name: version(name) for name in ("pytorch-ignite", "torch")})


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def rates(iterations, states=None):
    """The rates of a run whose loss stays at 1, and the states at its end."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.8)
    scheduler = ReduceLROnPlateauScheduler(optimizer, metric_name="loss", patience=2, factor=0.5)
    if states:
        optimizer.load_state_dict(states[0])
        scheduler.load_state_dict(states[1])
    engine, used = Engine(lambda engine, batch: None), []
    engine.state.metrics = {"loss": 1.0}
    engine.add_event_handler(Events.ITERATION_STARTED, scheduler)
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: used.append(optimizer.param_groups[0]["lr"]))
    engine.run(range(iterations), max_epochs=1)
    return used, (optimizer.state_dict(), scheduler.state_dict())


whole, _ = rates(16)
print("undisturbed:", whole)
changed = len(set(whole)) < 5
for name, carry in (("memory", lambda state: state), ("a file", through_a_file)):
    before, states = rates(5)
    after, _ = rates(11, [carry(state) for state in states])
    print(f"broken off after 5 iterations, resumed through {name}:", after)
    changed |= before != whole[:5] or set(after) != {before[-1]}
sys.exit("The behaviour has changed." if changed else 0)
EOF
