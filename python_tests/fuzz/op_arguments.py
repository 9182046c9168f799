"""Draws the arguments of ops.

An op's signature says what is a tensor, a list of them or a scalar, and what may be None; its declaration, what it
writes. Here is what they do not say: shapes, what numbers mean, and which arguments go together.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from altmin_ext import ops
from altmin_ext.ops import Activation, AdamScalar, CodeScalar, MemoryScalar, UpdateScalar

Array = np.ndarray[Any, np.dtype[Any]]

EXTENTS = (0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16, 17, 19, 24, 25, 31, 32, 33)
# About where kernels cut: panels, chunks, blocks of samples, of time steps, of columns, of classes.
LONG_EXTENTS = (47, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1025)
# Enough for a second and a third thread: rows and columns; sequences, time steps and codes.
LARGE = ((33, 1025), (1025, 33), (129, 300), (2, 16400), (16400, 3), (1, 50000), (50000, 1))
LARGE_SEQUENCES = ((16, 60, 50), (3, 200, 60), (40, 30, 33), (33, 128, 9))
LARGE_SHARE = 0.015
PARAMETERS = {"leaky_relu": (0.01, 0.5, -0.1), "elu": (1.0, 0.6), "softplus": (1.0, 2.5)}

CODE = f"{len(CodeScalar)},"
ROWS = "B, n"
IMAGES = "G, n, H, W, 16"
KERNEL = "m, n, h, w"
CODES = "G, m, (H + 2 * p - h + 1) // pool, (W + 2 * q - w + 1) // pool, 16"
# By op and argument; in lists, of an entry.
SHAPES: dict[str, dict[str, str]] = {
    "activate": {"code": ROWS, "bias": "n,", "mask": ROWS, "activation": ROWS},
    "activation_difference": dict.fromkeys(("code", "moved", "point", "difference"), ROWS) | {"unit": ""},
    "activation_vjp": dict.fromkeys(("code", "gradient", "out"), ROWS),
    "adam_update": dict.fromkeys(("weights", "gradients", "first_moments", "second_moments"), "*shape,")
    | {"scalars": f"count, {len(UpdateScalar)}", "adam": f"{len(AdamScalar)},"}
    | {"guard": "flags,", "guard_index": "count,"},
    "bcd_columns": {"weight": "m, n", "gram": "n, n", "cross": "m, n", "scalars": f"{len(MemoryScalar)},"},
    "code_step": dict.fromkeys(("code", "pulled_back", "pulled_back_change", "mask", "gap"), ROWS)
    | dict.fromkeys(("displacement", "velocity", "activation", "activation_displacement"), ROWS)
    | {"scalars": CODE, "above": CODE},
    "convolution_vjp": {"displacement": CODES, "weight": KERNEL, "winner": CODES, "pulled_back": IMAGES},
    "convolution_weight_gradient": {"displacement": CODES, "weight": KERNEL, "input": IMAGES}
    | {"winner": CODES, "input_displacement": IMAGES, "weight_gradient": KERNEL, "bias_gradient": "m,"}
    | {"scalars": CODE, "below": CODE},
    "convolve": {"input": IMAGES, "weight": KERNEL, "bias": "m,"}
    | dict.fromkeys(("mask", "code", "activation", "winner", "gap"), CODES),
    "deinterleave": {"lanes": "groups(B), n, 16", "rows": ROWS},
    "elman_code_step": {"hidden": "groups(B), T, d, 16", "x": "B, T, n", "recurrent_weight": "d, d"}
    | {"output_weight": "m, T * d", "displacement": "B, m", "residual": "B, m", "cross": "d, d + n + 1"}
    | {"gram": "d + n + 1, d + n + 1", "output_gradient": "m, T * d", "output": "B, T * d"}
    | {"scalars": CODE, "above": CODE},
    "elman_encode": {"x": "B, T, n", "input_weight": "d, n", "recurrent_weight": "d, d", "input_bias": "d,"}
    | {"recurrent_bias": "d,", "output_weight": "m, T * d"}
    | {"hidden": "groups(B), T, d, 16", "product": "B, m"},
    "hinge_prox": dict.fromkeys(("center", "targets", "multiplier", "out"), ROWS),
    "interleave": {"rows": ROWS, "lanes": "groups(B), n, 16"},
    "matmul": {
        "a": "*((n, B) if transpose_a else (B, n)),",
        "b": "*((m, n) if transpose_b else (n, m)),",
        "out": "B, m",
    },
    "memory_solve": dict.fromkeys(("inputs", "product", "factor", "solution"), ROWS)
    | {"smallest_pivot": "1,"},
    "memory_update": {
        "activation": ROWS,
        "code": "B, m",
        "gram": "n + bias, n + bias",
        "cross": "m, n + bias",
        "gram_before": "n + bias, n + bias",
        "cross_before": "m, n + bias",
    }
    | {"scalars": f"{len(MemoryScalar)},"},
    "mse_residual": {"logits": ROWS, "targets": ROWS, "bias": "n,", "residual": ROWS}
    | {"bias_gradient": "n,", "loss": ""},
    "power_iteration": {"weights": "m, n", "vectors": "n,", "sigma_squared": "1,"},
    "relu_prox": dict.fromkeys(("activation", "center", "out"), ROWS),
    "sgd_update": dict.fromkeys(("weights", "gradients"), "*shape,")
    | {"scalars": f"count, {len(UpdateScalar)}", "guard": "flags,", "guard_index": "count,"},
    "sign_flip": {"code": ROWS, "pulled_back": ROWS, "norm": "n,", "mask": ROWS, "displacement": ROWS}
    | {"scalars": CODE, "above": CODE},
    "softmax_prox": {"center": ROWS, "labels": "B,", "out": ROWS},
    "softmax_residual": {"logits": ROWS, "labels": "B,", "bias": "n,", "residual": ROWS}
    | {"bias_gradient": "n,", "loss": "", "correct": ""},
    "weight_residual": dict.fromkeys(("displacements", "products", "codes", "residuals"), ROWS)
    | {"biases": "n,", "bias_gradients": "n,", "scalars": CODE, "below": CODE, "guard": "count,"},
}
FLOAT64 = {"guard", "scalars", "above", "below", "adam", "sigma_squared", "smallest_pivot", "unit"}
INTEGERS = {"labels": np.int64, "correct": np.int64, "guard_index": np.int64, "winner": np.uint8}
# (output, argument): may be one and the same tensor, within an entry of lists.
ALIASES = {
    "activate": (("activation", "code"),),
    "activation_vjp": (("out", "gradient"),),
    "code_step": (("displacement", "pulled_back"), ("activation", "code")),
    "convolve": (("activation", "code"),),
    "hinge_prox": (("out", "center"),),
    "memory_solve": (("factor", "product"),),
    "mse_residual": (("residual", "logits"),),
    "relu_prox": (("out", "activation"), ("out", "center")),
    "sign_flip": (("displacement", "pulled_back"),),
    "softmax_prox": (("out", "center"),),
    "softmax_residual": (("residual", "logits"),),
    "weight_residual": (("residuals", "displacements"), ("residuals", "products")),
}
# Written, but also read; all else that is written may hold anything before.
READ_TOO = {
    "activate": {"code"},
    "adam_update": {"weights", "first_moments", "second_moments", "adam"},
    "bcd_columns": {"weight"},
    "code_step": {"displacement", "velocity", "scalars"},
    "convolution_weight_gradient": {"scalars"},
    "elman_code_step": {"scalars"},
    "memory_update": {"gram", "cross"},
    "power_iteration": {"vectors"},
    "sgd_update": {"weights"},
    "sign_flip": {"scalars"},
    "weight_residual": {"scalars"},
}
POISON = {np.float32: np.nan, np.float64: np.nan, np.int64: -(2**40) + 3, np.uint8: 251}
SPECIALS = (np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, -1e-39, 1e-20)
HUGE = (1e30, -1e30)  # and whose squares float32 holds, where numbers are multiplied with each other
HUGE_FACTORS = (1e18, -1e18)
PRODUCTS = ("convolution_vjp", "convolution_weight_gradient", "convolve", "elman_code_step", "elman_encode")
PRODUCTS += ("matmul", "memory_solve", "memory_update", "power_iteration")


@dataclasses.dataclass
class Call:
    """A call of an op.

    Attributes:
        op: its name.
        arguments: by name: arrays, lists of them, scalars, None.
        sizes: the extents by which shapes are given.
        floating: the op's floating-point type.
        style: what its numbers are like: "normal"; "grid", multiples of 1/8 whose products and sums are exact in
            float32; "tiny" or "large"; or "wild", some of which are not finite, huge or subnormal.
        threads: how many the op may use.
    """

    op: str
    arguments: dict[str, Any]
    sizes: dict[str, Any]
    floating: type
    style: str
    threads: int = 1

    @property
    def written(self) -> tuple[str, ...]:
        return getattr(ops, self.op).written

    def aliases(self) -> list[tuple[str, str]]:
        """The pairs of ALIASES that this call may make one."""
        pairs = [
            pair
            for pair in ALIASES.get(self.op, ())
            if all(self.arguments.get(name) is not None for name in pair)
        ]
        if self.op != "code_step":
            return pairs
        at_rest = self.arguments["sigma"].name in ("relu", "identity")
        first = self.arguments["first"]
        return [pair for pair in pairs if first and (pair[0] == "displacement" or at_rest)]


class Draw:
    """Random numbers, and what is made of them."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.specials = (*SPECIALS, *HUGE)

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def choice(self, options: Sequence[Any]) -> Any:
        return options[int(self.random.integers(len(options)))]

    def extent(self, most: int = 1025) -> int:
        extents = LONG_EXTENTS if most > 64 and self.chance(0.03) else EXTENTS
        return min(self.choice(extents), most)

    def positive(self) -> float:
        return float(self.choice((1.0, 0.5, 2.0, 1e-3, 30.0))) * float(self.random.uniform(0.5, 2))

    def numbers(self, shape: tuple[int, ...], style: str) -> Array:
        """As floats hold them, in float64."""
        if style == "grid":
            return self.random.integers(-16, 17, shape) / 8
        values = self.random.standard_normal(shape, dtype=np.float32)
        values = values * np.float32({"tiny": 1e-4, "large": 30.0}.get(style, 1.0))
        if style == "wild" and values.size:
            some = self.random.random(shape) < self.choice((0.01, 0.1, 0.5))
            with np.errstate(under="ignore"):
                values = np.where(some, self.random.choice(np.float32(self.specials), shape), values)
        return np.asarray(values, np.float64)

    def activation(self, style: str) -> Activation:
        name = self.choice(ops._native.module.activation_names)  # type: ignore[union-attr]
        return Activation(name, self.choice(PARAMETERS.get(name, (0.0,))))


def _code_block(draw: Draw) -> Array:
    block = np.zeros(len(CodeScalar))
    for scalar in (CodeScalar.unit, CodeScalar.scale, CodeScalar.damping, CodeScalar.moved):
        block[scalar] = draw.positive()
    block[CodeScalar.step_size] = draw.choice((0.4, 0.0, 1.0, -1.0))
    block[CodeScalar.curvature] = draw.positive()
    block[CodeScalar.sigma_squared] = draw.positive()
    block[CodeScalar.step_taken] = draw.positive()
    block[CodeScalar.downstream] = draw.choice((1.0, 0.3))
    block[CodeScalar.anchor] = draw.choice((1.0, 0.0, 0.1))
    block[CodeScalar.momentum] = draw.choice((0.0, 0.9))
    block[CodeScalar.threshold] = draw.choice((0.0, 0.0, 0.2))
    block[CodeScalar.normalised] = draw.choice((0.0, 1.0, 4.0))
    return block


def _update_rows(draw: Draw, count: int) -> Array:
    rows = np.zeros((count, len(UpdateScalar)))
    for row in rows:
        row[UpdateScalar.learning_rate] = draw.choice((0.01, 1.0, 0.0))
        row[UpdateScalar.gradient_factor] = draw.choice((1.0, 1 / 32))
        row[UpdateScalar.decay] = draw.choice((0.0, 0.1))
        row[UpdateScalar.threshold] = draw.choice((0.0, 0.0, 0.3))
    return rows


def _block(draw: Draw, op: str, name: str, shape: tuple[int, ...]) -> Array:
    if name == "guard":
        # Raised only seldom: then the updates do nothing.
        return (draw.random.random(shape) < 0.1 if draw.chance(0.1) else np.zeros(shape)).astype(np.float64)
    if name == "adam":
        return np.array(
            [draw.choice((0.9, 0.0)), 0.999, draw.choice((1e-8, 1e-3)), draw.random.integers(1000)]
        )
    if name == "scalars" and op in ("adam_update", "sgd_update"):
        return _update_rows(draw, shape[0])
    if name == "scalars" and op in ("bcd_columns", "memory_update"):
        block = np.zeros(len(MemoryScalar))
        block[MemoryScalar.forgetting] = draw.choice((0.0, 0.1, 1.0, -0.25))
        block[MemoryScalar.threshold] = draw.choice((0.0, 0.5))
        block[MemoryScalar.damping] = draw.choice((0.0, 0.0, 0.1, 3.0))
        return block
    if name == "unit":
        return np.array(draw.positive())
    return _code_block(draw)


def _values(draw: Draw, call: Call, name: str, shape: tuple[int, ...]) -> Array:
    """What an array that is read holds."""
    random, sizes = draw.random, call.sizes
    if name in FLOAT64:
        return _block(draw, call.op, name, shape)
    if name == "labels":
        return random.integers(0, max(1, sizes["n"]), shape)
    if name == "winner":
        return random.integers(0, sizes["pool"] ** 2, shape)
    if name == "guard_index":
        return random.integers(0, max(1, sizes["flags"]), shape)
    if name == "mask":
        return (random.random(shape) >= 0.25) / 0.75
    if name == "targets" and call.op == "hinge_prox":
        return random.integers(0, 3 if call.style == "wild" else 2, shape).astype(np.float64)
    if name == "gram":
        side = draw.numbers((shape[0] + 2, shape[0]), call.style)
        if shape[0] and draw.chance(0.1):
            side[:, draw.random.integers(shape[0])] = 0  # an input that was always zero
        with np.errstate(all="ignore"):
            return side.T @ side
    # Lanes beyond the batch are zero as long as they are multiplied with finite numbers.
    # And large weights make chaos of the steps of codes.
    tame = call.op.startswith("elman") and ("weight" in name or "bias" in name)
    values = draw.numbers(shape, "normal" if tame and call.style != "tiny" else call.style)
    if call.op in ("adam_update", "sgd_update") and name != "gradients":
        values = np.where(np.abs(values) < 1e18, values, 1.0)  # what an update keeps is finite
    if tame and name.endswith("weight"):
        values = np.float32(values / math.sqrt(max(1, shape[-1]))).astype(np.float64)
    if name == "vectors":
        norm = np.linalg.norm(values)
        return values / norm if np.isfinite(norm) and norm > 0 else values
    if name in ("second_moments", "norm", "gap"):
        return np.abs(values)
    if name == "hidden":
        values = np.tanh(values)
        values[len(values) - 1 :, :, :, (sizes["B"] - 1) % 16 + 1 :] = 0  # beyond the batch
    return values


def _sizes(draw: Draw, op: str) -> dict[str, Any]:
    sizes: dict[str, Any] = {"groups": lambda batch: -(-batch // 16), "bias": int(draw.chance(0.7))}
    if op.startswith("convol"):
        sizes |= {"G": draw.choice((0, 1, 1, 1, 2, 3)), "pool": draw.choice((1, 1, 2, 2, 3, 4, 16))}
        sizes |= {name: draw.choice((0, 1, 1, 2, 3, 4, 6, 7, 13)) for name in "mn"}
        for image, kernel, padding in (("H", "h", "p"), ("W", "w", "q")):
            sizes[kernel] = draw.choice((1, 1, 2, 3, 3, 4, 5, 7))
            sizes[padding] = int(draw.random.integers(sizes[kernel]))
            fewest = max(0, sizes[kernel] - 2 * sizes[padding])
            sizes[image] = fewest + draw.choice((0, 0, 1, 2, 3, 5, 8, 12))
        return sizes
    most = 40 if op.startswith("elman") else 129 if op in ("bcd_columns", "matmul", "memory_solve") else 1025
    sizes |= {name: draw.extent(most) for name in "BmnTd"}
    if op.startswith("elman"):
        sizes["T"] = min(sizes["T"], 8) if draw.chance(0.8) else sizes["T"]
        if draw.chance(LARGE_SHARE):
            sizes["B"], sizes["T"], sizes["d"] = draw.choice(LARGE_SEQUENCES)
    elif op not in ("bcd_columns", "memory_solve", "memory_update") and draw.chance(LARGE_SHARE):
        sizes["B"], sizes["n"] = draw.choice(LARGE)
    if op == "matmul":
        sizes |= {name: draw.chance(0.5) for name in ("transpose_a", "transpose_b")}
    if op.startswith("soft"):
        sizes["n"] = max(1, sizes["n"])
    return sizes


def entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _scalar(draw: Draw, call: Call, name: str) -> Any:
    sizes = call.sizes
    if name == "sigma":
        while True:
            sigma = draw.activation(call.style)
            if sigma.is_monotone or call.op != "convolve" or sizes["pool"] == 1:
                return sigma
    if name == "padding":
        return sizes["p"], sizes["q"]
    if name == "pool":
        return sizes["pool"]
    if name in ("transpose_a", "transpose_b"):
        return sizes[name]
    if name in ("iterations", "sweeps"):
        return draw.choice((1, 2, 3))
    if name in ("first", "from_zero", "has_bias", "nonnegative", "removes", "subtract", "upper"):
        return draw.chance(0.5)
    return draw.positive()


def _array(draw: Draw, call: Call, name: str, text: str, sizes: Mapping[str, Any]) -> Array:
    shape = eval(f"({text})", {}, dict(sizes))
    kind = INTEGERS.get(name, np.float64 if name in FLOAT64 else call.floating)
    if name in call.written and name != "guard" and name not in READ_TOO.get(call.op, ()):
        return np.full(shape, POISON[kind], kind)
    with np.errstate(all="ignore"):
        return np.asarray(_values(draw, call, name, shape)).astype(kind)


def _stage(draw: Draw, call: Call) -> dict[str, Any]:
    """The extents of one entry of lists."""
    if call.op in ("adam_update", "sgd_update"):
        # A number alone plain torch computes in float64, where not all sizes can be compared.
        dimensions = draw.choice((int(call.style == "wild"), 1, 1, 2, 2, 3))
        shape = tuple(draw.extent(129) for _ in range(dimensions))
        return call.sizes | {"shape": draw.choice(LARGE) if draw.chance(LARGE_SHARE) else shape}
    n = call.sizes["n"] if (call.sizes["B"], call.sizes["n"]) in LARGE else draw.extent()
    return call.sizes | {"n": n, "m": 129 if draw.chance(LARGE_SHARE) else draw.extent(129)}


def draw_call(draw: Draw, op: str, style: str) -> Call:
    """A call that the op must take."""
    sizes = _sizes(draw, op)
    draw.specials = (*SPECIALS, *(HUGE_FACTORS if op in PRODUCTS else HUGE))
    if op == "bcd_columns" and style == "wild":
        style = "large"  # what is not finite goes through its columns in an order of its own
    call = Call(op, {}, sizes, draw.choice((np.float32, np.float32, np.float64)), style)
    signature = inspect.signature(getattr(ops, op))
    annotations = {name: str(parameter.annotation) for name, parameter in signature.parameters.items()}
    shapes = {"guard": "1,", **SHAPES[op]}
    lists = [name for name, text in annotations.items() if text.startswith("Sequence")]
    sizes["count"] = draw.choice((0, 1, 1, 2, 3, 5)) if lists else 1
    sizes["flags"] = sizes["count"] + int(draw.random.integers(1, 3))
    stages = [_stage(draw, call) for _ in range(sizes["count"])] if lists else []
    for name, text in annotations.items():
        if "Tensor" not in text:
            call.arguments[name] = _scalar(draw, call, name)
        elif name in lists:
            optional = "None" in text
            call.arguments[name] = [
                None if optional and draw.chance(0.3) else _array(draw, call, name, shapes[name], stage)
                for stage in stages
            ]
        elif "None" in text and draw.chance(0.3):
            call.arguments[name] = None
        else:
            call.arguments[name] = _array(draw, call, name, shapes[name], sizes)
    _fit_together(draw, call)
    return call


def _fit_together(draw: Draw, call: Call) -> None:
    """What is needed, or must be absent, because of another argument."""
    arguments, sizes = call.arguments, call.sizes
    if "winner" in arguments and sizes["pool"] == 1:
        arguments["winner"] = None
        if "gap" in arguments:
            arguments["gap"] = None
    elif "winner" in arguments and call.op != "convolve" and arguments["winner"] is None:
        arguments["winner"] = _array(draw, call, "winner", CODES, sizes)
    if (
        call.op == "elman_code_step"
        and arguments["output_gradient"] is not None
        and arguments["residual"] is None
    ):
        arguments["residual"] = _array(draw, call, "residual", "B, m", sizes)
    if call.op == "code_step" and not arguments["first"] and arguments["scalars"][CodeScalar.threshold] > 0:
        arguments["scalars"][CodeScalar.unit] = 1.0  # as the first iteration leaves it
    if call.op == "memory_solve":
        # A part of what a memory knows, so that it can be taken out.
        inputs = arguments["inputs"].astype(np.float64)
        with np.errstate(all="ignore"):
            known = draw.random.uniform(0.1, 0.9, inputs.shape[1:]) / max(1.0, float((inputs**2).sum()))
            arguments["product"] = (inputs * known).astype(call.floating)
    if call.op == "memory_update":
        before = arguments["gram_before"]
        for name in ("gram", "cross"):
            if arguments[f"{name}_before"] is not None and not (name == "gram" and arguments["upper"]):
                arguments[name][:] = np.nan
        past = arguments["gram"] if before is None else before
        if draw.chance(0.5) and not (before is None and arguments["upper"]):
            past[np.tril_indices(len(past), -1)] = np.nan  # which is not read
    if call.op == "bcd_columns" and arguments["from_zero"]:
        arguments["weight"][:] = np.nan
        if arguments["sweeps"] == 1:
            arguments["gram"][np.tril_indices(sizes["n"], -1)] = np.nan
