"""torch's strong Wolfe line search as differentiable code (torch/optim/lbfgs.py)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

Tensor = torch.Tensor
C1, C2, MOST = 1e-4, 0.9, 25


class Point(NamedTuple):
    """A step length, the loss there, and its slope along the direction."""

    t: Any
    loss: Tensor
    slope: Tensor


def strong_wolfe(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    t: Tensor,
    d: Tensor,
    loss: Tensor,
    grad: Tensor,
    tolerance: float,
) -> Tensor:
    """The accepted step length along `d` from `x`, starting with `t`."""

    def at(t: Tensor) -> Point:
        value, slope = evaluate(x + t * d)
        return Point(t, value, slope @ d)

    start = Point(torch.zeros(()), loss, grad @ d)
    before, now, count = start, at(t), 0
    while count < MOST:
        if now.loss > _armijo(start, now.t) or (count > 1 and now.loss >= before.loss):
            break
        if abs(now.slope) <= -C2 * start.slope:
            return now.t
        if now.slope >= 0:
            break
        bounds = now.t + 0.01 * (now.t - before.t), now.t * 10
        before, now = now, at(_cubic(before, now, bounds))
        count += 1
    return _zoom(at, start, [before, now], d.abs().max(), count, tolerance)


def _zoom(
    at: Callable[[Tensor], Point],
    start: Point,
    bracket: list[Point],
    largest: Tensor,
    count: int,
    tolerance: float,
) -> Tensor:
    low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
    stalled = False
    while count < MOST:
        ends = sorted((point.t for point in bracket), key=float)
        if (ends[1] - ends[0]) * largest < tolerance:
            break
        t = _cubic(*bracket, (ends[0], ends[1]))
        margin = 0.1 * (ends[1] - ends[0])
        if min(ends[1] - t, t - ends[0]) < margin:
            if stalled or t >= ends[1] or t <= ends[0]:
                near_top = abs(t - ends[1]) < abs(t - ends[0])
                t = ends[1] - margin if near_top else ends[0] + margin
                stalled = False
            else:
                stalled = True
        else:
            stalled = False
        now = at(t)
        count += 1
        if now.loss > _armijo(start, t) or now.loss >= bracket[low].loss:
            bracket[high] = now
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
            continue
        done = abs(now.slope) <= -C2 * start.slope
        if not done and now.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = now
        if done:
            break
    return bracket[low].t


def _armijo(start: Point, t: Tensor) -> Tensor:
    return start.loss + C1 * t * start.slope


def _cubic(a: Point, b: Point, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """Minimum of the cubic through two points with their slopes, within bounds."""
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1**2 - a.slope * b.slope
    if square < 0:
        return (bounds[0] + bounds[1]) / 2
    d2 = square.sqrt()
    if a.t > b.t:
        a, b = b, a
    share = (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)
    return torch.clamp(b.t - (b.t - a.t) * share, *bounds)
