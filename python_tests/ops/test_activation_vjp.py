"""activation_vjp: sigma'(code) gradient. Oracle: torch's autograd on the activation in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from altmin_ext import ops
from altmin_ext.ops import Activation, reference

from . import oracle
from .calling import Output, Random, assert_accurate, call, same_bits
from .refusals import assert_refuses_bad_tensors, assert_refuses_shared_memory

SHAPES = ((), (0, 3), (1,), (3, 33), (2, 3, 5, 7), (70, 130))


def arguments(random: Random, shape: tuple[int, ...], sigma: Activation) -> dict[str, Any]:
    return {
        "code": random.normal(*shape, scale=2.0),
        "gradient": random.normal(*shape),
        "out": Output(shape),
        "sigma": sigma,
    }


def kernel_case(random: Random) -> dict[str, Any]:
    """Large enough for several blocks of a GPU to share the work."""
    return arguments(random, (70, 260), Activation("gelu"))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
@pytest.mark.parametrize("alias", [{}, {"out": "gradient"}], ids=["apart", "in place"])
def test_against_autograd(sigma: Activation, alias: dict[str, str]) -> None:
    random = Random(101)
    for shape in SHAPES:
        case = arguments(random, shape, sigma)
        exact = oracle.derivative(sigma, case["code"]) * case["gradient"]
        kernel, twin = (
            call(op, case, torch.float32, alias) for op in (ops.activation_vjp, reference.activation_vjp)
        )
        assert_accurate(kernel.out, twin.out, exact, f"{shape}")
        error = (call(ops.activation_vjp, case, torch.float64, alias).out - exact).abs()
        # A derivative is made from numbers of the size of 1, as 1 - tanh^2 is.
        assert (error <= 1e-14 * case["gradient"].abs().clamp(min=1.0)).all(), f"{shape}"


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "tanh", "sigmoid", "gelu", "silu", "softplus"])
def test_far_below_zero_large_gradients_meet_no_slope(name: str, dtype: torch.dtype) -> None:
    """A derivative that is no number of its type is zero, and not the smallest one there is."""
    sigma = Activation(name, 0.5 if name == "leaky_relu" else 1.0)
    code = torch.tensor([-95.0, -200.0, -1e3, -1e4, -1e30]).double() * (1 if dtype == torch.float32 else 10)
    case = {
        "code": code.to(dtype).double(), "gradient": torch.full((5,), 1e38), "out": Output((5,)), "sigma": sigma
    }  # fmt: skip
    exact = oracle.derivative(sigma, case["code"]) * 1e38
    result = call(ops.activation_vjp, case, dtype).out.double()
    # e^-95 is subnormal in float32: it may be flushed to zero.
    assert torch.allclose(result, exact, rtol=1e-6, atol=1.2e-38 * 1e38), result


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_threads_change_nothing(name: str, dtype: torch.dtype) -> None:
    case = arguments(Random(102), (301, 127), Activation(name))
    alone, both = (call(ops.activation_vjp, case, dtype, threads=threads) for threads in (1, 2))
    assert same_bits(both.out, alone.out)


def test_bad_arguments_are_refused() -> None:
    case = {
        "code": torch.zeros(3, 4), "gradient": torch.zeros(3, 4), "out": Output((3, 4)), "sigma": Activation("relu")
    }  # fmt: skip
    assert_refuses_bad_tensors(ops.activation_vjp, case, optional=(), chooses_backend="code")
    assert_refuses_shared_memory(ops.activation_vjp, case, allowed=[("out", "gradient")])
