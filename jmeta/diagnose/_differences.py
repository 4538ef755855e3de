"""Derivatives from values alone, with an estimate of their error."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A number and how far it may be off.

    Attributes:
        value: NaN when no finite difference was found.
        error: Estimated; infinite then.
    """

    value: float
    error: float


def directional_derivative(
    at: Callable[[float], Any], size: float, roundoff: float
) -> Estimate:
    """Central differences with a sweep of step sizes.

        difference(h) = (at(h) - at(-h)) / (2 h)
        (16 difference(h / 4) - difference(h)) / 15

    The step goes from `size / 4` down by factors of 4. The estimate is where neighbours
    in the second line agree best; the most that they differ by around there, and the
    roundoff, is its error.

    Args:
        at: The function's value at a distance along the direction.
        size: The distance over which the function is expected to change.
        roundoff: Absolute error of a value.

    Example:
        >>> value, error = directional_derivative(lambda h: (1 + h) ** 3, 1.0, 1e-16)
        >>> round(value, 9), error < 1e-9
        (3.0, True)
    """
    steps = size * 0.25 ** np.arange(1, 11)
    differences = np.array([(float(at(h)) - float(at(-h))) / (2 * h) for h in steps])
    with np.errstate(invalid="ignore"):
        extrapolated = (16 * differences[1:] - differences[:-1]) / 15
        errors = np.abs(np.diff(extrapolated)) + roundoff / steps[2:]
    # neighbours agree by chance where there is only noise, but not three in a row
    errors = np.where(np.isfinite(errors), errors, np.inf)
    padded = np.pad(errors, 1, mode="edge")
    errors = np.max([padded[:-2], padded[1:-1], padded[2:]], axis=0)
    best = int(np.argmin(errors))
    if not np.isfinite(errors[best]):
        return Estimate(float("nan"), float("inf"))
    return Estimate(float(extrapolated[best + 1]), float(errors[best]))
