#!/usr/bin/env bash
# Guess: of a run that is broken off after 2 of 3 epochs of patience, Keras and skorch forget the 2 and stop 2
#   epochs late.
# What happens: both stop 3 epochs late: they forget the best score as well, so that the first epoch after the
#   resume counts as the best whatever it is, and Keras gives back its weights in place of the best ones.
# Why it matters: each resume prolongs the run by up to its patience plus one, and restore_best_weights brings
#   the best epoch since the last resume.
# Seen with keras 3.15.1, skorch 1.4.0, torch 2.13.0, scikit-learn 1.9.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    keras==3.15.1 skorch==1.4.0 torch==2.13.0 scikit-learn==1.9.1 numpy==2.4.6
"$folder/environment/bin/python" - "$folder" <<'EOF'
import os
import pickle
import sys
from importlib.metadata import version

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np
import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, EarlyStopping

print({name: version(name) for name in ("keras", "skorch", "torch")})
losses = [1.0, 0.9, 0.8] + [0.85] * 20  # the best epoch is 3, so epoch 6 is the last
x = y = np.zeros((2, 1), dtype="float32")


class Loss(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = losses[epoch]


class Break(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 5:
            raise KeyboardInterrupt


def with_keras(*more, backup):
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True)
    calls = [Loss(), stopping, keras.callbacks.BackupAndRestore(os.path.join(sys.argv[1], backup)), *more]
    try:
        last = net.fit(x, y, epochs=len(losses), callbacks=calls, verbose=0).epoch[-1] + 1
    except KeyboardInterrupt:
        return None
    return last, stopping.best_epoch + 1


class Record(Callback):
    def on_epoch_end(self, net, **others):
        net.history.record("valid_loss", losses[len(net.history) - 1])


def with_skorch(epochs):
    calls = [("record", Record()), ("stopping", EarlyStopping("valid_loss", patience=3))]
    return NeuralNetRegressor(
        torch.nn.Linear, module__in_features=1, module__out_features=1, max_epochs=epochs, train_split=None,
        callbacks=calls, callbacks__print_log=None, verbose=0,
    )  # fmt: skip


undisturbed = [with_keras(backup="whole"), len(with_skorch(len(losses)).fit(x, y).history)]
with_keras(Break(), backup="broken")
net = pickle.loads(pickle.dumps(with_skorch(5).fit(x, y)))
net.set_params(max_epochs=len(losses) - 5)
resumed = [with_keras(backup="broken"), len(net.partial_fit(x, y).history)]
for name, ((epoch, best), last) in {"undisturbed": undisturbed, "resumed after epoch 5": resumed}.items():
    print(
        f"{name}: Keras stops after epoch {epoch} with the weights of epoch {best}, skorch after epoch {last}"
    )
seen = [(6, 3), 6], [(9, 6), 9]
sys.exit("The behaviour has changed." if (undisturbed, resumed) != seen else 0)
EOF
