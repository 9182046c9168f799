"""
Every layer has an objective of its own
=======================================

Backpropagation has one number to watch, the loss. Here every stage of the network has a task of its own, to fit
the code above its weights, and a step reports how far each is from that.
"""

import matplotlib.pyplot as plt
import torch

import altmin_ext
from altmin_ext import data, models

digits = data.load("digits")
torch.manual_seed(0)
model = models.mlp(digits.n_in, [60, 60, 60], digits.classes)
history = altmin_ext.train(
    model,
    digits,
    method="am-sgd",
    lr=0.2,
    epochs=15,
    batch_size=50,
    report_objective=True,
    progress=False,
)
objective = history.step_objective
print(f"{len(objective)} steps, {objective.shape[1]} stages")

# %%
# Of the top stage it is the loss at the moved codes. Of a hidden stage it is half of the squared distance from
# its output to its code, so what its weights are asked to change. The further down, the less is asked, because
# a code moves only as far as the movement of the code above it makes worthwhile.

figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
window = torch.ones(1, 1, 15, dtype=torch.float64) / 15
smooth = torch.nn.functional.conv1d(objective.T[:, None], window)[:, 0]
names = [*(f"hidden stage {l + 1}" for l in range(objective.shape[1] - 1)), "top stage: the loss"]
for values, name in zip(smooth, names):
    axis.semilogy(values, label=name)
axis.set(xlabel="step", ylabel="objective per sample")
figure.legend(loc="outside right center")
plt.show()
