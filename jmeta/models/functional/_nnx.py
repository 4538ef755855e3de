"""Make Flax nnx modules functional."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jmeta._core.key_argument import key_parameter
from jmeta._core.tree import cast_like
from jmeta._core.typing import Key, PyTree
from jmeta.models.functional._base import (
    NEW_VARIABLES,
    apply_functions,
    check_method,
    check_same_leaves,
    leaf_names,
)
from jmeta.models.functional._no_key import no_key

_OTHER_PARAMS = (
    "`params` must be a tree as `make_functional` returned it, and of an `nnx.State` "
    "pass `nnx.to_pure_dict(state)`."
)


def from_nnx(
    model: nnx.Module, wrt: Any, with_state: bool, method: Any
) -> tuple[Any, ...]:
    """Split a module into parameters, state and the rest; merge them in each call."""
    check_method(model, method)
    clone = nnx.clone(model, graph=True)
    nnx.pop(clone, nnx.Intermediate)  # sown by earlier calls
    selected = wrt if isinstance(wrt, type) else nnx.All(nnx.Param, wrt)
    rest = (selected, nnx.Param, nnx.Variable, ...)
    graphdef, *parts = nnx.split(clone, nnx.RngKey, nnx.RngCount, *rest, graph=True)
    keys, counts, params, frozen, first_state, arrays = map(nnx.to_pure_dict, parts)
    counts = jax.tree.map(jnp.zeros_like, counts)
    if not jax.tree.leaves(params):
        raise ValueError(
            f"`wrt` must select a parameter of {type(model).__name__}; got {wrt}, "
            "which selects none."
        )
    names, state_names = leaf_names(params), leaf_names(first_state)

    def call(params, state, args, kwargs, key):
        check_same_leaves(params, names, _OTHER_PARAMS)
        streams = _stream_keys(keys, key)
        module = nnx.merge(graphdef, streams, counts, params, frozen, state, arrays)
        called = _bound_function(module, method)
        if key is not None and key_parameter(called, *args) is not None:
            kwargs = {**kwargs, "key": key}
        outputs = called(*args, **kwargs)
        drop = (nnx.Intermediate, nnx.RngState)
        *_, new_state, _ = nnx.split(module, *drop, *rest, graph=True)
        new_state = nnx.to_pure_dict(new_state)
        check_same_leaves(new_state, state_names, NEW_VARIABLES)
        return outputs, cast_like(new_state, state)

    return apply_functions(call, params, first_state, with_state=with_state)


def _bound_function(module: nnx.Module, method: Any) -> Callable[..., Any]:
    if method is None:
        method = "__call__"
    if isinstance(method, str):
        return getattr(module, method)
    return functools.partial(method, module)


def _stream_keys(streams: PyTree, key: Key | None) -> PyTree:
    """Give each random stream a key of its own, in the shape of its old key.

    Args:
        streams: The keys of the module's streams.
        key: The key to fold theirs from; None gives keys that cannot draw numbers.
    """
    if key is None:
        return jax.tree.map(lambda old: jnp.broadcast_to(no_key(), old.shape), streams)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    base = key if typed else jax.random.wrap_key_data(key)
    leaves, treedef = jax.tree.flatten(streams)
    keys = [jax.random.fold_in(base, i) for i in range(len(leaves))]
    return treedef.unflatten(
        jax.random.split(new, old.shape) if old.shape else new
        for new, old in zip(keys, leaves, strict=True)
    )
