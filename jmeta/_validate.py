"""Checks of arguments that more than one caller makes: one for each kind of check.

Each takes the argument's name and what was given, and raises unless it fits. The
message says what the argument must be, what it got and what to do.
"""

import inspect
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path


def count(name: str, value: Any, *, minimum: int = 0, use: str = "") -> None:
    """A Python integer, known when the program is traced, of at least `minimum`."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"`{name}` must be a Python integer, known before tracing; got a traced"
            f" value.{_then(use)}"
        )
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(
            f"`{name}` must be a Python integer; got {kind(value)}.{_then(use)}"
        )
    if value < minimum:
        raise ValueError(
            f"`{name}` must be at least {minimum}; got {value}.{_then(use)}"
        )


def number(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float | None = None,
    use: str = "",
) -> None:
    """A real scalar, a Python number or an array, that may be traced.

    Bounds (`low <= value <= high`, `value > above`) hold for what has a value by now;
    NaN is outside of all.
    """
    is_array = hasattr(value, "dtype") and hasattr(value, "shape")
    is_real = is_array and (
        jnp.issubdtype(value.dtype, jnp.floating)
        or jnp.issubdtype(value.dtype, jnp.integer)
    )
    is_plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_real or is_plain):
        raise TypeError(f"`{name}` must be a number; got {kind(value)}.{_then(use)}")
    if is_array and value.shape:
        raise ValueError(
            f"`{name}` must be a single number; got an array of shape"
            f" {tuple(value.shape)}.{_then(use)}"
        )
    if isinstance(value, jax.core.Tracer):
        return
    plain = float(value)
    if not low <= plain <= high or (above is not None and not plain > above):
        bounds = [f"above {above}"] if above is not None else []
        bounds += [f"at least {low}"] if low > -math.inf else []
        bounds += [f"at most {high}"] if high < math.inf else []
        must = " and ".join(bounds) or "a number that is not NaN"
        raise ValueError(f"`{name}` must be {must}; got {value}.{_then(use)}")


def function(name: str, value: Any, *, use: str = "") -> None:
    """Something that can be called, and no class whose instance is meant."""
    if not callable(value):
        raise TypeError(f"`{name}` must be a function; got {kind(value)}.{_then(use)}")


def takes(
    name: str, value: Any, *args: str, keywords: Iterable[str] = (), use: str = ""
) -> None:
    """A function, whose signature takes these arguments, given by their names."""
    function(name, value, use=use)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some builtins have none
        return
    try:
        signature.bind(*args, **dict.fromkeys(keywords))
    except TypeError as error:
        call = ", ".join([*args, *(f"{key}=..." for key in keywords)])
        raise TypeError(
            f"`{name}` must take what it is called with, `{name}({call})`; got one with"
            f" the signature `{signature}`: {error}.{_then(use)}"
        ) from None


def arrays(name: str, tree: Any, *, use: str = "") -> None:
    """A tree of numbers and arrays, whose leaves are all of a kind that JAX takes."""
    for path, leaf in tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", None)
        # numpy has other kinds than numbers; V is what bfloat16 has
        is_array = not isinstance(dtype, np.dtype) or dtype.kind in "biufcV"
        if not isinstance(leaf, int | float | complex) and (
            dtype is None or not is_array
        ):
            where = f" at leaf {keystr(path)!r}" if path else ""
            raise TypeError(
                f"`{name}` must be a tree of arrays; got {kind(leaf)}{where}."
                f"{_then(use)}"
            )


def flag(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False; got {kind(value)}.")


def one_of(name: str, value: Any, options: Iterable[Any]) -> None:
    """One of a few values."""
    options = list(options)
    if not any(value is option or value == option for option in options):
        listed = " or ".join(map(repr, options))
        raise ValueError(f"`{name}` must be {listed}; got {kind(value)}.")


def instance(
    name: str, value: Any, types: type | tuple[type, ...], must: str, *, use: str = ""
) -> None:
    """An object of a class; `must` says in words what it has to be."""
    if not isinstance(value, types):
        call = f" Call it: `{value.__name__}(...)`." if inspect.isclass(value) else ""
        raise TypeError(
            f"`{name}` must be {must}; got {kind(value)}.{call or _then(use)}"
        )


def key(name: str, value: Any) -> None:
    """A single PRNG key: typed, or the integers that `jax.random.PRNGKey` gives."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    is_array = isinstance(value, jax.Array | np.ndarray)
    is_raw = is_array and dtype == jnp.uint32 and shape in ((2,), (4,))
    if is_typed and shape:
        raise ValueError(
            f"`{name}` must be a single PRNG key; got keys of shape {tuple(shape)}."
            " Pass one of them, or map over them with `jax.vmap`."
        )
    if not (is_typed or is_raw):
        raise TypeError(
            f"`{name}` must be a PRNG key; got {kind(value)}. Make one with"
            " `jax.random.key(0)`."
        )


def kind(x: Any) -> str:
    """What something is, in the words of a message.

    Example:
        >>> kind(2.5), kind(int), kind([1]), kind(None)
        ('2.5', 'the class int', 'a list', 'None')
    """
    if inspect.isclass(x):
        return f"the class {x.__name__}"
    if x is None or isinstance(x, bool | int | float | complex | str | bytes):
        return repr(x)
    if isinstance(x, jax.core.Tracer):
        return f"a traced {jax.typeof(x)}"
    if isinstance(x, jax.Array | np.ndarray | np.generic):
        return f"an array of shape {tuple(x.shape)} and dtype {x.dtype}"
    if inspect.isroutine(x):
        return f"the function {getattr(x, '__name__', type(x).__name__)}"
    name = type(x).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _then(use: str) -> str:
    return f" {use}" if use else ""
