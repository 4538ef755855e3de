"""Turn a model of any supported library into a function and its parameters."""

import inspect
from collections.abc import Callable
from typing import Any

from flax import linen as nn, nnx

from jmeta._core import validate
from jmeta._core.libraries import library
from jmeta._core.typing import PyTree
from jmeta.models.functional._equinox import from_equinox
from jmeta.models.functional._function import from_function, refuse_torch
from jmeta.models.functional._haiku import from_haiku, refuse_module
from jmeta.models.functional._linen import from_linen
from jmeta.models.functional._nnx import from_nnx


def make_functional(
    model: Any,
    variables: PyTree = None,
    *,
    wrt: Any = nnx.Param,
    state: bool = True,
    method: str | Callable[..., Any] | None = None,
) -> tuple[Any, ...]:
    """Split a model into a pure function and the parameters it takes.

    The function can be jitted, mapped, scanned and differentiated. Neither this nor a
    call changes the model. Later changes of the model have no effect on the function:
    it stays in the model's present mode, training or evaluation.

        apply_fn, params        = make_functional(model)   # nothing mutable
        apply_fn, params, state = make_functional(model)   # BatchNorm and the like
        outputs                 = apply_fn(params, *args, key=key, **kwargs)
        outputs, new_state      = apply_fn(params, state, *args, key=key, **kwargs)

        model                                         back with trained params
        nnx module                                    nnx.update(model, params)
        linen module, variables                       {"params": params, **state}
        Equinox module                                eqx.combine(params, model)
        Equinox module, eqx.nn.State                  the same; the state is the new one
        hk.transform(f), params                       params, for its apply
        hk.transform_with_state(f), (params, state)   both, for its apply
        f(params, ...), params                        params

    The state is what a call may change: a linen module's collections except `params`
    and `intermediates`, an nnx module's variables that are neither parameters nor
    random streams nor sown intermediates, an Equinox module's `eqx.nn.State`.

    `key` is the source of dropout and all other randomness: the same key gives the same
    numbers. It may be left out where no random numbers are drawn. A linen module's
    `dropout` stream is `key` itself; its other streams come from `fold_in(key, 1)`. In
    an nnx module the i-th stream starts at `fold_in(key, i)`. An Equinox module gets
    the key if the function called has a parameter `key`, and a Haiku transform gets it
    as its `rng`. If they take no key, neither does `apply_fn`.

    Args:
        model: A Flax nnx module, a linen module, an Equinox module, a Haiku transform,
            or a function `f(params, ...)`, which is returned unchanged.
        variables: For a linen module, what its `init` returned; for a stateful Equinox
            module, its `eqx.nn.State`; for a Haiku transform, its parameters or the
            pair `(params, state)`; for a function, its parameters, any pytree. Left out
            for other modules, which hold their own.
        wrt: Selects the parameters. For an nnx module, a `Variable` type such as
            `nnx.LoRAParam`, or another filter such as `nnx.PathContains("head")`, which
            selects among `nnx.Param`. For an Equinox module, a filter of
            `eqx.partition`, which selects among the inexact arrays. Parameters not
            selected are constants, and so are arrays of integers and plain arrays that
            are attributes of an nnx module.
        state: Whether to take and return the state. False uses the state as it is now,
            and the result is always `(apply_fn, params)`.
        method: What to call instead of the module: the name of a method or submodule,
            or a function of the module such as `lambda module, x: module.encoder(x)`.
            An Equinox layer takes one example; `lambda module, x: jax.vmap(module)(x)`
            takes a batch. The function for a stateful Equinox module must have a
            parameter `state`, which gets the state.

    Returns:
        `(apply_fn, params)`, or `(apply_fn, params, state)`. Parameters and state of
        Flax modules are dicts of arrays, where a tied parameter is one leaf. Parameters
        of an Equinox module are the module with None in place of all else. A new state
        keeps the dtypes of the old one, so it can be the carry of a scan.

    Raises:
        TypeError: `model` is a class instead of an instance, a torch module, or nothing
            that can be called.
        ValueError: Variables are missing, superfluous or without `params`; or `wrt`
            selects nothing. `apply_fn` raises it if it draws random numbers without a
            `key`, gets parameters of another structure, or makes variables as it runs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> apply_fn, params = make_functional(model)
        >>> apply_fn(params, jnp.ones((5, 2))).shape
        (5, 3)
        >>> nnx.update(model, jax.tree.map(jnp.zeros_like, params))
        >>> model(jnp.ones((1, 2))).tolist()
        [[0.0, 0.0, 0.0]]

        >>> import equinox as eqx
        >>> model = eqx.nn.Linear(2, 3, key=jax.random.key(0))
        >>> batched = lambda model, x: jax.vmap(model)(x)
        >>> apply_fn, params = make_functional(model, method=batched)
        >>> apply_fn(params, jnp.ones((5, 2))).shape
        (5, 3)
        >>> trained = eqx.combine(jax.tree.map(jnp.zeros_like, params), model)
        >>> trained(jnp.ones(2)).tolist()
        [0.0, 0.0, 0.0]

        >>> import haiku as hk
        >>> transformed = hk.transform(lambda x: hk.Linear(3)(x))
        >>> params = transformed.init(jax.random.key(0), jnp.ones((5, 2)))
        >>> apply_fn, params = make_functional(transformed, params)
        >>> apply_fn(params, jnp.ones((5, 2))).shape
        (5, 3)
    """
    validate.flag("state", state)
    _check_method(method)
    origin = library(model)
    if isinstance(model, type):
        _refuse_class(model, origin)
    if origin == "torch":
        refuse_torch(model)
    if isinstance(model, nnx.Module):
        if variables is not None:
            raise ValueError(
                "`variables` must be left out for an nnx module, which holds its own; "
                f"got {validate.kind(variables)}."
            )
        return from_nnx(model, wrt, state, method)
    if origin == "equinox" and not _is_wrapped_function(model):
        return from_equinox(model, variables, wrt, state, method)
    if wrt is not nnx.Param:
        raise ValueError(
            "`wrt` selects parameters of an nnx or Equinox module; got "
            f"{validate.kind(wrt)} for {validate.kind(model)}. Leave it out."
        )
    if isinstance(model, nn.Module):
        return from_linen(model, variables, state, method)
    if origin == "haiku":
        return from_haiku(model, variables, state, method)
    return from_function(model, variables, method)


def _check_method(method: Any) -> None:
    if method is not None and not isinstance(method, str):
        use = "Pass `method=lambda module, x: ...` or a method's name."
        validate.function("method", method, use=use)


def _refuse_class(model: type, origin: str | None) -> None:
    if origin == "haiku":
        refuse_module(model)
    if origin == "torch":
        refuse_torch(model)
    raise TypeError(
        f"`model` must be an instance; got {validate.kind(model)}. "
        f"Make one, `{model.__name__}(...)`."
    )


def _is_wrapped_function(model: Any) -> bool:
    """Whether an Equinox object is a function wrapped by `eqx.filter_jit`."""
    return inspect.isroutine(inspect.unwrap(model))
