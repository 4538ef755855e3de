"""Make Haiku transforms functional."""

import inspect
from collections.abc import Mapping
from typing import Any

from jmeta._core import validate
from jmeta._core.tree import cast_like
from jmeta._core.typing import PyTree
from jmeta.models.functional._base import apply_functions, check_same_leaves, leaf_names
from jmeta.models.functional._no_key import NO_KEY_MESSAGE

_OTHER_PARAMS = "`params` must be a tree as the transform's `init` returned it."
_NEW_STATE = "A call must keep the state that `init` made."


def from_haiku(
    model: Any, variables: PyTree, with_state: bool, method: Any
) -> tuple[Any, ...]:
    """Call a transform's `apply`, with the key as its `rng`."""
    import haiku as hk

    if not isinstance(model, hk.Transformed | hk.TransformedWithState):
        raise TypeError(
            "`model` must be what `hk.transform` or `hk.transform_with_state` returned;"
            f" got {validate.kind(model)}. Pass `hk.transform(lambda x: ...)`, with "
            "the modules made in the function, and its parameters."
        )
    if method is not None:
        raise ValueError(
            "`method` selects a module's method, and a Haiku transform has none; got "
            f"{validate.kind(method)}. Transform a function that calls the method."
        )
    stateful = isinstance(model, hk.TransformedWithState)
    params, state = _params_and_state(variables, stateful)
    names, state_names = leaf_names(params), leaf_names(state)
    # After `hk.without_apply_rng`, `apply` has no parameter `rng`.
    takes_key = "rng" in inspect.signature(model.apply).parameters

    def call(params, state, args, kwargs, key):
        check_same_leaves(params, names, _OTHER_PARAMS)
        held = (params, state) if stateful else (params,)
        try:
            result = model.apply(*held, *[key] * takes_key, *args, **kwargs)
        except ValueError as error:
            # Haiku's class of this error is private, so its name must do.
            if type(error).__name__ == "MissingRNGError":
                raise ValueError(f"{NO_KEY_MESSAGE} {error}") from error
            raise
        if not stateful:
            return result, state
        outputs, new_state = result
        check_same_leaves(new_state, state_names, _NEW_STATE)
        return outputs, cast_like(new_state, state)

    options = {"with_state": with_state, "takes_key": takes_key}
    return apply_functions(call, params, state, **options)


def refuse_module(model: Any) -> None:
    """Refuse the class of a Haiku module, which is no transform."""
    name = model.__name__
    raise TypeError(
        "`model` must be what `hk.transform` returned; got the class "
        f"{name}. Pass `hk.transform(lambda x: {name}(...)(x))` and its parameters."
    )


def _params_and_state(variables: PyTree, stateful: bool) -> tuple[PyTree, PyTree]:
    if not stateful:
        if not isinstance(variables, Mapping):
            raise ValueError(
                "`variables` must be the transform's parameters, a dict; got "
                f"{validate.kind(variables)}. Pass `make_functional(transformed, "
                "params)` with `params = transformed.init(key, x)`."
            )
        return variables, {}
    pair = variables if isinstance(variables, tuple | list) else ()
    if len(pair) != 2 or not all(isinstance(part, Mapping) for part in pair):
        raise ValueError(
            "`variables` must be the pair of a transform with state; got "
            f"{validate.kind(variables)}. Pass `make_functional(transformed, (params,"
            " state))` with `params, state = transformed.init(key, x)`."
        )
    return pair[0], pair[1]
