"""
A trained model in ONNX
=======================

Training changes weights and nothing else, so that a model leaves by all of torch's doors. Here is one with
binary units, in a runtime that knows neither torch nor this library.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import torch

import altmin_ext
from altmin_ext import data, models, onnx

digits = data.load("digits")
x, y = digits.test
torch.manual_seed(0)
model = models.binary_mlp(digits.n_in, (100, 100), digits.classes, surrogate="none")
altmin_ext.train(model, digits, epochs=20, batch_size=50, progress=False)
logits = altmin_ext.predict(model, x)

# %%
# The file holds the graph and the weights, and takes minibatches of any size.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "model.onnx")
    onnx.export(model, x[:2], path)
    session = onnxruntime.InferenceSession(path.read_bytes())
    print(f"{path.stat().st_size / 1000:.0f} kB")

answers = np.concatenate([session.run(None, {"x": part.numpy()})[0] for part in x.split(7)])
print(
    f"right: {(answers.argmax(1) == y.numpy()).mean():.3f}, here {(logits.argmax(1) == y).double().mean():.3f}"
)

# %%
# All logits of all test digits, from both. What is left is the rounding of sums in another order.

difference = np.abs(answers - logits.numpy())
figure, (pairs, histogram) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
pairs.scatter(logits, answers, s=4)
pairs.set(xlabel="logit in torch", ylabel="logit in ONNX Runtime", aspect="equal")
histogram.hist(np.maximum(difference, 1e-9).ravel(), bins=np.logspace(-9, -3, 40))
histogram.set(xscale="log", xlabel="difference", ylabel="logits")
plt.show()
