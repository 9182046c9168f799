"""The README. Oracle: what it shows must run as it stands, what it lists must be what there is, and its figures must
be those of the pages that they link to."""

import re
import runpy
import shlex

import pytest
import torch

import altmin_ext
from altmin_ext import methods
from altmin_ext.__main__ import main

from . import pages

if not pages.README.is_file():
    pytest.skip("only the tests are here, not the README", allow_module_level=True)
text = pages.README.read_text(encoding="utf-8")


def test_it_is_short():
    assert len(text.splitlines()) <= 150


def test_python_examples_run_and_learn(capsys, tmp_path):
    pytest.importorskip("sklearn")
    script = tmp_path / "readme.py"
    script.write_text("\n".join(pages.blocks(text, "python")), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        names = runpy.run_path(str(script))
    learnt = [float(line) for line in capsys.readouterr().out.split()]
    assert len(learnt) == 2
    assert min(learnt) > 0.85
    assert len(names["history"].epochs) == 20


def test_first_example_is_about_ten_lines():
    assert len(pages.blocks(text, "python")[0].splitlines()) <= 10


def test_command_lines_run(capsys, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    lines = pages.command_lines(text)
    assert len(lines) == 3
    for line in lines:
        arguments = shlex.split(line)[1:]
        if arguments[0] == "train":
            arguments += ["--epochs", "1", "--quiet"]
        assert main(arguments) == 0, (line, capsys.readouterr().err)


def test_every_method_is_named_with_its_page():
    named = re.findall(
        r"\[`([\w-]+)`\]\(docs/methods/([\w-]+)\.md\)", pages.section(text, "which-method-for-what")
    )
    assert sorted(named) == [(name, name) for name in sorted(methods.names())]


@pytest.mark.parametrize(
    "row", pages.table(pages.section(text, "measured")), ids=lambda row: re.sub(r"[^\w]+", " ", row[0])
)
def test_figures_are_those_of_the_page_behind_the_link(row):
    what, *cells = row
    link = re.search(r"\]\((docs/[\w.]+)#([\w-]+)\)", what)
    assert link, f"{what} must link to its table"
    behind = pages.section((pages.README.parent / link[1]).read_text(encoding="utf-8"), link[2])
    recorded = [float(number) for number in re.findall(r"\d+\.\d+", behind)]
    figures = re.findall(r"(?<![\d.])(\d*\.\d+|\d{2,})(?![\d.])", " ".join(cells))
    assert figures
    for figure in figures:
        digits = len(figure.partition(".")[2])
        assert any(abs(number - float(figure)) <= 0.5001 * 10**-digits for number in recorded), figure


def test_changelog_has_this_version():
    assert altmin_ext.__version__ in (pages.README.parent / "CHANGELOG.md").read_text(encoding="utf-8")
