#!/usr/bin/env bash
# Guess: the Trainer of transformers, broken off within an epoch and resumed, ends with the weights of the
#   undisturbed run, dropout included, with and without workers.
# What happens: bit for bit so without workers and with two; with two persistent ones the weights differ. In
#   the undisturbed run such workers spare the second epoch a draw from the global generator, which the new
#   loader of the resumed run makes.
# Why it matters: an option for speed decides whether a resume is exact.
# Seen with transformers 5.24.0, accelerate 1.15.0, torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    transformers==5.24.0 accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
"$folder/environment/bin/python" -W ignore - "$folder" <<'EOF'
import contextlib
import io
import logging
import os
import sys
import tempfile
from importlib.metadata import version

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

print({name: version(name) for name in ("transformers", "accelerate", "torch")})
logging.disable(logging.WARNING)
torch.set_num_threads(1)
numbers = torch.Generator().manual_seed(0)
data = [{"x": torch.randn(4, generator=numbers), "labels": torch.tensor(float(i % 3))} for i in range(40)]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(16, 1)
        )

    def forward(self, x, labels):
        return {"loss": ((self.layers(x)[:, 0] - labels) ** 2).mean()}


class Break(TrainerCallback):
    def on_step_end(self, arguments, state, control, **others):
        control.should_save = control.should_training_stop = state.global_step == 4
        return control


def weights(folder, settings, calls=(), resume=None):
    arguments = TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=4, learning_rate=0.01, use_cpu=True,
        save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, **settings,
    )  # fmt: skip
    set_seed(0)
    trainer = Trainer(Net(), arguments, train_dataset=data, callbacks=list(calls))
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train(resume_from_checkpoint=resume)
    return torch.nn.utils.parameters_to_vector(trainer.model.parameters())


outcome = []
for settings in (
    {},
    {"dataloader_num_workers": 2},
    {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
):
    folder = tempfile.mkdtemp(dir=sys.argv[1])
    whole = weights(folder, settings)
    weights(folder, settings, calls=[Break()])
    apart = (weights(folder, settings, resume=True) - whole).abs().max().item()
    print(f"{settings}: weights of the resumed run and of the undisturbed one apart by {apart:.2g}")
    outcome.append(apart)
sys.exit("The behaviour has changed." if outcome[:2] != [0, 0] or outcome[2] < 1e-3 else 0)
EOF
