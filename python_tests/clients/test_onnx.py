"""Trained models in ONNX Runtime.

Oracle: the model itself in float64. Float32 would be no measure: torch's own sum of an Elman network's 39,200
products is 1e-6 off, three times as far as ONNX Runtime's.
"""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from altmin_ext import models, onnx

pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")
protobuf = pytest.importorskip("onnx")


def _module(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


of_torch = _module(Path(__file__).parents[1] / "test_export.py")
pytestmark = pytest.mark.filterwarnings("ignore")  # onnxscript's and torch's own deprecations


def run(path: Path, x: torch.Tensor) -> torch.Tensor:
    session = runtime.InferenceSession(str(path))
    (logits,) = session.run(["logits"], {"x": x.numpy()})
    return torch.from_numpy(logits)


@pytest.mark.parametrize("name", list(of_torch.MODELS))
def test_logits_are_those_of_the_model_for_every_size_of_minibatch(name: str, tmp_path: Path) -> None:
    model, shape = of_torch.trained(name)
    path = tmp_path / "model.onnx"
    onnx.export(model, of_torch.samples(1, *shape), path)
    for count in (1, 2, 33):
        x = of_torch.samples(count, *shape)
        exact = copy.deepcopy(model).double()(x.double()).detach()
        torch.testing.assert_close(run(path, x).double(), exact, rtol=0, atol=1e-6)


def test_an_elman_layer_is_one_operator(tmp_path: Path) -> None:
    """The graph does not grow with the time steps."""
    sizes = set()
    for steps in (3, 784):
        onnx.export(models.elman_rnn(1, 5, steps), torch.zeros(2, steps), tmp_path / "model.onnx")
        graph = protobuf.load(tmp_path / "model.onnx").graph
        assert [node.op_type for node in graph.node].count("RNN") == 1
        sizes.add(len(graph.node))
    assert len(sizes) == 1


def test_factors_are_solved_in_float64_and_without_unused_atoms(tmp_path: Path) -> None:
    model = models.deepfacto(nn.Linear(6, 12), 12, 7, nn.Linear(7, 3)).double()
    model[2].dictionary[:, [0, 4]] = 0
    x = of_torch.samples(9, 6).double()
    onnx.export(model, x, tmp_path / "model.onnx")
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x).detach(), rtol=0, atol=1e-12)


def test_the_model_is_written_as_it_evaluates_and_left_as_it_is(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))
    model[1].eval()
    onnx.export(model, torch.zeros(5, 4), tmp_path / "model.onnx")
    assert [module.training for module in model] == [True, False, True, True]
    x = of_torch.samples(5, 4)
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model.eval()(x).detach(), rtol=0, atol=1e-6)


def test_a_model_that_cannot_be_exported_leaves_no_file(tmp_path: Path) -> None:
    class Untraceable(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    model = Untraceable()
    with pytest.raises(torch.onnx.OnnxExporterError):
        onnx.export(model, torch.ones(2, 3), tmp_path / "model.onnx")
    assert model.training
    assert not list(tmp_path.iterdir())


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not of_torch.PAGE.is_file():
        pytest.skip("only the tests are here, not the documentation")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    text = of_torch.PAGE.read_text(encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            exec(compile(block, of_torch.PAGE.name, "exec"), names)
    logits = torch.from_numpy(names["logits"])
    expected = names["model"](names["x"]).detach()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
