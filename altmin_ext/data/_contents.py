"""What a user's own file holds: a table of named columns, an array of samples, or the images of a folder.

Every reader raises :class:`Malformed` where a file cannot be taken as it is: nothing is guessed or half read.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from altmin_ext._extras import require
from altmin_ext._files import open_file
from altmin_ext.data._formats import Malformed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
# Modes of Pillow whose images are taken, and whether they are in colour; None: that depends on a palette.
_MODES = {"1": False, "L": False, "LA": False, "P": None, "PA": None, "RGB": True, "RGBA": True}


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds, before it is made tensors.

    Attributes:
        kind: "table", "array" or "images".
        x: of a table, its columns by name, each (N,); otherwise the samples (N, ...), for images uint8 (N, C, H, W).
        y: of an array its targets, (N,) or (N, K), of images the names of their folders; None where there are none,
            and for a table, whose target is one of its columns.
        names: of images, their paths within the folder.
        test: what the same file holds to test on, if it says so.
    """

    kind: str
    x: Any
    y: NDArray[Any] | None = None
    names: Sequence[str] = ()
    test: Content | None = None

    def __len__(self) -> int:
        return len(next(iter(self.x.values()))) if self.kind == "table" else len(self.x)


def kind_of(path: Path) -> str | None:
    """The kind of file that a path names, by its suffix; "folder" for a folder, None for one that is not known."""
    if path.is_dir():
        return "folder"
    suffix = path.suffix.lower()
    return suffix if suffix in _readers else None


def read(path: Path, target: str | None, image_size: tuple[int, int] | None) -> Content:
    """Read a file or folder.

    Args:
        path: a .csv, .tsv, .parquet, .npz or .npy file, or a folder of images.
        target: of an .npz file, the name of the array with the targets, "y" if None; of an .npy file, the path of
            that with the targets.
        image_size: (height, width) that images are brought to; None for that which all have.

    Raises:
        Malformed: the file cannot be taken as it is.
        ImportError: a package that reads it is missing.
        OSError: it cannot be read.
    """
    kind = kind_of(path)
    if kind is None:
        path.stat()  # a file that is not there is more to the point
        raise Malformed(f"must be a folder of images, or end in {', '.join(_readers)}")
    if kind == "folder":
        content = _read_images(path, image_size)
    else:
        if image_size is not None:
            raise Malformed("is no folder of images, so that there is no image_size")
        content = _readers[kind](path, target)
    if len(content) == 0:
        raise Malformed("holds no rows")
    return content


# --- tables ---


def _read_csv(path: Path, target: str | None) -> Content:
    _check_size(os.stat(path).st_size)
    pandas = require("pandas", "pandas")
    names: list[str] = []
    tabs = path.suffix.lower() == ".tsv"
    try:
        with io.TextIOWrapper(open_file(path), encoding="utf-8-sig", newline="") as file:
            names, separator = _header(file, ["\t"] if tabs else list(_SEPARATORS))
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("error", pandas.errors.ParserWarning)  # of rows that are cut
                frame = pandas.read_csv(
                    file, sep=separator, header=0, names=names, index_col=False, low_memory=False,
                    skipinitialspace=True,
                )  # fmt: skip
    except UnicodeDecodeError as error:
        raise Malformed(
            f"must be text in UTF-8, but has the byte 0x{error.object[error.start]:02x}; save it in that encoding"
        ) from error
    except pandas.errors.ParserWarning as error:
        raise Malformed(f"has rows of more than the {len(names)} columns that its header names") from error
    except (ValueError, csv.Error) as error:  # also pandas' ParserError
        if isinstance(error, Malformed):
            raise
        reason = str(error).strip().partition("\n")[0].rsplit("C error: ")[-1].rstrip(".")
        raise Malformed(f"is no table ({reason[:200]})") from error
    return _table(frame)


def _header(file: io.TextIOWrapper, separators: list[str]) -> tuple[list[str], str]:
    """The names in the first row, and the separator: the first one that separates anything."""
    for separator in [*separators, separators[0]]:
        file.seek(0)
        cells: list[str] = next(
            (row for row in csv.reader(file, delimiter=separator, strict=True) if row), []
        )
        if not cells:
            raise Malformed("is empty")
        if len(cells) > 1:
            break
    names = [cell.strip() for cell in cells]
    if all(number_in(name) is not None for name in names):
        raise Malformed("must have the names of its columns in the first row, but has numbers there")
    _check_names(names)
    return names, separator


def _read_parquet(path: Path, target: str | None) -> Content:
    pandas = require("pandas", "parquet")
    parquet = require("pyarrow.parquet", "parquet")
    with open_file(path) as file:
        try:
            metadata = parquet.ParquetFile(file).metadata
            _check_size(metadata.num_rows * metadata.num_columns * 8)
            file.seek(0)
            frame = pandas.read_parquet(file, engine="pyarrow")
        except Malformed:
            raise
        except Exception as error:  # pyarrow raises almost anything on damaged content
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise Malformed(f"is no parquet file ({reason[:200]})") from error
    return _table(frame)


def _table(frame: Any) -> Content:
    """The columns of a DataFrame as arrays: numbers as they are, all else as objects, None where one is missing."""
    _check_names([str(name) for name in frame.columns])
    columns = {}
    for name, (_, series) in zip(map(str, frame.columns), frame.items(), strict=True):
        values = series.to_numpy()
        if values.dtype.kind not in "biuf":
            missing = series.isna().to_numpy()
            values = series.to_numpy(dtype=object, copy=True)
            values[missing] = None
        columns[name] = values
    return Content("table", columns)


def _check_names(names: list[str]) -> None:
    for number, name in enumerate(names, 1):
        if not name:
            raise Malformed(
                f"must name all of its columns, but not column {number}; name it, or leave it out, as "
                "DataFrame.to_csv(..., index=False) leaves out an index"
            )
        if name in names[: number - 1]:
            raise Malformed(f"must name each column once, but has {name!r} twice")


def number_in(text: str) -> float | None:
    """The number that a text is, in digits of ASCII; None if it is none."""
    return float(text) if _NUMBER.fullmatch(text) else None


# --- arrays ---


def _read_npz(path: Path, target: str | None) -> Content:
    with open_file(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                _check_size(sum(member.file_size for member in archive.infolist()))
            file.seek(0)
            with np.load(file, allow_pickle=False) as loaded:
                arrays = {name: loaded[name] for name in loaded.files}
        except Malformed:
            raise
        except Exception as error:  # zipfile and NumPy raise almost anything on damaged content
            raise Malformed(f"is no .npz file of arrays ({_reason(error)})") from error
    y = target or "y"
    for x in ("x", "X"):
        if {x, y} <= arrays.keys() or (x in arrays and target is None):
            test = _samples(arrays[f"{x}_test"], arrays.get(f"{y}_test")) if f"{x}_test" in arrays else None
            return dataclasses.replace(_samples(arrays[x], arrays.get(y)), test=test)
        if {f"{x}_train", f"{y}_train"} <= arrays.keys():
            test = _samples(arrays[f"{x}_test"], arrays.get(f"{y}_test")) if f"{x}_test" in arrays else None
            return dataclasses.replace(_samples(arrays[f"{x}_train"], arrays[f"{y}_train"]), test=test)
    if (
        arrays
        and all(array.ndim == 1 for array in arrays.values())
        and len(set(map(len, arrays.values()))) == 1
    ):
        columns = {name: _column(array) for name, array in arrays.items()}
        _check_names(list(columns))
        return Content("table", columns)
    raise Malformed(
        f"must hold x and {y}, or x_train, {y}_train, x_test and {y}_test, or columns of one length, but holds "
        f"{', '.join(f'{name} {array.shape}' for name, array in list(arrays.items())[:20]) or 'nothing'}"
    )


def _read_npy(path: Path, target: str | None) -> Content:
    x = _read_array(path)
    if target is None:
        return _samples(x, None)
    labels = Path(target)
    if labels.suffix.lower() != ".npy":
        raise Malformed(f"must come with a target that is the .npy file of the targets, not {target!r}")
    try:
        return _samples(x, _read_array(labels))
    except Malformed as error:
        raise Malformed(f"has the targets {labels}, which {error}") from error


def _read_array(path: Path) -> NDArray[Any]:
    with open_file(path) as file:
        try:
            _check_size(os.fstat(file.fileno()).st_size)
            array = np.load(file, allow_pickle=False)
        except Malformed:
            raise
        except Exception as error:  # as above
            raise Malformed(f"is no .npy file of an array ({_reason(error)})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise Malformed("is no .npy file of an array, but an .npz file")
    return array


def _reason(error: Exception) -> str:
    text = str(error).strip("'\"").partition("\n")[0].rstrip(".") or type(error).__name__
    return "pickled objects are not read" if "pickle" in text else text[:200]


def _samples(x: NDArray[Any], y: NDArray[Any] | None) -> Content:
    if x.dtype.kind not in "biuf":
        raise Malformed(f"must hold x of numbers, but of {x.dtype}")
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise Malformed(f"must hold x (N, ...) with at least two dimensions, but of shape {x.shape}")
    if y is not None:
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim not in (1, 2) or len(y) != len(x):
            raise Malformed(
                f"must hold a target for each of its {len(x):,} samples, but has some of shape {y.shape}"
            )
        y = _column(y)
    # As in images(): one channel where there is none.
    return Content("array", x[:, None] if x.ndim == 3 else x, y)


def _column(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(object) if values.dtype.kind in "US" else values


# --- images ---


def _read_images(folder: Path, size: tuple[int, int] | None) -> Content:
    image_module = require("PIL.Image", "images")
    paths = list(_image_paths(folder))
    if not paths:
        raise Malformed("holds no images")
    classes = {path.parent for path in paths}
    if folder in classes and len(classes) > 1:
        raise Malformed("must hold images, or folders of images, one for each class, but holds both")
    pieces: list[NDArray[np.uint8]] = []
    colours: list[bool] = []
    for path in paths:
        name = path.relative_to(folder)
        try:
            pixels, coloured = _read_image(image_module, path, size)
        except Malformed as error:
            raise Malformed(f"holds {name}, which {error}") from error
        if pieces and pixels.shape[:2] != pieces[0].shape[:2]:
            raise Malformed(
                f"must hold images of one size, but {paths[0].relative_to(folder)} has {_size(pieces[0])} and {name} "
                f"{_size(pixels)} pixels; choose one with image_size"
            )
        if not pieces:
            _check_size(len(paths) * 5 * pixels.size)
        pieces.append(pixels)
        colours.append(coloured)
    if not any(colours):
        pieces = [piece[:, :, :1] for piece in pieces]
    x = np.stack(pieces).transpose(0, 3, 1, 2)
    names = [str(path.relative_to(folder)) for path in paths]
    y = None if folder in classes else np.array([path.parent.name for path in paths], dtype=object)
    return Content("images", np.ascontiguousarray(x), y, names)


def _image_paths(folder: Path, depth: int = 0) -> Iterator[Path]:
    """The images in a folder and in the folders within it, in the order of their names; hidden files are left out."""
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    for path in entries:
        if path.is_dir():
            if depth:
                raise Malformed(f"must hold a folder for each class, but {path} is a folder within one")
            below = list(_image_paths(path, 1))
            if not below:
                raise Malformed(f"must hold images of every class, but none in {path.name}")
            yield from below
        elif path.suffix.lower() in _IMAGES:
            yield path
        else:
            raise Malformed(f"must hold nothing but images, but holds {path.name}; take it away")


def _read_image(images: Any, path: Path, size: tuple[int, int] | None) -> tuple[NDArray[np.uint8], bool]:
    """An image (H, W, 3), and whether it is in colour."""
    operations = require("PIL.ImageOps", "images")
    with open_file(path) as file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", images.DecompressionBombWarning)
                with images.open(file) as image:
                    if getattr(image, "n_frames", 1) > 1:
                        raise Malformed(f"must be one image, but has {image.n_frames}")
                    if image.mode not in _MODES:
                        raise Malformed(
                            f"must be grey or in colour with 8 bits a channel, but has Pillow's mode {image.mode}"
                        )
                    image.load()
                    upright = operations.exif_transpose(image)
                    coloured = _MODES[upright.mode]
                    transparent = upright.convert("RGBA")
        except Malformed:
            raise
        except Exception as error:  # Pillow raises almost anything on damaged content
            raise Malformed(f"is no image that Pillow can read ({_reason(error)})") from error
    if transparent.getextrema()[3][0] < 255:
        raise Malformed("must be opaque, but has transparent pixels; put it on a background")
    plain = transparent.convert("RGB")
    if coloured is None:
        pixels = np.asarray(plain)
        coloured = bool((pixels != pixels[:, :, :1]).any())
    if size is not None:
        plain = plain.resize((size[1], size[0]), images.Resampling.BILINEAR)
    return np.asarray(plain), coloured


def _size(pixels: NDArray[Any]) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


# --- memory ---


def _check_size(needed: int) -> None:
    """Raise Malformed if so many bytes are more than the memory of the machine."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise Malformed(
            f"must fit into the {there / 2**30:,.1f} GiB of memory here, but needs at least {needed / 2**30:,.1f} GiB"
        )


_readers: dict[str, Callable[[Path, str | None], Content]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".npz": _read_npz,
    ".npy": _read_npy,
}
