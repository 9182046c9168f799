"""The readers against files that the tests write from the formats' definitions."""

import gzip
import hashlib
import io
import struct
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


def archive(members, mode="w:gz", **more):
    """A tar archive of files, and of ``more``: names -> changes of the header of a member without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, changes in more.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            for key, value in changes.items():
                setattr(member, key, value)
            tar.addfile(member)
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
        (GOOD_IDX + bytes(5_000_000), r"shape \(3,\) but holds 5000003 values"),
        (bytes([0, 0, 8, 1, 0x3F, 0xFF, 0xFF, 0xFF]), r"shape \(1073741823,\) but holds 0 values"),
        (bytes([0, 0, 8, 1, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2]), "announces 4,294,967,295 bytes in one piece"),
    ],
)
def test_idx_malformed(write, content, complaint):
    with pytest.raises(Malformed, match=complaint):
        read_idx(write(gzip.compress(content)), 1, sha256(GOOD_IDX))


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ((2**31, 2**31), "announces 4,611,686,018,427,387,904 bytes in one piece"),
        ((2**31, 2**31, 2**31), "announces 9,903,520,314,283,042,199,192,993,792 bytes in one piece"),
        ((2**31, 2**31, 0), "sha256"),
    ],
)
def test_idx_that_announces_more_than_there_is_takes_no_memory(write, sizes, complaint):
    """The product of the sizes does not fit into 64 bits; or one of them is 0, so that nothing is missing."""
    content = struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
    with pytest.raises(Malformed, match=complaint):
        read_idx(write(content), len(sizes), sha256(GOOD_IDX))


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


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_cifar_with_a_pickle_a_folder_and_absolute_names(write, mode):
    """Only the wanted names count, and nothing is unpacked to disk."""
    content = cifar_batch(2, seed=1)[2]
    members = {"../../a.bin": content, "/etc/b.bin": content, "batches.meta": b"\x80\x04."}
    folder = {"type": tarfile.DIRTYPE}
    path = write(archive(members, mode, folder=folder), "cifar.tar.gz")
    batches = read_cifar(path, {"a.bin": sha256(content), "b.bin": sha256(content)})
    assert [len(labels) for _, labels in batches] == [2, 2]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "a.bin"}, "lacks a.bin"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "lacks a.bin"),
        ({"type": tarfile.LNKTYPE, "linkname": "cifar-10-batches-bin/a.bin"}, "lacks a.bin"),
        ({"type": tarfile.FIFOTYPE}, "lacks a.bin"),
        ({"type": tarfile.CHRTYPE}, "lacks a.bin"),
        ({"size": 8**11 - 1}, "announces 8,589,934,591 bytes in one piece"),
        ({"size": 2**80}, "damaged tar archive"),
        ({"size": 3073}, "damaged tar archive"),
    ],
)
def test_cifar_member_that_is_no_such_file(write, changes, complaint):
    path = write(archive({}, "w", a=changes)[:1024], "cifar.tar.gz")
    with open(path, "ab") as file:
        file.write(bytes(1024) if "type" in changes else b"")
    with pytest.raises(Malformed, match=complaint):
        read_cifar(path, {"a.bin": sha256(bytes(3073))})


def test_cifar_member_twice(write):
    content = cifar_batch(1, seed=1)[2]
    path = write(archive({"a.bin": content, "other/a.bin": content}), "cifar.tar.gz")
    with pytest.raises(Malformed, match=r"holds a\.bin twice"):
        read_cifar(path, {"a.bin": sha256(content)})


def altered(content, generator):
    """Content with a few bytes set, removed, inserted or repeated."""
    content = bytearray(content)
    for _ in range(generator.integers(1, 4)):
        at = int(generator.integers(len(content))) if content else 0
        end = at + int(generator.integers(1, 9))
        change = generator.integers(4)
        if change == 0:
            content[at:end] = generator.integers(0, 256, end - at, np.uint8).tobytes()
        elif change == 1:
            del content[at : end if generator.integers(4) else len(content)]
        elif change == 2:
            content[at:at] = generator.integers(0, 256, end - at, np.uint8).tobytes()
        else:
            content[at:at] = content[at:end] * 100
    return bytes(content)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "altered before it was packed"])
@pytest.mark.parametrize("kind", ["idx", "cifar", "csv"])
def test_altered_files_are_refused_or_read_as_they_were(write, kind, packed):
    idx = GOOD_IDX
    batch = cifar_batch(1, seed=1)[2]
    rows = b"1,0.5,-2e-3\n0,1,.25\n" * 5
    plain, whole, read = {
        "idx": (idx, gzip.compress(idx, mtime=0), lambda path: read_idx(path, 1, sha256(idx))),
        "cifar": (
            archive({"a.bin": batch}, "w"),
            archive({"a.bin": batch}),
            lambda path: read_cifar(path, {"a.bin": sha256(batch)})[0][0],
        ),
        "csv": (rows, gzip.compress(rows, mtime=0), lambda path: read_csv(path, 3)),
    }[kind]
    right = read(write(whole))
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        content = altered(whole, generator) if packed else gzip.compress(altered(plain, generator))
        path = write(content)
        try:
            found = read(path)
        except Malformed:
            refused += 1
            continue
        assert np.isfinite(found).all()
        if kind != "csv" or packed:  # another number in a table is another table
            np.testing.assert_array_equal(found, right)
    assert refused > 100


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
        (gzip.compress(b"1,2,3\n4,nan,6\n", mtime=0), "holds nan, no finite number, in row 2, column 2"),
        (gzip.compress(b"1,2,-inf\n4,5,6\n", mtime=0), "holds -inf, no finite number, in row 1, column 3"),
        (gzip.compress(b"1,2,3\n1e39,5,6\n", mtime=0), "holds inf, no finite number, in row 2, column 1"),
        (
            gzip.compress(b"1,2,3\n" + b"9" * 400 + b",5,6\n", mtime=0),
            "holds inf, no finite number, in row 2",
        ),
        (gzip.compress(b"1,2,3\n4,5,6\n7,8,9\n", mtime=0), "holds more than 2 rows instead of 2"),
        (gzip.compress(b"1,2,3\n4,,6\n", mtime=0), "not a table of numbers .*row 1, column 2"),
        (gzip.compress(b"1,2,3\n4,\xff,6\n", mtime=0), "not a table of numbers"),
        (gzip.compress(b"1,2,3\n4,0x10,6\n", mtime=0), "not a table of numbers"),
        (gzip.compress(b"", mtime=0), "holds 0 rows instead of 2"),
        (gzip.compress(b"\n\n", mtime=0), "holds 0 rows instead of 2"),
    ],
)
def test_csv_malformed(write, content, complaint):
    with pytest.raises(Malformed, match=complaint):
        read_csv(write(content, "table.csv.gz"), columns=3, rows=2)
