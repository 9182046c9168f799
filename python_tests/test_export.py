"""Trained models in torch.export and torch.compile, quantised, and as files of weights.

Oracles: the model itself, eagerly; autograd through ``torch.rnn_tanh`` for the derivative of an Elman layer;
``torch.library.opcheck`` for what torch expects of an op; for files, plain torch modules without this library.
"""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models, onnx
from altmin_ext.nn import Elman, NonNegativeFactors


def _deepfacto() -> nn.Sequential:
    return models.deepfacto(nn.Sequential(nn.Flatten(), nn.Linear(64, 40)), 40, 12, nn.Linear(12, 10))


def _deepfacto_on_maps() -> nn.Sequential:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(36, 10))
    return models.deepfacto(nn.Conv2d(1, 20, 3), 20, 9, head)


#: A model, the shape of its samples, and the method that trains it.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "mlp": (lambda: models.mlp(64, [100, 100], 10), (1, 8, 8), "am-adam"),
    "lenet5": (models.lenet5, (1, 28, 28), "am-adam"),
    "binary_mlp": (lambda: models.binary_mlp(64, [50, 50]), (1, 8, 8), "am-adam"),
    "binary_mlp, clipped": (lambda: models.binary_mlp(64, [50, 50], 10, "clipped"), (1, 8, 8), "am-adam"),
    "binary_mlp, none": (lambda: models.binary_mlp(64, [50, 50], 10, "none"), (1, 8, 8), "am-adam"),
    "elman_rnn": (models.elman_rnn, (1, 28, 28), "am-adam"),
    "deepfacto": (_deepfacto, (1, 8, 8), "deepfacto"),
    "deepfacto, maps": (_deepfacto_on_maps, (1, 8, 8), "deepfacto"),
    "random_features": (lambda: models.random_features((1, 8, 8), 90, 10), (1, 8, 8), "adam"),
    "patch_features": (lambda: models.patch_features((1, 16, 16), 90, 10), (1, 16, 16), "adam"),
}
#: Those whose whole backward pass exists.
DIFFERENTIABLE = [name for name in MODELS if not name.startswith(("deepfacto", "random", "patch"))]


def samples(count: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def trained(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    make, shape, method = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    # Few short steps, after which logits are about 1, so that float32 can represent them to better than 1e-6.
    rates = {"lr": 1e-4} if method == "am-adam" else {}
    minibatches = samples(20, *shape, seed=2), torch.arange(20) % 10
    altmin_ext.train(model, minibatches, method=method, epochs=1, batch_size=10, progress=False, **rates)
    return model.eval(), shape


@pytest.fixture
def _compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _bytes(write: Callable[[io.BytesIO], None]) -> io.BytesIO:
    file = io.BytesIO()
    write(file)
    file.seek(0)
    return file


@pytest.mark.parametrize("name", MODELS)
def test_exported_programs_are_the_model_for_every_size_of_minibatch(name: str) -> None:
    model, shape = trained(name)
    program = torch.export.export(
        model, (samples(2, *shape),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    file = _bytes(lambda file: torch.export.save(program, file))
    exported = torch.export.load(file).module()
    for count in (2, 7, 33):
        x = samples(count, *shape)
        torch.testing.assert_close(exported(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("name", MODELS)
def test_models_compile_without_a_break(name: str) -> None:
    """Also where autograd records: ``fullgraph`` makes a break an error."""
    model, shape = trained(name)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for count in (3, 7):
        x = samples(count, *shape)
        torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_compiled_models_have_the_derivatives_of_the_model(name: str) -> None:
    model, shape = trained(name)
    model.double()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")

    def derivatives(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        x = samples(3, *shape).double().requires_grad_()
        return list(torch.autograd.grad(function(x).square().sum(), [x, *model.parameters()]))

    for found, expected in zip(derivatives(compiled), derivatives(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("_compiler")
def test_compiled_factors_say_that_they_have_no_derivative() -> None:
    """When a backward pass runs, and no sooner: the forward pass may be recorded."""
    model, shape = trained("deepfacto")
    logits = torch.compile(model, fullgraph=True, backend="aot_eager")(samples(3, *shape))
    with pytest.raises(NotImplementedError, match=r"no derivative.*deepfacto"):
        logits.sum().backward()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_ops_of_graphs_are_what_torch_expects(count: int) -> None:
    """Schema, fake, autograd and ahead-of-time graphs; and for samples that do not lie one after the other."""
    elman, factors = Elman(2, 3), NonNegativeFactors(4, 3)
    x = samples(5, count, 2).transpose(0, 1).requires_grad_()
    torch.library.opcheck(torch.ops.altmin_ext.elman.default, (x, *elman.parameters()))
    codes = torch.ops.altmin_ext.non_negative_codes.default
    rows = samples(4, count).relu().t()
    torch.library.opcheck(codes, (rows, factors.dictionary, 5))
    assert torch.equal(codes(rows, factors.dictionary, factors.sweeps), factors(rows))


def test_the_derivative_of_an_elman_op_is_that_of_its_formula() -> None:
    layer = Elman(2, 3).double()
    x = samples(4, 6, 2).double().requires_grad_()
    inputs = (x, *layer.parameters())
    assert torch.autograd.gradcheck(torch.ops.altmin_ext.elman.default, inputs)
    g = samples(4, 6, 3).double()
    found = torch.autograd.grad(torch.ops.altmin_ext.elman.default(*inputs), inputs, g)
    for one, other in zip(found, torch.autograd.grad(layer(x), inputs, g), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in MODELS if "," not in name])
def test_weights_are_a_file_of_torch(name: str) -> None:
    """Readable without unpickling code, into a model that has been made anew."""
    model, shape = trained(name)
    file = _bytes(lambda file: torch.save(model.state_dict(), file))
    other = MODELS[name][0]()
    other.load_state_dict(torch.load(file, weights_only=True))
    x = samples(3, *shape)
    assert torch.equal(other.eval()(x), model(x))


def test_weights_fit_modules_of_torch() -> None:
    mlp, shape = trained("mlp")
    plain = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    plain.load_state_dict(mlp.state_dict())
    x = samples(3, *shape)
    assert torch.equal(plain(x), mlp(x))
    elman = Elman(2, 3)
    rnn = nn.RNN(2, 3, batch_first=True)
    rnn.load_state_dict(elman.state_dict())
    x = samples(4, 6, 2)
    assert torch.equal(rnn(x)[0], elman(x))


# ------------------------------------------------------------------------------------------------- its page

PAGE = Path(__file__).parents[1] / "docs" / "export.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="only the tests are here, not the documentation")
def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What leaves is what was trained; eight bits cost a hundredth of accuracy at most."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that this quantisation moves to another package
        torch.manual_seed(0)
        exec(compile(blocks[0], PAGE.name, "exec"), names)
    model, x, test = names["model"], names["x"], names["digits"].test
    for way in ("exported", "compiled"):
        torch.testing.assert_close(names[way](x), model(x), rtol=0, atol=1e-6)
    accuracy = altmin_ext.evaluate(model, test).accuracy
    quantised = altmin_ext.evaluate(names["quantised"], test).accuracy
    assert accuracy is not None
    assert quantised is not None
    assert accuracy > 0.85
    assert abs(accuracy - quantised) <= 0.01
    linear = [module for module in names["quantised"] if "Linear" in type(module).__name__]
    assert len(linear) == 3
    assert all(module.weight().dtype == torch.qint8 for module in linear)


# ------------------------------------------------------------------------------------------------- what ONNX refuses


@pytest.mark.parametrize(
    ("model", "x", "kind", "sentence"),
    [
        ("model", torch.zeros(2, 4), TypeError, "model must be a torch.nn.Module, but is a str."),
        (nn.Linear(4, 2), [[0.0] * 4], TypeError, "x must be a torch.Tensor, but is a list."),
        (nn.Linear(4, 2), torch.zeros(0, 4), ValueError, r"x must be .*, but has shape \(0, 4\)."),
    ],
    ids=["no module", "no tensor", "no sample"],
)
def test_what_cannot_be_written_is_refused(
    model: Any, x: Any, kind: type[Exception], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=f"^{sentence}$"):
        onnx.export(model, x, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript is not installed; get it with: .*altmin_ext\[onnx\]"):
        onnx.export(nn.Linear(4, 2), torch.zeros(2, 4), tmp_path / "model.onnx")
