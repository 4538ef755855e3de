"""Functions as data: what a function captures, what its equations call and give."""

import functools
from collections.abc import Callable, Mapping, Sequence
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


def called(eqn: jex.JaxprEqn) -> jex.Jaxpr | jex.ClosedJaxpr | None:
    """The jaxpr that an equation runs once on its inputs, if it is such a call."""
    match eqn.primitive.name:
        case "jit" | "pjit" | "checkpoint" | "remat2":
            return eqn.params["jaxpr"]
        case (
            "closed_call"
            | "eval_jaxpr"
            | "custom_jvp_call"
            | "custom_vjp_call"
            | "remembered_call"
        ):
            return eqn.params["call_jaxpr"]
        case "custom_vmap_call":
            return eqn.params["call"]
    return None


def evaluate(eqn: jex.JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """What an equation gives for these inputs."""
    inputs = {
        atom: value
        for atom, value in zip(eqn.invars, values, strict=True)
        if not isinstance(atom, jex.Literal)
    }
    single = _empty_jaxpr().replace(
        invars=list(inputs), outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects
    )
    return jax.core.eval_jaxpr(single, (), *inputs.values())


def bind(primitive: jex.Primitive, params: Mapping[str, Any], *args: Any) -> Any:
    """Apply a primitive, with the parameters that it has in an equation."""
    bound = primitive.get_bind_params(dict(params))
    # jax before 0.10 gives functions beside the parameters, later ones among them
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    return primitive.bind(*functions, *args, **params)


@functools.cache
def _empty_jaxpr() -> jex.Jaxpr:
    return jax.make_jaxpr(lambda: ())().jaxpr
