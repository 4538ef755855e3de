"""Differentiate a converged loop by the implicit function theorem."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.custom_derivatives import zero_from_primal

from jmeta._core import validate
from jmeta._core.derivative_rules import approximation
from jmeta._core.typing import PyTree
from jmeta._core.varying import make_varying, varying_axes
from jmeta._jaxpr.hoist import hoist
from jmeta._jaxpr.selecting import with_selections
from jmeta.adjoint import _active, _checks
from jmeta.adjoint._base import (
    Condition,
    Loop,
    Outcome,
    first_slice,
    missing_output,
    scan,
)
from jmeta.adjoint._gradient import reverse_gradient
from jmeta.adjoint._symbolic import differentiated
from jmeta.adjoint.solvers import CG, Solver


@dataclasses.dataclass(frozen=True)
class StationaryPoint:
    """The inner gradient is 0: a minimum of the inner objective.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> adjoint = jmeta.Implicit(condition=StationaryPoint())
        >>> def minimum(target):
        ...     tx = jmeta.optim.sgd(lr=0.5)
        ...     run = jmeta.inner_loop(
        ...         lambda w: (w - target) ** 2, 0.0, tx, 2, adjoint=adjoint
        ...     )
        ...     return run.params
        >>> [float(x) for x in jax.value_and_grad(minimum)(3.0)]
        [3.0, 1.0]
    """

    def residual(self, loop: Loop, carry: Any, x: PyTree, params: PyTree) -> PyTree:
        """Return the inner gradient at `params`."""
        inputs = loop.inputs(carry, x)
        return reverse_gradient(loop.objective)(params, inputs)[1]


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """A step of the optimizer from its last state does not move the parameters.

    Terms that the optimizer adds to the gradient, such as a weight decay, belong to
    this condition and can be differentiated.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> adjoint = jmeta.Implicit(solver=jmeta.GMRES(), condition=FixedPoint())
        >>> def decayed(decay):
        ...     tx = jmeta.optim.sgd(lr=0.25)
        ...     run = jmeta.inner_loop(
        ...         lambda w: (w - 3.0) ** 2,
        ...         0.0,
        ...         tx,
        ...         50,
        ...         hyperparams={"weight_decay": decay},
        ...         adjoint=adjoint,
        ...     )
        ...     return run.params  # 6 / (2 + decay)
        >>> [round(float(x), 4) for x in jax.value_and_grad(decayed)(1.0)]
        [2.0, -0.6667]
    """

    def residual(self, loop: Loop, carry: Any, x: PyTree, params: PyTree) -> PyTree:
        """Return `params` minus the parameters after one more step."""
        step = loop.make_step(reverse_gradient(loop.objective))
        new, _ = step(carry._replace(params=params), x)
        return jax.tree.map(jnp.subtract, params, new.params)


@dataclasses.dataclass(frozen=True)
class Root:
    """A condition given as a function of the parameters: `fn(params)` is 0.

    Args:
        fn: Function from the parameters to a tree of the same shapes and dtypes; it may
            capture traced values.

    Raises:
        TypeError: `fn` is no function.
        ValueError: `fn` gives a tree, shapes or dtypes unlike the parameters'.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> def root(a):  # the loop finds it in its own way
        ...     adjoint = jmeta.Implicit(
        ...         solver=jmeta.GMRES(), condition=Root(lambda w: w**2 - a)
        ...     )
        ...     tx = jmeta.optim.sgd(lr=0.1)
        ...     run = jmeta.inner_loop(
        ...         lambda w: (w**2 - a) ** 2 / 4, 1.0, tx, 100, adjoint=adjoint
        ...     )
        ...     return run.params
        >>> [round(float(x), 4) for x in jax.value_and_grad(root)(4.0)]
        [2.0, 0.25]
    """

    fn: Callable[[PyTree], PyTree]

    def __post_init__(self):
        validate.function("fn", self.fn, use="It maps parameters to a tree like them.")
        validate.takes("fn", self.fn, "params")

    def residual(self, loop: Loop, carry: Any, x: PyTree, params: PyTree) -> PyTree:
        """Return `fn(params)`."""
        del loop, carry, x
        residual = self.fn(params)
        _checks.residual("fn", residual, params)
        return residual


@dataclasses.dataclass(frozen=True, kw_only=True)
class Implicit:
    """Implicit differentiation at the solution: constant memory, no unrolling.

    The loop runs to a solution `p` of `F(p, theta) = 0`, where `theta` is everything
    the condition captures; how it got there does not matter. Then

        dF/dp dp = -dF/dtheta dtheta

    gives the derivative of `run.params` by one linear solve, in forward and in reverse
    mode. It is accurate only where the loop has converged: look at `run.residual`. Only
    `run.params` carries a derivative.

    The initial parameters, and settings such as the learning rate, do not move the
    solution; differentiating them raises. For a loop that stays near its start (iMAML)
    write `inner_loop(objective, stop_gradient(meta), ...)` with an objective that
    captures `meta` and contains `proximal(params, meta, weight)`.

    Args:
        solver: Solver of the linear system: `CG()` for a symmetric positive definite
            dF/dp such as the Hessian at a minimum; `NormalCG()` or `GMRES()` for any
            other; `Neumann()`; or a function `(matvec, b) -> x` that can be transposed,
            see `jmeta.adjoint.Solver`.
        condition: The condition F: `StationaryPoint()`; `FixedPoint()`, which a
            transform's own weight decay needs, since the loss does not contain it;
            `Root(fn)`; or an object of your own, see `jmeta.adjoint.Condition`.
        tol: Stop as soon as the norm of F is at most this number. `steps` is then a
            maximum and `run.steps_taken` says how many steps were taken. None takes all
            steps.

    Raises:
        TypeError: A setting of the wrong kind.
        ValueError: No steps; or initial parameters, an optimizer state, perturbations,
            a batch for each step, or a setting outside the condition is differentiated.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> def solution(target):
        ...     objective = lambda w: (w - target) ** 2
        ...     tx = jmeta.optim.sgd(lr=0.25)
        ...     return jmeta.inner_loop(
        ...         objective, 0.0, tx, 30, adjoint=Implicit()
        ...     ).params
        >>> float(jax.grad(solution)(3.0))
        1.0

    References:
        Bengio (2000), Gradient-based optimization of hyperparameters. Rajeswaran et al.
        (2019), Meta-learning with implicit gradients, arXiv:1909.04630. Blondel et al.
        (2022), Efficient and modular implicit differentiation, arXiv:2105.15183.
    """

    solver: Solver = CG()  # noqa: RUF009 (frozen)
    condition: Condition = StationaryPoint()
    tol: float | None = None

    def __post_init__(self):
        _checks.solver(self.solver)
        _checks.condition(self.condition, (StationaryPoint, FixedPoint, Root))
        if self.tol is not None:
            validate.number("tol", self.tol, low=0.0, below=float("inf"))

    def __call__(self, loop: Loop) -> Outcome:
        """Run the loop so that its end can be differentiated implicitly."""
        if not loop.steps:
            raise ValueError(
                "`steps` must be at least 1 with `Implicit`, which differentiates at"
                " the solution that the steps reach; got 0. Use `Unroll()`."
            )
        if loop.xs.batch is not None:
            raise ValueError(
                "`Implicit` needs one condition, so the same data at every step; got"
                " `batches`. Pass `batch`, or use `Unroll()`."
            )
        last = jax.tree.map(lambda x: x[-1], loop.xs)

        def condition(params, carry):
            residual = self.condition.residual(loop, carry, last, params)
            _checks.residual("condition", residual, params)
            return residual

        def run_loop(carry, xs):
            return self._run(loop._replace(carry=carry, xs=xs), condition)

        run, moving, _ = hoist(run_loop, loop.carry, loop.xs)
        residual, theta, _ = hoist(condition, loop.carry.params, loop.carry)
        # `theta`, what the condition captures, moves the solution; the loop's other
        # captures do not. Both traces capture a value as the same Python object, and
        # traced values cannot be compared, so identity matches the two lists.
        inert = [x for x in moving if not any(x is y for y in theta)]
        carry = loop.carry
        inputs = _Inputs(
            theta, inert, carry.params, carry.opt_state, carry.state, loop.xs
        )

        def implicit(inputs: _Inputs) -> tuple[PyTree, tuple[Any, ...]]:
            it = iter(inputs.captured)
            by_id = dict(zip(map(id, theta), inputs.theta, strict=True))
            captured = [by_id[id(x)] if id(x) in by_id else next(it) for x in moving]
            carry = type(loop.carry)(inputs.params, inputs.opt_state, inputs.state)
            carry, *rest = run(captured, carry, inputs.per_step)
            norm = optax.tree.norm(residual(inputs.theta, carry.params, carry))
            return carry.params, (carry, *rest, norm)

        rule = jax.custom_jvp(implicit)

        @approximation
        def jvp(primals, tangents):
            (inputs,), (inputs_dot,) = primals, tangents
            _refuse(inputs_dot)
            params, rest = rule(inputs)
            carry = jax.lax.stop_gradient(rest[0])
            params_dot = self._theorem(
                lambda params, theta: residual(theta, params, carry),
                params,
                inputs.theta,
                inputs_dot.theta,
            )
            zeros = jax.tree.map(
                lambda x: zero_from_primal(x, symbolic_zeros=True), rest
            )
            return (params, rest), (params_dot, zeros)

        rule.defjvp(jvp, symbolic_zeros=True)
        params, (carry, ys, steps_taken, norm) = rule(inputs)
        return Outcome(carry._replace(params=params), ys, steps_taken, norm)

    def _run(self, loop: Loop, condition) -> tuple[Any, PyTree, jax.Array | None]:
        gradient = reverse_gradient(loop.objective)
        step = loop.make_step(gradient)
        _, y = jax.eval_shape(step, loop.carry, first_slice(loop.xs))
        if y.params is not None:
            raise ValueError(
                "`history=True` needs the whole trajectory, which `Implicit()` does not"
                " keep. Use `Unroll()`."
            )
        tol = self.tol
        if tol is None:
            steps = functools.partial(scan, steps=loop.steps)
            return *_active.run_active_steps(loop, gradient, steps), None

        most = loop.steps if loop.active is None else loop.active

        def unfinished(while_carry):
            t, done, *_ = while_carry
            return ~done & (t < most)

        def body(while_carry):
            t, _, carry, ys = while_carry
            done = optax.tree.norm(condition(carry.params, carry)) <= tol
            new, y = step(carry, jax.tree.map(lambda x: x[t], loop.xs))
            new = jax.tree.map(lambda a, b: jnp.where(done, b, a), new, carry)
            ys = jax.tree.map(
                lambda ys, y: ys.at[t].set(jnp.where(done, ys[t], y)), ys, y
            )
            return jnp.where(done, t, t + 1), done, new, ys

        ys = jax.tree.map(lambda y: missing_output(y, loop.steps), y)
        start = (jnp.zeros((), jnp.int32), jnp.zeros((), bool), loop.carry, ys)
        start = make_varying(start, varying_axes(loop.carry))
        t, _, carry, ys = jax.lax.while_loop(unfinished, body, start)
        return carry, ys, t

    def _theorem(self, condition, params, theta, theta_dot):
        """Return the solution's tangent, which solves dF/dp dp = -dF/dtheta dtheta."""
        condition = with_selections(condition)
        is_moving = [bool(differentiated(dot)) for dot in theta_dot]
        moving = [x for x, m in zip(theta, is_moving, strict=True) if m]
        dots = [dot for dot, m in zip(theta_dot, is_moving, strict=True) if m]

        def at(moving):
            it = iter(moving)
            full = [next(it) if m else x for x, m in zip(theta, is_moving, strict=True)]
            return condition(params, full)

        _, change = jax.jvp(at, (moving,), (dots,))
        _, matvec = jax.linearize(lambda params: condition(params, theta), params)
        b = jax.tree.map(jnp.negative, change)
        _checks.solution(x := self.solver(matvec, b), b)
        return x


class _Inputs(NamedTuple):
    """A loop's inputs, with its captures split by whether the condition has them.

    Attributes:
        theta: The values that the condition captures.
        captured: The other values that the loop captures.
        params: The initial parameters.
        opt_state: The optimizer's first state.
        state: The model's first state.
        per_step: The slices of all steps.
    """

    theta: list[Any]
    captured: list[Any]
    params: PyTree
    opt_state: PyTree
    state: PyTree
    per_step: PyTree


_INERT = {
    "captured": "a setting or a value that the optimality condition does not contain",
    "params": "the initial parameters",
    "opt_state": "the optimizer's state, or a setting given to its constructor",
    "per_step": "`perturbations` or a setting per step",
}


def _refuse(inputs_dot):
    for name, what in _INERT.items():
        if differentiated(getattr(inputs_dot, name)):
            raise ValueError(
                "With `Implicit` only what stands in the optimality condition has a"
                f" derivative; but {what} is being differentiated. Put it in the loss"
                " (a weight decay too; for the initial parameters start from"
                " `stop_gradient(meta)` and add `proximal(params, meta, weight)`), or"
                " use `Unroll()`."
            )
