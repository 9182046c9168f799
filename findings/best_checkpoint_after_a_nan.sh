#!/usr/bin/env bash
# Guess: orbax takes a NaN for the worst of scores, so that the best checkpoint stays.
# What happens: a NaN cuts the search for the best: the checkpoint with score 3 is deleted in favour of a
#   later one with 2, or with 1; had the NaN come before the 3, the 3 would have stayed.
# Why it matters: one NaN in a validation score deletes the best weights of the run, and best_step() names
#   others.
# Seen with orbax-checkpoint 0.12.8, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/environment/bin/python" - "$folder" <<'EOF'
import logging
import math
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

print({name: version(name) for name in ("orbax-checkpoint", "jax")})
logging.disable(logging.WARNING)
nan = math.nan


def kept(number, scores, at_most):
    """The scores of the checkpoints that are left, and that of the best of them by the manager's word."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=at_most, best_fn=lambda metrics: metrics["score"], best_mode="max"
    )
    with ocp.CheckpointManager(Path(sys.argv[1], f"run {number}"), options=options) as manager:
        for step, score in enumerate(scores):
            manager.save(step, args=ocp.args.StandardSave({"w": np.ones(1)}), metrics={"score": score})
        manager.wait_until_finished()
        return [scores[step] for step in manager.all_steps()], scores[manager.best_step()]


seen = [
    ((3.0, -1.0, 2.0, 1.0), 1, ([3.0], 3.0)),
    ((nan, 1.0, 3.0, 2.0), 1, ([3.0], 3.0)),
    ((3.0, nan, 2.0, 1.0), 1, ([2.0], 2.0)),
    ((3.0, nan, 1.0), 1, ([1.0], 1.0)),
    ((3.0, nan, 2.0, 1.0), 2, ([2.0, 1.0], 2.0)),
]
changed = False
for number, (scores, at_most, expected) in enumerate(seen):
    outcome = kept(number, scores, at_most)
    print(f"scores {scores}, {at_most} kept: {outcome[0]}, best {outcome[1]}")
    changed |= outcome != expected
sys.exit("The behaviour has changed." if changed else 0)
EOF
