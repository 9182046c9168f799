"""Tries an installed wheel: ``python python_tests/installed_wheel.py``, with scikit-learn for its digits.

Says the versions, trains, and fails if the package is not the installed one, if the process holds a second OpenMP
runtime, or if free-threaded Python has taken its lock back.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from pathlib import Path

import torch

import altmin_ext
from altmin_ext import models
from altmin_ext.ops import _native as native


def openmp_runtimes() -> set[str]:
    """The files of OpenMP runtimes that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = {line.split(maxsplit=5)[5] for line in lines if "/" in line}
    return {path for path in mapped if re.match(r"lib[a-z]?i?omp\d*(-\w+)?\.so", Path(path).name)}


def main() -> None:
    if native.module is None:
        raise SystemExit(native.reason)
    print(
        "python", platform.python_version(), "altmin_ext", altmin_ext.__version__, "torch", torch.__version__
    )
    print(altmin_ext.__file__, "size", Path(native.module.__file__).stat().st_size)
    assert altmin_ext.__version__ == importlib.metadata.version("altmin_ext")
    assert Path(altmin_ext.__file__).parents[1] != Path(__file__).parents[1]

    # Before scikit-learn is imported, which brings a runtime of its own.
    torch.set_num_threads(2)
    torch.randn(1 << 20).exp()
    torch.manual_seed(0)
    x, y = torch.randn(256, 512), torch.randint(10, (256,))
    method = altmin_ext.make_method("am-adam", models.mlp(512, [512, 512], 10))
    losses = [float(method.step(x, y).loss) for _ in range(4)]
    assert losses[-1] < losses[0], losses
    assert method.why_not_planned is None
    assert method.planned_for(x, y) is not None
    runtimes = openmp_runtimes()
    print("openmp", *runtimes)
    assert runtimes == {str(Path(native.module.openmp_runtime()).resolve())}, runtimes
    assert native.module.threads() == 2

    torch.manual_seed(0)
    model = models.mlp(64, [100, 100], 10)
    history = altmin_ext.train(model, "digits", method="am-adam", epochs=1, batch_size=28, progress=False)
    digits = altmin_ext.data.load("digits")
    accuracy = altmin_ext.evaluate(model, digits.test).accuracy
    print("digits, one epoch: loss", history.epochs[-1]["loss"], "accuracy", accuracy)
    assert accuracy > 0.5

    stream = altmin_ext.make_method("am-sgd", models.mlp(64, [64, 64], 10), lr=0.05)
    correct = stream.learn(*digits.train).correct
    assert correct is not None
    print("digits, one by one: accuracy", float(correct.double().mean()))
    assert correct[-500:].double().mean() > 0.5

    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    print("interpreter's lock:", "held" if locked else "none")
    if "free-threading" in sys.version:
        assert not locked


if __name__ == "__main__":
    main()
