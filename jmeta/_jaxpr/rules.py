"""Whose derivative rules stand in a jaxpr: JAX's, jmeta's own or somebody else's.

Two things depend on it. Forward over reverse needs a symmetric Jacobian, so every rule
must give the derivative of its function. And what an output depends on is what its rule
says, which need not be what the function computes with.

JAX's own rules, and those of jmeta that `true_derivative` marks, are derivatives; any
other may be something else: a surrogate, clipping, an approximate solve. Where JAX
keeps the rule of an equation is no part of its interface. It is looked up here and
nowhere else, and a rule that is not found counts as somebody else's, which costs speed
and is never wrong.
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
"""How the names of the files start that JAX's own functions are written in."""


def rule_origin(eqn: jex.JaxprEqn) -> RuleOrigin | None:
    """Whose the derivative rule of an equation is.

    None where an equation brings no rule along: it is one of JAX's operations, or a
    call or a loop, whose derivative is made of what stands within.
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
            # JAX's are kernels, whose quantised arithmetic has no true derivative
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
    """What an equation with a rule was defined by.

    Attributes:
        source: The function, as `name at file:line` as far as it is known.
        written: The first function in the rule that is not written in JAX, if any.
    """

    source: str
    written: Any


def rule_definition(eqn: jex.JaxprEqn) -> RuleDefinition:
    """Find the function of an equation that brings a rule along, and the rule's."""
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
    """The rule as it was given to JAX, and the values of its `nondiff_argnums`.

    JAX wraps it in transformations and, each time that it is traced, in functions that
    close over what was wrapped before.
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
    """Whether one of JAX's own functions has this rule, from JAX.

    Args:
        rule: The rule.
        given: The values of `nondiff_argnums`.
        source: The function's name and place.
    """
    file, _, line = source.rpartition(" at ")[2].rpartition(":")
    if not file.startswith(JAX) or not _is_made_by_jax(rule):
        return False
    return any(
        function.jvp is rule
        and line == _first_line(inspect.unwrap(function.fun))
        # what is given functions of the user's can be anything
        and (not function.nondiff_argnums or (given is not None and _is_data(given)))
        for function in _functions_with_rules(file)
    )


@functools.cache
def _functions_with_rules(file: str) -> list[Any]:
    """The functions with a rule for forward mode that a file of JAX's defines."""
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
    """Whether a rule and the functions that it is put together from are JAX's."""
    if isinstance(rule, tuple | list):
        return all(map(_is_made_by_jax, rule))
    if isinstance(rule, functools.partial):
        return _is_made_by_jax([rule.func, *rule.args, *rule.keywords.values()])
    if not callable(rule):
        return True
    # the function that `defjvps` makes closes over those that it was handed
    return _is_in_jax(rule) and _is_made_by_jax(_cells(rule).get("jvps", ()))


def _is_direct(jaxprs: Any) -> bool:
    """Whether a linear solve is JAX's and exact: it factorises and does not iterate."""
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
    """Whether a primitive that is an object is JAX's, made of no function."""
    if not _is_jax_object(primitive) or not hasattr(primitive, "params"):
        return False
    return _is_data(list(primitive.params.values()))


def _is_jax_object(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "jax"


def _is_data(value: Any) -> bool:
    """Whether no function is in a value, neither as it was written nor traced."""
    if isinstance(value, tuple | list):
        return all(map(_is_data, value))
    if isinstance(value, type):  # such as `jnp.float32`
        return True
    return not callable(value) and not any(inner_jaxprs(value))


def _is_in_jax(function: Any) -> bool:
    code = code_of(function)
    return code is not None and code.co_filename.startswith(JAX)


def _cells(function: Any) -> dict[str, Any]:
    """What a function closes over, by name."""
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
    """The function that a jaxpr was traced from, as `name at file:line`."""
    (opened,) = inner_jaxprs(jaxpr)
    return getattr(getattr(opened, "debug_info", None), "func_src_info", None) or ""


def _functions(value: Any, depth: int = 2) -> Iterator[Any]:
    """The functions in a value, and what those of JAX's close over."""
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
