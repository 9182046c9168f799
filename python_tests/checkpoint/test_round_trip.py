"""Oracle: what was written, compared to the bit and with its types; the file read by safetensors itself, and by the
second reader of :mod:`second_reader`."""

import collections
import enum
import math
import struct
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from altmin_ext.checkpoint._file import read, read_header, write

from .second_reader import Parts, same, tree_in

FLOAT8 = [
    dtype
    for dtype in {own for own in vars(torch).values() if isinstance(own, torch.dtype)}
    if dtype.is_floating_point and dtype.itemsize == 1 and "x2" not in str(dtype)
]
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64, torch.complex32,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
    torch.bool,    *sorted(FLOAT8, key=str),
]  # fmt: skip
ARRAYS = [
    "<f8",
    "<f4",
    "<f2",
    ">f8",
    ">i2",
    "<c16",
    "<c8",
    ">c8",
    "i8",
    "i4",
    "i2",
    "i1",
    "u8",
    "u4",
    "u2",
    "u1",
    "?",
]
NANS = [struct.unpack("<d", struct.pack("<Q", bits))[0] for bits in (0x7FF8000000000001, 0xFFF8000000000000)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def round_trip(path, tree):
    write(path, tree)
    found = read(path)
    assert same(found, tree)
    return found


def tensor_of(rng, dtype, shape):
    """A tensor of any bits that the dtype has."""
    if dtype == torch.bool:
        return torch.from_numpy(rng.integers(0, 2, shape)).bool()
    tensor = torch.empty(math.prod(shape), dtype=dtype)
    tensor.view(torch.uint8).random_(
        0, 256, generator=torch.Generator().manual_seed(int(rng.integers(2**31)))
    )
    return tensor.reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 0, 3), (2, 3), (1, 1, 1)], ids=str)
def test_tensors(path, dtype, shape):
    tensor = tensor_of(np.random.default_rng(1), dtype, shape)
    found = round_trip(path, {"a": tensor})["a"]
    assert found.dtype == dtype
    assert type(found) is torch.Tensor
    assert found.is_contiguous()


@pytest.mark.parametrize("dtype", ARRAYS)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 0, 3), (2, 3)], ids=str)
def test_arrays_and_their_numbers(path, dtype, shape):
    rng = np.random.default_rng(2)
    array = np.frombuffer(rng.bytes(np.dtype(dtype).itemsize * math.prod(shape)), dtype).reshape(shape)
    array = array.view("u1") % 2 == 1 if dtype == "?" else array
    array = np.asarray(array)
    scalars = [array.reshape(-1)[i] for i in range(min(array.size, 2))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's, about arrays that cannot be written to
        found = round_trip(path, {"a": array, "scalars": scalars})["a"]
    assert found.dtype == np.dtype(dtype)
    assert found.flags.writeable


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(12.0).reshape(3, 4).t(),
        lambda: torch.arange(12.0)[::2],
        lambda: torch.ones(1).expand(5),
        lambda: torch.arange(6.0).requires_grad_(),
        lambda: nn.Parameter(torch.arange(6.0)),
        lambda: torch.complex(torch.arange(4.0), torch.ones(4)).conj(),
        lambda: torch._neg_view(torch.arange(4.0)),
        lambda: torch.arange(8.0)[1:].as_strided((2, 2), (1, 1)),
    ],
    ids=[
        "transposed",
        "strided",
        "expanded",
        "requires grad",
        "parameter",
        "conjugate",
        "negated",
        "overlapping",
    ],
)
def test_tensors_of_every_layout_are_read_as_plain_ones(path, make):
    found = round_trip(path, [make()])[0]
    assert type(found) is torch.Tensor
    assert found.is_contiguous()
    assert not found.requires_grad


def test_fortran_order_and_arrays_that_are_views(path):
    base = np.arange(12.0).reshape(3, 4)
    round_trip(path, [np.asfortranarray(base), base[:, ::2], base[::-1], np.broadcast_to(base, (2, 3, 4))])


def test_tensors_that_share_memory_are_read_apart(path):
    tensor = torch.arange(6.0)
    found = round_trip(path, {"a": tensor, "b": tensor, "c": tensor[1:]})
    found["a"][2] = 9
    assert float(found["b"][2]) == float(found["c"][1]) == 2


VALUES = [
    None, True, False, 0, 1, -1, 2**63 - 1, 2**63, -(2**63), -(2**64), 10**5000, -(10**5000),
    0.0, -0.0, 0.1, 1e308, 5e-324, math.inf, -math.inf, *NANS,
    "", "text", "ünï", "\x00\n\\\"", "\ud800", "\U0001f600", b"", b"\x00\xff", b"x" * 1000,
    [], (), {}, [[]], [()], ((),), [{}], [1, [2, (3, [4])]],
    {"": {}}, {0: 1}, {-1: "a", "-1": "b"}, {2**70: b"x"}, {10**5000: b"x"}, {"b": 1, "a": 2},
    {"dict": 1}, {"tensor": "x"}, {"int": "0x1"},
    np.float32(0.1), np.bool_(True), np.int64(-5), np.complex64(1j),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_plain_values(path, value):
    round_trip(path, value)
    round_trip(path, {"key": value})
    round_trip(path, [value, (value,)])
    assert same(tree_in(path.read_bytes()), [value, (value,)])


def random_tree(rng, depth=0):
    """Any tree, of up to six levels."""
    kind = int(rng.integers(4 if depth < 5 else 1, 12)) if rng.random() < 0.5 else int(rng.integers(12))
    if depth > 5:
        kind = 4 + kind % 8
    size = int(rng.integers(5))
    if kind == 0:
        return [random_tree(rng, depth + 1) for _ in range(size)]
    if kind == 1:
        return tuple(random_tree(rng, depth + 1) for _ in range(size))
    if kind in (2, 3):
        words = ["a", "b.c", "b", "c", "0", "__metadata__", "", "ü.\n", "a-2", "tensor"]
        keys = [words[i] for i in rng.permutation(len(words))[:size]]
        keys = keys if kind == 2 else [*keys, int(rng.integers(-3, 3))]
        return {key: random_tree(rng, depth + 1) for key in keys}
    shape = tuple(int(n) for n in rng.integers(0, 4, int(rng.integers(4))))
    if kind in (4, 5, 6):
        return tensor_of(rng, DTYPES[int(rng.integers(len(DTYPES)))], shape)
    if kind == 7:
        dtype = ARRAYS[int(rng.integers(len(ARRAYS) - 1))]
        return np.frombuffer(rng.bytes(np.dtype(dtype).itemsize * math.prod(shape)), dtype).reshape(shape)
    if kind == 8:
        return int(rng.integers(-(2**62), 2**62)) ** int(rng.integers(4))
    if kind == 9:
        return struct.unpack("d", rng.bytes(8))[0]
    return [rng.bytes(int(rng.integers(9))), None, bool(rng.integers(2)), f"word {size}"][
        int(rng.integers(4))
    ]


@pytest.mark.parametrize("seed", range(100))
def test_any_tree(path, seed):
    tree = random_tree(np.random.default_rng(seed))
    round_trip(path, tree)
    content = path.read_bytes()
    write(path, read(path))
    assert path.read_bytes() == content  # the same tree is the same file


@pytest.mark.parametrize("seed", range(20))
def test_safetensors_reads_the_file(path, seed):
    tree = {"model": random_tree(np.random.default_rng(seed), 4), "weights": {"0.weight": torch.randn(2, 3)}}
    write(path, tree)
    found = safetensors.torch.load_file(path)
    assert torch.equal(found["weights.0.weight"], tree["weights"]["0.weight"])
    parts = Parts(path.read_bytes())
    assert found.keys() >= {"weights.0.weight"}
    assert found.keys() == parts.header.keys() == parts.digests.keys()
    assert all(
        same(found[name].reshape(-1).view(torch.uint8).numpy().tobytes(), parts.bytes_of(name))
        for name in found
    )
    for name, entry in parts.header.items():  # where a reader may map them into memory as they are
        assert entry["data_offsets"][0] % found[name].itemsize == 0
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["altmin_ext"]) == ("pt", "checkpoint 1")
    assert metadata["torch_version"] == torch.__version__


def test_names_are_the_places(path):
    tensor = torch.zeros(1)
    tree = {
        "model": {"0.weight": tensor, "1": {"bias": tensor}},
        "method": {"moments": [tensor, (tensor,)]},
        "a": {3: tensor},
    }
    write(path, tree)
    names = ["a.3", "method.moments.0", "method.moments.1.0", "model.0.weight", "model.1.bias"]
    assert sorted(read_header(path).tensors) == names


def test_two_places_never_have_one_name(path):
    trees = [
        {"a.b": 1, "a": {"b": 2}, "a.b-2": 3},
        {"a": {"b.c": 1, "b": {"c": 2}}, "a.b": {"c": 3}},
        {"1": 1, 1: 2},
        [{"0": 1}, 2, {"": {"": 3}}],
        {"__metadata__": 1},
        {"": 1, "tensor": 2},
        {"\ud800": 1, "\\ud800": 2},
    ]  # fmt: skip

    def filled(node):
        if isinstance(node, int):
            return torch.tensor([float(node)])
        if isinstance(node, dict):
            return {key: filled(item) for key, item in node.items()}
        return [filled(item) for item in node]

    for tree in trees:
        round_trip(path, filled(tree))
        safetensors.torch.load_file(path)


class Number(enum.IntEnum):
    ONE = 1


class Subclass(torch.Tensor):
    pass


def looped():
    tree = []
    tree.append({"again": tree})
    return tree


def deep(depth):
    tree = None
    for _ in range(depth):
        tree = [tree]
    return tree


def others():
    """What a file does not hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch and numpy discourage
        return [
            object(), print, {1}, frozenset(), 1j, Number.ONE, bytearray(b"x"), range(3),
            collections.defaultdict(list), collections.Counter(), collections.namedtuple("P", "x")(1),
            {None: 1}, {1.5: 1}, {True: 1}, {(1, 2): 1}, {b"x": 1}, {Number.ONE: 1},
            torch.float32, torch.device("cpu"), torch.Size([1]), torch.Generator(), nn.Linear(1, 1),
            torch.zeros(2).to_sparse(), torch.zeros(2, device="meta"), torch.zeros(2).as_subclass(Subclass),
            torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8), nn.UninitializedParameter(),
            np.str_("x"), np.datetime64("2020-01-01"), np.longdouble(1), np.array(["x"]), np.array([object()]),
            np.zeros(2, "M8[s]"), np.zeros(2, [("a", "f4")]), np.zeros(2, np.longdouble), np.ma.zeros(2),
            np.matrix([1]),
        ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(others())))
def test_anything_else_is_refused_before_a_byte_is_written(path, number):
    value = others()[number]
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match=r"^extra\.0\.there must .*, but .*\.$") as error:
        write(path, {"model": torch.zeros(3), "extra": [{"there": value}]})
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"old"
    assert [other.name for other in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "make", [looped, lambda: deep(101), lambda: deep(100_000)], ids=["loop", "101", "100000"]
)
def test_a_tree_that_never_ends_is_refused(path, make):
    with pytest.raises(
        ValueError, match=r"^a tree must be at most 100 deep, but 0.* is deeper or holds itself\.$"
    ):
        write(path, make())
    assert not path.exists()


def test_a_deep_tree_is_read(path):
    round_trip(path, deep(100))
    tree = None
    for number in range(100):
        tree = {number: tree, "x": 1} if number % 2 else {"a": (tree,)} if number % 4 else tree
    round_trip(path, tree)


def test_a_document_that_no_reader_takes_is_refused(path, monkeypatch):
    """safetensors takes headers of up to 100 MB."""
    monkeypatch.setattr("altmin_ext.checkpoint._file._LONGEST_HEADER", 10_000)
    round_trip(path, "x" * 9000)
    with pytest.raises(
        ValueError, match=r"^a tree must have a document of at most 10,000 bytes, but has one of 1\d,"
    ):
        write(path, "y" * 10_000)
    assert read(path) == "x" * 9000


def test_an_ordered_dict_is_a_dict(path):
    write(path, collections.OrderedDict(b=1, a=2))
    assert same(read(path), {"b": 1, "a": 2})
