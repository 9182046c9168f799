"""Optuna: pruning by a callback, and ``altmin tune``.

Oracles: Optuna's own record of a study; ``altmin train``, whose run of the printed command must come to the number
that tune has found; and an undisturbed search, for one that was broken off and resumed.
"""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

import altmin_ext
from altmin_ext import tuning
from altmin_ext.__main__ import main
from altmin_ext.command_line import tune

from .task import BATCH, network, samples

optuna = pytest.importorskip("optuna")
pytest.importorskip("sklearn")

SEARCH = [
    "tune", "--hidden", "8", "--epochs", "2", "--method", "am-adam", "--compare", "am-sgd", "--seed", "5",
    "--search", "lr=1e-4:1e-1:log", "--search", "am-adam.code-iterations=1:3", "--search", "batch-size=50,100",
]  # fmt: skip


# ------------------------------------------------------------------------------------------------- pruning


def test_unpromising_trials_are_pruned() -> None:
    """A rate of 0 learns nothing, so that its first report is below the threshold."""
    closed = []

    class Closes:
        def on_close(self, state: Any, error: BaseException | None) -> None:
            closed.append(type(error))

    def objective(trial: optuna.Trial) -> float:
        history = altmin_ext.train(
            network(), samples().tensors, epochs=4, batch_size=BATCH, lr=trial.suggest_categorical("lr", [0.0, 0.02]),
            validation=samples(), callbacks=[altmin_ext.OptunaPruning(trial), Closes()], progress=False,
        )  # fmt: skip
        return history.epochs[-1]["validation_accuracy"]

    study = optuna.create_study(
        direction="maximize",
        pruner=optuna.pruners.ThresholdPruner(lower=0.6),
        sampler=optuna.samplers.GridSampler({"lr": [0.0, 0.02]}, seed=0),
    )
    study.optimize(objective)
    by_rate = {trial.params["lr"]: trial for trial in study.trials}
    assert by_rate[0.0].state == optuna.trial.TrialState.PRUNED
    assert list(by_rate[0.0].intermediate_values) == [1]
    assert by_rate[0.02].state == optuna.trial.TrialState.COMPLETE
    assert list(by_rate[0.02].intermediate_values) == [1, 2, 3, 4]
    assert by_rate[0.02].value == by_rate[0.02].intermediate_values[4]
    assert set(closed) == {optuna.TrialPruned, type(None)}


def test_what_the_run_does_not_record_is_found_before_training() -> None:
    trial, model = optuna.create_study().ask(), network()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(
        ValueError, match="monitor must be one of loss, accuracy in this run, but is 'validation_f1'"
    ):
        altmin_ext.train(
            model, samples(), callbacks=[altmin_ext.OptunaPruning(trial, "validation_f1")], progress=False
        )
    assert all(map(torch.equal, before, model.parameters()))


# ------------------------------------------------------------------------------------------------- altmin tune


def run(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*map(str, arguments)]) == code
    out, err = capsys.readouterr()
    return err if code else out


def found(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    return json.loads(run(capsys, *arguments, "--json"))


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    text = re.sub(r'"seconds": [^,}]*', '"seconds": 0', json.dumps(result))
    return json.loads(text)


def test_every_method_has_as_many_trials_within_its_space(capsys: pytest.CaptureFixture[str]) -> None:
    result = found(capsys, *SEARCH, "--trials", 3)
    assert [method["label"] for method in result["methods"]] == ["am-adam", "am-sgd"]
    for method in result["methods"]:
        assert len(method["trials"]) == 3
        for trial in method["trials"]:
            names = {"lr", "batch_size"} | ({"code_iterations"} if method["label"] == "am-adam" else set())
            assert trial["values"].keys() == names
            assert 1e-4 <= trial["values"]["lr"] <= 1e-1
            assert trial["values"]["batch_size"] in (50, 100)
            assert trial["values"].get("code_iterations", 1) in (1, 2, 3)
        assert method["best"]["value"] == max(trial["value"] for trial in method["trials"])
    assert len({trial["values"]["lr"] for trial in result["methods"][0]["trials"]}) == 3


def test_the_command_repeats_the_best_trial(capsys: pytest.CaptureFixture[str]) -> None:
    result = found(capsys, *SEARCH, "--trials", 2)
    for method in result["methods"]:
        program, *command = shlex.split(method["command"])
        assert program == "altmin"
        repeated = found(capsys, *command)["methods"][0]
        assert repeated["epochs"][-1]["validation_accuracy"] == method["best"]["value"]
        assert repeated["test"]["accuracy"] > 0


def test_the_folder_holds_a_table_and_the_study(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = found(capsys, *SEARCH, "--trials", 2, "--output", tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["study.db", "trials.csv"]
    with open(tmp_path / "trials.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    told = [(m["label"], t["value"], t["values"]["lr"]) for m in result["methods"] for t in m["trials"]]
    assert [(row["method"], float(row["value"]), float(row["lr"])) for row in rows] == told
    study = optuna.load_study(study_name="am-adam", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [trial.value for trial in study.trials] == [t["value"] for t in result["methods"][0]["trials"]]
    assert all(list(trial.intermediate_values) == [1, 2] for trial in study.trials)


def test_a_resumed_search_goes_on_as_if_undisturbed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more trials than the sampler draws at random, so that the later ones follow from those before."""
    quick = [*SEARCH[:-6], "--search", "lr=1e-4:1e-1:log", "--epochs", "1", "--batch-size", "300"]
    undisturbed = found(capsys, *quick, "--trials", 13)
    run(capsys, *quick, "--trials", 3, "--output", tmp_path)
    calls = iter(range(100))
    train = tune._Search._train

    def interrupted(self: Any, *arguments: Any) -> Any:
        if next(calls) == 17:  # that of am-sgd's 12th trial
            raise KeyboardInterrupt
        return train(self, *arguments)

    with monkeypatch.context() as context:
        context.setattr(tune._Search, "_train", interrupted)
        assert main([*quick, "--trials", "13", "--output", str(tmp_path), "--resume"]) == 130
    table = capsys.readouterr().out
    assert re.search(r"^am-adam +12 ", table, re.MULTILINE)
    assert re.search(r"^am-sgd +11 ", table, re.MULTILINE)
    resumed = found(capsys, *quick, "--trials", 13, "--output", tmp_path, "--resume")
    assert without_seconds(resumed) == without_seconds(undisturbed)


def test_a_trial_that_was_killed_is_made_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    undisturbed = found(capsys, *SEARCH, "--trials", 2)
    run(capsys, *SEARCH, "--trials", 1, "--output", tmp_path)
    study = optuna.load_study(study_name="am-sgd", storage=f"sqlite:///{tmp_path / 'study.db'}")
    study.ask()  # and no more is heard of it
    resumed = found(capsys, *SEARCH, "--trials", 2, "--output", tmp_path, "--resume")
    assert without_seconds(resumed) == without_seconds(undisturbed)
    states = optuna.trial.TrialState
    assert [trial.state for trial in study.get_trials()] == [states.COMPLETE, states.FAIL, states.COMPLETE]


def test_a_trial_that_diverges_is_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    """Steps of a million make the weights of plain SGD overflow within a few minibatches."""
    diverging = [
        "tune",
        "--hidden",
        "8",
        "--epochs",
        "2",
        "--method",
        "sgd",
        "--loss",
        "mse",
        "--trials",
        "2",
    ]
    result = found(capsys, *diverging, "--search", "lr=1e6:1e7", "--monitor", "validation_loss")
    (method,) = result["methods"]
    assert [trial["ended"] for trial in method["trials"]] == ["diverged", "diverged"]
    assert method["best"] is None
    assert "lr=" not in run(
        capsys, *diverging, "--search", "lr=1e6:1e7", "--monitor", "validation_loss", "--quiet"
    )


def test_a_trial_worse_than_the_median_is_pruned(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """From the sixth trial on, once its best epoch so far is below the median of complete trials at this epoch."""
    result = found(
        capsys, "tune", "--hidden", "8", "--epochs", "3", "--method", "am-adam", "--trials", "11", "--prune",
        "--search", "lr=1e-4:1e-1:log", "--batch-size", "100", "--output", tmp_path,
    )  # fmt: skip
    study = optuna.load_study(study_name="am-adam", storage=f"sqlite:///{tmp_path / 'study.db'}")
    complete: list[dict[int, float]] = []
    expected = []
    for trial in study.trials:
        values = trial.intermediate_values
        worse = [
            max(values[e] for e in range(1, epoch + 1)) < statistics.median(own[epoch] for own in complete)
            for epoch in values
            if len(complete) >= 5
        ]
        expected.append("pruned" if any(worse) else "completed")
        assert len(values) == (worse.index(True) + 1 if any(worse) else 3)
        if not any(worse):
            complete.append(values)
    assert [trial["ended"] for trial in result["methods"][0]["trials"]] == expected
    assert "pruned" in expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--search must name an option of 'am-adam'"),
        (
            ["--search", "lr"],
            "--search must be [METHOD.]OPTION=SPACE with a method that is trained, but is 'lr'",
        ),
        (["--search", "sgd.lr=0:1"], "with a method that is trained, but is 'sgd.lr=0:1'"),
        (
            ["--search", "lr=1:0"],
            "--search lr must be LOW:HIGH or LOW:HIGH:log with numbers that rise, but is '1:0'",
        ),
        (["--search", "lr=a:b"], "--search lr must be LOW:HIGH or LOW:HIGH:log with numbers that rise"),
        (["--search", "lr=0:1:log"], "--search lr must be LOW:HIGH:log with numbers greater than 0"),
        (["--search", "lr=0:1:linear"], "--search lr must be LOW:HIGH or LOW:HIGH:log"),
        (["--search", "learning_rate=0:1"], "it is called 'lr' here"),
        (["--search", "lr=-1:1"], "lr must be at least 0 and finite, but is -1"),
        (["--search", "batch-size=0:9"], "batch_size must be at least 1, but is 0"),
        (["--search", "lr-schedule=constant,cosin"], "cosine"),
        (["--search", "lr=0:1", "--trials", "0"], "--trials must be at least 1, but is 0"),
        (["--search", "lr=0:1", "--validation-fraction", "0"], "the test set must not decide on options"),
        (["--search", "lr=0:1", "--resume"], "--resume must come with --output"),
        (["--search", "lr=0:1", "--loss", "mse"], "--monitor must be validation_loss with the loss 'mse'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_told_before_training(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in run(capsys, "tune", "--hidden", "8", "--epochs", "1", *arguments, code=2)


def test_another_search_in_the_folder_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(capsys, *SEARCH, "--trials", 1, "--output", tmp_path)
    refused = run(capsys, *SEARCH, "--trials", 2, "--output", tmp_path, code=2)
    assert "--output must be a folder without a study" in refused
    other = run(capsys, *SEARCH, "--epochs", 3, "--trials", 2, "--output", tmp_path, "--resume", code=2)
    assert "--epochs must be 2, as in the study of" in other
    (tmp_path / "study.db").write_bytes(b"something else entirely, which is no data base" * 99)
    broken = run(capsys, *SEARCH, "--trials", 2, "--output", tmp_path, "--resume", code=2)
    assert "--output must be a folder whose study.db is a study of `altmin tune`" in broken


# ------------------------------------------------------------------------------------- tuning.search, of one's own

SPACES = {
    "wide": {"rate": tuning.Range(1e-4, 1e-1, log=True), "depth": tuning.Range(1, 5, whole=True)},
    "other": {"rate": tuning.Range(1e-4, 1e-1, log=True), "kind": tuning.Choice(("a", "b"))},
}


def height(label: str, values: dict[str, Any], budget: int) -> float:
    """A hill whose top is at a rate of 1e-2."""
    return budget - abs(math.log10(values["rate"]) + 2) - (values.get("kind") == "b")


def told_of(trials: dict[str, list[tuning.Trial]]) -> dict[str, list[Any]]:
    """All but the seconds."""
    return {label: [(t.values, t.value, t.ended) for t in own] for label, own in trials.items()}


def test_every_contender_has_the_same_number_of_trials_and_the_same_budget() -> None:
    calls: list[tuple[str, int]] = []

    def objective(label: str, values: dict[str, Any], budget: int) -> float:
        assert 1e-4 <= values["rate"] <= 1e-1
        assert values.get("depth", 1) in range(1, 6)
        assert values.get("kind", "a") in "ab"
        calls.append((label, budget))
        return height(label, values, budget)

    found = tuning.search(objective, SPACES, trials=12, budget=7, seed=3)
    assert calls == [("wide", 7), ("other", 7)] * 12
    for label, trials in found.items():
        assert [trial.value for trial in trials] == [height(label, trial.values, 7) for trial in trials]
        top = tuning.best(trials)
        assert top is not None
        assert top.value == max(trial.value for trial in trials)
        assert abs(math.log10(top.values["rate"]) + 2) < 0.5
        low = tuning.best(trials, maximised=False)
        assert low is not None
        assert low.value == min(trial.value for trial in trials)
    assert found["wide"][0].values["rate"] == found["other"][0].values["rate"]
    assert told_of(tuning.search(height, SPACES, trials=12, budget=7, seed=3)) == told_of(found)
    assert told_of(tuning.search(height, SPACES, trials=12, budget=7, seed=4)) != told_of(found)


@pytest.mark.parametrize("after", [1, 4, 23])
def test_a_search_goes_on_from_earlier_trials_as_if_undisturbed(after: int) -> None:
    """Also behind the ten trials that the sampler draws at random."""
    kept: dict[str, list[tuning.Trial]] = {label: [] for label in SPACES}

    def interrupted(label: str, trial: tuning.Trial) -> None:
        kept[label].append(trial)
        if sum(map(len, kept.values())) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuning.search(height, SPACES, trials=13, budget=1, told=interrupted)
    assert len(kept["wide"]) - len(kept["other"]) == after % 2
    resumed = tuning.search(height, SPACES, trials=13, budget=1, earlier=kept)
    assert told_of(resumed) == told_of(tuning.search(height, SPACES, trials=13, budget=1))
    assert all(own[: len(kept[label])] == kept[label] for label, own in resumed.items())


@pytest.mark.parametrize("maximised", [True, False])
def test_what_diverges_is_the_worst(maximised: bool) -> None:
    def objective(label: str, values: dict[str, Any], budget: int) -> float:
        if values["rate"] > 5e-2:
            raise altmin_ext.DivergenceError("it does")
        return math.nan if values["rate"] > 1e-2 else values["rate"]

    space = {"a": {"rate": tuning.Range(1e-4, 1e-1)}}
    (trials,) = tuning.search(objective, space, trials=20, budget=None, maximised=maximised).values()
    for trial in trials:
        assert (trial.ended == "diverged") == (trial.values["rate"] > 1e-2)
        if trial.ended == "diverged":
            assert trial.value == (-math.inf if maximised else math.inf)
    assert {trial.ended for trial in trials} == {"completed", "diverged"}
    top = tuning.best(trials, maximised)
    assert top is not None
    assert math.isfinite(top.value)
    assert tuning.best([trial for trial in trials if trial.ended == "diverged"], maximised) is None


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: tuning.Range(1, 0), "low and high must be numbers that rise, but are 1 and 0"),
        (lambda: tuning.Range(0, 1, log=True), "low and high must be positive numbers that rise"),
        (lambda: tuning.Range(0, math.inf), "high must be finite, but is inf"),
        (lambda: tuning.Choice(()), r"ends must be a tuple of values, but is \(\)"),
        (lambda: tuning.search(height, {}, trials=1, budget=1), "spaces must name an option of every contender"),
        (lambda: tuning.search(height, {"a": {}}, trials=1, budget=1), "spaces must name an option of every"),
        (lambda: tuning.search(height, SPACES, trials=0, budget=1), "trials must be at least 1, but is 0"),
        (
            lambda: tuning.search(
                height, SPACES, trials=1, budget=1,
                earlier={"wide": [tuning.Trial({"rate": 9.0, "depth": 1}, 0.0, "completed", 0.0)]},
            ),
            "earlier must hold trials of this search, but one of 'wide' is of another",
        ),
    ],
    ids=["falls", "not positive", "infinite", "no values", "no contenders", "no options", "no trials", "of another"],
)  # fmt: skip
def test_a_search_that_cannot_be_is_refused(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}") as caught:
        call()
    assert str(caught.value).endswith(".")
