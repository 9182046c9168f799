"""
Killed, and gone on
===================

A program trains a network and is killed twice, by the signal that no program can catch. Each time the same
program is started again, and goes on from its checkpoint.
"""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import altmin_ext
from altmin_ext import data, models

PROGRAM = '''
import json, os, signal, sys
import torch
import altmin_ext
from altmin_ext import data, models

class Killer:
    """Notes where this process begins, and kills it after some minibatches."""
    def __init__(self, after):
        self.left = after
    def on_start(self, state):
        self.begins = None
    def on_step(self, state):
        if self.begins is None:
            self.begins = state.step
            with open("begun.jsonl", "a") as file:
                print(json.dumps(self.begins), file=file)
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

digits = data.load("digits")
torch.manual_seed(0)
model = models.mlp(digits.n_in, [30], digits.classes)
history = altmin_ext.train(
    model, digits, method="am-adam", epochs=8, batch_size=50, lr=0.003, progress=False,
    checkpoint="run.safetensors", checkpoint_every=25, resume=True, callbacks=[Killer(after=100)],
)
torch.save([model.state_dict(), history.step_loss], "end.pt")
'''

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "program.py").write_text(PROGRAM)
    ends = []
    while not ends or ends[-1] != 0:
        ends.append(subprocess.run([sys.executable, "program.py"], cwd=folder).returncode)
    begun = [json.loads(line) for line in Path(folder, "begun.jsonl").read_text().splitlines()]
    weights, loss = torch.load(Path(folder, "end.pt"))
print("how the processes ended:", [signal.Signals(-code).name if code else "by itself" for code in ends])
print("minibatch at which each began:", begun)

# %%
# The same run, undisturbed and in this process, ends with the same weights, bit for bit.

digits = data.load("digits")
torch.manual_seed(0)
model = models.mlp(digits.n_in, [30], digits.classes)
history = altmin_ext.train(model, digits, method="am-adam", epochs=8, batch_size=50, lr=0.003, progress=False)
print("same weights:", all(torch.equal(weights[name], own) for name, own in model.state_dict().items()))
print("same losses:", torch.equal(loss, history.step_loss))

# %%
# Grey is the loss of every minibatch of the undisturbed run. On it lies the History of the one that was killed,
# in one colour per process. Minibatches between the last checkpoint and a kill were trained twice, to the same
# bits.

figure, axis = plt.subplots(figsize=(9, 3.8), layout="constrained")
axis.semilogy(history.step_loss, color="lightgrey", linewidth=5, label="undisturbed")
for number, (first, last) in enumerate(zip(begun, [*begun[1:], len(loss) + 1]), 1):
    axis.semilogy(range(first - 1, last - 1), loss[first - 1 : last - 1], label=f"process {number}")
for first, end in zip(begun, ends):
    if end:
        axis.axvline(first + 99, color="black", linewidth=0.8)
axis.set(xlabel="minibatch", ylabel="loss")
axis.legend(title="vertical: killed")
plt.show()
