#!/usr/bin/env bash
# Guess: with the scores NaN, 1, 3, 2 Lightning, skorch and Keras keep the weights of the 3, and ignite those
#   of the NaN.
# What happens: Lightning and skorch keep those of the 3. In Keras, as in ignite, the NaN's are the best for
#   ever; a NaN in second place does no harm in any of the four.
# Why it matters: a first validation that fails (an empty class, an overflow before the warm-up) makes the
#   file of the best weights that of the worst epoch.
# Seen with keras 3.15.1, lightning 2.6.6, skorch 1.4.0, pytorch-ignite 0.5.5, torch 2.13.0, scikit-learn
#   1.9.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    keras==3.15.1 lightning==2.6.6 skorch==1.4.0 pytorch-ignite==0.5.5 torch==2.13.0 scikit-learn==1.9.1 \
    numpy==2.4.6
"$folder/environment/bin/python" -W ignore - "$folder" <<'EOF'
import logging
import math
import os
import sys
import tempfile
from importlib.metadata import version

os.environ["KERAS_BACKEND"] = "torch"
import keras
import lightning
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from lightning.pytorch.callbacks import ModelCheckpoint
from skorch import NeuralNetRegressor, callbacks
from torch.utils.data import DataLoader, TensorDataset

print({name: version(name) for name in ("keras", "lightning", "skorch", "pytorch-ignite", "torch")})
logging.disable(logging.WARNING)
x = y = np.zeros((2, 1), dtype="float32")


def epoch_in(folder):
    """The epoch that the last file written there names."""
    last = max(os.scandir(folder), key=lambda entry: entry.stat().st_mtime_ns).name
    return int("".join(filter(str.isdigit, last.split(".")[0])))


def with_keras(scores, folder):
    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = scores[epoch]

    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    keep = keras.callbacks.ModelCheckpoint(
        folder + "/{epoch}.keras", monitor="score", mode="max", save_best_only=True
    )
    net.fit(x, y, epochs=len(scores), callbacks=[Score(), keep], verbose=0)
    return epoch_in(folder)


def with_lightning(scores, folder):
    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch, index):
            return self.w.sum()

        def validation_step(self, batch, index):
            self.log("score", scores[self.current_epoch])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    keep = ModelCheckpoint(folder, "{epoch}", monitor="score", mode="max")
    trainer = lightning.Trainer(
        max_epochs=len(scores), accelerator="cpu", logger=False, callbacks=[keep], num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = DataLoader(TensorDataset(torch.zeros(2, 1)))
    trainer.fit(Net(), data, data)
    return epoch_in(folder) + 1


def with_skorch(scores, folder):
    coming = iter(scores)
    score = callbacks.EpochScoring(
        lambda net, x, y: next(coming), lower_is_better=False, name="score", on_train=True, use_caching=False
    )
    keep = callbacks.Checkpoint(
        "score_best", f_params="{last_epoch[epoch]}.pt", f_optimizer=None, f_criterion=None, f_history=None,
        dirname=folder,
    )  # fmt: skip
    NeuralNetRegressor(
        torch.nn.Linear, module__in_features=1, module__out_features=1, max_epochs=len(scores),
        train_split=None, callbacks=[("score", score), ("keep", keep)], verbose=0,
    ).fit(x, y)  # fmt: skip
    return epoch_in(folder)


def with_ignite(scores, folder):
    trainer = Engine(lambda engine, batch: None)
    keep = Checkpoint(
        {"net": torch.nn.Linear(1, 1)}, DiskSaver(folder, require_empty=False), n_saved=1,
        score_function=lambda engine: scores[engine.state.epoch - 1],
        filename_pattern="{global_step}.pt", global_step_transform=lambda engine, event: engine.state.epoch,
    )  # fmt: skip
    trainer.add_event_handler(Events.EPOCH_COMPLETED, keep)
    trainer.run([0], max_epochs=len(scores))
    return epoch_in(folder)


packages = (with_lightning, with_skorch, with_keras, with_ignite)
outcome = {}
for scores in ((math.nan, 1.0, 3.0, 2.0), (1.0, math.nan, 3.0, 2.0)):
    best = {use.__name__[5:]: use(scores, tempfile.mkdtemp(dir=sys.argv[1])) for use in packages}
    print(f"scores {scores}: best epoch {best}")
    outcome[scores] = list(best.values())
sys.exit("The behaviour has changed." if list(outcome.values()) != [[3, 3, 1, 1], [3, 3, 3, 3]] else 0)
EOF
