"""Oracle: what a reader finds at the path before, during and after a write; POSIX for modes, links and locks."""

import contextlib
import errno
import json
import math
import os
import socket
import stat

import numpy as np
import pytest
import torch

from altmin_ext._files import (
    Replacement,
    atomic_write,
    from_json,
    read_file,
    sealed,
    set_aside,
    to_json,
    unsealed,
    write_file,
)


def names(folder):
    """What a folder holds, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    with atomic_write(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write():
        with atomic_write(path) as file:
            file.write(b"half of the ne")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_new_file_has_the_permissions_of_any_other(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    with atomic_write(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o666])
def test_permissions_of_an_earlier_file_are_kept(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away; to run this test, be root")
def test_owner_of_an_earlier_file_is_kept(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 12345, 23456)
    write_file(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "file").write_bytes(b"old")
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to("disk/file")
    write_file(tmp_path / "first", b"new")
    assert (tmp_path / "first").is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert (tmp_path / "disk" / "file").read_bytes() == b"new"
    assert names(tmp_path / "disk") == ["file"]
    assert names(tmp_path) == ["disk", "first", "second"]


def test_a_link_to_nothing_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "new" / "file")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new" / "file").read_bytes() == b"new"


def test_a_hard_link_keeps_what_it_had(tmp_path):
    """As a copy of a folder made of hard links must, which is how snapshots are often made."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.link(path, tmp_path / "snapshot")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert (tmp_path / "snapshot").read_bytes() == b"old"


def make_folder(path):
    path.mkdir()


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_read_only(path):
    path.write_bytes(b"old")
    path.chmod(0o444)


def make_loop(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (make_folder, "{} must be a file, but is a folder."),
        (os.mkfifo, "{} must be a file, but is a pipe."),
        (make_socket, "{} must be a file, but is a socket."),
        (make_read_only, "{} cannot be written: it is read-only."),
        (make_loop, "{} cannot be written: Too many levels of symbolic links."),
    ],
)
def test_what_cannot_be_replaced_is_left_as_it_is(tmp_path, monkeypatch, make, sentence):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = tmp_path / "x"
    make(path if make is not make_socket else path.relative_to(tmp_path))
    before = os.lstat(path)
    with pytest.raises(OSError, match=r"^/") as error:
        write_file(path, b"new")
    assert str(error.value) == sentence.format(path)
    after = os.lstat(path)
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
    assert names(tmp_path) == ["x"]


def test_a_device_is_neither_written_nor_read():
    for attempt in (lambda: write_file("/dev/null", b"x"), lambda: read_file("/dev/null")):
        with pytest.raises(OSError, match=r"^/dev/null must be a file, but is a device\.$"):
            attempt()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(NotADirectoryError) as error:
        write_file(tmp_path / "file" / "x", b"new")
    assert str(error.value) == f"{tmp_path}/file/x cannot be written: Not a directory."


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_sentence_about_the_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"^/") as error:
        write_file(path, b"new")
    assert str(error.value) == f"{path} cannot be written: No space left on device."
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def in_a_process_killed_at(number, action):
    """Act in a copy of this process that ends at its ``number``-th call of fsync or replace; whether it did."""
    child = os.fork()
    if child == 0:
        calls = [0]

        def killed(call):
            def at(*arguments):
                calls[0] += 1
                if calls[0] == number:
                    os._exit(9)
                return call(*arguments)

            return at

        try:
            os.fsync, os.replace = killed(os.fsync), killed(os.replace)
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_files_killed_at_any_point_are_old_or_new_and_none_is_left_over(tmp_path):
    paths = [tmp_path / name for name in "abc"]

    def write(content):
        with Replacement() as files:
            for path in paths:
                files.write(path, content + path.name.encode())

    write(b"0")
    mixed = number = 0
    while True:
        number += 1
        before = [path.read_bytes() for path in paths]
        new = str(number).encode()
        if not in_a_process_killed_at(number, lambda content=new: write(content)):
            break
        found = [path.read_bytes() for path in paths]
        whole = [new + path.name.encode() for path in paths]
        kinds = [content == after for content, after in zip(found, whole, strict=True)]
        assert all(content in (old, after) for content, old, after in zip(found, before, whole, strict=True))
        assert kinds == sorted(kinds, reverse=True)  # in their order
        # The folder is synchronised last.
        assert any(name.startswith(".") for name in names(tmp_path)) or all(kinds)
        mixed += len(set(kinds)) == 2
        write(b"again")
        assert names(tmp_path) == ["a", "b", "c"]
    assert number > 6  # three times fsync, three times replace, and the folder
    assert mixed == 2  # once the names are given, and not before


def test_a_file_that_another_writer_is_still_writing_is_left_alone(tmp_path):
    with atomic_write(tmp_path / "slow") as slow:
        slow.write(b"slowly")
        write_file(tmp_path / "fast", b"fast")
    assert (tmp_path / "slow").read_bytes() == b"slowly"
    assert names(tmp_path) == ["fast", "slow"]


def test_a_file_of_the_user_is_never_taken_for_a_left_over(tmp_path):
    for name in (".file.tmp", "x.tmp", ".altmin_ext", ".file.12345678.tmp"):
        (tmp_path / name).write_bytes(b"mine")
    write_file(tmp_path / "file", b"new")
    assert names(tmp_path) == sorted([".file.tmp", "x.tmp", ".altmin_ext", ".file.12345678.tmp", "file"])


def test_a_rehearsal_changes_nothing(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    with Replacement(rehearsal=True) as files:
        files.write(tmp_path / "old", b"new")
        files.write(tmp_path / "new", b"new")
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_of_several_files_all_or_none_are_written(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()

    def write():
        with Replacement() as files:
            files.write(tmp_path / "a", b"new")
            files.write(tmp_path / "b", b"new")

    with pytest.raises(IsADirectoryError):
        write()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("written", [False, True])
def test_what_is_set_aside_comes_back_unless_it_is_replaced(tmp_path, written):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with contextlib.suppress(ZeroDivisionError), set_aside(path):
        assert not path.exists()
        write_file(tmp_path / "other", b"")  # clears what others have left, and no more
        if written:
            write_file(path, b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == (b"new" if written else b"old")
    assert names(tmp_path) == ["file", "other"]


def test_where_nothing_is_there_is_nothing_to_set_aside(tmp_path):
    with set_aside(tmp_path / "file"):
        pass
    assert names(tmp_path) == []


def test_what_a_killed_process_has_set_aside_goes_with_its_left_overs(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        with set_aside(path):
            os._exit(0)
    os.waitpid(child, 0)
    write_file(path, b"new")
    assert names(tmp_path) == ["file"]


def test_json_is_standard_json():
    document = {"a": math.nan, "b": [math.inf, 1.5, (-math.inf, 2)], "c": {"d": "nan"}}

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads(to_json(document), parse_constant=refuse)
    assert read == {"a": None, "b": [None, 1.5, [None, 2]], "c": {"d": "nan"}}


def test_numbers_of_numpy_and_torch_are_numbers_in_json():
    document = {
        "a": np.float32(0.5),
        "b": np.int64(3),
        "c": torch.tensor([1.0, math.nan]),
        "d": np.bool_(True),
    }
    assert json.loads(to_json(document)) == {"a": 0.5, "b": 3, "c": [1.0, None], "d": True}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "[-Infinity]",
        "[1e999]",
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        "9" * 5000,
        b"\xff\xfe\x00",
    ],
    ids=["empty", "open", "NaN", "infinity", "1e999", "twice", "deep", "5000 digits", "no text"],
)
def test_json_that_no_reader_should_accept_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        from_json(text if isinstance(text, bytes) else text.encode())


def test_a_seal_notices_every_alteration():
    document = {"name": "relu", "widths": [16, 16], "rate": 0.1, "none": None}
    text = sealed(document)
    assert unsealed(text) == document
    for at in range(len(text)):
        for byte in (text[at] ^ 1, text[at] ^ 32, 0):
            altered = text[:at] + bytes([byte]) + text[at + 1 :]
            try:
                found = unsealed(altered)
            except ValueError:
                continue
            assert found == document  # a space became a line break
    for end in range(len(text)):
        with pytest.raises(ValueError, match=r"."):
            unsealed(text[:end])


def test_a_seal_is_of_what_a_reader_finds():
    """JSON has no tuples, and null in place of NaN."""
    assert unsealed(sealed({"a": (1, math.nan)}, indent=2)) == {"a": [1, None]}


@pytest.mark.parametrize(
    "text", [b"[]", b"3", b"{}", b'{"a": 1}', b'{"a": 1, "sha256": null}', b'{"a":' * 990 + b"1" + b"}" * 990]
)
def test_without_a_seal_nothing_is_accepted(text):
    with pytest.raises(ValueError, match=r"."):
        unsealed(text)
