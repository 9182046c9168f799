"""Runs and figures in a notebook. Oracle: what a Jupyter frontend is sent for a cell, of which it shows the richest.

The notebook is executed by nbclient with a kernel of its own, as JupyterLab, VS Code and nbconvert do.
"""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
image = pytest.importorskip("matplotlib.image")

TRAIN = """
import torch, altmin_ext
torch.manual_seed(0)
x = torch.randn(60, 4)
y = x.argmax(1)
model = altmin_ext.models.mlp(4, [8], 4)
history = altmin_ext.train(model, (x, y), epochs=3, batch_size=20, validation=(x, y), progress=False)
other = altmin_ext.models.mlp(4, [8], 4)
slower = altmin_ext.train(other, (x, y), method="sgd", lr=1e-3, epochs=3, validation=(x, y), progress=False)
"""
CELLS = {
    "a run": f"{TRAIN}\nhistory",
    "a plot": "history.plot()",
    "a plot with a name": "figure = history.plot()",
    "shown on demand": "figure.show()",
    "several runs": "altmin_ext.plot_histories({'one': history, 'other': slower})",
    "pyplot": "%matplotlib inline\nfrom matplotlib import pyplot\npyplot.get_fignums()",
    "a plot beside pyplot": "history.plot()",
    "a plot between two of pyplot": "pyplot.plot([1, 2]); history.plot()",
    "pyplot afterwards": "pyplot.get_fignums()",
    "an estimator": "from altmin_ext.estimators import AMClassifier\nAMClassifier(hidden=(8,))",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By the name of a cell, what a frontend is sent to show below it."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    )
    folder = tmp_path_factory.mktemp("notebook")
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    nbformat.validate(notebook)
    return {name: list(map(dict, cell.outputs)) for name, cell in zip(CELLS, notebook.cells, strict=True)}


def pictures(outputs: list[dict[str, Any]]) -> list[Any]:
    """The pixels of all pictures that are shown."""
    contents = [
        base64.b64decode(out["data"]["image/png"]) for out in outputs if "image/png" in out.get("data", {})
    ]
    return [image.imread(io.BytesIO(content)) for content in contents]


def has_curves(picture: Any) -> bool:
    """Whether there is anything in the colour of the first run, #0072b2."""
    blue = abs(picture[..., :3] - [0.0, 0x72 / 255, 0xB2 / 255]).max(-1) < 0.02
    return bool(blue.sum() > 100)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_run_shows_its_curves_and_its_epochs(shown: dict[str, list[dict[str, Any]]]) -> None:
    (output,) = shown["a run"]
    assert output["output_type"] == "execute_result"
    assert output["data"]["text/plain"].startswith("History(3 epochs, 9 steps")
    page = Tags(output["data"]["text/html"])
    assert page.names.count("tr") == 4  # the head, and three epochs
    assert {"svg", "path", "circle"} <= {*page.names}
    assert "script" not in page.names
    assert "validation accuracy" in page.text


@pytest.mark.parametrize("name", ["a plot", "shown on demand", "several runs", "a plot beside pyplot"])
def test_a_figure_is_shown_once(shown: dict[str, list[dict[str, Any]]], name: str) -> None:
    (output,) = shown[name]
    (picture,) = pictures([output])
    assert has_curves(picture)
    assert min(picture.shape[:2]) > 250


def test_a_figure_with_a_name_waits(shown: dict[str, list[dict[str, Any]]]) -> None:
    assert shown["a plot with a name"] == []


def test_a_figure_beside_pyplot_s_is_shown_once_and_so_is_that(
    shown: dict[str, list[dict[str, Any]]],
) -> None:
    assert len(pictures(shown["a plot between two of pyplot"])) == 2
    for name in ("pyplot", "pyplot afterwards"):
        (output,) = shown[name]
        assert output["data"]["text/plain"] == "[]"


def test_an_estimator_shows_itself_as_scikit_learn_s_do(shown: dict[str, list[dict[str, Any]]]) -> None:
    (output,) = shown["an estimator"]
    assert "AMClassifier" in Tags(output["data"]["text/html"]).text
