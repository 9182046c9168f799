"""Models that compute something else than their types say, and settings of torch around a step, for every method.

Oracle: the model itself. The loss of a step is that of ``model(x)`` as torch runs it, or the method says in one
sentence, before anything has changed, why it cannot train this model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import Tensor, nn

import altmin_ext
from altmin_ext.network import leaves

from .test_methods_common import (
    METHODS,
    assert_sentence,
    blobs,
    every_dtype,
    every_method,
    make,
    network,
    same,
    snapshot,
)

YARDSTICKS = ("adam", "sgd", "ste", "rls", "slda", "ncm")  # which call the model itself
methods_with_stages = pytest.mark.parametrize("name", [name for name in METHODS if name not in YARDSTICKS])


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, inputs, output: output * 1.5 + 0.1)
    return module


def pre_hooked(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 1.5 + 0.1,))
    return module


def with_forward(module: nn.Module) -> nn.Module:
    original = module.forward
    module.forward = lambda x: original(x) * 1.5 + 0.1
    return module


def subclassed(module: nn.Module) -> nn.Module:
    parent = type(module)

    class Own(parent):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1.5 + 0.1

    module.__class__ = Own
    return module


def pruned(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Linear):
        with torch.no_grad():  # a weight with a graph could not be copied
            torch.nn.utils.prune.ln_structured(module, "weight", 0.5, n=2, dim=0)
    return module


def spectrally_normalised(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Linear):
        nn.utils.parametrizations.spectral_norm(module)
    return module


def compiled(module: nn.Module) -> nn.Module:
    compiled: nn.Module = torch.compile(module, backend="eager")
    return compiled


ALTERATIONS = [hooked, pre_hooked, with_forward, subclassed, pruned, spectrally_normalised, compiled]
every_alteration = pytest.mark.parametrize("alter", ALTERATIONS, ids=lambda function: function.__name__)


def loss_by_torch(name: str, model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        own = copy.deepcopy(model).train(METHODS[name].learns_all)  # features are those of evaluation
        return float(F.cross_entropy(own(x), y))


def assert_trains_or_refuses(name: str, model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether it trains."""
    x, y = blobs(dtype)
    before, expected = snapshot(model), loss_by_torch(name, model, x, y)
    refusal, report = "", None
    try:
        method = make(name, model)
        report = method.step(x, y)
    except ValueError as error:
        refusal = str(error)
    if report is None:
        assert "\n" not in refusal
        assert refusal.endswith(".")
        assert same(before, snapshot(model))
        return False
    assert float(report.loss) == pytest.approx(expected, rel=1e-5 if dtype == torch.float32 else 1e-10)
    method.step(x, y)
    return True


@every_method
@every_alteration
@every_dtype
def test_an_altered_module(name: str, alter: Callable[[nn.Module], nn.Module], dtype: torch.dtype) -> None:
    """One that a method is known to train by a formula: each module of the chain in turn."""
    trained = []
    for i in range(len(network(name))):
        model = network(name, dtype)
        if isinstance(model[i], altmin_ext.NonNegativeFactors):
            continue
        model[i] = alter(model[i])
        trained.append(assert_trains_or_refuses(name, model, dtype))
    if alter is compiled or METHODS[name].modules:
        assert any(trained)


@every_method
@every_alteration
def test_an_altered_container(name: str, alter: Callable[[nn.Module], nn.Module]) -> None:
    """Of two modules, and the whole model."""
    model = network(name, torch.float64)
    nested = nn.Sequential(alter(nn.Sequential(*model[:2])), *model[2:])
    assert_trains_or_refuses(name, nested, torch.float64)
    assert_trains_or_refuses(name, alter(network(name, torch.float64)), torch.float64)


@pytest.mark.parametrize("alter", [hooked, with_forward, subclassed], ids=lambda function: function.__name__)
def test_an_altered_layer_of_factors_is_refused(alter: Callable[[nn.Module], nn.Module]) -> None:
    model = network("deepfacto")
    at = next(i for i, (_, m) in enumerate(leaves(model)) if isinstance(m, altmin_ext.NonNegativeFactors))
    model[at] = alter(model[at])
    with pytest.raises(ValueError, match=r"NonNegativeFactors .* hook or a forward of its own.*\.$"):
        make("deepfacto", model)


@methods_with_stages
def test_a_hook_that_comes_later_is_not_passed_over(name: str) -> None:
    """A step would not call it. Once it has been removed, training goes on."""
    model = network(name)
    method, (x, y) = make(name, model), blobs()
    method.step(x, y)
    hooks: list[Callable[[], Any]] = [
        lambda: model[2].register_forward_hook(lambda module, inputs, output: None),
        lambda: model[1].register_full_backward_hook(lambda module, inputs, outputs: None),
        lambda: model.register_forward_pre_hook(lambda module, inputs: None),
        lambda: nn.modules.module.register_module_forward_pre_hook(lambda module, inputs: None),
    ]
    for register in hooks:
        hook, before = register(), snapshot(model)
        try:
            with pytest.raises(ValueError, match="hook") as error:
                method.step(x, y)
        finally:
            hook.remove()
        assert_sentence(error)
        assert same(before, snapshot(model))
        method.step(x, y)
    model[2].forward = lambda v: v
    with pytest.raises(ValueError, match=r"'2' is ReLU with a forward of its own since"):
        method.step(x, y)


@every_method
@pytest.mark.parametrize("mode", ["autocast", "inference_mode"])
def test_modes_of_torch_around_a_step(name: str, mode: str) -> None:
    contexts: dict[str, Callable[[], Any]] = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "inference_mode": torch.inference_mode,
    }
    model, (x, y) = network(name), blobs()
    method, before = make(name, model), snapshot(model)
    with contexts[mode](), pytest.raises(ValueError, match=f"outside torch.{mode}") as error:
        method.step(x, y)
    assert_sentence(error, "float32", "leave the context")
    with contexts[mode](), pytest.raises(ValueError, match=f"outside torch.{mode}"):
        altmin_ext.train(model, (x, y), method=name, progress=False, **METHODS[name].options)
    assert same(before, snapshot(model))
    assert torch.isfinite(method.step(x, y).loss)
    with contexts[mode]():
        assert altmin_ext.evaluate(model, (x, y)).loss >= 0


class Pair(nn.Module):
    """Returns its output and something else."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), x


def _made_in_inference_mode(model: nn.Module) -> nn.Module:
    with torch.inference_mode():
        return copy.deepcopy(model)


def _waiting_for_gradients(model: nn.Module) -> nn.Module:
    next(model.parameters()).register_post_accumulate_grad_hook(lambda parameter: None)
    return model


def _one_made_lazy(model: nn.Sequential) -> nn.Module:
    return nn.Sequential(model[0], nn.LazyLinear(16), *model[2:])


UNTRAINABLE: dict[str, tuple[Callable[[nn.Sequential], nn.Module], type[Exception], tuple[str, ...]]] = {
    "lazy": (_one_made_lazy, ValueError, ("'1.weight'", "call the model once")),
    "lazy statistics": (
        lambda model: nn.Sequential(*model[:2], nn.LazyBatchNorm1d(affine=False), *model[2:]),
        ValueError,
        ("'2.running_mean'", "call the model once"),
    ),
    "meta": (lambda model: model.to("meta"), ValueError, ("'1.weight'", "'meta'", "to_empty")),
    "half": (lambda model: model.half(), TypeError, ("float16", "model.float()")),
    "complex": (lambda model: model.to(torch.complex64), TypeError, ("complex64",)),
    "frozen": (lambda model: model.requires_grad_(False), ValueError, ("frozen",)),
    "made in inference mode": (_made_in_inference_mode, ValueError, ("'1.weight'", "inference_mode")),
    "waiting for gradients": (_waiting_for_gradients, ValueError, ("'1.weight'", "accumulate")),
    "a list of modules": (lambda model: nn.ModuleList(model), ValueError, ("ModuleList", "nn.Sequential")),
}


@every_method
@pytest.mark.parametrize("kind", UNTRAINABLE)
@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_cannot_be_trained_is_refused_when_the_method_is_made(name: str, kind: str) -> None:
    change, error_type, words = UNTRAINABLE[kind]
    with pytest.raises(error_type, match=r"^model must .*\.$") as error:
        make(name, change(network(name)))
    assert_sentence(error, *words)


def test_evaluation_of_what_holds_no_logits() -> None:
    x, y = blobs()
    for model, kind, words in (
        (Pair(nn.Linear(6, 3)), TypeError, "one tensor, the logits, but returns a tuple"),
        (nn.Linear(6, 3, device="meta"), ValueError, "on the device 'meta'"),
        (nn.ModuleList([nn.Linear(6, 3)]), ValueError, "which has none"),
    ):
        with pytest.raises(kind, match=words) as error:
            altmin_ext.evaluate(model, (x, y))
        assert_sentence(error)


@every_method
def test_a_model_that_returns_a_tuple(name: str) -> None:
    model = network(name)
    model = nn.Sequential(*model[:-1], Pair(model[-1]))
    before, (x, y) = snapshot(model), blobs()
    with pytest.raises((TypeError, ValueError), match=r"^model must .*\.$") as error:
        make(name, model).step(x, y)
    assert_sentence(error)
    assert same(before, snapshot(model))


@pytest.mark.parametrize("name", ["am-adam", "block-admm", "adam", "ste"])
def test_gradients_that_backward_alone_exchanges(name: str, tmp_path: Path) -> None:
    """A step would leave every process with weights of its own."""
    if not torch.distributed.is_available():
        pytest.skip("this torch is built without torch.distributed")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        model = network(name)
        wrapped = nn.parallel.DistributedDataParallel(model)
        for parallel in (wrapped, nn.Sequential(wrapped, nn.Linear(3, 3))):
            with pytest.raises(ValueError, match="free of DistributedDataParallel") as error:
                make(name, parallel)
            assert_sentence(error, "model.module")
        make(name, wrapped.module)
    finally:
        torch.distributed.destroy_process_group()


def test_a_dropout_in_evaluation_mode_stays_there_between_two_passes_of_dtp() -> None:
    """The pass that fits the inverses is no reason to wake up what the user has put into evaluation mode."""
    model, (x, y) = network("dtp", dropout=0.5), blobs()
    method = make("dtp", model)
    drop = next(module for module in model if isinstance(module, nn.Dropout))
    model.train()
    drop.eval()
    altmin_ext.train(model, (x, y), method=method, progress=False)
    assert not drop.training
    assert model.training
