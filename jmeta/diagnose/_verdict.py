"""The verdict on a hypergradient that was computed in three ways."""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.diagnose._differences import Estimate
from jmeta.diagnose._explain import Input


class Verdict(enum.Enum):
    """What `check_hypergrad` finds for one leaf of the arguments."""

    OK = "ok"
    NOISY = "noisy"
    MISMATCH = "mismatch"
    STRUCTURALLY_ZERO = "structurally zero"
    NOT_FINITE = "not finite"


class LeafCheck(NamedTuple):
    """The derivatives along one direction in a leaf, and the verdict on them.

    Of the directions that were tried it is the one along which they differ most.

    Attributes:
        name: The leaf's path in the arguments, such as `args[0]['lr']`.
        verdict: What the comparison of the derivatives says.
        reverse: Derivative by the adjoint that is checked.
        forward: Derivative by forward mode; None where the loss does not allow it.
        difference: Derivative by central differences.
        error: Estimated absolute error of `difference`.
        step: The first inner step, from 0, at which a value stopped being finite; None
            if all are finite, and for a training of a single step, which is compiled
            without a loop.
        reason: What is known of the cause; empty when the verdict is ok.
    """

    name: str
    verdict: Verdict
    reverse: float
    forward: float | None
    difference: float
    error: float
    step: int | None
    reason: str

    def __str__(self) -> str:
        forward = "-" if self.forward is None else f"{self.forward:.6g}"
        line = (
            f"{self.name}: {self.verdict.value}; reverse {self.reverse:.6g}, forward"
            f" {forward}, differences {self.difference:.6g} +- {self.error:.1g}"
        )
        return f"{line}; {self.reason}" if self.reason else line


class Derivatives(NamedTuple):
    """Three derivatives along one direction of a leaf.

    Attributes:
        reverse: Derivative by the adjoint that is checked.
        forward: Derivative by forward mode; None where the loss does not allow it.
        difference: Derivative by central differences, with its error.
        scale: Norm of the leaf's whole gradient, by reverse mode.
        direction: The tangent of every leaf, zeros in all but this one.
    """

    reverse: float
    forward: float | None
    difference: Estimate
    scale: float
    direction: list[jax.Array]

    def by_mode(self) -> dict[str, float]:
        """The derivatives by differentiation, without the difference."""
        modes = {"reverse": self.reverse}
        return modes if self.forward is None else modes | {"forward": self.forward}

    def disagreement(self) -> float:
        """How far reverse mode is from the others; infinite if one is NaN."""
        others = [self.difference.value]
        others += [] if self.forward is None else [self.forward]
        gaps = [abs(self.reverse - other) for other in others]
        return float("inf") if np.isnan(gaps).any() else max(gaps)

    def leaf_check(
        self, name: str, verdict: Verdict, reason: str, step: int | None = None
    ) -> LeafCheck:
        """The row of the result that these derivatives give."""
        difference, error = self.difference
        return LeafCheck(
            name, verdict, self.reverse, self.forward, difference, error, step, reason
        )


def judge(found: Derivatives, route: Input) -> tuple[Verdict, str]:
    """Compare finite derivatives.

    Args:
        found: The derivatives along the direction in which they differ most.
        route: Whether the leaf reaches the loss, and what cuts it off.

    Returns:
        The verdict, and what is known of the cause.
    """
    difference, error = found.difference
    rtol = 1e-6 if found.direction[0].dtype == jnp.float64 else 1e-2
    known = list(found.by_mode().values())
    scale = max(found.scale, *map(abs, known))
    cuts = "; ".join(f"cut by {cut}" for cut in route.cuts)
    allowed = rtol * max(scale, abs(difference))
    # a difference below ten times its error may be roundoff alone
    moves = np.isfinite(difference) and abs(difference) > 10 * error
    if not route.reaches and not (moves and abs(difference) > 0):
        return Verdict.STRUCTURALLY_ZERO, cuts or "the loss does not use it"
    modes_agree = max(known) - min(known) <= rtol * scale
    gap = max(abs(number - difference) for number in known)
    if modes_agree and gap <= allowed:
        return Verdict.OK, ""
    # written with `not`, so that a difference of NaN counts as noise
    if modes_agree and not gap > max(allowed, 10 * error):
        return Verdict.NOISY, "the differences do not settle"
    if not modes_agree:
        return Verdict.MISMATCH, _which_mode_differs(found)
    reason = "part of the derivative is missing or added, as in a first-order gradient"
    return Verdict.MISMATCH, f"{reason}; {cuts}" if cuts else reason


def _which_mode_differs(found: Derivatives) -> str:
    """The mode of differentiation that is further from the difference."""
    modes = found.by_mode()
    wrong = max(modes, key=lambda mode: abs(modes[mode] - found.difference.value))
    return f"{wrong} mode differs: an approximate adjoint or a custom rule"
