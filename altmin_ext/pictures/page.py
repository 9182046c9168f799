"""Runs as HTML: a whole page, or what a notebook shows of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from altmin_ext.pictures.panels import (
    Panel,
    learning_curves,
    metrics,
    number_text,
    stage_panels,
    step_panels,
)
from altmin_ext.pictures.svg import legend, svg

if TYPE_CHECKING:
    from altmin_ext.history import History

_style = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .3rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .8rem; border: 1px solid var(--line); border-radius: 6px; break-inside: avoid; }
figure > svg { width: 100%; height: auto; display: block; } figcaption { font-size: .85rem; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead th { background: var(--soft); } pre { margin: 0; font-size: .82rem; white-space: pre-wrap; }
summary { cursor: pointer; margin: .4rem 0; }
@media print { body { max-width: none; padding: 0; } .panels { grid-template-columns: 1fr 1fr; } }
"""
_most_rows = 10  # in a notebook
_results = ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy")
_costs = ("seconds", "samples_per_second", "learning_rate_factor", "steps", "restores")


def page(histories: Mapping[str, History], held_out: str) -> str:
    """A page about some runs that needs nothing else.

    Args:
        histories: by label; "" for a single one.
        held_out: what the validation data are called.
    """
    title = ", ".join(label or _name(history) for label, history in histories.items())
    trained = {label: history for label, history in histories.items() if history.epochs}
    sections = [
        f"<h1>{escape(title)}</h1>",
        "".join(
            f"<p>{escape(_sentence(label, history, held_out))}</p>" for label, history in histories.items()
        ),
        _section("Learning curves", learning_curves(trained, held_out) if trained else []),
        _section("Stages", [own for pair in trained.items() for own in stage_panels(*pair)]),
        _section("Steps", step_panels(histories)),
        "<h2>Settings</h2>",
        _comparison(histories, {label: history.settings for label, history in histories.items()}),
        "<h2>Environment</h2>",
        _comparison(histories, {label: history.environment for label, history in histories.items()}),
        "<h2>Epochs</h2>",
        *(_epochs(label, history, held_out) for label, history in histories.items()),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_style}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in sections if part)
        + "\n</body>\n</html>\n"
    )


def fragment(history: History) -> str:
    """What a notebook shows of a run: its last numbers, curves, and a compact table of epochs."""
    rows = history.epochs
    left_out = len(rows) - _most_rows
    shown = [*rows[:3], None, *rows[3 - _most_rows :]] if left_out > 0 else rows
    compact = {*_results, *_costs[:2], *(f"validation_{name}" for name in metrics(rows))}
    # Widths of their own, as a notebook gives elements none.
    figures = "".join(
        f'<figure style="margin: 0; flex: 1 1 300px; max-width: 460px">{_drawn(panel)}</figure>'
        for panel in (learning_curves({"": history}, "validation") if rows else [])
    )
    return (
        f"<div><p>{escape(_sentence('', history, 'validation'))}</p>"
        f'<div style="display: flex; flex-wrap: wrap; gap: 1em">{figures}</div>'
        f"{_table(shown, [key for key in _numbers(rows) if key in compact], 'validation') if rows else ''}</div>"
    )


def _name(history: History) -> str:
    return str((history.settings or {}).get("method") or "training run")


def _sentence(label: str, history: History, held_out: str) -> str:
    """How far a run has come, in words."""
    name = label or _name(history)
    epochs = f"{len(history.epochs)} epoch{'' if len(history.epochs) == 1 else 's'}"
    minibatches = f"{history.steps:,} minibatch{'' if history.steps == 1 else 'es'}"
    seconds = sum(row["seconds"] for row in history.epochs)
    parts = [f"{name}: {epochs}, {minibatches}, {number_text(seconds)} s of training"]
    if history.ended is not None:
        parts.append(history.ended)
    if history.restores:
        parts.append(f"restored {history.restores} {'time' if history.restores == 1 else 'times'}")
    last = history.epochs[-1] if history.epochs else {}
    results = [key for key in _numbers([last]) if key in _results[1:] or key.startswith("validation_")]
    parts += [f"{_heading(key, held_out)} {number_text(last[key])}" for key in results]
    return "; ".join(parts) + "."


def _section(title: str, panels: Sequence[Panel]) -> str:
    figures = "".join(f"<figure><h3>{escape(own.title)}</h3>{_drawn(own)}</figure>" for own in panels)
    return f'<h2>{title}</h2>\n<div class="panels">{figures}</div>' if panels else ""


def _drawn(panel: Panel) -> str:
    return f"{svg(panel)}<figcaption>{legend(panel.curves)}</figcaption>"


def _comparison(histories: Mapping[str, History], tables: Mapping[str, Mapping[str, Any] | None]) -> str:
    """What is known of each run by name, side by side."""
    names = dict.fromkeys(name for table in tables.values() for name in table or ())
    if not names:
        return "<p>Not recorded.</p>"
    head = "<th></th>" + "".join(f"<th>{escape(label)}</th>" for label in tables) if len(tables) > 1 else ""
    rows = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f"<td>{_told(table, name)}</td>" for table in tables.values())
        + "</tr>"
        for name in names
    )
    return (
        f'<div class="table"><table>{f"<thead><tr>{head}</tr></thead>" if head else ""}{rows}</table></div>'
    )


def _told(table: Mapping[str, Any] | None, name: str) -> str:
    if not table or name not in table:
        return "–"
    value = table[name]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        words = map(str, value)
        return f"<pre>{escape(chr(10).join(words))}</pre>" if name == "network" else escape(", ".join(words))
    if isinstance(value, int):
        return f"{value:,}" if name == "parameters" else str(value)
    if isinstance(value, float):
        return number_text(value)
    return "–" if value is None else escape(str(value))


def _epochs(label: str, history: History, held_out: str) -> str:
    if not history.epochs:
        return f"<p>{escape(label or 'The run')}: none yet.</p>"
    is_open = " open" if len(history.epochs) <= 50 else ""
    table = _table(history.epochs, _numbers(history.epochs), held_out)
    summary = f"<summary>{escape(label or _name(history))}</summary>"
    return f'<details{is_open}>{summary}<div class="table">{table}</div></details>'


def _table(shown: Iterable[Mapping[str, Any] | None], columns: Sequence[str], held_out: str) -> str:
    """Rows as a table, with these columns; None is a row of dots."""
    head = "".join(f'<th class="number">{escape(_heading(key, held_out))}</th>' for key in columns)
    body = []
    for row in shown:
        cells = ("…" if row is None else _cell(key, row) for key in columns)
        body.append("<tr>" + "".join(f'<td class="number">{cell}</td>' for cell in cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _numbers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the numbers in rows: results, what runs have measured besides, and lists by their stages."""
    single: dict[str, None] = {}
    listed: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, list):
                listed |= {f"{key}.{place}": None for place in range(len(value))}
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                single[key] = None
    first = [key for key in _results if key in single]
    last = [key for key in _costs if key in single]
    return [*first, *(key for key in single if key not in _results + _costs), *last, *listed]


def _heading(key: str, held_out: str) -> str:
    name, _, place = key.partition(".")
    of_held_out = name.startswith("validation_")
    words = " ".join([held_out] * of_held_out + name.removeprefix("validation_").split("_"))
    return f"{words}, stage {int(place) + 1}" if place.isdigit() else words


def _cell(key: str, row: Mapping[str, Any]) -> str:
    name, _, place = key.partition(".")
    value = row.get(key)
    if value is None and place.isdigit() and isinstance(row.get(name), list):
        value = row[name][int(place)] if int(place) < len(row[name]) else None
    if isinstance(value, int):
        return f"{value:,}"
    if key == "samples_per_second" and value is not None and math.isfinite(value):
        return f"{value:,.0f}"
    return number_text(value)
