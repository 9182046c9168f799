"""The pages in docs and the examples in docstrings. Oracle: what they show must run, and do what they say.

The blocks of a page run from top to bottom, as one script. A block that needs a package which is not installed is
left out with the rest of its section. ``make test-clients`` installs these packages.
"""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import altmin_ext
from altmin_ext.__main__ import main

DOCS = Path(__file__).parents[1] / "docs"
if not DOCS.is_dir():
    pytest.skip("only the tests are here, not the documentation", allow_module_level=True)
# extending.md changes a copy of the sources, and so has a test of its own.
PAGES = {
    page: path.read_text("utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if (page := path.relative_to(DOCS).with_suffix("").as_posix()) != "extending"
}


def sections(text: str) -> dict[str, list[str]]:
    """The blocks of Python of every section, by its title."""
    found: dict[str, list[str]] = {}
    title = ""
    for heading, block in re.findall(r"^#+ ([^\n]+)$|^```python\n(.*?)^```$|^```.*?^```$", text, re.M | re.S):
        title = heading or title
        if block:
            found.setdefault(title, []).append(block)
    return found


def of_digits(model: torch.nn.Module) -> float:
    accuracy = altmin_ext.evaluate(model, "digits").accuracy
    assert accuracy is not None
    return accuracy


def search_finds_a_good_pipeline(names: dict[str, Any]) -> None:
    assert names["search"].score(names["X_test"], names["y_test"]) > 0.95


def a_sum_of_estimators_is_the_best(names: dict[str, Any]) -> None:
    held_out = names["X_test"], names["y_test"]
    scores = [names[name].score(*held_out) for name in ("first", "second", "both")]
    assert scores[2] == max(scores) > 0.9


def the_best_model_is_kept(names: dict[str, Any]) -> None:
    values = [row["validation_confidence"] for row in names["history"].epochs]
    assert names["stopping"].best == names["best"].best == max(values) > 0.8
    kept = altmin_ext.checkpoint.load("best.safetensors")
    assert kept.extra["validation_confidence"] == max(values)
    # Early stopping has put the same weights back.
    assert all(torch.equal(kept.model[name], own) for name, own in names["model"].state_dict().items())


def loggers_write(names: dict[str, Any]) -> None:
    assert list(Path("runs/digits").glob("events.out.tfevents.*"))
    printed = names["printed"].splitlines()
    assert printed[-1] == "complete"
    minibatches = 2 * math.ceil(len(names["digits"].train[0]) / 200)
    assert sum("step_loss" in line for line in printed) == minibatches // 5


def searches_are_as_long(names: dict[str, Any]) -> None:
    assert len(names["study"].trials) == 3
    assert {method: len(trials) for method, trials in names["found"].items()} == {"am-adam": 3, "adam": 3}


# What must hold after a section of a page. ``printed`` is what the section has printed.
HOLDS: dict[tuple[str, str], Callable[[dict[str, Any]], None]] = {
    ("start", "Train a network of your own"): lambda names: check(of_last(names) > 0.9),
    ("start", "Use it"): lambda names: check(Path("weights.pt").is_file()),
    ("estimators", "Estimators for scikit-learn"): search_finds_a_good_pipeline,
    ("estimators", "Sums of estimators"): a_sum_of_estimators_is_the_best,
    ("optimizer", "A method as a torch optimizer"): lambda names: check(of_digits(names["model"]) > 0.8),
    ("optimizer", "Lightning"): lambda names: check(of_digits(names["trainer"].lightning_module.model) > 0.8),
    ("optimizer", "skorch"): lambda names: check(of_digits(names["net"].module_) > 0.8),
    ("optimizer", "accelerate"): lambda names: check(of_digits(names["model"]) > 0.8),
    ("training", "Metrics"): the_best_model_is_kept,
    ("training", "Loggers"): loggers_write,
    ("training", "Searching options"): searches_are_as_long,
}


def of_last(names: dict[str, Any]) -> float:
    return names["history"].epochs[-1]["validation_accuracy"]


def check(holds: bool) -> None:
    assert holds


Check = Callable[[Sequence[float]], bool]


def at_least(*bounds: float) -> Check:
    return lambda printed: all(value > bound for value, bound in zip(printed, bounds, strict=True))


# Guesses are right in a tenth.
ACCURACIES = {
    **dict.fromkeys(
        ("am-adam", "am-adam-off", "am-mem-off", "block-admm", "deepfacto", "dtp", "ste", "sgd"), 0.85
    ),
    "adam": 0.85,
    "admm": 0.8,
    "dladmm": 0.8,
    "mdlam": 0.8,
    "am-sgd": 0.65,  # in the first pass, from the untrained network on
    "rls": 0.9,
    "slda": 0.9,
    "ncm": 0.75,
}
# What a whole page must have printed, by its numbers.
PRINTS: dict[str, Check] = {
    **{f"methods/{name}": at_least(bound) for name, bound in ACCURACIES.items()},
    # Adam's best after as many steps is .017, and of the mean image .11.
    "methods/am-mem": lambda printed: printed[0] < 0.012,
    "data": lambda printed: printed[0] > 0.8,  # half of the signs are guessed
    "losses": at_least(0.85),
    # A learner that forgets ends at a fifth.
    "forgetting": at_least(0.7, 0.9, 0.9),
    # Features below are random in the second; by the first they are learnt, without a derivative.
    "non_differentiable": lambda printed: (
        printed[0] > printed[2] + 0.05
        and printed[1] > 0
        and printed[3] == 0
        and printed[4] > 0.85
        and printed[5] > 0
        and printed[6] > 0.85
        and printed[7] == 0
    ),
    # One short code step is backpropagation's direction; one long one is in the lowest layer; twenty are not.
    "which_method": lambda printed: (
        printed[0] > 0.999
        and 0.95 < printed[1] < 0.999
        and max(printed[3:5]) < 0.9
        and min(printed[6:]) > 0.999
    ),
}


# What an example may need beside altmin_ext and torch.
OPTIONAL = re.split(
    r"\s+",
    """accelerate avalanche capymoa datasets lightning matplotlib mlflow onnx onnxruntime onnxscript optuna pandas
    polars pyarrow rich river sklearn skorch tensorboard torchmetrics torchvision wandb""",
)


def missing_package(error: ImportError) -> str | None:
    """The package that an example needs and that is not installed; None for any other error."""
    if "needs Java" in str(error):
        return "Java"
    first = error.__cause__ or error
    package = (getattr(first, "name", None) or "").partition(".")[0]
    return package if isinstance(first, ModuleNotFoundError) and package in OPTIONAL else None


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if sections(text)])
def test_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    missing, printed = {}, ""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for title, blocks in sections(PAGES[page]).items():
            try:
                for block in blocks:
                    exec(compile(block, f"docs/{page}.md", "exec"), names)
            except ImportError as error:
                if (package := missing_package(error)) is None:
                    raise
                missing[title] = package
                continue
            except NameError as error:
                if not missing:
                    raise
                missing[title] = f"{error.name} of a section before it"
                continue
            names["printed"] = capsys.readouterr().out
            printed += names["printed"]
            HOLDS.get((page, title), lambda names: None)(names)
    if page in PRINTS and not missing:
        numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", printed)]
        assert PRINTS[page](numbers), printed
    if missing:
        pytest.skip(", ".join(f"{title} needs {package}" for title, package in missing.items()))


def test_what_must_hold_is_of_sections_that_are_there() -> None:
    there = {(page, title) for page, text in PAGES.items() for title in sections(text)}
    assert HOLDS.keys() - there == set()


def test_the_command_of_the_page_on_training_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^```\n(altmin tune .*?)^```$", PAGES["training"], re.MULTILINE | re.DOTALL)
    arguments = shlex.split(command.replace("\\\n", "").replace("30 --epochs 10", "1 --epochs 1"))[1:]
    assert arguments[-6:-2] == ["--trials", "1", "--epochs", "1"]
    assert main([*arguments, "--hidden", "8"]) == 0
    assert "altmin train --data digits" in capsys.readouterr().out
    assert Path("runs/tuned/study.db").exists()


# ------------------------------------------------------------------------------------ examples in docstrings


def module_or_none(name: str) -> Any:
    """A module; None if it adapts to a library that is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if missing_package(error) is None:
            raise
        return None


MODULES = [
    module
    for found in pkgutil.walk_packages(altmin_ext.__path__, "altmin_ext.")
    if not found.name.endswith("__main__") and (module := module_or_none(found.name))
]
EXAMPLES = [
    example
    for module in [altmin_ext, *MODULES]
    for example in doctest.DocTestFinder(exclude_empty=True).find(module)
    if example.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_example_of_a_docstring(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "data.load(" in example.docstring:
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        doctest.DocTestRunner().run(example, out=report.append)
    assert not report, "".join(report)


# What most programs call. Names as altmin_ext hands them out.
SHOWN = [
    "train",
    "evaluate",
    "predict",
    "History",
    "EarlyStopping",
    "Checkpoint",
    "make_method",
    "Method.step",
    "Method.learn",
    "merge_memories",
    "as_optimizer",
    "fit_filters",
    "Stage",
    "nn.Sign",
    "checkpoint.save",
    "checkpoint.load",
    "data.load",
    "data.split",
    "data.streams.class_tasks",
    "models.mlp",
    "models.binary_mlp",
    "models.lenet5",
    "models.elman_rnn",
    "models.deepfacto",
    "models.random_features",
    "models.patch_features",
    "estimators.AMClassifier",
    "estimators.AMRegressor",
]


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_used_most_has_an_example(name: str) -> None:
    if name.startswith("estimators"):
        pytest.importorskip("sklearn")
    assert ">>>" in stands_for(f"altmin_ext.{name}").__doc__


# ------------------------------------------------------------------------------------------------- the API


def listed() -> list[str]:
    """The names that the pages on the API list, in full."""
    found = []
    for page in sorted((DOCS / "api").glob("*.md")):
        module = ""
        for line in page.read_text("utf-8").splitlines():
            if match := re.match(r"\.\. (?:automodule|currentmodule):: (\S+)", line):
                module = match[1]
                if line.startswith(".. auto"):
                    found.append(module)
            elif match := re.match(r"   (\w[\w.]*)$", line):
                found.append(f"{module}.{match[1]}")
    return found


def stands_for(name: str) -> Any:
    value: Any = altmin_ext
    for part in name.split(".")[1:]:
        value = value and (getattr(value, part, None) or module_or_none(f"{value.__name__}.{part}"))
    return value


def test_the_api_is_complete() -> None:
    """Every module that is public and every name in its ``__all__``, once."""
    names = listed()
    assert len(names) == len(set(names))
    there = {id(stands_for(name)) for name in names}
    found = pkgutil.iter_modules(altmin_ext.__path__, "altmin_ext.")
    public = [m.name for m in found if "._" not in m.name]
    lacking = set(public) - set(names)
    for module in filter(None, [altmin_ext, *map(module_or_none, public)]):
        lacking |= {f"{module.__name__}.{n}" for n in module.__all__ if id(getattr(module, n)) not in there}
    assert lacking == set()
