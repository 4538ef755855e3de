"""Differentiate a loop by forward mode, with tangents beside its carry."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import zero_from_primal

from jmeta._core import validate
from jmeta._core.derivative_rules import true_derivative
from jmeta._core.tree import is_inexact
from jmeta._core.typing import PyTree
from jmeta._core.varying import make_varying, varying_axes
from jmeta._jaxpr.hoist import hoist
from jmeta.adjoint import _active
from jmeta.adjoint._base import Loop, Outcome, scan
from jmeta.adjoint._gradient import reverse_gradient
from jmeta.adjoint._symbolic import differentiated

_LIMIT = "It is the most numbers that may be differentiated."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardMode:
    """Forward mode: constant memory in the number of steps, for a few scalars.

    The loop carries one tangent of the parameters and the optimizer's state for each
    number that is differentiated: learning rates, momenta, knots of a schedule. It
    works under `jax.grad` as well as under `jax.jvp`: the tangents are computed with
    the loop, so reverse mode transposes only one small product. The method is also
    called real-time recurrent learning or RTHO.

    Args:
        limit: Largest number of scalars that may be differentiated, from 0. An array of
            `steps` rates counts `steps`; a callable hyperparameter counts the numbers
            that it captures.

    Raises:
        TypeError: `limit` is no integer.
        ValueError: More numbers are differentiated than `limit`; the message says how
            many. Use `Unroll` for initial parameters, data and learned losses.

    Example:
        >>> import jax, jmeta
        >>> def meta_loss(lr):
        ...     hyperparams, square = {"lr": lr}, lambda w: w**2
        ...     run = jmeta.inner_loop(
        ...         square,
        ...         1.0,
        ...         jmeta.optim.sgd(),
        ...         2,
        ...         hyperparams=hyperparams,
        ...         adjoint=ForwardMode(),
        ...     )
        ...     return run.params
        >>> float(jax.grad(meta_loss)(0.25))
        -2.0

    References:
        Franceschi et al. (2017), Forward and reverse gradient-based hyperparameter
        optimization, arXiv:1703.01785. Micaelli and Storkey (2021), Gradient-based
        hyperparameter optimization over long horizons, arXiv:2007.07869.
    """

    limit: int = 64

    def __post_init__(self):
        validate.count("limit", self.limit, use=_LIMIT)

    def __call__(self, loop: Loop) -> Outcome:
        """Run the loop so that its derivative is carried forward with it."""
        gradient = reverse_gradient(loop.objective)

        def run_loop(carry, xs):
            steps = functools.partial(scan, steps=loop.steps)
            return _active.run_active_steps(
                loop._replace(carry=carry, xs=xs), gradient, steps
            )

        pure, captured, _ = hoist(run_loop, loop.carry, loop.xs)
        carry = loop.carry
        inputs = _Inputs(captured, carry.params, carry.opt_state, carry.state, loop.xs)

        def run_inputs(inputs: _Inputs):
            carry = type(loop.carry)(inputs.params, inputs.opt_state, inputs.state)
            return pure(inputs.captured, carry, inputs.per_step)

        # the rule calls `run_inputs`, so that derivatives of any order go through it
        rule = jax.custom_jvp(run_inputs)

        @true_derivative
        def jvp(primals, tangents):
            (inputs,), (inputs_dot,) = primals, tangents
            self._check_count(inputs_dot)
            return _forward(run_inputs, inputs, inputs_dot)

        rule.defjvp(jvp, symbolic_zeros=True)
        carry, ys = rule(inputs)
        return Outcome(carry, _active.cut_missing_outputs(loop, ys))

    def _check_count(self, inputs_dot):
        counts = {
            name: sum(_count(leaf) for _, leaf in differentiated(part))
            for name, part in zip(inputs_dot._fields, inputs_dot, strict=True)
        }
        total = sum(counts.values())
        if total > self.limit:
            parts = ", ".join(f"{n} in {name}" for name, n in counts.items() if n)
            raise ValueError(
                "`ForwardMode` carries a tangent for each number that is"
                f" differentiated; got {total} ({parts}), more than `limit`="
                f"{self.limit}. Use `Unroll()`, or raise the limit."
            )


class _Inputs(NamedTuple):
    """A loop's inputs by the names that messages use."""

    captured: list[Any]
    params: PyTree
    opt_state: PyTree
    state: PyTree
    per_step: PyTree


def _forward(fun, inputs, inputs_dot):
    """Compute the outputs and their tangents in one pass over the loop."""
    leaves, treedef = jax.tree.flatten(inputs)
    dots = [dot if differentiated(dot) else None for dot in jax.tree.leaves(inputs_dot)]
    pairs = zip(leaves, dots, strict=True)
    moving = [jnp.asarray(x) for x, dot in pairs if dot is not None]
    flat_dots = [_reals(dot) for dot in dots if dot is not None]
    treedef_out: Any = None

    def outputs(moving):
        nonlocal treedef_out
        it = iter(moving)
        pairs = zip(leaves, dots, strict=True)
        full = [x if dot is None else next(it) for x, dot in pairs]
        outs, treedef_out = jax.tree.flatten(fun(treedef.unflatten(full)))
        # None keeps the place of what carries no derivative
        return (
            [x if is_inexact(x) else None for x in outs],
            [None if is_inexact(x) else x for x in outs],
        )

    def column(j):
        """Return the derivative of every output with respect to the j-th number."""
        direction, start = [], 0
        for x in moving:
            size = _count(x)
            one = (jnp.arange(size) == j - start).astype(x.real.dtype)
            direction.append(make_varying(_like(one, x), varying_axes(x)))
            start += size
        return jax.jvp(outputs, (moving,), (direction,), has_aux=True)

    indices = jnp.arange(sum(map(_count, moving)))
    floats, columns, others = jax.vmap(column, out_axes=(None, 0, None))(indices)
    primals = [x if y is None else y for x, y in zip(floats, others, strict=True)]
    tangents = [
        zero_from_primal(y, symbolic_zeros=True)
        if jacobian is None
        else _combine(jacobian, flat_dots)
        for jacobian, y in zip(columns, others, strict=True)
    ]
    return treedef_out.unflatten(primals), treedef_out.unflatten(tangents)


def _combine(jacobian, dots):
    """Sum the Jacobian's rows, weighted with the inputs' tangents."""
    total, start = jnp.zeros(jacobian.shape[1:], jacobian.dtype), 0
    for dot in dots:
        rows = jacobian[start : start + dot.size]
        dot = dot.astype(rows.real.dtype)
        # at the default precision accelerators would round the factors of a product
        total = total + jnp.tensordot(dot, rows, axes=1, precision="highest")
        start += dot.size
    return total


def _count(x):
    """Count the real numbers that an array holds."""
    return 2 * jnp.size(x) if jnp.iscomplexobj(x) else jnp.size(x)


def _reals(x):
    """Flatten an array to real numbers: real parts, then any imaginary parts."""
    parts = [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    return jnp.concatenate([jnp.ravel(part) for part in parts])


def _like(reals, x):
    """Rebuild an array like `x` from its real numbers in a row."""
    if jnp.iscomplexobj(x):
        real, imag = jnp.split(reals, 2)
        return jax.lax.complex(real, imag).reshape(x.shape)
    return reals.reshape(x.shape)
