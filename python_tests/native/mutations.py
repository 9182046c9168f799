"""Seeds one bug at a time into the CUDA kernels and sees whether their tests notice.

    python -m python_tests.native.mutations [--only NAME] [--output python_tests/native/mutations.md]

Each bug is a replacement of text in a copy of the sources, which is compiled for the emulator and put through
test_kernels.py. A bug that survives, or whose text is no longer found, fails the run. It takes a few minutes, so it
is run after changes to the kernels or to the emulator, and its table is kept beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("csrc", "altmin_ext", "python_tests")


@dataclasses.dataclass(frozen=True)
class Bug:
    """``before`` becomes ``after`` in a file of csrc/cuda; the tests of ``op`` must fail."""

    what: str
    file: str
    before: str
    after: str
    op: str


def _without(what: str, file: str, context: str, line: str, op: str) -> Bug:
    """A line of code dropped, found by what surrounds it: ``context`` holds it once."""
    return Bug(what, file, context, context.replace(line, "", 1), op)


BARRIER = "__syncthreads();"
BUGS = (
    _without(
        "block sum: barrier before the sums are read", "reduction.h",
        "= value;\n  __syncthreads();\n  if (thread < warp_size)", BARRIER, "code_step",
    ),
    _without(
        "block sum: barrier before the next call", "reduction.h",
        "__syncthreads();  // before the next call", BARRIER, "softmax_residual",
    ),
    Bug(
        "block sum: sums of warps that do not exist", "reduction.h",
        "warp_sum(thread < warps ? sums[thread] : 0.0)", "warp_sum(sums[thread])", "code_step",
    ),
    _without(
        "last block: barrier before the ticket", "reduction.h",
        "__shared__ bool is_last;\n  __syncthreads();", BARRIER, "adam_update",
    ),
    _without(
        "last block: fence before the ticket", "reduction.h",
        "__threadfence();\n    is_last", "__threadfence();", "code_step",
    ),
    _without(
        "last block: barrier before the answer is read", "reduction.h",
        "*counter = 0;\n  }\n  __syncthreads();", BARRIER, "code_step",
    ),
    Bug(
        "last block: ticket without atomics", "reduction.h",
        "atomicAdd(counter, 1u)", "(*counter)++", "code_step",
    ),
    _without(
        "last block: counter not set back", "reduction.h",
        "if (is_last) *counter = 0;", "if (is_last) *counter = 0;", "code_step",
    ),
    Bug(
        "launch sum: one block too many", "reduction.h",
        "block < gridDim.x;", "block <= gridDim.x;", "code_step",
    ),
    Bug(
        "activate: stride of a single block", "activate.cu",
        "row += int64_t{gridDim.x} * blockDim.y", "row += blockDim.y", "activate",
    ),
    Bug("activate: a row too many", "activate.cu", "row < o.batch", "row <= o.batch", "activate"),
    Bug(
        "activate: code left without its bias", "activate.cu",
        "if (o.bias && o.code != o.activation)", "if (o.bias && o.code == o.activation)", "steps",
    ),
    _without(
        "code step: barrier before the factors are read", "code_step.cu",
        "f = factors_of(o);\n  __syncthreads();", BARRIER, "code_step",
    ),
    Bug(
        "code step: tail one too long", "code_step.cu",
        "packs * width + thread < o.size)", "packs * width + thread <= o.size)", "code_step",
    ),
    Bug(
        "code step: tail left out", "code_step.cu",
        "packs * width + thread < o.size)", "packs * width + thread < packs)", "code_step",
    ),
    Bug(
        "code step: stride of a single block", "code_step.cu",
        "stride = int64_t{gridDim.x} * threads", "stride = threads", "code_step",
    ),
    _without(
        "code step: step size not kept", "../ops/code_step.h",
        "s.step_taken = step;", "s.step_taken = step;", "steps",
    ),
    _without(
        "sign flip: barrier before the factor is read", "sign_flip.cu",
        "factor = pull_factor(o);\n  __syncthreads();", BARRIER, "sign_flip",
    ),
    Bug(
        "sign flip: a row too many", "sign_flip.cu", "row < batch;", "row <= batch;", "sign_flip",
    ),
    Bug(
        "sign flip: stride of a single block", "sign_flip.cu",
        "row += int64_t{gridDim.x} * blockDim.y", "row += blockDim.y", "sign_flip",
    ),
    _without(
        "residual tile: barrier before the columns are added", "residual_tiles.h",
        "= sums[i];\n    __syncthreads();", BARRIER, "mse_residual",
    ),
    Bug(
        "residual tile: rows behind the batch", "residual_tiles.h",
        "min(batch, (row_tile + 1) * tiling.rows)", "(row_tile + 1) * tiling.rows", "mse_residual",
    ),
    Bug(
        "residual tile: row tiles in one place", "residual_tiles.h",
        "numbers[row_tile * width + first_column + j] = sum", "numbers[first_column + j] = sum", "mse_residual",
    ),
    Bug(
        "residual tile: columns behind the last", "residual_tiles.h",
        "if (column < width) {", "if (column <= width) {", "mse_residual",
    ),
    _without(
        "weight residual: barrier before the factors are read", "weight_residual.cu",
        "s.scale);\n  }\n  __syncthreads();", BARRIER, "weight_residual",
    ),
    Bug(
        "weight residual: one counter for all stages", "weight_residual.cu",
        "workspace.counters + l", "workspace.counters", "weight_residual",
    ),
    Bug(
        "weight residual: one workspace for all stages", "weight_residual.cu",
        "workspace.numbers + stages.numbers[l]", "workspace.numbers", "weight_residual",
    ),
    _without(
        "softmax: barrier before the columns are added", "softmax_residual.cu",
        "= sums[k];\n    __syncthreads();", BARRIER, "softmax_residual",
    ),
    Bug(
        "softmax: column sums over the losses", "softmax_residual.cu",
        "workspace.numbers + 2 * gridDim.x + blockIdx.x * o.classes", "workspace.numbers + blockIdx.x * o.classes",
        "softmax_residual",
    ),
    Bug(
        "softmax: the last of equal logits", "softmax_residual.cu",
        "other_index < index);", "other_index > index);", "softmax_residual",
    ),
    Bug(
        "softmax: stride of a single block", "softmax_residual.cu",
        "* warps) {\n    const T* logits = o.logits + row * o.classes;\n    const int64_t label",
        "/ gridDim.x * warps) {\n    const T* logits = o.logits + row * o.classes;\n    const int64_t label",
        "softmax_residual",
    ),
    Bug(
        "update: an overflow raises the guard at once", "update.h",
        "atomicExch(counters + first_overflow + index, 1u)", "raise(chunks.tensor[index].guard)", "adam_update",
    ),
    Bug(
        "update: an overflow without atomics", "update.h",
        "atomicExch(counters + first_overflow + index, 1u)", "counters[first_overflow + index] = 1", "sgd_update",
    ),
    _without(
        "update: overflows not set back", "update.h",
        "counters[first_overflow + i] = 0;\n", "counters[first_overflow + i] = 0;", "adam_update",
    ),
    Bug(
        "update: an overflow in a later launch of those that look does not count", "update.h",
        "counters[stopped] != by_guard", "counters[stopped] == 0", "sgd_update",
    ),
    Bug(
        "update: what stopped it is not set back", "update.h",
        "counters[stopped] = 0;\n  if (going)", "if (going)", "adam_update",
    ),
    Bug(
        "update: moves in spite of an overflow", "update.h",
        "going = counters[stopped] == 0;", "going = counters[stopped] != by_guard;", "sgd_update",
    ),
    _without(
        "update: barrier before the guard's answer", "update.h",
        "raised = own;\n  }\n  __syncthreads();", BARRIER, "sgd_update",
    ),
    Bug(
        "update: later launches look at the guard again", "update.h",
        "chunks.is_first ? !any_raised(chunks.guard, chunks.guards) : counters[stopped] != by_guard",
        "!any_raised(chunks.guard, chunks.guards)", "adam_update",
    ),
    Bug(
        "update: chunk overlaps the next", "update.h",
        "begin + chunk_elements)", "begin + chunk_elements + 1)", "sgd_update",
    ),
    _without(
        "adam: barrier before the factors are read", "adam_update.cu",
        "scalars);\n  __syncthreads();\n  return factors;", BARRIER, "adam_update",
    ),
    _without(
        "adam: barrier before the corrections are read", "adam_update.cu",
        "__syncthreads();\n  if (threadIdx.x == 0) factors", BARRIER, "adam_update",
    ),
    Bug(
        "adam: step counted by every block", "adam_update.cu",
        "return finite;\n  };\n  move_chunks",
        "return finite;\n  };\n  if (threadIdx.x == 0) adam->step += 1;\n  move_chunks", "adam_update",
    ),
    _without(
        "power iteration: barrier before the warps are added", "power_iteration.cu",
        "= sum;\n    __syncthreads();", BARRIER, "power_iteration",
    ),
    Bug(
        "power iteration: a row too many", "power_iteration.cu",
        "row < o.rows;\n", "row <= o.rows;\n", "power_iteration",
    ),
    Bug(
        "power iteration: one counter for all matrices", "power_iteration.cu",
        "workspace.counters + share.index", "workspace.counters", "power_iteration",
    ),
    _without(
        "memory solve: barrier before the tiles are read", "memory_solve.cu",
        "T(0);\n    }\n    __syncthreads();", BARRIER, "memory_solve",
    ),
    _without(
        "memory solve: barrier before they are overwritten", "memory_solve.cu",
        "static_cast<double>(slice[i][j]);\n    __syncthreads();", BARRIER, "memory_solve",
    ),
    Bug(
        "memory solve: columns behind the last", "memory_solve.cu",
        "const bool inside = k < end;", "const bool inside = true;", "memory_solve",
    ),
    Bug(
        "memory solve: columns of another block's share", "memory_solve.cu",
        "end = o.n < begin + share ? o.n : begin + share;", "end = o.n;", "memory_solve",
    ),
    _without(
        "memory solve: pivot overwritten too early", "memory_solve.cu",
        "__syncthreads();  // before it is overwritten", BARRIER, "memory_solve",
    ),
    Bug(
        "memory solve: a row of the factor too few", "memory_solve.cu",
        "i = k + 1 + threadIdx.x / warp_size; i < size;",
        "i = k + 1 + threadIdx.x / warp_size; i < size - 1;", "memory_solve",
    ),
    _without(
        "memory solve: rows solved before all sums are there", "memory_solve.cu",
        "o.factor[k * n + column];\n      rest[warp][lane] = sum;\n    }\n    __syncthreads();", BARRIER,
        "memory_solve",
    ),
    _without(
        "memory update: barrier before the tiles are read", "memory_update.cu",
        "T(0);\n    }\n    __syncthreads();", BARRIER, "memory_update",
    ),
    _without(
        "memory update: barrier before they are overwritten", "memory_update.cu",
        "slice[i][j];\n    __syncthreads();", BARRIER, "memory_update",
    ),
    Bug(
        "memory update: end of a tile never written", "memory_update.cu",
        "i < depth * tile; i += threads", "i < depth * tile - 1; i += threads", "memory_update",
    ),
    Bug(
        "memory update: samples behind the batch", "memory_update.cu",
        "const bool inside = sample < end;", "const bool inside = true;", "memory_update",
    ),
    Bug(
        "memory update: tiles that share a counter", "memory_update.cu",
        "last_block(workspace.counters + blockIdx.x,", "last_block(workspace.counters,", "memory_update",
    ),
    Bug(
        "memory update: tiles that share their sums", "memory_update.cu",
        "workspace.numbers + int64_t{blockIdx.x} * gridDim.y * tile * tile + thread",
        "workspace.numbers + thread", "memory_update",
    ),
    Bug(
        "memory update: diagonal tile written twice", "memory_update.cu",
        "|| (place.of_gram && r > c)", "", "memory_update",
    ),
    _without(
        "memory update: barrier before the image is read", "memory_update.cu",
        "threads of other rows.\n    __syncthreads();", BARRIER, "memory_update",
    ),
    _without(
        "memory update: barrier before the image's rows are overwritten", "memory_update.cu",
        "[k % side][k / side];\n    }\n    __syncthreads();", BARRIER, "memory_update",
    ),
    Bug(
        "columns: part of the gram matrix overwritten too early", "bcd_columns.cu",
        "-= product[i];\n        __syncthreads();", "-= product[i];", "bcd_columns",
    ),
    Bug(
        "columns: weights of another warp", "bcd_columns.cu",
        "product[i] += weights[i * warps + warp][r]", "product[i] += weights[i * warps + (warp ^ 1)][r]",
        "bcd_columns",
    ),
    Bug(
        "columns: weights read from zero", "bcd_columns.cu",
        "any && !starts ? o.weight", "any ? o.weight", "bcd_columns",
    ),
    Bug(
        "relu prox: stride of a single block", "relu_prox.cu",
        "int64_t{width} * threads * gridDim.x;", "int64_t{width} * threads;", "relu_prox",
    ),
    Bug(
        "softmax prox: a row too many", "softmax_prox.cu", "row < o.batch;", "row <= o.batch;", "softmax_prox",
    ),
    Bug(
        "softmax prox: sum of a single lane", "softmax_prox.cu",
        "warp_sum(sums.values)", "sums.values", "softmax_prox",
    ),
    Bug(
        "softmax prox: a wrong label's center", "softmax_prox.cu",
        "inside ? center[label] : std::numeric_limits<double>::quiet_NaN()", "center[label]", "test_a_label",
    ),
    Bug(
        "hinge prox: an element too many", "hinge_prox.cu", "place < o.size;", "place <= o.size;", "hinge_prox",
    ),
)  # fmt: skip


def outcome(bug: Bug, folder: Path) -> str:
    """How the tests noticed the bug; nothing if they did not."""
    source = folder / "csrc" / "cuda" / bug.file
    text = source.read_text()
    if text.count(bug.before) != 1:
        raise LookupError(
            f"{bug.what!r} must find its text once in {bug.file}, not {text.count(bug.before)} times."
        )
    source.write_text(text.replace(bug.before, bug.after))
    try:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "python_tests/native/test_kernels.py",
            "-k",
            bug.op,
        ]
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
        )
    finally:
        source.write_text(text)
    if done.returncode == 0:
        return ""
    # What the emulator saw follows the error that the launch ended with.
    faults = re.findall(r"^E +AssertionError: (\S.*)$", done.stdout, re.MULTILINE)
    reports = re.findall(r"^E +(\S.*)$", done.stdout, re.MULTILINE)
    return (faults[-1:] or reports[:1] or [f"pytest stopped with {done.returncode}"])[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="bugs whose name holds this")
    parser.add_argument("--output", type=Path, help="write the table there")
    arguments = parser.parse_args()
    rows, survivors = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in COPIED:
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "build").symlink_to(ROOT / "build")  # unchanged files need not be compiled again
        shutil.copy(ROOT / "pyproject.toml", folder)
        for bug in (bug for bug in BUGS if arguments.only in bug.what):
            report = outcome(bug, folder)
            if not report:
                survivors.append(bug.what)
            report = report.replace(str(folder), "").replace("|", "\\|")
            rows.append(f"| {bug.what} | `{bug.file}` | {report or '**not caught**'} |")
            print(rows[-1], flush=True)
    table = ["| seeded bug | file | how the tests report it |", "|---|---|---|", *rows]
    if arguments.output:
        heading = "Bugs seeded into the CUDA kernels, by `python -m python_tests.native.mutations`."
        arguments.output.write_text("\n".join([heading, "", *table]) + "\n")
    print(
        f"{len(rows) - len(survivors)} of {len(rows)} caught" + "".join(f"; survived: {s}" for s in survivors)
    )
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
