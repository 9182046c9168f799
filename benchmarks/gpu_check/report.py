"""The check as a page of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Content = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _number(value: float | None, form: str = ".3g") -> str:
    return "" if value is None else format(value, form)


def _instead(row: Mapping[str, Any]) -> str:
    """What stands in place of a measurement, or nothing."""
    return f"left out: {row['left_out']}" if "left_out" in row else "failed" if "error" in row else ""


def _card(content: Content) -> str:
    facts = {key: value for row in content["rows"] for key, value in row.items()}
    return table(["", ""], [(key, f"{v:.4g}" if isinstance(v, float) else v) for key, v in facts.items()])


def _build(content: Content) -> str:
    facts = [*(content["rows"][0].items() if content["rows"] else ())]
    if "would_run" in content:
        facts.append(("would run", f"`{content['would_run']}`"))
    return table(["", ""], facts)


def _tests(content: Content) -> str:
    columns = ("passed", "failed", "skipped", "not_run")
    rows = [(row["tests"], *(row[column] for column in columns)) for row in content["rows"]]
    sums = [sum(row[column] for row in content["rows"]) for column in columns]
    return table(["tests", "passed", "failed", "skipped", "not run"], [*rows, ("**all**", *sums)])


def _steps(content: Content) -> str:
    """Milliseconds and the ratios to Adam's; the prediction, where there is one."""
    rows = []
    for row in sorted(content["rows"], key=lambda row: (row["network"], row["precision"], row["batch"])):
        cells: list[object] = [row["network"], row["batch"], row["precision"], row["contender"]]
        if instead := _instead(row):
            rows.append([*cells, instead, "", "", "", ""])
            continue
        times = "{:.3g} to {:.3g}".format(*row["quartiles"])
        ratios = [_number(row.get(name), ".3f") for name in ("ratio", "ratio_to_graph")]
        rows.append(
            [*cells, _number(row["milliseconds"]), times, *ratios, _number(row.get("predicted_milliseconds"))]
        )
    measured = ["ms", "quartiles", "ratio to eager Adam", "to Adam's graph", "ms foretold"]
    return table(["network", "batch", "precision", "contender", *measured], rows)


def _floors(content: Content) -> str:
    rows = [
        (
            row["op"], row["batch"], f"{row['microseconds']:.2f}", _number(row.get("floor_microseconds"), ".2f"),
            _number(row.get("over_floor"), ".2f"), f"{row['bytes'] / 1e6:.3g}", f"{row['operations'] / 1e6:.3g}",
        )
        for row in content["rows"]
    ]  # fmt: skip
    return table(["op", "batch", "µs", "floor µs", "over floor", "MB", "Mflop in products"], rows)


def _launches(content: Content) -> str:
    rows = []
    for row in content["rows"]:
        cells: list[object] = [row["network"], row["precision"], row["contender"]]
        counts = [_instead(row), "", "", "", ""]
        if not counts[0]:
            counts = [f"{row[kind]:g}" for kind in ("kernels", "copies", "fills")]
            counts += [f"{row[of]:.1f}" for of in ("kernel_microseconds", "own_kernel_microseconds")]
        rows.append([*cells, *counts, row.get("predicted_kernels", "")])
    of_kernels = ["kernels", "copies", "fills", "µs in kernels", "of them in ours", "kernels foretold"]
    return table(["network", "precision", "contender", *of_kernels], rows)


SECTIONS: dict[str, tuple[str, Callable[[Content], str]]] = {
    "card": ("The card", _card),
    "build": ("The build", _build),
    "tests": ("Tests", _tests),
    "steps": ("Steps", _steps),
    "floors": ("Ops beside their floors", _floors),
    "launches": ("What a step launches", _launches),
}


def _failures(content: Content) -> list[str]:
    lines = []
    for failure in content.get("failures", []):
        name = failure.get("test") or failure.get("case", "")
        text = "\n".join(f"    {line}" for line in failure["error"].strip().splitlines()[-25:])
        lines.append(f"`{name}` failed:\n\n{text}")
    return lines


def page(contents: Mapping[str, Content], summary: Sequence[str]) -> str:
    parts = ["# GPU check", "\n".join(f"- {line}" for line in summary)]
    for name, content in contents.items():
        title, section = SECTIONS.get(name, (name, None))
        parts.append(f"## {title}")
        if section is not None and content.get("rows"):
            parts.append(section(content))
        if content.get("problem"):
            parts.append(f"It ended early: {content['problem']}.")
        if content.get("left_out"):
            parts.append("Left out: " + "; ".join(content["left_out"]) + ".")
        parts += _failures(content)
    return "\n\n".join(parts) + "\n"
