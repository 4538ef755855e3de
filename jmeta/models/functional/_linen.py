"""Make Flax linen modules functional."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.core import unfreeze
from flax.errors import InvalidRngError

from jmeta._core import validate
from jmeta._core.key_argument import key_parameter
from jmeta._core.tree import cast_like
from jmeta._core.typing import PyTree
from jmeta.models.functional._base import (
    NEW_VARIABLES,
    apply_functions,
    check_method,
    check_same_leaves,
    leaf_names,
)
from jmeta.models.functional._no_key import NO_KEY_MESSAGE


def from_linen(
    model: nn.Module, variables: PyTree, with_state: bool, method: Any
) -> tuple[Any, ...]:
    """Split a module's variables into parameters and state, and call its `apply`."""
    name = type(model).__name__
    if variables is None:
        bound = "module, variables = model.unbind()"
        unbound = "variables = model.init(key, inputs)"
        raise ValueError(
            f"A linen module needs its `variables`; got {name} alone. Pass "
            f"`make_functional(model, variables)` with "
            f"`{unbound if model.scope is None else bound}`."
        )
    if not isinstance(variables, Mapping) or "params" not in variables:
        is_dict = isinstance(variables, Mapping)
        got = list(variables) if is_dict else validate.kind(variables)
        raise ValueError(
            f"`variables` must be a dict with an entry 'params'; got {got}. Pass all "
            'that `model.init` returned, or `{"params": params}`.'
        )
    check_method(model, method)
    collections = unfreeze(dict(variables))
    params = collections.pop("params")
    collections.pop("intermediates", None)
    state_names = leaf_names(collections)
    called = functools.partial(model.apply, {}, method=method)

    def call(params, state, args, kwargs, key):
        # In linen, a stream without a key of its own uses that of "params".
        keyed = key is not None
        rngs = {"dropout": key, "params": jax.random.fold_in(key, 1)} if keyed else None
        if keyed and key_parameter(called, *args) is not None:
            kwargs = {**kwargs, "key": key}
        options = {"rngs": rngs, "mutable": list(state), "method": method}
        try:
            outputs, new_state = model.apply(
                {"params": params, **state}, *args, **options, **kwargs
            )
        except InvalidRngError as error:
            raise ValueError(f"{NO_KEY_MESSAGE} {error}") from error
        check_same_leaves(new_state, state_names, NEW_VARIABLES)
        return outputs, cast_like(new_state, state)

    return apply_functions(call, params, collections, with_state=with_state)
