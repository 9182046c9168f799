"""The page about some runs, and what a notebook shows of one.

Oracles: the numbers of histories, written down by hand or of a run; Python's parser of HTML, and of XML for the
pictures in it; what a browser would fetch. Numbers are read off a picture as people do, between its labelled ticks.
"""

import itertools
import math
import os
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch

import altmin_ext
from altmin_ext.history import History

from ..histories import double, make_history

EMPTY = {"meta", "link", "img", "br", "hr", "input"}  # elements without an end
FETCHING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """Elements, text and tables of a page; fails if elements are not nested."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.tables, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return " ".join(self.words)


def pictures(text):
    """The pictures on a page, by title."""
    found = [ElementTree.fromstring(own) for own in re.findall(r"<svg viewBox.*?</svg>", text, re.DOTALL)]
    return {own.get("aria-label"): own for own in found}


def written(histories, tmp_path, **options):
    altmin_ext.report_histories(histories, tmp_path / "report.html", **options)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def trained():
    """Two runs that record what there is."""
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1)
    histories = {}
    for method in ("am-adam", "dtp"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = altmin_ext.models.mlp(5, [6, 4], 3)
        histories[method] = altmin_ext.train(
            model, (x, y), method=method, epochs=4, batch_size=20, validation=(x, y), report_objective=True,
            metrics={"half": lambda logits, y: 0.5}, seed=7, progress=False,
        )  # fmt: skip
    return histories


@pytest.mark.parametrize("count", [1, 2])
def test_a_page_needs_nothing_else(trained, tmp_path, count):
    text = written(dict(itertools.islice(trained.items(), count)), tmp_path)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    names = {name for name, _ in page.elements}
    assert {"html", "head", "body", "title", "svg", "table"} <= names
    assert names.isdisjoint(
        {"script", "link", "img", "iframe", "object", "embed", "image", "use", "foreignobject"}
    )
    assert all(attribute not in FETCHING for _, attributes in page.elements for attribute in attributes)
    assert not any(attribute.startswith("on") for _, attributes in page.elements for attribute in attributes)
    assert not re.search(r"url\(|@import|https?:|//", text.replace("</", ""))
    assert ("meta", {"charset": "utf-8"}) in page.elements


def test_a_page_fits_dark_and_light_screens_and_paper(trained, tmp_path):
    """Text and axes have the colour that the browser gives text, and no colour is assumed behind them."""
    text = written(trained, tmp_path)
    assert "color-scheme: light dark" in text
    assert "@media print" in text
    for picture in pictures(text).values():
        for element in picture.iter():
            colours = {element.get(name) for name in ("fill", "stroke")} - {None, "none", "currentColor"}
            if element.tag == "text" or element.get("stroke-opacity"):
                assert not colours
            assert colours <= {*altmin_ext.pictures.panels.COLOURS}
    assert not re.search(r"background(-color)?: *(white|#fff)", text)


def off(picture, axis):
    """What turns a place along an axis into the number there, by the labelled ticks next to it."""
    anchor, across, along = ("end", "x", "y") if axis == "y" else ("middle", "y", "x")
    labels = [own for own in picture.iter("text") if own.get("text-anchor") == anchor]
    lines = {}
    for own in labels:
        lines.setdefault(own.get(across), []).append(own)
    ticks = []
    for own in max(lines.values(), key=len):
        try:
            value = float(own.text.replace(",", ""))
        except (TypeError, ValueError):
            continue  # the unit
        ticks.append(
            (float(own.get(along)) - (4 if axis == "y" else 0), value)
        )  # letters stand on a line below
    assert len(ticks) >= 2
    (first, low), (last, high) = ticks[0], ticks[-1]
    middle, value = ticks[len(ticks) // 2]
    share = (middle - first) / (last - first)
    is_log = len(ticks) > 2 and low > 0 and abs(low + share * (high - low) - value) > 0.02 * abs(high - low)

    def number(place):
        share = (place - first) / (last - first)
        return low * (high / low) ** share if is_log else low + share * (high - low)

    return number


def points(picture):
    """By label, the dots of the curves, as (x, y) read off between ticks."""
    x, y = off(picture, "x"), off(picture, "y")
    found = {}
    for dot in picture.iter("circle"):
        label = dot.find("title").text.partition(",")[0]
        found.setdefault(label, []).append((x(float(dot.get("cx"))), y(float(dot.get("cy")))))
    return found


def assert_shows(picture, label, expected):
    found = points(picture)[label]
    assert [x for x, _ in found] == pytest.approx([x for x, _ in expected], abs=0.05)
    top = max(abs(y) for _, y in expected)
    assert [y for _, y in found] == pytest.approx([y for _, y in expected], rel=0.02, abs=0.01 * top)


def test_the_numbers_can_be_read_off_the_curves(trained, tmp_path):
    shown = pictures(written({"": trained["am-adam"]}, tmp_path))
    rows = trained["am-adam"].epochs
    by_name = {title.partition(":")[0].partition(" (")[0]: picture for title, picture in shown.items()}
    for name in ("loss", "accuracy"):
        assert_shows(by_name[name], "training", [(row["epoch"], row[name]) for row in rows])
        assert_shows(by_name[name], "validation", [(row["epoch"], row[f"validation_{name}"]) for row in rows])
    assert_shows(by_name["half"], "validation", [(row["epoch"], 0.5) for row in rows])
    for name, key in (
        ("objective of each stage", "objective"),
        ("how far a step moves the codes of each stage", "displacement"),
    ):
        for stage in range(len(rows[0][key])):
            assert_shows(
                by_name[name], f"stage {stage + 1}", [(row["epoch"], row[key][stage]) for row in rows]
            )
    # Three minibatches of 20 in every epoch.
    assert_shows(
        by_name["time of a step"], "training", [(row["epoch"], 1000 * row["seconds"] / 3) for row in rows]
    )


def test_a_logarithmic_axis_is_read_off_by_its_ticks(tmp_path):
    history = make_history()
    history.epochs[1]["loss"] = 0.003
    (picture, *_) = pictures(written({"": history}, tmp_path)).values()
    assert_shows(picture, "training", [(1, 3.0), (2, 0.003)])


@pytest.mark.parametrize("labels", [[""], ["am-adam", "dtp"]], ids=["one run", "two runs"])
def test_every_number_of_every_epoch_is_in_a_table(trained, tmp_path, labels):
    histories = {label: trained[label or "am-adam"] for label in labels}
    tables = Page(written(histories, tmp_path)).tables[-len(labels) :]
    for table, history in zip(tables, histories.values(), strict=True):
        head, *body = table
        assert len(body) == len(history.epochs) == 4
        for cells, row in zip(body, history.epochs, strict=True):
            told = dict(zip(head, cells, strict=True))
            for key, value in row.items():
                name = key.replace("_", " ")
                if isinstance(value, list):
                    for stage, own in enumerate(value):
                        assert told[f"{name}, stage {stage + 1}"] == f"{own:.4g}"
                elif value is not None:
                    assert float(told[name].replace(",", "")) == pytest.approx(value, rel=5e-4)


def test_settings_and_environment_stand_side_by_side(trained, tmp_path):
    page = Page(written(trained, tmp_path))
    settings, environment = page.tables[:2]
    assert settings[0] == ["", "am-adam", "dtp"]
    told = {name: values for name, *values in settings[1:]}
    assert told["method"] == ["am-adam", "dtp"]
    assert told["loss"] == ["cross_entropy"] * 2
    assert told["seed"] == ["7", "7"]
    assert told["batch_size"] == ["20", "20"]
    assert told["mu"] == ["0.5", "–"]  # an option of one of them
    assert told["parameters"] == [str(5 * 6 + 6 + 6 * 4 + 4 + 4 * 3 + 3)] * 2
    assert "Linear(in_features=5, out_features=6, bias=True)" in told["network"][0]
    told = {name: values for name, *values in environment[1:]}
    assert told["torch"] == [torch.__version__] * 2
    assert told["threads"] == [str(torch.get_num_threads())] * 2


def test_text_is_text(tmp_path):
    """Whatever a label, a setting or a metric is called: it is shown as it is, and is no part of the page."""
    evil = "<script>alert('&amp;\"x')</script>"
    history = make_history()
    history.settings = {evil: evil, "network": [evil], "method": evil, "stages": [evil, evil]}
    history.environment = {evil: evil}
    history.ended, history.loss = evil, evil
    for row in history.epochs:
        row[f"validation_{evil}"] = row[evil] = 1.0
    for histories in ({"": history}, {evil: history, "other": make_history()}):
        text = written(histories, tmp_path, held_out=evil)
        page = Page(text)
        assert all(name not in ("script", "amp") for name, _ in page.elements)
        assert evil in page.text
        assert evil in "".join(cell for table in page.tables for row in table for cell in row)
        assert len(pictures(text)) >= 4
    page = Page(history._repr_html_())
    assert all(name != "script" for name, _ in page.elements)


def test_numbers_that_are_not_finite_are_shown_as_what_they_are(tmp_path):
    history = make_history()
    history.epochs[0]["loss"], history.epochs[1]["loss"] = math.nan, math.inf
    history.epochs[1]["validation_loss"], history.epochs[1]["seconds"] = -math.inf, math.nan
    text = written({"": history}, tmp_path)
    head, *body = Page(text).tables[-1]
    assert [dict(zip(head, cells, strict=True))["loss"] for cells in body] == ["NaN", "∞"]
    assert dict(zip(head, body[1], strict=True))["validation loss"] == "−∞"
    told = [own.text for own in next(iter(pictures(text).values())).iter("title")]
    assert told == [
        "training, epoch 1: NaN",
        "training, epoch 2: ∞",
        "validation, epoch 1: 2",
        "validation, epoch 2: −∞",
    ]
    assert "nan" not in text
    for picture in pictures(text).values():
        places = [own.get(name, "") for own in picture.iter() for name in ("d", "x", "y", "cx", "cy")]
        assert not any(re.search("inf|nan", place, re.IGNORECASE) for place in places)


def test_marks_are_where_they_belong(tmp_path):
    history = make_history()
    history.epochs[0]["restores"], history.epochs[1]["restores"] = 1, 1
    history.restores, history.ended = 1, "diverged"
    text = written({"": history}, tmp_path)
    for title in ("loss: training 1.5, validation 1", "accuracy: training 0.8, validation 0.6"):
        picture = pictures(text)[title]
        lines = [own.get("d") for own in picture.iter("path") if own.get("stroke-dasharray") == "2 3"]
        x = off(picture, "x")
        assert [x(float(re.match(r"M([\d.]+) ", own)[1])) for own in lines] == pytest.approx([1, 2], abs=0.02)
        words = [own.text for own in picture.iter("text")]
        assert words.index("restored 1 time") < words.index("diverged")
    assert "diverged; restored 1 time" in Page(text).text


def test_a_long_run_has_no_more_points_than_can_be_seen(tmp_path):
    """Means of equal parts, each at the middle of its part: the parts of 1, 2, ..., n have these means."""
    history = History()
    numbers = torch.arange(1, 100_001, dtype=torch.float64)
    history.add_steps(numbers, None, None)
    (panel,) = altmin_ext.pictures.step_panels({"": history})
    (curve,) = panel.curves
    assert len(curve.points) <= 400
    assert [x for x, _ in curve.points] == pytest.approx([y for _, y in curve.points])
    assert len(written({"": history}, tmp_path)) < 30_000
    numbers[5] = math.nan
    history = History()
    history.add_steps(numbers, None, None)
    (panel,) = altmin_ext.pictures.step_panels({"": history})
    assert [math.isnan(y) for _, y in panel.curves[0].points][:2] == [True, False]


def test_steps_that_are_no_longer_kept_are_counted(monkeypatch):
    monkeypatch.setattr(History, "step_limit", 3)
    history = History()
    history.add_steps(double(5.0, 4.0, 3.0, 2.0, 1.0), None, None)
    (panel,) = altmin_ext.pictures.step_panels({"": history})
    assert panel.curves[0].points == [(3, 3.0), (4, 2.0), (5, 1.0)]


@pytest.mark.parametrize(
    "histories", [{"": History()}, {"a": History(), "b": make_history()}], ids=["none", "one"]
)
def test_a_run_without_an_epoch_has_a_page(tmp_path, histories):
    page = Page(written(histories, tmp_path))
    assert "0 epochs, 0 minibatches" in page.text
    assert "none yet" in page.text


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="histories must hold at least one history, but is empty"):
        altmin_ext.report_histories({}, tmp_path / "report.html")
    assert os.listdir(tmp_path) == []


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("earlier")
    path.chmod(0o444)
    with pytest.raises(PermissionError, match=r"report\.html cannot be written: it is read-only"):
        make_history().report(path)
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["report.html"]


def test_report_of_a_history_is_that_of_histories_with_one(tmp_path):
    history = make_history()
    history.report(tmp_path / "new folder" / "one.html")
    assert (tmp_path / "new folder" / "one.html").read_text() == written({"": history}, tmp_path)


def test_a_page_calls_the_validation_data_by_their_name_everywhere(trained, tmp_path):
    text = Page(written(trained, tmp_path, held_out="test")).text
    assert f"test accuracy {trained['dtp'].epochs[-1]['validation_accuracy']:.4g}" in text
    assert "test half" in text
    assert "validation" not in text


def test_a_notebook_shows_last_numbers_curves_and_a_compact_table(trained):
    text = trained["am-adam"]._repr_html_()
    page, last = Page(text), trained["am-adam"].epochs[-1]
    assert f"validation accuracy {last['validation_accuracy']:.4g}" in page.text
    assert {title.partition(":")[0] for title in pictures(text)} == {
        "loss (cross_entropy)",
        "accuracy",
        "half",
    }
    ((head, *body),) = page.tables
    assert head == [
        "epoch", "loss", "accuracy", "validation loss", "validation accuracy", "validation half", "seconds",
        "samples per second",
    ]  # fmt: skip
    assert len(body) == 4
    assert "0 epochs" in Page(History()._repr_html_()).text


def test_a_notebook_shows_the_first_and_the_last_of_many_epochs():
    history = make_history()
    history.epochs = [{**history.epochs[0], "epoch": epoch} for epoch in range(1, 101)]
    ((_, *body),) = Page(history._repr_html_()).tables
    assert [row[0] for row in body] == ["1", "2", "3", "…", *map(str, range(94, 101))]
