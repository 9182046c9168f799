"""Which modules are taken for what their type says.

Oracle: the module itself. A formula may stand for it only if calling the module gives the formula's value.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

from altmin_ext.network import leaves, split
from altmin_ext.network.activations import activation_of
from altmin_ext.network.known import alteration, known_as, runs_as, uncompiled
from altmin_ext.network.pieces import LocalPiece, piece_of
from altmin_ext.nn import Sign, Stage


def with_hook(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def with_pre_hook(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda module, inputs: (3 * inputs[0],))
    return module


def with_backward_hook(module: nn.Module) -> nn.Module:
    module.register_full_backward_hook(lambda module, inputs, outputs: tuple(2 * g for g in inputs))
    return module


def with_backward_pre_hook(module: nn.Module) -> nn.Module:
    module.register_full_backward_pre_hook(lambda module, outputs: tuple(2 * g for g in outputs))
    return module


def with_forward(module: nn.Module) -> nn.Module:
    original = module.forward
    module.forward = lambda x: original(x) + 1
    return module


def of_a_subclass(module: nn.Module) -> nn.Module:
    parent = type(module)

    class Own(parent):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    module.__class__ = Own
    return module


ALTERED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "hook": with_hook,
    "pre-hook": with_pre_hook,
    "backward hook": with_backward_hook,
    "backward pre-hook": with_backward_pre_hook,
    "instance's forward": with_forward,
    "subclass's forward": of_a_subclass,
}
PLAIN: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 6),
    "relu": nn.ReLU,
    "sign": Sign,
    "dropout": lambda: nn.Dropout(0.0),
    "flatten": nn.Flatten,
    "batch norm": lambda: nn.BatchNorm1d(6),
}


@pytest.mark.parametrize("alter", ALTERED)
@pytest.mark.parametrize("kind", PLAIN)
def test_an_altered_module_has_no_formula(kind: str, alter: str) -> None:
    module = PLAIN[kind]()
    plain = type(module)
    assert known_as(module) is plain
    assert not isinstance(piece_of("0", module), LocalPiece)
    altered = ALTERED[alter](module)
    assert known_as(altered) is not plain
    assert activation_of(altered) is None
    tried = piece_of("0", altered)
    assert isinstance(tried, LocalPiece)
    x = torch.randn(4, 6)
    assert torch.equal(tried.begin(x), altered(x))


def test_a_hook_that_has_been_removed_alters_nothing() -> None:
    module = nn.ReLU()
    module.register_forward_hook(lambda module, inputs, output: 2 * output).remove()
    assert known_as(module) is nn.ReLU


@pytest.mark.parametrize("freeze", ["a row", "everything"])
def test_a_hook_on_a_parameter_is_heeded(freeze: str) -> None:
    """The usual way to freeze a part of a weight; the gradient is the one that the hook returns."""
    linear = nn.Linear(3, 2).double()
    mask = torch.zeros(2, 3, dtype=torch.float64)
    mask[0 if freeze == "a row" else 2 :] = 1
    linear.weight.register_hook(lambda gradient: gradient * mask)
    tried = piece_of("0", linear)
    x, g = torch.randn(2, 5, 3, dtype=torch.float64)[:, :, :3], torch.randn(5, 2, dtype=torch.float64)
    tried.begin(x[0])
    torch.testing.assert_close(tried.parameter_gradients(g)[0], (g.T @ x[0]) * mask)


def test_a_weight_that_something_computes_is_no_formulas() -> None:
    computed = {
        "pruned": nn.utils.prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5),
        "weight norm": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        "spectral norm": nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
    }
    with pytest.warns(FutureWarning, match="weight_norm"):
        computed["weight norm by a hook"] = nn.utils.weight_norm(nn.Linear(4, 4))
    plain = nn.Linear(4, 4)
    weight = plain.weight.detach().clone()
    del plain.weight
    plain.weight = weight
    computed["a plain tensor"] = plain
    for name, module in computed.items():
        assert known_as(module) is not nn.Linear, name
        assert isinstance(piece_of("0", module), LocalPiece), name


# --- containers ---


def test_a_container_is_looked_into_only_if_it_runs_its_modules_in_order() -> None:
    def chain() -> nn.Sequential:
        return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))

    class Named(nn.Sequential):
        """A subclass with a name alone."""

    assert runs_as(Named(), nn.Sequential)
    assert len(leaves(nn.Sequential(Named(*chain()), nn.ReLU(), nn.Linear(6, 3)))) == 5
    for alter in ALTERED.values():
        altered = alter(chain())
        assert not runs_as(altered, nn.Sequential)
        assert len(leaves(nn.Sequential(altered, nn.ReLU(), nn.Linear(6, 3)))) == 3

    class Backwards(nn.Sequential):
        def __iter__(self):
            return reversed(list(super().__iter__()))

    assert not runs_as(Backwards(), nn.Sequential)


@pytest.mark.parametrize("alter", ALTERED)
def test_an_altered_stage_is_one_module(alter: str) -> None:
    def model(alter: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
        stage = alter(Stage(nn.Tanh(), nn.Linear(6, 6)))
        return nn.Sequential(nn.Linear(6, 6), stage, nn.ReLU(), nn.Linear(6, 3))

    assert [stage.name for stage in split(model(lambda stage: stage))] == ["0", "1.map", "3"]
    assert [stage.name for stage in split(model(ALTERED[alter]))] == ["0", "1", "3"]


@pytest.mark.parametrize("alter", [name for name in ALTERED if "subclass" not in name])
def test_the_whole_model_must_not_be_altered(alter: str) -> None:
    model = ALTERED[alter](nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)))
    with pytest.raises(ValueError, match=r"^model must run its modules one after the other, .*\.$"):
        split(model)
    assert alteration(model) in ("a hook", "a forward of its own")


def test_hooks_for_every_module_are_refused() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: 2 * output)
    try:
        with pytest.raises(ValueError, match=r"^model must be free of hooks .*\.$"):
            split(model)
    finally:
        hook.remove()
    assert len(split(model)) == 2


def test_a_compiled_module_is_what_was_compiled() -> None:
    inner = nn.Sequential(nn.ReLU(), nn.Linear(6, 6))
    compiled = torch.compile(inner, backend="eager")
    assert uncompiled(compiled) is inner
    assert uncompiled(inner) is inner
    model = torch.compile(nn.Sequential(nn.Linear(6, 6), compiled, nn.Linear(6, 3)), backend="eager")
    assert [type(module) for _, module in leaves(model)] == [nn.Linear, nn.ReLU, nn.Linear, nn.Linear]
    assert [stage.name for stage in split(model)] == ["0", "1.1", "2"]
