#!/usr/bin/env bash
# Guess: a write that torch refuses in a piece from chunk or split it refuses in one from tensor_split or
#   hsplit as well.
# What happens: a piece from tensor_split, hsplit, narrow or an index takes the value and the buffer its
#   gradient; one from chunk, split, unbind or `for row in buffer` raises, and the message speaks of a no_grad
#   mode that nobody set. Plain values can be written into all of them.
# Why it matters: a memory or window cut into pieces works until the first value with a gradient arrives;
#   cut it by tensor_split or an index.
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
ways = {
    "chunk": lambda buffer: buffer.chunk(3)[0],
    "split": lambda buffer: buffer.split(1)[0],
    "unbind": lambda buffer: buffer.unbind()[0],
    "for row in buffer": lambda buffer: next(iter(buffer)),
    "tensor_split": lambda buffer: buffer.tensor_split(3)[0],
    "hsplit": lambda buffer: buffer.hsplit(1)[0],
    "narrow": lambda buffer: buffer.narrow(0, 0, 1),
    "index": lambda buffer: buffer[0],
}


def write(cut, value):
    buffer = torch.zeros(3, 2)
    try:
        cut(buffer).copy_(value)
    except RuntimeError as error:
        return str(error)
    return "gradient" if buffer.requires_grad else "plain"


changed = False
for name, cut in ways.items():
    plain, carrying = write(cut, torch.ones(2)), write(cut, torch.ones(2, requires_grad=True))
    print(f"{name:18} value without gradient: {plain}; with gradient: {carrying[:60]}")
    raises = list(ways).index(name) < 4
    changed |= plain != "plain" or carrying.startswith("A view was created in no_grad mode") != raises
    changed |= not raises and carrying != "gradient"
sys.exit("The behaviour has changed." if changed else 0)
EOF
