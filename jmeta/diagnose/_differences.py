"""Derivatives from a function's values alone, with an estimate of their error."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A number and how far it may be off.

    Attributes:
        value: The number; NaN when no finite difference was found.
        error: Estimated absolute error; infinite when no difference was found.
    """

    value: float
    error: float


def directional_derivative(
    at: Callable[[float], Any], size: float, roundoff: float
) -> Estimate:
    """Estimate a derivative by central differences with many step sizes.

        difference(h)   = (at(h) - at(-h)) / (2 h)
        extrapolated(h) = (16 difference(h / 4) - difference(h)) / 15

    The step `h` starts at `size / 4` and is divided by 4 nine times. The estimate is
    the extrapolated value that agrees best with its neighbours. Its error is their
    largest distance from one another plus the effect of roundoff.

    Args:
        at: `at(distance)`, the function's value at a distance along the direction.
        size: The distance over which the function is expected to change.
        roundoff: Absolute error of one value of the function.

    Returns:
        The derivative and its estimated error.

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
    # In pure noise two neighbours may agree by chance. So each error becomes the
    # largest of three in a row.
    errors = np.where(np.isfinite(errors), errors, np.inf)
    padded = np.pad(errors, 1, mode="edge")
    errors = np.max([padded[:-2], padded[1:-1], padded[2:]], axis=0)
    best = int(np.argmin(errors))
    if not np.isfinite(errors[best]):
        return Estimate(float("nan"), float("inf"))
    return Estimate(float(extrapolated[best + 1]), float(errors[best]))
