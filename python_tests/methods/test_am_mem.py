"""am-mem against float64 solutions of its own least squares, and the laws its memory must obey.

Oracle: A is the second derivative, and B the first, of what a stage's output is asked for, by autograd through the
module itself; every column is then moved to the minimum of the quadratic that A and B make.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import altmin_ext
from altmin_ext import merge_memories
from altmin_ext.ops import CodeScalar
from altmin_ext.updates.inverse import RecursiveInverse

from .local_objectives import LocalObjectives
from .test_methods_common import assert_sentence
from .test_online_am import batches, distance, mlp, seeded

CLASSES = 5
DEFAULTS = {
    "targets": {
        "lr_memory": 0.5, "forgetting": 0.3, "damping": 3.0, "exact": False, "predictor": "adam",
        "weight_momentum": 0.0, "memory_every": 1,
    },
    "outputs": {
        "lr_memory": 0.05, "forgetting": 0.2, "damping": 1.0, "exact": True, "predictor": "memory",
        "weight_momentum": 0.5, "memory_every": 10,
    },
}  # fmt: skip


class MemoryObjectives(LocalObjectives):
    """Steps of am-mem: its hidden stages are fitted to A and B, one column after the other.

    Attributes:
        added: by stage, the multiple of the identity that is added to A instead of ``damping``.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        targets: str = "refreshed",
        lr_memory_of: str = "targets",
        sweeps: int = 1,
        nonnegative: bool = False,
        prior: float = 0.0,
        prior_out: float | None = None,
        **options: Any,
    ) -> None:
        own = {**DEFAULTS[lr_memory_of], **options}
        lr_memory, forgetting, damping, exact, predictor, momentum, every = (
            own.pop(name) for name in DEFAULTS[lr_memory_of]
        )
        if predictor == "memory":
            own = {"lr_out": 1.0 if lr_memory_of == "targets" else lr_memory, **own}
        options = own
        super().__init__(model, "am-adam", **options)
        self.prior, self.exact, self.predictor = prior, exact, predictor
        self.prior_out = prior if prior_out is None else prior_out
        self.refreshed = targets == "refreshed"
        self.rate, self.forgetting, self.damping = lr_memory, forgetting, damping
        self.sweeps, self.nonnegative = sweeps, nonnegative
        self.scales_outputs, self.momentum, self.every = (
            lr_memory_of == "outputs",
            momentum,
            every,
        )
        self.memories: dict[int, tuple[Tensor, Tensor]] = {}
        self.targets: dict[int, Tensor] = {}
        self.velocities: dict[int, Tensor] = {}
        self.seen = 0
        self.added: dict[int, float] = {}

    def step(self, x: Tensor, y: Tensor, **options: Any) -> Any:
        report = super().step(x, y, **options)
        self.seen += 1
        return report

    @property
    def _leaves_out(self) -> bool:
        """All but minibatches 0, 1, 2, 4, ... below ``every``, and the multiples of it."""
        powers = [2**power for power in range(10)]
        return self.seen % self.every > 0 and not (self.seen < self.every and self.seen in powers)

    def _fit(self, index: int, below: Tensor, code: Tensor | None, y: Tensor, iteration: int) -> None:
        if code is None and self.predictor == "adam":
            super()._fit(index, below, code, y, iteration)
            return
        module, a = self.stages[index].linear, self._run(self.stages[index].before, below).detach()
        weights = flat(module)
        gram = derivative(lambda w: output(module, a, w)[:, :1].square().sum() / 2, weights, order=2)
        refreshed = self.refreshed or code is None
        if code is None:
            gradient = self.lr_out * derivative(
                lambda w: len(y) * self._loss(output(module, a, w), y), weights
            )
        else:
            now = output(module, a, weights)
            residual = now - code
            if refreshed and iteration == 0:
                residual = self.rate * residual / (self.scales[index] if self.displacement else 1.0)
                self.targets[index] = now - residual
            elif refreshed:  # all iterations have the same target
                residual = now - self.targets[index]
            gradient = derivative(lambda w: (output(module, a, w) * residual).sum(), weights)
        cross = weights @ gram - gradient  # of what the output is asked to be
        before, targets = self.memories.get(index, (torch.zeros_like(gram), torch.zeros_like(cross)))
        if iteration == 0 and not self._leaves_out:
            if index not in self.memories:
                prior = self.prior_out if code is None else self.prior
                gram = gram + prior * gram.trace() * torch.eye(len(gram), dtype=gram.dtype)
                cross = weights @ gram - gradient
            kept = 1 - self.forgetting
            memory = kept * before + gram, kept * (weights @ before if refreshed else targets) + cross
        elif refreshed:
            memory = before, weights @ before - gradient
        else:
            memory = before, targets
        self.memories[index] = memory
        d = self.added.get(index, self.damping * memory[0].diagonal().mean())
        sides = memory[0] + d * torch.eye(len(memory[0]), dtype=torch.float64), memory[1] + d * weights
        solution = None
        if self.exact:  # where nothing at all has been seen, weights stay
            solution = torch.linalg.solve(sides[0], sides[1].T).T if sides[0].any() else weights
        if solution is None:
            solution = self._sweep(
                weights, *sides, module.bias is not None, self.nonnegative and code is not None
            )
        if self.scales_outputs:
            solution = weights + self._scaled(index, solution - weights, a, code is None)
        put(module, solution * (1 - self.lr * self.weight_decay))

    def _scaled(self, index: int, change: Tensor, a: Tensor, is_predictor: bool) -> Tensor:
        """The change of the weights, by which the outputs change by the rate in RMS, after Nesterov's momentum."""
        size = output(self.stages[index].linear, a, change).square().mean().sqrt()
        change = change / size if size > 0 else 0 * change
        velocity = self.momentum * self.velocities.get(index, 0 * change) + (1 - self.momentum) * change
        self.velocities[index] = velocity
        change = self.momentum * velocity + (1 - self.momentum) * change
        return (self.lr_out if is_predictor else self.rate) * change

    def _sweep(
        self, weights: Tensor, gram: Tensor, cross: Tensor, has_bias: bool, nonnegative: bool
    ) -> Tensor:
        weights = weights.clone()
        largest = gram.diagonal().max()
        for _ in range(self.sweeps):
            for j in range(len(gram)):
                if gram[j, j] <= torch.finfo(gram.dtype).eps * largest:
                    continue
                column = weights[:, j] + (cross[:, j] - weights @ gram[:, j]) / gram[j, j]
                if not (has_bias and j == len(gram) - 1):
                    # Not softshrink, which refuses what is no number.
                    column = column.sign() * (column.abs() - self.l1_weights / gram[j, j]).clamp(min=0)
                    column = column.clamp(min=0) if nonnegative else column
                weights[:, j] = column
        return weights


def flat(module: nn.Module) -> Tensor:
    """[W b]."""
    weight = module.weight.detach().flatten(1)
    return weight.clone() if module.bias is None else torch.cat([weight, module.bias.detach()[:, None]], 1)


def split(module: nn.Module, weights: Tensor) -> dict[str, Tensor]:
    columns = module.weight[0].numel()
    named = {"weight": weights[:, :columns].view(-1, *module.weight.shape[1:])}
    return named if module.bias is None else {**named, "bias": weights[:, -1]}


def output(module: nn.Module, a: Tensor, weights: Tensor) -> Tensor:
    return functional_call(module, split(module, weights), (a,))


def put(module: nn.Module, weights: Tensor) -> None:
    for name, value in split(module, weights).items():
        getattr(module, name).data.copy_(value)


def derivative(objective: Any, weights: Tensor, order: int = 1) -> Tensor:
    """The gradient in all weights; or the second derivative in those of the first output."""
    if order == 1:
        w = weights.clone().requires_grad_()
        return torch.autograd.grad(objective(w), w)[0]
    rest = weights[1:]
    return torch.autograd.functional.hessian(lambda row: objective(torch.cat([row[None], rest])), weights[0])


def replay(
    model: nn.Module, data: list[tuple[Tensor, Tensor]], loss: str = "cross_entropy", **options: Any
) -> Any:
    reference = MemoryObjectives(model, loss=loss, **options)
    method = altmin_ext.make_method("am-mem", model, loss=loss, **options)
    for number, (x, y) in enumerate(data):
        method.step(x, y)
        reference.step(x, y, step_sizes=method.code_step_sizes.tolist())
        assert distance(model, reference.model) < 1e-9, number
    memories = [reference.memories[index] for index in sorted(reference.memories)]
    for (gram, cross), (own, targets) in zip(method.memories, memories, strict=True):
        torch.testing.assert_close(gram, own, rtol=1e-10, atol=1e-10)
        if options.get("targets") == "memory":
            torch.testing.assert_close(cross, targets, rtol=1e-10, atol=1e-10)
    return method


PAPER = {"targets": "memory", "forgetting": 0.0, "damping": 0.0, "lr_memory": 1.0}
OPTIONS = [
    {},
    {"sweeps": 3, "forgetting": 0.0, "damping": 0.5},
    {"stage_scaling": "none"},
    {"weight_iterations": 2, "weight_decay": 0.1},
    {"l1_weights": 0.3},
    {"nonnegative": True, "predictor": "memory"},
    {"loss": "mse"},
    {"scaling": "released", "lr_codes": 0.3, "mu": 0.003},
    {"code_iterations": 3, "code_momentum": 0.5},
    {"prior": 0.5, "damping": 0.0, "forgetting": 0.0, "exact": True, "predictor": "memory"},
    {"prior": 0.5, "predictor": "memory", "weight_iterations": 2, "weight_decay": 0.1},
    {"lr_memory_of": "outputs"},
    {"lr_memory_of": "outputs", "exact": False, "predictor": "adam", "weight_decay": 0.1, "loss": "mse"},
    {
        "lr_memory_of": "outputs",
        "weight_momentum": 0.9,
        "stage_scaling": "none",
        "exact": True,
        "memory_every": 3,
    },
    {"memory_every": 3, "l1_weights": 0.3},
    {"memory_every": 2, "predictor": "memory", "prior": 0.1},
    {"memory_every": 5, "exact": True, "damping": 1.0, "weight_iterations": 2},
    {
        "prior": 1e-3,
        "prior_out": 0.2,
        "damping": 0.0,
        "forgetting": 0.0,
        "exact": True,
        "predictor": "memory",
    },
    PAPER,
    {**PAPER, "prior": 0.2, "exact": True},
    {**PAPER, "forgetting": 0.2, "damping": 0.1, "weight_iterations": 2},
    {**PAPER, "l1_weights": 0.3, "sweeps": 2},
    {**PAPER, "nonnegative": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_step(options: dict[str, Any]) -> None:
    # Fewer samples than inputs, then more: columns of which nothing has been seen, and a singular A.
    sizes = (5, 32, 32, 7, 32, 1, 32, 32)
    replay(mlp(), list(batches(sizes, loss=options.get("loss", "cross_entropy"))), **options)


def test_no_hidden_layer() -> None:
    replay(mlp((12, CLASSES)), list(batches((20, 20))), predictor="memory", prior=0.1)


@pytest.mark.parametrize("options", [{}, PAPER], ids=["refreshed", "memory"])
def test_convolutions(options: dict[str, Any]) -> None:
    """By their patches, whatever their stride, padding and dilation."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 2, dilation=2, bias=False),
            nn.ReLU(), nn.Flatten(2), nn.Conv1d(4, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(18, CLASSES),
        )  # fmt: skip

    generator = torch.Generator().manual_seed(1)
    data = [
        (
            torch.randn(batch, 2, 9, 7, generator=generator, dtype=torch.float64),
            torch.randint(CLASSES, (batch,), generator=generator),
        )
        for batch in (6, 8, 3)
    ]
    replay(seeded(build), data, **options)


def test_patches_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few patches are held at a time, and the past is forgotten once."""
    from altmin_ext.updates import memory

    def trained() -> nn.Module:
        model = seeded(
            lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, CLASSES))
        )
        method = altmin_ext.make_method("am-mem", model, targets="memory", forgetting=0.5)
        for x, y in batches((11, 6)):
            method.step(x[:, None], y)
        return model

    whole = trained()
    monkeypatch.setattr(memory, "_patch_numbers", 2 * 6 * 4)
    assert distance(trained(), whole) < 1e-12


# ------------------------------------------------------------------------------------------ the memory


def test_memories_merge() -> None:
    """Where weights stand still, A and B of two runs add up to those of one over all the data."""
    data = list(batches((20, 13, 20)))

    def run(minibatches: list[tuple[Tensor, Tensor]]) -> Any:
        model = mlp().requires_grad_(False)
        model[-1].requires_grad_(True)  # something must be trained, if at a rate of zero
        method = altmin_ext.make_method("am-mem", model, targets="memory", lr_codes=0.1, lr=0.0)
        for x, y in minibatches:
            method.step(x, y)
        return method.memories

    merged, whole = merge_memories(run(data[:1]), run(data[1:])), run(data)
    inputs = torch.cat([x.flatten(1) for x, _ in data])
    torch.testing.assert_close(whole[0][0][:12, :12], inputs.T @ inputs, rtol=1e-12, atol=1e-12)
    for one, other in zip(merged, whole, strict=True):
        for own, exact in zip(one, other, strict=True):
            torch.testing.assert_close(own, exact, rtol=1e-12, atol=1e-12)


def test_memories_can_be_handed_on() -> None:
    """A method that begins with another's memories goes on as that one does."""
    (x, y), *rest = batches((30, 20, 25))
    model = mlp()
    first = altmin_ext.make_method("am-mem", model, targets="memory", lr=0.0)
    first.step(x, y)
    other_model = copy.deepcopy(model)
    second = altmin_ext.make_method("am-mem", other_model, targets="memory", lr=0.0, memories=first.memories)
    second._spectral_norms.state.load(first.state_dict())
    for x, y in rest:
        first.step(x, y)
        second.step(x, y)
    assert distance(model, other_model) < 1e-12


def test_memories_of_a_graph_do_not_drag_it_along() -> None:
    model = mlp()
    given = [(a.requires_grad_() * 2, b * 2) for a, b in altmin_ext.make_method("am-mem", model).memories]
    method = altmin_ext.make_method("am-mem", model, memories=given)
    assert not any(matrix.requires_grad for memory in method.memories for matrix in memory)
    copy.deepcopy(method.state_dict())


def test_options_that_carry_memories_can_be_compared_and_shown() -> None:
    memories = altmin_ext.make_method("am-mem", mlp()).memories
    options = altmin_ext.make_method("am-mem", mlp(), memories=memories).options
    assert options == altmin_ext.make_method("am-mem", mlp()).options
    assert "tensor" not in repr(options)


def test_refreshed_memory() -> None:
    """A has all the inputs with a one behind each, the older the less; B is what makes the weights its solution."""
    method = altmin_ext.make_method("am-mem", model := mlp(), forgetting=0.25)
    data = list(batches((30, 20)))
    for x, y in data:
        method.step(x, y)
    gram, cross = method.memories[0]
    first, second = (torch.cat([x.flatten(1), torch.ones(len(x), 1)], 1) for x, _ in data)
    torch.testing.assert_close(gram, 0.75 * first.T @ first + second.T @ second, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.linalg.solve(gram, cross.T).T, flat(model[1]), rtol=1e-9, atol=1e-9)


def test_an_input_that_overflows_its_square_is_not_remembered() -> None:
    """Inf in A would never be forgotten, and stop its columns for good."""
    model = mlp(dtype=torch.float32)
    method = altmin_ext.make_method("am-mem", model, on_nonfinite="skip")
    (x, y), (large, _) = batches((32, 32), dtype=torch.float32)
    method.step(x, y)
    before, memories = copy.deepcopy(model), method.memories
    large[3] *= 1e20
    method.step(large, y)
    assert distance(model, before) == 0
    for one, other in zip(method.memories, memories, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    method.step(x, y)
    assert distance(model, before) > 0


def test_codes_that_overflow_are_not_remembered() -> None:
    """Though what a tanh makes of them is finite."""
    model = mlp(activation=nn.Tanh, dtype=torch.float32)
    method = altmin_ext.make_method("am-mem", model, targets="memory")
    (x, y), (x2, y2) = batches((32, 32), dtype=torch.float32)
    method.step(x, y)
    memories = method.memories
    with torch.no_grad():
        model[1].weight[2] = 3e38
    with pytest.raises(altmin_ext.DivergenceError):
        method.step(x2, y2)
    for one, other in zip(method.memories, memories, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_solutions_of_a_singular_memory(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the prior is forgotten, an input that is there twice leaves A without an inverse, and rounding worse."""
    model = mlp(dtype=dtype)
    method = altmin_ext.make_method("am-mem", model, exact=True, damping=0.0, prior=0.5)
    gradients: list[Tensor] = []
    of_weight, of_bias = method._stages[0].map.gradients

    def precondition() -> None:
        gradients.append(torch.cat([of_weight, of_bias[:, None]], 1))
        solve()

    solve = method._memories[0].precondition
    monkeypatch.setattr(method._memories[0], "precondition", precondition)
    for x, y in batches((32,) * 150, dtype=dtype):
        x[:, 1] = x[:, 0]
        before = flat(model[1])
        method.step(x, y)
        change, gram = flat(model[1]) - before, method.memories[0][0]
        wanted = -0.5 * gradients.pop()
        error = float((change @ gram - wanted).norm())
        assert error <= (1e-2 if dtype == torch.float32 else 1e-9) * float(wanted.norm())


@pytest.mark.parametrize("targets", ["refreshed", "memory"])
def test_exact_solutions_keep_the_weights_of_inputs_never_seen(targets: str) -> None:
    """As sweeps do: their column of A is zero, once there is no prior."""
    (x, y), (x2, y2) = batches((32, 32))
    x[:, 0] = x2[:, 0] = 0
    first = altmin_ext.make_method("am-mem", mlp(), targets=targets)
    first.step(x, y)
    model = mlp()
    before = flat(model[1])
    method = altmin_ext.make_method(
        "am-mem", model, targets=targets, exact=True, prior=0.5, damping=0.0, memories=first.memories
    )
    method.step(x2, y2)
    unseen = first.memories[0][0].diagonal() == 0
    assert 0 < int(unseen.sum()) < len(unseen) - 1
    assert torch.equal(flat(model[1])[:, unseen], before[:, unseen])
    assert float((flat(model[1]) - before)[:, ~unseen].abs().min()) > 0


def test_targets_that_overflow_their_square_are_not_remembered() -> None:
    """B, the sum of what they are times what a tanh made of them or of an input, might be full of Inf."""
    model = mlp(activation=nn.Tanh, dtype=torch.float32)
    method = altmin_ext.make_method("am-mem", model, targets="memory", on_nonfinite="skip")
    (x, y), (x2, y2) = batches((32, 32), dtype=torch.float32)
    method.step(x, y)
    memories, before = method.memories, copy.deepcopy(model)
    with torch.no_grad():
        model[1].weight[2] = 1e35
    method.step(30 * x2, y2)
    for one, other in zip(method.memories, memories, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    model.load_state_dict(before.state_dict())
    method.step(x, y)
    assert distance(model, before) > 0


def test_nothing_seen_keeps_the_weights() -> None:
    """A layer that no unit speaks to has an A of zeros, which asks for nothing."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, CLASSES)
        )
    )
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    before = model[2].weight.clone()
    method = altmin_ext.make_method("am-mem", model, exact=True)
    method.step(torch.randn(8, 6, dtype=torch.float64), torch.arange(8) % CLASSES)
    assert torch.equal(model[2].weight, before)


def test_what_is_not_finite_is_not_remembered() -> None:
    method = altmin_ext.make_method("am-mem", model := mlp(), targets="memory")
    (x, y), (bad, _) = batches((32, 32))
    method.step(x, y)
    memories, weights = method.memories, copy.deepcopy(model)
    bad[3, 1, 2] = float("nan")
    with pytest.raises(altmin_ext.DivergenceError):
        method.step(bad, y)
    assert distance(model, weights) == 0
    for one, other in zip(method.memories, memories, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("frozen", ["weight", "bias", "both"])
@pytest.mark.parametrize("options", [{}, PAPER], ids=["refreshed", "memory"])
def test_frozen_parts_stay(frozen: str, options: dict[str, Any]) -> None:
    """What is left moves to the minimum of the same quadratic over itself."""
    model = mlp()
    linear = model[1]
    for name in ("weight", "bias"):
        getattr(linear, name).requires_grad_(frozen not in (name, "both"))
    before = flat(linear)
    method = altmin_ext.make_method("am-mem", model, sweeps=500, lr=0.0, **options)
    ((x, y),) = batches((64,))
    method.step(x, y)
    free = {"weight": slice(12, 13), "bias": slice(0, 12), "both": slice(0, 0)}[frozen]
    after = flat(linear)
    held = torch.ones(13, dtype=torch.bool)
    held[free] = False
    assert torch.equal(after[:, held], before[:, held])
    assert frozen == "both" or not torch.equal(after, before)
    if options:
        gram, cross = method.memories[0]
        gradient = (after @ gram - cross)[:, free]
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------------ the inverse


EXACT = {"prior": 0.5, "damping": 0.0, "forgetting": 0.0, "exact": True, "predictor": "memory"}


def inverses(method: Any) -> list[Any]:
    return [memory.inverse for memory in method._memories]


@pytest.mark.parametrize(
    "options",
    [
        EXACT,
        {**EXACT, "weight_iterations": 2, "weight_decay": 0.1},
        {**EXACT, "stage_scaling": "none", "lr_memory": 0.2},
        {**EXACT, "predictor": "adam"},
        {**EXACT, "forgetting": 1e-3},
    ],
    ids=str,
)
def test_steps_by_the_inverse(options: dict[str, Any]) -> None:
    """The same as by A solved anew in each step: of few samples, of many, and of few again; past many foldings."""
    method = replay(mlp(), list(batches((3,) * 5 + (32,) * 2 + (4,) * 120)), **options)
    assert all(
        inverse.is_current for inverse in inverses(method)[: 2 if options["predictor"] == "adam" else 3]
    )


@pytest.mark.parametrize("forgetting", [0.0, 1e-3, 0.02])
def test_the_damping_of_an_inverse_is_about_what_it_should_be(forgetting: float) -> None:
    """In every step it adds to A within a factor of two of damping times the mean of A's diagonal."""
    options = {"exact": True, "damping": 0.5, "forgetting": forgetting, "stage_scaling": "none"}
    method = altmin_ext.make_method("am-mem", mlp(), **options)
    by_inverse = 0
    for number, (x, y) in enumerate(batches((4, 1, 2) * 60)):
        method.step(x if number % 20 else 3 * x, y)
        inverse = method._memories[0].inverse
        by_inverse += inverse.is_current
        added = inverse.added  # in this step; the memory is looked at once it has been taken
        nominal = 0.5 * float(method.memories[0][0].diagonal().mean())
        if method._memories[0]._takes_inverse:
            assert 0.5 * nominal <= 1.000001 * added <= 2.000001 * nominal, number
    assert by_inverse > 60


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_frozen_parts_of_an_exact_memory_stay(frozen: str) -> None:
    """And what is left is solved over itself."""
    model = mlp()
    linear = model[1]
    getattr(linear, frozen).requires_grad_(False)
    method = altmin_ext.make_method("am-mem", model, lr_memory=0.2, **{**EXACT, "stage_scaling": "none"})
    free = slice(12, 13) if frozen == "weight" else slice(0, 12)
    ones, memory = torch.ones(4, 1, dtype=torch.float64), method._memories[0]
    for number, (x, y) in enumerate(batches((4,) * 30)):
        before = flat(linear)
        residuals: list[Tensor] = []
        own = method._codes[0].finish_fit
        method._codes[0].finish_fit = lambda a, call, own=own, kept=residuals: (  # type: ignore[method-assign]
            kept.append(call["residuals"][0].clone()), own(a, call)
        )  # fmt: skip
        method.step(x, y)
        method._codes[0].finish_fit = own  # type: ignore[method-assign]
        inputs = torch.cat([x.flatten(1), ones], 1)[:, free]
        gram = method.memories[0][0][free, free]
        expected = torch.zeros_like(before)
        scale = float(method._codes[0].row[CodeScalar.scale])
        expected[:, free] = -0.2 * scale * torch.linalg.solve(gram, inputs.T @ residuals[0]).T
        change = flat(linear) - before
        assert float((change - expected).abs().max()) <= 1e-9 * float(expected.abs().max()), number
    assert memory.inverse is None or memory.inverse.is_current


def test_a_small_minibatch_among_large_ones_has_no_inverse_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one given up for a single large one. Whoever goes on with small ones gets it."""
    made: list[int] = []
    renew = RecursiveInverse.renew

    def counted(self: RecursiveInverse, gram: Tensor, added: float) -> bool:
        made.append(len(gram))
        return renew(self, gram, added)

    monkeypatch.setattr(RecursiveInverse, "renew", counted)
    model = seeded(lambda: nn.Sequential(nn.Linear(60, 16), nn.ReLU(), nn.Linear(16, CLASSES)))
    method = altmin_ext.make_method("am-mem", model, **EXACT)
    inverse, generator = inverses(method)[0], torch.Generator().manual_seed(5)

    def train(*sizes: int) -> None:
        for size in sizes:
            x = torch.randn(size, 60, generator=generator, dtype=torch.float64)
            method.step(x, torch.arange(size) % CLASSES)

    train(*(32, 32, 32, 2) * 5)
    assert 61 not in made
    assert not inverse.is_current
    train(*(2,) * 20)
    assert made.count(61) == 1
    assert inverse.is_current
    train(32, 2, 2, 2, 2, 32, 2, 2, 2, 2)
    assert made.count(61) == 1
    assert inverse.is_current
    train(*(32,) * 20)
    assert made.count(61) == 1
    assert not inverse.is_current


def test_an_inverse_that_has_parted_from_its_memory_is_noticed() -> None:
    """And made anew: the last steps are those of A solved from scratch."""
    model = mlp()
    method = altmin_ext.make_method("am-mem", model, **EXACT)
    data = list(batches((4,) * 5000))
    for x, y in data[:70]:
        method.step(x, y)
    inverse = inverses(method)[0]
    inverse._inverse._matrix.mul_(1.5)  # H stays
    was_given_up = False
    for x, y in data[70:]:
        method.step(x, y)
        was_given_up |= not inverse.is_current
    assert was_given_up
    assert inverse.is_current
    gram = method.memories[0][0]
    found = torch.linalg.inv(inverse._inverse.matrix) - inverse.added * torch.eye(13, dtype=torch.float64)
    torch.testing.assert_close(found, gram, rtol=1e-6, atol=1e-6 * float(gram.abs().max()))


@pytest.mark.parametrize("forgetting", [1e-3, 0.02])
def test_inputs_that_fall_silent_do_no_harm(forgetting: float) -> None:
    """P, in float32, stays the inverse of A + added I, and so bounded by 1 / added."""
    options = {
        "exact": True,
        "damping": 0.01,
        "forgetting": forgetting,
        "lr_memory": 0.01,
        "predictor": "memory",
    }
    model = mlp(dtype=torch.float32)
    method = altmin_ext.make_method("am-mem", model, **options)
    inverse, compared = inverses(method)[0], 0
    for number, (x, y) in enumerate(batches((3,) * 2000, dtype=torch.float32)):
        if number > 300:
            x[:, :2] = 0
        method.step(x, y)
        gram = method.memories[0][0].double() if number % 10 == 0 else None
        if gram is not None and inverse.is_current:
            compared += 1
            damped = gram + inverse.added * torch.eye(13, dtype=torch.float64)
            p = inverse._inverse.matrix.double()
            exact = torch.linalg.inv(damped)
            assert float((p - exact).norm()) <= 1e-3 * float(exact.norm()), number
    assert compared > 20
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_a_step_that_fails_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in A and P nor in what is held: all that follows is the same to the bit."""
    data = list(batches((4,) * 40, dtype=torch.float32))

    def run(fails: bool) -> tuple[nn.Module, Any]:
        model = mlp(dtype=torch.float32)
        method = altmin_ext.make_method("am-mem", model, **EXACT)
        for number, (x, y) in enumerate(data):
            if fails and number % 3 == 0:
                overflowing, few, many = (
                    x.clone(),
                    data[number - 1],
                    (torch.cat([x] * 30), torch.cat([y] * 30)),
                )
                overflowing[1] *= 1e20
                with pytest.raises(altmin_ext.DivergenceError):
                    method.step(overflowing, y)
                for batch in (few, many):
                    with monkeypatch.context() as patch:
                        patch.setattr(method._memory_update, "update", lambda: 1 / 0)
                        with pytest.raises(ZeroDivisionError):
                            method.step(*batch)
            method.step(x, y)
        return model, method

    (model, method), (other, disturbed) = run(False), run(True)
    assert distance(model, other) == 0
    assert_equal(method.state_dict(), disturbed.state_dict())


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, (list, tuple)):
        for value, another in zip(one, other, strict=True):
            assert_equal(value, another)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_looking_changes_nothing() -> None:
    """Whoever reads memories or states in between goes on to the same bits."""
    states = []
    for looks in (False, True):
        method = altmin_ext.make_method("am-mem", mlp(), **EXACT)
        for x, y in batches((4,) * 150):
            method.step(x, y)
            if looks:
                assert len(method.memories) == len(method.state_dict()["memories"])
        states.append(method.state_dict())
    assert_equal(*states)


def test_resumed_in_mid_stream() -> None:
    """From a state between two foldings, to the same bits."""
    data = list(batches((4,) * 150, dtype=torch.float32))
    model = mlp(dtype=torch.float32)
    method = altmin_ext.make_method("am-mem", model, **EXACT)
    for x, y in data[:75]:
        method.step(x, y)
    assert all(inverse.is_current for inverse in inverses(method)[:2])
    assert len(method._memories[0].held)
    other_model = copy.deepcopy(model)
    other = altmin_ext.make_method("am-mem", other_model, **EXACT)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    for x, y in data[75:]:
        method.step(x, y)
        other.step(x, y)
    assert distance(model, other_model) == 0
    assert_equal(method.state_dict(), other.state_dict())


@pytest.mark.parametrize("options", [EXACT, {}], ids=["exact", "swept"])
def test_a_state_without_an_inverse_loads(options: dict[str, Any]) -> None:
    """P is made anew from A, to the same steps up to rounding."""
    (x, y), *rest = batches((4,) * 60)
    model = mlp()
    method = altmin_ext.make_method("am-mem", model, **options)
    method.step(x, y)
    for x, y in rest[:20]:
        method.step(x, y)
    state = method.state_dict()
    held = [kept.pop("held", None) for kept in state.pop("kept", [{}] * 2)]
    for (gram, _), samples in zip(state["memories"], held, strict=False):
        if samples is not None:
            samples = F.pad(samples, (0, 1), value=1.0)
            gram += samples.T @ samples
    other_model = copy.deepcopy(model)
    other = altmin_ext.make_method("am-mem", other_model, **options)
    other.load_state_dict(state)
    for x, y in rest[20:]:
        method.step(x, y)
        other.step(x, y)
    assert distance(model, other_model) < 1e-9
    assert not options or inverses(other)[0].is_current


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"forgetting": 1.5}, ("forgetting", "1.5")),
        ({"forgetting": -0.1}, ("forgetting", "-0.1")),
        ({"damping": -1.0}, ("damping", "-1")),
        ({"sweeps": 0}, ("sweeps", "0")),
        ({"targets": "stale"}, ("targets", "'stale'", "'refreshed'")),
        ({"prior": -1.0}, ("prior", "-1")),
        ({"predictor": "sgd"}, ("predictor", "'sgd'", "'memory'")),
        ({"prior_out": -1.0}, ("prior_out", "-1")),
        ({"exact": True, "damping": 0.0}, ("damping", "prior", "exact")),
        (
            {"exact": True, "damping": 0.0, "prior": 0.5, "prior_out": 0.0, "predictor": "memory"},
            ("damping", "prior_out", "exact"),
        ),
        ({"exact": True, "nonnegative": True}, ("exact", "nonnegative")),
        ({"targets": "memory", "lr_memory": 0.5}, ("lr_memory", "0.5")),
        ({"targets": "memory", "lr_memory_of": "outputs"}, ("lr_memory_of", "'targets'", "'outputs'")),
        ({"nonnegative": True, "lr_memory_of": "outputs"}, ("lr_memory_of", "nonnegative")),
        ({"weight_momentum": 0.5}, ("weight_momentum", "0.5", "'targets'")),
        ({"lr_memory_of": "outputs", "weight_iterations": 2}, ("weight_iterations", "2", "'outputs'")),
        ({"memory_every": 0}, ("memory_every", "0")),
        ({"targets": "memory", "memory_every": 2}, ("memory_every", "2", "'memory'")),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=words[0]) as error:
        altmin_ext.make_method("am-mem", mlp(), **options)
    assert_sentence(error, *words)


def test_outputs_of_a_whole_training_set_are_refused() -> None:
    with pytest.raises(ValueError, match="lr_memory_of") as error:
        altmin_ext.make_method("am-mem-off", mlp(), lr_memory_of="outputs")
    assert_sentence(error, "lr_memory_of", "'outputs'", "am-mem")


def test_bad_memories_are_refused() -> None:
    good = altmin_ext.make_method("am-mem", mlp()).memories
    with pytest.raises(ValueError, match="memories") as error:
        altmin_ext.make_method("am-mem", mlp(), memories=good[:1])
    assert_sentence(error, "memories", "(13, 13)")
    for wrong, word in (
        ([1, 2], "number 1 is (int)"),
        (5, "int"),
        ([(a.long(), b) for a, b in good], "torch.int64"),
    ):
        with pytest.raises(TypeError) as type_error:
            altmin_ext.make_method("am-mem", mlp(), memories=wrong)
        assert_sentence(type_error, "memories", word)
    with pytest.raises(ValueError, match="number 1 holds NaN") as error:
        altmin_ext.make_method("am-mem", mlp(), memories=[(a * float("nan"), b) for a, b in good])
    crooked = good[0][0].clone()
    crooked[0, 1] = 1.0
    for wrong_gram in (crooked, -torch.eye(13, dtype=torch.float64), good[0][0][:12]):
        with pytest.raises(ValueError, match="number 1") as error:
            altmin_ext.make_method("am-mem", mlp(), memories=[(wrong_gram, good[0][1]), *good[1:]])
        assert_sentence(error, "memories", "symmetric")
    large = [(a + 1e300 * torch.eye(len(a), dtype=a.dtype), b) for a, b in good]
    altmin_ext.make_method("am-mem", mlp(), memories=large)
    with pytest.raises(ValueError, match="float32") as error:
        altmin_ext.make_method("am-mem", mlp(dtype=torch.float32), memories=large)
    assert_sentence(error, "memories", "finite")
    state = altmin_ext.make_method("am-mem", mlp()).state_dict()
    for wrong_memories, kind in (([(a * float("nan"), b) for a, b in good], ValueError), (None, TypeError)):
        with pytest.raises(kind) as state_error:
            altmin_ext.make_method("am-mem", mlp()).load_state_dict({**state, "memories": wrong_memories})
        assert_sentence(state_error, "state's memories")
    altmin_ext.make_method("am-mem", mlp(), memories=iter(good))
    with pytest.raises(ValueError, match="second") as error:
        merge_memories(good, good[:1])
    assert_sentence(error, "second", "(13, 13)")


def test_stages_without_a_memory_are_refused() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(ValueError, match="must have a Linear") as error:
        altmin_ext.make_method("am-mem", model)
    assert_sentence(error, "Linear", "am-adam")
