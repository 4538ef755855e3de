"""Functions with derivative rules that are no derivative, in every way to define one.

Each maps an array of shape [3] to one like it. The rules divide by a sum over all
entries, so that the Jacobian of a gradient through them is not symmetric.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero, linear_call
from jax.experimental.ode import odeint
from jax.interpreters import ad, mlir

Function = Callable[[jax.Array], jax.Array]


def shrink(x):
    return 1 / (1 + jnp.sum(x**2))


def by_jvp(fun: Any, rule: Any = None, **settings) -> Any:
    """`fun` with the rule, or one that shrinks the tangent."""

    def surrogate(primals, tangents):
        return function(*primals), tangents[0] * shrink(primals[0])

    function = jax.custom_jvp(fun)
    function.defjvp(rule or surrogate, **settings)
    return function


def by_vjp(fun: Any, **settings) -> Function:
    """`fun` with a rule that shrinks the cotangent."""
    function = jax.custom_vjp(fun)
    function.defvjp(lambda x: (fun(x), x), lambda x, g: (g * shrink(x),), **settings)
    return function


def spike(x):
    return (x > 0.3).astype(x.dtype) + 0.1 * x


def of_sin(primals, tangents):
    return jnp.sin(primals[0]), tangents[0] * shrink(primals[0])


@functools.wraps(jnp.sin)
def disguised(*args):
    return of_sin(*args)


def by_defjvps(fun: Any) -> Function:
    function = jax.custom_jvp(fun)
    function.defjvps(lambda tangent, out, x: tangent * shrink(x))
    return function


class Spike:
    def __call__(self, x):
        return spike(x)


class Rule:
    def __call__(self, primals, tangents):
        return of_sin(primals, tangents)


def with_static_argument() -> Function:
    function = jax.custom_jvp(lambda k, x: k * x, nondiff_argnums=(0,))

    @function.defjvp
    def rule(k, primals, tangents):
        return function(k, *primals), k * tangents[0] * shrink(primals[0])

    return functools.partial(function, 0.7)


def with_symbolic_zeros(primals, tangents):
    (x, y), (x_dot, y_dot) = primals, tangents
    assert isinstance(y_dot, SymbolicZero)
    return x * y, x_dot * shrink(x)


def two(x, y):
    return x * y


@jax.custom_gradient
def by_custom_gradient(x):
    return x, lambda g: (g * shrink(x),)


def by_solve(x):
    """Of `2 y = x`, with a solver that is no inverse."""
    solve = lambda matvec, b: b * 0.4
    other = lambda matvec, b: b * 0.4 + 0.2 * jnp.sum(b)
    return jax.lax.custom_linear_solve(
        lambda y: 2.0 * y, jnp.sin(x), solve, transpose_solve=other
    )


def by_root(x):
    """The root of `y**2 = 1 + x**2`, whose tangent is solved for roughly."""
    return jax.lax.custom_root(
        lambda y: y**2 - x**2 - 1,
        jnp.ones_like(x),
        lambda f, y: jnp.sqrt(1 + x**2),
        lambda g, y: y * shrink(g(jnp.ones(3))),
    )


def by_linear_call(x):
    """A product with a matrix, and with another one on the way back."""
    matrix = jnp.arange(9.0).reshape(3, 3) / 9
    return linear_call(
        lambda matrix, x: matrix @ x, lambda matrix, g: 2 * g[::-1], matrix, jnp.sin(x)
    )


def by_odeint(x):
    """Whose rule integrates back, with an error of its own."""
    return odeint(lambda y, t: -y, x, jnp.array([0.0, 1.0]))[-1]


@custom_vmap
def _batched(x):
    return x * 1.0


_batched.def_vmap(lambda size, batched, x: (jax.vmap(by_jvp(spike))(x), True))


def _primitive(name: str) -> jex.Primitive:
    primitive = jex.Primitive(name)
    primitive.def_impl(lambda x: x)
    primitive.def_abstract_eval(lambda x: x)
    mlir.register_lowering(primitive, mlir.lower_fun(lambda x: [x], True))
    return primitive


shrinking = _primitive("shrinking")
ad.defjvp(shrinking, lambda tangent, x: tangent * shrink(x))
summing = _primitive("summing")
ad.deflinear2(summing, lambda g, x: [jnp.cumsum(g)])

RULES: dict[str, Any] = {
    "custom_jvp": by_jvp(spike),
    "defjvps": by_defjvps(spike),
    "custom_vjp": by_vjp(spike),
    "checkpoint_name": by_vjp(lambda x: checkpoint_name(x * 1.0, "act")),
    "custom_gradient": by_custom_gradient,
    "function of JAX's": by_jvp(jnp.sin, of_sin),
    "function of JAX's with a rule": by_defjvps(jax.nn.relu),
    "custom_vjp of JAX's": by_vjp(jnp.tanh),
    "callable object": by_jvp(Spike()),
    "callable rule": by_jvp(jnp.sin, Rule()),
    "partial": by_jvp(functools.partial(jnp.multiply, 0.7)),
    "partial rule": by_jvp(jnp.sin, functools.partial(of_sin)),
    "lambda": by_jvp(lambda x: x * 1.0),
    "rule that wraps JAX's": by_jvp(jnp.sin, disguised),
    "jitted rule": by_jvp(jnp.sin, jax.jit(of_sin)),
    "nondiff_argnums": with_static_argument(),
    "symbolic_zeros": lambda x: by_jvp(two, with_symbolic_zeros, symbolic_zeros=True)(
        x, jnp.arange(1.0, 4.0)
    ),
    "rule for vmap": lambda x: jax.vmap(_batched)(x[None])[0],
    "custom_linear_solve": by_solve,
    "custom_root": by_root,
    "linear_call": by_linear_call,
    "primitive": lambda x: shrinking.bind(x),
    "linear primitive": lambda x: summing.bind(jnp.sin(x)),
}
"""Rules by which a loss can be trained and its hypergradient taken by plain JAX."""

AGREEING = {"custom_linear_solve", "linear_call"}
"""Those of them by which forward over reverse happens to agree with plain JAX."""
