"""Find who wrote the derivative rules in a jaxpr: JAX, jmeta or the user.

Two parts of jmeta need this. Forward over reverse needs a symmetric Jacobian, so every
rule must give the derivative of its function. And `flow` follows the rule of a user's
function, which need not reach every value that the function computes with.

The rules of JAX, and those of jmeta that `true_derivative` marks, are derivatives. Any
other rule may be something else: a surrogate, clipping, an approximate solve. Where JAX
stores the rule of an equation is not part of its interface, so only this module looks
it up. A rule that it does not find counts as a user's, which costs speed and is never
wrong.
"""

import functools
import inspect
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
from jax.interpreters import ad

from jmeta._core.derivative_rules import RuleOrigin, code_of, own_rule_origin
from jmeta._jaxpr.primitives import inner_jaxprs

JAX = os.path.dirname(jax.__file__) + os.sep
"""The folder of JAX's own files, with a separator at its end."""


def rule_origin(eqn: jex.JaxprEqn) -> RuleOrigin | None:
    """Find who wrote the derivative rule of an equation.

    Args:
        eqn: Any equation.

    Returns:
        The rule's origin. None where the equation has no rule of its own: it is one of
        JAX's operations, or a call or a loop, whose derivative follows from the
        equations within.
    """
    params = eqn.params
    match eqn.primitive.name:
        case "custom_jvp_call" | "remembered_call":
            rule, given = _unwrapped(params["jvp_jaxpr_fun"])
            if own := own_rule_origin(rule):
                return own
            of_jax = _is_of_jax(rule, given, _source(params["call_jaxpr"]))
            return _OF_JAX if of_jax else _OF_USER
        case "custom_vjp_call":
            # JAX uses these for kernels with quantised arithmetic, whose rules are no
            # true derivatives, so only rules of jmeta can be exact here
            return own_rule_origin(_unwrapped(params["bwd"])[0]) or _OF_USER
        case "custom_linear_solve":
            return _OF_JAX if _is_direct(params["jaxprs"]) else _OF_USER
        case "linear_call" | "custom_transpose_call":
            return _OF_USER
    if "_prim" in params:
        return None if _is_of_data(params["_prim"]) else _OF_USER
    tables = ad.primitive_jvps, ad.primitive_transposes
    rules = [table.get(eqn.primitive) for table in tables]
    return None if _is_made_by_jax(rules) else _OF_USER


class RuleDefinition(NamedTuple):
    """The function and the rule behind an equation.

    Attributes:
        source: The function, as `name at file:line` as far as that is known.
        written: The first function in the rule that JAX did not write, or None.
    """

    source: str
    written: Any


def rule_definition(eqn: jex.JaxprEqn) -> RuleDefinition:
    """Find the function and the rule behind an equation.

    Args:
        eqn: An equation with a derivative rule of its own.
    """
    params, rules = eqn.params, []
    match eqn.primitive.name:
        case "custom_jvp_call" | "remembered_call":
            source = _source(params["call_jaxpr"])
            rules = [_unwrapped(params["jvp_jaxpr_fun"])]
        case "custom_vjp_call":
            source = _source(params["call_jaxpr"])
            rules = [_unwrapped(params[name]) for name in ("bwd", "fwd_jaxpr_thunk")]
        case "custom_linear_solve":
            source = _source(params["jaxprs"].solve)
        case "linear_call":
            source = _source(params["callee"])
        case name:
            source = type(params["_prim"]).__name__ if "_prim" in params else name
    written = (f for f in _functions(rules) if not (_is_in_jax(f) or _is_jax_object(f)))
    return RuleDefinition(source, next(written, None))


_OF_JAX = RuleOrigin("jax", exact=True)
_OF_USER = RuleOrigin("user", exact=False)


def _unwrapped(rule: Any) -> tuple[Any, list[Any] | None]:
    """Return the rule as it was given to JAX, and its `nondiff_argnums` values.

    JAX wraps a rule in transformations. Each time that the rule is traced, JAX also
    wraps it in functions that close over the previous wrapper.
    """
    given = None
    while True:
        if hasattr(rule, "call_wrapped"):
            for transform, args in rule.transforms:
                if transform.__name__ == "_prepend_static_args":
                    given = [static.val for static in args[0]]
            rule = rule.f
            continue
        cells = _cells(rule) if _is_in_jax(rule) else {}
        before = [x for x in cells.values() if hasattr(x, "call_wrapped")]
        if len(before) != 1 and "fn" not in cells:
            return rule, given
        rule = before[0] if len(before) == 1 else cells["fn"]


def _is_of_jax(rule: Any, given: list[Any] | None, source: str) -> bool:
    """Tell whether one of JAX's own functions was defined with this rule.

    Args:
        rule: The rule as it was given to JAX.
        given: The values of `nondiff_argnums`, None if unknown.
        source: The function, as `name at file:line`.
    """
    file, _, line = source.rpartition(" at ")[2].rpartition(":")
    if not file.startswith(JAX) or not _is_made_by_jax(rule):
        return False
    return any(
        function.jvp is rule
        and line == _first_line(inspect.unwrap(function.fun))
        # with a function of the user as an argument the rule may be no derivative
        and (not function.nondiff_argnums or (given is not None and _is_data(given)))
        for function in _functions_with_rules(file)
    )


@functools.cache
def _functions_with_rules(file: str) -> list[Any]:
    """List the `jax.custom_jvp` functions that a file of JAX defines."""
    found = []
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) != file:
            continue
        for value in vars(module).values():
            while not isinstance(value, jax.custom_jvp | None):
                value = getattr(value, "__wrapped__", None)
            if value is not None:
                found.append(value)
    return found


def _first_line(function: Any) -> str:
    return str(getattr(code_of(function), "co_firstlineno", None))


def _is_made_by_jax(rule: Any) -> bool:
    """Tell whether JAX wrote a rule and all functions that it is composed of."""
    if isinstance(rule, tuple | list):
        return all(map(_is_made_by_jax, rule))
    if isinstance(rule, functools.partial):
        return _is_made_by_jax([rule.func, *rule.args, *rule.keywords.values()])
    if not callable(rule):
        return True
    # `defjvps` makes a rule that closes over the functions it was given
    return _is_in_jax(rule) and _is_made_by_jax(_cells(rule).get("jvps", ()))


def _is_direct(jaxprs: Any) -> bool:
    """Tell whether a linear solve is JAX's own and exact, so does not iterate."""
    parts = [part for part in jaxprs if part is not None]
    in_jax = all(_source(part).rpartition(" at ")[2].startswith(JAX) for part in parts)
    return in_jax and not any(map(_iterates, inner_jaxprs(parts)))


def _iterates(jaxpr: jex.Jaxpr) -> bool:
    return any(
        eqn.primitive.name in ("while", "scan")
        or any(map(_iterates, inner_jaxprs(eqn.params)))
        for eqn in jaxpr.eqns
    )


def _is_of_data(primitive: Any) -> bool:
    """Tell whether a primitive object is JAX's own and holds no function."""
    if not _is_jax_object(primitive) or not hasattr(primitive, "params"):
        return False
    return _is_data(list(primitive.params.values()))


def _is_jax_object(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "jax"


def _is_data(value: Any) -> bool:
    """Tell whether a value holds no function, neither a callable nor a jaxpr."""
    if isinstance(value, tuple | list):
        return all(map(_is_data, value))
    if isinstance(value, type):  # such as `jnp.float32`
        return True
    return not callable(value) and not any(inner_jaxprs(value))


def _is_in_jax(function: Any) -> bool:
    code = code_of(function)
    return code is not None and code.co_filename.startswith(JAX)


def _cells(function: Any) -> dict[str, Any]:
    """Return the values that a function closes over, by name."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = {}
    for name, cell in zip(
        names, getattr(function, "__closure__", ()) or (), strict=True
    ):
        try:
            cells[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return cells


def _source(jaxpr: Any) -> str:
    """Return the function that a jaxpr was traced from, as `name at file:line`."""
    (opened,) = inner_jaxprs(jaxpr)
    return getattr(getattr(opened, "debug_info", None), "func_src_info", None) or ""


def _functions(value: Any, depth: int = 2) -> Iterator[Any]:
    """Yield the functions in a value, and those that JAX's functions close over."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from _functions(item, depth)
    elif isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
        yield from _functions(parts, depth)
    elif callable(value) and not isinstance(value, type):
        yield value
        if depth and _is_in_jax(value):
            yield from _functions(list(_cells(value).values()), depth - 1)
