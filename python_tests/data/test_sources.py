"""Where files are looked for, and downloads, from a web server on this machine."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import os
import sys
import threading

import numpy as np
import pytest

import altmin_ext
from altmin_ext import data
from altmin_ext.data import _formats, _sources, _tensors


@pytest.fixture
def server(tmp_path):
    """A web server: ``root`` is what it serves, ``url`` its address, ``requests`` the files it was asked for.

    With ``cut`` it announces more bytes than it sends, with ``encoding`` gzip as an encoding of the content.
    """

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            server.requests.append(self.path[1:])
            super().do_GET()

        def send_header(self, keyword, value):
            if keyword == "Content-Length" and server.cut:
                value = str(int(value) + 100)
            if keyword == "Content-type" and server.encoding:
                super().send_header("Content-Encoding", "gzip")
            super().send_header(keyword, value)

        def log_message(self, *args):
            pass

    root = tmp_path / "served"
    root.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=root))
    server.root, server.requests, server.cut, server.encoding = root, [], False, False
    server.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def published(tiny_mnist, server, monkeypatch):
    """The tiny mnist, served where the registry says."""
    tiny_mnist.write(server.root)
    set_urls(monkeypatch, "mnist", server.url)
    return tiny_mnist


def set_urls(monkeypatch, name, *urls):
    monkeypatch.setitem(_sources.registry, name, dataclasses.replace(_sources.registry[name], urls=urls))


def kept(directory):
    """What a directory holds, hidden and temporary files included."""
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def assert_is(data_set, tiny):
    for (x, y), (images, labels) in ((data_set.train, tiny.train), (data_set.test, tiny.test)):
        np.testing.assert_allclose(x.numpy(), ((images / 255 - 0.1307) / 0.3081)[:, None], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(y.numpy(), labels)


def test_urls_are_directories():
    for name, source in _sources.registry.items():
        assert bool(source.urls) != bool(source.package), name
        assert all(url.startswith("http") and url.endswith("/") for url in source.urls), name


def test_download_then_from_the_cache(published, server, home, monkeypatch, capsys):
    assert data.location("mnist") is None
    assert_is(data.load("mnist"), published)
    assert kept(home / "mnist") == sorted(published.files)
    assert "100%" in capsys.readouterr().err  # the progress bar
    assert data.location("mnist") == home / "mnist"

    set_urls(monkeypatch, "mnist")
    assert_is(data.load("mnist", download=False), published)
    assert sorted(server.requests) == sorted(published.files)


def test_download_fetches_only_what_is_missing(published, server, home):
    data.load("mnist")
    (home / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    server.requests.clear()
    assert_is(data.load("mnist"), published)
    assert server.requests == ["t10k-labels-idx1-ubyte.gz"]


def test_download_has_the_permissions_of_any_other_file(published, home):
    data.load("mnist")
    (home / "ordinary").write_bytes(b"")
    for path in (home / "mnist").iterdir():
        assert path.stat().st_mode == (home / "ordinary").stat().st_mode


def test_download_of_a_killed_run_is_cleared_by_the_next(published, home, monkeypatch):
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(_sources, "_check", lambda *_: os._exit(9))
        with contextlib.suppress(BaseException):
            data.load("mnist")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(kept(home / "mnist")) == 1
    data.load("mnist")
    assert kept(home / "mnist") == sorted(published.files)


def test_images_without_labels(tiny_mnist, home, monkeypatch):
    whole = _sources.registry["mnist"]
    files = (
        *whole.files[:1],
        whole.files[3],
        *whole.files[2:],
    )  # the test labels in place of the training labels
    monkeypatch.setitem(_sources.registry, "mnist", dataclasses.replace(whole, files=files))
    tiny_mnist.write(home / "mnist")
    with pytest.raises(
        ValueError, match=r"mnist must have a label for each of its 5 images, but has 2 \(in "
    ):
        data.load("mnist")


def test_second_url_where_the_first_fails(published, server, home, monkeypatch):
    set_urls(monkeypatch, "mnist", server.url + "nowhere/", server.url)
    assert_is(data.load("mnist"), published)


def test_server_that_calls_gzip_an_encoding(published, server):
    server.encoding = True
    assert_is(data.load("mnist"), published)


@pytest.mark.parametrize(
    "content",
    [b"<html>please log in</html>", gzip.compress(b"\0\0\x08\x01\0\0\0\x02ab", mtime=0), b"\x1f\x8b"],
    ids=["login page", "other content", "stump"],
)
def test_wrong_download_is_not_kept(published, server, home, content):
    (server.root / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(OSError, match=r"could not download train-labels-idx1-ubyte.gz .*what came") as caught:
        data.load("mnist")
    assert kept(home / "mnist") == ["train-images-idx3-ubyte.gz"]
    for part in (server.url, str(home), "set ALTMIN_DATA"):
        assert part in str(caught.value)


def test_interrupted_download_is_not_kept(published, server, home):
    server.cut = True
    with pytest.raises(OSError, match=r"could not download train-images-idx3-ubyte\.gz"):
        data.load("mnist")
    assert kept(home / "mnist") == []


def test_download_stopped_by_the_user_is_not_kept(published, home, monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    file = _sources.File("train-images-idx3-ubyte.gz", stop)
    monkeypatch.setitem(
        _sources.registry, "mnist", dataclasses.replace(_sources.registry["mnist"], files=(file,))
    )
    with pytest.raises(KeyboardInterrupt):
        data.load("mnist")
    assert kept(home / "mnist") == []


def test_no_network(published, server, home, monkeypatch):
    set_urls(monkeypatch, "mnist", "http://127.0.0.1:1/")  # nothing listens there
    with pytest.raises(
        OSError, match=r"could not download .*\(ConnectionError\): check the network"
    ) as caught:
        data.load("mnist")
    assert caught.value.__cause__ is not None
    assert kept(home / "mnist") == []


def test_missing_on_the_server(published, server):
    (server.root / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(OSError, match=r"could not download t10k-images-idx3-ubyte\.gz .*\(status 404\)"):
        data.load("mnist")


@pytest.fixture
def tiny_higgs(monkeypatch, home, server):
    """A complete "higgs" of 12 rows, 4 of them as test, served where the registry says; returns the rows."""
    rows = np.random.default_rng(2).normal(size=(12, 29)).round(4)
    rows[:, 0] = np.arange(12) % 2
    content = gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode())
    (server.root / "HIGGS.csv.gz").write_bytes(content)
    file = _sources.File(
        "HIGGS.csv.gz",
        functools.partial(_formats.read_csv, columns=29, rows=12),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    whole = _sources.registry["higgs"]
    last_four, last_two = (functools.partial(_tensors.table, classes=2, test_rows=n) for n in (4, 2))
    source = dataclasses.replace(
        whole, files=(file,), urls=(server.url,), tensors=last_four,
        sample=dataclasses.replace(whole.sample, tensors=last_two),
    )  # fmt: skip
    monkeypatch.setitem(_sources.registry, "higgs", source)
    return rows


def test_higgs_download(tiny_higgs, home):
    higgs = data.load("higgs")
    assert kept(home / "higgs") == ["HIGGS.csv.gz"]
    train, test = tiny_higgs[:8], tiny_higgs[8:]
    mean, deviation = train[:, 1:].mean(0), train[:, 1:].std(0)
    for (x, y), rows in ((higgs.train, train), (higgs.test, test)):
        np.testing.assert_allclose(x.numpy(), (rows[:, 1:] - mean) / deviation, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(y.numpy(), rows[:, 0])


def test_higgs_download_with_another_sha256_is_not_kept(tiny_higgs, server, home):
    with gzip.open(server.root / "HIGGS.csv.gz", "ab") as file:
        file.write(b"\n" + b"0," * 28 + b"0")
    with pytest.raises(OSError, match="what came is not as published: its sha256 is"):
        data.load("higgs")
    assert kept(home / "higgs") == []


def test_higgs_sample_stands_in_for_the_complete_file(tiny_higgs, home):
    (home / "higgs").mkdir(parents=True)
    sample = home / "higgs" / "higgs_sample.csv.gz"
    sample.write_bytes(gzip.compress(b"\n".join(b",".join([b"1"] + [b"%d" % i] * 28) for i in range(5))))
    assert len(data.load("higgs", download=False).test[1]) == 2
    _sources.fetch("higgs")
    assert len(data.load("higgs", download=False).test[1]) == 4


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (["2" + ",0" * 28] * 5, "higgs must have a class from 0 to 1 in the first column"),
        (["1" + ",0" * 28] * 2, "higgs must have more rows than the 2"),
        (["1" + ",0" * 28] * 4 + ["0.5" + ",0" * 28], "class .* but has 0.5 in row 5 .in .*higgs"),
        (
            [f"1,{i},7" + f",{i}" * 26 for i in range(5)],
            r"features that can be standardised, but column 3 has the mean 7 and the deviation 0 ",
        ),
        (
            [f"1,{x}e38" + f",{i}" * 27 for i, x in enumerate((-3, -2.9, 3, 3))],
            "standardised, but column 2 has the mean -2.95e.38",
        ),
    ],
)
def test_higgs_sample_that_makes_no_sense(tiny_higgs, home, rows, complaint):
    (home / "higgs").mkdir(parents=True)
    (home / "higgs" / "higgs_sample.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    with pytest.raises(ValueError, match=complaint):
        data.load("higgs")


def test_an_entry_is_all_that_a_data_set_takes(home, monkeypatch):
    """Known to names, describe, location, load and train, and read as the entry says."""
    rows = np.random.default_rng(3).normal(size=(40, 5)).round(3)
    rows[:, 0] = np.arange(40) % 3
    entry = _sources.Source(
        summary="30 + 10 rows of 4 features, 3 classes",
        classes=3,
        tensors=functools.partial(_tensors.table, classes=3, test_rows=10),
        files=(_sources.File("wine.csv.gz", functools.partial(_formats.read_csv, columns=5)),),
        urls=("https://example.org/wine/",),
    )
    monkeypatch.setitem(_sources.registry, "wine", entry)
    assert data.names()[-1] == "wine"
    assert data.describe("wine") == entry.summary
    assert data.location("wine") is None
    (home / "wine").mkdir(parents=True)
    content = "\n".join(",".join(map(str, row)) for row in rows)
    (home / "wine" / "wine.csv.gz").write_bytes(gzip.compress(content.encode()))
    assert data.location("wine") == home / "wine"
    wine = data.load("wine", download=False)
    assert (wine.name, wine.shape, wine.classes) == ("wine", (4,), 3)
    np.testing.assert_array_equal(np.concatenate([wine.train[1], wine.test[1]]), rows[:, 0])
    mean, deviation = rows[:30, 1:].mean(0), rows[:30, 1:].std(0)
    np.testing.assert_allclose(wine.test[0], (rows[30:, 1:] - mean) / deviation, rtol=0, atol=1e-5)
    history = altmin_ext.train(altmin_ext.models.mlp(4, [3], 3), "wine", validation="wine", progress=False)
    assert history.steps == 1


def test_altmin_data_comes_before_the_cache(tiny_mnist, tmp_path, home, monkeypatch):
    monkeypatch.setenv("ALTMIN_DATA", str(tmp_path / "own"))
    tiny_mnist.write(home / "mnist")
    assert data.location("mnist") == home / "mnist"
    tiny_mnist.write(tmp_path / "own" / "mnist")
    assert data.location("mnist") == tmp_path / "own" / "mnist"
    assert_is(data.load("mnist", download=False), tiny_mnist)
    (tmp_path / "own" / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert data.location("mnist") == home / "mnist"


def test_damaged_local_file(tiny_mnist, home):
    tiny_mnist.write(home / "mnist")
    path = home / "mnist" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"damaged gzip file .*; replace it, or delete it") as caught:
        data.load("mnist")
    assert str(caught.value).startswith(str(path))


def test_not_found_and_not_to_be_downloaded(tiny_mnist, home):
    with pytest.raises(FileNotFoundError, match=r"mnist was found neither .*not set.* set ALTMIN_DATA"):
        data.load("mnist", download=False)


def test_altmin_data_that_is_no_directory(published, server, tmp_path, monkeypatch):
    monkeypatch.setenv("ALTMIN_DATA", str(tmp_path / "typo"))
    assert data.location("mnist") is None
    with pytest.raises(ValueError, match=r"ALTMIN_DATA must be a directory that holds mnist/, but is .*typo"):
        data.load("mnist")
    assert server.requests == []


@pytest.mark.parametrize(("name", "module"), [("mnist", "pooch"), ("digits", "sklearn.datasets")])
def test_missing_extra(tiny_mnist, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "altmin_ext\[data\]"'):
        data.load(name)
