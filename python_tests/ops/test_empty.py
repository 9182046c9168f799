"""Tensors without a number, of whatever other extents: an op ends at once, and its sums are zero.

Oracle: the definition of a sum over nothing. The other extents are so large that a loop over them would never end,
and that no memory could be had for them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import Activation, CodeScalar

from .calling import adam_block, code_block, memory_block, update_blocks

MANY = 2**40
RELU = Activation("relu")
pytestmark = pytest.mark.usefixtures("wide_kernels")


def empty(*shape: int) -> Tensor:
    tensor = torch.empty(shape)
    assert tensor.numel() == 0
    return tensor


def guard() -> Tensor:
    return torch.zeros(1, dtype=torch.float64)


ROWS = [(0, MANY), (MANY, 0)]


@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_elementwise(shape: tuple[int, int]) -> None:
    batch, width = shape
    flag = guard()
    ops.activate(empty(*shape), mask=empty(*shape), activation=empty(*shape), sigma=RELU, guard=flag)
    unit = torch.ones((), dtype=torch.float64)
    ops.activation_difference(
        empty(*shape), empty(*shape), unit=unit, point=empty(*shape), difference=empty(*shape), sigma=RELU
    )
    ops.activation_vjp(empty(*shape), empty(*shape), out=empty(*shape), sigma=RELU)
    ops.relu_prox(empty(*shape), empty(*shape), out=empty(*shape), gamma=1.0, beta=1.0, guard=flag)
    ops.hinge_prox(*(empty(*shape) for _ in range(3)), out=empty(*shape), beta=1.0, guard=flag)
    groups = -(-batch // 16)
    ops.interleave(empty(*shape), empty(groups, width, 16))
    ops.deinterleave(empty(groups, width, 16), empty(*shape))
    assert flag == 0


@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_codes(shape: tuple[int, int]) -> None:
    width = shape[1]
    flag, scalars = guard(), code_block(normalised=1.0, step_size=0.5)
    names = ("displacement", "velocity", "activation", "activation_displacement", "gap", "mask")
    ops.code_step(
        empty(*shape),
        empty(*shape),
        **{name: empty(*shape) for name in names},
        scalars=scalars,
        above=None,
        first=True,
        sigma=RELU,
        guard=flag,
    )
    assert (scalars[CodeScalar.moved], scalars[CodeScalar.step_taken], flag) == (0, 0.5, 0)
    if width == 0:
        ops.sign_flip(
            empty(*shape),
            empty(*shape),
            empty(0),
            displacement=empty(*shape),
            scalars=scalars,
            above=None,
            guard=flag,
        )
        assert (scalars[CodeScalar.moved], flag) == (0, 0)


@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_weight_residuals(shape: tuple[int, int]) -> None:
    flag, scalars = guard(), code_block(residual_square=7.0)
    ops.weight_residual(
        [empty(*shape)],
        products=[empty(*shape)],
        biases=[None],
        codes=[empty(*shape)],
        residuals=[empty(*shape)],
        bias_gradients=[None],
        scalars=[scalars],
        below=[None],
        guard=flag,
    )
    assert (scalars[CodeScalar.residual_square], flag) == (0, 0)


def test_a_sum_over_an_empty_batch() -> None:
    gradient, loss, correct = torch.ones(3), torch.ones(()), torch.ones((), dtype=torch.int64)
    labels = torch.empty(0, dtype=torch.int64)
    outputs: dict[str, Any] = {"residual": empty(0, 3), "bias_gradient": gradient, "loss": loss}
    ops.softmax_residual(empty(0, 3), labels, **outputs, correct=correct)
    assert gradient.tolist() == [0, 0, 0]
    assert correct == 0
    gradient.fill_(1)
    ops.mse_residual(empty(0, 3), empty(0, 3), **outputs)
    assert gradient.tolist() == [0, 0, 0]
    correct.fill_(1)
    ops.softmax_residual(empty(0, MANY), labels, residual=empty(0, MANY), loss=loss, correct=correct)
    assert correct == 0


@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_the_mean_over_nothing_is_no_number(shape: tuple[int, int]) -> None:
    """As torch has it."""
    loss = torch.zeros(())
    ops.mse_residual(empty(*shape), empty(*shape), residual=empty(*shape), loss=loss)
    assert loss.isnan()


def test_weights() -> None:
    scalars = update_blocks([{}, {}])
    adam = adam_block(step=3.0)
    weights = [[empty(MANY, 0), empty(0, MANY)] for _ in range(4)]
    ops.adam_update(*weights, scalars=scalars, adam=adam)
    assert adam.tolist() == adam_block(step=4.0).tolist()
    ops.sgd_update(*weights[:2], scalars=scalars)
    sums = [torch.ones(1, dtype=torch.float64) for _ in range(2)]
    vector = torch.ones(3)
    ops.power_iteration([empty(MANY, 0), empty(0, 3)], [empty(0), vector], sums)
    assert [float(value) for value in sums] == [0, 0]
    assert vector.tolist() == [1, 1, 1]
    ops.bcd_columns(empty(MANY, 0), empty(0, 0), empty(MANY, 0), scalars=memory_block(), sweeps=2**31 - 1)


def test_memories() -> None:
    block = memory_block(forgetting=0.5)
    ops.memory_update(empty(0, 0), empty(0, MANY), gram=empty(0, 0), cross=empty(MANY, 0), scalars=block)
    ops.memory_update(empty(MANY, 0), empty(MANY, 0), gram=empty(0, 0), cross=empty(0, 0), scalars=block)
    for rows, columns in ((0, 3), (MANY, 0), (0, MANY)):
        pivot = torch.zeros(1, dtype=torch.float64)
        matrices = [empty(rows, columns) for _ in range(4)]
        ops.memory_solve(*matrices[:2], factor=matrices[2], solution=matrices[3], smallest_pivot=pivot)
        assert pivot.item() == 1
    gram, cross = torch.ones(3, 3), torch.ones(2, 3)
    ops.memory_update(empty(0, 2), empty(0, 2), gram=gram, cross=cross, scalars=block)
    assert gram.eq(0.5).all()
    assert cross.eq(0.5).all()


@pytest.mark.parametrize(
    ("batch", "steps", "n_in", "n_out"),
    [(0, 3, MANY, 2), (0, MANY, 2, 0), (2, MANY, 0, 3), (0, 0, 2, MANY), (3, 0, 2, 2)],
)
def test_sequences(batch: int, steps: int, n_in: int, n_out: int) -> None:
    width = 0 if n_in == MANY or (batch and steps) else 3
    groups = -(-batch // 16)
    x, hidden = empty(batch, steps, n_in), empty(groups, steps, width, 16)
    recurrent_weight, output_weight = torch.ones(width, width), empty(n_out, steps * width)
    product = torch.ones(batch, n_out)
    ops.elman_encode(
        x,
        input_weight=torch.ones(width, n_in),
        recurrent_weight=recurrent_weight,
        output_weight=output_weight,
        hidden=hidden,
        product=product,
        sigma=RELU,
    )
    assert product.count_nonzero() == 0
    inputs = width + n_in + 1
    sums = {"cross": torch.ones(width, inputs), "output_gradient": empty(n_out, steps * width)}
    if inputs < MANY and not (batch and steps):
        sums["gram"] = torch.ones(inputs, inputs)
    scalars, flag = code_block(residual_square=7.0), guard()
    ops.elman_code_step(
        hidden,
        x,
        recurrent_weight=recurrent_weight,
        output_weight=output_weight,
        displacement=torch.ones(batch, n_out),
        residual=torch.ones(batch, n_out),
        **sums,
        scalars=scalars,
        above=code_block(),
        iterations=2**31 - 1,
        sigma=RELU,
        guard=flag,
    )
    assert all(value.count_nonzero() == 0 for value in sums.values())
    assert (scalars[CodeScalar.residual_square], scalars[CodeScalar.moved], flag) == (0, 0, 0)


# groups, inputs, outputs, height, width
IMAGES = [(0, 2, 3, MANY, 5), (0, 2, 3, 5, MANY), (MANY, 0, 0, 5, 5), (0, 0, MANY, 5, 5), (0, MANY, 0, 5, 5)]


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("extents", IMAGES, ids=str)
def test_convolutions(extents: tuple[int, int, int, int, int], pool: int) -> None:
    groups, inputs, outputs, height, width = extents
    image = empty(groups, inputs, height, width, 16)
    code = empty(groups, outputs, (height - 2) // pool, (width - 2) // pool, 16)
    weight, gradient = torch.ones(outputs, inputs, 3, 3), torch.ones(outputs, inputs, 3, 3)
    winner = code.to(torch.uint8) if pool > 1 else None
    geometry: dict[str, Any] = {"padding": (0, 0), "pool": pool}
    flag, scalars = guard(), code_block(residual_square=7.0)
    ops.convolve(
        image, weight, code=code, activation=code.clone(), winner=winner, sigma=RELU, guard=flag, **geometry
    )
    ops.convolution_vjp(code, weight, winner=winner, pulled_back=image, **geometry)
    ops.convolution_weight_gradient(
        code,
        weight,
        image,
        winner=winner,
        input_displacement=image.clone(),
        weight_gradient=gradient,
        scalars=scalars,
        below=None,
        guard=flag,
        **geometry,
    )
    assert gradient.count_nonzero() == 0
    assert (scalars[CodeScalar.residual_square], flag) == (0, 0)


def test_products() -> None:
    out = torch.ones(2, 3)
    ops.matmul(empty(2, 0), empty(0, 3), out=out)
    assert out.count_nonzero() == 0
    ops.matmul(empty(0, MANY), empty(MANY, 0), out=empty(0, 0))
    ops.matmul(empty(0, 3), torch.ones(3, 2), out=empty(0, 2))
    ops.matmul(empty(MANY, 0), empty(0, 0), out=empty(MANY, 0))
