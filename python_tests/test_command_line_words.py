"""What the command line says and completes.

Oracle: the words of other libraries and what they are called here; the names that the library lists; bash itself; and
rich's own rendering, which is for terminals alone.
"""

import io
import os
import re
import shutil
import subprocess
import sys

import pytest

from altmin_ext import data, losses, make_method, methods, models, schedules
from altmin_ext.__main__ import main
from altmin_ext.command_line import networks, tables
from altmin_ext.errors import unknown_name

COMMANDS = ["train", "tune", "evaluate", "predict", "export", "inspect", "info", "completion"]


def help_of(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ help


def test_the_first_help_is_short_and_names_every_command(capsys):
    out = help_of(capsys)
    assert len(out.splitlines()) < 32
    for command in COMMANDS:
        assert re.search(rf"^    {command}  +[a-z]", out, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_arguments(capsys, command):
    out = help_of(capsys, command)
    assert out.startswith(f"usage: altmin {command} ")
    # Each flag is followed by words, on its line or on the next.
    for line in re.findall(r"^  --[^\n]*\n(?: {20,}[^\n]*)?", out, re.MULTILINE):
        assert re.search(r"(?:  |\n +)\S", line), line


def test_help_of_train_is_grouped_by_topic(capsys):
    out = help_of(capsys, "train", "--method", "sgd")
    titles = re.findall(r"^(\S.*):$", out, re.MULTILINE)
    assert titles == ["options", "data", "network", "method", "options of sgd", "run", "output"]


# ----------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("call", "ours"),
    [
        (lambda: make_method("am_adam", models.mlp(2, [], 2)), "am-adam"),
        (lambda: make_method("AdamW", models.mlp(2, [], 2)), "adam"),
        (lambda: make_method("recursive_least_squares", models.mlp(2, [], 2)), "rls"),
        (lambda: make_method("sgd", models.mlp(2, [], 2), loss="ce"), "cross_entropy"),
        (lambda: make_method("sgd", models.mlp(2, [], 2), loss="MSELoss"), "mse"),
        (lambda: data.load("cifar10"), "cifar-10"),
        (lambda: data.load("FashionMNIST"), "fashion-mnist"),
        (lambda: models.mlp(2, [2], 2, "ReLU"), "relu"),
        (lambda: models.mlp(2, [2], 2, "swish"), "silu"),
        (lambda: models.mlp(2, [2], 2, "LeakyReLU"), "leaky_relu"),
        (lambda: schedules.make_schedule("CosineAnnealingLR", 3), "cosine"),
        (lambda: losses.make_loss("CrossEntropyLoss"), "cross_entropy"),
    ],
    ids=range(12),
)
def test_words_of_other_libraries_are_pointed_to_ours(call, ours):
    with pytest.raises(ValueError, match=rf"^unknown .*: did you mean '{ours}'\? valid ones are .*\.$"):
        call()


@pytest.mark.parametrize(
    ("arguments", "ours"),
    [
        (["fit"], "'train'"),
        (["eval"], "'evaluate'"),
        (["infer"], "'predict'"),
        (["complete"], "'completion'"),
        (["train", "--batchsize", "3"], "'--batch-size'"),
        (["train", "--optimizer", "adam"], "'--method'"),
        (["train", "--dataset", "digits"], "'--data'"),
        (["evaluate", "--model", "x", "--dataset", "digits"], "'--data'"),
        (["train", "--hidden-sizes", "3"], "'--hidden'"),
        (["train", "--model", "mlp"], "'--network'"),
        (["train", "--max_epochs", "3"], "'--epochs'"),
        (["train", "--lr_scheduler", "cosine"], "'--lr-schedule'"),
        (["train", "--random-state", "3"], "'--seed'"),
        (["train", "--gpu"], "'--device'"),
        (["train", "--criterion", "mse"], "'--loss'"),
        (["train", "--test-size", "3"], "'--test-fraction'"),
        (["train", "--label", "y"], "'--target'"),
        (["predict", "--model", "x", "--data", "y", "--proba"], "'--probabilities'"),
        (["predict", "--model", "x", "--data", "y", "--out", "z"], "'--output'"),
        (["train", "--lr-schedule", "cosineannealing"], "'cosine'"),
        (["train", "--network", "cnn"], "'lenet5'"),
        (["train", "--task", "regresion"], "'regression'"),
        (["tune", "--search", "lr=1,2", "--monitor", "val_loss"], "'validation_loss'"),
        (["completion", "bahs"], "'bash'"),
    ],
)
def test_wrong_words_on_the_command_line(capsys, arguments, ours):
    pytest.importorskip("sklearn")
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"did you mean {ours}" in said
    assert said.count("\n") == 1


def test_a_name_in_another_spelling_is_the_only_suggestion():
    for known in (methods.names(), data.names(), losses.names(), networks.names()):
        for name in known:
            for other in (name.upper(), name.replace("-", "_"), name.replace("_", "")):
                if other not in known:
                    assert f": did you mean {name!r}? valid" in str(unknown_name("word", other, known))


def test_many_names_are_cut_short():
    said = str(unknown_name("column", "zzz", [f"c{number:03}" for number in range(100)]))
    assert (
        said
        == f"unknown column 'zzz': valid ones are {', '.join(f'c{n:03}' for n in range(40))} and 60 more."
    )


# ------------------------------------------------------------------------------------------------ completion


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """Has bash complete the last of some words, by its own mechanism."""
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("bash is not here")
    folder = tmp_path_factory.mktemp("completion")
    script, stdout = io.StringIO(), sys.stdout
    sys.stdout = script
    try:
        assert main(["completion", "bash"]) == 0
    finally:
        sys.stdout = stdout
    (folder / "altmin.bash").write_text(script.getvalue())
    (folder / "mine.csv").touch()
    program = r"""
        source altmin.bash
        spec=$(complete -p altmin); spec=${spec#*-F }; function=${spec%% *}
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        $function altmin "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2> /dev/null
        printf '%s\n' "${COMPREPLY[@]}"
    """

    def complete(*words):
        command = ["bash", "--norc", "-c", program, "bash", "altmin", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.split()

    return complete


def test_bash_completes_commands_flags_names_and_files(bash):
    assert bash("") == COMMANDS
    assert bash("ev") == ["evaluate"]
    assert bash("train", "--method", "am-") == [name for name in methods.names() if name.startswith("am-")]
    assert bash("train", "--network", "") == networks.names()
    assert bash("train", "--loss", "") == losses.names()
    assert bash("train", "--batch-s") == ["--batch-size"]
    assert bash("train", "--data", "mi") == ["mine.csv"]
    assert bash("export", "--format", "on") == ["onnx"]
    assert bash("completion", "") == ["bash", "zsh", "fish"]


def test_bash_completes_the_options_of_all_methods(bash):
    assert set(bash("train", "--l")) >= {"--lr", "--lr-codes", "--lr-schedule", "--loss"}
    assert bash("train", "--method", "sgd", "--momen") == ["--momentum"]
    assert "--forgetting" in bash("train", "--method", "am-mem", "--forg")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(capsys, shell):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*COMMANDS, *methods.names(), "batch-size"))


def test_without_shtab_it_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert 'pip install "altmin_ext[cli]"' in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- tables


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


RESULTS = [
    {"label": label, "epochs": [1], "seconds": 1.0, "samples_per_second": 2.0, "ended": ended,
     "test": {"loss": loss, "accuracy": accuracy}}
    for label, loss, accuracy, ended in [("one[x]", 0.5, 0.75, "completed"), ("two", 0.25, 0.875, "diverged")]
]  # fmt: skip


def test_a_terminal_shows_tables_drawn_by_rich(monkeypatch):
    pytest.importorskip("rich")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", Terminal())
    table = tables.result_table(RESULTS)
    assert "╭" in table
    best = next(line for line in table.split("\n") if "two" in line)
    assert "\x1b[1;32m" in best
    plain = re.sub(r"\x1b\[[\d;]*m", "", table)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in plain.split("\n") if "│" in line]
    assert rows == [
        ["method", "epochs", "test loss", "test accuracy", "seconds", "samples/s", ""],
        ["one[x]", "1", "0.5000", "0.7500", "1.00", "2", ""],
        ["two", "1", "0.2500", "0.8750", "1.00", "2", "diverged"],
    ]
    monkeypatch.setenv("NO_COLOR", "1")
    colours = re.findall(r"\x1b\[([\d;]*)m", tables.result_table(RESULTS))
    assert {code for found in colours for code in found.split(";")} <= {"0", "1"}  # bold, which is no colour


@pytest.mark.parametrize("reason", ["no terminal", "dumb", "no rich"])
def test_elsewhere_text_is_plain(monkeypatch, reason):
    plain = tables.result_table(RESULTS)
    monkeypatch.setenv("TERM", "dumb" if reason == "dumb" else "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    if reason == "no rich":
        monkeypatch.setitem(sys.modules, "rich", None)
    if reason != "no terminal":
        monkeypatch.setattr(sys, "stdout", Terminal())
    assert tables.result_table(RESULTS) == plain
    assert plain.isascii()
    assert plain.isprintable() or set(plain) - {"\n"} <= set(map(chr, range(32, 127)))
    assert os.environ["TERM"]


def test_a_run_on_a_terminal_prints_the_numbers_of_one_elsewhere(capsys, monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("rich")
    arguments = ["train", "--method", "sgd", "--hidden", "4", "--epochs", "1", "--threads", "1"]
    assert main(arguments) == 0
    plain = capsys.readouterr().out
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main(arguments) == 0
    drawn = re.sub(r"\x1b\[[\d;]*m", "", sys.stdout.getvalue())

    def losses_in(text):
        return re.findall(r"\d\.\d{4}", text)

    assert losses_in(drawn) == losses_in(plain)
    sys.stdout = Terminal()
    assert main([*arguments, "--json"]) == 0
    assert "\x1b" not in sys.stdout.getvalue()
