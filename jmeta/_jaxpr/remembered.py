"""Preserve derivative rules in a `jax.lax.scan` that is differentiated twice.

When JAX before 0.12 differentiates a scan, it moves computations that are the same in
every step to before the scan. In doing so it replaces each `jax.custom_jvp` in the body
by the function's own operations. The first derivative has used the user's rule by then,
but the second silently differentiates the operations instead. This happens in a loop
within the loss of a loop, in a user's scan within a loop, and in the Hessian of a
meta-loss.

So in an objective with such functions their calls become calls of a primitive of jmeta,
which JAX leaves alone. The primitive behaves like the one of `jax.custom_jvp`: its
derivative is the user's rule, in which calls are replaced in turn. JAX's own rules are
not replaced: they give true derivatives, so the second derivative differs at a kink or
a pole alone. From JAX 0.12 on nothing is replaced, and once jmeta requires that version
this module can go.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.extend.core as jex
from jax.extend.core import primitives
from jax.interpreters import ad, batching, mlir

from jmeta._compat import INLINED_CALLS, SCAN_FORGETS_RULES, bind
from jmeta._jaxpr.rule_origin import rule_origin


def preserving_rules(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function whose custom rules outlast the derivative of a scan.

    It covers rules of `jax.custom_jvp` that are not known to be derivatives, at any
    depth.

    Args:
        fun: Function of arrays in pytrees; values that it captures may be traced.

    Returns:
        A function that computes the same; from JAX 0.12 on `fun` itself.

    Example:
        >>> f = jax.custom_jvp(lambda x: x + 1)
        >>> rule = f.defjvp(lambda xs, dots: (f(*xs), f(*xs) * dots[0]))
        >>> loop = lambda x: jax.lax.scan(lambda x, _: (f(x), None), x, length=2)[0]
        >>> float(jax.grad(jax.grad(preserving_rules(loop)))(1.0))  # of f(f(x)) * f(x)
        18.0
    """
    if not SCAN_FORGETS_RULES:
        return fun

    def rewritten(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        jaxpr = _Rewriting().value(closed.jaxpr)
        flat = jax.core.eval_jaxpr(jaxpr, closed.consts, *jax.tree.leaves(args))
        return jax.tree.structure(shape).unflatten(flat)

    return rewritten


class _Rewriting:
    """Replaces calls in jaxprs; a jaxpr that occurs twice is rewritten once."""

    def __init__(self):
        self.done: dict[int, Any] = {}

    def value(self, value: Any) -> Any:
        """Replace the calls in a jaxpr or in a parameter of an equation.

        Args:
            value: A jaxpr, a tuple of them, or any other parameter.

        Returns:
            The rewritten value; `value` itself where it has no call to replace.
        """
        if type(value) is tuple:
            items = tuple(map(self.value, value))
            return value if all(map(operator.is_, items, value)) else items
        if not isinstance(value, jex.Jaxpr | jex.ClosedJaxpr):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = self._jaxpr(value)
        return self.done[id(value)]

    def _jaxpr(self, jaxpr: Any) -> Any:
        if not isinstance(jaxpr, jex.Jaxpr):  # closed; since JAX 0.11 all are one class
            opened = self.value(jaxpr.jaxpr)
            same = opened is jaxpr.jaxpr
            return jaxpr if same else jex.ClosedJaxpr(opened, jaxpr.consts)
        eqns = [*map(self._equation, jaxpr.eqns)]
        same = all(map(operator.is_, eqns, jaxpr.eqns))
        return jaxpr if same else jaxpr.replace(eqns=eqns)

    def _equation(self, eqn: jex.JaxprEqn) -> jex.JaxprEqn:
        if eqn.primitive is primitives.custom_jvp_call_p:
            found = rule_origin(eqn)
            return eqn.replace(primitive=_call) if found and not found.exact else eqn
        if eqn.primitive is primitives.custom_vjp_call_p:
            forward = _Forward(eqn.params["fwd_jaxpr_thunk"])
            return eqn.replace(params={**eqn.params, "fwd_jaxpr_thunk": forward})
        if eqn.primitive.name not in _ENTERED:
            return eqn
        params = {name: self.value(value) for name, value in eqn.params.items()}
        same = all(params[name] is eqn.params[name] for name in params)
        return eqn if same else eqn.replace(params=params)


class _Forward:
    """The forward half of a `jax.custom_vjp` rule, with the calls in it replaced."""

    def __init__(self, half: Any):
        self.half, self.f, self.transforms = half, half.f, half.transforms
        self.debug_info = half.debug_info

    def call_wrapped(self, *zeros: Any) -> tuple[jex.Jaxpr, Sequence[Any]]:
        """Trace the half and replace the calls in it.

        Args:
            *zeros: For each input whether it has no tangent.

        Returns:
            The rewritten jaxpr and its constants.
        """
        jaxpr, consts = self.half.call_wrapped(*zeros)
        return _Rewriting().value(jaxpr), consts


# a kernel's body, such as Pallas', knows no primitives but its own
_ENTERED = frozenset(
    {"jit", "core_call", "remat2", "scan", "while", "cond", "shard_map"} | INLINED_CALLS
)

_call = jex.Primitive("remembered_call")
_call.multiple_results = True
"""Stands for `custom_jvp_call`, and has the parameters of that primitive."""

_bind_custom_jvp = functools.partial(bind, primitives.custom_jvp_call_p)


def _run(*args: Any, **params: Any) -> list[Any]:
    return _bind_custom_jvp(params, *args)


def _abstract_eval(*avals: Any, call_jaxpr: jex.ClosedJaxpr, **params: Any):
    if list(avals) != list(call_jaxpr.in_avals):  # in `shard_map` they vary differently
        call_jaxpr = jax.make_jaxpr(jex.jaxpr_as_fun(call_jaxpr))(*avals)
    return call_jaxpr.out_avals, call_jaxpr.effects


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any):
    """Apply the user's rule, with symbolic zeros for inputs without a tangent."""
    moving = [i for i, tangent in enumerate(tangents) if not _is_zero(tangent)]

    def at(*moved):
        values = list(primals)
        for i, value in zip(moving, moved, strict=True):
            values[i] = value
        return _bind_custom_jvp(params, *values)

    dots = [tangents[i] for i in moving]
    rule = preserving_rules(functools.partial(jax.jvp, at))
    outs, outs_dot = rule([primals[i] for i in moving], dots)
    return outs, [_tangent(out, dot) for out, dot in zip(outs, outs_dot, strict=True)]


def _transpose(cotangents: Sequence[Any], *args: Any, **params: Any):
    """Transpose a call on tangents, as it occurs in another linear rule."""
    linear = [i for i, arg in enumerate(args) if ad.is_undefined_primal(arg)]

    def at(*moved):
        values = list(args)
        for i, value in zip(linear, moved, strict=True):
            values[i] = value
        return jex.jaxpr_as_fun(params["call_jaxpr"])(*values)

    back = jax.linear_transpose(at, *(args[i].aval for i in linear))
    given = iter(back([*map(ad.instantiate_zeros, cotangents)]))
    return [next(given) if i in linear else None for i in range(len(args))]


def _batch(axis: Any, args: Sequence[Any], dims: Sequence[Any], **params: Any):
    if all(dim is None for dim in dims):
        outs = _call.bind(*args, **params)
        return outs, [None] * len(outs)
    mapped = jax.vmap(
        functools.partial(_run, **params),
        in_axes=tuple(dims),
        axis_name=axis.name,
        axis_size=axis.size,
        spmd_axis_name=axis.spmd_name,
    )
    outs = preserving_rules(mapped)(*args)
    return outs, [0] * len(outs)


def _is_zero(tangent: Any) -> bool:
    return type(tangent) is ad.Zero or tangent.dtype == jax.dtypes.float0


def _tangent(out: Any, dot: Any) -> Any:
    return ad.Zero(jax.typeof(out).to_tangent_aval()) if _is_zero(dot) else dot


_call.def_impl(_run)
_call.def_effectful_abstract_eval(_abstract_eval)
ad.primitive_jvps[_call] = _jvp
ad.primitive_transposes[_call] = _transpose
batching.fancy_primitive_batchers[_call] = _batch
mlir.register_lowering(_call, mlir.lower_fun(_run, multiple_results=True))
