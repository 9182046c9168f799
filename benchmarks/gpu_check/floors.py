"""Every op's time beside its floor: the bytes it must move, or the operations it must do, at the card's own rates.

Arguments and what is written come from the ops' tests. A tensor that is read and one that is written count once, one
that is both twice; operations are those of the products that an op contains, two for each multiplication.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import Activation
from python_tests.ops import (
    test_activation_difference,
    test_activation_vjp,
    test_adam_update,
    test_bcd_columns,
    test_code_step,
    test_convolution_vjp,
    test_convolution_weight_gradient,
    test_convolve,
    test_elman_code_step,
    test_elman_encode,
    test_hinge_prox,
    test_memory_solve,
    test_memory_update,
    test_mse_residual,
    test_relu_prox,
    test_sgd_update,
    test_sign_flip,
    test_softmax_prox,
    test_softmax_residual,
    test_weight_residual,
)
from python_tests.ops.calling import PARAMETER_BLOCKS, Output, Random
from python_tests.ops.convolution import Shape
from python_tests.ops.elman import Layer

from .timing import of_kernels

Arguments = dict[str, Any]
RELU = Activation("relu")
WIDTH, CLASSES = 500, 10
BATCHES, ELMAN_BATCHES, SMALL_BATCHES = (8192, 200), (1024, 200), (17, 4)
STAGE = Shape(1, 6, 16, (12, 12), (5, 5), (0, 0), 2)  # LeNet-5's second, but for the groups of samples
HIDDEN = 15
# Several sets of arguments in turns, so that what is read is not in the cache: this many bytes, or this many sets.
CACHE_BYTES, MOST_SETS = 2**28, 16
ON_CPU = ("guard_index",)


def _shape(batch: int) -> Shape:
    return Shape(
        -(-batch // 16), STAGE.inputs, STAGE.outputs, STAGE.image, STAGE.kernel, STAGE.padding, STAGE.pool
    )


def _sizes(width: int = WIDTH) -> tuple[int, ...]:
    """Of the parameters of 784-500-500-10."""
    return 784 * width, width, width * width, width, width * CLASSES, CLASSES


def _steps(batch: int) -> int:
    return 5 if batch in SMALL_BATCHES else 784


def _elman_code_step(random: Random, batch: int) -> Arguments:
    layer = Layer.random(random, batch, _steps(batch), 1, HIDDEN, CLASSES, RELU)
    return test_elman_code_step.case(random, layer)


def _activate(random: Random, batch: int) -> Arguments:
    shape = batch, WIDTH
    code, bias = random.normal(*shape), random.normal(WIDTH)
    return {"code": code, "bias": bias, "mask": None, "activation": Output(shape), "sigma": RELU}


def _power_iteration(random: Random, _: int) -> Arguments:
    matrices = [random.normal(WIDTH, WIDTH), random.normal(CLASSES, WIDTH)]
    return {
        "weights": matrices,
        "vectors": [random.normal(WIDTH) / WIDTH**0.5 for _ in matrices],
        "sigma_squared": [Output((1,), torch.float64) for _ in matrices],
    }


def _matmul(random: Random, batch: int) -> Arguments:
    """The forward product of a hidden layer."""
    a, b = random.normal(batch, WIDTH), random.normal(WIDTH, WIDTH)
    return {"a": a, "b": b, "out": Output((batch, WIDTH)), "transpose_b": True}


CASES: dict[str, Callable[[Random, int], Arguments]] = {
    "activate": _activate,
    "code_step": lambda random, batch: test_code_step.case(random, batch, WIDTH),
    "activation_difference": lambda random, batch: test_activation_difference.arguments(
        random, (batch, WIDTH), RELU
    ),
    "activation_vjp": lambda random, batch: test_activation_vjp.arguments(random, (batch, WIDTH), RELU),
    "sign_flip": lambda random, batch: test_sign_flip.case(random, batch, WIDTH),
    "softmax_residual": lambda random, batch: test_softmax_residual.kernel_case(random, batch, CLASSES),
    "mse_residual": lambda random, batch: test_mse_residual.kernel_case(random, batch, CLASSES),
    "weight_residual": lambda random, batch: test_weight_residual.kernel_case(random, batch, (WIDTH, WIDTH)),
    "adam_update": lambda random, _: test_adam_update.kernel_case(random, _sizes()),
    "sgd_update": lambda random, _: test_sgd_update.kernel_case(random, _sizes()),
    "power_iteration": _power_iteration,
    "matmul": _matmul,
    "memory_solve": lambda random, _: test_memory_solve.kernel_case(random, 100, WIDTH),
    "memory_update": lambda random, batch: test_memory_update.kernel_case(random, batch, WIDTH, WIDTH),
    "bcd_columns": lambda random, _: test_bcd_columns.kernel_case(random, WIDTH, WIDTH),
    "relu_prox": lambda random, batch: test_relu_prox.case(random, batch, WIDTH),
    "softmax_prox": lambda random, batch: test_softmax_prox.case(random, batch, CLASSES),
    "hinge_prox": lambda random, batch: test_hinge_prox.case(random, batch, WIDTH),
    "convolve": lambda random, batch: test_convolve.case(random, _shape(batch)),
    "convolution_vjp": lambda random, batch: test_convolution_vjp.case(random, _shape(batch)),
    "convolution_weight_gradient": lambda random, batch: test_convolution_weight_gradient.case(
        random, _shape(batch)
    ),
    "elman_encode": lambda random, batch: test_elman_encode.case(
        random, batch, _steps(batch), 1, HIDDEN, CLASSES
    ),
    "elman_code_step": _elman_code_step,
    "interleave": lambda random, batch: {
        "rows": random.normal(batch, WIDTH), "lanes": Output((-(-batch // 16), WIDTH, 16))
    },
    "deinterleave": lambda random, batch: {
        "lanes": random.normal(-(-batch // 16), WIDTH, 16), "rows": Output((batch, WIDTH))
    },
}  # fmt: skip
WITHOUT_BATCH = ("adam_update", "sgd_update", "power_iteration", "bcd_columns", "memory_solve")


def _convolution(a: Arguments) -> int:
    """Multiplications of the convolution of a stage with this input, or this one to be pulled back to."""
    weight = a["weight"]
    image = next(a[name] for name in ("input", "pulled_back") if name in a)
    groups, _, height, width, lanes = image.shape
    positions = (height - weight.shape[2] + 1) * (width - weight.shape[3] + 1)
    return groups * lanes * positions * weight.numel()


def _elman_multiplications(a: Arguments) -> int:
    """Of the recurrence and the linear map that reads it: of what an encode does."""
    batch, steps, n_in = a["x"].shape
    width = len(a["recurrent_weight"])
    return batch * steps * width * (n_in + width + len(a["output_weight"]))


# Multiplications of the products within an op; all others do few per number they move.
PRODUCTS: dict[str, Callable[[Arguments], int]] = {
    "matmul": lambda a: len(a["a"]) * a["b"].numel(),
    "power_iteration": lambda a: 2 * sum(w.numel() for w in a["weights"]),
    # one triangle of S, and two systems with one of C
    "memory_solve": lambda a: 3 * len(a["inputs"]) * a["inputs"].numel() // 2,
    # one triangle of the gram matrix
    "memory_update": lambda a: (
        len(a["code"]) * (len(a["gram"]) * (len(a["gram"]) + 1) // 2 + a["cross"].numel())
    ),
    "bcd_columns": lambda a: a["sweeps"] * a["weight"].numel() * a["weight"].shape[1],
    "convolve": _convolution,
    "convolution_vjp": _convolution,
    # of the input's displacement, too, where it has one
    "convolution_weight_gradient": lambda a: (
        (2 if a["input_displacement"] is not None else 1) * _convolution(a)
    ),
    "elman_encode": _elman_multiplications,
    # W^T s and the output's gradient, U twice, and the two matrices of the weights' least squares
    "elman_code_step": lambda a: (
        2 * a["output"].numel() * len(a["output_weight"])
        + len(a["x"])
        * a["x"].shape[1]
        * (2 * a["recurrent_weight"].numel() + a["cross"].numel() + a["gram"].numel())
    ),
}


def cases(rehearses: bool) -> list[str]:
    def batch(op: str, size: int) -> int:
        sizes = SMALL_BATCHES if rehearses else ELMAN_BATCHES if op.startswith("elman") else BATCHES
        return sizes[size]

    large = [f"{op}; {batch(op, 0)}" for op in ops.names]
    small = [f"{op}; {batch(op, 1)}" for op in ops.names if op not in WITHOUT_BATCH]
    # Elman's last: the host makes their arguments for longer than those of all others together.
    return sorted(large + small, key=lambda case: case.startswith("elman"))


def _tensors(value: Any) -> Iterator[Any]:
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, Tensor | Output):
            yield entry


def _on(device: torch.device, name: str, value: Any) -> Any:
    """A tensor of the tests as an op takes it: float32 but for the parameter blocks."""
    if isinstance(value, list):
        return [_on(device, name, entry) for entry in value]
    own = torch.float64 if name in PARAMETER_BLOCKS else torch.float32
    if isinstance(value, Output):
        return torch.zeros(value.shape, dtype=value.dtype or own, device=device)
    if not isinstance(value, Tensor):
        return value
    place = torch.device("cpu") if name in ON_CPU else device
    return value.to(place, own if value.is_floating_point() else value.dtype, copy=True)


def made(op: str, batch: int, device: torch.device) -> tuple[Arguments, int]:
    """Arguments on the device, with a guard where the op takes one, and how many bytes it must move."""
    given = CASES[op](Random(0), batch)
    if "guard" in getattr(ops, op).written:
        given = {"guard": torch.zeros(len(given.get("displacements", [0]))), **given}
    arguments = {name: _on(device, name, value) for name, value in given.items()}
    count = 0
    for name, value in given.items():
        moved = [entry.nbytes for entry in _tensors(arguments[name])]
        reads = [isinstance(entry, Tensor) for entry in _tensors(value)]
        writes = name in getattr(ops, op).written
        count += sum(size * (read + writes) for size, read in zip(moved, reads, strict=True))
    return arguments, count


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(entry) for entry in value]
    return value.clone() if isinstance(value, Tensor) else value


def measure(case: str, device: torch.device) -> list[dict[str, Any]]:
    op, size = case.split("; ")
    arguments, moved = made(op, int(size), device)
    operations = 2 * PRODUCTS[op](arguments) if op in PRODUCTS else 0
    sets = max(1, min(MOST_SETS, CACHE_BYTES // moved)) if device.type == "cuda" else 1
    many = [arguments, *({k: _copied(v) for k, v in arguments.items()} for _ in range(sets - 1))]
    function = getattr(ops, op)
    seconds = of_kernels([functools.partial(function, **own) for own in many], device)
    guards = [float(own["guard"].sum()) for own in many if own.get("guard") is not None]
    if any(guards):
        raise ArithmeticError(f"{op} raised its guard")
    measured = {"microseconds": 1e6 * seconds, "bytes": moved, "operations": operations, "sets": sets}
    return [{"op": op, "batch": int(size), **measured}]
