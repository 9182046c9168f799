"""Training steps beside eager Adam(fused), by batch, with TF32 off and on."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from .contenders import BASELINE, COMPILED, GRAPH, NETWORKS, contenders, prepared
from .timing import in_turns, quartiles, set_tf32

BATCHES = (200, 8192, 1024, 1)  # the most telling first
SMALL_BATCHES = (4, 8, 2, 1)  # of a rehearsal on a CPU
OFF, ON = "TF32 off", "TF32 on"


def _case(network: str, batch: int, precision: str, what: str) -> str:
    return f"{network}; {batch}; {precision}; {what}"


def cases(rehearses: bool) -> list[str]:
    """What takes long and tells less, torch.compile's turns, comes behind."""
    batches = SMALL_BATCHES if rehearses else BATCHES
    return [
        _case(network, batch, precision, what)
        for precision, what in ((OFF, "steps"), (OFF, "compiled"), (ON, "steps"), (ON, "compiled"))
        for batch in batches
        for network in NETWORKS
    ]


def measure(case: str, device: torch.device) -> list[dict[str, Any]]:
    """A row for every contender: its time, the baseline's in the same turns, and the quotient of both."""
    network, batch, precision, what = case.split("; ")
    set_tf32(precision == ON)
    names = [BASELINE, COMPILED] if what == "compiled" else contenders(NETWORKS[network])
    calls, instead = prepared(names, NETWORKS[network], int(batch), device)
    worth_it = len(calls) > 1 or what == "steps"
    times = in_turns(calls, device) if worth_it else {}
    rows = []
    for name in names[1:] if what == "compiled" else names:
        row: dict[str, Any] = {
            "network": network,
            "batch": int(batch),
            "precision": precision,
            "contender": name,
        }
        if name in instead:
            rows.append(row | instead[name])
            continue
        low, middle, high = (1e3 * value for value in quartiles(times[name]))
        base = 1e3 * statistics.median(times[BASELINE])
        row |= {"milliseconds": middle, "quartiles": [low, high], "baseline_milliseconds": base}
        row["ratio"] = middle / base
        if GRAPH in times:
            row["ratio_to_graph"] = middle / (1e3 * statistics.median(times[GRAPH]))
        rows.append(row)
    return rows
