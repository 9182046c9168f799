"""Torch networks translated to JAX, for a step in ``jax.jit``. Needs jax and optax."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from torch import Tensor, nn

from altmin_ext.nn import Elman, Sign, Stage, TimeSteps

Apply = Callable[[Any, Any], Any]


@jax.custom_jvp
def _sign(c: Any) -> Any:
    return jnp.where(c > 0, 1.0, -1.0).astype(c.dtype)


@_sign.defjvp
def _straight_through(primals: Any, tangents: Any) -> Any:
    return _sign(*primals), tangents[0]


def _max_pool(x: Any, size: int) -> Any:
    window = (1, size, size, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


# Images have their channels last, as XLA's kernels for CPUs want them.
_without_parameters: dict[type[nn.Module], Callable[[Any], Callable[[Any], Any]]] = {
    nn.Identity: lambda module: lambda x: x,
    nn.ReLU: lambda module: jax.nn.relu,
    nn.Tanh: lambda module: jnp.tanh,
    nn.Sigmoid: lambda module: jax.nn.sigmoid,
    nn.GELU: lambda module: functools.partial(jax.nn.gelu, approximate=module.approximate == "tanh"),
    nn.ELU: lambda module: functools.partial(jax.nn.elu, alpha=module.alpha),
    nn.Softplus: lambda module: jax.nn.softplus,
    Sign: lambda module: _sign,
    TimeSteps: lambda module: lambda x: x.reshape(len(x), -1, module.n_in),
    nn.MaxPool2d: lambda module: functools.partial(_max_pool, size=module.kernel_size),
    nn.Flatten: lambda module: _flatten,
}


def _flatten(x: Any) -> Any:
    return (x.transpose(0, 3, 1, 2) if x.ndim == 4 else x).reshape(len(x), -1)


def _array(parameter: Tensor) -> Any:
    return jnp.array(parameter.detach().numpy())


def _bias(module: nn.Linear | nn.Conv2d) -> dict[str, Any]:
    return {} if module.bias is None else {"bias": _array(module.bias)}


def _linear(module: nn.Linear) -> tuple[Any, Apply]:
    parameters = {"weight": _array(module.weight.t()), **_bias(module)}
    return parameters, lambda p, x: x @ p["weight"] + p.get("bias", 0)


def _convolution(module: nn.Conv2d) -> tuple[Any, Apply]:
    parameters = {"weight": _array(module.weight.permute(2, 3, 1, 0)), **_bias(module)}
    padding = [(p, p) for p in module.padding]  # type: ignore[union-attr]

    def apply(p: Any, x: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, p["weight"], module.stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        ) + p.get("bias", 0)

    return parameters, apply


def _elman(module: Elman) -> tuple[Any, Apply]:
    parameters = {
        "input": _array(module.weight_ih_l0.t()),
        "hidden": _array(module.weight_hh_l0.t()),
        "biases": [_array(module.bias_ih_l0), _array(module.bias_hh_l0)],
    }

    def apply(p: Any, x: Any) -> Any:
        inputs = (x @ p["input"] + sum(p["biases"])).transpose(1, 0, 2)

        def advance(h: Any, term: Any) -> Any:
            h = jnp.tanh(term + h @ p["hidden"])
            return h, h

        _, sequence = jax.lax.scan(advance, jnp.zeros_like(inputs[0]), inputs)
        return sequence.transpose(1, 0, 2)

    return parameters, apply


def translated(module: nn.Module) -> tuple[Any, Apply]:
    """Translate a network.

    Args:
        module: a chain of the modules that the paper's networks consist of. Images must have their channels last.

    Returns:
        Copies of its parameters, and the function from them and an input to the output.

    Raises:
        LookupError: it holds something else.
    """
    kind = type(module)
    if kind in _without_parameters:
        function = _without_parameters[kind](module)
        return {}, lambda p, x: function(x)
    with_parameters: dict[type[nn.Module], Callable[[Any], tuple[Any, Apply]]] = {
        nn.Linear: _linear, nn.Conv2d: _convolution, Elman: _elman,
    }  # fmt: skip
    if kind in with_parameters:
        return with_parameters[kind](module)
    if kind is Stage or kind is nn.Sequential:
        parts = [translated(child) for child in module.children()]

        def apply(parameters: Any, x: Any) -> Any:
            for own, (_, function) in zip(parameters, parts, strict=True):
                x = function(own, x)
            return x

        return [own for own, _ in parts], apply
    raise LookupError(f"{kind.__name__} is not translated to JAX.")


def trainer(
    module: nn.Module, lr: float
) -> tuple[Callable[[Any, Any], Any], Callable[[Tensor, Tensor], tuple[Any, Any]]]:
    """A step of Adam on the cross-entropy, compiled as one function that writes to the buffers it reads.

    Args:
        module: see :func:`translated`.
        lr: learning rate.

    Returns:
        The step, which returns the parameters; and the function that makes its arguments from a minibatch of tensors.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # as torch on a CPU
    parameters, apply = translated(module)
    optimizer = optax.adam(lr)
    state = optimizer.init(parameters)

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(apply(parameters, x), y).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(parameters: Any, state: Any, x: Any, y: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(parameters, x, y)
        moves, state = optimizer.update(gradient, state)
        return optax.apply_updates(parameters, moves), state, value

    def step(x: Any, y: Any) -> Any:
        nonlocal parameters, state
        parameters, state, value = update(parameters, state, x, y)
        value.block_until_ready()
        return parameters

    def convert(x: Tensor, y: Tensor) -> tuple[Any, Any]:
        images = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        return jnp.array(images.numpy()), jnp.array(y.numpy())

    return step, convert
