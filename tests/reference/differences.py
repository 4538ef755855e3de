"""Central differences of real runs, and the refusal of a derivative that disagrees."""

from collections.abc import Callable

import numpy as np

RELATIVE = 1e-6
"""Largest relative disagreement with central differences that is recorded."""
OF_OUTER = 1e-11
"""Share of the outer loss that is added to it, for derivatives that cancel."""

_CENTRAL = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}
_FORWARD = {0: -25 / 12, 1: 4.0, 2: -3.0, 3: 4 / 3, 4: -1 / 4}
_KINK = {side * k: side * w / 2 for k, w in _FORWARD.items() if k for side in (1, -1)}
_SECOND = {-2: -1 / 12, -1: 4 / 3, 0: -5 / 2, 1: 4 / 3, 2: -1 / 12}

_ROUNDING = 2e-16


class Disagrees(AssertionError):
    """A derivative that central differences do not confirm."""


def check(
    name: str,
    value: float,
    f: Callable[[float], float],
    *,
    size: float = 1.0,
    kind: str = "central",
) -> float:
    """Raise unless `value` is the derivative at 0 of `f`, a function of a distance.

    Differences of fourth order are taken at smaller and smaller steps, starting from
    `size`; the two neighbouring ones that agree best, whatever `value` is, decide. At
    a `kink` the derivative is the mean of those on both sides.

    Returns:
        The relative disagreement.
    """
    stencils = {"central": _CENTRAL, "forward": _FORWARD, "kink": _KINK}
    stencil = {**stencils, "second": _SECOND}[kind]
    power = 2 if kind == "second" else 1
    at_0 = f(0.0)
    best, spread, last = np.nan, np.inf, np.nan
    for h in size * 0.1 ** np.arange(0, 14, 0.5):
        now = sum(w * _value(f, k * h) for k, w in stencil.items()) / h**power
        # two estimates of 0 below the rounding of `f` do not confirm each other
        near = max(abs(now - last), _ROUNDING * abs(at_0) / h**power)
        if near < spread:
            best, spread = float(now), float(near)
        last = now
        if spread <= 0.01 * (RELATIVE * abs(best) + OF_OUTER * abs(at_0)):
            break
    apart = abs(value - best)
    allowed = RELATIVE * abs(best) + OF_OUTER * abs(at_0)
    if not apart <= allowed:
        raise Disagrees(
            f"`{name}` must agree with central differences of torch.optim to "
            f"{RELATIVE} relative; got {value!r}, differences give {best!r} (sure to "
            f"{spread:.1e}). Not recorded: correct the update or the case."
        )
    return float(apart / max(abs(best), 1e-300))


def _value(f: Callable[[float], float], distance: float) -> float:
    try:
        return f(distance)
    except (ArithmeticError, TypeError, ValueError):
        return np.nan  # a root of a negative number: torch has no value so far away
