"""Run only some of a loop's steps, so that the others have no part in its derivative.

The number of steps is known only when the program runs, so every step is computed, and
a `where` leaves out those that are not taken. That alone keeps their values out, but
not their derivative: the derivative is multiplied by 0, which gives NaN where it is not
finite, such as at the minimum that a loop has reached. Therefore

- a step that is not taken is computed at the loop's start, where its derivative is that
  of a step that was taken (`Start`; the carry stays as it is);
- for a count of 0, each value that the loop captures passes through a `where` of its
  own, whose transpose selects instead of multiplying. Under `vmap` this `where` copies
  a captured value for each count, so only values that are differentiated get one; a
  derivative rule around the whole loop sees which these are. In `jax.shard_map` a
  captured value that all devices share gets none when the counts differ, since the
  `where` would make it differ between devices.

That rule is one of forward mode, unless something in the loop has a `jax.custom_vjp`,
as the mixed gradient has. Forward mode cannot go through a `jax.custom_vjp`, and not
even reverse mode can when a forward-mode rule is batched around it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta._core.derivative_rules import true_derivative
from jmeta._core.typing import PyTree
from jmeta._core.varying import varying_axes
from jmeta._jaxpr.hoist import hoist
from jmeta._jaxpr.primitives import has_primitive
from jmeta._jaxpr.selecting import with_selections
from jmeta.adjoint._base import Gradient, Loop, Start, Step, first_slice
from jmeta.adjoint._symbolic import differentiated, materialised

Scan = Callable[[Step, Any, PyTree], tuple[Any, PyTree]]
"""`(step, carry, xs) -> (carry, ys)`."""


def run_active_steps(loop: Loop, gradient: Gradient, scan: Scan) -> tuple[Any, PyTree]:
    """Run the loop's steps, of which those from `loop.active` on do nothing.

    Args:
        loop: The loop to run.
        gradient: Computes the inner gradient of its steps.
        scan: Runs a step for each slice, as `jax.lax.scan` does.

    Returns:
        The last carry, and what the steps gave with leading axis `steps`.
    """
    if loop.active is None or not loop.steps:
        return scan(loop.make_step(gradient), loop.carry, loop.xs)

    def counted(active, carry, xs):
        start = Start(active, carry, first_slice(xs))
        return scan(loop.make_step(gradient, start), carry, xs)

    args = loop.active, loop.carry, loop.xs
    pure, captured, jaxpr = hoist(counted, *args)
    leaves, treedef = jax.tree.flatten(_Inputs(captured, *args))

    def steps(leaves, moving):
        """Run the loop with a guard for each captured value that is differentiated.

        `moving` has None for the leaves that are not differentiated.
        """
        pairs = zip(leaves, moving, strict=True)
        full = [x if moved is None else moved for x, moved in pairs]
        is_moving = treedef.unflatten([x is not None for x in moving]).captured
        captured, active, carry, xs = treedef.unflatten(full)
        some = active > first_slice(xs).step
        guarded = [
            jnp.where(some, x, jax.lax.stop_gradient(x))
            if m and varying_axes(some) <= varying_axes(x)
            else x
            for x, m in zip(captured, is_moving, strict=True)
        ]
        return pure(guarded, active, carry, xs)

    rule = _by_vjp if has_primitive(jaxpr.jaxpr, {"custom_vjp_call"}) else _by_jvp
    return rule(steps, leaves)


def cut_missing_outputs(loop: Loop, ys: Any) -> Any:
    """Stop the gradient of the outputs of steps that were not taken.

    `ForwardMode` multiplies the cotangents of all outputs with its Jacobian. If the NaN
    in place of a missing loss goes into a square, such a cotangent is NaN.

    Args:
        loop: The loop that was run.
        ys: What its steps gave, leading axis `steps`.

    Returns:
        The same values.
    """
    if loop.active is None:
        return ys

    def one(on, y):
        return jax.tree.map(lambda y: jnp.where(on, y, jax.lax.stop_gradient(y)), y)

    given = jax.vmap(one)(loop.xs.step < loop.active, (ys.loss, ys.aux))
    return ys._replace(loss=given[0], aux=given[1])


class _Inputs(NamedTuple):
    captured: list[Any]
    active: jax.Array
    carry: Any
    xs: Any


# The rules call `steps` itself, so that derivatives of any order go through it.


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _by_jvp(steps, leaves):
    return steps(leaves, [None] * len(leaves))


@true_derivative
def active_jvp(steps, primals, tangents):
    """Differentiate `steps` behind the guard, in forward mode.

    Args:
        steps: `(leaves, moving) -> outputs` of the loop.
        primals: The leaves of the loop's inputs.
        tangents: Their tangents, symbolic zeros among them.

    Returns:
        The outputs and their tangents.
    """
    (leaves,), (dots,) = primals, tangents
    dots = [dot if differentiated(dot) else None for dot in dots]
    moving = [None if dot is None else x for x, dot in zip(leaves, dots, strict=True)]
    at = with_selections(lambda moving: steps(leaves, moving))
    return jax.jvp(at, (moving,), (dots,))


_by_jvp.defjvp(active_jvp, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_vjp(steps, leaves):
    return steps(leaves, [None] * len(leaves))


def active_fwd(steps, leaves):
    """Run `steps` and keep its derivative behind the guard, for reverse mode.

    Args:
        steps: `(leaves, moving) -> outputs` of the loop.
        leaves: The leaves of the loop's inputs, each with whether it is differentiated.

    Returns:
        The outputs, and the function that transposes the derivative.
    """
    values = [x.value for x in leaves]
    moving = [x.value if x.perturbed else None for x in leaves]
    return jax.vjp(lambda moving: steps(values, moving), moving)


@true_derivative
def active_bwd(steps, vjp, cotangents):
    """Transpose the derivative of `steps`.

    Args:
        steps: `(leaves, moving) -> outputs` of the loop.
        vjp: The function that transposes the derivative.
        cotangents: Cotangents of the outputs, symbolic zeros among them.

    Returns:
        Cotangents of the leaves that are differentiated, None for the others.
    """
    del steps
    return vjp(materialised(cotangents))


_by_vjp.defvjp(active_fwd, active_bwd, symbolic_zeros=True)
