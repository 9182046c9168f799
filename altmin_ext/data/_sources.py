"""The sources of the data sets: their files, checks of the content, places and downloads."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from altmin_ext._files import atomic_write
from altmin_ext.data._formats import Malformed, read_cifar, read_csv, read_idx
from altmin_ext.data._tensors import Parts, digits, image_batches, images, table


@dataclasses.dataclass(frozen=True)
class File:
    """One published file.

    Attributes:
        name: its canonical name.
        read: reads it into arrays and checks the content; raises Malformed.
        sha256: of the published file, including the gzip wrapper; None if the check of ``read`` suffices.
    """

    name: str
    read: Callable[[Path], Any]
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Everything about one data set.

    Attributes:
        summary: a line of description.
        classes: the number of classes.
        tensors: makes the training and the test part from the contents of the files.
        files: all files of the data set, in a directory with its name.
        urls: directories on the web that hold the files, tried in this order.
        sample: a smaller source that is used if ``files`` are not found.
        package: the installed package that contains the data, if there are no files.
    """

    summary: str
    classes: int
    tensors: Callable[[list[Any]], Parts]
    files: tuple[File, ...] = ()
    urls: tuple[str, ...] = ()
    sample: Source | None = None
    package: str | None = None


def _idx_files(train_images: str, train_labels: str, test_images: str, test_labels: str) -> tuple[File, ...]:
    """The four files of MNIST, or of a data set with its layout, by the sha256 of their uncompressed content."""
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

# One entry is one data set. A new one needs an entry, and perhaps a reader in _formats or a function in _tensors.
registry: dict[str, Source] = {
    "digits": Source(
        summary="1,437 + 360 images (1, 8, 8) of scikit-learn, 10 classes; divided by 16, the last 360 as test",
        classes=10,
        tensors=digits,
        package="sklearn",
    ),
    "mnist": Source(
        summary="60,000 + 10,000 images (1, 28, 28), 10 classes; mean .1307, deviation .3081",
        classes=10,
        tensors=partial(images, mean=(0.1307,), deviation=(0.3081,)),
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
        summary="60,000 + 10,000 images (1, 28, 28), 10 classes; mean and deviation of mnist, as is customary",
        classes=10,
        tensors=partial(images, mean=(0.1307,), deviation=(0.3081,)),
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
        summary="50,000 + 10,000 images (3, 32, 32), 10 classes; means .4914 .4822 .4465, deviations .2470 .2435 "
        ".2616",
        classes=10,
        # The deviations are often quoted as .2023, .1994, .2010, but these are means of the deviations within single
        # images. Here they are taken over all pixels.
        tensors=partial(image_batches, mean=(0.4914, 0.4822, 0.4465), deviation=(0.2470, 0.2435, 0.2616)),
        files=(File("cifar-10-binary.tar.gz", partial(read_cifar, sha256=_cifar_sha256)),),
        urls=("https://www.cs.toronto.edu/~kriz/",),
    ),
    "higgs": Source(
        summary="10,500,000 + 500,000 rows of 28 features, 2 classes; standardised by the training rows; or a sample "
        "of the rows, the last 5,000 as test",
        classes=2,
        tensors=partial(table, classes=2, test_rows=500_000),
        files=(
            File(
                "HIGGS.csv.gz",
                partial(read_csv, columns=29, rows=11_000_000),
                sha256="ea302c18164d4e3d916a1e2e83a9a8d07069fa6ebc7771e4c0540d54e593b698",
            ),
        ),
        urls=(
            "https://archive.ics.uci.edu/ml/machine-learning-databases/00280/",
            "http://mlphysics.ics.uci.edu/data/higgs/",
        ),
        sample=Source(
            summary="",
            classes=2,
            tensors=partial(table, classes=2, test_rows=5_000),
            files=(File("higgs_sample.csv.gz", partial(read_csv, columns=29)),),
        ),
    ),
}


def cache() -> Path:
    """The directory for downloads, by the XDG convention."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "altmin_ext"


def own_directory() -> Path | None:
    """The directory that ``ALTMIN_DATA`` names, whether it exists or not; None if it is not set."""
    value = os.environ.get("ALTMIN_DATA")
    return Path(value).expanduser() if value else None


def find(name: str) -> tuple[Source, list[Path]] | None:
    """The source whose files are in ``ALTMIN_DATA`` or the cache, and their paths; None if there is none."""
    whole = registry[name]
    for root in (own_directory(), cache()):
        for source in (whole, whole.sample):
            paths = [root / name / file.name for file in source.files] if root and source else []
            if source and paths and all(path.is_file() for path in paths):
                return source, paths
    return None


def read(name: str, *, download: bool) -> tuple[Source, list[Any]]:
    """Find the source of a data set and read its files, after a download if there are none and ``download`` is True.

    Raises:
        FileNotFoundError: files are missing, and ``download`` is False.
        ValueError: a file has wrong content.
        ValueError, ImportError, OSError: as in :func:`fetch`.
    """
    found = find(name)
    if found is None:
        if not download:
            raise FileNotFoundError(
                f"{name} was found neither through ALTMIN_DATA ({own_directory() or 'not set'}) nor in "
                f"{cache()}: set ALTMIN_DATA to a directory that holds {name}/, or allow the download."
            )
        found = registry[name], fetch(name)
    source, paths = found
    contents = []
    for file, path in zip(source.files, paths, strict=True):
        try:
            contents.append(file.read(path))
        except Malformed as error:
            raise ValueError(f"{path} {error}; replace it, or delete it to have it downloaded.") from error
    return source, contents


def fetch(name: str) -> list[Path]:
    """Download the files of a data set that the cache lacks; returns all paths.

    A file gets its name only after it has passed its check.

    Raises:
        ValueError: ``ALTMIN_DATA`` is set, but is no directory.
        ImportError: pooch is not installed.
        OSError: no URL delivered a file, or a file could not be stored.
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
        if not (directory / file.name).is_file():
            _fetch_file(file, registry[name].urls, directory, pooch)
    return [directory / file.name for file in registry[name].files]


def _check(file: File, path: Path, pooch: ModuleType) -> None:
    """Raise Malformed if what has come to ``path`` is not the published file."""
    if file.sha256 is None:
        file.read(path)
    elif (actual := pooch.file_hash(path)) != file.sha256:
        raise Malformed(f"is not as published: its sha256 is {actual} instead of {file.sha256}")


def _fetch_file(file: File, urls: Sequence[str], directory: Path, pooch: ModuleType) -> None:
    # "identity": otherwise a .gz file would be unpacked on the way if the server declares it as an encoding.
    download = pooch.HTTPDownloader(progressbar=True, headers={"Accept-Encoding": "identity"})

    for url in urls:
        try:
            with atomic_write(directory / file.name) as unfinished:
                download(url + file.name, unfinished, None)
                _check(file, Path(unfinished.name), pooch)
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
