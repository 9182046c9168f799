"""The binary activation, and the network made of it.

Oracle: its definition; and the gradient of a binary network worked out by hand, layer by layer.
"""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altmin_ext.models import binary_mlp
from altmin_ext.nn import Sign

INF, NAN = float("inf"), float("nan")
surrogates = pytest.mark.parametrize("surrogate", ["identity", "clipped", "none"])


@surrogates
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values(surrogate: str, dtype: torch.dtype) -> None:
    c = torch.tensor([-INF, -2.0, -1e-40, -0.0, 0.0, 1e-40, 2.0, INF, NAN], dtype=dtype)
    expected = torch.tensor([-1, -1, -1, -1, -1, 1, 1, 1, NAN], dtype=dtype)
    torch.testing.assert_close(Sign(surrogate)(c), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("surrogate", "expected"),
    [
        ("identity", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("clipped", [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]),
        ("none", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_surrogate_is_what_autograd_takes(surrogate: str, expected: list[float]) -> None:
    c = torch.tensor([-INF, -1.5, -1.0, 0.0, 0.5, 1.0, 1.5, INF]).requires_grad_()
    upstream = torch.arange(1.0, 9.0)
    (gradient,) = torch.autograd.grad(Sign(surrogate)(c), c, upstream)
    assert torch.equal(gradient, upstream * torch.tensor(expected))


def test_wrong_surrogate() -> None:
    with pytest.raises(ValueError, match=r"^unknown surrogate 'cliped': did you mean 'clipped'\? .*\.$"):
        Sign("cliped")


@surrogates
def test_is_a_module_like_any_other(surrogate: str) -> None:
    sign = Sign(surrogate)
    file = io.BytesIO()
    torch.save(sign, file)
    file.seek(0)
    for other in (copy.deepcopy(sign), torch.load(file, weights_only=False)):
        assert repr(other) == f"Sign(surrogate={surrogate!r})"
    assert not sign.state_dict()


def test_binary_mlp_is_that_of_the_paper() -> None:
    model = binary_mlp()
    assert [type(module) for module in model] == [
        nn.Flatten, nn.Linear, nn.Tanh, Sign, nn.Linear, nn.Tanh, nn.Linear,
    ]  # fmt: skip
    assert [tuple(model[i].weight.shape) for i in (1, 4, 6)] == [(500, 784), (500, 500), (10, 500)]


def test_binary_mlp_of_other_sizes() -> None:
    model = binary_mlp(6, [5, 4, 3], 2, "clipped")
    assert [module.surrogate for module in model if isinstance(module, Sign)] == ["clipped", "clipped"]
    assert model(torch.zeros(7, 2, 3)).shape == (7, 2)
    assert not any(isinstance(module, Sign) for module in [*binary_mlp(6, [5], 2), *binary_mlp(6, [], 2)])
    with pytest.raises(ValueError, match=r"must be at least 1, but is"):
        binary_mlp(6, [0], 2)
    with pytest.raises(ValueError, match="unknown surrogate 'straight'"):
        binary_mlp(6, [5, 4], 2, "straight")


def gradients_by_hand(model: nn.Sequential, x: Tensor, y: Tensor, surrogate: str) -> list[Tensor]:
    """Of the summed loss in the three weights and biases, straight through the sign, tanh' kept."""
    (w1, b1), (w2, b2), (w3, b3) = ((model[i].weight, model[i].bias) for i in (1, 4, 6))
    h1 = torch.tanh(x @ w1.T + b1)
    a1 = torch.where(h1 > 0, 1.0, -1.0).to(h1)
    h2 = torch.tanh(a1 @ w2.T + b2)
    d3 = torch.softmax(h2 @ w3.T + b3, 1) - F.one_hot(y, w3.shape[0])
    d2 = d3 @ w3 * (1 - h2**2)
    passed = 0.0 if surrogate == "none" else 1.0  # a tanh never leaves [-1, 1]
    d1 = passed * (d2 @ w2) * (1 - h1**2)
    return [d1.T @ x, d1.sum(0), d2.T @ a1, d2.sum(0), d3.T @ h2, d3.sum(0)]


@surrogates
def test_gradient_of_a_binary_network(surrogate: str) -> None:
    generator = torch.Generator().manual_seed(1)
    model = binary_mlp(6, (5, 4), 3, surrogate).double()
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    x = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    y = torch.arange(9) % 3
    with torch.no_grad():
        expected = gradients_by_hand(model, x, y, surrogate)
    F.cross_entropy(model(x), y, reduction="sum").backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-13)


# --- the modes of torch.func ---

POINT = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
SLOPES = {"identity": [1.0] * 7, "clipped": [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0], "none": [0.0] * 7}


@surrogates
def test_derivatives_by_torch_func(surrogate: str) -> None:
    """Backward, forward, under vmap and within one another: always the surrogate, whose own derivative is zero."""
    sign, slopes = Sign(surrogate), torch.tensor(SLOPES[surrogate], dtype=torch.float64)
    weights = torch.arange(1.0, 8.0, dtype=torch.float64)
    functions = {
        "grad": lambda: torch.func.grad(lambda c: (sign(c) * weights).sum())(POINT),
        "vjp": lambda: torch.func.vjp(sign, POINT)[1](weights)[0],
        "jvp": lambda: torch.func.jvp(sign, (POINT,), (weights,))[1],
        "per sample": lambda: torch.func.vmap(torch.func.grad(sign))(POINT) * weights,
        "jacrev": lambda: torch.func.jacrev(sign)(POINT) @ weights,
        "jacfwd": lambda: torch.func.jacfwd(sign)(POINT) @ weights,
        "batched jacfwd": lambda: torch.func.vmap(torch.func.jacfwd(sign))(POINT[:, None])[:, 0, 0] * weights,
        "autograd": lambda: torch.autograd.functional.jvp(sign, POINT, weights)[1],
    }
    for name, function in functions.items():
        assert torch.equal(function(), slopes * weights), name
    for hessian in (
        torch.func.jacfwd(torch.func.jacrev(sign)),
        torch.func.jacrev(torch.func.jacfwd(sign)),
        torch.func.jacfwd(torch.func.jacfwd(sign)),
        torch.func.hessian(sign),
    ):
        assert torch.equal(hessian(POINT), torch.zeros(7, 7, 7, dtype=torch.float64))


@surrogates
def test_values_under_vmap(surrogate: str) -> None:
    sign, c = Sign(surrogate), POINT * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    expected = torch.where(c > 0, 1.0, -1.0).to(c)
    assert torch.equal(torch.func.vmap(sign)(c), expected)
    assert torch.equal(torch.func.vmap(sign, in_dims=1, out_dims=1)(c), expected)


def test_gradients_per_sample_of_a_binary_network() -> None:
    """By vmap, and one sample after the other by autograd."""
    model = binary_mlp(4, (3, 3), 2, "clipped").double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(5, 4, generator=generator, dtype=torch.float64), torch.arange(5) % 2

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, parameters, (x[None],))
        return F.cross_entropy(logits, y[None])

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    for i in range(5):
        expected = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), model.parameters())
        for one, other in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(one[i], other)
