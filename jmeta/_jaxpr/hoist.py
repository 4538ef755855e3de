"""What a function captures, as arguments of it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.extend.core as jex


class Hoisted(NamedTuple):
    """A function that captures nothing, and what it used to capture.

    Attributes:
        pure: `pure(captured, *args)` gives what the function gave for `args`.
        captured: The captured values.
        jaxpr: The function's jaxpr, with `captured` as its constants.
    """

    pure: Callable[..., Any]
    captured: list[Any]
    jaxpr: jex.ClosedJaxpr


def hoist(fun: Callable[..., Any], *args: Any) -> Hoisted:
    """Split a function into a pure one and the values that it captures.

    Custom derivative rules cannot close over traced values. This traces `fun` once and
    turns every value that it captures, whatever its type, into an argument.

    Args:
        fun: Function of arrays in pytrees.
        *args: What it is going to be called with, or arrays of that shape and dtype.

    Returns:
        The pure function and the captured values.

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
