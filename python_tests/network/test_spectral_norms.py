"""Squared spectral norms of the stages above the codes, by power iteration.

Oracle: torch.linalg.matrix_norm of the dense matrix of each stage: its weight, or the Jacobian that torch.func finds;
and that a power iteration on a positive semidefinite matrix comes from below and never falls.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from altmin_ext.network import EvaluatedMap, SpectralNorms, split
from altmin_ext.nn import GRU
from altmin_ext.ops import CodeScalar

from .modules import Block, Power, as_function

BATCH = 5
CHAINS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "linear": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), (6,),
    ),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 2, stride=2), nn.Flatten(), nn.Linear(12, 3)
        ),
        (1, 6, 6),
    ),
    "jacobians that differ": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), Block(), nn.Linear(5, 3)), (6,),
    ),
    "slopes without a bound": (lambda: nn.Sequential(nn.Linear(6, 5), Power(), nn.Linear(5, 3)), (6,)),
    "recurrent": (
        lambda: nn.Sequential(GRU(3, 4), GRU(4, 2), nn.Flatten(), nn.Linear(8, 3)), (4, 3),
    ),
}  # fmt: skip


class Chain:
    """A model that has been evaluated once, with the norms of its stages."""

    def __init__(self, case: str, seed: int = 3) -> None:
        make, shape = CHAINS[case]
        torch.manual_seed(1)
        self.model, x = make().double(), torch.randn(BATCH, *shape, dtype=torch.float64)
        self.stages = split(self.model)
        count = len(self.stages) - 1
        self.block = torch.zeros(count, len(CodeScalar), dtype=torch.float64)
        self.norms = SpectralNorms(self.stages[1:], list(self.block), seed, x[:0])
        self.codes: list[Tensor] = []
        inputs = []
        with torch.no_grad():
            for stage in self.stages:
                assert isinstance(stage.map, EvaluatedMap)
                inputs.append(stage.pre.begin(x))
                output = stage.map.encode(inputs[-1], None)
                x = output if stage.map.bias is None else output + stage.map.bias
                self.codes.append(x)
        self.norms.set_shapes([c.shape[1:] for c in self.codes[:-1]], [a.shape[1:] for a in inputs[1:]])

    @property
    def results(self) -> list[float]:
        return self.block[:, CodeScalar.sigma_squared].tolist()

    def iterate(self, times: int) -> None:
        with torch.no_grad():
            for _ in range(times):
                self.norms.iterate(BATCH)

    def expected(self) -> list[float]:
        """sigma_max^2 of the map, or of map and pre-map where this has no bound; the largest over the minibatch."""
        found = []
        modules = list(self.model)
        for i, stage in enumerate(self.stages[1:], 1):
            start = 1 + next(j for j, m in enumerate(modules) if m is modules[int(self.stages[i - 1].name)])
            if stage.pre.lipschitz is not None:
                start = int(stage.name)
            part = nn.Sequential(*modules[start : int(stage.name) + 1])
            with torch.no_grad():
                below = nn.Sequential(*modules[int(self.stages[i - 1].name) + 1 : start])(self.codes[i - 1])
            jacobian_of = torch.func.jacrev(as_function(part))
            jacobians = [jacobian_of(a[None]).reshape(-1, a.numel()) for a in below]
            norms = [torch.linalg.matrix_norm(jacobian, 2) for jacobian in jacobians]
            found.append(float(max(norms)) ** 2)
        return found


@pytest.mark.parametrize("case", ["linear", "convolutions", "slopes without a bound"])
def test_it_comes_to_the_largest_singular_value(case: str) -> None:
    chain = Chain(case)
    chain.iterate(400)
    assert chain.results == pytest.approx(chain.expected(), rel=1e-6)


@pytest.mark.parametrize("case", ["jacobians that differ", "recurrent"])
def test_it_comes_to_the_largest_of_several_samples_at_the_rate_that_is_proven(case: str) -> None:
    """Norms of samples lie close together. After k iterations from a random vector of n entries, .871 ln(n) / (k - 1)
    is missing at most in the mean (Kuczyński & Woźniakowski 1992), whatever the gap.
    """
    chain = Chain(case)
    chain.iterate(100)
    assert chain.results == pytest.approx(chain.expected(), rel=0.871 * math.log(BATCH * 16) / 99)


def test_it_begins_anew_where_only_samples_of_a_larger_minibatch_are_left() -> None:
    """Those whose units are all dead have a Jacobian of zero, which erases their part of the vector."""
    chain = Chain("slopes without a bound")
    codes, x = chain.codes[0], torch.cat([torch.zeros(BATCH, 5), torch.ones(1, 5)]).double()
    with torch.no_grad():
        chain.stages[1].map.encode(chain.stages[1].pre.begin(x), None)
        chain.norms.iterate(BATCH + 1)
        chain.stages[1].map.encode(chain.stages[1].pre.begin(codes), None)
    chain.iterate(400)
    assert chain.results == pytest.approx(chain.expected(), rel=1e-6)


@pytest.mark.parametrize("case", CHAINS)
def test_it_comes_from_below_and_never_falls(case: str) -> None:
    chain = Chain(case)
    expected, before = chain.expected(), [0.0] * len(chain.block)
    for _ in range(15):
        chain.iterate(1)
        for new, old, largest in zip(chain.results, before, expected, strict=True):
            assert old * (1 - 1e-12) <= new <= largest * (1 + 1e-12)
        before = chain.results


def test_twenty_iterations_come_before_the_first_step_and_none_later() -> None:
    begun, iterated = Chain("convolutions"), Chain("convolutions")
    with torch.no_grad():
        begun.norms.begin(BATCH)
        begun.norms.begin(BATCH)
    iterated.iterate(20)
    assert begun.results == iterated.results


def iterations_of(chain: Chain, updates: int) -> list[int]:
    """The numbers of the updates, from 1, that multiply by the Jacobian of the lowest stage."""
    made, map, number = [], chain.stages[1].map, 0
    multiply = map.sample_jvp

    def noted(v: Tensor) -> Tensor:
        made.append(number)
        return multiply(v)

    map.sample_jvp = noted  # type: ignore[method-assign]
    with torch.no_grad():
        for number in range(1, updates + 1):  # noqa: B007
            chain.norms.update(BATCH)
    map.sample_jvp = multiply  # type: ignore[method-assign]
    return made


def begun(case: str) -> Chain:
    chain = Chain(case)
    with torch.no_grad():
        chain.norms.begin(BATCH)
    return chain


def test_a_norm_that_has_settled_is_iterated_at_growing_intervals() -> None:
    """16 times in every step, in every second and in every third one, then in every fourth one."""
    gaps = [1] * 16 + [2] * 16 + [3] * 16 + [4] * 16
    due = [1 + sum(gaps[1 : k + 1]) for k in range(len(gaps))]
    assert iterations_of(begun("convolutions"), due[-1]) == due


def test_a_norm_that_moves_is_iterated_in_every_step_again() -> None:
    chain = begun("convolutions")
    iterations_of(chain, 52)
    with torch.no_grad():
        chain.model[2].weight.mul_(1.2)  # its square by more than a fifth
    # The iterations before were the 48th and the 51st update, so that the next one is the 54th.
    assert iterations_of(chain, 10) == list(range(2, 11))


def test_matrices_are_iterated_in_every_step() -> None:
    updated, iterated = begun("linear"), begun("linear")
    for _ in range(60):
        updated.norms.update(BATCH)
        iterated.iterate(1)
        assert updated.results == iterated.results


def test_estimates_stay_close_while_the_weights_move() -> None:
    """Beside the norms themselves, while every weight grows by a tenth in ten steps."""
    chain = begun("convolutions")
    iterations_of(chain, 100)
    with torch.no_grad():
        for _ in range(60):
            chain.model[2].weight.mul_(1.01)
            chain.norms.update(BATCH)
            assert chain.results[0] == pytest.approx(chain.expected()[0], rel=0.1)


@pytest.mark.parametrize("after", [5, 29, 53])
def test_the_schedule_goes_on_from_a_state(after: int) -> None:
    straight, resumed = begun("convolutions"), Chain("convolutions", seed=9)
    iterations_of(straight, after)
    resumed.norms.state.load(resumed.norms.state.read("state", straight.norms.state.save(), {}))
    assert iterations_of(resumed, 12) == iterations_of(straight, 12)
    assert resumed.results == straight.results


@pytest.mark.parametrize(
    ("schedule", "words"),
    [((0,), "2 entries"), ((49, 1), "at most 48"), ((0, 5), "at most 4"), ((-1, 1), "at least 0")],
    ids=str,
)
def test_a_schedule_that_cannot_be_is_refused(schedule: tuple[int, ...], words: str) -> None:
    chain = Chain("convolutions")
    state = chain.norms.state.save() | {"singular_vectors_schedule": schedule}
    with pytest.raises(ValueError, match=rf"singular_vectors_schedule.* must .*{words}.*[.]$"):
        chain.norms.state.read("state", state, {})


def test_start_vectors_are_those_of_the_seed() -> None:
    one, same, other = Chain("linear", 3), Chain("linear", 3), Chain("linear", 4)
    for chain in (one, same, other):
        chain.iterate(1)
    assert one.results == same.results
    assert one.results != other.results


@pytest.mark.parametrize("case", ["linear", "slopes without a bound"])
def test_it_goes_on_from_a_state(case: str) -> None:
    straight, resumed = Chain(case), Chain(case, seed=9)
    straight.iterate(3)
    state = copy.deepcopy(straight.norms.state.save())
    resumed.norms.state.load(resumed.norms.state.read("state", state, {}))
    assert resumed.results == straight.results
    for chain in (straight, resumed):
        chain.iterate(2)
    assert resumed.results == straight.results


def test_a_state_of_another_model_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^state's singular_vectors\[0\] must have the shape .*, but has .*[.]$"
    ):
        Chain("linear").norms.state.read("state", Chain("convolutions").norms.state.save(), {})


def test_a_map_of_zeros_has_norm_zero_and_may_come_to_life() -> None:
    chain = Chain("convolutions")
    with torch.no_grad():
        chain.model[2].weight.zero_()
        chain.iterate(3)
        assert chain.results[0] == 0.0
        torch.nn.init.normal_(chain.model[2].weight)
    chain.iterate(400)
    assert chain.results[0] == pytest.approx(chain.expected()[0], rel=1e-6)
