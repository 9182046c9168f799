"""Runs written to TensorBoard, MLflow and Weights & Biases.

Oracles: the History of the run, read back by each package's own reader; and the undisturbed run, for one that was
broken off in the second of three epochs and resumed.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import altmin_ext
from altmin_ext.callbacks import Logger

from .task import BATCH, BATCHES, network, samples

EPOCHS, EVERY = 3, 2
STEPS = EPOCHS * BATCHES
BREAK_AT = BATCHES + 3


class Break:
    """Ends the run within the second epoch, by an error if there is one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def on_step(self, state: Any) -> None:
        if state.step == BREAK_AT and self.error is not None:
            raise self.error


def run(logger: Logger, *others: Any, **more: Any) -> altmin_ext.History:
    return altmin_ext.train(
        network(), samples().tensors, epochs=EPOCHS, batch_size=BATCH, lr=0.01, validation=samples(),
        metrics={"half": lambda logits, y: 0.5}, callbacks=[logger, *others], progress=False, **more,
    )  # fmt: skip


def expected(history: altmin_ext.History) -> dict[str, list[tuple[int, float]]]:
    """By name, the minibatches and values that a logger writes of a run, but for times."""
    names = ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "validation_half")
    ends = range(BATCHES, STEPS + 1, BATCHES)
    found = {
        name: [(step, row[name]) for step, row in zip(ends, history.epochs, strict=True)] for name in names
    }
    steps = range(EVERY, STEPS + 1, EVERY)
    return {**found, "step_loss": [(step, history.step_loss[step - 1].item()) for step in steps]}


def assert_written(read: dict[str, list[tuple[int, float]]], history: altmin_ext.History) -> None:
    for name, numbers in expected(history).items():
        assert [step for step, _ in read[name]] == [step for step, _ in numbers], name
        assert [value for _, value in read[name]] == pytest.approx([value for _, value in numbers]), name


# ------------------------------------------------------------------------------------------------- TensorBoard


def events(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={accumulator.SCALARS: 0})
    return found.Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = events(folder)
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def tensorboard(folder: Path) -> altmin_ext.TensorBoardLogger:
    pytest.importorskip("tensorboard")
    return altmin_ext.TensorBoardLogger(folder, every=EVERY)


def test_tensorboard_shows_the_history(tmp_path: Path) -> None:
    plugin_data_pb2 = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    history = run(tensorboard(tmp_path), report_objective=True)
    read = scalars(tmp_path)
    assert_written(read, history)
    assert [value for _, value in read["objective.1"]] == pytest.approx(
        [row["objective"][1] for row in history.epochs]
    )
    summaries = events(tmp_path).summary_metadata["_hparams_/session_start_info"]
    settings = plugin_data_pb2.HParamsPluginData.FromString(summaries.plugin_data.content)
    assert settings.session_start_info.hparams["method"].string_value == "am-adam"
    assert settings.session_start_info.hparams["lr"].number_value == 0.01


def test_the_file_of_tensorboard_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the writer's own close, of a run that is complete and of one that fails."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    closed = []
    close = SummaryWriter.close
    monkeypatch.setattr(SummaryWriter, "close", lambda self: (closed.append(self), close(self)))

    class Breaks:
        def on_epoch(self, state: Any) -> None:
            raise ZeroDivisionError

    for callbacks in ([], [Breaks()]):
        logger = altmin_ext.TensorBoardLogger(tmp_path / str(len(callbacks)))
        with contextlib.suppress(ZeroDivisionError):
            altmin_ext.train(network(), samples(), callbacks=[logger, *callbacks], progress=False)
    assert len(set(closed)) == 2


def test_tensorboard_goes_on_with_a_resumed_run(tmp_path: Path) -> None:
    """What the first process has written beyond its checkpoint, here losses that are wrong, is hidden."""
    undisturbed = run(tensorboard(tmp_path / "undisturbed"))
    folder, file = tmp_path / "resumed", tmp_path / "run.safetensors"

    class Overshoots:
        def on_close(self, state: Any, error: BaseException | None) -> None:
            logger.log({"step_loss": 99.0}, BREAK_AT + 1)

    logger = tensorboard(folder)
    closing = logger.on_close
    logger.on_close = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="mine"):
        run(logger, Overshoots(), Break(RuntimeError("mine")), checkpoint=file)
    closing(None, None)  # type: ignore[arg-type]
    assert scalars(folder)["step_loss"][-1] == (BREAK_AT + 1, 99.0)
    run(tensorboard(folder), Break(), checkpoint=file, resume=True)
    assert_written(scalars(folder), undisturbed)


# ------------------------------------------------------------------------------------------------- MLflow


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[Callable[[], altmin_ext.MLflowLogger]]:
    package = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = package.MlflowClient(uri)
    client.create_experiment("study", artifact_location=str(tmp_path / "artifacts"))
    yield lambda: altmin_ext.MLflowLogger("study", "mine", uri, every=EVERY)
    assert package.active_run() is None


def mlflow_run(logger: altmin_ext.MLflowLogger) -> tuple[Any, dict[str, list[tuple[int, float]]]]:
    client = pytest.importorskip("mlflow").MlflowClient(logger.tracking_uri)
    found = client.get_run(logger.run_id)
    metrics = {
        name: [(entry.step, entry.value) for entry in client.get_metric_history(logger.run_id, name)]
        for name in found.data.metrics
    }
    return found, {name: sorted(entries) for name, entries in metrics.items()}


def test_mlflow_holds_the_history(mlflow: Callable[[], altmin_ext.MLflowLogger]) -> None:
    logger = mlflow()
    history = run(logger)
    found, read = mlflow_run(logger)
    assert_written(read, history)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "mine")
    assert found.data.params["method"] == "am-adam"
    assert found.data.params["lr"] == "0.01"


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("mine"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
    ids=["error", "interrupt"],
)
def test_an_exception_ends_the_run_of_mlflow(
    error: BaseException, status: str, mlflow: Callable[[], altmin_ext.MLflowLogger]
) -> None:
    logger = mlflow()
    with pytest.raises(type(error)):
        run(logger, Break(error))
    assert mlflow_run(logger)[0].info.status == status


def test_mlflow_goes_on_with_a_resumed_run(
    mlflow: Callable[[], altmin_ext.MLflowLogger], tmp_path: Path
) -> None:
    file = tmp_path / "run.safetensors"
    undisturbed = run(mlflow())
    first, second = mlflow(), mlflow()
    with pytest.raises(RuntimeError, match="mine"):
        run(first, Break(RuntimeError("mine")), checkpoint=file)
    statuses = set()

    class Looks:
        def on_epoch(self, state: Any) -> None:
            statuses.add(mlflow_run(second)[0].info.status)

    run(second, Break(), Looks(), checkpoint=file, resume=True)
    assert second.run_id == first.run_id
    assert statuses == {"RUNNING"}
    client = pytest.importorskip("mlflow").MlflowClient(second.tracking_uri)
    (study,) = {client.get_run(logger.run_id).info.experiment_id for logger in (first, second)}
    assert len(client.search_runs([study])) == 2  # the undisturbed one, and this
    found, read = mlflow_run(second)
    assert found.info.status == "FINISHED"
    assert_written(read, undisturbed)


# ------------------------------------------------------------------------------------------------- Weights & Biases


def wandb_logger(folder: Path) -> altmin_ext.WandbLogger:
    pytest.importorskip("wandb")
    return altmin_ext.WandbLogger(every=EVERY, project="study", mode="offline", dir=str(folder))


def wandb_files(folder: Path) -> list[Path]:
    """The files of all runs, oldest first, once the process that writes them has ended."""
    import wandb

    wandb.teardown()
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a file: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, record = file.read_bytes(), 7, b""
    while place < len(content):
        left = 32768 - place % 32768
        if left < 7:  # too little for a header, so padding
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # the whole of a record, or its last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def wandb_history(file: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            items = {
                item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item
            }
            for name, value in items.items():
                found.setdefault(name, []).append((record.history.step.num, value))
    return found


def wandb_ends(file: Path) -> list[int]:
    return [r.exit.exit_code for r in wandb_records(file) if r.WhichOneof("record_type") == "exit"]


def wandb_id(file: Path) -> str:
    return next(r.run.run_id for r in wandb_records(file) if r.WhichOneof("record_type") == "run")


def test_wandb_holds_the_history(tmp_path: Path) -> None:
    history = run(wandb_logger(tmp_path))
    (file,) = wandb_files(tmp_path)
    assert_written(wandb_history(file), history)
    assert wandb_ends(file) == [0]
    record = next(r for r in wandb_records(file) if r.WhichOneof("record_type") == "run")
    settings = {item.key: json.loads(item.value_json) for item in record.run.config.update}
    assert (settings["method"], settings["lr"]) == ("am-adam", 0.01)


def test_wandb_goes_on_with_a_resumed_run(tmp_path: Path) -> None:
    """Offline in a second file of the same run, whose numbers go on from those of the first."""
    file, undisturbed = tmp_path / "run.safetensors", run(wandb_logger(tmp_path / "undisturbed"))
    logger = wandb_logger(tmp_path)
    with pytest.raises(RuntimeError, match="mine"):
        run(logger, Break(RuntimeError("mine")), checkpoint=file)
    assert logger.run is None
    run(wandb_logger(tmp_path), Break(), checkpoint=file, resume=True)
    first, second = wandb_files(tmp_path)
    assert (wandb_ends(first), wandb_ends(second)) == ([1], [0])
    assert wandb_id(first) == wandb_id(second)
    parts = [wandb_history(part) for part in (first, second)]
    names = parts[0].keys() | parts[1].keys()
    assert_written({name: parts[0].get(name, []) + parts[1].get(name, []) for name in names}, undisturbed)
