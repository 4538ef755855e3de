"""Marks that say whether a derivative rule of jmeta is the derivative or not.

Forward over reverse is valid only where every rule gives the derivative of its
function. JAX does not record whether one does, so the rules of jmeta carry a mark,
which `jmeta._jaxpr.rule_origin` reads.
"""

import contextlib
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, Literal, NamedTuple, TypeVar

Rule = TypeVar("Rule", bound=Callable[..., Any])


class RuleOrigin(NamedTuple):
    """Where the derivative rule of an equation comes from.

    Attributes:
        owner: Who wrote the rule; `"user"` is everybody but JAX and jmeta.
        exact: Whether the rule is known to be the derivative.
    """

    owner: Literal["jax", "jmeta", "user"]
    exact: bool


def true_derivative(rule: Rule) -> Rule:
    """Mark a rule of jmeta as the derivative of its function.

    Loops around the function then keep forward over reverse. Rules of others that the
    function calls are still found.

    Args:
        rule: What `defjvp` takes, or `defvjp` as its second argument.

    Returns:
        The same rule, marked.
    """
    return _marked(rule, exact=True)


def approximation(rule: Rule) -> Rule:
    """Mark a rule of jmeta that is not the derivative of its function.

    Args:
        rule: What `defjvp` takes, or `defvjp` as its second argument.

    Returns:
        The same rule, marked.
    """
    return _marked(rule, exact=False)


def own_rule_origin(rule: Any) -> RuleOrigin | None:
    """Return the mark of a rule of jmeta, or None for a rule without a mark.

    Args:
        rule: The function that JAX holds as the rule.
    """
    code, found = getattr(rule, _MARK, (None, None))
    return found if code is not None and code is code_of(rule) else None


def code_of(function: Any) -> CodeType | None:
    """Return the code object of a function, or None where there is none.

    Args:
        function: Any callable. A jitted function, or one that runs in a context, gives
            the code of the function that was wrapped.
    """
    while hasattr(function, "__wrapped__") and (
        not isinstance(function, FunctionType)
        or function.__code__.co_filename == contextlib.__file__
    ):
        function = function.__wrapped__
    return getattr(function, "__code__", None)


_MARK = "jmeta_origin"


def _marked(rule, exact):
    # `functools.wraps` copies attributes, so a user's wrapper would inherit the mark.
    # The code object tells the rule itself from such a wrapper.
    setattr(rule, _MARK, (rule.__code__, RuleOrigin("jmeta", exact)))
    return rule
