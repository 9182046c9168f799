"""The study of continual learning. Oracles: the definitions of its measures, worked out by hand; the bytes of images;
for the rivals the formulas of their papers, with sums and inverses in float64, and autograd."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altmin_ext import data
from altmin_ext.data import DataSet, _tensors
from benchmarks.paper.continual import report, streams, study
from benchmarks.paper.continual.contenders import contenders
from benchmarks.paper.continual.learners import (
    AveragedGradientMemory,
    ElasticWeights,
    OrthogonalWeights,
    Replay,
    Samples,
    bytes_of,
)

GRAY = streams.Pixels((0.1307,), (0.3081,))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, seed: int) -> Tensor:
    """Standardised images of random bytes, (count, 1, 8, 8)."""
    return GRAY.decode(torch.randint(256, (count, 1, 8, 8), generator=seeded(seed), dtype=torch.uint8))


def small_stream() -> streams.Stream:
    """Two tasks of two classes each; an image of class c is brighter in quarter c."""
    tasks = []
    for number in range(2):
        parts = []
        for count, seed in ((240, number), (60, 10 + number)):
            x, y = images(count, seed), 2 * number + torch.arange(count) % 2
            pixels = GRAY.encode(x) // 4
            for sample, label in zip(pixels, y.tolist(), strict=True):
                row, column = 4 * (label // 2), 4 * (label % 2)
                sample[:, row : row + 4, column : column + 4] += 128
            parts.append((GRAY.decode(pixels), y))
        tasks.append(DataSet(f"task {number}", parts[0], parts[1], 4))
    return streams.Stream("split-mnist", tasks, GRAY)


def test_measures_of_continual_learning() -> None:
    rows = [
        [0.1, 0.2, 0.0],  # before any training
        [0.9, 0.3, 0.1],
        [0.5, 0.8, 0.2],
        [0.6, 0.9, 1.0],  # the second task is better known than ever
    ]
    found = study.measures(rows)
    assert found["average"] == pytest.approx((0.6 + 0.9 + 1.0) / 3)
    assert found["forgetting"] == pytest.approx(((0.9 - 0.6) + (0.8 - 0.9)) / 2)
    assert found["forward"] == pytest.approx(((0.3 - 0.2) + (0.2 - 0.0)) / 2)


def test_accuracies_over_all_classes_and_over_the_task_s_own() -> None:
    digits = data.load("digits")
    tasks = data.streams.class_tasks(digits)
    always_three = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        always_three[1].weight.zero_()
        always_three[1].bias.copy_(torch.arange(10) == 3)
    over_all, over_own = study.accuracies(always_three, tasks)
    share = float((tasks[1].test[1] == 3).double().mean())
    assert over_all == pytest.approx([0.0, share, 0.0, 0.0, 0.0])
    assert over_own[1] == pytest.approx(share)
    assert all(value > 0.3 for value in over_own)  # of two classes the first is taken


def test_every_so_many_test_samples_are_asked() -> None:
    """The inputs are one-hot of the right answer, but for samples 1, 2, 4, 5, ..., which say 0."""
    x, y = torch.zeros(30, 4), 1 + torch.arange(30) % 3
    x[torch.arange(30), y * (torch.arange(30) % 3 == 0)] = 1.0
    task = DataSet("task", (x, y), (x, y), 4)
    assert study.accuracies(nn.Identity(), [task], 10)[0] == [1.0]
    assert study.accuracies(nn.Identity(), [task])[0] == [pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("mean", "deviation"),
    [((0.1307,), (0.3081,)), ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))],
    ids=["gray", "colour"],
)
def test_images_go_to_bytes_and_back_to_the_same_bits(
    mean: tuple[float, ...], deviation: tuple[float, ...]
) -> None:
    raw = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, len(mean), 16, 16).contiguous()
    labels = torch.zeros(2, dtype=torch.uint8).numpy()
    (loaded, _), _ = _tensors.images([raw.numpy(), labels, raw.numpy(), labels], mean, deviation)
    pixels = streams.Pixels(mean, deviation)
    assert torch.equal(pixels.encode(loaded), raw)
    assert torch.equal(pixels.decode(raw), loaded)


@pytest.mark.parametrize("pixels", [None, GRAY], ids=["float32", "uint8"])
def test_samples_fill_the_room_and_come_back_with_their_labels(pixels: streams.Pixels | None) -> None:
    of_one = 64 * (4 if pixels is None else 1) + 1
    samples = Samples.that_fill(10 * of_one + of_one - 1, (1, 8, 8), pixels)
    assert len(samples) == 10
    assert bytes_of([samples.x, samples.y]) == 10 * of_one
    x, y = images(3, 0), torch.tensor([7, 0, 9])
    samples.put(torch.tensor([4, 0, 2]), x, y)
    found, labels = samples.take(torch.tensor([2, 4, 4, 0]))
    assert torch.equal(found, x[[2, 0, 0, 1]])
    assert labels.tolist() == [9, 7, 7, 0]


def test_reservoir_keeps_every_sample_with_the_same_probability() -> None:
    """100 samples in minibatches of 7, of which 20 are kept: each in a fifth of 1,000 runs, by 5 deviations."""
    x = GRAY.decode(torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1))
    kept = torch.zeros(100)
    for seed in range(1000):
        samples = Samples(20, (1, 1, 1), GRAY)
        replay = Replay(nn.Sequential(nn.Flatten(), nn.Linear(1, 100)), samples, seed, 1e-3)
        for numbers in torch.arange(100).split(7):
            replay._store(x[numbers], numbers)
        assert torch.equal(samples.x.flatten(), samples.y)  # images keep their labels
        assert len(samples.y.unique()) == 20
        kept[samples.y.long()] += 1
    assert float((kept / 1000 - 0.2).abs().max()) < 5 * math.sqrt(0.2 * 0.8 / 1000)


def test_replayed_samples_are_added_to_the_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    replay = Replay(model, Samples(50, (1, 8, 8), GRAY), 0, 1e-3)
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(replay._adam, "step", lambda x, y: seen.append((x, y)))
    first, second = (images(30, 0), torch.zeros(30).long()), (images(30, 1), torch.ones(30).long())
    replay.step(*first)
    replay.step(*second)
    assert torch.equal(seen[0][0], first[0])
    assert torch.equal(seen[1][0][:30], second[0])
    assert seen[1][1].tolist() == [1] * 30 + [0] * 30
    stored = {image.numpy().tobytes() for image in first[0]}
    assert all(image.numpy().tobytes() in stored for image in seen[1][0][30:])


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def parameters_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_elastic_weights_are_pulled_to_every_task_s_place() -> None:
    """The gradient is that of the loss and of both penalties; the F of each task is a difference."""
    model = linear()
    learner = ElasticWeights(model, 0, strength=30.0, lr=0.0)
    x, y = images(20, 0), torch.arange(20) % 10
    penalties: list[tuple[Tensor, Tensor, Tensor]] = []
    for task in range(2):
        before = [importance.clone() for importance in learner._importances]
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * torch.randn(p.shape, generator=seeded(task))
        learner.end_task(x, y)
        now = [importance - b for importance, b in zip(learner._importances, before, strict=True)]
        penalties += zip(list(model.parameters()), now, parameters_of(model), strict=True)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=seeded(9))
    loss = F.cross_entropy(model(x), y)
    for p, importance, place in penalties:
        loss = loss + 30.0 / 2 * (importance * (p - place).square()).sum()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    learner.step(x, y)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)


def test_importances_are_the_fisher_information() -> None:
    """Of a linear classifier: the mean over labels drawn from its answer q of (q - e)^2 a^2, by 5 deviations."""
    model = linear()
    learner = ElasticWeights(model, 0, strength=1.0, lr=1e-3)
    x = images(1, 0).expand(600, 1, 8, 8)
    learner.end_task(x, torch.zeros(600, dtype=torch.int64))
    answer = model(x[:1]).detach().double().softmax(1)[0]
    squares = (answer - torch.eye(10, dtype=torch.float64)).square()  # of the drawn label, of the output
    mean = answer @ squares
    deviation = ((answer @ squares.square() - mean.square()) / 500).sqrt()
    found = learner._importances[1].double()  # the bias's, whose a is 1
    assert bool(((found - mean).abs() < 5 * deviation).all())
    a = x[0].flatten().double()
    torch.testing.assert_close(
        learner._importances[0].double(), torch.outer(found, a**2), rtol=1e-3, atol=1e-6
    )


def test_orthogonal_weights_keep_the_inverse_of_the_means_matrix() -> None:
    """P^-1 = I + sum of r r^T / alpha (Woodbury), with alpha falling in a task of four steps; two layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    learner = OrthogonalWeights(model, lr=0.1, alpha=5.0)
    wanted = [torch.eye(65, dtype=torch.float64), torch.eye(13, dtype=torch.float64)]
    learner.begin_task(4)
    for step in range(4):
        x, y = images(20, step), torch.arange(20) % 10
        inputs = [x.flatten(1), model[:3](x).detach()]
        alphas = (5.0 * 0.9 * 0.001 ** (step / 4), 5.0 * 0.6)
        for matrix, a, alpha in zip(wanted, inputs, alphas, strict=True):
            mean = torch.cat([a.double().mean(0), torch.ones(1, dtype=torch.float64)])
            matrix += torch.outer(mean, mean) / alpha
        learner.step(x, y)
    for found, matrix in zip(learner._projectors, wanted, strict=True):
        torch.testing.assert_close(found.double(), matrix.inverse(), rtol=0, atol=1e-4)


def test_orthogonal_weights_step_through_the_projector() -> None:
    """Momentum .9 of gradients, each clipped to the norm 10 and multiplied with the P of its minibatch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    learner = OrthogonalWeights(model, lr=0.1, alpha=1.0)
    learner.begin_task(2)
    layers = (model[1], model[3])
    velocities = [torch.zeros(12, 65), torch.zeros(10, 13)]
    longest = 0.0
    for step, loud in enumerate((1.0, 100.0)):
        x, y = loud * images(20, step), torch.arange(20) % 10
        gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        before = [weights_of(layer) for layer in layers]
        learner.step(x, y)
        for number, layer in enumerate(layers):
            gradient = torch.cat([gradients[2 * number], gradients[2 * number + 1][:, None]], 1)
            longest = max(longest, float(gradient.norm()))
            gradient *= min(1.0, 10 / float(gradient.norm()))
            velocities[number] = 0.9 * velocities[number] + gradient @ learner._projectors[number]
            expected = before[number] - 0.1 * velocities[number]
            torch.testing.assert_close(weights_of(layer), expected, rtol=1e-4, atol=1e-5)
    assert longest > 10


def weights_of(layer: nn.Module) -> Tensor:
    """Weights and biases (m, n + 1), a copy."""
    assert isinstance(layer, nn.Linear)
    return torch.cat([layer.weight.detach(), layer.bias.detach()[:, None]], 1)


@pytest.mark.parametrize("conflict", [True, False], ids=["conflict", "agreement"])
def test_averaged_gradient_memory_projects_what_conflicts(conflict: bool) -> None:
    """The memory holds one image over and over, so that its gradient is known however samples are drawn.

    Weights begin at zero, where all answers are .1: the gradients of two labels conflict, those of one agree.
    """
    model = linear()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    learner = AveragedGradientMemory(model, Samples(30, (1, 8, 8), GRAY), 0, lr=1e-3)
    x = images(1, 0)
    old = x.expand(30, 1, 8, 8), torch.zeros(30, dtype=torch.int64)
    new = x.expand(20, 1, 8, 8), torch.full((20,), int(conflict))

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        found = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        return torch.cat([part.flatten() for part in found])

    for ended in (False, True):
        if ended:
            learner.end_task(*old)
        g, r = gradient(*new), gradient(*old)
        assert (float(g @ r) < 0) == conflict
        expected = g - (g @ r) / (r @ r) * r if ended and conflict else g
        before = torch.cat([p.flatten() for p in parameters_of(model)])
        learner.step(*new)
        after = torch.cat([p.flatten() for p in parameters_of(model)])
        torch.testing.assert_close(after, before - 1e-3 * expected, rtol=1e-4, atol=1e-7)


def test_tasks_share_the_averaged_gradient_memory() -> None:
    """500 places: a first task of 400 samples leaves a hundred, then come halves and thirds, by 5 deviations."""
    samples = Samples(500, (1, 8, 8), GRAY)
    learner = AveragedGradientMemory(linear(), samples, 0, lr=0.1)
    found = []
    for task, count in enumerate((400, 600, 600)):
        learner.end_task(images(count, task), torch.full((count,), task))
        found.append(torch.bincount(samples.y[: learner._filled].long()).tolist())
    assert found[:2] == [[400], [250, 250]]
    assert found[2][2] == 166
    assert sum(found[2]) == 500
    deviation = math.sqrt(166 * 0.25 * (500 - 166) / 499)  # of a hypergeometric number
    assert abs(found[2][0] - 167) < 5 * deviation


@pytest.mark.parametrize("name", contenders)
def test_every_contender_learns_and_keeps_no_more_with_time(name: str) -> None:
    """The classes are plain to see, so the last task at least is learned; all bytes are there from the start.

    But for the samples and the rows of the inverse's change that are put in together, 256 and 64 of each layer beside
    a minibatch's.
    """
    stream, entry = small_stream(), contenders[name]
    found = study.train_once(entry, stream, entry.tried[-1], 3, 0)
    assert found["steps"] == 2 * 3 * 3
    assert found["task-incremental"][-1][1] > 0.8
    torch.manual_seed(0)
    model = entry.network(stream, 0)
    learner = entry.learner(model, stream, 0, **entry.tried[-1])
    learner.begin_task(1)
    learner.step(*stream.tasks[0].train)
    at_first = bytes_of(learner.kept())
    together = sum(256 + 64 + 2 * study.batch_size for m in model.modules() if isinstance(m, nn.Linear))
    widest = 1 + max(m.in_features for m in model.modules() if isinstance(m, nn.Linear))
    assert found["steps"] * study.batch_size > 2 * together / 3
    assert at_first <= found["kept"] <= at_first + 4 * together * widest
    assert found["in all"] - found["kept"] == sum(4 * p.numel() for p in model.parameters())


def test_runs_are_resumed_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "results", tmp_path)
    monkeypatch.setattr(streams, "load", lambda name: small_stream())
    monkeypatch.setattr(streams, "load_for_tuning", lambda name: small_stream())
    with pytest.raises(SystemExit, match="SGD has not been tuned on split-mnist"):
        study.run("split-mnist", 1, 1, ["SGD"])
    for _ in range(2):
        study.tune("split-mnist", ["SGD"])
        assert len((tmp_path / "split-mnist.tuning.jsonl").read_text().splitlines()) == 4
    study.run("split-mnist", 1, 1, ["SGD"])
    first = (tmp_path / "split-mnist.1.jsonl").read_text()
    study.run("split-mnist", 1, 2, ["SGD"])
    second = (tmp_path / "split-mnist.1.jsonl").read_text()
    assert second.startswith(first)
    assert len(second.splitlines()) == 2
    rows = [row for row in report.table().splitlines() if row.startswith("| SGD")]
    averages = [
        study.measures(run["class-incremental"])["average"] for run in study.runs("split-mnist", 1, "SGD")
    ]
    mean, half = sum(averages) / 2, 12.71 * abs(averages[0] - averages[1]) / 2
    assert rows[0] == f"| SGD | {mean:.3f} ± {half:.3f} |"
    assert f"{study.best_options('split-mnist', 'SGD')['lr']:g}" in rows[-1]
    report.figure(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
