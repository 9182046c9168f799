"""Oracle: what ticks are for. They are round, within the axis, as many as can be read, labelled by their value."""

from __future__ import annotations

import itertools
import math

import pytest

from altmin_ext.pictures.ticks import linear_ticks, log_ticks, tick_label

SPANS = [1.01, 1.2, 1.7, 3.0, 9.0, 10.0, 45.0, 1e3, 1e5, 1e12]
LOWS = [1e-30, 3.7e-9, 0.00012, 0.02, 0.9, 1.0, 7.3, 123.0, 8e6]


def significant_digits(value: float) -> int:
    return len(f"{value:.12e}".partition("e")[0].replace(".", "").rstrip("0"))


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("low", LOWS)
def test_ticks_of_a_logarithmic_axis_can_be_read_off(low: float, span: float) -> None:
    high = low * span
    ticks = log_ticks(low, high)
    assert ticks == sorted(set(ticks))
    assert all(low * (1 - 1e-6) <= tick <= high * (1 + 1e-6) for tick in ticks)
    assert 3 <= len(ticks) <= 12 or span > 1e3
    assert 2 <= len(ticks) <= 12
    assert all(significant_digits(tick) <= (1 if span >= 10 else 4) for tick in ticks)
    assert all(float(tick_label(tick).replace(",", "")) == pytest.approx(tick, rel=1e-9) for tick in ticks)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3, 7), (0.12, 0.13), (1e-9, 3e-9), (990, 1000), (0, 123456)]
)
def test_ticks_of_a_linear_axis_are_round_and_equally_far_apart(low: float, high: float) -> None:
    ticks = linear_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    steps = [after - before for before, after in itertools.pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert significant_digits(round(steps[0], 12)) == 1
    assert all(low <= tick <= high for tick in ticks)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0.0, "0"), (0.3, "0.3"), (0.05, "0.05"), (0.0001, "0.0001"), (2e-5, "2e-5"), (1e-30, "1e-30"), (7.0, "7"),
        (12000.0, "12,000"), (2e7, "2e7"), (-0.5, "-0.5"),
    ],
)  # fmt: skip
def test_labels_are_numbers_as_people_write_them(value: float, label: str) -> None:
    assert tick_label(value) == label
    assert math.isclose(float(label.replace(",", "")), value)
