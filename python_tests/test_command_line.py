"""The command line. Oracle: the same calls in Python, and the promised files, streams and exit codes."""

import dataclasses
import errno
import io
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import altmin_ext
from altmin_ext import data, methods
from altmin_ext.__main__ import main
from altmin_ext.command_line import train as train_command
from altmin_ext.command_line.output import Output, read
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
        "model.safetensors", "checkpoint.safetensors", "checkpoint-adam-lr-.01.safetensors", "history.json",
        "history-adam-lr-.01.json", "learning-curve.png", "report.html",
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
    names = {"model.safetensors", "history.json", "checkpoint.safetensors", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_mse_trains_on_one_hot_classes(capsys, tmp_path):
    document = run_json(capsys, *quick, "--loss", "mse", "--output", tmp_path)
    (result,) = document["methods"]
    assert result["test"]["accuracy"] is None
    assert 0 < result["test"]["loss"] < 0.2
    assert run_json(capsys, "evaluate", "--model", tmp_path)["loss"] == result["test"]["loss"]


def test_no_hidden_layer(capsys):
    assert run_json(capsys, "train", "--method", "sgd", "--epochs", "1", "--hidden")["hidden"] == []


@pytest.mark.parametrize("width", [10**11, 2**62, 10**30])
def test_widths_beyond_memory(capsys, width):
    said = failure(capsys, "train", "--hidden", width)
    assert "--hidden must be widths whose weights fit into memory" in said


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
    titles = ("data", "network", "method", "run", "output")
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
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["train", "--epoks", "3"], "unknown argument '--epoks': did you mean '--epochs'"),
        (["train", "--epochs", "x"], "argument --epochs: invalid int value: 'x' (see altmin train --help)"),
        (["train", "--epochs", "0"], "epochs must be at least 1, but is 0."),
        (["train", "digits"], "unexpected 'digits'"),
        (["train", "--verbose"], "unknown argument '--verbose': did you mean '--quiet'?"),
        (["train", "--n-jobs", "2"], "unknown argument '--n-jobs': did you mean '--threads'?"),
        (
            ["train", "--optimizer", "sgd"],
            "unknown argument '--optimizer': did you mean '--method'?",
        ),
        (["train", "--n-epochs=2"], "unknown argument '--n-epochs': did you mean '--epochs'?"),
        (["train", "--batchsize=2"], "unknown argument '--batchsize': did you mean '--batch-size'"),
        (
            ["train", "--sample-weight=2"],
            "unknown option of 'am-adam': 'sample_weight': weights are a column of y",
        ),
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


def safetensors_of(header: bytes) -> bytes:
    """A file of this header and no tensor."""
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        safetensors_of(b"{}"),
        safetensors_of(b"[]"),
        safetensors_of(b"[" * 100_000),
        safetensors_of(b'{"__metadata__": {"hidden": "[100000000000]"}}'),
        (2**63 - 1).to_bytes(8, "little") + b"{}",
    ],
    ids=["empty", "junk", "no tensor", "list", "deep", "huge", "long"],
)
def test_damaged_model_is_one_sentence(capsys, tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    sentence = failure(capsys, "evaluate", "--model", tmp_path)
    assert sentence.startswith("--model must be a folder written by")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("model.pt", "torch.load reads; train anew"), ("checkpoint.safetensors", "`altmin train --resume`")],
)
def test_a_folder_without_a_model_is_refused_with_what_to_do(capsys, tmp_path, name, remedy):
    (tmp_path / name).write_bytes(b"")
    assert remedy in failure(capsys, "evaluate", "--model", tmp_path)


def test_model_and_data_that_do_not_fit(capsys, tmp_path, monkeypatch):
    run(capsys, *quick, "--quiet", "--output", tmp_path)
    digits = data.load("digits")
    wider = data.DataSet("digits", digits.train, (torch.zeros(3, 65), torch.zeros(3).long()), 10)
    monkeypatch.setattr(data, "load", lambda name: wider)
    assert failure(capsys, "evaluate", "--model", tmp_path).startswith("x must fit the model")


@pytest.mark.parametrize("of", ["description", "weights"])
def test_a_model_that_has_been_altered_is_refused(capsys, tmp_path, of):
    """Also where torch would notice nothing: another activation, another number."""
    run(capsys, *quick, "--quiet", "--output", tmp_path)
    path = tmp_path / "model.safetensors"
    good = path.read_bytes()
    weight = next(iter(load_file(path).values())).numpy().tobytes()
    of_description = [
        (b"relu", b"gelu"),
        (b"activation", b"activatiom"),
        (b"cross_entropy", b"cross_entropi"),
    ]
    for before, after in of_description if of == "description" else [(weight, weight[::-1])]:
        altered = good.replace(before, after)
        assert altered != good
        path.write_bytes(altered)
        assert "sha256" in failure(capsys, "evaluate", "--model", tmp_path)


def test_model_is_an_ordinary_state_dict(capsys, tmp_path):
    run(capsys, *quick, "--quiet", "--output", tmp_path)
    model = altmin_ext.models.mlp(64, [8], 10)
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    accuracy = altmin_ext.evaluate(model, data.load("digits").test).accuracy
    assert run_json(capsys, "evaluate", "--model", tmp_path)["accuracy"] == accuracy


def test_a_model_needs_no_other_file(capsys, tmp_path):
    run(capsys, *quick, "--quiet", "--compare", "adam", "--output", tmp_path / "run")
    shutil.copy(tmp_path / "run" / "model.safetensors", tmp_path)
    alone, beside = (
        run_json(capsys, "evaluate", "--model", folder) for folder in (tmp_path, tmp_path / "run")
    )
    assert alone == beside
    histories = read(tmp_path)[0]["histories"]
    assert histories == {"sgd": "history.json", "adam": "history-adam.json"}


def test_labels_that_differ_in_punctuation_have_files_of_their_own(capsys, tmp_path):
    labels = ["adam:lr=1e-1", "adam:lr=1e+1"]
    document = run_json(
        capsys, *quick, "--compare", labels[0], "--compare", labels[1], "--output", tmp_path
    )  # fmt: skip
    histories = read(tmp_path)[0]["histories"]
    for label, result in zip(labels, document["methods"][1:], strict=True):
        assert History.load(tmp_path / histories[label]).epochs == result["epochs"]


def test_a_run_killed_while_it_writes_leaves_the_old_model_or_the_new(tmp_path):
    """Between two networks that torch cannot tell apart: relu before, tanh after."""
    x, _ = data.load("digits").test
    networks = {}
    for activation in ("relu", "tanh"):
        architecture = {
            "data": "digits", "network": "mlp", "features": 64, "hidden": [8], "classes": 10,
            "activation": activation, "loss": "cross_entropy",
        }  # fmt: skip
        networks[activation] = architecture, altmin_ext.models.mlp(64, [8], 10, activation)

    def write(activation):
        architecture, model = networks[activation]
        Output(tmp_path, architecture, ["sgd"]).write(model, {"sgd": History()}, "completed")

    def killed_at(number):
        child = os.fork()
        if child == 0:
            calls = itertools.count(1)

            def killed(call):
                return lambda *arguments: os._exit(9) if next(calls) == number else call(*arguments)

            try:
                os.fsync, os.replace = killed(os.fsync), killed(os.replace)
                write("tanh")
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

    logits = {name: model(x[:3]).detach() for name, (_, model) in networks.items()}
    found = []
    for number in itertools.count(1):
        write("relu")
        if not killed_at(number):
            break
        architecture, model = read(tmp_path)
        found.append(architecture["activation"])
        assert torch.equal(model(x[:3]), logits[architecture["activation"]])
    # Two files go to disk, then get their names, the model first; at the end the folder goes to disk.
    assert found == ["relu"] * 3 + ["tanh"] * 2
    write("relu")
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "history.json"}


# ----------------------------------------------------------------------------------- runs that end before their end


@pytest.fixture
def signals():
    """Signals mean what they do for a program that has changed nothing, and do so again afterwards."""
    handlers = {
        signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL
    }  # fmt: skip
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    for number, handler in previous.items():
        signal.signal(number, handler)


def at_epoch(monkeypatch, epoch, action):
    """Have something happen at the end of an epoch of every method."""

    def on_epoch(contestant, state):
        if state.epoch == epoch:
            action()

    monkeypatch.setattr(train_command._Run, "on_epoch", on_epoch, raising=False)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
)
def test_what_was_trained_before_a_signal_is_written_tested_and_reported(
    capsys, monkeypatch, tmp_path, number, code, words
):
    arguments = ["train", "--method", "sgd", "--hidden", "8"]
    shorter = run_json(capsys, *arguments, "--epochs", "3")["methods"][0]
    at_epoch(monkeypatch, 3, lambda: signal.raise_signal(number))
    out, err = run(
        capsys, *arguments, "--epochs", "9", "--compare", "adam", "--json", "--output", tmp_path, code=code
    )
    assert err == f"altmin: {words}\n"
    (result,) = json.loads(out)["methods"]
    assert result["ended"] == "interrupted"
    assert result["test"] == shorter["test"]
    history = History.load(tmp_path / "history.json")
    assert [row["loss"] for row in history.epochs] == [row["loss"] for row in shorter["epochs"]]
    assert run_json(capsys, "evaluate", "--model", tmp_path)["loss"] == shorter["test"]["loss"]
    assert read(tmp_path)[0]["ended"] == "interrupted"


@pytest.mark.usefixtures("signals")
def test_an_epoch_that_a_signal_cuts_short_has_a_row(capsys, monkeypatch, tmp_path):
    steps = []

    def on_step(contestant, state):
        steps.append(state.step)
        if state.step == 7:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(train_command._Run, "on_step", on_step, raising=False)
    out, _ = run(capsys, *quick, "--output", tmp_path, code=143)
    assert out.rstrip().split("\n")[-3].split()[-1] == "interrupted"
    history = History.load(tmp_path / "history.json")
    assert len(steps) == history.steps == len(history.step_loss) == 7
    (row,) = history.epochs
    assert row["loss"] == pytest.approx(history.step_loss.mean().item())
    assert row["validation_loss"] is None


@pytest.mark.usefixtures("signals")
def test_a_signal_while_results_are_written_waits(capsys, monkeypatch, tmp_path):
    replace = os.replace

    def interrupted(source, target):
        if target.name == "model.safetensors":
            signal.raise_signal(signal.SIGTERM)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    run(capsys, *quick, "--quiet", "--output", tmp_path, code=143)
    monkeypatch.undo()
    assert {"model.safetensors", "history.json"} <= {path.name for path in tmp_path.iterdir()}
    run_json(capsys, "evaluate", "--model", tmp_path)


@pytest.mark.usefixtures("signals")
def test_an_interrupt_before_the_first_step_changes_nothing(capsys, monkeypatch, tmp_path):
    run(capsys, *quick, "--quiet", "--output", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("altmin_ext.training.train", interrupted)
    out, err = run(capsys, *quick, "--quiet", "--output", tmp_path, code=130)
    assert (out, err) == ("", "altmin: interrupted\n")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_line_works_outside_the_main_thread(capsys):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main([*quick, "--quiet"])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_divergence_has_its_own_exit_code(capsys, tmp_path):
    """The model keeps the last finite weights."""
    out, err = run(capsys, *quick, "--quiet", "--lr", "1e30", "--output", tmp_path, code=1)
    assert err.startswith("altmin: error: the loss is not finite at step 2")
    assert err.count("\n") == 1
    assert out.split("\n")[1].split()[-1] == "diverged"
    weights = load_file(tmp_path / "model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())
    assert len(History.load(tmp_path / "history.json").step_loss) == 1


def test_a_contestant_that_diverges_does_not_hide_the_others(capsys):
    alone = [run_json(capsys, *quick[:-1], name)["methods"][0]["test"] for name in ("adam", "sgd")]
    arguments = [*quick[:-1], "adam", "--compare", "sgd:lr=1e30", "--compare", "sgd", "--json"]
    out, err = run(capsys, *arguments, code=1)
    results = json.loads(out)["methods"]
    assert [result["ended"] for result in results] == ["completed", "diverged", "completed"]
    assert [results[0]["test"], results[2]["test"]] == alone
    assert err.startswith("altmin: error: sgd:lr=1e30: the loss is not finite at step 2")


def test_an_error_within_a_run_loses_nothing(capsys, monkeypatch, tmp_path):
    def fail():
        raise RuntimeError("the GPU fell off")

    at_epoch(monkeypatch, 2, fail)
    with pytest.raises(RuntimeError, match="the GPU fell off"):
        main(["train", "--method", "sgd", "--hidden", "8", "--epochs", "5", "--output", str(tmp_path)])
    assert "  failed\n" in capsys.readouterr().out
    assert len(History.load(tmp_path / "history.json").epochs) == 2


def run_process(*arguments, closed=""):
    """A command in a process of its own, with buffers as Python usually has them."""
    command = shlex.join([sys.executable, "-m", "altmin_ext", *arguments])
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        ["sh", "-c", f"exec {command} {closed}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


class Stream(io.StringIO):
    """Standard output that takes some lines and then fails."""

    def __init__(self, lines, error):
        super().__init__()
        self._lines, self._error = lines, error

    def write(self, text):
        if self.getvalue().count("\n") >= self._lines:
            raise self._error
        return super().write(text)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (OSError(errno.EIO, "Input/output error"), 2),
        (ValueError("I/O operation on closed file"), 2),
    ],
    ids=["pipe", "disk", "terminal", "closed"],
)
def test_when_nobody_can_read_on_what_was_trained_is_written(capsys, monkeypatch, tmp_path, error, code):
    # Three lines of title, one of headings, two of epochs.
    monkeypatch.setattr(sys, "stdout", Stream(6, error))
    arguments = ["train", "--method", "sgd", "--hidden", "8", "--epochs", "99", "--output", str(tmp_path)]
    assert main(arguments) == code
    monkeypatch.undo()
    assert capsys.readouterr().err.startswith("altmin: error: standard output cannot be written: ")
    assert len(History.load(tmp_path / "history.json").epochs) == 3
    assert run_json(capsys, "evaluate", "--model", tmp_path)["samples"] == 360


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams(closed, tmp_path):
    """As some daemons start their programs. No file gets the number of standard error, and a library's words."""
    folder = tmp_path / "run"
    with run_process(*quick, "--threads", "1", "--output", str(folder), closed=closed) as process:
        out, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert ("written to" in out) == (closed == "2>&-")
    assert len(History.load(folder / "history.json").epochs) == 2


def test_a_reader_that_leaves_ends_the_run_quietly():
    arguments = ["train", "--hidden", "8", "--epochs", "100000", "--threads", "1"]
    with run_process(*arguments) as process:
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 141
    assert error == "altmin: error: standard output cannot be written: Broken pipe.\n"


def test_a_name_that_standard_output_cannot_encode_is_escaped(monkeypatch, tmp_path):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main([*quick, "--quiet", "--output", str(tmp_path / "r\u00e9seau")]) == 0
    assert rb"r\xe9seau" in stream.buffer.getvalue()


# ----------------------------------------------------------------------------------------- what can be known before


def never_trained(*_, **__):
    raise AssertionError("trained although the results cannot be written")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.write_bytes(b""), "--output must be a folder, but '{}' is none; name another one."),
        (
            lambda path: (path / "model.safetensors").mkdir(parents=True),
            "{}/model.safetensors must be a file, but is a folder.",
        ),
        (
            lambda path: (path.mkdir(), (path / "history-adam.json").touch(0o444)),
            "{}/history-adam.json cannot be written: it is read-only.",
        ),
        (
            lambda path: path.symlink_to(path.name),
            "{}/model.safetensors cannot be written: Too many levels of symbolic links.",
        ),
    ],
    ids=["file", "folder in place of a file", "read-only", "loop of links"],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_refused_beforehand(
    capsys, monkeypatch, tmp_path, make, sentence
):
    make(tmp_path / "run")
    monkeypatch.setattr("altmin_ext.training.train", never_trained)
    found = failure(capsys, *quick, "--compare", "adam", "--output", tmp_path / "run")
    assert found == sentence.format(tmp_path / "run")


def test_a_full_disk_is_noticed_beforehand(capsys, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("altmin_ext.training.train", never_trained)
    monkeypatch.setattr(os, "fsync", full)
    sentence = failure(capsys, *quick, "--output", tmp_path / "run")
    assert sentence == f"{tmp_path}/run/model.safetensors cannot be written: No space left on device."
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("failing", [{2}, {2, 3}])
def test_a_disk_that_fills_later_costs_no_results(capsys, monkeypatch, tmp_path, failing):
    """The second and perhaps the third write fails; the first is the rehearsal."""
    written = []
    write = Output._write

    def fill(*arguments):
        written.append(True)
        if len(written) in failing:
            raise OSError("model.safetensors cannot be written: No space left on device.")
        return write(*arguments)

    monkeypatch.setattr(Output, "_write", fill)
    code = 2 if 3 in failing else 0
    out, err = run(capsys, *quick, "--quiet", "--compare", "adam", "--output", tmp_path, code=code)
    assert [line.split()[0] for line in out.split("\n")[:3]] == ["method", "sgd", "adam"]
    assert ("written to" in out) == (code == 0)
    assert err == (
        "altmin: error: model.safetensors cannot be written: No space left on device.\n" if code else ""
    )
    assert (tmp_path / "model.safetensors").exists() == (code == 0)


def test_a_picture_that_cannot_be_drawn_is_no_reason_to_lose_results(capsys, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise RuntimeError("no fonts")

    monkeypatch.setattr("altmin_ext.command_line.output.plot_histories", fail)
    _, err = run(capsys, *quick, "--quiet", "--output", tmp_path)
    assert err == "altmin: learning-curve.png was not drawn: no fonts\n"
    names = {"model.safetensors", "history.json", "checkpoint.safetensors", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == names


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
    assert all(command in out for command in ("train", "evaluate", "inspect", "info"))


def test_version(capsys):
    assert run_help(capsys, "--version").out == f"altmin_ext {altmin_ext.__version__}\n"


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("binary", ["--hidden", "8", "8"]),
        ("elman", ["--hidden", "3"]),
        ("mlp", ["--activation", "tanh"]),
        ("random", ["--hidden", "8"]),
        ("random-convolution", ["--hidden", "18"]),
    ],
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
        (["--network", "random", "--hidden", "3", "3"], "--hidden must be one width"),
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
