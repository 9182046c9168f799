"""Oracle: an altered file is refused by one sentence that names it; only with every sha256 made right again may it be
read, as just what it then says. Memory: what the process has at its peak, as the system counts it."""

import copy
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from altmin_ext.checkpoint._file import read, read_header, write

from .second_reader import Parts, compact, same, tree_in, with_header, with_seal

TREE = {
    "model": {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.arange(2.0)},
    "list": [1, 2.5, float("inf"), "word", None, True, (b"bytes",), {3: np.arange(3)}, 2**70],
    "number": np.float32(0.1), "empty": torch.zeros(0, 2), "bool": torch.tensor([True, False]),
    "complex": torch.ones(2, dtype=torch.complex128),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("altered")


@pytest.fixture(scope="module")
def good(folder):
    write(folder / "good", TREE)
    return (folder / "good").read_bytes()


def put(path, content):
    """Give a file this content."""
    if not path.exists():
        path.touch()
    with open(path, "r+b") as file:  # some file systems wait for the disk where a file is emptied first
        file.write(content)
        file.truncate()


def attempt(path, content):
    """The tree that is read, or None, and the sentence by which the content is refused."""
    put(path, content)
    try:
        return read(path), None
    except ValueError as error:
        return None, str(error)


@pytest.fixture
def check(folder):
    """Checks that a content is refused by one sentence that names the file, and returns the reason."""

    def refused(content):
        _, sentence = attempt(folder / "file", content)
        assert sentence is not None, "it is read"
        return reason_in(sentence, folder / "file")

    return refused


def reason_in(sentence, path):
    begin = f"{str(path)!r} must be a checkpoint written by altmin_ext, but is not: "
    assert sentence.startswith(begin)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence[len(begin) :]


def header_length(content):
    return int.from_bytes(content[:8], "little")


def test_every_truncation(good, check):
    for size in range(len(good)):
        check(good[:size])


def test_every_bit_of_the_header(good, check):
    begin = good.index(b'"altmin_ext_version"')
    for place in range(8 + header_length(good)):
        for bit in range(8):
            altered = bytearray(good)
            altered[place] ^= 1 << bit
            reason = check(bytes(altered))
            if place >= begin:  # what is behind the seal is not even parsed
                assert reason == "its header does not have the sha256 that it states."


def test_every_bit_of_the_data(good, check):
    for place in range(8 + header_length(good), len(good)):
        for bit in range(8):
            altered = bytearray(good)
            altered[place] ^= 1 << bit
            assert "does not have the sha256" in check(bytes(altered))


def test_more_or_less_bytes(good, check):
    rng = np.random.default_rng(0)
    for _ in range(300):
        begin, end = sorted(rng.integers(0, len(good) + 1, 2))
        check(good[:begin] + rng.bytes(int(rng.integers(1, 40))) + good[begin:])
        if begin < end:
            check(good[:begin] + good[end:])
            check(good[:end] + good[begin:end] + good[end:])
    check(good + b"\x00")
    check(b"\x00" + good)


OTHER_FILES = {
    "empty": b"",
    "one byte": b"\x00",
    "length zero": b"\x00" * 8,
    "zeros": b"\x00" * 100,
    "ones": b"\xff" * 100,
    "JSON": b"{}",
    "zip": b"PK\x03\x04" + b"\x00" * 100,
    "safetensors of nothing": b"\x02" + b"\x00" * 7 + b"{}",
}


@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES)
def test_other_files(check, content):
    check(content)


def test_a_file_of_weights_alone(check, folder):
    from safetensors.torch import save

    assert "its header does not begin as that of a checkpoint does" in check(save({"a": torch.ones(3)}))


def test_a_newer_format_is_named(good, check, monkeypatch):
    newer = good.replace(b'"checkpoint 1"', b'"checkpoint 2"', 1)
    reason = check(newer[:8] + with_seal(newer[8:]))
    assert re.fullmatch(
        r"it is of the newer format 2, while altmin_ext \S+ reads format 1; install a newer altmin_ext\.",
        reason,
    )
    assert reason == check(newer)  # which may have another seal
    for version in (
        b'"checkpoint 0"',
        b'"checkpoint 01"',
        b'"checkpoint -1"',
        b'"checkpoint x"',
        b'"checkpoint"',
    ):
        assert "newer" not in check(
            remade(good, lambda header, v=version: header.replace(b'"checkpoint 1"', v))
        )


# --- with every sha256 made right again ---


def remade(content, change):
    """A file of which the header's bytes are changed, and its sha256 made right."""
    length = header_length(content)
    return with_header(change(content[8 : 8 + length]), content[8 + length :])


def test_what_is_not_altered_is_read(good, folder):
    assert remade(good, lambda header: header) == good
    parts = Parts(good)
    parts.hash_again()
    assert parts.content() == good
    assert same(tree_in(good), read(folder / "good"))


def test_another_form_of_the_same_header(good, check):
    document = json.loads(good[8 : 8 + header_length(good)])
    metadata = document.pop("__metadata__")
    forms = {
        "indented": json.dumps({"__metadata__": metadata, **document}, indent=1),
        "metadata last": compact({**document, "__metadata__": metadata}),
        "tensors in another order": compact({"__metadata__": metadata, **dict(reversed(document.items()))}),
        "metadata in another order": compact({"__metadata__": dict(reversed(metadata.items())), **document}),
        "another line of metadata": compact({"__metadata__": {**metadata, "note": "x"}, **document}),
    }
    for form, text in forms.items():
        assert check(with_header(text.encode(), good[8 + header_length(good) :])), form
    assert "in another way" in check(remade(good, lambda header: header + b" " * 8))
    assert "in another way" in check(
        remade(good, lambda header: header.replace(b'"dtype":"F32"', b'"dtype":  "F32"', 1))
    )


@pytest.mark.parametrize(
    "key", ["format", "altmin_ext", "sha256", "altmin_ext_version", "torch_version", "tree", "tensors"]
)
def test_missing_and_doubled_metadata(good, check, key):
    parts = Parts(good)
    metadata = {**parts.metadata}
    del metadata[key]
    check(with_header(compact({"__metadata__": metadata, **parts.header}).encode(), parts.data))
    value = compact({key: parts.metadata[key]}).encode()[1:-1]
    check(remade(good, lambda header: header.replace(value, value + b"," + value, 1)))
    check(remade(good, lambda header: header.replace(value, compact({key: 1}).encode()[1:-1], 1)))


def test_doubled_tensors(good, check):
    parts = Parts(good)
    for name in parts.header:
        entry = compact({name: parts.header[name]}).encode()[1:-1]
        check(remade(good, lambda header, entry=entry: header.replace(entry, entry + b"," + entry, 1)))
        other = compact({name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}).encode()[1:-1]
        check(
            remade(
                good, lambda header, entry=entry, other=other: header.replace(entry, other + b"," + entry, 1)
            )
        )


HUGE = ([2**32, 2**32, 2**32], [2**63], [2**64], [2**62, 4], [10**30], [2, 3] * 10_000, [2**61 + 1, 3])
# What may be wrong with the entry of one tensor of six float32.
ENTRIES = [
    *({"dtype": dtype} for dtype in ("F64", "F16", "BOOL", "f32", "", "F99", None, 3, ["F32"])),
    *(
        {"shape": shape}
        for shape in ([2, 4], [1], [], [2, -3], [-2, -3], [2.0, 3], ["2", "3"], [2, 3, 0], None, 6, "2")
    ),
    *({"shape": shape} for shape in ([[2, 3]], [True, 6], *HUGE)),
    *(
        {"data_offsets": own}
        for own in ([0, 23], [1, 25], [0, 0], [24, 0], [-24, 0], [0, 2**64], [8, 32], [0, 10**30])
    ),
    *(
        {"data_offsets": own}
        for own in ([2**63, 2**63 + 24], [0.0, 24.0], [0], [0, 24, 48], None, 24, ["0", "24"])
    ),
    {"note": 1},
    {"dtype": "F32", "sha256": "x"},
]


@pytest.mark.parametrize("number", range(len(ENTRIES)))
def test_altered_entries(good, check, number):
    parts = Parts(good)
    parts.header["model.0.weight"] |= ENTRIES[number]
    check(parts.content())


@pytest.mark.parametrize(
    "shape", [[0, 2**63], [0, 2**40, 2**40], [2**40, 2**40, 0], [2**63, 0], [0, 2**64]], ids=str
)
def test_huge_shapes_without_an_entry(good, check, shape):
    parts = Parts(good)
    parts.header["empty"]["shape"] = shape
    check(parts.content())


@pytest.mark.parametrize("key", ["dtype", "shape", "data_offsets"])
def test_entries_that_lack_something(good, check, key):
    parts = Parts(good)
    del parts.header["model.0.weight"][key]
    check(parts.content())


@pytest.mark.parametrize(
    "change", [{"dtype": "I32"}, {"shape": [3, 2]}, {"shape": [6]}, {"shape": [1, 2, 3, 1]}], ids=str
)
def test_a_forged_file_that_is_as_good_as_any_other_is_what_it_says(good, folder, change):
    parts = Parts(good)
    parts.header["model.0.weight"] |= change
    found, _ = attempt(folder / "file", parts.content())
    assert same(found, tree_in(parts.content()))


@pytest.fixture(scope="module")
def placed(folder):
    """The bytes of a file of two tensors of as many bytes, so that they can be exchanged."""
    write(folder / "placed", [torch.arange(3.0), torch.arange(3, dtype=torch.int32)])
    return (folder / "placed").read_bytes()


def test_offsets_that_overlap_or_leave_gaps(placed, check):
    names = list(Parts(placed).header)
    for begins in ((0, 0), (12, 0), (0, 8), (4, 16), (0, 16), (0, 13)):
        for more in (0, 4, 100):
            parts = Parts(placed)
            parts.data += bytes(more)
            for name, begin in zip(names, begins, strict=True):
                parts.header[name]["data_offsets"] = [begin, begin + 12]
            parts.hash_again()
            check(parts.content())


def test_bytes_that_no_tensor_has(placed, check):
    parts = Parts(placed)
    parts.data += b"hidden"
    check(parts.content())


def test_digests(good, check):
    for name in Parts(good).digests:
        for digest in ("0" * 64, "", None, 1, Parts(good).digests[name].upper(), ["x"]):
            parts = Parts(good)
            parts.digests[name] = digest
            check(parts.content())
        parts = Parts(good)
        del parts.digests[name]
        check(parts.content())
    parts = Parts(good)
    parts.digests["more"] = "0" * 64
    check(parts.content())
    for digests in ([], None, 1, "x", {}):
        parts.digests = digests
        check(parts.content())


def test_names_of_other_tensors(good, check):
    parts = Parts(good)
    parts.header["other"] = parts.header.pop("model.0.bias")
    check(parts.content())
    parts.digests["other"] = parts.digests.pop("model.0.bias")
    check(parts.content())


def test_a_bool_that_is_neither(good, check):
    parts = Parts(good)
    begin, end = parts.header["bool"]["data_offsets"]
    parts.data = parts.data[:begin] + b"\x01\x02" + parts.data[end:]
    parts.hash_again()
    assert "neither true nor false" in check(parts.content())


NAME = "model.0.bias"  # of two float32
TENSOR = {"tensor": NAME}
DOCUMENTS = [
    {}, {"dict": 1}, {"dict": {}, "more": 1}, {"other": 1}, {"tuple": {}},
    {"items": {}}, {"items": [1]}, {"items": [[1]]}, {"items": [[1, 2], [1, 3]]}, {"items": [[1, 2, 3]]},
    {"items": [[1.5, 2]]}, {"items": [[[1], 2]]}, {"items": [[{"tuple": []}, 2]]}, {"items": [[None, 2]]},
    {"items": [[True, 2]]},
    {"int": 1}, {"int": "1"}, {"int": "0x"}, {"int": "0xG"}, {"int": "0x1 "},
    {"float": 1}, {"float": ""}, {"float": "7FF0000000000000"}, {"float": "7ff00000000000000"}, {"float": "nan"},
    {"scalar": "<f4"}, {"scalar": "<f4", "bytes": "00"}, {"scalar": "<f4", "bytes": "0000803"},
    {"scalar": "<f16", "bytes": "00" * 16}, {"scalar": 1, "bytes": "00"}, {"scalar": "x", "bytes": ""},
    {"scalar": "O", "bytes": "00" * 8}, {"scalar": "<U1", "bytes": "00000000"}, {"scalar": "|b1", "bytes": "02"},
    {"scalar": "<M8[s]", "bytes": "00" * 8}, {"scalar": "<f4,<f4", "bytes": "00" * 8},
    {"tensor": 1}, {"tensor": "missing"}, {"tensor": "__metadata__"}, [TENSOR, TENSOR], {**TENSOR, "more": 1},
    *({**TENSOR, "dtype": dtype} for dtype in ("float32", "complex128", "float8_e5m2", "Tensor", "x", 1)),
    {"array": NAME}, *({"array": NAME, "dtype": dtype} for dtype in ("<f8", "O", "<i4", "<c16", "f4,f4", 1)),
    {"bytes": NAME}, {"bytes": 1}, {"bytes": NAME, "more": 1},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(DOCUMENTS)))
def test_documents_that_describe_no_tree(folder, check, number):
    write(folder / "one", {"model": {"0.bias": torch.arange(2.0)}})
    parts = Parts((folder / "one").read_bytes())
    parts.tree = DOCUMENTS[number]
    check(parts.content())
    parts.tree = {"dict": {"model": {"dict": {"0.bias": TENSOR}}, "more": DOCUMENTS[number]}}
    check(parts.content())


def test_a_tensor_without_a_place(good, check):
    parts = Parts(good)
    del parts.tree["dict"]["bool"]
    assert "'bool' has no place" in check(parts.content())


TEXTS = [
    "",
    "{",
    "NaN",
    "Infinity",
    "1e999",
    "1" * 5000,
    '{"dict":{"a":1,"a":1}}',
    " 1",
    "1 ",
    "[1, 2]",
    "01",
    "'x'",
]


@pytest.mark.parametrize("text", [*TEXTS, "\ufeff1", "1e2", '"\\u0061"'], ids=range(15))
def test_documents_that_are_no_standard_json(good, check, text):
    parts = Parts(good)
    metadata = {**parts.metadata, "tree": text}
    check(with_header(compact({"__metadata__": metadata, **parts.header}).encode(), parts.data))


@pytest.mark.parametrize("depth", [600, 5000, 1_000_000])
@pytest.mark.parametrize("brackets", ["[]", '{"tuple":[}', '{"dict":{"a":}'], ids=["list", "tuple", "dict"])
def test_deep_documents(good, check, depth, brackets):
    opening = brackets[:-1]
    closing = "".join({"[": "]", "{": "}"}[c] for c in reversed(opening) if c in "[{")
    parts = Parts(good)
    metadata = {**parts.metadata, "tree": opening * depth + "1" + closing * depth}
    check(with_header(compact({"__metadata__": metadata, **parts.header}).encode(), parts.data))


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_headers(good, check, depth):
    """Behind the seal, in what safetensors parses."""
    deep = b'"deep":' + b"[" * depth + b"]" * depth + b","
    check(remade(good, lambda header: header.replace(b'"bool":{', deep + b'"bool":{', 1)))
    check(with_header(b"[" * depth + b"]" * depth, b""))


def test_headers_that_are_no_text(good, check):
    for bad in (
        b"\xff",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\x00",
        b"\x1f",
        b"\n",
        b"\xef\xbb\xbf",
    ):
        check(remade(good, lambda header, bad=bad: bad + header))
        check(remade(good, lambda header, bad=bad: header + bad))
        check(
            remade(
                good,
                lambda header, bad=bad: header.replace(b"altmin_ext_version", b"altmin_ext_versio" + bad, 1),
            )
        )
        check(remade(good, lambda header, bad=bad: header.replace(b'"word', b'"' + bad, 1)))


@pytest.mark.parametrize(
    "length",
    [0, 1, 7, 1000, 99_999_999, 100_000_001, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1],
)
def test_lengths_of_headers(good, check, length):
    check(length.to_bytes(8, "little") + good[8:])
    check(length.to_bytes(8, "little"))


def test_many_tensors_at_one_place(good, check):
    """safetensors_abuse_attempt_2 and 3 of safetensors' own list."""
    parts = Parts(good)
    entry = {"dtype": "F32", "shape": [200, 200], "data_offsets": [0, 160_000]}
    parts.header = {f"weight_{number}": entry for number in range(20_000)}
    parts.digests = dict.fromkeys(parts.header, hashlib.sha256(bytes(160_000)).hexdigest())
    parts.tree = [{"tensor": name} for name in parts.header]
    parts.data = bytes(160_000)
    check(parts.content())


def test_any_alteration_of_a_document_is_refused_or_is_what_the_file_then_says(good, folder):
    """Any value of header, tree and digests replaced, exchanged or dropped, with every sha256 made right."""
    rng = np.random.default_rng(3)
    path = folder / "file"
    others = [
        None,
        True,
        0,
        1,
        -1,
        2.5,
        2**64,
        "",
        "x",
        "<f4",
        "F32",
        "U8",
        [],
        {},
        [0, 8],
        [2],
        {"a": 1},
        "model.0.bias",
        TENSOR,
    ]
    read_as_it_says = 0
    for _ in range(3000):
        parts = Parts(good)
        part = [parts.header, parts.tree, parts.digests, parts.metadata][int(rng.integers(4))]
        places = list(within(part))
        container, key = places[int(rng.integers(len(places)))]
        other, other_key = places[int(rng.integers(len(places)))]
        kind = int(rng.integers(4))
        if kind == 0:
            del container[key]
        elif kind == 1:
            container[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(container[key])
        else:
            container[key] = copy.deepcopy(others[int(rng.integers(len(others)))])
        try:
            if rng.random() < 0.5:
                parts.hash_again()
            content = parts.content()
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
            continue  # no longer a file of this form
        found, sentence = attempt(path, content)
        if sentence is None:
            assert same(found, tree_in(content))
            read_as_it_says += content != good
        else:
            reason_in(sentence, path)
    assert read_as_it_says > 100


def within(node):
    """Every place in nested dicts and lists."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from within(node[key])


# --- memory ---

MEASURE = """
    import sys
    from altmin_ext.checkpoint._file import read

    def peak():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

    read(sys.argv[1])
    with open("/proc/self/clear_refs", "w") as peaks:
        peaks.write("5")  # the present is the peak from now on
    before = peak()
    for path in sys.argv[2:]:
        try:
            read(path)
        except ValueError:
            print("refused", end=" ")
    print(peak() - before)
"""


def growth(good_path, *paths):
    """The memory that a process has at its peak for reading files, beyond a small one, and how many it refuses."""
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(good_path), *map(str, paths)]
    *refusals, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(grown), len(refusals)


SLACK = 4_000_000  # of the allocator and the threads


def test_reading_takes_the_memory_of_the_tensors_once(folder, good):
    write(folder / "large", [torch.zeros(1_000_000) for _ in range(10)])
    grown, _ = growth(folder / "good", folder / "large")
    assert 40_000_000 - SLACK < grown < 40_000_000 + SLACK


def test_what_is_refused_takes_no_more_memory_than_the_file_has_bytes(folder, good):
    size = 20_000_000
    weights = Parts(good)
    weights.header["bool"] = {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}
    contents = [
        *(size.to_bytes(8, "little") + character * size for character in (b"[", b" ", b"\xff")),
        (2**62).to_bytes(8, "little") + b"x" * size, good[:-1] + b"x" * size, weights.content(), b"\xff" * size,
        remade(good, lambda header: header[:100] + b"[" * size),
    ]  # fmt: skip
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"attack {number}")
        paths[-1].write_bytes(content)
    grown, refusals = growth(folder / "good", *paths)
    assert refusals == len(contents)
    assert grown < 2 * size + SLACK


def test_a_document_of_many_small_values_takes_a_fixed_multiple_of_its_size(folder, good):
    """With the sha256 made right: a dict of Python has 64 bytes for the 3 of ``{},`` in a file."""
    parts = Parts(good)
    parts.tree = [{}] * 300_000
    content = parts.content()
    (folder / "bomb").write_bytes(content)
    grown, refusals = growth(folder / "good", folder / "bomb")
    assert refusals == 1
    assert grown < 40 * len(content)


def test_the_header_is_read_alone(good, folder, monkeypatch):
    """Whoever inspects a file learns what it says, also where its tensors are damaged."""
    path = folder / "file"
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert list(read_header(path).tensors) == list(Parts(good).header)
    with pytest.raises(ValueError, match="sha256"):
        read(path)
    path.write_bytes(good[:-1])
    with pytest.raises(ValueError, match="must be a checkpoint"):
        read_header(path)


def test_what_is_no_file_is_an_os_error(folder):
    with pytest.raises(FileNotFoundError):
        read(folder / "missing")
    with pytest.raises(IsADirectoryError, match=r"must be a file, but is a folder\.$"):
        read(folder)
    os.mkfifo(folder / "pipe")
    with pytest.raises(OSError, match=r"must be a file, but is a pipe\.$"):
        read(folder / "pipe")


def test_floats_are_exact(folder):
    rng = np.random.default_rng(5)
    numbers = [struct.unpack("d", rng.bytes(8))[0] for _ in range(5000)]
    write(folder / "file", numbers)
    assert same(read(folder / "file"), numbers)
