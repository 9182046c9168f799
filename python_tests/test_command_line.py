"""The command line. Oracle: the same calls in Python, and the promised files, streams and exit codes."""

import dataclasses
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

import altmin_ext
from altmin_ext import data, methods
from altmin_ext.__main__ import main
from altmin_ext.history import History
from altmin_ext.methods._options import help_of

pytest.importorskip("sklearn")

quick = ["train", "--data", "digits", "--hidden", "8", "--epochs", "2", "--method", "sgd"]


def run(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main([*map(str, arguments)]) == code
    return capsys.readouterr()


def run_json(capsys, *arguments):
    out, err = run(capsys, *arguments, "--json")
    assert err == ""
    return json.loads(out)


def failure(capsys, *arguments, code=2):
    """The sentence of a failed command, which must be all it says."""
    out, err = run(capsys, *arguments, code=code)
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("altmin: error: ")
    return err.removeprefix("altmin: error: ").strip()


# ---------------------------------------------------------------------------------------------------- train


def test_table_has_a_row_per_epoch_and_the_result(capsys):
    out, _ = run(capsys, *quick, "--compare", "adam")
    header, *blocks = out.strip().split("\n\n")
    assert header == ("digits: 1,437 training and 360 test samples; network 64-8-10, relu")
    titles, results = [block.split("\n")[0] for block in blocks[:2]], blocks[2].split("\n")
    assert titles == ["sgd", "adam"]
    for block in blocks[:2]:
        heading, *rows = block.split("\n")[1:]
        assert heading.split() == [
            "epoch",
            "loss",
            "accuracy",
            "test",
            "loss",
            "test",
            "accuracy",
            "samples/s",
        ]
        assert [row.split()[0] for row in rows] == ["1", "2"]
    assert [row.split()[0] for row in results] == ["method", "sgd", "adam"]
    # The last row of an epoch table and the final result are about the same weights.
    assert blocks[0].split("\n")[-1].split()[4] == results[1].split()[3]


def test_quiet_prints_the_result_only(capsys):
    out, _ = run(capsys, *quick, "--quiet")
    assert [line.split()[0] for line in out.strip().split("\n")] == ["method", "sgd"]


def test_json_is_the_same_run_as_in_python(capsys):
    document = run_json(
        capsys, *quick, "--lr", ".2", "--seed", "3", "--batch-size", "50", "--lr-schedule", "cosine",
        "--validation-fraction", ".1", "--activation", "tanh",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = altmin_ext.models.mlp(64, [8], 10, "tanh")
    digits = data.load("digits")
    history = altmin_ext.train(
        model, digits.train, method="sgd", lr=0.2, epochs=2, batch_size=50, seed=3, lr_schedule="cosine",
        validation_fraction=0.1, progress=False,
    )  # fmt: skip
    (result,) = document["methods"]
    assert result["method"] == "sgd"
    assert result["options"]["lr"] == 0.2
    assert result["options"]["momentum"] == 0.0
    for found, expected in zip(result["epochs"], history.epochs, strict=True):
        for key in (
            "epoch",
            "loss",
            "accuracy",
            "validation_loss",
            "validation_accuracy",
            "learning_rate_factor",
        ):
            assert found[key] == expected[key]
    assert result["test"] == dataclasses.asdict(altmin_ext.evaluate(model, digits.test))
    assert document["data"] == "digits"


def test_compared_methods_start_alike_and_see_the_same_order(capsys):
    """The same method under another name therefore gives the same numbers."""
    document = run_json(capsys, *quick, "--compare", "sgd:lr=0.1,momentum=0", "--compare", "sgd:lr=0.05")
    first, same, other = (result["epochs"][-1]["loss"] for result in document["methods"])
    assert first == same
    assert first != other
    assert [result["label"] for result in document["methods"]][1] == "sgd:lr=0.1,momentum=0"


def test_output_can_be_evaluated_and_loaded(capsys, tmp_path):
    folder = tmp_path / "runs" / "digits"
    pytest.importorskip("matplotlib")
    document = run_json(capsys, *quick, "--compare", "adam:lr=.01", "--output", folder)
    assert {path.name for path in folder.iterdir()} == {
        "model.pt", "model.json", "history.json", "history-adam-lr-.01.json", "learning-curve.png",
    }  # fmt: skip
    found = run_json(capsys, "evaluate", "--model", folder)
    assert found == {"data": "digits", **document["methods"][0]["test"]}
    out, _ = run(capsys, "evaluate", "--model", folder, "--data", "digits")
    assert out == f"digits: 360 samples, loss {found['loss']:.4f}, accuracy {found['accuracy']:.4f}\n"
    history = History.load(folder / "history.json")
    assert history.epochs == document["methods"][0]["epochs"]


def test_without_matplotlib_everything_else_is_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    _, err = run(capsys, *quick, "--quiet", "--output", tmp_path)
    assert "learning-curve.png was not drawn" in err
    assert 'pip install "altmin_ext[plot]"' in err
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "model.json", "history.json"}


def test_mse_trains_on_one_hot_classes(capsys, tmp_path):
    document = run_json(capsys, *quick, "--loss", "mse", "--output", tmp_path)
    (result,) = document["methods"]
    assert result["test"]["accuracy"] is None
    assert 0 < result["test"]["loss"] < 0.2
    assert run_json(capsys, "evaluate", "--model", tmp_path)["loss"] == result["test"]["loss"]


def test_no_hidden_layer(capsys):
    assert run_json(capsys, "train", "--method", "sgd", "--epochs", "1", "--hidden")["hidden"] == []


def test_early_stopping_keeps_the_best_weights(capsys):
    """Learning rate 0: no epoch is better than the first."""
    arguments = ["--lr", "0", "--epochs", "9", "--validation-fraction", ".1", "--patience", "2"]
    (result,) = run_json(capsys, *quick, *arguments)["methods"]
    assert len(result["epochs"]) == 3


def flags_of(help: str, title: str) -> set[str]:
    """The flags that a group of the help lists."""
    _, _, rest = help.partition(f"\n{title}:\n")
    return set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", rest.partition("\n\n")[0], re.MULTILINE))


@pytest.mark.parametrize("name", methods.names())
def test_help_of_a_method_lists_its_options_and_no_others(capsys, name):
    out, _ = run_help(capsys, "train", "--method", name, "--help")
    fields = dataclasses.fields(methods.method_class(name).Options)
    own = {f"--{field.name.replace('_', '-')}" for field in fields if field.metadata["flag"]}
    common, _ = run_help(capsys, "train", "--help")
    titles = ("data and model", "run", "output")
    assert flags_of(out, f"options of {name}") == own
    assert [flags_of(out, title) for title in titles] == [flags_of(common, title) for title in titles]
    assert set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", out, re.MULTILINE)) == own.union(
        {"--help"}, *(flags_of(common, title) for title in titles)
    )
    squeezed = "".join(out.split())  # lines break after hyphens, too
    for field in fields:
        if field.metadata["flag"]:
            assert "".join(help_of(field).split()) in squeezed
            default = field.metadata["none"] if field.default is None else field.default
            shown = ("no", "yes")[default] if isinstance(default, bool) else default
            assert "".join(f"(default: {shown})".split()) in squeezed


def test_help_without_a_method_lists_the_methods_and_no_option_of_theirs(capsys):
    out, _ = run_help(capsys, "train", "--help")
    assert "`altmin train --method NAME --help`" in out
    for name in methods.names():
        assert re.search(rf"^  {name}  +[A-Za-z].{{10,}}$", out, re.MULTILINE)
    assert "options of" not in out
    assert "--lr " not in out
    assert max(map(len, out.split("\n"))) < 121


def test_a_common_name_has_one_help_text():
    """Whatever the method: the same words mean the same quantity."""
    texts = {}
    for name in methods.names():
        for field in dataclasses.fields(methods.method_class(name).Options):
            texts.setdefault(field.name, set()).add(help_of(field))
    assert {name: found for name, found in texts.items() if len(found) > 1} == {}


@pytest.mark.parametrize("name", methods.names())
def test_options_of_a_method_are_flags(capsys, name):
    """Each is passed on to the method: with its default written out the run is the same."""
    written = []
    for field in dataclasses.fields(methods.method_class(name).Options):
        if field.metadata["flag"] and field.default is not None:
            flag = field.name.replace("_", "-")
            if isinstance(field.default, bool):
                written.append(f"--{'' if field.default else 'no-'}{flag}")
            else:
                written.append(f"--{flag}={field.default}")
    network = ["--network", "deepfacto", "--hidden", "8", "8"] if name == "deepfacto" else ["--hidden", "8"]
    arguments = ["train", *network, "--epochs", "1", "--method", name]
    (one,), (other,) = (run_json(capsys, *arguments, *more)["methods"] for more in ([], written))
    assert one["options"] == other["options"]
    assert one["test"] == other["test"]


def run_help(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == 0
    return capsys.readouterr()


@pytest.mark.parametrize("name", methods.names())
def test_every_method_trains(capsys, name):
    network = ["--network", "deepfacto", "--hidden", "8", "8"] if name == "deepfacto" else ["--hidden", "8"]
    (result,) = run_json(capsys, "train", *network, "--epochs", "1", "--method", name)["methods"]
    assert result["method"] == name
    assert result["epochs"][0]["loss"] > 0


def test_global_generator_of_an_importing_program_is_left_alone(capsys):
    before = torch.get_rng_state()
    run(capsys, *quick, "--quiet")
    assert torch.equal(torch.get_rng_state(), before)


# --------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "argument COMMAND: invalid choice: 'trian'"),
        (["train", "--epoks", "3"], "unknown argument '--epoks': did you mean '--epochs'"),
        (["train", "--epochs", "x"], "argument --epochs: invalid int value: 'x' (see altmin train --help)"),
        (["train", "--epochs", "0"], "epochs must be at least 1, but is 0."),
        (["train", "digits"], "unexpected 'digits'"),
        (["train", "--method", "sdg"], "unknown method 'sdg': did you mean 'sgd'"),
        (
            ["train", "--method", "adam", "--momentum", "0.5"],
            "unknown option of 'adam': 'momentum' is one of sgd;",
        ),
        (["train", "--no-exact"], "unknown option of 'am-adam': 'exact' is one of am-mem, am-mem-off;"),
        (
            ["train", "--learning-rate=1"],
            "unknown option of 'am-adam': 'learning_rate': it is called 'lr' here.",
        ),
        (
            ["train", "--method", "admm", "--lr", "1"],
            "unknown option of 'admm': 'lr': it is called 'relaxation' here.",
        ),
        (["train", "--method", "sdg", "--help"], "unknown method 'sdg': did you mean 'sgd'"),
        (["train", "--method"], "argument --method: expected one argument (see altmin train --help)"),
        (["train", "--method", "sgd", "--momentum", "fast"], "momentum must be a number, but is 'fast'."),
        (["train", "--method", "sgd", "--lr", "-1"], "lr must be at least 0 and finite, but is -1."),
        (["train", "--data", "minst"], "unknown data set 'minst': did you mean 'mnist'"),
        (["train", "--hidden", "8", "0"], "hidden[1] must be at least 1, but is 0."),
        (["train", "--activation", "rellu"], "unknown activation 'rellu': did you mean 'relu'"),
        (["train", "--threads", "0"], "--threads must be at least 1, but is 0."),
        (["train", "--threads", "100000"], "--threads must be at most "),
        (["train", "--seed", "-1"], "--seed must be at least 0, but is -1."),
        (["train", "--seed", str(2**63)], "--seed must be less than 2**63, but is 9223372036854775808."),
        (
            ["train", "--device", "abacus"],
            "--device must be a device of torch, such as 'cpu' or 'cuda', but is 'abacus'.",
        ),
        (["train", "--device", "xla"], "--device must be usable here, but is 'xla': "),
        (
            ["train", "--device", "meta"],
            "--device must be a device whose tensors hold numbers, but is 'meta'.",
        ),
        (
            ["train", "--graph"],
            "graph must be False here: a CUDA graph needs a GPU, and the model trains on cpu.",
        ),
        (["train", "--patience", "3"], "--patience must come with --validation-fraction"),
        (["train", "--method", "sgd", "--compare", "sgd"], "--compare must name another method"),
        (["train", "--method", "sgd", "--compare", "adam:lr"], "--compare must be NAME[:OPTION=VALUE,...]"),
        (
            ["train", "--method", "sgd", "--compare", "adam:lf=1"],
            "unknown option of 'adam': 'lf': did you mean",
        ),
        (["evaluate"], "the following arguments are required: --model (see altmin evaluate --help)"),
        (["evaluate", "--model", "/nowhere"], "--model must be a folder written by `altmin train --output`"),
    ],
)
def test_wrong_arguments_are_one_sentence(capsys, arguments, sentence):
    assert failure(capsys, *arguments).startswith(sentence)


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.json", "{"), ("model.json", "{}"), ("model.json", "[]"), ("model.pt", "junk")],
)
def test_damaged_model_is_one_sentence(capsys, tmp_path, name, content):
    run(capsys, *quick, "--quiet", "--output", tmp_path)
    (tmp_path / name).write_text(content)
    sentence = failure(capsys, "evaluate", "--model", tmp_path)
    assert sentence.startswith("--model must be a folder written by")


def test_model_and_data_that_do_not_fit(capsys, tmp_path, monkeypatch):
    run(capsys, *quick, "--quiet", "--output", tmp_path)
    digits = data.load("digits")
    wider = data.DataSet("digits", digits.train, (torch.zeros(3, 65), torch.zeros(3).long()), 10)
    monkeypatch.setattr(data, "load", lambda name: wider)
    assert failure(capsys, "evaluate", "--model", tmp_path).startswith("x must fit the model")


def test_divergence_has_its_own_exit_code(capsys):
    sentence = failure(capsys, *quick, "--quiet", "--lr", "1e30", code=1)
    assert "is not finite at step" in sentence


def test_interrupt_has_its_own_exit_code(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("altmin_ext.__main__.train", interrupted)
    out, err = run(capsys, *quick, "--quiet", code=130)
    assert (out, err) == ("", "altmin: interrupted\n")


# ---------------------------------------------------------------------------------------- info, help, module


def test_info_lists_versions_native_module_and_data(capsys):
    document = run_json(capsys, "info")
    assert document["altmin_ext"] == altmin_ext.__version__
    assert document["torch"] == torch.__version__
    assert document["threads"] == torch.get_num_threads()
    assert document["native"]["available"] in (True, False)
    assert list(document["data"]) == data.names()
    out, _ = run(capsys, "info")
    for key in [*document, *document["native"], *document["data"]]:
        assert key in out


@pytest.mark.parametrize("available", [True, False])
def test_info_tells_a_broken_native_module_from_a_working_one(capsys, monkeypatch, available):
    description = {"available": available, "reason": "libgomp is missing; install it."}
    monkeypatch.setattr("altmin_ext.ops._native.describe", lambda: description)
    out, _ = run(capsys, "info")
    assert f"available       {'yes' if available else 'no'}\n" in out
    assert "libgomp is missing; install it." in out


def test_without_arguments_the_module_prints_its_help(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["altmin"])
    monkeypatch.delitem(sys.modules, "altmin_ext.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("altmin_ext", run_name="__main__")
    assert ended.value.code == 0
    out, _ = capsys.readouterr()
    assert all(command in out for command in ("train", "evaluate", "info"))


def test_version(capsys):
    assert run_help(capsys, "--version").out == f"altmin_ext {altmin_ext.__version__}\n"


@pytest.mark.parametrize(
    ("network", "arguments"),
    [("binary", ["--hidden", "8", "8"]), ("elman", ["--hidden", "3"]), ("mlp", ["--activation", "tanh"])],
)
def test_networks_are_written_and_read(
    network: str, arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trained = run_json(
        capsys, "train", "--network", network, *arguments, "--epochs", "1", "--output", str(tmp_path)
    )
    assert trained["network"] == network
    (result,) = trained["methods"]
    again = run_json(capsys, "evaluate", "--model", str(tmp_path))
    assert again["accuracy"] == result["test"]["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network", "lenet"], "'lenet5'"),
        (["--network", "lenet5"], "size must be at least 16"),
        (["--network", "elman", "--hidden", "3", "3"], "--hidden must be one width"),
        (["--network", "lenet5", "--hidden", "3"], "--hidden must be nothing"),
        (["--network", "binary", "--activation", "relu"], "--activation must be left out"),
    ],
)
def test_networks_that_cannot_be(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
