"""The README. Oracle: what it shows must run as it stands, and what it lists must be what there is."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch

import altmin_ext
from altmin_ext import data, methods
from altmin_ext.__main__ import main

readme = Path(__file__).parents[1] / "README.md"
if not readme.is_file():
    pytest.skip("only the tests are here, not the README", allow_module_level=True)
text = readme.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def table(heading):
    """The cells of the first table of a section, without its header, backquotes removed."""
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL).group(1)
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_python_examples_run_and_learn(capsys, tmp_path):
    pytest.importorskip("sklearn")
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        names = runpy.run_path(str(script))
    printed = [float(line) for line in capsys.readouterr().out.split()]
    *learnt, prequential, of_pixels, after_all_tasks, solved, on_fitted_filters = printed
    assert len(learnt) == 2
    assert min(learnt) > 0.85
    assert prequential > 0.7  # in the first pass, from the untrained network on, which is right in a tenth
    # Adam's best after as many steps is .017, and of the mean image .11.
    assert of_pixels < 0.012
    assert after_all_tasks > 0.7  # a learner that forgets ends at a fifth
    assert solved > 0.9
    assert on_fitted_filters > 0.9
    assert len(names["history"].epochs) == 20


def test_first_example_is_about_ten_lines():
    assert len(blocks("python")[0].splitlines()) <= 10


def test_command_lines_run(capsys, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("altmin ")]
    assert len(lines) >= 4
    for line in lines:
        arguments = shlex.split(line)[1:]
        if arguments[0] == "train":
            arguments += ["--epochs", "1", "--quiet"]
        assert main(arguments) == 0, (line, capsys.readouterr().err)


def test_table_of_methods_is_complete():
    assert sorted(name for name, _ in table("Methods")) == sorted(methods.names())


def test_table_of_data_is_right():
    pytest.importorskip("sklearn")
    rows = {name: (samples, shape) for name, samples, shape in table("Data")}
    assert list(rows) == data.names()
    digits = data.load("digits")
    samples, shape = rows["digits"]
    assert [int(part.replace(",", "")) for part in samples.split("+")] == [
        len(digits.train[0]),
        len(digits.test[0]),
    ]
    assert tuple(int(part) for part in shape.split("×")) == digits.shape


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([\w./]+)\)", text))
def test_links_to_files_lead_somewhere(target):
    assert (readme.parent / target).is_file()


def test_changelog_has_this_version():
    assert altmin_ext.__version__ in (readme.parent / "CHANGELOG.md").read_text(encoding="utf-8")
