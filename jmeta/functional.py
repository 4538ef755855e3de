"""A model as a pure apply function and the pytree of its parameters."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn, nnx
from flax.core import unfreeze
from flax.errors import InvalidRngError
from jax.extend.random import define_prng_impl
from jax.tree_util import keystr, tree_flatten_with_path

from jmeta._tree import cast_like
from jmeta._typing import Key, PyTree


def make_functional(
    model: Any,
    variables: PyTree = None,
    *,
    wrt: Any = nnx.Param,
    state: bool = True,
    method: str | Callable[..., Any] | None = None,
) -> tuple[Any, ...]:
    """Split a model into a pure function and the parameters it takes.

    The function can be jitted, mapped, scanned and differentiated. The model is not
    changed, neither now nor by a call, and later changes of it have no effect: whether
    it trains or evaluates stays as it is now.

        apply_fn, params        = make_functional(model)   # nothing mutable
        apply_fn, params, state = make_functional(model)   # BatchNorm and the like
        outputs                 = apply_fn(params, *args, key=key, **kwargs)
        outputs, new_state      = apply_fn(params, state, *args, key=key, **kwargs)

    The state is what a call may change: a linen module's collections beside `params`
    and `intermediates`, or an nnx module's variables that are neither parameters nor
    random streams nor sown intermediates.

    `key` feeds dropout and all other randomness, which is in neither parameters nor
    state: the same key gives the same numbers. It may be left out where nothing is
    drawn. A linen module's `dropout` stream is `key` itself; its other streams come
    from `fold_in(key, 1)`. In an nnx module the i-th stream starts at
    `fold_in(key, i)`.

    Args:
        model: A Flax nnx module, a linen module, or a function `f(params, ...)`,
            which is handed back as it is.
        variables: For a linen module what its `init` returned; for a function its
            parameters, any pytree; not for an nnx module, which holds its own.
        wrt: Which of an nnx module's variables are the parameters: a `Variable` type,
            such as `nnx.LoRAParam`, or any other filter, such as
            `nnx.PathContains("head")`, which selects among `nnx.Param`. Parameters
            not selected are constants, and so are plain arrays that are attributes.
        state: False uses the state as it is now and does not return it, so that the
            result is always `(apply_fn, params)`.
        method: What to call instead of the module: a method's or submodule's name, or
            a function of the module, such as `lambda module, x: module.encoder(x)`.

    Returns:
        `(apply_fn, params)`, or `(apply_fn, params, state)`. Parameters and state of
        Flax modules are dicts of arrays, a tied parameter one leaf; a new state keeps
        the old one's dtypes, to be a scan's carry. Write them back with
        `nnx.update(model, params)`, or use `{"params": params, **state}`.

    Raises:
        TypeError: A class instead of an instance, or nothing that can be called.
        ValueError: Variables are missing, superfluous or without `params`; `wrt`
            selects nothing; or `apply_fn` draws random numbers without a `key`, gets
            parameters of another structure, or makes variables as it runs.

    Example:
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> apply_fn, params = make_functional(model)
        >>> apply_fn(params, jnp.ones((5, 2))).shape
        (5, 3)
        >>> nnx.update(model, jax.tree.map(jnp.zeros_like, params))
        >>> model(jnp.ones((1, 2))).tolist()
        [[0.0, 0.0, 0.0]]

    Note:
        Modules of other libraries come as functions. Equinox:

            params, static = eqx.partition(model, eqx.is_inexact_array)
            def apply_fn(params, x):
                return eqx.combine(params, static)(x)

        and Haiku, with `transformed = hk.transform(...)`:

            params = transformed.init(key, x)
            def apply_fn(params, x, key=None):
                return transformed.apply(params, key, x)
    """
    if isinstance(model, type):
        raise TypeError(
            f"`model` must be an instance; got the class {model.__name__}. "
            f"Make one, `{model.__name__}(...)`."
        )
    if isinstance(model, nnx.Module):
        if variables is not None:
            raise ValueError(
                "An nnx module holds its own variables; leave `variables` out."
            )
        return _from_nnx(model, wrt, state, method)
    if wrt is not nnx.Param:
        raise ValueError(
            f"`wrt` selects variables of an nnx module; got a {type(model).__name__}. "
            "Leave it out."
        )
    if isinstance(model, nn.Module):
        return _from_linen(model, variables, state, method)
    return _from_function(model, variables, method)


def _from_nnx(
    model: nnx.Module, wrt: Any, with_state: bool, method: Any
) -> tuple[Any, ...]:
    clone = nnx.clone(model, graph=True)
    nnx.pop(clone, nnx.Intermediate)  # what earlier calls sowed
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
    names, state_names = _leaf_names(params), _leaf_names(first_state)

    def call(params, state, args, kwargs, key):
        _check_same_leaves(params, names, _OTHER_PARAMS)
        streams = _stream_keys(keys, key)
        module = nnx.merge(graphdef, streams, counts, params, frozen, state, arrays)
        outputs = _nnx_method(module, method)(*args, **kwargs)
        drop = (nnx.Intermediate, nnx.RngState)
        *_, new_state, _ = nnx.split(module, *drop, *rest, graph=True)
        new_state = nnx.to_pure_dict(new_state)
        _check_same_leaves(new_state, state_names, _NEW_VARIABLES)
        return outputs, cast_like(new_state, state)

    return _with_or_without_state(call, params, first_state, with_state)


def _from_linen(
    model: nn.Module, variables: PyTree, with_state: bool, method: Any
) -> tuple[Any, ...]:
    name = type(model).__name__
    if variables is None:
        bound = "module, variables = model.unbind()"
        unbound = "variables = model.init(key, inputs)"
        raise ValueError(
            f"A linen module needs its variables; got {name} alone. Pass "
            f"`make_functional(model, variables)` with "
            f"`{unbound if model.scope is None else bound}`."
        )
    if not isinstance(variables, Mapping) or "params" not in variables:
        got = list(variables) if isinstance(variables, Mapping) else type(variables)
        raise ValueError(
            f"`variables` must be a dict with an entry 'params'; got {got}. Pass all "
            'that `model.init` returned, or `{"params": params}`.'
        )
    collections = unfreeze(dict(variables))
    params = collections.pop("params")
    collections.pop("intermediates", None)
    state_names = _leaf_names(collections)

    def call(params, state, args, kwargs, key):
        # a stream that has no key of its own draws from that of "params"
        keyed = key is not None
        rngs = {"dropout": key, "params": jax.random.fold_in(key, 1)} if keyed else None
        options = {"rngs": rngs, "mutable": list(state), "method": method}
        try:
            outputs, new_state = model.apply(
                {"params": params, **state}, *args, **options, **kwargs
            )
        except InvalidRngError as error:
            raise ValueError(f"{_NO_KEY} {error}") from error
        _check_same_leaves(new_state, state_names, _NEW_VARIABLES)
        return outputs, cast_like(new_state, state)

    return _with_or_without_state(call, params, collections, with_state)


def _from_function(model: Any, variables: PyTree, method: Any) -> tuple[Any, ...]:
    if not callable(model):
        raise TypeError(
            "`model` must be a Flax nnx or linen module or a function "
            f"`f(params, ...)`; got a {type(model).__name__}."
        )
    if variables is None:
        raise ValueError(
            "A function needs its parameters: pass `make_functional(fn, params)` with "
            f"`fn(params, *args)`; got {model!r} alone."
        )
    if method is not None:
        raise ValueError("`method` selects a module's method; a function has none.")
    return model, variables


def _with_or_without_state(
    call: Callable[..., Any], params: PyTree, state: PyTree, with_state: bool
) -> tuple[Any, ...]:
    def apply_with_state(params, state, /, *args, key=None, **kwargs):
        return call(params, state, args, kwargs, key)

    def apply_fn(params, /, *args, key=None, **kwargs):
        return call(params, state, args, kwargs, key)[0]

    if with_state and jax.tree.leaves(state):
        return apply_with_state, params, state
    return apply_fn, params


def _leaf_names(tree: PyTree) -> list[str]:
    return [keystr(path) for path, _ in tree_flatten_with_path(tree)[0]]


def _check_same_leaves(tree: PyTree, names: list[str], problem: str) -> None:
    got = _leaf_names(tree)
    if got != names:
        missing, unknown = set(names) - set(got), set(got) - set(names)
        raise ValueError(
            f"{problem} Missing: {sorted(missing)}. Unknown: {sorted(unknown)}."
        )


def _nnx_method(module: nnx.Module, method: Any) -> Callable[..., Any]:
    if method is None:
        return module  # pyright: ignore[reportReturnType]  # modules define __call__
    if isinstance(method, str):
        return getattr(module, method)
    return lambda *args, **kwargs: method(module, *args, **kwargs)


def _stream_keys(streams: PyTree, key: Key | None) -> PyTree:
    """Give every stream its own key, of the shape that it had."""
    if key is None:
        no_key = jax.random.key(0, impl=_NO_KEY_IMPL)
        return jax.tree.map(lambda old: jnp.broadcast_to(no_key, old.shape), streams)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    base = key if typed else jax.random.wrap_key_data(key)
    leaves, treedef = jax.tree.flatten(streams)
    keys = [jax.random.fold_in(base, i) for i in range(len(leaves))]
    return treedef.unflatten(
        jax.random.split(new, old.shape) if old.shape else new
        for new, old in zip(keys, leaves, strict=True)
    )


_OTHER_PARAMS = (
    "`params` must be a tree as `make_functional` returned it, and of an `nnx.State` "
    "pass `nnx.to_pure_dict(state)`."
)
_NEW_VARIABLES = (
    "A call must keep the variables that the module had when it was given: make them "
    "before `make_functional`, and sow into intermediates only."
)
_NO_KEY = "The model draws random numbers (dropout?); pass `apply_fn(..., key=key)`."


def _no_random_bits(key, bit_width, shape):
    del key, bit_width, shape
    raise ValueError(_NO_KEY)


# nnx.RNN asks its stream for a key even where its first carry is zeros, so that a key
# that is asked for is no error, but one that numbers are drawn from is.
_NO_KEY_IMPL = define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: jnp.zeros((1,), jnp.uint32),
    split=lambda key, shape: jnp.broadcast_to(key, (*shape, 1)),
    random_bits=_no_random_bits,
    fold_in=lambda key, data: key,
    name="jmeta_no_key",
    tag="none",
)
