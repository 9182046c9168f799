#!/usr/bin/env bash
# Guess: ignite's EarlyStopping takes a NaN for its best score from then on and never stops.
# What happens: it stops, but two epochs later than with inf in the NaN's place: NaN and the epoch after it
#   both pass for improvements, and the best score before is forgotten.
# Why it matters: one NaN in the validation loss moves the end of a run and lets a run that got worse go on.
# Seen with pytorch-ignite 0.5.5, torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    pytorch-ignite==0.5.5 torch==2.13.0 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import logging
import sys
from importlib.metadata import version

from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping

print({name: version(name) for name in ("pytorch-ignite", "torch")})
logging.disable(logging.INFO)


def last_epoch(losses):
    trainer = Engine(lambda engine, batch: None)
    stopping = EarlyStopping(
        patience=3, score_function=lambda engine: -losses[engine.state.epoch - 1], trainer=trainer
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, stopping)
    return trainer.run([0], max_epochs=len(losses)).epoch, stopping.best_score


seen = {"inf": (5, -0.8), "nan": (7, -0.9)}  # last epoch, best score
outcome = {value: last_epoch([1.0, 0.8, float(value)] + [0.9] * 7) for value in seen}
for value, (epoch, best) in outcome.items():
    print(f"losses 1, 0.8, {value}, 0.9, 0.9, ...: stops after epoch {epoch} with the best score {best}")
sys.exit("The behaviour has changed." if outcome != seen else 0)
EOF
