"""Where the data sets come from: their files, what must be in them, where they lie, how they are fetched."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from altmin_ext.data._formats import Malformed, read_cifar, read_csv, read_idx

HIGGS_ROWS = 11_000_000
HIGGS_TEST_ROWS = 500_000
HIGGS_SAMPLE_TEST_ROWS = 5_000


@dataclasses.dataclass(frozen=True)
class File:
    """One published file.

    Attributes:
        name: its canonical name.
        read: reads it into arrays and checks the content; raises Malformed.
        sha256: of the file as it is published, gzip wrapper included; None where ``read`` is the check.
    """

    name: str
    read: Callable[[Path], Any]
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of one data set, in a directory that is called like the data set.

    Attributes:
        files: all of them are needed.
        urls: directories on the web that hold the files, tried in this order.
        sample: files that are taken where ``files`` are not found.
    """

    files: tuple[File, ...]
    urls: tuple[str, ...]
    sample: tuple[File, ...] = ()


def _idx_files(train_images: str, train_labels: str, test_images: str, test_labels: str) -> tuple[File, ...]:
    """The four files of MNIST or a set in its layout, given the sha256 of their uncompressed content."""
    return (
        File("train-images-idx3-ubyte.gz", partial(read_idx, ndim=3, sha256=train_images)),
        File("train-labels-idx1-ubyte.gz", partial(read_idx, ndim=1, sha256=train_labels)),
        File("t10k-images-idx3-ubyte.gz", partial(read_idx, ndim=3, sha256=test_images)),
        File("t10k-labels-idx1-ubyte.gz", partial(read_idx, ndim=1, sha256=test_labels)),
    )


_cifar_sha256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}

registry: dict[str, Source] = {
    "mnist": Source(
        files=_idx_files(
            train_images="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            train_labels="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            test_images="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            test_labels="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        urls=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "fashion-mnist": Source(
        files=_idx_files(
            train_images="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            train_labels="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            test_images="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            test_labels="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        urls=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
    ),
    "cifar-10": Source(
        files=(File("cifar-10-binary.tar.gz", partial(read_cifar, sha256=_cifar_sha256)),),
        urls=("https://www.cs.toronto.edu/~kriz/",),
    ),
    "higgs": Source(
        files=(
            File(
                "HIGGS.csv.gz",
                partial(read_csv, columns=29, rows=HIGGS_ROWS),
                sha256="ea302c18164d4e3d916a1e2e83a9a8d07069fa6ebc7771e4c0540d54e593b698",
            ),
        ),
        urls=(
            "https://archive.ics.uci.edu/ml/machine-learning-databases/00280/",
            "http://mlphysics.ics.uci.edu/data/higgs/",
        ),
        sample=(File("higgs_sample.csv.gz", partial(read_csv, columns=29)),),
    ),
}


def cache() -> Path:
    """The directory that downloads go to, after the XDG convention."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "altmin_ext"


def own_directory() -> Path | None:
    """The directory that ``ALTMIN_DATA`` names, whether it exists or not; None if it is not set."""
    value = os.environ.get("ALTMIN_DATA")
    return Path(value).expanduser() if value else None


def find(name: str) -> list[tuple[File, Path]] | None:
    """The files of a data set and their paths, by ``ALTMIN_DATA`` or in the cache; None if one is missing."""
    source = registry[name]
    for root in (own_directory(), cache()):
        for files in (source.files, source.sample):
            found = [(file, root / name / file.name) for file in files] if root else []
            if found and all(path.is_file() for _, path in found):
                return found
    return None


def read(name: str, *, download: bool) -> list[Any]:
    """What each file of a data set holds; files that are not found are downloaded first, if ``download``.

    Raises:
        FileNotFoundError: not found, and not to be downloaded.
        ValueError: a file does not hold what it should.
        ValueError, ImportError, OSError: as :func:`fetch` raises them.
    """
    found = find(name)
    if found is None:
        if not download:
            raise FileNotFoundError(
                f"{name} was found neither through ALTMIN_DATA ({own_directory() or 'not set'}) nor in "
                f"{cache()}: set ALTMIN_DATA to a directory that holds {name}/, or allow the download."
            )
        found = fetch(name)
    contents = []
    for file, path in found:
        try:
            contents.append(file.read(path))
        except Malformed as error:
            raise ValueError(f"{path} {error}; replace it, or delete it to have it downloaded.") from error
    return contents


def fetch(name: str) -> list[tuple[File, Path]]:
    """Download what the cache lacks of a data set. A file gets its name only after it has passed its check.

    Raises:
        ValueError: ``ALTMIN_DATA`` is set, but to no directory.
        ImportError: pooch is not installed.
        OSError: no URL delivered a file, or it could not be stored.
    """
    own = own_directory()
    if own and not own.is_dir():
        raise ValueError(
            f"ALTMIN_DATA must be a directory that holds {name}/, but is {own}; correct or unset it."
        )
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            f'{name} has to be downloaded, which needs pooch: run pip install "altmin_ext[data]", '
            f"or set ALTMIN_DATA to a directory that holds {name}/."
        ) from error
    directory = cache() / name
    for file in registry[name].files:
        _fetch_file(file, registry[name].urls, directory, pooch)
    return [(file, directory / file.name) for file in registry[name].files]


def _fetch_file(file: File, urls: Sequence[str], directory: Path, pooch: ModuleType) -> None:
    # "identity": a .gz file that a server sends as an encoding of its content would be unpacked on the way.
    download = pooch.HTTPDownloader(progressbar=True, headers={"Accept-Encoding": "identity"})

    def download_and_check(url: str, temporary: str, mover: object) -> None:
        download(url, temporary, mover)
        if file.sha256 is None:
            file.read(Path(temporary))
        elif (actual := pooch.file_hash(temporary)) != file.sha256:
            raise Malformed(f"is not as published: its sha256 is {actual} instead of {file.sha256}")

    for url in urls:
        mover = pooch.create(directory, url, registry={file.name: None})  # None: the check is ours, see above
        try:
            mover.fetch(file.name, downloader=download_and_check)
            return
        except (OSError, Malformed) as error:  # requests' errors are OSErrors, too
            failure = error
    if isinstance(failure, Malformed):
        reason = f"what came {failure}"
    elif (response := getattr(failure, "response", None)) is not None:
        reason = f"status {response.status_code}"
    else:
        reason = failure.strerror or type(failure).__name__
    raise OSError(
        f"could not download {file.name} from {' or '.join(urls)} to {directory} ({reason}): check the "
        f"network and that directory, or set ALTMIN_DATA to a directory that holds {directory.name}/."
    ) from failure
