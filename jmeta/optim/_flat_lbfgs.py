"""L-BFGS on a flat vector."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta._core.numerics import safe_divide
from jmeta._core.settings import Setting
from jmeta.optim._strong_wolfe import Point, strong_wolfe

Evaluate = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""`x -> (loss, gradient)`, with the parameters and the gradient as vectors `[N]`."""


class LBFGSState(NamedTuple):
    """State of `lbfgs`, under torch's names.

    All vectors are flat, `[N]` for N parameters in the order of `jax.tree.leaves`.

    Attributes:
        step: Updates so far, an int32 scalar.
        func_evals: Evaluations of the loss so far, an int32 scalar.
        n_iter: Iterations so far, an int32 scalar.
        d: The last direction, `[N]`.
        t: The last step length, a scalar.
        old_dirs: The last changes of the gradient, `[history_size, N]`, newest last;
            0 where there is none yet.
        old_stps: The last steps, `[history_size, N]`, newest last; 0 where there is
            none yet.
        ro: `1 / (y @ s)` for each row `y` of `old_dirs` and `s` of `old_stps`,
            `[history_size]`; 0 where there is none yet.
        H_diag: Scale of the first guess of the inverse Hessian, a scalar.
        prev_flat_grad: The last iteration's gradient, `[N]`.
        prev_loss: The last iteration's loss, a scalar.
        hyperparams: The next update's `lr`.
    """

    step: jax.Array
    func_evals: jax.Array
    n_iter: jax.Array
    d: jax.Array
    t: jax.Array
    old_dirs: jax.Array
    old_stps: jax.Array
    ro: jax.Array
    H_diag: jax.Array
    prev_flat_grad: jax.Array
    prev_loss: jax.Array
    hyperparams: dict[str, Setting]


class Limits(NamedTuple):
    """The arguments of `lbfgs` that say when to stop and whether to search.

    Attributes:
        max_iter: Iterations in an update.
        max_eval: Evaluations of the loss in an update.
        tolerance_grad: Largest entry of a gradient that counts as converged.
        tolerance_change: Slope, step or change of the loss that counts as none.
        line_search: Whether the step length is searched.
    """

    max_iter: int
    max_eval: int
    tolerance_grad: float
    tolerance_change: float
    line_search: bool


class Iterate(NamedTuple):
    """What the iterations of one update carry.

    Attributes:
        state: State of the optimizer, with this update's counts in it.
        x: Parameters, `[N]`.
        loss: Loss at `x`, a scalar.
        flat_grad: Gradient at `x`, `[N]`.
        evals: Evaluations of the loss in this update, an int32 scalar.
        stop: Whether a stopping rule applies, a bool scalar.
    """

    state: LBFGSState
    x: jax.Array
    loss: jax.Array
    flat_grad: jax.Array
    evals: jax.Array
    stop: jax.Array


def minimize(
    evaluate: Evaluate,
    lr: jax.Array,
    state: LBFGSState,
    start: tuple[jax.Array, jax.Array, jax.Array],
    limits: Limits,
) -> Iterate:
    """Run the iterations of one update: torch/optim/lbfgs.py, LBFGS.step.

    Args:
        evaluate: Gives the loss and the gradient at a vector of parameters.
        lr: Step length, a scalar.
        state: State of the optimizer before the update.
        start: Parameters `[N]`, loss and gradient `[N]` before the update.
        limits: Bounds of the iterations and tolerances.

    Returns:
        The last iterate.
    """
    carry = Iterate(
        state._replace(func_evals=state.func_evals + 1),
        *start,
        evals=jnp.array(1, jnp.int32),
        stop=max_abs(start[2]) <= limits.tolerance_grad,
    )

    def iterate(carry, last):
        advance = lambda carry: _iterate(evaluate, lr, carry, limits, last)
        return jax.lax.cond(carry.stop, lambda carry: carry, advance, carry)

    # With fixed steps the loss is not evaluated after the last one, so that iteration
    # runs outside the scan.
    unscanned = 0 if limits.line_search else 1
    carry, _ = jax.lax.scan(
        lambda carry, _: (iterate(carry, last=False), None),
        carry,
        length=limits.max_iter - unscanned,
    )
    return iterate(carry, last=True) if unscanned else carry


def _iterate(evaluate, lr, carry, limits, last):
    flat_grad = carry.flat_grad
    state = _update_memory(carry.state, flat_grad)
    # The derivative of jnp.abs at 0 is 1, torch's is 0.
    total = jnp.sum(jnp.sign(flat_grad) * flat_grad)
    first_t = jnp.minimum(1.0, safe_divide(jnp.ones_like(total), total)) * lr
    state = state._replace(
        t=jnp.where(state.n_iter == 1, first_t, lr),
        prev_flat_grad=flat_grad,
        prev_loss=carry.loss,
    )
    gtd = jnp.vdot(flat_grad, state.d)
    carry = carry._replace(state=state)
    return jax.lax.cond(
        gtd > -limits.tolerance_change,
        lambda carry, gtd: carry._replace(stop=jnp.array(True)),
        lambda carry, gtd: _take_step(evaluate, carry, gtd, limits, last),
        carry,
        gtd,
    )


def _take_step(evaluate, carry, gtd, limits, last):
    state, x = carry.state, carry.x
    d, t, loss, flat_grad = state.d, state.t, carry.loss, carry.flat_grad
    if limits.line_search:
        point, evals = _search_line(evaluate, carry, gtd, limits)
        loss, flat_grad, t = point.f, point.g, point.t
    elif last:
        evals = jnp.array(0, jnp.int32)
    else:
        loss, flat_grad = evaluate(x + t * d)
        evals = jnp.array(1, jnp.int32)
    total = carry.evals + evals
    stop = (
        (total >= limits.max_eval)
        | (max_abs(flat_grad) <= limits.tolerance_grad)
        | (max_abs(d * t) <= limits.tolerance_change)
        | (jnp.abs(loss - state.prev_loss) < limits.tolerance_change)
    )
    state = state._replace(t=t, func_evals=state.func_evals + evals)
    return Iterate(state, x + t * d, loss, flat_grad, total, stop)


def _search_line(evaluate, carry, gtd, limits):
    x, d = carry.x, carry.state.d

    def at(t):
        loss, flat_grad = evaluate(x + t * d)
        return Point(t, loss, flat_grad, jnp.vdot(flat_grad, d))

    return strong_wolfe(
        at,
        Point(jnp.zeros_like(gtd), carry.loss, carry.flat_grad, gtd),
        carry.state.t,
        max_abs(d),
        max_ls=limits.max_eval - carry.evals,
        length=limits.max_eval - 1,
        tolerance_change=limits.tolerance_change,
    )


def _update_memory(state, flat_grad):
    """Count an iteration, store the last step and find the next direction."""
    y = flat_grad - state.prev_flat_grad
    s = state.d * state.t
    ys = jnp.vdot(y, s)
    new = (state.n_iter > 0) & (ys > 1e-10)
    # `push` computes both branches of its `where`: neither may divide by 0.
    ys = jnp.where(new, ys, 1.0)
    yy = jnp.where(new, jnp.vdot(y, y), 1.0)

    def push(history, entry):
        pushed = jnp.concatenate([history[1:], entry[None]])
        return jnp.where(new, pushed, history)

    state = state._replace(
        n_iter=state.n_iter + 1,
        old_dirs=push(state.old_dirs, y),
        old_stps=push(state.old_stps, s),
        ro=push(state.ro, 1.0 / ys),
        H_diag=jnp.where(new, ys / yy, state.H_diag),
    )
    return state._replace(d=_direction(state, flat_grad))


def _direction(state, flat_grad):
    """Minus the inverse Hessian times the gradient, by the two-loop recursion.

    Rows of the memory that are still 0 change nothing.
    """
    memory = (state.old_dirs, state.old_stps, state.ro)

    def newest_to_oldest(q, entry):
        y, s, ro = entry
        al = jnp.vdot(s, q) * ro
        return q - al * y, al

    def oldest_to_newest(r, entry):
        (y, s, ro), al = entry
        be = jnp.vdot(y, r) * ro
        return r + (al - be) * s, None

    q, al = jax.lax.scan(newest_to_oldest, -flat_grad, memory, reverse=True)
    return jax.lax.scan(oldest_to_newest, q * state.H_diag, (memory, al))[0]


def max_abs(x: jax.Array) -> jax.Array:
    """Largest absolute value of an entry, 0 for an empty array."""
    return jnp.max(jnp.abs(x), initial=0.0)
