"""
Ridge regression, sample by sample
==================================

``rls`` solves for the last layer of a network, and after every minibatch its solution is that of all samples so
far, as if they had been fitted together. Here the last layer is the only one, so that scikit-learn can check
it.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from torch import nn

import altmin_ext

x, y = load_diabetes(return_X_y=True, scaled=False, as_frame=True)
features = list(x.columns)
x = (x - x.mean()) / x.std()

inputs, targets = torch.tensor(x.values), torch.tensor(y.values)[:, None]
model = nn.Sequential(nn.Linear(len(features), 1)).double()
method = altmin_ext.make_method("rls", model, loss="squared", ridge=10.0)

# %%
# Ten patients at a time. Nothing of them is kept but sums; scikit-learn is given all of them again and again.

seen, paths, differences = [], [], []
for start in range(0, len(inputs), 10):
    end = start + 10
    method.step(inputs[start:end], targets[start:end])
    reference = Ridge(alpha=10.0).fit(inputs[:end].numpy(), targets[:end].numpy())
    coefficients = model[0].weight.detach()[0].clone()
    seen.append(min(end, len(inputs)))
    paths.append(coefficients)
    differences.append(float((coefficients - torch.tensor(reference.coef_).view(-1)).abs().max()))
print(
    f"largest difference of a coefficient: {max(differences):.1e}, of numbers up to {max(map(max, paths)):.0f}"
)

# %%
# On the left, the coefficients as patients come in. On the right, how far the largest one is from
# scikit-learn's: it is rounding, and does not add up.

figure, (path, difference) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
lines = path.plot(seen, torch.stack(paths))
path.legend(lines, features, ncols=2, fontsize="small", loc="upper right")
path.set(xlabel="patients seen", ylabel="coefficient", ylim=(-30, 55))
difference.semilogy(seen, differences, ".-")
difference.axhline(
    torch.finfo(torch.float64).eps * 30, color="grey", linestyle=":", label="rounding of a number of 30"
)
difference.set(xlabel="patients seen", ylabel="largest difference", ylim=(1e-16, 1))
difference.legend()
plt.show()
