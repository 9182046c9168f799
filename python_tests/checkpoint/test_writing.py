"""Oracle: the order in which POSIX makes a file durable, as calls are recorded; what a reader finds after a kill.

A rename is atomic, and may reach the disk before what the file holds. So the content must be on disk before the
rename, and the folder's entry after it.
"""

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from altmin_ext import _files
from altmin_ext.checkpoint import _file
from altmin_ext.checkpoint._file import read, write

from .second_reader import same


def tree(steps, size=1000):
    return {"model": {"weight": torch.full((size,), float(steps))}, "method": {"steps": steps}}


def steps_in(path):
    found = read(path)
    assert same(found, tree(found["method"]["steps"]))
    return found["method"]["steps"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


class Recorded:
    """A file that records what is done to it."""

    def __init__(self, file, record):
        self._file, self._record = file, record

    def __getattr__(self, name):
        found = getattr(self._file, name)
        if name not in ("write", "flush", "seek", "close"):
            return found

        def call(*arguments):
            self._record(name)
            return found(*arguments)

        return call


def opening(record):
    """An ``open`` whose new files record what is done to them."""

    def opened(name, mode="r"):
        file = open(name, mode)  # noqa: SIM115
        return Recorded(file, record) if "x" in mode else file

    return opened


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """The calls that write files, in their order; an fsync also tells what a reader finds at that moment."""
    made = []
    unrecorded = {name: getattr(os, name) for name in ("fsync", "replace", "link", "unlink", "rename")}

    def recorded(name):
        def call(*arguments):
            if name == "fsync":
                where = os.readlink(f"/proc/self/fd/{arguments[0]}")
                content = None if os.path.isdir(where) else Path(where).read_bytes()
                made.append(("fsync", "folder" if content is None else "file", content))
            elif name != "unlink" or os.path.lexists(arguments[0]):
                made.append((name, *(os.path.basename(argument) for argument in arguments)))
            return unrecorded[name](*arguments)

        return call

    monkeypatch.setattr(_files, "open", opening(lambda call: made.append((call,))), raising=False)
    for name in unrecorded:
        monkeypatch.setattr(os, name, recorded(name))
    return made


def test_the_order_of_the_calls(path, calls):
    write(path, tree(1))
    order = [call[0] for call in calls if call[0] not in ("write", "seek")]
    assert order == ["flush", "fsync", "replace", "fsync", "close"]
    last_write = max(i for i, call in enumerate(calls) if call[0] == "write")
    assert last_write < [call[0] for call in calls].index("flush")
    (_, kind, content), (_, last, _) = (call for call in calls if call[0] == "fsync")
    assert (kind, last) == ("file", "folder")
    assert content == path.read_bytes()  # whole when it is synchronised, not in a buffer
    (replace,) = (call for call in calls if call[0] == "replace")
    assert replace[1].startswith(".altmin_ext-unfinished-")
    assert replace[2] == path.name


def test_the_order_of_the_calls_where_a_former_file_is_kept(path, calls):
    write(path, tree(1))
    calls.clear()
    write(path, tree(2), keep=1)
    assert [call[0] for call in calls if call[0] not in ("write", "seek")] == [
        "flush", "fsync", "link", "replace", "fsync", "close",
    ]  # fmt: skip
    (link,) = (call for call in calls if call[0] == "link")
    assert link[1:] == ("run.safetensors", "run-1.safetensors")


def test_no_call_hides_in_the_library(path, calls):
    """safetensors writes nothing itself; all that is written goes through the file that is recorded."""
    write(path, tree(1))
    assert sum(call[0] == "replace" for call in calls) == 1
    assert names(path.parent) == [path.name]


# --- kills and full disks ---


def killed_at(number, action):
    """Act in a copy of this process that is killed at its ``number``-th call that writes files; whether it was."""
    child = os.fork()
    if child == 0:
        count = [0]

        def counted(call):
            def at(*arguments):
                count[0] += 1
                if count[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments)

            return at

        try:
            for name in ("fsync", "replace", "link", "unlink"):
                setattr(os, name, counted(getattr(os, name)))
            _files.open = opening(lambda _: counted(lambda: None)())
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("keep", [0, 2])
def test_a_save_killed_at_any_call_leaves_a_whole_file_and_nothing_after_the_next(path, keep):
    for steps in (1, 2, 3):
        write(path, tree(steps), keep=keep)
    number = kills = with_left_over = 0
    while True:
        number += 1
        before = steps_in(path)
        if not killed_at(number, lambda steps=before + 1: write(path, tree(steps), keep=keep)):
            break
        kills += 1
        assert steps_in(path) in (before, before + 1)
        formers = [name for name in names(path.parent) if name.startswith("run-")]
        for name in formers:
            steps_in(path.with_name(name))
        assert len(formers) >= keep
        with_left_over += any(name.startswith(".") for name in names(path.parent))
        steps = steps_in(path) + 1
        write(path, tree(steps), keep=keep)
        assert len(names(path.parent)) == 1 + keep
        assert steps_in(path) == steps
    assert kills >= 8  # seek, write, seek, write, flush, fsync, replace, fsync
    assert with_left_over >= 6


@pytest.mark.parametrize("failing", ["write", "flush", "fsync", "replace", "link"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_is_full_or_broken(path, monkeypatch, failing, code):
    write(path, tree(1))
    before = path.read_bytes()

    def fail(*_):
        raise OSError(code, os.strerror(code))

    if failing in ("write", "flush"):
        opened = opening(lambda call: fail() if call == failing else None)
        monkeypatch.setattr(_files, "open", opened, raising=False)
    else:
        monkeypatch.setattr(os, failing, fail)
    if failing == "link":
        monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(OSError, match=rf"^{path.parent}/.*{os.strerror(code)}\.$") as error:
        write(path, tree(2), keep=1)
    monkeypatch.undo()
    assert str(error.value).count(" cannot be written: ") == 1
    assert error.value.errno == code
    assert path.read_bytes() == before
    # A former file may have its second name already.
    assert names(path.parent) == ["run-1.safetensors"] * (failing == "replace") + [path.name]
    write(path, tree(2), keep=1)
    assert names(path.parent) == ["run-1.safetensors", path.name]


def test_a_full_disk_is_told_before_anything_is_written(path, monkeypatch):
    record = []

    def full(descriptor, begin, size):
        record.append(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(path, tree(1))
    size = path.stat().st_size
    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(_files, "open", opening(record.append), raising=False)
    with pytest.raises(OSError, match=rf"^{path} cannot be written: No space left on device\.$"):
        write(path, tree(2))
    assert record[0] == size
    assert "write" not in record
    assert names(path.parent) == [path.name]
    assert steps_in(path) == 1


def test_a_file_system_that_sets_no_space_aside(path, monkeypatch):
    def none(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", none)
    write(path, tree(1))
    assert steps_in(path) == 1


def test_a_limit_of_file_sizes(path):
    """A real one, of the kernel, below the size of the file."""
    write(path, tree(1))
    child = os.fork()
    if child == 0:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            write(path, tree(2))
        except OSError as error:
            os._exit(7 if str(error) == f"{path} cannot be written: File too large." else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert steps_in(path) == 1
    assert names(path.parent) == [path.name]


# --- former files ---


def test_the_newest_former_files_stay(path):
    for steps in (10, 20, 30, 40, 50):
        write(path, tree(steps), keep=2)
    assert names(path.parent) == ["run-30.safetensors", "run-40.safetensors", "run.safetensors"]
    assert [steps_in(path.with_name(name)) for name in names(path.parent)] == [30, 40, 50]
    write(path, tree(60), keep=1)
    assert names(path.parent) == ["run-50.safetensors", "run.safetensors"]
    write(path, tree(70))
    assert names(path.parent) == ["run-50.safetensors", "run.safetensors"]


def test_newest_are_those_that_were_written_last(path):
    """A run that began anew has fewer steps than the files of the one before."""
    for steps in (100, 200, 5, 10, 15):
        write(path, tree(steps), keep=2)
    assert names(path.parent) == ["run-10.safetensors", "run-5.safetensors", "run.safetensors"]


def test_a_file_of_as_many_steps_is_replaced(path):
    write(path, tree(10), keep=2)
    write(path, tree(10), keep=2)
    assert names(path.parent) == ["run.safetensors"]
    write(path, tree(20), keep=2)
    write(path, tree(10), keep=2)
    write(path, tree(20), keep=2)  # whose former is of as many steps as a file that is there
    assert names(path.parent) == ["run-10.safetensors", "run-20.safetensors", "run.safetensors"]
    assert steps_in(path.with_name("run-10.safetensors")) == 10


def test_a_former_file_that_cannot_be_removed_fails_no_save(path, monkeypatch):
    for steps in (1, 2, 3):
        write(path, tree(steps), keep=2)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "unlink", refuse)
    _file.remove_formers(path, 1)  # as after a write
    assert names(path.parent) == ["run-1.safetensors", "run-2.safetensors", "run.safetensors"]


def test_files_of_others_are_left_alone(path):
    folder = path.parent
    others = [
        "run-1.safetensors",
        "run-x.safetensors",
        "run-2.txt",
        "run-3.safetensors.bak",
        "other-1.safetensors",
        "run-.safetensors",
    ]
    for name in others:
        (folder / name).write_bytes(b"mine")
    (folder / "run-4.safetensors").mkdir()
    for steps in (10, 20, 30):
        write(path, tree(steps), keep=1)
    assert names(folder) == sorted([*others, "run-4.safetensors", "run-20.safetensors", "run.safetensors"])
    assert all((folder / name).read_bytes() == b"mine" for name in others)


def test_other_runs_with_numbered_names_are_left_alone(path):
    """Neither removed as former files, nor replaced by one; their steps are not those of their names."""
    others = [path.with_name(f"run-{number}.safetensors") for number in (1, 2, 30)]
    for other in others:
        write(other, tree(500))
    path.with_name("run-20.safetensors").write_bytes(b"mine")
    for steps in (10, 20, 30, 40):
        write(path, tree(steps), keep=1)
    assert all(steps_in(other) == 500 for other in others)
    assert path.with_name("run-20.safetensors").read_bytes() == b"mine"
    assert steps_in(path) == 40
    write(path, tree(50), keep=1)
    assert names(path.parent) == sorted(
        [*(other.name for other in others), "run-20.safetensors", "run-40.safetensors", "run.safetensors"]
    )


@pytest.mark.parametrize("content", [b"", b"something else" * 100, None], ids=["empty", "other", "altered"])
def test_what_is_no_checkpoint_is_replaced(path, content):
    write(path, tree(1))
    altered = bytearray(path.read_bytes())
    altered[200] ^= 1
    path.write_bytes(bytes(altered) if content is None else content)
    write(path, tree(2), keep=3)
    assert names(path.parent) == ["run.safetensors"]
    assert steps_in(path) == 2


def test_a_history_names_a_file_without_a_method(path):
    write(path, {"history": {"steps": 7}})
    write(path, {"history": {"steps": 8}}, keep=1)
    write(path, {"extra": {}}, keep=1)
    write(path, {"extra": {}}, keep=1)
    assert names(path.parent) == ["run-8.safetensors", "run.safetensors"]


def test_names_of_any_form(tmp_path):
    for name, former in (
        ("run", "run-1"),
        ("a.b.c", "a.b-1.c"),
        (".hidden", ".hidden-1"),
        ("[x]*.st", "[x]*-1.st"),
    ):
        folder = tmp_path / name
        write(folder / name, tree(1), keep=1)
        write(folder / name, tree(2), keep=1)
        assert names(folder) == sorted([former, name])
        write(folder / name, tree(3), keep=1)
        assert len(names(folder)) == 2


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk/file")
    for steps in (1, 2, 3):
        write(tmp_path / "run", tree(steps), keep=1)
    assert names(tmp_path) == ["disk", "run"]
    assert names(tmp_path / "disk") == ["file", "file-2"]
    assert steps_in(tmp_path / "run") == 3


def test_without_hard_links_a_former_file_is_a_copy(path, monkeypatch):
    def none(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    write(path, tree(1))
    path.chmod(0o640)
    for steps in (2, 3):
        write(path, tree(steps), keep=1)
    assert names(path.parent) == ["run-2.safetensors", "run.safetensors"]
    assert steps_in(path.with_name("run-2.safetensors")) == 2
    assert path.with_name("run-2.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_former_file_of_the_same_name_has_no_other_name_afterwards(path):
    write(path, tree(1))
    write(path, tree(2), keep=1)
    assert path.with_name("run-1.safetensors").stat().st_nlink == 1
    assert path.stat().st_nlink == 1
