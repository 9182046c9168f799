"""Data sets of Hugging Face's ``datasets``, whole, as columns, streamed, and through a DataLoader.

Oracle: the same samples as tensors, or handed out one by one by a torch ``Dataset``, come to the same bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import altmin_ext

from .task import BATCH, network, same, samples

datasets = pytest.importorskip("datasets")

X, Y = samples().tensors


class Pairs(Dataset[Any]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index], Y[index]


def named(x: str = "x", y: str = "y", **more: Any) -> Any:
    return datasets.Dataset.from_dict({x: X.numpy(), y: Y.numpy(), **more})


@pytest.fixture
def samples_by_name() -> Any:
    return named().with_format("torch")


def trained(data: Any, **arguments: Any) -> dict[str, Any]:
    model = network()
    history = altmin_ext.train(model, data, batch_size=BATCH, progress=False, **{"epochs": 2, **arguments})
    return {"weights": model.state_dict(), "loss": [row["loss"] for row in history.epochs]}


def test_rows_are_samples(samples_by_name: Any) -> None:
    """In the order of its own or in that which train draws for a data set, from train's seed alone."""
    before = torch.get_rng_state()
    assert same(trained(samples_by_name, shuffle=False), trained((X, Y), shuffle=False))
    assert same(trained(samples_by_name, seed=3), trained(Pairs(), seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(trained((X, Y), validation=samples_by_name), trained((X, Y), validation=Pairs()))
    assert altmin_ext.evaluate(network(), samples_by_name) == altmin_ext.evaluate(network(), (X, Y))


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_columns_are_tensors(form: str) -> None:
    """Read whole, so that train may hold out a part of them, and a method may take them at once."""
    data = named("pixels", "digit").with_format(form)
    pair = (data["pixels"], data["digit"])
    assert not isinstance(pair[0], (Tensor, np.ndarray))
    assert same(trained(pair, validation_fraction=0.25), trained((X, Y), validation_fraction=0.25))
    assert same(trained(pair, method="am-adam-off"), trained((X, Y), method="am-adam-off"))
    assert torch.equal(altmin_ext.predict(network(), pair[0]), altmin_ext.predict(network(), X))
    assert same(trained({"x": pair[0], "y": pair[1]}), trained((X, Y)))


def test_a_stream_and_a_loader(samples_by_name: Any) -> None:
    expected = trained((X, Y), shuffle=False)
    assert same(trained(samples_by_name.to_iterable_dataset()), expected)
    assert same(trained(DataLoader(samples_by_name, BATCH)), expected)
    assert same(trained(list(samples_by_name.iter(BATCH))), expected)
    renamed = named("pixels", "digit", number=list(range(len(X)))).select_columns(["pixels", "digit"])
    renamed = renamed.rename_columns({"pixels": "x", "digit": "y"}).with_format("torch")
    assert same(trained(renamed, shuffle=False), expected)


def test_images_are_scaled_by_a_transform() -> None:
    images = (torch.rand(len(X), 6, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    data = datasets.Dataset.from_dict({"image": images.numpy(), "label": Y.numpy()})

    def scaled(rows: dict[str, Any]) -> dict[str, Any]:
        return {"x": torch.tensor(rows["image"]) / 255, "y": torch.tensor(rows["label"])}

    assert same(
        trained(data.with_transform(scaled), shuffle=False), trained((images / 255, Y), shuffle=False)
    )


def test_a_run_goes_on_where_it_was_interrupted(samples_by_name: Any, tmp_path: Path) -> None:
    class Interrupts:
        def on_step(self, state: Any) -> None:
            if state.step == 7:
                raise KeyboardInterrupt

    where = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(samples_by_name, epochs=3, checkpoint=where, callbacks=[Interrupts()])
    resumed = trained(samples_by_name, epochs=3, checkpoint=where, resume=True)
    assert same(resumed, trained(samples_by_name, epochs=3))


def other_names() -> Any:
    return named("image", "label").with_format("torch")


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (named, TypeError, r"data must yield tensors, but its 'x' is a list; .* data\.with_format\('torch'\)"),
        (other_names, TypeError, "data must yield .* a dict with the keys 'image', 'label'"),
        (
            lambda: named(weight=[1.0] * len(X)).with_format("torch"),
            TypeError,
            "data must yield .* a dict with the keys 'x', 'y', 'weight'; .* under these names",
        ),
        (
            lambda: datasets.DatasetDict(train=named(), test=named()),
            TypeError,
            r"data must be \(x, y\), but is a DatasetDict with .*; pass one part, as in data\['train'\]",
        ),
        (lambda: (named()["x"], named()["y"]), TypeError, r"x must be a torch\.Tensor or .*, but is a Column"),
    ],
    ids=["without a format", "other names", "another column", "parts", "columns without a format"],
)  # fmt: skip
def test_what_is_not_x_and_y_is_refused(make: Any, error: type[Exception], sentence: str) -> None:
    model = network()
    with pytest.raises(error, match=sentence) as caught:
        altmin_ext.train(model, make(), progress=False)
    assert str(caught.value).endswith(".")
    assert same(model.state_dict(), network().state_dict())
