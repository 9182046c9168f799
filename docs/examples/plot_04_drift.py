"""
A stream that changes
=====================

Samples come one after the other, each is predicted before it is learned, and from time to time the world turns:
here the images, by a quarter. A memory of everything is slow to believe it. One that fades is not.
"""

import matplotlib.pyplot as plt
import torch

import altmin_ext
from altmin_ext import data, models

digits = data.load("digits")
x, y = digits.train
generator = torch.Generator().manual_seed(0)
order = torch.randint(len(x), (15_000,), generator=generator)
quarter = torch.arange(len(order)) // 3_000
turned = torch.stack([x.rot90(int(q), dims=(-2, -1)) for q in range(5)])
stream_x, stream_y = turned[quarter, order], y[order]

# %%
# ``learn`` takes a stretch of the stream and makes a step on every minibatch in it, in order. What it reports
# of a minibatch was found before the step on it, so that it is an honest test.

learners = {
    "adam, the best of three rates": {"method": "adam", "lr": 0.01},
    "am-mem, forgets nothing": {"method": "am-mem", "forgetting": 0.0},
    "am-mem, forgets 0.3 a step": {"method": "am-mem", "forgetting": 0.3},
}
right = {}
for name, options in learners.items():
    torch.manual_seed(0)
    method = altmin_ext.make_method(
        options.pop("method"), models.mlp(digits.n_in, [64], digits.classes), **options
    )
    right[name] = method.learn(stream_x, stream_y, batch_size=10).correct.double() / 10
    print(f"{name}: {right[name].mean():.3f} of all predictions are right")

# %%
# The mean of the last 300 predictions. Grey lines are where the images turn. A memory that keeps everything
# holds on to four worlds at once. With ``forgetting=0.3`` every step replaces that share of it, and the network
# is back within a few hundred samples. Adam, which has no memory to get rid of, is about as quick with the
# right learning rate.

figure, axis = plt.subplots(figsize=(9, 3.8), layout="constrained")
window = torch.ones(1, 1, 30) / 30
for name, rate in right.items():
    smooth = torch.nn.functional.conv1d(rate[None, None], window.double())[0, 0]
    axis.plot(torch.arange(len(smooth)) * 10 + 300, smooth, label=name)
for turn in range(3_000, 15_000, 3_000):
    axis.axvline(turn, color="grey", linewidth=0.8)
axis.set(xlabel="samples seen", ylabel="right before learning", ylim=(0, 1))
axis.legend(loc="lower right")
plt.show()
