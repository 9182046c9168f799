"""What a training step costs on a GPU, foretold without one: ``python -m benchmarks.cuda_cost [--output sheet.md]``.

One step of am-adam runs on CPU tensors, its CUDA kernels on the emulator of the tests. Launches, bytes and products
are counted as they happen, and so are those of autograd with fused Adam; registers and shared memory are what ptxas
reports, where nvcc is at hand. The sheet is a prediction, to be held against measurements.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import altmin_ext
from altmin_ext import ops
from altmin_ext.ops import _native as native
from python_tests.native import build
from python_tests.native.emulation import EmulatedModule, load_module

NETWORKS = {"784-100-100-10": (784, 100, 100, 10), "784-500-500-10": (784, 500, 500, 10)}
BATCHES = (200, 1024, 8192)
DEPTHS = range(1, 6)

# From the end of a kernel to the start of the next one, which waits for it, within a CUDA graph: an assumption.
LAUNCH_SECONDS = 1.5e-6
# Of the emulated device, an H100's: they bound how many blocks share out the work, and so what all of them read.
MULTIPROCESSORS = 132
# More than this over the floor, and a kernel moves something for nothing.
BYTES_OVER_FLOOR = 1.15


@dataclasses.dataclass(frozen=True)
class GPU:
    """What its vendor says of it."""

    name: str
    architecture: str
    bandwidth: float  # bytes per second of its memory
    flops: float  # per second, float32 without tensor cores
    shared: int  # KiB of a multiprocessor


GPUS = (
    GPU("A100 SXM, 80 GB", "sm_80", 2.039e12, 19.5e12, 164),
    GPU("H100 SXM", "sm_90", 3.35e12, 67e12, 228),
    GPU("B200", "sm_100", 8e12, 80e12, 228),
)


# ---------------------------------------------------------------------------------------------------------- counting


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a call, or of several.

    Attributes:
        op: its name here or in torch.
        loaded, stored: bytes that its threads ask for and write.
        floor: bytes if each that is needed were moved as seldom as possible: once, but for what must be read again.
        flops: float operations.
    """

    op: str
    launches: int
    loaded: int
    stored: int
    floor: int
    flops: int

    @property
    def over_floor(self) -> float:
        return (self.loaded + self.stored) / self.floor

    @property
    def is_product(self) -> bool:
        return self.op in ("mm", "addmm")

    @property
    def is_ours(self) -> bool:
        return self.op in ops.names

    def seconds(self, gpu: GPU) -> float:
        """The least it takes once it has started, its data coming from the GPU's memory."""
        return max(self.floor / gpu.bandwidth, self.flops / gpu.flops)


def total(costs: Iterable[Cost], op: str = "") -> Cost:
    rows = [dataclasses.astuple(cost)[1:] for cost in costs]
    return Cost(op, *map(sum, zip((0,) * 5, *rows, strict=True)))


# Operations per element, read off the kernels' loops for relu; comparisons and minima count as one, an exponential as
# eight, and what is done once per row or block not at all.
FLOPS: dict[str, Callable[..., int]] = {
    # + bias, relu, * mask
    "activate": lambda code, *_: 3 * code.numel(),
    # the gradient 7, the step 5, the square 2, sigma(c) 4, and its difference 6 where a code below wants it
    "code_step": lambda code, *rest: (18 if rest[6] is None else 24) * code.numel(),
    # + bias, maximum, - maximum, exponential, sum, / sum, - onehot, sum over the batch
    "softmax_residual": lambda logits, *_: 15 * logits.numel(),
    # u delta + v (p + b - c) 5, the square 2, sum over the batch 1
    "weight_residual": lambda displacements, *_: 8 * sum(d.numel() for d in displacements),
    # the gradient 1, the moments 3 and 4, the weight 7, is it sparse and finite 3
    "adam_update": lambda weights, *_: 18 * sum(w.numel() for w in weights),
    # W v and W^T u
    "power_iteration": lambda weights, *_: 4 * sum(w.numel() for w in weights),
}

# Bytes that an op must read in two of its launches.
READ_AGAIN: dict[str, Callable[..., int]] = {
    # No weight moves before all gradients have been looked at.
    "adam_update": lambda weights, gradients, *_: _bytes(gradients),
}


def _bytes(value: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _cost_in_torch(
    function: Any, arguments: Sequence[Any], keywords: dict[str, Any], result: Any
) -> Cost | None:
    """Reads each argument and writes each result once, in one launch; None for what no GPU does, such as a view."""
    schema = function._schema
    name = schema.name.removeprefix("aten::")
    if (
        function.is_view
        or function.namespace != "aten"
        or name.startswith(("empty", "new_empty", "is_set_to"))
    ):
        return None
    given = dict(zip((formal.name for formal in schema.arguments), arguments, strict=False)) | keywords
    loaded = stored = 0
    for formal in schema.arguments:
        size = _bytes(given.get(formal.name))
        loaded += 0 if formal.is_out else size
        # Adam may write gradients, but does so only with a gradient scaler.
        if formal.alias_info is not None and formal.alias_info.is_write and formal.name != "grads":
            stored += size
    if all(returned.alias_info is None for returned in schema.returns):
        stored += _bytes(result)
    count = flop_registry.get(function.overloadpacket)
    flops = count(*arguments, **keywords, out_val=result) if count else 0
    return Cost(name, 1, loaded, stored, loaded + stored, flops)


class _CountedKernels:
    """Stands in for the native module: runs its emulated kernels and notes down what they cost."""

    def __init__(self, module: EmulatedModule, costs: list[Cost]) -> None:
        self._module = module
        self._costs = costs

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function, emulator = getattr(self._module, name), self._module.emulator
        if name == "matmul":  # which torch computes on a GPU: noted down as an operation of torch's
            return function  # type: ignore[no-any-return]

        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            seen = emulator.counters()
            again = READ_AGAIN[name](*arguments) if name in READ_AGAIN else 0
            floor = seen.unique_bytes_loaded + seen.unique_bytes_stored + again
            flops = FLOPS[name](*arguments)
            self._costs.append(Cost(name, seen.launches, seen.bytes_loaded, seen.bytes_stored, floor, flops))
            return result

        return call


class Counting(TorchDispatchMode):
    """While it is entered, the calls of torch's operations are noted down in ``costs``."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: list[Cost] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        if cost := _cost_in_torch(function, arguments, keywords or {}, result):
            self.costs.append(cost)
        return result


def _minibatch(widths: Sequence[int], batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, widths[0], generator=generator)
    return x, torch.randint(widths[-1], (batch,), generator=generator)


def _model(widths: Sequence[int]) -> nn.Sequential:
    torch.manual_seed(0)
    return altmin_ext.models.mlp(widths[0], widths[1:-1], widths[-1])


def am_adam_costs(widths: Sequence[int], batch: int, module: EmulatedModule) -> list[Cost]:
    """The calls of a step in the steady state."""
    method = altmin_ext.make_method("am-adam", _model(widths))
    method._residuals_at_once = method._defers_guard = True  # as on a GPU,
    method._replayed = None  # where no step is a plan
    x, y = _minibatch(widths, batch)
    with ops.backend("reference"):
        method.step(x, y)
    with Counting() as counting, mock.patch.object(native, "module", _CountedKernels(module, counting.costs)):
        method.step(x, y)
    return counting.costs


def autograd_costs(widths: Sequence[int], batch: int) -> list[Cost]:
    """The same of backpropagation with torch's fused Adam."""
    model = _model(widths)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    criterion = nn.CrossEntropyLoss()
    x, y = _minibatch(widths, batch)

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()

    step()
    with Counting() as counting:
        step()
    return counting.costs


def prepare(module: EmulatedModule) -> EmulatedModule:
    """Give the emulated device its multiprocessors, and its kernels their workspace, which the first calls clear."""
    module.emulator.set_multiprocessors(MULTIPROCESSORS)
    am_adam_costs((4, 4, 2), 4, module)
    return module


def apart(costs: Iterable[Cost]) -> tuple[list[Cost], list[Cost]]:
    """A step without its power iterations, and these."""
    costs = list(costs)
    power = [cost for cost in costs if cost.op == "power_iteration"]
    return [cost for cost in costs if cost.op != "power_iteration"], power


def step_seconds(costs: Iterable[Cost], gpu: GPU) -> float:
    return sum(LAUNCH_SECONDS * cost.launches + cost.seconds(gpu) for cost in costs)


# ------------------------------------------------------------------------------------------- what the compiler makes

# The instances that these networks run, as parts of their mangled names: float, packs of 4, relu.
INSTANCES = {
    "activate": {"": r"activate_kernelILi4EfN.*4ReluIfE"},
    "code_step": {"": r"code_step_kernelILi4EfN.*4ReluIfE"},
    "softmax_residual": {"": r"softmax_residual_kernelILi1Ef"},  # up to 32 classes
    "weight_residual": {"": r"weight_residual_kernelILi4Ef"},
    "adam_update": {", look": r"adam_look_kernelIf", ", move": r"adam_update_kernelIf"},
    "power_iteration": {", W v": r"forward_kernelIf", ", Wᵀ u": r"backward_kernelIf"},
}
BLOCK_THREADS = 256  # of each of them


@dataclasses.dataclass(frozen=True)
class Resources:
    """What ptxas gave a kernel."""

    registers: int
    spilled: int  # bytes
    shared: int  # static bytes

    def occupancy(self, gpu: GPU) -> float:
        """The part of a multiprocessor's 2048 threads that can be there at once."""
        warps = BLOCK_THREADS // 32
        # 65,536 registers, given to a warp in units of 256; each quarter of the multiprocessor has its own
        of_warp = -(-self.registers * 32 // 256) * 256
        by_registers = 65536 // of_warp // 4 * 4 // warps
        # shared memory is given to a block in units of 128 bytes, and CUDA adds a KiB of its own
        of_block = -(-(self.shared + 1024) // 128) * 128
        by_shared = gpu.shared * 1024 // of_block
        return min(by_registers, by_shared, 2048 // BLOCK_THREADS, 32) * BLOCK_THREADS / 2048


def _nvcc(*arguments: str) -> tuple[str, str]:
    """What it writes to its output and to its error stream."""
    done = subprocess.run(["nvcc", *arguments], capture_output=True, text=True, check=True, cwd=build.ROOT)
    return done.stdout, done.stderr


def _report(op: str, architectures: Sequence[str], folder: Path) -> str:
    targets = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in architectures]
    flags = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Icsrc", "-Xptxas=-v", *targets]
    return _nvcc(*flags, "-c", f"csrc/cuda/{op}.cu", "-o", str(folder / f"{op}.o"))[1]


def _read_report(report: str, instance: str) -> dict[str, Resources]:
    """By architecture."""
    found = {}
    for entry in report.split("Compiling entry function")[1:]:
        name, architecture = re.findall(r"'(\S+)'", entry)[:2]
        if re.search(instance, name):
            registers = int(re.findall(r"Used (\d+) registers", entry)[0])
            spilled = sum(map(int, re.findall(r"(\d+) bytes spill", entry)))
            shared = sum(map(int, re.findall(r"(\d+) bytes smem", entry)))
            found[architecture] = Resources(registers, spilled, shared)
    if not found:
        raise LookupError(f"nvcc has compiled no kernel named like {instance}.")
    return found


def resources() -> dict[str, dict[str, Resources]]:
    """By kernel and architecture; empty where there is no nvcc."""
    if shutil.which("nvcc") is None:
        return {}
    known = _nvcc("--list-gpu-code")[0].split()
    architectures = [gpu.architecture for gpu in GPUS if gpu.architecture in known]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda op: _report(op, architectures, Path(folder)), INSTANCES))
    return {
        op + part: _read_report(report, instance)
        for (op, instances), report in zip(INSTANCES.items(), reports, strict=True)
        for part, instance in instances.items()
    }


# --------------------------------------------------------------------------------------------------------- the sheet


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A step of ours beside autograd's, on one network and batch."""

    network: str
    batch: int
    step: list[Cost]
    power: list[Cost]
    autograd: list[Cost]

    @property
    def kernels(self) -> list[Cost]:
        """Ours."""
        return [cost for cost in self.step if cost.is_ours]

    def ratio(self, gpu: GPU, with_power: bool = False) -> float:
        ours = self.step + self.power if with_power else self.step
        return step_seconds(ours, gpu) / step_seconds(self.autograd, gpu)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _formula(counts: Sequence[int]) -> str:
    """The counts as a function of L, if it is a straight line."""
    slope = counts[1] - counts[0]
    rest = counts[0] - slope * DEPTHS[0]
    if [slope * depth + rest for depth in DEPTHS] != list(counts):
        return "no straight line"
    terms = [(slope, f"{slope} L".removeprefix("1 ")), (rest, str(rest))]
    return " + ".join(text for number, text in terms if number) or "0"


def _launches(by_depth: Sequence[Sequence[Cost]], what: str) -> str:
    """How often each operation is launched, and all of them, in networks of the depths."""

    def row(name: str, counts: Sequence[int]) -> list[object]:
        return [name, *counts, _formula(counts)]

    names = dict.fromkeys(cost.op for cost in by_depth[-1])
    rows = [
        row(f"`{op}`", [total(c for c in costs if c.op == op).launches for costs in by_depth]) for op in names
    ]
    if len(rows) > 1:
        rows.append(row("**all**", [total(costs).launches for costs in by_depth]))
    return _table([what, *(f"L = {depth}" for depth in DEPTHS), "formula"], rows)


def _bytes_and_times(comparison: Comparison) -> str:
    """What each kernel of a step costs."""

    def row(name: str, costs: Sequence[Cost], measured: bool = False) -> list[object]:
        sum_ = total(costs)
        over = f"{sum_.over_floor:.2f}" if measured else ""
        kilobytes = [f"{count / 1e3:,.0f}" for count in (sum_.loaded, sum_.stored, sum_.floor)]
        times = [f"{1e6 * sum(cost.seconds(gpu) for cost in costs):.2f}" for gpu in GPUS]
        flops = f"{sum_.flops / 1e6:,.2f}" if sum_.flops else ""
        return [name, sum_.launches, *kilobytes, over, flops, *times]

    def products(costs: Iterable[Cost]) -> list[Cost]:
        return [cost for cost in costs if cost.is_product]

    def rest(costs: Iterable[Cost]) -> list[Cost]:
        return [cost for cost in costs if not cost.is_product and not cost.is_ours]

    names = dict.fromkeys(cost.op for cost in comparison.kernels)
    rows = [row(f"`{op}`", [c for c in comparison.kernels if c.op == op], measured=True) for op in names]
    rows.append(row("our kernels", comparison.kernels, measured=True))
    rows.append(row("products", products(comparison.step)))
    if other := rest(comparison.step):
        rows.append(row("other operations of torch", other))
    rows.append(row("**am-adam**", comparison.step))
    rows.append(row("`power_iteration`, besides", comparison.power, measured=True))
    rows.append(row("products of autograd", products(comparison.autograd)))
    rows.append(row("the rest of autograd and Adam", rest(comparison.autograd)))
    rows.append(row("**autograd**", comparison.autograd))
    head = ["", "launches", "kB loaded", "kB stored", "kB floor", "over floor", "Mflop"]
    return _table([*head, *(f"{gpu.name.split()[0]} µs" for gpu in GPUS)], rows)


def _resources() -> str:
    kernels = resources()
    if not kernels:
        return "nvcc is not on the PATH, so that registers, shared memory and occupancy are missing here."

    def cell(of: dict[str, Resources], gpu: GPU) -> str:
        if gpu.architecture not in of:
            return ""
        r = of[gpu.architecture]
        return f"{r.registers} · {r.spilled} · {r.shared:,} · {100 * r.occupancy(gpu):.0f} %"

    rows = [[f"`{kernel}`", *(cell(of, gpu) for gpu in GPUS)] for kernel, of in kernels.items()]
    head = ["registers · bytes spilled · bytes shared · occupancy", *(gpu.architecture for gpu in GPUS)]
    version = re.findall(r"release ([\d.]+)", _nvcc("--version")[0])[0]
    return f"{_table(head, rows)}\n\nCompiled by nvcc {version}."


def _ratios(comparisons: Iterable[Comparison]) -> str:
    rows: list[list[object]] = []
    for c in comparisons:
        cells = []
        for gpu in GPUS:
            ours, theirs = (f"{1e6 * step_seconds(costs, gpu):.0f}" for costs in (c.step, c.autograd))
            cells.append(f"{ours} / {theirs} = **{c.ratio(gpu):.2f}**, {c.ratio(gpu, with_power=True):.2f}")
        rows.append([c.network, f"{c.batch:,}", f"{total(c.kernels).over_floor:.2f}", *cells])
    return _table(["network", "batch", "bytes over floor", *(gpu.name for gpu in GPUS)], rows)


def _range(values: Iterable[float], form: str = ".2f") -> str:
    ordered = sorted(values)
    low, high = format(ordered[0], form), format(ordered[-1], form)
    return low if low == high else f"{low} to {high}"


def _summary(comparisons: Sequence[Comparison]) -> str:
    """The expectation in words; what dominates is taken from the numbers."""

    def percent(part: Callable[[Comparison, GPU], float], of: Sequence[Comparison]) -> str:
        return _range((100 * part(c, gpu) / step_seconds(c.step, gpu) for c in of for gpu in GPUS), ".0f")

    def launching(c: Comparison, gpu: GPU) -> float:
        return LAUNCH_SECONDS * total(c.step).launches

    def multiplying(c: Comparison, gpu: GPU) -> float:
        return sum(cost.seconds(gpu) for cost in c.step if cost.is_product)

    def product_flops(costs: Iterable[Cost]) -> int:
        return sum(cost.flops for cost in costs if cost.is_product)

    def ratios(of: Sequence[Comparison], with_power: bool = False) -> str:
        return _range(c.ratio(gpu, with_power) for c in of for gpu in GPUS)

    small, large = ([c for c in comparisons if c.batch == batch] for batch in (BATCHES[0], BATCHES[-1]))
    arithmetic = _range(product_flops(c.step) / product_flops(c.autograd) for c in large)
    counts = [total(costs).launches for costs in (small[0].step, small[0].autograd, small[0].power)]
    return (
        f"At batch {BATCHES[0]} a step should take {ratios(small)} of autograd's time: "
        f"its launches, {counts[0]} against {counts[1]}, are {percent(launching, small)} % of it.\n"
        f"At batch {BATCHES[-1]:,} it should take {ratios(large)} of it: "
        f"products are {percent(multiplying, large)} %, and ours compute {arithmetic} times as much.\n"
        f"With the power iterations, {counts[2]} launches more, the ratios are {ratios(small, True)} and "
        f"{ratios(large, True)}."
    )


def sheet(module: EmulatedModule) -> str:
    """The whole of it in Markdown."""
    ours = [apart(am_adam_costs((16,) * (depth + 1) + (10,), 16, module)) for depth in DEPTHS]
    theirs = [autograd_costs((16,) * (depth + 1) + (10,), 16) for depth in DEPTHS]
    comparisons = [
        Comparison(name, batch, *apart(am_adam_costs(widths, batch, module)), autograd_costs(widths, batch))
        for name, widths in NETWORKS.items()
        for batch in BATCHES
    ]
    details = "\n\n".join(f"### {c.network}, batch {c.batch:,}\n\n{_bytes_and_times(c)}" for c in comparisons)
    products = [
        sum(cost.is_product for cost in costs) for costs in (comparisons[0].step, comparisons[0].autograd)
    ]
    excess = products[0] - products[1]
    vendor = _table(
        ["", "TB/s", "float32 Tflop/s"],
        [[gpu.name, f"{gpu.bandwidth / 1e12:g}", f"{gpu.flops / 1e12:g}"] for gpu in GPUS],
    )
    return f"""# What a step costs on a GPU

Written by `python -m benchmarks.cuda_cost`, and a prediction: nothing here was timed on a GPU.
[README.md](README.md#on-a-gpu) compares it with an H200.
The step is that of am-adam with its defaults, in float32 and within a CUDA graph, beside autograd with fused Adam.

## Expected time

{_summary(comparisons)}

Microseconds of ours / of autograd = their **ratio**, and the ratio with the power iterations:

{_ratios(comparisons)}

A step takes {1e6 * LAUNCH_SECONDS:g} µs for each launch, which is an assumption, and for each kernel the longer
of its bytes at the memory's bandwidth and its arithmetic at the peak rate without tensor cores, both the vendor's:

{vendor}

- It is a floor on both sides, except that at batch {BATCHES[0]} all that a step touches fits in the L2 cache, which
  is faster than the memory.
- Small products stay far above their floor: a result of 200 × 100 is too few tiles for most multiprocessors. Ours are
  {products[0]} against autograd's {products[1]}: each microsecond that one takes longer costs ours {excess} more.
- A product counts as one launch, even where cuBLAS shares out its inner dimension and adds up in a second one.
- Kernels that end in a sum over their blocks wait for the last one, about as long as for a launch.
- On a GPU `nll_loss_backward` clears its result first: one launch of autograd's that is not in its count.
- Filling the graph's inputs and copying its report are left out on both sides.

## Launches

With L hidden layers, counted while a step runs. Views and fresh memory launch nothing.

{_launches([step for step, _ in ours], "am-adam")}

{_launches([power for _, power in ours], "besides, with an automatic step size of the codes")}

Autograd: every layer has an `addmm`, a product and a `sum` for its gradients; every hidden one a `relu`, its
`threshold_backward` and a product to pull the gradient back; the loss and its gradient are four, the gradient's
beginning is `ones_like`, and Adam counts its steps before it takes one.

{_launches(theirs, "autograd")}

## Registers and occupancy

What ptxas gave the instances for these networks. Blocks have {BLOCK_THREADS} threads; occupancy is the part of a
multiprocessor's 2048 threads that registers and shared memory leave room for.

{_resources()}

## Bytes and time, kernel by kernel

Bytes of our kernels are what their threads asked for on the emulator, with {MULTIPROCESSORS} multiprocessors.
A scalar that the 32 lanes of a warp read counts 32 times, though the hardware fetches it once. The floor counts each
byte once, including those of the workspace, in which blocks leave their sums, and gradients twice, since Adam looks
at all of them before it moves a weight; "over floor" is to be at most {BYTES_OVER_FLOOR:g} for our kernels
together. For torch's operations every argument is read and every result written once, and arithmetic is counted in
products only. Times are without launches.

{details}
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_cost", description=__doc__)
    parser.add_argument("--output", type=Path, help="file to write the sheet to (default: print it)")
    output = parser.parse_args().output
    if reason := build.missing():
        parser.exit(1, f"There is no emulator here: {reason}.\n")
    text = sheet(prepare(load_module(*build.module())))
    if output is None:
        print(text, end="")
    else:
        output.write_text(text)


if __name__ == "__main__":
    main()
