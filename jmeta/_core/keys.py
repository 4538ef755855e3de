"""A function gets a PRNG key if and only if it has a parameter named `key`."""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

from flax import linen

from jmeta._core.typing import Key


def with_optional_key(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` as a function `(*args, key)`, whose key goes on as `key=` where `fn` has it.

    Args:
        name: Of the argument that `fn` is, for messages.
        fn: A user's function.

    Raises:
        TypeError: When called: `fn` must have a key and there is none, or it cannot be
            called with these arguments.

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
    """The parameter `key` of a function that is called with `args`; or None.

    Looked for through partials, wrappers such as `jax.jit`'s and bound methods. What
    linen's `module.apply` calls decides for it. A key that a partial binds by its name
    is a default; one that is bound or given by position is no parameter any more, and
    `**kwargs` alone are none.

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
    """Refuse a function whose parameters are others; `must` says what it has to take.

    Raises:
        TypeError: It cannot be called so.

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
        # the first argument are the variables
        return _find(*_called(module, kwargs.get("method"), args[1:]), kwargs)
    if isinstance(fn, types.MethodType):
        return _find(fn.__func__, (module, *args), kwargs)
    wrapped = getattr(fn, "__wrapped__", None)
    if wrapped is not None:
        # a wrapper may take less than what it wraps
        own = _parameters(fn)
        if own is None or _has_keywords(own) or _named(own, args) is not None:
            return _find(wrapped, args, kwargs)
        return None
    parameters = _parameters(fn)
    return None if parameters is None else _named(parameters, args)


def _called(module, method, args):
    """What linen's `apply` calls, and by which arguments."""
    if method is None:
        method = module.__call__
    elif isinstance(method, str):
        method = getattr(module, method)
    if isinstance(method, types.MethodType):
        return method, args
    return method, (module, *args)


def _parameters(fn):
    """Those of the function itself, also where it wraps another."""
    try:
        return list(inspect.signature(fn, follow_wrapped=False).parameters.values())
    except (TypeError, ValueError):  # nothing that Python can look into
        return None


def _named(parameters, args):
    """The parameter `key` that positional arguments leave."""
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
    """A wrapper's own; where there is none, as for `jax.jit`'s, what it wraps."""
    for follow in (False, True):
        try:
            return inspect.signature(fn, follow_wrapped=follow)
        except (TypeError, ValueError):
            continue
    return None


def _listed(signature):
    return f"({', '.join(map(str, signature.parameters.values()))})"
