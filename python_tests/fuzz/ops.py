"""Calls of every op, valid and hostile, by every instruction set of the machine.

Oracles: the twin in float64, with the bound of CONTRIBUTING.md; what lies around the arguments and what an op only
reads, which stay as they were to the bit; and of a hostile call one sentence and nothing written.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import CodeScalar
from altmin_ext.ops import _native as native

from .op_arguments import FLOAT64, Array, Call, Draw, draw_call, entries
from .op_refusals import hostile_arguments

NAME = "ops"
STYLES = ("normal", "normal", "normal", "grid", "tiny", "large", "wild")
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
# Slow twins; of the others there are more calls.
SELDOM = ("bcd_columns", "elman_code_step", "elman_encode", "softmax_prox")
MARGIN = 40  # bytes at least around an argument
HOSTILE_CALLS = 6

Place = tuple[str, int]  # an argument's name, and an index if it is a list
Numbers = Mapping[Place, Array]


def _instruction_sets() -> tuple[str, ...]:
    assert native.module is not None, native.reason
    before = native.module.instruction_set()
    offered = tuple(name for name in INSTRUCTION_SETS if native.module.use_instruction_set(name))
    native.module.use_instruction_set(before)
    return offered


def run(seed: int) -> int:
    """Run a few calls of one op, drawn from the seed.

    Returns:
        The number of calls of the op.

    Raises:
        AssertionError: a number, a refusal or something that was written is wrong; says which.
    """
    draw = Draw(seed)
    op = draw.choice([name for name in ops.names for _ in range(1 if name in SELDOM else 3)])
    call = draw_call(draw, op, draw.choice(STYLES))
    call.threads = draw.choice((1, 2, 3)) if draw.chance(0.1) or _size(call) > 30000 else 1
    before = torch.get_num_threads(), native.module.instruction_set()  # type: ignore[union-attr]
    torch.set_num_threads(1)  # for the twins, whose many small operations would wait for each other
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _valid_calls(draw, call) + _hostile_calls(draw, call)
    except AssertionError as error:
        raise AssertionError(f"{_describe(call)}, {call.threads} threads: {error}") from error
    finally:
        torch.set_num_threads(before[0])
        native.module.use_instruction_set(before[1])  # type: ignore[union-attr]


def _arrays(call: Call) -> Iterator[Array]:
    for argument in call.arguments.values():
        for entry in entries(argument):
            if isinstance(entry, np.ndarray):
                yield entry


def _size(call: Call) -> int:
    return max((array.size for array in _arrays(call)), default=0)


def _longest(call: Call) -> int:
    return max(max(array.shape, default=1) for array in _arrays(call))


def _describe(call: Call) -> str:
    def shape(value: Any) -> Any:
        if isinstance(value, list):
            return [shape(entry) for entry in value]
        return value.shape if isinstance(value, np.ndarray) else value

    arguments = ", ".join(f"{name}={shape(value)}" for name, value in call.arguments.items())
    return f"{call.op}({arguments}), {call.floating.__name__}, {call.style}"


class Memory:
    """A call's arrays in one piece of memory, apart from each other, at addresses that fit nothing but their type."""

    def __init__(self, draw: Draw, call: Call, alias: tuple[str, str] | None = None) -> None:
        places: dict[Place, Array] = {
            (name, i): value
            for name, argument in call.arguments.items()
            for i, value in enumerate(entries(argument))
            if isinstance(value, np.ndarray)
        }
        offsets: dict[Place, int] = {}
        end = 0
        for place, array in places.items():
            if alias and place[0] == alias[0] and (alias[1], place[1]) in places:
                continue
            offsets[place] = -(-(end + MARGIN) // 8) * 8 + array.itemsize * int(draw.random.integers(8))
            end = offsets[place] + array.nbytes
        if alias:
            for place in places.keys() - offsets.keys():
                offsets[place] = offsets[alias[1], place[1]]
        self.before = draw.random.integers(0, 256, end + MARGIN, dtype=np.uint8)
        self._bytes = self.before.copy()
        self._fixed = np.ones(len(self.before), bool)
        self._tensors: dict[Place, Tensor] = {}
        for place, array in places.items():
            part = slice(offsets[place], offsets[place] + array.nbytes)
            if not (alias and place[0] == alias[0] and (alias[1], place[1]) in places):
                self.before[part] = np.frombuffer(array.tobytes(), np.uint8)
            if place[0] in call.written:
                self._fixed[part] = False
            self._tensors[place] = torch.from_numpy(self._bytes[part].view(array.dtype).reshape(array.shape))
        self.arguments = {
            name: [self._tensors.get((name, i)) for i in range(len(argument))]
            if isinstance(argument, list)
            else self._tensors.get((name, 0), argument)
            for name, argument in call.arguments.items()
        }
        self.restore()

    def restore(self) -> None:
        self._bytes[:] = self.before

    def written(self, call: Call) -> dict[Place, Array]:
        """What a call left in its outputs, once it is certain that all else is as it was."""
        changed = (self._bytes != self.before) & self._fixed
        assert not changed.any(), f"it wrote beside its outputs: {self._where(int(changed.argmax()))}"
        return {
            place: tensor.numpy().copy()
            for place, tensor in self._tensors.items()
            if place[0] in call.written
        }

    def assert_untouched(self) -> None:
        changed = self._bytes != self.before
        assert not changed.any(), f"it wrote before it refused: {self._where(int(changed.argmax()))}"

    def _where(self, byte: int) -> str:
        address = self._bytes.__array_interface__["data"][0] + byte
        for (name, i), tensor in self._tensors.items():
            if tensor.data_ptr() <= address < tensor.data_ptr() + tensor.nbytes:
                return f"{name} (entry {i}), byte {address - tensor.data_ptr()}"
        return f"byte {byte} of {len(self._bytes)}, between arguments"


@dataclasses.dataclass
class Twin:
    """What the twin makes of a call's arguments in one floating-point type."""

    call: Call
    floating: torch.dtype

    def __call__(self, noise: float = 0.0, draw: Draw | None = None) -> dict[Place, Array]:
        """Args: noise: how far every number may be from its own, relatively."""
        arguments: dict[str, Any] = {}
        for name, argument in self.call.arguments.items():
            made = [self._tensor(name, entry, noise, draw) for entry in entries(argument)]
            arguments[name] = made if isinstance(argument, list) else made[0]
        getattr(ops.reference, self.call.op)(**arguments)
        return {
            (name, i): value.numpy()
            for name, argument in arguments.items()
            for i, value in enumerate(entries(argument))
            if isinstance(value, Tensor) and name in self.call.written
        }

    def _tensor(self, name: str, value: Any, noise: float, draw: Draw | None) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        exact = name == "guard" or (name == "targets" and self.call.op == "hinge_prox")  # 0 or 1
        if value.dtype.kind == "f" and not exact and draw is not None:
            value = value * (1 + noise * draw.random.uniform(-1, 1, value.shape))
        tensor = torch.from_numpy(np.array(value))
        if not tensor.is_floating_point() or name in FLOAT64:
            return tensor
        return tensor.to(self.floating)


def _twins(call: Call) -> tuple[dict[Place, Array], dict[Place, Array]] | None:
    """What the twin makes of a call in float64 and in float32; None of an empty convolution, which torch refuses."""
    if call.op.startswith("convol") and any(array.size == 0 for array in _arrays(call)):
        return None
    return Twin(call, torch.float64)(), Twin(call, torch.float32)()


def _valid_calls(draw: Draw, call: Call) -> int:
    calls = 0
    sets = _instruction_sets()
    memory = Memory(draw, call)
    twins = _twins(call)
    if twins is None:
        # Then all instruction sets make finite numbers where one does.
        _call("baseline", call, memory)
        exact = memory.written(call)
        plain = {
            place: np.full(array.shape, 1e30 if array.dtype.kind == "f" else 0)
            for place, array in exact.items()
        }
    else:
        exact, plain = twins
    for name in sets:
        _call(name, call, memory)
        _compare(draw, call, name, memory.written(call), exact, plain)
        calls += 1
    for alias in call.aliases():
        name = draw.choice(sets)
        memory = Memory(draw, call, alias)
        _call(name, call, memory)
        found = memory.written(call)
        found = {place: array for place, array in found.items() if place[0] != alias[1]}
        _compare(draw, call, f"{name}, {alias[0]} is {alias[1]}", found, exact, plain)
        calls += 1
    return calls


def _call(instruction_set: str, call: Call, memory: Memory) -> None:
    memory.restore()
    native.module.use_instruction_set(instruction_set)  # type: ignore[union-attr]
    torch.set_num_threads(call.threads)
    try:
        getattr(ops, call.op)(**memory.arguments)
    except Exception as error:
        raise AssertionError(f"{instruction_set}: {type(error).__name__}: {error}") from error
    finally:
        torch.set_num_threads(1)


def _compare(
    draw: Draw,
    call: Call,
    what: str,
    found: Numbers,
    exact: Numbers,
    plain: Numbers,
) -> None:
    eps = float(np.finfo(call.floating).eps)
    suspects: dict[Place, Array] = {}
    for place, result in found.items():
        wrong = _wrong(call, place, result, exact, plain)
        if wrong.any():
            suspects[place] = wrong
    if not suspects:
        return
    # A sum of numbers of both signs, a jump: an error is right that a change of the arguments within rounding makes.
    twin = Twin(call, torch.float64)
    for noise in (1, 1, 4, 4, *[16] * 12):
        near = twin(noise * eps, draw)
        suspects = {
            place: wrong & ~_excused(found[place], exact[place], near[place], eps)
            for place, wrong in suspects.items()
        }
        suspects = {place: wrong for place, wrong in suspects.items() if wrong.any()}
        if not suspects:
            return
    for (name, i), wrong in suspects.items():
        at = int(wrong.ravel().argmax())
        numbers = [float(side[name, i].ravel()[at]) for side in (found, exact, plain)]
        where = ", ".join(map(str, np.unravel_index(at, wrong.shape)))
        raise AssertionError(
            f"{what}: {name} (entry {i}) at ({where}): {numbers[0]!r}, exactly {numbers[1]!r}, "
            f"by plain torch in float32 {numbers[2]!r}; {int(wrong.sum())} are wrong"
        )


def _wrong(call: Call, place: Place, result: Array, exacts: Numbers, plains: Numbers) -> Array:
    """Where a result is not what the exact one allows, judged by the error of plain torch in float32."""
    name, exact, plain = place[0], exacts[place], plains[place]
    wild = call.style == "wild"
    if name == "correct" and wild:
        return np.zeros_like(result, bool)
    if name == "winner" and call.style != "grid":
        return (result != exact) & (result != plain) & _clear_winner(exacts, plains)
    if name == "scalars" and wild and not np.isfinite(exacts.get(("displacement", 0), 0)).all():
        return np.zeros_like(result, bool)  # which infinity or NaN came of it is not said
    if result.dtype.kind != "f":
        return result != exact
    if name == "guard" and wild and _may_lose(call, name):
        return np.zeros_like(result, bool)
    if name == "guard":
        return (result != exact) & (exact == plain if call.floating is np.float32 else True)
    result, plain = result.astype(np.float64), plain.astype(np.float64)
    with np.errstate(all="ignore"):
        finite = np.isfinite(exact) & np.isfinite(plain)
        error, plain_error, size = np.abs(result - exact), np.abs(plain - exact), np.abs(exact)
        code = exacts.get(("code", 0))
        if name == "gap":  # a difference of two, of which one is not seen
            size = 4 * np.maximum(size, np.abs(code))
            plain_error = np.maximum(plain_error, 4 * np.abs(plains["code", 0] - code))
        if call.op == "bcd_columns" and not call.arguments["from_zero"]:
            # A column is added to what it is replaced by.
            size = np.maximum(size, np.abs(call.arguments["weight"]))
        if call.op == "elman_encode" and name == "product":
            size = 4 * size  # a step of the sequence after the other
        if name == "bias_gradient" and ("residual", 0) in exacts:
            # Each of them is rounded, though their sum may cancel.
            size = np.abs(exacts["residual", 0]).sum(0)
        if (
            call.op == "code_step"
            and name in ("displacement", "velocity")
            and call.arguments["sigma"].name != "sigmoid"
        ):
            size = size + np.abs(_pull(call, exacts))  # a derivative is about 1, or rounded as if it were
        if name in ("difference", "out") and call.op.startswith("activation_"):  # likewise
            size = size + np.abs(call.arguments["moved" if name == "difference" else "gradient"])
        if name == "activation" and wild and code is None:
            size = np.maximum(size, 30)
        elif name == "activation" and wild:
            # Not sigma of what overflows in float32 alone. What is left of a sigmoid was rounded where it was 1.
            finite &= np.isfinite(plains["code", 0]) & (np.abs(code) < np.finfo(np.float32).max)
            size = np.maximum(size, np.minimum(np.abs(code), 30))
        if name not in FLOAT64 and not wild and finite.any():
            plain_error, size = plain_error[finite].max(), size[finite].max()
        # Of numbers of all sizes each is judged by itself, and plain torch's own error may be small by luck.
        allowed = (16 if wild else 2) * plain_error + (8 if wild else 4) * np.finfo(np.float32).eps * size
        if call.floating is np.float64:
            # It errs like float32, with more digits; but that sums up in float64, and torch in pairs.
            more = max(8, math.sqrt(_longest(call)))
            allowed = more * allowed * (np.finfo(np.float64).eps / np.finfo(np.float32).eps)
        if name == "activation_displacement":  # which the twin may compute as a difference
            unit = exacts["scalars", 0][CodeScalar.unit]
            allowed = allowed + _cancelled(call, unit)
        if name == "difference":
            allowed = allowed + _cancelled(call, float(call.arguments["unit"]))
        allowed = allowed + 4 * np.finfo(call.floating).tiny * _factor(call)
        lost = ~np.isfinite(exact) & ~np.isfinite(plain) & np.isfinite(result)
        return np.where(finite, ~(error <= allowed), lost & ~_may_lose(call, name))


def _cancelled(call: Call, unit: float) -> Array:
    """What a difference of values by the twin in float64 may have lost, over the unit."""
    values: Array = np.maximum(1, np.nan_to_num(np.abs(call.arguments["code"])))
    return 8 * np.finfo(np.float64).eps * values / unit


def _clear_winner(exacts: Numbers, plains: Numbers) -> Array:
    """Where no rounding lets another one win."""
    code, gap = exacts["code", 0], exacts.get(("gap", 0))
    if gap is None or gap.size == 0:
        return np.zeros_like(code, bool)
    with np.errstate(all="ignore"):
        rounding = np.abs(plains["code", 0] - code).max() + 4 * np.finfo(np.float32).eps * np.abs(code).max()
        return np.isfinite(code) & (gap > 4 * rounding)


def _pull(call: Call, exacts: Numbers) -> Array:
    arguments = call.arguments
    above, unit = arguments["above"], exacts["scalars", 0][CodeScalar.unit]
    pull = arguments["pulled_back"] * (1.0 if above is None else above[CodeScalar.unit] / unit)
    change = arguments["pulled_back_change"]
    return pull if change is None else np.abs(pull) + np.abs(change)


def _may_lose(call: Call, name: str) -> bool | Array:
    """Where a kernel may have a number though the twin has none, and no reason to raise its guard."""
    if call.op == "code_step":
        return name.startswith("activation")  # of a code that fell to minus infinity
    if call.op == "activation_difference":
        return True  # of a code that is none; a linear piece moves by what its code does
    if call.op == "softmax_prox" and name == "out":  # with an infinite center
        return ~np.isnan(call.arguments["center"]).any(1, keepdims=True)
    return call.op.startswith("convol")  # torch multiplies the padding, too


def _factor(call: Call) -> float:
    """The largest number by which a result below the smallest normal one may have been multiplied."""
    largest = float(max(1, call.sizes.get("B", 1)))  # numbers of a sum
    for name in ("pulled_back", "pulled_back_change", "velocity", "gradient"):
        value = call.arguments.get(name)
        if value is not None and np.isfinite(value).any():
            largest = max(largest, float(np.abs(value[np.isfinite(value)]).max()))
    return largest


def _excused(result: Array, exact: Array, near: Array, eps: float) -> Array:
    if result.dtype.kind != "f":
        return result == near
    with np.errstate(all="ignore"):
        close = np.abs(result - exact) <= 2 * np.abs(near - exact) + 4 * eps * np.abs(exact)
        finite = np.isfinite(result)
        return np.where(finite & np.isfinite(exact), close, finite == np.isfinite(near))


def _hostile_calls(draw: Draw, call: Call) -> int:
    calls = 0
    memory = Memory(draw, call)
    for _ in range(HOSTILE_CALLS):
        what, arguments, is_sentence = hostile_arguments(draw, call, memory.arguments)
        try:
            getattr(ops, call.op)(**arguments)
        except (TypeError, ValueError) as error:
            words = str(error)
            assert not is_sentence or (words.endswith(".") and "\n" not in words), (
                f"{what}: no sentence: {words}"
            )
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        else:
            raise AssertionError(f"{what}: it was taken")
        memory.assert_untouched()
        calls += 1
    return calls + _reshaped_call(draw, call)


def _assert_sentence(what: str, error: Exception) -> None:
    words = str(error)
    assert words.endswith("."), f"{what}: no sentence: {words}"
    assert "\n" not in words, f"{what}: more than a sentence: {words}"


def _reshaped_call(draw: Draw, call: Call) -> int:
    """With an array of other extents, which an op may take or refuse; what it takes it must compute rightly."""
    places = [
        (name, i)
        for name, argument in call.arguments.items()
        for i, value in enumerate(entries(argument))
        if isinstance(value, np.ndarray) and value.ndim > 0
    ]
    if not places:
        return 0
    name, i = draw.choice(places)
    array = entries(call.arguments[name])[i]
    axis = int(draw.random.integers(array.ndim))
    extent = draw.choice(
        [extent for extent in (0, 1, array.shape[axis] + 1, 17) if extent != array.shape[axis]]
    )
    other = np.ones((*array.shape[:axis], extent, *array.shape[axis + 1 :]), array.dtype)
    argument = call.arguments[name]
    value = [*argument[:i], other, *argument[i + 1 :]] if isinstance(argument, list) else other
    reshaped = dataclasses.replace(call, arguments={**call.arguments, name: value})
    memory = Memory(draw, reshaped)
    what = f"{name} of shape {other.shape}"
    try:
        getattr(ops, call.op)(**memory.arguments)
    except ValueError as error:
        _assert_sentence(what, error)
        memory.assert_untouched()
        return 1
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    found, twins = memory.written(reshaped), _twins(reshaped)
    if twins is not None:
        _compare(draw, reshaped, what, found, *twins)
    return 1
