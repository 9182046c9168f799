#!/usr/bin/env bash
# Guess: BackPACK and curvlinops compute the same Kronecker-factored curvature, up to a constant factor; for a
#   convolution BackPACK's is that of curvlinops with kfac_approx="reduce".
# What happens: for a linear layer they agree. For the weight of a convolution BackPACK's block has 18 times
#   the trace of the exact Gauss-Newton block, curvlinops' "expand" 0.99 and "reduce" 0.06 times, and no two
#   are multiples of one another; for its bias BackPACK and "reduce" are exact, "expand" is not.
# Why it matters: with K-FAC of one library or the other, steps and damping on a convolution differ, while a
#   test on a dense net shows no difference.
# Seen with backpack-for-pytorch 1.7.1, curvlinops-for-pytorch 3.0.1, torch 2.13.0, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    backpack-for-pytorch==1.7.1 curvlinops-for-pytorch==3.0.1 torch==2.13.0 torchvision==0.28.0 \
    linear_operator==0.6.1 einconv==0.1.0 unfoldNd==0.2.3 einops==0.8.2 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
import warnings
from importlib.metadata import version
from itertools import combinations

import torch
from backpack import backpack, extend
from backpack.extensions import KFLR
from curvlinops import GGNLinearOperator, KFACLinearOperator
from torch import nn

print({name: version(name) for name in ("backpack-for-pytorch", "curvlinops-for-pytorch", "torch")})
warnings.simplefilter("ignore")
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(48, 3))
x, y = torch.randn(7, 2, 6, 6), torch.randn(7, 3)
parameters = dict(net.named_parameters())
given = (net, nn.MSELoss(), list(parameters.values()), [(x, y)])
identity = torch.eye(sum(parameter.numel() for parameter in parameters.values()))
exact = GGNLinearOperator(*given, check_deterministic=False) @ identity
settings = {"fisher_type": "type-2", "check_deterministic": False}
whole = {
    kind: KFACLinearOperator(*given, kfac_approx=kind, **settings) @ identity for kind in ("expand", "reduce")
}
extend(net)
with backpack(KFLR()):
    extend(nn.MSELoss())(net(x), y).backward()


def apart(a, b):
    """How far two matrices are from being multiples of one another."""
    return float((a / a.norm() - b / b.norm()).norm())


outcome, start = {}, 0
for name, parameter in parameters.items():
    block = slice(start, start := start + parameter.numel())
    factors = parameter.kflr
    blocks = {"BackPACK": factors[0] if len(factors) == 1 else torch.kron(*factors)}
    blocks |= {kind: matrix[block, block] for kind, matrix in whole.items()}
    truth = exact[block, block]
    ratios = {kind: float(matrix.trace() / truth.trace()) for kind, matrix in blocks.items()}
    outcome[name] = {kind: (ratios[kind], apart(matrix, truth)) for kind, matrix in blocks.items()}
    pairs = {f"{a}, {b}": apart(blocks[a], blocks[b]) for a, b in combinations(blocks, 2)}
    print(("convolution " if name.startswith("0") else "linear ") + name.split(".")[1])
    print("    trace over the exact one:", {kind: f"{ratio:.3f}" for kind, ratio in ratios.items()})
    print("    shapes apart:", {pair: f"{distance:.3f}" for pair, distance in pairs.items()})
    if name == "0.weight":
        unlike = min(pairs.values())
weight, bias = outcome["0.weight"], outcome["0.bias"]
changed = not (weight["BackPACK"][0] > 10 and 0.9 < weight["expand"][0] < 1.1 and weight["reduce"][0] < 0.1)
changed |= unlike < 0.1 or max(bias["BackPACK"][1], bias["reduce"][1]) > 1e-9 or bias["expand"][1] < 0.1
linear = [*outcome["3.weight"].values(), *outcome["3.bias"].values()]
changed |= any(abs(trace - 1) > 1e-9 or distance > 1e-7 for trace, distance in linear)
sys.exit("The behaviour has changed." if changed else 0)
EOF
