"""The readers against files that the tests write from the formats' definitions."""

import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest

from altmin_ext.data._formats import Malformed, read_cifar, read_csv, read_idx


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def write(tmp_path):
    def write(content, name="file.gz"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def archive(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(7,), (0,), (3, 4, 5)])
@pytest.mark.parametrize("wrap", [gzip.compress, bytes], ids=["gzip", "unpacked by the server"])
def test_idx_round_trip(write, to_idx, shape, wrap):
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    content = to_idx(array)
    np.testing.assert_array_equal(read_idx(write(wrap(content)), len(shape), sha256(content)), array)


GOOD_IDX = bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 6, 7])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not an IDX file"),
        (b"<html>no such file</html>", "not an IDX file"),
        (GOOD_IDX[:6], "not an IDX file"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 0]), "1 dimensions of IDX type 13, not 1 of type 8"),
        (bytes([0, 0, 8, 3]) + bytes(12), "3 dimensions of IDX type 8, not 1"),
        (GOOD_IDX[:-1], r"shape \(3,\) but holds 2 values"),
        (GOOD_IDX + b"x", r"shape \(3,\) but holds 4 values"),
        (GOOD_IDX[:-1] + b"x", "sha256 of its content is .* instead of"),
    ],
)
def test_idx_malformed(write, content, complaint):
    with pytest.raises(Malformed, match=complaint):
        read_idx(write(gzip.compress(content)), 1, sha256(GOOD_IDX))


@pytest.mark.parametrize(
    "damage", [lambda z: z[:-9], lambda z: z[:12] + b"\xff\xff" + z[14:], lambda z: z[:5]]
)
def test_idx_damaged_gzip(write, damage):
    with pytest.raises(Malformed, match="damaged gzip file"):
        read_idx(write(damage(gzip.compress(GOOD_IDX))), 1, sha256(GOOD_IDX))


def cifar_batch(n, seed):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (n, 3, 32, 32), np.uint8)
    labels = generator.integers(0, 10, n, np.uint8)
    return images, labels, b"".join(bytes([y]) + x.tobytes() for x, y in zip(images, labels, strict=True))


def test_cifar_round_trip_in_the_order_asked_for(write):
    first, second = cifar_batch(2, seed=1), cifar_batch(3, seed=2)
    path = write(archive({"readme.txt": b"hello", "b.bin": second[2], "a.bin": first[2]}), "cifar.tar.gz")
    batches = read_cifar(path, {"a.bin": sha256(first[2]), "b.bin": sha256(second[2])})
    assert len(batches) == 2
    for (images, labels), (expected_images, expected_labels, _) in zip(batches, (first, second), strict=True):
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"b.bin": bytes(3073)}, "lacks a.bin"),
        ({"a.bin": bytes(3072)}, "3072 bytes of a.bin, which is no multiple of 3073"),
        ({"a.bin": b""}, "0 bytes of a.bin"),
        ({"a.bin": b"\x0a" + bytes(3072)}, "label 10 in a.bin"),
        ({"a.bin": bytes(2 * 3073)}, "sha256 of its content of a.bin is .* instead of"),
    ],
)
def test_cifar_malformed(write, members, complaint):
    with pytest.raises(Malformed, match=complaint):
        read_cifar(write(archive(members), "cifar.tar.gz"), {"a.bin": sha256(bytes(3073))})


def test_cifar_damaged_archive(write):
    content = archive({"a.bin": cifar_batch(4, seed=3)[2]})
    for damaged in (b"", b"<html></html>", content[:-2000], content[:5]):
        with pytest.raises(Malformed, match="damaged tar archive"):
            read_cifar(write(damaged, "cifar.tar.gz"), {"a.bin": sha256(bytes(3073))})


def test_csv(write):
    path = write(gzip.compress(b"1,0.5,-2e-3\n0,1,.25\n"), "table.csv.gz")
    table = read_csv(path, columns=3)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, np.array([[1, 0.5, -2e-3], [0, 1, 0.25]], np.float32))
    np.testing.assert_array_equal(read_csv(path, columns=3, rows=2), table)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (gzip.compress(b"1,2\n3,4\n", mtime=0), "2 columns instead of 3"),
        (gzip.compress(b"1,2,3\n", mtime=0), "1 rows instead of 2"),
        (gzip.compress(b"label,a,b\n1,2,3\n", mtime=0), "not a table of numbers .*'label'"),
        (gzip.compress(b"1,2,3\n4,5\n", mtime=0), "not a table of numbers .*row 2"),
        (gzip.compress(b"1,2,3\n4,5,6\n", mtime=0)[:-4], "damaged gzip file"),
        (b"1,2,3\n4,5,6\n", "damaged gzip file"),
    ],
)
def test_csv_malformed(write, content, complaint):
    with pytest.raises(Malformed, match=complaint):
        read_csv(write(content, "table.csv.gz"), columns=3, rows=2)
