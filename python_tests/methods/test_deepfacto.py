"""DeepFacto.

Oracles: the local objectives, which autograd differentiates in encoder, head and codes, with torch's AdamW and with
scipy's non-negative least squares for the codes, all in float64 (:class:`Reference`); the dictionary's least squares
written down, which no sweep may raise; and data made of known atoms.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext import NonNegativeFactors
from altmin_ext.methods.deepfacto import DeepFactoOptions, OnlineDictionary

FEATURES, CLASSES, RANK = 6, 4, 5


def vectors() -> nn.Sequential:
    head = nn.Sequential(nn.Linear(RANK, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    return altmin_ext.models.deepfacto(nn.Linear(FEATURES, 9), 9, RANK, head)


def normalised() -> nn.Sequential:
    encoder = nn.Sequential(nn.Linear(FEATURES, 9), nn.BatchNorm1d(9))
    return altmin_ext.models.deepfacto(encoder, 9, RANK, nn.Linear(RANK, CLASSES))


def maps() -> nn.Sequential:
    encoder = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 8, 2, padding=1))
    head = nn.Sequential(nn.Flatten(), nn.Linear(RANK * 12, CLASSES))
    return altmin_ext.models.deepfacto(encoder, 8, RANK, head)


def seeded(build: Callable[[], nn.Sequential], sweeps: int = 2000) -> nn.Sequential:
    """In float64, with so many sweeps that the least squares are solved."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build().double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
        layer = layer_of(model)
        layer.dictionary.copy_(F.normalize(torch.rand_like(layer.dictionary) ** 3, dim=0))
    layer.sweeps = sweeps
    return model


def layer_of(model: nn.Sequential) -> NonNegativeFactors:
    (found,) = (module for module in model.modules() if isinstance(module, NonNegativeFactors))
    return found


def batches(number: int, size: int = 12, loss: str = "cross_entropy") -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    found = []
    for _ in range(number):
        x = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
        y = torch.randint(CLASSES, (size,), generator=generator)
        found.append((x, y if loss == "cross_entropy" else F.one_hot(y, CLASSES).double()))
    return found


def nnls(gram: Tensor, cross: Tensor) -> Tensor:
    """argmin over s >= 0 of s gram s / 2 - cross s, row by row."""
    solver = pytest.importorskip("scipy.optimize").nnls
    root = torch.linalg.cholesky(gram)
    sides = torch.linalg.solve_triangular(root, cross.t(), upper=False).t()
    return torch.stack([torch.from_numpy(solver(root.t().numpy(), side.numpy())[0]) for side in sides])


def rows_of(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(-1, x.shape[1])


class Reference:
    """The same steps from the definitions, for models as ``models.deepfacto`` builds them."""

    def __init__(self, model: nn.Sequential, loss: Any, options: dict[str, Any]) -> None:
        self.model, self.loss, self.o = copy.deepcopy(model), loss, DeepFactoOptions(**options)
        self.encoder, self.layer, self.head = self.model[:2], self.model[2], self.model[3]
        self.adam = torch.optim.AdamW(
            self.model.parameters(), lr=self.o.lr, weight_decay=self.o.weight_decay, eps=1e-8
        )
        self.gram = self.cross = torch.zeros(0)

    def total(self, codes: Tensor, y: Tensor) -> Tensor:
        """The loss, summed over the samples that have a label."""
        logits = self.head(codes)
        if self.loss == "mse" or callable(self.loss):
            return len(y) * (F.mse_loss if self.loss == "mse" else self.loss)(logits, y)
        return F.cross_entropy(logits, y, ignore_index=-1, reduction="sum")

    def step(self, x: Tensor, y: Tensor, eta: float) -> list[float]:
        """One minibatch; returns the objectives of encoder and head after the first move of the codes."""
        o, m = self.o, self.layer.dictionary.clone()
        with torch.no_grad():
            first = self.encoder(x)
        f = rows_of(first)
        shape = (len(x), *first.shape[2:], RANK)

        def to_maps(s: Tensor) -> Tensor:
            return s.reshape(shape).movedim(-1, 1)

        s = start = nnls(m.t() @ m, f @ m)
        left = f - start @ m.t()
        prices = ((-left @ m) * (start < 1e-9)).clamp(min=0)
        dual = torch.zeros_like(f)
        now = f
        objective: list[float] = []
        for iteration in range(o.iterations):
            before = s
            for _ in range(o.code_iterations):
                at = to_maps(s).detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.total(at, y), at)
                # The first round's least squares is that of the encode: left is normal to it, at the prices.
                goal = now - dual - left
                s = nnls(
                    o.rho * m.t() @ m + torch.eye(RANK, dtype=m.dtype) / eta,
                    o.rho * (goal @ m - prices) + s / eta - rows_of(gradient),
                )
            self.adam.zero_grad()
            seen = to_maps(s if o.order == "gauss-seidel" else before)
            below = rows_of(self.frozen(x)) - (1 - o.fidelity) * left
            encoder_term = o.rho / 2 * (s @ m.t() - below + dual).square().sum() / len(x)
            head_term = self.total(seen, y) / len(x)
            objective = objective or [float(encoder_term.detach()), float(head_term.detach())]
            (encoder_term + head_term).backward()
            kept = s
            self.adam.step()
            with torch.no_grad():
                now = rows_of(self.frozen(x))
                if o.duals != "none":
                    dual = dual + s @ m.t() - (now - (1 - o.fidelity) * left)
            if iteration + 1 < o.iterations:
                f = now
        self.fit_dictionary(kept, f)
        return objective

    def frozen(self, x: Tensor) -> Tensor:
        features: Tensor = self.encoder(x)
        return features

    def fit_dictionary(self, s: Tensor, f: Tensor) -> None:
        o, m = self.o, self.layer.dictionary
        if not len(self.gram):
            self.gram = torch.eye(RANK, dtype=m.dtype) * o.prior_batches * s.square().sum() / RANK
            self.cross = m @ self.gram
        self.gram = (1 - o.forgetting) * self.gram + s.t() @ s
        self.cross = (1 - o.forgetting) * self.cross + f.t() @ s
        moved = m.clone()
        for _ in range(o.sweeps):
            for j in range(RANK):
                gain = (self.cross[:, j] - moved @ self.gram[:, j]) / self.gram[j, j]
                moved[:, j] = (moved[:, j] + gain).clamp(min=0)
        moved = m + o.lr_dictionary * (moved - m)
        norms = moved.norm(dim=0)
        m.copy_(moved / norms)
        self.gram = self.gram * norms * norms[:, None]
        self.cross = self.cross * norms


def replay(
    build: Callable[[], nn.Sequential],
    options: dict[str, Any],
    *,
    loss: str = "cross_entropy",
    label: Callable[[Tensor], Tensor] = lambda y: y,
) -> None:
    """The method and the reference, side by side; the reference is told the method's step size."""
    model = seeded(build)
    reference = Reference(model, loss, options)
    method = altmin_ext.make_method("deepfacto", model, loss=loss, report_objective=True, **options)
    for x, y in batches(4, loss=loss):
        y = label(y)
        report = method.step(x, y)
        objective = reference.step(x, y, float(method.code_step_sizes[0]))
        expected = torch.tensor(objective, dtype=torch.float64)
        torch.testing.assert_close(report.objective, expected, rtol=1e-7, atol=1e-12)
        for one, other in zip(model.parameters(), reference.model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
        torch.testing.assert_close(layer_of(model).dictionary, reference.layer.dictionary, rtol=0, atol=1e-8)
        for one, other in zip(method.memory, (reference.gram, reference.cross), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


OPTIONS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "as stated": {"fidelity": 1.0, "rho": 1.0},
    "the loss alone": {"fidelity": 0.0},
    "rounds": {"iterations": 3, "fidelity": 0.3},
    "rounds without duals": {"iterations": 2, "duals": "none"},
    "codes": {"code_iterations": 3, "rho": 0.5},
    "jacobi": {"order": "jacobi", "iterations": 2},
    "numeric step": {"lr_codes": 0.3},
    "dictionary": {"sweeps": 3, "lr_dictionary": 0.5, "forgetting": 0.2, "prior_batches": 0.1},
    "nothing forgotten": {"forgetting": 0.0},
    "weight decay": {"weight_decay": 0.3, "lr": 0.02},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_step(case: str) -> None:
    replay(vectors, OPTIONS[case])


@pytest.mark.parametrize("build", [normalised, maps])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_networks(build: Callable[[], nn.Sequential], loss: str) -> None:
    replay(build, {"iterations": 2}, loss=loss)


# --- samples without a label ---


@pytest.mark.parametrize("build", [vectors, maps])
def test_unlabelled_samples_leave_the_loss_alone(build: Callable[[], nn.Sequential]) -> None:
    replay(build, {"fidelity": 0.2}, label=lambda y: torch.where(y == 1, -1, y))


def test_a_minibatch_without_labels() -> None:
    """Its loss is the mean of nothing; the head stays, encoder and dictionary learn."""
    model = seeded(vectors)
    before = copy.deepcopy(model)
    method = altmin_ext.make_method("deepfacto", model, fidelity=0.5, report_objective=True)
    ((x, y),) = batches(1)
    report = method.step(x, torch.full_like(y, -1))
    assert bool(report.loss.isnan())
    assert int(report.correct) == 0
    assert float(report.objective[1]) == 0
    for one, other in zip(model[3].parameters(), before[3].parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(layer_of(model).dictionary, layer_of(before).dictionary)


def test_loss_and_accuracy_are_of_the_labelled() -> None:
    """In reports, in the history, in validation and by ``evaluate``, which wants labels of other networks."""
    model = seeded(vectors, sweeps=30)
    ((x, y),) = batches(1, size=30)
    partial = torch.where(torch.arange(30) % 3 == 0, y, -1)
    known = partial >= 0
    with torch.no_grad():
        loss = F.cross_entropy(model(x[known]), y[known])
        hits = float((model(x[known]).argmax(1) == y[known]).double().mean())
    history = altmin_ext.train(
        model, (x, partial), method="deepfacto", lr=0.0, lr_dictionary=0.0, batch_size=7,
        validation=(x, partial), progress=False,
    )  # fmt: skip
    row = history.epochs[0]
    assert row["loss"] == pytest.approx(float(loss))
    assert row["validation_loss"] == pytest.approx(float(loss))
    assert row["accuracy"] == row["validation_accuracy"] == pytest.approx(hits)
    found = altmin_ext.evaluate(model, (x, partial))
    assert (found.loss, found.accuracy) == (row["validation_loss"], row["validation_accuracy"])
    assert found.samples == int(known.sum())
    without_the_layer = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 4))
    with pytest.raises(ValueError, match=r"y must lie in \[0, 4\), but y\[1\] is -1"):
        altmin_ext.evaluate(without_the_layer, (x, partial))
    with pytest.raises(ValueError, match="sample with a label"):
        altmin_ext.train(
            model, (x, y), method="deepfacto", validation=(x, torch.full_like(y, -1)), progress=False
        )


def test_objective_of_an_epoch_is_of_all_samples() -> None:
    """With a label or without, whereas the loss is of those that have one."""
    ((x, y),) = batches(1)
    some = torch.where(torch.arange(len(y)) < 2, y, -1)
    parts = [(x, y), (x[:5], torch.full((5,), -1)), (x, some)]
    history = altmin_ext.train(
        seeded(vectors), parts, method="deepfacto", report_objective=True, progress=False
    )
    sizes = torch.tensor([len(x), 5, len(x)], dtype=torch.float64)
    expected = (history.step_objective * sizes[:, None]).sum(0) / sizes.sum()
    torch.testing.assert_close(
        torch.tensor(history.epochs[0]["objective"], dtype=torch.float64), expected, rtol=1e-12, atol=0
    )
    labelled = torch.tensor([len(x), 2], dtype=torch.float64)
    loss = (history.step_loss[[0, 2]] * labelled).sum() / labelled.sum()
    assert history.epochs[0]["loss"] == pytest.approx(float(loss), rel=1e-12)


@pytest.mark.parametrize("wrong", [-2, CLASSES])
def test_other_labels_out_of_range(wrong: int) -> None:
    model = seeded(vectors)
    ((x, y),) = batches(1)
    y[3], y[4] = wrong, -1
    with pytest.raises(ValueError, match=r"label|y must"):
        altmin_ext.make_method("deepfacto", model).step(x, y)
    with pytest.raises(ValueError, match=rf"or be -1 for no label, but y\[3\] is {wrong}"):
        altmin_ext.train(model, (x, y), method="deepfacto", progress=False)


# --- what the steps are good for ---


@pytest.mark.parametrize("code_iterations", [1, 4])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_moving_the_codes_lowers_the_objective(code_iterations: int, loss: str) -> None:
    """With the automatic step size, on the problem as stated, from the least squares' own solution."""
    model = seeded(normalised)
    method = altmin_ext.make_method(
        "deepfacto", model, loss=loss, lr=0.0, lr_dictionary=0.0, fidelity=1.0, rho=0.7,
        code_iterations=code_iterations, report_objective=True,
    )  # fmt: skip
    for x, y in batches(3, loss=loss):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            f = twin[:2](x)
            codes = twin[2](f)
            term = F.cross_entropy if loss == "cross_entropy" else F.mse_loss
            misfit = (codes @ layer_of(twin).dictionary.t() - f).square().sum() / len(x)
            before = float(term(twin[3](codes), y) + 0.35 * misfit)
        after = float(method.step(x, y).objective.sum())
        assert after < before


def dictionary(rank: int = RANK, **options: Any) -> tuple[NonNegativeFactors, OnlineDictionary]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layer = NonNegativeFactors(9, rank).double()
    return layer, OnlineDictionary(layer, DeepFactoOptions(**options))


def drawn(*shape: int, seed: int = 4) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()


def misfit(m: Tensor, gram: Tensor, cross: Tensor) -> float:
    """||F - S M^T||^2 / 2 up to what does not depend on M."""
    return float((m @ gram * m).sum() / 2 - (cross * m).sum())


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("sweeps", [1, 4])
def test_no_update_of_the_dictionary_raises_its_misfit(rate: float, sweeps: int) -> None:
    layer, online = dictionary(sweeps=sweeps, forgetting=0.1)
    for seed in range(8):
        before, codes, features = (
            layer.dictionary.clone(),
            drawn(30, RANK, seed=seed),
            drawn(30, 9, seed=99 - seed),
        )
        old = online.gram.clone(), online.cross.clone()
        if seed == 0:
            old = (torch.eye(RANK, dtype=codes.dtype) * codes.square().sum() / RANK,) * 2
            old = old[0], before @ old[1]
        gram, cross = 0.9 * old[0] + codes.t() @ codes, 0.9 * old[1] + features.t() @ codes
        assert online.learn(codes, features, rate)
        assert torch.equal(layer.dictionary, before)  # only found so far
        online.commit()
        after = layer.dictionary
        assert float(after.min()) >= 0
        torch.testing.assert_close(after.norm(dim=0), torch.ones(RANK, dtype=after.dtype))
        # The memory is scaled along with the atoms, so that the misfit is that of the unscaled ones.
        assert misfit(after, online.gram, online.cross) < misfit(before, gram, cross) + 1e-12
        scales = (online.gram.diagonal() / gram.diagonal()).sqrt()
        torch.testing.assert_close(online.gram, gram * scales * scales[:, None])
        torch.testing.assert_close(online.cross, cross * scales)


def test_dictionary_reaches_its_least_squares() -> None:
    """After many sweeps the conditions of Karush, Kuhn & Tucker hold."""
    layer, online = dictionary(sweeps=2000, prior_batches=0.0)
    online.learn(drawn(40, RANK), drawn(40, 9, seed=5), 1.0)
    online.commit()
    gradient = layer.dictionary @ online.gram - online.cross
    assert float(torch.minimum(layer.dictionary, gradient).abs().max()) < 1e-9


def test_atoms_that_no_code_uses_begin_anew() -> None:
    """As what is left over of the rows that are fitted worst, the worst one first."""
    layer, online = dictionary(prior_batches=0.0)
    codes, features = drawn(20, RANK), drawn(20, 9, seed=6)
    codes[:, [1, 3]] = 0
    online.learn(codes, features, 1.0)
    online.commit()
    m = layer.dictionary.clone()
    m[:, [1, 3]] = 0
    scales = (online.gram.diagonal() / codes.square().sum(0)).sqrt().nan_to_num()
    # The codes that were seen, in units of the scaled atoms, are those that the memory is of.
    torch.testing.assert_close(online.gram, (codes * scales).t() @ (codes * scales))
    left = (features - codes @ m.t()).relu()
    worst = left.norm(dim=1).argsort(descending=True)[:2]
    for atom, row in zip((1, 3), worst, strict=True):
        torch.testing.assert_close(layer.dictionary[:, atom], left[row] / left[row].norm())
    assert not bool(online.gram[[1, 3]].any())
    assert not bool(online.cross[:, [1, 3]].any())


def test_finds_the_atoms_that_the_data_are_made_of() -> None:
    """Three disjoint atoms, few at a time, in a dictionary of three; encoder and head stand still."""
    generator = torch.Generator().manual_seed(7)
    atoms = torch.zeros(9, 3, dtype=torch.float64)
    for j in range(3):
        atoms[3 * j : 3 * j + 3, j] = 0.2 + torch.rand(3, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(9, 9), nn.ReLU(), NonNegativeFactors(9, 3), nn.Linear(3, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(9))
        model[0].bias.zero_()
        model[3].weight.zero_()  # any other head would move the codes
        model[2].dictionary.copy_(
            F.normalize(torch.rand(9, 3, generator=generator, dtype=torch.float64), dim=0)
        )
    method = altmin_ext.make_method("deepfacto", model, lr=0.0)
    for _ in range(150):
        uses = torch.rand(40, 3, generator=generator, dtype=torch.float64)
        uses *= torch.rand(40, 3, generator=generator) < 0.5
        method.step(uses @ atoms.t(), torch.zeros(40, dtype=torch.int64))
    alike = F.normalize(atoms, dim=0).t() @ model[2].dictionary
    assert float(alike.max(1).values.min()) > 0.999
    assert sorted(alike.argmax(1).tolist()) == [0, 1, 2]


# --- errors ---


def two_layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 4), NonNegativeFactors(4, 3), nn.Linear(3, 3), NonNegativeFactors(3, 2), nn.Linear(2, 2)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no layer": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)), "one NonNegativeFactors.*holds 0"),
    "two layers": (two_layers, "one NonNegativeFactors.*holds 2"),
    "nothing above": (
        lambda: nn.Sequential(nn.Linear(6, 4), NonNegativeFactors(4, 3)),
        "above its NonNegative",
    ),
    "nothing below": (
        lambda: nn.Sequential(NonNegativeFactors(6, 3), nn.Linear(3, 2)),
        "below its NonNegative",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_bad_models(case: str) -> None:
    build, sentence = MODELS[case]
    with pytest.raises(ValueError, match=sentence) as error:
        altmin_ext.make_method("deepfacto", build())
    assert "\n" not in str(error.value)


def test_encoder_that_does_not_fit_the_layer() -> None:
    model = altmin_ext.models.deepfacto(nn.Linear(6, 5), 4, 3, nn.Linear(3, 2))
    method = altmin_ext.make_method("deepfacto", model)
    with pytest.raises(
        ValueError, match=r"\(4, ...\) features per sample to its NonNegativeFactors, but gives \(5,\)"
    ):
        method.step(torch.randn(3, 6), torch.tensor([0, 1, 0]))


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "fidelity": ({"fidelity": 1.1}, ValueError),
    "forgetting": ({"forgetting": -0.1}, ValueError),
    "lr_dictionary": ({"lr_dictionary": 2}, ValueError),
    "prior_batches": ({"prior_batches": "much"}, TypeError),
    "sweeps": ({"sweeps": 0}, ValueError),
    "rho": ({"rho": 0.0}, ValueError),
    "duals": ({"duals": "stored"}, ValueError),
    "order": ({"order": "random"}, ValueError),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(name: str) -> None:
    options, kind = BAD_OPTIONS[name]
    with pytest.raises(kind, match=name):
        altmin_ext.make_method("deepfacto", seeded(vectors), **options)


def test_state_of_another_rank() -> None:
    model = altmin_ext.models.deepfacto(nn.Linear(FEATURES, 9), 9, 2, nn.Linear(2, CLASSES))
    other = altmin_ext.make_method("deepfacto", model)
    method = altmin_ext.make_method("deepfacto", seeded(vectors))
    before = method.state_dict()
    with pytest.raises(ValueError, match="state"):
        method.load_state_dict(other.state_dict())
    assert torch.equal(method.state_dict()["memory"][0], before["memory"][0])


def test_errors_name_modules_by_their_paths() -> None:
    """The layer between the blocks counted."""
    head = nn.Sequential(nn.Linear(RANK + 1, CLASSES))
    model = altmin_ext.models.deepfacto(nn.Linear(FEATURES, 9), 9, RANK, head)
    with pytest.raises(ValueError, match=r"stage '3.0', given \(5,\) per sample"):
        altmin_ext.make_method("deepfacto", model).step(torch.randn(3, 6), torch.tensor([0, 1, 0]))


def test_dictionary_that_overflows_is_not_taken() -> None:
    model = seeded(vectors, sweeps=30).float()
    with torch.no_grad():
        model[0].weight.mul_(1e22)
        model[3][0].weight.mul_(1e-20)
    for module in (model[0], model[3][0]):  # whose gradients would be too large as well
        module.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    ((x, y),) = batches(1)
    with pytest.raises(altmin_ext.DivergenceError, match=r"dictionary of stage 1 .* not finite at step 1"):
        altmin_ext.make_method("deepfacto", model).step(x.float(), y)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
