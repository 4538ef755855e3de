"""Name the derivative rules in a jaxpr that need not be true derivatives."""

import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend.core as jex

from jmeta._core.derivative_rules import code_of
from jmeta._jaxpr.primitives import inner_jaxprs, source_line
from jmeta._jaxpr.rule_origin import JAX, rule_definition, rule_origin


def foreign_rules(jaxpr: jex.Jaxpr) -> tuple[str, ...]:
    """Name the rules at any depth of a jaxpr that are not known to be derivatives.

    Args:
        jaxpr: The jaxpr to search.

    Returns:
        A phrase for each rule, such as "`spike` (train.py:12)".

    Example:
        >>> import jax, jax.numpy as jnp
        >>> @jax.custom_jvp
        ... def spike(x):
        ...     return jnp.heaviside(x, 0.0)
        >>> @spike.defjvp
        ... def surrogate(primals, tangents):
        ...     return spike(*primals), tangents[0]
        >>> loss = lambda w: jax.nn.relu(jax.jit(spike)(w))
        >>> [name.split()[0] for name in foreign_rules(jax.make_jaxpr(loss)(1.0).jaxpr)]
        ['`spike`']
    """
    return tuple(dict.fromkeys(_search(jaxpr, set())))


def _search(jaxpr: jex.Jaxpr, seen: set[int]) -> Iterator[str]:
    if id(jaxpr) in seen:
        return
    seen.add(id(jaxpr))
    for eqn in jaxpr.eqns:
        if (found := rule_origin(eqn)) and not found.exact:
            yield _described(eqn)
        for inner in inner_jaxprs(eqn.params):
            yield from _search(inner, seen)


def _described(eqn: jex.JaxprEqn) -> str:
    """Name the user's function, else the user's rule, else the line of the call."""
    source, written = rule_definition(eqn)
    name, _, line = source.rpartition(" at ")
    file = line.rpartition(":")[0]
    if name and not file.startswith((JAX, _JMETA)):
        return f"`{name}` ({os.path.basename(line)})"
    owner = " of jmeta" if file.startswith(_JMETA) else " of JAX" if name else ""
    function = f"`{name or source}`{owner}"
    if owner == " of jmeta":
        return function
    if written is None:
        line = source_line(eqn)
        return f"{function}, called at {line}" if line else function
    # the name of a function that `custom_gradient` makes tells the user nothing
    if source in ("", "<unknown>") or file == _CUSTOM_GRADIENT_FILE:
        return _name_and_line(written)
    return f"{function} with the rule {_name_and_line(written)}"


_JMETA = os.path.dirname(os.path.dirname(__file__)) + os.sep
_CUSTOM_GRADIENT_FILE = jax.custom_gradient.__code__.co_filename


def _name_and_line(function: Any) -> str:
    code, name = code_of(function), type(function).__name__
    if code is not None:
        name = code.co_name
    elif (code := code_of(type(function).__call__)) is None:
        return f"`{name}`"
    return f"`{name}` ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"
