#!/usr/bin/env bash
# Guess: a Trainer that resumes from the checkpoint of an epoch's last minibatch goes on with the next epoch, whatever
#   the DataLoader.
# What happens: with a plain DataLoader it does, and ends at step 15 of 15. With a StatefulDataLoader the next epoch
#   trains on nothing: the run ends at step 10, without an error.
# Why it matters: checkpoints every so many steps fall on the end of an epoch by chance, and an epoch that was not
#   trained looks like one that was, but for the number of steps.
# Seen with lightning 2.6.6, torchdata 0.11.0, torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    lightning==2.6.6 torchdata==0.11.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/environment/bin/python" - <<'EOF'
import logging
import sys
import warnings
from importlib.metadata import version

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
print({name: version(name) for name in ("lightning", "torchdata", "torch")})


class Line(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        return (self.layer(batch[0]) - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def trainer(epochs, folder):
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)],
    )  # fmt: skip


outcome = {}
for kind in (DataLoader, StatefulDataLoader):
    data = TensorDataset(torch.ones(20, 1))
    trainer(1, kind.__name__).fit(Line(), kind(data, batch_size=4))
    second = trainer(3, kind.__name__)
    second.fit(Line(), kind(data, batch_size=4), ckpt_path=f"{kind.__name__}/step=5.ckpt")
    print(f"{kind.__name__}: epochs {second.current_epoch}, steps {second.global_step} of 15")
    outcome[kind.__name__] = second.global_step
seen = {"DataLoader": 15, "StatefulDataLoader": 10}
sys.exit("The behaviour has changed." if outcome != seen else 0)
EOF
