"""Remarks that stay with a computation, for whoever reads its jaxpr."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.extend.core as jex

from jmeta._jaxpr.primitives import inner_jaxprs

_MARK = "jmeta note: "
_UPDATE = "optax_update"


def with_note(fun: Callable[..., Any], note: str) -> Callable[..., Any]:
    """The same function, whose equations carry a note wherever they end up.

    A note is a name scope: it survives differentiation, batching and compilation, and
    changes nothing but the names in a profile.

    Example:
        >>> import jax
        >>> f = with_note(lambda x: x**2, "a square")
        >>> notes(jax.make_jaxpr(jax.jit(jax.grad(f)))(1.0).jaxpr)
        ('a square',)
    """

    def run(*args: Any, **keywords: Any) -> Any:
        with jax.named_scope(f"{_MARK}{note}"):
            return fun(*args, **keywords)

    return run


def notes(jaxpr: jex.Jaxpr) -> tuple[str, ...]:
    """The notes at any depth of a jaxpr, each once."""
    return tuple(dict.fromkeys(_search(jaxpr, set())))


def update_scope() -> AbstractContextManager[Any]:
    """Mark the equations that are made in it as those of a transform's update."""
    return jax.named_scope(_UPDATE)


def in_update(eqn: jex.JaxprEqn) -> bool:
    """Whether an equation comes from the update of a transform that is not jmeta's.

    In an `inner_loop` it has a name scope, in a loop of the user's own it stands in a
    function of optax.
    """
    if _UPDATE in str(eqn.source_info.name_stack):
        return True
    traceback = eqn.source_info.traceback
    return any(
        "/optax/" in frame.file_name and frame.function_name.endswith("update_fn")
        for frame in (traceback.frames if traceback else ())
    )


def _search(jaxpr: jex.Jaxpr, seen: set[int]) -> Iterator[str]:
    if id(jaxpr) in seen:
        return
    seen.add(id(jaxpr))
    for eqn in jaxpr.eqns:
        for scope in getattr(eqn.source_info.name_stack, "stack", ()):
            if scope.name.startswith(_MARK):
                yield scope.name.removeprefix(_MARK)
        for inner in inner_jaxprs(eqn.params):
            yield from _search(inner, seen)
