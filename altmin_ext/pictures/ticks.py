"""Where the ticks of an axis are, and how they are labelled."""

from __future__ import annotations

import math


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in [low, high], multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    step = _round_step((high - low) / about)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Rounded, since 3 * 0.1 is not 0.3.
    digits = max(0, -math.floor(math.log10(step)))
    return [round(number * step, digits) + 0.0 for number in range(first, last + 1)]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Numbers in [low, high] for a logarithmic axis, so that at least three can be read off.

    Powers of ten, every second or third one where there would be too many; within three decades 1, 2 and 5 times
    these; within less than one, as many more of 1 to 9 as it takes; in the end those of a linear axis.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if math.log10(high / low) > 3:
        every = -(-len(decades) // most)
        return [10.0**power for power in decades if power % every == 0 and low <= 10.0**power <= high]
    for factors in ((1, 2, 5), (1, 2, 3, 5, 7), range(1, 10)):
        # Divided rather than multiplied by a power: 2 * 10**-1 and 2 / 10 differ in the last digit.
        ticks = [float(f"{factor}e{power}") for power in decades for factor in factors]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) >= 3:
            return ticks
    found = (linear_ticks(low, high, about) for about in range(4, 10))
    return next(ticks for ticks in found if len(ticks) >= 3)


def tick_label(value: float) -> str:
    """The number as people write it; powers of ten only where it would be long."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:,.12g}".rstrip()
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    if not exponent:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def wants_log(values: list[float]) -> bool:
    """Whether positive numbers span a decade, so that a linear axis would hide the small ones."""
    return bool(values) and min(values) > 0 and max(values) >= 10 * min(values)
