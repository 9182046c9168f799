"""Oracle: the formulas in the contract, evaluated by hand."""

import math

import pytest

from altmin_ext.schedules import make_schedule, names


def test_constant_is_one_in_every_epoch():
    schedule = make_schedule("constant", 3)
    assert [schedule(epoch) for epoch in range(3)] == [1.0, 1.0, 1.0]


def test_cosine_has_the_values_of_its_formula():
    # (1 + cos(pi e / 4)) / 2 for e = 0..3
    expected = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    schedule = make_schedule("cosine", 4)
    assert [schedule(epoch) for epoch in range(4)] == pytest.approx(expected, abs=1e-15)


def test_cosine_of_a_single_epoch_leaves_the_learning_rate_alone():
    assert make_schedule("cosine", 1)(0) == 1.0


def test_callable_is_used_as_it_is():
    assert make_schedule(lambda epoch: 0.5**epoch, 10)(3) == 0.125


def test_all_names_work():
    assert {name: make_schedule(name, 2)(0) for name in names()} == dict.fromkeys(names(), 1.0)


def test_unknown_name_offers_the_nearest():
    with pytest.raises(ValueError, match="unknown lr_schedule 'cosin': did you mean 'cosine'"):
        make_schedule("cosin", 2)


def test_neither_name_nor_callable_is_a_type_error():
    with pytest.raises(TypeError, match=r"lr_schedule must be a name or a callable .* but is 0\.1\."):
        make_schedule(0.1, 2)


@pytest.mark.parametrize("factor", [-0.1, math.nan, math.inf])
def test_impossible_factor_is_named_with_its_epoch(factor):
    with pytest.raises(
        ValueError, match=rf"^lr_schedule\(7\) must be at least 0 and finite, but is {factor}\.$"
    ):
        make_schedule(lambda epoch: factor, 10)(7)


def test_factor_that_is_no_number_is_a_type_error():
    with pytest.raises(TypeError, match=r"^lr_schedule\(0\) must be a number, but is None\.$"):
        make_schedule(lambda epoch: None, 10)(0)


def test_error_inside_a_callable_reaches_its_author():
    def faulty(epoch):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        make_schedule(faulty, 1)(0)
