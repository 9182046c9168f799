"""What the first use imports, in a process of its own. Oracle: ``sys.modules``.

None of these modules is needed, and most cost tenths of a second: torch's compiler, which torch imports for its first
forward-mode derivative through a Linear, costs a second. For a derivative in a direction torch itself imports sympy.
"""

import subprocess
import sys

import pytest

HEAVY = [
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "pandas",
    "sklearn",
    "matplotlib",
    "scipy",
    "onnxscript",
]

RESIDUAL = """
import torch
from torch import nn

class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x):
        return x + self.inner(x)

blocks = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), Residual(32), nn.ReLU(),
    altmin_ext.Stage(nn.Tanh(), nn.Linear(32, 10)),
)
altmin_ext.train(blocks, (torch.randn(8, 1, 8, 8), torch.arange(8)), steps=2, batch_size=4, progress=False)
"""


# A block without a formula, since it multiplies two things that it computes.
DIFFERENTIATED = RESIDUAL.replace("return x + self.inner(x)", "return x * self.inner(x)")


@pytest.mark.parametrize(
    ("use", "unneeded"),
    [
        ("", [*HEAVY, "numpy.random"]),
        (RESIDUAL, HEAVY),
        (DIFFERENTIATED, [name for name in HEAVY if name != "sympy"]),
    ],
    ids=["import", "a step of a residual network", "a step of a block that torch differentiates"],
)
def test_first_use_imports_nothing_heavy(use: str, unneeded: list[str]) -> None:
    report = f"print([name for name in {unneeded} if name in sys.modules and name not in before])"
    # What torch itself imports is not ours to leave out.
    program = f"import sys, torch\nbefore = set(sys.modules)\nimport altmin_ext\n{use}\n{report}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[]"
