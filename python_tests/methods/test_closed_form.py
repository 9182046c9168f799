"""Recursive least squares, streaming discriminant analysis and the nearest class mean.

The oracle is the definition: ridge regression, linear discriminant analysis and class means of all samples at once,
written down in float64 with torch.linalg, sharing no code with the methods. Forgotten samples are left out of it.
scikit-learn's Ridge and LinearDiscriminantAnalysis agree, where installed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext

from .test_methods_common import BreaksInTorch, Broken, assert_same_state, assert_sentence, same, snapshot

FEATURES, WIDTH, CLASSES, RIDGE = 6, 12, 4, 0.3
NAMES = ("rls", "slda", "ncm")
every_method = pytest.mark.parametrize("name", NAMES)
methods_with_ridge = pytest.mark.parametrize("name", ["rls", "slda"])


def layer_below() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh()).double()


def network(bias: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), layer_below(), nn.Linear(WIDTH, CLASSES, bias=bias)).double()


def make(name: str, model: nn.Module | None = None, **options: Any) -> Any:
    given = {} if name == "ncm" else {"ridge": RIDGE}
    return altmin_ext.make_method(name, network() if model is None else model, **{**given, **options})


def samples(count: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clouds of all classes, in a random order."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return centres[y] + torch.randn(count, FEATURES, generator=generator, dtype=torch.float64), y


def solved(
    name: str, x: Tensor, y: Tensor, bias: Tensor | bool = True, **options: Any
) -> tuple[Tensor, Tensor]:
    """W and b from the definition; ``bias`` is True, False, or a bias that is given."""
    with torch.no_grad():
        features = layer_below()(x)
    ridge = options.get("ridge", RIDGE)
    targets = F.one_hot(y, CLASSES).double() if y.dtype == torch.int64 else y
    if name == "rls":
        f, t = features, targets
        if bias is True:
            f, t = f - f.mean(0), t - t.mean(0)
        elif isinstance(bias, Tensor):
            t = t - bias
        weight = torch.linalg.solve(f.T @ f + ridge * torch.eye(WIDTH, dtype=torch.float64), f.T @ t).T
        if bias is True:
            return weight, targets.mean(0) - weight @ features.mean(0)
        return weight, bias if isinstance(bias, Tensor) else torch.zeros(CLASSES, dtype=torch.float64)
    counts = targets.sum(0)
    means = torch.stack(
        [
            features[y == c].mean(0) if bool((y == c).any()) else torch.zeros(WIDTH).double()
            for c in range(CLASSES)
        ]
    )
    covariance = torch.eye(WIDTH, dtype=torch.float64)
    if name == "slda":
        within = features - means[y]
        covariance = (within.T @ within + ridge * covariance) / len(x)
    weight = torch.linalg.solve(covariance, means.T).T
    b = -(means * weight).sum(1) / 2
    if options.get("class_priors") == "observed":
        b += (counts / counts.sum()).log()
    return weight, torch.where(counts > 0, b, -1e18)


def assert_solved(
    method: Any, name: str, x: Tensor, y: Tensor, tolerance: float = 1e-9, **options: Any
) -> None:
    head = method.model[-1]
    weight, bias = solved(name, x, y, **options)
    assert float((head.weight.detach() - weight).abs().max()) <= tolerance * max(
        1.0, float(weight.abs().max())
    )
    if head.bias is not None:
        assert bool(((head.bias.detach() - bias).abs() <= tolerance * bias.abs().clamp_min(1.0)).all())


def cut(x: Tensor, y: Tensor, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


# --- what is learned ---


@every_method
@pytest.mark.parametrize("sizes", [(1, 7, 2, 40, 250), (300,), (30,) * 10, (2,) * 150], ids=str)
def test_exact_after_every_step(name: str, sizes: tuple[int, ...]) -> None:
    """With minibatches of a few rows, of many more than there are features, and of both in turn."""
    x, y = samples()
    method, seen = make(name), 0
    for own_x, own_y in cut(x, y, *sizes):
        method.step(own_x, own_y)
        seen += len(own_x)
        assert_solved(method, name, x[:seen], y[:seen])


@pytest.mark.parametrize("few_first", [True, False])
def test_both_forms_of_the_inverse_in_turn(few_first: bool) -> None:
    """One is given up for the other, and made anew, as minibatches call for; both give the ridge solution."""
    x, y = samples(2000)
    method, seen = make("rls"), 0
    forms = []
    for size in (2, 60, 2, 60) if few_first else (60, 2, 60, 2):
        for _ in range(8 if size == 60 else 200):
            method.step(x[seen : seen + size], y[seen : seen + size])
            seen += size
        forms.append(method.state_dict()["has_inverse"])
        assert_solved(method, "rls", x[:seen], y[:seen])
    assert forms == ([True, False] * 2 if few_first else [False, True] * 2)


@pytest.mark.parametrize("trained", ["both", "weight alone", "no bias"])
def test_heads_of_every_kind(trained: str) -> None:
    x, y = samples()
    model = network(bias=trained != "no bias")
    before = None
    if trained == "weight alone":
        model[-1].bias.requires_grad_(False)
        before = model[-1].bias.clone()
    method = make("rls", model)
    for own in cut(x, y, 5, 95, 200):
        method.step(*own)
    bias: Any = {"both": True, "no bias": False, "weight alone": before}[trained]
    assert_solved(method, "rls", x, y, bias=bias)
    if before is not None:
        assert torch.equal(model[-1].bias, before)
    method.forget(x[40:140], y[40:140])
    method.forget(x[:3], y[:3])
    rest = [*range(3, 40), *range(140, 300)]
    assert_solved(method, "rls", x[rest], y[rest], bias=bias)


@pytest.mark.parametrize("loss", ["squared", "mse"])
def test_real_targets(loss: str) -> None:
    x, _ = samples()
    y = torch.randn(300, CLASSES, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    method = make("rls", loss=loss)
    for own in cut(x, y, 100, 1, 199):
        with torch.no_grad():
            error = method.model(own[0]) - own[1]
        report = method.step(*own)
        expected = error.square().sum() / len(error) if loss == "squared" else error.square().mean()
        torch.testing.assert_close(report.loss, expected)
        assert report.correct is None
    assert_solved(method, "rls", x, y)


def test_the_loss_chooses_what_is_reported() -> None:
    x, y = samples()
    methods = {loss: make("rls", loss=loss) for loss in ("squared", "cross_entropy")}
    for method in methods.values():
        for own in cut(x, y, 100, 200):
            with torch.no_grad():
                logits = method.model(own[0])
            report = method.step(*own)
            assert int(report.correct) == int((logits.argmax(1) == own[1]).sum())
            loss = F.cross_entropy(logits, own[1])
            if method.loss.name == "squared":
                loss = (logits - F.one_hot(own[1], CLASSES)).square().sum() / len(logits)
            torch.testing.assert_close(report.loss, loss)
        assert_solved(method, "rls", x, y)


@pytest.mark.parametrize("priors", ["uniform", "observed"])
def test_priors_of_classes(priors: str) -> None:
    x, y = samples()
    few = torch.cat([(y == 0).nonzero()[:7, 0], (y > 0).nonzero()[:, 0]])
    x, y = x[few], y[few]
    method = make("slda", class_priors=priors)
    for own in cut(x, y, 40, len(x) - 40):
        method.step(*own)
    assert_solved(method, "slda", x, y, class_priors=priors)


@pytest.mark.parametrize("name", ["slda", "ncm"])
def test_a_class_that_has_not_been_seen_is_never_predicted(name: str) -> None:
    x, y = samples()
    method = make(name)
    old = y < 2
    method.step(x[old], y[old])
    with torch.no_grad():
        assert int(method.model(1000 * x).argmax(1).max()) == 1
    method.step(x[~old], y[~old])
    assert_solved(method, name, x, y)


@every_method
def test_the_order_and_the_cut_make_no_difference(name: str) -> None:
    x, y = samples()
    generator = torch.Generator().manual_seed(3)
    heads = []
    for sizes in ((300,), (100,) * 3, (1,) * 300, (3, 17, 80, 150, 50)):
        order = torch.randperm(300, generator=generator)
        method = make(name)
        for own in cut(x[order], y[order], *sizes):
            method.step(*own)
        heads.append(method.model[-1].state_dict())
    scale = max(1.0, float(heads[0]["weight"].abs().max()))
    for head in heads[1:]:
        assert all(float((head[key] - heads[0][key]).abs().max()) < 1e-9 * scale for key in head)


@every_method
def test_the_first_weights_have_no_effect(name: str) -> None:
    x, y = samples(50)
    model, other = network(), network()
    with torch.no_grad():
        other[-1].weight.fill_(1e6)
        other[-1].bias.fill_(-1e6)
    for own in (model, other):
        make(name, own).step(x[:2], y[:2])
    assert same(model[-1].state_dict(), other[-1].state_dict())


@methods_with_ridge
def test_single_precision(name: str) -> None:
    """After 20,000 samples of 300 random features, by one and by 300 at a time; a tenth of a per cent."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 100, generator=generator)
    y = (x[:, :10] + torch.randn(20_000, 10, generator=generator)).argmax(1)
    model = altmin_ext.models.random_features(100, 300, 10)
    exact = copy.deepcopy(model).double()
    altmin_ext.make_method(name, exact).step(x.double(), y)
    for sizes in ((20,) * 1000, (500,) * 40):
        own = copy.deepcopy(model)
        method = altmin_ext.make_method(name, own)
        for minibatch in cut(x, y, *sizes):
            method.step(*minibatch)
        error = (own[-1].weight - exact[-1].weight).detach().norm() / exact[-1].weight.norm()
        assert float(error) < 1e-3


# --- features ---


class Drops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.below = layer_below()
        self.norm = nn.BatchNorm1d(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        features = F.dropout(self.norm(self.below(x)), 0.5, self.training)
        return torch.as_tensor(self.head(features))


@every_method
def test_features_are_those_of_evaluation(name: str) -> None:
    """Without dropout, and by running statistics, which stay; of a model with any forward."""
    x, y = samples()
    model = Drops()
    twin = nn.Sequential(
        model.below, copy.deepcopy(model.norm), nn.Dropout(), nn.Linear(WIDTH, CLASSES)
    ).double()
    model.norm.running_mean += 1
    twin[1].running_mean += 1
    twin[1].eval()
    before = snapshot(model)
    for own in (model, twin):
        method = make(name, own)
        for minibatch in cut(x, y, 60, 240):
            method.step(*minibatch)
    assert model.training
    assert model.norm.training
    assert not twin[1].training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) != key.startswith("head."), key
    for mine, its in zip(model.head.parameters(), twin[-1].parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)
    model.eval()
    features = twin.eval()[:-1](x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), features @ twin[-1].weight.T + twin[-1].bias)


class Wrong(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.below, self.kind = layer_below(), kind
        self.head = nn.Linear(WIDTH, WIDTH if kind == "twice" else CLASSES).double()

    def forward(self, x: Tensor) -> Tensor:
        a = self.below(x)
        if self.kind == "twice":
            return torch.as_tensor(self.head(self.head(a)))
        return torch.as_tensor(
            {"softmax": torch.softmax, "not at all": lambda z, _: a[:, :CLASSES]}[self.kind](self.head(a), 1)
        )


@every_method
@pytest.mark.parametrize("kind", ["twice", "softmax", "not at all"])
def test_a_head_that_does_not_give_the_logits(name: str, kind: str) -> None:
    model = Wrong(kind)
    before = snapshot(model)
    with pytest.raises(ValueError, match="'head'") as error:
        make(name, model).step(*samples(20))
    assert_sentence(error, "model must return what its last Linear returns")
    assert same(model.state_dict(), before)


def shares() -> nn.Module:
    model = nn.Sequential(nn.Linear(CLASSES, CLASSES), nn.ReLU(), nn.Linear(CLASSES, CLASSES))
    model[2].weight = model[0].weight
    return model


def frozen_head() -> nn.Module:
    model = network()
    model[-1].weight.requires_grad_(False)
    return model


BAD_HEADS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "none": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), NAMES),
    "shared": (shares, NAMES),
    "frozen": (frozen_head, NAMES),
    "parametrised": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(FEATURES, CLASSES))),
        NAMES,
    ),
    "without a bias": (lambda: network(bias=False), ("slda", "ncm")),
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, (_, names) in BAD_HEADS.items() for name in names]
)
def test_heads_that_cannot_be_solved_for(kind: str, name: str) -> None:
    model = BAD_HEADS[kind][0]()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"^model must end with a Linear") as error:
        make(name, model)
    assert_sentence(error, name)
    assert same(model.state_dict(), before)


@every_method
@pytest.mark.parametrize(
    "loss", ["hinge", nn.HuberLoss(), nn.CrossEntropyLoss()], ids=["hinge", "huber", "torch"]
)
def test_losses_that_it_does_not_minimise(name: str, loss: Any) -> None:
    with pytest.raises(ValueError, match=r"^loss must be ") as error:
        make(name, loss=loss)
    assert_sentence(error, name)


@methods_with_ridge
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_ridge_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"^ridge must"):
        make(name, ridge=value)


# --- merging ---


@every_method
@pytest.mark.parametrize("by_classes", [False, True])
def test_merged_runs_equal_one(name: str, by_classes: bool) -> None:
    x, y = samples()
    if by_classes:
        order = y.argsort()
        x, y = x[order], y[order]
    first, second = make(name), make(name)
    for own in cut(x[:110], y[:110], 2, 8, 100):
        first.step(*own)
    for own in cut(x[110:], y[110:], *[10] * 19):
        second.step(*own)
    state, weights = copy.deepcopy(second.state_dict()), snapshot(second.model)
    first.merge(second)
    assert_solved(first, name, x, y)
    assert first.steps == 22
    assert_same_state(second.state_dict(), state)
    assert same(second.model.state_dict(), weights)
    more = samples(20, seed=9)
    first.step(*more)
    assert_solved(first, name, torch.cat([x, more[0]]), torch.cat([y, more[1]]))


@every_method
def test_an_empty_run_adds_nothing(name: str) -> None:
    x, y = samples()
    for empty_first in (True, False):
        full, empty = make(name), make(name)
        full.step(x, y)
        merged, other = (empty, full) if empty_first else (full, empty)
        merged.merge(other)
        assert_solved(merged, name, x, y)


def other_features() -> nn.Module:
    model = network()
    with torch.no_grad():
        model[1][0].bias[0] += 1e-3
    return model


@every_method
def test_runs_that_cannot_be_merged(name: str) -> None:
    method = make(name)
    method.step(*samples(50))
    state, weights = method.state_dict(), snapshot(method.model)
    others: dict[str, tuple[Any, type[Exception]]] = {
        "number": (3, TypeError),
        "itself": (method, ValueError),
        "another kind": (make("ncm" if name != "ncm" else "rls"), TypeError),
        "other features": (make(name, other_features()), ValueError),
        "more features": (
            make(name, nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, CLASSES)).double()),
            ValueError,
        ),
        "other options": (make(name, report_objective=True), ValueError),
        "another dtype": (make(name, network().float()), ValueError),
    }
    for other, kind in others.values():
        with pytest.raises(kind, match=r"^other must") as error:
            method.merge(other)
        assert_sentence(error)
        assert_same_state(method.state_dict(), state)
        assert same(method.model.state_dict(), weights)


# --- forgetting ---


@every_method
@pytest.mark.parametrize("sizes", [(1,) * 40, (40,), (5, 1, 34)], ids=str)
@pytest.mark.parametrize("learned_by", [3, 300])
def test_forgotten_is_never_seen(name: str, sizes: tuple[int, ...], learned_by: int) -> None:
    x, y = samples()
    method = make(name)
    for own in cut(x, y, *[learned_by] * (300 // learned_by)):
        method.step(*own)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    x, y = x[order], y[order]
    gone = 0
    for own in cut(x[:40], y[:40], *sizes):
        method.forget(*own)
        gone += len(own[0])
        assert_solved(method, name, x[gone:], y[gone:], tolerance=1e-7)
    assert method.model.training
    method.step(x[:40], y[:40])
    assert_solved(method, name, x, y, tolerance=1e-7)


@every_method
def test_a_class_and_then_all_is_forgotten(name: str) -> None:
    x, y = samples()
    method, fresh = make(name), make(name)
    method.step(x, y)
    kept = y != 2
    method.forget(x[~kept], y[~kept])
    assert_solved(method, name, x[kept], y[kept], tolerance=1e-7)
    method.forget(x[kept], y[kept])
    for own in (method, fresh):
        own.step(x[:30], y[:30])
    assert_solved(method, name, x[:30], y[:30], tolerance=1e-12)


@every_method
def test_more_than_learned_is_not_forgotten(name: str) -> None:
    x, y = samples()
    method = make(name)
    method.step(x[:20], y[:20])
    state, weights = method.state_dict(), snapshot(method.model)
    with pytest.raises(ValueError, match=r"^x must be samples that have been learned, but holds ") as error:
        method.forget(x[:21], y[:21])
    assert_sentence(error)
    if name != "rls":
        with pytest.raises(ValueError, match=r"of class \d, of which \d+ have been learned\.$"):
            method.forget(x[:20], y[:20].clone().fill_(1))
    assert_same_state(method.state_dict(), state)
    assert same(method.model.state_dict(), weights)


@methods_with_ridge
@pytest.mark.parametrize("count", [1, 8, 60])
@pytest.mark.parametrize("far", [0.3, 1.0])
def test_samples_that_show_not_to_have_been_learned(name: str, count: int, far: float) -> None:
    """Their features leave the plane of those that have been, by less than the root of the ridge or by more."""
    model = nn.Sequential(nn.Linear(WIDTH, CLASSES)).double()
    method = make(name, model)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, WIDTH, generator=generator, dtype=torch.float64)
    x[:, -2:] = 0
    y = torch.arange(100) % CLASSES
    method.step(x, y)
    strangers = x[:count].clone()
    strangers[0, -1] = far
    state, weights = method.state_dict(), snapshot(model)
    with pytest.raises(ValueError, match=r"^x must be samples that have been learned") as error:
        method.forget(strangers, y[:count])
    assert_sentence(error, "raise ridge")
    assert_same_state(method.state_dict(), state)
    assert same(model.state_dict(), weights)
    method.forget(x[:count], y[:count])
    assert method.state_dict()["steps"] == 1


@methods_with_ridge
def test_numerics_may_forbid_to_forget(name: str) -> None:
    """A direction that only the forgotten sample knows, with a ridge that is below the rounding of its square."""
    model = nn.Sequential(nn.Linear(WIDTH, CLASSES)).double()
    method = make(name, model, ridge=1e-9)
    x = torch.randn(100, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[1:, -1] = 0
    x[0, -1] = 10.0
    y = torch.arange(100) % CLASSES
    for own in cut(x, y, *[2] * 50):
        method.step(*own)
    state, weights = method.state_dict(), snapshot(model)
    with pytest.raises(ValueError, match="raise ridge") as error:
        method.forget(x[:1], y[:1])
    assert_sentence(error)
    assert_same_state(method.state_dict(), state)
    assert same(model.state_dict(), weights)


@every_method
def test_bad_samples_are_not_forgotten(name: str) -> None:
    x, y = samples()
    method = make(name)
    method.step(x, y)
    state, weights = method.state_dict(), snapshot(method.model)
    spoiled = x[:5].clone()
    spoiled[2, 1] = torch.nan
    bad: list[tuple[Any, Any, type[Exception], str]] = [
        (spoiled, y[:5], ValueError, "x must be finite"),
        (x[:5], y[:4], ValueError, "y must"),
        (x[:5], y[:5] + CLASSES, ValueError, "y must lie in"),
        (x[:5].float(), y[:5], TypeError, "x must"),
        (x[:5, :3], y[:5], ValueError, "fit the model"),
    ]
    for own_x, own_y, kind, words in bad:
        with pytest.raises(kind, match=words):
            method.forget(own_x, own_y)
        assert_same_state(method.state_dict(), state)
        assert same(method.model.state_dict(), weights)


# --- all or nothing ---


@every_method
@pytest.mark.parametrize("call", ["step", "forget", "merge"])
def test_what_can_fail_does_so_before_anything_changes(name: str, call: str) -> None:
    """At every use of torch up to the first number that is written, after which no memory is needed."""
    x, y = samples(60)

    def made() -> Any:
        method = make(name)
        method.step(x, y)
        return method

    def act(method: Any) -> None:
        arguments = {"step": (x[:9], y[:9]), "forget": (x[:9], y[:9]), "merge": (made(),)}[call]
        begun: list[int] = []
        take = method._take

        def counted(learned: Any) -> None:
            begun.append(watch.uses)
            take(learned)

        method._take = counted
        with watch:
            getattr(method, call)(*arguments)
        counts[:] = begun

    counts: list[int] = []
    watch = BreaksInTorch(math.inf)
    act(made())
    for number in range(1, counts[0] + 1):
        method = made()
        state, weights = method.state_dict(), snapshot(method.model)
        watch = BreaksInTorch(number)
        with pytest.raises(Broken):
            act(method)
        assert_same_state(method.state_dict(), state)
        assert same(method.model.state_dict(), weights)


@methods_with_ridge
@pytest.mark.parametrize("first", [2, 60])
def test_a_step_that_fails_leaves_no_trace(name: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the books either by which the form of the inverse is chosen: what follows is the same to the bit."""
    x, y = samples(400)
    sizes = [first] * 3 + [2] * 6 + [60] * 2 + [3] * 5

    def run(fails: bool) -> Any:
        method = make(name)
        for own_x, own_y in cut(x[: sum(sizes)], y[: sum(sizes)], *sizes):
            state, weights = method.state_dict(), snapshot(method.model)
            for rows in (slice(0, 2), slice(0, 90)) if fails else ():
                with monkeypatch.context() as patch:
                    patch.setattr("altmin_ext.methods._closed_form._finite", lambda learned: False)
                    with pytest.raises(altmin_ext.DivergenceError):
                        method.step(x[rows], y[rows])
                found = method.state_dict()
                assert found["has_inverse"] == state["has_inverse"]
                assert found["lost"] == state["lost"]
                assert same(method.model.state_dict(), weights)
            method.step(own_x, own_y)
        return method

    one, other = run(False), run(True)
    assert_same_state(other.state_dict(), one.state_dict())
    assert same(other.model.state_dict(), one.model.state_dict())


# --- other implementations ---


def test_ridge_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = samples()
    with torch.no_grad():
        features = layer_below()(x).numpy()
    for bias in (True, False):
        method = make("rls", network(bias), ridge=2.5)
        for own in cut(x, y, 40, 3, 257):
            method.step(*own)
        other = linear_model.Ridge(2.5, fit_intercept=bias, solver="cholesky")
        other.fit(features, F.one_hot(y, CLASSES).numpy())
        torch.testing.assert_close(
            method.model[-1].weight.detach(), torch.from_numpy(other.coef_), rtol=1e-9, atol=1e-9
        )
        if bias:
            intercept = torch.from_numpy(other.intercept_)
            torch.testing.assert_close(method.model[-1].bias.detach(), intercept, rtol=1e-9, atol=1e-9)


def test_discriminants_of_scikit_learn() -> None:
    discriminant_analysis = pytest.importorskip("sklearn.discriminant_analysis")
    x, y = samples()
    with torch.no_grad():
        features = layer_below()(x).numpy()
    method = make("slda", ridge=1e-9, class_priors="observed")
    for own in cut(x, y, 40, 3, 257):
        method.step(*own)
    other = discriminant_analysis.LinearDiscriminantAnalysis(solver="lsqr").fit(features, y.numpy())
    for mine, its in ((method.model[-1].weight, other.coef_), (method.model[-1].bias, other.intercept_)):
        torch.testing.assert_close(mine.detach(), torch.from_numpy(its), rtol=1e-6, atol=1e-6)
