"""The written pages. Oracle: their links lead somewhere, and their tables are those of the code and of the records.

Sentences that they quote are in the source, and what their examples print is seen to by test_pages.py.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import altmin_ext
from altmin_ext import data, methods, models

from . import pages

if not pages.DOCS.is_dir():
    pytest.skip("only the tests are here, not the pages", allow_module_level=True)
WRITTEN = [
    pages.README,
    pages.ROOT / "CONTRIBUTING.md",
    pages.ROOT / "benchmarks" / "README.md",
    *sorted(pages.DOCS.rglob("*.md")),
]

OF_METHODS = sorted({page.stem for page in (pages.DOCS / "methods").glob("*.md")} - {"index"})


def read(name: str) -> str:
    return (pages.DOCS / name).read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(pages.ROOT))


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_links_lead_somewhere(page):
    for link in pages.links(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        if anchor:
            anchors = [anchor for _, anchor in pages.headings(target.read_text(encoding="utf-8"))]
            assert anchor in anchors, f"{name_of(page)} links to {link}"


# ------------------------------------------------------------------------------------------------------------ tables


def test_tables_are_those_of_the_code_and_of_the_records():
    written = pytest.importorskip("benchmarks.pages", reason="the studies are not here")
    held = []
    for page in written.pages():
        text = page.read_text(encoding="utf-8")
        held += written.names(text)
        assert written.filled(text) == text, (
            f"run `python -m benchmarks.pages`: {name_of(page)} is not up to date"
        )
    assert set(held) == set(written.tables), "a table stands on no page"


def test_table_of_methods_is_complete():
    rows = pages.table(read("methods/index.md"))
    names = [re.fullmatch(r"\[`(.+)`\]\(\1\.md\)", link)[1] for link, _ in rows]
    assert sorted(names) == sorted(methods.names())


def test_every_method_has_a_page():
    assert set(OF_METHODS) == set(methods.names())


@pytest.mark.parametrize("name", OF_METHODS)
def test_a_page_of_a_method_has_all_its_parts(name):
    text = read(f"methods/{name}.md")
    assert [anchor for level, anchor in pages.headings(text) if level == 2] == [
        "problem", "one-step", "options", "memory", "when-to-use-it", "source", "example",
    ]  # fmt: skip
    assert f"<!-- table: options of {name} -->" in text
    (example,) = pages.blocks(text, "python")
    assert len(example.splitlines()) <= 8


@pytest.mark.parametrize("name", OF_METHODS)
def test_a_method_keeps_as_many_numbers_as_its_page_says(name):
    widths, samples, atoms = (37, 23, 17, 11), 64, 5
    model = models.mlp(37, [23, 17], 11)
    if name == "deepfacto":
        model = models.deepfacto(nn.Linear(37, 23), 23, atoms, nn.Linear(atoms, 11))
    dictionaries = [m for m in model.modules() if isinstance(m, altmin_ext.NonNegativeFactors)]
    method, x = altmin_ext.make_method(name, model), torch.randn(samples, 37)
    for _ in range(2):
        method.step(x, torch.arange(samples) % 11)
    state = method.state_dict()
    left_out = ("singular_vectors", "singular_vectors_to_draw", "generator", "fingerprint", "weights_left")
    kept = sum(sizes(part) for key, part in state.items() if key not in left_out and key != "inverses")
    weights = count(model) - sum(map(count, dictionaries))
    symbols = {
        "N": samples, "H": sum(widths[1:-1]), "C": widths[-1], "n": widths[-2], "r": atoms, "F": 23,
        "P": weights, "P_out": 18 * 11, "A": 38**2 + 24**2, "V": sizes(state.get("inverses", ())),
    }  # fmt: skip
    formula = re.search(r"From step to step it keeps `(.+?)`", read(f"methods/{name}.md"))[1]
    product = re.sub(r"(?<=[\w)]) (?=[\w(])", "*", formula.replace("²", "**2"))
    assert abs(kept - eval(product, symbols)) <= sum(widths), (kept, formula)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def sizes(part: object) -> int:
    """How many numbers the tensors in a part of a state hold."""
    if isinstance(part, torch.Tensor):
        return part.numel()
    parts = part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else ()
    return sum(map(sizes, parts))


def test_table_of_data_is_right():
    pytest.importorskip("sklearn")
    section = pages.section(read("data.md"), "known-data-sets")
    rows = {name: (samples, shape) for name, samples, shape in pages.table(section)}
    assert list(rows) == data.names()
    digits = data.load("digits")
    samples, shape = rows["digits"]
    assert [int(part.replace(",", "")) for part in samples.split("+")] == [
        len(digits.train[0]),
        len(digits.test[0]),
    ]
    assert tuple(int(part) for part in shape.split("×")) == digits.shape


# ------------------------------------------------------------------------------------------------------- sentences


def sentences_of_the_source() -> list[str]:
    """Every string in the package, adjacent ones joined, with a NUL for what is formatted into it."""

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        return "\0" if not isinstance(node, ast.JoinedStr) else "".join(map(text, node.values))

    found = []
    for path in sorted((pages.ROOT / "altmin_ext").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr) or (
                isinstance(node, ast.Constant) and isinstance(node.value, str)
            ):
                found.append(text(node))
    return found


def test_quoted_errors_are_in_the_source():
    """Dots stand for what is formatted into them, and at the end for anything."""
    source = "\n".join(string.replace("\n", " ") for string in sentences_of_the_source())
    text = read("troubleshooting.md")
    reasons = [row[0] for row in pages.table(pages.section(text, "steps-are-slow"))]
    quoted = re.findall(r"^> (.+)$", text, re.MULTILINE)
    inline = re.findall(
        r"`([^`]*\.\.\.[^`]*)`", pages.section(text, "graphtrue-is-refused").replace("\n", " ")
    )
    assert len(quoted) >= 15
    assert len(inline) >= 3
    for sentence in [*quoted, *reasons, *inline]:
        parts = [re.escape(part) for part in sentence.removesuffix(" ...").split("...")]
        assert re.search(".*?".join(parts), source), f"{sentence!r} is not in the source"
