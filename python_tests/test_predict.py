"""``altmin_ext.predict``. Oracle: the model itself, called once in evaluation mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import altmin_ext
from altmin_ext import predict

generator = torch.Generator().manual_seed(0)
x = torch.randn(23, 3, generator=generator)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 4))


@pytest.mark.parametrize("batch_size", [1, 10, 23, 1000])
def test_outputs_come_in_order_and_in_evaluation_mode(batch_size):
    model = network().train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = predict(model, x, batch_size=batch_size)
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(found, model.eval()(x).detach(), rtol=1e-6, atol=1e-6)
    assert not found.requires_grad


def test_inputs_of_other_kinds():
    model = network().double().eval()
    expected = model(x.double()).detach()
    kept = x.numpy().copy()
    for inputs in (x, x.numpy(), x.double(), x.T.contiguous().T, x.clone().requires_grad_()):
        torch.testing.assert_close(predict(model, inputs), expected)
    assert np.array_equal(x.numpy(), kept)
    torch.testing.assert_close(predict(list(model), x), expected)
    assert predict(model, x[:0]).shape == (0, 4)


def test_a_model_that_writes_to_its_input():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 4))
    kept = x.clone()
    predict(model, x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"model": 3}, TypeError, "model must be a torch.nn.Module, but is an int"),
        ({"model": nn.Flatten(0)}, ValueError, r"model must return \(B, C\) logits, but returned shape"),
        ({"x": x[:, :2]}, ValueError, r"x must fit the model, but a sample of shape \(2,\) does not"),
        (
            {"x": x[0]},
            ValueError,
            r"x must be \(N, \.\.\.\) with at least two dimensions, but has shape \(3,\)",
        ),
        ({"x": x.long()}, TypeError, "x must be floating point, but is torch.int64"),
        ({"x": [[1.0, 2.0, 3.0]]}, TypeError, "x must be a torch.Tensor or a numpy.ndarray, but is a list"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"device": "moon"}, ValueError, "device must be a device of torch"),
    ],
)
def test_bad_input(arguments, error, sentence):
    model = network().train()
    with pytest.raises(error, match=sentence):
        predict(**{"model": model, "x": x, **arguments})
    assert all(module.training for module in model.modules())


def test_evaluate_and_predict_agree():
    model = network()
    y = torch.randint(4, (23,), generator=generator)
    correct = (predict(model, x).argmax(1) == y).double().mean().item()
    assert altmin_ext.evaluate(model, (x, y)).accuracy == pytest.approx(correct)
