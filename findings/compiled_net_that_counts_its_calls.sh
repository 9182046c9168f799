#!/usr/bin/env bash
# Guess: a number that changes with each call costs torch.compile two compilations in 20 calls, first with its
#   value and then for all values, be it an argument or an attribute of the net, an int or a float.
# What happens: so it is for arguments and for a float attribute. For an int attribute the net is compiled
#   anew at each call, until the limit of eight is reached and all later calls run uncompiled (the log says
#   so).
# Why it matters: a net that counts its steps to anneal a noise or a temperature gains nothing by
#   torch.compile; hold the count as a float or a tensor.
# Seen with torch 2.13.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import torch

print({"torch": version("torch")})


class Attribute(torch.nn.Module):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        return x * self.number


class Argument(torch.nn.Module):
    def forward(self, x, number):
        return x * number


class Counter:
    """A backend that compiles nothing and counts the compilations and the calls of what it has compiled."""

    compilations = calls = 0

    def __call__(self, graph, inputs):
        self.compilations += 1

        def run(*arguments):
            self.calls += 1
            return graph.forward(*arguments)

        return run


def count(number):
    """Compilations, and calls that ran compiled, of 20 with a number that grows: attribute, argument."""
    results = []
    for net in (Attribute(number), Argument()):
        torch._dynamo.reset()
        counter = Counter()
        compiled = torch.compile(net, backend=counter)
        for call in range(20):
            grown = number + call
            if isinstance(net, Attribute):
                net.number = grown
                output = compiled(torch.ones(2))
            else:
                output = compiled(torch.ones(2), grown)
            assert torch.equal(output, torch.ones(2) * grown)
        results.append((counter.compilations, counter.calls))
    return results


outcome = {}
for number in (2, 2.5, torch.tensor(2)):
    kind = type(number).__name__
    outcome[kind] = count(number)
    for way, (compilations, calls) in zip(("attribute", "argument"), outcome[kind], strict=True):
        print(f"{kind} as {way}: compiled {compilations} times; {calls} of 20 calls ran compiled")
seen = {"int": [(8, 8), (2, 20)], "float": [(2, 20), (2, 20)], "Tensor": [(1, 20), (1, 20)]}
sys.exit("The behaviour has changed." if outcome != seen else 0)
EOF
