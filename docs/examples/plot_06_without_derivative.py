"""
Units without a derivative
==========================

A binary unit passes on the sign of its input. Its derivative is zero wherever it exists, so backpropagation has
nothing to go by, unless one pretends that there is another derivative. A code can do without: it needs to know
only which sign lowers the loss above it, and flips.
"""

import matplotlib.pyplot as plt
import torch

import altmin_ext
from altmin_ext import data, models

digits = data.load("digits")


def learn(method, surrogate, lr):
    torch.manual_seed(0)
    model = models.binary_mlp(digits.n_in, (200, 200), digits.classes, surrogate)
    history = altmin_ext.train(
        model, digits, method=method, lr=lr, epochs=30, batch_size=50, validation=digits, progress=False
    )
    return [row["validation_accuracy"] for row in history.epochs]


# %%
# ``surrogate="none"`` uses no derivative of the sign at all, neither a true one nor a pretended one. The other
# two take that of the identity: ``am-adam`` within a layer, and ``ste``, the straight-through estimator, all
# the way down. Each has the best of three learning rates.

curves = {
    "am-adam, no derivative": learn("am-adam", "none", lr=0.01),
    "am-adam, that of the identity": learn("am-adam", "identity", lr=0.003),
    "ste: backpropagation with that of the identity": learn("ste", "identity", lr=0.01),
}

# %%
# All three learn, and end close to each other. Without any derivative the beginning is slower.

figure, (function, progress) = plt.subplots(
    1, 2, figsize=(10, 3.8), width_ratios=(1, 2), layout="constrained"
)
c = torch.linspace(-2, 2, 401)
function.plot(c, altmin_ext.nn.Sign("none")(c), color="black", label="the sign")
function.plot(c, torch.zeros_like(c), color="tab:blue", label="its derivative")
function.plot(c, torch.ones_like(c), color="tab:orange", linestyle="--", label="that of the identity")
function.set(xlabel="code", yticks=(-1, 0, 1), ylim=(-2, 1.2))
function.legend(loc="lower right", fontsize="small")
for name, values in curves.items():
    progress.plot(range(1, len(values) + 1), values, label=name)
progress.set(xlabel="epoch", ylabel="right test digits", ylim=(0.5, 1))
progress.legend(loc="lower right")
plt.show()
