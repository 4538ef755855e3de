"""Make Equinox modules functional."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from jmeta._core import validate
from jmeta._core.tree import cast_like
from jmeta._core.typing import Key, PyTree
from jmeta.models.functional._base import (
    apply_functions,
    check_method,
    check_same_leaves,
    leaf_names,
)
from jmeta.models.functional._no_key import NO_KEY_MESSAGE

_OTHER_PARAMS = (
    "`params` must be a tree as `make_functional` returned it: the module, with None "
    "in place of what is no parameter."
)


def from_equinox(
    model: Any, variables: PyTree, wrt: Any, with_state: bool, method: Any
) -> tuple[Any, ...]:
    """Split the inexact arrays off a module, and combine both in each call."""
    import equinox as eqx

    must = "a module of Equinox"
    use = "The model comes first: `make_functional(model, state)`."
    validate.instance("model", model, eqx.Module, must, use=use)
    check_method(model, method)
    has_state, name = _has_state(model), type(model).__name__
    _check_state(variables, has_state, name)
    variables = _copied_state(variables)
    model = eqx.nn.delete_init_state(model)
    params, static = _partition(model, wrt)
    accepted = _parameters(model, method)
    if has_state and "state" not in accepted:
        raise ValueError(
            f"A stateful module must be called with `state`; got a {name} that is"
            f" called with the parameters {list(accepted)}. Pass `method=lambda model,"
            " x, state: ...`, for one that is mapped over a batch."
        )
    names, treedef = leaf_names(params), jax.tree.structure(params)

    def call(params, state, args, kwargs, key):
        check_same_leaves(params, names, _OTHER_PARAMS)
        params = treedef.unflatten(jax.tree.leaves(params))
        module = eqx.combine(params, static)
        # A call invalidates the `eqx.nn.State` that it is given, so it gets a copy.
        own = {"state": _copied_state(state)} if has_state else {}
        called, parameter = _bound_function(module, method), accepted.get("key")
        outputs = _call_with_key(called, parameter, args, kwargs | own, key)
        if not has_state:
            return outputs, state
        outputs, new_state = _outputs_and_state(outputs, eqx.nn.State)
        return outputs, cast_like(new_state, state)

    options = {"with_state": with_state, "takes_key": "key" in accepted}
    return apply_functions(call, params, variables, **options)


def _has_state(model: Any) -> bool:
    import equinox as eqx

    is_index = lambda x: isinstance(x, eqx.nn.StateIndex)
    return any(map(is_index, jax.tree.leaves(model, is_leaf=is_index)))


def _check_state(variables: PyTree, has_state: bool, name: str) -> None:
    import equinox as eqx

    if not has_state and variables is not None:
        raise ValueError(
            f"`variables` must be left out for {name}, an Equinox module without state,"
            f" which holds its parameters; got {validate.kind(variables)}."
        )
    if has_state and not isinstance(variables, eqx.nn.State):
        raise ValueError(
            f"`variables` must be the `eqx.nn.State` of {name}, which is stateful; got"
            f" {validate.kind(variables)}. Make both at once, `model, state ="
            f" eqx.nn.make_with_state({name})(...)`, and pass"
            " `make_functional(model, state)`."
        )


def _copied_state(state: Any) -> Any:
    try:
        return jax.tree.map(lambda x: x, state)
    except ValueError as error:
        raise ValueError(
            "`variables` must be the newest state; got an `eqx.nn.State` that was used:"
            " a call of the module gives another. Pass that one."
        ) from error


def _partition(model: Any, wrt: Any) -> tuple[Any, Any]:
    """Split a module into its parameters and all that is constant."""
    import equinox as eqx

    inexact, rest = eqx.partition(model, eqx.is_inexact_array)
    if wrt is nnx.Param:
        params, constant = inexact, rest
    else:
        try:
            params, frozen = eqx.partition(inexact, wrt)
        except (TypeError, ValueError) as error:
            raise TypeError(
                "`wrt` must be a filter of an Equinox module, a function of a leaf or "
                f"a tree of booleans; got {validate.kind(wrt)}."
            ) from error
        constant = eqx.combine(frozen, rest)
    if not jax.tree.leaves(params):
        raise ValueError(
            f"`model` must have a parameter, an inexact array that `wrt` selects; got"
            f" {type(model).__name__} without one. Check `wrt`, and make arrays that "
            "are to be trained of floats."
        )
    return params, constant


def _bound_function(module: Any, method: Any) -> Callable[..., Any]:
    """The function that a call runs: the module, its method, or a partial function."""
    if method is None:
        return module
    if isinstance(method, str):
        return getattr(module, method)
    return functools.partial(method, module)


def _parameters(module: Any, method: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of the function that a call runs, without the module.

    A method is looked up on the class, since a jitted method that is bound to a module
    does not show its parameters.
    """
    if method is not None and not isinstance(method, str):
        return _parameters_after(1, method)
    name = method or "__call__"
    fields = {field.name for field in dataclasses.fields(module)}
    if method is None and not callable(module):
        raise TypeError(
            "`model` must be called, or `method` says what to call; got a "
            f"{type(module).__name__} without `__call__`. Pass `method=`."
        )
    if name not in fields:
        return _parameters_after(1, getattr(type(module), name))
    value = getattr(module, name)
    is_function = inspect.isroutine(inspect.unwrap(value))
    return _parameters_after(0, value) if is_function else _parameters(value, None)


def _parameters_after(count: int, function: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a function, without the first `count`."""
    parameters = inspect.signature(inspect.unwrap(function)).parameters
    return dict(list(parameters.items())[count:])


def _call_with_key(
    called: Callable[..., Any],
    parameter: inspect.Parameter | None,
    args: Any,
    kwargs: dict[str, Any],
    key: Key | None,
) -> Any:
    """Call a function, and pass the key if it has a parameter `key`."""
    if parameter is None:
        return called(*args, **kwargs)
    if key is not None:
        return called(*args, key=key, **kwargs)
    if parameter.default is parameter.empty:
        raise ValueError(NO_KEY_MESSAGE)
    try:
        return called(*args, **kwargs)
    except RuntimeError as error:
        # Equinox's layers raise a plain RuntimeError that names the key.
        if "key" in str(error):
            raise ValueError(f"{NO_KEY_MESSAGE} {error}") from error
        raise


def _outputs_and_state(result: Any, kind: type) -> tuple[Any, Any]:
    """Check that a stateful module gave a pair that ends with a state."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], kind):
        return result
    raise ValueError(
        "A stateful module must give `(outputs, state)`, as Equinox's own layers do; "
        f"got {validate.kind(result)}. Return the state that the last layer gave."
    )
