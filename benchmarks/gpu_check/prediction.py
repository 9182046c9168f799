"""What benchmarks/cuda-cost.md foretells, read from the sheet itself."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

SHEET = Path(__file__).parents[1] / "cuda-cost.md"
OURS, POWER, AUTOGRAD = "**am-adam**", "`power_iteration`, besides", "**autograd**"
_totals = ("our kernels", OURS, AUTOGRAD)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a row of the sheet."""

    launches: int
    bytes: float
    operations: float

    def seconds(self, rates: Mapping[str, float]) -> float:
        """With a launch each, and the longer of bytes and arithmetic at the rates of a card."""
        moving = self.bytes / rates["copy_bytes_per_second"]
        computing = self.operations / rates["float32_operations_per_second"]
        return self.launches * rates["launch_seconds"] + max(moving, computing)


def _number(cell: str) -> float:
    return float(cell.replace(",", "")) if cell else 0.0


def costs() -> dict[tuple[str, int], dict[str, Cost]]:
    """By network and batch: the rows of "Bytes and time, kernel by kernel"."""
    text = SHEET.read_text()
    sections = re.findall(r"^### (\S+), batch ([\d,]+)$(.*?)(?=^###|\Z)", text, re.MULTILINE | re.DOTALL)
    return {
        (network, int(batch.replace(",", ""))): dict(_rows(section)) for network, batch, section in sections
    }


def _rows(section: str) -> Iterator[tuple[str, Cost]]:
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 6 and cells[1].isdigit():
            yield cells[0], Cost(int(cells[1]), 1e3 * _number(cells[4]), 1e6 * _number(cells[6]))


def step(network: str, batch: int, contender: str, rates: Mapping[str, float]) -> float | None:
    """Seconds of a step within a CUDA graph at the card's rates, or None where the sheet has none."""
    rows = costs().get((network, batch), {})
    names = _parts(contender, rows)
    return sum(rows[name].seconds(rates) for name in names) if names else None


def launches(network: str, batch: int, contender: str) -> int | None:
    rows = costs().get((network, batch), {})
    if contender.startswith("am-adam, "):
        return rows[OURS].launches + rows[POWER].launches if rows else None
    return rows[AUTOGRAD].launches if rows and contender.startswith("Adam(fused), ") else None


def _parts(contender: str, rows: Mapping[str, Cost]) -> list[str]:
    """The rows that a contender's step is the sum of."""
    autograd = [name for name in rows if "of autograd" in name]
    if contender == "am-adam, CUDA graph":
        return [name for name in rows if name not in (*_totals, *autograd)]
    return autograd if contender == "Adam(fused), CUDA graph" else []
