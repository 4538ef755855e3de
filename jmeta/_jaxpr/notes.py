"""Notes that stay with a computation, for `plan` and `explain` to find in its jaxpr."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.extend.core as jex

from jmeta._jaxpr.primitives import inner_jaxprs

_MARK = "jmeta note: "
_UPDATE = "optax_update"


def with_note(fun: Callable[..., Any], note: str) -> Callable[..., Any]:
    """Attach a note to every equation of a function.

    A note is a name scope. It survives differentiation and batching, and changes
    nothing but the names in a profile.

    Args:
        fun: Any function.
        note: The note, a phrase.

    Returns:
        The same function with the note on its equations.

    Example:
        >>> import jax
        >>> f = with_note(lambda x: x**2, "a square")
        >>> notes(jax.make_jaxpr(jax.jit(jax.grad(f)))(1.0).jaxpr)
        ('a square',)
    """

    def in_scope(*args: Any, **keywords: Any) -> Any:
        with jax.named_scope(f"{_MARK}{note}"):
            return fun(*args, **keywords)

    return in_scope


def notes(jaxpr: jex.Jaxpr) -> tuple[str, ...]:
    """Collect the notes at any depth of a jaxpr.

    Args:
        jaxpr: The jaxpr to search.

    Returns:
        Each note once, in the order of the equations.
    """
    return tuple(dict.fromkeys(_search(jaxpr, set())))


def update_scope() -> AbstractContextManager[Any]:
    """Mark the equations that are traced in this context as a transform's update."""
    return jax.named_scope(_UPDATE)


def in_update(eqn: jex.JaxprEqn) -> bool:
    """Tell whether an equation comes from the update of a transform of optax.

    In an `inner_loop` the equation has the name scope of `update_scope`. In a loop that
    the user wrote, a function of optax is in its traceback.

    Args:
        eqn: Any equation.
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
