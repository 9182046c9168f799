"""The maps of the paper's Elman network (Choromanska et al. 2019, appendix C).

Oracles: the definitions c_t = V x_t + U h_{t-1} + b, o = phi(tanh(c)), logits W o + b; and, for what W is given in
place of o, the product itself. What the codes do with the maps is tested in methods/test_elman.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from altmin_ext import models
from altmin_ext.network import ElmanMap, OutputSequenceMap, SequenceMap, split
from altmin_ext.nn import Elman

STEPS, FEATURES, HIDDEN, CLASSES = 4, 2, 5, 3


def maps() -> tuple[ElmanMap, OutputSequenceMap, SequenceMap]:
    below, middle, top = (stage.map for stage in split(models.elman_rnn(FEATURES, HIDDEN, STEPS, CLASSES)))
    assert isinstance(below, ElmanMap)
    assert isinstance(middle, OutputSequenceMap)
    assert isinstance(top, SequenceMap)
    return below, middle, top


def test_who_has_which_parameters() -> None:
    below, middle, top = maps()
    assert [tuple(p.shape) for p in below.parameters] == [
        (HIDDEN, FEATURES),
        (HIDDEN, HIDDEN),
        (HIDDEN,),
        (HIDDEN,),
    ]
    assert middle.parameters == []
    assert [tuple(p.shape) for p in top.parameters] == [(CLASSES, STEPS * HIDDEN), (CLASSES,)]


def test_what_the_methods_ask() -> None:
    """Time steps take 5 iterations, as published; an output sequence has nothing to fit, and is read through U."""
    below, middle, top = maps()
    assert (below.default_iterations.codes, below.default_iterations.weights) == (5, 5)
    assert (top.default_iterations.codes, top.default_iterations.weights) == (1, 1)
    assert [map.has_local_term for map in (below, middle, top)] == [True, False, True]
    assert middle.matrix is below.module.weight_hh_l0
    assert middle.sigma.name == "relu"
    assert below.output is middle
    assert middle.reader is top


def test_shapes_are_those_of_all_time_steps() -> None:
    """c is (T, d), o its numbers in a row; a sequence of other features is half a sentence."""
    below, middle, top = maps()
    shape = below.output_shape(torch.Size([STEPS, FEATURES]))
    assert tuple(shape) == (STEPS, HIDDEN)
    assert tuple(middle.output_shape(shape)) == (STEPS * HIDDEN,)
    assert tuple(top.output_shape(shape)) == (CLASSES,)
    for wrong in ((STEPS, FEATURES + 1), (STEPS,), (STEPS, 1, FEATURES)):
        with pytest.raises(ValueError, match=r"^takes \(T, 2\) sequences$"):
            below.output_shape(torch.Size(wrong))
    with pytest.raises(ValueError, match=r"^takes 20 features$"):
        top.output_shape(torch.Size([STEPS + 1, HIDDEN]))


def test_the_reader_is_given_its_product() -> None:
    """W o at the encode, where it is at hand already, and from o once that has moved."""
    _, _, top = maps()
    top.allocate(torch.empty(0))
    o = torch.randn(6, STEPS * HIDDEN)
    with torch.no_grad():
        product = o @ top.weight.t()
        assert top.encode(product, None) is product
        assert top.forward(product, None) is product
        residual = torch.randn(6, CLASSES)
        assert top.vjp(residual, None) is residual
        top.output, top.has_output = o + 1, True
        torch.testing.assert_close(top.forward(product, None), (o + 1) @ top.weight.t())
        top.weight_gradients(residual, product)
    gradient = top.gradient_of(top.weight)
    assert gradient is not None
    torch.testing.assert_close(gradient, residual.t() @ (o + 1))


@pytest.mark.parametrize("frozen", ["weight_hh_l0", "bias_ih_l0"])
def test_a_frozen_parameter_is_left_out(frozen: str) -> None:
    elman = Elman(FEATURES, HIDDEN)
    getattr(elman, frozen).requires_grad_(False)
    below = split(nn.Sequential(elman, nn.Flatten(), nn.Linear(STEPS * HIDDEN, CLASSES)))[0].map
    below.allocate(torch.empty(0))
    assert len(below.parameters) == len(below.gradients) == 3
    assert below.gradient_of(getattr(elman, frozen)) is None
