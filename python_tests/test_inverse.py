"""The recursive inverse of a memory.

The oracle is the inverse itself: A and the multiple of the identity are summed up in float64, and inverted by
torch.linalg.inv. Weights are compared with those of solutions with A.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.updates import RecursiveInverse
from altmin_ext.updates.inverse import most_held

N = 12
DTYPES = (torch.float32, torch.float64)


@pytest.fixture(params=("native", "reference"), autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with ops.backend(request.param):
        yield


class Memory:
    """A + added I in float64 beside its recursive inverse."""

    def __init__(self, dtype: torch.dtype, added: float = 3.0, n: int = N) -> None:
        self.random = torch.Generator().manual_seed(1)
        self.dtype, self.n = dtype, n
        self.inverse = RecursiveInverse(torch.zeros(1, dtype=dtype), n)
        self.inverse.start(added)
        self.matrix = added * torch.eye(n, dtype=torch.float64)
        self.largest = 1 / added  # entry of P

    def draw(self, batch: int, columns: int | None = None) -> Tensor:
        """Inputs in float64 that float32 can hold."""
        return torch.randn(batch, columns or self.n, generator=self.random).double()

    def expected(self) -> Tensor:
        return torch.linalg.inv(self.matrix)

    def add(self, inputs: Tensor, forgetting: float = 0.0) -> None:
        """A minibatch, with a 1 appended where a column is missing."""
        z = self.inverse.solve(inputs.to(self.dtype), forgetting)
        assert z is not None
        one = torch.ones(len(inputs), self.n - inputs.shape[1], dtype=torch.float64)
        augmented = torch.cat([inputs, one], 1)
        self.matrix = (1 - forgetting) * self.matrix + augmented.T @ augmented
        self.assert_close(z, augmented @ self.expected(), 4)
        self.inverse.commit()

    def assert_close(self, found: Tensor, expected: Tensor, factor: float = 1.0) -> None:
        """As far as rounding allows that of the P that it began with, of which most has been taken off."""
        tolerance = 8 * factor * torch.finfo(self.dtype).eps * self.largest
        assert ((found.double() - expected).abs() <= tolerance).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [N - 1, N])
@pytest.mark.parametrize("forgetting", [0.0, 0.2])
def test_the_inverse_follows_the_memory(dtype: torch.dtype, columns: int, forgetting: float) -> None:
    """Through minibatches of all sizes, some too large to be held and some empty."""
    memory = Memory(dtype)
    for batch in (1, 0, 3, 5, most_held + 3, 2, 20, 1, 1, 40, 30, 7):
        memory.add(memory.draw(batch, columns), forgetting if batch % 2 else 0.0)
    memory.assert_close(memory.inverse.multiply(torch.eye(N, dtype=dtype)), memory.expected())
    matrix = memory.inverse.matrix
    memory.assert_close(matrix, memory.expected())
    assert torch.equal(matrix, matrix.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_before_the_commit_nothing_has_changed(dtype: torch.dtype) -> None:
    memory, twin = Memory(dtype), Memory(dtype)
    for _ in range(3):
        memory.add(memory.draw(5))
        twin.add(twin.draw(5))
        for found in (memory.inverse.solve(memory.draw(7).to(dtype), 0.1), memory.inverse.solve_removed(
            (memory.draw(2) / 10).to(dtype)
        )):  # fmt: skip
            assert found is not None
        memory.random.set_state(twin.random.get_state())
    assert torch.equal(memory.inverse.matrix, twin.inverse.matrix)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_solution_is_committed_once(dtype: torch.dtype) -> None:
    memory = Memory(dtype)
    memory.inverse.commit()
    memory.add(memory.draw(70))
    memory.inverse.commit()
    memory.assert_close(memory.inverse.matrix, memory.expected())


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_taken_in_can_be_taken_out(dtype: torch.dtype) -> None:
    """In another order and by other minibatches."""
    memory = Memory(dtype, added=1.0)
    memory.add(memory.draw(40))
    before = memory.matrix
    batches = [memory.draw(batch) for batch in (1, 5, 9)]
    for inputs in batches:
        memory.add(inputs)
    for inputs in torch.cat(batches).flip(0).split(6):
        z = memory.inverse.solve_removed(inputs.to(dtype))
        assert z is not None
        memory.matrix = memory.matrix - inputs.T @ inputs
        memory.assert_close(z, inputs @ memory.expected(), 4)
        memory.inverse.commit()
        assert torch.equal(memory.inverse.matrix, memory.inverse.matrix.T)
    assert torch.allclose(memory.matrix, before)
    memory.assert_close(memory.inverse.matrix, torch.linalg.inv(before), 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numerics_forbid_a_down_date(dtype: torch.dtype) -> None:
    """Where A would not be positive definite, or keep less than half of the digits in some direction."""
    memory = Memory(dtype)
    inputs = memory.draw(5)
    memory.add(inputs)
    before = memory.inverse.matrix.clone()
    half = torch.finfo(dtype).eps ** 0.5
    assert memory.inverse.solve_removed(2 * inputs.to(dtype)) is None
    # 1 - x P x of one sample is what is left of A's part in its direction.
    x = memory.draw(1)
    scale = (x @ memory.expected() @ x.T).item() ** -0.5
    for left, allowed in ((half / 4, False), (4 * half, True)):
        found = memory.inverse.solve_removed((x * scale * (1 - left) ** 0.5).to(dtype))
        assert (found is not None) == allowed
    memory.inverse.solve_removed(2 * inputs.to(dtype))
    memory.inverse.commit()  # of nothing
    assert torch.equal(memory.inverse.matrix, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nonfinite_inputs_are_refused(dtype: torch.dtype, bad: float) -> None:
    memory = Memory(dtype)
    memory.add(memory.draw(5))
    before = memory.inverse.matrix.clone()
    inputs = memory.draw(4).to(dtype)
    inputs[2, 3] = bad
    assert memory.inverse.solve(inputs) is None
    assert memory.inverse.solve_removed(inputs) is None
    memory.inverse.commit()
    assert torch.equal(memory.inverse.matrix, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_renew(dtype: torch.dtype) -> None:
    memory = Memory(dtype)
    for _ in range(3):
        memory.add(memory.draw(8))
    gram = (memory.matrix + 0).to(dtype)
    kept = gram.clone()
    assert memory.inverse.renew(gram, 0.25)
    memory.matrix = gram.double() + 0.25 * torch.eye(N, dtype=torch.float64)
    memory.assert_close(memory.inverse.matrix, memory.expected(), 0.1)
    assert torch.equal(memory.inverse.matrix, memory.inverse.matrix.T)
    assert torch.equal(gram, kept)
    memory.add(memory.draw(8))  # and it goes on from there


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_positive_definite_is_not_inverted(dtype: torch.dtype) -> None:
    memory = Memory(dtype)
    memory.add(memory.draw(8))
    before = memory.inverse.matrix.clone()
    for gram, added in ((torch.eye(N), -1.5), (torch.zeros(N, N), 0.0), (torch.full((N, N), torch.nan), 1.0)):
        assert not memory.inverse.renew(gram.to(dtype), added)
        assert torch.equal(memory.inverse.matrix, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_probe_sees_how_far_it_is(dtype: torch.dtype) -> None:
    """With P of another matrix c (A + added I), v - (A + added I) P v is (1 - 1 / c) v."""
    memory = Memory(dtype)
    for _ in range(3):
        memory.add(memory.draw(8))
    gram = memory.matrix - 3 * torch.eye(N, dtype=torch.float64)
    rounding = 1e-4 if dtype == torch.float32 else 1e-12
    assert memory.inverse.probe(gram.to(dtype), 3.0) < rounding
    for c in (1.01, 2.0):
        assert memory.inverse.probe(gram.to(dtype) / c, 3 / c) == pytest.approx(1 - 1 / c, abs=rounding)
    memory.inverse.matrix[0, 0] = torch.nan
    assert not memory.inverse.probe(gram.to(dtype), 0.3) < 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("held", [0, 1, 3])
def test_the_state_goes_on_to_the_bit(dtype: torch.dtype, held: int) -> None:
    memory, other = Memory(dtype), Memory(dtype, added=2.0)
    memory.add(memory.draw(most_held))
    for _ in range(held):
        memory.add(memory.draw(5))
    for _ in range(2):
        other.add(other.draw(3))
    state = memory.inverse.state.save()
    other.inverse.state.load(other.inverse.state.read("inverse", state, {}))
    for batch in (2, 30, 30, 1):
        inputs = memory.draw(batch).to(dtype)
        found = [inverse.solve(inputs) for inverse in (memory.inverse, other.inverse)]
        assert torch.equal(*found)  # type: ignore[call-overload]
        memory.inverse.commit()
        other.inverse.commit()
    assert torch.equal(memory.inverse.matrix, other.inverse.matrix)


def test_a_state_that_cannot_be_one_is_refused() -> None:
    memory = Memory(torch.float64)
    memory.add(memory.draw(3))
    state: dict[str, Any] = memory.inverse.state.save()
    skew = state["matrix"].clone()
    skew[0, 1] += 1
    for wrong in (
        {"matrix": skew},
        {"matrix": -state["matrix"]},
        {"factors": torch.zeros(3, N + 1, dtype=torch.float64)},
        {"factors": torch.full((3, N), torch.nan, dtype=torch.float64)},
    ):
        with pytest.raises(ValueError, match=r"^inverse's (matrix|factors) must .*\.$"):
            memory.inverse.state.read("inverse", state | wrong, {})


@pytest.mark.parametrize("forgetting", [0.0, 0.001, 0.1])
def test_float32_does_not_drift(forgetting: float) -> None:
    """Half of the inputs fall silent; P is made anew whenever ``added`` has faded to half of its nominal value.

    So it is bounded, and the weights stay with those of float64.
    """
    n, updates = 16, 3000
    memory = Memory(torch.float32, added=1.0, n=n)
    teacher, nominal, added = memory.draw(3, n), 1e-3, 1.0
    weights, exact = torch.zeros(3, n), torch.zeros(3, n, dtype=torch.float64)
    gram = torch.zeros(n, n, dtype=torch.float64)
    for i in range(updates):
        x = memory.draw(2)
        if i > 100:
            x[:, ::2] = 0
        targets = x @ teacher.T + 0.1 * memory.draw(2, 3)
        gram, added = (1 - forgetting) * gram + x.T @ x, (1 - forgetting) * added
        z = memory.inverse.solve(x.float(), forgetting)
        assert z is not None
        memory.inverse.commit()
        if forgetting and added < nominal / 2:
            added = nominal
            assert memory.inverse.renew(gram.float(), added)
            z = memory.inverse.multiply(x.float())
        weights -= (x.float() @ weights.T - targets.float()).T @ z
        memory.matrix = gram + added * torch.eye(n, dtype=torch.float64)
        exact -= (x @ exact.T - targets).T @ torch.linalg.solve(memory.matrix, x.T).T
    found, expected = memory.inverse.matrix.double(), memory.expected()
    assert torch.linalg.matrix_norm(found - expected, 2) <= 1e-5 * torch.linalg.matrix_norm(expected, 2)
    assert found.abs().max() <= 2 / nominal
    assert (weights.double() - exact).norm() <= 1e-3 * exact.norm()
    assert memory.inverse.probe(gram.float(), added) < 1e-3


def test_buffers_are_kept() -> None:
    memory = Memory(torch.float32)
    places = set()
    for batch, _ in itertools.product((20,), range(12)):
        z = memory.inverse.solve(memory.draw(batch).float())
        assert z is not None
        places.add(z.data_ptr())
        memory.inverse.commit()
    assert len(places) == 1
