"""docs/command_line.md. Oracle: what it shows must run as it stands, and its tables must list what there is."""

import csv
import random
import re
import shlex
from pathlib import Path

import pytest

from altmin_ext.__main__ import main
from altmin_ext.command_line import _commands, export

page = Path(__file__).parents[1] / "docs" / "command_line.md"
if not page.is_file():
    pytest.skip("only the tests are here, not the page", allow_module_level=True)
text = page.read_text(encoding="utf-8")

# What a line cannot do without; `make test` may lack it.
NEEDS = {"tune": "optuna"}


def make_files():
    """The files that the page speaks of."""
    images = pytest.importorskip("PIL.Image")
    random.seed(0)
    for name in ("mine", "more", "new"):
        with open(f"{name}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["length", "colour", "height", "kind"])
            for number in range(40):
                length = random.gauss(3, 1)
                kind = ("ash", "birch")[length > 3]
                table.writerow([length, ("red", "blue")[number % 2], 2 * length + random.random(), kind])
    for shade, kind in enumerate(["dark", "light"]):
        Path("photos", kind).mkdir(parents=True)
        for number in range(5):
            images.new("RGB", (20 + number, 24), (200 * shade, 40, 40)).save(f"photos/{kind}/{number}.png")


def test_command_lines_run(capsys, tmp_path, monkeypatch):
    for package in ("sklearn", "matplotlib", "pandas"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    make_files()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) >= 20
    commands = set()
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "altmin"
        commands.add(arguments[0])
        if arguments[0] in NEEDS:
            try:
                __import__(NEEDS[arguments[0]])
            except ImportError:
                continue
        if arguments[0] == "train":
            arguments += ["--epochs", "1", "--quiet"]
        assert main(arguments) == 0, (line, capsys.readouterr().err)
    assert commands == set(_commands) - {"completion"}  # of which test_command_line_words asks bash
    with open("predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert set(rows[0]) == {"prediction", "probability_ash", "probability_birch"}
    assert {path.name for path in Path().glob("mine.*")} == {
        "mine.csv",
        "mine.pt2",
        "mine.safetensors",
        "mine.pt",
    }


def test_tables_list_what_there_is():
    def first_column(heading):
        rows = re.search(
            rf"^\| {re.escape(heading)} \|.*?\n\|[-| ]+\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL
        ).group(1)
        return [row.split("|")[1].strip(" `") for row in rows.split("\n")]

    assert first_column("command") == list(_commands)
    assert first_column("`--format`") == export.formats()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([\w./]+)\)", text):
        assert (page.parent / target).is_file(), target
