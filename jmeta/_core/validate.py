"""Checks of arguments, one function for each kind of argument.

Each takes the argument's `name` and its `value`, and raises unless the value fits. The
message says what the argument must be, what it got and what to do; where a check takes
`use`, that sentence says what to do.
"""

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import keystr, tree_leaves_with_path


def count(name: str, value: Any, *, minimum: int | None = 0, use: str = "") -> None:
    """Require a Python integer that is known when the program is traced.

    Args:
        name: Name of the argument.
        value: What was passed.
        minimum: The smallest integer that is allowed; None for no bound.
        use: What to do, as the last sentence of the message.
    """
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"`{name}` must be a Python integer, known before tracing; got a traced"
            f" value.{_then(use)}"
        )
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(
            f"`{name}` must be a Python integer; got {kind(value)}.{_then(use)}"
        )
    if minimum is not None and value < minimum:
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
    below: float | None = None,
    use: str = "",
) -> None:
    """Require a real scalar, a Python number or an array, which may be traced.

    The bounds are checked unless the value is traced; NaN is outside of all bounds.

    Args:
        name: Name of the argument.
        value: What was passed.
        low: The smallest number that is allowed.
        high: The largest number that is allowed.
        above: The value must be greater than this number, if any.
        below: The value must be less than this number, if any.
        use: What to do, as the last sentence of the message.
    """
    is_array = hasattr(value, "dtype") and hasattr(value, "shape")
    is_real = is_array and (
        jnp.issubdtype(value.dtype, jnp.floating)
        or jnp.issubdtype(value.dtype, jnp.integer)
    )
    is_plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_real or is_plain):
        raise TypeError(f"`{name}` must be a number; got {kind(value)}.{_then(use)}")
    if is_array and jnp.shape(value):
        raise ValueError(
            f"`{name}` must be a single number; got an array of shape"
            f" {jnp.shape(value)}.{_then(use)}"
        )
    if isinstance(value, jax.core.Tracer):
        return
    plain = float(value)
    inside = low <= plain <= high
    inside &= (above is None or plain > above) and (below is None or plain < below)
    if not inside:
        bounds = [f"above {above}"] if above is not None else []
        bounds += [f"below {below}"] if below is not None else []
        bounds += [f"at least {low}"] if low > -math.inf else []
        bounds += [f"at most {high}"] if high < math.inf else []
        must = " and ".join(bounds) or "a number that is not NaN"
        raise ValueError(f"`{name}` must be {must}; got {value}.{_then(use)}")


def function(name: str, value: Any, *, use: str = "") -> None:
    """Require something that can be called."""
    if not callable(value):
        raise TypeError(f"`{name}` must be a function; got {kind(value)}.{_then(use)}")


def flag(name: str, value: Any) -> None:
    """Require True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False; got {kind(value)}.")


def one_of(name: str, value: Any, options: Iterable[Any]) -> None:
    """Require one of a few values."""
    options = list(options)
    if not any(_is(value, option) for option in options):
        listed = " or ".join(map(repr, options))
        raise ValueError(f"`{name}` must be {listed}; got {kind(value)}.")


def instance(
    name: str, value: Any, types: type | tuple[type, ...], must: str, *, use: str = ""
) -> None:
    """Require an object of a class.

    Args:
        name: Name of the argument.
        value: What was passed.
        types: The class, or a tuple of classes.
        must: What the argument must be, in the words of the message.
        use: What to do, as the last sentence of the message.
    """
    if not isinstance(value, types):
        call = f" Call it: `{value.__name__}(...)`." if inspect.isclass(value) else ""
        raise TypeError(
            f"`{name}` must be {must}; got {kind(value)}.{call or _then(use)}"
        )


def key(name: str, value: Any) -> None:
    """Require a single PRNG key, typed or in the form of `jax.random.PRNGKey`."""
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


def mapping(name: str, value: Any, *, use: str = "") -> None:
    """Require a dict, or another mapping from names."""
    instance(name, value, Mapping, "a mapping from names to values", use=use)


def transform(name: str, value: Any) -> None:
    """Require an optax transform."""
    if isinstance(value, optax.GradientTransformation):
        return
    use = "Pass an optax transform such as `jmeta.optim.sgd(lr=0.1)`."
    if isinstance(value, int | float) and not isinstance(value, bool):
        use = f"Pass `jmeta.optim.sgd(lr={value})` for a learning rate."
    elif inspect.isclass(value) or inspect.isroutine(value):
        use = f"Call it: pass `{getattr(value, '__name__', name)}(...)`."
    elif isinstance(getattr(value, "tx", None), optax.GradientTransformation):
        use = "Pass the transform that it wraps, its attribute `.tx`."
    elif callable(getattr(value, "gradient_transformation", None)):
        use = "Pass its `.gradient_transformation()`."
    raise TypeError(f"`{name}` must be an optax transform; got {kind(value)}. {use}")


def adjoint(name: str, value: Any) -> None:
    """Require an adjoint: an object of jmeta, or a function of a loop."""
    strategy(name, value, "an adjoint, such as `Unroll()`, `ForwardMode()`", "loop")


def strategy(name: str, value: Any, must: str, *arguments: str) -> None:
    """Require an object with settings of its own that can be called.

    Args:
        name: Name of the argument.
        value: What was passed.
        must: What the argument must be, in the words of the message.
        *arguments: Names of the arguments that it must take; none leaves that open.
    """
    if inspect.isclass(value):
        raise TypeError(
            f"`{name}` must be {must}; got {kind(value)}. Call it: pass"
            f" `{value.__name__}(...)`."
        )
    if not callable(value):
        raise TypeError(
            f"`{name}` must be {must}; got {kind(value)}. Pass one of these."
        )
    if arguments:
        takes(name, value, *arguments, use=f"Pass {must}.")


def takes(
    name: str,
    value: Any,
    *arguments: Any,
    keywords: Iterable[str] = (),
    use: str = "",
) -> None:
    """Require a function that can be called with these arguments.

    A function without a signature that Python can read passes.

    Args:
        name: Name of the argument.
        value: What was passed.
        *arguments: One for each positional argument of the call; only their number
            counts.
        keywords: Names of the keyword arguments of the call.
        use: What to do, as the last sentence of the message.
    """
    function(name, value, use=use)
    try:
        signature = inspect.signature(value, follow_wrapped=False)
    except (TypeError, ValueError):  # such as a builtin
        return
    try:
        signature.bind(*arguments, **dict.fromkeys(keywords))
    except TypeError as error:
        many = "1 argument" if len(arguments) == 1 else f"{len(arguments)} arguments"
        many += "".join(f" and `{keyword}=`" for keyword in keywords)
        raise TypeError(
            f"`{name}` must be a function of {many} here; got {kind(value)} with"
            f" the signature `{signature}`: {error}.{_then(use)}"
        ) from None


def arrays(name: str, tree: Any, *, some: bool = True, use: str = "") -> None:
    """Require a pytree of arrays and numbers; with `some`, at least one."""
    if some or jax.tree.leaves(tree):
        _check_leaves(name, tree, "arrays", lambda dtype: True, use)


def floats(name: str, tree: Any, *, use: str = "") -> None:
    """Require a pytree of one or more float or complex arrays."""
    is_inexact = lambda dtype: jnp.issubdtype(dtype, jnp.inexact)
    _check_leaves(name, tree, "float arrays", is_inexact, use)


def traceable(name: str, tree: Any, *, use: str = "") -> None:
    """Require a pytree of arrays, numbers and shapes; the pytree may be empty."""
    for path, leaf in tree_leaves_with_path(tree):
        if _numeric_dtype(leaf) is None and not isinstance(leaf, jax.ShapeDtypeStruct):
            at = f" at the leaf {keystr(path)!r}" if path else ""
            raise TypeError(
                f"`{name}` must be a pytree of arrays; got {kind(leaf)}{at}."
                f"{_then(use)}"
            )


def kind(x: Any) -> str:
    """Say what something is, in the words of a message.

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


def _check_leaves(name, tree, of, fits, use):
    leaves = tree_leaves_with_path(tree)
    if not leaves:
        error = TypeError if tree is None else ValueError
        raise error(
            f"`{name}` must be a pytree of {of}, one or more; got {kind(tree)} without"
            f" a leaf.{_then(use)}"
        )
    for path, leaf in leaves:
        dtype = _numeric_dtype(leaf)
        if dtype is None or not fits(dtype):
            at = f" at the leaf {keystr(path)!r}" if path else ""
            raise TypeError(
                f"`{name}` must be a pytree of {of}; got {kind(leaf)}{at}.{_then(use)}"
            )


def _numeric_dtype(leaf):
    """Return the dtype of a leaf that JAX can compute with, else None."""
    if isinstance(leaf, bool | int | float | complex):
        return jnp.result_type(leaf)
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return None
    # numpy does not count bfloat16 as a number
    of_jax = isinstance(leaf, jax.Array) or leaf.dtype == bool
    return leaf.dtype if of_jax or jnp.issubdtype(leaf.dtype, np.number) else None


def _is(value, option):
    """Compare without asking arrays for equality, and without taking True for 1."""
    plain = isinstance(value, str | bytes | int | float | np.integer | np.floating)
    alike = isinstance(value, bool) == isinstance(option, bool)
    return value is option or (plain and alike and value == option)


def _then(use: str) -> str:
    return f" {use}" if use else ""
