"""Checkpoints on the command line: runs that go on, and what a file holds.

Oracle: a run that nobody has disturbed. A run that was killed and has gone on leaves the same files: the model to the
byte, histories in all but their times, and no other names.
"""

import errno
import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import altmin_ext
from altmin_ext import checkpoint, data, models
from altmin_ext.command_line import train as train_command
from altmin_ext.history import History

from .test_command_line import Stream, at_epoch, failure, run, run_json
from .test_command_line import signals as signals

pytest.importorskip("sklearn")

contest = [
    "train", "--hidden", "8", "--epochs", "3", "--batch-size", "100", "--validation-fraction", ".1",
    "--patience", "2", "--compare", "sgd:lr=.1",
]  # fmt: skip
STEPS_PER_EPOCH = 13


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Which take longer than the training."""
    monkeypatch.setattr("altmin_ext.command_line.output.Output.draw", lambda *_: "history.json")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("altmin_ext.command_line.output.Output.draw", lambda *_: "history.json")
        assert altmin_ext.command_line.main([*contest, "--quiet", "--output", str(folder)]) == 0
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_times(history):
    rows = [
        {key: value for key, value in row.items() if key not in ("seconds", "samples_per_second")}
        for row in history.epochs
    ]
    steps = history.step_loss.tolist(), history.step_accuracy.tolist()
    return rows, steps, history.steps, history.loss


def assert_same(folder, undisturbed):
    assert names(folder) == names(undisturbed)
    name = "model.safetensors"
    assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    for name in names(undisturbed):
        if name.endswith(".json"):
            found, expected = (History.load(at / name) for at in (folder, undisturbed))
            assert without_times(found) == without_times(expected)


# A command that sends itself a signal at its n-th call of something.
COMMAND = """
import os, signal, sys
import altmin_ext.checkpoint._file as file
from altmin_ext.command_line import main, output, train

def ending(call):
    def ended(*arguments, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)
        return call(*arguments, **more)
    return ended

number, what, left = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
output.Output.draw = lambda *_: "history.json"
if what == "step":
    train._Run.on_step = ending(lambda contestant, state: None)
else:
    setattr(os, what, ending(getattr(os, what)))
sys.exit(main(sys.argv[4:]))
"""


def ended_by(number, what, count, arguments):
    command = [sys.executable, "-c", COMMAND, str(int(number)), what, str(count), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("number", "what", "count", "first", "second"),
    [
        # In a step of which no checkpoint tells.
        (signal.SIGKILL, "step", STEPS_PER_EPOCH + 6, 15, None),
        # When the third checkpoint, of ten minibatches, is complete and on disk, but does not have its name.
        (signal.SIGKILL, "replace", 3, 5, None),
        # In the second method.
        (signal.SIGKILL, "step", 4 * STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH, 10),
        (signal.SIGTERM, "step", STEPS_PER_EPOCH + 7, STEPS_PER_EPOCH + 7, None),
    ],
    ids=["in a step", "in a save", "in the second method", "terminated"],
)
def test_a_run_that_was_killed_goes_on_to_the_same_files(
    capsys, tmp_path, undisturbed, number, what, count, first, second
):
    """The last columns: the minibatches that the checkpoints of the two methods tell of."""
    arguments = [*contest, "--checkpoint-every", "5", "--output", tmp_path]
    ended = ended_by(number, what, count, [*arguments, "--quiet"])
    if number == signal.SIGTERM:
        assert (ended.returncode, ended.stderr) == (143, "altmin: ended by SIGTERM\n")
        assert "interrupted" in ended.stdout
        assert len(History.load(tmp_path / "history.json").step_loss) == first
        run_json(capsys, "evaluate", "--model", tmp_path)
    else:
        assert (ended.returncode, ended.stderr) == (-number, "")
        assert ("model.safetensors" in names(tmp_path)) == (second is not None)
    assert any(name.startswith(".altmin_ext-unfinished-") for name in names(tmp_path)) == (what == "replace")
    for name, steps in (("checkpoint.safetensors", first), ("checkpoint-sgd-lr-.1.safetensors", second)):
        assert (tmp_path / name).exists() == (steps is not None)
        assert steps is None or checkpoint.inspect(tmp_path / name).steps == steps

    out, _ = run(capsys, *arguments, "--resume")
    assert f"am-adam, resumed after {first} minibatches" in out
    assert ("sgd:lr=.1, resumed after" in out) == (second is not None)
    assert_same(tmp_path, undisturbed)


def test_a_method_that_was_trained_is_not_trained_again(capsys, monkeypatch, tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    for name in ("checkpoint-sgd-lr-.1.safetensors", "history-sgd-lr-.1.json", "model.safetensors"):
        (tmp_path / name).unlink()
    trained = []
    monkeypatch.setattr(
        train_command._Run,
        "on_step",
        lambda contestant, state: trained.append(contestant.label),
        raising=False,
    )
    found = run_json(capsys, *contest, "--resume", "--output", tmp_path)
    assert trained == ["sgd:lr=.1"] * 3 * STEPS_PER_EPOCH
    assert [result["ended"] for result in found["methods"]] == ["completed", "completed"]
    assert_same(tmp_path, undisturbed)


def test_a_run_that_is_over_goes_on_for_more_epochs(capsys, tmp_path):
    shorter = ["train", "--method", "sgd", "--hidden", "8", "--epochs"]
    run(capsys, *shorter, "2", "--quiet", "--output", tmp_path / "run")
    out, _ = run(capsys, *shorter, "4", "--resume", "--output", tmp_path / "run")
    rows = [line.split()[0] for line in out.split("\n\n")[1].split("\n")[2:]]
    assert rows == ["3", "4"]
    run(capsys, *shorter, "4", "--quiet", "--output", tmp_path / "whole")
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_resuming_begins_where_there_is_nothing(capsys, tmp_path, undisturbed):
    run(capsys, *contest, "--quiet", "--resume", "--output", tmp_path)
    assert_same(tmp_path, undisturbed)


def test_a_reader_that_left_is_not_missed(capsys, monkeypatch, tmp_path, undisturbed):
    """The table of the epochs cannot be printed, early stopping is not told of the epoch; then without a table."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Stream(4, BrokenPipeError(errno.EPIPE, "Broken pipe")))
        assert altmin_ext.command_line.main([*contest, "--output", str(tmp_path)]) == 141
    assert checkpoint.inspect(tmp_path / "checkpoint.safetensors").steps == STEPS_PER_EPOCH
    run(capsys, *contest, "--quiet", "--resume", "--output", tmp_path)
    assert_same(tmp_path, undisturbed)


def test_former_checkpoints_are_kept(capsys, tmp_path):
    arguments = [
        "train",
        "--method",
        "sgd",
        "--hidden",
        "8",
        "--batch-size",
        "100",
        "--epochs",
        "2",
        "--quiet",
    ]
    run(capsys, *arguments, "--checkpoint-every", "6", "--keep", "3", "--output", tmp_path)
    # At 0, 6, 12, 15 (the first epoch's end), 18, 24 and 30 minibatches.
    former = {f"checkpoint-{steps}.safetensors" for steps in (15, 18, 24)}
    results = {"model.safetensors", "history.json", "report.html"}
    assert names(tmp_path) == {*former, "checkpoint.safetensors", *results}
    for name in former:
        assert checkpoint.inspect(tmp_path / name).steps == int(name.split("-")[1].partition(".")[0])


# ----------------------------------------------------------------------------------------------- runs in the way

single = ["train", "--method", "sgd", "--hidden", "8", "--batch-size", "100", "--epochs", "4"]


@pytest.fixture
def unfinished(capsys, monkeypatch, tmp_path, request):
    """A folder whose run was ended after two of four epochs."""
    request.getfixturevalue("signals")
    with monkeypatch.context() as patch:
        at_epoch(patch, 2, lambda: signal.raise_signal(signal.SIGTERM))
        run(capsys, *single, "--quiet", "--output", tmp_path, code=143)
    return tmp_path


def never_trained(*_, **__):
    raise AssertionError("trained although a run is in the way")


def test_an_unfinished_run_is_not_written_over(capsys, monkeypatch, unfinished):
    before = contents(unfinished)
    with monkeypatch.context() as patch:
        patch.setattr("altmin_ext.training.train", never_trained)
        sentence = failure(capsys, *single, "--lr", ".5", "--output", unfinished)
    assert "an unfinished run" in sentence
    assert "minibatch 30 in epoch 2 of 4" in sentence
    assert "--resume" in sentence
    assert str(unfinished / "checkpoint.safetensors") in sentence
    assert contents(unfinished) == before
    run(capsys, *single, "--quiet", "--resume", "--output", unfinished)
    run(capsys, *single, "--quiet", "--lr", ".5", "--output", unfinished)  # now it is over


def test_a_run_that_diverged_is_in_nobody_s_way(capsys, tmp_path):
    """Its results are written, and gone on with, it would only diverge again."""
    run(capsys, *single, "--quiet", "--lr", "1e30", "--output", tmp_path, code=1)
    assert names(tmp_path) == {"model.safetensors", "history.json", "report.html"}
    run(capsys, *single, "--quiet", "--lr", ".1", "--output", tmp_path)


def test_a_run_that_has_made_no_step_is_in_nobody_s_way(capsys, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("altmin_ext.methods.backprop.BackpropSGD.step", interrupted)
        run(capsys, *single, "--output", tmp_path, code=130)
    assert names(tmp_path) == {"checkpoint.safetensors"}
    run(capsys, *single, "--quiet", "--lr", ".5", "--output", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lr", ".5"], "--lr must be 0.1, as in the run of "),
        (["--method", "adam"], "--method must be sgd, as in the run of "),
        (["--hidden", "8", "8"], "--hidden must be 8, as in the run of "),
        (["--activation", "tanh"], "--activation must be relu, as in the run of "),
        (["--batch-size", "50"], "--batch-size must be 100, as in the run of "),
        (["--seed", "1"], "--seed must be 0, as in the run of "),
        (["--lr-schedule", "cosine"], "--lr-schedule must be constant, as in the run of "),
        (["--loss", "mse"], "--loss must be cross_entropy, as in the run of "),
        (
            ["--validation-fraction", ".1", "--patience", "1"],
            "--validation-fraction must be 0.0, as in the run of ",
        ),
        (["--on-nonfinite", "skip"], "--on-nonfinite must be raise, as in the run of "),
        (["--epochs", "3"], "--epochs must be at least 4, as in the run of "),
        (["--keep", "-1"], "keep must be at least 0, but is -1."),
        (["--checkpoint-every", "0"], "checkpoint_every must be "),
        (["--checkpoint-every", "soon"], "checkpoint_every must be "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_another_run_is_refused_with_the_difference(capsys, monkeypatch, unfinished, arguments, words):
    before = contents(unfinished)
    sentence = failure(capsys, *single, "--resume", "--output", unfinished, *arguments)
    assert sentence.startswith(words)
    if "as in the run of" in words:
        assert (
            f"{str(unfinished / 'checkpoint.safetensors')!r} that --resume goes on with, but is " in sentence
        )
    assert contents(unfinished) == before


def test_other_samples_are_refused(capsys, monkeypatch, unfinished):
    digits = data.load("digits")
    x, y = digits.train
    other = data.DataSet("digits", (1 - x, y), digits.test, 10)
    before = contents(unfinished)
    with monkeypatch.context() as patch:
        patch.setattr(data, "load", lambda name: other)
        assert "data's x" in failure(capsys, *single, "--resume", "--output", unfinished)
    assert contents(unfinished) == before


@pytest.mark.parametrize(
    "flag", [["--resume"], ["--keep", "1"], ["--checkpoint-every", "30s"]], ids=lambda f: f[0]
)
def test_checkpoints_need_a_folder(capsys, flag):
    assert (
        failure(capsys, *single, *flag)
        == f"{flag[0]} must come with --output, the folder of the checkpoints."
    )


@pytest.mark.parametrize(
    "more", [["--lr-schedule", "cosin"], ["--batch-size", "0"], ["--checkpoint-every", "x"]]
)
def test_a_run_that_cannot_begin_leaves_an_earlier_one(capsys, tmp_path, undisturbed, more):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    failure(capsys, *contest, "--output", tmp_path, *more)
    assert contents(tmp_path) == contents(undisturbed)


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["anew", "resume"])
@pytest.mark.parametrize("kind", ["of a loop", "of another program", "damaged"])
def test_a_file_of_that_name_is_not_written_over(capsys, tmp_path, kind, resume):
    path = tmp_path / "checkpoint.safetensors"
    model = models.mlp(64, [8], 10)
    if kind == "of a loop":
        checkpoint.save(path, model=model)
    elif kind == "of another program":
        altmin_ext.train(model, data.load("digits").train, method="sgd", progress=False, checkpoint=path)
    else:
        path.write_bytes(b"abc")
    before = contents(tmp_path)
    sentence = failure(capsys, *single, "--output", tmp_path, *resume)
    assert repr(str(path)) in sentence
    assert contents(tmp_path) == before


# ------------------------------------------------------------------------------------------------------- inspect


def test_inspect_shows_what_a_file_holds(capsys, undisturbed):
    path = undisturbed / "checkpoint.safetensors"
    document = run_json(capsys, "inspect", path)
    stored = load_file(path)
    assert document["tensors"] == {
        name: {
            "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch."), "bytes": tensor.nbytes
        }
        for name, tensor in stored.items()
    }  # fmt: skip
    assert document["size"] == path.stat().st_size
    assert (document["method"], document["steps"]) == ("am-adam", 3 * STEPS_PER_EPOCH)
    assert (document["altmin_ext_version"], document["torch_version"]) == (
        altmin_ext.__version__,
        torch.__version__,
    )
    out, _ = run(capsys, "inspect", path)
    assert f"minibatch {3 * STEPS_PER_EPOCH}, epoch 3 of 3" in out
    assert "--hidden 8 " in out
    assert "--patience 2 " in out
    weight = next(line.split() for line in out.split("\n") if line.startswith("model.1.weight "))
    assert weight == ["model.1.weight", "8", "x", "64", "float32", "2,048"]


def test_inspect_shows_what_a_model_is(capsys, undisturbed):
    path = undisturbed / "model.safetensors"
    document = run_json(capsys, "inspect", path)
    assert document["extra"]["hidden"] == [8]
    assert document["extra"]["ended"] == "completed"
    assert list(document["tensors"]) == list(load_file(path))
    out, _ = run(capsys, "inspect", path)
    assert "activation='relu'" in out


def test_inspect_reads_every_byte(capsys, tmp_path, undisturbed):
    """The first and the last byte of every tensor, and some of the header."""
    good = (undisturbed / "checkpoint.safetensors").read_bytes()
    begin = 8 + int.from_bytes(good[:8], "little")
    header = json.loads(good[8:begin])
    offsets = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    places = [begin + at for first, end in offsets for at in (first, end - 1)] + list(range(0, begin, 500))
    path = tmp_path / "altered.safetensors"
    for place in places:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert repr(str(path)) in failure(capsys, "inspect", path)


def test_inspect_takes_files_only(capsys, tmp_path):
    assert failure(capsys, "inspect", tmp_path) == f"{tmp_path} must be a file, but is a folder."
    assert "No such file" in failure(capsys, "inspect", tmp_path / "nothing")
