"""
Classes that come one after the other
=====================================

First the network sees zeros and ones, then twos and threes, and so on. It is never told which task a digit
belongs to, and never sees an old digit again. Backpropagation forgets; a memory in every layer does not.
"""

import matplotlib.pyplot as plt
import torch

import altmin_ext
from altmin_ext import data, models
from altmin_ext.data import streams

digits = data.load("digits")
tasks = streams.class_tasks(digits)


def mlp():
    torch.manual_seed(0)
    return models.mlp(digits.n_in, [100, 100], digits.classes)


# %%
# ``am-mem`` keeps two matrices per layer, sums over all inputs and codes of the layer so far. With
# ``forgetting=0`` a step fits the new minibatch in those directions that the past leaves free. ``rls`` goes
# further: it solves for the last layer, exactly, on a random layer that stays as it is.

keeping = {
    "forgetting": 0,
    "damping": 0,
    "prior": 0.05,
    "exact": True,
    "predictor": "memory",
    "lr_memory": 0.3,
}
learners = {
    "adam": altmin_ext.make_method("adam", mlp(), lr=0.003),
    "am-mem, keeps everything": altmin_ext.make_method("am-mem", mlp(), **keeping),
    "rls on random features": altmin_ext.make_method(
        "rls", models.random_features(digits.n_in, 500, digits.classes)
    ),
}
accuracies = {name: [] for name in learners}
for name, method in learners.items():
    for number, task in enumerate(tasks, 1):
        altmin_ext.train(method.model, task.train, method=method, batch_size=20, progress=False)
        x, y = digits.test
        so_far = y < 2 * number
        accuracies[name].append(altmin_ext.evaluate(method.model, (x[so_far], y[so_far])).accuracy)

# %%
# After each task, the test digits of all classes so far that are right. Who knows the two classes just seen and
# no others is on the dotted line, 2 / 2, 2 / 4, 2 / 6 of all. Adam does not get above it.

figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
tasks_seen = range(1, len(tasks) + 1)
for name, values in accuracies.items():
    axis.plot(tasks_seen, values, marker="o", label=name)
axis.plot(tasks_seen, [1 / t for t in tasks_seen], color="grey", linestyle=":", label="only the last task")
axis.set(
    xlabel="the task just learned", ylabel="right, of all classes so far", xticks=tasks_seen, ylim=(0, 1.02)
)
axis.set_xticklabels([f"{2 * t - 2}, {2 * t - 1}" for t in tasks_seen])
axis.legend(loc="lower left")
plt.show()
