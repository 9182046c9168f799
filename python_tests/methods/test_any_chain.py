"""am-sgd and am-adam on convolutions, pooling, residual blocks and modules of the user's own.

Oracles: autograd on the local objectives in float64 (local_objectives.py); backpropagation for which stages there
are; and laws that hold for any chain, such as that evaluation mode is left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import altmin_ext
from altmin_ext.network import split

from .local_objectives import LocalObjectives
from .test_online_am import distance, eta_list, seeded

NAMES = ("am-adam", "am-sgd")
TOLERANCE = 1e-9
CLASSES = 5


class Residual(nn.Module):
    """x + f(x), with activations inside that no stage of its own may see."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(torch.tanh(self.first(x)))
        return x + inner


class NormalisedResidual(nn.Module):
    """f(x) + x by modules that are all known, so that its formula is.

    It keeps no running statistics, which the reference would move at each of its evaluations.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels, track_running_stats=False),
            nn.Sigmoid(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels, track_running_stats=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.inner(x)
        inner += x
        return inner


class Scaled(nn.Module):
    """A module of the user's own, with a parameter that no formula knows."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, features) / features)
        self.power = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight) * torch.sin(self.power)


class _Clipped(torch.autograd.Function):
    """A straight-through binariser of the ordinary kind."""

    @staticmethod
    def forward(context: Any, v: Tensor) -> Tensor:
        context.save_for_backward(v)
        return torch.where(v > 0, 1.0, -1.0).to(v.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (v,) = context.saved_tensors
        return gradient * (v.abs() <= 1)


class Binary(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = _Clipped.apply(x)
        return value


class BinaryInput(nn.Linear):
    """A map that jumps."""

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = _Clipped.apply(x)
        return super().forward(value)


class BinaryBlock(nn.Module):
    """A residual block with a binary unit inside."""

    def __init__(self, features: int, unit: nn.Module) -> None:
        super().__init__()
        self.first, self.unit, self.second = nn.Linear(features, 6), unit, nn.Linear(6, features)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(self.unit(self.first(x)))
        return x + inner


class Shifted(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(super().forward(x)) + 1


class Skipping(altmin_ext.Stage):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def halved(module: nn.Module) -> nn.Module:
    """The module with a hook."""
    module.register_forward_hook(_halve)
    return module


def _halve(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output / 2


class Swish(nn.Module):
    """A module of the user's own without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(2 * x)


def image_chains() -> dict[str, Callable[[], nn.Module]]:
    def head(n: int) -> list[nn.Module]:
        return [nn.Flatten(), nn.Linear(n, 7), nn.Tanh(), nn.Linear(7, CLASSES)]

    return {
        "conv, relu, pool": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 2), nn.ReLU(), nn.MaxPool2d(2), *head(4),
        ),
        "pool, tanh": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(2), nn.Tanh(), nn.Conv2d(3, 4, 3), nn.Sigmoid(), *head(4)
        ),
        "overlapping pool": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.LeakyReLU(0.2), nn.MaxPool2d(3, 2, padding=1), *head(27)
        ),
        "average pool": lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ELU(), nn.AvgPool2d(2), *head(12)),
        "average pool between convolutions": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 2), nn.Tanh(), *head(4)
        ),
        "stride, dilation, groups": lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh(),
            nn.Conv2d(4, 4, 2, dilation=2, groups=2, bias=False), nn.GELU(), *head(16),
        ),
        "circular": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Conv2d(3, 2, 3, padding="same"),
            nn.Tanh(), *head(98),
        ),
        "batch norm": lambda: nn.Sequential(
            # A bias in front of it has no gradient but rounding, which Adam would scale up.
            nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Tanh(), nn.MaxPool2d(2),
            nn.BatchNorm2d(3), nn.Conv2d(3, 4, 2), nn.SiLU(), *head(4),
        ),
        "one dimension": lambda: nn.Sequential(
            nn.Flatten(2), nn.Conv1d(2, 3, 4), nn.Tanh(), nn.MaxPool1d(2), *head(69)
        ),
        "residual block": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.Tanh(), Residual(3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), *head(12)
        ),
        "layer norm, of one's own": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(98, 9, bias=False), nn.LayerNorm(9), Swish(), Scaled(9), nn.PReLU(), nn.Tanh(),
            nn.Linear(9, CLASSES),
        ),
        "subclasses with a forward of their own": lambda: nn.Sequential(
            nn.Flatten(), Shifted(98, 8), nn.Tanh(), Skipping(nn.Sigmoid(), nn.Linear(8, 8)), nn.Tanh(),
            nn.Linear(8, CLASSES),
        ),
        "hooks": lambda: nn.Sequential(
            nn.Flatten(), halved(nn.Linear(98, 8)), halved(nn.Tanh()), nn.Linear(8, 8), nn.Tanh(),
            halved(nn.Linear(8, CLASSES)),
        ),
        "weights computed from others": lambda: nn.Sequential(
            nn.Flatten(), parametrizations.weight_norm(nn.Linear(98, 8)), nn.Tanh(),
            parametrizations.orthogonal(nn.Linear(8, 8)), nn.Tanh(), nn.Linear(8, CLASSES),
        ),
        "a function of one's own": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(98, 8), Binary(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES)
        ),
        "a function of one's own that jumps where relu is constant": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(98, 8), nn.ReLU(), Binary(), nn.Linear(8, 8), nn.ReLU(), BinaryInput(8, 8),
            nn.Tanh(), nn.Linear(8, CLASSES),
        ),
        "binary blocks": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(98, 8), nn.Tanh(), BinaryBlock(8, Binary()), nn.Tanh(),
            BinaryBlock(8, altmin_ext.nn.Sign("clipped")), nn.Tanh(), nn.Linear(8, CLASSES),
        ),
        "blocks with batch norm": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.ReLU(), NormalisedResidual(3), nn.Tanh(), NormalisedResidual(3), nn.Tanh(),
            nn.MaxPool2d(2), *head(12),
        ),
        "normalised twice by one module": lambda: _normalised_twice(),
    }  # fmt: skip


def _normalised_twice() -> nn.Module:
    """Whose gain has one gradient, the sum of both places."""
    norm = nn.LayerNorm(8)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(98, 8), norm, norm, nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES)
    )  # fmt: skip


CHAINS = image_chains()


def images(size: int, number: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, 2, 7, 7, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(CLASSES, (size,), generator=generator)


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "fixed": {"lr_codes": 0.1, "stage_scaling": "none"},
    "iterations": {"code_iterations": 3, "code_momentum": 0.5, "weight_iterations": 2, "lr": 1e-3},
    "released": {"scaling": "released"},
    "l1": {"l1_codes": 0.1, "l1_weights": 0.01},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("options", OPTIONS)
def test_step(name: str, chain: str, options: str) -> None:
    """20 steps beside autograd on the local objectives, some of them with a smaller minibatch."""
    chosen = OPTIONS[options]
    model = seeded(CHAINS[chain])
    reference = LocalObjectives(model, name, **chosen)
    method = altmin_ext.make_method(name, model, report_objective=True, **chosen)
    for number in range(20):
        x, y = images(5 if number % 7 == 6 else 12, number)
        report = method.step(x, y)
        expected = reference.step(x, y, step_sizes=eta_list(method))
        assert float(report.loss) == pytest.approx(expected.loss, rel=TOLERANCE, abs=TOLERANCE)
        objective = [float(value) for value in report.objective]
        assert objective == pytest.approx(expected.objective, rel=TOLERANCE, abs=TOLERANCE), number
        assert distance(model, reference.model) < TOLERANCE, number


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chain", ["conv, relu, pool", "one dimension", "residual block"])
def test_images_of_any_strides(name: str, chain: str) -> None:
    """Every other number of a larger tensor, or channels last: the same step, bit for bit."""
    x, y = images(12, 0)
    layouts = [x, torch.stack([x, -x], -1)[..., 0], x.contiguous(memory_format=torch.channels_last)]
    models = [seeded(CHAINS[chain]) for _ in layouts]
    for model, given in zip(models, layouts, strict=True):
        altmin_ext.make_method(name, model).step(given, y)
    assert distance(models[0], models[1]) == distance(models[0], models[2]) == 0


# --- what a step leaves alone, and what it does once ---


class Normalised(nn.Module):
    """A residual block that keeps running statistics and drops out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(torch.relu(self.norm(self.conv(x))))


def normalised_chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), Normalised(3), nn.ReLU(), nn.Flatten(),
        nn.Linear(75, CLASSES),
    )  # fmt: skip


@pytest.mark.parametrize("code_iterations", [1, 3])
def test_running_statistics_are_those_of_one_forward_pass(code_iterations: int) -> None:
    model = seeded(normalised_chain)
    passed = copy.deepcopy(model).train()
    method = altmin_ext.make_method("am-adam", model, code_iterations=code_iterations, lr=0.0)
    for number in range(3):
        x, y = images(12, number)
        torch.manual_seed(number)
        method.step(x, y)
        torch.manual_seed(number)
        with torch.no_grad():
            passed(x)
    assert distance(model, passed) < 1e-12
    assert int(model.state_dict()["1.num_batches_tracked"]) == 3


class Centred(nn.Module):
    """A normaliser of the user's own, with a running mean, and parameters or none."""

    def __init__(self, reassigns: bool, learns: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8, dtype=torch.float64))
        self.scale = nn.Parameter(torch.ones(8, dtype=torch.float64)) if learns else 1.0
        self.reassigns = reassigns

    def forward(self, x: Tensor) -> Tensor:
        if self.reassigns:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        else:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return (x - self.mean) * self.scale


KEEPING: dict[str, Callable[[], nn.Module]] = {
    "in place": lambda: Centred(reassigns=False, learns=True),
    "reassigned": lambda: Centred(reassigns=True, learns=True),
    "in place, without parameters": lambda: Centred(reassigns=False, learns=False),
    "reassigned, without parameters": lambda: Centred(reassigns=True, learns=False),
    "in place, in evaluation mode": lambda: Centred(reassigns=False, learns=True).eval(),
    "instance norm": lambda: nn.InstanceNorm1d(2, track_running_stats=True),
    "instance norm with a gain": lambda: nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
    "batch norm, cumulative": lambda: nn.BatchNorm1d(2, momentum=None),
    "batch norm in evaluation mode": lambda: nn.BatchNorm1d(2).eval(),
}


@pytest.mark.parametrize("kind", [*KEEPING, "batch norm, statistics switched off"])
@pytest.mark.parametrize("name", ["am-adam", "am-sgd", "block-admm", "adam"])
def test_buffers_are_those_of_one_forward_pass(kind: str, name: str) -> None:
    def build() -> nn.Module:
        module = KEEPING.get(kind, lambda: nn.BatchNorm1d(2))()
        if kind not in KEEPING:
            module.track_running_stats = False
        parts = [module] if isinstance(module, Centred) else [nn.Unflatten(1, (2, 4)), module, nn.Flatten()]
        return nn.Sequential(nn.Flatten(), nn.Linear(98, 8), nn.Tanh(), *parts, nn.Linear(8, CLASSES))

    model = seeded(build)
    before, passed = copy.deepcopy(model), copy.deepcopy(model)
    options = {} if name == "adam" else {"code_iterations": 2}
    method = altmin_ext.make_method(name, model, lr=0.0, **options)
    for number in range(3):
        x, y = images(12, number)
        with torch.no_grad():
            loss = F.cross_entropy(passed(x), y)
        assert float(method.step(x, y).loss) == pytest.approx(float(loss), rel=1e-12)
    assert distance(model, passed) < 1e-12
    moves = "switched off" not in kind and kind != "batch norm in evaluation mode"
    assert (distance(model, before) > 0) == moves


def test_a_dropout_draws_as_in_one_forward_pass() -> None:
    """The global generator moves on as by one forward pass, however often the block is evaluated."""
    model = seeded(normalised_chain)
    passed = copy.deepcopy(model).train()
    method = altmin_ext.make_method("am-adam", model, code_iterations=3)
    x, y = images(12, 0)
    torch.manual_seed(5)
    method.step(x, y)
    after_step = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad():
        passed(x)
    assert torch.equal(after_step, torch.rand(3))


def test_dropout_within_a_block_has_one_mask_per_step() -> None:
    """A block that drops everything or nothing, told apart by its output, does the same all through a step."""
    seen: list[float] = []

    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            mask = self.drop(torch.ones(64, dtype=x.dtype))
            seen.append(float((mask * 2 ** torch.arange(64, dtype=torch.float64)).sum()))
            return x * self.weight * mask.mean()

    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), Recorder(), nn.Tanh(), nn.Linear(3, CLASSES)).double()
    method = altmin_ext.make_method("am-adam", model, code_iterations=3)
    masks = []
    for number in range(2):
        x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % CLASSES
        if number == 0:
            method.step(x, y)  # the first step tries shapes, too
        seen.clear()
        method.step(x, y)
        assert len(seen) > 4
        assert len(set(seen)) == 1
        masks.append(seen[0])
    assert masks[0] != masks[1]


@pytest.mark.parametrize("chain", ["batch norm", "residual block"])
def test_evaluation_mode_of_a_part_stays(chain: str) -> None:
    """A part that the user has put into evaluation mode normalises by what it knows, and learns no statistics."""
    model = seeded(lambda: nn.Sequential(normalised_chain()))
    method = altmin_ext.make_method("am-adam", model)
    method.step(*images(12, 0))
    frozen = model[0][1] if chain == "batch norm" else model[0][3]
    model.train()
    frozen.eval()
    before = copy.deepcopy(dict(frozen.named_buffers()))
    method.step(*images(12, 1))
    assert all(torch.equal(before[name], buffer) for name, buffer in frozen.named_buffers())


# --- the same arithmetic, however the code is held ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [1, 16, 21])
def test_convolutions_in_lanes_are_those_of_torch(
    dtype: torch.dtype, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LeNet-5 by the kernels beside LeNet-5 by torch's convolutions: the same steps up to rounding."""
    from altmin_ext.codes import ConvolutionCode

    models = [seeded(lambda: altmin_ext.models.lenet5(2, 17), dtype=dtype) for _ in range(2)]
    methods = [altmin_ext.make_method("am-sgd", models[0], lr=0.1)]
    monkeypatch.setattr(ConvolutionCode, "suits", staticmethod(lambda slot: False))
    methods.append(altmin_ext.make_method("am-sgd", models[1], lr=0.1))
    kinds = [[type(code).__name__ for code in method._codes] for method in methods]
    assert kinds[0][:2] == ["ConvolutionCode"] * 2
    assert set(kinds[1]) == {"MatrixCode"}
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(batch, 2, 17, 17, generator=generator, dtype=torch.float64).to(dtype)
        y = torch.randint(10, (batch,), generator=generator)
        reports = [method.step(x, y) for method in methods]
        assert float(reports[0].loss) == pytest.approx(float(reports[1].loss), rel=1e-5)
        left, right = (method.code_displacements for method in methods)
        torch.testing.assert_close(left, right, rtol=1e-9 if dtype == torch.float64 else 1e-3, atol=0)
    assert distance(*models) < (1e-11 if dtype == torch.float64 else 2e-5)


@pytest.mark.parametrize("chain", [c for c in CHAINS if c != "one dimension"])
def test_float32_follows_float64_where_codes_hardly_move(chain: str) -> None:
    """Displacements of 1e-6 of their codes: a difference of two rounded values would be off by a tenth."""
    models = {dtype: seeded(CHAINS[chain], dtype=dtype) for dtype in (torch.float32, torch.float64)}
    gradients = {}
    for dtype, model in models.items():
        method = altmin_ext.make_method("am-sgd", model, lr=0.0, mu=5e4, stage_scaling="none")
        x, y = images(12, 0, torch.float32)
        method.step(x.to(dtype), y)
        gradients[dtype] = [g.double() for stage in method._stages for g in stage.map.gradients]
        assert 0 < float(method.code_displacements[-1]) < 1e-4
    for single, double in zip(gradients[torch.float32], gradients[torch.float64], strict=True):
        if double.norm() > 1e-14:
            assert float((single - double).norm() / double.norm()) < 3e-3


# --- stages as the user wants them ---


def test_a_stage_is_not_split() -> None:
    block = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
    whole = [altmin_ext.Stage(None, block), nn.Tanh(), nn.Linear(4, 3)]
    names = [stage.name for stage in split(nn.Sequential(*whole))]
    assert names == ["0.map", "2"]
    assert len(split(nn.Sequential(block, *whole[1:]))) == 3


def test_a_list_of_stages_is_a_model() -> None:
    def stages() -> list[nn.Module]:
        return [
            altmin_ext.Stage(None, nn.Linear(4, 6)),
            altmin_ext.Stage(nn.Tanh(), nn.Linear(6, 5)),
            altmin_ext.Stage(nn.ReLU(), nn.Linear(5, 3)),
        ]

    torch.manual_seed(0)
    listed = stages()
    plain = nn.Sequential(listed[0].map, nn.Tanh(), listed[1].map, nn.ReLU(), listed[2].map)
    plain = copy.deepcopy(plain)
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    for model in (listed, plain):
        altmin_ext.train(model, (x, y), epochs=3, batch_size=4, progress=False)
    for one, other in zip(nn.Sequential(*listed).parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert altmin_ext.evaluate(listed, (x, y)).loss == altmin_ext.evaluate(plain, (x, y)).loss


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.linear(x) + skip


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "two inputs": (lambda: nn.Sequential(TwoInputs(), nn.Linear(4, 3)), ("'0'", "TwoInputs", "x, skip")),
    "a forward of its own": (lambda: Whole(), ("Whole", "nn.Sequential", "Stage")),
    "several outputs": (lambda: nn.Sequential(nn.LSTM(4, 4), nn.Linear(4, 3)), ("'0'", "LSTM")),
    "attention": (
        lambda: nn.Sequential(nn.MultiheadAttention(4, 1), nn.Linear(4, 3)),
        ("MultiheadAttention",),
    ),
    "integers": (lambda: nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 3)), ("Embedding", "integers")),
    "a hook on the whole": (
        lambda: halved(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))),
        ("Sequential with a hook", "remove"),
    ),
    "a hook on what is left out": (
        lambda: nn.Sequential(nn.Linear(4, 3), halved(nn.Identity())),
        ("'1'", "Identity with a hook"),
    ),
    "parallel": (lambda: nn.DataParallel(nn.Linear(4, 3)), ("DataParallel", "model.module")),
    "a list without a forward": (
        lambda: nn.Sequential(nn.ModuleList([nn.Linear(4, 4)]), nn.Linear(4, 3)),
        ("'0'", "ModuleList"),
    ),
    "softmax at the end": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), ("'1'", "Softmax")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_split_is_refused(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(ValueError, match="model") as error:
        altmin_ext.make_method("am-adam", make())
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("pre", "map", "error"),
    [
        (nn.Linear(2, 2), nn.Linear(2, 2), ValueError),
        (nn.ReLU(), nn.ReLU(), ValueError),
        ("relu", nn.Linear(2, 2), TypeError),
        (None, None, TypeError),
    ],
)
def test_a_stage_of_wrong_parts(pre: Any, map: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"must .*\."):
        altmin_ext.Stage(pre, map)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((12, 3, 7, 7), ("'0'", "(3, 7, 7)")),
        ((12, 2, 3, 3), ("'3'", "(3, 3, 3)")),
        ((12, 98), ("'0'", "(98,)")),
    ],
    ids=["channels", "size", "flat"],
)
def test_images_that_do_not_fit(shape: tuple[int, ...], words: tuple[str, ...]) -> None:
    model = seeded(CHAINS["conv, relu, pool"])
    before = copy.deepcopy(model)
    method = altmin_ext.make_method("am-adam", model)
    with pytest.raises(ValueError, match=r"^x must suit the model") as error:
        method.step(torch.randn(shape, dtype=torch.float64), torch.zeros(12, dtype=torch.int64))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)
    assert distance(model, before) == 0


@pytest.mark.parametrize("chain", ["conv, relu, pool", "residual block", "batch norm"])
def test_resumed_is_uninterrupted(chain: str) -> None:
    def run(model: nn.Module, method: Any, numbers: range) -> None:
        for number in numbers:
            method.step(*images(12, number))

    straight = seeded(CHAINS[chain])
    run(straight, altmin_ext.make_method("am-adam", straight, seed=3), range(6))
    first = seeded(CHAINS[chain])
    method = altmin_ext.make_method("am-adam", first, seed=3)
    run(first, method, range(3))
    second = copy.deepcopy(first)
    resumed = altmin_ext.make_method("am-adam", second, seed=4)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    run(second, resumed, range(3, 6))
    assert distance(straight, second) == 0


def test_weights_that_a_block_does_not_use_stay() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.used(x))

    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Idle(), nn.Linear(4, 3))
    before = copy.deepcopy(model)
    method = altmin_ext.make_method("am-adam", model)
    method.step(torch.randn(8, 4), torch.arange(8) % 3)
    assert torch.equal(model[2].idle.weight, before[2].idle.weight)
    assert not torch.equal(model[2].used.weight, before[2].used.weight)
