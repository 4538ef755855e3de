"""Turn the values that a function captures into arguments."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.extend.core as jex


class Hoisted(NamedTuple):
    """A function that captures nothing, and what it used to capture.

    Attributes:
        pure: `pure(captured, *args)` computes what the function computed for `args`.
        captured: The captured values, arrays.
        jaxpr: Jaxpr of the function, with `captured` as its constants.
    """

    pure: Callable[..., Any]
    captured: list[Any]
    jaxpr: jex.ClosedJaxpr


def hoist(fun: Callable[..., Any], *args: Any) -> Hoisted:
    """Split a function into a pure one and the values that it captures.

    JAX does not allow custom derivative rules to close over traced values. So this
    traces `fun` once and turns every value that it captures, whatever its type, into an
    argument.

    Args:
        fun: Function of arrays in pytrees.
        *args: Arguments of `fun`, or arrays of the same shapes and dtypes.

    Returns:
        The pure function, the captured values and the jaxpr.

    Example:
        >>> import jax.numpy as jnp
        >>> scale = jnp.array(3.0)
        >>> pure, captured, _ = hoist(lambda x: scale * x, jnp.array(2.0))
        >>> float(pure(captured, 2.0)), float(pure([10.0], 2.0)), len(captured)
        (6.0, 20.0, 1)
    """
    closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
    out_tree = jax.tree.structure(shape)

    def pure(captured: Sequence[Any], *args: Any) -> Any:
        flat = jax.core.eval_jaxpr(closed.jaxpr, captured, *jax.tree.leaves(args))
        return out_tree.unflatten(flat)

    return Hoisted(pure, list(closed.consts), closed)
