"""Oracle: what a reader finds at the path before, during and after a write."""

import json
import math

import pytest

from altmin_ext._files import atomic_write, to_json


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


def test_json_is_standard_json():
    document = {"a": math.nan, "b": [math.inf, 1.5, (-math.inf, 2)], "c": {"d": "nan"}}

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads(to_json(document), parse_constant=refuse)
    assert read == {"a": None, "b": [None, 1.5, [None, 2]], "c": {"d": "nan"}}
