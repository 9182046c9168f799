"""Two methods for equal models that are told the same: one whose steps are planned, and one whose steps are not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext.methods import Method, StepReport

Batch = tuple[Tensor, Tensor]
REPORTED = [field.name for field in dataclasses.fields(StepReport)]


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """The model that a function makes, with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def network(
    *between: nn.Module,
    features: int = 6,
    classes: int = 3,
    bias: bool = True,
    front: Sequence[nn.Module] = (),
) -> nn.Sequential:
    """Three Linears, with the modules given between the first two."""
    return nn.Sequential(
        *front,
        nn.Linear(features, 8, bias=bias),
        *(between or (nn.ReLU(),)),
        nn.Linear(8, 7, bias=bias),
        nn.Tanh(),
        nn.Linear(7, classes, bias=bias),
    )


def minibatches(
    *sizes: int,
    shape: Sequence[int] = (6,),
    classes: int = 3,
    dtype: torch.dtype = torch.float32,
    loss: str = "cross_entropy",
    seed: int = 1,
) -> list[Batch]:
    """Random minibatches of these sizes."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for size in sizes:
        x = torch.randn(size, *shape, generator=generator).to(dtype)
        if loss == "mse":
            y = torch.randn(size, classes, generator=generator).to(dtype)
        else:
            y = torch.randint(classes, (size,), generator=generator)
        result.append((x, y))
    return result


def ordinary(method: Method) -> Method:
    """The method, whose steps are not planned from now on."""
    method._replayed = None
    method._new_replays = lambda: None  # type: ignore[method-assign]
    return method


def assert_same(found: Any, expected: Any, what: str = "result") -> None:
    """Of the same types, and the same bits, where one NaN is like another."""
    assert type(found) is type(expected), f"{what} is {found!r}, not {expected!r}"
    if isinstance(expected, dict):
        assert list(found) == list(expected), what
        for key, value in expected.items():
            assert_same(found[key], value, f"{what}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), what
        for i, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{what}[{i}]")
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(
            found, expected, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{what}: {m}"
        )
    elif isinstance(expected, StepReport):
        for name in REPORTED:
            assert_same(getattr(found, name), getattr(expected, name), name)
    elif isinstance(expected, BaseException):
        assert str(found) == str(expected), what
    else:
        assert found == expected, what


def everything(method: Method) -> dict[str, Any]:
    """All that a method and its model are, and what the method says of its last step."""
    last = {name: getattr(method, name, None) for name in ("code_step_sizes", "code_displacements")}
    return {
        "model": {name: value.clone() for name, value in method.model.state_dict().items()},
        "method": method.state_dict(),
        "last": last,
        "flags": method._guard.flags.clone(),
        "training": [module.training for module in method.model.modules()],
    }


class SideBySide:
    """A method whose steps are planned beside one whose steps are not, each with a torch generator of its own.

    Args:
        name: of the method.
        model: copied for each.
        dtype: of the copies.
        **options: for both methods.

    Attributes:
        planned, by_steps: the two methods.
    """

    def __init__(
        self, name: str, model: nn.Module, dtype: torch.dtype = torch.float32, **options: Any
    ) -> None:
        self.planned, self.by_steps = (
            altmin_ext.make_method(name, copy.deepcopy(model).to(dtype), **options) for _ in range(2)
        )
        ordinary(self.by_steps)
        self._generators = [torch.Generator().manual_seed(5).get_state()] * 2

    @property
    def methods(self) -> tuple[Method, Method]:
        return self.planned, self.by_steps

    def each(self, *functions: Callable[[Method], Any]) -> Any:
        """Call a function with each method, or one with the first and another with the second.

        Both must return, or raise, the same, and leave everything the same; returns that.
        """
        outcomes = []
        with torch.random.fork_rng(devices=[]):
            for i, method in enumerate(self.methods):
                torch.set_rng_state(self._generators[i])
                try:
                    outcomes.append(functions[i if len(functions) > 1 else 0](method))
                except Exception as error:
                    outcomes.append(error)
                self._generators[i] = torch.get_rng_state()
        assert_same(outcomes[0], outcomes[1])
        self.compare()
        return outcomes[0]

    def compare(self) -> None:
        """Both methods, their models and generators must be the same."""
        assert_same(everything(self.planned), everything(self.by_steps), "everything")
        assert torch.equal(*self._generators), "the generator of torch has drawn something else"

    def step(self, x: Any, y: Any) -> Any:
        """A step by each; returns the report, or the exception."""
        return self.each(lambda method: method.step(x, y))

    def run(self, batches: Iterable[tuple[Any, Any]]) -> None:
        """Steps by each, which must succeed."""
        for x, y in batches:
            outcome = self.step(x, y)
            assert isinstance(outcome, StepReport), outcome

    def learn(self, x: Tensor, y: Tensor, size: int = 1) -> Any:
        """``learn`` by the planned method, and steps by the other."""

        def by_steps(method: Method) -> StepReport:
            reports = [
                method.step(x[first : first + size], y[first : first + size])
                for first in range(0, len(x), size)
            ]

            def together(field: str) -> Any:
                values = [getattr(report, field) for report in reports]
                return None if values[0] is None else torch.stack(values)

            return StepReport(*map(together, REPORTED))

        return self.each(lambda method: method.learn(x, y, size), by_steps)

    def assert_planned(self) -> None:
        """The last step of the planned method was a replay, or could be repeated by one."""
        assert self.planned.why_not_planned is None
        latest = self.planned._latest_plan
        assert latest is not None
        assert latest.is_in_place
        assert self.by_steps._latest_plan is None
