"""How a chain of modules is cut into stages.

Oracles: the model itself, which its stages one after the other must compute, whatever the cut; the definition of a
stage, by hand, for where the cuts are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from altmin_ext import Stage, models
from altmin_ext.network import BoundStage, EvaluatedMap, as_chain, leaves, map_spans, split, split_at
from altmin_ext.nn import GRU, Elman, Sign

from .modules import Block, Power


def norms_first() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm1d(5), nn.Linear(5, 4), nn.LayerNorm(4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)
    )


# A model, the shape of a sample, and by hand: path of every stage's map, how many pieces its pre-map has, its
# parameters in number of tensors, and the first module beyond the kernels.
CHAINS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[tuple[str, int, int, str]]]] = {
    "mlp": (
        lambda: models.mlp(6, (5, 4), 3), (2, 3), [("1", 1, 2, ""), ("3", 1, 2, ""), ("5", 1, 2, "")],
    ),
    "nested": (
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(5, 4), nn.Identity()), nn.Sequential(nn.Tanh(), nn.Linear(4, 3))
        ),
        (5,),
        [("0.0", 0, 2, ""), ("1.1", 1, 2, "")],
    ),
    "normalisations": (norms_first, (5,), [("0", 0, 8, "BatchNorm1d"), ("5", 1, 2, "")]),
    "norm in front of a map": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3, bias=False)),
        (5,),
        [("0", 0, 2, ""), ("2", 1, 3, "BatchNorm1d")],
    ),
    "lenet5": (
        lambda: models.lenet5(1, 16),
        (1, 16, 16),
        [("0", 0, 2, "Conv2d"), ("3", 2, 2, "Conv2d"), ("7", 3, 2, "ReLU"), ("9", 1, 2, ""), ("11", 1, 2, "")],
    ),
    "of one's own": (
        lambda: nn.Sequential(nn.Linear(4, 5), Power(), Block(), nn.PReLU(), nn.Linear(5, 3)),
        (4,),
        [("0", 0, 2, ""), ("2", 1, 5, "Block"), ("3", 0, 1, "PReLU"), ("4", 0, 2, "")],
    ),
    "stages": (
        lambda: nn.Sequential(
            nn.Tanh(), Stage(nn.ReLU(), nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4))),
            nn.BatchNorm1d(4), nn.Linear(4, 3),
        ),
        (5,),
        [("1.map", 2, 4, "Tanh"), ("2", 0, 4, "BatchNorm1d")],
    ),
    "dropout, flatten at the end": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Dropout(0.4), nn.Linear(4, 3), nn.Flatten()),
        (5,),
        [("0", 0, 2, ""), ("3", 2, 2, "")],
    ),
    "recurrent": (
        lambda: nn.Sequential(GRU(3, 4), nn.Flatten(), nn.Linear(8, 3)),
        (2, 3),
        [("0", 0, 4, "GRU"), ("2", 1, 2, "")],
    ),
    "signs": (lambda: models.binary_mlp(6, (5, 4), 3), (6,), [("1", 1, 2, ""), ("4", 1, 2, ""), ("6", 1, 2, "")]),
}  # fmt: skip


def prepared(case: str) -> tuple[nn.Module, Tensor]:
    make, shape, _ = CHAINS[case]
    torch.manual_seed(1)
    return make().double(), torch.randn(6, *shape, dtype=torch.float64)


def run(stages: list[BoundStage], x: Tensor) -> Tensor:
    with torch.no_grad():
        for stage in stages:
            assert isinstance(stage.map, EvaluatedMap)
            x = stage.map.encode(stage.pre.begin(x), None)
            x = x if stage.map.bias is None else x + stage.map.bias
    return x


@pytest.mark.parametrize("case", CHAINS)
def test_cuts(case: str) -> None:
    model, _ = prepared(case)
    stages = split(model)
    found = [(s.name, len(s.pre.pieces), len(s.map.parameters), s.beyond_kernels) for s in stages]
    assert found == CHAINS[case][2]


@pytest.mark.parametrize("case", CHAINS)
@pytest.mark.parametrize("training", [True, False])
def test_the_stages_are_the_model(case: str, training: bool) -> None:
    model, x = prepared(case)
    model.train(training)
    passed = copy.deepcopy(model)
    torch.manual_seed(2)
    value = run(split(model), x)
    torch.manual_seed(2)
    with torch.no_grad():
        torch.testing.assert_close(value, passed(x).reshape(value.shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CHAINS)
def test_every_parameter_belongs_to_one_stage(case: str) -> None:
    model, _ = prepared(case)
    owned = [id(p) for stage in split(model) for p in stage.map.parameters]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("case", CHAINS)
def test_shapes_are_those_of_the_codes(case: str) -> None:
    model, x = prepared(case)
    shape, value = x.shape[1:], x
    for stage in split(model):
        shape = stage.output_shape(shape, x[:0])
        value = run([stage], value)
        assert value.shape[1:] == shape


def test_a_sample_that_does_not_fit_is_one_sentence() -> None:
    stages = split(models.mlp(6, (5,), 3))
    with pytest.raises(
        ValueError, match=r"^x must suit the model, but stage '3', given \(4,\) per sample, takes .*[.]$"
    ):
        stages[1].output_shape(torch.Size([4]), torch.empty(0))


@pytest.mark.parametrize("case", CHAINS)
def test_any_other_cut_is_the_model_too(case: str) -> None:
    """Wherever all parts hold parameters."""
    model, x = prepared(case)
    model.eval()
    spans = map_spans(model)
    inside = len(leaves(model))
    assert all(0 <= start < end <= inside for start, end in spans)
    with torch.no_grad():
        expected = model(x)
    for starts in ([], [spans[0][1]] if len(spans) > 1 else [], [start for start, _ in spans[1:]]):
        stages = split_at(model, starts)
        assert len(stages) == len(starts) + 1
        owned = [id(p) for stage in stages for p in stage.map.parameters]
        assert sorted(owned) == sorted(id(p) for p in model.parameters())
        torch.testing.assert_close(run(stages, x).reshape(expected.shape), expected, rtol=1e-12, atol=1e-12)


def test_spans_take_normalisations_along() -> None:
    """Leaves: 0 norm, 1 Linear, 2 norm, 3 norm, 4 ReLU, 5 Linear."""
    assert map_spans(norms_first()) == [(0, 4), (5, 6)]


def test_leaves_are_in_the_order_of_the_forward_pass() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), relu, nn.Sequential(nn.Linear(2, 2), relu))
    assert [path for path, _ in leaves(model)] == ["0", "1", "2.0", "2.1"]
    assert leaves(model)[1][1] is leaves(model)[3][1] is relu


def test_a_parameter_used_twice_within_a_part_has_one_gradient() -> None:
    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear, nn.Tanh(), linear, nn.ReLU(), nn.Linear(4, 3))
    first, _ = split_at(model, [3])
    assert [id(p) for p in first.map.parameters] == [id(p) for p in linear.parameters()]
    assert isinstance(first.map, EvaluatedMap)
    x = torch.randn(5, 4)
    first.map.allocate(x)
    with torch.no_grad():
        residual = torch.randn_like(first.map.encode(first.pre.begin(x), None))
        first.map.weight_gradients(residual, x)
    expected = torch.autograd.grad(linear(torch.tanh(linear(x))), list(linear.parameters()), residual)
    torch.testing.assert_close(first.map.gradients, list(expected))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "nothing to train": (lambda: nn.Sequential(nn.ReLU()), "holds none"),
    "something behind the last map": (lambda: nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)), "'1'"),
    "a sign at the end": (lambda: nn.Sequential(nn.Linear(2, 2), Sign()), "'1'"),
    "widths apart": (lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(4, 2)), "takes 4 features"),
    "no chain": (Block, "altmin_ext.Stage"),
    "not contiguous": (lambda: nn.Sequential(transposed()), "contiguous"),
}


def transposed() -> nn.Linear:
    linear = nn.Linear(3, 2)
    linear.weight.data = torch.randn(3, 2).t()
    return linear


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_sentences(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(ValueError, match=r"^[^\n]*[.]$") as error:
        split(make())
    assert words in str(error.value)


def test_a_parameter_of_two_stages_is_refused() -> None:
    linear = nn.Linear(2, 2)
    for cut in (split, lambda model: split_at(model, [1])):
        with pytest.raises(ValueError, match=r"^stages '0' and '[12]' share a parameter; .*[.]$"):
            cut(nn.Sequential(linear, nn.ReLU(), linear))


def test_a_list_of_modules_is_a_chain() -> None:
    modules = [nn.Linear(2, 3), nn.Linear(3, 1)]
    chain, x = as_chain(modules), torch.randn(4, 2)
    assert torch.equal(chain(x), modules[1](modules[0](x)))
    assert as_chain(chain) is chain
    with pytest.raises(TypeError, match=r"^model\[1\] must be .*, but is a str[.]$"):
        as_chain([nn.Linear(2, 2), "relu"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^model must be .*, but is an int[.]$"):
        as_chain(3)  # type: ignore[arg-type]


# --- cuts of their own ---


@pytest.mark.parametrize(
    ("model", "special"),
    [
        (models.elman_rnn(2, 4, 3), True),
        (nn.Sequential(Elman(2, 4), nn.Flatten(), nn.Linear(12, 3)), True),
        (nn.Sequential(Elman(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)), True),
        (nn.Sequential(nn.Linear(2, 2), Elman(2, 4), nn.Flatten(), nn.Linear(12, 3)), False),
        (nn.Sequential(Elman(2, 4), Elman(4, 4), nn.Flatten(), nn.Linear(12, 3)), False),
        (nn.Sequential(Elman(2, 4), nn.Dropout(), nn.Flatten(), nn.Linear(12, 3)), False),
        (nn.Sequential(Elman(2, 4), nn.Flatten(), nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 3)), False),
        (nn.Sequential(GRU(2, 4), nn.Flatten(), nn.Linear(12, 3)), False),
    ],
    ids=str,
)
def test_the_codes_of_an_elman_layer_are_for_the_papers_network(model: nn.Module, special: bool) -> None:
    """Elman, an activation or none, Flatten and Linear, with nothing to train in front; else it is like any other."""
    kinds = [type(stage.map).__name__ for stage in split(model)]
    assert (kinds == ["ElmanMap", "OutputSequenceMap", "SequenceMap"]) == special
    if special:
        assert [s.name.rpartition(", ")[2] for s in split(model)][1] == "output"
        for needs in (["l1_codes"], ["released"]):
            general = [type(stage.map).__name__ for stage in split(model, needs)]
            assert general == ["LocalMap", "LinearMap"]
