"""Reading the written pages: their blocks, sections, tables and links, as GitHub and Sphinx see them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def command_lines(text: str) -> list[str]:
    """What a page says to run of ``altmin``."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("altmin ")]


def without_code(text: str) -> str:
    """A page without its blocks of code, in which # begins a comment and brackets are no links."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[tuple[int, str]]:
    """The level of every heading and the anchor that GitHub and MyST give it."""
    found = re.findall(r"^(#+) (.+)$", without_code(text), re.MULTILINE)
    return [(len(marks), re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")) for marks, title in found]


def section(text: str, anchor: str) -> str:
    """The part of a page below a heading, up to the next of its level or a higher one."""
    text = without_code(text)
    lines, inside, level = [], False, 0
    for line in text.splitlines():
        (heading,) = headings(line) or [None]
        if heading and inside and heading[0] <= level:
            break
        if heading and heading[1] == anchor:
            inside, level = True, heading[0]
        if inside:
            lines.append(line)
    assert inside, f"there is no heading #{anchor}"
    return "\n".join(lines)


def table(text: str) -> list[list[str]]:
    """The cells of the first table of a text, without its header, backquotes around a cell removed."""
    rows = []
    for line in text.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip(" `") for cell in line.strip("|").split(" | ")])
        elif rows:
            break
    return rows[2:]


def links(text: str) -> list[str]:
    """Where a page's relative links and pictures lead."""
    return re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", without_code(text))
