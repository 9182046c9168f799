"""Oracle: the run that nothing has disturbed, to the bit; and for what is refused, everything as it was before."""

import copy
import math
import os
import re
import signal

import pytest
import torch
from torch import nn

import altmin_ext
from altmin_ext import History, checkpoint
from altmin_ext.checkpoint import _file, _model

from ..methods.test_methods_common import METHODS, blobs, network
from .second_reader import same


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def made(name, hidden=16, **options):
    return altmin_ext.make_method(name, network(name, hidden=hidden), **{**METHODS[name].options, **options})


def steps(method, number):
    x, y = blobs()
    losses = []
    for k in range(number):
        batch = slice(16 * (k % 3), 16 * (k % 3) + 16)
        whole = (
            METHODS[method.name].full_batch
            if hasattr(METHODS[method.name], "full_batch")
            else method.full_batch
        )
        losses.append(float(method.step(x, y).loss if whole else method.step(x[batch], y[batch]).loss))
    return losses


def state_of(method):
    return {"model": _model.save(method.model), "method": method.state_dict()}


def copied(method):
    return copy.deepcopy(state_of(method))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("trained", [0, 5], ids=["into a new one", "into one that has trained"])
def test_training_goes_on_to_the_bit(path, name, trained):
    method = made(name)
    steps(method, 4)
    checkpoint.save(path, model=method.model, method=method)
    losses, wanted = steps(method, 5), state_of(method)

    other = made(name, seed=1)
    for parameter in other.model.parameters():
        parameter.data.mul_(0.5)
    steps(other, trained)
    addresses = [parameter.data_ptr() for parameter in other.model.parameters()]
    checkpoint.load(path, model=other.model, method=other)
    assert [parameter.data_ptr() for parameter in other.model.parameters()] == addresses
    assert steps(other, 5) == losses
    assert same(state_of(other), wanted)


def test_a_method_stands_for_its_model(path):
    method = made("am-adam")
    steps(method, 2)
    checkpoint.save(path, method=method)
    wanted = copied(method)
    steps(method, 2)
    held = checkpoint.load(path, method=method)
    assert same(state_of(method), wanted)
    assert same({"model": held.model, "method": held.method}, wanted)


def test_what_is_loaded_has_memory_of_its_own(path):
    method = made("am-adam")
    checkpoint.save(path, method=method, tensor=torch.ones(2))
    held = checkpoint.load(path, method=method)
    wanted = copied(method)
    for tensor in (*held.model.values(), held.extra["tensor"]):
        tensor.fill_(7)
    assert same(state_of(method), wanted)
    checkpoint.load(path, method=method)


class Everything(nn.Module):
    """All that a model may keep."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("kept", torch.tensor([1.0, math.inf]))
        self.register_buffer("passing", torch.tensor([4, 5]), persistent=False)
        self.register_buffer("absent", None)
        self.normalisation = nn.BatchNorm1d(3)
        self.again = self.first
        self.counting = Counting()

    def forward(self, x):
        return self.normalisation(self.second(self.first(x)))


class Counting(nn.Module):
    """Saves something of its own."""

    refuses = False

    def __init__(self):
        super().__init__()
        self.counts = {"calls": 0, "last": (1.5, None)}

    def get_extra_state(self):
        return self.counts

    def set_extra_state(self, state):
        if self.refuses and state != self.counts:
            raise KeyError("calls")
        self.counts = state


def test_parameters_buffers_and_extra_state(path):
    model = Everything()
    model(torch.randn(8, 3))
    model.counting.counts = {"calls": 3, "last": (2.5, torch.ones(2))}
    checkpoint.save(path, model=model)
    other = Everything()
    other.passing.zero_()
    checkpoint.load(path, model=other)
    assert same(_model.save(other), _model.save(model))
    assert other.second.weight is other.first.weight
    names = {*model.state_dict(), "passing"}
    assert checkpoint.load(path).model.keys() == names
    assert same(other.counting.counts, {"calls": 3, "last": (2.5, torch.ones(2))})


def test_what_torch_saves_is_found_under_model(path):
    """By those who have safetensors alone."""
    from safetensors.torch import load_file

    model = network("adam")
    checkpoint.save(path, model=model)
    weights = {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}
    assert same(weights, dict(sorted(model.state_dict().items())))
    network("adam").load_state_dict(weights)


def test_weights_need_not_be_finite(path):
    model = nn.Linear(2, 2)
    model.weight.data[:] = torch.tensor([[math.inf, -math.inf], [math.nan, 1e-45]])
    wanted = copy.deepcopy(_model.save(model))
    checkpoint.save(path, model=model)
    model.weight.data.zero_()
    checkpoint.load(path, model=model)
    assert same(_model.save(model), wanted)


@pytest.mark.parametrize(
    "context", [torch.inference_mode, torch.no_grad, torch.enable_grad], ids=lambda c: c.__name__
)
def test_training_goes_on_after_loading_in_any_mode_of_torch(path, context):
    method = made("am-adam")
    with context():
        checkpoint.save(path, method=method)
        checkpoint.load(path, method=method)
    wanted = made("am-adam")
    assert steps(method, 3) == steps(wanted, 3)
    assert all(parameter.requires_grad for parameter in method.model.parameters())


# --- refusals ---


def refused(path, sentence, **objects):
    with pytest.raises(ValueError, match=sentence) as error:
        checkpoint.load(path, **objects)
    assert str(error.value).startswith(
        f"{str(path)!r} must be a checkpoint of what it is loaded for, but is not: "
    )
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


MODELS = {
    "another width": lambda: network("am-adam", hidden=5),
    "another dtype": lambda: network("am-adam", torch.float64),
    "more layers": lambda: nn.Sequential(*network("am-adam"), nn.Linear(3, 3)),
    "fewer layers": lambda: nn.Sequential(*network("am-adam")[:3]),
    "no parameters": nn.Identity,
    "other names": lambda: nn.Sequential(network("am-adam")),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_model_of_another_architecture(path, make):
    checkpoint.save(path, method=made("am-adam"))
    model = make()
    before = copy.deepcopy(_model.save(model))
    refused(path, r"but is not: model", model=model)
    assert same(_model.save(model), before)


def altered(path, change):
    """The file, with its tree changed."""
    tree = _file.read(path)
    change(tree)
    _file.write(path, tree)


def set_in(*place, value):
    def change(tree):
        for key in place[:-1]:
            tree = tree[key]
        tree[place[-1]] = value

    return change


def dropped(*place):
    def change(tree):
        for key in place[:-1]:
            tree = tree[key]
        del tree[place[-1]]

    return change


CHANGES = {
    "no model": dropped("model"),
    "no method": dropped("method"),
    "a weight less": dropped("model", "1.weight"),
    "a weight more": set_in("model", "x", value=torch.ones(1)),
    "a weight of another shape": set_in("model", "1.bias", value=torch.ones(1)),
    "a weight of another dtype": set_in("model", "1.bias", value=torch.ones(16, dtype=torch.float64)),
    "no weight": set_in("model", "1.bias", value=None),
    "an array as a weight": set_in("model", "1.bias", value=torch.ones(16).numpy()),
    "a model that is none": set_in("model", value=[1]),
    "another method": set_in("method", "method", value="am-sgd"),
    "a method without steps": dropped("method", "steps"),
    "negative steps": set_in("method", "steps", value=-1),
    "another entry": set_in("method", "more", value=1),
    "a moment that is not finite": set_in("method", "learning_rate_factor", value=math.nan),
    "a method that is none": set_in("method", value="am-adam"),
    "an unknown part": set_in("more", value={}),
    "extra that is no dict": set_in("extra", value=[1]),
    "a history without epochs": dropped("history", "epochs"),
    "a history of other steps": set_in("history", "steps", value=1),
    "a history of float32": set_in("history", "step_loss", value=torch.zeros(6)),
    "a history with a word": set_in("history", "steps", value="6"),
    "an objective of other steps": set_in(
        "history", "step_objective", value=torch.zeros(1, 2, dtype=torch.float64)
    ),
    "a row that is none": set_in("history", "epochs", value=[{"epoch": 1}]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_both_are_restored_or_neither(path, change):
    method = made("am-adam")
    x, y = blobs()
    history = altmin_ext.train(method.model, (x, y), method=method, batch_size=16, epochs=2, progress=False)
    checkpoint.save(path, method=method, history=history, note=1)
    altered(path, change)
    steps(method, 2)
    before = copied(method)
    refused(path, "but is not", model=method.model, method=method)
    assert same(state_of(method), before)
    wanted = made("am-adam")
    checkpoint.save(path, method=method)
    checkpoint.load(path, method=wanted)
    assert steps(method, 2) == steps(wanted, 2)


def test_a_method_of_another_name(path):
    checkpoint.save(path, method=made("am-adam"))
    other = made("am-sgd")
    before = copied(other)
    refused(path, r"state must be of method 'am-sgd', but is of 'am-adam'\.$", method=other)
    assert same(state_of(other), before)


def test_tensors_that_are_one_must_be_equal(path):
    model = Everything()
    checkpoint.save(path, model=model)
    altered(path, set_in("model", "second.weight", value=torch.zeros(3, 3)))
    before = copy.deepcopy(_model.save(model))
    refused(
        path,
        r"model's 'first.weight' and 'second.weight' must be equal, since they are one tensor",
        model=model,
    )
    assert same(_model.save(model), before)


def test_a_module_that_refuses_its_extra_state(path):
    model = Everything()
    checkpoint.save(path, model=model)
    other = Everything()
    other.second_counting = Counting()
    other.counting.counts = {"own": 1}
    model.second_counting = Counting()
    model.second_counting.counts = {"other": 1}
    checkpoint.save(path, model=model)
    other.second_counting.refuses = True
    before = copy.deepcopy(_model.save(other))
    refused(path, r"'second_counting._extra_state' must be what get_extra_state\(\) returned", model=other)
    assert same(_model.save(other), before)


def test_tensors_of_a_model_that_cannot_be_written_to(path):
    model = nn.Linear(2, 2)
    model.register_buffer("scale", torch.ones(2))
    checkpoint.save(path, model=model)
    model.scale = torch.ones(1).expand(2)
    model.weight.data.fill_(3)
    refused(path, r"model's 'scale' must be a tensor that can be written to", model=model)
    assert bool((model.weight == 3).all())
    with torch.inference_mode():
        model.scale = torch.ones(2)
    refused(path, r"model's 'scale' must be a tensor that can be written to", model=model)
    assert bool((model.weight == 3).all())


def test_a_model_without_shapes(path):
    checkpoint.save(path, model=nn.Linear(3, 2))
    refused(path, r"model's 'weight' must have a shape, but has none yet", model=nn.LazyLinear(2))


def test_a_method_of_another_model(path):
    method = made("am-adam")
    other = network("am-adam")
    sentence = r"^model must be the one that method trains, but is another; leave it out\.$"
    with pytest.raises(ValueError, match=sentence):
        checkpoint.save(path, model=other, method=method)
    assert not path.exists()
    checkpoint.save(path, method=method)
    with pytest.raises(ValueError, match=sentence):
        checkpoint.load(path, model=other, method=method)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({}, ValueError, r"^save must be given something to save, but is given a path alone\.$"),
        ({"model": {}}, TypeError, r"^model must be a torch.nn.Module, but is a dict\.$"),
        ({"method": "am-adam"}, TypeError, r"^method must be an altmin_ext.Method, but is a str\.$"),
        ({"history": []}, TypeError, r"^history must be an altmin_ext.History, but is a list\.$"),
        ({"keep": -1}, ValueError, r"^keep must be at least 0, but is -1\.$"),
        ({"keep": 1.5}, TypeError, r"^keep must be an integer, but is 1\.5\.$"),
        ({"keep": 2, "x": 1}, ValueError, r"^keep must be 0 without method and history, .*, but is 2\.$"),
        (
            {"x": print},
            TypeError,
            r"^extra\.x must be None, a bool, .*, but is a builtin_function_or_method\.$",
        ),
        (
            {"model": nn.LazyLinear(2)},
            TypeError,
            r"^model\.weight must be .*, but is an UninitializedParameter\.$",
        ),
        (
            {"model": nn.Linear(2, 2, device="meta")},
            TypeError,
            r"^model\.weight must be a dense tensor with memory",
        ),
    ],
    ids=range(10),
)
def test_arguments_of_save(path, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        checkpoint.save(path, **arguments)
    assert not path.exists()


@pytest.mark.parametrize("arguments", [{"model": {}}, {"method": "am-adam"}], ids=list)
def test_arguments_of_load(path, arguments):
    checkpoint.save(path, x=1)
    with pytest.raises(TypeError, match=r"must be a"):
        checkpoint.load(path, **arguments)


def test_ctrl_c_comes_after_both_or_before(path, monkeypatch):
    method = made("am-adam")
    steps(method, 2)
    checkpoint.save(path, method=method)
    wanted = copied(method)
    steps(method, 2)
    restoring = _model.restoring

    def interrupted(*arguments):
        restore = restoring(*arguments)

        def both():
            restore()
            os.kill(os.getpid(), signal.SIGINT)

        return both

    monkeypatch.setattr(_model, "restoring", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.load(path, method=method)
    assert same(state_of(method), wanted)


# --- what else it holds ---


def test_history_is_exact(path):
    x, y = blobs()
    model = network("am-adam")
    history = altmin_ext.train(
        model, (x, y), validation=(x, y), batch_size=16, epochs=2, report_objective=True, progress=False
    )
    history.epochs[0]["loss"], history.epochs[1]["mine"] = math.nan, {"a": [1, math.inf]}
    history.step_loss[0] = math.nan
    checkpoint.save(path, history=history)
    found = checkpoint.load(path).history
    assert isinstance(found, History)
    assert same(found.state_dict(), history.state_dict())
    assert found.steps == 6


def test_an_empty_history(path):
    checkpoint.save(path, history=History())
    assert same(checkpoint.load(path).history.state_dict(), History().state_dict())


def test_extra(path):
    extra = {
        "epoch": 3,
        "words": ["a", (None, True)],
        "best": torch.ones(2),
        "model_name": "x",
        "numbers": {1: 2.5},
    }
    checkpoint.save(path, **extra)
    held = checkpoint.load(path)
    assert same(held.extra, extra)
    assert (held.model, held.method, held.history, held.run) == (None, None, None, None)


def test_representations(path):
    method = made("am-adam")
    steps(method, 3)
    checkpoint.save(path, method=method, history=History(), epoch=3)
    assert repr(checkpoint.load(path)) == (
        "Checkpoint(model of 6 tensors, method 'am-adam', History(0 epochs, 0 steps), extra epoch)"
    )
    checkpoint.save(path, epoch=3)
    assert repr(checkpoint.load(path)) == "Checkpoint(extra epoch)"


def test_inspect(path):
    method = made("am-adam", lr=0.25)
    steps(method, 3)
    checkpoint.save(path, method=method, epoch=3, note="x\ny", best=torch.ones(2), pair=(1, torch.ones(1)))
    found = checkpoint.inspect(path)
    assert found.path == str(path)
    assert found.size == path.stat().st_size
    assert found.format == "checkpoint 1"
    assert (found.altmin_ext_version, found.torch_version) == (altmin_ext.__version__, torch.__version__)
    assert found.holds == ("model", "method", "options", "extra")
    assert (found.method, found.steps, found.options["lr"]) == ("am-adam", 3, 0.25)
    assert found.extra == {"epoch": 3, "note": "x\ny", "pair": (1,)}
    assert found.run is None
    entries = {entry.name: (entry.shape, entry.dtype) for entry in found.tensors}
    assert entries["model.1.weight"] == (tuple(method.model[1].weight.shape), torch.float32)
    assert entries["extra.best"] == ((2,), torch.float32)
    lines = str(found).split("\n")
    assert f"file     {path}, {found.size:,} bytes" in lines
    assert "extra    epoch=3, note='x\\ny', pair=(1,)" in lines
    assert "steps    3" in lines
    assert len(lines) == 8 + len(found.tensors)
    assert any(re.fullmatch(r"  model\.1\.weight +float32 +16 x \d+", line) for line in lines)


def test_long_values_are_cut_in_the_table(path):
    checkpoint.save(path, words="x" * 1000, numbers=list(range(1000)))
    (line,) = (line for line in str(checkpoint.inspect(path)).split("\n") if line.startswith("extra"))
    assert line.startswith("extra    words='xxx")
    assert len(line) < 200
    assert checkpoint.inspect(path).extra["numbers"] == list(range(1000))


def test_inspect_of_a_run(path):
    """A file of train() says where its run stands."""
    run = {"epoch": 2, "phase": "training", "generators": {"torch": torch.zeros(5, dtype=torch.uint8)}}
    _file.write(path, {"model": {}, "run": run})
    found = checkpoint.inspect(path)
    assert found.run == {"epoch": 2, "phase": "training", "generators": {}}
    assert found.steps is None
    assert "run      epoch=2, phase='training'" in str(found).split("\n")
    assert same(checkpoint.load(path).run, run)


@pytest.mark.parametrize(
    "tree", [None, 3, [], {}, {"model": 1}, {"x": 1}, {"history": {"steps": "x"}}], ids=range(7)
)
def test_trees_of_others(path, tree):
    _file.write(path, tree)
    refused(path, "but is not")
    assert str(checkpoint.inspect(path))


def test_inspect_refuses_what_is_no_checkpoint(path):
    path.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"must be a checkpoint written by altmin_ext, but is not: .*\.$"):
        checkpoint.inspect(path)
    with pytest.raises(ValueError, match=r"must be a checkpoint written by altmin_ext, but is not: .*\.$"):
        checkpoint.load(path)


def test_save_keeps_former_files(path):
    method = made("am-adam")
    for _ in range(4):
        steps(method, 5)
        checkpoint.save(path, method=method, keep=2)
    found = {other.name: checkpoint.inspect(other).steps for other in path.parent.iterdir()}
    assert found == {"run.safetensors": 20, "run-15.safetensors": 15, "run-10.safetensors": 10}
    older = made("am-adam")
    checkpoint.load(path.with_name("run-10.safetensors"), method=older)
    assert older.steps == 10


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = re.search(r"::\n\n(.*?)\n\nand in another", checkpoint.__doc__, re.DOTALL)[1]
    x, y = blobs()
    names = {"altmin_ext": altmin_ext, "model": network("am-adam"), "minibatches": [(x, y)] * 2000}
    exec(compile("\n".join(line[4:] for line in example.split("\n")), "example", "exec"), names)
    other = made("am-adam", lr=0.001)
    assert checkpoint.load("run.safetensors", method=other).extra["number"] == 2000
    assert other.steps == 2000
