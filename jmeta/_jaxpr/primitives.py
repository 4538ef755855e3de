"""Facts about single equations: the jaxprs within, the line they come from."""

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.extend.core as jex


def inner_jaxprs(parameter: Any) -> Iterator[jex.Jaxpr]:
    """Yield the jaxprs in a parameter of an equation.

    Args:
        parameter: One parameter, or the mapping of all parameters.

    Yields:
        Jaxprs without their constants, in tuples, lists and mappings too.
    """
    if isinstance(parameter, jex.ClosedJaxpr):
        yield parameter.jaxpr
    elif isinstance(parameter, jex.Jaxpr):
        yield parameter
    elif isinstance(parameter, tuple | list):
        for item in parameter:
            yield from inner_jaxprs(item)
    elif isinstance(parameter, Mapping):
        yield from inner_jaxprs(list(parameter.values()))


def source_line(eqn: jex.JaxprEqn) -> str:
    """Return the line that an equation comes from, as `file.py:12 in function`.

    That is the user's line where JAX knows it. Within the body of a loop JAX forgets
    who called the loop; then it is a line of jmeta, if one is known.

    Args:
        eqn: Any equation.

    Returns:
        The line; empty if none is known.
    """
    traceback = eqn.source_info.traceback
    own = ""
    for frame in traceback.frames if traceback else ():
        path = Path(frame.file_name)
        if "site-packages" in path.parts:
            continue
        function = frame.function_name.rpartition(".")[2]
        line = f"{frame.line_num} in {function}"
        if _PACKAGE not in path.parents:
            return f"{path.name}:{line}"
        own = own or f"{path.relative_to(_PACKAGE.parent).as_posix()}:{line}"
    return own


_PACKAGE = Path(__file__).parent.parent


def has_primitive(jaxpr: jex.Jaxpr, names: Container[str]) -> bool:
    """Tell whether one of these operations occurs in a jaxpr, at any depth.

    Args:
        jaxpr: The jaxpr to search.
        names: Names of primitives.
    """
    return any(
        eqn.primitive.name in names
        or any(has_primitive(inner, names) for inner in inner_jaxprs(eqn.params))
        for eqn in jaxpr.eqns
    )
