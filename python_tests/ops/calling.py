"""Calls an op the way its tests do: on copies, with poisoned outputs, watching what it writes.

An op is called with copies of its arguments that lie in larger buffers, so that a kernel that writes beside its
outputs, leaves part of one unwritten, or touches an input is caught by every test and not by one of its own. The
copies start at odd addresses: a kernel may not rely on the alignment of its arguments.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import AdamScalar, CodeScalar, MemoryScalar, UpdateScalar

PARAMETER_BLOCKS = (
    "scalars",
    "above",
    "below",
    "adam",
    "guard",
    "sigma_squared",
    "unit",
)  # float64 whatever the dtype
POISON = {
    torch.uint8: 251,
    torch.int64: -(2**40) + 3,
    torch.float32: float("nan"),
    torch.float64: float("nan"),
}
MARGIN = 3


@dataclasses.dataclass
class Output:
    """A tensor whose content before the call must not matter; ``dtype`` None is that of the call."""

    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None


class Arguments(SimpleNamespace):
    """The arguments of a call, after it."""


def written(op: Callable[..., None]) -> tuple[str, ...]:
    """The names of what an op, or its twin, writes."""
    return getattr(ops, op.__name__).written


def _buffer(size: int, dtype: torch.dtype) -> Tensor:
    return torch.full((size + 2 * MARGIN,), POISON[dtype], dtype=dtype)


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class _Copies:
    """Copies of the arguments in buffers with margins."""

    def __init__(
        self,
        op: Callable[..., None],
        arguments: Mapping[str, Any],
        dtype: torch.dtype,
        alias: Mapping[str, str],
    ) -> None:
        self._written = written(op)
        self._dtype = dtype
        self._buffers: list[Tensor] = []
        self._kept: list[tuple[str, Tensor, Tensor]] = []
        self.arguments: dict[str, Any] = {}
        for name, value in arguments.items():
            if name in alias:
                continue
            if isinstance(value, list):
                self.arguments[name] = [self._copy(name, entry) for entry in value]
            else:
                self.arguments[name] = self._copy(name, value)
        for name, other in alias.items():
            self.arguments[name] = self.arguments[other]
        replaced = {id(entry) for name in alias for entry in _entries(self.arguments[name])}
        self._kept = [(name, tensor, old) for name, tensor, old in self._kept if id(tensor) not in replaced]

    def _copy(self, name: str, value: Any) -> Any:
        if not isinstance(value, Tensor | Output):
            return value
        dtype = torch.float64 if name in PARAMETER_BLOCKS else self._dtype
        if isinstance(value, Output):
            dtype = value.dtype or dtype
        elif not value.is_floating_point():
            dtype = value.dtype
        buffer = _buffer(torch.Size(value.shape).numel(), dtype)
        tensor = buffer[MARGIN : len(buffer) - MARGIN].view(value.shape)
        self._buffers.append(buffer)
        if isinstance(value, Tensor):
            tensor.copy_(value)
            if name not in self._written:
                self._kept.append((name, tensor, tensor.clone()))
        return tensor

    def check(self) -> None:
        for name, tensor, before in self._kept:
            assert same_bits(tensor, before), f"the op wrote to its input {name}"
        for buffer in self._buffers:
            poison = torch.full((MARGIN,), POISON[buffer.dtype], dtype=buffer.dtype)
            assert same_bits(buffer[:MARGIN], poison), "the op wrote in front of a tensor"
            assert same_bits(buffer[-MARGIN:], poison), "the op wrote behind a tensor"


def _bits(tensor: Tensor) -> Tensor:
    integers = {torch.float32: torch.int32, torch.float64: torch.int64}
    return tensor.view(integers.get(tensor.dtype, tensor.dtype))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit: NaN equals NaN, and 0 does not equal -0."""
    return a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))


def call(
    op: Callable[..., None],
    arguments: Mapping[str, Any],
    dtype: torch.dtype = torch.float64,
    alias: Mapping[str, str] | None = None,
    threads: int = 1,
) -> Arguments:
    """Call an op, or its twin, on copies of the arguments in that dtype, and return the copies.

    Args:
        op: a function of ``altmin_ext.ops`` or ``altmin_ext.ops.reference``.
        arguments: by name; what an op takes and they lack is added: a guard, and a guard_index of None.
        dtype: what floating-point tensors are converted to, parameter blocks apart.
        alias: output -> the argument whose memory it takes; of lists, entry by entry.
        threads: how many the op may use.
    """
    if "guard" in written(op):
        flags = len(arguments["displacements"]) if op.__name__ == "weight_residual" else 1
        arguments = {"guard": torch.zeros(flags), **arguments}
    if op.__name__ in ("adam_update", "sgd_update"):
        arguments = {"guard_index": None, **arguments}
    copies = _Copies(op, arguments, dtype, alias or {})
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        op(**copies.arguments)
    finally:
        torch.set_num_threads(before)
    copies.check()
    return Arguments(**copies.arguments)


@contextlib.contextmanager
def refused(error: type[Exception], *words: str) -> Iterator[None]:
    """Expects the error, with a message of one sentence that holds all the words."""
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


def _tensors(value: Any) -> list[Tensor]:
    return [entry for entry in _entries(value) if isinstance(entry, Tensor) and entry.device.type == "cpu"]


def call_refused(
    op: Callable[..., None], arguments: Mapping[str, Any], error: type[Exception], *words: str
) -> None:
    """Call an op on these very arguments; it must refuse them in one sentence and write nothing."""
    tensors = [tensor for value in arguments.values() for tensor in _tensors(value) if not tensor.is_sparse]
    before = [tensor.clone() for tensor in tensors]
    with refused(error, *words):
        op(**arguments)
    for tensor, old in zip(tensors, before, strict=True):
        assert same_bits(tensor.contiguous(), old.contiguous()), "the op wrote before it refused"


def assert_accurate(result: Tensor, twin: Tensor, exact: Tensor, what: str = "") -> None:
    """The rule of the contract: at most twice the twin's error, plus four units of the largest value.

    Args:
        result: what the float32 kernel made.
        twin: what plain torch makes of the same input in float32.
        exact: the result in float64.
    """
    if result.numel() == 0:
        return
    exact = exact.double()
    own, plain = ((value.double() - exact).abs().max().item() for value in (result, twin))
    largest = exact.abs().max().item()
    if result.numel() < 64:
        # Few elements round well by luck, for one side as for the other: what they are made of is of size 1.
        largest = max(largest, 1.0)
    allowed = 2 * plain + 4 * torch.finfo(torch.float32).eps * largest
    # Not `own > allowed`, which a NaN would pass.
    assert own <= allowed, f"{what}: error {own:.3g}, plain torch's {plain:.3g}, allowed {allowed:.3g}"


def assert_close(result: Tensor, exact: Tensor, tolerance: float, what: str = "") -> None:
    """Within ``tolerance`` of the largest value."""
    if exact.numel() == 0:
        return
    error = (result.double() - exact.double()).abs().max().item()
    allowed = tolerance * exact.abs().max().item()
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"


def code_block(**values: float) -> Tensor:
    """A code's parameter block; what is not named is neutral."""
    block = torch.zeros(len(CodeScalar), dtype=torch.float64)
    neutral = {"step_size": 0.4, "downstream": 1.0, "anchor": 1.0, "unit": 1.0, "scale": 1.0, "damping": 1.0}
    for name, value in (neutral | values).items():
        block[CodeScalar[name]] = value
    return block


def update_blocks(rows: Sequence[Mapping[str, float]]) -> Tensor:
    """Parameter blocks of a weight update, one row per tensor."""
    blocks = torch.zeros(len(rows), len(UpdateScalar), dtype=torch.float64)
    for i, row in enumerate(rows):
        for name, value in ({"learning_rate": 0.01, "gradient_factor": 1.0} | dict(row)).items():
            blocks[i, UpdateScalar[name]] = value
    return blocks


def adam_block(**values: float) -> Tensor:
    """Adam's parameter block, before the first step unless ``step`` says otherwise."""
    block = torch.zeros(len(AdamScalar), dtype=torch.float64)
    for name, value in ({"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8} | values).items():
        block[AdamScalar[name]] = value
    return block


def memory_block(forgetting: float = 0.0, threshold: float = 0.0, damping: float = 0.0) -> Tensor:
    """The parameter block of a stage that remembers its past in two matrices."""
    block = torch.zeros(len(MemoryScalar), dtype=torch.float64)
    block[MemoryScalar.forgetting], block[MemoryScalar.threshold] = forgetting, threshold
    block[MemoryScalar.damping] = damping
    return block


class Random:
    """Float64 tensors whose values float32 can hold, so that both dtypes get the same input."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=self._generator, dtype=torch.float64)).float().double()

    def mask(self, *shape: int, rate: float = 0.25) -> Tensor:
        """A dropout mask."""
        keep = torch.rand(*shape, generator=self._generator) >= rate
        return (keep.double() / (1 - rate)).float().double()

    def labels(self, batch: int, classes: int) -> Tensor:
        return torch.randint(classes, (batch,), generator=self._generator)

    def flip(self) -> bool:
        return bool(torch.rand((), generator=self._generator) < 0.5)

    def choice(self, options: Sequence[Any]) -> Any:
        return options[int(torch.randint(len(options), (), generator=self._generator))]
