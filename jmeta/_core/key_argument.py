"""User functions get a PRNG key if and only if they have a parameter named `key`."""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

from flax import linen

from jmeta._core.typing import Key


def with_optional_key(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that it can be called with a key whether it takes one or not.

    Args:
        name: Name of the argument that `fn` was passed as, for messages.
        fn: A user's function, with or without a parameter `key`.

    Returns:
        A function `(*args, key=None)` that passes the key on as `key=` where `fn` has
        that parameter. It raises a TypeError where `fn` requires a key and gets none,
        or cannot be called with these arguments.

    Example:
        >>> call = with_optional_key("fn", lambda x, key: (x, key))
        >>> (
        ...     call(1, key=2),
        ...     with_optional_key("fn", lambda x, scale=3: (x, scale))(1, key=2),
        ... )
        ((1, 2), (1, 3))
    """

    def call(*args: Any, key: Key | None = None) -> Any:
        parameter = key_parameter(fn, *args)
        given = {} if parameter is None or key is None else {"key": key}
        if parameter is not None and key is None and _is_required(parameter):
            raise TypeError(
                f"`{name}` has a parameter `key` without a default and gets none; got"
                " the key None. Pass `key=jax.random.key(0)` to what calls it."
            )
        check_call(name, fn, args, given)
        return fn(*args, **given)

    return call


def key_parameter(fn: Callable[..., Any], *args: Any) -> inspect.Parameter | None:
    """Find the parameter `key` that a function still has when called with `args`.

    The search looks through partials, wrappers such as `jax.jit`'s and bound methods.
    For linen's `module.apply` it looks at the method that `apply` calls. A key that a
    partial binds by name counts, as a default. A key that is bound or given by position
    does not count, and neither does `**kwargs`.

    Args:
        fn: A user's function.
        *args: Its positional arguments.

    Returns:
        The parameter, or None where the function has none.

    Example:
        >>> key_parameter(functools.partial(lambda key, x: x, 1)) is None
        True
    """
    return _find(fn, args, {})


def check_call(
    name: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    must: str | None = None,
) -> None:
    """Refuse a function that cannot be called with these arguments.

    Args:
        name: Name of the argument that `fn` was passed as, for the message.
        fn: A user's function.
        args: The positional arguments of the call.
        kwargs: The keyword arguments of the call.
        must: What the function must do, in the words of the message; default is to take
            as many arguments as `args` has, and a key.

    Raises:
        TypeError: The function cannot be called with these arguments.

    Example:
        >>> check_call("fn", lambda params, task, rng: 0, (1, 2), {})
        Traceback (most recent call last):
        TypeError: `fn` must take 2 arguments by position, and a PRNG key as a parameter
        named `key`; got a function of (params, task, rng): missing a required argument:
        'rng'. Give others a default, or bind them with `functools.partial`.
    """
    signature = _signature(fn)
    if signature is None:
        return
    if must is None:
        count = f"{len(args)} argument{'' if len(args) == 1 else 's'}"
        must = f"take {count} by position, and a PRNG key as a parameter named `key`"
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"`{name}` must {must}; got a function of {_listed(signature)}: {error}."
            " Give others a default, or bind them with `functools.partial`."
        ) from None


def _find(fn, args, kwargs):
    if isinstance(fn, functools.partial):
        return _find(fn.func, (*fn.args, *args), fn.keywords | kwargs)
    module = getattr(fn, "__self__", None)
    if isinstance(module, linen.Module) and fn.__name__ == "apply":
        # the first argument of `apply` holds the variables, which the method never sees
        return _find(*_called(module, kwargs.get("method"), args[1:]), kwargs)
    if isinstance(fn, types.MethodType):
        return _find(fn.__func__, (module, *args), kwargs)
    wrapped = getattr(fn, "__wrapped__", None)
    if wrapped is not None:
        # a wrapper may take fewer parameters than the function that it wraps
        own = _parameters(fn)
        if own is None or _has_keywords(own) or _named(own, args) is not None:
            return _find(wrapped, args, kwargs)
        return None
    parameters = _parameters(fn)
    return None if parameters is None else _named(parameters, args)


def _called(module, method, args):
    """Return the method that linen's `apply` calls, and the method's arguments."""
    if method is None:
        method = module.__call__
    elif isinstance(method, str):
        method = getattr(module, method)
    if isinstance(method, types.MethodType):
        return method, args
    return method, (module, *args)


def _parameters(fn):
    """Return the parameters of the function itself, not of one that it wraps."""
    try:
        return list(inspect.signature(fn, follow_wrapped=False).parameters.values())
    except (TypeError, ValueError):  # a builtin may have no signature
        return None


def _named(parameters, args):
    """Return the parameter `key` unless a positional argument already fills it."""
    positional = [p for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD]
    taken = positional[: len(args)]
    for parameter in parameters:
        by_name = parameter.kind in (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        )
        if parameter.name == "key" and by_name and parameter not in taken:
            return parameter
    return None


def _has_keywords(parameters):
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def _is_required(parameter):
    return parameter.default is parameter.empty


def _signature(fn):
    """Return a wrapper's own signature, else that of the function it wraps."""
    for follow in (False, True):
        try:
            return inspect.signature(fn, follow_wrapped=follow)
        except (TypeError, ValueError):
            continue
    return None


def _listed(signature):
    return f"({', '.join(map(str, signature.parameters.values()))})"
