"""The line search of torch's L-BFGS, as a scan of bounded length."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta._core.numerics import safe_divide, safe_sqrt


class Point(NamedTuple):
    """A place on the line.

    Attributes:
        t: Distance from the start in units of the direction, a scalar.
        f: Loss at this point, a scalar.
        g: Gradient at this point, `[N]`.
        gtd: Slope along the direction at this point, a scalar.
    """

    t: jax.Array
    f: jax.Array
    g: jax.Array
    gtd: jax.Array


class _Search(NamedTuple):
    """What torch's two loops carry.

    Attributes:
        bracketing: Whether the first loop still looks for a bracket.
        done: Whether a step is accepted.
        insuf_progress: Whether the last try was too close to an end of the bracket.
        evals: Evaluations of the loss so far.
        prev: The last but one point tried while bracketing.
        new: The last point tried while bracketing.
        first: One end of the bracket, torch's `bracket[0]`.
        second: The other end, torch's `bracket[1]`.
        low_first: Whether `first` is the end with the smaller loss.
    """

    bracketing: jax.Array
    done: jax.Array
    insuf_progress: jax.Array
    evals: jax.Array
    prev: Point
    new: Point
    first: Point
    second: Point
    low_first: jax.Array


def strong_wolfe(
    evaluate: Callable[[jax.Array], Point],
    start: Point,
    t: jax.Array,
    d_norm: jax.Array,
    *,
    max_ls: jax.Array,
    length: int,
    tolerance_change: float,
    c1: float = 1e-4,
    c2: float = 0.9,
) -> tuple[Point, jax.Array]:
    """Find a step that satisfies the strong Wolfe conditions.

    First the step grows until a bracket is found, then the bracket shrinks, both by
    cubic interpolation. An iteration of either kind evaluates the loss once, so one
    scan replaces both loops of torch.

    Args:
        evaluate: Gives the point at a distance.
        start: Point at distance 0.
        t: First distance to try, a scalar.
        d_norm: Largest absolute value of an entry of the direction.
        max_ls: Number of iterations allowed, which may be traced.
        length: Upper bound of `max_ls`, a Python integer.
        tolerance_change: The search ends when the bracket's length times `d_norm` is
            smaller than this.
        c1: Share of the slope at the start by which the loss must fall.
        c2: Share of the slope at the start that may remain.

    Returns:
        The accepted point and the number of evaluations.

    References:
        Nocedal and Wright (2006), Numerical optimization, algorithms 3.5 and 3.6, in
        the form of torch/optim/lbfgs.py, _strong_wolfe.
    """

    def iterate(search, ls_iter):
        active = ~search.done & (ls_iter < max_ls)
        return jax.lax.cond(active, advance, unchanged, search, ls_iter, active), None

    def unchanged(search, ls_iter, active):
        del ls_iter, active
        return search

    def advance(search, ls_iter, active):
        search = _close_bracket(search, ls_iter, start, c1, c2)
        low, high = _low_high(search)
        size = jnp.abs(search.second.t - search.first.t) * d_norm
        small = ~search.bracketing & (size < tolerance_change)
        search = search._replace(done=search.done | small)
        # A search that is done by now must not evaluate the loss again.
        active = active & ~search.done
        return jax.lax.cond(active, move, unmoved, search, low, high, active)

    def unmoved(search, low, high, active):
        del low, high, active
        return search

    def move(search, low, high, active):
        prev, new = search.prev, search.new
        beyond = _cubic_interpolate(
            prev, new, new.t + 0.01 * (new.t - prev.t), new.t * 10
        )
        between, insuf_progress = _next_distance(search)
        t = jnp.where(search.bracketing, beyond, between)
        # Under vmap the lanes that are done get here too. At distance 0 the loss and
        # its derivative are finite.
        point = evaluate(jnp.where(active, t, 0.0))
        zoomed = _shrink_bracket(search, point, low, high, start, c1, c2)
        grown = search._replace(prev=new, new=point)
        search = _select(search.bracketing, grown, zoomed)
        return search._replace(
            evals=search.evals + 1,
            insuf_progress=jnp.where(
                search.bracketing, search.insuf_progress, insuf_progress
            ),
        )

    false = jnp.array(False)
    first_try = evaluate(t)
    search = _Search(
        bracketing=~false,
        done=false,
        insuf_progress=false,
        evals=jnp.array(1, jnp.int32),
        prev=start,
        new=first_try,
        first=start,
        second=first_try,
        low_first=~false,
    )
    search, _ = jax.lax.scan(iterate, search, jnp.arange(length, dtype=jnp.int32))
    # Without a bracket after max_ls iterations, the better end of all that was tried
    # is the result.
    everything = search._replace(
        first=start, second=search.new, low_first=start.f <= search.new.f
    )
    search = _select(search.bracketing, everything, search)
    return _low_high(search)[0], search.evals


def _close_bracket(search, ls_iter, start, c1, c2):
    """End the first loop if its last point closes a bracket or is accepted."""
    prev, new = search.prev, search.new
    too_high = (new.f > start.f + c1 * new.t * start.gtd) | (
        (ls_iter > 1) & (new.f >= prev.f)
    )
    accepted = ~too_high & (jnp.abs(new.gtd) <= -c2 * start.gtd)
    closed = search.bracketing & (too_high | accepted | (new.gtd >= 0))
    bracket = search._replace(
        bracketing=jnp.array(False),
        done=accepted,
        first=_select(accepted, new, prev),
        second=new,
        low_first=accepted | (prev.f <= new.f),
    )
    return _select(closed, bracket, search)


def _next_distance(search):
    """The next distance to try in the bracket, kept away from its ends."""
    first, second = search.first, search.second
    ordered = first.t <= second.t
    smallest = jnp.where(ordered, first.t, second.t)
    largest = jnp.where(ordered, second.t, first.t)
    t = _cubic_interpolate(first, second, smallest, largest)
    eps = 0.1 * (largest - smallest)
    near = jnp.minimum(largest - t, t - smallest) < eps
    at_end = search.insuf_progress | (t >= largest) | (t <= smallest)
    nearer_largest = jnp.abs(t - largest) < jnp.abs(t - smallest)
    pushed = jnp.where(nearer_largest, largest - eps, smallest + eps)
    return jnp.where(near & at_end, pushed, t), near & ~at_end


def _shrink_bracket(search, point, low, high, start, c1, c2):
    """The bracket with the new point in place of one of its ends."""
    worse = (point.f > start.f + c1 * point.t * start.gtd) | (point.f >= low.f)
    accepted = jnp.abs(point.gtd) <= -c2 * start.gtd
    turned = point.gtd * (high.t - low.t) >= 0
    high = _select(worse, point, _select(~accepted & turned, low, high))
    low = _select(worse, low, point)
    first = _select(search.low_first, low, high)
    second = _select(search.low_first, high, low)
    return search._replace(
        done=~worse & accepted,
        first=first,
        second=second,
        low_first=jnp.where(worse, first.f <= second.f, search.low_first),
    )


def _low_high(search):
    """The ends of the bracket, that with the smaller loss first."""
    low = _select(search.low_first, search.first, search.second)
    return low, _select(search.low_first, search.second, search.first)


def _cubic_interpolate(point1, point2, smallest, largest):
    """Minimum of the cubic through two points and their slopes, within bounds."""
    swap = point1.t > point2.t
    a, b = _select(swap, point2, point1), _select(swap, point1, point2)
    d1 = a.gtd + b.gtd - 3 * safe_divide(a.f - b.f, a.t - b.t)
    d2_square = d1**2 - a.gtd * b.gtd
    d2 = safe_sqrt(jnp.where(d2_square >= 0, d2_square, 0.0))
    numerator, denominator = b.gtd + d2 - d1, b.gtd - a.gtd + 2 * d2
    min_pos = b.t - (b.t - a.t) * safe_divide(numerator, denominator)
    # On a straight line the minimum is at infinity, and the bounds cut it off.
    inf = jnp.where(numerator > 0, -jnp.inf, jnp.inf)
    min_pos = jnp.where(denominator == 0, inf, min_pos)
    # The derivative of jnp.clip at a bound is 1/2; that of `where` is 0 or 1.
    min_pos = jnp.where(min_pos < smallest, smallest, min_pos)
    min_pos = jnp.where(min_pos > largest, largest, min_pos)
    exists = (d2_square >= 0) & ((denominator != 0) | (numerator != 0))
    return jnp.where(exists, min_pos, (smallest + largest) / 2)


def _select(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
