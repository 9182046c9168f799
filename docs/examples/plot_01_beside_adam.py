"""
A first training, beside Adam
=============================

Two copies of one network learn handwritten digits: one by alternating minimisation with Adam's update of the
weights, one by backpropagation with Adam. Both see the same minibatches.
"""

import copy

import matplotlib.pyplot as plt
import numpy as np
import torch

import altmin_ext
from altmin_ext import data, models

digits = data.load("digits")
torch.manual_seed(0)
model = models.mlp(digits.n_in, [100, 100], digits.classes)

# One epoch beforehand, so that what either imports the first time is not timed.
for method in ("am-adam", "adam"):
    altmin_ext.train(copy.deepcopy(model), digits, method=method, progress=False)

histories = {
    method: altmin_ext.train(
        copy.deepcopy(model),
        digits,
        method=method,
        lr=0.002,
        epochs=20,
        batch_size=28,
        validation=digits,
        progress=False,
    )
    for method in ("am-adam", "adam")
}

# %%
# On the left, the digits of the test set that are wrong after each epoch: no difference worth speaking of. With
# one step of the codes, AM-Adam takes backpropagation's direction in every layer, up to a factor, and Adam's
# update hardly notices a factor.
#
# On the right, the same curves against seconds on one core. There is no graph of derivatives to build and walk
# through, so a step of this size is mostly its arithmetic. On large networks, or on a GPU, the two come closer.

figure, (by_epoch, by_second) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for method, history in histories.items():
    wrong = [100 * (1 - row["validation_accuracy"]) for row in history.epochs]
    by_epoch.plot(range(1, 21), wrong, label=method)
    by_second.plot(np.cumsum([row["seconds"] for row in history.epochs]), wrong, label=method)
by_epoch.set(xlabel="epoch", ylabel="wrong test digits, %", xticks=range(0, 21, 5), ylim=(0, None))
by_second.set(xlabel="seconds of training")
by_epoch.legend()
plt.show()
