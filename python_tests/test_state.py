"""States of methods: whatever is loaded is refused in a sentence with everything as it was, or trained on.

The oracle is the contract of load_state_dict: TypeError and ValueError alone, before anything changes. The states are
made from real ones by putting each of many wrong values in the place of every entry. One that cannot be told from a
right one, such as another penalty, is taken; the next steps then run, and give a state that is taken as well.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import altmin_ext

from .methods.test_methods_common import METHODS, assert_same_state, blobs, make, network, snapshot


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    images: bool = False

    def made(self, steps: int) -> Any:
        """A method after so many steps."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = network(self.name) if self.build is None else self.build()
            method = make(self.name, model, **self.options)
            step(method, self, steps)
        return method


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
    )


CASES = {name: Case(name) for name in METHODS} | {
    "am-adam, convolutions": Case("am-adam", convolutions, images=True),
    "am-mem, memory": Case("am-mem", options={"targets": "memory", "lr_memory": 1.0, "prior": 0.5}),
    "am-mem, momentum": Case(
        "am-mem",
        options={"lr_memory_of": "outputs", "weight_momentum": 0.5, "exact": True, "memory_every": 3},
    ),
    "am-mem, exact": Case(
        "am-mem",
        options={"prior": 0.5, "damping": 0.0, "forgetting": 0.0, "exact": True, "predictor": "memory"},
    ),
    "block-admm, stored": Case("block-admm", options={"duals": "stored"}),
    "mdlam, mse": Case("mdlam", options={"loss": "squared"}),
}
every_case = pytest.mark.parametrize("case", CASES)
every_number_of_steps = pytest.mark.parametrize("steps", [0, 3])

X, Y = blobs(size=20)
IMAGES = torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def step(method: Any, case: Case, steps: int) -> None:
    for _ in range(steps):
        index = {"index": torch.arange(20)} if method.per_sample else {}
        method.step(IMAGES if case.images else X, Y, **index)


Path = tuple[Any, ...]


def step_from(method: Any, case: Case, path: Path) -> None:
    """Two steps; other samples are refused by a method that keeps their variables, other rates may be too large."""
    try:
        step(method, case, 2)
    except altmin_ext.DivergenceError:
        pass
    except ValueError as error:
        refusal = {"fingerprint": "must hold the samples of the first step", "digests": "was another sample"}
        if path[0] not in refusal or refusal[path[0]] not in str(error):
            raise


def entries(state: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every entry of a state, containers as well."""
    if path:
        yield path, state
    if isinstance(state, dict):
        for key, value in state.items():
            yield from entries(value, (*path, key))
    elif isinstance(state, (list, tuple)):
        for i, value in enumerate(state):
            yield from entries(value, (*path, i))


def put(state: Any, path: Path, value: Any) -> Any:
    """A state with another value at this path."""
    if not path:
        return value
    key, *rest = path
    if isinstance(state, dict):
        return {**state, key: put(state[key], tuple(rest), value)}
    changed = list(state)
    changed[key] = put(changed[key], tuple(rest), value)
    return type(state)(changed)


def spoiled_tensors(tensor: Tensor) -> dict[str, Any]:
    flat = tensor.flatten()
    wrong = {
        "numbers": tensor.tolist(),
        "empty": tensor.new_empty(0),
        "one more": torch.cat([flat, flat, flat[:1]]),
        "a dimension more": tensor[None],
        "half": tensor.to(torch.float16),
        "other float": tensor.to(torch.float32 if tensor.dtype == torch.float64 else torch.float64),
        "complex": tensor.to(torch.complex64),
        "sparse": tensor[None].to_sparse(),
        "meta": tensor.to("meta"),
        "zeros": torch.zeros_like(tensor),
        "requires grad": tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor,
        "strided": torch.stack([tensor, tensor], -1)[..., 0],
    }
    if tensor.ndim > 1:
        wrong |= {"transposed": tensor.transpose(0, 1), "a row less": tensor[1:], "flat": flat}
    if tensor.is_floating_point() and tensor.numel():
        for name, value in {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}.items():
            wrong[name] = tensor.clone()
            wrong[name].flatten()[-1] = value
        wrong["negated"] = -tensor - 0.5
    return wrong


def spoiled(value: Any) -> dict[str, Any]:
    """Values that may be wrong in the place of this one."""
    wrong: dict[str, Any] = {
        "none": None, "word": "state", "true": True, "minus one": -1, "minus a half": -0.5, "nan": math.nan,
        "inf": math.inf, "huge": 10**400, "large": 2**70 if isinstance(value, int) else 1000, "zero": 0,
        "tensor": torch.ones(2, 3), "list": [], "lists": [[1.0], "x"], "vector": [torch.ones(2)], "dict": {},
        "object": object(), "bytes": b"x",
    }  # fmt: skip
    if isinstance(value, Tensor):
        wrong |= spoiled_tensors(value)
    elif isinstance(value, dict):
        wrong |= {f"without {key}": {k: v for k, v in value.items() if k != key} for key in value}
        wrong |= {"one more": {**value, "more": 1}, "pairs": list(value.items())}
    elif isinstance(value, (list, tuple)):
        wrong |= {"one less": value[:-1], "one more": [*value, *value[-1:]], "reversed": list(value)[::-1]}
        wrong |= {"nones": [None] * len(value)}
    return wrong


def same_loaded(method: Any, state: Any) -> bool:
    """Whether a method takes a state; if not, it says so in a sentence."""
    try:
        method.load_state_dict(state)
    except (TypeError, ValueError) as error:
        message = str(error)
        assert message.startswith("state"), message
        assert "\n" not in message, message
        assert message.endswith("."), message
        assert " must " in message, message
        return False
    return True


@every_case
@every_number_of_steps
def test_an_altered_state_is_refused_whole_or_trained_on(case: str, steps: int) -> None:
    method = CASES[case].made(steps)
    state, weights = method.state_dict(), snapshot(method.model)
    own = copy.deepcopy(state)
    refused = 0
    for path, value in entries(state):
        for kind, wrong in spoiled(value).items():
            if not same_loaded(method, put(state, path, wrong)):
                refused += 1
                continue
            step_from(method, CASES[case], path)
            after = method.state_dict()
            method.load_state_dict(after)
            assert_same_state(method.state_dict(), after)
            for key, tensor in method.model.state_dict().items():
                assert bool(tensor.isfinite().all()), (path, kind, key)
            method.model.load_state_dict(weights)
            method.load_state_dict(state)
        assert_same_state(method.state_dict(), own)
    assert refused > 10 * len(state)
    undisturbed = CASES[case].made(steps)
    step(undisturbed, CASES[case], 2)
    step(method, CASES[case], 2)
    assert_same_state(method.state_dict(), undisturbed.state_dict())


MUST_BE_REFUSED: dict[str, tuple[str, Path, Any]] = {
    "penalty of zero": ("am-adam", ("mu",), 0.0),
    "penalty that is no number": ("am-adam", ("mu",), math.nan),
    "negative steps": ("am-adam", ("steps",), -1),
    "steps that are a bool": ("am-adam", ("steps",), True),
    "negative rate": ("am-adam", ("learning_rate_factor",), -1.0),
    "half an update": ("am-adam", ("update", "updates"), 1.5),
    "negative squares": ("am-adam", ("update", "second_moments", 0), -torch.ones(16, 6)),
    "vector of zeros": ("am-adam", ("singular_vectors", 0), torch.zeros(16)),
    "negative norm": ("am-adam", ("sigma_squared",), torch.full((2,), -1.0, dtype=torch.float64)),
    "generator of zeros": ("am-adam", ("singular_vectors_to_draw",), torch.zeros(5056, dtype=torch.uint8)),
    "asymmetric memory": ("am-mem", ("memories", 0, 0), torch.ones(7, 7).triu()),
    "indefinite memory": ("am-mem", ("memories", 0, 0), 1 - torch.eye(7)),
    "more samples than variables": ("mdlam", ("samples",), (21, 6)),
    "samples of another width": ("mdlam", ("samples",), (20, 7)),
    "other samples' shape": ("mdlam", ("fingerprint", 0), torch.ones(20, 7)),
    "no samples": ("admm", ("codes",), []),
    "negative box": ("mdlam", ("eps",), -1.0),
    "no iteration left": ("dladmm", ("to_raise",), 0),
    "no penalty": ("dladmm", ("rho",), 0.0),
    "negative squares of RMSProp": ("dtp", ("moments", 0), -torch.ones(3, 16, 6)),
    "moments of no parameter": ("adam", ("optimizer", "state"), {99: {}}),
    "moments of a parameter without moments": ("adam", ("optimizer", "state", 0), {}),
    "negative squares of torch": ("adam", ("optimizer", "state", 0, "exp_avg_sq"), -torch.ones(16, 6)),
    "rate that torch refuses": ("adam", ("optimizer", "param_groups", 0, "betas"), (1.5, 0.999)),
    "another kind of Adam": ("adam", ("optimizer", "param_groups", 0, "amsgrad"), True),
    "parameters of another model": ("adam", ("optimizer", "param_groups", 0, "params"), [0, 1]),
}


@pytest.mark.parametrize("case", MUST_BE_REFUSED)
def test_what_must_be_refused(case: str) -> None:
    name, path, value = MUST_BE_REFUSED[case]
    method = CASES[name].made(3)
    state = method.state_dict()
    with pytest.raises((TypeError, ValueError)) as error:
        method.load_state_dict(put(state, path, value))
    words = str(error.value)
    assert words.startswith(f"state's {path[0]}"), words
    assert_same_state(method.state_dict(), state)


@pytest.mark.parametrize("widths", [(5, 12), (16, 5), (5, 5)], ids=str)
def test_codes_of_another_model_are_refused(widths: tuple[int, int]) -> None:
    """Which no single entry tells, if the weights are those of this one."""
    method = CASES["block-admm, stored"].made(3)
    state = method.state_dict()
    codes = [torch.ones(len(own), width) for own, width in zip(state["codes"], widths, strict=True)]
    with pytest.raises(ValueError, match=r"^state's codes must have the shapes of this model's codes, but"):
        method.load_state_dict({**state, "codes": codes, "duals": [2 * own for own in codes]})
    assert_same_state(method.state_dict(), state)


def test_entries_that_nobody_knows_are_refused() -> None:
    method = CASES["am-adam"].made(1)
    state = method.state_dict()
    for wrong in ({**state, "more": 1}, {**state, 3: 1}, {**state, "update": {**state["update"], "more": 1}}):
        with pytest.raises(ValueError, match=r"^state.* must hold .*, but holds .* as well[.]$"):
            method.load_state_dict(wrong)


@every_case
@every_number_of_steps
def test_saving_and_loading_copy(case: str, steps: int) -> None:
    """Neither later steps nor the caller's own changes reach across, whatever the tensors' strides."""
    method, other = CASES[case].made(steps), CASES[case].made(0)
    state = method.state_dict()
    kept = copy.deepcopy(state)
    other.load_state_dict(state)
    other.model.load_state_dict(method.model.state_dict())
    step(other, CASES[case], 2)
    step(method, CASES[case], 2)
    assert_same_state(state, kept)
    for _, value in entries(state):
        if isinstance(value, Tensor) and value.is_floating_point():
            value.fill_(7.0)
    assert_same_state(method.state_dict(), other.state_dict())
    with torch.inference_mode():
        method.load_state_dict(kept)
    assert_same_state(method.state_dict(), kept)
    step(method, CASES[case], 2)


@pytest.mark.parametrize("name", METHODS)
def test_states_of_others_are_refused(name: str) -> None:
    """Of another method, another architecture, another dtype."""
    method = CASES[name].made(3)
    own = method.state_dict()
    others = [CASES[other].made(3) for other in METHODS if other != name]
    for hidden, dtype in ((5, torch.float32), (16, torch.float64)):
        other = make(name, network(name, dtype, hidden=hidden))
        other.step(X.to(dtype), Y)
        others.append(other)
    for other in others:
        assert not same_loaded(method, other.state_dict())
        assert_same_state(method.state_dict(), own)
