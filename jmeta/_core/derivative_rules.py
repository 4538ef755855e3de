"""What the author of a derivative rule says of it: that it is the derivative, or not.

Forward over reverse is valid only where every rule gives the derivative of its
function. JAX does not keep whether one does, so those of jmeta carry a mark, which
`jmeta._jaxpr.rules` reads.
"""

import contextlib
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, Literal, NamedTuple, TypeVar

Rule = TypeVar("Rule", bound=Callable[..., Any])


class RuleOrigin(NamedTuple):
    """Where the derivative rule of an equation comes from.

    Attributes:
        owner: Who wrote it; `"user"` is everybody but JAX and jmeta.
        exact: Whether it is known to be the derivative.
    """

    owner: Literal["jax", "jmeta", "user"]
    exact: bool


def true_derivative(rule: Rule) -> Rule:
    """Mark a rule of jmeta's as the derivative of its function, for `origin`.

    For what is given to `defjvp`, or to `defvjp` as its second argument. Loops around
    the function keep forward over reverse; the rules of others within it are still
    found.
    """
    return _marked(rule, exact=True)


def approximation(rule: Rule) -> Rule:
    """Mark a rule of jmeta's that is not the derivative of what its function does."""
    return _marked(rule, exact=False)


def own_rule_origin(rule: Any) -> RuleOrigin | None:
    """What a rule of jmeta's is marked as; None of a rule that carries no mark."""
    code, found = getattr(rule, _MARK, (None, None))
    return found if code is not None and code is code_of(rule) else None


def code_of(function: Any) -> CodeType | None:
    """The code of a function, or of the one that is jitted or run in a context."""
    while hasattr(function, "__wrapped__") and (
        not isinstance(function, FunctionType)
        or function.__code__.co_filename == contextlib.__file__
    ):
        function = function.__wrapped__
    return getattr(function, "__code__", None)


_MARK = "jmeta_origin"


def _marked(rule, exact):
    # with its code: `functools.wraps` copies attributes to functions of others
    setattr(rule, _MARK, (rule.__code__, RuleOrigin("jmeta", exact)))
    return rule
