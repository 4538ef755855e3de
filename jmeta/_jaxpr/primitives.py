"""Questions about JAX's equations that a transformation of jaxprs has to ask."""

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.extend.core as jex


def inner_jaxprs(parameter: Any) -> Iterator[jex.Jaxpr]:
    """The jaxprs in a parameter of an equation, or in all of them, open."""
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
    """The line that an equation comes from, as `file.py:12 in function`.

    The user's where it is known; jax forgets who called a loop within its body, and
    then it is jmeta's.
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
    """Whether one of these operations occurs in a jaxpr, at any depth."""
    return any(
        eqn.primitive.name in names
        or any(has_primitive(inner, names) for inner in inner_jaxprs(eqn.params))
        for eqn in jaxpr.eqns
    )
