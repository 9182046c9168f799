"""
What a step does to the codes
=============================

A network with two hidden units is small enough to draw. Every sample has a code there, the two numbers that go
into the hidden units. A step first moves all codes, and then fits the weights to them.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from torch import nn

import altmin_ext

# Three clouds of points in the plane, one for each class.
generator = torch.Generator().manual_seed(3)
y = torch.arange(3).repeat(20)
centres = torch.tensor([[-1.2, -0.7], [1.2, -0.7], [0.0, 1.3]])
x = centres[y] + 0.35 * torch.randn(len(y), 2, generator=generator)

# The top layer looks for each class in the direction of its cloud, but the layer below has turned the plane.
model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 3))
lower, top = model[0], nn.Sequential(model[1], model[2])
angle = torch.tensor(0.9)
with torch.no_grad():
    lower.weight.copy_(torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2))
    top[1].weight.copy_(2 * nn.functional.normalize(centres))
    for layer in (lower, top[1]):
        layer.bias.zero_()

# %%
# The code of a sample begins at the output of its layer. It then goes downhill on an objective of its own: the
# loss that the layers above make of it, plus ``mu`` times the square of how far it has come. The first
# step of that, in plain torch:

before = lower(x).detach().requires_grad_()
loss = nn.functional.cross_entropy(top(before), y, reduction="sum")
(gradient,) = torch.autograd.grad(loss, before)
before = before.detach()
weight, bias = (parameter.detach().clone() for parameter in top.parameters())

# A large learning rate, so that there is something to see.
method = altmin_ext.make_method("am-sgd", model, lr=1.0)
method.step(x, y)

moved = before - method.code_step_sizes[0].float() * gradient
after = lower(x).detach()

# %%
# The library has moved its codes just as far:

displacement = (moved - before).square().mean().sqrt()
print(f"in torch {displacement:.6f}, in altmin_ext {method.code_displacements[0]:.6f}")

# %%
# The plane of the codes, coloured by the class that the top layer sees there. On the left, every arrow is a
# code: it heads for the region of its class, and the more wrong it is, the further. On the right is where the
# layer puts the same samples once its weights have been fitted to the moved codes. Every sample has asked for a
# movement of its own, and the layer has found one that serves most of them.

colours = ListedColormap(["tab:blue", "tab:orange", "tab:green"])
ends = torch.cat([before, moved, after])
sides = [torch.linspace(float(a) - 0.3, float(b) + 0.3, 300) for a, b in zip(ends.amin(0), ends.amax(0))]
grid = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)
regions = nn.functional.linear(grid.tanh(), weight, bias).argmax(-1)

figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharex=True, sharey=True, layout="constrained")
for axis, end, title in zip(axes, (moved, after), ("the codes move", "the layer follows")):
    axis.pcolormesh(*grid.movedim(-1, 0), regions, cmap=colours, alpha=0.2, linewidth=0, rasterized=True)
    axis.quiver(
        *before.T, *(end - before).T, y, cmap=colours, angles="xy", scale_units="xy", scale=1, width=0.005
    )
    axis.scatter(*before.T, c=y, cmap=colours, s=10)
    axis.set(title=title, xlabel="first hidden unit", aspect="equal")
axes[0].set_ylabel("second hidden unit")
plt.show()
